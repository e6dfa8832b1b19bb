//! The verbs of `farshore ctl`, as the shell sees them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use farshore_engine::vault::export::Format;

use super::holds::HoldVerb;
use super::tokens::TokenCommand;
use super::webhooks::WebhookVerb;

/// Most points that are listed where nothing is said.
const POINTS_DEFAULT: usize = 1000;
/// Most jobs and events that are listed where nothing is said.
const RECENT_DEFAULT: usize = 100;

/// The API from the shell.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The configuration server, as a URL. Otherwise the one whose state directory is here.
    #[arg(long, global = true, env = "FARSHORE_SERVER")]
    pub(super) server: Option<String>,
    /// File with the API token. Otherwise FARSHORE_TOKEN, then `admin.token` in the state directory.
    #[arg(long, global = true)]
    pub(super) token_file: Option<PathBuf>,
    /// Certificate of the installation's authority (PEM). Otherwise the one in the state directory.
    #[arg(long, global = true)]
    pub(super) ca_file: Option<PathBuf>,
    /// Fingerprint of the installation's authority (SHA-256), instead of its certificate.
    #[arg(long, global = true)]
    pub(super) ca_fingerprint: Option<String>,
    /// Print what the API says.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Show it again and again, so many seconds apart.
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) watch: Option<u64>,
    #[command(subcommand)]
    pub(super) command: CtlCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CtlCommand {
    /// List machines.
    Machines,
    /// Show one machine.
    Machine {
        /// Name or id.
        machine: String,
    },
    /// End a machine's protection; its replica stays in the vault.
    RemoveMachine {
        /// Name or id.
        machine: String,
        /// Delete every recovery point of it for good.
        #[arg(long)]
        delete_points: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Pause a machine's protection: its writes stay on the machine.
    Pause {
        /// Name or id.
        machine: String,
    },
    /// Resume a machine's protection.
    Resume {
        /// Name or id.
        machine: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change a machine's name or policy.
    Edit {
        /// Name or id.
        machine: String,
        /// Its name from now on.
        #[arg(long)]
        name: Option<String>,
        /// RPO from which it is in warning, in seconds.
        #[arg(long)]
        rpo_warning: Option<u64>,
        /// RPO from which it is critical, in seconds.
        #[arg(long)]
        rpo_critical: Option<u64>,
        /// Time between its recovery points under load, in milliseconds.
        #[arg(long, value_name = "MS")]
        mark_interval: Option<u64>,
        /// What its data is packed with: snappy, zstd, or zstd:<level> with a level of 1 to 19.
        #[arg(long)]
        codec: Option<String>,
        /// Which of its points stay: how often and how long, the densest first, as all:2h,1h:1d,2h:7d,4h:15d. Look first:
        /// `retention MACHINE --ladder ...`.
        #[arg(long, value_name = "LADDER")]
        retention: Option<String>,
        /// Drop its own policy first: the installation's counts, but for what is named here.
        #[arg(long)]
        installation_policy: bool,
    },
    /// How a machine, or everything together, fared in the last minutes.
    History {
        /// Name or id; everything together without it.
        machine: Option<String>,
        /// How many minutes.
        #[arg(long, default_value_t = 60)]
        minutes: u32,
    },
    /// Test failovers: a point's disks with an overlay, and their clean-up.
    #[command(subcommand)]
    TestFailover(TestFailoverCommand),
    /// Write a point's disks to files at a process server.
    Restore {
        /// Name or id.
        machine: String,
        /// `latest`, a point's id, or an RFC 3339 time.
        point: String,
        /// raw, qcow2, vhd-fixed (as Azure takes it) or vhd-dynamic.
        #[arg(long, default_value_t = Format::Raw)]
        format: Format,
        #[command(flatten)]
        wait: Wait,
    },
    /// List a machine's recovery points, newest first.
    Points {
        /// Name or id.
        machine: String,
        /// Most points.
        #[arg(long, default_value_t = POINTS_DEFAULT)]
        limit: usize,
    },
    /// What retention would do to a machine's points; changes nothing.
    Retention {
        /// Name or id.
        machine: String,
        /// By this ladder instead of the machine's: as all:2h,1h:1d,2h:7d,4h:15d.
        #[arg(long)]
        ladder: Option<String>,
    },
    /// How reading a machine's log again fares, and what it found damaged; begins it with --now.
    Scrub {
        /// Name or id.
        machine: String,
        /// Read all of it now, and put back what is damaged.
        #[arg(long)]
        now: bool,
    },
    /// Have a machine's disks read again, and sent where its log may not have them: for damage that no copy puts right.
    Resync {
        /// Name or id.
        machine: String,
    },
    /// Points that stay, whatever retention says.
    #[command(subcommand)]
    Hold(HoldVerb),
    /// Serve a recovery point's disks over NBD at the machine's process server.
    Serve {
        /// Name or id.
        machine: String,
        /// `latest`, a point's id, or an RFC 3339 time.
        point: String,
        /// Refuse writes; otherwise they go to an overlay that is thrown away.
        #[arg(long)]
        read_only: bool,
    },
    /// End a served point.
    Unserve {
        /// Its id.
        id: u64,
    },
    /// List served points, or show one.
    Served {
        /// Its id; all of them without it.
        id: Option<u64>,
    },
    /// Move a machine to another process server.
    Move {
        /// Name or id.
        machine: String,
        /// Name or id of the process server.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Ask a machine for a recovery point now.
    Mark {
        /// Name or id.
        machine: String,
        /// What to call it.
        #[arg(long, default_value = "")]
        label: String,
        /// Run the machine's hooks around it: an app-consistent mark.
        #[arg(long)]
        app: bool,
    },
    /// List process servers.
    ProcessServers,
    /// Show one process server.
    ProcessServer {
        /// Name or id.
        process_server: String,
    },
    /// Strike off a process server that owns no machine.
    RemoveProcessServer {
        /// Name or id.
        process_server: String,
    },
    /// List jobs, newest first.
    Jobs {
        /// Most jobs.
        #[arg(long, default_value_t = RECENT_DEFAULT)]
        limit: usize,
    },
    /// Show one job.
    Job {
        /// Its id.
        id: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// List events, newest first.
    Events {
        /// Only those of this machine: name or id.
        #[arg(long)]
        machine: Option<String>,
        /// Most events.
        #[arg(long, default_value_t = RECENT_DEFAULT)]
        limit: usize,
    },
    /// Call a job off.
    CancelJob {
        /// Its id.
        id: u64,
    },
    /// Do again what a job that failed or was cancelled did not.
    RetryJob {
        /// Its id.
        id: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Changes that were asked for, newest first: who, what, when, with which outcome.
    Audit {
        /// Only those asked with the token of this label.
        #[arg(long)]
        by: Option<String>,
        /// Most entries.
        #[arg(long, default_value_t = RECENT_DEFAULT)]
        limit: usize,
    },
    /// Keep server, trust and token (from --token-file or standard input) in a profile for later calls.
    Login,
    /// Who the token belongs to, and what it allows.
    Whoami,
    /// Tokens to join, and to call the API.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Who is told of changes of health.
    #[command(subcommand)]
    Webhook(WebhookVerb),
    /// Show what changes as it changes, until it is interrupted.
    Stream {
        /// Only these kinds: machine, process_server, job, event, overview.
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
        /// End after so many.
        #[arg(long, value_name = "COUNT")]
        count: Option<u64>,
    },
    /// How the installation is.
    Health,
    /// The figures for Prometheus, as they are.
    Metrics,
    /// The server's version.
    Version,
    /// The API's OpenAPI document.
    Openapi,
    /// Faults on purpose, in processes that were started with --enable-chaos.
    #[command(subcommand)]
    Chaos(ChaosVerb),
    /// Everything at one look: what is protected, what is behind and why, where the load is.
    Overview,
    /// Show who may open the vault; `farshore vault key` changes it.
    VaultKeys,
    /// Make a one-time code that opens the dashboard in a browser.
    LoginCode,
}

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Wait for the job's end, and fail if it fails.
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait, in seconds.
    #[arg(long, default_value_t = 600)]
    pub(super) wait_seconds: u64,
}

#[derive(Debug, Subcommand)]
pub(super) enum ChaosVerb {
    /// List what is armed, and what it has struck.
    List,
    /// Arm a fault.
    Arm {
        /// Where: config-server, or a process server's name or id.
        #[arg(long)]
        process: String,
        /// What, as JSON: {"fault": "vault_fail", "for_ms": 2000}; docs/chaos.md lists them.
        fault: String,
    },
    /// Disarm a fault.
    Disarm {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TestFailoverCommand {
    /// List those that are not cleaned up.
    List,
    /// Show one.
    Show {
        /// Its id.
        id: u64,
    },
    /// Begin one.
    Begin {
        /// Name or id.
        machine: String,
        /// `latest`, a point's id, or an RFC 3339 time.
        point: String,
    },
    /// End one: what was written to it is thrown away.
    CleanUp {
        /// Its id.
        id: u64,
        /// What was seen; kept as an event.
        #[arg(long, default_value = "")]
        notes: String,
    },
}

impl CtlCommand {
    /// Whether it changes nothing.
    pub(super) fn looks(&self) -> bool {
        use CtlCommand as C;
        match self {
            C::Job { wait, .. } => !wait.wait,
            C::TestFailover(command) => matches!(command, TestFailoverCommand::List | TestFailoverCommand::Show { .. }),
            C::Webhook(verb) => verb.looks(),
            C::Hold(verb) => verb.looks(),
            C::Retention { .. } => true,
            C::Scrub { now, .. } => !now,
            C::Chaos(verb) => matches!(verb, ChaosVerb::List),
            C::Token(command) => matches!(command, TokenCommand::List { .. }),
            C::Machines | C::Machine { .. } | C::History { .. } | C::Points { .. } | C::Served { .. } => true,
            C::ProcessServers | C::ProcessServer { .. } | C::Metrics | C::Version => true,
            C::Jobs { .. }
            | C::Events { .. }
            | C::Audit { .. }
            | C::Whoami
            | C::Health
            | C::Overview
            | C::VaultKeys => true,
            _ => false,
        }
    }
}
