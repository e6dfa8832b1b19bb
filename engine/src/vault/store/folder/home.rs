//! Which folder it is, whatever lies at its path: a mark in it, and where the mark was seen last.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::STAGING;
use super::directories::{create_new, sync_directory};

/// The mark's file name in the staging directory.
pub(super) const MARK: &str = "folder.id";

/// What is known of the folder.
#[derive(Debug)]
pub(super) struct Home {
    /// Its mark; `None`: it was opened for reading and has none.
    mark: Option<String>,
    /// Device and inode under which it was seen last. A filesystem that is mounted again may have another device number.
    seen: Mutex<(u64, u64)>,
}

impl Home {
    /// Learns a folder's mark, and makes one where there is none.
    pub(super) fn mark(root: &Path) -> io::Result<Self> {
        let staging = root.join(STAGING);
        if read(root)?.is_none() {
            let mark = new_mark(root)?;
            // Whole at once, and never over another process's.
            let aside = staging.join(format!("probe-{}-mark", std::process::id()));
            fs::remove_file(&aside).ok();
            let mut file = create_new(&aside)?;
            file.write_all(mark.as_bytes()).and_then(|()| file.sync_all())?;
            let there = staging.join(MARK);
            match fs::hard_link(&aside, &there) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(_) => drop(super::rename_no_replace(&aside, &there)?),
            }
            fs::remove_file(&aside).ok();
            sync_directory(&staging)?;
        }
        Self::see(root)
    }

    /// Learns a folder's mark, if it has one.
    pub(super) fn see(root: &Path) -> io::Result<Self> {
        Ok(Self { mark: read(root)?, seen: Mutex::new(place(root)?) })
    }

    /// Whether the path leads to this folder.
    pub(super) fn is_at(&self, root: &Path) -> io::Result<bool> {
        let place = place(root)?;
        if *self.seen.lock() == place {
            return Ok(true);
        }
        let same = self.mark.is_some() && read(root)? == self.mark;
        if same {
            *self.seen.lock() = place;
        }
        Ok(same)
    }
}

/// A text that no other folder has: who made it, when, and where.
fn new_mark(root: &Path) -> io::Result<String> {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let (device, inode) = place(root)?;
    let made = format!("{} {time} {device} {inode} {}", std::process::id(), root.display());
    Ok(blake3::hash(made.as_bytes()).to_hex()[..32].to_owned())
}

fn place(root: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(root)?;
    Ok((meta.dev(), meta.ino()))
}

fn read(root: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(root.join(STAGING).join(MARK)) {
        Ok(mark) => Ok(Some(mark)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
