//! Who is refused, what is refused, and in which words.

use std::time::Duration;

use farshore_web::{Server, ServerConfig, ServerError, openapi};
use serde_json::{Value, json};
use slog::{Discard, Logger, o};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::Site;

const UNKNOWN: &str = "00000000000000000000000000000001";

/// A path of the document with something in the place of its parameters.
fn filled(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "7".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[actix_web::test]
async fn every_documented_route_is_there_and_lets_nobody_in_without_a_token() {
    let site = Site::start().await;
    let public = ["/api/v1/version", "/api/v1/openapi.json"];
    let operations = openapi::operations();
    assert!(operations.len() >= 25, "{operations:?}");
    for &(method, path) in &operations {
        let answer = site.send(site.bare(method, &filled(path))).await;
        match public.contains(&path) {
            // The token is in its body.
            _ if (method, path) == ("POST", "/api/v1/session") => answer.is_problem(415, "unsupported_media_type"),
            true => assert_eq!(answer.status, 200, "{method} {path}: {answer:?}"),
            false => answer.is_problem(401, "unauthenticated"),
        }
    }
    site.stop().await;
}

#[actix_web::test]
async fn the_document_is_served_names_the_bearer_scheme_and_each_operation_once() {
    let site = Site::start().await;
    let document = site.send(site.bare("GET", "/api/v1/openapi.json")).await.body;
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let paths = document["paths"].as_object().expect("paths");
    let ids = paths.values().flat_map(|item| item.as_object().expect("operations").values());
    let mut ids: Vec<&str> = ids.map(|operation| operation["operationId"].as_str().expect("an id")).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), all), (all, openapi::operations().len()));
    site.stop().await;
}

#[actix_web::test]
async fn a_token_that_is_wrong_or_revoked_is_refused_and_a_flood_of_them_is_cut_off() {
    let site = Site::start().await;
    let made = site.ask("POST", "api-tokens", json!({ "role": "viewer", "label": "screen" })).await;
    let (token, id) = (made.body["token"].as_str().expect("a token"), made.body["id"].as_str().expect("an id"));
    assert_eq!(site.ask_as(token, "GET", "machines", Value::Null).await.status, 200);
    assert!(!site.get("api-tokens").await.to_string().contains(token), "a token is shown once");
    assert_eq!(site.ask("DELETE", &format!("api-tokens/{id}"), Value::Null).await.status, 204);
    site.ask_as(token, "GET", "machines", Value::Null).await.is_problem(401, "unauthenticated");
    let mut last = site.ask_as("farshore-api-nonsense", "GET", "machines", Value::Null).await;
    last.is_problem(401, "unauthenticated");
    for _ in 0..20 {
        last = site.ask_as("farshore-api-nonsense", "GET", "machines", Value::Null).await;
    }
    last.is_problem(429, "too_many_attempts");
    assert_eq!(last.header("retry-after"), "10");
    assert_eq!(site.ask("GET", "machines", Value::Null).await.status, 200, "a valid token is still let in");
    site.stop().await;
}

#[actix_web::test]
async fn a_role_may_do_what_it_may_and_no_more() {
    let site = Site::start().await;
    let mut tokens = Vec::new();
    for role in ["viewer", "operator"] {
        let made = site.ask("POST", "api-tokens", json!({ "role": role, "label": role })).await;
        tokens.push(made.body["token"].as_str().expect("a token").to_owned());
    }
    let serve = json!({ "machine": UNKNOWN, "point": "latest" });
    let join = json!({ "role": "machine" });
    let [viewer, operator] = &tokens[..] else { panic!("two tokens") };
    site.ask_as(viewer, "POST", "served-points", serve.clone()).await.is_problem(403, "forbidden");
    site.ask_as(operator, "POST", "served-points", serve).await.is_problem(404, "machine_unknown");
    site.ask_as(operator, "POST", "join-tokens", join.clone()).await.is_problem(403, "forbidden");
    site.ask_as(operator, "GET", "api-tokens", Value::Null).await.is_problem(403, "forbidden");
    assert_eq!(site.ask("POST", "join-tokens", join).await.status, 201);
    site.stop().await;
}

#[actix_web::test]
async fn what_cannot_be_understood_is_refused_with_its_reason() {
    let site = Site::start().await;
    let post = |body: &'static str| site.bare("POST", "/api/v1/join-tokens").bearer_auth(&site.admin).body(body);
    let json = "application/json";
    site.send(post("{\"role\": ").header("content-type", json)).await.is_problem(400, "malformed_request");
    site.send(post("[]").header("content-type", json)).await.is_problem(400, "malformed_request");
    site.send(post("{}").header("content-type", "text/plain")).await.is_problem(415, "unsupported_media_type");
    let typo = post("{\"role\": \"machine\", \"valid_for\": 5}").header("content-type", json);
    let answer = site.send(typo).await;
    answer.is_problem(400, "malformed_request");
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("valid_for")), "{answer:?}");
    let forever = json!({ "role": "machine", "valid_for_seconds": u64::MAX });
    site.ask("POST", "join-tokens", forever).await.is_problem(422, "invalid_value");
    site.ask("POST", "join-tokens", json!({ "role": "king" })).await.is_problem(400, "malformed_request");
    for query in ["limit=0", "limit=501", "limit=many", "cursor=nonsense", "colour=red"] {
        let answer = site.ask("GET", &format!("machines?{query}"), Value::Null).await;
        answer.is_problem(400, "malformed_request");
    }
    site.ask("GET", "events?severity=loud", Value::Null).await.is_problem(400, "malformed_request");
    site.ask("GET", "jobs/nonsense", Value::Null).await.is_problem(400, "malformed_request");
    site.stop().await;
}

#[actix_web::test]
async fn a_body_over_the_limit_is_refused_and_not_read() {
    let site = Site::start().await;
    let large = json!({ "role": "machine", "label": "x".repeat(70 << 10) });
    site.ask("POST", "join-tokens", large.clone()).await.is_problem(413, "body_too_large");
    site.ask_as("nobody", "POST", "join-tokens", large).await.is_problem(401, "unauthenticated");
    site.stop().await;
}

#[actix_web::test]
async fn what_is_not_there_and_what_does_not_take_a_method_says_so() {
    let site = Site::start().await;
    for path in ["nothing", "machines/", "machines/x/y"] {
        site.ask("GET", path, Value::Null).await.is_problem(404, "not_found");
    }
    let answer = site.ask("PUT", "served-points", Value::Null).await;
    answer.is_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "GET, POST");
    for (method, path, code) in [
        ("GET", format!("machines/{UNKNOWN}"), "machine_unknown"),
        ("GET", "machines/no%20such%20name".into(), "machine_unknown"),
        ("GET", format!("machines/{UNKNOWN}/points"), "machine_unknown"),
        ("DELETE", format!("machines/{UNKNOWN}"), "machine_unknown"),
        ("GET", format!("process-servers/{UNKNOWN}"), "process_server_unknown"),
        ("GET", "process-servers/nonsense".into(), "process_server_unknown"),
        ("GET", "jobs/4711".into(), "job_unknown"),
        ("GET", "served-points/4711".into(), "served_point_unknown"),
        ("DELETE", "served-points/4711".into(), "served_point_unknown"),
        ("DELETE", "join-tokens/0000000000000001".into(), "token_unknown"),
        ("DELETE", "api-tokens/nonsense".into(), "token_unknown"),
    ] {
        site.ask(method, &path, Value::Null).await.is_problem(404, code);
    }
    site.stop().await;
}

#[actix_web::test]
async fn https_is_spoken_with_the_installations_certificate_and_plain_http_is_not() {
    let site = Site::start_with(true).await;
    assert!(site.web.url().starts_with("https://"));
    assert_eq!(site.get("health").await["state"], "running");
    let mut plain = tokio::net::TcpStream::connect(site.web.local_address()).await.expect("connects");
    plain.write_all(b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), plain.read_to_end(&mut said)).await.expect("it is closed");
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
    site.stop().await;
}

#[actix_web::test]
async fn plain_http_is_refused_beyond_loopback_and_a_taken_address_is_named() {
    let site = Site::start().await;
    let log = Logger::root(Discard, o!());
    let open = ServerConfig { listen: ([0, 0, 0, 0], 0).into(), tls: None };
    let error = Server::start(open, site.control.plane(), log.clone()).err().expect("refused");
    assert!(matches!(error, ServerError::PlainBeyondLoopback(_)), "{error}");
    let taken = ServerConfig { listen: site.web.local_address(), tls: None };
    let error = Server::start(taken, site.control.plane(), log).err().expect("refused");
    assert!(error.to_string().contains(&site.web.local_address().to_string()), "{error}");
    site.stop().await;
}
