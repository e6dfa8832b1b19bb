//! The 48 bytes in front of each sealed frame or batch end. They are plain, with a CRC, so that a file without a
//! footer can be cut at its last whole batch without any key. Layout:
//!
//! ```text
//!   0 magic "FITM" | 4 kind u8 (1 frame, 2 batch end) | 5 codec u8 (0 raw, 1 snappy, 2 zstd)
//!   6 disk u16 (0xffff for a batch end) | 8 number u64 | 16 first_lsn u64 | 24 last_lsn u64
//!   32 plain_bytes u32 | 36 sealed_bytes u32 | 40 frames u32 (0 for a frame)
//!   44 crc u32 over bytes 0..44 and the sealed bytes | 48 sealed bytes
//! ```
//!
//! Item numbers are nonces. They begin at 1 and rise through a segment; a number is spent even if its item is thrown
//! away. 0 is never used, so that no zeroed or forgotten field passes for a number.

use super::header::LogVersion;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, Lsn};
use crate::vault::crypto::TAG_BYTES;

/// Length of an item's header, in bytes.
pub const ITEM_HEADER_BYTES: usize = 48;
/// Bytes in front of the CRC: what the seal authenticates as well.
pub(super) const ITEM_AUTHENTICATED_BYTES: usize = 44;
/// Most plaintext of one item, in bytes. Chosen: a section's payload at its limit (8 MiB), its digests, and a table of
/// twice that; a reader never reserves more for one item, whatever a header says.
pub const ITEM_PLAIN_BYTES_MAX: usize = 32 << 20;
const MAGIC: [u8; 4] = *b"FITM";
/// What stands in a batch end's disk field.
const NO_DISK: DiskNo = DiskNo(u16::MAX);

/// The number of an item within its segment, and its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemNo(pub u64);

impl ItemNo {
    /// The first number of a segment.
    pub const FIRST: Self = Self(1);

    /// The number after this one.
    ///
    /// # Panics
    /// At 2^64 - 1, which no segment reaches.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("item numbers are never exhausted"))
    }
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// One disk's writes of one batch.
    Frame {
        /// The disk.
        disk: DiskNo,
    },
    /// The batch is whole: its records, and how many frames it has.
    BatchEnd {
        /// Frames since the batch end before.
        frames: u32,
    },
}

/// How plaintext became what is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// Snappy, raw format.
    Snappy,
    /// One zstd frame. From version 2 of the log object on.
    Zstd,
}

impl Codec {
    pub(in crate::vault) fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Snappy => 1,
            Self::Zstd => 2,
        }
    }

    pub(in crate::vault) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Snappy),
            2 => Ok(Self::Zstd),
            _ => Err(Malformed::Value { what: "codec", value: code.into() }),
        }
    }

    /// Refuses a codec that log objects of this version do not know.
    pub(in crate::vault) fn check_within(self, version: LogVersion) -> Result<(), Malformed> {
        if self == Self::Zstd && version < LogVersion::V2 {
            return Err(Malformed::Value { what: "codec", value: self.code().into() });
        }
        Ok(())
    }
}

/// What stands in front of sealed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemHeader {
    /// What it is.
    pub kind: ItemKind,
    /// How it is packed.
    pub codec: Codec,
    /// Its number.
    pub number: ItemNo,
    /// First LSN of the batch's run.
    pub first: Lsn,
    /// Last LSN of the batch's run.
    pub last: Lsn,
    /// Length of the plaintext, in bytes.
    pub plain_bytes: u32,
    /// Length of the sealed bytes with their tag, in bytes.
    pub sealed_bytes: u32,
    /// CRC-32 over the header's other bytes and the sealed bytes.
    pub crc: u32,
}

impl ItemHeader {
    /// Length of header and sealed bytes.
    pub fn item_bytes(&self) -> usize {
        ITEM_HEADER_BYTES + self.sealed_bytes as usize
    }

    /// The header's bytes but for the CRC.
    pub(super) fn encode_front(&self) -> [u8; ITEM_AUTHENTICATED_BYTES] {
        let (kind, disk, frames) = match self.kind {
            ItemKind::Frame { disk } => (1, disk, 0),
            ItemKind::BatchEnd { frames } => (2, NO_DISK, frames),
        };
        let mut out = Put::with_capacity(ITEM_AUTHENTICATED_BYTES);
        out.slice(&MAGIC).u8(kind).u8(self.codec.code()).u16(disk.0).u64(self.number.0);
        out.u64(self.first.0).u64(self.last.0).u32(self.plain_bytes).u32(self.sealed_bytes).u32(frames);
        *out.as_slice().first_chunk().expect("44 bytes were written")
    }

    /// Reads the header at the front of `bytes`, without looking at what follows it: see [`ItemHeader::check`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Take::new(bytes);
        let magic: [u8; 4] = input.array("item header")?;
        if magic != MAGIC {
            return Err(Malformed::Value { what: "item magic", value: u32::from_le_bytes(magic).into() });
        }
        let kind = input.u8("item kind")?;
        let codec = Codec::from_code(input.u8("item codec")?)?;
        let disk = DiskNo(input.u16("item disk")?);
        let number = ItemNo(input.u64("item number")?);
        let (first, last) = (Lsn(input.u64("item LSN")?), Lsn(input.u64("item LSN")?));
        let (plain_bytes, sealed_bytes) = (input.u32("item length")?, input.u32("item length")?);
        let frames = input.u32("item frames")?;
        let crc = input.u32("item checksum")?;
        let kind = match (kind, disk, frames) {
            (1, disk, 0) if disk != NO_DISK => ItemKind::Frame { disk },
            (2, NO_DISK, frames) => ItemKind::BatchEnd { frames },
            _ => return Err(Malformed::Value { what: "item kind", value: kind.into() }),
        };
        if number.0 == 0 {
            return Err(Malformed::Value { what: "item number", value: 0 });
        }
        if first > last || first == Lsn::ZERO {
            return Err(Malformed::Value { what: "item LSN", value: first.0 });
        }
        let body_bytes = (sealed_bytes as usize).checked_sub(TAG_BYTES);
        let fits = match codec {
            Codec::Raw => body_bytes == Some(plain_bytes as usize),
            Codec::Snappy | Codec::Zstd => body_bytes.is_some_and(|body| body < plain_bytes as usize),
        };
        if !fits || plain_bytes as usize > ITEM_PLAIN_BYTES_MAX {
            return Err(Malformed::Value { what: "item length", value: sealed_bytes.into() });
        }
        Ok(Self { kind, codec, number, first, last, plain_bytes, sealed_bytes, crc })
    }

    /// Reads the item at the front of `bytes` and checks its CRC; gives the sealed bytes.
    pub fn check(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let header = Self::parse(bytes)?;
        let sealed = bytes.get(ITEM_HEADER_BYTES..header.item_bytes()).ok_or(Malformed::Short { what: "item" })?;
        if item_crc(&bytes[..ITEM_AUTHENTICATED_BYTES], sealed) != header.crc {
            return Err(Malformed::Checksum { what: "item" });
        }
        Ok((header, sealed))
    }
}

pub(super) fn item_crc(front: &[u8], sealed: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(front);
    crc.update(sealed);
    crc.finalize()
}
