//! A batch: what one protocol message carries, and the unit of durability. A run of LSNs over all disks of a
//! machine, as one section per disk and the records among them.

use bytes::Bytes;

use crate::ids::{DiskNo, Lsn};
use crate::record::RecordAt;

/// Payload at which an agent closes a batch, in bytes. Chosen: one frame is at most this long, and reading one
/// block opens one frame; half of it costs 2 % of compression (snap at 256 KiB), double of it doubles the read.
pub const BATCH_PAYLOAD_BYTES_TARGET: usize = 512 << 10;

/// A run of the log. LSNs within the run that no entry carries were dropped (a gap says so).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// First LSN of the run.
    pub first: Lsn,
    /// Last LSN of the run; at least `first`.
    pub last: Lsn,
    /// At most one section per disk, in order of disk numbers; none is empty. Layout: [`crate::section`].
    pub sections: Vec<(DiskNo, Bytes)>,
    /// Records of the run, in order of LSN.
    pub records: Vec<RecordAt>,
}

impl Batch {
    /// What it holds in memory, in bytes, give or take its own fields.
    pub fn weight_bytes(&self) -> usize {
        let sections: usize = self.sections.iter().map(|(_, section)| section.len()).sum();
        sections + self.records.len() * 64 + 64
    }
}
