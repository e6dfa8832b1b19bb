//! Merging: log objects into runs, runs into larger runs, and what happens to what they replace.
//!
//! ```text
//!   plan ─► records, boundaries ─► layers (extent maps, window by window) ─► writer (parts) ─► manifest
//!                                     frames, by a small cache ──┘                                │
//!                                                              sweep: doomed, after the grace ◄───┘
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `plan` | which merge comes next: pure |
//! | `records` | what of a log's records and positions a run takes along: pure |
//! | `layers` | what changed on a disk between two retained positions, in order of place |
//! | `writer` | frames and parts |
//! | `perform` | one merge, from its sources to the manifest that names it |
//! | `renew` | a damaged run, made again from what it was merged from |
//! | `round` | one look at a timeline: a sweep, a merge, both, or nothing |
//! | `sweep` | deletes what is doomed, and finds what merges that never ended left behind |
//!
//! Invariants. Nothing is deleted before what was made of it was read once more and is sound. A run keeps every position that retention or a pin wants, or it is not committed (I7). Only the manifest
//! makes a run count, and only what a committed manifest doomed is deleted, after a grace. Memory is bounded by
//! [`MergeLimits`], whatever is merged (I10).
//!
//! Crash story: until the manifest names it, a run is parts that nobody reads: the merge is made again under another name,
//! and the sweep dooms the parts once it has committed a manifest behind which no earlier one can follow. After that, what
//! it replaced is on the doomed list and goes when its time has come, by whoever owns the timeline then.

mod layers;
mod perform;
pub mod plan;
mod records;
mod renew;
mod round;
mod sweep;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use perform::MergeJob;
pub use round::{Preview, Round, Rules, Standing, preview};
pub use sweep::{Sightings, Swept};

use crate::ids::{Epoch, RunId, Slot, TimelineId, Timestamp, WriterId};
use crate::vault::layout::ObjectName;
use crate::vault::manifest::ManifestError;
use crate::vault::manifest_keeper::{ChangeError, ManifestKeeper};
use crate::vault::read::error::ReadError;
use crate::vault::read::segment_view::LogSource;
use crate::vault::segment::Packing;
use crate::vault::store::StoreError;

/// What merging may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeLimits {
    /// Memory for extent maps, in bytes.
    pub map_bytes_max: usize,
    /// Memory for opened source frames, in bytes. Live segments are merged in batches of this size: their writes lie in
    /// order of time and are wanted in order of place.
    pub frame_bytes_max: usize,
    /// Size of a part, in bytes; one is in memory while it is made.
    pub part_bytes: usize,
    /// Payload of a frame, in bytes. Chosen: what one random read fetches; a batch of the write path has as much.
    pub frame_payload_bytes: usize,
    /// With what the frames of runs are packed.
    pub packing: Packing,
}

impl Default for MergeLimits {
    /// 16 MiB of maps, 128 MiB of frames, parts of 64 MiB, frames of 256 KiB.
    fn default() -> Self {
        Self {
            map_bytes_max: 16 << 20,
            frame_bytes_max: 128 << 20,
            part_bytes: 64 << 20,
            frame_payload_bytes: 256 << 10,
            packing: Packing::Snappy,
        }
    }
}

/// Waits until so many more bytes may be moved: the throttle, and where a merge that shall stop is stopped.
#[async_trait::async_trait]
pub trait Pace: Send + Sync {
    /// Called before `bytes` are read; false ends the merge.
    async fn go_on(&self, bytes: u64) -> bool;
}

/// As fast as it goes.
#[derive(Debug, Clone, Copy)]
pub struct FullSpeed;

#[async_trait::async_trait]
impl Pace for FullSpeed {
    async fn go_on(&self, _bytes: u64) -> bool {
        true
    }
}

/// A bug put in on purpose, to see that the tests find it.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// What a run replaces is deleted before the manifest names the run.
    DeleteBeforeCommit,
    /// Retention does not look at pins, and neither does the manifest.
    DropHeld,
    /// Of two versions in one layer the older one wins.
    OlderShadowsNewer,
}

/// Merges one timeline. One owner has it at a time; a second one with a lower epoch is refused by the manifest.
#[derive(Clone)]
pub struct Merger {
    /// Store and keys.
    pub source: LogSource,
    /// The timeline.
    pub timeline: TimelineId,
    /// Its manifest.
    pub keeper: ManifestKeeper,
    /// Who merges.
    pub owner: (Epoch, WriterId),
    /// What it may use.
    pub limits: MergeLimits,
    /// The throttle.
    pub pace: Arc<dyn Pace>,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Since when what is doomed is known here, by a clock that does not jump; the wall clock alone where there is none.
    pub sightings: Option<Arc<Sightings>>,
    /// A bug put in on purpose.
    #[cfg(any(test, feature = "testing"))]
    pub mutation: Option<Mutation>,
}

impl std::fmt::Debug for Merger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merger").field("timeline", &self.timeline).field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Merger {
    /// The merger of a timeline.
    pub fn new(
        source: LogSource,
        timeline: TimelineId,
        keeper: ManifestKeeper,
        owner: (Epoch, WriterId),
        limits: MergeLimits,
        pace: Arc<dyn Pace>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self {
            source,
            timeline,
            keeper,
            owner,
            limits,
            pace,
            clock,
            sightings: None,
            #[cfg(any(test, feature = "testing"))]
            mutation: None,
        }
    }

    #[cfg(any(test, feature = "testing"))]
    fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// Why a merge did not come about. In every case nothing has changed for readers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MergeError {
    /// The vault could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store did not take something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest did not take the run.
    #[error(transparent)]
    Manifest(#[from] ChangeError),
    /// What was to be merged is not whole.
    #[error(
        "slots {from} to {to} cannot be merged: the log is readable up to slot {readable} only, where {object} is damaged; \
         verify the vault"
    )]
    Broken {
        /// First slot of the merge.
        from: Slot,
        /// Last slot of the merge.
        to: Slot,
        /// The first slot that cannot be read.
        readable: Slot,
        /// The object there.
        object: ObjectName,
    },
    /// The plan is not one of this log.
    #[error("slots {from} to {to} cannot be merged: they are not what the log has there now; plan again")]
    Outdated {
        /// First slot of the merge.
        from: Slot,
        /// Last slot of the merge.
        to: Slot,
    },
    /// A part does not read back as it was written.
    #[error(
        "part {part} of run {run} does not read back as it was written: the run is not used; look at the vault's storage"
    )]
    ReadBack {
        /// The run.
        run: RunId,
        /// The part.
        part: u32,
    },
    /// A part vanished before the run was committed: somebody gave the run up.
    #[error("part {part} of run {run} is gone before the run was committed: merge again")]
    PartGone {
        /// The run.
        run: RunId,
        /// The part.
        part: u32,
    },
    /// A damaged run cannot be made again.
    #[error("run {run} is damaged and cannot be made again from what it was merged from: {why}")]
    Unmade {
        /// The run.
        run: RunId,
        /// Why.
        why: String,
    },
    /// It was told to stop.
    #[error("merging was stopped")]
    Stopped,
}

impl MergeError {
    /// Whether the timeline belongs to somebody newer: this owner must stop merging for good.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Manifest(ChangeError::Refused(ManifestError::Fenced { .. })))
    }
}
