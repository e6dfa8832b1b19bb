//! Negative controls: for every check of the judge, an installation with a built-in defect that this check finds. Several
//! defects that cannot hide each other share a run.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::rounds::{alone, chaos_run, read_back, report};

/// What checks of a run failed.
struct Failed(Vec<(String, String)>);

impl Failed {
    /// Runs a control's scenario with defects.
    fn of(name: &str, duration: &str, defects: &[&str]) -> Self {
        let _alone = alone();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/controls").join(format!("{name}.toml"));
        let reports = tempfile::tempdir().expect("temporary directory");
        let into = reports.path().to_str().expect("text");
        let mut more = vec!["--seed", "1", "--duration", duration, "--format", "json", "--report-dir", into];
        defects.iter().for_each(|defect| more.extend(["--defect", defect]));
        let output = chaos_run(&path, &more);
        assert_eq!(output.status.code(), Some(1), "{defects:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report = report(&output);
        assert_eq!(read_back(reports.path()), report, "what is printed is what is written");
        // A failed round is kept for a person to look at; nobody will.
        let kept = report["rounds"][0]["kept"].as_str().expect("a failed round is kept");
        std::fs::remove_dir_all(kept).expect("remove what was kept");
        let verdicts = report["rounds"][0]["verdicts"].as_array().cloned().unwrap_or_default();
        let text = |verdict: &Value, name: &str| verdict[name].as_str().unwrap_or_default().to_owned();
        let failed = verdicts.iter().filter(|verdict| verdict["passed"] == false);
        Self(failed.map(|verdict| (text(verdict, "check"), text(verdict, "detail"))).collect())
    }

    fn has(&self, check: &str, detail: &str) -> bool {
        self.0.iter().any(|(failed, found)| failed.contains(check) && found.contains(detail))
    }

    #[track_caller]
    fn names(&self, check: &str, detail: &str) {
        assert!(self.has(check, detail), "'{check}' with '{detail}' is not among {:#?}", self.0);
    }
}

fn crashes() -> &'static Failed {
    static RUN: OnceLock<Failed> = OnceLock::new();
    RUN.get_or_init(|| Failed::of("crashes", "4.5", &["m1=ack-before-activity-log", "m2=forget-activity-log"]))
}

fn all_wrong() -> &'static Failed {
    static RUN: OnceLock<Failed> = OnceLock::new();
    let defects = ["m1=fail-writes", "m2=deaf", "ps-a=flip-bits", "ps-b=flip-bits", "config=stay-down", "verify=blind"];
    RUN.get_or_init(|| Failed::of("all-wrong", "3", &defects))
}

fn stuck() -> &'static Failed {
    static RUN: OnceLock<Failed> = OnceLock::new();
    RUN.get_or_init(|| Failed::of("stuck", "4", &["ps-a=stuck-vault", "m1=panic-aside"]))
}

#[test]
fn an_agent_that_answers_before_its_activity_log_is_written_is_found_to_lose_writes() {
    crashes().names("every point of m1 is a state of its disks, and the newest lacks nothing", "violations");
    assert!(!crashes().has("every point of m2", ""), "the other machine is blameless: {:#?}", crashes().0);
}

#[test]
fn an_agent_that_forgets_its_activity_log_is_found_to_compare_its_disks_in_full() {
    crashes().names("no full resync", "m2 was compared in full");
    assert!(!crashes().has("no full resync", "m1 was compared"), "{:#?}", crashes().0);
}

#[test]
fn a_process_server_that_calls_committed_what_is_not_in_the_vault_is_found_to_lose_writes() {
    let failed = Failed::of("late-vault", "4", &["ps-a=commit-before-vault"]);
    assert!(
        failed.has("the newest lacks nothing", "") || failed.has("all that was written is committed", ""),
        "{:#?}",
        failed.0
    );
    failed.names("finds its log wrong", "log_alarm");
}

#[test]
fn an_export_whose_writes_fail_is_found_by_the_load() {
    all_wrong().names("no application write fails", "m1");
    assert!(!all_wrong().has("no application write fails", "m2: 0 writes"), "{:#?}", all_wrong().0);
}

#[test]
fn a_process_that_does_not_hear_a_stop_is_found() {
    all_wrong().names("every process stops cleanly", "m2");
}

#[test]
fn a_process_that_does_not_come_back_is_found() {
    all_wrong().names("every process comes back", "config");
}

#[test]
fn a_process_server_that_changes_bits_on_the_way_to_the_vault_is_found_by_verify() {
    all_wrong().names("the vault verifies with nothing but its key", "log/");
}

#[test]
fn a_verifier_that_sees_no_damage_is_found() {
    all_wrong().names("a changed bit in a copy of the vault is named", "");
}

#[test]
fn a_process_server_that_gets_nothing_into_the_vault_is_found_by_rpo_and_by_what_is_not_committed() {
    stuck().names("the RPO is back", "m1");
    stuck().names("all that was written is committed", "m1");
}

#[test]
fn a_panic_that_nobody_armed_is_found() {
    stuck().names("no process dies, panics", "m1: thread 'defect'");
}

#[test]
fn a_storm_that_never_escalates_is_found_to_be_missing_in_health() {
    let failed = Failed::of("storm", "4", &["ps-a=endless-patience"]);
    failed.names("restart_storm stands in health", "it was never there");
}

#[test]
fn a_storm_that_never_ends_is_found_to_stay_in_health() {
    let failed = Failed::of("storm", "4", &["ps-a=endless-rest"]);
    assert!(!failed.has("restart_storm stands in health", ""), "{:#?}", failed.0);
    failed.names("health is normal again", "restart_storm");
}
