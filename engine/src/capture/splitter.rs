//! The splitter: gives every write its LSN, in the order in which the disk sees overlapping writes, and turns what has
//! completed into batches. Pure: it is told what happens, and says what is to be done.
//!
//! ```text
//!   arrive ──► heated (cool regions recorded first) ──► acquire ──► start ──► [the disk] ──► complete
//!     pins its regions                                   range lock   LSN                      the frontier moves
//!                                                        (FIFO)       ship it, or lose it
//! ```
//!
//! Order: the LSN is taken before the disk is written and under the range lock, from one counter for all disks. So
//! LSN(A) < LSN(B) where B came after A had completed, and overlapping writes reach disk and log in one order.
//!
//! Overload (rungs 1 and 4 of the ladder): a write is shipped while what is held fits the budget. One that does not fit
//! is lost to the log: its regions become stale, the disk gets a gap that begins here, and the scanner reads the regions
//! again when there is room. A write whose regions are all stale takes no LSN at all: the scan covers it.
//!
//! Crash story: nothing here survives. The activity log holds a superset of what may differ (I5), and the next life
//! opens a gap unless this one ended with a clean stop.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::bits::RegionSet;
use super::content::Run;
use super::marks::MarkClock;
use super::opening::{Opening, opening_lsns};
use super::ranges::RangeLock;
use super::regions::{Regions, SyncNo};
use super::scan::ScanState;
use super::window::{DraftBatch, ENTRY_WEIGHT_BYTES, Slot, Window};
use crate::ids::{DiskNo, Lsn};
use crate::record::{GapReason, Record};

/// LSNs that are reserved at a time: synced to the agent's state before one of them is given. Chosen: at 50,000 writes a
/// second one small sync a second; and a copy of this agent's state that wrote more than so many is found out.
pub const LSN_RESERVE: u64 = 1 << 16;
/// LSNs of a reservation that are left for records when there are none for writes.
const RECORDS_RESERVE: u64 = 1 << 12;

/// What a splitter is made with.
#[derive(Debug, Clone)]
pub struct SplitterConfig {
    /// Most bytes of payload that are held until they are committed.
    pub budget_bytes: usize,
    /// Time between marks under load.
    pub mark_interval: Duration,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// How much the scanner reads under the range lock at a time, in bytes; see [`super::scan::SCAN_CHUNK_BYTES`].
    pub scan_chunk_bytes: u64,
}

/// A disk at the start of a life.
#[derive(Debug, Clone)]
pub struct DiskStart {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Size of a region in bytes.
    pub region_bytes: u64,
    /// What the activity log holds as hot; everything where it cannot be trusted.
    pub hot: RegionSet,
}

/// A request on its way through the splitter.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) id: u64,
    pub(super) disk: usize,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What a request that holds its range may do: write the disk, and where it has an LSN, bring its content along.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    pub(super) lsn: Option<Lsn>,
    pub(super) expected: usize,
}

impl Grant {
    /// Whether the content goes to the log.
    pub fn ships(&self) -> bool {
        self.lsn.is_some()
    }
}

/// How a write ended at the disk.
#[derive(Debug)]
pub enum Outcome {
    /// It is on the disk; its content, where the grant ships.
    Done(Vec<Run>),
    /// It failed, or only a part of it is there.
    Failed,
}

/// How one disk stands, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskView {
    /// Its number, once the log is open.
    pub number: Option<DiskNo>,
    /// The gap that is open.
    pub gap: Option<GapReason>,
    /// Regions that may differ from the replica.
    pub hot_regions: u32,
    /// Regions of them that the scanner is to read.
    pub stale_regions: u32,
    /// Bytes that the scanner has read in this life.
    pub scanned_bytes: u64,
    /// Bytes that it still has to read.
    pub scan_bytes_left: u64,
    /// Bytes that were compared with the replica by digest in this life.
    pub compared_bytes: u64,
    /// Bytes of them that differed, and were sent.
    pub differing_bytes: u64,
    /// Regions that cannot be read at present.
    pub unreadable_regions: usize,
    /// Writes that went to the disk and not to the log in this life.
    pub lost_writes: u64,
    /// The activity log cannot be written.
    pub activity_log_failed: bool,
}

/// What a call has set in motion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Somebody who waited for a range holds it now.
    pub ranges: bool,
    /// A batch is complete, or the first entry of one has come.
    pub batches: bool,
}

/// One disk as the splitter sees it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) size_bytes: u64,
    pub(super) locks: RangeLock,
    pub(super) regions: Regions,
    /// The gap that is open in the log, or will be when the log is opened.
    pub(super) gap: Option<GapReason>,
    pub(super) scan: ScanState,
    /// The activity log cannot be written: everything counts as hot until the end of this life.
    pub(super) log_failed: bool,
    pub(super) lost_writes: u64,
}

impl Disk {
    /// Whether the log does not follow these regions, and need not: the scanner will read them.
    fn unfollowed(&self, range: RangeInclusive<u32>) -> bool {
        let stale = self.regions.stale();
        !stale.is_empty() && range.into_iter().all(|region| stale.contains(region) && !self.scan.covers(region))
    }

    /// The log loses these regions.
    pub(super) fn lose(&mut self, range: RangeInclusive<u32>) {
        self.scan.spoil(range.clone());
        self.regions.lose(range);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Splitter {
    pub(super) config: SplitterConfig,
    pub(super) disks: Vec<Disk>,
    pub(super) window: Window,
    pub(super) opening: Option<Opening>,
    pub(super) first: Lsn,
    /// The last LSN that may be given, provisional.
    reserved: Lsn,
    pub(super) committed: Lsn,
    pub(super) marks: MarkClock,
    /// The newest LSN that is a write or closed a gap, provisional.
    pub(super) last_change: Lsn,
    next_ticket: u64,
    in_flight: usize,
}

impl Splitter {
    /// A life whose first LSN is `first`, with [`LSN_RESERVE`] reserved from there on.
    pub fn new(config: SplitterConfig, first: Lsn, disks: Vec<DiskStart>) -> Self {
        let disks: Vec<Disk> = disks
            .into_iter()
            .map(|start| {
                let regions = Regions::new(start.region_bytes, start.hot);
                let gap = (!regions.stale().is_empty()).then_some(GapReason::UncleanStop);
                Disk {
                    size_bytes: start.size_bytes,
                    locks: RangeLock::default(),
                    regions,
                    gap,
                    scan: ScanState::default(),
                    log_failed: false,
                    lost_writes: 0,
                }
            })
            .collect();
        let window = Window::new(Lsn(first.0 + opening_lsns(disks.len())), disks.len());
        Self {
            config,
            disks,
            window,
            opening: None,
            first,
            reserved: Lsn(first.0 + LSN_RESERVE - 1),
            committed: Lsn::ZERO,
            marks: MarkClock::default(),
            last_change: Lsn::ZERO,
            next_ticket: 0,
            in_flight: 0,
        }
    }

    /// A request for `offset..offset + len` of a disk arrives.
    ///
    /// # Panics
    /// Where it is empty or reaches past the disk: the export checks that.
    pub fn arrive(&mut self, disk: usize, offset: u64, len: u64) -> Ticket {
        let entry = &mut self.disks[disk];
        let end = offset + len;
        assert!(len > 0 && end <= entry.size_bytes, "a request lies within its disk");
        let range = entry.regions.of(offset, end);
        entry.regions.pin(range);
        self.next_ticket += 1;
        self.in_flight += 1;
        Ticket { id: self.next_ticket, disk, start: offset, end }
    }

    /// The regions that must be recorded hot before the request may go on; none where they are.
    pub fn cool_regions(&self, ticket: &Ticket) -> Option<RangeInclusive<u32>> {
        let regions = &self.disks[ticket.disk].regions;
        let range = regions.of(ticket.start, ticket.end);
        (!regions.all_hot(range.clone())).then_some(range)
    }

    /// They are recorded and synced.
    pub fn heated(&mut self, ticket: &Ticket) {
        let regions = &mut self.disks[ticket.disk].regions;
        regions.heat(regions.of(ticket.start, ticket.end));
    }

    /// The activity log of a disk cannot be written: from now on all of it counts as hot, and the log says so.
    pub fn activity_log_failed(&mut self, disk: usize, now: Duration) -> Moved {
        let entry = &mut self.disks[disk];
        if entry.log_failed {
            return Moved::default();
        }
        entry.log_failed = true;
        entry.regions.heat(0..=entry.regions.hot().size() - 1);
        self.window.record(Record::ActivityLogInvalid { disk: DiskNo(disk as u16) });
        // The newest point is as good as now only while nothing follows its mark.
        self.marks.at_once();
        self.drained(now)
    }

    /// Whether a request would go through without waiting for the activity log or for another request.
    pub fn is_quick(&self, disk: usize, offset: u64, len: u64) -> bool {
        let disk = &self.disks[disk];
        disk.locks.is_free(offset, offset + len) && disk.regions.all_hot(disk.regions.of(offset, offset + len))
    }

    /// Asks for the range; true where it is held at once. Otherwise [`Splitter::holds`] says when.
    pub fn acquire(&mut self, ticket: &Ticket) -> bool {
        self.disks[ticket.disk].locks.acquire(ticket.id, ticket.start, ticket.end)
    }

    /// Whether the request holds its range.
    pub fn holds(&self, ticket: &Ticket) -> bool {
        self.disks[ticket.disk].locks.holds(ticket.id)
    }

    /// A request that holds its range goes to the disk. `payload_bytes` is what it would bring along.
    pub fn start(&mut self, ticket: &Ticket, payload_bytes: usize) -> Grant {
        let number = DiskNo(ticket.disk as u16);
        let exhausted = self.is_exhausted();
        let disk = &mut self.disks[ticket.disk];
        let range = disk.regions.of(ticket.start, ticket.end);
        assert!(disk.regions.all_hot(range.clone()), "nothing is written before it is recorded hot");
        self.marks.written();
        if disk.unfollowed(range.clone()) {
            disk.lost_writes += 1;
            return Grant { lsn: None, expected: 0 };
        }
        let expected = payload_bytes + ENTRY_WEIGHT_BYTES;
        if self.window.held_bytes() + expected > self.config.budget_bytes || exhausted {
            disk.lose(range);
            disk.lost_writes += 1;
            if disk.gap.is_none() {
                disk.gap = Some(GapReason::Overload);
                let from = self.window.next();
                self.window.record(Record::GapOpened { disk: number, from, reason: GapReason::Overload });
            }
            return Grant { lsn: None, expected: 0 };
        }
        disk.regions.seen(range);
        if disk.gap.is_none() {
            self.marks.ordered();
        }
        self.window.expect(expected);
        self.last_change = self.window.give();
        Grant { lsn: Some(self.last_change), expected }
    }

    /// The disk has answered.
    pub fn complete(&mut self, ticket: Ticket, grant: Grant, outcome: Outcome, now: Duration) -> Moved {
        let number = ticket.disk;
        let disk = &mut self.disks[number];
        let range = disk.regions.of(ticket.start, ticket.end);
        self.window.unexpect(grant.expected);
        if matches!(outcome, Outcome::Failed) {
            disk.lose(range.clone());
        }
        if let Some(lsn) = grant.lsn {
            let slot = match outcome {
                Outcome::Done(runs) if runs.is_empty() => Slot::Empty,
                Outcome::Done(runs) => Slot::Write { disk: number, runs, scan: false },
                Outcome::Failed => {
                    // Its own LSN becomes the record, so no mark can leave between the two; and no gap that was to be
                    // closed behind it is.
                    let (disk_no, reason) = (DiskNo(number as u16), GapReason::WriteFailed);
                    self.window.keep_open_after(lsn, disk_no);
                    disk.gap.get_or_insert(reason);
                    Slot::Record(Record::GapOpened { disk: disk_no, from: lsn, reason })
                }
            };
            self.window.fill(lsn, slot);
        }
        let ranges = self.finish(ticket, range, grant.lsn, now);
        Moved { ranges, ..self.drained(now) }
    }

    /// A request is gone; true where somebody who waited for its range holds one now.
    pub(super) fn finish(
        &mut self,
        ticket: Ticket,
        range: RangeInclusive<u32>,
        written: Option<Lsn>,
        now: Duration,
    ) -> bool {
        let disk = &mut self.disks[ticket.disk];
        disk.regions.unpin(range, written, now);
        self.in_flight -= 1;
        disk.locks.release(ticket.id)
    }

    pub(super) fn drained(&mut self, now: Duration) -> Moved {
        if self.opening.is_none() {
            return Moved::default();
        }
        let waited = self.window.filling_since().is_some();
        let ready = self.window.drain(now);
        Moved { ranges: false, batches: ready || (!waited && self.window.filling_since().is_some()) }
    }

    /// Takes the next complete batch.
    pub fn take_batch(&mut self) -> Option<DraftBatch> {
        self.window.take_ready()
    }

    /// When the batch that is being filled goes even if it is not full.
    pub fn batch_due(&self) -> Option<Duration> {
        self.window.filling_since().map(|since| since + self.config.linger)
    }

    /// Closes the batch that is being filled if it has waited long enough.
    pub fn close_batch(&mut self, now: Duration) {
        if self.batch_due().is_some_and(|due| due <= now) {
            self.window.close();
        }
    }

    /// Everything up to `lsn` is in the vault.
    pub fn committed(&mut self, lsn: Lsn) {
        self.committed = self.committed.max(self.window.provisional(lsn));
        self.window.let_go(lsn);
    }

    /// The payload up to `lsn` was let go although it is only durable: it no longer counts.
    pub fn let_go(&mut self, lsn: Lsn) {
        self.window.let_go(lsn);
    }

    /// What was written after `committed` on these disks is lost and cannot be sent again: the regions are stale. The
    /// records that open the gaps are in the batches that are sent in place of the lost ones.
    pub fn lost_after(&mut self, committed: Lsn, disks: &[DiskNo], reason: GapReason) {
        let committed = self.window.provisional(committed);
        for (number, disk) in self.disks.iter_mut().enumerate() {
            if disks.contains(&self.window.number(number)) {
                disk.scan.spoil_all();
                disk.regions.lose_after(committed);
                disk.gap.get_or_insert(reason);
            }
        }
    }

    /// A sync of a backing disk begins.
    pub fn sync_begins(&mut self, disk: usize) -> SyncNo {
        self.disks[disk].regions.sync_begins()
    }

    /// It is over.
    pub fn sync_ends(&mut self, disk: usize, sync: SyncNo, succeeded: bool) {
        let regions = &mut self.disks[disk].regions;
        if succeeded { regions.synced(sync) } else { regions.sync_failed() }
    }

    /// Whether a sync of the backing disk would let regions cool.
    pub fn wants_sync(&self, disk: usize) -> bool {
        !self.disks[disk].log_failed && self.disks[disk].regions.wants_sync(self.committed)
    }

    /// Cools what may be cooled; see [`Regions::cool`]. The caller must take the regions out of the activity log before
    /// it lets anybody else at the splitter.
    pub fn cool(&mut self, disk: usize, idle_before: Duration, target: usize) -> Vec<u32> {
        if self.opening.is_none() || self.disks[disk].log_failed {
            return Vec::new();
        }
        self.disks[disk].regions.cool(self.committed, idle_before, target)
    }

    /// What is to be reserved next, as the log numbers it, once half of the last reservation is used.
    pub fn reservation_due(&self) -> Option<Lsn> {
        let next = self.window.next();
        (next.0 + LSN_RESERVE / 2 > self.reserved.0).then(|| Lsn(self.window.final_lsn(next).0 + LSN_RESERVE))
    }

    /// LSNs up to `last`, as the log numbers them, are reserved.
    pub fn reserved(&mut self, last: Lsn) {
        self.reserved = self.reserved.max(self.window.provisional(last));
    }

    /// Whether too few LSNs are reserved: writes are lost to the log until there are more.
    pub fn is_exhausted(&self) -> bool {
        self.window.next().0 + RECORDS_RESERVE > self.reserved.0
    }

    /// Requests that are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How a disk stands.
    pub fn disk_view(&self, disk: usize) -> DiskView {
        let (entry, (scanned_bytes, scan_bytes_left)) = (&self.disks[disk], self.scan_progress(disk));
        let (compared_bytes, differing_bytes) = self.compare_progress(disk);
        DiskView {
            number: self.is_open().then(|| self.window.number(disk)),
            gap: entry.gap,
            hot_regions: entry.regions.hot().count(),
            stale_regions: entry.regions.stale().count(),
            scanned_bytes,
            scan_bytes_left,
            compared_bytes,
            differing_bytes,
            unreadable_regions: self.unreadable_regions(disk),
            lost_writes: entry.lost_writes,
            activity_log_failed: entry.log_failed,
        }
    }

    /// The rung of the overload ladder: 4 while a disk's writes do not fit, else 1.
    pub fn rung(&self) -> u8 {
        if self.disks.iter().any(|disk| disk.gap == Some(GapReason::Overload)) { 4 } else { 1 }
    }

    /// The LSN that will be given next.
    pub fn next_lsn(&self) -> Lsn {
        self.window.final_lsn(self.window.next())
    }

    /// The newest LSN that is a write or closed a gap, as the log numbers it: nothing after it changed a disk in order.
    pub fn last_change(&self) -> Lsn {
        self.window.final_lsn(self.last_change)
    }

    /// Bytes held until they are committed.
    pub fn held_bytes(&self) -> usize {
        self.window.held_bytes()
    }

    /// Whether every LSN given so far is in a batch.
    pub fn is_drained(&self) -> bool {
        self.window.is_drained()
    }

    /// Whether the log has been opened.
    pub fn is_open(&self) -> bool {
        self.opening.is_some()
    }
}
