//! The LSNs that were given and are not in a batch yet, and the batch that is being filled.
//!
//! ```text
//!            first                                        next
//!     ───────┬───────┬───────┬───────┬───────┬───────┬──────►  LSN
//!     batches│ done  │ open  │ done  │ record│ open  │
//!     ◄──────┘       └ holds back everything behind it
//! ```
//!
//! Invariant: a slot goes into a batch only when every slot before it did, so each batch ends a prefix of the LSN order
//! in which every write has completed: a state the disks could have been in after a crash (I2).
//!
//! Numbers are provisional until the log is opened: what the log holds already decides where this life begins (`shift`)
//! and which numbers its disks have. Nothing is drained before that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::content::Run;
use crate::batch::{BATCH_PAYLOAD_BYTES_TARGET, Batch};
use crate::ids::{DiskNo, Lsn};
use crate::record::{Record, RecordAt};
use crate::section::SectionBuilder;

/// What an entry weighs in memory beside its payload, in bytes. Chosen: slot, run, digest and table row of a 4 KiB
/// write, rounded up.
pub(super) const ENTRY_WEIGHT_BYTES: usize = 192;
/// Most entries of one batch: bounds batches of fills, which carry no payload.
const BATCH_ENTRIES_MAX: usize = 4096;

/// What became of an LSN.
#[derive(Debug)]
pub(super) enum Slot {
    /// Under way.
    Open,
    /// Nothing: it was lost, and a gap says so.
    Empty,
    /// A record. Disk numbers in it are provisional.
    Record(Record),
    /// A write of the disk with this provisional number.
    Write {
        disk: usize,
        runs: Vec<Run>,
        /// Whether the scanner read it from the disk.
        scan: bool,
    },
}

/// A batch that is complete and not laid out yet; laying out copies its payload, so it is done outside the lock.
#[derive(Debug)]
pub struct DraftBatch {
    first: Lsn,
    last: Lsn,
    sections: BTreeMap<DiskNo, SectionBuilder>,
    records: Vec<RecordAt>,
}

impl DraftBatch {
    /// Last LSN of its run.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Lays it out.
    pub fn lay_out(self) -> Batch {
        let sections = self.sections.into_iter().map(|(disk, section)| (disk, section.finish())).collect();
        Batch { first: self.first, last: self.last, sections, records: self.records }
    }
}

/// The batch that is being filled.
#[derive(Debug)]
struct Filling {
    draft: DraftBatch,
    since: Duration,
    weight: usize,
    scan_weight: usize,
    payload: usize,
    entries: usize,
}

/// A batch that left, as far as the budget is concerned.
#[derive(Debug)]
struct Outstanding {
    last: Lsn,
    weight: usize,
    scan_weight: usize,
}

/// See the module's drawing.
#[derive(Debug)]
pub(super) struct Window {
    /// Provisional LSN of the front slot.
    first: Lsn,
    slots: VecDeque<Slot>,
    /// What the provisional numbers lack to the log's.
    shift: u64,
    /// The log's numbers of the disks.
    numbers: Vec<DiskNo>,
    filling: Option<Filling>,
    ready: VecDeque<DraftBatch>,
    outstanding: VecDeque<Outstanding>,
    held_bytes: usize,
    /// What of it the scanner read.
    scan_bytes: usize,
}

impl Window {
    pub(super) fn new(first: Lsn, disks: usize) -> Self {
        Self {
            first,
            slots: VecDeque::new(),
            shift: 0,
            numbers: (0..disks as u16).map(DiskNo).collect(),
            filling: None,
            ready: VecDeque::new(),
            outstanding: VecDeque::new(),
            held_bytes: 0,
            scan_bytes: 0,
        }
    }

    /// Takes the log's numbers. Only while nothing has left.
    pub(super) fn renumber(&mut self, shift: u64, numbers: Vec<DiskNo>) {
        assert!(self.filling.is_none() && self.outstanding.is_empty(), "numbers change only before the first batch");
        assert_eq!(numbers.len(), self.numbers.len(), "one number per disk");
        self.shift = shift;
        self.numbers = numbers;
    }

    /// The LSN that will be given next, provisional.
    pub(super) fn next(&self) -> Lsn {
        Lsn(self.first.0 + self.slots.len() as u64)
    }

    /// The provisional LSN of the front slot: everything before it has left, into a batch or the one being filled.
    pub(super) fn next_to_leave(&self) -> Lsn {
        self.first
    }

    /// The log's LSN of a provisional one.
    pub(super) fn final_lsn(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 + self.shift)
    }

    /// The provisional LSN of one of the log's; zero for those before this life.
    pub(super) fn provisional(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0.saturating_sub(self.shift))
    }

    pub(super) fn number(&self, disk: usize) -> DiskNo {
        self.numbers[disk]
    }

    /// Gives an LSN.
    pub(super) fn give(&mut self) -> Lsn {
        let lsn = self.next();
        self.slots.push_back(Slot::Open);
        lsn
    }

    /// Gives an LSN to a record.
    pub(super) fn record(&mut self, record: Record) -> Lsn {
        let lsn = self.give();
        self.fill(lsn, Slot::Record(record));
        lsn
    }

    /// Says what became of an LSN.
    pub(super) fn fill(&mut self, lsn: Lsn, slot: Slot) {
        let at = lsn.0.checked_sub(self.first.0).expect("an open slot has not left the window") as usize;
        assert!(matches!(self.slots[at], Slot::Open), "each LSN is filled once");
        self.held_bytes += slot_weight(&slot);
        self.scan_bytes += scan_weight(&slot);
        self.slots[at] = slot;
    }

    /// A gap of this disk (provisional number) begins at `lsn`, which has not left: no record behind it closes it.
    pub(super) fn keep_open_after(&mut self, lsn: Lsn, disk: DiskNo) {
        let from = lsn.0.checked_sub(self.first.0).expect("an open slot has not left the window") as usize;
        for slot in self.slots.iter_mut().skip(from) {
            if matches!(slot, Slot::Record(Record::GapClosed { disk: closed }) if *closed == disk) {
                self.held_bytes -= slot_weight(slot);
                *slot = Slot::Empty;
            }
        }
    }

    /// Whether every LSN given so far is in a batch or in the one that is being filled.
    pub(super) fn is_drained(&self) -> bool {
        self.slots.is_empty()
    }

    /// Moves what is complete into batches; true where one became ready.
    pub(super) fn drain(&mut self, now: Duration) -> bool {
        let before = self.ready.len();
        while self.slots.front().is_some_and(|slot| !matches!(slot, Slot::Open)) {
            let Some(slot) = self.slots.pop_front() else { break };
            let lsn = self.final_lsn(self.first);
            self.first = self.first.next();
            self.put(lsn, slot, now);
        }
        self.ready.len() > before
    }

    fn put(&mut self, lsn: Lsn, slot: Slot, now: Duration) {
        let (weight, scan_weight) = (slot_weight(&slot), scan_weight(&slot));
        let filling = self.filling.get_or_insert_with(|| Filling {
            draft: DraftBatch { first: lsn, last: lsn, sections: BTreeMap::new(), records: Vec::new() },
            since: now,
            weight: 0,
            scan_weight: 0,
            payload: 0,
            entries: 0,
        });
        filling.draft.last = lsn;
        filling.weight += weight;
        filling.scan_weight += scan_weight;
        let mut close = false;
        match slot {
            Slot::Open => unreachable!("an open slot stays in the window"),
            Slot::Empty => {}
            Slot::Record(record) => {
                filling.entries += 1;
                // Marks and the end of a gap make points: they go at once.
                close = matches!(record, Record::Mark(_) | Record::GapClosed { .. } | Record::CleanStop { .. });
                let record = with_numbers(record, &self.numbers, self.shift);
                filling.draft.records.push(RecordAt { lsn, record });
            }
            Slot::Write { disk, runs, .. } => {
                filling.entries += runs.len();
                filling.payload += runs.iter().map(Run::payload_bytes).sum::<usize>();
                let section = filling.draft.sections.entry(self.numbers[disk]).or_default();
                runs.into_iter().for_each(|run| run.lay_into(lsn, section));
            }
        }
        if close || filling.payload >= BATCH_PAYLOAD_BYTES_TARGET || filling.entries >= BATCH_ENTRIES_MAX {
            self.close();
        }
    }

    /// Closes the batch that is being filled, if anything is in it.
    pub(super) fn close(&mut self) {
        if let Some(Filling { draft, weight, scan_weight, .. }) = self.filling.take() {
            self.outstanding.push_back(Outstanding { last: draft.last, weight, scan_weight });
            self.ready.push_back(draft);
        }
    }

    /// Since when the batch that is being filled waits for more.
    pub(super) fn filling_since(&self) -> Option<Duration> {
        self.filling.as_ref().map(|filling| filling.since)
    }

    /// Takes the next complete batch.
    pub(super) fn take_ready(&mut self) -> Option<DraftBatch> {
        self.ready.pop_front()
    }

    /// Counts bytes that are about to come.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.held_bytes += bytes;
    }

    /// They came, and count by themselves now, or never will.
    pub(super) fn unexpect(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
    }

    /// Everything up to `lsn` (the log's number) need not be held any more.
    pub(super) fn let_go(&mut self, lsn: Lsn) {
        while let Some(batch) = self.outstanding.front().filter(|batch| batch.last <= lsn) {
            self.held_bytes -= batch.weight;
            self.scan_bytes -= batch.scan_weight;
            self.outstanding.pop_front();
        }
    }

    /// What is held: in the window, in batches, and with the session until it is committed.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// What of it the scanner read.
    pub(super) fn scan_bytes(&self) -> usize {
        self.scan_bytes
    }
}

fn slot_weight(slot: &Slot) -> usize {
    match slot {
        Slot::Open | Slot::Empty => 0,
        Slot::Record(_) => ENTRY_WEIGHT_BYTES,
        Slot::Write { runs, .. } => runs.iter().map(|run| run.payload_bytes() + ENTRY_WEIGHT_BYTES).sum(),
    }
}

fn scan_weight(slot: &Slot) -> usize {
    match slot {
        Slot::Write { scan: true, .. } => slot_weight(slot),
        Slot::Open | Slot::Empty | Slot::Record(_) | Slot::Write { .. } => 0,
    }
}

fn with_numbers(record: Record, numbers: &[DiskNo], shift: u64) -> Record {
    let number = |disk: DiskNo| numbers[usize::from(disk.0)];
    match record {
        Record::GapOpened { disk, from, reason } => {
            Record::GapOpened { disk: number(disk), from: Lsn(from.0 + shift), reason }
        }
        Record::GapClosed { disk } => Record::GapClosed { disk: number(disk) },
        Record::ActivityLogInvalid { disk } => Record::ActivityLogInvalid { disk: number(disk) },
        Record::DiskAdded(mut info) => {
            info.disk = number(info.disk);
            Record::DiskAdded(info)
        }
        Record::DiskResized { disk, size_bytes } => Record::DiskResized { disk: number(disk), size_bytes },
        other @ (Record::Incarnation { .. }
        | Record::Mark(_)
        | Record::DiskRemoved { .. }
        | Record::CleanStop { .. }) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::content::Body;
    use crate::record::GapReason;

    fn zeroes(disk: usize) -> Slot {
        Slot::Write { disk, runs: vec![Run { offset: 0, len: 4096, body: Body::Zero }], scan: false }
    }

    #[test]
    fn what_is_complete_waits_for_what_is_not() {
        let mut window = Window::new(Lsn(10), 2);
        let (a, b) = (window.give(), window.give());
        window.fill(b, zeroes(1));
        window.drain(Duration::ZERO);
        window.close();
        assert!(window.take_ready().is_none());
        window.fill(a, zeroes(0));
        window.drain(Duration::ZERO);
        window.close();
        let batch = window.take_ready().expect("both are complete").lay_out();
        assert_eq!((batch.first, batch.last, batch.sections.len()), (Lsn(10), Lsn(11), 2));
        assert!(window.held_bytes() > 0);
        window.let_go(Lsn(11));
        assert_eq!(window.held_bytes(), 0);
    }

    #[test]
    fn numbers_are_provisional_until_the_log_is_known() {
        let mut window = Window::new(Lsn(1), 1);
        window.record(Record::GapOpened { disk: DiskNo(0), from: Lsn(1), reason: GapReason::Overload });
        window.record(Record::GapClosed { disk: DiskNo(0) });
        window.renumber(100, vec![DiskNo(7)]);
        window.drain(Duration::ZERO);
        let batch = window.take_ready().expect("a closed gap goes at once").lay_out();
        assert_eq!(batch.first, Lsn(101));
        assert_eq!(batch.records[1].record, Record::GapClosed { disk: DiskNo(7) });
        assert!(matches!(batch.records[0].record, Record::GapOpened { disk: DiskNo(7), from: Lsn(101), .. }));
    }
}
