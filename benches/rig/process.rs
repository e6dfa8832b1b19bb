//! Child processes that end with their value, and what they have used.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually;

/// A child process.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it with its output in a file.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::create(log).expect("create a log");
        let also = file.try_clone().expect("share a log");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(also).spawn();
        Self { name: name.into(), child: child.unwrap_or_else(|error| panic!("start {name}: {error}")) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name to exactly this process.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "signal {signal} to {}", self.name);
    }

    /// CPU time of all its threads, the kernel's part included; to a hundredth of a second.
    pub fn cpu(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        // The name may hold anything, but ends with the last bracket.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        self.status_kib("VmHWM:") << 10
    }

    /// The memory that it has, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_kib("VmRSS:") << 10
    }

    fn status_kib(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// SIGTERM, and waits until it is gone.
    pub fn stop(mut self) {
        self.signal("TERM");
        eventually("a clean stop", Duration::from_secs(30), || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => Err(format!("{} still runs", self.name)),
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; it must succeed. Gives standard output.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} ended with {}:\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are text")
}
