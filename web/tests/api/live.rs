//! The live feed, sessions of the dashboard, the overview and the histories.

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};

use crate::rig::{Site, WITHIN};

/// A stream of events, read frame by frame.
struct Stream {
    answer: Response,
    text: String,
}

/// One event.
#[derive(Debug)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

/// A kind of events, and what their data must be like.
type Wanted<'a> = (&'a str, Box<dyn Fn(&Value) -> bool + 'a>);

impl Stream {
    async fn open(site: &Site, after: Option<&str>) -> Self {
        let mut request = site.bare("GET", "/api/v1/stream").bearer_auth(&site.admin);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next event; `None`: the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = frame.lines().find_map(|line| line.strip_prefix(name));
                    lines.unwrap_or_default().to_owned()
                };
                let (id, kind, data) = (field("id: "), field("event: "), field("data: "));
                self.text = rest.to_owned();
                if kind.is_empty() {
                    continue;
                }
                return Some(Event { id, kind, data: serde_json::from_str(&data).expect("JSON") });
            }
            let chunk = tokio::time::timeout(WITHIN, self.answer.chunk()).await.expect("waited in vain");
            let chunk = chunk.ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// Reads until each of these kinds came with data as wanted, in any order; the last event that was read.
    async fn until(&mut self, mut wanted: Vec<Wanted<'_>>) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            wanted.retain(|(kind, fits)| event.kind != *kind || !fits(&event.data));
            if wanted.is_empty() {
                return event;
            }
        }
    }
}

#[actix_web::test]
async fn a_stream_shows_what_changes_and_goes_on_where_it_was_cut() {
    let site = Site::start().await;
    let mut stream = Stream::open(&site, None).await;
    let first = stream.next().await.expect("a greeting");
    assert_eq!((first.kind.as_str(), &first.data["reason"]), ("reset", &json!("begun")));
    let (server, _link) = site.join("ps-1").await;
    let machine = site.enrol("mail").await.to_string();
    let wanted: Vec<Wanted<'_>> = vec![
        ("process_server", Box::new(|data| data["id"] == server)),
        ("event", Box::new(|data| data["code"] == "machine_enrolled")),
        ("job", Box::new(|data| data["kind"] == "protect" && data["state"] == "done")),
        ("machine", Box::new(|data| data["id"] == machine && !data["assignment"].is_null())),
        ("overview", Box::new(|data| data["machines"]["total"] == 1)),
    ];
    let seen = stream.until(wanted).await;
    drop(stream);
    let made = site.ask("POST", "api-tokens", json!({ "role": "viewer", "label": "meanwhile" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let mut back = Stream::open(&site, Some(&seen.id)).await;
    loop {
        let event = back.next().await.expect("the stream goes on");
        assert_ne!(event.kind, "reset", "nothing was missed");
        if event.kind == "event" && event.data["code"] == "api_token_created" {
            break;
        }
    }
    let removed = site.ask("DELETE", &format!("machines/{machine}"), Value::Null).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    back.until(vec![("machine", Box::new(|data| data["id"] == machine && data["state"] == "removed"))]).await;
    site.stop().await;
}

#[actix_web::test]
async fn a_server_that_stops_ends_its_streams_at_once() {
    let site = Site::start().await;
    let mut stream = Stream::open(&site, None).await;
    assert!(stream.next().await.is_some());
    let begun = std::time::Instant::now();
    site.web.stop().await;
    while stream.next().await.is_some() {}
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    site.stop().await;
}

#[actix_web::test]
async fn a_session_begins_with_a_token_and_needs_its_second_secret_to_change_anything() {
    let site = Site::start().await;
    let begin = |body: Value| site.send(site.bare("POST", "/api/v1/session").json(&body));
    let begun = begin(json!({ "token": site.admin })).await;
    assert_eq!((begun.status, begun.body["role"].as_str()), (201, Some("admin")), "{begun:?}");
    let set = begun.header("set-cookie").to_owned();
    for part in ["farshore_session=", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(set.contains(part), "{part} in {set}");
    }
    let cookie = set.split(';').next().expect("a cookie").to_owned();
    let csrf = begun.body["csrf_token"].as_str().expect("a second secret").to_owned();
    let with = |method: &str, path: &str| site.bare(method, path).header("cookie", &cookie);
    let seen = site.send(with("GET", "/api/v1/session")).await;
    assert_eq!((seen.status, seen.body["csrf_token"].as_str()), (200, Some(csrf.as_str())));
    assert_eq!(site.send(with("GET", "/api/v1/machines")).await.status, 200);
    let wanted = json!({ "role": "machine" });
    let make = || with("POST", "/api/v1/join-tokens").json(&wanted);
    site.send(make()).await.is_problem(403, "csrf_token_wrong");
    site.send(make().header("x-farshore-csrf", "0".repeat(64))).await.is_problem(403, "csrf_token_wrong");
    assert_eq!(site.send(make().header("x-farshore-csrf", &csrf)).await.status, 201);
    let end = with("DELETE", "/api/v1/session").header("x-farshore-csrf", &csrf);
    let ended = site.send(end).await;
    assert_eq!(ended.status, 204);
    assert!(ended.header("set-cookie").contains("Max-Age=0"), "{ended:?}");
    site.send(with("GET", "/api/v1/machines")).await.is_problem(401, "unauthenticated");
    site.stop().await;
}

#[actix_web::test]
async fn a_login_code_begins_one_session_that_may_what_its_maker_may() {
    let site = Site::start().await;
    let viewer = site.ask("POST", "api-tokens", json!({ "role": "viewer", "label": "screen" })).await.body;
    let made = site.ask_as(viewer["token"].as_str().expect("a token"), "POST", "login-codes", Value::Null).await;
    assert_eq!(made.status, 201, "{made:?}");
    let code = made.body["code"].as_str().expect("a code");
    assert_eq!(made.body["path"], format!("/#login={code}"));
    let begin = |body: Value| site.send(site.bare("POST", "/api/v1/session").json(&body));
    let begun = begin(json!({ "code": code })).await;
    assert_eq!((begun.status, &begun.body["role"], &begun.body["name"]), (201, &json!("viewer"), &json!("screen")));
    begin(json!({ "code": code })).await.is_problem(401, "unauthenticated");
    begin(json!({})).await.is_problem(400, "malformed_request");
    begin(json!({ "token": "a", "code": "b" })).await.is_problem(400, "malformed_request");
    let cookie = begun.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let id = viewer["id"].as_str().expect("an id");
    assert_eq!(site.ask("DELETE", &format!("api-tokens/{id}"), Value::Null).await.status, 204);
    let after = site.send(site.bare("GET", "/api/v1/machines").header("cookie", cookie)).await;
    after.is_problem(401, "unauthenticated");
    for _ in 0..25 {
        begin(json!({ "code": "guessed" })).await;
    }
    begin(json!({ "code": "guessed" })).await.is_problem(429, "too_many_attempts");
    site.stop().await;
}

#[actix_web::test]
async fn the_overview_counts_names_the_worst_and_says_what_to_do() {
    let site = Site::start().await;
    let empty = site.get("overview").await;
    assert_eq!((&empty["machines"]["total"], &empty["worst_rpo"]), (&json!(0), &Value::Null));
    assert_eq!(empty["problems"][0]["code"], "no_process_server");
    let (_, _link) = site.join("ps-1").await;
    let machine = site.enrol("mail").await.to_string();
    let overview = site.until("overview", |body| (!body["worst_rpo"].is_null()).then(|| body.clone())).await;
    assert_eq!((&overview["worst_rpo"]["machine"], &overview["machines"]["total"]), (&json!(machine), &json!(1)));
    assert_eq!(overview["process_servers"][0]["machines"], 1);
    let problems = overview["problems"].as_array().expect("a list");
    let away = problems.iter().find(|problem| problem["code"] == "agent_control_away").expect("the agent is away");
    assert_eq!(away["link"], format!("/api/v1/machines/{machine}"));
    assert!(["cause", "remedy", "name"].iter().all(|field| away[field].as_str().is_some_and(|text| !text.is_empty())));
    site.stop().await;
}

#[actix_web::test]
async fn histories_hold_samples_of_each_machine_and_of_all_together() {
    let site = Site::start().await;
    let (_, _link) = site.join("ps-1").await;
    let machine = site.enrol("mail").await;
    let path = format!("machines/{machine}/history?minutes=5");
    let body = site
        .until(&path, |body| {
            body["samples"]
                .as_array()
                .is_some_and(|samples| samples.iter().any(|sample| !sample["rpo_seconds"].is_null()))
                .then(|| body.clone())
        })
        .await;
    assert_eq!((&body["step_seconds"], &body["machine"]), (&json!(5), &json!(machine.to_string())));
    let all = site.get("history?minutes=720").await;
    assert_eq!((&all["step_seconds"], &all["machine"]), (&json!(60), &Value::Null));
    assert!(!all["samples"].as_array().expect("samples").is_empty());
    for bad in ["history?minutes=0", "history?minutes=721", "history?hours=1"] {
        site.ask("GET", bad, Value::Null).await.is_problem(400, "malformed_request");
    }
    site.stop().await;
}

#[actix_web::test]
async fn every_answer_carries_the_security_headers() {
    let site = Site::start().await;
    for path in ["/api/v1/version", "/api/v1/machines", "/nothing"] {
        let answer = site.send(site.bare("GET", path)).await;
        let policy = answer.header("content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
    }
    site.stop().await;
}
