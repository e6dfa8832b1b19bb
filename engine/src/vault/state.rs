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
use crate::ids::{DiskNo, IncarnationId, Lsn, MarkId, Timestamp};
use crate::record::{DISKS_MAX, DiskInfo, GapReason, Record, RecordAt};

mod layout;

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
    /// The end of all LSNs.
    #[error("LSN {found} is beyond what a log can hold: nothing could follow it")]
    Exhausted {
        /// What came.
        found: Lsn,
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
        self.check_run(first, last)?;
        self.last_lsn = last;
        self.clean_stop = false;
        Ok(())
    }

    /// Takes one record, which follows everything so far. On error nothing has changed.
    pub fn apply(&mut self, at: &RecordAt) -> Result<(), StateError> {
        let lsn = at.lsn;
        self.check_run(lsn, lsn)?;
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

    /// A run lies behind everything, and something can still follow it.
    fn check_run(&self, first: Lsn, last: Lsn) -> Result<(), StateError> {
        if first <= self.last_lsn {
            return Err(StateError::NotAfter { last: self.last_lsn, found: first });
        }
        if last < first {
            return Err(StateError::OutsideRun { first, last, found: last });
        }
        if last == Lsn(u64::MAX) {
            return Err(StateError::Exhausted { found: last });
        }
        Ok(())
    }

    fn take_run(&mut self, first: Lsn, last: Lsn, records: &[RecordAt]) -> Result<(), StateError> {
        self.check_run(first, last)?;
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

#[cfg(test)]
mod tests;
