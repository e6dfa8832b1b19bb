//! What every command passes: the audit log, idempotency keys, rate limits. And the figures for Prometheus.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::rig::Site;

#[actix_web::test]
async fn every_change_is_in_the_audit_log_with_who_what_and_its_outcome_and_looking_is_not() {
    let site = Site::start().await;
    let made = site.ask("POST", "api-tokens", json!({ "role": "operator", "label": "night shift" })).await;
    let token = made.body["token"].as_str().expect("a token");
    site.ask_as(token, "POST", "join-tokens", json!({ "role": "machine" })).await.is_problem(403, "forbidden");
    site.ask_as(token, "DELETE", "served-points/4711", Value::Null).await.is_problem(404, "served_point_unknown");
    site.ask_as(token, "GET", "machines", Value::Null).await;
    let log = site.get("audit-log").await;
    let seen: Vec<_> = log["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|entry| {
            ["by", "role", "action", "outcome", "code", "target"]
                .map(|field| entry[field].as_str().unwrap_or("-").to_owned())
        })
        .collect();
    let night = |action: &str, code: &str, target: &str| {
        ["night shift", "operator", action, "refused", code, target].map(str::to_owned)
    };
    assert_eq!(seen[0], night("stop_serving", "served_point_unknown", "/api/v1/served-points/4711"));
    assert_eq!(seen[1], night("create_join_token", "forbidden", "/api/v1/join-tokens"));
    assert_eq!((seen[2][2].as_str(), seen[2][3].as_str()), ("create_api_token", "done"));
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(log["items"].as_array().is_some_and(|items| items.iter().all(|entry| entry["from"] == "127.0.0.1")));
    assert!(!log.to_string().contains(token), "no secret is in it");
    let filtered = site.get("audit-log?by=night%20shift&limit=1").await;
    let cursor = filtered["next_cursor"].as_str().expect("there is more");
    let rest = site.get(&format!("audit-log?by=night%20shift&cursor={cursor}")).await;
    assert_eq!(rest["items"][0]["action"], "create_join_token");
    site.ask_as(token, "GET", "audit-log", Value::Null).await.is_problem(403, "forbidden");
    site.stop().await;
}

#[actix_web::test]
async fn a_command_that_is_repeated_with_its_key_is_answered_again_and_not_done_again() {
    let site = Site::start().await;
    let ask = |key: &'static str, label: &str| {
        let body = json!({ "role": "machine", "label": label });
        let request = site.bare("POST", "/api/v1/join-tokens").bearer_auth(&site.admin).json(&body);
        site.send(request.header("idempotency-key", key))
    };
    let first = ask("one", "a").await;
    let again = ask("one", "a").await;
    assert_eq!((first.status, &first.body), (201, &again.body));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    ask("one", "b").await.is_problem(422, "idempotency_key_reused");
    assert_ne!(ask("two", "a").await.body["id"], first.body["id"]);
    ask("", "a").await.is_problem(400, "malformed_request");
    assert_eq!(site.get("join-tokens").await["items"].as_array().map(Vec::len), Some(2));
    site.stop().await;
}

#[actix_web::test]
async fn a_caller_who_asks_too_often_is_slowed_down_and_others_are_not() {
    let site = Site::start().await;
    let made = site.ask("POST", "api-tokens", json!({ "role": "viewer", "label": "loop" })).await;
    let token = made.body["token"].as_str().expect("a token");
    let mut refused = None;
    for _ in 0..20_000 {
        let answer = site.ask_as(token, "GET", "version", Value::Null).await;
        assert_eq!(answer.status, 200, "an address that needs no token does not count");
        let answer = site.ask_as(token, "GET", "jobs", Value::Null).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    // Where the machine is too slow to ask that often, nobody is refused.
    if let Some(refused) = refused {
        refused.is_problem(429, "rate_limited");
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(site.ask("GET", "jobs", Value::Null).await.status, 200);
    site.stop().await;
}

#[actix_web::test]
async fn promtool_accepts_the_metrics_and_they_say_what_they_should() {
    let site = Site::start().await;
    let (_, _link) = site.join("ps-1").await;
    let machine = site.enrol("mail \"quoted\" \\ name").await.to_string();
    site.until("overview", |body| (!body["worst_rpo"].is_null()).then_some(())).await;
    let answer = site.bare("GET", "/metrics").bearer_auth(&site.admin).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
    let text = answer.text().await.expect("text");
    for metric in [
        "machine_rpo_seconds",
        "machine_backlog_bytes",
        "machine_written_bytes_total",
        "machine_received_bytes_total",
        "machine_uploaded_bytes_total",
        "machine_actor_restarts_total",
        "process_server_cache_used_bytes",
        "process_server_cache_backlog_bytes",
        "process_server_store_received_bytes_total",
        "jobs_running",
        "event_streams",
    ] {
        assert!(text.contains(&format!("# TYPE farshore_{metric} ")), "{metric} in {text}");
    }
    assert!(
        text.lines().any(|line| line.starts_with("farshore_process_server_store_calls_total{process_server=")
            && line.ends_with(",name=\"ps-1\",call=\"get\"} 3")),
        "{text}"
    );
    assert!(text.contains(&format!("farshore_machine_rpo_seconds{{machine=\"{machine}\"")), "{text}");
    site.send(site.bare("GET", "/metrics")).await.is_problem(401, "unauthenticated");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.expect("promtool is there (scripts/setup.sh installs it)");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let said = promtool.wait_with_output().expect("promtool ends");
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    site.stop().await;
}
