//! What each verb asks of the API, and how its answer is shown.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Client;
use super::table;
use super::tokens::{TokenCommand, create_token};
use super::verbs::{ChaosVerb, CtlCommand, TestFailoverCommand, Wait};
use super::{holds, stream, webhooks};
use crate::exit::{ExitKind, Failure, Outcome};

/// Time between looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn perform(client: &Client, command: &CtlCommand, json: bool) -> Outcome {
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
        CtlCommand::RemoveMachine { machine, delete_points, wait } => {
            let id = client.machine_id(machine).await?;
            let points = if *delete_points { "delete" } else { "keep" };
            let begun = client.delete(&format!("machines/{id}?points={points}")).await?;
            if *delete_points {
                return follow(client, begun, wait, show).await;
            }
            show(&[], &begun);
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
        CtlCommand::Edit {
            machine,
            name,
            rpo_warning,
            rpo_critical,
            mark_interval,
            codec,
            retention,
            installation_policy,
        } => {
            let path = format!("machines/{}", client.machine_id(machine).await?);
            let seen = client.get(&path).await?;
            let mut edit = json!({});
            if let Some(name) = name {
                edit["name"] = json!(name);
            }
            let wanted = [
                ("rpo_warning_seconds", rpo_warning.map(|value| json!(value))),
                ("rpo_critical_seconds", rpo_critical.map(|value| json!(value))),
                ("mark_interval_ms", mark_interval.map(|value| json!(value))),
                ("codec", codec.as_ref().map(|value| json!(value))),
                ("retention", retention.as_ref().map(|value| json!(value))),
            ];
            if *installation_policy || wanted.iter().any(|(_, value)| value.is_some()) {
                // What is not named stays as it is.
                edit["policy"] = if *installation_policy { json!({}) } else { seen["policy"]["wanted"].clone() };
                for (field, value) in wanted.into_iter().filter_map(|(field, value)| Some((field, value?))) {
                    edit["policy"][field] = value;
                }
            }
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
        CtlCommand::TestFailover(TestFailoverCommand::Show { id }) => {
            show(table::EXPORTS, &client.get(&format!("test-failovers/{id}")).await?);
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
        CtlCommand::Restore { machine, point, format, wait } => {
            let machine = client.machine_id(machine).await?;
            let begun =
                client.post("restores", &json!({ "machine": machine, "point": point, "format": format })).await?;
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
        CtlCommand::Retention { machine, ladder } => {
            show(&[], &holds::plan(client, machine, ladder.as_deref()).await?);
        }
        CtlCommand::Scrub { machine, now } => {
            let path = format!("machines/{}/scrub", client.machine_id(machine).await?);
            let said = if *now { client.post(&path, &json!({})).await? } else { client.get(&path).await? };
            show(&[], &said);
        }
        CtlCommand::Resync { machine } => {
            let id = client.machine_id(machine).await?;
            client.post(&format!("machines/{id}/resync"), &json!({})).await?;
            let then = "its agent begins when it is connected; event resync_begun, then gap_closed for each disk";
            show(&[], &json!({ "machine": id, "resync": "asked for", "then": then }));
        }
        CtlCommand::Hold(verb) => show(verb.columns(), &holds::perform(client, verb).await?),
        CtlCommand::Points { machine, limit } => {
            let id = client.machine_id(machine).await?;
            show(table::POINTS, &client.list(&format!("machines/{id}/points"), *limit).await?);
        }
        CtlCommand::Serve { machine, point, read_only } => {
            show(table::EXPORTS, &serve(client, machine, point, *read_only).await?);
        }
        CtlCommand::Unserve { id } => show(&[], &client.delete(&format!("served-points/{id}")).await?),
        CtlCommand::Served { id: Some(id) } => {
            show(table::EXPORTS, &client.get(&format!("served-points/{id}")).await?);
        }
        CtlCommand::Served { id: None } => show(table::SERVED, &client.list("served-points", usize::MAX).await?),
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
        CtlCommand::ProcessServer { process_server } => {
            let id = client.process_server_id(process_server).await?;
            show(&[], &client.get(&format!("process-servers/{id}")).await?);
        }
        CtlCommand::RemoveProcessServer { process_server } => {
            let id = client.process_server_id(process_server).await?;
            show(&[], &client.delete(&format!("process-servers/{id}")).await?);
        }
        CtlCommand::Webhook(verb) => show(verb.columns(), &webhooks::perform(client, verb).await?),
        CtlCommand::Stream { kinds, count } => return stream::follow(client, kinds, *count, json).await,
        CtlCommand::Metrics => print!("{}", client.text("/metrics").await?),
        CtlCommand::Version => show(&[], &client.get("version").await?),
        CtlCommand::Openapi => table::print_json(&client.get("openapi.json").await?),
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
        CtlCommand::VaultKeys => show(&[], &client.get("vault-keys").await?),
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
    let bar = table::Bar::default();
    while served["state"] == "starting" {
        bar.show(&json!({ "step": "opening the point" }));
        if Instant::now() >= until {
            return Err(Failure::failed(format!("served point {id} is still being opened: see `farshore ctl served`")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        served = client.get(&format!("served-points/{id}")).await?;
    }
    bar.end();
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
