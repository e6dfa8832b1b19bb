//! Joining: a token for a certificate; and the first message of every session after it.

use serde::{Deserialize, Serialize};

use super::{JoinSecret, WireKey};
use crate::ids::{MachineId, ProcessServerId, TimelineId, VaultId};
use crate::record::DiskInfo;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// A protected machine's agent.
    Machine,
    /// A process server.
    ProcessServer,
}

impl MemberRole {
    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::ProcessServer => "process server",
        }
    }
}

/// A request to become a member. Sent again with the same key pair it gets the same identity, so a lost answer costs
/// nothing; a member therefore writes its key file before it asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrol {
    /// [`super::CONTROL_VERSION`].
    pub version: u16,
    /// The join token.
    pub token: JoinSecret,
    /// Certificate signing request; its subject is ignored, its key is certified.
    pub csr_pem: String,
    /// What the member is; must be the token's role.
    pub role: MemberRole,
    /// Its label. Names may repeat; an event says when they do.
    pub name: String,
    /// Disks, for machines.
    #[serde(default)]
    pub disks: Vec<DiskInfo>,
    /// Where agents reach it (`host:port`), for process servers.
    #[serde(default)]
    pub replication_addresses: Vec<String>,
    /// Version of the program.
    pub program_version: String,
}

/// A new member's papers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The certificate that was asked for.
    pub certificate_pem: String,
    /// The installation's certificate authority.
    pub ca_pem: String,
    /// Where to reach the configuration server from now on (`host:port`).
    pub control_addresses: Vec<String>,
    /// The vault that the installation replicates to.
    pub vault: VaultId,
    /// For a process server: its id.
    #[serde(default)]
    pub process_server: Option<ProcessServerId>,
    /// For a machine: who it is and what its log is called.
    #[serde(default)]
    pub machine: Option<MachineGrant>,
}

/// What a machine's agent keeps in a 0600 file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineGrant {
    /// The machine.
    pub machine: MachineId,
    /// Its first timeline.
    pub timeline: TimelineId,
    /// Its data key.
    pub data_key: WireKey,
}

/// First message of a session. Who speaks is in the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::CONTROL_VERSION`].
    pub version: u16,
    /// Drawn at every start of the process: two lives under one certificate at a time are a clone.
    pub life: u64,
    /// Version of the program.
    pub program_version: String,
    /// Where agents reach it now, for process servers.
    #[serde(default)]
    pub replication_addresses: Vec<String>,
    /// Disks as they are now, for machines.
    #[serde(default)]
    pub disks: Vec<DiskInfo>,
}

/// The session is open. Said again in it when something of this changes; who does not know that ignores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Where to reach the configuration server from now on (`host:port`).
    pub control_addresses: Vec<String>,
    /// Time between marks under load, in milliseconds.
    pub mark_interval_ms: u64,
    /// Oldest that an open segment gets, in milliseconds.
    pub seal_interval_ms: u64,
    /// How often an operator has had the machine's disks read again; a machine that has done it less often does it.
    #[serde(default)]
    pub resyncs: u64,
}
