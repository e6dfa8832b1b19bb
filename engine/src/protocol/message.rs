//! The words that agent and process server exchange. Their bytes are in [`super::codec`].

use std::fmt;

use zeroize::Zeroizing;

use crate::batch::Batch;
use crate::ids::{Epoch, IncarnationId, Lsn, MachineId, MarkId, TimelineId, Timestamp};
use crate::record::{DiskInfo, GapReason, MarkKind};
use crate::vault::state::LogState;

use super::compare::{Digests, Part};

/// The newest version of the protocol that this program speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Most predecessors in a lineage. Chosen: an agent that restarts once a minute names a whole day without a commit.
pub const LINEAGE_MAX: usize = 2048;
/// Longest text in a message, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Most addresses in a redirect.
pub const ADDRESSES_MAX: usize = 16;

/// A machine's data key on its way to the process server, which keeps it in memory only. Wiped when dropped; never
/// printed. (The socket buffers that a hello passes through are memory as well, and are not wiped.)
#[derive(Clone, PartialEq, Eq)]
pub struct HelloKey(Zeroizing<[u8; 32]>);

impl HelloKey {
    /// Wraps the key's bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The key's bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for HelloKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HelloKey(..)")
    }
}

/// Permission to follow a life that is not in this agent's lineage: given only by an agent that will compare every
/// disk in full, and only for the life the log ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// The life that the log must end in.
    pub log_incarnation: IncarnationId,
    /// Why the agent cannot continue it.
    pub reason: GapReason,
}

/// How an agent begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Newest protocol version it speaks.
    pub version: u16,
    /// Its machine.
    pub machine: MachineId,
    /// The timeline it writes.
    pub timeline: TimelineId,
    /// This life.
    pub incarnation: IncarnationId,
    /// Its lives since the last one whose beginning was confirmed as committed, that one included; newest last,
    /// without this one.
    pub lineage: Vec<IncarnationId>,
    /// Whether its activity log can be trusted.
    pub trusted: bool,
    /// Set where it cannot continue what the log ends in.
    pub reset: Option<Reset>,
    /// Highest epoch it has been welcomed or redirected to.
    pub epoch_known: Epoch,
    /// The first LSN of this life.
    pub first_lsn: Lsn,
    /// The machine's data key.
    pub data_key: HelloKey,
    /// The agent's program version, for people.
    pub agent: String,
    /// The machine's disks.
    pub disks: Vec<DiskInfo>,
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentMessage {
    /// The first message of a connection.
    Hello(Box<Hello>),
    /// A run of the log.
    Batch(Batch),
    /// Nothing was written after `lsn` up to the time `at`.
    Idle {
        /// The last LSN that was given.
        lsn: Lsn,
        /// When that was still so.
        at: Timestamp,
    },
    /// What did the log say of this part of a disk before this life began?
    Compare(Part),
    /// Are you there?
    Ping,
    /// The agent goes.
    Bye {
        /// Why.
        reason: String,
    },
}

/// The process server takes the machine's writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// This session; acknowledgements carry it.
    pub session: u64,
    /// Everything up to here is in the vault.
    pub committed: Lsn,
    /// Everything up to here is on the process server's disk.
    pub durable: Lsn,
    /// How many bytes of batches may be under way.
    pub credit_bytes: u64,
    /// What the log says at its end.
    pub log: LogState,
}

/// Why an agent is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The log ends in a life that this agent does not descend from: a clone, a machine rolled back, lost state.
    IncarnationUnknown,
    /// The certificate is another machine's.
    WrongMachine,
    /// The log's timeline is another one: there was a failover.
    WrongTimeline,
    /// This process server does not own the machine's log.
    NotOwner,
    /// The agent's protocol version is unknown here.
    VersionUnknown,
    /// The process server has no key for the machine's log.
    VaultLocked,
    /// The message made no sense.
    Malformed,
    /// Another agent of this machine is connected.
    SecondAgent,
    /// The process server stops.
    ShuttingDown,
    /// The first LSN of this life is one that the log holds already.
    LsnTaken,
    /// The log is not ready yet: try again.
    NotReady,
}

impl RefusalCode {
    /// Whether the same hello may be taken later without anyone doing anything.
    pub fn passes_by_itself(self) -> bool {
        matches!(self, Self::SecondAgent | Self::ShuttingDown | Self::NotOwner | Self::NotReady | Self::VaultLocked)
    }
}

/// An agent is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, for people, with the remedy.
    pub text: String,
    /// The life that the log ends in, where it is known.
    pub log_incarnation: Option<IncarnationId>,
    /// The last LSN of the log, where it is known: a new life begins behind it.
    pub log_last: Lsn,
    /// Who to ask instead.
    pub redirect: Option<Redirect>,
}

impl Refusal {
    /// A refusal that says nothing about the log.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), log_incarnation: None, log_last: Lsn::ZERO, redirect: None }
    }
}

/// Another process server owns the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Where it listens, best first.
    pub addresses: Vec<String>,
    /// Its epoch; never lower than one the agent knows.
    pub epoch: Epoch,
}

/// The process server asks for a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRequest {
    /// The mark's id.
    pub id: MarkId,
    /// What it shall promise.
    pub kind: MarkKind,
    /// What the operator calls it; may be empty.
    pub label: String,
}

/// What a process server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// The answer to a hello: go on behind `durable`.
    Welcome(Box<Welcome>),
    /// The other answer.
    Refused(Box<Refusal>),
    /// Everything up to `lsn` is on the process server's disk, synced.
    Durable {
        /// The owner's epoch.
        epoch: Epoch,
        /// The session.
        session: u64,
        /// How far.
        lsn: Lsn,
    },
    /// Everything up to `lsn` is in the vault.
    Committed {
        /// The owner's epoch.
        epoch: Epoch,
        /// The session.
        session: u64,
        /// How far.
        lsn: Lsn,
    },
    /// So many bytes more may be under way.
    Credit {
        /// How many.
        bytes: u64,
    },
    /// Go elsewhere.
    Redirect(Redirect),
    /// Take a mark.
    MarkNow(MarkRequest),
    /// The answer to a question for a part of a disk; answers come in the order of the questions.
    Digests(Box<Digests>),
    /// The answer to a ping.
    Pong,
    /// The process server goes.
    Bye {
        /// Why.
        reason: String,
    },
}
