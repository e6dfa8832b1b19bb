//! Faults that a process is asked to commit against itself. Only one that was started to allow them does.

use serde::{Deserialize, Serialize};

use crate::ids::MachineId;

/// The kinds of actors, as the operator and the chaos harness name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// Owns a process server's machines.
    ProcessServer,
    /// Owns one machine's log writer.
    Machine,
    /// Seals one disk's frames.
    Disk,
    /// Fills one machine's log slots.
    UploadStream,
    /// Merges one machine's log.
    Compactor,
    /// Reads one machine's log again.
    Scrubber,
    /// Speaks with one agent.
    AgentSession,
    /// Owns the configuration server's inventory.
    Orchestrator,
    /// Speaks with one process server.
    ProcessServerLink,
    /// Carries out one job.
    Job,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Injection {
    /// An actor panics at its next messages.
    Panic {
        /// Which kind.
        actor: ActorKind,
        /// Only where it belongs to this machine.
        #[serde(default)]
        machine: Option<MachineId>,
        /// How often at most.
        times: u32,
        /// For how long at most, in milliseconds.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Calls of the vault fail.
    VaultFail {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// The effect takes place; only the answer is lost.
        #[serde(default)]
        after_effect: bool,
    },
    /// Calls of the vault take longer.
    VaultSlow {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// How much longer, in milliseconds.
        delay_ms: u64,
    },
    /// The cache's disk has no room.
    CacheFull {
        /// For how long, in milliseconds.
        for_ms: u64,
    },
}

/// Where an injected fault stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectionState {
    /// It strikes whatever comes its way.
    Armed,
    /// Its time or its number is used up, or it was disarmed.
    Over,
}

/// An injected fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedFault {
    /// Its number within the process.
    pub id: u64,
    /// What it is.
    pub injection: Injection,
    /// Where it stands.
    pub state: InjectionState,
    /// How often it has struck.
    pub fired: u64,
}

/// What is asked of a process's faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "chaos", rename_all = "snake_case")]
pub enum ChaosCommand {
    /// One more.
    Arm {
        /// What.
        injection: Injection,
    },
    /// One less; one that is over stays so.
    Disarm {
        /// Its number.
        id: u64,
    },
    /// Which there are.
    List,
}

/// The faults of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChaosState {
    /// It was started to allow them.
    pub enabled: bool,
    /// Tells processes apart: roles that share a process share their faults.
    pub process: u64,
    /// The number of the one that was armed just now.
    #[serde(default)]
    pub armed: Option<u64>,
    /// Those that there are and were, oldest first.
    pub faults: Vec<InjectedFault>,
}
