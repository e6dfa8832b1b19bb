//! A process server put together: its papers, its data plane, its link to the configuration server.
//!
//! ```text
//!   <dir>/member.*      papers (see `membership`)
//!   <dir>/cache/...     cached segments
//!   <dir>/serve/...     sockets and overlays of served points
//! ```
//!
//! The data plane needs no configuration server to go on: a restart takes its machines up from the cache, and the link
//! comes when it comes. In `farshore up` this is the same, over loopback.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use farshore_engine::control::messages::{Command, CommandResult, Heartbeat, MemberEvent, Refusal};
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::ids::{Chance, ProcessServerId, VaultId};
use farshore_engine::transport::tls::{self, ClientAuth, SharedIdentity, TlsFault};
use farshore_engine::vault::keys::{KeyObject, KeysError};
use farshore_engine::vault::layout;
use farshore_engine::vault::store::{ObjectStore, StoreError};
use parking_lot::Mutex;
use slog::{Logger, info};
use tokio::sync::{mpsc, watch};

use super::config_server_link::{DataPort, LinkSpec, LinkStatus, RunningLink};
use super::membership::{JoinTicketIn, Membership, MembershipError};
use crate::data::{DataConfig, DataEvent, DataLimits, DataPlane, EventSink};
use crate::supervise::{Chaos, OsChance};

/// What a process server is started with.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where it keeps its files; its own.
    pub dir: PathBuf,
    /// Its label, at the first start.
    pub name: String,
    /// Token, address and fingerprint for the first start; not needed once it is a member.
    pub join: Option<JoinTicketIn>,
    /// Where the configuration server is as far as the operator knows (`host:port`): tried first, and remembered.
    pub control_addresses: Vec<String>,
    /// Where agents connect; port 0 takes a free one.
    pub replication_listen: SocketAddr,
    /// Where agents are told to connect (`host:port`). Empty: the address that is listened on.
    pub replication_addresses: Vec<String>,
    /// The vault.
    pub vault: Arc<dyn ObjectStore>,
    /// Bounds.
    pub limits: DataLimits,
    /// The switch for injected panics.
    pub chaos: Arc<Chaos>,
    /// Version of the program.
    pub program_version: String,
    /// Where it logs.
    pub log: Logger,
}

/// Why a process server does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It is no member.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The vault does not answer.
    #[error("look at the vault: {0}")]
    Store(#[from] StoreError),
    /// The vault's key object is damaged.
    #[error("look at the vault: {0}")]
    Keys(#[from] KeysError),
    /// Another vault is there, or none.
    #[error(
        "the installation replicates to vault {ours}; at the vault address of this process server is {found}: give it the \
             address that the configuration server uses"
    )]
    WrongVault {
        /// The installation's.
        ours: VaultId,
        /// What is there.
        found: String,
    },
    /// Addresses that agents cannot use.
    #[error("listening on {0} says not where agents find this process server: set the addresses that they shall use")]
    NoAddress(SocketAddr),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The data plane.
    #[error("start the process server on {address}: {cause}")]
    Data {
        /// Where it was to listen.
        address: SocketAddr,
        /// What went wrong.
        cause: io::Error,
    },
}

/// A process server that runs.
pub struct ProcessServerNode {
    id: ProcessServerId,
    plane: DataPlane,
    link: RunningLink,
}

impl ProcessServerNode {
    /// Starts one; joins first, where it is no member yet. Must be called where an actix `System` runs.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let NodeConfig { dir, name, join, program_version, log, .. } = &config;
        let told = &config.replication_addresses;
        if told.is_empty() && config.replication_listen.ip().is_unspecified() {
            return Err(NodeError::NoAddress(config.replication_listen));
        }
        let mut member = Membership::open_or_join(dir, join.as_ref(), name, told, program_version).await?;
        member.remember_addresses(&config.control_addresses)?;
        check_vault(&config.vault, member.vault).await?;
        let shared = SharedIdentity::new(&member.identity)?;
        let tls = tls::server_config(&shared, member.identity.authority(), ClientAuth::Required)?;
        let (sink, events) = EventSink::new();
        let data = DataConfig {
            cache_dir: dir.join("cache"),
            serve_dir: dir.join("serve"),
            listen: config.replication_listen,
            tls,
            store: config.vault.clone(),
            io: config.chaos.around_cache(DataConfig::disk()),
            limits: config.limits.clone(),
            events: sink,
            chaos: config.chaos.clone(),
            log: log.clone(),
        };
        let failed = |cause| NodeError::Data { address: config.replication_listen, cause };
        let plane = DataPlane::start(data).await.map_err(failed)?;
        let addresses = if told.is_empty() { vec![plane.address().to_string()] } else { told.clone() };
        let connect = Arc::new(TlsConnect::as_member(&member.identity)?);
        let port = Arc::new(PlanePort { plane: plane.clone(), events: Mutex::new(events) });
        let id = member.id;
        info!(log, "the process server runs"; "id" => %id, "replication" => %plane.address());
        let spec =
            LinkSpec::new(port, connect, member, addresses, program_version.clone(), process_life(), log.clone());
        Ok(Self { id, plane, link: RunningLink::start(spec) })
    }

    /// Its id.
    pub fn id(&self) -> ProcessServerId {
        self.id
    }

    /// Where agents connect.
    pub fn replication_address(&self) -> SocketAddr {
        self.plane.address()
    }

    /// Its data plane, to look at.
    pub fn data(&self) -> &DataPlane {
        &self.plane
    }

    /// Where its session with the configuration server stands.
    pub fn link_status(&self) -> watch::Receiver<LinkStatus> {
        self.link.status()
    }

    /// Waits until it cannot go on; says why.
    pub async fn ended(&self) -> String {
        self.plane.ended().await
    }

    /// Stops: what is received becomes durable and reaches the vault as far as there is time. True where all went as
    /// planned.
    pub async fn stop(self) -> bool {
        drop(self.link);
        self.plane.stop().await
    }
}

/// The vault at hand must be the installation's: a process server that writes elsewhere protects nothing.
async fn check_vault(store: &Arc<dyn ObjectStore>, ours: VaultId) -> Result<(), NodeError> {
    let keys = store.list(&layout::keys_prefix(), None, 1000).await?;
    let newest = keys.into_iter().filter_map(|listed| Some((listed.name.number()?, listed.name))).max();
    let Some((_, name)) = newest else {
        return Err(NodeError::WrongVault { ours, found: "no vault".into() });
    };
    let (bytes, _) = store.get(&name).await?;
    let found = KeyObject::parse(&bytes)?.vault();
    match found == ours {
        true => Ok(()),
        false => Err(NodeError::WrongVault { ours, found: format!("vault {found}") }),
    }
}

/// Tells this process from another one with the same papers.
fn process_life() -> u64 {
    let mut bytes = [0; 8];
    OsChance.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// The data plane as the link sees it.
struct PlanePort {
    plane: DataPlane,
    events: Mutex<mpsc::Receiver<DataEvent>>,
}

#[async_trait]
impl DataPort for PlanePort {
    async fn execute(&self, command: Command) -> Result<CommandResult, Refusal> {
        self.plane.execute(command).await
    }

    async fn heartbeat(&self) -> Option<Heartbeat> {
        self.plane.heartbeat().await.ok()
    }

    fn take_events(&self) -> Vec<MemberEvent> {
        let mut events = self.events.lock();
        std::iter::from_fn(|| events.try_recv().ok()).filter_map(|event| event.for_operator()).collect()
    }
}
