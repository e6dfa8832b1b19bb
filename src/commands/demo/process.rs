//! Child processes of the demo: started in process groups of their own, so that a Ctrl-C in the terminal reaches the demo
//! alone, which then ends them in the right order; each ended by its pid, within a bound.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt as _;

use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Failure;

/// How long a process has for a clean end before it is killed: a role ends within 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// Between two looks at a child.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a child's log that are shown when it ends unexpectedly.
const LAST_LINES: usize = 15;

/// A child process that ends with its owner.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with what it says in `<dir>/<name>.log`.
    pub(super) fn start(name: &'static str, dir: &Path, mut command: Command) -> Result<Self, Failure> {
        let log = dir.join(format!("{name}.log"));
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let files = open().and_then(|out| Ok((open()?, out)));
        let (err, out) = files.map_err(|error| Failure::failed(format!("open {}: {error}", log.display())))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::failed(format!("start {name}: {error}")))?;
        Ok(Self { name, child, log })
    }

    /// Starts a role of this very program.
    pub(super) fn role(name: &'static str, dir: &Path, args: &[&str]) -> Result<Self, Failure> {
        let mut command = farshore()?;
        command.args(args);
        Self::start(name, dir, command)
    }

    /// An error once it has ended, with what it said last.
    pub(super) fn alive(&mut self) -> Result<(), Failure> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        Err(Failure::failed(format!("{} ended with {status}; it said:\n{last}", self.name)))
    }

    /// SIGTERM, a bounded wait, and SIGKILL where that was not enough.
    fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // One that ended meanwhile is still ours to wait for: its pid is no one else's yet.
            let _ = kill_process(pid, Signal::TERM);
        }
        if !ends(&mut self.child, STOP_WITHIN) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a child ends by itself within `longest`.
pub(super) fn ends(child: &mut Child, longest: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < longest {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return true;
        }
        thread::sleep(LOOK_EVERY);
    }
    false
}

/// This very program.
pub(super) fn farshore() -> Result<Command, Failure> {
    let binary = std::env::current_exe().map_err(|error| Failure::failed(format!("find this program: {error}")))?;
    Ok(Command::new(binary))
}

/// A system's tool; what an administrator uses lies outside of many a user's path.
pub(super) fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// Runs a tool to its end; gives what it printed.
pub(super) fn run(mut command: Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Failure::failed(format!("run {name}: {error}")))?;
    let Output { status, stdout, stderr } = output;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(Failure::failed(format!("{name} ended with {status}: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}
