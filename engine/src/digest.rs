//! The digest that travels with every write: BLAKE3, keyed per machine, 8 bytes per piece of at most 4 KiB, taken
//! at capture and checked wherever bytes come out again. The piece's place on the disk is hashed with it, so a
//! piece at the wrong place does not match either.

use std::fmt;

use zeroize::Zeroizing;

/// Distance of the borders at which writes are cut into pieces, in bytes.
pub const PIECE_BYTES: usize = 4096;

/// The first 8 bytes of the keyed BLAKE3 of a piece and its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PieceDigest(pub [u8; 8]);

impl fmt::Debug for PieceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceDigest({:016x})", u64::from_be_bytes(self.0))
    }
}

/// A machine's digest key, derived from its data key.
#[derive(Clone)]
pub struct DigestKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

impl DigestKey {
    /// Wraps the bytes that the key derivation gave.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The digest of one piece whose first byte lies at `offset` of the disk.
    pub fn piece(&self, offset: u64, data: &[u8]) -> PieceDigest {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(data).update(&offset.to_le_bytes());
        let mut out = [0; 8];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        PieceDigest(out)
    }
}

/// The pieces of `data` that begins at `offset`, each with its place.
pub fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let here = offset + at as u64;
        let room = PIECE_BYTES - (here % PIECE_BYTES as u64) as usize;
        let piece = data.get(at..data.len().min(at + room)).filter(|piece| !piece.is_empty())?;
        at += piece.len();
        Some((here, piece))
    })
}

/// How many pieces a run of `len` bytes at `offset` has.
pub fn piece_count(offset: u64, len: usize) -> usize {
    let lead = (offset % PIECE_BYTES as u64) as usize;
    (lead + len).div_ceil(PIECE_BYTES)
}

/// The digests of every piece of a run.
pub fn digests(key: &DigestKey, offset: u64, data: &[u8]) -> Vec<PieceDigest> {
    pieces(offset, data).map(|(at, piece)| key.piece(at, piece)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_borders_of_the_disk_not_of_the_write() {
        let data = vec![1; 9000];
        let cut: Vec<_> = pieces(4000, &data).map(|(at, piece)| (at, piece.len())).collect();
        assert_eq!(cut, [(4000, 96), (4096, 4096), (8192, 4096), (12288, 712)]);
        assert_eq!(piece_count(4000, 9000), 4);
        assert_eq!(piece_count(4096, 4096), 1);
        assert_eq!(pieces(0, &[]).count(), 0);
    }

    #[test]
    fn the_same_bytes_elsewhere_have_another_digest() {
        let key = DigestKey::new([1; 32]);
        assert_ne!(key.piece(0, &[5; 4096]), key.piece(4096, &[5; 4096]));
    }
}
