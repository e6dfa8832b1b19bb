//! The plaintext of the top: small enough that one range read from the object's end brings it, and everything that an
//! owner or a reader needs before it touches a page or a frame. Slot, epoch, writer and salts stand in the trailer,
//! which is authenticated with the top. Layout:
//!
//! ```text
//!   created_at i64 | closed_at i64 | previous footer's digest 32 (zeroes in slot 0) | first_lsn u64 | last_lsn u64
//!   kind of object u8: 1 segment | 2 fence | 3 branch: parent timeline 8 | slot u64 | lsn u64 | footer digest 32
//!                     4 run: see run.rs
//!   batches u64 | writes u64 | payload_bytes u64
//!   frames u32  | (number u64 | offset u64 | sealed u32 | plain u32 | first u64 | last u64 | disk u16 | codec u8 | 0)*
//!   pages u32   | (offset u64 | sealed u32 | plain u32 | first u64 | last u64 | rows u32 | min_offset u64
//!                  | max_end u64 | disk u16 | codec u8 | 0)*
//!   records (record.rs) | log state behind the object (state.rs)
//! ```
//!
//! A fence or branch has an empty run: its `last_lsn` is the log's last, and `first_lsn` the one after.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::header::{ObjectKind, SegmentIdentity};
use super::index::{Counters, FrameEntry};
use super::item::{Codec, ItemNo};
use super::run::RunHead;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, Epoch, Lsn, Slot, TimelineId, Timestamp, WriterId};
use crate::record::{RecordAt, put_records, take_records};
use crate::vault::state::LogState;

const FRAME_ENTRY_BYTES: usize = 44;
const PAGE_ENTRY_BYTES: usize = 56;

/// The BLAKE3 of a footer's sealed top and trailer: each log object names its predecessor's, which chains the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FooterDigest(pub [u8; 32]);

impl FooterDigest {
    /// What stands for a predecessor in slot 0.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for FooterDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

impl fmt::Debug for FooterDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FooterDigest({self})")
    }
}

impl Serialize for FooterDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FooterDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text).map(|hash| Self(hash.into())).map_err(serde::de::Error::custom)
    }
}

/// An object that holds no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// A new owner begins here: no older epoch commits after it (I4).
    Fence,
    /// A timeline begins at a position of its parent.
    Branch(Branch),
}

/// Where a timeline left its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Branch {
    /// The parent.
    pub timeline: TimelineId,
    /// The parent's slot that holds the position.
    pub slot: Slot,
    /// The last LSN of the parent that the child has.
    pub lsn: Lsn,
    /// The digest of that slot's footer.
    pub footer: FooterDigest,
}

impl Control {
    pub(super) fn kind(&self) -> ObjectKind {
        match self {
            Self::Fence => ObjectKind::Fence,
            Self::Branch(_) => ObjectKind::Branch,
        }
    }
}

/// Where an index page lies and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEntry {
    /// Where its sealed bytes begin in the object.
    pub offset: u64,
    /// Length of the sealed bytes.
    pub len: u32,
    /// Length of the packed rows.
    pub plain_bytes: u32,
    /// How they are compressed.
    pub codec: Codec,
    /// Whose rows they are.
    pub disk: DiskNo,
    /// LSN of the first row.
    pub first: Lsn,
    /// LSN of the last row.
    pub last: Lsn,
    /// How many rows.
    pub rows: u32,
    /// Smallest offset of a row on the disk.
    pub min_offset: u64,
    /// Largest end of a row on the disk.
    pub max_end: u64,
}

/// An opened footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Whose object it is; its header must say the same.
    pub identity: SegmentIdentity,
    /// The slot it was sealed for. A reader compares it with the slot it read.
    pub slot: Slot,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The owner.
    pub writer: WriterId,
    /// First LSN of the run.
    pub first: Lsn,
    /// Last LSN of the run; below `first` for a fence or branch.
    pub last: Lsn,
    /// Digest of the footer in the slot before.
    pub previous: FooterDigest,
    /// The frames, in the order in which they lie.
    pub frames: Vec<FrameEntry>,
    /// The index pages, by disk, then in log order.
    pub pages: Vec<PageEntry>,
    /// The records, in log order.
    pub records: Vec<RecordAt>,
    /// How much the object holds.
    pub counters: Counters,
    /// What the log says up to `last`.
    pub state: LogState,
    /// When the object was begun.
    pub created_at: Timestamp,
    /// When the footer was sealed.
    pub closed_at: Timestamp,
    /// What it is, unless it holds writes.
    pub control: Option<Control>,
    /// Which part of which merged run it is.
    pub run: Option<Box<RunHead>>,
    /// Its own digest, for the slot after.
    pub digest: FooterDigest,
    /// Where the items end.
    pub items_end: u64,
    /// The salt that the pages' key comes from.
    pub(super) footer_salt: crate::ids::Salt,
}

/// What the top holds beside what the trailer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) created_at: Timestamp,
    pub(super) closed_at: Timestamp,
    pub(super) previous: FooterDigest,
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    pub(super) control: Option<Control>,
    pub(super) run: Option<Box<RunHead>>,
    pub(super) counters: Counters,
    pub(super) frames: Vec<FrameEntry>,
    pub(super) pages: Vec<PageEntry>,
    pub(super) records: Vec<RecordAt>,
    pub(super) state: LogState,
}

/// What an object is that says this of itself.
fn kind(control: Option<&Control>, run: Option<&RunHead>) -> ObjectKind {
    match (control, run) {
        (Some(control), _) => control.kind(),
        (None, Some(_)) => ObjectKind::Run,
        (None, None) => ObjectKind::Segment,
    }
}

impl Footer {
    /// What the object is.
    pub fn kind(&self) -> ObjectKind {
        kind(self.control.as_ref(), self.run.as_deref())
    }
}

impl Top {
    pub(super) fn kind(&self) -> ObjectKind {
        kind(self.control.as_ref(), self.run.as_deref())
    }

    pub(super) fn put(&self, out: &mut Put) {
        out.i64(self.created_at.0).i64(self.closed_at.0).slice(&self.previous.0).u64(self.first.0).u64(self.last.0);
        out.u8(self.kind().code());
        if let Some(Control::Branch(branch)) = &self.control {
            out.slice(&branch.timeline.0).u64(branch.slot.0).u64(branch.lsn.0).slice(&branch.footer.0);
        }
        if let Some(run) = &self.run {
            run.put(out);
        }
        out.u64(self.counters.batches).u64(self.counters.writes).u64(self.counters.payload_bytes);
        out.count(self.frames.len());
        for frame in &self.frames {
            out.u64(frame.number.0).u64(frame.offset).u32(frame.sealed_bytes).u32(frame.plain_bytes);
            out.u64(frame.first.0).u64(frame.last.0).u16(frame.disk.0).u8(frame.codec.code()).u8(0);
        }
        out.count(self.pages.len());
        for page in &self.pages {
            out.u64(page.offset).u32(page.len).u32(page.plain_bytes).u64(page.first.0).u64(page.last.0).u32(page.rows);
            out.u64(page.min_offset).u64(page.max_end).u16(page.disk.0).u8(page.codec.code()).u8(0);
        }
        put_records(&self.records, out);
        self.state.put(out);
    }

    pub(super) fn take(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Take::new(bytes);
        let created_at = Timestamp(input.i64("top times")?);
        let closed_at = Timestamp(input.i64("top times")?);
        let previous = FooterDigest(input.array("previous digest")?);
        let (first, last) = (Lsn(input.u64("top LSN")?), Lsn(input.u64("top LSN")?));
        let kind = ObjectKind::from_code(input.u8("log object kind")?)?;
        let control = match kind {
            ObjectKind::Segment | ObjectKind::Run => None,
            ObjectKind::Fence => Some(Control::Fence),
            ObjectKind::Branch => Some(Control::Branch(Branch {
                timeline: TimelineId(input.array("branch")?),
                slot: Slot(input.u64("branch")?),
                lsn: Lsn(input.u64("branch")?),
                footer: FooterDigest(input.array("branch")?),
            })),
        };
        let run = match kind {
            ObjectKind::Run => Some(Box::new(RunHead::take(&mut input)?)),
            _ => None,
        };
        let counters = Counters {
            batches: input.u64("counters")?,
            writes: input.u64("counters")?,
            payload_bytes: input.u64("counters")?,
        };
        let frame_count = input.count(FRAME_ENTRY_BYTES, "frame table")?;
        let frames = (0..frame_count).map(|_| take_frame(&mut input)).collect::<Result<_, _>>()?;
        let page_count = input.count(PAGE_ENTRY_BYTES, "page table")?;
        let pages = (0..page_count).map(|_| take_page(&mut input)).collect::<Result<_, _>>()?;
        let records = take_records(&mut input)?;
        let state = LogState::take(&mut input)?;
        input.end("top")?;
        Ok(Self { created_at, closed_at, previous, first, last, control, run, counters, frames, pages, records, state })
    }
}

fn take_frame(input: &mut Take<'_>) -> Result<FrameEntry, Malformed> {
    let entry = FrameEntry {
        number: ItemNo(input.u64("frame entry")?),
        offset: input.u64("frame entry")?,
        sealed_bytes: input.u32("frame entry")?,
        plain_bytes: input.u32("frame entry")?,
        first: Lsn(input.u64("frame entry")?),
        last: Lsn(input.u64("frame entry")?),
        disk: DiskNo(input.u16("frame entry")?),
        codec: Codec::from_code(input.u8("frame entry")?)?,
    };
    take_zero(input, "frame entry")?;
    Ok(entry)
}

fn take_page(input: &mut Take<'_>) -> Result<PageEntry, Malformed> {
    let (offset, len) = (input.u64("page entry")?, input.u32("page entry")?);
    let plain_bytes = input.u32("page entry")?;
    let (first, last) = (Lsn(input.u64("page entry")?), Lsn(input.u64("page entry")?));
    let rows = input.u32("page entry")?;
    let (min_offset, max_end) = (input.u64("page entry")?, input.u64("page entry")?);
    let disk = DiskNo(input.u16("page entry")?);
    let codec = Codec::from_code(input.u8("page entry")?)?;
    take_zero(input, "page entry")?;
    Ok(PageEntry { offset, len, plain_bytes, codec, disk, first, last, rows, min_offset, max_end })
}

fn take_zero(input: &mut Take<'_>, what: &'static str) -> Result<(), Malformed> {
    match input.u8(what)? {
        0 => Ok(()),
        other => Err(Malformed::Value { what, value: other.into() }),
    }
}
