//! Restores and exports against the model of what was written.

use std::process::Command;

use super::super::test_log::{Seeded, TestLog};
use super::*;
use crate::section::WriteKind;
use crate::vault::export::FORMATS;
use rand::Rng as _;

/// One disk of 4 MiB with three points.
async fn log() -> TestLog {
    let mut log = TestLog::new(&[4 << 20]).await;
    let mut rng = Seeded::new(5);
    for _ in 0..3 {
        for _ in 0..40 {
            let byte: u8 = rng.0.random();
            log.write(0, rng.0.random_range(0..1000) * 4096, &[byte; 4096]);
            log.fill(0, rng.0.random_range(0..1000) * 4096, 4096, WriteKind::Zero);
        }
        log.mark();
        log.end_segment().await;
    }
    log
}

#[tokio::test]
async fn a_point_is_exported_in_every_format_as_the_disk_it_is() {
    let log = log().await;
    let (reader, dir) = (log.reader().await, tempfile::tempdir().expect("a directory"));
    let point = reader.newest().expect("a point");
    let raw = dir.path().join("model.raw");
    fs::write(&raw, &log.taken.last().expect("a mark").disks[&DiskNo(0)]).expect("write the model");
    for format in FORMATS {
        let to = dir.path().join(format.name());
        let plan = plan_as(&reader, point.clone(), &point.disks, &to, format).await.expect("a plan");
        plan.perform(false, &|_| ()).await.expect("it exports");
        let target = &plan.disks[0].target;
        assert_eq!(fs::metadata(target).expect("it is there").len(), plan.disks[0].file_bytes);
        assert_eq!(fs::read_dir(&to).expect("it lists").count(), 1, "nothing else is left");
        let name = if format.extension() == "vhd" { "vpc" } else { format.extension() };
        let compare = ["compare", "-f", name, "-F", "raw", target.to_str().expect("text"), raw.to_str().expect("text")];
        match Command::new("qemu-img").args(compare).output() {
            Ok(output) => assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stdout)),
            Err(_) => assert!(std::env::var_os("CI").is_none(), "qemu-img is needed: scripts/setup.sh"),
        }
    }
}

#[tokio::test]
async fn an_interrupted_restore_goes_on_where_its_note_says() {
    let log = log().await;
    let (reader, dir) = (log.reader().await, tempfile::tempdir().expect("a directory"));
    let point = reader.newest().expect("a point");
    let model = &log.taken.last().expect("a mark").disks[&DiskNo(0)];
    let plan = plan(&reader, point.clone(), &point.disks, dir.path()).await.expect("a plan");
    let half = 2_u64 << 20;

    // What a killed restore leaves. Its first half is told apart from what would be written again.
    let mut left = Partial::open(&plan.disks[0].target, plan.identity(&plan.disks[0])).expect("made");
    left.write(0, &vec![0xee; half as usize]).expect("written");
    left.note(half).expect("noted");
    assert!(matches!(plan.perform(false, &|_| ()).await, Err(RestoreError::Busy(_))), "it still runs");
    drop(left);

    let seen = parking_lot::Mutex::new(Vec::new());
    plan.perform(false, &|at| seen.lock().push(at)).await.expect("it goes on");
    assert_eq!(seen.lock().last().map(|at| at.bytes_done), Some(plan.data_bytes()), "what was done counts");
    let restored = fs::read(&plan.disks[0].target).expect("it is there");
    assert!(restored[..half as usize].iter().all(|byte| *byte == 0xee), "the first half was not done again");
    assert!(restored[half as usize..] == model[half as usize..]);
    assert_eq!(fs::read_dir(dir.path()).expect("it lists").count(), 1, "no note and no part is left");
}

#[tokio::test]
async fn what_another_points_restore_left_counts_for_nothing() {
    let log = log().await;
    let (reader, dir) = (log.reader().await, tempfile::tempdir().expect("a directory"));
    let (older, newest) = (reader.points()[0].clone(), reader.newest().expect("a point"));
    let other = plan(&reader, older.clone(), &older.disks, dir.path()).await.expect("a plan");
    let mut left = Partial::open(&other.disks[0].target, other.identity(&other.disks[0])).expect("made");
    left.write(0, &[0xee; 1 << 20]).expect("written");
    left.note(1 << 20).expect("noted");
    drop(left);
    let plan = plan(&reader, newest.clone(), &newest.disks, dir.path()).await.expect("a plan");
    plan.perform(false, &|_| ()).await.expect("it restores");
    let model = &log.taken.last().expect("a mark").disks[&DiskNo(0)];
    assert!(fs::read(&plan.disks[0].target).expect("it is there") == *model);
}

#[tokio::test]
async fn an_old_copy_is_brought_to_a_point_by_writing_only_what_differs() {
    let log = log().await;
    let (reader, dir) = (log.reader().await, tempfile::tempdir().expect("a directory"));
    let copy = dir.path().join("copy.raw");
    let (old, new) = (&log.taken[0].disks[&DiskNo(0)], &log.taken[2].disks[&DiskNo(0)]);
    fs::write(&copy, old).expect("an old copy");
    let differ = old.chunks(4096).zip(new.chunks(4096)).filter(|(old, new)| old != new).count() as u64 * 4096;
    let point = reader.newest().expect("a point");
    let plan = plan(&reader, point.clone(), &point.disks, dir.path()).await.expect("a plan");
    assert_eq!(plan.bring_onto(&copy, &|_| ()).await.expect("it restores"), differ);
    assert!(fs::read(&copy).expect("it is there") == *new);
    assert_eq!(plan.bring_onto(&copy, &|_| ()).await.expect("it restores"), 0, "nothing differs any more");

    let small = dir.path().join("small.raw");
    fs::write(&small, [0; 4096]).expect("a copy of something else");
    assert!(matches!(plan.bring_onto(&small, &|_| ()).await, Err(RestoreError::TooSmall { .. })));
}

#[test]
fn any_disk_name_becomes_a_plain_file_name() {
    assert_eq!(file_name("data disk / 1"), "data_disk___1");
    assert_eq!(file_name("../../etc/passwd"), "_.._.._etc_passwd");
    assert_eq!(file_name("/"), "_");
    assert_eq!(file_name(""), "_");
    assert_eq!(file_name("-rf"), "_-rf");
    assert_eq!(file_name("Größe"), "Größe");
    assert!(file_name(&"ü".repeat(300)).len() <= 201);
}
