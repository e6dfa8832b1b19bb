//! The scanner's plan: reads stale regions under the range lock and sends them as ordinary writes. Initial replication
//! (everything is stale), catch-up after an outage, a crash or an overload, and the comparison of a disk whose activity
//! log is lost are this one scan.
//!
//! ```text
//!   scan_spot ─► [where does the hole end?] ─► begin_scan ─► acquire ─► start_scan ─► [read] ─► complete_scan
//!      where, if there is room                   ticket       lock       LSN                     region done?
//!                                                                                                nothing stale: GapClosed
//! ```
//!
//! While a region is being scanned, what is written in it is shipped: the part already read must stay equal. If anything
//! written there is lost meanwhile, the region is spoiled and scanned again. So when nothing is stale, every disk block
//! has been sent and followed since, and the gap may be closed at that LSN.
//!
//! A region that can be compared waits for its digests (see `compare`), and only what differs from them is sent.
//!
//! Zeroes: a hole or zero block is a Zero entry, or nothing at all where the log never had anything of that region: a
//! replica begins as zeroes.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::compare::{CompareState, can_compare};
use super::content::{Body, Run, differing};
use super::regions::InLog;
use super::splitter::{Moved, Splitter, Ticket};
use super::window::{ENTRY_WEIGHT_BYTES, Slot};
use crate::ids::{DiskNo, Lsn};
use crate::protocol::PieceState;
use crate::record::{GapReason, Record};

/// How much is read under the range lock at a time, in bytes. Chosen: a write to the same place waits for one such
/// read (0.1 ms from memory, a few ms from a slow disk); a quarter would spend more on calls than on bytes.
pub const SCAN_CHUNK_BYTES: u64 = 256 << 10;
/// Most regions that one look at a hole passes over. Chosen: 1 GiB of 1 MiB regions, one fill.
const HOLE_REGIONS_MAX: u32 = 1024;
/// How long a region that could not be read is left alone.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(10);

/// How far the scan of one disk is.
#[derive(Debug, Default)]
pub(super) struct ScanState {
    now: Option<Current>,
    /// Where the next region is looked for.
    cursor: u32,
    /// Regions that could not be read, and when to try again.
    unreadable: HashMap<u32, Duration>,
    /// Bytes read so far.
    read_bytes: u64,
    pub(super) compare: CompareState,
}

#[derive(Debug)]
struct Current {
    first: u32,
    last: u32,
    /// Offset of what is read next.
    next: u64,
    spoiled: bool,
    /// What the log says of the region's pieces, where it is compared.
    known: Option<Vec<PieceState>>,
}

impl ScanState {
    /// Where the next region is looked for.
    pub(super) fn cursor(&self) -> u32 {
        self.cursor
    }

    /// Whether the region is being scanned, and so followed.
    pub(super) fn covers(&self, region: u32) -> bool {
        self.now.as_ref().is_some_and(|now| !now.spoiled && (now.first..=now.last).contains(&region))
    }

    /// These regions are lost again.
    pub(super) fn spoil(&mut self, range: RangeInclusive<u32>) {
        if let Some(now) = &mut self.now {
            now.spoiled |= *range.start() <= now.last && now.first <= *range.end();
        }
    }

    /// The region is looked at again. What the log says of it is still so, unless it was lost, or found damaged, meanwhile.
    fn keep_digests(&mut self, current: &mut Current) {
        if let Some(known) = current.known.take().filter(|_| !current.spoiled) {
            self.compare.put_back(current.first, known);
        }
    }

    pub(super) fn spoil_all(&mut self) {
        if let Some(now) = &mut self.now {
            now.spoiled = true;
        }
    }
}

/// Where to scan next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanSpot {
    /// Which disk.
    pub disk: usize,
    /// The first byte.
    pub offset: u64,
}

/// A part of a disk to scan.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanJob {
    /// Its range, for the range lock.
    pub ticket: Ticket,
    /// Whether the range was seen to be a hole; to be looked at again under the lock.
    pub hole: bool,
    /// Whether digests were used up for it: there is room to ask for more.
    pub compares: bool,
}

impl ScanJob {
    /// Which disk.
    pub fn disk(&self) -> usize {
        self.ticket.disk
    }

    /// Its bytes.
    pub fn range(&self) -> Range<u64> {
        self.ticket.start..self.ticket.end
    }
}

/// What scanning a part came to.
#[derive(Debug)]
pub enum ScanOutcome {
    /// This is there.
    Read(Vec<Run>),
    /// It is no hole any more: look again.
    NoHole,
    /// It cannot be read.
    Unreadable,
}

impl Splitter {
    /// Where the scan of a disk goes on, if there is something to scan and room for it: the scanner takes at most half of
    /// what the applications' writes leave of the budget.
    pub fn scan_spot(&mut self, disk: usize, now: Duration) -> Option<ScanSpot> {
        let (held, scan) = (self.window.held_bytes(), self.window.scan_bytes());
        let free = self.config.budget_bytes.saturating_sub(held - scan) / 2;
        let open = self.is_open() && !self.is_exhausted();
        let entry = &mut self.disks[disk];
        let chunk = self.config.scan_chunk_bytes.min(entry.regions.region_bytes()) as usize;
        if !open || scan + chunk + ENTRY_WEIGHT_BYTES > free {
            return None;
        }
        if let Some(current) = &entry.scan.now {
            return Some(ScanSpot { disk, offset: current.next });
        }
        entry.scan.unreadable.retain(|_, until| *until > now);
        let stale = entry.regions.stale();
        let from_cursor = std::iter::successors(stale.next(entry.scan.cursor), |region| stale.next(region + 1));
        let mut candidates = from_cursor.chain(stale.iter().take_while(|region| *region < entry.scan.cursor));
        let region = candidates.find(|region| {
            let ready = !entry.regions.is_comparable(*region) || entry.scan.compare.has(*region);
            ready && !entry.scan.unreadable.contains_key(region)
        })?;
        Some(ScanSpot { disk, offset: u64::from(region) * entry.regions.region_bytes() })
    }

    /// Begins to scan at a spot; `hole_end` is where a hole that covers the spot ends.
    pub fn begin_scan(&mut self, spot: ScanSpot, hole_end: Option<u64>) -> ScanJob {
        let ScanSpot { disk, offset } = spot;
        let entry = &mut self.disks[disk];
        let region_bytes = entry.regions.region_bytes();
        let region = (offset / region_bytes) as u32;
        let region_end = |region: u32| ((u64::from(region) + 1) * region_bytes).min(entry.size_bytes);
        let mut end = (offset + self.config.scan_chunk_bytes).min(region_end(region));
        let mut last = region;
        let fresh = entry.scan.now.is_none();
        // Where something was written in it since they were asked for, it is sent.
        let digests = if fresh { entry.scan.compare.take(region) } else { None };
        let known = digests.filter(|_| entry.regions.is_comparable(region));
        let compares = known.is_some();
        let hole = fresh && hole_end.is_some_and(|hole_end| hole_end >= region_end(region));
        if let Some(hole_end) = hole_end.filter(|_| hole) {
            let stale = entry.regions.stale();
            let fits = |next: u32| {
                !compares
                    && next < stale.size()
                    && !entry.regions.is_comparable(next)
                    && stale.contains(next)
                    && region_end(next) <= hole_end
                    && next - region < HOLE_REGIONS_MAX
            };
            while fits(last + 1) {
                last += 1;
            }
            end = region_end(last);
        }
        if fresh {
            entry.scan.now = Some(Current { first: region, last, next: offset, spoiled: false, known });
        }
        ScanJob { ticket: self.arrive(disk, offset, end - offset), hole, compares }
    }

    /// A scan that holds its range goes to the disk.
    pub fn start_scan(&mut self, job: &ScanJob) -> Lsn {
        self.window.expect(scan_weight(job));
        self.window.give()
    }

    /// What came of it.
    pub fn complete_scan(&mut self, job: ScanJob, lsn: Lsn, outcome: ScanOutcome, now: Duration) -> Moved {
        self.window.unexpect(scan_weight(&job));
        let ScanJob { ticket, hole, .. } = job;
        let disk = &mut self.disks[ticket.disk];
        let range = disk.regions.of(ticket.start, ticket.end);
        let mut current = disk.scan.now.take().expect("what was begun is under way");
        let mut slot = Slot::Empty;
        match outcome {
            ScanOutcome::Read(runs) => {
                let bytes = ticket.end - ticket.start;
                disk.scan.read_bytes += if hole { 0 } else { bytes };
                let runs = match &current.known {
                    None => runs,
                    Some(known) => {
                        let from = u64::from(current.first) * disk.regions.region_bytes();
                        let left = differing(runs, from, known);
                        disk.scan.compare.compared_bytes += bytes;
                        disk.scan.compare.differing_bytes += left.iter().map(|run| u64::from(run.len)).sum::<u64>();
                        left
                    }
                };
                let nothing = runs.is_empty()
                    || (runs.iter().all(|run| run.body == Body::Zero) && disk.regions.all_virgin(range.clone()));
                if !nothing {
                    disk.regions.seen(range.clone());
                    slot = Slot::Write { disk: ticket.disk, runs, scan: true };
                }
                current.next = ticket.end;
                let last_end = (u64::from(current.last) + 1) * disk.regions.region_bytes();
                let whole = ticket.end == last_end.min(disk.size_bytes);
                if current.spoiled || whole {
                    disk.scan.cursor = current.last + 1;
                }
                if whole && !current.spoiled {
                    (current.first..=current.last).for_each(|region| disk.regions.scanned(region));
                }
                if !whole && !current.spoiled {
                    disk.scan.now = Some(current);
                }
            }
            ScanOutcome::NoHole => disk.scan.keep_digests(&mut current),
            ScanOutcome::Unreadable => {
                disk.scan.keep_digests(&mut current);
                disk.scan.unreadable.insert(*range.start(), now + UNREADABLE_PAUSE);
                disk.scan.cursor = current.last + 1;
            }
        }
        let shipped = matches!(slot, Slot::Write { .. }).then_some(lsn);
        self.window.fill(lsn, slot);
        let ranges = self.finish(ticket, range, shipped, now);
        self.close_gaps();
        Moved { ranges, ..self.drained(now) }
    }

    /// All of a disk is read again: what the log has of it may be damaged. Its regions are recorded hot already.
    pub fn resync(&mut self, disk: usize, now: Duration) -> Moved {
        let entry = &mut self.disks[disk];
        entry.scan.spoil_all();
        entry.scan.compare.forget();
        let comparable = can_compare(entry.regions.region_bytes());
        entry.regions.lose_all(if comparable { InLog::Earlier } else { InLog::Other });
        if entry.gap.is_none() {
            let (number, reason, from) = (DiskNo(disk as u16), GapReason::DroppedPayload, self.window.next());
            entry.gap = Some(reason);
            self.window.record(Record::GapOpened { disk: number, from, reason });
        }
        self.drained(now)
    }

    /// Closes the gap of every disk of which nothing is stale.
    pub(super) fn close_gaps(&mut self) {
        if !self.is_open() {
            return;
        }
        for (number, disk) in self.disks.iter_mut().enumerate() {
            if disk.gap.is_some() && disk.regions.stale().is_empty() && disk.scan.now.is_none() {
                disk.gap = None;
                self.last_change = self.window.record(Record::GapClosed { disk: DiskNo(number as u16) });
                self.marks.at_once();
            }
        }
    }

    /// Bytes that were read of a disk so far, and bytes that are still to be read.
    pub fn scan_progress(&self, disk: usize) -> (u64, u64) {
        let disk = &self.disks[disk];
        let left = u64::from(disk.regions.stale().count()) * disk.regions.region_bytes();
        (disk.scan.read_bytes, left.min(disk.size_bytes))
    }

    /// Bytes of a disk that were compared by digest so far, and bytes of them that differed and were sent.
    pub fn compare_progress(&self, disk: usize) -> (u64, u64) {
        let compare = &self.disks[disk].scan.compare;
        (compare.compared_bytes, compare.differing_bytes)
    }

    /// Regions that cannot be read at present.
    pub fn unreadable_regions(&self, disk: usize) -> usize {
        self.disks[disk].scan.unreadable.len()
    }
}

fn scan_weight(job: &ScanJob) -> usize {
    let payload = if job.hole { 0 } else { (job.ticket.end - job.ticket.start) as usize };
    payload + ENTRY_WEIGHT_BYTES
}

/// The runs of a hole.
pub fn hole_runs(range: Range<u64>) -> Vec<Run> {
    let len = u32::try_from(range.end - range.start).expect("a hole that is scanned at once is at most 1 GiB");
    vec![Run { offset: range.start, len, body: Body::Zero }]
}
