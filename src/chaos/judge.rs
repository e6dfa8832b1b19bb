//! The checks of a run, each with a verdict. Every one of them has a negative control in tests/chaos.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use farshore_actors::supervise::wall_clock;
use farshore_engine::ids::Timestamp;
use farshore_engine::nbd::NbdUri;
use farshore_engine::oracle::check::Subject;
use farshore_engine::oracle::image::NbdImage;
use farshore_engine::oracle::{Bounds, History, check};
use serde_json::Value;

use super::damage::files;
use super::run::{NoReport, Run, Stood};
use super::site::Kind;

/// Violations told of one point.
const TOLD_MAX: usize = 5;

/// The RPO of every machine comes back under its bound in time.
pub(super) fn rpo(run: &mut Run<'_>) -> Result<(), NoReport> {
    let expect = run.order.scenario.expect.clone();
    let begun = Instant::now();
    let within = Duration::from_secs_f64(expect.within_seconds);
    let mut last = String::from("it was never told");
    let back = run.wait(within, |run| {
        let machines = match run.site.ctl(&["machines"]) {
            Ok(machines) => machines,
            Err(why) => {
                last = why;
                return Ok(None);
            }
        };
        let items = machines["items"].as_array().cloned().unwrap_or_default();
        let all: Vec<(String, Option<f64>)> = items
            .iter()
            .map(|item| (item["name"].as_str().unwrap_or("?").to_owned(), item["rpo_seconds"].as_f64()))
            .collect();
        let show = |rpo: &Option<f64>| rpo.map_or("none yet".into(), |rpo| format!("{rpo:.1} s"));
        let shown: Vec<String> = all.iter().map(|(name, rpo)| format!("{name} {}", show(rpo))).collect();
        last = shown.join(", ");
        let fine = |rpo: &Option<f64>| rpo.is_some_and(|rpo| rpo <= expect.rpo_seconds);
        Ok((all.len() == run.site.names(Kind::Agent).len() && all.iter().all(|(_, rpo)| fine(rpo))).then_some(()))
    })?;
    let check = format!("the RPO is back under {} s within {} s", expect.rpo_seconds, expect.within_seconds);
    run.found(&check, back.is_some(), format!("{last}, after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Everything that was written is committed, and no disk has a gap.
pub(super) fn settled(run: &mut Run<'_>) -> Result<(), NoReport> {
    let (begun, patience) = (Instant::now(), run.patience());
    let done = run.all_committed(patience)?;
    let took = format!("after {:.1} s", begun.elapsed().as_secs_f64());
    let (fine, detail) = match done {
        Ok(()) => (true, took),
        Err(why) => (false, format!("not {took}: {why}")),
    };
    run.found("all that was written is committed and no gap stays open", fine, detail);
    Ok(())
}

/// What should have been seen was, and is over.
pub(super) fn issues(run: &mut Run<'_>) -> Result<(), NoReport> {
    let (wanted, stand) = (run.order.scenario.expect.seen.clone(), run.order.scenario.expect.health.clone());
    if wanted.is_empty() && stand.is_empty() {
        return Ok(());
    }
    stood(run, &stand);
    let missing: Vec<String> = wanted.iter().filter(|code| !run.seen.contains(*code)).cloned().collect();
    let seen: Vec<&str> = run.seen.iter().map(String::as_str).collect();
    let detail = format!("missing: {}; seen: {}", missing.join(", "), seen.join(", "));
    run.found("what is broken is visible in health or events", missing.is_empty(), detail);
    let mut left = Vec::new();
    let patience = run.patience();
    let over = run.wait(patience, |run| {
        left.clear();
        for list in ["machines", "process-servers"] {
            let Ok(listed) = run.site.ctl(&[list]) else { return Ok(None) };
            for item in listed["items"].as_array().cloned().unwrap_or_default() {
                let issues = item["health"]["issues"].as_array().cloned().unwrap_or_default();
                left.extend(issues.iter().map(|issue| format!("{}: {}", item["name"], issue["code"])));
            }
        }
        Ok(left.is_empty().then_some(()))
    })?;
    run.found("health is normal again once it is over", over.is_some(), left.join(", "));
    Ok(())
}

/// Each of these stood in health, and the operator was told why and what to do.
fn stood(run: &mut Run<'_>, codes: &[String]) {
    for code in codes {
        let (fine, detail) = match run.stood.get(code) {
            None => (false, "it was never there".to_owned()),
            Some(Stood { of, from, until, cause, remedy }) => (
                !cause.is_empty() && !remedy.is_empty(),
                format!("at {of}, from {from:.1} s to {until:.1} s; cause: {cause}; remedy: {remedy}"),
            ),
        };
        run.found(&format!("{code} stands in health with cause and remedy"), fine, detail);
    }
}

/// No disk was compared in full, and what was read again was hot. // I5
pub(super) fn resync(run: &mut Run<'_>) {
    run.look_at_agents();
    let (mut fine, mut details) = (true, Vec::new());
    for machine in run.site.names(Kind::Agent) {
        let status = run.site.status(&machine).unwrap_or_default();
        let sum = |name: &str| -> u64 {
            status["disks"].as_array().map_or(0, |disks| disks.iter().filter_map(|disk| disk[name].as_u64()).sum())
        };
        let (again, hot) = (sum("rescanned_bytes"), sum("hot_bytes_at_start"));
        let lost = sum("lost_writes");
        // Writes that the ladder lost are read again beside what was hot.
        fine &= again <= hot || lost > 0;
        details.push(format!("{machine}: {} KiB read again, {} KiB were hot", again >> 10, hot >> 10));
    }
    if !run.order.scenario.expect.full_resync {
        fine &= run.compared.is_empty();
        details.extend(run.compared.iter().map(|machine| format!("{machine} was compared in full")));
    }
    run.found("no full resync, and only hot regions are read again", fine, details.join("\n"));
}

/// The newest state and points in between are states that the disks could have been in. // I2, I3
pub(super) fn points(run: &mut Run<'_>) -> Result<(), NoReport> {
    let acked_before = wall_clock();
    for machine in run.site.names(Kind::Agent) {
        let wanted = run.order.scenario.expect.points;
        let disks = run.site.disks().len();
        let listed = newest_points(run, &machine)?;
        let all = listed["items"].as_array().cloned().unwrap_or_default();
        let whole: Vec<&Value> =
            all.iter().filter(|point| point["disks"].as_array().is_some_and(|of| of.len() == disks)).collect();
        let step = (whole.len() / wanted.max(1)).max(1);
        let ids = whole.iter().step_by(step).take(wanted).filter_map(|point| point["id"].as_str().map(str::to_owned));
        let mut chosen: Vec<(String, Option<Timestamp>)> = vec![("latest".into(), Some(acked_before))];
        chosen.extend(ids.map(|id| (id, None)));
        let (mut fine, mut details) = (true, vec![format!("{} points, {} of every disk", all.len(), whole.len())]);
        for (point, acked_before) in chosen {
            run.site.upkeep()?;
            match judge_point(run, &machine, &point, acked_before) {
                Ok(detail) => details.push(detail),
                Err(why) => {
                    fine = false;
                    details.push(format!("point {point}: {why}"));
                }
            }
        }
        let check = format!("every point of {machine} is a state of its disks, and the newest lacks nothing");
        run.found(&check, fine, details.join("\n"));
    }
    Ok(())
}

/// The points of a machine, as soon as the newest is the end of its log: of what was written last, the mark comes up to an
/// interval later. Those that there are, where that takes too long.
fn newest_points(run: &mut Run<'_>, machine: &str) -> Result<Value, NoReport> {
    let (mut listed, patience) = (Value::Null, run.patience());
    run.wait(patience, |run| {
        listed = run.site.ctl(&["points", machine]).unwrap_or_default();
        let newest =
            listed["items"].as_array().and_then(|points| points.iter().filter_map(|p| p["lsn"].as_u64()).max());
        let end = run.site.status(machine).ok().and_then(|status| status["last_lsn"].as_u64());
        Ok((newest.is_some() && newest >= end).then_some(()))
    })?;
    Ok(listed)
}

fn judge_point(run: &Run<'_>, machine: &str, point: &str, acked_before: Option<Timestamp>) -> Result<String, String> {
    let served = run.site.ctl(&["serve", machine, point, "--read-only"])?;
    let judged = judge_served(run, machine, &served, acked_before);
    let id = served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned);
    let ended = run.site.ctl(&["unserve", &id]).map(drop);
    judged.and_then(|detail| ended.map(|()| detail))
}

fn judge_served(
    run: &Run<'_>,
    machine: &str,
    served: &Value,
    acked_before: Option<Timestamp>,
) -> Result<String, String> {
    let history = History::read(&run.site.path(&format!("{machine}.journal"))).map_err(|error| error.to_string())?;
    let exports = served["exports"].as_array().cloned().unwrap_or_default();
    let mut images = Vec::new();
    for disk in history.disks() {
        let export = exports.iter().find(|export| export["name"] == disk.name.as_str());
        let uri = export.and_then(|export| export["uri"].as_str()).ok_or(format!("no export of {}", disk.name))?;
        let uri: NbdUri = uri.parse().map_err(|error| format!("{uri}: {error}"))?;
        images.push(NbdImage::connect(&uri).map_err(|error| format!("connect to {uri}: {error}"))?);
    }
    let mut subjects: Vec<Subject<'_>> = images.iter_mut().map(|image| Subject { image, base: None }).collect();
    let bounds = Bounds { acked_before, ..Bounds::default() };
    let findings = check(&history, &mut subjects, &bounds).map_err(|error| error.to_string())?;
    if findings.is_consistent() {
        return Ok(format!(
            "up to write {} of {}: {} writes required, all there",
            findings.cut_seq,
            history.write_count(),
            findings.required_writes
        ));
    }
    let told: Vec<String> = findings.violations.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    Err(format!("{} violations:\n{}", findings.violation_count, told.join("\n")))
}

/// The vault verifies, and a copy of it in which one bit is changed does not: the object is named.
pub(super) fn vault(run: &mut Run<'_>) -> Result<(), NoReport> {
    let (vault, key) = (run.site.path("config/vault"), run.site.path("config/vault.key"));
    let verify = |run: &Run<'_>, vault: &Path| {
        let (vault, key) = (vault.display().to_string(), key.display().to_string());
        run.site.run(&["vault", "verify", "--vault", &vault, "--key-file", &key, "--json"])
    };
    let (sound, text, said) = verify(run, &vault)?;
    run.found(
        "the vault verifies with nothing but its key",
        sound,
        if sound { said } else { format!("{said}\n{text}") },
    );
    let copy = run.site.path("damaged");
    let failed = |error: std::io::Error| NoReport::Broken(format!("copy the vault: {error}"));
    copy_dir(&vault, &copy).map_err(failed)?;
    let mut objects = files(&copy.join("machines")).map_err(failed)?;
    objects.retain(|path| path.parent().is_some_and(|dir| dir.ends_with("log")));
    let Some(object) = objects.get(run.order.seed as usize % objects.len().max(1)) else {
        run.found("a changed bit is named", false, "the vault holds no segment");
        return Ok(());
    };
    let mut bytes = fs::read(object).map_err(failed)?;
    let at = (run.order.seed as usize).wrapping_mul(7919) % bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (run.order.seed % 8);
    }
    fs::write(object, &bytes).map_err(failed)?;
    let name = object.strip_prefix(&copy).unwrap_or(object).display().to_string();
    let (sound, text, _) = verify(run, if run.site.blind { &vault } else { &copy })?;
    let named = !sound && text.contains(&name);
    run.found("a changed bit in a copy of the vault is named", named, format!("byte {at} of {name}"));
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// No process ended, panicked or raised an alarm by itself.
pub(super) fn processes(run: &mut Run<'_>) {
    let mut troubles = run.site.troubles.clone();
    for kind in [Kind::Config, Kind::Server, Kind::Agent] {
        for name in run.site.names(kind) {
            let bytes = fs::read(run.site.path(&format!("{name}.log"))).unwrap_or_default();
            troubles.extend(alarms(&String::from_utf8_lossy(&bytes)).map(|alarm| format!("{name}: {alarm}")));
        }
    }
    run.found("no process dies, panics or finds its log wrong", troubles.is_empty(), troubles.join("\n"));
}

/// Lines that no healthy process writes, whatever is done to it: panics that nobody armed, and logs that are not what was
/// written.
fn alarms(log: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = log.lines().collect();
    let armed = |at: usize| lines[at..].iter().take(2).any(|line| line.contains("chaos: a panic was armed"));
    let panics = (0..lines.len()).filter(|at| lines[*at].contains("panicked at") && !armed(*at));
    let mut found: Vec<String> =
        panics.map(|at| lines[at..].iter().take(2).copied().collect::<Vec<_>>().join(" ")).collect();
    found.extend(lines.iter().filter(|line| line.contains("log_alarm")).map(|line| (*line).to_owned()));
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_that_nobody_armed_are_alarms() {
        let armed = "thread 'x' panicked at a.rs:1:2:\nchaos: a panic was armed for this Disk\n";
        assert_eq!(alarms(armed).count(), 0);
        assert_eq!(alarms("thread 'x' panicked at a.rs:1:2:\nindex out of bounds\n").count(), 1);
        assert_eq!(alarms("ERRO the log ends at LSN 3, code: log_alarm\n").count(), 1);
    }
}
