//! The disk beneath: a plain file or a block device, read and written in place. The capture splitter writes to it, the
//! scanner reads it, and [`super::FileExport`] serves it as it is.
//!
//! Invariants: a writable disk is opened by one owner at a time (an advisory lock on a file, exclusive opening of a
//! device). Once a sync has failed, the kernel may have dropped the pages and would call the next sync a success:
//! so every later sync and FUA write fails too, until the disk is opened anew.
//! Crash story: none of its own; what was not synced may be lost with the power, as on any disk.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::export::StatusExtent;
use super::syncs::Syncs;

/// Zeroes written at a time where nothing faster exists, in bytes.
const ZERO_PIECE_BYTES: usize = 256 << 10;

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The operating system refuses.
    #[error("open {path}: {source}; bring the disk back, restore it from a recovery point, or leave it out")]
    Open {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program, or another disk of this one, has it open.
    #[error("{path} is in use by another program or is mounted: stop that first")]
    InUse {
        /// The disk.
        path: PathBuf,
    },
    /// Neither a file nor a block device.
    #[error("{path} is neither a regular file nor a block device")]
    Kind {
        /// The disk.
        path: PathBuf,
    },
    /// The size is no multiple of the sector.
    #[error(
        "{path} has {size_bytes} bytes, which is no positive multiple of its sector size {sector_bytes}: extend it"
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The sector size.
        sector_bytes: u32,
    },
    /// A sector size that no disk has.
    #[error("sector size {sector_bytes} is neither 512 nor 4096")]
    Sector {
        /// What was asked for.
        sector_bytes: u32,
    },
}

/// By what a disk is recognised as the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingIdentity {
    /// Whether it is a block device.
    pub block_device: bool,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Number of the filesystem that holds a file; number of the device itself otherwise.
    pub device: u64,
    /// Inode of a file; 0 for a device.
    pub inode: u64,
    /// Last change of a file, microseconds since 1970; 0 for a device, which does not tell.
    pub changed_micros: i64,
}

/// Whether a disk is still where and what it was when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// Its file was deleted: it lives as long as it is open.
    Deleted,
    /// Another file is at its path, or none: it was moved or replaced.
    Elsewhere,
    /// It is shorter than it was: so many bytes are left.
    Short(u64),
}

/// A file or block device, opened to be a disk.
#[derive(Debug)]
pub struct BackingDisk {
    path: PathBuf,
    file: File,
    block_device: bool,
    size_bytes: u64,
    sector_bytes: u32,
    read_only: bool,
    /// What the filesystem has refused once is not tried again.
    can_punch: AtomicBool,
    can_zero_range: AtomicBool,
    can_read_now: AtomicBool,
    syncs: Syncs,
}

/// How a disk is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackingOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Present sectors of this size; without, what the device has, 512 for a file.
    pub sector_bytes: Option<u32>,
}

impl BackingDisk {
    /// Opens the disk at `path`.
    pub fn open(path: &Path, options: BackingOptions) -> Result<Self, BackingError> {
        let failed = |source: io::Error| BackingError::Open { path: path.to_owned(), source };
        let in_use = || BackingError::InUse { path: path.to_owned() };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BackingError::Kind { path: path.to_owned() });
        }
        let block_device = kind.is_block_device();
        let mut open = OpenOptions::new();
        open.read(true).write(!options.read_only);
        if block_device && !options.read_only {
            // On a device and without O_CREAT: refused while it is mounted or opened this way by another.
            open.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file = open.open(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => in_use(),
            _ => failed(error),
        })?;
        if !block_device && !options.read_only {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use()),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let size_bytes = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|errno| failed(errno.into()))?;
        let sector_bytes = match options.sector_bytes {
            Some(sector_bytes) => sector_bytes,
            None if block_device => rustix::fs::ioctl_blksszget(&file).map_err(|errno| failed(errno.into()))?,
            None => 512,
        };
        if !matches!(sector_bytes, 512 | 4096) {
            return Err(BackingError::Sector { sector_bytes });
        }
        if size_bytes == 0 || !size_bytes.is_multiple_of(sector_bytes.into()) {
            return Err(BackingError::Size { path: path.to_owned(), size_bytes, sector_bytes });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            block_device,
            size_bytes,
            sector_bytes,
            read_only: options.read_only,
            can_punch: AtomicBool::new(true),
            can_zero_range: AtomicBool::new(true),
            can_read_now: AtomicBool::new(true),
            syncs: Syncs::default(),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Sector size in bytes: 512 or 4096.
    pub fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    /// Whether it was opened without the right to change it.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// By what it is recognised, as of now.
    pub fn identity(&self) -> io::Result<BackingIdentity> {
        let meta = self.file.metadata()?;
        let (device, inode, changed_micros) = if self.block_device {
            (meta.rdev(), 0, 0)
        } else {
            (meta.dev(), meta.ino(), meta.ctime() * 1_000_000 + meta.ctime_nsec() / 1000)
        };
        Ok(BackingIdentity {
            block_device: self.block_device,
            size_bytes: self.size_bytes,
            device,
            inode,
            changed_micros,
        })
    }

    /// Whether it is still there: a look at names and sizes.
    pub fn presence(&self) -> io::Result<Presence> {
        if self.block_device {
            let left = rustix::fs::seek(&self.file, SeekFrom::End(0))?;
            return Ok(if left < self.size_bytes { Presence::Short(left) } else { Presence::There });
        }
        let meta = self.file.metadata()?;
        if meta.nlink() == 0 {
            return Ok(Presence::Deleted);
        }
        if meta.len() < self.size_bytes {
            return Ok(Presence::Short(meta.len()));
        }
        match std::fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (meta.dev(), meta.ino()) => Ok(Presence::There),
            Ok(_) => Ok(Presence::Elsewhere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Presence::Elsewhere),
            Err(error) => Err(error),
        }
    }

    /// The number of its open file in this process: what was deleted can be copied from there.
    pub fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Fills `out` from `offset` on.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// Fills `out` if the page cache has it all; else false, and `out` is undefined.
    pub fn read_now(&self, offset: u64, out: &mut [u8]) -> bool {
        if !self.can_read_now.load(Ordering::Relaxed) {
            return false;
        }
        let wanted = out.len();
        let mut parts = [io::IoSliceMut::new(out)];
        match rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => count == wanted,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => {
                self.can_read_now.store(false, Ordering::Relaxed);
                false
            }
        }
    }

    /// Writes all of `data` at `offset`, into the page cache.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Writes all of `data` at `offset` and makes it stable.
    pub fn write_stable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.syncs.check()?;
        let mut done = 0;
        while done < data.len() {
            let parts = [io::IoSlice::new(&data[done..])];
            match rustix::io::pwritev2(&self.file, &parts, offset + done as u64, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.write(offset + done as u64, &data[done..])?;
                    return self.sync();
                }
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(errno.into()),
                Err(errno) => return Err(self.syncs.fail(errno.into())),
            }
        }
        Ok(())
    }

    /// Makes every write that completed before the call stable. Calls that wait for each other share one sync.
    pub fn sync(&self) -> io::Result<()> {
        self.syncs.run(|| rustix::fs::fdatasync(&self.file).map_err(Into::into))
    }

    /// A range will be read soon. Whether the system follows the advice, nobody needs to know.
    pub fn will_need(&self, offset: u64, len: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(len), Advice::WillNeed);
    }

    /// Gives a range back. True where it now reads as zeroes, false where nothing was done.
    pub fn trim(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.punch(offset, len)
    }

    /// Makes a range read as zeroes; `no_hole` keeps it allocated. With `fast`, fails with `Unsupported` rather than write
    /// zeroes as data.
    pub fn zero(&self, offset: u64, len: u64, no_hole: bool, fast: bool) -> io::Result<()> {
        if !no_hole && self.punch(offset, len)? {
            return Ok(());
        }
        // On a device the kernel itself would fall back to writing zeroes: not fast.
        if !(fast && self.block_device) && self.zero_range(offset, len)? {
            return Ok(());
        }
        if fast {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "zeroes would be written as data here"));
        }
        let zeroes = vec![0; ZERO_PIECE_BYTES.min(usize::try_from(len).unwrap_or(ZERO_PIECE_BYTES))];
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(zeroes.len() as u64);
            self.write(at, &zeroes[..piece as usize])?;
            at += piece;
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.fallocate(&self.can_punch, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.fallocate(&self.can_zero_range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn fallocate(&self, able: &AtomicBool, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        if !able.load(Ordering::Relaxed) {
            return Ok(false);
        }
        loop {
            return match rustix::fs::fallocate(&self.file, flags, offset, len) {
                Ok(()) => Ok(true),
                Err(Errno::INTR) => continue,
                // A device of larger sectors than the request's alignment; other requests may be aligned.
                Err(Errno::INVAL) if self.block_device => Ok(false),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {
                    able.store(false, Ordering::Relaxed);
                    Ok(false)
                }
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// The allocation of a range, cut at sectors, at most `max_extents` extents. A device does not tell: all data.
    pub fn extents(&self, offset: u64, len: u64, max_extents: usize) -> io::Result<Vec<StatusExtent>> {
        let end = (offset + len).min(self.size_bytes);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < max_extents {
            let (until, data) = self.extent_at(at, end)?;
            extents.push(StatusExtent { len: until - at, hole: !data, zero: !data });
            at = until;
        }
        Ok(extents)
    }

    /// Where the run that begins at `at` ends (at most at `end`), and whether it holds data.
    fn extent_at(&self, at: u64, end: u64) -> io::Result<(u64, bool)> {
        if self.block_device {
            return Ok((end, true));
        }
        let sector = u64::from(self.sector_bytes);
        let data = match rustix::fs::seek(self.file.as_fd(), SeekFrom::Data(at)) {
            Ok(data) => data / sector * sector,
            Err(Errno::NXIO) => return Ok((end, false)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((end, true)),
            Err(errno) => return Err(errno.into()),
        };
        if data > at {
            return Ok((data.min(end), false));
        }
        match rustix::fs::seek(self.file.as_fd(), SeekFrom::Hole(at)) {
            Ok(hole) => Ok((hole.next_multiple_of(sector).clamp(at + sector, end.max(at + sector)).min(end), true)),
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok((end, true)),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests;
