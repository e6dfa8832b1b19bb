//! A backing disk served as it is, without capture.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::backing::BackingDisk;
use super::export::{Export, ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};

/// Largest read or write that is done on a connection's own thread, in bytes. Chosen: a copy of 256 KiB into the page cache
/// takes about 50 µs, what a hand-over to a worker costs under load; doubled, small requests behind it wait longer.
const QUICK_BYTES_MAX: u32 = 256 << 10;
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

    fn cache(&self, offset: u64, len: u32) -> Result<(), NbdError> {
        self.disk.will_need(offset, len.into());
        Ok(())
    }

    fn block_status(&self, offset: u64, len: u32, max_extents: usize) -> Result<Vec<StatusExtent>, NbdError> {
        Ok(self.disk.extents(offset, len.into(), max_extents)?)
    }

    fn is_quick(&self, op: &Op) -> bool {
        matches!(op, Op::Write { len, fua: false, .. } if *len <= QUICK_BYTES_MAX)
    }
}
