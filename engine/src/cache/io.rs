//! The port to the cache disk: what the cache asks of a file system, and no more. [`DiskIo`] is the real one; tests and
//! the simulator pass one that tears writes, fills up and forgets what was not synced (`ModelDisk`).
//!
//! Everything blocks; actors call it in their offload pool.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

/// Most buffers of one vectored write. Linux takes 1024 (IOV_MAX).
const PARTS_OF_ONE_WRITE_MAX: usize = 1024;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What an unprivileged process may still take.
    pub free_bytes: u64,
}

/// A file system, as far as the cache needs one.
pub trait CacheIo: Send + Sync {
    /// Makes a directory and its parents.
    fn create_dirs(&self, dir: &Path) -> io::Result<()>;
    /// Names in a directory, in no order; none where it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The first `bytes_max` bytes of a file; `None` where it does not exist.
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>>;
    /// A new file, empty, readable by its owner only; an error where it exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn CacheFile>>;
    /// A file that exists, to read and write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn CacheFile>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Room on the file system under `dir`.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// An open file of the cache.
pub trait CacheFile: Send {
    /// Writes all parts one after the other from `offset` on. After an error any of it may be there.
    fn write_at(&mut self, offset: u64, parts: &[Bytes]) -> io::Result<()>;
    /// Reads up to `bytes_max` bytes from `offset` on; fewer only where the file ends.
    fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes>;
    /// Makes contents and length durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file, or extends it with zeroes.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;
    /// How long it is, in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|bytes| bytes == 0)
    }
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskIo;

impl CacheIo for DiskIo {
    fn create_dirs(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        match File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(bytes_max).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        Ok(Box::new(DiskFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

struct DiskFile(File);

impl CacheFile for DiskFile {
    fn write_at(&mut self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        for group in parts.chunks(PARTS_OF_ONE_WRITE_MAX) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = slices.as_mut_slice();
            // Drops empty parts in front, so that a write of no bytes can only mean that nothing could be written.
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.0, rest, at) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let rest = self.len()?.saturating_sub(offset);
        let mut bytes = vec![0; bytes_max.min(usize::try_from(rest).unwrap_or(bytes_max))];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|meta| meta.len())
    }
}
