//! The whole installation with its vault in Azure's emulator: the same promises as in a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::azurite::{ACCOUNT, Azurite, KEY};
use crate::cluster::{Load, Machine, Site, check};
use crate::rig::{Rig, eventually};

const MIB: u64 = 1 << 20;

/// Settings for a vault in the emulator; the account key lies in a file of its own.
fn settings(rig: &Rig, azurite: &Azurite, url: &str) -> PathBuf {
    let (key, file) = (rig.path("account.key"), rig.path("azure.toml"));
    fs::write(&key, KEY).expect("write the account key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    let text = format!(
        "[vault]\nurl = \"{url}\"\nendpoint = \"{}\"\n[vault.azure]\nauth = \"shared-key\"\n\
         account_key_file = \"{}\"\n[log]\nlevel = \"debug\"\n",
        azurite.endpoint(),
        key.display()
    );
    fs::write(&file, text).expect("write the settings");
    file
}

#[test]
fn a_vault_in_azure_outlives_kills_of_the_servers_and_restores_from_the_container_alone() {
    let rig = Rig::new();
    let Some(azurite) = Azurite::start("azure::a_vault_in_azure") else { return };
    let url = format!("azblob://{ACCOUNT}/vault/site-a");
    let config = settings(&rig, &azurite, &url);
    let config = config.to_str().expect("text");
    let mut site = Site::up(&rig, &["--config", config]);
    let mut machine = Machine::new(&rig, "cloudy", &[("a", 32 * MIB, 512), ("b", 32 * MIB, 4096)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);

    let load = Load::start(&rig, &machine, 8, 5, 200);
    for _ in 0..2 {
        let committed = || machine.status(&rig).ok().and_then(|status| status["committed"].as_u64()).unwrap_or(0);
        let before = committed();
        eventually("commits to go on", || if committed() > before { Ok(()) } else { Err("none yet".into()) });
        site.up.take().expect("a running server").kill();
        site.start_again(&rig);
    }
    let journal = load.finish();
    machine.settled(&rig);
    assert!(site.points(&rig, "cloudy").len() >= 2, "points are listed by the servers");
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();
    assert!(!site.state.join("vault").exists(), "nothing went into a folder");

    // The container and the vault key are all that is used from here on.
    let key = rig.path("key");
    fs::rename(site.state.join("vault.key"), &key).expect("take the key away");
    let at = ["--config", config, "--vault", &url, "--key-file", key.to_str().expect("text")];
    rig.farshore_ok(&[&["vault", "verify"][..], &at].concat());
    let listed = rig.farshore_json(&[&["vault", "ls", "--json", "--machine", "cloudy"][..], &at].concat());
    assert!(listed.as_array().is_some_and(|points| points.len() >= 2), "{listed:?}");
    let to = rig.path("restored");
    let what = ["--machine", "cloudy", "--to", to.to_str().expect("text")];
    rig.farshore_ok(&[&["vault", "restore"][..], &at, &what].concat());
    let image = |disk: &str| (disk.to_owned(), to.join(format!("{disk}.raw")).display().to_string());
    check(&rig, &journal, &[image("a"), image("b")], &[]);
    for disk in &machine.disks {
        let restored = fs::read(to.join(format!("{}.raw", disk.name))).expect("read the restored disk");
        assert!(restored == fs::read(&disk.image).expect("read the source"), "the newest point equals {}", disk.name);
    }

    // A wrong account key is a refusal, and the right one is in no log.
    let log = fs::read_to_string(rig.path("up.log")).expect("read the log");
    assert!(!log.contains(KEY) && !log.contains("SharedKey devstoreaccount1:"), "a credential was logged");
    fs::write(rig.path("account.key"), "d3Jvbmc=").expect("write a wrong key");
    let output = rig.farshore(&[&["vault", "ls"][..], &at].concat());
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}
