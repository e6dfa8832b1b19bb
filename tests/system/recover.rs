//! Everything is lost but the vault and its key: the configuration server comes back, on other addresses, and protection
//! goes on.

use std::fs;
use std::path::Path;

use farshore_engine::vault::keys::parse_key_file;
use farshore_engine::vault::read::open_vault::{Credential, OpenVault};

use crate::cluster::{Load, Machine, Site};
use crate::kills::{assert_bounded_rescan, check_all, check_point};
use crate::moves::move_to;
use crate::rig::{Rig, eventually};
use crate::vaults;

const MIB: u64 = 1 << 20;

#[test]
fn with_nothing_left_but_vault_and_key_the_configuration_server_comes_back_and_protection_goes_on() {
    let rig = vaults::rig("recover");
    let (folder, key) = (rig.path("vault"), rig.path("vault.key").display().to_string());
    let vault = vaults::place(&folder);
    let at = ["--vault", &vault, "--vault-key-file", &key];
    let mut site = Site::up(&rig, &at);
    let mut machine = Machine::new(&rig, "survivor", &[("a", 48 * MIB, 512), ("b", 48 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    let journal = Load::start(&rig, &machine, 6, 17, 300).finish();
    machine.settled(&rig);
    let id = site.machine(&rig, machine.name)["id"].as_str().expect("an id").to_owned();
    let before = site.points(&rig, machine.name).len();
    wait_for_snapshot(&rig, &folder, &key, &format!("assignment/{id}"));

    // The machine with every server on it is gone; writes go on meanwhile.
    site.up.take().expect("a running server").kill();
    fs::remove_dir_all(&site.state).expect("lose the servers");
    let state = site.state.display().to_string();
    let from = ["--state-dir", &state, "--vault", &vault, "--key-file", &key];
    let said = rig.farshore_ok(&[&["config-server", "recover"][..], &from].concat());
    assert!(said.contains("machines 1"), "{said}");
    let again = rig.farshore(&[&["config-server", "recover"][..], &from].concat());
    assert_eq!(again.status.code(), Some(2), "never over what is there");

    let mut site = Site::up(&rig, &at);
    assert_eq!(site.machine(&rig, machine.name)["id"], id, "the machine is known");
    let events = site.ctl(&rig, &["events"]);
    assert!(events.to_string().contains("state_recovered"), "{events}");
    // The process server of before is gone with its cache: the new one takes the machine over.
    let server = eventually("the new process server", || {
        let listed = site.ctl(&rig, &["process-servers"]);
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let connected = items.into_iter().find(|item| item["state"] == "connected");
        connected.and_then(|item| item["id"].as_str().map(str::to_owned)).ok_or(listed.to_string())
    });
    move_to(&rig, &site, &machine, &server);
    machine.agent.take().expect("a running agent").kill();
    machine.start(&rig, &site, None);
    let status = machine.settled(&rig);
    assert_bounded_rescan(&status);
    assert_ne!(status["full_compare"], serde_json::Value::Bool(true), "no full resync: {status}");
    check_all(&rig, &site, &machine, &journal);
    let points = site.points(&rig, machine.name);
    assert!(points.len() >= before, "points of before are there: {} of {before}", points.len());
    let oldest = points.iter().rev().find(|point| point["disks"].as_array().is_some_and(|disks| disks.len() == 2));
    let oldest = oldest.expect("a whole point")["id"].as_str().expect("an id").to_owned();
    check_point(&rig, &site, &machine, &oldest, &journal, &[]);
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();
}

/// Waits until the vault's newest snapshot has a record.
fn wait_for_snapshot(rig: &Rig, folder: &Path, key_file: &str, record: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let key = parse_key_file(&fs::read_to_string(key_file).expect("a key file")).expect("a key");
    let store = vaults::store(rig, folder, runtime.handle().clone());
    let credential = Credential::Key(key);
    let opened = runtime.block_on(OpenVault::open(store, &credential)).expect("it opens");
    eventually("a snapshot of the configuration server", || {
        match runtime.block_on(opened.catalog()).map_err(|error| error.to_string())?.0 {
            Some((_, catalog)) if catalog.records.contains_key(record) => Ok(()),
            Some((generation, _)) => Err(format!("snapshot {generation} has no {record}")),
            None => Err("there is none".into()),
        }
    });
}
