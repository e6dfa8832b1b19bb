//! The manual's table of codes is made from the code: `FARSHORE_WRITE_DOCS=1` writes it, otherwise it must be the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use actix_web::ResponseError as _;
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_actors::control::health::CODES;
use farshore_web::problem::{Problem, RequestFault};

fn table() -> String {
    let mut text = String::from(
        "# Codes\n\nMade from the code; a test holds it. Problem documents carry `code`, `title`, `detail` and `remedy`; \
         health issues carry `code`, `severity`, `cause` and `remedy`.\n\n## Problems\n\n| code | HTTP | what happened | what \
         to do |\n|---|---|---|---|\n",
    );
    let requests = RequestFault::ALL.iter().map(|fault| Problem::of(*fault, "x"));
    let faults = FaultCode::ALL.iter().map(|code| Problem::from(Fault::new(*code, "x")));
    let mut problems: Vec<Problem> = requests.chain(faults).collect();
    problems.sort_by_key(|problem| problem.code);
    for problem in &problems {
        let Problem { code, title, remedy, .. } = problem;
        writeln!(text, "| `{code}` | {} | {title} | {remedy} |", problem.status_code().as_u16()).expect("a string");
    }
    text.push_str("\n## Health\n\n| code | about | what it means |\n|---|---|---|\n");
    for (code, about, meaning) in CODES {
        writeln!(text, "| `{code}` | {about} | {meaning} |").expect("a string");
    }
    text
}

#[test]
fn the_table_of_codes_in_the_docs_is_the_one_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/codes.md");
    if std::env::var_os("FARSHORE_WRITE_DOCS").is_some() {
        std::fs::write(&path, table()).expect("written");
    }
    let docs = std::fs::read_to_string(&path).expect("docs/codes.md is there");
    assert!(docs == table(), "docs/codes.md is not what the code says: run this test with FARSHORE_WRITE_DOCS=1");
}

#[test]
fn every_health_code_that_is_raised_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../actors/src");
    let source = |name: &str| std::fs::read_to_string(root.join(name)).expect("source");
    let health = source("control/health.rs");
    let health = health.split("#[cfg(test)]").next().unwrap_or_default();
    let listed: BTreeSet<&str> = CODES.iter().map(|(code, ..)| *code).collect();
    let raised = health.split("issue(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let raised: BTreeSet<&str> = raised.filter_map(|rest| rest.split('"').next()).collect();
    assert!(raised.len() >= 10, "{raised:?}");
    let named = source("data/events.rs") + &source("data/report.rs");
    for code in raised {
        assert!(listed.contains(code), "{code} is not in the table");
    }
    for (code, about, _) in CODES.iter().filter(|(_, about, _)| *about == "process server's machine") {
        assert!(named.contains(&format!("\"{code}\"")), "{code} ({about}) is raised nowhere");
    }
}
