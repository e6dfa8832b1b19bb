//! `farshore agent`: protects this machine's disks; `farshore agent status` tells how it stands.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use farshore_actors::supervise::{OsChance, wall_clock};
use farshore_engine::agent::config::status_file;
use farshore_engine::agent::papers::{PapersError, load_assignment};
use farshore_engine::agent::{
    Agent, AgentConfig, AgentError, AgentStatus, DiskConfig, EnrolAt, Hooks, Network, Papers, Prepared, SessionState,
    Stopped, Surroundings, Target, TlsDial,
};
use farshore_engine::control::link::LinkError;
use farshore_engine::control::messages::JoinSecret;
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::transport::identity::Fingerprint;
use slog::{Logger, info, warn};

use crate::chaos::defects::Defect;
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::Settings;

/// What of the ten seconds of a stop the log may take to reach the vault; the disks are synced after it.
const STOP_WITHIN: Duration = Duration::from_secs(7);

/// Protect this machine's disks.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Show how the agent of the state directory stands.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How the agent runs.
#[derive(Debug, Args)]
struct RunArgs {
    /// A disk: its name and the file or block device beneath; once for each.
    #[arg(long = "disk", value_name = "NAME=PATH[,sector=512|4096][,socket=PATH]")]
    disks: Vec<DiskConfig>,
    /// The machine's name; without, the host's.
    #[arg(long)]
    name: Option<String>,
    /// Address of the configuration server's control port, once for each it has.
    #[arg(long = "server", value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// Join token, for the first start.
    #[arg(long, env = "FARSHORE_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Fingerprint of the configuration server's authority, for the first start.
    #[arg(long, value_name = "HEX")]
    ca_fingerprint: Option<Fingerprint>,
    /// Time between marks under load, in milliseconds, until the configuration server has said what its policy wants.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    mark_interval: Option<u64>,
    /// Most that writes may hold in memory until they are committed, in bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(16 << 20..))]
    memory_budget: Option<u64>,
    /// Shell command that brings the applications to rest before an app-consistent mark.
    #[arg(long, value_name = "COMMAND", requires = "post_hook")]
    pre_hook: Option<String>,
    /// Shell command that lets them go on after it.
    #[arg(long, value_name = "COMMAND", requires = "pre_hook")]
    post_hook: Option<String>,
    /// Let faults be injected. Not for production.
    #[arg(long)]
    enable_chaos: bool,
}

/// Runs the command.
pub(crate) fn run(args: &AgentArgs, settings: &Settings, logger: &Logger) -> Outcome {
    match &args.command {
        Some(AgentCommand::Status { json }) => show_status(&settings.state_dir, *json),
        None => protect(&args.run, settings, logger),
    }
}

fn protect(args: &RunArgs, settings: &Settings, logger: &Logger) -> Outcome {
    let inside = crate::chaos::inside::prepare(args.enable_chaos)?;
    let failed = |error: std::io::Error| Failure::failed(format!("start the agent: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // From here on a stop is a clean one.
    let stop = inside.listen(logger)?;
    let mut config = args.config(settings);
    if let Some(medium) = inside.defect.and_then(Defect::medium) {
        config.activity_medium = medium;
    }
    let prepared = Prepared::new(config, logger.clone()).map_err(|error| failure(&error))?;
    let ask = args.enrolment()?;
    let papers = runtime.block_on(prepared.papers(ask.as_ref())).map_err(|error| failure(&error))?;
    let network = args.network(&settings.state_dir, &papers)?;
    let agent = prepared.start(papers, network).map_err(|error| failure(&error))?;
    announce(&agent, logger);
    runtime.block_on(crate::stop::stopped(&stop));
    info!(logger, "stopping: the exports end, what was written goes into the vault");
    match agent.stop(STOP_WITHIN) {
        Stopped::Clean => info!(logger, "stopped cleanly: everything is in the vault"),
        Stopped::Unclean => {
            warn!(logger, "stopped before everything was in the vault: the next start reads what is hot")
        }
    }
    Ok(())
}

fn announce(agent: &Agent, logger: &Logger) {
    let status = agent.status();
    for disk in &status.disks {
        info!(logger, "disk is exported"; "disk" => &disk.name, "bytes" => disk.size_bytes, "uri" => &disk.export);
    }
    info!(logger, "the agent runs"; "machine" => %status.machine, "incarnation" => %status.incarnation);
}

impl RunArgs {
    fn config(&self, settings: &Settings) -> AgentConfig {
        let surroundings = Surroundings { wall: wall_clock, chance: || Box::new(OsChance) };
        let name = self.name.clone().unwrap_or_else(host_name);
        let mut config = AgentConfig::new(name, settings.state_dir.clone(), self.disks.clone(), surroundings);
        let mark_interval = self.mark_interval.unwrap_or(settings.agent.mark_interval_ms);
        config.mark_interval = Duration::from_millis(mark_interval);
        let budget = self.memory_budget.unwrap_or(settings.agent.memory_bytes_max);
        config.budget_bytes = usize::try_from(budget).unwrap_or(usize::MAX);
        let hooks = self.pre_hook.clone().zip(self.post_hook.clone());
        config.hooks = hooks.map(|(pre, post)| Hooks { pre, post });
        config
    }

    /// Where to enrol, if everything that takes is given.
    fn enrolment(&self) -> Result<Option<EnrolAt>, Failure> {
        match (&self.token, self.ca_fingerprint, self.servers.is_empty()) {
            (None, _, _) => Ok(None),
            (Some(token), Some(authority), false) => Ok(Some(EnrolAt {
                addresses: self.servers.clone(),
                authority,
                token: JoinSecret::new(token.trim()),
                name: self.name.clone().unwrap_or_else(host_name),
                version: env!("CARGO_PKG_VERSION").into(),
            })),
            (Some(_), _, _) => Err(Failure::usage(
                "a join token needs --server and --ca-fingerprint beside it: all three are printed together",
            )),
        }
    }

    fn network(&self, state_dir: &Path, papers: &Papers) -> Result<Network, Failure> {
        let refused = |error: farshore_engine::transport::TlsFault| Failure::new(ExitKind::Refused, error);
        let connect = TlsConnect::as_member(&papers.identity).map_err(refused)?;
        // What was told at enrolment may have moved since; what the operator gives is tried first.
        let mut addresses = self.servers.clone();
        let told = papers.enrolled.control_addresses.iter();
        let further: Vec<String> = told.filter(|address| !addresses.contains(address)).cloned().collect();
        addresses.extend(further);
        Ok(Network {
            dial: Arc::new(TlsDial::new(&papers.identity).map_err(refused)?),
            control: Some((Arc::new(connect), addresses)),
            target: load_assignment(state_dir)
                .filter(|assignment| assignment.timeline == papers.grant.timeline)
                .map(|assignment| Target::from(&assignment)),
        })
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "machine".into(),
        name => name.into(),
    }
}

fn failure(error: &AgentError) -> Failure {
    let kind = match error {
        AgentError::Config(_)
        | AgentError::Disk { .. }
        | AgentError::ForeignState { .. }
        | AgentError::StateOnCapturedDisk { .. } => ExitKind::Usage,
        AgentError::Papers(PapersError::Enrol(LinkError::Unreachable { .. } | LinkError::Broken(_))) => {
            ExitKind::Unreachable
        }
        AgentError::Papers(PapersError::Enrol(_) | PapersError::NoMachine | PapersError::Tls(_)) => ExitKind::Refused,
        AgentError::State { .. }
        | AgentError::SecondAgent { .. }
        | AgentError::Export { .. }
        | AgentError::Papers(PapersError::File { .. } | PapersError::Identity(_)) => ExitKind::Failed,
    };
    Failure::new(kind, error)
}

fn show_status(state_dir: &Path, json: bool) -> Outcome {
    let path = status_file(state_dir);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::failed(format!("read {}: {error}; name the agent's directory with --state-dir", path.display()))
    })?;
    if json {
        println!("{}", text.trim_end());
        return Ok(());
    }
    let status: AgentStatus = serde_json::from_str(&text)
        .map_err(|error| Failure::failed(format!("understand {}: {error}", path.display())))?;
    print_status(&status);
    Ok(())
}

fn print_status(status: &AgentStatus) {
    let age_seconds = wall_clock().micros_since(status.at) / 1_000_000;
    println!("machine      {} ({})", status.name, status.machine);
    println!("session      {}", session_text(&status.session));
    println!("log          {} given, {} durable, {} committed", status.last_lsn, status.durable, status.committed);
    println!(
        "memory       {} of {} KiB, rung {}",
        status.memory_bytes >> 10,
        status.memory_bytes_max >> 10,
        status.rung
    );
    println!("written      {age_seconds} s ago by process {}", status.pid);
    for disk in &status.disks {
        let state = match disk.gap {
            None => "in order".into(),
            Some(reason) => format!("gap ({reason:?}), {} MiB to read", disk.scan_bytes_left >> 20),
        };
        println!("disk         {}: {state}; {} MiB hot; {}", disk.name, disk.hot_bytes >> 20, disk.export);
    }
    for event in status.events.iter().rev().take(5).rev() {
        println!("event        {:?} {}: {}", event.severity, event.code, event.text);
    }
}

fn session_text(session: &SessionState) -> String {
    match session {
        SessionState::NoProcessServer => "nobody takes the writes yet".into(),
        SessionState::Connecting { address } => format!("connecting to {address}"),
        SessionState::Open { address } => format!("open, with {address}"),
        SessionState::Waiting { reason } => format!("waiting: {reason}"),
        SessionState::Refused { reason } => format!("refused: {reason}"),
        SessionState::Stopped => "stopped".into(),
    }
}
