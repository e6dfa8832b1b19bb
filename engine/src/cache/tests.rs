//! The cache as a whole: what is written, synced, torn, damaged and found again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::dir::{CacheDir, may_continue};
use super::file::SegmentFile;
use super::io::{CacheIo, DiskIo};
use super::model::{DiskFault, ModelDisk};
use super::recover::{DiscardReason, Recovered, Unlocked, recover, reindex, survey, unlock};
use super::*;
use crate::ids::{Epoch, IncarnationId, Lsn, MachineId, Salt, Slot, TimelineId, Timestamp, WriterId};
use crate::log::SegmentNo;
use crate::log::sequencer::{AppendJob, ClosedSegment, LogOf, Sequencer, SequencerLimits};
use crate::sim::chance::SeededChance;
use crate::sim::maker::{Maker, seal};
use crate::vault::crypto::DataKey;
use crate::vault::segment::{FooterDigest, FooterPlace, scan_whole_batches, seal_footer};
use crate::vault::state::LogState;

const CACHE: &str = "/cache";
const LIFE: IncarnationId = IncarnationId([9; 16]);

fn key() -> DataKey {
    DataKey::from_bytes([7; 32])
}

fn owner() -> Owner {
    Owner { epoch: Epoch(3), writer: WriterId([4; 16]) }
}

/// A machine that writes into a cache on a model disk.
struct Rig {
    disk: ModelDisk,
    dir: CacheDir,
    sequencer: Sequencer,
    maker: Maker,
    chance: SeededChance,
    file: Option<SegmentFile>,
    closed: Vec<ClosedSegment>,
    /// It lives on after a failed append.
    lives: bool,
}

impl Rig {
    fn new() -> Self {
        let disk = ModelDisk::new(1 << 30);
        let (machine, timeline) = (MachineId([1; 16]), TimelineId([2; 8]));
        let dir = CacheDir::open(Arc::new(disk.clone()), Path::new(CACHE), machine, timeline).expect("a directory");
        dir.claim(owner()).expect("nobody's");
        let log = LogOf { machine, timeline, owner: owner() };
        let limits = SequencerLimits::default();
        let mut rig = Self {
            disk,
            dir,
            sequencer: Sequencer::new(log, limits, LogState::default(), SegmentNo(1)),
            maker: Maker::new(&key(), 2, 1000, Lsn(1)),
            chance: SeededChance::new(5),
            file: None,
            closed: Vec::new(),
            lives: true,
        };
        let batch = rig.maker.begin(LIFE, None);
        rig.take(batch);
        rig
    }

    fn take(&mut self, batch: crate::batch::Batch) {
        let dispatch =
            self.sequencer.accept(batch, Duration::ZERO, Timestamp(0), &mut self.chance).expect("it follows");
        seal(&key(), &dispatch).into_iter().for_each(|item| assert!(self.sequencer.sealed(dispatch.batch, item)));
        let job = self.sequencer.take_append().expect("it is sealed");
        match self.append(&job).and_then(|()| self.file.as_mut().expect("created").sync()) {
            Ok(()) => self.sequencer.appended_and_synced(job.append),
            Err(_) => {
                if let Some(file) = self.file.take().filter(|_| self.lives) {
                    file.abandon(&self.dir);
                }
                self.sequencer.failed(job.append)
            }
        };
        self.closed.extend(std::iter::from_fn(|| self.sequencer.take_closed()));
    }

    fn append(&mut self, job: &AppendJob) -> Result<(), CacheError> {
        if let Some(identity) = &job.create {
            self.file = Some(SegmentFile::create(&self.dir, job.segment, identity)?);
        }
        self.file.as_mut().expect("created").append(job.offset, &job.parts)
    }

    /// Two writes of half a kilobyte in a batch, so many times.
    fn batches(&mut self, count: u64) {
        for _ in 0..count {
            let batch = self.maker.writes(2, &mut self.chance).0;
            self.take(batch);
        }
    }

    fn close(&mut self) -> ClosedSegment {
        self.sequencer.close_open();
        self.sequencer.take_closed().expect("it was open")
    }

    fn recover(&self) -> Recovered {
        recover(&self.dir, owner()).expect("the disk works")
    }

    fn unlock(&self) -> Unlocked {
        unlock(&self.dir, &self.recover(), &key(), LogState::default()).expect("the disk works")
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.segment_path(SegmentNo(segment))
    }
}

fn sealed(closed: &ClosedSegment, place: FooterPlace) -> (bytes::Bytes, FooterDigest) {
    let index = closed.index.as_ref().expect("kept");
    let footer = seal_footer(
        &key(),
        &closed.identity,
        place,
        index,
        &closed.state_after,
        Salt([place.slot.0 as u8; 16]),
        Timestamp(1),
        closed.items_end,
    );
    (footer.bytes, footer.digest)
}

fn place(slot: u64) -> FooterPlace {
    FooterPlace { slot: Slot(slot), previous: FooterDigest::NONE }
}

#[test]
fn a_torn_last_batch_is_cut_and_the_rest_is_sent() {
    let mut rig = Rig::new();
    rig.batches(3);
    let durable = rig.sequencer.durable();
    rig.lives = false;
    rig.disk.inject(DiskFault::TornWrite { after_bytes: 700 });
    rig.batches(1);
    assert_eq!(rig.sequencer.durable(), durable);
    let recovered = rig.recover();
    assert!(recovered.segments[0].cut);
    let unlocked = rig.unlock();
    assert_eq!(unlocked.state, *rig.sequencer.durable_state());
    let (closed, note) = &unlocked.closed[0];
    assert_eq!((closed.first, closed.last, *note), (Lsn(1), durable, None));
    let index = reindex(&rig.dir, closed, &key()).expect("it is whole");
    assert_eq!(index.run(), Some((Lsn(1), durable)));
    let file = SegmentFile::open(&rig.dir, closed.segment).expect("there");
    assert_eq!(file.read_items(closed.items_end).expect("whole").len() as u64, closed.items_end);
}

#[test]
fn every_prefix_of_a_file_recovers_exactly_its_whole_batches() {
    let mut rig = Rig::new();
    rig.batches(4);
    let whole = rig.disk.contents(&rig.path(1)).expect("written");
    let ends: Vec<(u64, Lsn)> =
        scan_whole_batches(&whole).expect("whole").batches.iter().map(|batch| (batch.end, batch.last)).collect();
    assert_eq!(ends.last().map(|end| end.0), Some(whole.len() as u64));
    for cut in 0..=whole.len() {
        rig.disk.plant(&rig.path(1), whole[..cut].to_vec());
        let recovered = rig.recover();
        let expected = ends.iter().rev().find(|(end, _)| *end <= cut as u64);
        let found = recovered.segments.first().map(|segment| (segment.items_end, segment.last));
        assert_eq!(found, expected.copied(), "cut at {cut}");
        assert_eq!(recovered.next_segment, SegmentNo(2));
        assert_eq!(recovered.discarded.len(), usize::from(expected.is_none()));
    }
}

#[test]
fn a_flipped_bit_costs_the_batches_from_there_on_and_never_passes() {
    let mut rig = Rig::new();
    rig.batches(3);
    let whole = rig.disk.contents(&rig.path(1)).expect("written");
    let ends: Vec<u64> = scan_whole_batches(&whole).expect("whole").batches.iter().map(|batch| batch.end).collect();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        rig.disk.plant(&rig.path(1), damaged);
        let expected = ends.iter().rev().find(|end| **end <= at as u64).filter(|_| at >= 128);
        let found = rig.recover().segments.first().map(|segment| segment.items_end);
        assert_eq!(found, expected.copied(), "bit of byte {at}");
    }
}

#[test]
fn damage_in_a_file_discards_all_that_is_behind_it() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.batches(2);
        rig.close();
    }
    let mut damaged = rig.disk.contents(&rig.path(2)).expect("written");
    *damaged.last_mut().expect("long") ^= 1;
    rig.disk.plant(&rig.path(2), damaged);
    let unlocked = rig.unlock();
    let sent: Vec<u64> = unlocked.closed.iter().map(|(closed, _)| closed.segment.0).collect();
    assert_eq!(sent, [1, 2], "of the second, what is in front of the damage");
    assert_eq!(unlocked.discarded.len(), 1);
    assert!(matches!(unlocked.discarded[0].reason, DiscardReason::Hole(_)));
    assert_eq!(unlocked.state.last_lsn, unlocked.closed[1].0.last);
}

#[test]
fn a_life_that_begins_behind_damage_does_not_hide_the_hole() {
    let mut rig = Rig::new();
    rig.batches(2);
    rig.close();
    let next_life = rig.maker.begin(IncarnationId([10; 16]), Some(LIFE));
    rig.take(next_life);
    rig.close();
    let whole = rig.disk.contents(&rig.path(1)).expect("written");
    rig.disk.plant(&rig.path(1), whole[..whole.len() - 1].to_vec());
    let unlocked = rig.unlock();
    assert_eq!(unlocked.closed.len(), 1);
    assert!(matches!(unlocked.discarded[0].reason, DiscardReason::Hole(_)), "{:?}", unlocked.discarded);
    rig.disk.plant(&rig.path(1), vec![1; 200]);
    assert_eq!(rig.unlock().closed.len(), 0);
}

#[test]
fn a_torn_footer_of_what_the_vault_has_makes_no_later_life_suspect() {
    let mut rig = Rig::new();
    rig.batches(2);
    let closed = rig.close();
    let mut torn = rig.disk.contents(&rig.path(1)).expect("written");
    torn.extend([7; 30]);
    rig.disk.plant(&rig.path(1), torn);
    // A life that begins behind a crash of its machine leaves LSNs out.
    rig.maker = Maker::new(&key(), 2, 1000, Lsn(closed.last.0 + 5000));
    let next_life = rig.maker.begin(IncarnationId([10; 16]), Some(LIFE));
    rig.take(next_life);
    let recovered = rig.recover();
    assert!(recovered.segments[0].cut);
    let uncertain = unlock(&rig.dir, &recovered, &key(), LogState::default()).expect("the disk works");
    assert!(matches!(uncertain.discarded[0].reason, DiscardReason::Hole(_)), "while nobody has what may be missing");
    let unlocked = unlock(&rig.dir, &recovered, &key(), closed.state_after).expect("the disk works");
    assert_eq!((unlocked.committed.len(), unlocked.closed.len(), &unlocked.discarded[..]), (1, 1, &[][..]));
    assert_eq!(unlocked.state, *rig.sequencer.durable_state());
}

#[test]
fn a_log_whose_very_first_file_is_damaged_is_sent_again_from_its_beginning() {
    let mut rig = Rig::new();
    rig.batches(1);
    rig.close();
    rig.batches(1);
    let mut damaged = rig.disk.contents(&rig.path(1)).expect("written");
    damaged[200] ^= 1;
    rig.disk.plant(&rig.path(1), damaged);
    let recovered = rig.recover();
    assert_eq!(recovered.discarded[0].reason, DiscardReason::Torn);
    assert!(recovered.segments[0].behind_damage);
    let unlocked = rig.unlock();
    assert_eq!(unlocked.closed.len(), 0, "what follows has no beginning");
    assert_eq!(unlocked.state, LogState::default());
    rig.dir.remove(SegmentNo(1)).expect("removed");
    assert_eq!(rig.unlock().closed.len(), 0, "nor when the file is gone");
}

#[test]
fn bytes_that_the_key_does_not_open_are_never_sent() {
    let mut rig = Rig::new();
    rig.batches(2);
    let other = DataKey::from_bytes([8; 32]);
    let unlocked = unlock(&rig.dir, &rig.recover(), &other, LogState::default()).expect("the disk works");
    assert_eq!(unlocked.closed.len(), 0);
    assert!(matches!(unlocked.discarded[0].reason, DiscardReason::Damaged(_)));
}

#[test]
fn what_an_abandoned_append_left_is_taken_from_the_file_it_was_sent_to_again() {
    let mut rig = Rig::new();
    rig.batches(2);
    rig.lives = false;
    rig.disk.inject(DiskFault::FailedSync);
    let before = rig.sequencer.durable();
    rig.batches(1);
    assert_eq!(rig.sequencer.durable(), before);
    assert_eq!(rig.recover().segments[0].last, Lsn(before.0 + 2), "all of it got into the page cache");
    rig.maker = Maker::new(&key(), 2, 1000, before.next());
    rig.batches(2);
    let recovered = rig.recover();
    let runs: Vec<(Lsn, Lsn)> = recovered.segments.iter().map(|segment| (segment.first, segment.last)).collect();
    assert_eq!(runs, [(Lsn(1), before), (before.next(), Lsn(before.0 + 4))]);
    assert_eq!(rig.unlock().state, *rig.sequencer.durable_state());
    let refused = rig.file.as_mut().map(SegmentFile::sync);
    assert!(matches!(refused, Some(Ok(()))), "the new file is sound");
}

#[test]
fn an_abandoned_file_takes_no_more_writes() {
    let mut rig = Rig::new();
    let mut file = rig.file.take().expect("open");
    rig.disk.inject(DiskFault::FailedSync);
    assert!(matches!(file.sync(), Err(CacheError::Disk { .. })));
    assert!(matches!(file.sync(), Err(CacheError::Abandoned { .. })), "a second sync would lie");
    assert!(matches!(file.append(128, &[bytes::Bytes::from_static(b"x")]), Err(CacheError::Abandoned { .. })));
    let place = place(1);
    let written = file.write_footer(128, &bytes::Bytes::new(), place, FooterDigest::NONE);
    assert!(matches!(written, Err(CacheError::Abandoned { .. })));
}

#[test]
fn a_full_disk_in_the_middle_of_a_batch_loses_nothing() {
    let mut rig = Rig::new();
    rig.batches(2);
    let durable = rig.sequencer.durable();
    let used = rig.disk.contents(&rig.path(1)).expect("written").len() as u64 + 64;
    rig.disk.set_capacity(used + 300);
    let batch = rig.maker.writes(2, &mut rig.chance).0;
    let dispatch = rig.sequencer.accept(batch, Duration::ZERO, Timestamp(0), &mut rig.chance).expect("it follows");
    seal(&key(), &dispatch).into_iter().for_each(|item| assert!(rig.sequencer.sealed(dispatch.batch, item)));
    let job = rig.sequencer.take_append().expect("sealed");
    let error = rig.append(&job).expect_err("no room");
    assert!(error.is_full(), "{error}");
    assert_eq!(rig.sequencer.failed(job.append), durable);
    assert_eq!(rig.unlock().state.last_lsn, durable);
    rig.disk.set_capacity(1 << 30);
    rig.maker = Maker::new(&key(), 2, 1000, durable.next());
    rig.batches(3);
    assert_eq!(rig.unlock().state, *rig.sequencer.durable_state());
}

#[test]
fn files_of_another_owner_are_discarded_and_say_why() {
    let mut rig = Rig::new();
    rig.batches(2);
    let newer = Owner { epoch: Epoch(4), writer: WriterId([5; 16]) };
    rig.dir.claim(newer).expect("a newer epoch");
    let recovered = recover(&rig.dir, newer).expect("the disk works");
    assert_eq!(recovered.segments, []);
    assert_eq!(recovered.discarded[0].reason, DiscardReason::Foreign);
    assert_eq!(recovered.next_segment, SegmentNo(2), "its number is not given again");
    for older in [owner(), Owner { epoch: Epoch(4), writer: WriterId([6; 16]) }] {
        assert!(matches!(rig.dir.claim(older), Err(CacheError::OwnedByOther { .. })));
    }
    rig.dir.claim(newer).expect("its own");
}

#[test]
fn an_owner_whose_cache_is_lost_needs_a_new_epoch() {
    let rig = Rig::new();
    let found = rig.dir.owner().expect("readable");
    assert_eq!(found, Some(owner()));
    may_continue(owner(), found, Some(owner())).expect("its own cache");
    may_continue(owner(), None, None).expect("a fresh start");
    assert!(matches!(may_continue(owner(), None, Some(owner())), Err(CacheError::CacheLost { .. })));
    let path = rig.dir.path().join("owner");
    let whole = rig.disk.contents(&path).expect("written");
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        rig.disk.plant(&path, damaged);
        assert!(matches!(rig.dir.owner(), Err(CacheError::OwnerDamaged { .. })), "byte {at}");
    }
    rig.disk.plant(&path, whole[..40].to_vec());
    assert!(rig.dir.owner().is_err());
    let newer = Owner { epoch: Epoch(4), writer: WriterId([5; 16]) };
    rig.dir.claim(newer).expect("a damaged owner file is nobody's");
    assert_eq!(rig.dir.owner().expect("readable again"), Some(newer));
}

#[test]
fn a_sealed_segment_needs_no_key_and_takes_another_footer() {
    let mut rig = Rig::new();
    rig.batches(2);
    let closed = rig.close();
    let file = rig.file.as_mut().expect("open");
    for slot in [5, 6] {
        let (footer, digest) = sealed(&closed, place(slot));
        file.write_footer(closed.items_end, &footer, place(slot), digest).expect("room");
        let note = file.note().expect("readable").expect("written");
        assert_eq!((note.place, note.digest, note.items_end), (place(slot), digest, closed.items_end));
        assert_eq!(file.read_footer(&note).expect("readable"), footer);
    }
    let recovered = rig.recover();
    let segment = &recovered.segments[0];
    assert_eq!(segment.note.map(|note| note.place), Some(place(6)));
    assert!(!segment.cut);
    assert_eq!(segment.items_end, closed.items_end);
}

#[test]
fn a_footer_that_the_disk_has_changed_is_not_sent_but_sealed_again() {
    let mut rig = Rig::new();
    rig.batches(2);
    let closed = rig.close();
    let (footer, digest) = sealed(&closed, place(5));
    let file = rig.file.as_mut().expect("open");
    file.write_footer(closed.items_end, &footer, place(5), digest).expect("room");
    let note = file.note().expect("readable").expect("written");
    let path = rig.dir.segment_path(closed.segment);
    let whole = rig.disk.contents(&path).expect("written");
    for at in note.items_end..note.object_bytes {
        let mut damaged = whole.clone();
        damaged[at as usize] ^= 0x10;
        rig.disk.plant(&path, damaged);
        let opened = SegmentFile::open(&rig.dir, closed.segment).expect("it is there");
        assert!(matches!(opened.read_footer(&note), Err(CacheError::Damaged { .. })), "byte {at}");
        let recovered = survey(&rig.dir, owner()).expect("the disk works");
        let segment = &recovered.segments[0];
        assert_eq!(
            (segment.note, segment.items_end),
            (None, closed.items_end),
            "byte {at}: its items are as good as before"
        );
    }
}

#[test]
fn what_the_log_has_is_room_and_what_it_has_a_part_of_is_sent_again() {
    let mut rig = Rig::new();
    rig.batches(2);
    let first = rig.close();
    rig.batches(2);
    let second = rig.close();
    let recovered = rig.recover();
    let all = unlock(&rig.dir, &recovered, &key(), first.state_after.clone()).expect("the disk works");
    assert_eq!(all.committed.iter().map(|segment| segment.segment).collect::<Vec<_>>(), [first.segment]);
    assert_eq!(all.closed.iter().map(|(closed, _)| closed.segment).collect::<Vec<_>>(), [second.segment]);
    let mut part = first.state_after.clone();
    part.last_lsn = Lsn(part.last_lsn.0 + 2);
    let partly = unlock(&rig.dir, &recovered, &key(), part.clone()).expect("the disk works");
    assert_eq!(partly.discarded[0].reason, DiscardReason::PartlyCommitted(part.last_lsn));
    assert_eq!(partly.state, part, "the agent goes on behind what the log has");
}

#[test]
fn after_any_crash_everything_that_was_durable_is_there() {
    for seed in 0..400 {
        let mut rig = Rig::new();
        rig.chance = SeededChance::new(seed);
        for _ in 0..rig.chance.between(1, 12) {
            match rig.chance.below(8) {
                0 => rig.disk.inject(DiskFault::FailedSync),
                1 => rig.disk.inject(DiskFault::TornWrite { after_bytes: rig.chance.below(2000) }),
                2 => rig.disk.inject(DiskFault::FailedCreate),
                3 => rig.sequencer.close_open(),
                _ => {}
            }
            rig.closed.extend(std::iter::from_fn(|| rig.sequencer.take_closed()));
            let state = rig.sequencer.durable_state().clone();
            rig.maker = Maker::new(&key(), 2, 1000, state.last_lsn.next());
            match state.incarnation {
                None => {
                    let batch = rig.maker.begin(LIFE, None);
                    rig.take(batch);
                }
                Some(_) => rig.batches(1),
            }
            if let (true, Some(file)) = (rig.chance.happens(200), rig.file.as_mut()) {
                // Something is written that nobody waits for.
                let junk = bytes::Bytes::from(vec![0x5a; 900]);
                let end = file.len().expect("readable");
                let _ = file.append(end, &[junk]);
            }
        }
        let durable = rig.sequencer.durable_state().clone();
        rig.disk.crash(&mut rig.chance);
        let unlocked = rig.unlock();
        assert!(unlocked.state.last_lsn >= durable.last_lsn, "seed {seed}: {:?} {durable:?}", unlocked.state.last_lsn);
        assert!(unlocked.discarded.is_empty(), "seed {seed}: {:?}", unlocked.discarded);
        if unlocked.state.last_lsn == durable.last_lsn {
            assert_eq!(unlocked.state, durable, "seed {seed}");
        }
        assert_eq!(rig.dir.owner().expect("readable"), Some(owner()));
    }
}

#[test]
fn what_recovery_calls_durable_survives_the_next_power_cut() {
    for seed in 0..200 {
        let mut rig = Rig::new();
        rig.chance = SeededChance::new(seed);
        rig.batches(2);
        let batch = rig.maker.writes(2, &mut rig.chance).0;
        let dispatch = rig.sequencer.accept(batch, Duration::ZERO, Timestamp(0), &mut rig.chance).expect("it follows");
        seal(&key(), &dispatch).into_iter().for_each(|item| assert!(rig.sequencer.sealed(dispatch.batch, item)));
        let job = rig.sequencer.take_append().expect("sealed");
        rig.append(&job).expect("room");
        if seed % 2 == 0 {
            rig.disk.inject(DiskFault::FailedSync);
            rig.file.as_mut().expect("open").sync().expect_err("injected");
        }
        // The process is killed here; the page cache stays. Every third time there is no room for a second copy.
        if seed % 3 == 0 {
            rig.disk.inject(DiskFault::FailedCreate);
        }
        let recovered = rig.unlock();
        assert_eq!(recovered.state.last_lsn, job.last, "all of it is in the page cache");
        rig.disk.crash(&mut rig.chance);
        assert_eq!(rig.unlock().state, recovered.state, "seed {seed}");
    }
}

#[test]
fn a_crash_while_a_footer_is_written_leaves_a_segment_that_is_sealed_again() {
    for seed in 0..200 {
        let mut rig = Rig::new();
        rig.chance = SeededChance::new(seed);
        rig.batches(2);
        let closed = rig.close();
        let file = rig.file.as_mut().expect("open");
        for slot in [5, 6] {
            let (footer, digest) = sealed(&closed, place(slot));
            if rig.chance.happens(300) {
                rig.disk.inject(DiskFault::FailedSync);
            }
            if rig.chance.happens(300) {
                rig.disk.inject(DiskFault::TornWrite { after_bytes: rig.chance.below(500) });
            }
            let _ = file.write_footer(closed.items_end, &footer, place(slot), digest);
        }
        rig.disk.crash(&mut rig.chance);
        let recovered = rig.recover();
        assert_eq!(recovered.segments[0].items_end, closed.items_end, "seed {seed}");
        if let Some(note) = recovered.segments[0].note {
            let (footer, digest) = sealed(&closed, note.place);
            let file = SegmentFile::open(&rig.dir, closed.segment).expect("there");
            assert_eq!(note.digest, digest);
            assert_eq!(
                file.read_footer(&note).expect("readable"),
                footer,
                "seed {seed}: a note vouches for all before it"
            );
        }
    }
}

#[test]
fn the_real_disk_behaves_as_the_port_says() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    let dir = CacheDir::open(Arc::new(DiskIo), &cache, MachineId([1; 16]), TimelineId([2; 8])).expect("made");
    dir.claim(owner()).expect("nobody's");
    assert_eq!(dir.owner().expect("readable"), Some(owner()));
    let mut rig = Rig::new();
    rig.batches(2);
    let model = rig.disk.contents(&rig.path(1)).expect("written");
    let identity = scan_whole_batches(&model).expect("whole").identity;
    let mut file = SegmentFile::create(&dir, SegmentNo(1), &identity).expect("created");
    let parts: Vec<bytes::Bytes> =
        model[128..].chunks(1).map(bytes::Bytes::copy_from_slice).chain([bytes::Bytes::new()]).collect();
    assert!(parts.len() > 2 * 1024, "many parts, some empty");
    file.append(128, &parts).expect("room");
    file.sync().expect("synced");
    assert_eq!(file.read_items(model.len() as u64).expect("whole"), model);
    assert!(matches!(file.read_items(model.len() as u64 + 1), Err(CacheError::Damaged { .. })));
    assert_eq!(recover(&dir, owner()).expect("readable").segments.len(), 1);
    assert!(matches!(SegmentFile::create(&dir, SegmentNo(1), &identity), Err(CacheError::Disk { .. })));
    let space = DiskIo.space(dir.path()).expect("statvfs");
    assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
    dir.remove(SegmentNo(1)).expect("removed");
    dir.remove(SegmentNo(1)).expect("already gone");
    assert_eq!(dir.segments().expect("readable"), []);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(dir.path().join("owner")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
