//! `farshore ctl`: the API from the shell.
//!
//! Without `--server` and `--token-file` it finds both in the state directory of a configuration server on this host.
//! `--json` prints what the API says, lists joined over their parts; without it, tables for people.

mod client;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::client::Client;
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
    /// Print what the API says.
    #[arg(long, global = true)]
    json: bool,
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
enum TokenCommand {
    /// Make a token. Its text is shown once.
    Create {
        /// Who joins with it, or what its bearer may.
        #[arg(long, value_enum)]
        role: TokenRole,
        /// What to call it.
        #[arg(long)]
        label: Option<String>,
        /// How long it is valid, in seconds.
        #[arg(long)]
        valid_for_seconds: Option<u64>,
        /// How often a join token may be used.
        #[arg(long)]
        uses: Option<u32>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenRole {
    Machine,
    ProcessServer,
    Viewer,
    Operator,
    Admin,
}

/// Runs a command against the API.
pub(crate) fn run(args: &CtlArgs, settings: &Settings) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("start a runtime: {error}")))?;
    let client = client::connect(args, &settings.state_dir)?;
    runtime.block_on(perform(&client, &args.command, args.json))
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
        CtlCommand::RemoveMachine { machine } => {
            let id = client.machine_id(machine).await?;
            show(&[], &client.delete(&format!("machines/{id}")).await?);
        }
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

async fn create_token(client: &Client, command: &TokenCommand) -> Result<Value, Failure> {
    let TokenCommand::Create { role, label, valid_for_seconds, uses } = command;
    let joins = matches!(role, TokenRole::Machine | TokenRole::ProcessServer);
    if uses.is_some() && !joins {
        return Err(Failure::usage("--uses is for join tokens: API tokens are used as often as one likes"));
    }
    let name = role.to_possible_value().map(|value| value.get_name().to_owned());
    let mut body = json!({ "role": name });
    if let Some(label) = label {
        body["label"] = json!(label);
    } else if !joins {
        body["label"] = json!(format!("made with ctl ({})", name.unwrap_or_default()));
    }
    if let Some(seconds) = valid_for_seconds {
        body["valid_for_seconds"] = json!(seconds);
    }
    if let Some(uses) = uses {
        body["uses"] = json!(uses);
    }
    client.post(if joins { "join-tokens" } else { "api-tokens" }, &body).await
}

/// Serves a point, and waits until its exports are there.
async fn serve(client: &Client, machine: &str, point: &str, read_only: bool) -> Result<Value, Failure> {
    let machine = client.machine_id(machine).await?;
    let body = json!({ "machine": machine, "point": point, "read_only": read_only });
    let served = client.post("served-points", &body).await?;
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
    while wait.wait && job["state"] == "running" && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        match client.get(&path).await {
            Ok(now) => job = now,
            // A server that restarts goes on with the job.
            Err(failure) if failure.kind == ExitKind::Unreachable && Instant::now() < until => {}
            Err(failure) => return Err(failure),
        }
    }
    show(&[], &job);
    let (id, kind) = (job["id"].as_str().unwrap_or_default(), job["kind"].as_str().unwrap_or_default());
    let trouble = job["trouble"].as_str().unwrap_or("no reason was given");
    match job["state"].as_str() {
        Some("failed") if wait.wait => Err(Failure::failed(format!("job {id} ({kind}) failed: {trouble}"))),
        Some("running") if wait.wait => Err(Failure::new(
            ExitKind::Unreachable,
            format!("job {id} ({kind}) still runs after {} s; it goes on by itself", wait.wait_seconds),
        )),
        _ => Ok(()),
    }
}
