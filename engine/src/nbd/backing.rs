//! The disk beneath: a plain file or a block device, read and written in place.
//!
//! [`BackingDisk`] is what the capture splitter writes to and the scanner reads; [`FileExport`] serves one as it is.
//!
//! Invariants: a writable disk is opened by one owner at a time (an advisory lock on a file, exclusive opening of a
//! device). Once a sync has failed, the kernel may have dropped the pages and would call the next sync a success:
//! so every later sync and FUA write fails too, until the disk is opened anew.
//! Crash story: none of its own; what was not synced may be lost with the power, as on any disk.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::export::{Export, ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};

/// Largest read or write that is done on a connection's own thread, in bytes. Chosen: a copy of 256 KiB into the page cache
/// takes about 50 µs, what a hand-over to a worker costs under load; doubled, small requests behind it wait longer.
const QUICK_BYTES_MAX: u32 = 256 << 10;
/// Zeroes written at a time where nothing faster exists, in bytes.
const ZERO_PIECE_BYTES: usize = 256 << 10;

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The operating system refuses.
    #[error("open {path}: {source}")]
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

/// Syncs shared by all who wait: each caller is covered by one that starts after its call.
#[derive(Debug, Default)]
struct Syncs {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    running: bool,
    started: u64,
    finished: u64,
    /// The first failure; nothing after it can be called stable.
    failed: Option<String>,
}

impl SyncState {
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("an earlier sync failed ({why}): the disk must be opened anew"))),
        }
    }
}

impl Syncs {
    fn check(&self) -> io::Result<()> {
        self.state.lock().check()
    }

    fn fail(&self, error: io::Error) -> io::Error {
        self.state.lock().failed.get_or_insert_with(|| error.to_string());
        error
    }

    fn run(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        let wanted = state.started + 1;
        loop {
            state.check()?;
            if state.finished >= wanted {
                return Ok(());
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            let mine = state.started;
            drop(state);
            let result = sync();
            state = self.state.lock();
            state.running = false;
            match &result {
                Ok(()) => state.finished = mine,
                Err(error) => {
                    state.failed.get_or_insert_with(|| error.to_string());
                }
            }
            self.changed.notify_all();
            result?;
        }
    }
}

/// A backing disk served as it is, without capture.
#[derive(Debug)]
pub struct FileExport {
    info: ExportInfo,
    disk: Arc<BackingDisk>,
}

impl FileExport {
    /// Serves `disk` under `name`.
    pub fn new(name: impl Into<String>, disk: Arc<BackingDisk>) -> Self {
        let info = if disk.is_read_only() {
            ExportInfo::read_only(name, disk.size_bytes(), disk.sector_bytes())
        } else {
            ExportInfo::full(name, disk.size_bytes(), disk.sector_bytes())
        };
        Self { info, disk }
    }

    fn settle(&self, fua: bool) -> Result<(), NbdError> {
        if fua { self.flush() } else { Ok(()) }
    }
}

impl Export for FileExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError> {
        Ok(self.disk.read(offset, out)?)
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> bool {
        self.disk.read_now(offset, out)
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), NbdError> {
        let write = if fua { BackingDisk::write_stable } else { BackingDisk::write };
        Ok(write(&self.disk, offset, &data)?)
    }

    fn flush(&self) -> Result<(), NbdError> {
        Ok(self.disk.sync()?)
    }

    fn trim(&self, offset: u64, len: u32, fua: bool) -> Result<(), NbdError> {
        self.disk.trim(offset, len.into())?;
        self.settle(fua)
    }

    fn write_zeroes(&self, offset: u64, len: u32, flags: ZeroFlags) -> Result<(), NbdError> {
        self.disk.zero(offset, len.into(), flags.no_hole, flags.fast).map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => NbdError::NotSupported(error.to_string()),
            _ => error.into(),
        })?;
        self.settle(flags.fua)
    }

    fn block_status(&self, offset: u64, len: u32, max_extents: usize) -> Result<Vec<StatusExtent>, NbdError> {
        Ok(self.disk.extents(offset, len.into(), max_extents)?)
    }

    fn is_quick(&self, op: &Op) -> bool {
        matches!(op, Op::Write { len, fua: false, .. } if *len <= QUICK_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_of(size_bytes: u64) -> (tempfile::TempDir, PathBuf, BackingDisk) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("disk.img");
        File::create(&path).and_then(|file| file.set_len(size_bytes)).expect("a file");
        let disk = BackingDisk::open(&path, BackingOptions::default()).expect("opens");
        (dir, path, disk)
    }

    #[test]
    fn what_is_written_reads_back_and_what_is_trimmed_or_zeroed_reads_as_zeroes() {
        let (_dir, _, disk) = disk_of(1 << 20);
        disk.write(0, &[7; 65536]).expect("writes");
        disk.write_stable(65536, &[8; 4096]).expect("writes");
        disk.sync().expect("syncs");
        assert!(disk.trim(4096, 4096).expect("trims"));
        disk.zero(16384, 8192, true, false).expect("zeroes");
        disk.zero(32768, 512, false, false).expect("zeroes");
        let mut out = vec![0; 69632];
        disk.read(0, &mut out).expect("reads");
        for (at, byte) in out.iter().enumerate() {
            let expected = match at {
                4096..8192 | 16384..24576 | 32768..33280 => 0,
                65536.. => 8,
                _ => 7,
            };
            assert_eq!(*byte, expected, "at {at}");
        }
        let mut cached = vec![0; 4096];
        if disk.read_now(65536, &mut cached) {
            assert_eq!(cached, [8; 4096]);
        }
        assert!(disk.read(1 << 20, &mut [0; 512]).is_err(), "nothing lies behind the end");
    }

    #[test]
    fn extents_follow_each_other_and_holes_read_as_zeroes() {
        let (_dir, _, disk) = disk_of(8 << 20);
        disk.write(1 << 20, &vec![1; 1 << 20]).expect("writes");
        disk.write(4 << 20, &[1; 4096]).expect("writes");
        let extents = disk.extents(0, 8 << 20, 100).expect("tells");
        let mut at = 0;
        for extent in &extents {
            assert!(extent.len > 0 && extent.len % 512 == 0);
            assert_eq!(extent.hole, extent.zero);
            let mut bytes = vec![1; extent.len as usize];
            disk.read(at, &mut bytes).expect("reads");
            assert!(!extent.zero || bytes.iter().all(|byte| *byte == 0), "at {at}");
            at += extent.len;
        }
        assert_eq!(at, 8 << 20);
        assert!(extents.iter().any(|extent| extent.hole), "ext4, xfs, btrfs and tmpfs all know holes: {extents:?}");
        assert_eq!(disk.extents(0, 8 << 20, 1).expect("tells").len(), 1);
        let inside = disk.extents((1 << 20) + 512, 512, 10).expect("tells");
        assert_eq!(inside, [StatusExtent { len: 512, hole: false, zero: false }]);
    }

    #[test]
    fn a_disk_has_one_writer_and_any_number_of_readers() {
        let (_dir, path, disk) = disk_of(1 << 20);
        assert!(matches!(BackingDisk::open(&path, BackingOptions::default()), Err(BackingError::InUse { .. })));
        let reader = BackingDisk::open(&path, BackingOptions { read_only: true, ..Default::default() }).expect("opens");
        assert!(reader.trim(0, 512).is_err() && reader.write(0, &[0; 512]).is_err());
        assert_eq!(reader.identity().expect("known"), disk.identity().expect("known"));
        drop(disk);
        assert!(BackingDisk::open(&path, BackingOptions::default()).is_ok());
    }

    #[test]
    fn a_size_that_is_no_multiple_of_the_sector_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("odd.img");
        std::fs::write(&path, vec![0; 6 * 512]).expect("a file");
        let options = |sector| BackingOptions { sector_bytes: Some(sector), read_only: false };
        let error = BackingDisk::open(&path, options(4096)).expect_err("refused").to_string();
        assert!(error.contains("3072") && error.contains("4096"), "{error}");
        assert!(BackingDisk::open(&path, options(512)).is_ok());
        assert!(matches!(BackingDisk::open(&path, options(1024)), Err(BackingError::Sector { sector_bytes: 1024 })));
        assert!(matches!(BackingDisk::open(dir.path(), options(512)), Err(BackingError::Kind { .. })));
    }

    #[test]
    fn after_a_failed_sync_no_later_one_is_called_a_success() {
        let syncs = Syncs::default();
        syncs.run(|| Ok(())).expect("works at first");
        assert!(syncs.run(|| Err(Errno::IO.into())).is_err());
        let later = syncs.run(|| Ok(())).expect_err("stays failed").to_string();
        assert!(later.contains("opened anew"), "{later}");
    }
}
