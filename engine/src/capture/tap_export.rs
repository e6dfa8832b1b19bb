//! A captured disk as an NBD export: every change goes through the tap, everything else straight to the disk beneath.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::content::Body;
use super::tap::Tap;
use crate::nbd::{Export, ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};
use crate::section::WRITE_BYTES_MAX;

/// Largest write that is done on a connection's own thread, in bytes: as for a disk that is not captured.
const QUICK_BYTES_MAX: u32 = 256 << 10;
/// Longest trim or zeroing that is one LSN, in bytes. Chosen: it holds its range for one call of the filesystem.
const FILL_BYTES_MAX: u32 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub struct TapExport {
    tap: Arc<Tap>,
    disk: usize,
    info: ExportInfo,
}

impl TapExport {
    /// The export of one of the tap's disks.
    pub fn new(tap: Arc<Tap>, disk: usize) -> Self {
        let entry = &tap.disks()[disk];
        let backing = &entry.backing;
        let info = ExportInfo::full(entry.name.clone(), backing.size_bytes(), backing.sector_bytes());
        Self { info, disk, tap }
    }

    fn settle(&self, fua: bool) -> Result<(), NbdError> {
        if fua { self.flush() } else { Ok(()) }
    }

    fn fill(
        &self,
        offset: u64,
        len: u32,
        change: impl Fn(&crate::nbd::backing::BackingDisk, u64, u64) -> io::Result<Option<Body>>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let part = (len - done).min(FILL_BYTES_MAX);
            let at = offset + u64::from(done);
            self.tap.fill(self.disk, at, part, |backing| change(backing, at, part.into()))?;
            done += part;
        }
        Ok(())
    }
}

impl Export for TapExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError> {
        Ok(self.tap.disks()[self.disk].backing.read(offset, out)?)
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> bool {
        self.tap.disks()[self.disk].backing.read_now(offset, out)
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), NbdError> {
        if data.len() <= WRITE_BYTES_MAX {
            return Ok(self.tap.write(self.disk, offset, &data, fua)?);
        }
        for from in (0..data.len()).step_by(WRITE_BYTES_MAX) {
            let part = data.slice(from..data.len().min(from + WRITE_BYTES_MAX));
            self.tap.write(self.disk, offset + from as u64, &part, fua)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), NbdError> {
        Ok(self.tap.sync(self.disk)?)
    }

    fn trim(&self, offset: u64, len: u32, fua: bool) -> Result<(), NbdError> {
        self.fill(offset, len, |backing, at, len| {
            Ok(Some(if backing.trim(at, len)? { Body::Zero } else { Body::Undefined }))
        })?;
        self.settle(fua)
    }

    fn write_zeroes(&self, offset: u64, len: u32, flags: ZeroFlags) -> Result<(), NbdError> {
        let zero = |backing: &crate::nbd::backing::BackingDisk, at, len| {
            backing.zero(at, len, flags.no_hole, flags.fast)?;
            Ok(Some(Body::Zero))
        };
        self.fill(offset, len, zero).map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => NbdError::NotSupported(error.to_string()),
            _ => error.into(),
        })?;
        self.settle(flags.fua)
    }

    fn cache(&self, offset: u64, len: u32) -> Result<(), NbdError> {
        self.tap.disks()[self.disk].backing.will_need(offset, len.into());
        Ok(())
    }

    fn block_status(&self, offset: u64, len: u32, max_extents: usize) -> Result<Vec<StatusExtent>, NbdError> {
        Ok(self.tap.disks()[self.disk].backing.extents(offset, len.into(), max_extents)?)
    }

    fn is_quick(&self, op: &Op) -> bool {
        match op {
            Op::Write { offset, len, fua: false } if *len <= QUICK_BYTES_MAX => {
                self.tap.splitter().is_quick(self.disk, *offset, (*len).into())
            }
            _ => false,
        }
    }
}
