//! A section: one disk's writes of one batch. The agent lays it out once; the process server compresses and
//! seals exactly these bytes as one frame; a reader gets them back. Nothing in between re-arranges them.
//!
//! ```text
//!   0   version u16 = 1 | reserved u16
//!   4   entries u32
//!   8   digests u32            number of piece digests
//!   12  payload_bytes u32
//!   16  entry[entries]         24 bytes each: lsn u64 | offset u64 | len u32 | kind u8 | reserved 3
//!       digest[digests]        8 bytes each, in the order of the Data entries' pieces
//!       payload                the Data entries' bytes, one after the other
//! ```
//!
//! LSNs do not fall from entry to entry. One write may have several entries of the same LSN (its zero parts are
//! entries of kind Zero without payload); those never overlap. A piece is what lies between two 4 KiB borders of the disk.

use bytes::Bytes;

use crate::codec::{Malformed, Put, Take};
use crate::digest::{DigestKey, PIECE_BYTES, PieceDigest, piece_count, pieces};
use crate::ids::Lsn;

/// Version of the layout.
pub const SECTION_VERSION: u16 = 1;
/// Fixed part in front of the table, in bytes.
pub const SECTION_HEAD_BYTES: usize = 16;
/// One table entry, in bytes.
pub const ENTRY_BYTES: usize = 24;
/// Most payload of one section, in bytes; a receiver refuses more. Chosen: a largest NBD request (32 MiB) is cut
/// into writes of at most `WRITE_BYTES_MAX`, and a batch holds one such write beyond its target size.
pub const SECTION_PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Longest Data entry, in bytes. Longer writes are several LSNs, cut here.
pub const WRITE_BYTES_MAX: usize = 4 << 20;

/// What a write puts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteKind {
    /// Its payload.
    Data,
    /// Zeroes.
    Zero,
    /// Nothing defined (a trim that the source could not turn into zeroes); compares skip it, reads give zeroes.
    Undefined,
}

impl WriteKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Zero => 2,
            Self::Undefined => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Data),
            2 => Ok(Self::Zero),
            3 => Ok(Self::Undefined),
            _ => Err(Malformed::Value { what: "write kind", value: code.into() }),
        }
    }
}

/// One row of a section's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteEntry {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How long, in bytes; never 0.
    pub len: u32,
    /// What is put there.
    pub kind: WriteKind,
}

impl WriteEntry {
    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A section taken apart; payloads are views of the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The table, in log order.
    pub entries: Vec<WriteEntry>,
    /// One digest per piece of every Data entry, in order.
    pub digests: Vec<PieceDigest>,
    /// The Data entries' bytes.
    pub payload: Bytes,
}

/// Builds a section write by write.
#[derive(Debug, Default)]
pub struct SectionBuilder {
    entries: Vec<WriteEntry>,
    digests: Vec<PieceDigest>,
    payloads: Vec<Bytes>,
    payload_bytes: usize,
}

impl SectionBuilder {
    /// Adds a run of data with its digests (one per piece, as [`crate::digest::digests`] gives them).
    ///
    /// # Panics
    /// Where the number of digests is not the number of pieces, or the LSN falls.
    pub fn data(&mut self, lsn: Lsn, offset: u64, data: Bytes, digests: &[PieceDigest]) {
        assert_eq!(digests.len(), piece_count(offset, data.len()), "one digest per piece");
        assert!(data.len() <= WRITE_BYTES_MAX, "longer writes are cut before they get here");
        self.push(WriteEntry { lsn, offset, len: data.len() as u32, kind: WriteKind::Data });
        self.digests.extend_from_slice(digests);
        self.payload_bytes += data.len();
        self.payloads.push(data);
    }

    /// Adds a run of zeroes, or of undefined bytes.
    ///
    /// # Panics
    /// Where the LSN falls or the kind is `Data`.
    pub fn fill(&mut self, lsn: Lsn, offset: u64, len: u32, kind: WriteKind) {
        assert_ne!(kind, WriteKind::Data, "data comes with its payload");
        self.push(WriteEntry { lsn, offset, len, kind });
    }

    fn push(&mut self, entry: WriteEntry) {
        assert!(entry.len > 0, "an empty write takes no place in the log");
        assert!(self.entries.last().is_none_or(|last| last.lsn <= entry.lsn), "LSNs never fall in a section");
        self.entries.push(entry);
    }

    /// Bytes of payload so far.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lays the section out. This is the one copy between capture and socket.
    pub fn finish(self) -> Bytes {
        let size = SECTION_HEAD_BYTES + self.entries.len() * ENTRY_BYTES + self.digests.len() * 8 + self.payload_bytes;
        let mut out = Put::with_capacity(size);
        out.u16(SECTION_VERSION).u16(0).count(self.entries.len()).count(self.digests.len()).count(self.payload_bytes);
        for entry in &self.entries {
            out.u64(entry.lsn.0).u64(entry.offset).u32(entry.len).u8(entry.kind.code()).slice(&[0; 3]);
        }
        self.digests.iter().for_each(|digest| {
            out.slice(&digest.0);
        });
        self.payloads.iter().for_each(|payload| {
            out.slice(payload);
        });
        out.into_bytes()
    }
}

impl Section {
    /// Reads a section, checking every bound; `disk_bytes` is the size that no write may pass.
    pub fn parse(bytes: &Bytes, disk_bytes: u64) -> Result<Self, Malformed> {
        let mut input = Take::new(bytes);
        match input.u16("section version")? {
            SECTION_VERSION => {}
            version => return Err(Malformed::Version { what: "section", version, newest: SECTION_VERSION }),
        }
        match input.u16("section head")? {
            0 => {}
            other => return Err(Malformed::Value { what: "section head", value: other.into() }),
        }
        let entry_count = input.u32("section entries")? as usize;
        let digest_count = input.u32("section digests")? as usize;
        let payload_bytes = input.u32("section payload")? as usize;
        if payload_bytes > SECTION_PAYLOAD_BYTES_MAX {
            return Err(Malformed::Value { what: "section payload", value: payload_bytes as u64 });
        }
        let expected = entry_count.saturating_mul(ENTRY_BYTES).saturating_add(digest_count.saturating_mul(8));
        if expected.saturating_add(payload_bytes) != input.rest().len() {
            return Err(Malformed::Short { what: "section" });
        }
        let mut entries: Vec<WriteEntry> = Vec::with_capacity(entry_count);
        let (mut data_bytes, mut piece_total) = (0_usize, 0_usize);
        for _ in 0..entry_count {
            let entry = WriteEntry {
                lsn: Lsn(input.u64("write LSN")?),
                offset: input.u64("write offset")?,
                len: input.u32("write length")?,
                kind: WriteKind::from_code(input.u8("write kind")?)?,
            };
            if input.bytes(3, "write entry")? != [0; 3] {
                return Err(Malformed::Value { what: "write entry", value: entry.lsn.0 });
            }
            if entry.len == 0 {
                return Err(Malformed::Value { what: "write length", value: 0 });
            }
            if entry.offset.checked_add(entry.len.into()).is_none_or(|end| end > disk_bytes) {
                return Err(Malformed::Value { what: "write offset", value: entry.offset });
            }
            if entries.last().is_some_and(|last| last.lsn > entry.lsn) {
                return Err(Malformed::Value { what: "write LSN", value: entry.lsn.0 });
            }
            if entry.kind == WriteKind::Data {
                if entry.len as usize > WRITE_BYTES_MAX {
                    return Err(Malformed::Value { what: "write length", value: entry.len.into() });
                }
                data_bytes += entry.len as usize;
                piece_total += piece_count(entry.offset, entry.len as usize);
            }
            entries.push(entry);
        }
        if data_bytes != payload_bytes || piece_total != digest_count {
            return Err(Malformed::Value { what: "section payload", value: data_bytes as u64 });
        }
        let digests =
            (0..digest_count).map(|_| input.array("piece digest").map(PieceDigest)).collect::<Result<Vec<_>, _>>()?;
        let payload = bytes.slice(bytes.len() - payload_bytes..);
        Ok(Self { entries, digests, payload })
    }

    /// Each entry with the place of its payload in `payload` (an empty range for fills) and its digests.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let (mut at, mut digest_at) = (0, 0);
        self.entries.iter().map(move |entry| {
            let (len, count) = match entry.kind {
                WriteKind::Data => (entry.len as usize, piece_count(entry.offset, entry.len as usize)),
                WriteKind::Zero | WriteKind::Undefined => (0, 0),
            };
            let row = Row { entry: *entry, payload_at: at, digests: &self.digests[digest_at..digest_at + count] };
            at += len;
            digest_at += count;
            row
        })
    }

    /// The first place on the disk whose bytes do not match their digest, if any.
    pub fn first_damage(&self, key: &DigestKey) -> Option<u64> {
        self.rows().filter(|row| row.entry.kind == WriteKind::Data).find_map(|row| {
            let data = &self.payload[row.payload_at..row.payload_at + row.entry.len as usize];
            pieces(row.entry.offset, data)
                .zip(row.digests)
                .find(|((at, piece), digest)| key.piece(*at, piece) != **digest)
                .map(|((at, _), _)| at)
        })
    }
}

/// One entry with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The table entry.
    pub entry: WriteEntry,
    /// Where its payload begins in the section's payload.
    pub payload_at: usize,
    /// Its digests, one a piece.
    pub digests: &'a [PieceDigest],
}

const _: () = assert!(WRITE_BYTES_MAX.is_multiple_of(PIECE_BYTES));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digests;

    fn key() -> DigestKey {
        DigestKey::new([3; 32])
    }

    fn example() -> Bytes {
        let mut builder = SectionBuilder::default();
        let data = Bytes::from((0..5000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let sums = digests(&key(), 512, &data);
        builder.fill(Lsn(4), 1 << 20, 4096, WriteKind::Zero);
        builder.data(Lsn(5), 512, data, &sums);
        builder.fill(Lsn(5), 8192, 512, WriteKind::Undefined);
        builder.finish()
    }

    #[test]
    fn a_section_reads_back_and_its_digests_hold() {
        let section = Section::parse(&example(), 2 << 20).expect("well formed");
        assert_eq!(section.entries.len(), 3);
        assert_eq!(section.payload.len(), 5000);
        assert_eq!(section.first_damage(&key()), None);
        assert_eq!(section.first_damage(&DigestKey::new([4; 32])), Some(512));
    }

    #[test]
    fn a_section_that_is_cut_or_reaches_past_the_disk_is_refused() {
        let bytes = example();
        for cut in 0..bytes.len() {
            assert!(Section::parse(&bytes.slice(..cut), 2 << 20).is_err(), "cut at {cut}");
        }
        assert!(Section::parse(&bytes, 1 << 20).is_err());
    }
}
