//! How the process server and its machines stand: read from boards beside the actors, so that it is readable when they
//! are stuck.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_engine::cache::limits::Pressure;
use farshore_engine::control::messages::{MarkReport, MergingReport, NearReport, ScrubReport, Severity};
use farshore_engine::ids::{DiskNo, Epoch, IncarnationId, Lsn, MachineId, Slot, TimelineId, Timestamp, WriterId};
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;
use serde::Serialize;

use crate::supervise::{ActorKind, ChildState};

/// Where a machine stands at its process server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MachinePhase {
    /// Its cache directory is being read.
    Opening,
    /// Its data key is not there yet: it comes with the agent or with the assignment.
    Locked,
    /// The log's tail is being read, the fence written.
    Adopting,
    /// Owned: its agent is welcome.
    Ready,
    /// Being closed for another owner.
    Releasing,
    /// Another owner has the log: nothing more is committed here.
    Fenced,
    /// It cannot go on; its health says why.
    Failed,
}

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IssueCode {
    /// The vault does not answer.
    VaultAway,
    /// The vault has no room.
    VaultFull,
    /// The vault holds an object that cannot be read where the log goes on.
    VaultDamaged,
    /// The machine's data key is missing.
    VaultLocked,
    /// Another owner has the log.
    Fenced,
    /// The cache directory of this owner is lost.
    CacheLost,
    /// A write to the cache disk failed.
    CacheFailed,
    /// The cache is running short of room.
    CacheShort,
    /// Agents are throttled because the cache is short of room.
    CacheThrottled,
    /// The cache is full: nothing is accepted.
    CacheFull,
    /// An actor keeps failing.
    RestartStorm,
    /// An actor blocks its thread and cannot be ended.
    ThreadBlocked,
    /// Nothing could be sealed of what the agent sent.
    Unsealable,
    /// Merging fails: nothing is dropped, and the vault grows.
    MergingFailed,
    /// More segments wait to be merged than should.
    MergingBehind,
    /// Objects of the log are not what was written, and nobody has a copy.
    ObjectsDamaged,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthIssue {
    /// Stable code.
    pub code: IssueCode,
    /// How much it matters.
    pub severity: Severity,
    /// What happened and why.
    pub text: String,
    /// What to do.
    pub remedy: String,
    /// Since when.
    pub since: Timestamp,
}

/// An agent's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStatus {
    /// The agent's life.
    pub incarnation: IncarnationId,
    /// Since when.
    pub since: Timestamp,
    /// The agent's program version.
    pub agent: String,
    /// Where it comes from.
    pub peer: String,
}

/// What passed one disk's actor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiskCounts {
    /// Frames sealed, those that were thrown away too.
    pub frames: u64,
    /// Bytes of sections that went in.
    pub plain_bytes: u64,
    /// Bytes of sealed items that came out.
    pub sealed_bytes: u64,
    /// The last LSN sealed.
    pub last_lsn: Lsn,
}

/// What passed a machine's upload stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UploadCounts {
    /// Segments committed.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Frames in them.
    pub frames: u64,
    /// Fences written.
    pub fences: u64,
    /// Store calls that failed.
    pub failures: u64,
}

/// How the actors of one kind fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActorReport {
    /// Where the worst of them stands.
    pub state: ChildState,
    /// How often they were started again.
    pub restarts: u64,
    /// What ended the last failed life.
    pub last_failure: Option<String>,
}

/// How a machine stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineStatus {
    /// The machine.
    pub machine: MachineId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// The ownership number.
    pub epoch: Epoch,
    /// The owner's identity.
    pub writer: WriterId,
    /// Where it stands.
    pub phase: MachinePhase,
    /// What is wrong, worst first; empty: nothing.
    pub health: Vec<HealthIssue>,
    /// Its agent's session, if there is one.
    pub session: Option<SessionStatus>,
    /// The log is in the cache up to here.
    pub durable: Lsn,
    /// The log is in the vault up to here.
    pub committed: Lsn,
    /// The slot that comes next.
    pub next_slot: Slot,
    /// With what its frames are packed, from the next segment on.
    pub packing: Packing,
    /// Which of its points stay, as the configuration server said in this life of the process; `None`: nothing is dropped.
    pub retention: Option<Ladder>,
    /// What merging found and did.
    pub merging: MergingReport,
    /// What scrubbing found and did.
    pub scrub: ScrubReport,
    /// Somebody wants all of the log read again now.
    pub scrub_wanted: bool,
    /// Log objects that somebody found damaged while reading, by name: the scrubber looks at them next.
    pub doubted: Vec<String>,
    /// The newest committed mark that covers every disk of the machine.
    pub newest_mark: Option<MarkReport>,
    /// When the agent last confirmed that no write came after that mark.
    pub idle_confirmed_at: Option<Timestamp>,
    /// Bytes of closed and open segments that are in no vault yet.
    pub backlog_bytes: u64,
    /// Bytes of its segment files, committed ones included.
    pub cached_bytes: u64,
    /// Batches that are durable, since the process started.
    pub batches: u64,
    /// What passed its disks' actors.
    pub disks: BTreeMap<DiskNo, DiskCounts>,
    /// What passed its upload stream.
    pub uploads: UploadCounts,
    /// How its actors fare, by kind.
    pub actors: BTreeMap<ActorKind, ActorReport>,
}

impl MachineStatus {
    /// Now minus the capture time of the newest committed mark; while the agent confirms that no write came after
    /// that mark, now minus the time of that confirmation. `None` before the first mark.
    pub fn rpo(&self, now: Timestamp) -> Option<Duration> {
        let mark = self.newest_mark?;
        let as_of = self.idle_confirmed_at.map_or(mark.captured_at, |at| at.max(mark.captured_at));
        Some(Duration::from_micros(now.micros_since(as_of)))
    }

    /// How bad it is.
    pub fn severity(&self) -> Option<Severity> {
        self.health.iter().map(|issue| issue.severity).max()
    }
}

/// The cache as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheState {
    /// Bytes of all segment files.
    pub used_bytes: u64,
    /// Most of them.
    pub budget_bytes: u64,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: u64,
    /// Bytes free on the cache's disk.
    pub disk_free_bytes: u64,
    /// Bytes of the cache's disk.
    pub disk_total_bytes: u64,
    /// How short room is.
    #[serde(serialize_with = "pressure_name")]
    pub pressure: Pressure,
}

fn pressure_name<S: serde::Serializer>(pressure: &Pressure, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match pressure {
        Pressure::Normal => "normal",
        Pressure::Warning => "warning",
        Pressure::Critical => "critical",
        Pressure::Throttled { .. } => "throttled",
        Pressure::Refusing => "refusing",
    })
}

/// How a process server stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessServerReport {
    /// When, by its clock.
    pub at: Timestamp,
    /// Its cache.
    pub cache: CacheState,
    /// Bytes of batches held in memory.
    pub memory_bytes: u64,
    /// Most of them.
    pub memory_bytes_max: u64,
    /// The vault answered last time it was asked.
    pub vault_reachable: bool,
    /// Each machine assigned here.
    pub machines: Vec<MachineStatus>,
    /// What it serves.
    pub serving: Vec<u64>,
    /// How much of that is near.
    pub near: Vec<NearReport>,
    /// How its own actor fares.
    pub process_server: ActorReport,
    /// Events that nobody took in time.
    pub events_lost: u64,
    /// Share of the machine's CPUs that this process used since the last report, 0 to 1.
    pub cpu: f64,
}
