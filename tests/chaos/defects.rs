//! Negative controls: an installation with a member that does something wrong is found out, by the check that is there for it.

use serde_json::Value;

use crate::rounds::{alone, chaos_run, report, scenario};

/// Runs a scenario with a defect; gives the checks that failed, with what they found.
fn failed_checks(name: &str, duration: &str, defect: &str) -> Vec<(String, String)> {
    let _alone = alone();
    let more = ["--seed", "1", "--duration", duration, "--format", "json", "--defect", defect];
    let output = chaos_run(&scenario(name), &more);
    assert_eq!(output.status.code(), Some(1), "{defect}: {}", String::from_utf8_lossy(&output.stderr));
    let report = report(&output);
    // A failed round is kept for a person to look at; nobody will.
    let kept = report["rounds"][0]["kept"].as_str().expect("a failed round is kept");
    std::fs::remove_dir_all(kept).expect("remove what was kept");
    let verdicts = report["rounds"][0]["verdicts"].as_array().cloned().unwrap_or_default();
    let text = |verdict: &Value, name: &str| verdict[name].as_str().unwrap_or_default().to_owned();
    let failed = verdicts.iter().filter(|verdict| verdict["passed"] == false);
    failed.map(|verdict| (text(verdict, "check"), text(verdict, "detail"))).collect()
}

fn found(failed: &[(String, String)], check: &str, detail: &str) -> bool {
    failed.iter().any(|(failed, found)| failed.contains(check) && found.contains(detail))
}

#[test]
fn an_agent_that_answers_before_its_activity_log_is_written_is_found_to_lose_writes() {
    let failed = failed_checks("kill", "3", "m1=ack-before-activity-log");
    assert!(found(&failed, "the newest lacks nothing", "violations"), "{failed:#?}");
    assert!(!found(&failed, "every point of m2", ""), "the other machine is blameless: {failed:#?}");
}
