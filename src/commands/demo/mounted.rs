//! A disk's filesystem, mounted, with root: nbdfuse makes a file of the NBD export, a loop device makes a disk of the file,
//! and the kernel's ext4 is mounted on that.
//!
//! Nothing is left behind: dropped, the filesystem is unmounted, the loop device detached and nbdfuse ended, also when a
//! step of it failed; where a step cannot be taken back (nbdfuse has died) the next one still is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::process::{Process, run, tool};
use crate::exit::Failure;

/// Longest wait for nbdfuse's file.
const FILE_WITHIN: Duration = Duration::from_secs(20);
/// How long a filesystem may stay busy at its end before it is detached as it is.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is missing for all this on this host, if anything.
pub(super) fn missing() -> Option<&'static str> {
    let found = |path: &str| Path::new(path).exists();
    let runs = |name: &str, arg: &str| tool(name).arg(arg).output().is_ok_and(|output| output.status.success());
    if !rustix::process::geteuid().is_root() {
        return Some("that needs root");
    }
    if !found("/dev/fuse") {
        return Some("there is no /dev/fuse");
    }
    if !found("/dev/loop-control") {
        return Some("there are no loop devices");
    }
    let tools = [
        ("nbdfuse", "nbdfuse is not installed (Debian package libnbd-bin or nbdfuse)"),
        ("losetup", "losetup is not installed (Debian package mount)"),
        ("mount", "mount is not installed"),
        ("sqlite3", "sqlite3 is not installed (Debian package sqlite3)"),
    ];
    tools.into_iter().find(|(name, _)| !runs(name, "--version")).map(|(_, text)| text)
}

/// The mounted filesystem of an export. Its fields drop from the top of the stack down.
pub(super) struct Mounted {
    /// Where its files are.
    pub(super) at: PathBuf,
    _mount: Mount,
    _device: LoopDevice,
    fuse: Fuse,
}

impl Mounted {
    /// Mounts the ext4 of the export at `uri`, with everything below `<dir>/<name>...`.
    pub(super) fn new(name: &'static str, dir: &Path, uri: &str) -> Result<Self, Failure> {
        let fuse = Fuse::over(name, dir, uri)?;
        let device = LoopDevice::over(&fuse.file)?;
        let mount = Mount::of(&device.0, dir.join(format!("{name}.mnt")))?;
        Ok(Self { at: mount.0.clone(), _mount: mount, _device: device, fuse })
    }

    /// An error once nothing serves it any more.
    pub(super) fn alive(&mut self) -> Result<(), Failure> {
        self.fuse.server.alive()
    }
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::failed(format!("make {}: {error}", dir.display())))
}

/// An export as a file.
struct Fuse {
    dir: PathBuf,
    file: PathBuf,
    server: Process,
}

impl Fuse {
    fn over(name: &'static str, dir: &Path, uri: &str) -> Result<Self, Failure> {
        let at = dir.join(format!("{name}.fuse"));
        make_dir(&at)?;
        let file = at.join("disk");
        let mut command = tool("nbdfuse");
        command.arg(&file).arg(uri);
        let server = Process::start(name, dir, command)?;
        let mut fuse = Self { dir: at, file, server };
        let begun = Instant::now();
        while fs::metadata(&fuse.file).is_err() {
            fuse.server.alive()?;
            if begun.elapsed() > FILE_WITHIN {
                return Err(Failure::failed(format!("nbdfuse shows no file for {uri} after {FILE_WITHIN:?}")));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(fuse)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // nbdfuse ends when its directory is unmounted; the process is ended after this in any case.
        let unmounted = tool("umount").arg("-l").arg(&self.dir).output();
        report("unmount", &self.dir, unmounted.is_ok_and(|output| output.status.success()));
    }
}

/// A loop device.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(file: &Path) -> Result<Self, Failure> {
        let mut command = tool("losetup");
        command.args(["--find", "--show"]).arg(file);
        run(command).map(|device| Self(device.into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = tool("losetup").arg("--detach").arg(&self.0).output();
        report("detach", &self.0, detached.is_ok_and(|output| output.status.success()));
    }
}

/// A mounted filesystem.
struct Mount(PathBuf);

impl Mount {
    fn of(device: &Path, at: PathBuf) -> Result<Self, Failure> {
        make_dir(&at)?;
        let mut command = tool("mount");
        command.args(["-t", "ext4", "-o", "nosuid,nodev,noexec"]).args([device, &at]);
        run(command).map(|_| Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmount = |more: &[&str]| -> bool {
            let mut command: Command = tool("umount");
            command.args(more).arg(&self.0).output().is_ok_and(|output| output.status.success())
        };
        let begun = Instant::now();
        while begun.elapsed() < UNMOUNT_WITHIN {
            if unmount(&[]) {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
        report("unmount", &self.0, unmount(&["-l"]));
    }
}

fn report(what: &str, path: &Path, done: bool) {
    if !done {
        println!("          could not {what} {}: do it by hand", path.display());
    }
}
