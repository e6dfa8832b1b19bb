//! Virtual Hard Disk (Microsoft's "Virtual Hard Disk Image Format Specification" 1.0), of fixed and of dynamic size. All
//! numbers are big-endian.
//!
//! ```text
//!   fixed     the disk, rounded up to whole MiB (as Azure wants it) | footer 512
//!   dynamic   footer 512 | header 1024 | block table | blocks that hold data: bitmap 512, then 2 MiB | footer 512
//! ```

use super::{Allocated, Stamp};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// A block of a dynamic disk.
pub(super) const BLOCK_BYTES: u64 = 2 * MIB;
/// The specification's bound: the block table counts sectors in 32 bits.
pub(super) const DYNAMIC_BYTES_MAX: u64 = 2040 << 30;
const BITMAP_BYTES: u64 = BLOCK_BYTES / SECTOR / 8;
const HEADER_AT: u64 = SECTOR;
const TABLE_AT: u64 = HEADER_AT + 1024;
/// Seconds from 1970 to 2000, where the format's clock begins.
const EPOCH: i64 = 946_684_800;
/// Of all creators, readers take the size from the footer's size only for some; for others from its geometry, which
/// cannot say every size.
const CREATOR: &[u8; 4] = b"win ";

/// A disk of fixed size.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    size_bytes: u64,
    stamp: Stamp,
}

impl Fixed {
    pub(super) fn new(size_bytes: u64, stamp: Stamp) -> Self {
        Self { size_bytes: size_bytes.next_multiple_of(MIB), stamp }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.size_bytes + SECTOR
    }

    pub(super) fn metadata(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + Send + use<> {
        std::iter::once((self.size_bytes, footer(self.size_bytes, u64::MAX, 2, self.stamp)))
    }
}

/// A disk that holds only what was written.
#[derive(Debug, Clone)]
pub(super) struct Dynamic {
    size_bytes: u64,
    blocks: u64,
    data: Allocated,
    data_at: u64,
    stamp: Stamp,
}

impl Dynamic {
    pub(super) fn new(size_bytes: u64, data: Allocated, stamp: Stamp) -> Self {
        let size_bytes = size_bytes.next_multiple_of(MIB);
        let blocks = size_bytes.div_ceil(BLOCK_BYTES);
        let data_at = (TABLE_AT + blocks * 4).next_multiple_of(SECTOR);
        Self { size_bytes, blocks, data: data.count_up(), data_at, stamp }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.footer_at() + SECTOR
    }

    fn footer_at(&self) -> u64 {
        self.data_at + self.data.count() * (BITMAP_BYTES + BLOCK_BYTES)
    }

    fn block_at(&self, block: u64) -> u64 {
        self.data_at + self.data.rank(block) * (BITMAP_BYTES + BLOCK_BYTES)
    }

    /// Where a byte of the disk lies, and how many follow it there.
    pub(super) fn place(&self, offset: u64) -> (u64, u64) {
        let within = offset % BLOCK_BYTES;
        (self.block_at(offset / BLOCK_BYTES) + BITMAP_BYTES + within, BLOCK_BYTES - within)
    }

    pub(super) fn metadata(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + Send + '_ {
        let footer = footer(self.size_bytes, HEADER_AT, 3, self.stamp);
        let ends = [(0, footer.clone()), (self.footer_at(), footer), (HEADER_AT, self.header())];
        let entry = |block| match self.data.holds(block) {
            true => (self.block_at(block) / SECTOR) as u32,
            false => u32::MAX,
        };
        let mut table: Vec<u8> = (0..self.blocks).flat_map(|block| entry(block).to_be_bytes()).collect();
        table.resize((self.data_at - TABLE_AT) as usize, 0xff);
        // Every sector of a block that is there counts.
        let held = (0..self.blocks).filter(|block| self.data.holds(*block));
        let bitmaps = held.map(|block| (self.block_at(block), vec![0xff; BITMAP_BYTES as usize]));
        ends.into_iter().chain([(TABLE_AT, table)]).chain(bitmaps)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(b"cxsparse");
        out.extend_from_slice(&u64::MAX.to_be_bytes());
        out.extend_from_slice(&TABLE_AT.to_be_bytes());
        out.extend_from_slice(&0x0001_0000_u32.to_be_bytes());
        out.extend_from_slice(&(self.blocks as u32).to_be_bytes());
        out.extend_from_slice(&(BLOCK_BYTES as u32).to_be_bytes());
        with_checksum(out, 1024)
    }
}

/// The footer, which names size and kind.
fn footer(size_bytes: u64, next: u64, kind: u32, stamp: Stamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(SECTOR as usize);
    out.extend_from_slice(b"conectix");
    // "Reserved" is always set.
    out.extend_from_slice(&2_u32.to_be_bytes());
    out.extend_from_slice(&0x0001_0000_u32.to_be_bytes());
    out.extend_from_slice(&next.to_be_bytes());
    out.extend_from_slice(&((stamp.unix_seconds - EPOCH).clamp(0, u32::MAX.into()) as u32).to_be_bytes());
    out.extend_from_slice(CREATOR);
    out.extend_from_slice(&0x000a_0000_u32.to_be_bytes());
    out.extend_from_slice(b"Wi2k");
    out.extend_from_slice(&size_bytes.to_be_bytes());
    out.extend_from_slice(&size_bytes.to_be_bytes());
    out.extend_from_slice(&geometry(size_bytes));
    out.extend_from_slice(&kind.to_be_bytes());
    let sum_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&stamp.id);
    out.resize(SECTOR as usize, 0);
    let sum = checksum(&out);
    out[sum_at..sum_at + 4].copy_from_slice(&sum);
    out
}

/// Fills up what ends with its checksum so far.
fn with_checksum(mut out: Vec<u8>, len: usize) -> Vec<u8> {
    let sum_at = out.len();
    out.resize(len, 0);
    let sum = checksum(&out);
    out[sum_at..sum_at + 4].copy_from_slice(&sum);
    out
}

/// One's complement of the sum of all bytes.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    (!bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>()).to_be_bytes()
}

/// Cylinders, heads and sectors ("CHS Calculation" of the specification).
fn geometry(size_bytes: u64) -> [u8; 4] {
    let sectors = (size_bytes / SECTOR).min(65_535 * 16 * 255);
    let (heads, per_track, tracks) = if sectors >= 65_535 * 16 * 63 {
        (16, 255, sectors / 255)
    } else {
        let heads = (sectors / 17).div_ceil(1024).max(4);
        let tracks = sectors / 17;
        if tracks < heads * 1024 && heads <= 16 {
            (heads, 17, tracks)
        } else if sectors / 31 < 16 * 1024 {
            (16, 31, sectors / 31)
        } else {
            (16, 63, sectors / 63)
        }
    };
    let cylinders = (tracks / heads) as u16;
    let [high, low] = cylinders.to_be_bytes();
    [high, low, heads as u8, per_track]
}
