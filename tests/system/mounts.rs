//! Small filesystems of a test's own: they run full, freeze, and are gone when their owner is.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mounted::run;
use crate::rig::Rig;

/// A mounted filesystem. Declared before the processes that use it, it outlives them.
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Memory as a disk.
    pub(crate) fn tmpfs(at: &Path, bytes: u64) -> Self {
        fs::create_dir_all(at).expect("make a mount point");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tmpfs", text(at)]);
        Self { at: at.into() }
    }

    /// ext4 in a file, which can be frozen: writes hang until it is thawed.
    pub(crate) fn ext4(rig: &Rig, at: &Path, bytes: u64) -> Self {
        let image = rig.image("filesystem.img", bytes);
        fs::create_dir_all(at).expect("make a mount point");
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(at)]);
        Self { at: at.into() }
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("create a filler");
        let mut size = 1 << 20;
        let zeroes = vec![0; size];
        while size >= 4096 {
            if file.write_all(&zeroes[..size]).is_err() {
                size /= 2;
            }
        }
    }

    /// Gives the room back.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).expect("remove the filler");
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Writes to it hang until the answer is dropped. Declared after the processes that write: one that waits for the
    /// filesystem cannot even be killed.
    pub(crate) fn freeze(&self) -> Frozen {
        run("fsfreeze", &["-f", text(&self.at)]);
        Frozen { at: self.at.clone() }
    }
}

/// A filesystem to which writes hang.
pub(crate) struct Frozen {
    at: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").args(["-u", text(&self.at)]).status();
        assert!(thawed.is_ok_and(|status| status.success()) || std::thread::panicking(), "thaw the filesystem");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whoever still has it open must not keep the test from cleaning up.
        drop(Command::new("umount").args(["-l", text(&self.at)]).status());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are text")
}
