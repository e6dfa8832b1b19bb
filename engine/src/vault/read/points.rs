//! The recovery points of a log: its marks, less what gaps take away.
//!
//! ```text
//!   log    ... mark ... write ... mark ... GapOpened(from) ... mark ... GapClosed ... mark
//!               │           from ──┴──────────────────────────────────────┤           │
//!            a point               not points of that disk            a point again
//! ```
//!
//! A mark at LSN m shows the writes with LSN < m. It is a point of every disk that the machine has at m and that has no
//! gap there: none with `from` < m that is still open at m (I6). A gap may begin before its record, so a mark can stop
//! being a point when the record arrives; a mark that is left without a disk is no point.
//!
//! The state between segments is the one that the footers carry; within one, records are applied in order, as the writer
//! applied them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{DiskNo, Lsn, MachineId, MarkId, Slot, TimelineId, Timestamp};
use crate::record::{DiskInfo, Mark, MarkKind, Record, RecordAt};
use crate::vault::segment::Boundary;
use crate::vault::state::{LogState, StateError};

/// A mark that is committed and usable, and the disks it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// The mark's name.
    pub id: MarkId,
    /// Its place: the point shows the writes with smaller LSNs.
    pub lsn: Lsn,
    /// What it promises.
    pub kind: MarkKind,
    /// When it was taken, by the agent's clock.
    pub captured_at: Timestamp,
    /// The disks that have no gap there; never empty.
    pub disks: Vec<DiskNo>,
    /// Disks that the machine had there and that the point does not cover, for they have a gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_gap: Vec<DiskNo>,
    /// Members of a group mark: it is a point of the group only where each member's log has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MachineId>,
    /// What the operator calls it; may be empty.
    pub label: String,
    /// The timeline that the mark was written in: this one, or one that it branched from.
    pub timeline: TimelineId,
    /// The slot of the segment that holds the mark.
    pub slot: Slot,
}

/// A gap that came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PastGap {
    from: Lsn,
    closed: Lsn,
}

#[derive(Debug, Clone)]
struct SeenMark {
    lsn: Lsn,
    place: (TimelineId, Slot),
    mark: Mark,
    disks: Arc<[DiskNo]>,
}

/// What the records of a log say about its points, up to a position.
#[derive(Debug, Clone, Default)]
pub struct History {
    state: LogState,
    disks: Option<Arc<[DiskNo]>>,
    marks: Vec<SeenMark>,
    past_gaps: BTreeMap<DiskNo, Vec<PastGap>>,
    known: BTreeMap<DiskNo, KnownDisk>,
}

/// A disk that is or was part of the machine.
#[derive(Debug, Clone)]
struct KnownDisk {
    info: DiskInfo,
    /// Its sizes, each with the LSN from which it holds.
    sizes: Vec<(Lsn, u64)>,
}

/// What one segment adds.
#[derive(Debug, Clone, Copy)]
pub struct SegmentRecords<'a> {
    /// Its timeline and slot.
    pub place: (TimelineId, Slot),
    /// Of a run: where its retained positions were.
    pub boundaries: &'a [Boundary],
    /// Its records, in order.
    pub records: &'a [RecordAt],
    /// First LSNs of its frames, in order: writes happened there.
    pub writes: &'a [Lsn],
    /// The log's state at its end; `None` where only a part of the segment counts.
    pub state: Option<&'a LogState>,
    /// Whether everything before it and all of it can be read: otherwise its marks are no points.
    pub readable: bool,
}

impl SegmentRecords<'_> {
    fn slot_of(&self, lsn: Lsn) -> Slot {
        let at = self.boundaries.binary_search_by_key(&lsn, |boundary| boundary.lsn);
        at.map_or(self.place.1, |at| self.boundaries[at].slot)
    }
}

impl History {
    /// The log's state at the position.
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// Takes the next segment, whole or not at all.
    pub fn take(&mut self, segment: SegmentRecords<'_>) -> Result<(), StateError> {
        let mut trial = self.state.clone();
        for at in segment.records {
            pass_writes(&mut trial, segment.writes, at.lsn)?;
            trial.apply(at)?;
        }
        for at in segment.records {
            let taken =
                pass_writes(&mut self.state, segment.writes, at.lsn).and_then(|()| self.take_record(segment, at));
            assert!(taken.is_ok(), "what a copy of the state took, the state takes");
        }
        match segment.state {
            // Nothing is missing before it: where its state differs, LSNs that no entry carries are counted in.
            Some(state) if segment.readable => self.adopt(state),
            Some(state) => self.jump(state),
            None => {}
        }
        Ok(())
    }

    fn take_record(&mut self, segment: SegmentRecords<'_>, at: &RecordAt) -> Result<(), StateError> {
        let open = |state: &LogState, disk: &DiskNo| state.disks.get(disk).and_then(|disk| disk.gap);
        let ended = match &at.record {
            Record::GapClosed { disk } | Record::DiskRemoved { disk } => {
                open(&self.state, disk).map(|gap| (*disk, gap))
            }
            _ => None,
        };
        self.state.apply(at)?;
        if let Some((disk, gap)) = ended {
            self.past_gaps.entry(disk).or_default().push(PastGap { from: gap.from, closed: at.lsn });
        }
        match &at.record {
            Record::DiskAdded(info) => {
                self.disks = None;
                self.know(info, at.lsn);
            }
            Record::DiskResized { disk, .. } => {
                let info = self.state.disks[disk].info.clone();
                self.know(&info, at.lsn);
            }
            Record::DiskRemoved { .. } => self.disks = None,
            Record::Mark(mark) if segment.readable => {
                let disks = self.disks.get_or_insert_with(|| self.state.disks.keys().copied().collect()).clone();
                let place = (segment.place.0, segment.slot_of(at.lsn));
                self.marks.push(SeenMark { lsn: at.lsn, place, mark: mark.clone(), disks });
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a footer's state. It differs from what the records gave only where segments before it could not be read:
    /// gaps whose end lies there are taken as never closed, for nothing behind them is a point.
    pub(super) fn jump(&mut self, state: &LogState) {
        for (disk, before) in &self.state.disks {
            let after = state.disks.get(disk).and_then(|disk| disk.gap);
            if let Some(gap) = before.gap
                && after.is_none_or(|after| after.from > gap.from)
            {
                self.past_gaps.entry(*disk).or_default().push(PastGap { from: gap.from, closed: Lsn(u64::MAX) });
            }
        }
        self.adopt(state);
    }

    fn adopt(&mut self, state: &LogState) {
        for after in state.disks.values() {
            self.know(&after.info, state.last_lsn);
        }
        self.disks = None;
        self.state = state.clone();
    }

    fn know(&mut self, info: &DiskInfo, from: Lsn) {
        let known = self.known.entry(info.disk).or_insert_with(|| KnownDisk { info: info.clone(), sizes: Vec::new() });
        if known.sizes.last().is_none_or(|(_, size)| *size != info.size_bytes) {
            known.sizes.push((from, info.size_bytes));
        }
    }

    /// Whether a mark of this disk at `lsn` would lie in a gap.
    pub fn in_gap(&self, disk: DiskNo, lsn: Lsn) -> bool {
        let open = self.state.disks.get(&disk).and_then(|disk| disk.gap);
        let past = self.past_gaps.get(&disk).map_or(&[][..], Vec::as_slice);
        open.is_some_and(|gap| gap.from < lsn) || past.iter().any(|gap| gap.from < lsn && lsn < gap.closed)
    }

    /// Sizes of a disk, each with the LSN from which it holds, in order.
    pub fn sizes(&self, disk: DiskNo) -> &[(Lsn, u64)] {
        self.known.get(&disk).map_or(&[], |known| &known.sizes)
    }

    /// Every disk that is or was part of the machine, with its newest size.
    pub fn disks(&self) -> impl Iterator<Item = &DiskInfo> {
        self.known.values().map(|known| &known.info)
    }

    /// A disk as it was at a position. `None` where it had not joined yet.
    pub fn disk_at(&self, disk: DiskNo, lsn: Lsn) -> Option<DiskInfo> {
        let known = self.known.get(&disk)?;
        let (_, size_bytes) = *known.sizes.iter().rev().find(|(from, _)| *from < lsn)?;
        Some(DiskInfo { size_bytes, ..known.info.clone() })
    }

    /// The points in the order of the log.
    pub fn points(&self) -> impl Iterator<Item = RecoveryPoint> + '_ {
        self.marks.iter().filter_map(|seen| self.point(seen))
    }

    /// The points before `before`, newest first.
    pub fn newest(&self, before: Option<Lsn>) -> impl Iterator<Item = RecoveryPoint> + '_ {
        let end = before.map_or(self.marks.len(), |before| self.marks.partition_point(|seen| seen.lsn < before));
        self.marks[..end].iter().rev().filter_map(|seen| self.point(seen))
    }

    fn point(&self, seen: &SeenMark) -> Option<RecoveryPoint> {
        let (in_gap, disks): (Vec<_>, Vec<_>) = seen.disks.iter().partition(|disk| self.in_gap(**disk, seen.lsn));
        let mark = &seen.mark;
        (!disks.is_empty()).then(|| RecoveryPoint {
            id: mark.id,
            lsn: seen.lsn,
            kind: mark.kind,
            captured_at: mark.captured_at,
            disks,
            in_gap,
            members: mark.members.clone(),
            label: mark.label.clone(),
            timeline: seen.place.0,
            slot: seen.place.1,
        })
    }
}

/// Tells a state of the writes in front of a record: a clean stop that a write follows is none.
fn pass_writes(state: &mut LogState, writes: &[Lsn], before: Lsn) -> Result<(), StateError> {
    match writes[..writes.partition_point(|first| *first < before)].last() {
        Some(first) if *first > state.last_lsn => state.apply_run(*first, *first),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IncarnationId;
    use crate::record::{DiskInfo, GapReason};

    struct Log {
        history: History,
        lsn: u64,
        slot: u64,
    }

    impl Log {
        fn new(disks: u16) -> Self {
            let mut log = Self { history: History::default(), lsn: 0, slot: 0 };
            log.put(Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None });
            for disk in 0..disks {
                let info = DiskInfo { disk: DiskNo(disk), name: "d".into(), size_bytes: 1 << 20, sector_bytes: 512 };
                log.put(Record::DiskAdded(info));
            }
            log
        }

        fn put(&mut self, record: Record) -> u64 {
            self.lsn += 1;
            let records = [RecordAt { lsn: Lsn(self.lsn), record }];
            let place = (TimelineId([1; 8]), Slot(self.slot));
            let segment =
                SegmentRecords { place, boundaries: &[], records: &records, writes: &[], state: None, readable: true };
            self.history.take(segment).expect("the log is in order");
            self.slot += 1;
            self.lsn
        }

        fn mark(&mut self) -> u64 {
            let id = MarkId([self.lsn as u8; 16]);
            let (kind, captured_at) = (MarkKind::Crash, Timestamp(self.lsn as i64));
            self.put(Record::Mark(Mark { id, kind, captured_at, members: vec![], label: String::new() }))
        }

        fn points(&self) -> Vec<(u64, Vec<u16>)> {
            self.history.points().map(|point| (point.lsn.0, point.disks.iter().map(|disk| disk.0).collect())).collect()
        }
    }

    #[test]
    fn a_disk_joins_the_points_when_its_first_contents_are_through() {
        let mut log = Log::new(2);
        log.mark();
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let one = log.mark();
        log.put(Record::GapClosed { disk: DiskNo(1) });
        let both = log.mark();
        log.put(Record::DiskRemoved { disk: DiskNo(0) });
        let last = log.mark();
        assert_eq!(log.points(), [(one, vec![0]), (both, vec![0, 1]), (last, vec![1])]);
    }

    #[test]
    fn a_life_that_ends_in_lsns_without_entries_leaves_a_gap_that_closes() {
        let mut log = Log::new(1);
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let before = log.mark();
        // LSNs up to 9 were dropped; then the next life begins at 20 without a clean stop.
        let mut state = log.history.state().clone();
        state.apply_run(Lsn(before + 1), Lsn(9)).expect("in order");
        let (id, predecessor) = (IncarnationId([2; 16]), Some(IncarnationId([1; 16])));
        let records = [RecordAt { lsn: Lsn(20), record: Record::Incarnation { id, predecessor } }];
        state.apply(&records[0]).expect("its follower");
        assert_eq!(state.disks[&DiskNo(0)].gap.map(|gap| gap.from), Some(Lsn(10)));
        let place = (TimelineId([1; 8]), Slot(log.slot));
        let segment = SegmentRecords {
            place,
            boundaries: &[],
            records: &records,
            writes: &[],
            state: Some(&state),
            readable: true,
        };
        log.history.take(segment).expect("in order");
        log.lsn = 20;
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let after = log.mark();
        assert_eq!(log.points(), [(before, vec![0]), (after, vec![0])]);
    }

    #[test]
    fn a_gap_takes_back_the_marks_behind_its_beginning() {
        let mut log = Log::new(1);
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let first = log.mark();
        let second = log.mark();
        log.mark();
        log.put(Record::GapOpened { disk: DiskNo(0), from: Lsn(second), reason: GapReason::Overload });
        assert_eq!(
            log.points(),
            [(first, vec![0]), (second, vec![0])],
            "a mark at the gap's first LSN shows none of it"
        );
        log.mark();
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let third = log.mark();
        assert_eq!(log.points(), [(first, vec![0]), (second, vec![0]), (third, vec![0])]);
    }

    #[test]
    fn a_life_that_begins_without_a_clean_stop_has_no_points_until_it_is_caught_up() {
        let mut log = Log::new(1);
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let before = log.mark();
        log.put(Record::Incarnation { id: IncarnationId([2; 16]), predecessor: Some(IncarnationId([1; 16])) });
        log.mark();
        assert_eq!(log.points(), [(before, vec![0])]);
    }

    #[test]
    fn newest_first_goes_on_behind_a_cursor() {
        let mut log = Log::new(1);
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let marks: Vec<_> = (0..5).map(|_| log.mark()).collect();
        let page: Vec<_> = log.history.newest(None).take(2).map(|point| point.lsn).collect();
        assert_eq!(page, [Lsn(marks[4]), Lsn(marks[3])]);
        let rest: Vec<_> = log.history.newest(Some(page[1])).map(|point| point.lsn.0).collect();
        assert_eq!(rest, [marks[2], marks[1], marks[0]]);
    }

    #[test]
    fn behind_a_segment_that_cannot_be_read_a_late_gap_still_takes_points_back() {
        let mut log = Log::new(1);
        log.put(Record::GapClosed { disk: DiskNo(0) });
        let first = log.mark();
        log.mark();
        let mut later = log.history.state().clone();
        let gap = crate::vault::state::Gap { from: Lsn(first + 1), reason: GapReason::Overload };
        later.disks.get_mut(&DiskNo(0)).expect("it is there").gap = Some(gap);
        later.last_lsn = Lsn(99);
        let records = [RecordAt { lsn: Lsn(60), record: Record::CleanStop { captured_at: Timestamp(0) } }];
        let place = (TimelineId([1; 8]), Slot(9));
        let segment = SegmentRecords {
            place,
            boundaries: &[],
            records: &records,
            writes: &[],
            state: Some(&later),
            readable: false,
        };
        log.history.take(segment).expect("later records follow");
        assert_eq!(log.points(), [(first, vec![0]), (first + 1, vec![0])]);
        let gap = crate::vault::state::Gap { from: Lsn(first), reason: GapReason::Overload };
        later.disks.get_mut(&DiskNo(0)).expect("it is there").gap = Some(gap);
        log.history.jump(&later);
        assert_eq!(log.points(), [(first, vec![0])]);
    }
}
