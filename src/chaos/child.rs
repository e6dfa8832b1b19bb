//! A role of this binary as a process: started, struck, ended. It never outlives its owner.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take from SIGTERM to its end; see docs/operations.md.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How long it is waited for; what has not ended then does not hear. Chosen: a loaded machine is late, but not by half.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(15);

/// The program, behind `before` where that is a command.
pub(crate) fn command(before: &[String], program: &Path) -> Command {
    match before {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

/// See the module.
pub(crate) struct Role {
    child: Child,
    log: PathBuf,
    /// Where in the log this life begins.
    log_from: u64,
}

impl Role {
    /// Starts this binary with `args`, behind `before` where that is a command; what it says is added to `log`.
    pub(crate) fn start(
        before: &[String],
        args: &[String],
        environment: &[(&str, String)],
        log: &Path,
    ) -> Result<Self, String> {
        let open = || fs::OpenOptions::new().create(true).append(true).open(log);
        let failed = |error: std::io::Error| format!("{}: {error}", log.display());
        let (out, error) = (open().map_err(failed)?, open().map_err(failed)?);
        let log_from = out.metadata().map_err(failed)?.len();
        let binary = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let child = command(before, &binary)
            .args(args)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(error)
            // Ctrl-C is for the harness, which ends its processes itself.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("start {args:?}: {error}"))?;
        Ok(Self { child, log: log.to_owned(), log_from })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to exactly this process.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has ended is not waited for yet: the id is still its own.
            let _ = kill_process(pid, signal);
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and waits for its end; an error where it does not end in time, or not with success.
    pub(crate) fn stop(mut self) -> Result<Duration, String> {
        let begun = Instant::now();
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        while begun.elapsed() < STOP_WAIT {
            if let Some(status) = self.ended() {
                return if status.success() { Ok(begun.elapsed()) } else { Err(format!("it ended with {status}")) };
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("it still runs {:?} after SIGTERM", begun.elapsed()))
    }

    fn end(&mut self) {
        // Even a process that is stopped dies of this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines it said in this life.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let own = text.get(usize::try_from(self.log_from).unwrap_or(0)..).unwrap_or_default();
        let text = String::from_utf8_lossy(own);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.end();
        }
    }
}
