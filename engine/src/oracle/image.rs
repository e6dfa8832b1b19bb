//! What the checker looks at: a disk's content at one point, from a file, a device or an NBD export.

use std::io;
use std::path::Path;

use crate::nbd::{BackingDisk, BackingOptions, ClientOptions, NbdClient, NbdUri};

/// A disk's content.
pub trait Image {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `out` from `offset` on.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// How many bytes from `offset` on surely read as zeroes; 0 where that is not known. Only saves time.
    fn zeroes_at(&mut self, _offset: u64, _len: u64) -> u64 {
        0
    }
}

impl Image for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start.checked_add(out.len()).and_then(|end| self.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A raw image file or a block device.
#[derive(Debug)]
pub struct DiskImage(BackingDisk);

impl DiskImage {
    /// Opens it for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        let options = BackingOptions { read_only: true, sector_bytes: Some(512) };
        BackingDisk::open(path, options).map(Self).map_err(io::Error::other)
    }
}

impl Image for DiskImage {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn zeroes_at(&mut self, offset: u64, len: u64) -> u64 {
        // Where the allocation cannot be told, the bytes are read: slower, not wrong.
        let extents = self.0.extents(offset, len, 1).unwrap_or_default();
        extents.first().filter(|extent| extent.zero).map_or(0, |extent| extent.len)
    }
}

/// An NBD export.
#[derive(Debug)]
pub struct NbdImage(NbdClient);

impl NbdImage {
    /// Connects to it.
    pub fn connect(uri: &NbdUri) -> io::Result<Self> {
        NbdClient::connect(uri, ClientOptions::default()).map(Self).map_err(io::Error::other)
    }
}

impl Image for NbdImage {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out).map_err(io::Error::other)
    }

    fn zeroes_at(&mut self, offset: u64, len: u64) -> u64 {
        const ASKED_BYTES_MAX: u64 = 1 << 30;
        if !self.0.can_status() {
            return 0;
        }
        // An error here comes again, with its reason, when the bytes are read.
        let extents = self.0.block_status(offset, len.min(ASKED_BYTES_MAX) as u32).unwrap_or_default();
        extents.iter().take_while(|extent| extent.zero).map(|extent| extent.len).sum()
    }
}
