//! A run in the making: rows come in order of layers and places, frames and parts go out. One part is in memory at a time,
//! and one open frame a disk.
//!
//! Parts are published create-if-absent under the run's own name, which nobody else draws; a part that is there already is
//! this writer's, from a try whose answer was lost, if its footer says so.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{MergeError, Merger};
use crate::digest::{PIECE_BYTES, PieceDigest, digests, piece_count};
use crate::ids::{DiskNo, Lsn, Salt, Slot};
use crate::record::RecordAt;
use crate::section::{SectionBuilder, WriteKind};
use crate::vault::layout::ObjectName;
use crate::vault::manifest::Run;
use crate::vault::read::segment_view::footer_digest_in;
use crate::vault::segment::{
    Counters, FooterDigest, FrameEntry, FrameSealer, IndexRow, ItemNo, ObjectKind, PartContents, RunHead,
    SegmentIdentity, seal_part_footer,
};
use crate::vault::state::LogState;
use crate::vault::store::PutOutcome;

/// Most rows of one frame. Chosen: a table of 192 KiB.
const FRAME_ROWS_MAX: usize = 8192;
/// Most frames of one part. Chosen: a table of 3 MB, whatever they compress to.
const PART_FRAMES_MAX: usize = 1 << 16;

/// What a run is, beside its rows.
#[derive(Debug, Clone)]
pub(super) struct RunPlan {
    /// The head of part 0.
    pub(super) head: RunHead,
    /// First and last LSN.
    pub(super) lsns: (Lsn, Lsn),
    /// Its records.
    pub(super) records: Vec<RecordAt>,
    /// What the log says at its end.
    pub(super) state: LogState,
}

/// The open frame of one disk.
#[derive(Default)]
struct Pen {
    section: SectionBuilder,
    rows: usize,
    lsns: Option<(Lsn, Lsn)>,
    row: Option<OpenRow>,
}

/// Data that goes on on the disk: it becomes one row.
struct OpenRow {
    lsn: Lsn,
    offset: u64,
    data: BytesMut,
    /// The digests of its pieces, while all of them are known.
    digests: Option<Vec<PieceDigest>>,
}

impl OpenRow {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    fn push(&mut self, data: &[u8], digests: Option<&[PieceDigest]>) {
        // A piece that lies in two is one that nobody knows the digest of.
        let whole = self.data.is_empty() || self.end().is_multiple_of(PIECE_BYTES as u64);
        match (&mut self.digests, digests) {
            (Some(known), Some(more)) if whole => known.extend_from_slice(more),
            (known, _) => *known = None,
        }
        self.data.extend_from_slice(data);
    }
}

struct Part {
    identity: SegmentIdentity,
    sealer: FrameSealer,
    chunks: Vec<Bytes>,
    bytes: u64,
    next_item: ItemNo,
    frames: Vec<FrameEntry>,
    rows: BTreeMap<DiskNo, Vec<IndexRow>>,
    counters: Counters,
}

/// Writes one run.
pub(super) struct RunWriter<'a> {
    merger: &'a Merger,
    plan: RunPlan,
    pens: BTreeMap<DiskNo, Pen>,
    part: Option<Part>,
    parts: u32,
    previous: FooterDigest,
    bytes: u64,
}

impl<'a> RunWriter<'a> {
    pub(super) fn new(merger: &'a Merger, plan: RunPlan) -> Self {
        let previous = plan.head.before;
        Self { merger, plan, pens: BTreeMap::new(), part: None, parts: 0, previous, bytes: 0 }
    }

    /// Adds data of a layer, behind everything of the disk before it, with the digests of its pieces where they are known.
    pub(super) async fn data(
        &mut self,
        disk: DiskNo,
        lsn: Lsn,
        offset: u64,
        data: &[u8],
        digests: Option<&[PieceDigest]>,
    ) -> Result<(), MergeError> {
        let frame_bytes = self.merger.limits.frame_payload_bytes;
        let (mut offset, mut left, mut digests) = (offset, data, digests);
        while !left.is_empty() {
            let pen = self.pens.entry(disk).or_default();
            if !pen.row.as_ref().is_some_and(|row| row.lsn == lsn && row.end() == offset) {
                self.end_row(disk);
            }
            let pen = self.pens.entry(disk).or_default();
            let held = pen.section.payload_bytes() + pen.row.as_ref().map_or(0, |row| row.data.len());
            let room = frame_bytes.saturating_sub(held);
            let len = cut(offset, left.len(), room);
            if len == 0 {
                self.end_frame(disk).await?;
                continue;
            }
            let (now, rest) = left.split_at(len);
            let (own, others) = digests.map(|known| known.split_at(piece_count(offset, len))).unzip();
            let open = || OpenRow { lsn, offset, data: BytesMut::new(), digests: Some(Vec::new()) };
            self.pens.entry(disk).or_default().row.get_or_insert_with(open).push(now, own);
            (offset, left, digests) = (offset + len as u64, rest, others);
        }
        Ok(())
    }

    /// Adds zeroes, or undefined bytes.
    pub(super) async fn fill(
        &mut self,
        disk: DiskNo,
        lsn: Lsn,
        offset: u64,
        len: u32,
        kind: WriteKind,
    ) -> Result<(), MergeError> {
        self.end_row(disk);
        let pen = self.pens.entry(disk).or_default();
        pen.section.fill(lsn, offset, len, kind);
        pen.note(lsn);
        if pen.rows >= FRAME_ROWS_MAX {
            self.end_frame(disk).await?;
        }
        Ok(())
    }

    /// Ends the open row of a disk.
    fn end_row(&mut self, disk: DiskNo) {
        let key = self.merger.source.digest_key();
        let Some(pen) = self.pens.get_mut(&disk) else { return };
        if let Some(OpenRow { lsn, offset, data, digests: known }) = pen.row.take() {
            let data = data.freeze();
            let sums = known.unwrap_or_else(|| digests(key, offset, &data));
            pen.section.data(lsn, offset, data, &sums);
            pen.note(lsn);
        }
    }

    async fn end_frame(&mut self, disk: DiskNo) -> Result<(), MergeError> {
        self.end_row(disk);
        let Some(Pen { section, lsns: Some((first, last)), .. }) = self.pens.remove(&disk) else { return Ok(()) };
        let mut part = self.part.take().unwrap_or_else(|| self.begin_part());
        part.push(disk, first, last, &section.finish());
        let full = part.bytes >= self.merger.limits.part_bytes as u64 || part.frames.len() >= PART_FRAMES_MAX;
        self.part = Some(part);
        if full { self.end_part().await } else { Ok(()) }
    }

    fn begin_part(&self) -> Part {
        let merger = self.merger;
        let identity = SegmentIdentity {
            machine: merger.source.machine(),
            timeline: merger.timeline,
            epoch: merger.owner.0,
            writer: merger.owner.1,
            salt: Salt::draw(&mut *merger.keeper.chance().lock()),
            created_at: (merger.clock)(),
            version: merger.limits.packing.version(),
        };
        let header = identity.encode(ObjectKind::Run);
        Part {
            identity,
            sealer: FrameSealer::new(merger.source.key(), identity).packed(merger.limits.packing),
            bytes: header.len() as u64,
            chunks: vec![header],
            next_item: ItemNo::FIRST,
            frames: Vec::new(),
            rows: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    async fn end_part(&mut self) -> Result<(), MergeError> {
        let mut part = self.part.take().unwrap_or_else(|| self.begin_part());
        let merger = self.merger;
        let first = self.parts == 0;
        let mut head = RunHead { part: self.parts, ..self.plan.head.clone() };
        let (none, empty) = (Vec::new(), LogState::default());
        if !first {
            head.boundaries = Vec::new();
        }
        let contents = PartContents {
            head: &head,
            previous: self.previous,
            run: self.plan.lsns,
            frames: &part.frames,
            rows: &part.rows,
            records: if first { &self.plan.records } else { &none },
            state: if first { &self.plan.state } else { &empty },
            counters: part.counters,
        };
        let salt = Salt::draw(&mut *merger.keeper.chance().lock());
        let footer =
            seal_part_footer(merger.source.key(), &part.identity, contents, salt, (merger.clock)(), part.bytes);
        part.bytes += footer.bytes.len() as u64;
        part.chunks.push(footer.bytes);
        let name = ObjectName::run_part(merger.source.machine(), merger.timeline, head.run, head.part);
        publish(merger, &name, &footer.digest, part.chunks.clone()).await?;
        reads_back(merger, &name, &part.chunks).await?;
        self.parts += 1;
        self.bytes += part.bytes;
        self.previous = footer.digest;
        Ok(())
    }

    /// Ends the run; gives what the manifest will say of it.
    pub(super) async fn finish(mut self) -> Result<Run, MergeError> {
        let disks: Vec<DiskNo> = self.pens.keys().copied().collect();
        for disk in disks {
            self.end_frame(disk).await?;
        }
        if self.part.is_some() || self.parts == 0 {
            self.end_part().await?;
        }
        let head = &self.plan.head;
        let (from, to): (Slot, Slot) = (head.from, head.to);
        let (first, last) = self.plan.lsns;
        Ok(Run { id: head.run, from, to, parts: self.parts, bytes: self.bytes, first, last, footer: self.previous })
    }
}

async fn publish(
    merger: &Merger,
    name: &ObjectName,
    digest: &FooterDigest,
    chunks: Vec<Bytes>,
) -> Result<(), MergeError> {
    let store = merger.source.store();
    let staged = store.stage(name, &digest.to_string(), chunks).await?;
    match store.publish(&staged).await {
        Ok(PutOutcome::Created) => Ok(()),
        Ok(PutOutcome::AlreadyExists) => match footer_digest_in(store, name).await? {
            Some(found) if found == *digest => Ok(()),
            _ => {
                let (run, part) = name.run().expect("a part's name");
                Err(MergeError::PartGone { run, part })
            }
        },
        Err(error) => Err(error.into()),
    }
}

/// Reads a part back and compares it byte for byte: what it replaces will be deleted, and then it is all there is (I7).
async fn reads_back(merger: &Merger, name: &ObjectName, chunks: &[Bytes]) -> Result<(), MergeError> {
    let (found, _) = merger.source.store().get(name).await?;
    let mut left: &[u8] = &found;
    let same = chunks.iter().all(|chunk| match left.split_at_checked(chunk.len()) {
        Some((head, rest)) if head == &chunk[..] => {
            left = rest;
            true
        }
        _ => false,
    });
    if same && left.is_empty() {
        return Ok(());
    }
    let (run, part) = name.run().expect("a part's name");
    Err(MergeError::ReadBack { run, part })
}

/// How much of `len` bytes at `offset` goes into `room`: all of it, or up to a border of pieces, so that pieces stay whole.
fn cut(offset: u64, len: usize, room: usize) -> usize {
    if len <= room {
        return len;
    }
    let end = (offset + room as u64) / PIECE_BYTES as u64 * PIECE_BYTES as u64;
    end.saturating_sub(offset) as usize
}

impl Pen {
    fn note(&mut self, lsn: Lsn) {
        self.rows += 1;
        self.lsns = Some((self.lsns.map_or(lsn, |(first, _)| first), lsn));
    }
}

impl Part {
    fn push(&mut self, disk: DiskNo, first: Lsn, last: Lsn, section: &Bytes) {
        let number = self.next_item;
        self.next_item = number.next();
        let item = self.sealer.seal_frame(number, disk, first, last, section);
        let item = item.expect("what this writer lays out is well formed");
        let frame = self.frames.len() as u32;
        let header = &item.header;
        self.frames.push(FrameEntry {
            number,
            offset: self.bytes,
            sealed_bytes: header.sealed_bytes,
            plain_bytes: header.plain_bytes,
            codec: header.codec,
            disk,
            first,
            last,
        });
        self.counters.writes += item.rows.len() as u64;
        self.counters.payload_bytes += item.rows.iter().map(|row| u64::from(row.payload_bytes())).sum::<u64>();
        self.rows.entry(disk).or_default().extend(item.rows.into_iter().map(|row| IndexRow { frame, ..row }));
        self.bytes += item.bytes.len() as u64;
        self.chunks.push(item.bytes);
    }
}
