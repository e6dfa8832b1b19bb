//! `farshore up`, `config-server` and `process-server`: the servers, together or alone.
//!
//! ```text
//!   up              <state>/control   configuration server        <state>/process-server   process server
//!   config-server   <state>/control                               (joins over loopback, like any other)
//!   process-server                                                <state>/process-server
//! ```
//!
//! `<state>/endpoints.json` says where a server that is ready listens; it is written last.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use farshore_actors::control::control_room::ControlPolicy;
use farshore_actors::control::membership::{JoinTicketIn, MembershipError};
use farshore_actors::control::node::{NodeConfig, NodeError, ProcessServerNode};
use farshore_actors::control::plane::Caller;
use farshore_actors::control::server::{ConfigServer, ConfigServerConfig, StartError};
use farshore_actors::data::DataLimits;
use farshore_actors::supervise::Chaos;
use farshore_engine::control::link::LinkError;
use farshore_engine::control::messages::{JoinSecret, MemberRole};
use farshore_engine::defaults;
use farshore_engine::transport::Fingerprint;
use farshore_engine::vault::store::ObjectStore;
use farshore_web::server::{Server, ServerConfig};
use serde_json::{Value, json};
use slog::{Logger, error, o};
use tokio::runtime::Runtime;

use crate::chaos::inside::Inside;
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::Settings;
use crate::stop::stopped;
use crate::vault_place::Purpose;

/// How long the token lives with which the process server of `up` joins its own configuration server.
const OWN_TOKEN_FOR: Duration = Duration::from_secs(300);
/// Time for a configuration server to stop. The process server before it has 6 s: together they stay below the
/// 9 s after which a stop is cut short.
const CONTROL_STOP_MAX: Duration = Duration::from_secs(2);
/// Time between exports of the control state.
const EXPORT_EVERY: Duration = Duration::from_secs(900);
/// How often a server looks whether its local admin token is to be made anew.
const TOKEN_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Threads for blocking calls of a vault's folder. Chosen: as many as uploads that are under way.
const STORE_THREADS: usize = 8;

/// What `process-server` takes.
#[derive(Debug, Args)]
pub(crate) struct ProcessServerArgs {
    /// Its label.
    #[arg(long, default_value = "process server")]
    name: String,
    /// The configuration server's control address (host:port), once for each. Needed for the first start, and when it has moved.
    #[arg(long = "server")]
    servers: Vec<String>,
    /// Join token, for the first start.
    #[arg(long, env = "FARSHORE_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// SHA-256 of the installation's authority, for the first start.
    #[arg(long)]
    ca_fingerprint: Option<Fingerprint>,
    /// Where agents are told to connect (host:port); the address that is listened on without it.
    #[arg(long = "advertise")]
    advertise: Vec<String>,
}

/// How servers are run, beside the settings.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    /// Where members find the control port; empty: the address that is listened on.
    pub(crate) control_addresses: Vec<String>,
    /// Faults may be injected.
    pub(crate) chaos: bool,
}

/// The vault, with threads of its own for its calls.
struct Vault {
    store: Arc<dyn ObjectStore>,
    threads: Option<Runtime>,
}

impl Drop for Vault {
    /// A call that hangs in the vault's file system must not hold up the end of the process.
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

fn open_vault(settings: &Settings, chaos: &Arc<Chaos>, inside: Inside) -> Result<Vault, Failure> {
    let place = settings.vault_place()?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .max_blocking_threads(STORE_THREADS)
        .thread_name("vault")
        .build()
        .map_err(|error| Failure::failed(format!("start the vault's threads: {error}")))?;
    let store = place.open(&settings.vault.azure, Purpose::Serve, &threads)?;
    let store = chaos.around_store(store);
    let store = inside.defect.map_or(store.clone(), |defect| defect.around(store));
    Ok(Vault { store, threads: Some(threads) })
}

fn prepare(settings: &Settings, serving: &Serving) -> Result<Inside, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let inside = crate::chaos::inside::prepare(serving.chaos)?;
    crate::descriptors::raise_limit();
    let dir = &settings.state_dir;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::failed(format!("make {}: {error}", dir.display())))?;
    Ok(inside)
}

fn write_endpoints(state: &Path, endpoints: &Value) -> Outcome {
    let (path, aside) = (state.join("endpoints.json"), state.join("endpoints.json.new"));
    let text = format!("{endpoints:#}\n");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path));
    written.map_err(|error| Failure::failed(format!("write {}: {error}", path.display())))
}

/// The configuration server with its management interface.
struct Control {
    server: ConfigServer,
    web: Server,
    settings: Settings,
    log: Logger,
}

impl Control {
    async fn start(
        settings: &Settings,
        vault: &Vault,
        log: &Logger,
        serving: &Serving,
        chaos: Arc<Chaos>,
    ) -> Result<Self, Failure> {
        let policy = ControlPolicy {
            control_addresses: serving.control_addresses.clone(),
            mark_interval: Duration::from_millis(settings.agent.mark_interval_ms),
            seal_interval: Duration::from_millis(settings.segment.seal_interval_ms),
            packing: settings.segment.codec,
            retention: settings.retention.ladder.clone(),
            rpo_warning: Duration::from_secs(defaults::RPO_WARNING_SECONDS),
            rpo_critical: Duration::from_secs(defaults::RPO_CRITICAL_SECONDS),
            certificate_days: defaults::CERTIFICATE_DAYS,
            release_within: Duration::from_secs(defaults::RELEASE_SECONDS),
            adopt_within: Duration::from_secs(defaults::ADOPT_SECONDS),
        };
        let listen = settings.listen.management;
        let config = ConfigServerConfig {
            state_dir: settings.state_dir.join("control"),
            control_listen: settings.listen.control,
            hosts: vec!["localhost".into(), "127.0.0.1".into(), listen.ip().to_string()],
            vault: vault.store.clone(),
            vault_key_file: settings.vault_key_path(),
            policy,
            export_every: EXPORT_EVERY,
            chaos,
            log: log.new(o!("role" => "configuration server")),
        };
        let mut server = ConfigServer::start(config).await.map_err(control_failure)?;
        if let Some(first) = server.take_first_start() {
            println!("A new vault was made. Its recovery key, shown this once:\n");
            println!("    {}\n", *first.recovery_key);
            println!("With the vault and this key everything can be restored. Write it down; keep it elsewhere.");
        }
        let tls = (!settings.listen.plain_http).then(|| server.management_tls());
        let web = Server::start(ServerConfig { listen, tls }, server.plane(), log.new(o!("role" => "management")));
        let web = web.map_err(Failure::failed)?;
        let control = Self { web, server, settings: settings.clone(), log: log.clone() };
        control.show_authority(settings)?;
        Ok(control)
    }

    /// Copies for tools on this host: whom to trust, and a token.
    fn show_authority(&self, settings: &Settings) -> Outcome {
        let copy = |name: &str, bytes: &[u8]| {
            use std::io::Write as _;
            use std::os::unix::fs::OpenOptionsExt as _;
            let path = settings.state_dir.join(name);
            let open = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
            let written = open.and_then(|mut file| file.write_all(bytes));
            written.map_err(|error| Failure::failed(format!("write {}: {error}", path.display())))
        };
        let token = fs::read(self.server.admin_token_file())
            .map_err(|error| Failure::failed(format!("read {}: {error}", self.server.admin_token_file().display())))?;
        copy("admin.token", &token)?;
        copy("authority.pem", self.server.authority_pem().as_bytes())
    }

    fn endpoints(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "management": self.web.url(),
            "control": self.server.control_address().to_string(),
            "ca_fingerprint": self.server.authority_fingerprint().to_string(),
        })
    }

    /// Makes the local admin token anew whenever its file was taken away (`farshore token reset`).
    async fn follow_token_resets(&self) {
        loop {
            tokio::time::sleep(TOKEN_LOOK_EVERY).await;
            let renewed = self.server.renew_local_admin().await.map_err(Failure::failed);
            if let Err(failure) =
                renewed.and_then(|made| if made { self.show_authority(&self.settings) } else { Ok(()) })
            {
                error!(self.log, "the local admin token could not be made anew"; "why" => failure.text);
            }
        }
    }

    /// Who may read the state directory: an admin.
    fn local_admin(&self) -> Result<Caller, Failure> {
        let token = fs::read_to_string(self.server.admin_token_file())
            .map_err(|error| Failure::failed(format!("read the admin token: {error}")))?;
        let caller = self.server.plane().caller(token.trim());
        caller.ok_or_else(|| Failure::failed("the local admin token is not valid"))
    }

    /// Says how to open the dashboard: a link that works once.
    fn announce_dashboard(&self) -> Outcome {
        if let Some(link) = self.web.login_link(&self.local_admin()?) {
            println!("  dashboard    {}   (works once, within ten minutes)", *link);
        }
        Ok(())
    }

    /// A ticket for the process server that lives in the same process.
    async fn own_ticket(&self) -> Result<JoinTicketIn, Failure> {
        let (plane, caller) = (self.server.plane(), self.local_admin()?);
        let ticket = plane
            .create_join_token(&caller, MemberRole::ProcessServer, "built in".into(), OWN_TOKEN_FOR, 1)
            .await
            .map_err(Failure::failed)?;
        Ok(JoinTicketIn {
            control_addresses: vec![self.server.control_address().to_string()],
            token: JoinSecret::new(ticket.token.to_string()),
            authority: self.server.authority_fingerprint(),
        })
    }
}

/// Stops what runs: the interface takes no more requests, the process server flushes, then the configuration server.
async fn stop_all(control: Option<Control>, node: Option<ProcessServerNode>, log: &Logger) {
    let web = async {
        if let Some(control) = &control {
            control.web.stop().await;
        }
    };
    let node = async {
        match node {
            Some(node) => node.stop().await,
            None => true,
        }
    };
    let ((), clean) = tokio::join!(web, node);
    if !clean {
        error!(log, "the process server did not stop cleanly; nothing durable is lost");
    }
    if let Some(control) = control {
        control.server.stop(CONTROL_STOP_MAX).await;
    }
}

fn control_failure(error: StartError) -> Failure {
    let kind = match &error {
        StartError::Vault(_) => ExitKind::Refused,
        StartError::Listen { .. } => ExitKind::Usage,
        _ => ExitKind::Failed,
    };
    Failure::new(kind, error)
}

fn node_failure(error: NodeError) -> Failure {
    let kind = match &error {
        NodeError::Membership(MembershipError::NotJoined) | NodeError::NoAddress(_) => ExitKind::Usage,
        NodeError::Membership(MembershipError::Link(LinkError::Refused(_) | LinkError::Untrusted { .. }))
        | NodeError::WrongVault { .. } => ExitKind::Refused,
        NodeError::Membership(MembershipError::Link(_)) | NodeError::Store(_) => ExitKind::Unreachable,
        _ => ExitKind::Failed,
    };
    Failure::new(kind, error)
}

struct NodeStart<'a> {
    settings: &'a Settings,
    vault: &'a Vault,
    name: String,
    join: Option<JoinTicketIn>,
    servers: Vec<String>,
    advertise: Vec<String>,
    chaos: Arc<Chaos>,
    inside: Inside,
    log: &'a Logger,
}

async fn start_node(start: NodeStart<'_>) -> Result<ProcessServerNode, Failure> {
    let NodeStart { settings, vault, name, join, servers, advertise, chaos, inside, log } = start;
    let mut limits = DataLimits::default();
    inside.adjust(&mut limits);
    limits.cache.budget_bytes = settings.cache.bytes_max;
    limits.sequencer.seal_interval = Duration::from_millis(settings.segment.seal_interval_ms);
    limits.sequencer.segment_bytes_max = settings.segment.bytes_target;
    limits.merging.tick = Duration::from_millis(settings.merging.interval_ms);
    limits.merging.grace = Duration::from_secs(settings.merging.grace_seconds);
    limits.merging.bytes_per_second_max = settings.merging.bytes_per_second_max;
    limits.merging.policy.live_segments = settings.merging.segments;
    limits.serve_near_bytes_max = settings.serving.near_bytes_max;
    limits.serve_hydrate = settings.serving.hydrate;
    limits.scrubbing.slice_every = Duration::from_secs(settings.scrubbing.slice_seconds);
    limits.scrubbing.slices = settings.scrubbing.slices;
    limits.scrubbing.bytes_per_second_max = settings.scrubbing.bytes_per_second_max;
    let config = NodeConfig {
        dir: settings.state_dir.join("process-server"),
        name,
        join,
        control_addresses: servers,
        replication_listen: settings.listen.replication,
        replication_addresses: advertise,
        vault: vault.store.clone(),
        limits,
        chaos,
        program_version: env!("CARGO_PKG_VERSION").into(),
        log: log.new(o!("role" => "process server")),
    };
    ProcessServerNode::start(config).await.map_err(node_failure)
}

/// Waits until a role shall stop or cannot go on.
async fn until_over(stop: &AtomicBool, control: Option<&Control>, node: Option<&ProcessServerNode>) -> Outcome {
    let control_failed = async {
        match control {
            Some(control) => {
                let mut failed = control.server.failed();
                match failed.wait_for(Option::is_some).await {
                    Ok(why) => why.clone().unwrap_or_default(),
                    Err(_) => "the configuration server ended".into(),
                }
            }
            None => std::future::pending().await,
        }
    };
    let node_ended = async {
        match node {
            Some(node) => node.ended().await,
            None => std::future::pending().await,
        }
    };
    let token_reset = async {
        match control {
            Some(control) => control.follow_token_resets().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = token_reset => Ok(()),
        () = stopped(stop) => Ok(()),
        why = control_failed => Err(Failure::failed(why)),
        why = node_ended => Err(Failure::failed(why)),
    }
}

/// The three roles in one process.
pub(crate) fn up(settings: &Settings, log: &Logger, stop: &Arc<AtomicBool>, serving: &Serving) -> Outcome {
    let inside = prepare(settings, serving)?;
    let chaos = Arc::new(Chaos::new(serving.chaos));
    let vault = open_vault(settings, &chaos, inside)?;
    actix_rt::System::new().block_on(async {
        let control = Control::start(settings, &vault, log, serving, chaos.clone()).await?;
        let join = Some(control.own_ticket().await?);
        let servers = vec![control.server.control_address().to_string()];
        let (name, advertise) = ("built-in".to_owned(), Vec::new());
        let node =
            start_node(NodeStart { settings, vault: &vault, name, join, servers, advertise, chaos, inside, log })
                .await?;
        let mut endpoints = control.endpoints();
        endpoints["replication"] = node.replication_address().to_string().into();
        write_endpoints(&settings.state_dir, &endpoints)?;
        announce(settings, &endpoints);
        control.announce_dashboard()?;
        let outcome = until_over(stop, Some(&control), Some(&node)).await;
        stop_all(Some(control), Some(node), log).await;
        outcome
    })
}

fn announce(settings: &Settings, endpoints: &Value) {
    let field = |name: &str| endpoints[name].as_str().unwrap_or_default().to_owned();
    println!("Farshore is up.");
    println!("  management   {}   (token: {})", field("management"), settings.state_dir.join("admin.token").display());
    println!("  control      {}   authority {}", field("control"), field("ca_fingerprint"));
    println!("  replication  {}", field("replication"));
    println!(
        "Protect a machine: farshore ctl --state-dir {} token create --role machine",
        settings.state_dir.display()
    );
}

/// The configuration server alone.
pub(crate) fn config_server(settings: &Settings, log: &Logger, stop: &Arc<AtomicBool>, serving: &Serving) -> Outcome {
    let inside = prepare(settings, serving)?;
    let chaos = Arc::new(Chaos::new(serving.chaos));
    let vault = open_vault(settings, &chaos, inside)?;
    actix_rt::System::new().block_on(async {
        let control = Control::start(settings, &vault, log, serving, chaos).await?;
        write_endpoints(&settings.state_dir, &control.endpoints())?;
        println!("The configuration server is up.");
        control.announce_dashboard()?;
        let outcome = until_over(stop, Some(&control), None).await;
        stop_all(Some(control), None, log).await;
        outcome
    })
}

/// A process server alone.
pub(crate) fn process_server(
    args: &ProcessServerArgs,
    settings: &Settings,
    log: &Logger,
    stop: &Arc<AtomicBool>,
    serving: &Serving,
) -> Outcome {
    let inside = prepare(settings, serving)?;
    let join = match (&args.token, args.ca_fingerprint) {
        (Some(token), Some(authority)) => Some(JoinTicketIn {
            control_addresses: args.servers.clone(),
            token: JoinSecret::new(token.clone()),
            authority,
        }),
        (None, _) => None,
        (Some(_), None) => return Err(Failure::usage("--token needs --ca-fingerprint: whom to show the token to")),
    };
    let chaos = Arc::new(Chaos::new(serving.chaos));
    let vault = open_vault(settings, &chaos, inside)?;
    actix_rt::System::new().block_on(async {
        let (name, servers, advertise) = (args.name.clone(), args.servers.clone(), args.advertise.clone());
        let node =
            start_node(NodeStart { settings, vault: &vault, name, join, servers, advertise, chaos, inside, log })
                .await?;
        let address: SocketAddr = node.replication_address();
        let endpoints = json!({
            "pid": std::process::id(),
            "process_server": node.id().to_string(),
            "replication": address.to_string(),
        });
        write_endpoints(&settings.state_dir, &endpoints)?;
        let outcome = until_over(stop, None, Some(&node)).await;
        stop_all(None, Some(node), log).await;
        outcome
    })
}
