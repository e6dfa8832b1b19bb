//! Which blocks of a disk hold data, and how many do before any of them: 1.5 bits a block.

use std::ops::Range;

/// The blocks that hold data.
#[derive(Debug, Clone)]
pub struct Allocated {
    block_bytes: u64,
    words: Vec<u64>,
    /// Blocks that hold data before each word; made by [`Allocated::count_up`].
    before: Vec<u32>,
}

impl Allocated {
    /// None yet. `block_bytes` 0: nothing is kept.
    pub fn new(size_bytes: u64, block_bytes: u64) -> Self {
        let blocks = if block_bytes == 0 { 0 } else { size_bytes.div_ceil(block_bytes) };
        Self { block_bytes, words: vec![0; blocks.div_ceil(64) as usize], before: Vec::new() }
    }

    /// This range of the disk holds data.
    pub fn add(&mut self, range: Range<u64>) {
        if self.block_bytes == 0 || range.is_empty() {
            return;
        }
        for block in range.start / self.block_bytes..=(range.end - 1) / self.block_bytes {
            self.words[(block / 64) as usize] |= 1 << (block % 64);
        }
    }

    /// Counts; nothing is added after that.
    pub(super) fn count_up(mut self) -> Self {
        let sums = self.words.iter().scan(0, |sum, word| {
            let before = *sum;
            *sum += word.count_ones();
            Some(before)
        });
        self.before = sums.collect();
        self
    }

    /// Whether a block holds data.
    pub(super) fn holds(&self, block: u64) -> bool {
        self.words.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// How many blocks before this one hold data.
    pub(super) fn rank(&self, block: u64) -> u64 {
        let word = (block / 64) as usize;
        let within = (self.words[word] & ((1 << (block % 64)) - 1)).count_ones();
        u64::from(self.before[word] + within)
    }

    /// How many blocks hold data.
    pub(super) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether any block of a range of blocks holds data.
    pub(super) fn any(&self, blocks: Range<u64>) -> bool {
        blocks.into_iter().any(|block| self.holds(block))
    }
}
