//! Every operation of the API has a verb, and every verb asks for what it says: each is run against a server that only
//! takes notes.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use clap::Parser;
use serde_json::json;

use super::perform::perform;
use super::profile::Profile;
use super::verbs::CtlArgs;
use super::{CtlCommand, client};

const ID: &str = "00000000000000000000000000000007";

/// What has no verb, and why.
const WITHOUT: &[(&str, &str)] = &[
    ("begin_session", "a session is a browser's way in: the shell shows its token"),
    ("end_session", "a session is a browser's way in: the shell shows its token"),
];

/// Each operation, and words that ask for it.
fn verbs() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = [
        ("list_machines", "machines"),
        ("get_machine", "machine ID"),
        ("remove_machine", "remove-machine ID"),
        ("edit_machine", "edit ID --mark-interval 500"),
        ("move_machine", "move ID --to ID"),
        ("pause_machine", "pause ID"),
        ("resume_machine", "resume ID"),
        ("get_machine_history", "history ID"),
        ("list_points", "points ID"),
        ("request_mark", "mark ID"),
        ("plan_retention", "retention ID"),
        ("get_scrub", "scrub ID"),
        ("begin_scrub", "scrub ID --now"),
        ("resync", "resync ID"),
        ("hold_point", "hold add ID latest --reason audit"),
        ("release_hold", "hold release ID hold-1"),
        ("list_served_points", "served"),
        ("get_served_point", "served 7"),
        ("serve_point", "serve ID latest"),
        ("stop_serving", "unserve 7"),
        ("list_test_failovers", "test-failover list"),
        ("get_test_failover", "test-failover show 7"),
        ("begin_test_failover", "test-failover begin ID latest"),
        ("clean_up_test_failover", "test-failover clean-up 7"),
        ("begin_restore", "restore ID latest"),
        ("list_process_servers", "process-servers"),
        ("get_process_server", "process-server ID"),
        ("remove_process_server", "remove-process-server ID"),
        ("list_jobs", "jobs"),
        ("get_job", "job 7"),
        ("cancel_job", "cancel-job 7"),
        ("retry_job", "retry-job 7"),
        ("list_events", "events"),
        ("list_audit_log", "audit"),
        ("get_metrics", "metrics"),
        ("list_join_tokens", "token list --join"),
        ("create_join_token", "token create --role machine"),
        ("revoke_join_token", "token revoke --join 7"),
        ("list_api_tokens", "token list"),
        ("create_api_token", "token create --role viewer"),
        ("revoke_api_token", "token revoke 7"),
        ("list_webhooks", "webhook list"),
        ("get_webhook", "webhook show 7"),
        ("create_webhook", "webhook create https://pager.example --label pager"),
        ("delete_webhook", "webhook delete 7"),
        ("test_webhook", "webhook test 7"),
        ("list_deliveries", "webhook deliveries 7"),
        ("get_session", "whoami"),
        ("create_login_code", "login-code"),
        ("get_overview", "overview"),
        ("get_vault_keys", "vault-keys"),
        ("get_history", "history"),
        ("get_stream", "stream --count 1"),
        ("list_faults", "chaos list"),
        ("arm_fault", "chaos arm --process config-server {}"),
        ("disarm_fault", "chaos disarm 7"),
        ("get_health", "health"),
        ("get_version", "version"),
        ("get_openapi", "openapi"),
    ];
    let words = |text: &'static str| text.split(' ').map(|word| if word == "ID" { ID } else { word }).collect();
    rows.into_iter().map(|(operation, text)| (operation, words(text))).collect()
}

/// Answers everything, and notes method and path of each request.
struct Notes {
    address: String,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Notes {
    fn take() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &notes);
            }
        });
        Self { address, seen }
    }
}

fn answer(stream: TcpStream, notes: &Mutex<Vec<(String, String)>>) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    let mut bytes = 0;
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            bytes = length.trim().parse().expect("a length");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; bytes]).expect("a body");
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    notes.lock().expect("not poisoned").push((method.to_owned(), path.to_owned()));
    let (kind, body) = match path.ends_with("/stream") {
        true => ("text/event-stream", "id: 1-1\nevent: overview\ndata: {}\n\n".to_owned()),
        false => {
            let all = json!({ "id": "7", "state": "done", "etag": "\"1\"", "items": [], "next_cursor": null,
                "path": "/", "policy": { "wanted": {} } });
            ("application/json", all.to_string())
        }
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // A client that has what it wanted may be gone.
    let _ = reader.get_mut().write_all((head + &body).as_bytes());
}

#[derive(Parser)]
struct Shell {
    #[command(flatten)]
    ctl: CtlArgs,
}

fn parsed(words: &[&str]) -> CtlCommand {
    let shell = Shell::try_parse_from([&["ctl"], words].concat());
    shell.unwrap_or_else(|error| panic!("{words:?}: {error}")).ctl.command
}

/// Whether a request is one of the operation at this pattern.
fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let same = |(part, segment): (&&str, &&str)| part == segment || part.starts_with('{') && !segment.is_empty();
    pattern.len() == path.len() && pattern.iter().zip(&path).all(same)
}

#[test]
fn every_documented_operation_has_a_verb_that_asks_for_it_or_a_reason_to_have_none() {
    let notes = Notes::take();
    let profile = Profile {
        server: format!("http://{}", notes.address),
        token: "t".into(),
        authority_pem: None,
        ca_fingerprint: None,
    };
    let client = client::of_profile(&profile).unwrap_or_else(|failure| panic!("{}", failure.text));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let verbs = verbs();
    let document = serde_json::to_value(farshore_web::openapi::document()).expect("JSON");
    let mut operations = 0;
    for (method, pattern) in farshore_web::openapi::operations() {
        let operation = document["paths"][pattern][method.to_lowercase()]["operationId"].as_str().expect("a name");
        operations += 1;
        if WITHOUT.iter().any(|(without, _)| *without == operation) {
            continue;
        }
        let words = verbs.get(operation).unwrap_or_else(|| panic!("{operation} has no verb, and no reason for that"));
        notes.seen.lock().expect("not poisoned").clear();
        let done = runtime.block_on(perform(&client, &parsed(words), true));
        done.unwrap_or_else(|failure| panic!("{words:?}: {}", failure.text));
        let seen = notes.seen.lock().expect("not poisoned").clone();
        assert!(
            seen.iter().any(|(sent, path)| sent == method && fits(pattern, path)),
            "{operation}: {words:?} {seen:?}"
        );
    }
    assert_eq!(operations, verbs.len() + WITHOUT.len(), "no verb is listed for an operation that is not there");
}
