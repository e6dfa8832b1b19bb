//! Merging and retention over real processes: what is let go of is deleted, what stays is right, whatever dies when.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::{Load, Machine, Site, check};
use crate::kills::{check_all, check_point};
use crate::rig::{Rig, eventually, sized};

const MIB: u64 = 1 << 20;

/// Merges what is a few seconds old, in small steps, and deletes soon: hours of a real installation in seconds.
const HASTY: &str = "\
[retention]
ladder = [{ every_s = 0, for_s = 5 }, { every_s = 4, for_s = 3600 }]
[merging]
interval_ms = 150
grace_seconds = 1
segments = 4
[segment]
seal_interval_ms = 200
[agent]
mark_interval_ms = 300
";

/// Servers that merge in a hurry.
pub(crate) fn hasty(rig: &Rig) -> Site {
    let config = rig.path("hasty.toml");
    fs::write(&config, HASTY).expect("write the configuration");
    Site::up(rig, &["--config", config.to_str().expect("text")])
}

fn files_below(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files_below(&path, found),
            path => drop(found.insert(path)),
        }
    }
}

/// What lies in the folder of this name of the only machine's timeline.
pub(crate) fn objects(site: &Site, folder: &str) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    files_below(&site.state.join("vault/machines"), &mut all);
    all.into_iter().filter(|path| path.components().any(|part| part.as_os_str() == folder)).collect()
}

/// The objects of `before` that are gone.
pub(crate) fn gone(site: &Site, folder: &str, before: &BTreeSet<PathBuf>) -> usize {
    before.difference(&objects(site, folder)).count()
}

fn ids(points: &[Value]) -> Vec<String> {
    points.iter().map(|point| point["id"].as_str().expect("a point's id").to_owned()).collect()
}

fn is_of_both(point: &Value) -> bool {
    point["disks"].as_array().is_some_and(|disks| disks.len() == 2)
}

// I7
#[test]
fn what_retention_keeps_is_right_while_process_servers_that_merge_are_killed() {
    let rig = Rig::new();
    let mut site = hasty(&rig);
    let mut machine = Machine::new(&rig, "merged", &[("system", 32 * MIB, 512), ("data", 32 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);

    let rounds = sized(3, 40);
    let mut load = Load::start(&rig, &machine, 8 + rounds * 6, 21, 300);
    let mut deleted = 0;
    for round in 0..rounds {
        let (segments, runs) = (objects(&site, "log"), objects(&site, "runs"));
        eventually("segments to be merged and deleted under load", || {
            assert!(load.runs(), "the workload outlasts the kills:\n{}", load.log_tail());
            let gone = gone(&site, "log", &segments);
            if gone > 0 { Ok(()) } else { Err(format!("{} runs, none of {} gone", runs.len(), segments.len())) }
        });
        deleted += gone(&site, "log", &segments);
        // At another moment of its work each time.
        std::thread::sleep(std::time::Duration::from_millis(u64::from(round) * 37 % 150));
        site.up.take().expect("a running server").kill();
        site.start_again(&rig);
    }
    assert!(deleted > 0, "something was deleted");
    let journal = load.finish();
    machine.settled(&rig);

    let points = site.points(&rig, machine.name);
    let both: Vec<Value> = points.iter().filter(|point| is_of_both(point)).cloned().collect();
    assert!(both.len() >= 5, "points of both disks: {points:?}");
    check_all(&rig, &site, &machine, &journal);
    for id in ids(&both).into_iter().step_by((both.len() / sized(3, 60)).max(1)) {
        // The ladder may have let go of it since it was listed.
        if ids(&site.points(&rig, machine.name)).contains(&id) {
            check_point(&rig, &site, &machine, &id, &journal, &[]);
        }
    }
    let health = site.machine(&rig, machine.name).to_string();
    assert!(!health.contains("merging_"), "merging is well: {health}");
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();
    points_offline(&rig, &site, &machine, &journal);
}

/// Serves a point; gives its number and where its disks are.
fn serve(rig: &Rig, site: &Site, machine: &Machine, point: &str) -> (String, Vec<(String, String)>) {
    let served = site.ctl(rig, &["serve", machine.name, point, "--read-only"]);
    let exports = served["exports"].as_array().unwrap_or_else(|| panic!("no exports in {served}"));
    let field = |export: &Value, name: &str| export[name].as_str().expect("text").to_owned();
    let sources = exports.iter().map(|export| (field(export, "name"), field(export, "uri"))).collect();
    (served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned), sources)
}

// I7
#[test]
fn a_served_point_and_a_held_one_stay_right_while_retention_and_merging_run_over_them() {
    let rig = Rig::new();
    let mut site = hasty(&rig);
    let mut machine = Machine::new(&rig, "served", &[("system", 32 * MIB, 512), ("data", 32 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    let mut load = Load::start(&rig, &machine, sized(40, 300), 5, 300);
    // Three that follow each other within one step of the ladder: it keeps one of them at most.
    let three = eventually("three points of both disks", || {
        let points: Vec<Value> = site.points(&rig, machine.name).into_iter().filter(is_of_both).collect();
        let newest = points.get(..3).ok_or_else(|| format!("{} points", points.len()))?;
        Ok(ids(newest))
    });
    let (id, sources) = serve(&rig, &site, &machine, &three[0]);
    let held = site.ctl(&rig, &["hold", "add", machine.name, &three[1], "--reason", "the one to keep"]);
    assert_eq!(held["kind"], "hold", "{held}");
    let holds = site.ctl(&rig, &["hold", "list", machine.name]);
    let kinds: BTreeSet<&str> =
        holds["items"].as_array().expect("holds").iter().filter_map(|hold| hold["kind"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["hold", "reader"]), "{holds}");

    let segments = objects(&site, "log");
    eventually("every segment from before to be deleted", || {
        assert!(load.runs(), "the workload outlasts the merges:\n{}", load.log_tail());
        // The log's beginning, and fences, stay.
        match gone(&site, "log", &segments) + 2 {
            gone if gone >= segments.len() => Ok(()),
            gone => Err(format!("{gone} of {}", segments.len())),
        }
    });
    let listed = ids(&site.points(&rig, machine.name));
    assert!(listed.contains(&three[0]) && listed.contains(&three[1]), "both are still points: {listed:?}");
    let journal = load.journal.clone();
    let finished = load.finish();
    assert_eq!(finished, journal);
    check(&rig, &journal, &sources, &[]);
    check_point(&rig, &site, &machine, &three[1], &journal, &[]);

    let plan = site.ctl(&rig, &["retention", machine.name, "--ladder", "all:1s"]);
    assert!(plan["dropped"].as_u64() > Some(0), "a shorter ladder would let go of some: {plan}");
    assert!(plan["runs"].as_u64() > Some(0), "{plan}");
    site.ctl(&rig, &["unserve", &id]);
    site.ctl(&rig, &["hold", "release", machine.name, held["id"].as_str().expect("an id")]);
    eventually("nothing to be held any more", || {
        let holds = site.ctl(&rig, &["hold", "list", machine.name]);
        if holds["items"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(holds.to_string()) }
    });
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();
    points_offline(&rig, &site, &machine, &journal);
}

/// With the vault and the key alone: verify finds nothing, and points from all of the history are states that were.
pub(crate) fn points_offline(rig: &Rig, site: &Site, machine: &Machine, journal: &Path) {
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (vault, key) = (text(&site.state.join("vault")), text(&site.state.join("vault.key")));
    let at = ["--vault", &vault, "--key-file", &key];
    rig.farshore_ok(&[&["vault", "verify"][..], &at].concat());
    let listed = rig.farshore_json(&[&["vault", "ls", "--json", "--machine", machine.name][..], &at].concat());
    let points = listed.as_array().expect("points").clone();
    let both: Vec<&Value> = points.iter().filter(|point| is_of_both(point)).collect();
    assert!(!both.is_empty(), "{points:?}");
    for point in both.iter().step_by((both.len() / sized(3, 60)).max(1)) {
        let to = rig.path("restored");
        let id = point["id"].as_str().expect("a point's id");
        let what = ["--machine", machine.name, "--point", id, "--to", to.to_str().expect("text")];
        rig.farshore_ok(&[&["vault", "restore"][..], &at, &what].concat());
        let image = |disk: &str| (disk.to_owned(), to.join(format!("{disk}.raw")).display().to_string());
        check(rig, journal, &machine.disks.iter().map(|disk| image(disk.name)).collect::<Vec<_>>(), &[]);
        fs::remove_dir_all(&to).expect("clean up");
    }
}
