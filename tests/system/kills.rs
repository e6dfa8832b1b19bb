//! kill -9 of every process under load: nothing committed is lost, every point checks, no full resync.

use serde_json::Value;

use crate::cluster::{Load, Machine, Site, check};
use crate::rig::{Rig, eventually, sized};
use crate::vaults;

const MIB: u64 = 1 << 20;

/// Serves a point, lets the oracle judge all its disks, and cleans up.
pub(crate) fn check_point(
    rig: &Rig,
    site: &Site,
    machine: &Machine,
    point: &str,
    journal: &std::path::Path,
    more: &[&str],
) {
    let served = site.ctl(rig, &["serve", machine.name, point]);
    let exports = served["exports"].as_array().unwrap_or_else(|| panic!("no exports in {served}"));
    let sources: Vec<(String, String)> = exports
        .iter()
        .map(|export| {
            let field =
                |name: &str| export[name].as_str().unwrap_or_else(|| panic!("no {name} in {export}")).to_owned();
            (field("name"), field("uri"))
        })
        .collect();
    assert_eq!(sources.len(), machine.disks.len(), "the point shows every disk");
    check(rig, journal, &sources, more);
    let id = served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned);
    site.ctl(rig, &["unserve", &id]);
}

/// Everything acknowledged until now is in a point that is taken now: what settled may lie behind the newest mark.
pub(crate) fn check_all(rig: &Rig, site: &Site, machine: &Machine, journal: &std::path::Path) {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    let bound = since.as_micros().to_string();
    let mark = site.ctl(rig, &["mark", machine.name, "--label", "everything"]);
    let id = mark["mark"].as_str().or(mark["id"].as_str()).unwrap_or_else(|| panic!("no id in {mark}")).to_owned();
    eventually("the mark to be a point", || {
        let points = site.points(rig, machine.name);
        points.iter().any(|point| point["id"] == id.as_str()).then_some(()).ok_or_else(|| format!("not {id}"))
    });
    check_point(rig, site, machine, &id, journal, &["--acked-before", &bound]);
}

pub(crate) fn counter(status: &Value, name: &str) -> u64 {
    status["disks"].as_array().map_or(0, |disks| disks.iter().filter_map(|disk| disk[name].as_u64()).sum())
}

/// What the scanner read after the agent's last start is bounded by what was hot then. // I5
pub(crate) fn assert_bounded_rescan(status: &Value) {
    let rescanned = counter(status, "rescanned_bytes");
    let hot_at_start = counter(status, "hot_bytes_at_start");
    let disk_bytes = counter(status, "size_bytes");
    assert!(rescanned <= hot_at_start, "rescanned {rescanned} bytes, {hot_at_start} were hot: {status}");
    assert!(rescanned < disk_bytes, "no full resync: {status}");
}

#[test]
fn kill_9_of_agent_and_servers_under_load_loses_nothing_that_was_committed() {
    let rig = vaults::rig("kills");
    let mut site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "db 1/a", &[("system", 64 * MIB, 512), ("data", 64 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);

    let rounds = sized(6, 100);
    let load = Load::start(&rig, &machine, 6 + rounds * 4, 7, 400);
    for round in 0..rounds {
        let committed = |rig: &Rig| machine.status(rig).ok().and_then(|status| status["committed"].as_u64());
        let before = committed(&rig).unwrap_or(0);
        eventually("commits to advance", || match committed(&rig) {
            Some(now) if now > before => Ok(()),
            other => Err(format!("committed {other:?}, was {before}")),
        });
        if round % 3 != 1 {
            machine.agent.take().expect("a running agent").kill();
        }
        if round % 3 != 0 {
            site.up.take().expect("a running server").kill();
            site.start_again(&rig);
        }
        if machine.agent.is_none() {
            machine.start(&rig, &site, None);
            let status = eventually("a status of this life", || {
                let status = machine.status(&rig)?;
                let pid = machine.agent.as_ref().map(|agent| u64::from(agent.pid()));
                if status["pid"].as_u64() == pid { Ok(status) } else { Err("an older one".into()) }
            });
            assert_ne!(status["full_compare"], Value::Bool(true), "no full resync: {status}");
        }
    }
    let journal = load.finish();
    let status = machine.settled(&rig);
    assert_bounded_rescan(&status);

    let points = site.points(&rig, machine.name);
    let both: Vec<&Value> =
        points.iter().filter(|point| point["disks"].as_array().is_some_and(|disks| disks.len() == 2)).collect();
    assert!(both.len() >= 5, "points of both disks: {points:?}");
    check_all(&rig, &site, &machine, &journal);
    for point in both.iter().step_by(both.len() / 5) {
        check_point(&rig, &site, &machine, point["id"].as_str().expect("a point's id"), &journal, &[]);
    }
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();
}

#[test]
fn an_activity_log_that_cannot_be_trusted_ends_in_a_full_compare_that_says_why() {
    let rig = vaults::rig("kills");
    let site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "untrusted", &[("data", 32 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    Load::start(&rig, &machine, 3, 1, 200).finish();
    machine.settled(&rig);
    machine.agent.take().expect("a running agent").stop();

    let image = machine.disks[0].image.clone();
    let old_copy = rig.path("old.img");
    std::fs::copy(&image, &old_copy).expect("copy the disk");
    let activity_logs = || {
        let entries = std::fs::read_dir(&machine.state).expect("read the agent's state");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "activity")).collect::<Vec<_>>()
    };
    type Spoil<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let spoils: [Spoil<'_>; 3] = [
        (
            "activity_log_missing",
            Box::new(|| activity_logs().iter().for_each(|path| std::fs::remove_file(path).expect("delete"))),
        ),
        (
            "disk_changed_behind_agent",
            Box::new(|| {
                use std::os::unix::fs::FileExt;
                let file = std::fs::OpenOptions::new().write(true).open(&image).expect("open the disk");
                file.write_all_at(&[0xee; 4096], 16 << 20).expect("write behind the agent's back");
                file.sync_all().expect("sync");
            }),
        ),
        (
            "disk_changed_behind_agent",
            Box::new(|| assert!(std::fs::copy(&old_copy, &image).expect("roll the disk back") > 0)),
        ),
    ];
    let mut machine = Machine { agent: None, state: machine.state.clone(), disks: machine.disks.clone(), ..machine };
    for (round, (reason, spoil)) in spoils.iter().enumerate() {
        spoil();
        machine.start(&rig, &site, None);
        let status = machine.settled(&rig);
        assert_eq!(status["full_compare"], Value::Bool(true), "{reason}: {status}");
        let log = machine.agent.as_ref().expect("a running agent").log();
        assert!(log.contains("compared as a whole") && log.contains(reason), "the event says why ({reason}):\n{log}");
        // By digest: all of it was compared, and next to nothing sent.
        let (compared, sent) = (counter(&status, "compared_bytes"), counter(&status, "differing_bytes"));
        assert_eq!(compared, 32 * MIB, "{reason}: {status}");
        assert!(sent <= 64 << 10, "{sent} bytes were sent ({reason}): {status}");
        eventually("the event that says how much was sent", || {
            let log = machine.agent.as_ref().expect("a running agent").log();
            let told = log.matches("compare_ended").count();
            if told == round + 1 { Ok(()) } else { Err(format!("told {told} times:\n{log}")) }
        });
        // After it, the newest point equals the disk.
        let point = eventually("a point after the compare", || {
            let newest = site.points(&rig, machine.name).into_iter().next().ok_or("no point")?;
            let lsn = newest["lsn"].as_u64().ok_or("no LSN")?;
            if lsn + 2 >= status["committed"].as_u64().unwrap_or(u64::MAX) {
                Ok(newest)
            } else {
                Err(newest.to_string())
            }
        });
        let served = site.ctl(&rig, &["serve", machine.name, point["id"].as_str().expect("a point's id")]);
        let uri = served["exports"][0]["uri"].as_str().expect("an export").to_owned();
        crate::mounted::run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image.to_str().expect("text"), &uri]);
        let id = served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned);
        site.ctl(&rig, &["unserve", &id]);
        machine.agent.take().expect("a running agent").stop();
    }
}
