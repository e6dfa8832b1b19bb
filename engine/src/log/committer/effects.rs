//! What passes between a [`Committer`](super::Committer) and its caller.

use std::time::Duration;

use crate::ids::{Lsn, Salt, Slot};
use crate::log::{Owner, SegmentNo};
use crate::vault::segment::{FooterDigest, FooterPlace, ObjectKind};

/// One try at one step of one object. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub(super) u64);

/// What fills a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogObject {
    /// This owner's fence record.
    Fence,
    /// A closed segment of the cache.
    Segment(SegmentNo),
}

/// A closed segment that waits for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which.
    pub segment: SegmentNo,
    /// The salt of its frames.
    pub salt: Salt,
    /// Its last LSN.
    pub last: Lsn,
    /// Where its items end, in bytes.
    pub items_end: u64,
    /// The footer its file has already, from before a restart: such a segment needs no key while its place still
    /// holds.
    pub footer: Option<(FooterPlace, FooterDigest)>,
}

/// What lies in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// An object whose trailer reads well.
    Object {
        /// Segment, fence or branch.
        kind: ObjectKind,
        /// Who wrote it.
        owner: Owner,
        /// The salt of its items.
        salt: Salt,
        /// Where its items end, in bytes.
        items_end: u64,
        /// The digest of its footer.
        digest: FooterDigest,
    },
    /// An object that cannot be read: damage.
    Damaged,
}

/// Why a committer stopped. It never starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// A newer owner has written to the log: what is left in the cache is discarded.
    Fenced {
        /// It.
        by: Owner,
        /// Where it was seen.
        slot: Slot,
    },
    /// The slot holds something of this very owner that this life did not put there (a publish of its former life
    /// landed late): read the tail again and start from there.
    Reread {
        /// Where.
        slot: Slot,
    },
    /// The slot holds an object that cannot be read: the vault is damaged, and nothing is built on it.
    Damaged {
        /// Where.
        slot: Slot,
    },
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Seal a fence record for this place; answer [`Committer::sealed`](super::Committer::sealed).
    SealFence {
        /// To be quoted.
        attempt: Attempt,
        /// Slot and previous footer.
        place: FooterPlace,
        /// The object of an older owner that was found instead of the log's end, if any: its log state, not the
        /// tail's, goes into the fence (read it before sealing).
        state_of: Option<Slot>,
    },
    /// Seal the segment's footer for this place (under a fresh salt); answer [`Committer::sealed`](super::Committer::sealed).
    Seal {
        /// To be quoted.
        attempt: Attempt,
        /// Which segment.
        segment: SegmentNo,
        /// Slot and previous footer.
        place: FooterPlace,
    },
    /// Bring the object's bytes to the store, under a token that names owner and footer; answer [`Committer::staged`](super::Committer::staged) or [`Committer::stage_failed`](super::Committer::stage_failed).
    Stage {
        /// To be quoted.
        attempt: Attempt,
        /// Which object.
        object: LogObject,
        /// The slot it was sealed for.
        slot: Slot,
        /// The footer that it is to have: of all that was sealed for the object, the one that counts.
        footer: FooterDigest,
    },
    /// Publish the staged bytes; answer [`Committer::published`](super::Committer::published) or [`Committer::publish_failed`](super::Committer::publish_failed).
    Publish {
        /// To be quoted.
        attempt: Attempt,
        /// Which object.
        object: LogObject,
        /// The slot.
        slot: Slot,
        /// The footer with which it was staged.
        footer: FooterDigest,
    },
    /// Read the trailer of what is in the slot; answer [`Committer::found`](super::Committer::found) or [`Committer::look_failed`](super::Committer::look_failed).
    Look {
        /// To be quoted.
        attempt: Attempt,
        /// The slot.
        slot: Slot,
    },
    /// Call [`Committer::retry`](super::Committer::retry) after this long.
    RetryAfter {
        /// To be quoted.
        attempt: Attempt,
        /// How long.
        after: Duration,
    },
    /// The log is this owner's: segments may follow.
    Adopted {
        /// The slot of the fence.
        fence: Slot,
        /// As in [`Effect::SealFence`]: whose log state is the log's now, if not the tail's. Everything up to that
        /// state's last LSN is committed.
        state_of: Option<Slot>,
    },
    /// The segment is committed.
    Committed {
        /// Which.
        segment: SegmentNo,
        /// The slot it fills.
        slot: Slot,
        /// Its last LSN.
        last: Lsn,
        /// The digest of its footer.
        digest: FooterDigest,
    },
    /// Nothing more will be done.
    Stopped(StopReason),
}

/// Where a committer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The fence is on its way; segments wait.
    Fencing,
    /// Segments are committed.
    Open,
    /// Over.
    Stopped(StopReason),
}

/// The end of the log as it was read: where a committer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The first empty slot, and the footer before it.
    pub place: FooterPlace,
    /// The highest epoch in the log with its writer; `None` for an empty log.
    pub newest: Option<Owner>,
}
