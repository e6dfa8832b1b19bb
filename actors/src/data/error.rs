//! Why the process server did not do what it was asked.

use farshore_engine::cache::CacheError;
use farshore_engine::control::messages::{Refusal, RefusalCode};
use farshore_engine::ids::{DiskNo, MachineId};
use farshore_engine::log::Owner;

/// Why the process server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The machine is not assigned to this process server.
    #[error("machine {0} is not assigned to this process server")]
    NotOwner(MachineId),
    /// Another owner has the log.
    #[error("the log of machine {machine} belongs to {newest}: assign it with a higher epoch")]
    StaleEpoch {
        /// The machine.
        machine: MachineId,
        /// Who has it.
        newest: Owner,
    },
    /// The cache of this owner is lost or damaged.
    #[error("{0}")]
    CacheLost(String),
    /// The cache disk failed.
    #[error("{0}")]
    Cache(String),
    /// The vault is damaged where the log goes on.
    #[error("the vault is damaged: {0}. Run `farshore vault verify`")]
    VaultDamaged(String),
    /// The vault does not answer.
    #[error("the vault does not answer: {0}")]
    VaultAway(String),
    /// The machine's data key is not there.
    #[error("machine {0} is locked: its data key comes with the agent or with the assignment")]
    Locked(MachineId),
    /// No agent has a session.
    #[error("the agent of machine {0} is not connected")]
    AgentAway(MachineId),
    /// No such point.
    #[error("machine {0} has no such recovery point")]
    PointUnknown(MachineId),
    /// Nothing more can be pinned, or not under that name.
    #[error("keep the point: {0}")]
    Pin(String),
    /// The point does not cover the disk.
    #[error("the recovery point does not cover disk {0}")]
    DiskUnknown(DiskNo),
    /// No such served point.
    #[error("nothing is served under number {0}")]
    ServeUnknown(u64),
    /// A point cannot be served.
    #[error("serve the point: {0}")]
    Serve(String),
    /// It took too long; it may still happen.
    #[error("{0} did not end in time; it may still happen")]
    TimedOut(&'static str),
    /// An actor died, or is being restarted.
    #[error("{0} is being restarted: ask again")]
    Restarting(&'static str),
}

impl From<CacheError> for DataError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::OwnerDamaged { .. } | CacheError::OwnedByOther { .. } | CacheError::CacheLost { .. } => {
                Self::CacheLost(error.to_string())
            }
            CacheError::Disk { .. } | CacheError::Abandoned { .. } | CacheError::Damaged { .. } => {
                Self::Cache(error.to_string())
            }
        }
    }
}

impl From<DataError> for Refusal {
    fn from(error: DataError) -> Self {
        let (code, remedy) = match &error {
            DataError::NotOwner(_) => (RefusalCode::NotOwner, "Assign the machine first."),
            DataError::StaleEpoch { .. } | DataError::CacheLost(_) => {
                (RefusalCode::StaleEpoch, "Assign the machine again with a higher epoch.")
            }
            DataError::Cache(_) => (RefusalCode::Internal, "Look at the process server's cache disk."),
            DataError::VaultDamaged(_) => (RefusalCode::VaultUnavailable, "Run `farshore vault verify`."),
            DataError::VaultAway(_) => (RefusalCode::VaultUnavailable, "Look at the vault; it is tried again."),
            DataError::Locked(_) => (RefusalCode::VaultLocked, "Start the machine's agent, or assign it with its key."),
            DataError::AgentAway(_) => (RefusalCode::NotConnected, "Start the machine's agent."),
            DataError::PointUnknown(_) => (RefusalCode::PointUnknown, "List the machine's recovery points."),
            DataError::Pin(_) => (RefusalCode::PointUnknown, "List the machine's points and holds, then choose again."),
            DataError::DiskUnknown(_) => (RefusalCode::DiskUnknown, "List the point's disks."),
            DataError::ServeUnknown(_) => (RefusalCode::ServeUnknown, "List what is served."),
            DataError::Serve(_) => (RefusalCode::Internal, "Look at the process server's log."),
            DataError::TimedOut(_) => (RefusalCode::TimedOut, "Ask again: the same command twice does no harm."),
            DataError::Restarting(_) => (RefusalCode::Busy, "Ask again."),
        };
        Self::new(code, error.to_string(), remedy)
    }
}
