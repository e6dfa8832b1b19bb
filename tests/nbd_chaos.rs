//! The program's own proof tool: `farshore chaos workload` and `farshore chaos check`, with real processes.

mod nbd_rig;

use std::os::unix::fs::FileExt;
use std::process::Output;

use nbd_rig::{Disk, Rig};
use serde_json::Value;

const FARSHORE: &str = env!("CARGO_BIN_EXE_farshore");

struct Chaos {
    rig: Rig,
    journal: String,
}

impl Chaos {
    fn new() -> Self {
        let rig = Rig::new(&[Disk::new("data", 4 << 20, 512), Disk::new("wal", 2 << 20, 4096)]);
        let journal = rig.path("journal").to_str().expect("a path").to_owned();
        Self { rig, journal }
    }

    fn workload(&self, more: &[&str]) -> Output {
        let (data, wal) = (self.rig.uri("data"), self.rig.uri("wal"));
        let mut args = vec!["chaos", "workload", "--nbd", &data, "--nbd", &wal, "--journal", &self.journal];
        args.extend(more);
        nbd_rig::run(FARSHORE, &args)
    }

    fn check(&self, more: &[&str]) -> Output {
        let image = |name: &str| format!("{name}={}", self.rig.image(name).display());
        let (data, wal) = (image("data"), image("wal"));
        let mut args = vec!["chaos", "check", "--journal", &self.journal, "--image", &data, "--image", &wal];
        args.extend(more);
        nbd_rig::run(FARSHORE, &args)
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_workload_is_checked_from_images_and_from_exports_and_resumed() {
    let chaos = Chaos::new();
    let output = chaos.workload(&["--writes", "600", "--flush-every", "50", "--trim-percent", "5", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert!(report["writes"].as_u64() > Some(500), "{report}");
    let output = chaos.check(&["--json", "--at-least-seq", &report["last_seq"].to_string()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["violation_count"], 0);

    let output = chaos.workload(&["--writes", "100", "--pattern", "hot"]);
    assert_eq!(output.status.code(), Some(2), "a journal is never overwritten: {output:?}");
    let output = chaos.workload(&["--writes", "100", "--pattern", "hot", "--resume"]);
    assert!(output.status.success(), "{output:?}");
    let (data, wal) = (format!("0={}", chaos.rig.uri("data")), format!("wal={}", chaos.rig.uri("wal")));
    let args = ["chaos", "check", "--journal", &chaos.journal, "--image", &data, "--image", &wal];
    let output = nbd_rig::run(FARSHORE, &args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("consistent"));
}

#[test]
fn a_tampered_image_is_refused_with_disk_block_and_reason() {
    let chaos = Chaos::new();
    let before = std::fs::read(chaos.rig.image("wal")).expect("read");
    assert!(chaos.workload(&["--writes", "400", "--blocks-max", "1"]).status.success());
    let image = std::fs::OpenOptions::new().read(true).write(true).open(chaos.rig.image("data")).expect("opens");
    let mut block = vec![0; 4096];
    let written = (0..1024).find(|number| {
        image.read_exact_at(&mut block, number * 4096).expect("read");
        block.starts_with(b"FARSHBLK")
    });
    let written = written.expect("some block was written");
    image.write_all_at(&[0xee; 512], written * 4096 + 2048).expect("torn");
    let output = chaos.check(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let violation = json(&output)["violations"][0].clone();
    assert_eq!((&violation["kind"], &violation["block"]), (&Value::from("torn"), &Value::from(written)));
    assert_eq!((&violation["disk_name"], &violation["sectors"]), (&Value::from("data"), &Value::from(vec![4])));
    image.write_all_at(&block, written * 4096).expect("healed");
    assert_eq!(chaos.check(&[]).status.code(), Some(0));

    std::fs::write(chaos.rig.image("wal"), before).expect("rolled back");
    let output = chaos.check(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("VIOLATION disk 1 (wal)") && text.contains("is lost"), "{text}");
}

#[test]
fn what_cannot_be_checked_is_a_usage_error_and_not_a_verdict() {
    let chaos = Chaos::new();
    assert!(chaos.workload(&["--writes", "10"]).status.success());
    let one = format!("0={}", chaos.rig.image("data").display());
    for args in [
        vec!["--journal", &chaos.journal, "--image", &one],
        vec!["--journal", &chaos.journal, "--image", "nonsense"],
        vec!["--journal", &chaos.journal, "--image", "9=/dev/null"],
        vec!["--journal", "/does/not/exist", "--image", &one],
        vec!["--journal", &chaos.journal, "--image", &one, "--acked-before", "yesterday"],
    ] {
        let output = nbd_rig::run(FARSHORE, &[&["chaos", "check"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
    let output = chaos.check(&["--acked-before", "2020-01-01T00:00:00Z"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
