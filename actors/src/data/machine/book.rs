//! Which segments of a machine's cache wait for the vault, and what the committed log says. Pure.
//!
//! ```text
//!   closed ─► waiting (indexes of the first few kept) ─► committed: records tell marks and gaps
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use farshore_engine::cache::note::Note;
use farshore_engine::control::messages::MarkReport;
use farshore_engine::ids::{DiskNo, Lsn, Timestamp};
use farshore_engine::log::SegmentNo;
use farshore_engine::log::sequencer::ClosedSegment;
use farshore_engine::record::{Mark, Record, RecordAt};
use farshore_engine::vault::segment::SegmentIndex;
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

    /// Segments that a log up to `state` holds already, and whose records are no longer in memory.
    pub(super) fn unread(&self, state: &LogState) -> Vec<Arc<ClosedSegment>> {
        let held = self.waiting.iter().take_while(|front| front.closed.last <= state.last_lsn);
        held.filter(|front| front.closed.index.is_none()).map(|front| front.closed.clone()).collect()
    }

    /// The vault's log was read again: it goes up to `state`. Gives what turned out to be committed, and what that tells;
    /// `read` are the records of those that [`Book::unread`] named.
    pub(super) fn catch_up(
        &mut self,
        state: LogState,
        read: &BTreeMap<SegmentNo, Vec<RecordAt>>,
    ) -> (Vec<Done>, Vec<CommitFact>) {
        let (mut done, mut facts) = (Vec::new(), Vec::new());
        while let Some(front) = self.waiting.front().filter(|front| front.closed.last <= state.last_lsn) {
            let (segment, closed) = (front.closed.segment, front.closed.clone());
            let records = closed.index.as_ref().map(SegmentIndex::records).or(read.get(&segment).map(Vec::as_slice));
            let (one, told) = self.commit(segment, records.unwrap_or_default()).expect("it is the front");
            done.push(one);
            facts.extend(told);
        }
        if state.last_lsn > self.committed.last_lsn {
            self.jump(state);
        }
        (done, facts)
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

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_engine::ids::{Epoch, IncarnationId, MachineId, MarkId, Salt, TimelineId, WriterId};
    use farshore_engine::record::{DiskInfo, GapReason, MarkKind};
    use farshore_engine::vault::segment::{LogVersion, SegmentIdentity};

    /// A log whose segments are written down record by record.
    struct Log {
        state: LogState,
        next_segment: u64,
    }

    fn mark(n: u8) -> Record {
        let (id, captured_at) = (MarkId([n; 16]), Timestamp(i64::from(n) * 1000));
        Record::Mark(Mark { id, kind: MarkKind::Crash, captured_at, members: Vec::new(), label: String::new() })
    }

    fn disk(n: u16) -> Record {
        let name = format!("disk {n}");
        Record::DiskAdded(DiskInfo { disk: DiskNo(n), name, size_bytes: 4096, sector_bytes: 512 })
    }

    impl Log {
        fn new() -> Self {
            Self { state: LogState::default(), next_segment: 1 }
        }

        /// One segment whose batch holds these records, one LSN each.
        fn segment(&mut self, records: Vec<Record>) -> (ClosedSegment, Vec<RecordAt>) {
            let first = self.state.last_lsn.next();
            let at = |(record, lsn)| RecordAt { lsn: Lsn(lsn), record };
            let records: Vec<RecordAt> = records.into_iter().zip(first.0..).map(at).collect();
            let last = records.last().expect("a segment has records here").lsn;
            self.state.follow_run(first, last, &records).expect("the test's log is in order");
            let identity = SegmentIdentity {
                machine: MachineId([1; 16]),
                timeline: TimelineId([1; 8]),
                epoch: Epoch(1),
                writer: WriterId([1; 16]),
                salt: Salt([1; 16]),
                created_at: Timestamp(0),
                version: LogVersion::V1,
            };
            let segment = SegmentNo(self.next_segment);
            self.next_segment += 1;
            let closed = ClosedSegment {
                segment,
                identity,
                index: Some(SegmentIndex::default()),
                state_after: self.state.clone(),
                items_end: 1000,
                first,
                last,
                abandoned: false,
            };
            (closed, records)
        }

        fn opening(&mut self) -> (ClosedSegment, Vec<RecordAt>) {
            let life = Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None };
            self.segment(vec![life, disk(0), disk(1), Record::GapClosed { disk: DiskNo(0) }])
        }
    }

    #[test]
    fn a_mark_covers_the_disks_without_a_gap_and_counts_for_the_rpo_once_it_covers_all() {
        let (mut log, mut book) = (Log::new(), Book::default());
        for records in [vec![mark(1)], vec![Record::GapClosed { disk: DiskNo(1) }, mark(2)]] {
            if log.next_segment == 1 {
                let (closed, records) = log.opening();
                book.add(closed, None);
                let (_, facts) = book.commit(SegmentNo(1), &records).expect("the front is committed");
                let opened = |fact: &&CommitFact| matches!(fact, CommitFact::GapOpened { .. });
                assert_eq!(facts.iter().filter(opened).count(), 2, "a disk that joins has a gap: {facts:?}");
            }
            let (closed, records) = log.segment(records);
            let number = closed.segment;
            book.add(closed, None);
            let (done, facts) = book.commit(number, &records).expect("the front is committed");
            assert_eq!(done, Done { segment: number, bytes: 1000 });
            let covered = facts.iter().find_map(|fact| match fact {
                CommitFact::Mark { disks, .. } => Some(disks.clone()),
                _ => None,
            });
            let expected = if number == SegmentNo(2) { vec![DiskNo(0)] } else { vec![DiskNo(0), DiskNo(1)] };
            assert_eq!(covered, Some(expected));
            assert_eq!(book.newest_mark().is_some(), number == SegmentNo(3));
        }
        assert_eq!(book.newest_mark().map(|mark| mark.mark), Some(MarkId([2; 16])));
    }

    #[test]
    fn a_gap_that_began_earlier_takes_marks_back() {
        let (mut log, mut book) = (Log::new(), Book::default());
        let gap = |from| Record::GapOpened { disk: DiskNo(0), from, reason: GapReason::Overload };
        let segments = [
            log.opening(),
            log.segment(vec![Record::GapClosed { disk: DiskNo(1) }, mark(1), mark(2)]),
            log.segment(vec![gap(Lsn(6))]),
        ];
        let mut newest = Vec::new();
        for (closed, records) in segments {
            let number = closed.segment;
            book.add(closed, None);
            book.commit(number, &records).expect("the front is committed");
            newest.push(book.newest_mark().map(|mark| mark.lsn));
        }
        assert_eq!(newest, [None, Some(Lsn(7)), Some(Lsn(6))], "the mark at 6 shows nothing from LSN 6 on");
    }

    #[test]
    fn what_the_vault_turns_out_to_hold_is_not_offered_again() {
        let (mut log, mut book) = (Log::new(), Book::default());
        let mut states = Vec::new();
        for records in
            [None, Some(vec![Record::GapClosed { disk: DiskNo(1) }]), Some(vec![mark(3)]), Some(vec![mark(4)])]
        {
            let (closed, _) = if let Some(records) = records { log.segment(records) } else { log.opening() };
            states.push(closed.state_after.clone());
            book.add(closed, None);
        }
        assert_eq!(book.waiting_bytes(), 4000);
        let (done, _) = book.catch_up(states[2].clone(), &BTreeMap::new());
        assert_eq!(done.iter().map(|done| done.segment.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((book.committed(), book.waiting_bytes()), (states[2].last_lsn, 1000));
        assert_eq!(book.newest_mark().map(|mark| mark.mark), Some(MarkId([3; 16])));
        assert_eq!(book.commit(SegmentNo(2), &[]), None, "it is known to be committed");
        assert!(
            book.catch_up(states[1].clone(), &BTreeMap::new()).0.is_empty(),
            "an older reading of the log takes nothing back"
        );
        assert_eq!(book.committed(), states[2].last_lsn);
    }

    #[test]
    fn what_turns_out_to_be_committed_tells_the_same_as_what_was_seen_to_be() {
        let (mut log, mut seen, mut found) = (Log::new(), Book::default(), Book::default());
        let (mut facts, mut read) = (Vec::new(), BTreeMap::new());
        for records in [None, Some(vec![Record::GapClosed { disk: DiskNo(1) }, mark(1)]), Some(vec![mark(2)])] {
            let (mut closed, records) = if let Some(records) = records { log.segment(records) } else { log.opening() };
            // As behind a backlog: the index is in the file alone.
            closed.index = None;
            seen.add(closed.clone(), None);
            facts.extend(seen.commit(closed.segment, &records).expect("the front").1);
            read.insert(closed.segment, records);
            found.add(closed, None);
        }
        assert_eq!(found.unread(&log.state).len(), 3);
        let (done, told) = found.catch_up(log.state.clone(), &read);
        assert_eq!((done.len(), &told), (3, &facts));
        assert_eq!(told.iter().filter(|fact| matches!(fact, CommitFact::Mark { .. })).count(), 2);
        assert_eq!(found.newest_mark(), seen.newest_mark());
    }

    #[test]
    fn only_the_first_waiting_segments_keep_their_index() {
        let (mut log, mut book) = (Log::new(), Book::default());
        book.add(log.opening().0, None);
        for n in 0..20 {
            let (closed, _) = log.segment(vec![mark(n)]);
            book.add(closed, None);
        }
        let kept = book.waiting().filter(|waiting| waiting.closed.index.is_some()).count();
        assert_eq!(kept, INDEXES_KEPT);
    }

    #[test]
    fn an_idle_confirmation_counts_only_for_the_newest_committed_mark() {
        let (mut log, mut book) = (Log::new(), Book::default());
        for records in [None, Some(vec![Record::GapClosed { disk: DiskNo(1) }, mark(1)])] {
            let (closed, records) = if let Some(records) = records { log.segment(records) } else { log.opening() };
            let number = closed.segment;
            book.add(closed, None);
            book.commit(number, &records).expect("the front is committed");
        }
        let lsn = log.state.last_lsn;
        book.idle(lsn.next(), Timestamp(5));
        assert_eq!(book.idle_confirmed_at(), None, "something came after the mark");
        book.idle(lsn, Timestamp(6));
        assert_eq!(book.idle_confirmed_at(), Some(Timestamp(6)));
    }
}
