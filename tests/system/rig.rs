//! Real processes of this binary in a temporary directory: started, watched, killed, and ended by pid.

use std::any::Any;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The longest that anything here may take before the test says so. Five times what a quiet machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that a clean stop may take: a promise of the program, not a guess.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The binary under test; another one with `FARSHORE_BIN`, so that a long loop outlives the next build.
pub(crate) static FARSHORE: LazyLock<OsString> =
    LazyLock::new(|| std::env::var_os("FARSHORE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_farshore").into()));

/// Waits until `probe` gives a value; panics with `what` and the last reason after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(why) => assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}: {why}"),
        }
        // Between two looks at a condition, not in place of one.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether full sizes are asked for (`make soak`).
pub(crate) fn soak() -> bool {
    std::env::var_os("FARSHORE_SOAK").is_some()
}

/// `quick` in CI, `full` in soak.
pub(crate) fn sized<T>(quick: T, full: T) -> T {
    if soak() { full } else { quick }
}

/// Whether the test may go on; without the privilege it fails in CI and is a named skip elsewhere.
pub(crate) fn privileged(name: &str, has: bool, needs: &str) -> bool {
    if has {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{name} needs {needs}");
    if let Some(path) = std::env::var_os("FARSHORE_SKIPS") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open the list of skips");
        writeln!(file, "{name} (needs {needs})").expect("note the skip");
    }
    eprintln!("skipped: {name} needs {needs}");
    false
}

/// Whether the test runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// A child process that ends with its owner.
pub(crate) struct Proc {
    pub(crate) name: String,
    child: Child,
    log: PathBuf,
}

impl Proc {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(log).expect("open a log");
        let also = file.try_clone().expect("share a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self { name: name.into(), child, log: log.into() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name to exactly this process.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "signal {signal} to {}", self.name);
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap_or_else(|error| panic!("kill {}: {error}", self.name));
        self.child.wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.name));
    }

    /// SIGTERM; the process must end with success, within what is promised of every role under any load.
    pub(crate) fn stop(mut self) {
        let start = Instant::now();
        self.signal("TERM");
        let status = eventually("a clean stop", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("{} still runs", self.name)),
            Err(error) => Err(error.to_string()),
        });
        let taken = start.elapsed();
        println!("{} stopped within {taken:?}", self.name);
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log_tail());
        assert!(taken <= STOP_MAX, "{} took {taken:?} to stop:\n{}", self.name, self.log_tail());
    }

    /// It has ended, with success.
    pub(crate) fn succeeded(mut self) {
        let status = self.child.wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.name));
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log_tail());
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it said last.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Everything it said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.runs() {
            // A stopped process cannot die of anything but this.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} (pid {}) said last:\n{}", self.name, self.pid(), self.log_tail());
        }
    }
}

/// A whole installation wants the machine to itself: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A directory with everything one test makes.
pub(crate) struct Rig {
    dir: TempDir,
    /// What every process is told.
    env: Vec<(&'static str, String)>,
    /// What every process needs.
    _beside: Option<Box<dyn Any>>,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        // Sockets lie in it: their paths must stay short.
        let dir = tempfile::Builder::new().prefix("fs").tempdir().expect("temporary directory");
        // A test that failed holds nothing any more.
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { dir, env: Vec::new(), _beside: None, _alone }
    }

    /// From now on every process is told `env`; `beside` lasts as long as the rig.
    #[allow(dead_code, reason = "only the tests of whole installations have more than one kind of vault")]
    pub(crate) fn with(self, env: Vec<(&'static str, String)>, beside: impl Any) -> Self {
        Self { env, _beside: Some(Box::new(beside)), ..self }
    }

    /// What processes are told under this name.
    #[allow(dead_code, reason = "only the tests of whole installations have more than one kind of vault")]
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&*FARSHORE);
        command.args(args).current_dir(self.dir.path()).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A sparse image.
    pub(crate) fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        let file = fs::File::create(&path).expect("create an image");
        file.set_len(bytes).expect("size an image");
        path
    }

    /// Runs the binary to its end.
    pub(crate) fn farshore(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run farshore")
    }

    /// Runs the binary to its end; it must succeed. Gives standard output.
    pub(crate) fn farshore_ok(&self, args: &[&str]) -> String {
        let output = self.farshore(args);
        assert!(
            output.status.success(),
            "farshore {args:?} ended with {}:\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, with JSON on standard output.
    pub(crate) fn farshore_json(&self, args: &[&str]) -> Value {
        let text = self.farshore_ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("farshore {args:?}: {error}:\n{text}"))
    }

    /// Starts a role of the binary and waits until it says it is ready.
    pub(crate) fn start(&self, name: &str, args: &[&str]) -> Proc {
        Proc::start(name, self.command(args), &self.path(&format!("{name}.log")))
    }

    /// Reads a JSON file that a process writes.
    pub(crate) fn json(&self, path: &Path) -> Result<Value, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}
