//! How a log's state is laid out, inside the top of every footer:
//!
//! ```text
//!   last_lsn u64 | flags u8 (1 incarnation, 2 clean stop, 4 newest mark)
//!   [incarnation 16] | [mark id 16 | lsn u64 | captured_at i64]
//!   disks u32 | (disk u16 | size u64 | sector u32 | name | flags u8 (1 gap, 2 activity log invalid)
//!                [from u64 | reason u8])*
//!   removed u32 | (disk u16)*
//! ```
//!
//! Disks and removed disks stand in order of their numbers: one state has one encoding.

use std::collections::{BTreeMap, BTreeSet};

use super::{DiskState, Gap, LogState, NewestMark};
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, IncarnationId, Lsn, MarkId, Timestamp};
use crate::record::{DISKS_MAX, DiskInfo, GapReason};

/// Fewest bytes of one disk in a state: an empty name, no gap.
const DISK_BYTES_MIN: usize = 2 + 8 + 4 + 2 + 1;

mod flag {
    pub(super) const INCARNATION: u8 = 1;
    pub(super) const CLEAN_STOP: u8 = 2;
    pub(super) const NEWEST_MARK: u8 = 4;
    pub(super) const GAP: u8 = 1;
    pub(super) const ACTIVITY_LOG_INVALID: u8 = 2;
}

impl LogState {
    /// Appends the state.
    pub fn put(&self, out: &mut Put) {
        let mut flags = 0;
        flags |= if self.incarnation.is_some() { flag::INCARNATION } else { 0 };
        flags |= if self.clean_stop { flag::CLEAN_STOP } else { 0 };
        flags |= if self.newest_mark.is_some() { flag::NEWEST_MARK } else { 0 };
        out.u64(self.last_lsn.0).u8(flags);
        if let Some(incarnation) = &self.incarnation {
            out.slice(&incarnation.0);
        }
        if let Some(mark) = &self.newest_mark {
            out.slice(&mark.id.0).u64(mark.lsn.0).i64(mark.captured_at.0);
        }
        out.count(self.disks.len());
        self.disks.values().for_each(|disk| disk.put(out));
        out.count(self.removed.len());
        self.removed.iter().for_each(|disk| {
            out.u16(disk.0);
        });
    }

    /// Reads what [`LogState::put`] wrote.
    pub fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let last_lsn = Lsn(input.u64("last LSN")?);
        if last_lsn == Lsn(u64::MAX) {
            return Err(Malformed::Value { what: "last LSN", value: last_lsn.0 });
        }
        let flags = input.u8("state flags")?;
        if flags & !(flag::INCARNATION | flag::CLEAN_STOP | flag::NEWEST_MARK) != 0 {
            return Err(Malformed::Value { what: "state flags", value: flags.into() });
        }
        let incarnation = match flags & flag::INCARNATION {
            0 => None,
            _ => Some(IncarnationId(input.array("incarnation")?)),
        };
        let newest_mark = match flags & flag::NEWEST_MARK {
            0 => None,
            _ => Some(NewestMark {
                id: MarkId(input.array("newest mark")?),
                lsn: Lsn(input.u64("newest mark")?),
                captured_at: Timestamp(input.i64("newest mark")?),
            }),
        };
        let mut state = Self {
            last_lsn,
            incarnation,
            clean_stop: flags & flag::CLEAN_STOP != 0,
            disks: BTreeMap::new(),
            removed: BTreeSet::new(),
            newest_mark,
        };
        for _ in 0..input.count(DISK_BYTES_MIN, "disks")? {
            let disk = DiskState::take(input)?;
            let number = disk.info.disk;
            let in_order = state.disks.last_key_value().is_none_or(|(last, _)| *last < number);
            if !in_order || state.disks.len() >= DISKS_MAX {
                return Err(Malformed::Value { what: "disk number", value: number.0.into() });
            }
            state.disks.insert(number, disk);
        }
        for _ in 0..input.count(2, "removed disks")? {
            let number = DiskNo(input.u16("removed disk")?);
            let in_order = state.removed.last().is_none_or(|last| *last < number);
            if !in_order || state.disks.contains_key(&number) {
                return Err(Malformed::Value { what: "removed disk", value: number.0.into() });
            }
            state.removed.insert(number);
        }
        Ok(state)
    }
}

impl DiskState {
    fn put(&self, out: &mut Put) {
        self.info.put(out);
        let gap = if self.gap.is_some() { flag::GAP } else { 0 };
        let invalid = if self.activity_log_invalid { flag::ACTIVITY_LOG_INVALID } else { 0 };
        out.u8(gap | invalid);
        if let Some(gap) = &self.gap {
            out.u64(gap.from.0).u8(gap.reason.code());
        }
    }

    fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let info = DiskInfo::take(input)?;
        let flags = input.u8("disk flags")?;
        if flags & !(flag::GAP | flag::ACTIVITY_LOG_INVALID) != 0 {
            return Err(Malformed::Value { what: "disk flags", value: flags.into() });
        }
        let gap = match flags & flag::GAP {
            0 => None,
            _ => {
                Some(Gap { from: Lsn(input.u64("gap start")?), reason: GapReason::from_code(input.u8("gap reason")?)? })
            }
        };
        Ok(Self { info, gap, activity_log_invalid: flags & flag::ACTIVITY_LOG_INVALID != 0 })
    }
}
