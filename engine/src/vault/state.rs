//! What a log says up to a position: the state that every footer carries, so that an owner learns the log by reading
//! its last object.
//!
//! Owns the order rules of a log. They hold wherever a log is written or read, because both go through here:
//!
//! - LSNs rise. Within one life of an agent runs follow each other without a hole; only the run that begins a new
//!   life (its first LSN is an incarnation record) may start higher, since each life reserves its own base.
//! - An incarnation follows the one the log has, and no other.
//! - Gaps fail safe: a life that begins without a clean stop directly before it opens a gap on every disk, whether
//!   the agent says so or not (I6). A disk that joins has a gap until its first contents are through.
//! - A disk's number is never given to another disk.
//!
//! ```text
//!              GapOpened, unclean incarnation                 per disk
//!    in order ───────────────────────────────► gap(from, reason)
//!       ▲                                          │  ▲
//!       └────────────────── GapClosed ─────────────┘  └── DiskAdded (InitialReplication)
//! ```
//!
//! A batch is taken whole or not at all: after an error nothing has changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::Batch;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, IncarnationId, Lsn, MarkId, Timestamp};
use crate::record::{DISKS_MAX, DiskInfo, GapReason, Record, RecordAt};

/// A stretch of a disk's log in which order was lost; it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first LSN that is not in its place.
    pub from: Lsn,
    /// Why.
    pub reason: GapReason,
}

/// A disk of the machine at this position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskState {
    /// Name, size, sector size.
    pub info: DiskInfo,
    /// The open gap, if any.
    pub gap: Option<Gap>,
    /// The agent could not write this disk's activity log: nothing in it counts until a full compare is through.
    pub activity_log_invalid: bool,
}

/// The newest mark at or before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestMark {
    /// Its name.
    pub id: MarkId,
    /// Its place.
    pub lsn: Lsn,
    /// When it was taken.
    pub captured_at: Timestamp,
}

/// What a log says up to `last_lsn`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last LSN of the log.
    pub last_lsn: Lsn,
    /// The life that writes it.
    pub incarnation: Option<IncarnationId>,
    /// The last entry is a clean stop.
    pub clean_stop: bool,
    /// The machine's disks.
    pub disks: BTreeMap<DiskNo, DiskState>,
    /// Numbers of disks that left; none of them comes back.
    pub removed: BTreeSet<DiskNo>,
    /// The newest mark.
    pub newest_mark: Option<NewestMark>,
}

/// Why something cannot follow a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// An LSN that the log has passed.
    #[error(
        "LSN {found} does not follow {last}, the last of the log: it was sent before, or the log went on without its sender"
    )]
    NotAfter {
        /// The last LSN of the log.
        last: Lsn,
        /// What came.
        found: Lsn,
    },
    /// LSNs are missing.
    #[error("LSN {found} came where {expected} was due: a batch between them is missing and must be sent again")]
    Missing {
        /// What was due.
        expected: Lsn,
        /// What came.
        found: Lsn,
    },
    /// A record outside its batch's run, or a run whose end is before its begin.
    #[error("LSN {found} lies outside the run {first} to {last} that carries it")]
    OutsideRun {
        /// First LSN of the run.
        first: Lsn,
        /// Last LSN of the run.
        last: Lsn,
        /// What came.
        found: Lsn,
    },
    /// An incarnation that does not follow the log's.
    #[error(
        "incarnation {found} names {predecessor:?} as the one before it, but this log was last written by {current:?}: \
         the machine was cloned, rolled back or lost its state, and its disks must be compared in full"
    )]
    Incarnation {
        /// The life that wants to begin.
        found: IncarnationId,
        /// Whom it names.
        predecessor: Option<IncarnationId>,
        /// Whom the log has.
        current: Option<IncarnationId>,
    },
    /// A disk that is not there.
    #[error("disk {disk} is not part of the machine at LSN {at}")]
    UnknownDisk {
        /// The disk.
        disk: DiskNo,
        /// Where it was named.
        at: Lsn,
    },
    /// A disk number that is or was taken.
    #[error("disk number {disk} is taken, or was by a disk that left: a new disk needs a new number")]
    DiskNumberTaken {
        /// The disk.
        disk: DiskNo,
    },
    /// More disks than a machine may have.
    #[error("the machine has {DISKS_MAX} disks, the most that one machine may have")]
    TooManyDisks,
    /// A size that no disk has.
    #[error("disk {disk} cannot have {size_bytes} bytes: sizes are whole sectors")]
    DiskSize {
        /// The disk.
        disk: DiskNo,
        /// The size.
        size_bytes: u64,
    },
    /// Sections out of order, twice the same disk, or an empty one.
    #[error("the batch's section of disk {disk} is empty, out of order or there twice")]
    Sections {
        /// The disk.
        disk: DiskNo,
    },
}

impl LogState {
    /// Takes a run without records: writes only, or LSNs that were dropped within a gap.
    pub fn apply_run(&mut self, first: Lsn, last: Lsn) -> Result<(), StateError> {
        if first <= self.last_lsn {
            return Err(StateError::NotAfter { last: self.last_lsn, found: first });
        }
        if last < first {
            return Err(StateError::OutsideRun { first, last, found: last });
        }
        self.last_lsn = last;
        self.clean_stop = false;
        Ok(())
    }

    /// Takes one record, which follows everything so far. On error nothing has changed.
    pub fn apply(&mut self, at: &RecordAt) -> Result<(), StateError> {
        let lsn = at.lsn;
        if lsn <= self.last_lsn {
            return Err(StateError::NotAfter { last: self.last_lsn, found: lsn });
        }
        let stopped = matches!(at.record, Record::CleanStop { .. });
        match &at.record {
            Record::Incarnation { id, predecessor } => self.begin_incarnation(*id, *predecessor)?,
            Record::Mark(mark) => {
                self.newest_mark = Some(NewestMark { id: mark.id, lsn, captured_at: mark.captured_at });
            }
            Record::GapOpened { disk, from, reason } => self.disk(*disk, lsn)?.open_gap(*from, *reason),
            Record::GapClosed { disk } => self.disk(*disk, lsn)?.close_gap(),
            Record::DiskAdded(info) => self.add_disk(info, lsn)?,
            Record::DiskResized { disk, size_bytes } => {
                let state = self.disk(*disk, lsn)?;
                if *size_bytes == 0 || !size_bytes.is_multiple_of(state.info.sector_bytes.into()) {
                    return Err(StateError::DiskSize { disk: *disk, size_bytes: *size_bytes });
                }
                state.info.size_bytes = *size_bytes;
            }
            Record::DiskRemoved { disk } => {
                self.disks.remove(disk).ok_or(StateError::UnknownDisk { disk: *disk, at: lsn })?;
                self.removed.insert(*disk);
            }
            Record::CleanStop { .. } => {}
            Record::ActivityLogInvalid { disk } => self.disk(*disk, lsn)?.activity_log_invalid = true,
        }
        self.last_lsn = lsn;
        self.clean_stop = stopped;
        Ok(())
    }

    /// Takes a run and the records in it, whole or not at all.
    pub fn follow_run(&mut self, first: Lsn, last: Lsn, records: &[RecordAt]) -> Result<(), StateError> {
        let mut next = self.clone();
        next.take_run(first, last, records)?;
        *self = next;
        Ok(())
    }

    /// Takes a batch, whole or not at all: what [`LogState::follow_run`] checks, and that every section belongs to
    /// a disk that the machine has before or after the batch's records.
    pub fn follows(&mut self, batch: &Batch) -> Result<(), StateError> {
        let mut next = self.clone();
        next.take_run(batch.first, batch.last, &batch.records)?;
        let mut before: Option<DiskNo> = None;
        for (disk, section) in &batch.sections {
            if section.is_empty() || before.is_some_and(|before| before >= *disk) {
                return Err(StateError::Sections { disk: *disk });
            }
            if !self.disks.contains_key(disk) && !next.disks.contains_key(disk) {
                return Err(StateError::UnknownDisk { disk: *disk, at: batch.first });
            }
            before = Some(*disk);
        }
        *self = next;
        Ok(())
    }

    fn take_run(&mut self, first: Lsn, last: Lsn, records: &[RecordAt]) -> Result<(), StateError> {
        if first <= self.last_lsn {
            return Err(StateError::NotAfter { last: self.last_lsn, found: first });
        }
        if last < first {
            return Err(StateError::OutsideRun { first, last, found: last });
        }
        let begins_life =
            records.first().is_some_and(|at| at.lsn == first && matches!(at.record, Record::Incarnation { .. }));
        let begins_log = self.last_lsn == Lsn::ZERO;
        if !begins_life && !begins_log && first != self.last_lsn.next() {
            return Err(StateError::Missing { expected: self.last_lsn.next(), found: first });
        }
        for record in records {
            if record.lsn < first || record.lsn > last {
                return Err(StateError::OutsideRun { first, last, found: record.lsn });
            }
            self.apply(record)?;
        }
        if self.last_lsn < last {
            self.last_lsn = last;
            self.clean_stop = false;
        }
        Ok(())
    }

    fn disk(&mut self, disk: DiskNo, at: Lsn) -> Result<&mut DiskState, StateError> {
        self.disks.get_mut(&disk).ok_or(StateError::UnknownDisk { disk, at })
    }

    fn begin_incarnation(&mut self, id: IncarnationId, predecessor: Option<IncarnationId>) -> Result<(), StateError> {
        if predecessor != self.incarnation || self.incarnation == Some(id) {
            return Err(StateError::Incarnation { found: id, predecessor, current: self.incarnation });
        }
        if !self.clean_stop {
            let from = self.last_lsn.next();
            self.disks.values_mut().for_each(|disk| disk.open_gap(from, GapReason::UncleanStop));
        }
        self.incarnation = Some(id);
        Ok(())
    }

    fn add_disk(&mut self, info: &DiskInfo, lsn: Lsn) -> Result<(), StateError> {
        if self.disks.contains_key(&info.disk) || self.removed.contains(&info.disk) {
            return Err(StateError::DiskNumberTaken { disk: info.disk });
        }
        if self.disks.len() >= DISKS_MAX {
            return Err(StateError::TooManyDisks);
        }
        let gap = Some(Gap { from: lsn, reason: GapReason::InitialReplication });
        self.disks.insert(info.disk, DiskState { info: info.clone(), gap, activity_log_invalid: false });
        Ok(())
    }
}

impl DiskState {
    /// A gap within a gap is one gap that begins at the earlier of both. It keeps its reason unless the whole disk
    /// must be compared, which outlasts the rest.
    fn open_gap(&mut self, from: Lsn, reason: GapReason) {
        let gap = self.gap.get_or_insert(Gap { from, reason });
        gap.from = gap.from.min(from);
        if reason == GapReason::ActivityLogLost {
            gap.reason = reason;
        }
    }

    fn close_gap(&mut self) {
        if let Some(gap) = self.gap.take()
            && matches!(gap.reason, GapReason::ActivityLogLost | GapReason::InitialReplication)
        {
            self.activity_log_invalid = false;
        }
    }
}

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
    /// Appends the state:
    ///
    /// ```text
    ///   last_lsn u64 | flags u8 (1 incarnation, 2 clean stop, 4 newest mark)
    ///   [incarnation 16] | [mark id 16 | lsn u64 | captured_at i64]
    ///   disks u32 | (disk u16 | size u64 | sector u32 | name | flags u8 (1 gap, 2 activity log invalid)
    ///                [from u64 | reason u8])*
    ///   removed u32 | (disk u16)*
    /// ```
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
            if state.disks.insert(number, disk).is_some() || state.disks.len() > DISKS_MAX {
                return Err(Malformed::Value { what: "disk number", value: number.0.into() });
            }
        }
        for _ in 0..input.count(2, "removed disks")? {
            let number = DiskNo(input.u16("removed disk")?);
            if state.disks.contains_key(&number) || !state.removed.insert(number) {
                return Err(Malformed::Value { what: "removed disk", value: number.0.into() });
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Mark, MarkKind};

    const LIFE: IncarnationId = IncarnationId([1; 16]);
    const NEXT_LIFE: IncarnationId = IncarnationId([2; 16]);

    fn at(lsn: u64, record: Record) -> RecordAt {
        RecordAt { lsn: Lsn(lsn), record }
    }

    fn begin(lsn: u64, id: IncarnationId, predecessor: Option<IncarnationId>) -> RecordAt {
        at(lsn, Record::Incarnation { id, predecessor })
    }

    fn disk(number: u16) -> DiskInfo {
        DiskInfo { disk: DiskNo(number), name: format!("disk {number}"), size_bytes: 1 << 20, sector_bytes: 512 }
    }

    /// One life, two disks, disk 0 in order; the last LSN is 10.
    fn running() -> LogState {
        let records = [
            begin(1, LIFE, None),
            at(2, Record::DiskAdded(disk(0))),
            at(3, Record::DiskAdded(disk(1))),
            at(9, Record::GapClosed { disk: DiskNo(0) }),
        ];
        let mut state = LogState::default();
        state.follow_run(Lsn(1), Lsn(10), &records).expect("in order");
        state
    }

    fn gap(state: &LogState, number: u16) -> Option<(u64, GapReason)> {
        state.disks[&DiskNo(number)].gap.map(|gap| (gap.from.0, gap.reason))
    }

    #[test]
    fn a_disk_that_joins_has_a_gap_until_its_first_contents_are_through() {
        let state = running();
        assert_eq!(gap(&state, 0), None);
        assert_eq!(gap(&state, 1), Some((3, GapReason::InitialReplication)));
        assert_eq!(state.last_lsn, Lsn(10));
    }

    #[test]
    fn a_missing_batch_is_noticed_and_nothing_changes() {
        let mut state = running();
        let before = state.clone();
        let missing = Err(StateError::Missing { expected: Lsn(11), found: Lsn(12) });
        assert_eq!(state.follow_run(Lsn(12), Lsn(12), &[]), missing);
        let twice = Err(StateError::NotAfter { last: Lsn(10), found: Lsn(10) });
        assert_eq!(state.follow_run(Lsn(10), Lsn(12), &[]), twice);
        let late_error = [at(11, Record::GapClosed { disk: DiskNo(1) }), at(12, Record::GapClosed { disk: DiskNo(7) })];
        assert!(state.follow_run(Lsn(11), Lsn(12), &late_error).is_err());
        assert!(state.follow_run(Lsn(11), Lsn(12), &[at(13, Record::GapClosed { disk: DiskNo(1) })]).is_err());
        assert_eq!(state, before);
    }

    #[test]
    fn a_life_after_an_unclean_stop_opens_a_gap_on_every_disk_and_after_a_clean_one_none() {
        let mut unclean = running();
        unclean.follow_run(Lsn(5000), Lsn(5001), &[begin(5000, NEXT_LIFE, Some(LIFE))]).expect("a follower");
        assert_eq!(gap(&unclean, 0), Some((11, GapReason::UncleanStop)));
        assert_eq!(gap(&unclean, 1), Some((3, GapReason::InitialReplication)));

        let mut clean = running();
        clean.follow_run(Lsn(11), Lsn(11), &[at(11, Record::CleanStop { captured_at: Timestamp(1) })]).expect("next");
        assert!(clean.clean_stop);
        clean.follow_run(Lsn(5000), Lsn(5001), &[begin(5000, NEXT_LIFE, Some(LIFE))]).expect("a follower");
        assert_eq!(gap(&clean, 0), None);
        assert!(!clean.clean_stop);

        let mut stopped_then_wrote = running();
        let stop = at(11, Record::CleanStop { captured_at: Timestamp(1) });
        stopped_then_wrote.follow_run(Lsn(11), Lsn(12), &[stop]).expect("next");
        assert!(!stopped_then_wrote.clean_stop, "a write follows the clean stop");
    }

    #[test]
    fn only_the_follower_of_the_last_life_may_begin() {
        for predecessor in [None, Some(NEXT_LIFE), Some(IncarnationId([3; 16]))] {
            let refused = running().apply(&begin(11, NEXT_LIFE, predecessor));
            assert!(matches!(refused, Err(StateError::Incarnation { .. })), "{predecessor:?}");
        }
        assert!(running().apply(&begin(11, LIFE, Some(LIFE))).is_err(), "a life does not follow itself");
    }

    #[test]
    fn a_disk_number_is_never_given_to_another_disk() {
        let mut state = running();
        assert_eq!(
            state.apply(&at(11, Record::DiskAdded(disk(1)))),
            Err(StateError::DiskNumberTaken { disk: DiskNo(1) })
        );
        state.apply(&at(11, Record::DiskRemoved { disk: DiskNo(1) })).expect("it is there");
        assert!(state.apply(&at(12, Record::DiskAdded(disk(1)))).is_err());
        assert!(state.apply(&at(12, Record::DiskRemoved { disk: DiskNo(1) })).is_err());
    }

    #[test]
    fn an_invalid_activity_log_counts_again_only_after_a_full_compare() {
        let mut state = running();
        let number = DiskNo(0);
        state.apply(&at(11, Record::ActivityLogInvalid { disk: number })).expect("known");
        let open = |from, reason| Record::GapOpened { disk: number, from: Lsn(from), reason };
        state.apply(&at(12, open(12, GapReason::Overload))).expect("known");
        state.apply(&at(13, Record::GapClosed { disk: number })).expect("known");
        assert!(state.disks[&number].activity_log_invalid);
        state.apply(&at(14, open(14, GapReason::Overload))).expect("known");
        state.apply(&at(15, open(9, GapReason::ActivityLogLost))).expect("known");
        assert_eq!(gap(&state, 0), Some((9, GapReason::ActivityLogLost)));
        state.apply(&at(16, Record::GapClosed { disk: number })).expect("known");
        assert!(!state.disks[&number].activity_log_invalid);
    }

    #[test]
    fn a_batch_with_a_section_of_a_stranger_is_refused_whole() {
        let mut state = running();
        let section = bytes::Bytes::from_static(b"section");
        let batch = |disks: &[u16], records: Vec<RecordAt>| Batch {
            first: Lsn(11),
            last: Lsn(12),
            sections: disks.iter().map(|disk| (DiskNo(*disk), section.clone())).collect(),
            records,
        };
        let before = state.clone();
        assert!(state.follows(&batch(&[0, 2], vec![])).is_err());
        assert!(state.follows(&batch(&[1, 0], vec![])).is_err());
        assert_eq!(state, before);
        state.follows(&batch(&[0, 2], vec![at(11, Record::DiskAdded(disk(2)))])).expect("the disk joins in this batch");
        assert_eq!(state.last_lsn, Lsn(12));
    }

    #[test]
    fn a_state_reads_back_as_it_was_written_and_no_cut_of_it_does() {
        let mut state = running();
        let mark = Mark {
            id: MarkId([9; 16]),
            kind: MarkKind::Crash,
            captured_at: Timestamp(77),
            members: vec![],
            label: String::new(),
        };
        state.apply(&at(11, Record::Mark(mark))).expect("in order");
        state.apply(&at(12, Record::DiskRemoved { disk: DiskNo(0) })).expect("in order");
        state.apply(&at(13, Record::CleanStop { captured_at: Timestamp(78) })).expect("in order");
        for state in [state, LogState::default()] {
            let mut out = Put::default();
            state.put(&mut out);
            let bytes = out.into_bytes();
            assert_eq!(LogState::take(&mut Take::new(&bytes)).as_ref(), Ok(&state));
            for cut in 0..bytes.len() {
                assert!(LogState::take(&mut Take::new(&bytes[..cut])).is_err(), "cut at {cut}");
            }
        }
    }
}
