//! Marks that somebody asks for. An app mark runs the machine's hooks around it: the first brings the applications to rest,
//! the second lets them go on. The mark itself is a moment between the two.
//!
//! ```text
//!   asked ─► pre hook ──0──► app mark ─► post hook
//!                │ failed, or longer than the freeze cap
//!                └──► post hook, crash mark with the same id, and the event that says why
//! ```
//!
//! The second hook runs whatever became of the first: applications never stay at rest because of Farshore.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::shared::Shared;
use crate::control::messages::Severity;
use crate::protocol::MarkRequest;
use crate::record::{Mark, MarkKind};

/// Longest that applications are held at rest, and that a hook may run.
pub const FREEZE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The machine's hooks, as shell commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Brings the applications to rest; ends with 0 when they are.
    pub pre: String,
    /// Lets them go on.
    pub post: String,
}

/// Takes the mark that was asked for. An app mark takes its time on a thread of its own; one at a time.
pub(super) fn mark(shared: &Arc<Shared>, request: MarkRequest, busy: &Arc<AtomicBool>) {
    match (request.kind, &shared.config.hooks) {
        (MarkKind::App, Some(hooks)) if !busy.swap(true, Ordering::AcqRel) => {
            let (hooks, shared, busy) = (hooks.clone(), shared.clone(), busy.clone());
            let run = move || {
                app_mark(&shared, request, &hooks);
                busy.store(false, Ordering::Release);
            };
            std::thread::spawn(run);
        }
        (MarkKind::App, hooks) => {
            let why = if hooks.is_some() { "another one is being taken" } else { "no hooks are configured" };
            downgrade(shared, request, &format!("an app-consistent mark was asked for, but {why}"));
        }
        (MarkKind::Group, _) => downgrade(shared, request, "this agent takes no part in group marks yet"),
        (MarkKind::Crash, _) => take(shared, request, MarkKind::Crash),
    }
}

fn take(shared: &Shared, request: MarkRequest, kind: MarkKind) {
    let captured_at = shared.wall();
    let mark = Mark { id: request.id, kind, captured_at, members: Vec::new(), label: request.label };
    let now = shared.tap.now();
    shared.tap.splitter().mark(mark, now);
    shared.tap.wake_session();
}

fn downgrade(shared: &Shared, request: MarkRequest, why: &str) {
    let text = format!("{why}: the mark is crash-consistent instead");
    shared.event(Severity::Warning, "mark_downgraded", text);
    take(shared, request, MarkKind::Crash);
}

fn app_mark(shared: &Shared, request: MarkRequest, hooks: &Hooks) {
    let rested = run(&hooks.pre, FREEZE_MAX);
    let failed = match rested {
        Ok(()) => {
            take(shared, request, MarkKind::App);
            None
        }
        Err(why) => Some((request, why)),
    };
    if let Err(why) = run(&hooks.post, FREEZE_MAX) {
        let text = format!("the post hook {why}: look whether the applications go on");
        shared.event(Severity::Critical, "post_hook_failed", text);
    }
    if let Some((request, why)) = failed {
        downgrade(shared, request, &format!("the pre hook {why}"));
    }
}

/// Runs a hook to its end, or ends it with everything it started.
fn run(command: &str, longest: Duration) -> Result<(), String> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let mut child = shell.spawn().map_err(|error| format!("cannot be started ({error})"))?;
    let until = Instant::now() + longest;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("ended with {status}")),
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            Ok(None) => {
                end(&mut child);
                return Err(format!("took longer than {} s and was ended", longest.as_secs()));
            }
            Err(error) => return Err(format!("cannot be waited for ({error})")),
        }
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // A group that is gone already needs no ending.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_ends_well_or_badly_or_is_ended() {
        assert_eq!(run("true", FREEZE_MAX), Ok(()));
        assert!(run("exit 3", FREEZE_MAX).expect_err("it failed").contains('3'));
        let began = Instant::now();
        assert!(run("sleep 100 & wait", Duration::from_millis(50)).expect_err("it hangs").contains("was ended"));
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
