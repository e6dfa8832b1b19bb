//! Where the database's bytes lie: on a disk of a fixed size, reached over NBD.
//!
//! A database's file grows, a disk does not. So the disk's last block holds the length of the file, with a magic and a
//! checksum; it is written with FUA. Crash story: growth zeroes the new range before the length says that it is there, and
//! a point holds a prefix of the writes, so that a length which can be read is always that of bytes which are there.

use std::fmt;
use std::io;
use std::ops::DerefMut as _;

use farshore_engine::nbd::{ClientError, NbdClient, ZeroFlags};
use parking_lot::Mutex;
use redb::StorageBackend;

/// Unit of reads and writes; the size of the database's pages.
const BLOCK_BYTES: usize = 4096;
/// Begins the block with the length.
const MAGIC: &[u8; 8] = b"FSHLEDG1";
/// Longest single request, in bytes.
const REQUEST_BYTES: u64 = 1 << 20;

/// A disk, as the storage needs one. Offsets and lengths are whole blocks.
pub(super) trait Disk: Send + 'static {
    fn size_bytes(&self) -> u64;
    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> io::Result<()>;
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
}

fn io_error(error: ClientError) -> io::Error {
    io::Error::other(error)
}

impl Disk for NbdClient {
    fn size_bytes(&self) -> u64 {
        Self::size_bytes(self)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        Self::read(self, offset, out).map_err(io_error)
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        Self::write(self, offset, data, fua).map_err(io_error)
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let bytes = REQUEST_BYTES.min(end - at);
            match self.can_zero() {
                true => self.write_zeroes(at, bytes as u32, ZeroFlags::default()).map_err(io_error)?,
                false => Self::write(self, at, &vec![0; bytes as usize], false).map_err(io_error)?,
            }
            at += bytes;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::flush(self).map_err(io_error)
    }
}

/// A file of the database's on a disk.
pub(super) struct Storage<D>(Mutex<State<D>>);

struct State<D> {
    disk: D,
    len: u64,
}

impl<D> fmt::Debug for Storage<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("len", &self.0.lock().len).finish()
    }
}

impl<D: Disk> Storage<D> {
    /// Opens the file on a disk; on a blank disk it is empty.
    pub(super) fn open(mut disk: D) -> io::Result<Self> {
        let mut block = vec![0; BLOCK_BYTES];
        let at = length_at(&disk)?;
        disk.read(at, &mut block)?;
        let len = match decode_length(&block) {
            Some(len) if len <= at => len,
            None if block.iter().all(|byte| *byte == 0) => 0,
            _ => return Err(invalid("the disk's last block holds no length of a database: it is not one of ours")),
        };
        Ok(Self(Mutex::new(State { disk, len })))
    }

    /// Whether nothing was ever stored.
    pub(super) fn is_blank(&self) -> bool {
        self.0.lock().len == 0
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn length_at<D: Disk>(disk: &D) -> io::Result<u64> {
    let whole = disk.size_bytes() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    whole.checked_sub(BLOCK_BYTES as u64).ok_or_else(|| invalid("the disk is smaller than one block"))
}

fn encode_length(len: u64) -> Vec<u8> {
    let mut block = [&MAGIC[..], &len.to_le_bytes()].concat();
    block.extend(crc32fast::hash(&block).to_le_bytes());
    block.resize(BLOCK_BYTES, 0);
    block
}

fn decode_length(block: &[u8]) -> Option<u64> {
    let len = u64::from_le_bytes(block.get(8..16)?.try_into().ok()?);
    (block == encode_length(len)).then_some(len)
}

impl<D: Disk> State<D> {
    fn inside(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes at {offset} lie beyond {}", self.len)))
    }

    /// The whole blocks around a range: where they begin, what they hold, and where the range lies in them.
    fn around(&mut self, offset: u64, len: usize) -> io::Result<(u64, Vec<u8>, usize)> {
        let skip = (offset % BLOCK_BYTES as u64) as usize;
        let mut blocks = vec![0; (skip + len).next_multiple_of(BLOCK_BYTES)];
        let begin = offset - skip as u64;
        self.disk.read(begin, &mut blocks)?;
        Ok((begin, blocks, skip))
    }
}

fn is_whole(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(BLOCK_BYTES as u64) && len.is_multiple_of(BLOCK_BYTES)
}

impl<D: Disk> StorageBackend for Storage<D> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.inside(offset, out.len())?;
        if is_whole(offset, out.len()) {
            return state.disk.read(offset, out);
        }
        let (_, blocks, skip) = state.around(offset, out.len())?;
        out.copy_from_slice(&blocks[skip..skip + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut guard = self.0.lock();
        let state = guard.deref_mut();
        let at = length_at(&state.disk)?;
        if len > at {
            let text = format!("the database wants {len} bytes, its disk has room for {at}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        if len > state.len {
            // What lies there may be left from before the file was shortened.
            let begin = state.len.next_multiple_of(BLOCK_BYTES as u64);
            let inside = (begin.min(len) - state.len) as usize;
            if inside > 0 {
                let (at, mut blocks, skip) = state.around(state.len, inside)?;
                blocks[skip..].fill(0);
                state.disk.write(at, &blocks, false)?;
            }
            let end = len.next_multiple_of(BLOCK_BYTES as u64);
            state.disk.zero(begin, end.saturating_sub(begin))?;
        }
        state.disk.write(at, &encode_length(len), true)?;
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.lock().disk.flush()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.inside(offset, data.len())?;
        if is_whole(offset, data.len()) {
            return state.disk.write(offset, data, false);
        }
        let (begin, mut blocks, skip) = state.around(offset, data.len())?;
        blocks[skip..skip + data.len()].copy_from_slice(data);
        state.disk.write(begin, &blocks, false)
    }
}
