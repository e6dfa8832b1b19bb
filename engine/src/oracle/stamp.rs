//! What a stamped block looks like. All of it follows from seed, disk, block and sequence, so that a block can be made
//! again and compared byte by byte.
//!
//! ```text
//!   0  magic "FARSHBLK"   8 | 8  seed u64 | 16 disk u32 | 20 block_bytes u32 | 24 block u64 | 32 sequence u64
//!   40 digest 8: the front of the BLAKE3 of bytes 0..40 and 48.. | 48 payload
//!   payload: lines of 64 bytes (the first is shorter), in turn random and constant, so that it compresses like data
//! ```

use crate::codec::{Malformed, Take};

const MAGIC: [u8; 8] = *b"FARSHBLK";
const HEAD_BYTES: usize = 48;
const DIGEST_AT: usize = 40;
const LINE_BYTES: usize = 64;
/// The unit in which storage may tear a block.
pub(crate) const SECTOR_BYTES: usize = 512;

/// What a block says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seed: u64,
    pub(crate) disk: u16,
    pub(crate) block: u64,
    pub(crate) seq: u64,
}

impl Stamp {
    /// Fills `out` with the block.
    pub(crate) fn fill(&self, out: &mut [u8]) {
        let mut numbers = Numbers::new(self.seed ^ u64::from(self.disk).rotate_left(48) ^ self.block.rotate_left(20));
        numbers = Numbers::new(numbers.next() ^ self.seq);
        let block_bytes = out.len() as u32;
        out[0..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.seed.to_le_bytes());
        out[16..20].copy_from_slice(&u32::from(self.disk).to_le_bytes());
        out[20..24].copy_from_slice(&block_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.block.to_le_bytes());
        out[32..40].copy_from_slice(&self.seq.to_le_bytes());
        out[DIGEST_AT..HEAD_BYTES].fill(0);
        out[HEAD_BYTES..LINE_BYTES].fill(0x5a);
        for (count, line) in out[LINE_BYTES..].chunks_mut(LINE_BYTES).enumerate() {
            // Which lines are random changes with the sequence; every sector has some, so that no tear goes unseen.
            if (count as u64 + self.seq).is_multiple_of(2) {
                line.chunks_mut(8).for_each(|word| word.copy_from_slice(&numbers.next().to_le_bytes()[..word.len()]));
            } else {
                line.fill(0x5a);
            }
        }
        let digest = digest(out);
        out[DIGEST_AT..HEAD_BYTES].copy_from_slice(&digest);
    }

    /// What the block's head says, if it is a stamped block's; whether the rest belongs to it is another question.
    pub(crate) fn read(block: &[u8]) -> Option<Self> {
        let mut input = Take::new(block);
        let parse = |input: &mut Take<'_>| -> Result<Option<Self>, Malformed> {
            let magic_holds = input.array::<8>("magic")? == MAGIC;
            let seed = input.u64("seed")?;
            let disk = u16::try_from(input.u32("disk")?).ok();
            let size_holds = input.u32("block bytes")? as usize == block.len();
            let (number, seq) = (input.u64("block")?, input.u64("sequence")?);
            let fits = magic_holds && size_holds;
            Ok(disk.filter(|_| fits).map(|disk| Self { seed, disk, block: number, seq }))
        };
        parse(&mut input).ok().flatten()
    }

    /// The sectors of `block` that are not this stamp's.
    pub(crate) fn wrong_sectors(&self, block: &[u8]) -> Vec<usize> {
        let mut expected = vec![0; block.len()];
        self.fill(&mut expected);
        let pairs = block.chunks(SECTOR_BYTES).zip(expected.chunks(SECTOR_BYTES));
        pairs.enumerate().filter(|(_, (found, expected))| found != expected).map(|(at, _)| at).collect()
    }
}

/// Whether the digest in the block is the block's.
pub(crate) fn is_whole(block: &[u8]) -> bool {
    block.len() > HEAD_BYTES && block[DIGEST_AT..HEAD_BYTES] == digest(block)
}

fn digest(block: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&block[..DIGEST_AT]).update(&block[HEAD_BYTES..]);
    let mut out = [0; 8];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    out
}

/// A stream of numbers out of a seed: SplitMix64 (Steele, Lea, Flood 2014), whose every state is a good start.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to, not including, 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn percent(&mut self, percent: u8) -> bool {
        percent > 0 && self.below(100) < u64::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_who_it_is_and_any_change_is_seen() {
        for block_bytes in [512, 4096] {
            let stamp = Stamp { seed: 7, disk: 3, block: 1 << 33, seq: 99 };
            let mut block = vec![0; block_bytes];
            stamp.fill(&mut block);
            assert_eq!(Stamp::read(&block), Some(stamp));
            assert!(is_whole(&block) && stamp.wrong_sectors(&block).is_empty());
            for at in [48, 63, 64, 300, block_bytes - 1] {
                block[at] ^= 1;
                assert!(!is_whole(&block), "changed at {at}");
                assert_eq!(stamp.wrong_sectors(&block), [at / SECTOR_BYTES]);
                block[at] ^= 1;
            }
        }
    }

    #[test]
    fn every_sector_differs_from_one_sequence_to_the_next() {
        let (mut one, mut two) = (vec![0; 4096], vec![0; 4096]);
        let stamp = Stamp { seed: 7, disk: 0, block: 5, seq: 10 };
        stamp.fill(&mut one);
        Stamp { seq: 11, ..stamp }.fill(&mut two);
        assert_eq!(stamp.wrong_sectors(&two), (0..8).collect::<Vec<_>>());
        Stamp { seq: 12, ..stamp }.fill(&mut two);
        assert_eq!(stamp.wrong_sectors(&two), (0..8).collect::<Vec<_>>());
    }
}
