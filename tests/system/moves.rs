//! Moves between process servers under load, with the source alive, killed, or asleep.

use crate::cluster::{Load, Machine, Site};
use crate::kills::{check_all, check_point};
use crate::rig::{Proc, Rig, eventually, sized};
use crate::vaults;

const MIB: u64 = 1 << 20;

/// A process server alone, joined to the site.
pub(crate) struct Server {
    name: String,
    pub(crate) process: Option<Proc>,
    pub(crate) id: String,
}

impl Server {
    pub(crate) fn join(rig: &Rig, site: &Site, name: &str) -> Self {
        let token = site.token(rig, "process-server");
        let mut server = Self { name: name.into(), process: None, id: String::new() };
        server.start(rig, site, Some(&token));
        server.id = eventually("the process server in the inventory", || {
            let listed = site.ctl(rig, &["process-servers"]);
            let items = listed["items"].as_array().cloned().unwrap_or_default();
            let own = items.into_iter().find(|item| item["name"] == name && item["state"] == "connected");
            own.and_then(|item| item["id"].as_str().map(str::to_owned)).ok_or(listed.to_string())
        });
        server
    }

    fn start(&mut self, rig: &Rig, site: &Site, token: Option<&str>) {
        let state = rig.path(&self.name);
        let vault = vaults::place(&site.state.join("vault"));
        let mut args = vec!["process-server", "--name", &self.name, "--state-dir", state.to_str().expect("text")];
        args.extend(["--listen-replication", "127.0.0.1:0", "--vault", &vault]);
        args.extend(["--server", &site.endpoints.control, "--ca-fingerprint", &site.endpoints.fingerprint]);
        args.extend(token.iter().flat_map(|token| ["--token", token]));
        self.process = Some(rig.start(&self.name, &args));
    }
}

pub(crate) fn owner(rig: &Rig, site: &Site, machine: &Machine) -> (String, u64) {
    let shown = site.machine(rig, machine.name);
    let assignment = &shown["assignment"];
    let server = assignment["process_server"].as_str().unwrap_or_else(|| panic!("no owner in {shown}"));
    (server.to_owned(), assignment["epoch"].as_u64().unwrap_or_else(|| panic!("no epoch in {shown}")))
}

pub(crate) fn move_to(rig: &Rig, site: &Site, machine: &Machine, target: &str) {
    let (before, epoch) = owner(rig, site, machine);
    if before == target {
        return;
    }
    site.ctl(rig, &["move", machine.name, "--to", target, "--wait"]);
    let (now, after) = owner(rig, site, machine);
    assert_eq!(now, target, "the target owns the machine");
    assert!(after > epoch, "under a higher epoch");
}

#[test]
fn moves_under_load_with_the_source_alive_or_killed_lose_nothing() {
    let rig = vaults::rig("moves");
    let mut site = Site::up(&rig, &[]);
    let mut servers = [Server::join(&rig, &site, "ps-a"), Server::join(&rig, &site, "ps-b")];
    let mut machine = Machine::new(&rig, "mover", &[("a", 48 * MIB, 512), ("b", 48 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    move_to(&rig, &site, &machine, &servers[0].id);

    let moves = sized(20, 20);
    let load = Load::start(&rig, &machine, 60, 11, 300);
    let mut at = 0;
    for round in 0..moves {
        let committed = || machine.status(&rig).ok().and_then(|status| status["committed"].as_u64()).unwrap_or(0);
        let before = committed();
        eventually("commits to advance", || if committed() > before { Ok(()) } else { Err(format!("at {before}")) });
        let to = 1 - at;
        let killed = round % 2 == 1;
        if killed {
            servers[at].process.take().expect("a running process server").kill();
        }
        move_to(&rig, &site, &machine, &servers[to].id);
        if killed {
            servers[at].start(&rig, &site, None);
        }
        at = to;
    }
    let journal = load.finish();
    let status = machine.settled(&rig);
    assert_ne!(status["full_compare"], serde_json::Value::Bool(true), "no full resync: {status}");
    check_all(&rig, &site, &machine, &journal);
    let points = site.points(&rig, machine.name);
    for point in points.iter().step_by((points.len() / 6).max(1)) {
        if point["disks"].as_array().is_some_and(|disks| disks.len() == 2) {
            check_point(&rig, &site, &machine, point["id"].as_str().expect("a point's id"), &journal, &[]);
        }
    }
    machine.agent.take().expect("a running agent").stop();
    for server in &mut servers {
        server.process.take().expect("a running process server").stop();
    }
    site.up.take().expect("a running server").stop();
}

#[test]
fn a_process_server_that_slept_through_a_move_commits_nothing() {
    let rig = vaults::rig("moves");
    let site = Site::up(&rig, &[]);
    let servers = [Server::join(&rig, &site, "ps-a"), Server::join(&rig, &site, "ps-b")];
    let mut machine = Machine::new(&rig, "sleeper", &[("a", 48 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    move_to(&rig, &site, &machine, &servers[0].id);

    let load = Load::start(&rig, &machine, 25, 5, 300);
    let committed = || machine.status(&rig).ok().and_then(|status| status["committed"].as_u64()).unwrap_or(0);
    let before = committed();
    eventually("commits to advance", || if committed() > before { Ok(()) } else { Err(format!("at {before}")) });
    let source = servers[0].process.as_ref().expect("a running process server");
    source.signal("STOP");
    move_to(&rig, &site, &machine, &servers[1].id);
    let moved_at = committed();
    eventually("commits at the target", || if committed() > moved_at { Ok(()) } else { Err(format!("at {moved_at}")) });
    source.signal("CONT");
    eventually("the source to find the fence", || {
        let log = source.log();
        if log.contains("fenced") || log.contains("Fenced") { Ok(()) } else { Err("it has not looked yet".into()) }
    });
    let journal = load.finish();
    machine.settled(&rig);
    check_all(&rig, &site, &machine, &journal);
    let (vault, key) = (vaults::place(&site.state.join("vault")), site.state.join("vault.key"));
    rig.farshore_ok(&["vault", "verify", "--vault", &vault, "--key-file", key.to_str().expect("text")]);
}
