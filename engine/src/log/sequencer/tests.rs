use super::*;
use crate::ids::{Epoch, IncarnationId, MachineId, TimelineId, WriterId};
use crate::log::Owner;
use crate::record::GapReason;
use crate::sim::chance::SeededChance;
use crate::sim::maker::{Maker, seal};
use crate::vault::crypto::DataKey;
use crate::vault::segment::{FrameOpener, rebuild_index};
use crate::vault::state::StateError;

fn key() -> DataKey {
    DataKey::from_bytes([7; 32])
}

/// A sequencer, its machine, and files in memory.
struct Rig {
    sequencer: Sequencer,
    maker: Maker,
    chance: SeededChance,
    now: Duration,
    /// What was appended and synced, a file per segment.
    files: Vec<(SegmentIdentity, Vec<u8>)>,
    closed: Vec<ClosedSegment>,
}

impl Rig {
    fn new(limits: SequencerLimits) -> Self {
        let owner = Owner { epoch: Epoch(3), writer: WriterId([4; 16]) };
        let log = LogOf { machine: MachineId([1; 16]), timeline: TimelineId([2; 8]), owner };
        let mut rig = Self {
            sequencer: Sequencer::new(log, limits, LogState::default(), SegmentNo(1)),
            maker: Maker::new(&key(), 2, 1000, Lsn(1)),
            chance: SeededChance::new(1),
            now: Duration::ZERO,
            files: Vec::new(),
            closed: Vec::new(),
        };
        let batch = rig.maker.begin(IncarnationId([9; 16]), None);
        let dispatch = rig.accept(batch);
        rig.seal(&dispatch);
        rig.append();
        rig
    }

    fn accept(&mut self, batch: Batch) -> Dispatch {
        self.sequencer.accept(batch, self.now, Timestamp(0), &mut self.chance).expect("it follows")
    }

    fn writes(&mut self, count: u64) -> Dispatch {
        let batch = self.maker.writes(count, &mut self.chance).0;
        self.accept(batch)
    }

    fn seal(&mut self, dispatch: &Dispatch) {
        for item in seal(&key(), dispatch) {
            assert!(self.sequencer.sealed(dispatch.batch, item));
        }
    }

    /// Appends and syncs everything that can be; gives what is durable.
    fn append(&mut self) -> Lsn {
        while let Some(job) = self.sequencer.take_append() {
            self.write(&job);
            self.sequencer.appended_and_synced(job.append);
            self.take_closed();
        }
        self.sequencer.durable()
    }

    fn write(&mut self, job: &AppendJob) {
        if let Some(identity) = job.create {
            self.files.push((identity, identity.encode(crate::vault::segment::ObjectKind::Segment).to_vec()));
        }
        let file = &mut self.files.last_mut().expect("a file is created first").1;
        assert_eq!(file.len() as u64, job.offset);
        job.parts.iter().for_each(|part| file.extend_from_slice(part));
        assert_eq!(file.len() as u64, job.offset + job.bytes);
    }

    fn take_closed(&mut self) {
        while let Some(closed) = self.sequencer.take_closed() {
            let (identity, file) = self.files.iter().find(|file| file.0 == closed.identity).expect("it was created");
            let bytes = Bytes::copy_from_slice(&file[..closed.items_end as usize]);
            let (_, index) = rebuild_index(&FrameOpener::new(&key(), identity), &bytes).expect("it opens");
            assert_eq!(Some(&index), closed.index.as_ref(), "the index says what the file holds");
            assert_eq!(index.run(), Some((closed.first, closed.last)));
            assert_eq!(closed.state_after.last_lsn, closed.last);
            self.closed.push(closed);
        }
    }
}

fn small() -> SequencerLimits {
    SequencerLimits { segment_bytes_max: 16 << 10, in_flight_bytes_max: 64 << 10, ..SequencerLimits::default() }
}

#[test]
fn batches_become_durable_in_order_whichever_is_sealed_first() {
    let mut rig = Rig::new(SequencerLimits::default());
    let begun = rig.sequencer.durable();
    let dispatches: Vec<Dispatch> = (0..3).map(|_| rig.writes(4)).collect();
    rig.seal(&dispatches[2]);
    rig.seal(&dispatches[1]);
    assert_eq!(rig.append(), begun, "the first batch is not sealed yet");
    let mut items = seal(&key(), &dispatches[0]);
    let end = items.pop().expect("a batch end");
    assert!(rig.sequencer.sealed(dispatches[0].batch, end));
    assert_eq!(rig.append(), begun, "its frames are missing");
    items.into_iter().rev().for_each(|item| assert!(rig.sequencer.sealed(dispatches[0].batch, item)));
    let job = rig.sequencer.take_append().expect("all three are ready");
    assert_eq!(job.last, dispatches[2].end.last, "one append takes everything that waits");
    assert!(rig.sequencer.take_append().is_none(), "one append at a time");
    rig.write(&job);
    assert_eq!(rig.sequencer.durable(), begun, "nothing is durable before the sync");
    assert_eq!(rig.sequencer.appended_and_synced(job.append), dispatches[2].end.last);
    assert_eq!(rig.sequencer.room_bytes(), SequencerLimits::default().in_flight_bytes_max);
}

#[test]
fn a_segment_closes_on_size_and_frames_on_their_way_stay_in_it() {
    let mut rig = Rig::new(small());
    let dispatches: Vec<Dispatch> = (0..20).map(|_| rig.writes(4)).collect();
    let segments: Vec<u64> = dispatches.iter().map(|dispatch| dispatch.segment.0).collect();
    assert!(segments.is_sorted());
    assert!(segments[19] >= 3, "{segments:?}");
    dispatches.iter().rev().for_each(|dispatch| rig.seal(dispatch));
    rig.append();
    assert_eq!(rig.closed.len() as u64, segments[19] - 1, "the last one stays open");
    for (closed, next) in rig.closed.iter().zip(&rig.closed[1..]) {
        assert_eq!(closed.last.next(), next.first);
        assert!(closed.items_end <= 16 << 10);
        assert_ne!(closed.identity.salt, next.identity.salt);
    }
}

#[test]
fn a_segment_closes_when_it_is_old_and_an_idle_machine_closes_nothing() {
    let mut rig = Rig::new(SequencerLimits::default());
    assert_eq!(rig.sequencer.closes_at(), Some(Duration::from_secs(2)));
    rig.sequencer.tick(Duration::from_millis(1999));
    assert!(rig.sequencer.take_closed().is_none());
    rig.now = Duration::from_secs(2);
    rig.sequencer.tick(rig.now);
    rig.take_closed();
    assert_eq!(rig.closed.len(), 1);
    assert!(rig.sequencer.is_idle());
    assert_eq!(rig.sequencer.closes_at(), None);
    rig.sequencer.tick(Duration::from_secs(3600));
    rig.sequencer.close_open();
    assert!(rig.sequencer.take_closed().is_none());
    let dispatch = rig.writes(1);
    rig.sequencer.tick(rig.now + Duration::from_secs(2));
    assert!(rig.sequencer.take_closed().is_none(), "what is in flight is waited for");
    rig.seal(&dispatch);
    rig.append();
    assert_eq!(rig.closed.len(), 2);
}

#[test]
fn app_and_group_marks_and_clean_stops_close_their_segment_at_once() {
    let mut rig = Rig::new(SequencerLimits::default());
    let stop = Record::CleanStop { captured_at: Timestamp(1) };
    for (kind, closes) in
        [(Some(MarkKind::Crash), false), (Some(MarkKind::App), true), (Some(MarkKind::Group), true), (None, true)]
    {
        let batch = match kind {
            Some(kind) => rig.maker.mark(kind, &mut rig.chance),
            None => rig.maker.record(stop.clone()),
        };
        let dispatch = rig.accept(batch);
        rig.seal(&dispatch);
        let before = rig.closed.len();
        let durable = rig.append();
        assert_eq!(rig.closed.len() > before, closes, "{kind:?}");
        assert_eq!(durable, dispatch.end.last);
    }
    let last = rig.closed.last().expect("the clean stop closed it");
    assert!(last.state_after.clean_stop);
    assert_eq!(last.state_after.newest_mark.map(|mark| mark.captured_at.0 as u64), Some(last.first.0 - 1));
}

#[test]
fn the_first_mark_that_shows_a_disk_again_closes_its_segment_at_once_and_the_next_does_not() {
    let mut rig = Rig::new(SequencerLimits::default());
    let disk = DiskNo(0);
    let from = rig.maker.next();
    let batches = [
        (rig.maker.record(Record::GapOpened { disk, from, reason: GapReason::Overload }), false),
        (rig.maker.record(Record::GapClosed { disk }), false),
        (rig.maker.mark(MarkKind::Crash, &mut rig.chance), true),
        (rig.maker.mark(MarkKind::Crash, &mut rig.chance), false),
    ];
    for (number, (batch, closes)) in batches.into_iter().enumerate() {
        let dispatch = rig.accept(batch);
        rig.seal(&dispatch);
        let before = rig.closed.len();
        rig.append();
        assert_eq!(rig.closed.len() > before, closes, "batch {number}");
    }
}

#[test]
fn a_failed_append_is_never_repeated_and_what_follows_goes_to_a_new_segment() {
    let mut rig = Rig::new(SequencerLimits::default());
    let kept = rig.writes(4);
    rig.seal(&kept);
    let durable = rig.append();
    let lost: Vec<Dispatch> = (0..2).map(|_| rig.writes(4)).collect();
    rig.seal(&lost[0]);
    let job = rig.sequencer.take_append().expect("one is ready");
    assert_eq!(rig.sequencer.failed(job.append), durable);
    rig.take_closed();
    assert_eq!(rig.closed.len(), 1);
    assert!(rig.closed[0].abandoned);
    assert_eq!((rig.closed[0].last, rig.closed[0].items_end), (durable, job.offset));
    for item in seal(&key(), &lost[1]) {
        assert!(!rig.sequencer.sealed(lost[1].batch, item), "nobody waits for it");
    }
    assert_eq!(rig.sequencer.room_bytes(), SequencerLimits::default().in_flight_bytes_max);
    let skips = rig.maker.writes(1, &mut rig.chance).0;
    let refused = rig.sequencer.accept(skips, rig.now, Timestamp(0), &mut rig.chance);
    assert!(matches!(refused, Err(Refused::State(StateError::Missing { .. }))), "{refused:?}");
    rig.maker = Maker::new(&key(), 2, 1000, durable.next());
    let again = rig.writes(4);
    assert_eq!(again.segment, SegmentNo(2));
    assert_ne!(again.identity.salt, kept.identity.salt);
    rig.seal(&again);
    assert_eq!(rig.append(), again.end.last);
}

#[test]
fn a_segment_whose_very_first_append_failed_leaves_nothing_behind() {
    let mut rig = Rig::new(SequencerLimits::default());
    rig.sequencer.close_open();
    rig.take_closed();
    let lost = rig.writes(4);
    rig.seal(&lost);
    let job = rig.sequencer.take_append().expect("it is ready");
    assert!(job.create.is_some());
    rig.sequencer.failed(job.append);
    rig.take_closed();
    assert_eq!(rig.closed.len(), 1);
    assert!(rig.sequencer.is_idle());
}

#[test]
fn what_a_dead_disk_was_sealing_is_sealed_anew_under_fresh_numbers() {
    let mut rig = Rig::new(SequencerLimits::default());
    let first = rig.writes(8);
    let second = rig.writes(8);
    assert_eq!(first.frames.len(), 2, "both disks are written to");
    let (old_first, old_second) = (seal(&key(), &first), seal(&key(), &second));
    assert!(rig.sequencer.sealed(first.batch, old_first[1].clone()), "the other disk's frame is there");
    let again = rig.sequencer.dispatch_again(first.frames[0].disk);
    assert_eq!(again.iter().map(|again| again.batch).collect::<Vec<_>>(), [first.batch, second.batch]);
    let highest = second.end.number;
    assert!(
        again.iter().flat_map(|again| &again.frames).all(|frame| frame.number > highest),
        "no number is used twice"
    );
    for (batch, item) in [(first.batch, &old_first[0]), (second.batch, &old_second[0]), (second.batch, &old_second[2])]
    {
        assert!(!rig.sequencer.sealed(batch, item.clone()), "an old number");
    }
    again.iter().for_each(|again| rig.seal(again));
    assert_eq!(rig.append(), second.end.last);
    rig.sequencer.close_open();
    rig.take_closed();
    assert_eq!(rig.closed.len(), 1, "its numbers rise, or its index would not have been made");
    assert!(rig.sequencer.dispatch_again(DiskNo(0)).is_empty());
}

#[test]
fn forgotten_batches_may_be_sent_again_while_an_append_is_under_way() {
    let mut rig = Rig::new(small());
    let appending = rig.writes(4);
    rig.seal(&appending);
    let job = rig.sequencer.take_append().expect("it is ready");
    let forgotten: Vec<Dispatch> = (0..12).map(|_| rig.writes(4)).collect();
    assert_ne!(forgotten[11].segment, appending.segment);
    rig.sequencer.forget_waiting();
    assert!(rig.sequencer.is_appending());
    assert_eq!(rig.sequencer.accepted_state().last_lsn, appending.end.last);
    rig.maker = Maker::new(&key(), 2, 1000, appending.end.last.next());
    let again = rig.writes(4);
    assert!(again.batch > forgotten[11].batch);
    rig.seal(&again);
    rig.write(&job);
    assert_eq!(rig.sequencer.appended_and_synced(job.append), appending.end.last);
    assert_eq!(rig.append(), again.end.last);
    rig.sequencer.close_open();
    rig.take_closed();
    assert!(rig.sequencer.is_idle());
    assert_eq!(rig.closed.last().map(|closed| closed.last), Some(again.end.last));
}

#[test]
fn what_is_in_flight_is_bounded() {
    let mut rig = Rig::new(small());
    let mut accepted = Vec::new();
    let refused = loop {
        let batch = rig.maker.writes(8, &mut rig.chance).0;
        match rig.sequencer.accept(batch, rig.now, Timestamp(0), &mut rig.chance) {
            Ok(dispatch) => accepted.push(dispatch),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::Full { in_flight_bytes } if in_flight_bytes < (64 << 10) + (8 << 10)));
    accepted.iter().for_each(|dispatch| rig.seal(dispatch));
    rig.append();
    assert_eq!(rig.sequencer.room_bytes(), 64 << 10);
}

#[test]
fn a_batch_that_leaves_a_hole_or_comes_twice_is_refused_and_changes_nothing() {
    let mut rig = Rig::new(SequencerLimits::default());
    let first = rig.maker.writes(2, &mut rig.chance).0;
    let second = rig.maker.writes(2, &mut rig.chance).0;
    let before = rig.sequencer.accepted_state().clone();
    for wrong in [second.clone(), Batch { sections: Vec::new(), first: Lsn(1), last: Lsn(2), records: Vec::new() }] {
        assert!(rig.sequencer.accept(wrong, rig.now, Timestamp(0), &mut rig.chance).is_err());
    }
    assert_eq!(rig.sequencer.accepted_state(), &before);
    for batch in [first, second] {
        let dispatch = rig.accept(batch);
        rig.seal(&dispatch);
    }
    rig.append();
}
