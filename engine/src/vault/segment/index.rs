//! What a segment holds, gathered while its items are appended: the LSN run, the frames with their places, the rows of
//! each disk, the records. The footer is made from it.
//!
//! Only whole batches count. Frames wait aside until their batch end comes, so an index can be sealed at any moment
//! between two batches.

use std::collections::BTreeMap;

use super::item::{Codec, ItemKind, ItemNo};
use super::seal::SealedItem;
use crate::ids::{DiskNo, Lsn};
use crate::record::{Mark, MarkKind, Record, RecordAt};
use crate::section::WriteKind;

/// A frame and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Its item number.
    pub number: ItemNo,
    /// Where its item header begins in the object, in bytes.
    pub offset: u64,
    /// Length of its sealed bytes, behind the item header.
    pub sealed_bytes: u32,
    /// Length of the section it holds.
    pub plain_bytes: u32,
    /// How it is packed.
    pub codec: Codec,
    /// Whose writes it holds.
    pub disk: DiskNo,
    /// First LSN of its batch.
    pub first: Lsn,
    /// Last LSN of its batch.
    pub last: Lsn,
}

impl FrameEntry {
    /// Length of the whole item, which begins at `offset`.
    pub fn item_bytes(&self) -> u64 {
        super::item::ITEM_HEADER_BYTES as u64 + u64::from(self.sealed_bytes)
    }
}

/// One write of one disk, and where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRow {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How long, in bytes.
    pub len: u32,
    /// What is put there.
    pub kind: WriteKind,
    /// Which of the segment's frames holds it.
    pub frame: u32,
    /// Where its bytes begin in the payload of that frame's section.
    pub payload_at: u32,
}

/// How much a segment holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Whole batches.
    pub batches: u64,
    /// Rows: writes, and parts of writes where one is partly zero.
    pub writes: u64,
    /// Bytes of payload before compression.
    pub payload_bytes: u64,
}

/// What a segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    run: Option<(Lsn, Lsn)>,
    frames: Vec<FrameEntry>,
    rows: BTreeMap<DiskNo, Vec<IndexRow>>,
    records: Vec<RecordAt>,
    counters: Counters,
    last_number: u64,
    waiting: Vec<(FrameEntry, Vec<IndexRow>)>,
}

impl SegmentIndex {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an item that lies at `offset_in_file`. Items come in the order in which they lie.
    ///
    /// # Panics
    /// Where numbers do not rise, LSN runs do not, or a batch end does not have the frames before it: the caller
    /// lays batches out, and whoever reads a file has them checked by [`super::scan_whole_batches`].
    pub fn push(&mut self, offset_in_file: u64, item: &SealedItem) {
        let header = &item.header;
        assert!(header.number.0 > self.last_number, "item numbers rise through a segment");
        assert!(self.run.is_none_or(|(_, last)| last < header.first), "runs of batches follow each other");
        self.last_number = header.number.0;
        match header.kind {
            ItemKind::Frame { disk } => {
                let entry = FrameEntry {
                    number: header.number,
                    offset: offset_in_file,
                    sealed_bytes: header.sealed_bytes,
                    plain_bytes: header.plain_bytes,
                    codec: header.codec,
                    disk,
                    first: header.first,
                    last: header.last,
                };
                self.waiting.push((entry, item.rows.clone()));
            }
            ItemKind::BatchEnd { frames } => {
                assert_eq!(self.waiting.len(), frames as usize, "a batch end closes its own frames");
                self.close_batch(header.first, header.last, &item.records);
            }
        }
    }

    fn close_batch(&mut self, first: Lsn, last: Lsn, records: &[RecordAt]) {
        for (entry, rows) in std::mem::take(&mut self.waiting) {
            assert!(entry.first == first && entry.last == last, "a frame has its batch's run");
            let frame = u32::try_from(self.frames.len()).expect("a segment has fewer than 2^32 frames");
            self.frames.push(entry);
            self.counters.writes += rows.len() as u64;
            self.counters.payload_bytes += rows.iter().map(|row| u64::from(row.payload_bytes())).sum::<u64>();
            let numbered = rows.into_iter().map(|row| IndexRow { frame, ..row });
            let disk_rows = self.rows.entry(entry.disk).or_default();
            let before = disk_rows.last().map(|row| row.lsn);
            disk_rows.extend(numbered);
            assert!(before.is_none_or(|before| before < first), "a batch has one frame of a disk");
        }
        self.records.extend_from_slice(records);
        self.counters.batches += 1;
        self.run = Some((self.run.map_or(first, |(first, _)| first), last));
    }

    /// First and last LSN of the whole batches, if there is one.
    pub fn run(&self) -> Option<(Lsn, Lsn)> {
        self.run
    }

    /// Whether no whole batch is in it.
    pub fn is_empty(&self) -> bool {
        self.run.is_none()
    }

    /// The frames, in the order in which they lie.
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// The rows of each disk, in log order.
    pub fn rows(&self) -> &BTreeMap<DiskNo, Vec<IndexRow>> {
        &self.rows
    }

    /// The records, in log order.
    pub fn records(&self) -> &[RecordAt] {
        &self.records
    }

    /// How much it holds.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The marks, in log order.
    pub fn marks(&self) -> impl Iterator<Item = (Lsn, &Mark)> {
        self.records.iter().filter_map(|at| match &at.record {
            Record::Mark(mark) => Some((at.lsn, mark)),
            _ => None,
        })
    }

    /// Whether a mark is in it that someone waits for: an app or group mark closes its segment at once.
    pub fn contains_urgent_marks(&self) -> bool {
        self.marks().any(|(_, mark)| mark.kind != MarkKind::Crash)
    }

    /// Whether any mark is in it.
    pub fn contains_marks(&self) -> bool {
        self.marks().next().is_some()
    }
}
