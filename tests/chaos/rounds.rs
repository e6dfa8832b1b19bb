//! Scenarios of the house, one after the other: an installation wants the machine to itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// One installation at a time.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    // A test that failed holds nothing any more.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/scenarios").join(format!("{name}.toml"))
}

/// Runs `farshore chaos run` to its end.
pub(crate) fn chaos_run(scenario: &Path, more: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_farshore");
    Command::new(binary).args(["chaos", "run"]).arg(scenario).args(more).output().expect("run farshore")
}

/// The report of a run that was asked for in JSON.
pub(crate) fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn full_size() -> bool {
    std::env::var_os("FARSHORE_SOAK").is_some()
}

fn rounds_hold(name: &str, quick: u64, full: u64) {
    let _alone = alone();
    let rounds = if full_size() { full } else { quick }.to_string();
    let duration = if full_size() { "20" } else { "5" };
    let output = chaos_run(&scenario(name), &["--seed", "1", "--rounds", &rounds, "--duration", duration]);
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("{rounds} of {rounds} rounds passed")));
}

#[test]
fn everything_at_once_loses_nothing() {
    rounds_hold("mix", 3, 100);
}

#[test]
fn a_vault_that_fails_and_a_cache_that_is_full_lose_nothing() {
    rounds_hold("vault", 2, 20);
}

#[test]
fn killed_processes_lose_nothing() {
    rounds_hold("kill", 1, 20);
}

#[test]
fn clocks_that_are_wrong_lose_nothing() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("temporary directory");
    let reports = dir.path().join("reports");
    let more = ["--duration", "5", "--format", "json", "--report-dir", reports.to_str().expect("text")];
    let output = chaos_run(&scenario("clocks"), &more);
    let report = report(&output);
    assert!(output.status.success() && report["passed"] == true, "{report:#}");
    // What is printed is what is written, in every format.
    let written = |name: &str| std::fs::read_to_string(reports.join(name)).expect(name);
    assert_eq!(serde_json::from_str::<Value>(&written("report.json")).expect("JSON"), report);
    assert!(written("report.xml").contains("failures=\"0\"") && written("report.txt").contains("1 of 1 rounds passed"));
    assert!(report["rounds"][0]["schedule"].as_array().is_some_and(|schedule| !schedule.is_empty()));
}

#[test]
fn broken_networks_lose_nothing() {
    rounds_hold("partition", 1, 20);
}

#[test]
fn a_storm_of_restarts_loses_nothing_and_ends() {
    rounds_hold("storm", 1, 10);
}

#[test]
fn a_scenario_that_makes_no_sense_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("x.toml");
    std::fs::write(&path, "name = \"x\"\nabout = \"y\"\n[lod]\n").expect("write");
    let output = chaos_run(&path, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("x.toml") && said.contains("lod"), "{said}");
}
