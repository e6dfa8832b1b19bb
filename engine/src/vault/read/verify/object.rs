//! One log object, read whole: every byte of it is covered by a check, and what does not hold is told as precisely as
//! it can be: a frame, an index page, or the object.
//!
//! ```text
//!   header      CRC, and equal to the footer's identity
//!   frame       CRC, seal, number, disk, place as the frame table says; every piece's digest
//!   batch end   CRC, seal; its records are the footer's, its frame count is that of the frames before it
//!   index page  seal; its rows are the frames' rows
//!   top         seal (with the trailer); chain, order: in the timeline
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{Malformed, Take};
use crate::ids::{DiskNo, Lsn};
use crate::record::{RecordAt, take_records};
use crate::section::Section;
use crate::vault::read::error::{Damage, ReadError};
use crate::vault::read::frame_cache::OpenFrame;
use crate::vault::read::segment_view::{LogSource, SegmentView};
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::segment::item::ITEM_HEADER_BYTES;
use crate::vault::segment::{IndexRow, ItemHeader, ItemKind};

/// What is wrong inside an object whose footer holds.
#[derive(Debug, Clone, Default)]
pub(in crate::vault) struct ObjectFaults {
    /// Frames that give no bytes, or none that can be trusted.
    pub(super) frames: BTreeMap<u32, Damage>,
    /// First LSN from which rows of a disk are not known, since an index page cannot be read or is wrong.
    pub(super) rows_lost: BTreeMap<DiskNo, Lsn>,
    /// Everything, in words.
    pub(super) problems: Vec<Damage>,
}

impl ObjectFaults {
    pub(in crate::vault) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// What was found first, if anything was.
    pub(in crate::vault) fn into_first(self) -> Option<Damage> {
        self.problems.into_iter().next()
    }

    fn add(&mut self, damage: Damage) {
        if !self.problems.contains(&damage) {
            self.problems.push(damage);
        }
    }
}

/// Reads the object behind a footer whole. An error means that the store does not answer.
pub(super) async fn check_object(source: &LogSource, view: &SegmentView) -> Result<ObjectFaults, ReadError> {
    let mut check = Check { source, view, faults: ObjectFaults::default(), rows: BTreeMap::new(), records: Vec::new() };
    check.header().await?;
    check.items().await?;
    check.pages().await?;
    Ok(check.faults)
}

struct Check<'a> {
    source: &'a LogSource,
    view: &'a SegmentView,
    faults: ObjectFaults,
    /// What the frames themselves say; a disk with a bad frame is taken out.
    rows: BTreeMap<DiskNo, Vec<IndexRow>>,
    records: Vec<RecordAt>,
}

impl Check<'_> {
    /// A range of the object, or the damage that reading it showed.
    async fn range(&self, from: u64, to: u64) -> Result<Result<Bytes, Damage>, ReadError> {
        match self.source.object_range(self.view, from, to - from).await {
            Ok(bytes) if bytes.len() as u64 == to - from => Ok(Ok(bytes)),
            Ok(_) => Ok(Err(Malformed::Short { what: "log object" }.into())),
            Err(ReadError::Damaged { damage, .. }) => Ok(Err(damage)),
            Err(other) => Err(other),
        }
    }

    async fn header(&mut self) -> Result<(), ReadError> {
        let header = self.range(0, HEADER_BYTES as u64).await?;
        let checked = header.and_then(|bytes| self.view.footer.check_header(&bytes).map_err(Damage::from));
        if let Err(damage) = checked {
            self.faults.add(damage);
        }
        Ok(())
    }

    /// Reads the items in the order in which they lie. Where the frame table is authentic, a damaged item does not hide
    /// those behind it.
    async fn items(&mut self) -> Result<(), ReadError> {
        let view = self.view;
        let (mut at, mut frames_open, mut ends_sound) = (HEADER_BYTES as u64, 0, true);
        for (number, frame) in view.footer.frames.iter().enumerate() {
            let frame_end = frame.offset.saturating_add(frame.item_bytes());
            if frame.offset < at || frame_end > view.footer.items_end {
                self.faults.add(Malformed::Value { what: "frame table", value: frame.offset }.into());
                return Ok(());
            }
            let bytes = self.range(at, frame_end).await?;
            match bytes {
                Ok(bytes) => {
                    let gap = (frame.offset - at) as usize;
                    ends_sound &= self.batch_ends(bytes.slice(..gap), &mut frames_open);
                    self.frame(number as u32, &bytes.slice(gap..));
                }
                Err(damage) => {
                    ends_sound = false;
                    self.bad_frame(number as u32, damage);
                }
            }
            frames_open += 1;
            at = frame_end;
        }
        match self.range(at, view.footer.items_end).await? {
            Ok(bytes) => ends_sound &= self.batch_ends(bytes, &mut frames_open),
            Err(damage) => {
                ends_sound = false;
                self.faults.add(damage);
            }
        }
        // A run has no batches: its records stand in the top alone, sealed with it.
        let whole = view.footer.run.is_none();
        if whole && ends_sound && (frames_open > 0 || self.records != view.footer.records) {
            self.faults.add(Malformed::Value { what: "batch ends", value: frames_open.into() }.into());
        }
        Ok(())
    }

    /// Checks the batch ends that lie between two frames; false where one is damaged.
    fn batch_ends(&mut self, mut bytes: Bytes, frames_open: &mut u32) -> bool {
        while !bytes.is_empty() {
            let taken = self.batch_end(&bytes, frames_open);
            match taken {
                Ok(length) => bytes = bytes.slice(length..),
                Err(damage) => {
                    self.faults.add(damage);
                    *frames_open = 0;
                    return false;
                }
            }
        }
        true
    }

    fn batch_end(&mut self, bytes: &Bytes, frames_open: &mut u32) -> Result<usize, Damage> {
        let wrong = || Damage::from(Malformed::Value { what: "batch end", value: 0 });
        let length = ItemHeader::parse(bytes)?.item_bytes();
        if length > bytes.len() || length < ITEM_HEADER_BYTES {
            return Err(wrong());
        }
        let (header, plain) = self.view.open_item(&bytes.slice(..length))?;
        let ItemKind::BatchEnd { frames } = header.kind else { return Err(wrong()) };
        if frames != *frames_open {
            return Err(wrong());
        }
        *frames_open = 0;
        let mut input = Take::new(&plain);
        self.records.extend(take_records(&mut input)?);
        input.end("batch end")?;
        Ok(length)
    }

    fn frame(&mut self, number: u32, item: &Bytes) {
        match self.open_frame(number, item) {
            Ok(rows) => {
                let disk = self.view.footer.frames[number as usize].disk;
                self.rows.entry(disk).or_default().extend(rows);
            }
            Err(damage) => self.bad_frame(number, damage),
        }
    }

    fn open_frame(&self, frame: u32, item: &Bytes) -> Result<Vec<IndexRow>, Damage> {
        let entry = self.view.footer.frames[frame as usize];
        let (header, plain) = self.view.open_item(item)?;
        let same_run = (header.first, header.last) == (entry.first, entry.last);
        if header.number != entry.number || header.kind != (ItemKind::Frame { disk: entry.disk }) || !same_run {
            return Err(Damage::Index { frame, offset: entry.offset });
        }
        let section = Section::parse(&plain, u64::MAX)?;
        OpenFrame::check(&section, self.source.digest_key())
            .map_err(|offset| Damage::Digest { disk: entry.disk, offset })?;
        let rows = section.rows().map(|row| IndexRow {
            lsn: row.entry.lsn,
            offset: row.entry.offset,
            len: row.entry.len,
            kind: row.entry.kind,
            frame,
            payload_at: row.payload_at as u32,
        });
        Ok(rows.collect())
    }

    fn bad_frame(&mut self, number: u32, damage: Damage) {
        self.faults.add(Damage::Frame { frame: number, cause: Box::new(damage.clone()) });
        self.faults.frames.insert(number, damage);
    }

    /// Opens every index page, and compares its rows with those that the frames themselves hold.
    async fn pages(&mut self) -> Result<(), ReadError> {
        let mut indexed: BTreeMap<DiskNo, Vec<IndexRow>> = BTreeMap::new();
        for (page, entry) in self.view.footer.pages.iter().enumerate() {
            match self.source.rows(self.view, page).await {
                Ok(rows) => indexed.entry(entry.disk).or_default().extend(rows),
                Err(ReadError::Damaged { damage, .. }) => self.lose_rows(entry.disk, entry.first, damage),
                Err(other) => return Err(other),
            }
        }
        let frames = &self.view.footer.frames;
        let bad_disks: Vec<DiskNo> = self.faults.frames.keys().map(|frame| frames[*frame as usize].disk).collect();
        let told = std::mem::take(&mut self.rows);
        let disks: Vec<DiskNo> = told.keys().chain(indexed.keys()).copied().collect();
        for disk in disks {
            // With a frame or a page of the disk missing there is nothing to compare with.
            if bad_disks.contains(&disk) || self.faults.rows_lost.contains_key(&disk) {
                continue;
            }
            let (told, indexed) = (told.get(&disk), indexed.get(&disk));
            if told != indexed {
                let differs = |rows: Option<&Vec<IndexRow>>| rows.and_then(|rows| rows.first()).map(|row| row.lsn);
                let first = differs(told).or(differs(indexed)).unwrap_or(self.view.footer.first);
                self.lose_rows(disk, first, Malformed::Value { what: "index", value: disk.0.into() }.into());
            }
        }
        Ok(())
    }

    fn lose_rows(&mut self, disk: DiskNo, from: Lsn, damage: Damage) {
        self.faults.add(damage);
        let lost = self.faults.rows_lost.entry(disk).or_insert(from);
        *lost = from.min(*lost);
    }
}
