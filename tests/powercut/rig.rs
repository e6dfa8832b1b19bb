//! One component on an ext4 on a loop device on FUSE on a disk with a volatile cache; power cuts; what is found after them.
//!
//! ```text
//!   child process (the component's own code) ─► ext4 ─► loop ─► nbdfuse ─► VolatileDisk (this process) ─► image
//!         │ acknowledgements, outside the disk                                  ▲ cut
//!         └──────────────────────────► acks file ─► rig ────────────────────────┘
//! ```
//!
//! A round: power on, mount; the child recovers, checks everything that was acknowledged in all rounds before, and goes on
//! writing; in the middle of it the power goes, and the child is killed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::nbd::{NbdServer, ServerOptions};
use farshore_engine::sim::chance::SeededChance;
use slog::{Logger, o};
use tempfile::TempDir;

use crate::device::VolatileDisk;

/// What the child is to do, in its environment.
pub(crate) const JOB: &str = "FARSHORE_POWERCUT_JOB";
/// Where it notes what is acknowledged; where it reports what it found.
pub(crate) const ACKS: &str = "FARSHORE_POWERCUT_ACKS";
pub(crate) const REPORT: &str = "FARSHORE_POWERCUT_REPORT";
pub(crate) const FOLDER: &str = "FARSHORE_POWERCUT_FOLDER";
pub(crate) const SEED: &str = "FARSHORE_POWERCUT_SEED";

const PATIENCE: Duration = Duration::from_secs(60);
const IMAGE_BYTES: u64 = 192 << 20;

/// Waits until `probe` gives a value; panics with `what` and the last reason after [`PATIENCE`].
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(why) => assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the test may go on: it needs root for loop devices and mounts. Without, it fails in CI and is a named skip
/// elsewhere.
pub(crate) fn privileged(name: &str) -> bool {
    if rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{name} needs root and FUSE");
    if let Some(path) = std::env::var_os("FARSHORE_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("open the list of skips");
        writeln!(file, "{name} (needs root and FUSE)").expect("note the skip");
    }
    eprintln!("skipped: {name} needs root and FUSE");
    false
}

/// How many cuts a test makes.
pub(crate) fn rounds() -> u64 {
    if std::env::var_os("FARSHORE_SOAK").is_some() { 25 } else { 3 }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are text")
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} ended with {}:\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The disk, powered on and mounted. Dropped, everything is taken down again.
struct Powered {
    disk: Arc<VolatileDisk>,
    server: Option<NbdServer>,
    fuse: Option<Child>,
    fuse_dir: PathBuf,
    device: Option<String>,
    mount: PathBuf,
}

impl Powered {
    fn on(dir: &Path) -> Self {
        let disk = Arc::new(VolatileDisk::open(&dir.join("image")).expect("open the image"));
        let logger = Logger::root(slog::Discard, o!());
        let server = NbdServer::bind_unix(&dir.join("nbd"), ServerOptions::default(), &logger).expect("listen");
        server.set_exports(vec![disk.clone()]);
        let uri = server.uri("volatile");
        let (fuse_dir, mount) = (dir.join("fuse"), dir.join("mnt"));
        let mut it = Self { disk, server: Some(server), fuse: None, fuse_dir, device: None, mount };
        let file = it.fuse_dir.join("disk");
        let mut command = Command::new("nbdfuse");
        // What it says is that the power is gone.
        command.args([text(&file), &uri]).stdin(Stdio::null()).stderr(Stdio::null());
        let fuse = command.spawn();
        it.fuse = Some(fuse.expect("start nbdfuse"));
        eventually("nbdfuse", || fs::metadata(&file).map(drop).map_err(|error| error.to_string()));
        let device = run("losetup", &["--find", "--show", "--direct-io=on", text(&file)]);
        it.device = Some(device.clone());
        // A long commit interval: the kernel writes nothing out by itself that nobody has asked to be durable.
        run("mount", &["-t", "ext4", "-o", "commit=600", &device, text(&it.mount)]);
        it
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        let quietly = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).stdin(Stdio::null()).output();
            output.is_ok_and(|output| output.status.success())
        };
        let gone = (0..100).any(|_| {
            let gone = quietly("umount", &[text(&self.mount)]);
            if !gone {
                std::thread::sleep(Duration::from_millis(20));
            }
            gone || self.device.is_none()
        });
        if !gone {
            quietly("umount", &["-l", text(&self.mount)]);
        }
        if let Some(device) = &self.device {
            quietly("losetup", &["-d", device]);
        }
        quietly("fusermount3", &["-u", "-z", text(&self.fuse_dir)]);
        if let Some(server) = self.server.take() {
            server.shutdown(Duration::from_secs(5));
        }
        if let Some(mut fuse) = self.fuse.take() {
            // It ends when it is unmounted or its server goes; this is for the case that it hangs.
            let _ = fuse.kill();
            let _ = fuse.wait();
        }
    }
}

/// The child of a round. Dropped, it is killed.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One component and everything it was cut off from.
pub(crate) struct Rig {
    dir: TempDir,
    part: &'static str,
    chance: SeededChance,
    /// What makes a sync do nothing, for the negative control.
    no_sync: Option<PathBuf>,
    rounds: u64,
}

impl Rig {
    pub(crate) fn new(part: &'static str, seed: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("pc").tempdir().expect("temporary directory");
        for name in ["fuse", "mnt"] {
            fs::create_dir(dir.path().join(name)).expect("make a directory");
        }
        let image = dir.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("make an image");
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        for name in ["acks", "report"] {
            fs::write(dir.path().join(name), "").expect("make a file");
        }
        Self { dir, part, chance: SeededChance::new(seed), no_sync: None, rounds: 0 }
    }

    /// The component's syncs do nothing from now on.
    pub(crate) fn without_sync(mut self) -> Self {
        let library = self.dir.path().join("nosync.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/powercut/nosync.c");
        run("cc", &["-shared", "-fPIC", "-o", text(&library), source]);
        self.no_sync = Some(library);
        self
    }

    fn acks(&self) -> usize {
        fs::read_to_string(self.dir.path().join("acks")).map_or(0, |text| text.lines().count())
    }

    fn start(&mut self, mode: &str) -> Writer {
        self.rounds += 1;
        let path = |name| self.dir.path().join(name);
        fs::write(path("report"), "").expect("empty the report");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "--ignored", "--quiet", "the_child_of_the_power_cuts"]).stdin(Stdio::null());
        command.env(JOB, format!("{mode} {}", self.part)).env(FOLDER, path("mnt").join("it"));
        command.env(ACKS, path("acks")).env(REPORT, path("report")).env(SEED, self.rounds.to_string());
        let log = OpenOptions::new().create(true).append(true).open(path("log")).expect("open a log");
        command.stdout(log.try_clone().expect("share a log")).stderr(log);
        if let Some(library) = &self.no_sync {
            command.env("LD_PRELOAD", library);
        }
        Writer(command.spawn().expect("start the child"))
    }

    /// What the child found of what was acknowledged: how many, or what is missing.
    fn verdict(&self, writer: &mut Writer) -> Result<String, String> {
        eventually("the child's report", || {
            let report = fs::read_to_string(self.dir.path().join("report")).expect("read the report");
            if let Some(whole) = report.strip_suffix('\n') {
                let lost = whole.strip_prefix("lost ").map(|what| Err(what.to_owned()));
                return Ok(lost.unwrap_or_else(|| Ok(whole.to_owned())));
            }
            match writer.0.try_wait() {
                Ok(Some(status)) => {
                    let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                    let tail = log.len().saturating_sub(2000);
                    Ok(Err(format!("the child ended with {status}:\n{}", log.get(tail..).unwrap_or_default())))
                }
                _ => Err("none yet".into()),
            }
        })
    }

    /// One round; the error says what was lost.
    pub(crate) fn round(&mut self) -> Result<(), String> {
        let powered = Powered::on(self.dir.path());
        let mut writer = self.start("write");
        let found = self.verdict(&mut writer)?;
        let wanted = self.acks() + self.chance.between(3, 120) as usize;
        eventually("acknowledgements", || {
            let acks = self.acks();
            if acks >= wanted { Ok(()) } else { Err(format!("{acks} of {wanted}")) }
        });
        let cut = powered.disk.cut(&mut self.chance);
        drop(writer);
        drop(powered);
        println!(
            "{} round {}: {found}; then {} acknowledged, {} sectors not flushed, {} of them persisted",
            self.part,
            self.rounds,
            self.acks(),
            cut.unflushed,
            cut.persisted
        );
        Ok(())
    }

    /// Power on once more: everything is there.
    pub(crate) fn check(&mut self) -> Result<String, String> {
        let _powered = Powered::on(self.dir.path());
        let mut writer = self.start("check");
        let verdict = self.verdict(&mut writer);
        let ended = writer.0.wait();
        verdict.and_then(|found| match ended {
            Ok(status) if status.success() => Ok(found),
            other => Err(format!("the check ended with {other:?}")),
        })
    }
}
