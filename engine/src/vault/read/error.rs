//! Why a vault cannot be read: the store does not answer, or what it gives is not what was written.

use crate::codec::Malformed;
use crate::ids::{DiskNo, Epoch, Lsn, MachineId, Slot, TimelineId};
use crate::vault::crypto::OpenError;
use crate::vault::layout::ObjectName;
use crate::vault::state::StateError;
use crate::vault::store::{StoreError, StoreErrorKind};

/// What is wrong with an object of a vault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is not there, though a later one is, or another object needs it.
    #[error("the object is missing")]
    Missing,
    /// It has another length than it says itself.
    #[error("the object has {found} bytes where it says that it has {expected}: it was cut or something was appended")]
    Length {
        /// What its trailer says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// Its bytes are not of the format, or a checksum does not hold.
    #[error(transparent)]
    Malformed(Malformed),
    /// A seal does not hold.
    #[error(
        "the seal of {what} does not hold: its bytes were changed, it lies in the wrong place, or the key is not its own"
    )]
    Seal {
        /// What was being opened.
        what: &'static str,
    },
    /// The seal holds, but what is in it is not what this program understands.
    #[error("{what} was opened, but this program does not understand it: {cause}; a newer program may have written it")]
    Body {
        /// What was being opened.
        what: &'static str,
        /// What is not understood.
        cause: String,
    },
    /// It was sealed for another slot.
    #[error("the object was sealed for slot {sealed_for}: it was moved here, or copied")]
    Misplaced {
        /// The slot it belongs to.
        sealed_for: Slot,
    },
    /// It was written as another generation.
    #[error("the object is generation {generation} of its kind: it was moved here, or copied")]
    OtherGeneration {
        /// The generation it says it is.
        generation: u64,
    },
    /// It does not name the object before it.
    #[error("the object does not follow the one in the slot before: one of the two was replaced")]
    Chain,
    /// A part of a run that does not follow the part before it, or not the one that the manifest names.
    #[error("the part does not belong to the run that the manifest names: it was replaced, or parts were exchanged")]
    Part,
    /// It belongs to an owner who had lost the log already.
    #[error("the object is of epoch {found} but follows one of epoch {before}: a fenced owner wrote it")]
    EpochFell {
        /// Its epoch.
        found: Epoch,
        /// The epoch before it.
        before: Epoch,
    },
    /// It is of the epoch before it, but by another writer.
    #[error("the object is by another writer than the one before it, in the same epoch {epoch}")]
    TwoWriters {
        /// The epoch of both.
        epoch: Epoch,
    },
    /// Its records or its run of LSNs do not follow the log before it.
    #[error("what the object holds does not follow the log before it: {0}")]
    Order(StateError),
    /// A frame's bytes are not those that the agent captured.
    #[error("the bytes of disk {disk} at {offset} do not match the digest taken when they were captured")]
    Digest {
        /// The disk.
        disk: DiskNo,
        /// The first byte of the piece.
        offset: u64,
    },
    /// The index names bytes that the frame does not hold.
    #[error("the index says that frame {frame} holds the bytes at {offset} of the disk, and it does not")]
    Index {
        /// The frame's place in the segment's table.
        frame: u32,
        /// The place on the disk.
        offset: u64,
    },
    /// A frame cannot be opened.
    #[error("frame {frame}: {cause}")]
    Frame {
        /// The frame's place in the segment's table.
        frame: u32,
        /// What is wrong with it.
        cause: Box<Damage>,
    },
    /// The branch names another footer than its parent has in that slot.
    #[error("slot {slot} of the parent timeline {parent} is not the one that this timeline was branched from")]
    Parent {
        /// The parent.
        parent: TimelineId,
        /// The parent's slot.
        slot: Slot,
    },
    /// A branch record anywhere but in slot 0, or timelines that branch in a circle.
    #[error("a branch record stands where none can be")]
    StrayBranch,
}

impl From<Malformed> for Damage {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<OpenError> for Damage {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Malformed(malformed) => Self::Malformed(malformed),
            OpenError::Seal { what } => Self::Seal { what },
            OpenError::Body { what, cause } => Self::Body { what, cause },
        }
    }
}

/// A read that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The store does not answer, or refuses: nothing is said about the object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is not what was written.
    #[error("{object}: {damage}")]
    Damaged {
        /// Which object.
        object: ObjectName,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The point does not cover the disk.
    #[error("disk {disk} has no point at LSN {lsn}: it was not part of the machine there, or has a gap")]
    NotCovered {
        /// The disk.
        disk: DiskNo,
        /// The position.
        lsn: Lsn,
    },
    /// Nothing of the log is readable up to there.
    #[error("LSN {lsn} of machine {machine} cannot be read: the log is readable up to LSN {readable}")]
    Beyond {
        /// The machine.
        machine: MachineId,
        /// The position.
        lsn: Lsn,
        /// The last LSN that can be read.
        readable: Lsn,
    },
    /// A position that merging has dropped.
    #[error(
        "LSN {lsn} of machine {machine} is no longer retained: only recovery points that are listed can be read; choose one"
    )]
    NotRetained {
        /// The machine.
        machine: MachineId,
        /// The position.
        lsn: Lsn,
    },
    /// A range that leaves the disk.
    #[error("bytes {offset} to {end} leave the disk, which has {size_bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Behind the last byte asked for.
        end: u64,
        /// The disk's size.
        size_bytes: u64,
    },
}

impl ReadError {
    /// Damage of `object`.
    pub(crate) fn damaged(object: ObjectName, damage: impl Into<Damage>) -> Self {
        Self::Damaged { object, damage: damage.into() }
    }

    /// A failed store call about `object`: an object that is not there, or is shorter than another one says, is
    /// damage; anything else is the store's own trouble.
    pub(crate) fn store(object: &ObjectName, error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::NotFound => Self::damaged(object.clone(), Damage::Missing),
            StoreErrorKind::Refused => Self::damaged(object.clone(), Malformed::Short { what: "object" }),
            _ => Self::Store(error),
        }
    }
}
