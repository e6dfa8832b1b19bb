//! Sealing and opening of footers: of segments, when their slot and their predecessor are known, and of the fences and
//! branches that are nothing but a footer.
//!
//! ```text
//!   items_end ┌ page 1 ┐┌ page 2 ┐ ... ┌ top ┐┌ trailer ┐
//!             nonce 1    nonce 2       nonce 0
//!   associated data: of a page  machine | timeline | trailer's slot u64
//!                    of the top machine | timeline | trailer bytes 0..124
//! ```
//!
//! A footer that must be written again (another slot, another predecessor) is sealed again under a fresh salt; the
//! items stay as they are.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::header::{HEADER_BYTES, SegmentIdentity};
use super::index::{Counters, FrameEntry, IndexRow, SegmentIndex};
use super::item::{Codec, ITEM_PLAIN_BYTES_MAX};
use super::packing::{Packing, unpack, with_packed};
use super::page;
use super::run::RunHead;
use super::top::{Control, Footer, FooterDigest, PageEntry, Top};
use super::trailer::{TRAILER_BYTES, Trailer};
use crate::codec::{Malformed, Put};
use crate::ids::{DiskNo, Lsn, MachineId, Salt, Slot, TimelineId, Timestamp};
use crate::record::RecordAt;
use crate::vault::crypto::{DataKey, OpenError, SealKey, TAG_BYTES};
use crate::vault::state::LogState;

/// The nonce of the top.
const TOP_NUMBER: u64 = 0;

/// Where a log object goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterPlace {
    /// Its slot.
    pub slot: Slot,
    /// The digest of the footer in the slot before; [`FooterDigest::NONE`] in slot 0.
    pub previous: FooterDigest,
}

/// What is appended to a segment's items to make it an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFooter {
    /// Index pages, top and trailer.
    pub bytes: Bytes,
    /// Its digest, for the next slot.
    pub digest: FooterDigest,
}

/// A fence or branch, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedControl {
    /// The object.
    pub bytes: Bytes,
    /// Its footer's digest, for the next slot.
    pub digest: FooterDigest,
}

/// Machine, timeline, and what else a seal is bound to.
fn associated(machine: MachineId, timeline: TimelineId, rest: &[u8]) -> Vec<u8> {
    [&machine.0[..], &timeline.0, rest].concat()
}

/// Seals `body` at the end of `out`; gives the sealed length.
fn append_sealed(key: &SealKey, number: u64, aad: &[u8], body: &[u8], out: &mut BytesMut) -> u32 {
    let from = out.len();
    out.extend_from_slice(body);
    let tag = key.seal_detached(number, aad, &mut out[from..]);
    out.extend_from_slice(&tag);
    (out.len() - from) as u32
}

/// Seals the footer of a segment whose items end at `items_end`. `salt` is drawn for this call and for no other.
///
/// # Panics
/// Where the index holds no whole batch, or `state_after` is not the state at its last LSN.
#[allow(clippy::too_many_arguments)]
pub fn seal_footer(
    key: &DataKey,
    identity: &SegmentIdentity,
    place: FooterPlace,
    index: &SegmentIndex,
    state_after: &LogState,
    salt: Salt,
    closed_at: Timestamp,
    items_end: u64,
) -> SealedFooter {
    let (first, last) = index.run().expect("a segment holds at least one batch");
    assert_eq!(state_after.last_lsn, last, "the state is the one behind the segment");
    let seal = key.footer_key(&salt);
    let mut out = BytesMut::new();
    let pages = append_pages(&seal, identity, place.slot, index.rows(), items_end, &mut out);
    let top = Top {
        created_at: identity.created_at,
        closed_at,
        previous: place.previous,
        first,
        last,
        control: None,
        run: None,
        counters: index.counters(),
        frames: index.frames().to_vec(),
        pages,
        records: index.records().to_vec(),
        state: state_after.clone(),
    };
    let digest = append_top(&seal, identity, place.slot, salt, items_end, &top, &mut out);
    SealedFooter { bytes: out.freeze(), digest }
}

/// Packs and seals the rows of each disk at the end of `out`, which lies behind the items.
fn append_pages(
    seal: &SealKey,
    identity: &SegmentIdentity,
    slot: Slot,
    rows: &BTreeMap<DiskNo, Vec<IndexRow>>,
    items_end: u64,
    out: &mut BytesMut,
) -> Vec<PageEntry> {
    let mut pages = Vec::new();
    let aad = associated(identity.machine, identity.timeline, &slot.0.to_le_bytes());
    for (disk, rows) in rows {
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (plain, count) = page::pack(rest);
            let number = pages.len() as u64 + 1;
            let offset = items_end + out.len() as u64;
            let (codec, len) = with_packed(Packing::Snappy, &plain, |codec, body| {
                (codec, append_sealed(seal, number, &aad, body, out))
            });
            pages.push(page_entry(offset, len, plain.len() as u32, codec, *disk, &rest[..count]));
            rest = &rest[count..];
        }
    }
    pages
}

/// What the footer of a run's part is made of.
#[derive(Debug, Clone, Copy)]
pub struct PartContents<'a> {
    /// Which part of which run.
    pub head: &'a RunHead,
    /// The footer before it: of the part before, or of the slot before the run.
    pub previous: FooterDigest,
    /// First and last LSN of the run.
    pub run: (Lsn, Lsn),
    /// Its frames, in the order in which they lie.
    pub frames: &'a [FrameEntry],
    /// The rows of each disk: by layer, then by place on the disk.
    pub rows: &'a BTreeMap<DiskNo, Vec<IndexRow>>,
    /// Records of the run; in part 0 only.
    pub records: &'a [RecordAt],
    /// What the log says at the run's end; in part 0 only.
    pub state: &'a LogState,
    /// How much the part holds.
    pub counters: Counters,
}

/// Seals the footer of a run's part whose items end at `items_end`. `salt` is drawn for this call and for no other.
pub fn seal_part_footer(
    key: &DataKey,
    identity: &SegmentIdentity,
    part: PartContents<'_>,
    salt: Salt,
    closed_at: Timestamp,
    items_end: u64,
) -> SealedFooter {
    let (seal, slot) = (key.footer_key(&salt), part.head.to);
    let mut out = BytesMut::new();
    let pages = append_pages(&seal, identity, slot, part.rows, items_end, &mut out);
    let top = Top {
        created_at: identity.created_at,
        closed_at,
        previous: part.previous,
        first: part.run.0,
        last: part.run.1,
        control: None,
        run: Some(Box::new(part.head.clone())),
        counters: part.counters,
        frames: part.frames.to_vec(),
        pages,
        records: part.records.to_vec(),
        state: part.state.clone(),
    };
    let digest = append_top(&seal, identity, slot, salt, items_end, &top, &mut out);
    SealedFooter { bytes: out.freeze(), digest }
}

/// Makes a fence or a branch. `state` is what the log says before it, which it does not change; `salt` is drawn for
/// this call and for no other.
pub fn seal_control(
    key: &DataKey,
    identity: &SegmentIdentity,
    control: Control,
    place: FooterPlace,
    state: &LogState,
    salt: Salt,
    at: Timestamp,
) -> SealedControl {
    let mut out = BytesMut::from(&identity.encode(control.kind())[..]);
    let top = Top {
        created_at: identity.created_at,
        closed_at: at,
        previous: place.previous,
        first: state.last_lsn.next(),
        last: state.last_lsn,
        control: Some(control),
        run: None,
        counters: Counters::default(),
        frames: Vec::new(),
        pages: Vec::new(),
        records: Vec::new(),
        state: state.clone(),
    };
    let seal = key.footer_key(&salt);
    // The top is appended to its own buffer: its place is told from where the items end, here behind the header.
    let mut footer = BytesMut::new();
    let digest = append_top(&seal, identity, place.slot, salt, HEADER_BYTES as u64, &top, &mut footer);
    out.extend_from_slice(&footer);
    SealedControl { bytes: out.freeze(), digest }
}

fn page_entry(offset: u64, len: u32, plain_bytes: u32, codec: Codec, disk: DiskNo, rows: &[IndexRow]) -> PageEntry {
    let (first, last) = (rows.first().expect("a page has rows"), rows.last().expect("a page has rows"));
    PageEntry {
        offset,
        len,
        plain_bytes,
        codec,
        disk,
        first: first.lsn,
        last: last.lsn,
        rows: rows.len() as u32,
        min_offset: rows.iter().map(|row| row.offset).min().unwrap_or(0),
        max_end: rows.iter().map(IndexRow::end).max().unwrap_or(0),
    }
}

/// Appends sealed top and trailer to `out`, which holds the pages and nothing before them.
fn append_top(
    seal: &SealKey,
    identity: &SegmentIdentity,
    slot: Slot,
    footer_salt: Salt,
    items_end: u64,
    top: &Top,
    out: &mut BytesMut,
) -> FooterDigest {
    let mut plain = Put::default();
    top.put(&mut plain);
    assert!(plain.len() <= ITEM_PLAIN_BYTES_MAX, "a top is bounded: segments close on size");
    let from = out.len();
    with_packed(Packing::Snappy, plain.as_slice(), |codec, body| {
        let trailer = Trailer {
            version: identity.version,
            kind: top.kind(),
            slot,
            epoch: identity.epoch,
            writer: identity.writer,
            footer_salt,
            segment_salt: identity.salt,
            items_end,
            pages: top.pages.len() as u32,
            top_at: items_end + from as u64,
            top_sealed_bytes: (body.len() + TAG_BYTES) as u32,
            top_plain_bytes: plain.len() as u32,
            top_codec: codec,
        };
        let trailer = trailer.encode();
        let aad = associated(identity.machine, identity.timeline, &trailer[..TRAILER_BYTES - 4]);
        append_sealed(seal, TOP_NUMBER, &aad, body, out);
        out.extend_from_slice(&trailer);
    });
    FooterDigest(blake3::hash(&out[from..]).into())
}

impl Trailer {
    /// The digest of the footer that ends in this trailer; `top` is its sealed top. Needs no key.
    pub fn footer_digest(&self, top: &[u8]) -> FooterDigest {
        let mut digest = blake3::Hasher::new();
        digest.update(top).update(&self.encode());
        FooterDigest(digest.finalize().into())
    }
}

impl Footer {
    /// Opens a footer: `top` is what lies from the trailer's `top_at` on, `top_sealed_bytes` long. The caller still
    /// compares `slot` with the slot it read and `previous` with the digest of the slot before.
    pub fn open(
        key: &DataKey,
        machine: MachineId,
        timeline: TimelineId,
        trailer: &Trailer,
        top: &[u8],
    ) -> Result<Self, OpenError> {
        if top.len() != trailer.top_sealed_bytes as usize {
            return Err(Malformed::Short { what: "top" }.into());
        }
        let encoded = trailer.encode();
        let aad = associated(machine, timeline, &encoded[..TRAILER_BYTES - 4]);
        let body = key.footer_key(&trailer.footer_salt).open(TOP_NUMBER, &aad, top, "footer")?;
        let plain = unpack(trailer.top_codec, trailer.top_plain_bytes as usize, body, "top")?;
        let parsed = Top::take(&plain)?;
        let codecs = parsed.frames.iter().map(|frame| frame.codec).chain(parsed.pages.iter().map(|page| page.codec));
        codecs.into_iter().try_for_each(|codec| codec.check_within(trailer.version))?;
        if parsed.kind() != trailer.kind || parsed.pages.len() != trailer.pages as usize {
            return Err(Malformed::Value { what: "top", value: trailer.pages.into() }.into());
        }
        Ok(Self::assemble(machine, timeline, trailer, parsed, trailer.footer_digest(top)))
    }

    fn assemble(machine: MachineId, timeline: TimelineId, trailer: &Trailer, top: Top, digest: FooterDigest) -> Self {
        let identity = SegmentIdentity {
            machine,
            timeline,
            epoch: trailer.epoch,
            writer: trailer.writer,
            salt: trailer.segment_salt,
            created_at: top.created_at,
            version: trailer.version,
        };
        Self {
            identity,
            slot: trailer.slot,
            epoch: trailer.epoch,
            writer: trailer.writer,
            first: top.first,
            last: top.last,
            previous: top.previous,
            frames: top.frames,
            pages: top.pages,
            records: top.records,
            counters: top.counters,
            state: top.state,
            created_at: top.created_at,
            closed_at: top.closed_at,
            control: top.control,
            run: top.run,
            digest,
            items_end: trailer.items_end,
            footer_salt: trailer.footer_salt,
        }
    }

    /// Opens the footer of a whole object and checks the object's length and header against it.
    pub fn of_object(
        key: &DataKey,
        machine: MachineId,
        timeline: TimelineId,
        object: &[u8],
    ) -> Result<Self, OpenError> {
        let trailer = Trailer::parse(object)?;
        if trailer.object_bytes() != object.len() as u64 {
            return Err(Malformed::Short { what: "log object" }.into());
        }
        let end = object.len() - TRAILER_BYTES;
        let top = &object[end - trailer.top_sealed_bytes as usize..end];
        let footer = Self::open(key, machine, timeline, &trailer, top)?;
        footer.check_header(object)?;
        Ok(footer)
    }

    /// Checks that the object's first 128 bytes say what the footer does.
    pub fn check_header(&self, object: &[u8]) -> Result<(), Malformed> {
        match SegmentIdentity::decode(object)? {
            header if header == (self.kind(), self.identity) => Ok(()),
            (_, header) => Err(Malformed::Value { what: "segment header", value: header.epoch.0 }),
        }
    }

    /// Opens index page `page` of [`Footer::pages`]; `sealed` is what lies at its place.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn open_page(&self, key: &DataKey, page: usize, sealed: &[u8]) -> Result<Vec<IndexRow>, OpenError> {
        let entry = &self.pages[page];
        let aad = associated(self.identity.machine, self.identity.timeline, &self.slot.0.to_le_bytes());
        let seal = key.footer_key(&self.footer_salt);
        let body = seal.open(page as u64 + 1, &aad, sealed, "index page")?;
        let plain = unpack(entry.codec, entry.plain_bytes as usize, body, "index page")?;
        let rows = page::unpack(&plain)?;
        let fits = |row: &IndexRow| self.frames.get(row.frame as usize).is_some_and(|frame| frame.disk == entry.disk);
        if rows.len() != entry.rows as usize || !rows.iter().all(fits) {
            return Err(Malformed::Value { what: "index page", value: page as u64 }.into());
        }
        Ok(rows)
    }
}
