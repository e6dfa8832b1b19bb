//! The API under generated requests, and under a thousand streams that say nothing.

use std::path::PathBuf;
use std::time::Duration;

use crate::rig::{Site, WITHIN};

/// Where scripts/setup.sh puts it.
fn schemathesis() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/venv/schemathesis/bin/schemathesis")
}

#[actix_web::test]
async fn schemathesis_finds_no_5xx_and_no_answer_that_is_not_documented() {
    let program = schemathesis();
    assert!(program.is_file(), "{} is missing: run scripts/setup.sh", program.display());
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    // A token of its own: what is generated may revoke tokens, and is slowed down where it asks too often.
    let admin = site.ask("POST", "api-tokens", serde_json::json!({ "role": "admin", "label": "fuzz" })).await;
    let token = admin.body["token"].as_str().expect("a token");
    // What is generated may remove the only process server, or take it away for a moment: 503 is the documented answer.
    let expected = "[checks.not_a_server_error]\nexpected-statuses = [\"2xx\", \"3xx\", \"4xx\", \"503\"]\n";
    std::fs::write(site.dir.path().join("schemathesis.toml"), expected).expect("written");
    let report = site.dir.path().join("report");
    let run = tokio::process::Command::new(program)
        .arg("run")
        .arg(site.url("/api/v1/openapi.json"))
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", "4", "--max-time", "60"])
        .args(["--rate-limit", "40/s", "--exclude-path", "/api/v1/stream", "--no-color"])
        .arg("--report-dir")
        .arg(&report)
        .current_dir(site.dir.path())
        .kill_on_drop(true)
        .output();
    // Bounded by its number of examples; a run that takes longer hangs.
    let said = tokio::time::timeout(Duration::from_secs(600), run).await.expect("it ends").expect("it runs");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    site.stop().await;
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

#[actix_web::test]
async fn a_thousand_idle_streams_cost_little_and_the_api_still_answers() {
    let site = Site::start().await;
    let before = resident_bytes();
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let answer = site.bare("GET", "/api/v1/stream").bearer_auth(&site.admin);
        let opened = answer.timeout(Duration::from_secs(600)).send().await.expect("an answer");
        // The rate of one caller holds for streams as well.
        if opened.status() == 429 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        assert_eq!(opened.status(), 200);
        streams.push(opened);
    }
    assert!(streams.len() >= 900, "{}", streams.len());
    let counted = format!("farshore_event_streams {}", streams.len());
    let begun = std::time::Instant::now();
    loop {
        let metrics = site.bare("GET", "/metrics").bearer_auth(&site.admin).send().await.expect("an answer");
        let text = metrics.text().await.expect("text");
        if text.contains(&counted) {
            break;
        }
        assert!(begun.elapsed() < WITHIN, "{counted} in {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Both ends of each connection are in this process.
    let grown = resident_bytes().saturating_sub(before) / streams.len() as u64;
    assert!(grown < 256 << 10, "{grown} bytes for each stream");
    for stream in &mut streams {
        let chunk = stream.chunk().await.expect("a chunk").expect("the stream goes on");
        assert!(chunk.starts_with(b"retry:"), "each is greeted");
    }
    site.stop().await;
}
