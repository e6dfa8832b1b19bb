//! One segment's file in the cache: written once from front to back, then read for the upload.
//!
//! ```text
//!   create ─► append, sync ... ─► write_footer ─► read_items ─► (uploaded) ─► removed when room is needed
//!                 │ error               ▲   │ another slot: the footer is cut off and written again
//!                 ▼                     └───┘
//!             abandon: cut at what was synced before, which is still read; nothing more is written
//! ```
//!
//! Invariants
//! - The header and the name are synced before the first append is.
//! - After a failed write or sync nothing more is written: the page cache may have forgotten what it could not write
//!   (a second fsync would lie), so the file keeps only what earlier syncs covered.
//! - The note behind the footer is written after everything before it was synced.
//!
//! Crash story: see `cache::recover`.

use std::path::PathBuf;

use bytes::Bytes;

use super::dir::CacheDir;
use super::io::CacheFile;
use super::note::{NOTE_BYTES, Note};
use super::{CacheError, Doing};
use crate::log::SegmentNo;
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::segment::{FooterDigest, FooterPlace, ObjectKind, SegmentIdentity, scan_whole_batches};

/// A segment's file. Everything blocks.
pub struct SegmentFile {
    segment: SegmentNo,
    path: PathBuf,
    file: Box<dyn CacheFile>,
    abandoned: bool,
    /// Where the last append ended.
    end: u64,
    /// Where it ended at the last successful sync.
    synced_end: u64,
}

impl std::fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SegmentFile {
    /// A new file with its header, its name durable. The header itself is made durable by the first
    /// [`SegmentFile::sync`].
    ///
    /// # Errors
    /// When the cache disk fails or is full; a file that was made by then is removed as far as that goes.
    pub fn create(dir: &CacheDir, segment: SegmentNo, identity: &SegmentIdentity) -> Result<Self, CacheError> {
        let path = dir.segment_path(segment);
        let file = dir.create_file(&path)?;
        let mut it = Self { segment, path, file, abandoned: false, end: HEADER_BYTES as u64, synced_end: 0 };
        let made = it.write(0, &[identity.encode(ObjectKind::Segment)]).and_then(|()| dir.sync());
        if let Err(error) = made {
            // What stays is a file without a whole batch, which recovery discards.
            let _ = dir.remove(segment);
            return Err(error);
        }
        Ok(it)
    }

    /// Opens a file of an earlier life to write its footer and to upload it; nothing is appended to it any more.
    ///
    /// # Errors
    /// When it is not there, or the cache disk fails.
    pub fn open(dir: &CacheDir, segment: SegmentNo) -> Result<Self, CacheError> {
        let path = dir.segment_path(segment);
        let file = dir.open_file(&path)?;
        let end = file.len().doing("measure", &path)?;
        Ok(Self { segment, path, file, abandoned: false, end, synced_end: end })
    }

    /// Appends whole batches at `offset`, where the last append ended. Durable only after [`SegmentFile::sync`].
    ///
    /// # Errors
    /// When the cache disk fails or is full; the file is abandoned then.
    pub fn append(&mut self, offset: u64, parts: &[Bytes]) -> Result<(), CacheError> {
        assert!(offset >= HEADER_BYTES as u64, "items stand behind the header");
        self.write(offset, parts)?;
        self.end = offset + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// When the cache disk fails; the file is abandoned then, and never synced again.
    pub fn sync(&mut self) -> Result<(), CacheError> {
        self.guard()?;
        let synced = self.file.sync().doing("sync", &self.path);
        match &synced {
            Ok(()) => self.synced_end = self.end,
            Err(_) => self.abandoned = true,
        }
        synced
    }

    /// Puts the footer behind the items, instead of an older one, and the note behind that.
    ///
    /// # Errors
    /// When the cache disk fails or is full. The items are as good as before; the caller may upload them with the
    /// footer it holds, and the file without a note is sealed again after a restart.
    pub fn write_footer(
        &mut self,
        items_end: u64,
        footer: &Bytes,
        place: FooterPlace,
        digest: FooterDigest,
    ) -> Result<(), CacheError> {
        self.guard()?;
        let object_bytes = items_end + footer.len() as u64;
        if self.len()? > items_end {
            // The old note must be gone for good before anything that it vouches for changes.
            self.file.set_len(items_end).doing("cut", &self.path)?;
            self.sync()?;
        }
        self.write(items_end, std::slice::from_ref(footer))?;
        self.sync()?;
        let footer_crc = Some(crc32fast::hash(footer));
        let note = Note { object_bytes, items_end, place, digest, footer_crc };
        self.write(object_bytes, &[note.encode()])?;
        self.sync()
    }

    /// Header and items, as they will be uploaded, each item's CRC checked again: what the cache disk has lost must
    /// not get into the vault.
    ///
    /// # Errors
    /// When they cannot be read, or are damaged: the machine is then to be recovered from its cache anew.
    pub fn read_items(&self, items_end: u64) -> Result<Bytes, CacheError> {
        let wanted = usize::try_from(items_end).unwrap_or(usize::MAX);
        let bytes = self.file.read_at(0, wanted).doing("read", &self.path)?;
        match scan_whole_batches(&bytes) {
            Ok(scan) if scan.cut == items_end => Ok(bytes),
            Ok(scan) => Err(self.damaged(format!("whole batches end at {} instead of {items_end}", scan.cut))),
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }

    /// The footer behind the items of a segment that was sealed before.
    ///
    /// # Errors
    /// When it cannot be read, or is not what the note vouches for.
    pub fn read_footer(&self, note: &Note) -> Result<Bytes, CacheError> {
        let wanted = usize::try_from(note.object_bytes - note.items_end).unwrap_or(usize::MAX);
        let bytes = self.file.read_at(note.items_end, wanted).doing("read", &self.path)?;
        if note.vouches_for(&bytes) { Ok(bytes) } else { Err(self.damaged("its footer is not what was sealed".into())) }
    }

    /// Ends a file whose append or sync has failed, before anything is written to the next one: what stands behind the
    /// last successful sync is cut away, and a file that holds nothing durable is removed. So recovery finds no batch
    /// there that was never durable, and no torn bytes that look like damage. As far as the disk still goes: where it does
    /// not, recovery discards more than it must, and the agent sends that again.
    pub fn abandon(mut self, dir: &CacheDir) {
        if self.synced_end <= HEADER_BYTES as u64 {
            let _ = dir.remove(self.segment).and_then(|()| dir.sync());
        } else {
            // Not the failed sync once more: what it was to bring to the disk is gone with the cut.
            let _ = self.file.set_len(self.synced_end).and_then(|()| self.file.sync());
        }
    }

    /// The note behind a sealed segment, if there is one.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn note(&self) -> Result<Option<Note>, CacheError> {
        let bytes = self.len()?;
        let Some(at) = bytes.checked_sub(NOTE_BYTES as u64) else { return Ok(None) };
        let end = self.file.read_at(at, NOTE_BYTES).doing("read", &self.path)?;
        Ok(Note::decode(&end, bytes))
    }

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn len(&self) -> Result<u64, CacheError> {
        self.file.len().doing("measure", &self.path)
    }

    /// Whether nothing is in it.
    ///
    /// # Errors
    /// When the cache disk fails.
    pub fn is_empty(&self) -> Result<bool, CacheError> {
        Ok(self.len()? == 0)
    }

    /// Which segment it is.
    pub fn segment(&self) -> SegmentNo {
        self.segment
    }

    fn damaged(&self, problem: String) -> CacheError {
        CacheError::Damaged { path: self.path.clone(), problem }
    }

    fn guard(&self) -> Result<(), CacheError> {
        if self.abandoned { Err(CacheError::Abandoned { path: self.path.clone() }) } else { Ok(()) }
    }

    fn write(&mut self, offset: u64, parts: &[Bytes]) -> Result<(), CacheError> {
        self.guard()?;
        let written = self.file.write_at(offset, parts).doing("write", &self.path);
        self.abandoned |= written.is_err();
        written
    }
}
