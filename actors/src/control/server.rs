//! The configuration server: its files, its vault, its actors, put together.
//!
//! ```text
//!   <state dir>/state/...        the ledger (sled, exports)
//!   <state dir>/authority.pem    the installation's certificate authority       authority.key (0600)
//!   <state dir>/admin.token      a token for `farshore ctl` on this host (0600)
//! ```
//!
//! Start: state store, vault, authority, Orchestrator, listener, CatalogKeeper. A root actor keeps them alive; when it cannot, or the state store fails, [`ConfigServer::failed`] says why and the process must end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::Severity;
use farshore_engine::transport::identity::IdentityError;
use farshore_engine::transport::tls::{self, ClientAuth, SharedIdentity, TlsFault};
use farshore_engine::transport::{CertificateAuthority, Fingerprint, Role};
use farshore_engine::vault::store::ObjectStore;
use rustls::ServerConfig;
use slog::{Logger, info, warn};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::catalog_keeper::CatalogKeeper;
use super::control_listener::{ControlListener, ListenerSpec};
use super::control_room::{ControlPolicy, ControlRoom};
use super::fault::Fault;
use super::key_file::KeyFile;
use super::ledger::records::{ApiRole, Subject, TokenId};
use super::ledger::tokens::{CreateApiToken, RevokeApiToken, check_api};
use super::ledger::{BadRecord, Found, Ledger, RaiseEvents};
use super::orchestrator::Orchestrator;
use super::plane::ControlPlane;
use super::secret_file::{self, SecretFileError};
use super::state::sled::{SledOptions, SledStore};
use super::state::{Opened, StateError, StateStore};
use super::vault_door::{self, VaultDoorError};
use super::vault_keeper::{StoreKeeper, VaultKeeper};
use super::webhooks::keeper::WebhookKeeper;
use super::webhooks::secret::WebhookKey;
use crate::supervise::{
    Abort, Arbiters, Chaos, Ended, Loss, Parent, Placement, RestartPolicy, Warden, attend, on_ended, start_watched,
    wall_clock,
};

/// How long the installation's authority is valid, in days: longer than any installation lives.
const AUTHORITY_DAYS: u32 = 7300;
/// How long the server's own certificate is valid, in days; a new one is made at every start.
const SERVER_DAYS: u32 = 825;

/// The label of the token in `admin.token`.
const LOCAL_ADMIN: &str = "local admin (admin.token)";

/// What a configuration server is started with.
#[derive(Clone)]
pub struct ConfigServerConfig {
    /// Where it keeps its files; its own.
    pub state_dir: PathBuf,
    /// Where members connect; port 0 takes a free one.
    pub control_listen: SocketAddr,
    /// Names and addresses under which browsers and tools reach the server.
    pub hosts: Vec<String>,
    /// The vault.
    pub vault: Arc<dyn ObjectStore>,
    /// The vault's key file (0600).
    pub vault_key_file: PathBuf,
    /// Values that members are told, and thresholds. Empty `control_addresses`: the address that is listened on.
    pub policy: ControlPolicy,
    /// Time between exports of the state.
    pub export_every: Duration,
    /// The switch for injected panics.
    pub chaos: Arc<Chaos>,
    /// Where it logs.
    pub log: Logger,
}

/// Why a configuration server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// What it holds.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultDoorError),
    /// A secret file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The certificate authority.
    #[error("certificate authority: {0}")]
    Authority(#[from] IdentityError),
    /// One half of the authority is missing.
    #[error(
        "{missing} is missing while {there} is there: put it back from a backup; without it no member of this \
             installation can connect"
    )]
    HalfAuthority {
        /// What is missing.
        missing: PathBuf,
        /// What is there.
        there: PathBuf,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The control port.
    #[error("listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// A thread.
    #[error("start a thread: {0}")]
    Thread(io::Error),
    /// The orchestrator.
    #[error(transparent)]
    Decide(#[from] Fault),
}

/// What is shown at the first start, once.
pub struct FirstStart {
    /// Opens the vault when everything else is lost.
    pub recovery_key: Zeroizing<String>,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstStart(not shown)")
    }
}

/// A configuration server that runs.
pub struct ConfigServer {
    room: Arc<ControlRoom>,
    control_address: SocketAddr,
    management_tls: Arc<ServerConfig>,
    admin_token_file: PathBuf,
    first_start: Option<FirstStart>,
    arbiters: Arbiters,
    root: Abort,
}

impl ConfigServer {
    /// Starts one. Must be called where an actix `System` runs.
    pub async fn start(config: ConfigServerConfig) -> Result<Self, StartError> {
        secret_file::make_directory(&config.state_dir)?;
        let options = SledOptions { export_every: config.export_every };
        let (store, opened) = SledStore::open(&config.state_dir.join("state"), &options)?;
        let ledger = Ledger::load(&store.load().await?)?;
        let ours = ledger.installation().map(|installation| installation.vault);
        let door = vault_door::open(&config.vault, &config.vault_key_file, ours).await?;
        let authority = authority(&config.state_dir)?;
        let identity = authority.issue(Role::ConfigServer, &config.hosts, wall_clock(), SERVER_DAYS)?;
        let identity = SharedIdentity::new(&identity)?;
        let control_tls = tls::server_config(&identity, authority.certificate(), ClientAuth::Optional)?;
        let management_tls = tls::server_config(&identity, authority.certificate(), ClientAuth::None)?;
        let (socket, control_address) = listen(config.control_listen)?;
        let mut policy = config.policy;
        if policy.control_addresses.is_empty() {
            policy.control_addresses.push(control_address.to_string());
        }
        let keeper = StoreKeeper::new(config.vault, door.vault, door.key, Arc::new(KeyFile(config.vault_key_file)));
        let keeper: Arc<dyn VaultKeeper> = Arc::new(keeper);
        let store: Arc<dyn StateStore> = Arc::new(store);
        let webhook_key = WebhookKey::open(&config.state_dir.join("webhook.key"))?;
        let room = ControlRoom::new(config.log, policy, store, keeper, authority, config.chaos, webhook_key);
        let room = Arc::new(room);
        let arbiters = Arbiters::start(1).map_err(StartError::Thread)?;
        let spec = ListenerSpec { room: room.clone(), socket: Arc::new(socket), tls: control_tls };
        let root = start_root(&arbiters, spec);
        let admin_token_file = config.state_dir.join("admin.token");
        let first_start = door.recovery_key.map(|recovery_key| FirstStart { recovery_key });
        let server = Self { room, control_address, management_tls, admin_token_file, first_start, arbiters, root };
        server.settle(opened).await?;
        Ok(server)
    }

    /// What is decided at every start.
    async fn settle(&self, opened: Opened) -> Result<(), StartError> {
        self.room.decide(Found { vault: self.room.vault.vault() }).await?;
        if let Opened::Restored { export, moved_to, cause } = opened {
            warn!(self.room.log, "the state was damaged and restored from an export"; "export" => %export.display(),
                "damaged" => %moved_to.display(), "cause" => &cause);
            let text = format!(
                "The state could not be read ({cause}) and was restored from {}. What was decided after that export is \
                 lost; the damaged files are in {}. Look at machines and process servers; epochs are checked against the \
                 vault by themselves.",
                export.display(),
                moved_to.display()
            );
            let event = (Severity::Critical, "state_restored".to_owned(), Subject::Installation, text);
            self.room.decide(RaiseEvents(vec![event])).await?;
        }
        self.local_admin().await?;
        info!(self.room.log, "the configuration server runs"; "control" => %self.control_address,
            "authority" => %self.room.authority.fingerprint());
        Ok(())
    }

    /// Whoever may read the state directory is an admin: a token lies there, and is made anew when it is no longer valid.
    async fn local_admin(&self) -> Result<(), StartError> {
        let text = secret_file::read(&self.admin_token_file)?;
        let valid = text.is_some_and(|text| {
            let token = check_api(&self.room.ledger(), text.trim(), wall_clock());
            token.is_some_and(|token| token.role == ApiRole::Admin)
        });
        if valid {
            return Ok(());
        }
        let before: Vec<TokenId> = {
            let ledger = self.room.ledger();
            let local = ledger.api_tokens.iter().filter(|token| token.label == LOCAL_ADMIN);
            local.map(|token| token.id).collect()
        };
        let (label, by) = (LOCAL_ADMIN.to_owned(), "start".to_owned());
        let make = CreateApiToken { role: ApiRole::Admin, label, valid_for: None, by: by.clone() };
        let (_, text) = self.room.decide(make).await?;
        secret_file::write(&self.admin_token_file, text.as_bytes())?;
        // One that lay there before is lost, or in somebody else's hands.
        for id in before {
            self.room.decide(RevokeApiToken { id, by: by.clone() }).await?;
        }
        Ok(())
    }

    /// Makes the local admin token anew if its file is gone; whether it was.
    pub async fn renew_local_admin(&self) -> Result<bool, StartError> {
        let gone = secret_file::read(&self.admin_token_file)?.is_none();
        if gone {
            self.local_admin().await?;
            info!(self.room.log, "the local admin token was made anew; the one before is no longer valid");
        }
        Ok(gone)
    }

    /// The way in, for the API.
    pub fn plane(&self) -> ControlPlane {
        ControlPlane::new(self.room.clone())
    }

    /// Where members connect.
    pub fn control_address(&self) -> SocketAddr {
        self.control_address
    }

    /// How the management port is secured: this server's certificate, no client certificates.
    pub fn management_tls(&self) -> Arc<ServerConfig> {
        self.management_tls.clone()
    }

    /// What is copied along with a join token.
    pub fn authority_fingerprint(&self) -> Fingerprint {
        self.room.authority.fingerprint()
    }

    /// The authority's certificate, for tools that pin it.
    pub fn authority_pem(&self) -> String {
        self.room.authority.certificate_pem().to_owned()
    }

    /// Where the token for tools on this host lies.
    pub fn admin_token_file(&self) -> &Path {
        &self.admin_token_file
    }

    /// What is shown once, after the very first start.
    pub fn take_first_start(&mut self) -> Option<FirstStart> {
        self.first_start.take()
    }

    /// Says why the process must end, once it must.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.room.fatal()
    }

    /// Writes what waits, exports the state and ends; within about `limit`.
    pub async fn stop(self, limit: Duration) {
        let flushed = tokio::time::timeout(limit / 2, self.room.decide(RaiseEvents(Vec::new()))).await;
        self.root.abort();
        let closed = tokio::time::timeout(limit / 2, self.room.store.close()).await;
        if !matches!((&flushed, &closed), (Ok(Ok(())), Ok(Ok(())))) {
            warn!(self.room.log, "the configuration server did not stop cleanly"; "flushed" => ?flushed, "closed" => ?closed);
        }
        self.arbiters.stop_and_join(limit / 4);
    }
}

fn listen(address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), StartError> {
    let failed = |cause| StartError::Listen { address, cause };
    let socket = std::net::TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

/// Reads the installation's authority, or makes it at the first start.
fn authority(state_dir: &Path) -> Result<CertificateAuthority, StartError> {
    let (certificate_file, key_file) = (state_dir.join("authority.pem"), state_dir.join("authority.key"));
    match (secret_file::read(&certificate_file)?, secret_file::read(&key_file)?) {
        (Some(certificate), Some(key)) => Ok(CertificateAuthority::from_pem(&certificate, &key)?),
        (Some(_), None) => Err(StartError::HalfAuthority { missing: key_file, there: certificate_file }),
        // The key is written last: a key alone is no leftover of a start that died.
        (None, Some(_)) => Err(StartError::HalfAuthority { missing: certificate_file, there: key_file }),
        (None, None) => {
            let made = CertificateAuthority::generate(wall_clock(), AUTHORITY_DAYS)?;
            secret_file::write(&certificate_file, made.certificate_pem().as_bytes())?;
            secret_file::write(&key_file, made.key_pem().as_bytes())?;
            Ok(made)
        }
    }
}

/// Keeps the Orchestrator, the listener, and the keepers of catalog and webhooks alive.
struct Root {
    spec: ListenerSpec,
    orchestrators: Warden<Orchestrator>,
    listeners: Warden<ControlListener>,
    catalogs: Warden<CatalogKeeper>,
    webhooks: Warden<WebhookKeeper>,
}

fn start_root(arbiters: &Arbiters, spec: ListenerSpec) -> Abort {
    let room = spec.room.clone();
    let make = move |_: &mut Context<Root>| {
        let log = spec.room.log.clone();
        let policy = RestartPolicy::default();
        let orchestrators = Warden::new(log.clone(), Placement::WithParent, policy.clone());
        let listeners = Warden::new(log.clone(), Placement::WithParent, policy.clone());
        let catalogs = Warden::new(log.clone(), Placement::WithParent, policy.clone());
        Root { spec, orchestrators, listeners, catalogs, webhooks: Warden::new(log, Placement::WithParent, policy) }
    };
    let tell = move |ending| room.fail(format!("the configuration server's root actor ended: {ending}"));
    let arbiter = arbiters.handles().first().cloned().expect("at least one arbiter was started");
    start_watched(&arbiter, make, tell).1
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        attend::<Self, Orchestrator>(self, ctx);
        attend::<Self, ControlListener>(self, ctx);
        attend::<Self, CatalogKeeper>(self, ctx);
        attend::<Self, WebhookKeeper>(self, ctx);
        let spec = self.spec.clone();
        Warden::<Orchestrator>::admit(self, 0, spec.room.clone(), ctx);
        Warden::<CatalogKeeper>::admit(self, 0, spec.room.clone(), ctx);
        Warden::<WebhookKeeper>::admit(self, 0, spec.room.clone(), ctx);
        Warden::<ControlListener>::admit(self, 0, spec, ctx);
    }
}

/// How long a keeper of the catalog, or of the webhooks, rests that keeps failing: replication goes on without it.
const KEEPER_REST: Duration = Duration::from_secs(60);

impl Parent<CatalogKeeper> for Root {
    fn warden(&mut self) -> &mut Warden<CatalogKeeper> {
        &mut self.catalogs
    }

    fn child_lost(&mut self, _: &u8, loss: Loss, ctx: &mut Context<Self>) {
        if let Loss::GaveUp { .. } = loss {
            ctx.run_later(KEEPER_REST, |this, ctx| Warden::<CatalogKeeper>::resume(this, &0, ctx));
        }
    }
}

impl Handler<Ended<CatalogKeeper>> for Root {
    type Result = ();

    fn handle(&mut self, msg: Ended<CatalogKeeper>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<WebhookKeeper> for Root {
    fn warden(&mut self) -> &mut Warden<WebhookKeeper> {
        &mut self.webhooks
    }

    fn child_lost(&mut self, _: &u8, loss: Loss, ctx: &mut Context<Self>) {
        if let Loss::GaveUp { .. } = loss {
            ctx.run_later(KEEPER_REST, |this, ctx| Warden::<WebhookKeeper>::resume(this, &0, ctx));
        }
    }
}

impl Handler<Ended<WebhookKeeper>> for Root {
    type Result = ();

    fn handle(&mut self, msg: Ended<WebhookKeeper>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<Orchestrator> for Root {
    fn warden(&mut self) -> &mut Warden<Orchestrator> {
        &mut self.orchestrators
    }

    fn child_lost(&mut self, _: &u8, loss: Loss, _: &mut Context<Self>) {
        self.spec.room.orchestrator_is(None);
        match loss {
            Loss::Restarting { .. } => {}
            Loss::GaveUp { ending } => self.spec.room.fail(format!("the orchestrator keeps failing: {ending}")),
            Loss::Finished => self.spec.room.fail("the orchestrator ended".into()),
        }
    }
}

impl Parent<ControlListener> for Root {
    fn warden(&mut self) -> &mut Warden<ControlListener> {
        &mut self.listeners
    }

    fn child_lost(&mut self, _: &u8, loss: Loss, _: &mut Context<Self>) {
        if let Loss::GaveUp { ending } = loss {
            self.spec.room.fail(format!("the control listener keeps failing: {ending}"));
        }
    }
}

impl Handler<Ended<Orchestrator>> for Root {
    type Result = ();

    fn handle(&mut self, msg: Ended<Orchestrator>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Handler<Ended<ControlListener>> for Root {
    type Result = ();

    fn handle(&mut self, msg: Ended<ControlListener>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}
