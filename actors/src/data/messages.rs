//! What the process server can be asked. Every command may be repeated: the same one twice does what it did once.

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{
    Assign, Export, HoldInfo, PointInfo, PointSelector, PointsPage, RetentionReport,
};
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, MarkId, Slot, TimelineId, Timestamp};
use farshore_engine::record::MarkKind;
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::export::Format;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;

use super::{DataError, ProcessServerReport};

/// Own this machine's log: fence, learn the tail, take its agent. Answered once that is so.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Adopted, DataError>")]
pub(super) struct AssignMachine {
    /// Whose, and as whom.
    pub(super) assignment: Assign,
    /// How long to wait for the answer; adopting goes on behind it.
    pub(super) within: Duration,
}

/// What retention and merging would do.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<RetentionReport, DataError>")]
pub(super) struct PlanRetention {
    /// The machine.
    pub(super) machine: MachineId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    /// The machine's data key.
    pub(super) data_key: DataKey,
    /// Which points would stay.
    pub(super) ladder: Ladder,
}

/// Keep a point, whatever its retention says.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<HoldInfo, DataError>")]
pub(super) struct HoldPoint {
    /// The machine.
    pub(super) machine: MachineId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    /// The machine's data key.
    pub(super) data_key: DataKey,
    /// Name of the hold.
    pub(super) hold: String,
    /// Which point.
    pub(super) point: PointSelector,
    /// Why.
    pub(super) reason: String,
    /// When it ends by itself.
    pub(super) expires_at: Option<Timestamp>,
}

/// Keep it no longer; says whether it was there.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<bool, DataError>")]
pub(super) struct ReleaseHold {
    /// The machine.
    pub(super) machine: MachineId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    /// The machine's data key.
    pub(super) data_key: DataKey,
    /// Name of the hold.
    pub(super) hold: String,
}

/// Keep these points of the machine from now on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DataError>")]
pub(super) struct SetRetention {
    /// The machine.
    pub(super) machine: MachineId,
    /// Which.
    pub(super) ladder: Ladder,
}

/// Pack the machine's frames with this from the next segment on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DataError>")]
pub(super) struct SetPacking {
    /// The machine.
    pub(super) machine: MachineId,
    /// With what.
    pub(super) packing: Packing,
}

/// Read all of the machine's log again.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DataError>")]
pub(super) struct WantScrub {
    /// The machine.
    pub(super) machine: MachineId,
}

/// The machine's log is this process server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Adopted {
    /// Under this epoch.
    pub(super) epoch: Epoch,
    /// The log is committed up to here.
    pub(super) committed: Lsn,
    /// The slot that comes next.
    pub(super) next_slot: Slot,
}

/// Close and upload what is cached of the machine within the time, then let go of it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Released, DataError>")]
pub(super) struct ReleaseMachine {
    /// The machine.
    pub(super) machine: MachineId,
    /// The epoch that ends; a later one is not touched.
    pub(super) epoch: Epoch,
    /// Time for it.
    pub(super) within: Duration,
}

/// The machine's log may have another owner now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Released {
    /// The log is committed up to here.
    pub(super) committed: Lsn,
    /// The log was durable up to here; beyond `committed` the agent sends again.
    pub(super) durable: Lsn,
}

/// Tell the machine's agent that the log has another owner: now, where it has a session, and whenever it comes.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DataError>")]
pub(super) struct RedirectAgent {
    /// The machine.
    pub(super) machine: MachineId,
    /// The new ownership number.
    pub(super) epoch: Epoch,
    /// Where the new owner takes sessions, best first.
    pub(super) addresses: Vec<String>,
}

/// How does it all stand?
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "ProcessServerReport")]
pub(super) struct Report;

/// The machine's points, newest first.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<PointsPage, DataError>")]
pub(super) struct ListPoints {
    /// The machine.
    pub(super) machine: MachineId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    /// Only points with a smaller LSN.
    pub(super) before: Option<Lsn>,
    /// At most so many.
    pub(super) limit: u32,
    /// The machine's key, where the configuration server has it.
    pub(super) data_key: Option<DataKey>,
}

/// Serve a point over NBD, each disk on a unix socket.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Served, DataError>")]
pub(super) struct ServePoint {
    /// Name of what is served. One that is served already is answered as it is.
    pub(super) serve: u64,
    /// The machine.
    pub(super) machine: MachineId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    /// The machine's data key.
    pub(super) data_key: DataKey,
    /// Which point.
    pub(super) point: PointSelector,
    /// Which disks; empty: all that the point covers.
    pub(super) disks: Vec<DiskNo>,
    /// Refuse writes instead of keeping them in an overlay.
    pub(super) read_only: bool,
}

/// A point that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    /// The point that was chosen.
    pub(super) point: PointInfo,
    /// Its disks.
    pub(super) exports: Vec<Export>,
}

/// Stop serving and throw the overlay away. One that is not served is no error.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) struct StopServing {
    /// What was served.
    pub(super) serve: u64,
}

/// Write a point's disks to files. One that is under way, or done, is answered as it is.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Restoring, DataError>")]
pub(super) struct RestorePoint {
    /// As what.
    pub(super) format: Format,
    /// Name of the work.
    pub(super) restore: u64,
    /// The machine.
    pub(super) machine: MachineId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    /// The machine's data key.
    pub(super) data_key: DataKey,
    /// Which point.
    pub(super) point: PointSelector,
    /// Which disks; empty: all that the point covers.
    pub(super) disks: Vec<DiskNo>,
}

/// How far a restore is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Restoring {
    /// It is under way.
    UnderWay {
        /// Bytes of data written.
        done_bytes: u64,
        /// Bytes of data there are; 0 until that is known.
        total_bytes: u64,
    },
    /// It is done.
    Done {
        /// Where the images are.
        directory: std::path::PathBuf,
        /// Bytes of data in them.
        total_bytes: u64,
    },
}

/// Stop restoring, and throw away what was written.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) struct CancelRestore {
    /// Name of the work.
    pub(super) restore: u64,
}

/// Ask the machine's agent for a mark.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<MarkId, DataError>")]
pub(super) struct RequestMark {
    /// The machine.
    pub(super) machine: MachineId,
    /// What it shall promise.
    pub(super) kind: MarkKind,
    /// The operator's name for it.
    pub(super) label: String,
}
