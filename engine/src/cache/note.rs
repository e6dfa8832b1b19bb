//! What stands behind a sealed segment in its cache file, and is never uploaded: that the object in front of it is
//! whole and synced, and which place its footer was sealed for. So a segment is sent after a restart although nobody
//! has brought the key yet; that its footer is still what was written, its CRC tells without the key.
//!
//! ```text
//!   ┌ header ┐┌ items ┐┌ footer ┐┌ note (128) ┐
//!                                 0 magic "FARSHNOT" | 8 version u16 | 10 zero 6 | 16 object_bytes u64 | 24 items_end u64
//!                                 | 32 slot u64 | 40 previous 32 | 72 digest 32 | 104 footer_crc u32 | 108 zero 16 | 124 crc u32
//! ```
//!
//! Invariant: it is written only after everything in front of it was synced.

use bytes::Bytes;

use crate::codec::{Put, Take};
use crate::ids::Slot;
use crate::vault::segment::{FooterDigest, FooterPlace};

/// How long a note is, in bytes.
pub const NOTE_BYTES: usize = 128;
const NOTE_MAGIC: &[u8; 8] = b"FARSHNOT";
const NOTE_VERSION: u16 = 2;
/// The version that had zeroes where the footer's CRC is.
const NOTE_VERSION_WITHOUT_CRC: u16 = 1;

/// The note behind a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// How long the object is, in bytes: header, items, footer.
    pub object_bytes: u64,
    /// Where its items end.
    pub items_end: u64,
    /// What its footer was sealed for.
    pub place: FooterPlace,
    /// The digest of its footer.
    pub digest: FooterDigest,
    /// CRC-32 of the whole footer, pages and all; a note of version 1 does not tell it.
    pub footer_crc: Option<u32>,
}

impl Note {
    /// Lays it out.
    pub fn encode(&self) -> Bytes {
        let mut out = Put::with_capacity(NOTE_BYTES);
        let version = if self.footer_crc.is_some() { NOTE_VERSION } else { NOTE_VERSION_WITHOUT_CRC };
        out.slice(NOTE_MAGIC).u16(version).slice(&[0; 6]).u64(self.object_bytes).u64(self.items_end);
        out.u64(self.place.slot.0).slice(&self.place.previous.0).slice(&self.digest.0);
        out.u32(self.footer_crc.unwrap_or(0)).slice(&[0; 16]);
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        out.into_bytes()
    }

    /// Reads the note at the end of a file of `file_bytes`. `None` where there is none, or none that fits the file.
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != NOTE_BYTES || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut input = Take::new(body);
        if input.array("note magic").ok()? != *NOTE_MAGIC {
            return None;
        }
        let version = input.u16("note version").ok()?;
        let zero = input.array("note").ok()? == [0; 6];
        let object_bytes = input.u64("object bytes").ok()?;
        let items_end = input.u64("items end").ok()?;
        let slot = Slot(input.u64("slot").ok()?);
        let previous = FooterDigest(input.array("previous footer").ok()?);
        let digest = FooterDigest(input.array("footer").ok()?);
        let footer_crc = match (version, input.u32("footer checksum").ok()?) {
            (NOTE_VERSION_WITHOUT_CRC, 0) => None,
            (NOTE_VERSION, crc) => Some(crc),
            _ => return None,
        };
        let zero = zero && input.rest() == [0; 16];
        let fits = object_bytes.checked_add(NOTE_BYTES as u64) == Some(file_bytes) && items_end < object_bytes;
        (fits && zero).then_some(Self {
            object_bytes,
            items_end,
            place: FooterPlace { slot, previous },
            digest,
            footer_crc,
        })
    }

    /// Whether this is the footer that it vouches for.
    pub fn vouches_for(&self, footer: &[u8]) -> bool {
        let as_long = footer.len() as u64 == self.object_bytes - self.items_end;
        as_long && self.footer_crc.is_none_or(|crc| crc32fast::hash(footer) == crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_only_whole_and_at_the_end_of_its_own_file() {
        let place = FooterPlace { slot: Slot(7), previous: FooterDigest([1; 32]) };
        let note =
            Note { object_bytes: 900, items_end: 700, place, digest: FooterDigest([2; 32]), footer_crc: Some(7) };
        let bytes = note.encode();
        assert_eq!(bytes.len(), NOTE_BYTES);
        assert_eq!(Note::decode(&bytes, 900 + NOTE_BYTES as u64), Some(note));
        assert_eq!(Note::decode(&bytes, 901 + NOTE_BYTES as u64), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Note::decode(&damaged, 900 + NOTE_BYTES as u64), None, "bit {bit}");
        }
    }
}
