//! `farshore ctl`: the API from the shell.
//!
//! Without `--server` and `--token-file` it finds both in the state directory of a configuration server on this host, and
//! where there is none in the profile that `ctl login` keeps.
//! `--json` prints what the API says, lists joined over their parts; without it, tables for people.

mod client;
mod profile;
mod table;
mod tokens;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::client::Client;
use self::tokens::{TokenCommand, create_token};
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::Settings;

/// Most points that are listed where nothing is said.
const POINTS_DEFAULT: usize = 1000;
/// Most jobs and events that are listed where nothing is said.
const RECENT_DEFAULT: usize = 100;
/// Time between looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The API from the shell.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The configuration server, as a URL. Otherwise the one whose state directory is here.
    #[arg(long, global = true, env = "FARSHORE_SERVER")]
    server: Option<String>,
    /// File with the API token. Otherwise FARSHORE_TOKEN, then `admin.token` in the state directory.
    #[arg(long, global = true)]
    token_file: Option<PathBuf>,
    /// Certificate of the installation's authority (PEM). Otherwise the one in the state directory.
    #[arg(long, global = true)]
    ca_file: Option<PathBuf>,
    /// Fingerprint of the installation's authority (SHA-256), instead of its certificate.
    #[arg(long, global = true)]
    ca_fingerprint: Option<String>,
    /// Print what the API says.
    #[arg(long, global = true)]
    json: bool,
    /// Show it again and again, so many seconds apart.
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
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
        #[arg(long, requires = "rpo_critical")]
        rpo_warning: Option<u64>,
        /// RPO from which it is critical, in seconds.
        #[arg(long, requires = "rpo_warning")]
        rpo_critical: Option<u64>,
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
    /// Write a point's disks to raw images at a process server.
    Restore {
        /// Name or id.
        machine: String,
        /// `latest`, a point's id, or an RFC 3339 time.
        point: String,
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
    /// List served points.
    Served,
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
    /// How the installation is.
    Health,
    /// Faults on purpose, in processes that were started with --enable-chaos.
    #[command(subcommand)]
    Chaos(ChaosVerb),
    /// Everything at one look: what is protected, what is behind and why, where the load is.
    Overview,
    /// Make a one-time code that opens the dashboard in a browser.
    LoginCode,
}

#[derive(Debug, Args)]
struct Wait {
    /// Wait for the job's end, and fail if it fails.
    #[arg(long)]
    wait: bool,
    /// Longest wait, in seconds.
    #[arg(long, default_value_t = 600)]
    wait_seconds: u64,
}

#[derive(Debug, Subcommand)]
enum ChaosVerb {
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
enum TestFailoverCommand {
    /// List those that are not cleaned up.
    List,
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

/// Runs a command against the API.
pub(crate) fn run(args: &CtlArgs, settings: &Settings) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("start a runtime: {error}")))?;
    if matches!(args.command, CtlCommand::Login) {
        return runtime.block_on(login(args, settings));
    }
    let client = client::connect(args, &settings.state_dir)?;
    let Some(seconds) = args.watch else { return runtime.block_on(perform(&client, &args.command, args.json)) };
    if !args.command.looks() {
        return Err(Failure::usage("--watch is for commands that look, not for those that change something"));
    }
    loop {
        if std::io::stdout().is_terminal() {
            // Clears the screen and goes to its top.
            print!("\x1b[2J\x1b[H");
        }
        match runtime.block_on(perform(&client, &args.command, args.json)) {
            // A server that restarts comes back.
            Err(failure) if failure.kind == ExitKind::Unreachable => eprintln!("farshore: {}", failure.text),
            outcome => outcome?,
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

impl CtlCommand {
    /// Whether it changes nothing.
    fn looks(&self) -> bool {
        use CtlCommand as C;
        match self {
            C::Job { wait, .. } => !wait.wait,
            C::TestFailover(command) => matches!(command, TestFailoverCommand::List),
            C::Token(command) => matches!(command, TokenCommand::List { .. }),
            C::Machines | C::Machine { .. } | C::History { .. } | C::Points { .. } | C::Served | C::ProcessServers => {
                true
            }
            C::Jobs { .. } | C::Events { .. } | C::Audit { .. } | C::Whoami | C::Health | C::Overview => true,
            _ => false,
        }
    }
}

/// Keeps where the server is, whom to trust and the token, once the server has taken the token.
async fn login(args: &CtlArgs, settings: &Settings) -> Outcome {
    let server = args.server.clone().ok_or_else(|| Failure::usage("--server names the server to log in to"))?;
    let token = match &args.token_file {
        Some(_) => client::token(args, &settings.state_dir)?,
        None => profile::ask_token()?,
    };
    let authority_pem = match &args.ca_file {
        Some(file) => {
            let read = std::fs::read_to_string(file);
            Some(read.map_err(|error| Failure::usage(format!("read {}: {error}", file.display())))?)
        }
        None => None,
    };
    let kept = profile::Profile { server, token, authority_pem, ca_fingerprint: args.ca_fingerprint.clone() };
    let session = client::of_profile(&kept)?.get("session").await?;
    let path = profile::save(&kept)?;
    let field = |name: &str| session[name].as_str().unwrap_or("?").to_owned();
    println!("Logged in as '{}' ({}); kept in {}", field("name"), field("role"), path.display());
    Ok(())
}

async fn perform(client: &Client, command: &CtlCommand, json: bool) -> Outcome {
    let show = |columns: &[table::Column], value: &Value| match json {
        true => table::print_json(value),
        false => table::print(columns, value),
    };
    match command {
        CtlCommand::Machines => show(table::MACHINES, &client.list("machines", usize::MAX).await?),
        CtlCommand::Machine { machine } => {
            let id = client.machine_id(machine).await?;
            show(&[], &client.get(&format!("machines/{id}")).await?);
        }
        CtlCommand::RemoveMachine { machine, delete_points } => {
            let id = client.machine_id(machine).await?;
            let points = if *delete_points { "delete" } else { "keep" };
            show(&[], &client.delete(&format!("machines/{id}?points={points}")).await?);
        }
        CtlCommand::Pause { machine } => {
            let id = client.machine_id(machine).await?;
            show(&[], &client.post(&format!("machines/{id}/pause"), &json!({})).await?);
        }
        CtlCommand::Resume { machine, wait } => {
            let id = client.machine_id(machine).await?;
            let begun = client.post(&format!("machines/{id}/resume"), &json!({})).await?;
            return follow(client, begun, wait, show).await;
        }
        CtlCommand::Edit { machine, name, rpo_warning, rpo_critical } => {
            let path = format!("machines/{}", client.machine_id(machine).await?);
            let mut edit = json!({});
            if let Some(name) = name {
                edit["name"] = json!(name);
            }
            if rpo_warning.is_some() {
                edit["policy"] = json!({ "rpo_warning_seconds": rpo_warning, "rpo_critical_seconds": rpo_critical });
            }
            let seen = client.get(&path).await?;
            show(&[], &client.patch(&path, &edit, seen["etag"].as_str().unwrap_or_default()).await?);
        }
        CtlCommand::History { machine, minutes } => {
            let path = match machine {
                Some(machine) => format!("machines/{}/history", client.machine_id(machine).await?),
                None => "history".to_owned(),
            };
            let mut history = client.get(&format!("{path}?minutes={minutes}")).await?;
            if !json {
                history = json!({ "items": history["samples"].take() });
            }
            show(table::SAMPLES, &history);
        }
        CtlCommand::TestFailover(TestFailoverCommand::List) => {
            show(table::SERVED, &client.list("test-failovers", usize::MAX).await?);
        }
        CtlCommand::TestFailover(TestFailoverCommand::Begin { machine, point }) => {
            let machine = client.machine_id(machine).await?;
            let begun = client.post("test-failovers", &json!({ "machine": machine, "point": point })).await?;
            show(table::EXPORTS, &serving(client, begun).await?);
        }
        CtlCommand::TestFailover(TestFailoverCommand::CleanUp { id, notes }) => {
            let path = format!("test-failovers/{id}/clean-up");
            show(&[], &client.post(&path, &json!({ "notes": notes })).await?);
        }
        CtlCommand::Restore { machine, point, wait } => {
            let machine = client.machine_id(machine).await?;
            let begun = client.post("restores", &json!({ "machine": machine, "point": point })).await?;
            return follow(client, begun, wait, show).await;
        }
        CtlCommand::CancelJob { id } => show(&[], &client.post(&format!("jobs/{id}/cancel"), &json!({})).await?),
        CtlCommand::RetryJob { id, wait } => {
            let begun = client.post(&format!("jobs/{id}/retry"), &json!({})).await?;
            return follow(client, begun, wait, show).await;
        }
        CtlCommand::Audit { by, limit } => {
            let query: Vec<(&str, &str)> = by.iter().map(|by| ("by", by.as_str())).collect();
            show(table::AUDIT, &client.list_where("audit-log", &query, *limit).await?);
        }
        CtlCommand::Login => return Err(Failure::usage("login is not a request")),
        CtlCommand::Whoami => show(&[], &client.get("session").await?),
        CtlCommand::Points { machine, limit } => {
            let id = client.machine_id(machine).await?;
            show(table::POINTS, &client.list(&format!("machines/{id}/points"), *limit).await?);
        }
        CtlCommand::Serve { machine, point, read_only } => {
            show(table::EXPORTS, &serve(client, machine, point, *read_only).await?);
        }
        CtlCommand::Unserve { id } => show(&[], &client.delete(&format!("served-points/{id}")).await?),
        CtlCommand::Served => show(table::SERVED, &client.list("served-points", usize::MAX).await?),
        CtlCommand::Move { machine, to, wait } => {
            let machine = client.machine_id(machine).await?;
            let target = client.process_server_id(to).await?;
            let begun = client.post(&format!("machines/{machine}/move"), &json!({ "to": target })).await?;
            return follow(client, begun, wait, show).await;
        }
        CtlCommand::Mark { machine, label, app } => {
            let id = client.machine_id(machine).await?;
            show(&[], &client.post(&format!("machines/{id}/marks"), &json!({ "label": label, "app": app })).await?);
        }
        CtlCommand::ProcessServers => {
            show(table::PROCESS_SERVERS, &client.list("process-servers", usize::MAX).await?);
        }
        CtlCommand::Jobs { limit } => show(table::JOBS, &client.list("jobs", *limit).await?),
        CtlCommand::Job { id, wait } => {
            let job = client.get(&format!("jobs/{id}")).await?;
            return follow(client, job, wait, show).await;
        }
        CtlCommand::Events { machine, limit } => {
            let path = match machine {
                Some(machine) => format!("events?machine={}", client.machine_id(machine).await?),
                None => "events".to_owned(),
            };
            show(table::EVENTS, &client.list(&path, *limit).await?);
        }
        CtlCommand::Token(TokenCommand::List { join }) => {
            show(table::TOKENS, &client.list(if *join { "join-tokens" } else { "api-tokens" }, usize::MAX).await?);
        }
        CtlCommand::Token(TokenCommand::Revoke { id, join }) => {
            let kind = if *join { "join-tokens" } else { "api-tokens" };
            show(&[], &client.delete(&format!("{kind}/{id}")).await?);
        }
        CtlCommand::Token(command) => show(&[], &create_token(client, command).await?),
        CtlCommand::Overview => show(&[], &client.get("overview").await?),
        CtlCommand::LoginCode => show(&[], &client.login_code().await?),
        CtlCommand::Chaos(verb) => show(&[], &chaos(client, verb).await?),
        CtlCommand::Health => show(&[], &client.get("health").await?),
    }
    Ok(())
}

async fn chaos(client: &Client, verb: &ChaosVerb) -> Result<Value, Failure> {
    match verb {
        ChaosVerb::List => client.get("chaos/faults").await,
        ChaosVerb::Arm { process, fault } => {
            let fault: Value = serde_json::from_str(fault)
                .map_err(|error| Failure::usage(format!("the fault is no JSON ({error}): {fault}")))?;
            client.post("chaos/faults", &json!({ "process": process, "fault": fault })).await
        }
        ChaosVerb::Disarm { id } => client.delete(&format!("chaos/faults/{id}")).await,
    }
}

/// Serves a point, and waits until its exports are there.
async fn serve(client: &Client, machine: &str, point: &str, read_only: bool) -> Result<Value, Failure> {
    let machine = client.machine_id(machine).await?;
    let body = json!({ "machine": machine, "point": point, "read_only": read_only });
    let served = client.post("served-points", &body).await?;
    serving(client, served).await
}

/// Waits until a served point's exports are there.
async fn serving(client: &Client, served: Value) -> Result<Value, Failure> {
    let id = served["id"].as_str().unwrap_or_default().to_owned();
    let until = Instant::now() + Duration::from_secs(120);
    let mut served = served;
    while served["state"] == "starting" {
        if Instant::now() >= until {
            return Err(Failure::failed(format!("served point {id} is still being opened: see `farshore ctl served`")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        served = client.get(&format!("served-points/{id}")).await?;
    }
    Ok(served)
}

/// Prints a job, where it was asked for once it has ended; fails if it failed.
async fn follow(client: &Client, job: Value, wait: &Wait, show: impl Fn(&[table::Column], &Value)) -> Outcome {
    let until = Instant::now() + Duration::from_secs(wait.wait_seconds);
    let mut job = job;
    let path = format!("jobs/{}", job["id"].as_str().unwrap_or_default());
    let bar = table::Bar::default();
    while wait.wait && job["state"] == "running" && Instant::now() < until {
        bar.show(&job);
        tokio::time::sleep(LOOK_EVERY).await;
        match client.get(&path).await {
            Ok(now) => job = now,
            // A server that restarts goes on with the job.
            Err(failure) if failure.kind == ExitKind::Unreachable && Instant::now() < until => {}
            Err(failure) => return Err(failure),
        }
    }
    bar.end();
    show(&[], &job);
    let (id, kind) = (job["id"].as_str().unwrap_or_default(), job["kind"].as_str().unwrap_or_default());
    let trouble = job["trouble"].as_str().unwrap_or("no reason was given");
    match job["state"].as_str() {
        Some("failed" | "cancelled") if wait.wait => {
            Err(Failure::failed(format!("job {id} ({kind}) failed: {trouble}")))
        }
        Some("running") if wait.wait => Err(Failure::new(
            ExitKind::Unreachable,
            format!("job {id} ({kind}) still runs after {} s; it goes on by itself", wait.wait_seconds),
        )),
        _ => Ok(()),
    }
}
