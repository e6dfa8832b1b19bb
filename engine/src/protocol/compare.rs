//! Comparing a disk with its replica by digest: what is asked, and what is answered.
//!
//! An agent that cannot trust a disk's activity log asks, part by part, what the log says of the disk: the state that every
//! write before this life's first LSN left. It sends only what differs. The answer is one state for each 4 KiB piece, so a
//! part of 1 MiB costs at most 2 KiB in place of itself, and one of zeroes four bytes.

use crate::capture::content::is_zero;
use crate::codec::{Malformed, Put, Take};
use crate::digest::{DigestKey, PIECE_BYTES, PieceDigest, pieces};
use crate::ids::DiskNo;

/// Longest part that may be asked for, in bytes. Chosen: larger than any region; the answer is 32 KiB.
pub const COMPARE_BYTES_MAX: u32 = 16 << 20;
/// Parts that may be asked for and not answered. Chosen: 16 parts of 1 MiB hide 100 ms of the vault's at 160 MB/s.
pub const COMPARES_MAX: usize = 16;

/// A part of a disk: begins at a piece, and ends at one or where the disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// Which disk.
    pub disk: DiskNo,
    /// Its first byte; a multiple of [`PIECE_BYTES`].
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub len: u32,
}

/// What the log says of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceState {
    /// Nothing that could be read: the piece counts as different.
    Unknown,
    /// Zeroes.
    Zero,
    /// Bytes with this digest.
    Digest(PieceDigest),
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// What was asked for.
    pub part: Part,
    /// One state for each piece, in order.
    pub pieces: Vec<PieceState>,
}

impl Part {
    /// How many pieces it has.
    pub fn piece_count(&self) -> usize {
        (self.len as usize).div_ceil(PIECE_BYTES)
    }

    fn is_sound(&self) -> bool {
        let aligned = self.offset.is_multiple_of(PIECE_BYTES as u64);
        let ends = self.offset.checked_add(self.len.into()).is_some();
        aligned && ends && self.len > 0 && self.len <= COMPARE_BYTES_MAX
    }

    pub(super) fn put(&self, out: &mut Put) {
        out.u16(self.disk.0).u16(0).u32(self.len).u64(self.offset);
    }

    pub(super) fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let disk = DiskNo(input.u16("disk number")?);
        input.u16("part of a disk")?;
        let (len, offset) = (input.u32("length of a part")?, input.u64("offset of a part")?);
        let part = Self { disk, offset, len };
        if part.is_sound() { Ok(part) } else { Err(Malformed::Value { what: "part of a disk", value: offset }) }
    }
}

impl Digests {
    /// The answer of somebody who cannot read the part: everything counts as different.
    pub fn unknown(part: Part) -> Self {
        Self { part, pieces: vec![PieceState::Unknown; part.piece_count()] }
    }

    /// The answer of somebody who has read the part's bytes.
    pub fn of(part: Part, key: &DigestKey, data: &[u8]) -> Self {
        assert_eq!(data.len(), part.len as usize, "a part is read as a whole");
        let state = |(at, piece): (u64, &[u8])| match is_zero(piece) {
            true => PieceState::Zero,
            false => PieceState::Digest(key.piece(at, piece)),
        };
        Self { part, pieces: pieces(part.offset, data).map(state).collect() }
    }

    pub(super) fn put(&self, out: &mut Put) {
        self.part.put(out);
        let runs = self.pieces.chunk_by(|a, b| kind_of(a) == kind_of(b));
        let runs: Vec<&[PieceState]> = runs.collect();
        out.count(runs.len());
        for run in runs {
            out.u8(kind_of(&run[0])).u8(0).u16(run.len() as u16);
            for piece in run {
                if let PieceState::Digest(digest) = piece {
                    out.slice(&digest.0);
                }
            }
        }
    }

    pub(super) fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let part = Part::take(input)?;
        let (wanted, runs) = (part.piece_count(), input.count(RUN_BYTES_MIN, "runs of pieces")?);
        let mut pieces = Vec::with_capacity(wanted);
        for _ in 0..runs {
            let kind = input.u8("kind of a run")?;
            input.u8("run of pieces")?;
            let count = usize::from(input.u16("pieces of a run")?);
            if count == 0 || pieces.len() + count > wanted {
                return Err(Malformed::Value { what: "pieces of a run", value: count as u64 });
            }
            for _ in 0..count {
                pieces.push(match kind {
                    UNKNOWN => PieceState::Unknown,
                    ZERO => PieceState::Zero,
                    DIGESTS => PieceState::Digest(PieceDigest(input.array("digest of a piece")?)),
                    _ => return Err(Malformed::Value { what: "kind of a run", value: kind.into() }),
                });
            }
        }
        match pieces.len() == wanted {
            true => Ok(Self { part, pieces }),
            false => Err(Malformed::Value { what: "pieces of a part", value: pieces.len() as u64 }),
        }
    }
}

const UNKNOWN: u8 = 0;
const ZERO: u8 = 1;
const DIGESTS: u8 = 2;
const RUN_BYTES_MIN: usize = 4;

fn kind_of(piece: &PieceState) -> u8 {
    match piece {
        PieceState::Unknown => UNKNOWN,
        PieceState::Zero => ZERO,
        PieceState::Digest(_) => DIGESTS,
    }
}
