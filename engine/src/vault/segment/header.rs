//! The first 128 bytes of a log object: whose it is. Redundant with name and trailer on purpose: it lets the cache
//! recognise a file that has no trailer yet. Layout:
//!
//! ```text
//!   0 magic "FARSHSEG" | 8 version u16 | 10 kind u8 (1 segment, 2 fence, 3 branch, 4 run) | 11 zero | 12 header_bytes u32
//!   16 machine 16 | 32 timeline 8 | 40 epoch u64 | 48 writer 16 | 64 salt 16 | 80 created_at i64 | 88 zero 36
//!   124 crc u32 over bytes 0..124
//! ```

use bytes::Bytes;

use crate::codec::{Malformed, Put, Take};
use crate::ids::{Epoch, MachineId, Salt, TimelineId, Timestamp, WriterId};

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 128;
pub(super) const MAGIC: [u8; 8] = *b"FARSHSEG";

/// Version of a log object's format. It is chosen when the object is begun, and no higher than what it holds needs: who
/// reads only version 1 goes on reading what needs no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogVersion {
    /// Frames are raw or packed with Snappy.
    #[default]
    V1,
    /// Frames may be packed with zstd as well.
    V2,
}

impl LogVersion {
    const NEWEST: Self = Self::V2;

    pub(super) fn code(self) -> u16 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    pub(super) fn from_code(version: u16) -> Result<Self, Malformed> {
        match version {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            _ => Err(Malformed::Version { what: "log object", version, newest: Self::NEWEST.code() }),
        }
    }
}
/// What a log object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// Holds batches.
    Segment,
    /// Says that a new owner begins here.
    Fence,
    /// Says that a timeline begins at a position of its parent.
    Branch,
    /// A part of a merged run: fills no slot, stands for many.
    Run,
}

impl ObjectKind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Segment => 1,
            Self::Fence => 2,
            Self::Branch => 3,
            Self::Run => 4,
        }
    }

    pub(super) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Segment),
            2 => Ok(Self::Fence),
            3 => Ok(Self::Branch),
            4 => Ok(Self::Run),
            _ => Err(Malformed::Value { what: "log object kind", value: code.into() }),
        }
    }
}

/// Whose log object this is: everything that is known before its slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentIdentity {
    /// The machine.
    pub machine: MachineId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The owner.
    pub writer: WriterId,
    /// Drawn for this segment; the items' key comes from it. Never used for another.
    pub salt: Salt,
    /// When the object was begun.
    pub created_at: Timestamp,
    /// Version of the object's format.
    pub version: LogVersion,
}

impl SegmentIdentity {
    /// Lays the header out.
    pub fn encode(&self, kind: ObjectKind) -> Bytes {
        let mut out = Put::with_capacity(HEADER_BYTES);
        out.slice(&MAGIC).u16(self.version.code()).u8(kind.code()).u8(0).count(HEADER_BYTES);
        out.slice(&self.machine.0).slice(&self.timeline.0).u64(self.epoch.0).slice(&self.writer.0);
        out.slice(&self.salt.0).i64(self.created_at.0).slice(&[0; 36]);
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        out.into_bytes()
    }

    /// Reads the header at the front of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<(ObjectKind, Self), Malformed> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(Malformed::Short { what: "segment header" })?;
        let mut input = Take::new(head);
        if input.array("segment header")? != MAGIC {
            return Err(Malformed::Value { what: "segment header's magic", value: u64::from(head[0]) });
        }
        let version = LogVersion::from_code(input.u16("segment version")?)?;
        if crc32fast::hash(&head[..124]) != u32::from_le_bytes([head[124], head[125], head[126], head[127]]) {
            return Err(Malformed::Checksum { what: "segment header" });
        }
        let kind = ObjectKind::from_code(input.u8("log object kind")?)?;
        input.u8("segment header")?;
        match input.u32("segment header's length")? as usize {
            HEADER_BYTES => {}
            other => return Err(Malformed::Value { what: "segment header's length", value: other as u64 }),
        }
        let identity = Self {
            machine: MachineId(input.array("machine")?),
            timeline: TimelineId(input.array("timeline")?),
            epoch: Epoch(input.u64("epoch")?),
            writer: WriterId(input.array("writer")?),
            salt: Salt(input.array("salt")?),
            created_at: Timestamp(input.i64("creation time")?),
            version,
        };
        // One identity has one header: what is reserved is zero.
        if identity.encode(kind)[..] != head[..] {
            return Err(Malformed::Value { what: "segment header's reserve", value: 1 });
        }
        Ok((kind, identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_any_flipped_bit_is_noticed() {
        let identity = SegmentIdentity {
            machine: MachineId([1; 16]),
            timeline: TimelineId([2; 8]),
            epoch: Epoch(3),
            writer: WriterId([4; 16]),
            salt: Salt([5; 16]),
            created_at: Timestamp(-6),
            version: LogVersion::V2,
        };
        let bytes = identity.encode(ObjectKind::Branch);
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(SegmentIdentity::decode(&bytes), Ok((ObjectKind::Branch, identity)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentIdentity::decode(&damaged).is_err(), "bit {bit}");
        }
        assert!(SegmentIdentity::decode(&bytes[..127]).is_err());
    }
}
