//! The comparison against a model: a disk that was changed behind the agent, and writes, scans, answers and lost
//! connections in any order. In the end the replica is the disk, and what did not differ was not sent.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::capture::content::analyse;
use crate::capture::opening::{KnownDisk, KnownLog, plan};
use crate::capture::scan::{ScanJob, ScanOutcome, hole_runs};
use crate::capture::{DiskStart, Distrust, Grant, Outcome, RegionSet, SplitterConfig, Ticket};
use crate::digest::DigestKey;
use crate::ids::{DiskNo, IncarnationId, Lsn};
use crate::record::DiskInfo;
use crate::section::{Section, WriteKind};
use crate::vault::state::{DiskState, LogState};

const PIECE: usize = PIECE_BYTES;
const REGION: usize = 2 * PIECE;
/// The last region is short, and so is its last piece.
const SIZE: usize = 9 * PIECE + 512;
const HALF: usize = PIECE / 2;

fn key() -> DigestKey {
    DigestKey::new([9; 32])
}

struct Request {
    ticket: Ticket,
    at: usize,
    data: Bytes,
    grant: Option<Grant>,
    queued: bool,
}

struct World {
    splitter: Splitter,
    now: Duration,
    /// What earlier lives left in the log.
    before: Vec<u8>,
    disk: Vec<u8>,
    requests: VecDeque<Request>,
    scan: Option<(ScanJob, Option<Lsn>)>,
    /// Answers on their way: what the vault had when it was asked.
    asked: VecDeque<Digests>,
    log: Vec<crate::batch::Batch>,
    unknown: bool,
    /// Pieces of which the vault lost all that came before the batch of that number.
    damaged: BTreeSet<usize>,
    damaged_before: usize,
}

impl World {
    /// A disk whose activity log is lost; known at the start, or only when the log is opened.
    fn new(before: Vec<u8>, disk: Vec<u8>, budget_bytes: usize, known_at_start: bool) -> Self {
        let regions = SIZE.div_ceil(REGION) as u32;
        let hot = if known_at_start { RegionSet::all(regions) } else { RegionSet::none(regions) };
        let start = DiskStart { size_bytes: SIZE as u64, region_bytes: REGION as u64, hot };
        let config = SplitterConfig {
            budget_bytes,
            mark_interval: Duration::from_millis(5),
            linger: Duration::from_millis(2),
            scan_chunk_bytes: PIECE as u64,
        };
        Self {
            splitter: Splitter::new(config, Lsn(100), vec![start]),
            now: Duration::ZERO,
            before,
            disk,
            requests: VecDeque::new(),
            scan: None,
            asked: VecDeque::new(),
            log: Vec::new(),
            unknown: false,
            damaged: BTreeSet::new(),
            damaged_before: 0,
        }
    }

    fn open(&mut self, known_at_start: bool) {
        let life = IncarnationId([8; 16]);
        let info = DiskInfo { disk: DiskNo(0), name: "disk".into(), size_bytes: SIZE as u64, sector_bytes: 512 };
        let mut log = LogState { incarnation: Some(life), last_lsn: Lsn(50), clean_stop: true, ..LogState::default() };
        log.disks.insert(DiskNo(0), DiskState { info, gap: None, activity_log_invalid: false });
        let known = KnownLog {
            incarnation: IncarnationId([9; 16]),
            lineage: if known_at_start { vec![life] } else { Vec::new() },
            clean_stop: Some(Lsn(50)),
            committed: Lsn(50),
            first: Lsn(100),
            next_disk: 1,
            disks: vec![KnownDisk {
                name: "disk".into(),
                size_bytes: SIZE as u64,
                sector_bytes: 512,
                distrust: known_at_start.then_some(Distrust::ChangedBehind),
                hot: known_at_start,
            }],
        };
        let opening = plan(&known, &log);
        assert!(opening.disks[0].full_scan.is_some() && opening.disks[0].added.is_none());
        let (batch, _) = self.splitter.open(opening, self.now);
        self.log.push(batch);
    }

    fn arrive(&mut self, at: usize, len: usize, value: u8) {
        let at = (at * HALF) % SIZE / 512 * 512;
        let data = Bytes::from(vec![value; len.min(SIZE - at)]);
        let ticket = self.splitter.arrive(0, at as u64, data.len() as u64);
        self.requests.push_back(Request { ticket, at, data, grant: None, queued: false });
    }

    fn advance(&mut self, number: usize) {
        let Some(mut request) = self.requests.remove(number) else { return };
        if !request.queued {
            self.splitter.heated(&request.ticket);
            self.splitter.acquire(&request.ticket);
            request.queued = true;
        } else if let Some(grant) = request.grant.take() {
            let runs = if grant.ships() { analyse(&key(), request.at as u64, &request.data) } else { Vec::new() };
            self.splitter.complete(request.ticket, grant, Outcome::Done(runs), self.now);
            return;
        } else if self.splitter.holds(&request.ticket) {
            request.grant = Some(self.splitter.start(&request.ticket, request.data.len()));
            self.disk[request.at..request.at + request.data.len()].copy_from_slice(&request.data);
        }
        self.requests.push_back(request);
    }

    fn step_scan(&mut self, unreadable: bool) {
        match self.scan.take() {
            None => {
                let Some(spot) = self.splitter.scan_spot(0, self.now) else { return };
                let zeroes = self.disk[spot.offset as usize..].iter().take_while(|byte| **byte == 0).count() as u64;
                let job = self.splitter.begin_scan(spot, (zeroes > 0).then_some(spot.offset + zeroes));
                self.splitter.acquire(&job.ticket);
                self.scan = Some((job, None));
            }
            Some((job, None)) if self.splitter.holds(&job.ticket) => {
                let lsn = self.splitter.start_scan(&job);
                self.scan = Some((job, Some(lsn)));
            }
            Some((job, None)) => self.scan = Some((job, None)),
            Some((job, Some(lsn))) => {
                let range = job.range();
                let data = Bytes::copy_from_slice(&self.disk[range.start as usize..range.end as usize]);
                let outcome = match (unreadable, job.hole) {
                    (true, _) => ScanOutcome::Unreadable,
                    (false, true) if data.iter().any(|byte| *byte != 0) => ScanOutcome::NoHole,
                    (false, true) => ScanOutcome::Read(hole_runs(range)),
                    (false, false) => ScanOutcome::Read(analyse(&key(), range.start, &data)),
                };
                self.splitter.complete_scan(job, lsn, outcome, self.now);
            }
        }
    }

    fn ask(&mut self) {
        let Some(part) = self.splitter.next_compare() else { return };
        assert!(self.asked.iter().all(|digests| digests.part != part), "nothing is asked for twice");
        let range = part.offset as usize..part.offset as usize + part.len as usize;
        let mut digests =
            if self.unknown { Digests::unknown(part) } else { Digests::of(part, &key(), &self.before[range.clone()]) };
        for (at, state) in digests.pieces.iter_mut().enumerate() {
            if self.damaged.contains(&(range.start / PIECE + at)) {
                *state = PieceState::Unknown;
            }
        }
        self.asked.push_back(digests);
    }

    fn answer(&mut self) {
        if let Some(digests) = self.asked.pop_front() {
            self.splitter.compared(digests);
        }
    }

    fn disconnect(&mut self) {
        self.asked.clear();
        self.splitter.forget_compares();
    }

    fn take_batches(&mut self) {
        self.now += Duration::from_millis(3);
        self.splitter.close_batch(self.now);
        while let Some(batch) = self.splitter.take_batch() {
            self.log.push(batch.lay_out());
        }
        if let Some(last) = self.log.last() {
            self.splitter.committed(last.last);
        }
    }

    /// The vault has lost pieces of the disk, and the operator has it read again.
    fn resync(&mut self, damaged: usize) {
        self.take_batches();
        self.damaged.extend((0..SIZE.div_ceil(PIECE)).filter(|piece| damaged >> piece & 1 == 1));
        self.damaged_before = self.log.len();
        self.splitter.resync(0, self.now);
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            (0..self.requests.len()).rev().for_each(|number| self.advance(number));
            self.ask();
            self.answer();
            self.now += Duration::from_secs(11);
            self.step_scan(false);
            self.take_batches();
            let scanned = self.splitter.scan_progress(0).1 == 0 && self.scan.is_none();
            if scanned && self.requests.is_empty() && self.splitter.is_drained() && self.splitter.batch_due().is_none()
            {
                return;
            }
        }
        panic!("the scan never ends");
    }

    /// What the log says of the disk, and how many bytes of data this life has sent.
    fn replica(&self) -> (Vec<u8>, usize) {
        let (mut replica, mut sent) = (self.before.clone(), 0);
        for (number, batch) in self.log.iter().enumerate() {
            if number == self.damaged_before {
                for piece in &self.damaged {
                    replica[piece * PIECE..SIZE.min((piece + 1) * PIECE)].fill(0xee);
                }
            }
            for (_, bytes) in &batch.sections {
                let section = Section::parse(bytes, SIZE as u64).expect("well formed");
                assert_eq!(section.first_damage(&key()), None, "digests go along with their bytes");
                for row in section.rows() {
                    let place = row.entry.offset as usize..row.entry.end() as usize;
                    match row.entry.kind {
                        WriteKind::Data => {
                            sent += place.len();
                            replica[place]
                                .copy_from_slice(&section.payload[row.payload_at..][..row.entry.len as usize]);
                        }
                        WriteKind::Zero | WriteKind::Undefined => replica[place].fill(0),
                    }
                }
            }
        }
        (replica, sent)
    }
}

/// A disk made of pieces that each hold one value.
fn image(values: &[u8]) -> Vec<u8> {
    (0..SIZE).map(|at| values[at / PIECE % values.len()]).collect()
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0_u8), 1..4_u8], 10)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_of_events_the_replica_becomes_the_disk(
        before in values(),
        now in values(),
        tape in proptest::collection::vec(any::<u32>(), 0..300),
        budget in prop_oneof![Just(3 * PIECE), Just(1 << 20)],
        known_at_start in any::<bool>(),
        unknown in any::<bool>(),
        resync in proptest::option::of((0..300_usize, any::<usize>())),
    ) {
        let mut world = World::new(image(&before), image(&now), budget, known_at_start);
        world.unknown = unknown;
        for (at, choice) in tape.iter().enumerate() {
            if at == tape.len() / 8 {
                world.open(known_at_start);
            }
            if let Some((_, damaged)) = resync.filter(|(when, _)| *when == at && world.splitter.is_open()) {
                world.resync(damaged);
            }
            let (what, rest) = (choice % 12, (choice / 12) as usize);
            match what {
                // The values of writes are those of the disks: so that what is written often equals what was there.
                0..=1 if world.requests.len() < 4 => world.arrive(rest, 512 << (rest % 5), (rest % 4) as u8),
                2..=5 => world.advance(rest % world.requests.len().max(1)),
                6..=7 => world.step_scan(rest.is_multiple_of(29)),
                8 => world.ask(),
                9 => world.answer(),
                10 if rest.is_multiple_of(7) => world.disconnect(),
                _ => world.take_batches(),
            }
        }
        if !world.splitter.is_open() {
            world.open(known_at_start);
        }
        world.settle();
        let (replica, _) = world.replica();
        prop_assert!(replica == world.disk, "the replica is not the disk");
        prop_assert_eq!(world.splitter.disk_view(0).gap, None);
    }

    #[test]
    fn a_disk_that_is_read_again_sends_what_the_vault_lost_and_what_this_life_wrote(
        before in values(), damaged in any::<usize>(), written in 0..10_usize
    ) {
        let mut world = World::new(image(&before), image(&before), 1 << 20, true);
        world.open(true);
        world.settle();
        world.arrive(2 * written, 512, 9);
        world.settle();
        let (_, sent) = world.replica();
        world.resync(damaged);
        prop_assert!(world.splitter.disk_view(0).gap.is_some());
        world.settle();
        let (replica, all_sent) = world.replica();
        prop_assert!(replica == world.disk);
        let wrote = 2 * written * HALF % SIZE / REGION;
        let again = |piece: &usize| world.damaged.contains(piece) || piece * PIECE / REGION == wrote;
        let pieces = world.disk.chunks(PIECE).enumerate().filter(|(at, _)| again(at));
        let data: usize = pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != 0)).map(|(_, piece)| piece.len()).sum();
        prop_assert!(all_sent - sent <= data, "nothing else is sent");
        prop_assert_eq!(world.splitter.disk_view(0).gap, None);
    }

    #[test]
    fn of_a_quiet_disk_exactly_what_differs_is_sent(before in values(), now in values()) {
        let mut world = World::new(image(&before), image(&now), 1 << 20, true);
        world.open(true);
        world.settle();
        let (replica, sent) = world.replica();
        prop_assert!(replica == world.disk);
        let differs = |at: &usize| world.before[*at] != world.disk[*at];
        let (bytes, data) = ((0..SIZE).filter(differs).count(), (0..SIZE).filter(differs).filter(|at| world.disk[*at] != 0));
        prop_assert_eq!(sent, data.count(), "data that differs is sent, zeroes only named");
        prop_assert_eq!(world.splitter.compare_progress(0), (SIZE as u64, bytes as u64));
    }
}

#[test]
fn nothing_is_read_before_its_digests_are_there_and_what_was_asked_of_a_lost_connection_is_asked_again() {
    let mut world = World::new(image(&[1]), image(&[1]), 1 << 20, true);
    world.open(true);
    assert_eq!(world.splitter.scan_spot(0, world.now), None, "no digests yet");
    (0..20).for_each(|_| world.ask());
    let regions = SIZE.div_ceil(REGION);
    assert_eq!(world.asked.len(), regions, "each region once");
    world.disconnect();
    (0..20).for_each(|_| world.ask());
    assert_eq!(world.asked.len(), regions);
    world.answer();
    assert!(world.splitter.scan_spot(0, world.now).is_some());
    world.settle();
    assert_eq!(world.replica().1, 0, "nothing differed");
}

#[test]
fn digests_of_before_a_resync_count_no_more_also_where_the_region_was_being_read() {
    let mut world = World::new(image(&[1]), image(&[1]), 1 << 20, true);
    world.open(true);
    world.ask();
    world.answer();
    (0..2).for_each(|_| world.step_scan(false));
    assert!(matches!(world.scan, Some((_, Some(_)))), "a region is being read");
    world.resync(1);
    world.step_scan(true);
    world.settle();
    assert!(world.replica().0 == world.disk, "the damaged piece is sent again");
}

#[test]
fn an_answer_that_was_on_its_way_at_a_resync_counts_no_more_and_is_asked_for_again() {
    let mut world = World::new(image(&[1]), image(&[1]), 1 << 20, true);
    world.open(true);
    world.ask();
    world.resync(1);
    world.answer();
    assert_eq!(world.splitter.scan_spot(0, world.now), None, "what it said was read before the resync");
    world.settle();
    assert!(world.replica().0 == world.disk, "the damaged piece is sent again");
}
