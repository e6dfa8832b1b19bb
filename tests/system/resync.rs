//! An object of the vault rots, and no copy of it is left: the operator has the disks read again, and points are whole from
//! then on.

use std::fs;

use serde_json::Value;

use crate::cluster::{Load, Machine, Site, check};
use crate::kills::counter;
use crate::merging::objects;
use crate::rig::{Rig, eventually};

const MIB: u64 = 1 << 20;

#[test]
fn what_rots_in_the_vault_is_read_again_from_the_disk_on_the_operators_word() {
    let rig = Rig::new();
    let mut site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "rotten", &[("data", 32 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    let journal = Load::start(&rig, &machine, 5, 29, 300).finish();
    machine.settled(&rig);
    machine.agent.take().expect("a running agent").stop();
    // Nobody has read any of it in this life, and the machine's next life has written nothing of it.
    site.up.take().expect("a running server").stop();
    let all = objects(&site, "log");
    let largest = all.iter().max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len())).expect("segments");
    let mut bytes = fs::read(largest).expect("read an object");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(largest, bytes).expect("rot");
    site.start_again(&rig);
    machine.start(&rig, &site, None);
    machine.settled(&rig);

    let state = site.state.display().to_string();
    let at = ["--vault", &format!("{state}/vault"), "--key-file", &format!("{state}/vault.key")];
    let restore = |to: &str| {
        let to = rig.path(to).display().to_string();
        rig.farshore(&[&["vault", "restore", "--machine", machine.name, "--to", &to][..], &at].concat())
    };
    let damaged = restore("damaged");
    let said = String::from_utf8_lossy(&damaged.stderr);
    assert!(!damaged.status.success() && said.contains("checksum"), "{said}");

    site.ctl(&rig, &["resync", machine.name]);
    let status = eventually("the disk to be read again", || {
        let status = machine.status(&rig)?;
        if counter(&status, "compared_bytes") >= 32 * MIB { Ok(status) } else { Err(status.to_string()) }
    });
    let sent = counter(&status, "differing_bytes");
    assert!((1..16 * MIB).contains(&sent), "what cannot be read is sent, and not all of the disk: {sent} bytes");
    let status = machine.settled(&rig);
    eventually("a point after it", || {
        let newest = site.points(&rig, machine.name).into_iter().next().ok_or("no point")?;
        let whole = newest["lsn"].as_u64().map(|lsn| lsn + 2) >= status["committed"].as_u64();
        if whole { Ok(()) } else { Err(newest.to_string()) }
    });
    let log = machine.agent.as_ref().expect("a running agent").log();
    assert_eq!(log.matches("resync_begun").count(), 1, "{log}");
    let whole = restore("whole");
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let image = rig.path("whole").join("data.raw");
    assert!(fs::read(&image).expect("restored") == fs::read(&machine.disks[0].image).expect("the source"));
    check(&rig, &journal, &[("data".to_owned(), image.display().to_string())], &[]);

    // It is done once, also where the agent starts anew.
    machine.agent.take().expect("a running agent").stop();
    machine.start(&rig, &site, None);
    let status = machine.settled(&rig);
    assert_eq!(counter(&status, "compared_bytes"), 0, "{status}");
    let events = site.ctl(&rig, &["events"]);
    assert!(matches!(&events["items"], Value::Array(_)) && events.to_string().contains("resync_begun"), "{events}");
    machine.agent.take().expect("a running agent").stop();
    site.up.take().expect("a running server").stop();
}
