//! The last 128 bytes of a log object: all that is needed to find the top and to see, without a key, whose slot this
//! is. It is authenticated: the top is sealed with it as associated data. Layout:
//!
//! ```text
//!   0 magic "FARSHEND" | 8 version u16 | 10 kind u8 | 11 codec u8 of the top | 12 top_plain_bytes u32
//!   16 top_at u64 | 24 top_sealed_bytes u32 | 28 pages u32 | 32 slot u64 | 40 epoch u64 | 48 writer 16
//!   64 footer salt 16 | 80 segment salt 16 | 96 items_end u64 | 104 zero 20 | 124 crc u32 over bytes 0..124
//! ```

use super::header::{HEADER_BYTES, LogVersion, ObjectKind};
use super::item::{Codec, ITEM_PLAIN_BYTES_MAX};
use crate::codec::{Malformed, Put, Take};
use crate::ids::{Epoch, Salt, Slot, WriterId};
use crate::vault::crypto::TAG_BYTES;

/// Length of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 128;
pub(super) const MAGIC: [u8; 8] = *b"FARSHEND";

/// What the trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trailer {
    /// Version of the object's format; that of its header.
    pub version: LogVersion,
    /// What the object is.
    pub kind: ObjectKind,
    /// The slot it was sealed for; compare it with the slot it lies in.
    pub slot: Slot,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The owner.
    pub writer: WriterId,
    /// The footer's own salt.
    pub footer_salt: Salt,
    /// The salt of the items.
    pub segment_salt: Salt,
    /// Where the items end and the index pages begin.
    pub items_end: u64,
    /// How many index pages there are.
    pub pages: u32,
    /// Where the sealed top begins.
    pub top_at: u64,
    /// Length of the sealed top; the trailer follows it.
    pub top_sealed_bytes: u32,
    /// Length of the top's plaintext.
    pub top_plain_bytes: u32,
    /// How the top is packed.
    pub top_codec: Codec,
}

impl Trailer {
    pub(super) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = Put::with_capacity(TRAILER_BYTES);
        out.slice(&MAGIC)
            .u16(self.version.code())
            .u8(self.kind.code())
            .u8(self.top_codec.code())
            .u32(self.top_plain_bytes);
        out.u64(self.top_at).u32(self.top_sealed_bytes).u32(self.pages).u64(self.slot.0).u64(self.epoch.0);
        out.slice(&self.writer.0).slice(&self.footer_salt.0).slice(&self.segment_salt.0);
        out.u64(self.items_end).slice(&[0; 20]);
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        *out.as_slice().first_chunk().expect("128 bytes were written")
    }

    /// Reads the last 128 bytes of a log object (`bytes` may be longer; its end counts).
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let last = bytes.last_chunk::<TRAILER_BYTES>().ok_or(Malformed::Short { what: "trailer" })?;
        let mut input = Take::new(last);
        if input.array("trailer")? != MAGIC {
            return Err(Malformed::Value { what: "trailer's magic", value: u64::from(last[0]) });
        }
        let version = LogVersion::from_code(input.u16("trailer version")?)?;
        if crc32fast::hash(&last[..124]) != u32::from_le_bytes([last[124], last[125], last[126], last[127]]) {
            return Err(Malformed::Checksum { what: "trailer" });
        }
        let kind = ObjectKind::from_code(input.u8("log object kind")?)?;
        let top_codec = Codec::from_code(input.u8("top codec")?)?;
        top_codec.check_within(version)?;
        let top_plain_bytes = input.u32("top length")?;
        let top_at = input.u64("top place")?;
        let top_sealed_bytes = input.u32("top length")?;
        let pages = input.u32("index pages")?;
        let trailer = Self {
            version,
            kind,
            slot: Slot(input.u64("slot")?),
            epoch: Epoch(input.u64("epoch")?),
            writer: WriterId(input.array("writer")?),
            footer_salt: Salt(input.array("footer salt")?),
            segment_salt: Salt(input.array("segment salt")?),
            items_end: input.u64("items' end")?,
            pages,
            top_at,
            top_sealed_bytes,
            top_plain_bytes,
            top_codec,
        };
        if input.bytes(20, "trailer")? != [0; 20] {
            return Err(Malformed::Value { what: "trailer's reserve", value: 1 });
        }
        trailer.check_places()?;
        Ok(trailer)
    }

    fn check_places(&self) -> Result<(), Malformed> {
        if self.items_end < HEADER_BYTES as u64 || self.top_at < self.items_end || self.top_at > i64::MAX as u64 {
            return Err(Malformed::Value { what: "top place", value: self.top_at });
        }
        let body = (self.top_sealed_bytes as usize).checked_sub(TAG_BYTES);
        if body.is_none_or(|body| body > self.top_plain_bytes as usize)
            || self.top_plain_bytes as usize > ITEM_PLAIN_BYTES_MAX
        {
            return Err(Malformed::Value { what: "top length", value: self.top_sealed_bytes.into() });
        }
        Ok(())
    }

    /// Length of the whole object that ends with this trailer.
    pub fn object_bytes(&self) -> u64 {
        self.top_at + u64::from(self.top_sealed_bytes) + TRAILER_BYTES as u64
    }
}
