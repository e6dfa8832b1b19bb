//! What goes wrong on the outside: a clear word that says what to do, and nothing lost. // I9

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Load, Machine, Site};
use crate::kills::check_all;
use crate::rig::{Rig, eventually};
use crate::vaults;

const MIB: u64 = 1 << 20;

fn event(rig: &Rig, site: &Site, code: &str, part: &str) -> Value {
    eventually("the event", || {
        let events = site.ctl(rig, &["events", "--limit", "500"]);
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let text = |event: &Value| event["text"].as_str().is_some_and(|text| text.contains(part));
        let found = items.iter().find(|event| event["code"] == code && text(event)).cloned();
        found.ok_or_else(|| format!("no '{code}' with '{part}': {items:?}"))
    })
}

/// The command ends with `exit`, and says all of `parts`.
fn refused(rig: &Rig, args: &[&str], exit: i32, parts: &[&str]) {
    let output = rig.farshore(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "{args:?} says nothing of '{part}': {said}"));
}

#[test]
fn disks_that_vanish_are_told_of_and_the_machines_other_disks_go_on() {
    let rig = vaults::rig("bad_input");
    let site = Site::up(&rig, &[]);
    let disks = [("stays", 16 * MIB, 512), ("deleted", 16 * MIB, 512), ("cut", 16 * MIB, 4096)];
    let mut machine = Machine::new(&rig, "loses / disks", &disks);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);

    let image = |name: &str| machine.disks.iter().find(|disk| disk.name == name).expect("a disk").image.clone();
    fs::remove_file(image("deleted")).expect("delete a disk");
    let cut = fs::OpenOptions::new().write(true).open(image("cut")).expect("open a disk");
    cut.set_len(MIB).expect("cut a disk");
    let told = event(&rig, &site, "disk_missing", "was deleted");
    let text = told["text"].as_str().unwrap_or_default();
    assert!(text.contains("'deleted'") && text.contains("/proc/") && text.contains("restore"), "what to do: {told}");
    let told = event(&rig, &site, "disk_missing", "of 16777216 bytes are left");
    assert!(told["text"].as_str().is_some_and(|text| text.contains("'cut'")), "{told}");
    eventually("the machine's health to say so", || {
        let shown = site.machine(&rig, machine.name);
        let issues = shown["health"]["issues"].as_array().cloned().unwrap_or_default();
        let failed = issues.iter().filter(|issue| issue["code"] == "disk_failed").count();
        if failed == 2 && shown["health"]["level"] == "critical" { Ok(()) } else { Err(shown.to_string()) }
    });

    // The third disk is protected as before.
    let rest = Machine { disks: vec![machine.disks[0].clone()], agent: None, state: machine.state.clone(), ..machine };
    let before = rest.status(&rig).expect("a status")["committed"].as_u64();
    Load::start(&rig, &rest, 2, 9, 100).finish();
    eventually("its writes to be committed", || {
        let status = rest.status(&rig)?;
        let committed = status["committed"].as_u64();
        if committed > before && committed >= status["last_lsn"].as_u64() { Ok(()) } else { Err(status.to_string()) }
    });
    let agent = machine.agent.as_mut().expect("an agent");
    assert!(agent.runs(), "the agent stays:\n{}", agent.log_tail());
    machine.agent.take().expect("an agent").kill();

    // Started again with the disk still gone, it says what to do.
    let args = machine.args(&site, None);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let gone = image_text(&machine, "deleted");
    refused(&rig, &args, 2, &["'deleted'", &gone, "restore it from a recovery point"]);
}

fn image_text(machine: &Machine, name: &str) -> String {
    let disk = machine.disks.iter().find(|disk| disk.name == name).expect("a disk");
    disk.image.display().to_string()
}

#[test]
fn a_copied_agent_stale_tokens_foreign_vaults_and_broken_files_are_refused_with_words() {
    let rig = Rig::new();
    let site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "original", &[("data", 24 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));
    machine.settled(&rig);
    let load = Load::start(&rig, &machine, 12, 17, 200);

    // A clone of the machine, with its papers, while the original runs.
    let mut clone = Machine::new(&rig, "clone", &[("data", 24 * MIB, 512)]);
    let copied = Command::new("cp").arg("-a").args([&machine.state, &clone.state]).status().expect("run cp");
    assert!(copied.success(), "copy the agent's state");
    fs::copy(&machine.disks[0].image, &clone.disks[0].image).expect("copy the disk");
    clone.start(&rig, &site, None);
    let told = event(&rig, &site, "two_agents", "enrol it with a token of its own");
    assert_eq!(told["subject"]["kind"], "machine", "{told}");
    clone.agent.take().expect("the clone's agent").kill();
    let journal = load.finish();
    machine.settled(&rig);
    check_all(&rig, &site, &machine, &journal);

    // A token whose time is over.
    let short = site.ctl(&rig, &["token", "create", "--role", "machine", "--valid-for-seconds", "1"]);
    let short = short["token"].as_str().expect("a token").to_owned();
    let late = Machine::new(&rig, "late", &[("data", MIB, 512)]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let args = late.args(&site, Some(&short));
    refused(&rig, &args.iter().map(String::as_str).collect::<Vec<_>>(), 4, &["expired", "new token"]);

    // Another installation, over this one's vault.
    let (vault, other) = (site.state.join("vault"), rig.path("other"));
    let text = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let loopback = "127.0.0.1:0";
    let args = ["up", "--state-dir", &text(&other), "--vault", &text(&vault), "--listen-management", loopback];
    let more = ["--listen-replication", loopback, "--listen-control", loopback, "--plain-http"];
    refused(&rig, &[&args[..], &more].concat(), 4, &["vault", "another installation"]);

    // Half of a configuration file, and half a sector.
    let config = rig.path("half.toml");
    fs::write(&config, "[segment]\nseal_interval_ms = 500\n[listen\nmana").expect("write half a file");
    refused(&rig, &["--config", &text(&config), "config", "check"], 2, &["half.toml"]);
    let odd = Machine::new(&rig, "odd", &[("data", MIB + 100, 512)]);
    let args = odd.args(&site, Some(&token));
    refused(
        &rig,
        &args.iter().map(String::as_str).collect::<Vec<_>>(),
        2,
        &["1048676 bytes", "multiple of its sector size"],
    );
}
