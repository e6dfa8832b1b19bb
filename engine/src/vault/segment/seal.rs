//! Sections to sealed items and back. This is the CPU work of the write path; it runs on a pool, on several threads
//! at once, with one sealer per segment.
//!
//! ```text
//!   section ─► snappy or zstd (or as it is, where that is not smaller) ─► AES-256-GCM in place ─► CRC ─► item
//!   associated data = machine 16 | timeline 8 | segment salt 16 | item bytes 0..44
//! ```
//!
//! An item's buffer is exactly as long as the item: what waits for upload takes no more memory than it says.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{LogVersion, SegmentIdentity};
use super::index::IndexRow;
use super::item::{ITEM_AUTHENTICATED_BYTES, ITEM_HEADER_BYTES, ITEM_PLAIN_BYTES_MAX, item_crc};
use super::item::{ItemHeader, ItemKind, ItemNo};
use super::packing::{Packing, unpack, with_packed};
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, Lsn, MachineId, Salt, TimelineId};
use crate::record::{RecordAt, put_records, take_records};
use crate::section::{Section, WriteKind};
use crate::vault::crypto::{DataKey, OpenError, SealKey, TAG_BYTES};

/// An item as it goes into the segment, with what the index needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedItem {
    /// Its header.
    pub header: ItemHeader,
    /// Header and sealed bytes, exactly as they lie in the segment.
    pub bytes: Bytes,
    /// A frame's rows; their `frame` is set when the item is pushed into an index.
    pub rows: Vec<IndexRow>,
    /// A batch end's records.
    pub records: Vec<RecordAt>,
}

/// Everything that an item is bound to beside itself.
#[derive(Debug, Clone)]
struct Bond {
    key: SealKey,
    place: [u8; MachineId::BYTES + TimelineId::BYTES + Salt::BYTES],
}

impl Bond {
    fn new(key: &DataKey, identity: &SegmentIdentity) -> Self {
        let mut place = [0; 40];
        place[..16].copy_from_slice(&identity.machine.0);
        place[16..24].copy_from_slice(&identity.timeline.0);
        place[24..].copy_from_slice(&identity.salt.0);
        Self { key: key.frame_key(&identity.salt), place }
    }

    fn associated(&self, front: &[u8; ITEM_AUTHENTICATED_BYTES]) -> [u8; 40 + ITEM_AUTHENTICATED_BYTES] {
        let mut bytes = [0; 40 + ITEM_AUTHENTICATED_BYTES];
        bytes[..40].copy_from_slice(&self.place);
        bytes[40..].copy_from_slice(front);
        bytes
    }
}

/// Seals the items of one segment. Clones share the key; the caller gives each number once.
#[derive(Debug, Clone)]
pub struct FrameSealer {
    bond: Bond,
    packing: Packing,
    version: LogVersion,
}

impl FrameSealer {
    /// A sealer for the segment with this identity, which packs with Snappy.
    pub fn new(key: &DataKey, identity: SegmentIdentity) -> Self {
        Self { bond: Bond::new(key, &identity), packing: Packing::Snappy, version: identity.version }
    }

    /// Packs frames so from now on, as far as the segment's version allows it.
    #[must_use]
    pub fn packed(mut self, packing: Packing) -> Self {
        self.packing = packing.within(self.version);
        self
    }

    /// Seals one disk's section of the batch `first..=last`. A section that no reader could read is refused.
    pub fn seal_frame(
        &self,
        number: ItemNo,
        disk: DiskNo,
        first: Lsn,
        last: Lsn,
        section: &Bytes,
    ) -> Result<SealedItem, Malformed> {
        if section.len() > ITEM_PLAIN_BYTES_MAX || disk.0 == u16::MAX {
            return Err(Malformed::Value { what: "section", value: section.len() as u64 });
        }
        let rows = frame_rows(section, first, last)?;
        let (header, bytes) = self.seal(ItemKind::Frame { disk }, number, first, last, section);
        Ok(SealedItem { header, bytes, rows, records: Vec::new() })
    }

    /// Seals the end of the batch `first..=last`, which has `frames` frames and these records.
    pub fn seal_batch_end(
        &self,
        number: ItemNo,
        first: Lsn,
        last: Lsn,
        frames: u32,
        records: &[RecordAt],
    ) -> SealedItem {
        let mut plain = Put::default();
        put_records(records, &mut plain);
        let (header, bytes) = self.seal(ItemKind::BatchEnd { frames }, number, first, last, plain.as_slice());
        SealedItem { header, bytes, rows: Vec::new(), records: records.to_vec() }
    }

    fn seal(&self, kind: ItemKind, number: ItemNo, first: Lsn, last: Lsn, plain: &[u8]) -> (ItemHeader, Bytes) {
        assert!(number.0 > 0, "item numbers begin at 1");
        assert!(Lsn::ZERO < first && first <= last, "a batch has a run of LSNs");
        assert!(plain.len() <= ITEM_PLAIN_BYTES_MAX, "an item is bounded");
        let packing = match kind {
            ItemKind::Frame { .. } => self.packing,
            ItemKind::BatchEnd { .. } => Packing::Snappy,
        };
        with_packed(packing, plain, |codec, body| {
            let mut header = ItemHeader {
                kind,
                codec,
                number,
                first,
                last,
                plain_bytes: plain.len() as u32,
                sealed_bytes: (body.len() + TAG_BYTES) as u32,
                crc: 0,
            };
            let front = header.encode_front();
            let mut out = BytesMut::with_capacity(header.item_bytes());
            out.put_slice(&front);
            out.put_u32_le(0);
            out.put_slice(body);
            let tag =
                self.bond.key.seal_detached(number.0, &self.bond.associated(&front), &mut out[ITEM_HEADER_BYTES..]);
            out.put_slice(&tag);
            header.crc = item_crc(&front, &out[ITEM_HEADER_BYTES..]);
            out[ITEM_AUTHENTICATED_BYTES..ITEM_HEADER_BYTES].copy_from_slice(&header.crc.to_le_bytes());
            (header, out.freeze())
        })
    }
}

/// The rows of a section for the index, with its LSNs checked against the run that carries it.
fn frame_rows(section: &Bytes, first: Lsn, last: Lsn) -> Result<Vec<IndexRow>, Malformed> {
    let section = Section::parse(section, u64::MAX)?;
    let outside = section.entries.iter().find(|entry| entry.lsn < first || entry.lsn > last);
    if let Some(entry) = outside {
        return Err(Malformed::Value { what: "write LSN", value: entry.lsn.0 });
    }
    if section.entries.is_empty() {
        return Err(Malformed::Short { what: "section" });
    }
    let rows = section.rows().map(|row| IndexRow {
        lsn: row.entry.lsn,
        offset: row.entry.offset,
        len: row.entry.len,
        kind: row.entry.kind,
        frame: 0,
        payload_at: row.payload_at as u32,
    });
    Ok(rows.collect())
}

/// Opens the items of one segment. Clones share the key.
#[derive(Debug, Clone)]
pub struct FrameOpener {
    bond: Bond,
    version: LogVersion,
}

impl FrameOpener {
    /// An opener for the segment with this identity.
    pub fn new(key: &DataKey, identity: &SegmentIdentity) -> Self {
        Self { bond: Bond::new(key, identity), version: identity.version }
    }

    /// Opens exactly one item: header, checked CRC and seal, plaintext.
    pub fn open_item(&self, item: &Bytes) -> Result<(ItemHeader, Bytes), OpenError> {
        self.open_slice(item)
    }

    pub(super) fn open_slice(&self, item: &[u8]) -> Result<(ItemHeader, Bytes), OpenError> {
        let (header, sealed) = ItemHeader::check(item)?;
        if item.len() != header.item_bytes() {
            return Err(Malformed::Trailing { what: "item", count: item.len() - header.item_bytes() }.into());
        }
        header.codec.check_within(self.version)?;
        let associated = self.bond.associated(&header.encode_front());
        let body = self.bond.key.open(header.number.0, &associated, sealed, "item")?;
        Ok((header, unpack(header.codec, header.plain_bytes as usize, body, "item")?))
    }

    /// Opens an item into what [`FrameSealer`] gave for it, rows or records included.
    pub fn reopen(&self, item: &Bytes) -> Result<SealedItem, OpenError> {
        let (header, plain) = self.open_item(item)?;
        let (rows, records) = match header.kind {
            ItemKind::Frame { .. } => (frame_rows(&plain, header.first, header.last)?, Vec::new()),
            ItemKind::BatchEnd { .. } => {
                let mut input = Take::new(&plain);
                let records = take_records(&mut input)?;
                input.end("batch end")?;
                (Vec::new(), records)
            }
        };
        Ok(SealedItem { header, bytes: item.clone(), rows, records })
    }
}

impl IndexRow {
    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// How many bytes of payload it has.
    pub fn payload_bytes(&self) -> u32 {
        match self.kind {
            WriteKind::Data => self.len,
            WriteKind::Zero | WriteKind::Undefined => 0,
        }
    }
}
