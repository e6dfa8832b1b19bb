//! Real filesystems and databases on an NBD export: nbdfuse makes a file of it, a loop device a disk, and the kernel's
//! own ext4 or xfs is mounted on that. Root only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::rig::{Proc, Rig, eventually};

/// Runs a command to its end; it must succeed. Gives standard output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are text")
}

/// Which filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn make(self, device: &str) {
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-F", device]),
            Self::Xfs => run("mkfs.xfs", &["-q", "-f", device]),
        };
    }

    /// The filesystem on an unmounted device or image is clean.
    pub(crate) fn check(self, device: &Path) {
        match self {
            Self::Ext4 => run("e2fsck", &["-fn", path(device)]),
            Self::Xfs => run("xfs_repair", &["-n", path(device)]),
        };
    }
}

/// A loop device over a file, detached with its owner.
pub(crate) struct Loop {
    pub(crate) device: PathBuf,
}

impl Loop {
    pub(crate) fn over(file: &Path) -> Self {
        let device = run("losetup", &["--find", "--show", path(file)]);
        Self { device: device.into() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// A mounted filesystem, unmounted with its owner.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
}

impl Mount {
    pub(crate) fn new(device: &Path, at: PathBuf, kind: Kind) -> Self {
        fs::create_dir_all(&at).expect("make a mount point");
        // A point of an xfs has the same UUID as its source, which may be mounted as well.
        let options = if kind == Kind::Xfs { "nouuid" } else { "defaults" };
        run("mount", &["-t", kind.name(), "-o", options, path(device), path(&at)]);
        Self { at }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Processes that were told to end may hold it for a moment.
        for _ in 0..200 {
            if Command::new("umount").arg(&self.at).output().is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// An NBD export as a file.
pub(crate) struct Fuse {
    _server: Proc,
    dir: PathBuf,
}

impl Fuse {
    pub(crate) fn over(rig: &Rig, name: &str, uri: &str) -> Self {
        let dir = rig.path(&format!("{name}.fuse"));
        fs::create_dir_all(&dir).expect("make a directory");
        let mut command = Command::new("nbdfuse");
        command.args([path(&dir.join("disk")), uri]);
        let server = Proc::start(&format!("nbdfuse {name}"), command, &rig.path(&format!("{name}.nbdfuse.log")));
        let fuse = Self { _server: server, dir };
        eventually("nbdfuse", || fs::metadata(fuse.file()).map(drop).map_err(|error| error.to_string()));
        fuse
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("disk")
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(&self.dir).status();
    }
}

/// A filesystem on an export, with everything below it. Fields drop from the top down.
pub(crate) struct Stack {
    pub(crate) mount: Mount,
    _device: Loop,
    _fuse: Fuse,
}

impl Stack {
    /// Makes the filesystem and mounts it.
    pub(crate) fn make(rig: &Rig, name: &str, uri: &str, kind: Kind) -> Self {
        let fuse = Fuse::over(rig, name, uri);
        let device = Loop::over(&fuse.file());
        kind.make(path(&device.device));
        let mount = Mount::new(&device.device, rig.path(&format!("{name}.mnt")), kind);
        Self { mount, _device: device, _fuse: fuse }
    }
}

/// A PostgreSQL cluster, stopped with its owner.
pub(crate) struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    run: PathBuf,
}

impl Postgres {
    fn binaries() -> PathBuf {
        let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
        let newest = versions.filter_map(|entry| entry.ok()).map(|entry| entry.path().join("bin")).max();
        newest.expect("a version of PostgreSQL")
    }

    fn new(data: PathBuf, run: PathBuf) -> Self {
        fs::create_dir_all(&run).expect("make a directory");
        self::run("chown", &["postgres", path(&run)]);
        // The server runs as another user, below a directory that only root may enter otherwise.
        let top = run.parent().expect("the run directory lies in the rig");
        self::run("chmod", &["755", path(top)]);
        Self { bin: Self::binaries(), data, run }
    }

    /// As the database's user.
    fn postgres(&self, program: &str, args: &[&str]) -> String {
        let program = self.bin.join(program);
        let mut all = vec!["-u", "postgres", "--", path(&program)];
        all.extend(args);
        run("runuser", &all)
    }

    fn start(&self) {
        // The default would let the log grow to more than the disk has.
        let options =
            format!("-c max_wal_size=128MB -c listen_addresses='' -c unix_socket_directories={}", path(&self.run));
        let log = self.run.join("log");
        self.postgres("pg_ctl", &["-w", "-t", "60", "-D", path(&self.data), "-l", path(&log), "-o", &options, "start"]);
    }

    /// Makes a cluster with pgbench's tables in `data` and starts it.
    pub(crate) fn make(data: PathBuf, run: PathBuf) -> Self {
        let this = Self::new(data, run);
        fs::create_dir_all(&this.data).expect("make a directory");
        self::run("chown", &["postgres", path(&this.data)]);
        this.postgres("initdb", &["-D", path(&this.data), "-A", "trust", "--no-locale", "-E", "UTF8"]);
        this.start();
        this.postgres("pgbench", &["-h", path(&this.run), "-i", "-s", "2", "-q", "postgres"]);
        this
    }

    /// Starts a cluster that was recovered from a point: its own crash recovery runs.
    pub(crate) fn recover(data: PathBuf, run: PathBuf) -> Self {
        let this = Self::new(data, run);
        let _ = fs::remove_file(this.data.join("postmaster.pid"));
        this.start();
        this
    }

    /// pgbench for `seconds`, in the background.
    pub(crate) fn load(&self, rig: &Rig, seconds: u32) -> Proc {
        let mut command = Command::new("runuser");
        let pgbench = self.bin.join("pgbench");
        command.args(["-u", "postgres", "--", path(&pgbench), "-h", path(&self.run), "-n", "-c", "4", "-j", "2"]);
        command.args(["-T", &seconds.to_string(), "postgres"]);
        Proc::start("pgbench", command, &rig.path("pgbench.log"))
    }

    fn query(&self, sql: &str) -> String {
        self.postgres("psql", &["-h", path(&self.run), "-Atc", sql, "postgres"])
    }

    /// Every transaction of pgbench is there as a whole or not at all. Gives how many there are.
    pub(crate) fn check(&self) -> u64 {
        let sums = self.query(
            "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history), \
             (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)",
        );
        assert_eq!(sums, "t|t", "the sums of pgbench's tables agree");
        self.query("select count(*) from pgbench_history").parse().expect("a count")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pg_ctl = self.bin.join("pg_ctl");
        let _ = Command::new("runuser")
            .args(["-u", "postgres", "--", path(&pg_ctl), "-m", "immediate", "-D", path(&self.data), "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Adds `rows` rows to a SQLite database in one synced transaction.
pub(crate) fn sqlite_insert(file: &Path, rows: u32) {
    let sql = format!(
        "pragma journal_mode=wal; pragma synchronous=full; create table if not exists t(i integer primary key, v blob); \
         begin; insert into t(v) with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) \
         select randomblob(500) from n; commit;"
    );
    run("sqlite3", &[path(file), &sql]);
}

/// Writes `rows` rows anew, anywhere in the database, which does not grow by it.
pub(crate) fn sqlite_update(file: &Path, rows: u32) {
    let sql = format!(
        "pragma synchronous=full; update t set v = randomblob(500) \
         where i in (select abs(random()) % (select max(i) from t) + 1 from t limit {rows});"
    );
    run("sqlite3", &[path(file), &sql]);
}

/// The database is whole. Gives how many rows it has.
pub(crate) fn sqlite_check(file: &Path) -> u64 {
    assert_eq!(run("sqlite3", &[path(file), "pragma integrity_check"]), "ok");
    run("sqlite3", &[path(file), "select count(*) from t"]).parse().expect("a count")
}
