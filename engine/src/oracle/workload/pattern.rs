//! Where the writes of a workload go.

use crate::oracle::journal::JournalHeader;
use crate::oracle::stamp::Numbers;
use crate::oracle::workload::Workload;

/// Which blocks are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// All alike.
    Random,
    /// A few very often: half of the writes go to a sixteenth of the blocks, as a power law has it.
    Hot,
    /// One after another; each connection in a part of its own.
    Sequential,
}

/// Picks the places of one connection.
#[derive(Debug)]
pub(crate) struct Picker {
    pattern: Pattern,
    blocks_max: u32,
    /// Blocks of the disk that are used.
    span: u64,
    /// The part that a sequential connection goes through, and where it is.
    part: std::ops::Range<u64>,
    next: u64,
}

impl Picker {
    pub(crate) fn new(plan: &Workload, header: &JournalHeader, disk: u16, connection: usize) -> Self {
        let size_bytes = header.disks[usize::from(disk)].size_bytes;
        let used = if plan.span_bytes == 0 { size_bytes } else { size_bytes.min(plan.span_bytes) };
        let span = (used / u64::from(plan.block_bytes)).max(plan.blocks_max.into());
        let share = span / plan.connections as u64;
        let start = share * connection as u64;
        let part = if share == 0 { 0..span } else { start..start + share };
        Self { pattern: plan.pattern, blocks_max: plan.blocks_max, span, next: part.start, part }
    }

    /// The next place: first block and number of blocks.
    pub(crate) fn pick(&mut self, numbers: &mut Numbers) -> (u64, u32) {
        let blocks = 1 + numbers.below(self.blocks_max.into()) as u32;
        let block = match self.pattern {
            Pattern::Random => numbers.below(self.span),
            Pattern::Hot => {
                // u^4: half of all draws fall below 1/16. Spread, so that the hot blocks are not neighbours.
                let rank = (self.span as f64 * numbers.unit().powi(4)) as u64;
                (u128::from(rank) * 0x9e37_79b9_7f4a_7c15 % u128::from(self.span)) as u64
            }
            Pattern::Sequential => {
                let blocks = u64::from(blocks).min(self.part.end - self.part.start);
                if self.next + blocks > self.part.end {
                    self.next = self.part.start;
                }
                let block = self.next;
                self.next += blocks;
                return (block, blocks as u32);
            }
        };
        (block.min(self.span - u64::from(blocks)), blocks)
    }
}
