//! What a log says at its end, as far as an agent and the checks of its session need it. Travels in `Welcome`.
//!
//! ```text
//!   last LSN u64 | flags u8 (1: an incarnation follows, 2: ends in a clean stop) | incarnation 16?
//!   | disks u32, each as in record.rs | gaps u32, each: disk u16 | from u64 | reason u8
//! ```

use crate::batch::Batch;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, IncarnationId, Lsn};
use crate::record::{DISKS_MAX, DiskInfo, GapReason, Record};

const HAS_INCARNATION: u8 = 1;
const CLEAN_STOP: u8 = 2;
const DISK_BYTES_MIN: usize = 16;
const GAP_BYTES: usize = 11;

/// A gap that no record has closed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenGap {
    /// The disk.
    pub disk: DiskNo,
    /// First LSN that is not in its place.
    pub from: Lsn,
    /// Why.
    pub reason: GapReason,
}

/// A log's state at its last LSN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogView {
    /// The last LSN in the log; 0 for an empty one.
    pub last: Lsn,
    /// The agent's life that wrote last.
    pub incarnation: Option<IncarnationId>,
    /// Whether the log ends in a clean-stop record at exactly `last`.
    pub clean_stop: bool,
    /// The machine's disks, in order of their numbers.
    pub disks: Vec<DiskInfo>,
    /// Gaps that are open, in the order in which they were opened.
    pub open_gaps: Vec<OpenGap>,
}

impl LogView {
    /// A disk by its number.
    pub fn disk(&self, disk: DiskNo) -> Option<&DiskInfo> {
        self.disks.iter().find(|info| info.disk == disk)
    }

    /// The state after `batch`.
    pub fn apply(&mut self, batch: &Batch) {
        self.last = batch.last;
        self.clean_stop = false;
        for at in &batch.records {
            self.apply_record(at.lsn, &at.record, batch.last);
        }
    }

    fn apply_record(&mut self, lsn: Lsn, record: &Record, last: Lsn) {
        match record {
            Record::Incarnation { id, .. } => self.incarnation = Some(*id),
            Record::GapOpened { disk, from, reason } => {
                if !self.open_gaps.iter().any(|gap| gap.disk == *disk) {
                    self.open_gaps.push(OpenGap { disk: *disk, from: *from, reason: *reason });
                }
            }
            Record::GapClosed { disk } => self.open_gaps.retain(|gap| gap.disk != *disk),
            Record::DiskAdded(info) => {
                self.disks.retain(|known| known.disk != info.disk);
                let place = self.disks.partition_point(|known| known.disk < info.disk);
                self.disks.insert(place, info.clone());
            }
            Record::DiskResized { disk, size_bytes } => {
                if let Some(info) = self.disks.iter_mut().find(|info| info.disk == *disk) {
                    info.size_bytes = *size_bytes;
                }
            }
            Record::DiskRemoved { disk } => {
                self.disks.retain(|info| info.disk != *disk);
                self.open_gaps.retain(|gap| gap.disk != *disk);
            }
            Record::CleanStop { .. } => self.clean_stop = lsn == last,
            Record::Mark(_) | Record::ActivityLogInvalid { .. } => {}
        }
    }

    /// Appends the view.
    pub fn put(&self, out: &mut Put) {
        let flags = if self.incarnation.is_some() { HAS_INCARNATION } else { 0 };
        out.u64(self.last.0).u8(flags | if self.clean_stop { CLEAN_STOP } else { 0 });
        if let Some(id) = &self.incarnation {
            out.slice(&id.0);
        }
        out.count(self.disks.len());
        self.disks.iter().for_each(|disk| disk.put(out));
        out.count(self.open_gaps.len());
        for gap in &self.open_gaps {
            out.u16(gap.disk.0).u64(gap.from.0).u8(gap.reason.code());
        }
    }

    /// Reads what [`LogView::put`] wrote.
    pub fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let last = Lsn(input.u64("last LSN of the log")?);
        let flags = input.u8("log flags")?;
        if flags & !(HAS_INCARNATION | CLEAN_STOP) != 0 {
            return Err(Malformed::Value { what: "log flags", value: flags.into() });
        }
        let incarnation =
            if flags & HAS_INCARNATION != 0 { Some(IncarnationId(input.array("incarnation")?)) } else { None };
        let disks = take_disks(input)?;
        let count = input.count(GAP_BYTES, "open gaps")?;
        let open_gaps = (0..count)
            .map(|_| {
                Ok(OpenGap {
                    disk: DiskNo(input.u16("disk number")?),
                    from: Lsn(input.u64("gap start")?),
                    reason: GapReason::from_code(input.u8("gap reason")?)?,
                })
            })
            .collect::<Result<_, Malformed>>()?;
        Ok(Self { last, incarnation, clean_stop: flags & CLEAN_STOP != 0, disks, open_gaps })
    }
}

/// Reads a counted list of disks.
pub(super) fn take_disks(input: &mut Take<'_>) -> Result<Vec<DiskInfo>, Malformed> {
    let count = input.count(DISK_BYTES_MIN, "disks")?;
    if count > DISKS_MAX {
        return Err(Malformed::Value { what: "disks", value: count as u64 });
    }
    (0..count).map(|_| DiskInfo::take(input)).collect()
}
