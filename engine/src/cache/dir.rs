//! One machine's part of the cache, and whose it is.
//!
//! ```text
//!   <cache>/<machine>/<timeline>/owner                    epoch and writer
//!                                seg-<16 hex digits>.fseg segment files, in the order of their numbers
//! ```
//!
//! Invariants: the owner is written and synced before the first append; it never goes back to a lower epoch, nor to
//! another writer within one. A segment file whose header names another owner is never uploaded.
//!
//! Crash story: the owner file is written aside, synced, renamed, and its directory synced, so it is the old one or the
//! new one. An owner that was fenced already and finds no owner file has lost its cache: [`may_continue`] says so,
//! and it needs a new epoch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::io::{CacheFile, CacheIo};
use super::owner::{OWNER_BYTES, decode, encode};
use super::{CacheError, Doing};
use crate::ids::{MachineId, TimelineId};
use crate::log::{Owner, SegmentNo};

const OWNER_NAME: &str = "owner";
const OWNER_ASIDE: &str = "owner.new";
/// Names of objects, a line each.
const SUSPECTS_NAME: &str = "suspects";
const SUSPECTS_ASIDE: &str = "suspects.new";
/// Longest list that is read.
const SUSPECTS_BYTES_MAX: u64 = 1 << 20;

/// One machine's directory in the cache.
#[derive(Clone)]
pub struct CacheDir {
    io: Arc<dyn CacheIo>,
    path: PathBuf,
    machine: MachineId,
    timeline: TimelineId,
}

impl std::fmt::Debug for CacheDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheDir").field("path", &self.path).finish_non_exhaustive()
    }
}

impl CacheDir {
    /// The directory of a machine's timeline under `cache`; made, durably, where it is missing.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn open(
        io: Arc<dyn CacheIo>,
        cache: &Path,
        machine: MachineId,
        timeline: TimelineId,
    ) -> Result<Self, CacheError> {
        let machine_dir = cache.join(machine.to_string());
        let path = machine_dir.join(timeline.to_string());
        io.create_dirs(&path).doing("create directory", &path)?;
        for dir in [cache, &machine_dir] {
            io.sync_dir(dir).doing("sync directory", dir)?;
        }
        Ok(Self { io, path, machine, timeline })
    }

    /// Who owns what lies here; `None` where nobody does.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged: the directory is then as good as lost.
    pub fn owner(&self) -> Result<Option<Owner>, CacheError> {
        let path = self.path.join(OWNER_NAME);
        let bytes = self.io.read(&path, OWNER_BYTES as u64 + 1).doing("read", &path)?;
        bytes.map(|bytes| decode(&bytes).ok_or(CacheError::OwnerDamaged { path })).transpose()
    }

    /// Makes `owner` the owner of what lies here, durably, before anything is appended. Segment files of others stay
    /// until `recover` discards them.
    ///
    /// # Errors
    /// When a newer owner, or another writer of the same epoch, has the directory; when the disk fails.
    pub fn claim(&self, owner: Owner) -> Result<(), CacheError> {
        match self.owner() {
            Ok(Some(current)) if current == owner => return Ok(()),
            Ok(Some(current)) if current.epoch >= owner.epoch => {
                return Err(CacheError::OwnedByOther { path: self.path.clone(), current, wanted: owner });
            }
            // What the file said is lost; whether this owner may begin here, `may_continue` has told.
            Ok(_) | Err(CacheError::OwnerDamaged { .. }) => {}
            Err(error) => return Err(error),
        }
        self.put(&self.path.join(OWNER_ASIDE), &self.path.join(OWNER_NAME), encode(owner))
    }

    /// Puts a file of this content in the segment's place: the old one or the new one is there, and the new one is
    /// durable.
    pub(super) fn replace(&self, segment: SegmentNo, contents: &Bytes) -> Result<(), CacheError> {
        let path = self.segment_path(segment);
        let put = self.put(&path.with_extension("new"), &path, contents.clone());
        if put.is_err() {
            let _ = self.io.remove(&path.with_extension("new"));
        }
        put
    }

    fn put(&self, aside: &Path, path: &Path, contents: Bytes) -> Result<(), CacheError> {
        self.io.remove(aside).doing("remove", aside)?;
        let mut file = self.io.create(aside).doing("create", aside)?;
        file.write_at(0, &[contents]).doing("write", aside)?;
        file.sync().doing("sync", aside)?;
        self.io.rename(aside, path).doing("rename", aside)?;
        self.sync()
    }

    /// Objects of the vault's log that were found damaged, as [`CacheDir::note_suspects`] left them. What cannot be read is no
    /// list: they are found again.
    pub fn suspects(&self) -> Vec<String> {
        let read = self.io.read(&self.path.join(SUSPECTS_NAME), SUSPECTS_BYTES_MAX);
        let text = read.ok().flatten().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Remembers them over restarts, durably.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn note_suspects(&self, objects: &[String]) -> Result<(), CacheError> {
        let path = self.path.join(SUSPECTS_NAME);
        if objects.is_empty() {
            return self.io.remove(&path).doing("remove", &path);
        }
        self.put(&self.path.join(SUSPECTS_ASIDE), &path, objects.join("\n").into())
    }

    /// Lets go of the directory: `owner` has handed the log over. Every segment file goes, the owner file last, so that
    /// a crash in between leaves an owner that meets the next one's fence. Where another owner has the directory,
    /// nothing is touched.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn forget(&self, owner: Owner) -> Result<(), CacheError> {
        if self.owner()? != Some(owner) {
            return Ok(());
        }
        for segment in self.segments()? {
            self.remove(segment)?;
        }
        self.note_suspects(&[])?;
        self.sync()?;
        let path = self.path.join(OWNER_NAME);
        self.io.remove(&path).doing("remove", &path)?;
        self.sync()
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn sync(&self) -> Result<(), CacheError> {
        self.io.sync_dir(&self.path).doing("sync directory", &self.path)
    }

    /// The numbers of the segment files that lie here, in order.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn segments(&self) -> Result<Vec<SegmentNo>, CacheError> {
        let names = self.io.list(&self.path).doing("list", &self.path)?;
        let mut numbers: Vec<SegmentNo> = names.iter().filter_map(|name| segment_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes a segment's file: it is committed and its room is needed, or it must not be sent.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn remove(&self, segment: SegmentNo) -> Result<(), CacheError> {
        let path = self.segment_path(segment);
        self.io.remove(&path).doing("remove", &path)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine whose cache this is.
    pub fn machine(&self) -> MachineId {
        self.machine
    }

    /// The timeline whose cache this is.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    pub(super) fn segment_path(&self, segment: SegmentNo) -> PathBuf {
        self.path.join(format!("seg-{:016x}.fseg", segment.0))
    }

    pub(super) fn create_file(&self, path: &Path) -> Result<Box<dyn CacheFile>, CacheError> {
        self.io.create(path).doing("create", path)
    }

    pub(super) fn open_file(&self, path: &Path) -> Result<Box<dyn CacheFile>, CacheError> {
        self.io.open(path).doing("open", path)
    }
}

/// Whether an owner may go on with the cache directory it finds, or has lost it and needs a new epoch: what it
/// reported durable may be gone, so its writer must not go on as if it were there.
///
/// `cache` is what the directory says, `newest` the newest owner in the log.
///
/// # Errors
/// When `me` has written to the log before, and the directory does not know it.
pub fn may_continue(me: Owner, cache: Option<Owner>, newest: Option<Owner>) -> Result<(), CacheError> {
    if newest == Some(me) && cache != Some(me) {
        return Err(CacheError::CacheLost { me, found: cache });
    }
    Ok(())
}

fn segment_of(name: &str) -> Option<SegmentNo> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".fseg")?;
    let number = (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
    (format!("{number:016x}") == digits).then_some(SegmentNo(number))
}
