//! The splitter against a model: random interleavings of requests, scans, syncs, commits and failures over two disks.
//!
//! What must hold: LSN order follows completion order; a mark shows, on every disk without a gap, a state the disk could
//! have been in; what differs from the committed replica after a crash at any step is recorded hot; and when the load
//! ends, the replica becomes the disk.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::content::{Body, Run};
use super::opening::{KnownDisk, KnownLog, plan};
use super::scan::{ScanJob, ScanOutcome, hole_runs};
use super::*;
use crate::digest::{PieceDigest, piece_count};
use crate::ids::{Chance, DiskNo, IncarnationId, Lsn, Timestamp};
use crate::record::{GapReason, Record};
use crate::section::{Section, WriteKind};
use crate::vault::state::LogState;

const BLOCK: u64 = 16;
const REGION: u64 = 64;
const BLOCKS: usize = 40;
const SIZE: u64 = BLOCKS as u64 * BLOCK;
const DISKS: usize = 2;

struct Counter(u8);

impl Chance for Counter {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 = self.0.wrapping_add(1);
        bytes.fill(self.0);
    }
}

/// One write of one block, in the order in which the disk saw them.
#[derive(Debug, Clone, Copy)]
struct Landed {
    value: u32,
    lsn: Option<Lsn>,
}

#[derive(Debug)]
enum Stage {
    Arrived,
    Queued,
    Started(Grant),
    OnDisk(Grant, bool),
}

#[derive(Debug)]
struct Request {
    ticket: Ticket,
    disk: usize,
    first: usize,
    values: Vec<u32>,
    stage: Stage,
    /// The highest LSN of any write that had completed when this one came.
    after: Lsn,
}

#[derive(Debug)]
enum Scan {
    Queued(ScanJob),
    Started(ScanJob, Lsn),
}

#[derive(Debug, Clone)]
struct Snapshot {
    lsn: Lsn,
    /// Per disk and block: how many writes had completed there when the mark was taken.
    completed: Vec<Vec<usize>>,
    /// How many had landed, completed, failed or still on their way.
    landed: Vec<Vec<usize>>,
}

struct World {
    splitter: Splitter,
    now: Duration,
    disks: Vec<Vec<u32>>,
    synced: Vec<Vec<u32>>,
    syncing: Vec<Option<(SyncNo, Vec<u32>)>>,
    hot: Vec<RegionSet>,
    history: Vec<Vec<Vec<Landed>>>,
    completed: Vec<Vec<usize>>,
    requests: Vec<Request>,
    scan: Option<Scan>,
    log: Vec<crate::batch::Batch>,
    committed: usize,
    committed_replica: Replica,
    highest_completed: Lsn,
    marks: Vec<Snapshot>,
    next_value: u32,
}

/// What the log gives when it is read.
#[derive(Debug)]
struct Replica {
    disks: Vec<Vec<u32>>,
    gaps: BTreeSet<usize>,
}

impl Default for Replica {
    fn default() -> Self {
        Self { disks: vec![vec![0; BLOCKS]; DISKS], gaps: BTreeSet::new() }
    }
}

#[derive(Debug)]
enum Entry {
    Write { disk: usize, first: usize, values: Vec<u32> },
    Record(Record),
}

/// A batch's entries in order of their LSNs.
fn entries(batch: &crate::batch::Batch) -> Vec<(Lsn, Entry)> {
    let mut entries: Vec<(Lsn, Entry)> =
        batch.records.iter().map(|at| (at.lsn, Entry::Record(at.record.clone()))).collect();
    for (disk, bytes) in &batch.sections {
        let section = Section::parse(bytes, SIZE).expect("well formed");
        for row in section.rows() {
            let count = (u64::from(row.entry.len) / BLOCK) as usize;
            let first = (row.entry.offset / BLOCK) as usize;
            let values = match row.entry.kind {
                WriteKind::Data => section.payload[row.payload_at..][..row.entry.len as usize]
                    .chunks(BLOCK as usize)
                    .map(|block| u32::from_le_bytes([block[0], block[1], block[2], block[3]]))
                    .collect(),
                WriteKind::Zero | WriteKind::Undefined => vec![0; count],
            };
            entries.push((row.entry.lsn, Entry::Write { disk: disk.0.into(), first, values }));
        }
    }
    entries.sort_by_key(|(lsn, _)| *lsn);
    entries
}

impl Replica {
    fn apply(&mut self, (lsn, entry): (Lsn, Entry)) {
        match entry {
            Entry::Write { disk, first, values } => {
                self.disks[disk][first..first + values.len()].copy_from_slice(&values);
            }
            Entry::Record(Record::GapOpened { disk, from, .. }) => {
                assert!(from <= lsn);
                self.gaps.insert(disk.0.into());
            }
            Entry::Record(Record::GapClosed { disk }) => {
                self.gaps.remove(&usize::from(disk.0));
            }
            Entry::Record(_) => {}
        }
    }
}

fn regions(first: usize, blocks: usize) -> std::ops::RangeInclusive<u32> {
    let per = (REGION / BLOCK) as usize;
    (first / per) as u32..=((first + blocks - 1) / per) as u32
}

fn run(first: usize, values: &[u32]) -> Run {
    let offset = first as u64 * BLOCK;
    let len = (values.len() as u64 * BLOCK) as u32;
    if values.iter().all(|value| *value == 0) {
        return Run { offset, len, body: Body::Zero };
    }
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes().repeat(BLOCK as usize / 4)).collect();
    let digests = vec![PieceDigest::default(); piece_count(offset, data.len())];
    Run { offset, len, body: Body::Data(Bytes::from(data), digests) }
}

impl World {
    fn new(budget_bytes: usize, stale: bool) -> Self {
        let count = (BLOCKS as u64 * BLOCK).div_ceil(REGION) as u32;
        let hot = if stale { RegionSet::all(count) } else { RegionSet::none(count) };
        let start = DiskStart { size_bytes: SIZE, region_bytes: REGION, hot: hot.clone() };
        let config = SplitterConfig {
            budget_bytes,
            mark_interval: Duration::from_millis(5),
            linger: Duration::from_millis(2),
            // Half a region, so that what is read already and what is not lie side by side.
            scan_chunk_bytes: REGION / 2,
        };
        // Disks that are scanned first hold something already.
        let disk: Vec<u32> = (0..BLOCKS).map(|n| if stale && n % 3 == 0 { 1 + n as u32 } else { 0 }).collect();
        Self {
            splitter: Splitter::new(config, Lsn(1), vec![start; DISKS]),
            now: Duration::ZERO,
            disks: vec![disk.clone(); DISKS],
            synced: vec![disk.clone(); DISKS],
            syncing: vec![None; DISKS],
            hot: vec![hot; DISKS],
            history: vec![disk.iter().map(|value| vec![Landed { value: *value, lsn: None }]).collect(); DISKS],
            completed: vec![vec![1; BLOCKS]; DISKS],
            requests: Vec::new(),
            scan: None,
            log: Vec::new(),
            committed: 0,
            committed_replica: Replica::default(),
            highest_completed: Lsn::ZERO,
            marks: Vec::new(),
            next_value: 1000,
        }
    }

    /// The log already has the disks, all zero, and ends in a clean stop.
    fn open(&mut self, fresh: bool) {
        let known = |disk: usize| KnownDisk {
            name: format!("disk {disk}"),
            size_bytes: SIZE / 512 * 512,
            sector_bytes: 512,
            distrust: None,
            hot: !self.hot[disk].is_empty(),
        };
        let mut log = LogState::default();
        if !fresh {
            let mut before = plan(&self.known(&known), &log);
            before.first = Lsn(1);
            before.incarnation = IncarnationId([8; 16]);
            log.incarnation = Some(before.incarnation);
            log.clean_stop = true;
            for disk in before.disks.iter().filter_map(|disk| disk.added.clone()) {
                let state =
                    crate::vault::state::DiskState { info: disk.clone(), gap: None, activity_log_invalid: false };
                log.disks.insert(disk.disk, state);
            }
        }
        let opening = plan(&self.known(&known), &log);
        let (batch, _) = self.splitter.open(opening, self.now);
        self.log.push(batch);
    }

    fn known(&self, disk: &dyn Fn(usize) -> KnownDisk) -> KnownLog {
        KnownLog {
            incarnation: IncarnationId([9; 16]),
            lineage: vec![IncarnationId([8; 16])],
            clean_stop: Some(Lsn::ZERO),
            committed: Lsn::ZERO,
            first: Lsn(1),
            next_disk: 0,
            disks: (0..DISKS).map(disk).collect(),
        }
    }

    fn arrive(&mut self, disk: usize, first: usize, count: usize, zero: bool) {
        let count = count.min(BLOCKS - first);
        self.next_value += 1;
        let values = vec![if zero { 0 } else { self.next_value }; count];
        let ticket = self.splitter.arrive(disk, first as u64 * BLOCK, count as u64 * BLOCK);
        let after = self.highest_completed;
        self.requests.push(Request { ticket, disk, first, values, stage: Stage::Arrived, after });
    }

    /// One step of one request; `fail` makes its disk write fail half way.
    fn advance(&mut self, at: usize, fail: bool) {
        let mut request = self.requests.swap_remove(at);
        let (disk, first, count) = (request.disk, request.first, request.values.len());
        request.stage = match request.stage {
            Stage::Arrived => {
                if self.splitter.cool_regions(&request.ticket).is_some() {
                    for region in regions(first, count) {
                        self.hot[disk].insert(region);
                    }
                    self.splitter.heated(&request.ticket);
                }
                self.splitter.acquire(&request.ticket);
                Stage::Queued
            }
            Stage::Queued if !self.splitter.holds(&request.ticket) => Stage::Queued,
            Stage::Queued => {
                let grant = self.splitter.start(&request.ticket, count * BLOCK as usize);
                if let Some(lsn) = grant.lsn {
                    assert!(lsn > request.after, "issued after LSN {} had completed, but got {lsn}", request.after);
                }
                Stage::Started(grant)
            }
            Stage::Started(grant) => {
                let written = if fail { count / 2 } else { count };
                for n in 0..written {
                    self.disks[disk][first + n] = request.values[n];
                    self.history[disk][first + n].push(Landed { value: request.values[n], lsn: grant.lsn });
                }
                Stage::OnDisk(grant, fail)
            }
            Stage::OnDisk(grant, failed) => {
                let outcome = if failed {
                    Outcome::Failed
                } else {
                    self.highest_completed = self.highest_completed.max(grant.lsn.unwrap_or(Lsn::ZERO));
                    for n in 0..count {
                        self.completed[disk][first + n] = self.history[disk][first + n].len();
                    }
                    let ships = grant.ships();
                    Outcome::Done(if ships { vec![run(first, &request.values)] } else { Vec::new() })
                };
                self.splitter.complete(request.ticket, grant, outcome, self.now);
                return;
            }
        };
        self.requests.push(request);
    }

    fn step_scan(&mut self, disk: usize, unreadable: bool) {
        match self.scan.take() {
            None => {
                let Some(spot) = self.splitter.scan_spot(disk, self.now) else { return };
                let first = (spot.offset / BLOCK) as usize;
                let hole = self.disks[disk][first..].iter().take_while(|value| **value == 0).count();
                let hole_end = (hole > 0).then(|| (first + hole) as u64 * BLOCK);
                let job = self.splitter.begin_scan(spot, hole_end);
                self.splitter.acquire(&job.ticket);
                self.scan = Some(Scan::Queued(job));
            }
            Some(Scan::Queued(job)) if self.splitter.holds(&job.ticket) => {
                let lsn = self.splitter.start_scan(&job);
                self.scan = Some(Scan::Started(job, lsn));
            }
            Some(Scan::Queued(job)) => self.scan = Some(Scan::Queued(job)),
            Some(Scan::Started(job, lsn)) => {
                let range = job.range();
                let (first, end) = ((range.start / BLOCK) as usize, (range.end / BLOCK) as usize);
                let values = &self.disks[job.disk()][first..end];
                let outcome = if unreadable {
                    ScanOutcome::Unreadable
                } else if job.hole && values.iter().any(|value| *value != 0) {
                    ScanOutcome::NoHole
                } else if job.hole {
                    ScanOutcome::Read(hole_runs(range))
                } else {
                    ScanOutcome::Read(vec![run(first, values)])
                };
                self.splitter.complete_scan(job, lsn, outcome, self.now);
            }
        }
    }

    fn step_sync(&mut self, disk: usize, fail: bool) {
        match self.syncing[disk].take() {
            None => {
                let sync = self.splitter.sync_begins(disk);
                self.syncing[disk] = Some((sync, self.disks[disk].clone()));
            }
            Some((sync, content)) => {
                if !fail {
                    self.synced[disk] = content;
                }
                self.splitter.sync_ends(disk, sync, !fail);
            }
        }
    }

    fn step_batches(&mut self, mark: bool) {
        self.now += Duration::from_millis(1);
        if mark {
            let lsn = self.splitter.next_lsn();
            if self.splitter.mark_if_due(self.now, Timestamp(0), &mut Counter(0)).is_some() {
                let landed = self.history.iter().map(|disk| disk.iter().map(Vec::len).collect()).collect();
                self.marks.push(Snapshot { lsn, completed: self.completed.clone(), landed });
            }
        }
        self.splitter.close_batch(self.now);
        while let Some(batch) = self.splitter.take_batch() {
            self.log.push(batch.lay_out());
        }
    }

    fn commit(&mut self, count: usize) {
        let before = self.committed;
        self.committed = (self.committed + count).min(self.log.len());
        for entry in self.log[before..self.committed].iter().flat_map(entries) {
            self.committed_replica.apply(entry);
        }
        if let Some(batch) = self.committed.checked_sub(1).and_then(|at| self.log.get(at)) {
            self.splitter.committed(batch.last);
        }
    }

    fn cool(&mut self, disk: usize) {
        for region in self.splitter.cool(disk, self.now, 2) {
            self.hot[disk].remove(region);
        }
    }

    /// I5 and the rule of cooling: after a crash here, of the process or of the power, what differs is hot.
    fn check_crash(&self, power_cut: bool) {
        for (disk, replica) in self.committed_replica.disks.iter().enumerate() {
            for (block, shipped) in replica.iter().enumerate() {
                let now = self.disks[disk][block];
                let left = if power_cut && block % 2 == 0 { self.synced[disk][block] } else { now };
                let region = (block as u64 * BLOCK / REGION) as u32;
                assert!(
                    left == *shipped || self.hot[disk].contains(region),
                    "disk {disk} block {block} holds {left}, its replica {shipped}, and region {region} is cool"
                );
            }
        }
    }

    /// I2: every mark in the log shows a state that a crash at that time could have left, where there is no gap.
    fn check_marks(&self) {
        let mut replica = Replica::default();
        let mut marks = self.marks.iter().peekable();
        for entry in self.log.iter().flat_map(entries) {
            if let Entry::Record(Record::Mark(_)) = &entry.1 {
                let mark = marks.next().expect("every mark in the log was taken");
                assert_eq!(mark.lsn, entry.0);
                self.check_mark(mark, &replica);
            }
            replica.apply(entry);
        }
    }

    fn check_mark(&self, mark: &Snapshot, replica: &Replica) {
        for disk in (0..DISKS).filter(|disk| !replica.gaps.contains(disk)) {
            for block in 0..BLOCKS {
                let value = replica.disks[disk][block];
                let history = &self.history[disk][block];
                let least = mark.completed[disk][block];
                let landed = mark.landed[disk][block];
                let possible = history[least - 1..landed].iter().any(|landed| landed.value == value)
                    || history[landed..]
                        .iter()
                        .any(|landed| landed.value == value && landed.lsn.is_some_and(|lsn| lsn < mark.lsn));
                assert!(possible, "mark {} shows {value} in disk {disk} block {block}: {history:?}", mark.lsn);
            }
        }
    }

    /// The replica after everything in the log.
    fn replica(&self) -> Replica {
        let mut replica = Replica::default();
        self.log.iter().flat_map(entries).for_each(|entry| replica.apply(entry));
        replica
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            (0..self.requests.len()).rev().for_each(|at| self.advance(at, false));
            self.now += Duration::from_secs(11);
            (0..DISKS).for_each(|disk| self.step_scan(disk, false));
            self.step_batches(true);
            self.commit(usize::MAX / 2);
            let quiet = self.requests.is_empty()
                && (0..DISKS).all(|disk| self.splitter.scan_progress(disk).1 == 0)
                && self.scan.is_none();
            if quiet && self.splitter.is_drained() && self.splitter.batch_due().is_none() {
                return;
            }
        }
        panic!("the scan never ends");
    }
}

/// Plays a tape of choices.
fn play(tape: &[u32], budget: usize, fresh: bool, power_cut: bool) {
    let mut world = World::new(budget, fresh);
    let opened_at = tape.len() / 10;
    for (at, choice) in tape.iter().enumerate() {
        if at == opened_at {
            world.open(fresh);
        }
        let (what, rest) = (choice % 16, (choice / 16) as usize);
        let disk = rest % DISKS;
        match what {
            0..=3 if world.requests.len() < 6 => {
                world.arrive(disk, (rest / 2) % BLOCKS, 1 + (rest / 100) % 7, rest.is_multiple_of(11));
            }
            0..=8 if !world.requests.is_empty() => {
                let fail = rest.is_multiple_of(41);
                world.advance((rest / 3) % world.requests.len(), fail);
            }
            9..=10 => world.step_scan(disk, rest.is_multiple_of(23)),
            11 => world.step_sync(disk, rest.is_multiple_of(19)),
            12 => world.commit(rest % 3),
            13 => world.cool(disk),
            _ => world.step_batches(rest.is_multiple_of(2)),
        }
        if choice % 3 == 0 {
            world.check_crash(power_cut);
        }
    }
    world.check_marks();
    if world.splitter.is_open() {
        world.settle();
        world.check_marks();
        let replica = world.replica();
        assert!(replica.gaps.is_empty(), "every gap is closed in the end");
        assert_eq!(replica.disks, world.disks);
        assert_eq!(world.splitter.held_bytes(), 0, "what is committed is let go");
        check_order(&world.log);
    }
}

fn check_order(log: &[crate::batch::Batch]) {
    for pair in log.windows(2) {
        assert_eq!(pair[0].last.next(), pair[1].first, "runs follow each other");
    }
    let incarnation = Some(IncarnationId([8; 16]));
    let mut state = LogState { incarnation, clean_stop: true, ..LogState::default() };
    if let Some(Record::Incarnation { predecessor: None, .. }) = log[0].records.first().map(|at| &at.record) {
        state = LogState::default();
    }
    for disk in 0..DISKS as u16 {
        let added =
            log[0].records.iter().any(|at| matches!(&at.record, Record::DiskAdded(info) if info.disk.0 == disk));
        if !added {
            let info = crate::record::DiskInfo {
                disk: DiskNo(disk),
                name: format!("disk {disk}"),
                size_bytes: 512,
                sector_bytes: 512,
            };
            state
                .disks
                .insert(DiskNo(disk), crate::vault::state::DiskState { info, gap: None, activity_log_invalid: false });
        }
    }
    for batch in log {
        state.follows(batch).expect("the log takes every batch");
    }
    assert!(state.disks.values().all(|disk| disk.gap.is_none()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_keeps_order_marks_and_the_hot_superset(
        tape in proptest::collection::vec(any::<u32>(), 40..900),
        budget in prop_oneof![Just(1500_usize), Just(6_000), Just(1 << 20)],
        fresh in any::<bool>(),
        power_cut in any::<bool>(),
    ) {
        play(&tape, budget, fresh, power_cut);
    }
}

#[test]
fn a_write_that_does_not_fit_the_budget_opens_a_gap_at_once_and_the_scan_closes_it() {
    let mut world = World::new(1500, false);
    world.open(false);
    for block in 0..20 {
        world.arrive(0, block, 1, false);
        (0..4).for_each(|_| world.advance(0, false));
    }
    world.step_batches(true);
    let opened = world.log.iter().flat_map(|batch| &batch.records).find_map(|at| match &at.record {
        Record::GapOpened { disk, from, reason } => Some((*disk, *from, at.lsn, *reason)),
        _ => None,
    });
    let (disk, from, lsn, reason) = opened.expect("a gap is open");
    assert_eq!((disk, from, reason), (DiskNo(0), lsn, GapReason::Overload));
    assert!(world.splitter.held_bytes() <= 1500 + window_slack());
    assert_eq!(world.splitter.scan_progress(1).1, 0, "the other disk has nothing to do with it");
    world.settle();
    let replica = world.replica();
    assert!(replica.gaps.is_empty());
    assert_eq!(replica.disks, world.disks);
}

#[test]
fn a_mark_follows_when_an_activity_log_fails_so_an_idle_machine_stays_as_good_as_now() {
    let mut world = World::new(1 << 20, false);
    world.open(false);
    world.arrive(0, 1, 1, false);
    world.settle();
    let (now, wall) = (world.now, Timestamp(0));
    world.splitter.idle_since().expect("nothing was written since the mark of the write");
    world.splitter.activity_log_failed(1, now);
    world.splitter.mark_if_due(now, wall, &mut Counter(1)).expect("a mark behind the record");
    assert_eq!(
        world.splitter.idle_since().map(Lsn::next),
        Some(world.splitter.next_lsn()),
        "the mark is the log's last"
    );
}

/// Records are few and not counted against the budget.
fn window_slack() -> usize {
    4 * super::window::ENTRY_WEIGHT_BYTES
}
