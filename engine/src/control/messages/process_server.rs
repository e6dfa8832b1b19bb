//! Commands to a process server, their answers, and its heartbeats.
//!
//! A command that changes something carries epoch and writer, so that it may be repeated: the same command twice does
//! what it did once. `TimedOut` leaves it open whether it happened.

use serde::{Deserialize, Serialize};

use super::{
    ChaosCommand, ChaosState, Export, MemberEvent, PointInfo, PointSelector, PointsPage, Refusal, Severity, WireKey,
};
use crate::ids::{DiskNo, Epoch, Lsn, MachineId, MarkId, Slot, TimelineId, Timestamp, WriterId};
use crate::record::MarkKind;
use crate::vault::export::Format;
use crate::vault::manifest::PinKind;
use crate::vault::retention::Ladder;
use crate::vault::segment::Packing;
use crate::vault::store::metered::StoreCounts;

/// A command with the number under which it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// Never used twice in a session.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The command's number.
    pub id: u64,
    /// What came of it.
    pub outcome: Result<CommandResult, Refusal>,
}

/// The ownership of a machine's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    /// The machine.
    pub machine: MachineId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// The ownership number.
    pub epoch: Epoch,
    /// The owner's identity within it.
    pub writer: WriterId,
    /// The machine's data key, for memory only.
    pub data_key: WireKey,
    /// With what its frames are packed; as it was where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// Objects of its log that an owner before found damaged, by name: they are looked at first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubted: Vec<String>,
}

/// What a process server is told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Own this machine's log: fence, learn the tail, take its agent. Answered once that is so.
    Assign(Assign),
    /// Close and upload what is cached of the machine within the time, then let go of it.
    Release {
        /// The machine.
        machine: MachineId,
        /// The epoch that ends; a later one is not touched.
        epoch: Epoch,
        /// Time for it, in milliseconds.
        within_ms: u64,
    },
    /// What retention and merging would do to a machine's timeline, and what is held there. Changes nothing.
    Retention {
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// The machine's data key, for memory only.
        data_key: WireKey,
        /// Which points would stay.
        ladder: Ladder,
    },
    /// Keep a point, whatever its retention says. The same name and point again takes the new reason and expiry.
    Hold {
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// The machine's data key, for memory only.
        data_key: WireKey,
        /// Name of the hold.
        hold: String,
        /// Which point.
        point: PointSelector,
        /// Why.
        reason: String,
        /// When it ends by itself.
        #[serde(default)]
        expires_at: Option<Timestamp>,
    },
    /// Keep it no longer. Answered `Released` by how many there were.
    ReleaseHold {
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// The machine's data key, for memory only.
        data_key: WireKey,
        /// Name of the hold.
        hold: String,
    },
    /// Keep these of the machine's points from now on. Until it was told in this life of its process, the process server
    /// drops none.
    SetRetention {
        /// The machine.
        machine: MachineId,
        /// Which.
        ladder: Ladder,
    },
    /// Pack the machine's frames with this from the next segment on.
    SetPacking {
        /// The machine.
        machine: MachineId,
        /// With what.
        packing: Packing,
    },
    /// Tell the machine's agent, if it has a session, that the log has another owner.
    Redirect {
        /// The machine.
        machine: MachineId,
        /// The new ownership number.
        epoch: Epoch,
        /// Where the new owner takes sessions.
        addresses: Vec<String>,
    },
    /// The machine's points, newest first.
    ListPoints {
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// Only points with a smaller LSN.
        #[serde(default)]
        before: Option<Lsn>,
        /// At most so many.
        limit: u32,
        /// The machine's key: the points of a machine that this process server does not own are read all the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_key: Option<WireKey>,
    },
    /// Serve a point over NBD, each disk on a unix socket. The same `serve` again answers what is served already.
    ServePoint {
        /// Name of what is served, the configuration server's.
        serve: u64,
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// The machine's data key, for memory only.
        data_key: WireKey,
        /// Which point.
        point: PointSelector,
        /// Which disks; empty: all that the point covers.
        #[serde(default)]
        disks: Vec<DiskNo>,
        /// Refuse writes instead of keeping them in an overlay.
        read_only: bool,
    },
    /// Stop serving and throw the overlay away. One that is not served is no error.
    StopServing {
        /// What was served.
        serve: u64,
    },
    /// Write a point's disks to files. The same `restore` again tells how far it is.
    RestorePoint {
        /// Name of the work, the configuration server's.
        restore: u64,
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// The machine's data key, for memory only.
        data_key: WireKey,
        /// Which point.
        point: PointSelector,
        /// Which disks; empty: all that the point covers.
        #[serde(default)]
        disks: Vec<DiskNo>,
        /// As what.
        #[serde(default)]
        format: Format,
    },
    /// Stop restoring. What was written is thrown away; one that is not known is no error.
    CancelRestore {
        /// Name of the work.
        restore: u64,
    },
    /// Read all of the machine's log again, and put back what is damaged. Answered at once; the report tells what came of it.
    Scrub {
        /// The machine.
        machine: MachineId,
    },
    /// Ask the machine's agent for a mark.
    RequestMark {
        /// The machine.
        machine: MachineId,
        /// What it shall promise.
        kind: MarkKind,
        /// The operator's name for it.
        label: String,
    },
    /// Arm, disarm or list the process's own faults.
    Chaos(ChaosCommand),
}

/// What came of a command that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum CommandResult {
    /// To `Assign`: the fence is in its slot and the tail is known.
    Assigned {
        /// The log is committed up to here.
        committed: Lsn,
        /// The slot that comes next.
        next_slot: Slot,
    },
    /// To `Assign`: the log has another owner already, or this one's cache is lost. A higher epoch is needed.
    AssignStale {
        /// The highest epoch that the log knows.
        highest: Epoch,
    },
    /// To `Release`.
    Released {
        /// The log is committed up to here.
        committed: Lsn,
        /// The log was durable up to here; beyond `committed` the agent sends again.
        durable: Lsn,
    },
    /// To `ListPoints`.
    Points(PointsPage),
    /// To `ServePoint`.
    Served {
        /// The point that was chosen.
        point: PointInfo,
        /// Its disks.
        exports: Vec<Export>,
    },
    /// To `RestorePoint`: it is under way.
    Restoring {
        /// Bytes of data written.
        done_bytes: u64,
        /// Bytes of data there are; 0 until that is known.
        total_bytes: u64,
    },
    /// To `RestorePoint`: it is done.
    Restored {
        /// Where the images are, on the process server's host.
        directory: String,
        /// Bytes of data in them.
        total_bytes: u64,
    },
    /// To `Retention`.
    Retention(RetentionReport),
    /// To `Hold`.
    Held(HoldInfo),
    /// To `ReleaseHold`.
    HoldReleased {
        /// It was there.
        was_there: bool,
    },
    /// To `RequestMark`.
    MarkRequested {
        /// The mark, once it is there.
        mark: MarkId,
    },
    /// To `Chaos`.
    Chaos(ChaosState),
    /// To everything else.
    Done,
}

/// How a process server stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When, by the process server's clock.
    pub at: Timestamp,
    /// Part of its CPUs that the process uses, 0 to 1.
    pub cpu: f64,
    /// Its cache.
    pub cache: CacheReport,
    /// The vault answers.
    pub vault_reachable: bool,
    /// Each machine that it owns.
    pub machines: Vec<MachineReport>,
    /// What it has asked of the vault.
    #[serde(default)]
    pub store: StoreCounts,
    /// What it serves.
    #[serde(default)]
    pub serving: Vec<u64>,
    /// How much of what it serves has been brought near.
    #[serde(default)]
    pub near: Vec<NearReport>,
    /// What happened since the last heartbeat.
    #[serde(default)]
    pub events: Vec<MemberEvent>,
}

/// How far a served point's disks have been brought near, in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearReport {
    /// What is served.
    pub serve: u64,
    /// Bytes of the disks that are near as a whole.
    pub reached_bytes: u64,
    /// Their size.
    pub total_bytes: u64,
    /// Nothing more is brought: it is all near, there is no room for more, or the vault cannot be read.
    pub ended: bool,
}

/// A cache in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Bytes of segments.
    pub used_bytes: u64,
    /// Most of them.
    pub bytes_max: u64,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: u64,
    /// Bytes free on the cache's disk.
    pub disk_free_bytes: u64,
}

/// How an owned machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Its cache is being read.
    Opening,
    /// Its data key is missing: `Assign` brings it, or the agent does.
    Locked,
    /// The log's tail is being read, the fence written.
    Adopting,
    /// Owned; no agent has a session.
    AgentAway,
    /// Owned; its agent has a session.
    Replicating,
    /// Being closed for another owner.
    Releasing,
    /// Another owner's fence was met: nothing more is committed here.
    Fenced,
    /// It cannot go on; an event says why.
    Failed,
}

/// How an owned machine stands, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The machine.
    pub machine: MachineId,
    /// The ownership number.
    pub epoch: Epoch,
    /// Its state.
    pub state: MachineState,
    /// The log is in the cache up to here.
    pub durable: Lsn,
    /// The log is in the vault up to here.
    pub committed: Lsn,
    /// Slots that are filled; grows while the machine is alive.
    pub next_slot: Slot,
    /// With what its frames are packed, from the next segment on; nothing from process servers that only know one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// Which of its points stay, as it was told; `None`: it drops none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Ladder>,
    /// What merging found and did; `None` from process servers that do not merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<MergingReport>,
    /// What scrubbing found and did; `None` from process servers that do not scrub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<ScrubReport>,
    /// The newest committed mark that covers every disk.
    #[serde(default)]
    pub newest_mark: Option<MarkReport>,
    /// When the agent last confirmed that no write came after that mark.
    #[serde(default)]
    pub idle_confirmed_at: Option<Timestamp>,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: u64,
    /// Bytes of writes that came from the agent since the process server started.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes of segments that it put into the vault since then.
    #[serde(default)]
    pub uploaded_bytes: u64,
    /// Store calls for it that failed since then.
    #[serde(default)]
    pub upload_failures: u64,
    /// How often actors of it were started again after a failure.
    #[serde(default)]
    pub actor_restarts: u64,
    /// What is wrong there, worst first.
    #[serde(default)]
    pub issues: Vec<Issue>,
}

/// Something that is wrong, for as long as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// Stable code, snake case.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// What happened and why.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// What merging found in a machine's timeline when it last looked, and did since the process server began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergingReport {
    /// When it last looked; `None`: not yet.
    #[serde(default)]
    pub looked_at: Option<Timestamp>,
    /// Points that could be read.
    pub points: u64,
    /// Log objects that no run stands for.
    pub live_segments: u64,
    /// Their size in bytes.
    pub live_bytes: u64,
    /// Runs.
    pub runs: u64,
    /// Their size in bytes.
    pub run_bytes: u64,
    /// Pins: holds, readers, branches.
    pub pins: u64,
    /// Entries that wait for their grace before they are deleted.
    pub waiting: u64,
    /// Merges that were committed.
    pub merges: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Objects that were deleted.
    pub deleted_objects: u64,
    /// Damaged runs that were made again from what they were merged from.
    #[serde(default)]
    pub renewed_runs: u64,
    /// Looks that failed.
    pub failures: u64,
}

/// What reading a machine's log again has found, and did since the process server began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// It is being read right now.
    pub running: bool,
    /// When a slice, or all of it, was last read to its end; `None`: not yet.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// When all of it was last read to its end at once, as somebody wanted; `None`: not in this life.
    #[serde(default)]
    pub whole_at: Option<Timestamp>,
    /// Slices read to their end.
    pub slices: u64,
    /// How many slices a cycle has.
    pub slices_per_cycle: u64,
    /// Objects read.
    pub objects: u64,
    /// Their bytes, as far as they were known.
    pub bytes: u64,
    /// Objects that were put back.
    pub repaired: u64,
    /// Scrubs that failed since the vault did not answer.
    pub failures: u64,
    /// How many objects are damaged now.
    pub damaged_objects: u64,
    /// How many points that touches.
    pub touched_points: u64,
    /// The first of them.
    #[serde(default)]
    pub damaged: Vec<DamagedObject>,
}

/// An object of a machine's log that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedObject {
    /// Its name.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Why it was not put back.
    pub stays: String,
    /// How many points it touches.
    pub touched_points: u64,
    /// The newest of them: when it was captured.
    #[serde(default)]
    pub newest_touched: Option<Timestamp>,
}

/// What keeps a position readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldInfo {
    /// Its name.
    pub hold: String,
    /// `hold`: an operator's; `reader`: a served point or the like; `branch`: a timeline begins there.
    pub kind: PinKind,
    /// The position.
    pub lsn: Lsn,
    /// The point there, where there is one.
    #[serde(default)]
    pub point: Option<PointInfo>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// What retention and merging would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionReport {
    /// The time that ages were counted from.
    pub counted_from: Timestamp,
    /// Points that stay, by why: the number of a rung, or `pinned`, `newest`, `clocks_apart`.
    pub kept: Vec<(String, u64)>,
    /// How many points go.
    pub dropped: u64,
    /// The first of them, oldest first.
    pub dropped_first: Vec<PointInfo>,
    /// The timeline now.
    pub standing: MergingReport,
    /// The next merge: why, from, to, bytes that it reads.
    #[serde(default)]
    pub next_merge: Option<(String, Slot, Slot, u64)>,
    /// What is held.
    pub holds: Vec<HoldInfo>,
}

/// A committed mark, as far as RPO needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkReport {
    /// The mark.
    pub mark: MarkId,
    /// Its place in the log.
    pub lsn: Lsn,
    /// When it was taken, by the agent's clock.
    pub captured_at: Timestamp,
}
