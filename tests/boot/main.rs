//! A Debian guest writes to its protected root disk; its points start as machines again, from a served export and from
//! exported VHD and qcow2 files. Minutes under emulation: `make boot` brings the guest and runs it.

#[path = "../system/cluster.rs"]
#[allow(dead_code, reason = "these tests use their part")]
mod cluster;
mod guest;
#[path = "../system/rig.rs"]
#[allow(dead_code, reason = "these tests use their part")]
mod rig;

use serde_json::Value;

use cluster::{Machine, Site};
use guest::{Guest, guest_image};
use rig::{Rig, eventually};

/// Lines the guest syncs before the point is taken, and behind it.
const LINES: u64 = 5;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// Starts a guest from a point's disk and looks whether its service goes on where the point is: a second start, and
/// every line that was synced `before` the point was asked for, but none that the guest wrote behind it.
fn goes_on(rig: &Rig, name: &str, drive: &str, before: u64, behind: u64) {
    let guest = Guest::start(rig, name, drive);
    let (starts, lines) = guest.up();
    assert_eq!(starts, 2, "{name}: the guest was started once before the point");
    assert!((before..=behind).contains(&lines), "{name}: {lines} lines, and {before} to {behind} were synced");
    guest.lines(lines + LINES);
    guest.is_well();
}

#[test]
#[ignore = "minutes under emulation, and a guest: make boot"]
fn a_protected_debian_guest_starts_again_from_a_served_point_and_from_exported_disks() {
    let rig = Rig::new();
    let site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "debian", &[("root", 0, 512)]);
    std::fs::copy(guest_image(), &machine.disks[0].image).expect("give the machine its disk");
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));

    // The first replication and the guest's start go on at once: what it reads and writes is served meanwhile.
    let guest = Guest::start(&rig, "source", &format!("file={},format=raw", machine.uri("root")));
    assert_eq!(guest.up(), (1, 0), "a fresh guest");
    guest.lines(LINES);
    machine.settled(&rig);
    let before = guest.lines(LINES);
    let mark = site.ctl(&rig, &["mark", machine.name, "--label", "under way"]);
    let point = mark["mark"].as_str().or(mark["id"].as_str()).expect("a mark's id").to_owned();
    eventually("the mark to be a point", || {
        let points = site.points(&rig, machine.name);
        points.iter().any(|listed| listed["id"] == point.as_str()).then_some(()).ok_or(format!("not {point}"))
    });
    let behind = guest.lines(0);
    guest.lines(behind + LINES);
    guest.is_well();
    drop(guest);

    let failover = site.ctl(&rig, &["test-failover", "begin", machine.name, &point]);
    let uri = text(&failover["exports"][0], "uri").to_owned();
    goes_on(&rig, "test-failover", &format!("file={uri},format=raw"), before, behind);
    site.ctl(&rig, &["test-failover", "clean-up", text(&failover, "id")]);

    let (vault, key) = (site.state.join("vault"), site.state.join("vault.key"));
    for (format, driver) in [("vhd-fixed", "vpc"), ("qcow2", "qcow2")] {
        let to = rig.path(format);
        let [vault, key, folder] = [&vault, &key, &to].map(|path| path.to_str().expect("paths of the rig are text"));
        let at = ["--vault", vault, "--key-file", key, "--machine", machine.name, "--point", &point, "--to", folder];
        rig.farshore_ok(&[&["vault", "export", "--format", format][..], &at].concat());
        let files: Vec<_> = std::fs::read_dir(&to).expect("the exported files").flatten().collect();
        let file = files.iter().find(|file| file.file_name().to_string_lossy().starts_with("root."));
        let file = file.unwrap_or_else(|| panic!("no disk among {files:?}")).path();
        goes_on(&rig, format, &format!("file={},format={driver},snapshot=on", file.display()), before, behind);
    }
}
