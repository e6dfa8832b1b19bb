//! Which segments of a machine's cache wait for the vault, and what the committed log says. Pure.
//!
//! ```text
//!   closed ─► waiting (indexes of the first few kept) ─► committed: records tell marks and gaps
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use farshore_engine::cache::note::Note;
use farshore_engine::control::messages::MarkReport;
use farshore_engine::ids::{DiskNo, Lsn, Timestamp};
use farshore_engine::log::SegmentNo;
use farshore_engine::log::sequencer::ClosedSegment;
use farshore_engine::record::{Mark, Record, RecordAt};
use farshore_engine::vault::state::{DiskState, Gap, LogState, NewestMark};

/// Waiting segments whose index stays in memory: those that the upload stream seals next. Chosen: twice the default
/// window; the index of a full segment of small writes is 0.3 MiB, made again out of its file in 20 ms.
const INDEXES_KEPT: usize = 8;
/// Marks that are remembered, for the case that a gap takes the newest ones back.
const MARKS_KEPT: usize = 64;

/// What the commit of a segment tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CommitFact {
    Mark { mark: Mark, lsn: Lsn, disks: Vec<DiskNo> },
    GapOpened { disk: DiskNo, gap: Gap },
    GapClosed { disk: DiskNo, at: Lsn },
}

/// A closed segment that is in no vault yet.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) closed: Arc<ClosedSegment>,
    pub(super) note: Option<Note>,
}

/// A segment that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) segment: SegmentNo,
    pub(super) bytes: u64,
}

/// The book.
#[derive(Debug, Default)]
pub(super) struct Book {
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    /// What the vault's log says at its end.
    committed: LogState,
    /// The newest marks that cover every disk, oldest first.
    marks: VecDeque<MarkReport>,
    idle: Option<(Lsn, Timestamp)>,
}

impl Book {
    /// A book of a log that is committed up to `state`.
    pub(super) fn new(state: LogState) -> Self {
        let mut book = Self::default();
        book.jump(state);
        book
    }

    /// A segment was closed; segments come in log order.
    pub(super) fn add(&mut self, mut closed: ClosedSegment, note: Option<Note>) -> Waiting {
        assert!(self.last() < closed.last, "segments are closed in log order");
        if self.waiting.len() >= INDEXES_KEPT {
            closed.index = None;
        }
        self.waiting_bytes += closed.items_end;
        let waiting = Waiting { closed: Arc::new(closed), note };
        self.waiting.push_back(waiting.clone());
        waiting
    }

    /// Everything that waits, in log order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// The last LSN of the vault's log.
    pub(super) fn committed(&self) -> Lsn {
        self.committed.last_lsn
    }

    /// The newest committed mark that covers every disk.
    pub(super) fn newest_mark(&self) -> Option<MarkReport> {
        self.marks.back().copied()
    }

    /// When the agent last confirmed that nothing came after the newest committed mark.
    pub(super) fn idle_confirmed_at(&self) -> Option<Timestamp> {
        let (lsn, at) = self.idle?;
        self.newest_mark().filter(|mark| mark.lsn == lsn).map(|_| at)
    }

    /// The agent confirms that nothing was written after `lsn` up to `at`.
    pub(super) fn idle(&mut self, lsn: Lsn, at: Timestamp) {
        self.idle = Some((lsn, at));
    }

    /// The front segment fills its slot. `None` for one that is known to, or was forgotten.
    pub(super) fn commit(&mut self, segment: SegmentNo, records: &[RecordAt]) -> Option<(Done, Vec<CommitFact>)> {
        self.waiting.front().filter(|front| front.closed.segment == segment)?;
        let front = self.waiting.pop_front().expect("just seen");
        self.waiting_bytes -= front.closed.items_end;
        let facts = self.read_records(records);
        match records.is_empty() && self.committed.newest_mark != front.closed.state_after.newest_mark {
            true => self.jump(front.closed.state_after.clone()),
            false => self.committed = front.closed.state_after.clone(),
        }
        Some((Done { segment, bytes: front.closed.items_end }, facts))
    }

    /// The vault's log was read again: it goes up to `state`. Gives what turned out to be committed.
    pub(super) fn catch_up(&mut self, state: LogState) -> Vec<Done> {
        let mut done = Vec::new();
        while let Some(front) = self.waiting.front().filter(|front| front.closed.last <= state.last_lsn) {
            done.push(Done { segment: front.closed.segment, bytes: front.closed.items_end });
            self.waiting_bytes -= front.closed.items_end;
            self.waiting.pop_front();
        }
        if state.last_lsn > self.committed.last_lsn {
            self.jump(state);
        }
        done
    }

    fn last(&self) -> Lsn {
        self.waiting.back().map_or(self.committed.last_lsn, |last| last.closed.last)
    }

    /// Takes over a state whose records were not seen. Its newest mark counts where no disk has a gap: the one thing that
    /// is not known is whether a gap ended behind the mark, and the next mark settles that.
    fn jump(&mut self, state: LogState) {
        let whole = !state.disks.is_empty() && state.disks.values().all(|disk| disk.gap.is_none());
        let report = |mark: NewestMark| MarkReport { mark: mark.id, lsn: mark.lsn, captured_at: mark.captured_at };
        self.marks = state.newest_mark.filter(|_| whole).map(report).into_iter().collect();
        self.committed = state;
    }

    fn read_records(&mut self, records: &[RecordAt]) -> Vec<CommitFact> {
        let mut facts = Vec::new();
        for at in records {
            let before = open_gaps(&self.committed);
            if let Record::Mark(mark) = &at.record {
                self.read_mark(mark, at.lsn, &mut facts);
            }
            let followed = self.committed.follow_run(self.next_lsn(at), at.lsn, std::slice::from_ref(at));
            if followed.is_err() {
                // What was sealed was checked; a state that was taken over may be ahead of its records.
                continue;
            }
            let after = open_gaps(&self.committed);
            let new = after.iter().filter(|(disk, _)| !before.iter().any(|(known, _)| known == disk));
            for (disk, gap) in new {
                // A gap may begin before its record: what it covers is no point any more.
                self.marks.retain(|mark| mark.lsn <= gap.from);
                facts.push(CommitFact::GapOpened { disk: *disk, gap: *gap });
            }
            let gone = before.iter().filter(|(disk, _)| !after.iter().any(|(known, _)| known == disk));
            facts.extend(gone.map(|(disk, _)| CommitFact::GapClosed { disk: *disk, at: at.lsn }));
        }
        facts
    }

    fn next_lsn(&self, at: &RecordAt) -> Lsn {
        // A life begins at a base of its own; everything else follows without a hole.
        match at.record {
            Record::Incarnation { .. } => at.lsn,
            _ => self.committed.last_lsn.next().min(at.lsn),
        }
    }

    fn read_mark(&mut self, mark: &Mark, lsn: Lsn, facts: &mut Vec<CommitFact>) {
        let covered = |(disk, state): (&DiskNo, &DiskState)| state.gap.is_none().then_some(*disk);
        let disks: Vec<DiskNo> = self.committed.disks.iter().filter_map(covered).collect();
        if disks.is_empty() {
            return;
        }
        if disks.len() == self.committed.disks.len() {
            self.marks.push_back(MarkReport { mark: mark.id, lsn, captured_at: mark.captured_at });
            self.marks.drain(..self.marks.len().saturating_sub(MARKS_KEPT));
        }
        facts.push(CommitFact::Mark { mark: mark.clone(), lsn, disks });
    }
}

fn open_gaps(state: &LogState) -> Vec<(DiskNo, Gap)> {
    state.disks.iter().filter_map(|(disk, state)| Some((*disk, state.gap?))).collect()
}
