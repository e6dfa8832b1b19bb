//! With the vault and its key alone, every retained point can be listed, verified and restored. // I11

use std::fs;

use crate::cluster::{Load, Machine, Site, check};
use crate::vaults;

const MIB: u64 = 1 << 20;

#[test]
fn the_vault_and_its_key_restore_every_point_when_every_server_is_gone() {
    let rig = vaults::rig("vault_alone");
    let mut site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "lonely", &[("a", 32 * MIB, 512), ("b", 32 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    let journal = Load::start(&rig, &machine, 8, 3, 300).finish();
    machine.settled(&rig);
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();

    // Nothing is left but the vault and the key.
    let (vault, key) = (rig.path("vault"), rig.path("key"));
    if !vaults::is_emulated() {
        fs::rename(site.state.join("vault"), &vault).expect("take the vault away");
    }
    fs::rename(site.state.join("vault.key"), &key).expect("take the key away");
    fs::remove_dir_all(&site.state).expect("lose the servers");
    fs::remove_dir_all(&machine.state).expect("lose the agent");
    let at = ["--vault", &vaults::place(&vault), "--key-file", key.to_str().expect("text")];

    rig.farshore_ok(&[&["vault", "verify"][..], &at].concat());
    let listed = rig.farshore_json(&[&["vault", "ls", "--json", "--machine", "lonely"][..], &at].concat());
    let points = listed.as_array().expect("points").clone();
    assert!(points.len() >= 4, "{listed:?}");
    for (number, point) in points.iter().enumerate() {
        if point["disks"].as_array().is_some_and(|disks| disks.len() < 2) {
            continue;
        }
        let to = rig.path(&format!("restored-{number}"));
        let id = point["id"].as_str().expect("a point's id");
        let what = ["--machine", "lonely", "--point", id, "--to", to.to_str().expect("text")];
        rig.farshore_ok(&[&["vault", "restore"][..], &at, &what].concat());
        let image = |disk: &str| (disk.to_owned(), to.join(format!("{disk}.raw")).display().to_string());
        check(&rig, &journal, &[image("a"), image("b")], &[]);
        if number == 0 {
            for disk in &machine.disks {
                let restored = fs::read(to.join(format!("{}.raw", disk.name))).expect("read the restored disk");
                let source = fs::read(&disk.image).expect("read the source");
                assert!(restored == source, "the newest point after a clean stop equals {}", disk.name);
            }
        }
        fs::remove_dir_all(&to).expect("clean up");
    }

    // The wrong key is refused as such, not taken for damage.
    let wrong = rig.path("wrong.key");
    fs::write(&wrong, format!("{}\n", "5a".repeat(32))).expect("write a key");
    let output = rig.farshore(&["vault", "ls", "--vault", at[1], "--key-file", wrong.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("key"), "the refusal names the key");
}
