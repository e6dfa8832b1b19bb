//! An object that holds writes, as a reader sees it: its footer, opened once, and how to get at its index pages and frames.
//! A segment fills a slot of the log; a part of a run stands for many.
//!
//! One range read of the object's last [`TAIL_READ_BYTES`] usually brings trailer, top and all index pages; the pages
//! are kept, still sealed, while the reader's budget lasts, so that the map of a new point needs no second read.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{Damage, ReadError};
use super::frame_cache::{FrameId, OpenFrame};
use super::slots::FilledSlot;
use crate::digest::DigestKey;
use crate::ids::{Lsn, MachineId, RunId, Slot, TimelineId};
use crate::section::Section;
use crate::vault::crypto::{DataKey, OpenError};
use crate::vault::layout::ObjectName;
use crate::vault::segment::{Footer, FooterDigest, FrameOpener, IndexRow, ItemHeader, ItemKind, Trailer};
use crate::vault::state::LogState;
use crate::vault::store::{ObjectStore, StoreErrorKind};

/// How much of an object's end is read first, in bytes. Chosen: holds the footer of a segment of 5,000 random writes
/// (10 bytes a row); half of it makes most reads of a busy segment two, double of it costs 5 ms more at 100 Mbit/s.
pub const TAIL_READ_BYTES: u64 = 64 << 10;

/// Where an object of a timeline lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectPlace {
    /// In a slot of its log.
    Slot(Slot),
    /// In a run, as this part of it.
    Run(RunId, u32),
}

impl ObjectPlace {
    /// The object's name.
    pub fn name(self, machine: MachineId, timeline: TimelineId) -> ObjectName {
        match self {
            Self::Slot(slot) => ObjectName::log(machine, timeline, slot),
            Self::Run(run, part) => ObjectName::run_part(machine, timeline, run, part),
        }
    }
}

/// A machine's logs in a store, and the keys to read them.
#[derive(Clone)]
pub struct LogSource {
    store: Arc<dyn ObjectStore>,
    machine: MachineId,
    key: DataKey,
    digest_key: DigestKey,
}

/// A log object with its footer opened.
#[derive(Debug, Clone)]
pub struct SegmentView {
    /// The timeline it lies in.
    pub timeline: TimelineId,
    /// The slot it fills, or the last one that it stands for.
    pub slot: Slot,
    /// Where it lies.
    pub place: ObjectPlace,
    /// The object's size in bytes.
    pub object_bytes: u64,
    /// Its footer; without records and state once its reader has taken them.
    pub footer: Footer,
    /// The last LSN that counts: a child timeline takes from its parent only what came before the branch.
    pub limit: Lsn,
    opener: FrameOpener,
    /// Sealed index pages, and where in the object they begin.
    pages: Option<(u64, Bytes)>,
}

impl std::fmt::Debug for LogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSource").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl LogSource {
    /// The logs of `machine`, sealed under `key`.
    pub fn new(store: Arc<dyn ObjectStore>, machine: MachineId, key: DataKey) -> Self {
        let digest_key = key.digest_key();
        Self { store, machine, key, digest_key }
    }

    /// The machine.
    pub fn machine(&self) -> MachineId {
        self.machine
    }

    /// The store.
    pub fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// The machine's data key.
    pub fn key(&self) -> &DataKey {
        &self.key
    }

    /// The key of the machine's piece digests.
    pub fn digest_key(&self) -> &DigestKey {
        &self.digest_key
    }

    /// The name of a log object.
    pub fn name(&self, timeline: TimelineId, slot: Slot) -> ObjectName {
        ObjectName::log(self.machine, timeline, slot)
    }

    /// The name of an object that was opened.
    pub fn name_of(&self, view: &SegmentView) -> ObjectName {
        view.place.name(self.machine, view.timeline)
    }

    async fn range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, ReadError> {
        range(&*self.store, name, offset, len).await
    }

    /// Reads and opens the footer of a filled slot; keeps its index pages where that takes at most `keep_bytes`.
    pub async fn open(
        &self,
        timeline: TimelineId,
        filled: FilledSlot,
        keep_bytes: usize,
    ) -> Result<SegmentView, ReadError> {
        let opened = open_footer(&*self.store, self.machine, timeline, &self.key, filled).await?;
        Ok(self.view(timeline, ObjectPlace::Slot(filled.slot), opened, keep_bytes))
    }

    /// The same for a part of a run, which has `bytes` bytes.
    pub async fn open_part(
        &self,
        timeline: TimelineId,
        run: RunId,
        part: u32,
        bytes: u64,
        keep_bytes: usize,
    ) -> Result<SegmentView, ReadError> {
        let place = ObjectPlace::Run(run, part);
        let name = place.name(self.machine, timeline);
        let opened = open_end(&*self.store, self.machine, timeline, &self.key, &name, bytes).await?;
        match &opened.footer.run {
            Some(head) if (head.run, head.part) == (run, part) => {}
            _ => return Err(ReadError::damaged(name, Damage::Misplaced { sealed_for: opened.footer.slot })),
        }
        Ok(self.view(timeline, place, opened, keep_bytes))
    }

    fn view(&self, timeline: TimelineId, place: ObjectPlace, opened: OpenedFooter, keep_bytes: usize) -> SegmentView {
        let OpenedFooter { footer, object_bytes, pages } = opened;
        // A copy: a slice would hold the whole tail.
        let pages = pages.filter(|(_, bytes)| !bytes.is_empty() && bytes.len() <= keep_bytes);
        let pages = pages.map(|(at, bytes)| (at, Bytes::copy_from_slice(&bytes)));
        let opener = FrameOpener::new(&self.key, &footer.identity);
        let slot = footer.slot;
        SegmentView { timeline, slot, place, object_bytes, footer, limit: Lsn(u64::MAX), opener, pages }
    }

    /// Any range of an object.
    pub async fn object_range(&self, segment: &SegmentView, offset: u64, len: u64) -> Result<Bytes, ReadError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.range(&self.name_of(segment), offset, len).await
    }

    /// The rows of one index page.
    pub async fn rows(&self, segment: &SegmentView, page: usize) -> Result<Vec<IndexRow>, ReadError> {
        let entry = segment.footer.pages[page];
        let name = self.name_of(segment);
        let kept = segment.pages.as_ref().and_then(|(base, bytes)| {
            let at = usize::try_from(entry.offset.checked_sub(*base)?).ok()?;
            bytes.get(at..at.checked_add(entry.len as usize)?).map(|_| bytes.slice(at..at + entry.len as usize))
        });
        let sealed = match kept {
            Some(sealed) => sealed,
            None => self.range(&name, entry.offset, entry.len.into()).await?,
        };
        segment.footer.open_page(&self.key, page, &sealed).map_err(|error| ReadError::damaged(name, error))
    }

    /// Fetches a frame, opens it and checks every piece's digest.
    pub async fn frame(&self, segment: &SegmentView, frame: u32) -> Result<OpenFrame, ReadError> {
        self.frame_with_item(segment, frame).await.map(|(open, _)| open)
    }

    /// The same, with its item as it lies there.
    pub(super) async fn frame_with_item(
        &self,
        segment: &SegmentView,
        frame: u32,
    ) -> Result<(OpenFrame, Bytes), ReadError> {
        let item = self.item(segment, frame).await?;
        let name = self.name_of(segment);
        let open = self.open_frame(segment, frame, &item);
        let open = open.map_err(|cause| ReadError::damaged(name, Damage::Frame { frame, cause: Box::new(cause) }))?;
        Ok((open, item))
    }

    /// Fetches a frame's item as it lies there.
    pub async fn item(&self, segment: &SegmentView, frame: u32) -> Result<Bytes, ReadError> {
        let entry = segment.footer.frames[frame as usize];
        let name = self.name_of(segment);
        self.range(&name, entry.offset, entry.item_bytes()).await
    }

    /// Opens a frame out of its item's bytes.
    pub fn open_frame(&self, segment: &SegmentView, frame: u32, item: &Bytes) -> Result<OpenFrame, Damage> {
        let entry = segment.footer.frames[frame as usize];
        let (header, plain) = segment.opener.open_item(item)?;
        if header.number != entry.number || header.kind != (ItemKind::Frame { disk: entry.disk }) {
            // The item is genuine, but not the one that the index means.
            return Err(Damage::Index { frame, offset: 0 });
        }
        let section = Section::parse(&plain, u64::MAX)?;
        OpenFrame::check(&section, &self.digest_key).map_err(|offset| Damage::Digest { disk: entry.disk, offset })
    }
}

/// A footer with what the same read brought.
pub(super) struct OpenedFooter {
    pub(super) footer: Footer,
    pub(super) object_bytes: u64,
    /// The sealed index pages and where they begin, if the read brought all of them.
    pub(super) pages: Option<(u64, Bytes)>,
}

/// Reads and opens the footer of a filled slot.
pub(super) async fn open_footer(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    key: &DataKey,
    filled: FilledSlot,
) -> Result<OpenedFooter, ReadError> {
    let name = ObjectName::log(machine, timeline, filled.slot);
    let opened = open_end(store, machine, timeline, key, &name, filled.bytes).await?;
    if opened.footer.slot != filled.slot || opened.footer.run.is_some() {
        return Err(ReadError::damaged(name, Damage::Misplaced { sealed_for: opened.footer.slot }));
    }
    Ok(opened)
}

async fn open_end(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    key: &DataKey,
    name: &ObjectName,
    bytes: u64,
) -> Result<OpenedFooter, ReadError> {
    let ObjectEnd { from, tail, trailer, top } = read_end(store, name, bytes).await?;
    let found = from + tail.len() as u64;
    let footer = Footer::open(key, machine, timeline, &trailer, &top);
    let footer = footer.map_err(|error| ReadError::damaged(name.clone(), error))?;
    let pages = trailer.items_end.checked_sub(from).map(|at| {
        let end = trailer.top_at - from;
        (trailer.items_end, tail.slice(at as usize..end as usize))
    });
    Ok(OpenedFooter { footer, object_bytes: found, pages })
}

/// The end of a log object, not opened.
struct ObjectEnd {
    /// Where `tail` begins.
    from: u64,
    tail: Bytes,
    trailer: Trailer,
    top: Bytes,
}

async fn read_end(store: &dyn ObjectStore, name: &ObjectName, bytes: u64) -> Result<ObjectEnd, ReadError> {
    let damaged = |damage: Damage| ReadError::damaged(name.clone(), damage);
    let from = bytes.saturating_sub(TAIL_READ_BYTES);
    let tail = range(store, name, from, bytes - from).await?;
    let trailer = Trailer::parse(&tail).map_err(|error| damaged(error.into()))?;
    let found = from + tail.len() as u64;
    if trailer.object_bytes() != found {
        return Err(damaged(Damage::Length { expected: trailer.object_bytes(), found }));
    }
    let top_bytes = u64::from(trailer.top_sealed_bytes);
    let top = match trailer.top_at.checked_sub(from) {
        Some(at) => tail.slice(at as usize..(at + top_bytes) as usize),
        None => range(store, name, trailer.top_at, top_bytes).await?,
    };
    Ok(ObjectEnd { from, tail, trailer, top })
}

/// The digest of the footer in a slot, `None` where the slot is not filled. Needs no key, and so proves only which bytes lie
/// there: enough to see whether a segment that was sealed behind them still follows.
pub async fn footer_digest_in(store: &dyn ObjectStore, name: &ObjectName) -> Result<Option<FooterDigest>, ReadError> {
    let bytes = match store.head(name).await {
        Ok(meta) => meta.bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::store(name, error)),
    };
    let end = read_end(store, name, bytes).await?;
    Ok(Some(end.trailer.footer_digest(&end.top)))
}

async fn range(store: &dyn ObjectStore, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, ReadError> {
    store.get_range(name, offset, len).await.map_err(|error| ReadError::store(name, error))
}

impl SegmentView {
    /// Opens any item of the object.
    pub fn open_item(&self, item: &Bytes) -> Result<(ItemHeader, Bytes), OpenError> {
        self.opener.open_item(item)
    }

    /// The same object, of which only LSNs up to `limit` count.
    pub fn up_to(&self, limit: Lsn) -> Self {
        Self { limit: self.limit.min(limit), ..self.clone() }
    }

    /// Forgets what the footer says about the log, which its reader has taken: a view then holds places of bytes only.
    pub fn forget_log(&mut self) {
        self.footer.records = Vec::new();
        self.footer.state = LogState::default();
        self.footer.run = None;
    }

    /// The same object without what its footer says about the log.
    pub fn without_log(mut self) -> Self {
        self.forget_log();
        self
    }

    /// Forgets its kept index pages: they are read again when wanted.
    pub fn drop_pages(&mut self) {
        self.pages = None;
    }

    /// What its kept index pages take in memory, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.pages.as_ref().map_or(0, |(_, bytes)| bytes.len())
    }

    /// The cache's name of one of its frames.
    pub fn frame_id(&self, frame: u32) -> FrameId {
        FrameId { timeline: self.timeline, place: self.place, frame }
    }

    /// The last LSN that it brings.
    pub fn last(&self) -> Lsn {
        self.footer.last.min(self.limit)
    }
}
