//! What is said about one machine between its agent and the configuration server.

use serde::{Deserialize, Serialize};

use super::MemberEvent;
use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, ProcessServerId, TimelineId, Timestamp};
use crate::record::GapReason;

/// Who owns the machine's log. Persisted before anybody hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The log's timeline.
    pub timeline: TimelineId,
    /// The ownership number; an agent never goes back to a lower one.
    pub epoch: Epoch,
    /// The owner; its certificate carries this id.
    pub process_server: ProcessServerId,
    /// Where it takes replication sessions (`host:port`), best first.
    pub addresses: Vec<String>,
}

/// Why nobody takes writes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotProtectedReason {
    /// No process server is there yet.
    NoProcessServer,
    /// An owner is being prepared: ask again soon.
    Preparing,
    /// The machine was removed.
    Removed,
}

/// Nobody takes writes of the machine now. A `Redirect` follows once somebody does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotProtected {
    /// Why.
    pub reason: NotProtectedReason,
    /// For people, with what to do.
    pub text: String,
}

/// How one disk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// Its first contents are being sent.
    InitialReplication,
    /// Regions are sent again after an outage, a crash or an overload.
    CatchingUp,
    /// The whole disk is compared with its replica.
    Comparing,
    /// Every write goes to the log in order.
    Protected,
    /// The disk is gone or cannot be read.
    Failed,
}

/// How one disk stands, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// The disk.
    pub disk: DiskNo,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Logical sector size in bytes.
    pub sector_bytes: u32,
    /// Its state.
    pub state: DiskState,
    /// Where the application finds it (an NBD socket), where there is such a place.
    #[serde(default)]
    pub export: Option<String>,
    /// Bytes in regions that may differ from the replica.
    pub hot_bytes: u64,
    /// Bytes that the scanner still has to read.
    pub scan_bytes_left: u64,
    /// The open gap, if there is one.
    #[serde(default)]
    pub gap: Option<GapReason>,
}

/// How an agent stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// When, by the agent's clock.
    pub at: Timestamp,
    /// The agent's life.
    pub incarnation: IncarnationId,
    /// The process server that it has a session with.
    #[serde(default)]
    pub connected_to: Option<ProcessServerId>,
    /// Highest epoch that it knows.
    pub epoch: Epoch,
    /// The last LSN that was given.
    pub last_lsn: Lsn,
    /// The log is on the process server's cache disk up to here.
    pub durable: Lsn,
    /// The log is in the vault up to here.
    pub committed: Lsn,
    /// The newest LSN that is a write, or closed a gap: nothing after it changed a disk.
    pub last_write: Lsn,
    /// Bytes of writes held until they are committed.
    pub memory_bytes: u64,
    /// Most of them.
    pub memory_bytes_max: u64,
    /// Rung of the overload ladder, 1 to 4.
    pub rung: u8,
    /// Bytes that were written to its disks since the agent started.
    #[serde(default)]
    pub written_bytes: u64,
    /// Each disk.
    pub disks: Vec<DiskReport>,
    /// What happened since the last report.
    #[serde(default)]
    pub events: Vec<MemberEvent>,
}
