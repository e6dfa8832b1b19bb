//! The log's writer, as pure cores: [`sequencer`] turns accepted batches into segments of the cache, [`committer`]
//! fills the log's slots with them.
//!
//! ```text
//!   Batch ─► Sequencer ─► frames to seal ─► items to append, one sync ─► Durable(lsn)
//!                 └─ closed segment ─► Committer ─► footer for the next slot ─► staged ─► published ─► Committed(lsn)
//! ```
//!
//! Neither has a clock, chance or I/O of its own: actors own them, feed them events and carry out what they say.

pub mod committer;
pub mod sequencer;

use std::fmt;

use crate::ids::{Epoch, WriterId};

/// Who owns a machine's log: the epoch, and the writer that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The ownership number.
    pub epoch: Epoch,
    /// The owner's identity within it; survives its restarts.
    pub writer: WriterId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} of writer {}", self.epoch, self.writer)
    }
}

/// The number of a segment in its owner's cache directory, counted up from file to file. It says nothing about the
/// slot that the segment will fill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SegmentNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
