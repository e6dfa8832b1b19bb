//! `farshore demo`, as a stranger sees it: it proves a point within its first minute, and whatever ends it, it leaves no
//! process, mount, loop device or file behind.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Five times the minute that the demo promises would be too long to wait for nothing.
const PATIENCE: Duration = Duration::from_secs(180);

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(why) => assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}:\n{why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Demos that look for a free port at once may take the same one: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed holds nothing any more.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A demo whose temporary directory is one of its own.
struct Demo {
    child: Child,
    tmp: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        // Sockets lie in it: their paths must stay short.
        let tmp = tempfile::Builder::new().prefix("fd").tempdir().expect("temporary directory");
        fs::create_dir(tmp.path().join("t")).expect("a directory for the demo");
        let out = fs::File::create(tmp.path().join("out")).expect("a file for what it says");
        let child = Command::new(env!("CARGO_BIN_EXE_farshore"))
            .arg("demo")
            .args(args)
            .env("TMPDIR", tmp.path().join("t"))
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("share the file"))
            .stdout(out)
            .spawn()
            .expect("start the demo");
        Self { child, tmp }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.tmp.path().join("out")).unwrap_or_default()
    }

    fn says(&mut self, text: &str) {
        eventually(text, || {
            let said = self.said();
            if said.contains(text) {
                return Ok(());
            }
            let ended = self.child.try_wait().expect("look at the demo");
            assert!(ended.is_none(), "the demo ended ({ended:?}) before it said '{text}':\n{said}");
            Err(said)
        });
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "signal the demo");
    }

    fn end(&mut self) -> ExitStatus {
        eventually("the demo's end", || {
            self.child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| self.said())
        })
    }

    /// Processes that name a place below `dir` on their command line.
    fn processes(&self) -> Vec<(u32, String)> {
        let dir = self.tmp.path().display().to_string();
        let pids = fs::read_dir("/proc").expect("read /proc").filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&words).replace('\0', " ")))
        });
        pids.filter(|(_, words)| words.contains(&dir)).collect()
    }

    /// Nothing is left of it, but for its files where `kept`.
    fn assert_nothing_left(&self, kept: bool) {
        let said = self.said();
        let left = self.processes();
        assert!(left.is_empty(), "processes are left: {left:?}\n{said}");
        let dir = self.tmp.path().display().to_string();
        let mounts = fs::read_to_string("/proc/mounts").expect("read /proc/mounts");
        assert!(!mounts.contains(&dir), "something is still mounted:\n{mounts}\n{said}");
        for entry in fs::read_dir("/sys/block").expect("read /sys/block") {
            let file = entry.expect("an entry").path().join("loop/backing_file");
            let backing = fs::read_to_string(&file).unwrap_or_default();
            assert!(!backing.contains(&dir), "{} is still attached: {backing}\n{said}", file.display());
        }
        let files = fs::read_dir(self.tmp.path().join("t")).expect("read its directory").count();
        assert_eq!(files, usize::from(kept), "directories are left:\n{said}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            let _ = self.child.wait();
        }
    }
}

/// Root, FUSE and loop devices; without them the test fails in CI and is a named skip elsewhere.
fn privileged(name: &str) -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if root && Path::new("/dev/fuse").exists() && Path::new("/dev/loop-control").exists() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{name} needs root, FUSE and loop devices");
    if let Some(path) = std::env::var_os("FARSHORE_SKIPS") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open the list of skips");
        writeln!(file, "{name} (needs root, FUSE and loop devices)").expect("note the skip");
    }
    eprintln!("skipped: {name} needs root, FUSE and loop devices");
    false
}

/// The line about the database tells of transfers, and of none that could not be missing.
fn the_database_proved_what_was_acknowledged(said: &str) {
    let line = said.lines().find(|line| line.contains("PROVED  database")).expect("it was said");
    let number = |before: &str, after: &str| -> u64 {
        let number = line.split(after).next().and_then(|front| front.rsplit(before).next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number before '{after}': {line}"))
    };
    let (found, wanted) = (number(" ", " transfers"), number(" ", " acknowledged"));
    assert!(wanted > 0 && found >= wanted, "{line}");
    assert!(line.contains("balances add up"), "{line}");
}

#[test]
fn the_demo_proves_a_point_takes_the_next_free_port_and_leaves_nothing_behind() {
    let _alone = alone();
    // Where somebody else has the port, it is taken all the same.
    let _taken = TcpListener::bind(("127.0.0.1", farshore_engine::defaults::MANAGEMENT_PORT));
    let mut demo = Demo::start(&["--no-mount"]);
    demo.says("is taken: using");
    demo.says("SQLite on a mounted disk is left out: --no-mount was given");
    demo.says("PROVED  'data' is a moment of its past");
    demo.says("PROVED  database: opened after recovery");
    demo.says("before the point is missing");
    the_database_proved_what_was_acknowledged(&demo.said());
    demo.says("PROVED  'system' (ext4) equals the protected disk byte for byte");
    demo.says("load and replication go on");
    assert!(demo.processes().len() >= 2, "its roles are processes of their own: {:?}", demo.processes());
    // As impatient as people are.
    demo.signal("INT");
    demo.signal("INT");
    let status = demo.end();
    assert!(status.success(), "{status}:\n{}", demo.said());
    assert!(demo.said().contains("no write failed"), "{}", demo.said());
    demo.assert_nothing_left(false);
}

#[test]
fn with_root_the_demo_recovers_sqlite_from_the_mounted_point_and_unmounts_all() {
    let _alone = alone();
    if !privileged("with_root_the_demo_recovers_sqlite_from_the_mounted_point_and_unmounts_all") {
        return;
    }
    let mut demo = Demo::start(&[]);
    demo.says("load on 'system': mounted (nbdfuse, loop, ext4)");
    demo.says("PROVED  'data' is a moment of its past");
    demo.says("PROVED  database: opened after recovery");
    demo.says("before the point is missing");
    the_database_proved_what_was_acknowledged(&demo.said());
    demo.says("PROVED  'system' mounts beside the living one");
    demo.says("integrity_check is ok");
    demo.signal("TERM");
    let status = demo.end();
    assert!(status.success(), "{status}:\n{}", demo.said());
    demo.assert_nothing_left(false);
}

#[test]
fn a_demo_that_is_stopped_early_or_loses_its_agent_takes_its_mounts_down() {
    let _alone = alone();
    if !privileged("a_demo_that_is_stopped_early_or_loses_its_agent_takes_its_mounts_down") {
        return;
    }
    let mut demo = Demo::start(&[]);
    demo.says("load on 'data'");
    demo.signal("INT");
    assert!(!demo.end().success(), "nothing was proved:\n{}", demo.said());
    demo.assert_nothing_left(true);

    let mut demo = Demo::start(&[]);
    demo.says("load on 'data'");
    let agent = demo.processes().into_iter().find(|(_, words)| words.contains(" agent --name demo "));
    let (agent, _) = agent.unwrap_or_else(|| panic!("no agent among {:?}", demo.processes()));
    let killed = Command::new("kill").args(["-9", &agent.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()), "kill the agent");
    assert!(!demo.end().success(), "its agent is gone:\n{}", demo.said());
    assert!(demo.said().contains("agent ended with"), "it says who ended:\n{}", demo.said());
    demo.assert_nothing_left(true);
}
