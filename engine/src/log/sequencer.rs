//! Turns accepted batches into segments: which segment a batch goes to, which numbers its items get, what is appended
//! next, what is durable, when a segment closes.
//!
//! Owns: the order of one machine's log under one owner, from the accepted batch to the synced bytes. The machine actor
//! feeds it; disk actors seal what it dispatches and may finish in any order.
//!
//! ```text
//!   a batch      accept ─► Sealing ─(all items sealed)─► Ready ─take_append─► Appending ─synced─► durable
//!                              └──────── any failed append or sync forgets it: the agent resends ────────┘
//!
//!   a segment    Open ─ full, old, marked, asked ─► Closing ─ last batch synced ─► ClosedSegment
//!                  └── append or sync failed ─► cut at what is synced: ClosedSegment (or nothing, if that is empty)
//! ```
//!
//! Invariants
//! - A batch lies in one segment. Its segment is chosen when it is dispatched; frames on their way never move.
//! - Items are appended in LSN order, whole batches only; `durable` counts whole synced batches.
//! - An item number is used once per salt, even if what was sealed under it is thrown away: no nonce is used twice (I8).
//! - A failed append or sync is never tried again: nothing more is written to that file, what was not durable is
//!   forgotten, what follows goes into a new segment under a new salt.
//! - What it holds is bounded by [`SequencerLimits::in_flight_bytes_max`] (I10).
//!
//! Crash story: nothing here is stored; after a restart `cache::recover` says what was durable, and a new sequencer
//! goes on from there in a new segment.

mod jobs;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::SegmentNo;
use crate::batch::Batch;
use crate::ids::{Chance, DiskNo, Lsn, Salt, Timestamp};
use crate::record::{MarkKind, Record, RecordAt};
use crate::vault::crypto::TAG_BYTES;
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::segment::item::ITEM_HEADER_BYTES;
use crate::vault::segment::{ItemNo, LogVersion, SealedItem, SegmentIdentity, SegmentIndex};
use crate::vault::state::LogState;

pub use jobs::{
    AppendJob, AppendNo, BatchEndJob, BatchNo, ClosedSegment, Dispatch, FrameJob, LogOf, Refused, SequencerLimits,
};

/// A frame, or (without a disk) the batch end. Sections are kept until the batch is durable: see `dispatch_again`.
#[derive(Debug)]
struct Part {
    number: ItemNo,
    disk: Option<DiskNo>,
    section: Bytes,
    sealed: Option<SealedItem>,
}

/// What sealing adds to an item's plaintext, in bytes: its header and its tag.
const ITEM_BYTES_ADDED: usize = ITEM_HEADER_BYTES + TAG_BYTES;

impl Part {
    fn plain_bytes(&self) -> u64 {
        (self.section.len() + ITEM_BYTES_ADDED) as u64
    }
}

#[derive(Debug)]
struct Pending {
    batch: BatchNo,
    segment: SegmentNo,
    first: Lsn,
    last: Lsn,
    records: Vec<RecordAt>,
    weight_bytes: usize,
    unsealed: usize,
    /// Frames in order of disks, then the batch end.
    parts: Vec<Part>,
}

impl Pending {
    fn bytes(&self) -> u64 {
        self.parts.iter().filter_map(|part| part.sealed.as_ref()).map(item_bytes).sum()
    }

    fn waits_for(&self, disk: DiskNo) -> bool {
        self.parts.iter().any(|part| part.disk == Some(disk) && part.sealed.is_none())
    }

    fn dispatch(&self, identity: SegmentIdentity) -> Dispatch {
        let (first, last) = (self.first, self.last);
        let frame = |part: &Part| {
            let (number, section) = (part.number, part.section.clone());
            part.disk.map(|disk| FrameJob { number, disk, first, last, section })
        };
        let frames: Vec<FrameJob> = self.parts.iter().filter_map(frame).collect();
        let number = self.parts.last().expect("a batch has an end").number;
        let end = BatchEndJob { number, first, last, frames: frames.len() as u32, records: self.records.clone() };
        Dispatch { batch: self.batch, segment: self.segment, identity, frames, end }
    }

    /// Sealed bytes as far as known, plain ones and what sealing adds for the rest.
    fn estimated_bytes(&self) -> u64 {
        let of_part = |part: &Part| part.sealed.as_ref().map_or(part.plain_bytes(), item_bytes);
        self.parts.iter().map(of_part).sum()
    }
}

#[derive(Debug)]
struct Filling {
    segment: SegmentNo,
    identity: SegmentIdentity,
    next_item: ItemNo,
    opened_at: Duration,
    closing: bool,
    /// Sealed bytes as far as known, plain ones for the rest.
    estimated_bytes: u64,
    /// Batches that are not synced yet.
    pending: usize,
    first: Lsn,
    /// What is synced.
    items_end: u64,
    index: SegmentIndex,
}

impl Filling {
    fn take_number(&mut self) -> ItemNo {
        let number = self.next_item;
        self.next_item = number.next();
        number
    }
}

#[derive(Debug)]
struct Appending {
    append: AppendNo,
    batches: usize,
}

/// The sequencer of one machine's log under one owner. See the module.
#[derive(Debug)]
pub struct Sequencer {
    log: LogOf,
    limits: SequencerLimits,
    accepted: LogState,
    synced: LogState,
    next_segment: SegmentNo,
    version: LogVersion,
    batches_drawn: u64,
    appends_drawn: u64,
    in_flight_bytes: usize,
    /// A disk came in order, and no mark has shown it yet.
    point_due: bool,
    pending: VecDeque<Pending>,
    filling: VecDeque<Filling>,
    appending: Option<Appending>,
    closed: VecDeque<ClosedSegment>,
}

impl Sequencer {
    /// Goes on behind `state`, the log's state at the end of what is durable, in segments from `next_segment` on.
    pub fn new(log: LogOf, limits: SequencerLimits, state: LogState, next_segment: SegmentNo) -> Self {
        Self {
            log,
            limits,
            accepted: state.clone(),
            synced: state,
            next_segment,
            version: LogVersion::V1,
            batches_drawn: 0,
            appends_drawn: 0,
            in_flight_bytes: 0,
            point_due: false,
            pending: VecDeque::new(),
            filling: VecDeque::new(),
            appending: None,
            closed: VecDeque::new(),
        }
    }

    /// Begins segments of this version from now on; the open one stays what it is.
    pub fn begin_in(&mut self, version: LogVersion) {
        self.version = version;
    }

    /// Takes the next batch and says what is to be sealed for it. `now` is the caller's monotonic time, `at` the
    /// wall clock (it only labels a new segment); a new segment's salt is drawn from `chance`.
    ///
    /// # Errors
    /// When the batch does not follow, or does not fit; nothing has changed then.
    pub fn accept(
        &mut self,
        batch: Batch,
        now: Duration,
        at: Timestamp,
        chance: &mut dyn Chance,
    ) -> Result<Dispatch, Refused> {
        let weight_bytes = batch.weight_bytes();
        // As in the protocol's credit, the last batch may overdraw: what is held is bounded by the limit and one batch.
        if self.room_bytes() == 0 {
            return Err(Refused::Full { in_flight_bytes: self.in_flight_bytes });
        }
        self.accepted.follows(&batch)?;
        self.batches_drawn += 1;
        let number = BatchNo(self.batches_drawn);
        let closes = self.closes_segment(&batch.records);
        let sealed_bytes_max = (weight_bytes + (batch.sections.len() + 1) * ITEM_BYTES_ADDED) as u64;
        let filling = self.segment_for(sealed_bytes_max, batch.first, now, at, chance);
        let end = (None, Bytes::new());
        let parts = batch.sections.into_iter().map(|(disk, section)| (Some(disk), section)).chain([end]);
        let parts: Vec<Part> =
            parts.map(|(disk, section)| Part { number: filling.take_number(), disk, section, sealed: None }).collect();
        let pending = Pending {
            batch: number,
            segment: filling.segment,
            first: batch.first,
            last: batch.last,
            records: batch.records,
            weight_bytes,
            unsealed: parts.len(),
            parts,
        };
        filling.pending += 1;
        filling.estimated_bytes += pending.estimated_bytes();
        filling.closing = closes;
        let dispatch = pending.dispatch(filling.identity);
        self.in_flight_bytes += weight_bytes;
        self.pending.push_back(pending);
        Ok(dispatch)
    }

    /// An item of a batch is sealed. `false` when nobody waits for it any more (its batch was forgotten, or the item
    /// was dispatched again under another number): it is thrown away.
    pub fn sealed(&mut self, batch: BatchNo, item: SealedItem) -> bool {
        let Some(pending) = self.pending_mut(batch) else { return false };
        let wanted = |part: &&mut Part| part.number == item.header.number && part.sealed.is_none();
        let Some(part) = pending.parts.iter_mut().find(wanted) else { return false };
        let plain_bytes = part.plain_bytes();
        let segment = pending.segment;
        let sealed_bytes = item_bytes(&item);
        part.sealed = Some(item);
        pending.unsealed -= 1;
        if let Some(filling) = self.filling.iter_mut().find(|filling| filling.segment == segment) {
            filling.estimated_bytes = (filling.estimated_bytes + sealed_bytes).saturating_sub(plain_bytes);
        }
        true
    }

    /// What is to be sealed again because this disk's actor died, and with it whatever it was sealing. Numbers rise
    /// through a segment and none is given twice, so every batch behind the first that is hit is sealed anew as well;
    /// what comes in under an old number is thrown away.
    pub fn dispatch_again(&mut self, disk: DiskNo) -> Vec<Dispatch> {
        let appending = self.appending.as_ref().map_or(0, |appending| appending.batches);
        let mut again = Vec::new();
        let mut hit = None;
        for pending in self.pending.iter_mut().skip(appending) {
            if hit != Some(pending.segment) && !pending.waits_for(disk) {
                continue;
            }
            hit = Some(pending.segment);
            let filling = self.filling.iter_mut().find(|filling| filling.segment == pending.segment);
            let filling = filling.expect("a batch's segment stays until the batch is synced");
            filling.estimated_bytes = filling.estimated_bytes.saturating_sub(pending.estimated_bytes());
            pending.parts.iter_mut().for_each(|part| {
                part.number = filling.take_number();
                part.sealed = None;
            });
            filling.estimated_bytes += pending.estimated_bytes();
            pending.unsealed = pending.parts.len();
            again.push(pending.dispatch(filling.identity));
        }
        again
    }

    /// What can be appended now: every batch in order that is sealed, of one segment, up to the bound. One append is
    /// under way at a time, so a slow disk makes larger groups.
    pub fn take_append(&mut self) -> Option<AppendJob> {
        if self.appending.is_some() {
            return None;
        }
        let segment = self.pending.front()?.segment;
        let (mut parts, mut bytes, mut batches, mut last) = (Vec::new(), 0, 0, Lsn::ZERO);
        for pending in &self.pending {
            let fits = batches == 0 || bytes + pending.bytes() <= self.limits.append_bytes_max as u64;
            if pending.unsealed > 0 || pending.segment != segment || !fits {
                break;
            }
            parts.extend(pending.parts.iter().filter_map(|part| part.sealed.as_ref()).map(|item| item.bytes.clone()));
            bytes += pending.bytes();
            batches += 1;
            last = pending.last;
        }
        if batches == 0 {
            return None;
        }
        self.appends_drawn += 1;
        let append = AppendNo(self.appends_drawn);
        self.appending = Some(Appending { append, batches });
        let filling = self.filling.front().expect("a batch's segment stays until the batch is synced");
        assert_eq!(filling.segment, segment, "segments are filled in order");
        let fresh = filling.items_end == HEADER_BYTES as u64;
        let create = fresh.then_some(filling.identity);
        Some(AppendJob { append, segment, create, offset: filling.items_end, parts, bytes, last })
    }

    /// The append is written and synced. Returns the last durable LSN.
    ///
    /// # Panics
    /// When it is not the append under way.
    pub fn appended_and_synced(&mut self, append: AppendNo) -> Lsn {
        let appending = self.appending.take().expect("an append is under way");
        assert_eq!(appending.append, append, "appends end in order");
        let filling = self.filling.front_mut().expect("a batch's segment stays until the batch is synced");
        for pending in self.pending.drain(..appending.batches) {
            for item in pending.parts.iter().filter_map(|part| part.sealed.as_ref()) {
                filling.index.push(filling.items_end, item);
                filling.items_end += item_bytes(item);
            }
            let followed = self.synced.follow_run(pending.first, pending.last, &pending.records);
            assert_eq!(followed, Ok(()), "what was accepted in order is synced in order");
            filling.pending -= 1;
            self.in_flight_bytes -= pending.weight_bytes;
        }
        self.close_finished();
        self.durable()
    }

    /// Forgets every batch that is not being appended: the session that sent them is over, and a new one begins behind
    /// what becomes durable. Ask [`Sequencer::is_appending`]: while an append is under way, that is not known yet.
    pub fn forget_waiting(&mut self) {
        let kept = self.appending.as_ref().map_or(0, |appending| appending.batches);
        for pending in self.pending.drain(kept..).rev() {
            self.in_flight_bytes -= pending.weight_bytes;
            let filling = self.filling.iter_mut().find(|filling| filling.segment == pending.segment);
            let filling = filling.expect("a batch's segment stays until the batch is synced");
            filling.pending -= 1;
            filling.estimated_bytes = filling.estimated_bytes.saturating_sub(pending.estimated_bytes());
        }
        self.filling.retain(|filling| filling.pending > 0 || filling.items_end > HEADER_BYTES as u64);
        self.accepted = self.synced.clone();
        for pending in &self.pending {
            let followed = self.accepted.follow_run(pending.first, pending.last, &pending.records);
            assert_eq!(followed, Ok(()), "what was accepted in order follows");
        }
        self.close_finished();
    }

    /// Whether an append is under way.
    pub fn is_appending(&self) -> bool {
        self.appending.is_some()
    }

    /// The append, or its sync, failed. The file is abandoned, everything that was not durable is forgotten: the
    /// session must begin again behind the last durable LSN, which this returns. What the file holds of earlier appends
    /// is closed as it is.
    ///
    /// # Panics
    /// When it is not the append under way.
    pub fn failed(&mut self, append: AppendNo) -> Lsn {
        let appending = self.appending.take().expect("an append is under way");
        assert_eq!(appending.append, append, "appends end in order");
        self.pending.clear();
        self.in_flight_bytes = 0;
        self.accepted = self.synced.clone();
        let abandoned = self.filling.pop_front();
        self.filling.clear();
        if let Some(kept) = abandoned.filter(|filling| filling.items_end > HEADER_BYTES as u64) {
            self.close(kept, true);
        }
        self.durable()
    }

    /// Closes the segment whose time has come.
    pub fn tick(&mut self, now: Duration) {
        if self.closes_at().is_some_and(|at| at <= now) {
            self.close_open();
        }
    }

    /// When [`Sequencer::tick`] will have something to close; `None` while no segment is open. An idle machine
    /// closes nothing.
    pub fn closes_at(&self) -> Option<Duration> {
        let open = self.filling.back().filter(|filling| !filling.closing)?;
        Some(open.opened_at + self.limits.seal_interval)
    }

    /// Closes the open segment as soon as what it was given is synced (an owner that hands the log over, or stops).
    pub fn close_open(&mut self) {
        if let Some(open) = self.filling.back_mut() {
            open.closing = true;
        }
        self.close_finished();
    }

    /// The next segment that is closed, in log order. To be asked after every event.
    pub fn take_closed(&mut self) -> Option<ClosedSegment> {
        self.closed.pop_front()
    }

    /// Everything up to it is durable.
    pub fn durable(&self) -> Lsn {
        self.synced.last_lsn
    }

    /// The log's state at [`Sequencer::durable`].
    pub fn durable_state(&self) -> &LogState {
        &self.synced
    }

    /// The log's state behind everything accepted, durable or not: what a new session goes on from.
    pub fn accepted_state(&self) -> &LogState {
        &self.accepted
    }

    /// Synced bytes of segments that are not closed yet.
    pub fn open_bytes(&self) -> u64 {
        self.filling.iter().map(|filling| filling.items_end).sum()
    }

    /// How many more bytes of batches may be accepted now: what a session may grant as credit.
    pub fn room_bytes(&self) -> usize {
        self.limits.in_flight_bytes_max.saturating_sub(self.in_flight_bytes)
    }

    /// Whether everything accepted is durable, closed and taken.
    pub fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.closed.is_empty()
    }

    /// The segment that takes the next batch: the open one, or a new one where that is closing or would grow too big.
    fn segment_for(
        &mut self,
        batch_bytes: u64,
        first: Lsn,
        now: Duration,
        at: Timestamp,
        chance: &mut dyn Chance,
    ) -> &mut Filling {
        if let Some(open) = self.filling.back_mut() {
            open.closing |= open.estimated_bytes + batch_bytes > self.limits.segment_bytes_max;
        }
        self.close_finished();
        if self.filling.back().is_none_or(|open| open.closing) {
            let identity = SegmentIdentity {
                machine: self.log.machine,
                timeline: self.log.timeline,
                epoch: self.log.owner.epoch,
                writer: self.log.owner.writer,
                salt: Salt::draw(chance),
                created_at: at,
                version: self.version,
            };
            self.filling.push_back(Filling {
                segment: self.next_segment,
                identity,
                next_item: ItemNo::FIRST,
                opened_at: now,
                closing: false,
                estimated_bytes: HEADER_BYTES as u64,
                pending: 0,
                first,
                items_end: HEADER_BYTES as u64,
                index: SegmentIndex::default(),
            });
            self.next_segment = self.next_segment.next();
        }
        self.filling.back_mut().expect("a segment was just made sure of")
    }

    /// App and group marks want to be points at once, and so does the first mark that shows a disk again; after a clean stop
    /// nothing follows that could fill the segment.
    fn closes_segment(&mut self, records: &[RecordAt]) -> bool {
        let mut closes = false;
        for record in records {
            match &record.record {
                Record::GapClosed { .. } => self.point_due = true,
                Record::Mark(mark) => {
                    closes |=
                        std::mem::take(&mut self.point_due) || matches!(mark.kind, MarkKind::App | MarkKind::Group);
                }
                Record::CleanStop { .. } => closes = true,
                _ => {}
            }
        }
        closes
    }

    fn pending_mut(&mut self, batch: BatchNo) -> Option<&mut Pending> {
        let at = self.pending.binary_search_by_key(&batch, |pending| pending.batch).ok()?;
        self.pending.get_mut(at)
    }

    fn close_finished(&mut self) {
        while self.filling.front().is_some_and(|front| front.closing && front.pending == 0)
            && let Some(finished) = self.filling.pop_front()
        {
            self.close(finished, false);
        }
    }

    fn close(&mut self, filling: Filling, abandoned: bool) {
        self.closed.push_back(ClosedSegment {
            segment: filling.segment,
            identity: filling.identity,
            index: Some(filling.index),
            state_after: self.synced.clone(),
            items_end: filling.items_end,
            first: filling.first,
            last: self.synced.last_lsn,
            abandoned,
        });
    }
}

fn item_bytes(item: &SealedItem) -> u64 {
    item.bytes.len() as u64
}

#[cfg(test)]
mod tests;
