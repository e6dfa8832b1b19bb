//! What passes between a [`Sequencer`](super::Sequencer) and its caller.

use std::time::Duration;

use bytes::Bytes;

use crate::ids::{DiskNo, Lsn, MachineId, TimelineId};
use crate::log::{Owner, SegmentNo};
use crate::record::RecordAt;
use crate::vault::segment::{ItemNo, SegmentIdentity, SegmentIndex};
use crate::vault::state::{LogState, StateError};

/// Bounds of a sequencer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequencerLimits {
    /// A segment that has reached this size takes no further batch. Chosen: 16 MiB is one upload of a second at
    /// 128 Mbit/s and 640 files of a full 10 GiB cache; half of it doubles the store's operations.
    pub segment_bytes_max: u64,
    /// A segment closes this long after its first batch: the part of the RPO that is ours.
    pub seal_interval: Duration,
    /// No batch is accepted while this many bytes of batches are accepted and not durable.
    pub in_flight_bytes_max: usize,
    /// Most bytes of one append: what one sync waits for.
    pub append_bytes_max: usize,
}

impl Default for SequencerLimits {
    fn default() -> Self {
        Self {
            segment_bytes_max: 16 << 20,
            seal_interval: Duration::from_secs(2),
            in_flight_bytes_max: 32 << 20,
            append_bytes_max: 8 << 20,
        }
    }
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOf {
    /// The machine.
    pub machine: MachineId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// The owner that writes.
    pub owner: Owner,
}

/// One accepted batch. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNo(pub u64);

/// One append. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendNo(pub u64);

/// A frame to be sealed by its disk's actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameJob {
    /// Its item number.
    pub number: ItemNo,
    /// The disk.
    pub disk: DiskNo,
    /// First LSN of the batch.
    pub first: Lsn,
    /// Last LSN of the batch.
    pub last: Lsn,
    /// The section that becomes the frame.
    pub section: Bytes,
}

/// The batch end to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchEndJob {
    /// Its item number.
    pub number: ItemNo,
    /// First LSN of the batch.
    pub first: Lsn,
    /// Last LSN of the batch.
    pub last: Lsn,
    /// How many frames stand before it.
    pub frames: u32,
    /// The records of the batch.
    pub records: Vec<RecordAt>,
}

/// What is to be sealed for one batch. Every item comes back by [`Sequencer::sealed`](super::Sequencer::sealed).
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// To be quoted.
    pub batch: BatchNo,
    /// The segment it goes to.
    pub segment: SegmentNo,
    /// What the items are bound to.
    pub identity: SegmentIdentity,
    /// One frame per section.
    pub frames: Vec<FrameJob>,
    /// The batch end.
    pub end: BatchEndJob,
}

/// Bytes to be written to a segment's file, in one go, and synced.
#[derive(Debug, Clone)]
pub struct AppendJob {
    /// To be quoted.
    pub append: AppendNo,
    /// The segment.
    pub segment: SegmentNo,
    /// Set for a segment's first append: create the file with this in its header.
    pub create: Option<SegmentIdentity>,
    /// Where in the file.
    pub offset: u64,
    /// What: whole batches.
    pub parts: Vec<Bytes>,
    /// How many bytes that is.
    pub bytes: u64,
    /// The last LSN of it.
    pub last: Lsn,
}

/// A segment that takes no more batches: all of it is durable, and it waits for its slot.
#[derive(Debug, Clone)]
pub struct ClosedSegment {
    /// Which.
    pub segment: SegmentNo,
    /// What its items are bound to.
    pub identity: SegmentIdentity,
    /// What its footer says of its items. Worth keeping only while its turn is near: `cache::recover::reindex` makes it
    /// again out of the file, with the key.
    pub index: Option<SegmentIndex>,
    /// The log's state at its end.
    pub state_after: LogState,
    /// Where its items end and its footer begins, in bytes of the file.
    pub items_end: u64,
    /// Its first LSN.
    pub first: Lsn,
    /// Its last LSN.
    pub last: Lsn,
    /// Writing to its file has failed: read it, but write no footer into it.
    pub abandoned: bool,
}

/// Why a batch was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not follow what was accepted before, or names what the log does not know.
    #[error(transparent)]
    State(#[from] StateError),
    /// More is in flight than the bound allows: the sender ignores its credit.
    #[error("{in_flight_bytes} bytes are accepted and not durable: wait for credit")]
    Full {
        /// How much is in flight.
        in_flight_bytes: usize,
    },
}
