//! A volume as an NBD export: read-only, or with an overlay that takes what is written to it.
//!
//! NBD's threads block; the volume's fetches run on the runtime that is passed in. Holes and zeroes are told by block
//! status, so that copying tools skip them without reading. A read that fails is an I/O error at the client and a
//! line in the log that says which object is to blame.

use std::ops::Range;

use bytes::Bytes;
use slog::{Logger, error};
use tokio::runtime::Handle;

use super::error::ReadError;
use super::overlay::{Overlay, Place};
use super::volume::Volume;
use crate::nbd::export::{Export, ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};

/// How much of one piece of advice is followed, in bytes. Chosen: a quarter of a served point's frame cache; more would push
/// out what it has just brought.
const CACHE_BYTES_MAX: u32 = 8 << 20;
/// How much of it is fetched at a time, in bytes.
const CACHE_STEP_BYTES: u32 = 1 << 20;

/// A volume, served. Its calls must not come from a thread of the runtime that it was given.
pub struct VolumeExport {
    volume: Volume,
    overlay: Option<Overlay>,
    info: ExportInfo,
    runtime: Handle,
    logger: Logger,
}

impl std::fmt::Debug for VolumeExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeExport").field("info", &self.info).finish_non_exhaustive()
    }
}

impl VolumeExport {
    /// Serves `volume` as `name`; writable only with an overlay, which must have the volume's size.
    pub fn new(
        volume: Volume,
        name: impl Into<String>,
        overlay: Option<Overlay>,
        runtime: Handle,
        logger: &Logger,
    ) -> Self {
        let (size, sector) = (volume.info().size_bytes, volume.info().sector_bytes);
        let info = match overlay {
            Some(_) => ExportInfo::full(name, size, sector),
            None => ExportInfo::read_only(name, size, sector),
        };
        let info = ExportInfo { description: format!("{} at LSN {}", volume.info().name, volume.lsn()), ..info };
        let logger = logger.new(slog::o!("export" => info.name.clone()));
        Self { volume, overlay, info, runtime, logger }
    }

    /// The volume that is served.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    fn failed(&self, range: Range<u64>, cause: &ReadError) -> NbdError {
        error!(self.logger, "a read of a served point failed: the client gets an I/O error";
            "offset" => range.start, "end" => range.end, "cause" => %cause);
        NbdError::Io(cause.to_string())
    }

    fn base(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError> {
        let range = offset..offset + out.len() as u64;
        self.runtime.block_on(self.volume.read(offset, out)).map_err(|cause| self.failed(range, &cause))
    }

    fn base_now(&self, offset: u64, out: &mut [u8]) -> bool {
        // Reading ahead spawns on the runtime.
        let _runtime = self.runtime.enter();
        self.volume.read_now(offset, out)
    }

    /// The overlay; the server lets no change through to a read-only export, so this refuses only a caller's mistake.
    fn writable(&self) -> Result<&Overlay, NbdError> {
        self.overlay.as_ref().ok_or_else(|| NbdError::NotPermitted("this point is served read-only".into()))
    }

    /// Adds the volume's own allocation of a range, until there are more than `max` extents.
    fn push_base(&self, range: Range<u64>, max: usize, found: &mut Vec<StatusExtent>) -> Result<(), NbdError> {
        let mut at = range.start;
        while at < range.end && found.len() <= max {
            let map = self.volume.map_now(at).map_or_else(|| self.runtime.block_on(self.volume.map_again(at)), Ok);
            let map = map.map_err(|cause| self.failed(range.clone(), &cause))?;
            let end = range.end.min(map.window().end);
            for run in map.runs(at..end) {
                push(found, run.len, run.is_zero());
                if found.len() > max {
                    return Ok(());
                }
            }
            at = end;
        }
        Ok(())
    }
}

/// Adds an extent; what has its neighbour's status makes that one longer.
fn push(found: &mut Vec<StatusExtent>, len: u64, zero: bool) {
    match found.last_mut() {
        Some(last) if last.zero == zero => last.len += len,
        _ => found.push(StatusExtent { len, hole: zero, zero }),
    }
}

impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError> {
        let Some(overlay) = &self.overlay else { return self.base(offset, out) };
        for (range, place) in overlay.places(offset..offset + out.len() as u64) {
            let part = &mut out[(range.start - offset) as usize..(range.end - offset) as usize];
            match place {
                Place::Base => self.base(range.start, part)?,
                Place::Data => overlay.read(range.start, part)?,
                Place::Zero => part.fill(0),
            }
        }
        Ok(())
    }

    fn read_now(&self, offset: u64, out: &mut [u8]) -> bool {
        match &self.overlay {
            None => self.base_now(offset, out),
            // What was just written is mostly in the page cache, but nobody promises that: only pure base reads here.
            Some(overlay) => match overlay.places(offset..offset + out.len() as u64).as_slice() {
                [(_, Place::Base)] => self.base_now(offset, out),
                _ => false,
            },
        }
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), NbdError> {
        self.writable()?.write(offset, &data, |at, out: &mut [u8]| self.base(at, out))
    }

    /// Nothing of an overlay survives the server: there is nothing to make stable.
    fn flush(&self) -> Result<(), NbdError> {
        Ok(())
    }

    fn trim(&self, offset: u64, len: u32, _fua: bool) -> Result<(), NbdError> {
        self.writable()?.zero(offset..offset + u64::from(len), |at, out: &mut [u8]| self.base(at, out))
    }

    fn write_zeroes(&self, offset: u64, len: u32, _flags: ZeroFlags) -> Result<(), NbdError> {
        self.writable()?.zero(offset..offset + u64::from(len), |at, out: &mut [u8]| self.base(at, out))
    }

    /// Fetches what is not in memory yet. What the overlay holds is at hand anyway.
    fn cache(&self, offset: u64, len: u32) -> Result<(), NbdError> {
        let mut step = vec![0; CACHE_STEP_BYTES.min(len) as usize];
        let end = offset + u64::from(len.min(CACHE_BYTES_MAX));
        let mut at = offset;
        while at < end {
            let part = (end - at).min(step.len() as u64) as usize;
            self.base(at, &mut step[..part])?;
            at += part as u64;
        }
        Ok(())
    }

    fn block_status(&self, offset: u64, len: u32, max_extents: usize) -> Result<Vec<StatusExtent>, NbdError> {
        let range = offset..offset + u64::from(len);
        let mut found: Vec<StatusExtent> = Vec::new();
        let places = match &self.overlay {
            Some(overlay) => overlay.places(range),
            None => vec![(range, Place::Base)],
        };
        for (range, place) in places {
            // One more than fits: only then is the last one known to be as long as it is.
            if found.len() > max_extents {
                break;
            }
            match place {
                Place::Base => self.push_base(range, max_extents, &mut found)?,
                Place::Data => push(&mut found, range.end - range.start, false),
                Place::Zero => push(&mut found, range.end - range.start, true),
            }
        }
        found.truncate(max_extents);
        Ok(found)
    }

    fn is_quick(&self, op: &Op) -> bool {
        match op {
            Op::Read { .. } | Op::Cache { .. } => false,
            Op::Write { .. } | Op::Trim { .. } | Op::WriteZeroes { .. } => false,
            Op::Flush => true,
            Op::BlockStatus { offset, len } => self.volume.has_maps(*offset..*offset + u64::from(*len)),
        }
    }
}
