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

/// Reads a report of one round in every format, each with a reader of its own, and holds them against each other; gives what
/// the JSON says.
pub(crate) fn read_back(dir: &Path) -> Value {
    let written = |name: &str| std::fs::read_to_string(dir.join(name)).expect(name);
    let json: Value = serde_json::from_str(&written("report.json")).expect("JSON");
    let verdicts = json["rounds"][0]["verdicts"].as_array().expect("verdicts");
    let failed = verdicts.iter().filter(|verdict| verdict["passed"] == false).count();
    let text = written("report.txt");
    let lines = |mark: &str| text.lines().filter(|line| line.starts_with(mark)).count();
    assert_eq!((lines("  ok "), lines("  FAILED ")), (verdicts.len() - failed, failed), "{text}");
    assert!(text.ends_with(&format!("{} of 1 rounds passed\n", usize::from(failed == 0))), "{text}");
    let read = "import sys, xml.etree.ElementTree as e\n\
                suites = e.parse(sys.argv[1]).getroot().findall('testsuite')\n\
                cases = suites[0].findall('testcase')\n\
                assert int(suites[0].get('tests')) == len(cases)\n\
                assert int(suites[0].get('failures')) == len([c for c in cases if c.find('failure') is not None])\n\
                print(len(suites), len(cases), suites[0].get('failures'))";
    let output = Command::new("python3").args(["-c", read]).arg(dir.join("report.xml")).output().expect("run python3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.trim(), format!("1 {} {failed}", verdicts.len()), "{}", String::from_utf8_lossy(&output.stderr));
    json
}

fn full_size() -> bool {
    std::env::var_os("FARSHORE_SOAK").is_some()
}

fn rounds_hold(name: &str, quick: u64, full: u64) {
    let _alone = alone();
    let rounds = if full_size() { full } else { quick }.to_string();
    let duration = if full_size() { "20" } else { "4" };
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
    rounds_hold("mix", 2, 100);
}

#[test]
fn a_vault_that_fails_and_a_cache_that_is_full_lose_nothing() {
    rounds_hold("vault", 1, 20);
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
    assert_eq!(read_back(&reports), report, "what is printed is what is written");
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
fn a_restart_storm_escalates_stands_in_health_with_cause_and_remedy_and_ends_by_itself() {
    let _alone = alone();
    let output = chaos_run(&scenario("panics"), &["--duration", "5", "--format", "json"]);
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    let verdicts = report["rounds"][0]["verdicts"].as_array().expect("verdicts");
    let detail = |check: &str| {
        let verdict =
            verdicts.iter().find(|verdict| verdict["check"].as_str().is_some_and(|text| text.contains(check)));
        let verdict = verdict.unwrap_or_else(|| panic!("no check '{check}' in {report:#}"));
        assert_eq!(verdict["passed"], true, "{verdict}");
        verdict["detail"].as_str().expect("a detail").to_owned()
    };
    let stood = detail("restart_storm stands in health");
    assert!(
        stood.contains("Disk") && stood.contains("keeps failing") && stood.contains("remedy: It is tried"),
        "{stood}"
    );
    assert_eq!(detail("health is normal again"), "");
}

#[test]
fn bits_that_change_in_the_vault_and_caches_that_are_lost_lose_nothing() {
    rounds_hold("corrupt", 1, 20);
}

#[test]
fn processes_that_are_cut_off_the_network_lose_nothing() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "network namespaces need root");
        eprintln!("skipped without root: processes_that_are_cut_off_the_network_lose_nothing");
        return;
    }
    rounds_hold("namespaces", 1, 20);
}

#[test]
fn a_scenario_that_makes_no_sense_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("x.toml");
    std::fs::write(&path, "name = \"x\"\nabout = \"y\"\n[lod]\n").expect("write");
    let output = chaos_run(&path, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("x.toml, line 3: lod: nobody knows this key"), "{said}");
}
