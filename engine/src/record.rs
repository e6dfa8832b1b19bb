//! What a log holds beside writes. Each record takes an LSN of its own, so that one order covers everything:
//! a mark at LSN m shows exactly the writes with LSN < m (I2).
//!
//! ```text
//!   record := lsn u64 | kind u8 | body
//! ```

use serde::{Deserialize, Serialize};

use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, IncarnationId, Lsn, MachineId, MarkId, Timestamp};

/// Longest name of a disk or label of a mark, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Most disks of a machine. Chosen: fits a record into one cache line of numbers per disk; four times what Site Recovery takes.
pub const DISKS_MAX: usize = 256;
/// Most machines in one group mark.
pub const GROUP_MEMBERS_MAX: usize = 256;

/// What a mark promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// A state the disks could have been in after a crash.
    Crash,
    /// Taken between the machine's pre and post hooks.
    App,
    /// Taken while every member of a group held its completions.
    Group,
}

/// A named position: everything with a smaller LSN is in it, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its name; the same in every member's log for a group mark.
    pub id: MarkId,
    /// What it promises.
    pub kind: MarkKind,
    /// When it was taken, by the agent's clock.
    pub captured_at: Timestamp,
    /// Members of the group; empty but for group marks.
    pub members: Vec<MachineId>,
    /// What the operator calls it; may be empty.
    pub label: String,
}

/// Why order was lost on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The disk's first contents are still being sent.
    InitialReplication,
    /// The agent did not stop cleanly: what it held in memory is gone.
    UncleanStop,
    /// More was written than could be kept (ladder rung 4).
    Overload,
    /// What the log had is lost: dropped with a process server, or damaged, so that an operator had the disk read again.
    DroppedPayload,
    /// The activity log could not be trusted: the whole disk is compared.
    ActivityLogLost,
    /// A write to the backing disk failed or was short.
    WriteFailed,
}

/// A disk as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its number within the machine.
    pub disk: DiskNo,
    /// Its name, the operator's.
    pub name: String,
    /// Size in bytes; a multiple of the sector size.
    pub size_bytes: u64,
    /// Logical sector size in bytes: 512 or 4096.
    pub sector_bytes: u32,
}

/// An entry of the log that is no write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// The first entry of an agent's life.
    Incarnation {
        /// This life.
        id: IncarnationId,
        /// The last life that the log had accepted before.
        predecessor: Option<IncarnationId>,
    },
    /// A named position.
    Mark(Mark),
    /// From LSN `from` on this disk's writes are out of order or missing: no point of it there.
    GapOpened {
        /// The disk.
        disk: DiskNo,
        /// The first LSN that is not in its place; at most this record's own.
        from: Lsn,
        /// Why.
        reason: GapReason,
    },
    /// At this LSN the replica of the disk equals the disk again.
    GapClosed {
        /// The disk.
        disk: DiskNo,
    },
    /// A disk joins the machine; it has a gap until its first contents are through.
    DiskAdded(DiskInfo),
    /// A disk has another size from here on.
    DiskResized {
        /// The disk.
        disk: DiskNo,
        /// Its new size in bytes.
        size_bytes: u64,
    },
    /// A disk leaves the machine.
    DiskRemoved {
        /// The disk.
        disk: DiskNo,
    },
    /// The agent stopped with nothing left to send: a new life that follows this LSN directly opens no gap.
    CleanStop {
        /// When.
        captured_at: Timestamp,
    },
    /// The activity log could not be written: until the next full compare nothing in it counts.
    ActivityLogInvalid {
        /// The disk.
        disk: DiskNo,
    },
}

/// A record with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAt {
    /// Its own LSN.
    pub lsn: Lsn,
    /// What it says.
    pub record: Record,
}

/// Shortest encoding of a record with its LSN, in bytes.
pub const RECORD_BYTES_MIN: usize = 11;

mod tag {
    pub(super) const INCARNATION: u8 = 1;
    pub(super) const MARK: u8 = 2;
    pub(super) const GAP_OPENED: u8 = 3;
    pub(super) const GAP_CLOSED: u8 = 4;
    pub(super) const DISK_ADDED: u8 = 5;
    pub(super) const DISK_RESIZED: u8 = 6;
    pub(super) const DISK_REMOVED: u8 = 7;
    pub(super) const CLEAN_STOP: u8 = 8;
    pub(super) const ACTIVITY_LOG_INVALID: u8 = 9;
}

impl MarkKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Crash => 1,
            Self::App => 2,
            Self::Group => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Crash),
            2 => Ok(Self::App),
            3 => Ok(Self::Group),
            _ => Err(Malformed::Value { what: "mark kind", value: code.into() }),
        }
    }
}

impl GapReason {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::InitialReplication => 1,
            Self::UncleanStop => 2,
            Self::Overload => 3,
            Self::DroppedPayload => 4,
            Self::ActivityLogLost => 5,
            Self::WriteFailed => 6,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::InitialReplication),
            2 => Ok(Self::UncleanStop),
            3 => Ok(Self::Overload),
            4 => Ok(Self::DroppedPayload),
            5 => Ok(Self::ActivityLogLost),
            6 => Ok(Self::WriteFailed),
            _ => Err(Malformed::Value { what: "gap reason", value: code.into() }),
        }
    }
}

impl DiskInfo {
    /// Appends: disk u16, size u64, sector u32, name.
    pub fn put(&self, out: &mut Put) {
        out.u16(self.disk.0).u64(self.size_bytes).u32(self.sector_bytes).text(&self.name);
    }

    /// Reads what [`DiskInfo::put`] wrote, refusing sizes and sectors that no disk has.
    pub fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let disk = DiskNo(input.u16("disk number")?);
        let size_bytes = input.u64("disk size")?;
        let sector_bytes = input.u32("sector size")?;
        let name = input.text(NAME_BYTES_MAX, "disk name")?;
        if !matches!(sector_bytes, 512 | 4096) {
            return Err(Malformed::Value { what: "sector size", value: sector_bytes.into() });
        }
        if size_bytes == 0 || !size_bytes.is_multiple_of(sector_bytes.into()) || size_bytes > i64::MAX as u64 {
            return Err(Malformed::Value { what: "disk size", value: size_bytes });
        }
        Ok(Self { disk, name, size_bytes, sector_bytes })
    }
}

impl RecordAt {
    /// Appends the record.
    pub fn put(&self, out: &mut Put) {
        out.u64(self.lsn.0);
        match &self.record {
            Record::Incarnation { id, predecessor } => {
                out.u8(tag::INCARNATION).slice(&id.0).u8(predecessor.is_some().into());
                if let Some(predecessor) = predecessor {
                    out.slice(&predecessor.0);
                }
            }
            Record::Mark(mark) => {
                out.u8(tag::MARK).slice(&mark.id.0).u8(mark.kind.code()).i64(mark.captured_at.0);
                out.count(mark.members.len());
                mark.members.iter().for_each(|member| {
                    out.slice(&member.0);
                });
                out.text(&mark.label);
            }
            Record::GapOpened { disk, from, reason } => {
                out.u8(tag::GAP_OPENED).u16(disk.0).u64(from.0).u8(reason.code());
            }
            Record::GapClosed { disk } => {
                out.u8(tag::GAP_CLOSED).u16(disk.0);
            }
            Record::DiskAdded(info) => {
                out.u8(tag::DISK_ADDED);
                info.put(out);
            }
            Record::DiskResized { disk, size_bytes } => {
                out.u8(tag::DISK_RESIZED).u16(disk.0).u64(*size_bytes);
            }
            Record::DiskRemoved { disk } => {
                out.u8(tag::DISK_REMOVED).u16(disk.0);
            }
            Record::CleanStop { captured_at } => {
                out.u8(tag::CLEAN_STOP).i64(captured_at.0);
            }
            Record::ActivityLogInvalid { disk } => {
                out.u8(tag::ACTIVITY_LOG_INVALID).u16(disk.0);
            }
        }
    }

    /// Reads one record.
    pub fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let lsn = Lsn(input.u64("record LSN")?);
        let disk = |input: &mut Take<'_>| input.u16("disk number").map(DiskNo);
        let record = match input.u8("record kind")? {
            tag::INCARNATION => {
                let id = IncarnationId(input.array("incarnation")?);
                let predecessor = match input.u8("predecessor flag")? {
                    0 => None,
                    1 => Some(IncarnationId(input.array("predecessor")?)),
                    other => return Err(Malformed::Value { what: "predecessor flag", value: other.into() }),
                };
                Record::Incarnation { id, predecessor }
            }
            tag::MARK => {
                let id = MarkId(input.array("mark id")?);
                let kind = MarkKind::from_code(input.u8("mark kind")?)?;
                let captured_at = Timestamp(input.i64("mark time")?);
                let count = input.count(MachineId::BYTES, "group members")?;
                if count > GROUP_MEMBERS_MAX {
                    return Err(Malformed::Value { what: "group members", value: count as u64 });
                }
                let members =
                    (0..count).map(|_| input.array("group member").map(MachineId)).collect::<Result<_, _>>()?;
                let label = input.text(NAME_BYTES_MAX, "mark label")?;
                Record::Mark(Mark { id, kind, captured_at, members, label })
            }
            tag::GAP_OPENED => Record::GapOpened {
                disk: disk(input)?,
                from: Lsn(input.u64("gap start")?),
                reason: GapReason::from_code(input.u8("gap reason")?)?,
            },
            tag::GAP_CLOSED => Record::GapClosed { disk: disk(input)? },
            tag::DISK_ADDED => Record::DiskAdded(DiskInfo::take(input)?),
            tag::DISK_RESIZED => Record::DiskResized { disk: disk(input)?, size_bytes: input.u64("disk size")? },
            tag::DISK_REMOVED => Record::DiskRemoved { disk: disk(input)? },
            tag::CLEAN_STOP => Record::CleanStop { captured_at: Timestamp(input.i64("stop time")?) },
            tag::ACTIVITY_LOG_INVALID => Record::ActivityLogInvalid { disk: disk(input)? },
            other => return Err(Malformed::Value { what: "record kind", value: other.into() }),
        };
        if let Record::GapOpened { from, .. } = record
            && from > lsn
        {
            return Err(Malformed::Value { what: "gap start", value: from.0 });
        }
        Ok(Self { lsn, record })
    }
}

/// Appends a count and the records.
pub fn put_records(records: &[RecordAt], out: &mut Put) {
    out.count(records.len());
    records.iter().for_each(|record| record.put(out));
}

/// Reads what [`put_records`] wrote.
pub fn take_records(input: &mut Take<'_>) -> Result<Vec<RecordAt>, Malformed> {
    let count = input.count(RECORD_BYTES_MIN, "records")?;
    (0..count).map(|_| RecordAt::take(input)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_reads_back_as_it_was_written() {
        let mark = Mark {
            id: MarkId([7; 16]),
            kind: MarkKind::Group,
            captured_at: Timestamp(-5),
            members: vec![MachineId([1; 16]), MachineId([2; 16])],
            label: "before the upgrade / ü".into(),
        };
        let info = DiskInfo { disk: DiskNo(3), name: "data disk".into(), size_bytes: 1 << 30, sector_bytes: 4096 };
        let all = [
            Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None },
            Record::Incarnation { id: IncarnationId([1; 16]), predecessor: Some(IncarnationId([2; 16])) },
            Record::Mark(mark),
            Record::GapOpened { disk: DiskNo(1), from: Lsn(4), reason: GapReason::Overload },
            Record::GapClosed { disk: DiskNo(1) },
            Record::DiskAdded(info),
            Record::DiskResized { disk: DiskNo(1), size_bytes: 4096 },
            Record::DiskRemoved { disk: DiskNo(1) },
            Record::CleanStop { captured_at: Timestamp(9) },
            Record::ActivityLogInvalid { disk: DiskNo(0) },
        ];
        let records: Vec<_> =
            all.into_iter().enumerate().map(|(n, record)| RecordAt { lsn: Lsn(10 + n as u64), record }).collect();
        let mut out = Put::default();
        put_records(&records, &mut out);
        let bytes = out.into_bytes();
        let mut input = Take::new(&bytes);
        assert_eq!(take_records(&mut input).as_ref(), Ok(&records));
        assert_eq!(input.end("records"), Ok(()));
        for cut in 0..bytes.len() {
            assert!(take_records(&mut Take::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }
}
