//! Each role in a process of its own: a configuration server without a process server, two process servers, an agent.

use serde_json::Value;

use crate::cluster::{Load, Machine, Site};
use crate::kills::check_all;
use crate::moves::{Server, move_to, owner};
use crate::rig::eventually;
use crate::vaults;

const MIB: u64 = 1 << 20;

#[test]
fn a_configuration_server_alone_protects_moves_and_restarts_while_others_go_on() {
    let rig = vaults::rig("roles");
    let mut site = Site::config_server(&rig);
    let mut servers = [Server::join(&rig, &site, "ps-a"), Server::join(&rig, &site, "ps-b")];
    let mut machine = Machine::new(&rig, "apart", &[("data", 32 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);

    let load = Load::start(&rig, &machine, 20, 41, 200);
    let committed = || machine.status(&rig).ok().and_then(|status| status["committed"].as_u64()).unwrap_or(0);
    let advances = |what: &str| {
        let before = committed();
        eventually(what, || if committed() > before + 50 { Ok(()) } else { Err(format!("at {before}")) });
    };
    advances("commits before the move");
    let first = servers.iter().position(|server| server.id == owner(&rig, &site, &machine).0).expect("one of the two");
    move_to(&rig, &site, &machine, &servers[1 - first].id);
    advances("commits at the target");

    // Replication needs no configuration server; one that comes back finds everybody again.
    site.up.take().expect("a running configuration server").stop();
    advances("commits without a configuration server");
    site.start_again(&rig);
    eventually("both process servers to be back", || {
        let listed = site.ctl(&rig, &["process-servers"]);
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let connected = items.iter().filter(|item| item["state"] == "connected").count();
        if connected == 2 { Ok(()) } else { Err(listed.to_string()) }
    });
    move_to(&rig, &site, &machine, &servers[first].id);
    advances("commits at home again");
    let journal = load.finish();
    let status = machine.settled(&rig);
    assert_ne!(status["full_compare"], Value::Bool(true), "no full resync: {status}");
    check_all(&rig, &site, &machine, &journal);

    // Under load, whoever is stopped is gone within ten seconds: `stop` asserts it.
    let _load = Load::start(&rig, &machine, 60, 43, 400);
    advances("commits under load");
    servers[first].process.take().expect("a running process server").stop();
    site.up.take().expect("a running configuration server").stop();
    machine.agent.take().expect("a running agent").stop();
    servers[1 - first].process.take().expect("a running process server").stop();
}
