//! A file in the making beside its target, with a note of how far it is: what a killed restore left is gone on with.
//!
//! ```text
//!   .NAME.farshore-part        the file; locked by the restore that writes it
//!   .NAME.farshore-part.note   JSON: what it is of, and up to which byte of the disk it is whole and synced
//! ```
//!
//! Crash story: the file is synced before the note says so. A note of another point, format or size counts for nothing. A
//! restore that fails before anything was noted leaves no file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{RestoreError, failed};
use crate::ids::{DiskNo, MachineId, MarkId, TimelineId};
use crate::vault::export::Format;

/// What a file in the making is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) machine: MachineId,
    pub(super) timeline: TimelineId,
    pub(super) point: MarkId,
    pub(super) disk: DiskNo,
    pub(super) format: Format,
    pub(super) file_bytes: u64,
}

/// How far an export of something is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) of: Identity,
    pub(super) done_until: u64,
}

/// The file; removed again unless it is finished, or whole up to somewhere that is worth keeping.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
    identity: Identity,
    done_until: u64,
    finished: bool,
}

impl Partial {
    /// Makes the file, or goes on with what an earlier restore of the very same left.
    pub(super) fn open(target: &Path, identity: Identity) -> Result<Self, RestoreError> {
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = target.with_file_name(format!(".{name}.farshore-part"));
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|source| failed("create", &path, source))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(RestoreError::Busy(path));
        }
        let file_bytes = identity.file_bytes;
        let noted = fs::read(note_path(&path)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let has_size = file.metadata().is_ok_and(|meta| meta.len() == file_bytes);
        let done_until = noted.filter(|note| note.of == identity && has_size).map_or(0, |note| note.done_until);
        let partial =
            Self { file: Arc::new(file), path, target: target.to_owned(), identity, done_until, finished: false };
        if done_until == 0 {
            let emptied = partial.file.set_len(0).and_then(|()| partial.file.set_len(file_bytes));
            emptied.map_err(|source| failed("set the size of", &partial.path, source))?;
        }
        Ok(partial)
    }

    /// Up to where the disk is in the file.
    pub(super) fn done_until(&self) -> u64 {
        self.done_until
    }

    /// All before `done_until` is written: makes that durable and notes it.
    pub(super) fn note(&mut self, done_until: u64) -> Result<(), RestoreError> {
        let synced = self.file.sync_data();
        synced.map_err(|source| failed("sync", &self.path, source))?;
        let path = note_path(&self.path);
        let text = serde_json::to_vec(&Note { of: self.identity.clone(), done_until }).expect("plain data");
        let aside = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().map_err(|source| failed("write", &path, source))?;
        self.done_until = done_until;
        Ok(())
    }

    /// Writes what a format has beside the disk's bytes.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.file.write_all_at(bytes, at).map_err(|source| failed("write", &self.path, source))
    }

    /// Puts it in its place.
    pub(super) fn finish(mut self) -> Result<(), RestoreError> {
        fs::rename(&self.path, &self.target).map_err(|source| failed("put in place", &self.target, source))?;
        self.finished = true;
        // Of no use any more, and of no harm.
        let _ = fs::remove_file(note_path(&self.path));
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished && self.done_until == 0 {
            // The next restore writes over what cannot be removed now.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn note_path(part: &Path) -> PathBuf {
    let name = part.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    part.with_file_name(format!("{name}.note"))
}
