//! Every kind of object, damaged in every way: verify names it and what it touches, and no reader gives wrong bytes.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use zeroize::Zeroizing;

use super::{PointScope, Scope, VerifyReport, verify};
use crate::ids::{DiskNo, MarkId, Slot, TimelineId};
use crate::record::Record;
use crate::vault::crypto::VaultKey;
use crate::vault::layout::ObjectName;
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::open_vault::{Credential, OpenVault, VaultError};
use crate::vault::read::test_log::{PASSPHRASE, Seeded, TestLog};
use crate::vault::read::volume::{Volume, VolumeLimits};
use crate::vault::segment::Footer;
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::store::ObjectStore;
use crate::vault::store::memory::MemoryStore;

/// Three segments behind the fence in slot 0; what each mark needs is known:
///
/// ```text
///   slot 1   disk 0: A at 0, B at 64K     disk 1: C at 0     mark 0
///   slot 2   disk 0: A' over A                               mark 1
///   slot 3   disk 1: C' over C                               mark 2
/// ```
async fn vault() -> (TestLog, VaultKey) {
    let mut log = TestLog::new(&[128 << 10, 64 << 10]).await;
    log.write(0, 0, &[0xa1; 4096]);
    log.end_batch();
    log.write(0, 64 << 10, &[0xb1; 4096]);
    log.end_batch();
    log.write(1, 0, &[0xc1; 4096]);
    log.mark();
    log.end_segment().await;
    log.write(0, 0, &[0xa2; 4096]);
    log.mark();
    log.end_segment().await;
    log.write(1, 0, &[0xc2; 4096]);
    log.mark();
    log.end_segment().await;
    let key = log.wrap_in_vault("web server / 1").await;
    (log, key)
}

async fn open(log: &TestLog, key: &VaultKey) -> OpenVault {
    OpenVault::open(log.store.clone(), &Credential::Key(key.clone())).await.expect("the vault opens")
}

async fn verified(log: &TestLog, key: &VaultKey) -> VerifyReport {
    verify(&open(log, key).await, &Scope::Whole, &|_| ()).await.expect("the store answers")
}

/// What the report says of one object: marks by number, with the disks that are touched.
fn touched(log: &TestLog, report: &VerifyReport, object: &ObjectName) -> Vec<(usize, Vec<u16>)> {
    let bad = report.bad.iter().find(|bad| bad.object == object.as_str()).expect("the object is named");
    assert!(!bad.problems.is_empty(), "the report says what is wrong");
    let number = |id: MarkId| log.taken.iter().position(|taken| taken.id == id).expect("a mark of the log");
    let mut all: Vec<_> =
        bad.points.iter().map(|p| (number(p.point), p.disks.iter().map(|disk| disk.0).collect())).collect();
    all.sort_unstable();
    all
}

/// Reads every disk of every mark: the right bytes or an error, and the right bytes wherever nothing was reported.
async fn no_wrong_bytes(log: &TestLog, report: &VerifyReport) {
    let reader = log.reader().await;
    let cache = Arc::new(FrameCache::new(1 << 20));
    for taken in &log.taken {
        for (disk, model) in &taken.disks {
            let reported = report.bad.iter().flat_map(|bad| &bad.points);
            let reported = reported.filter(|point| point.point == taken.id).any(|point| point.disks.contains(disk));
            let volume = Volume::at(&reader, *disk, taken.lsn, cache.clone(), VolumeLimits::default());
            let mut bytes = vec![0xee; model.len()];
            let read = match &volume {
                Ok(volume) => volume.read(0, &mut bytes).await,
                Err(error) => Err(error.clone()),
            };
            match read {
                Ok(()) => {
                    assert!(bytes == *model, "wrong bytes of disk {disk} at LSN {}", taken.lsn);
                }
                Err(error) => assert!(reported, "disk {disk} at LSN {} fails unreported: {error}", taken.lsn),
            }
        }
    }
}

fn flipped(bytes: &Bytes, bit: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes.into()
}

#[tokio::test]
async fn a_sound_vault_is_sound_and_counts_its_points() {
    let (log, key) = vault().await;
    let report = verified(&log, &key).await;
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.objects, report.foreign.len()), (7, 0));
    let timeline = &report.machines[0].timelines[0];
    assert_eq!((timeline.slots, timeline.sound_points, timeline.touched_points), (4, 3, 0));
    let json = serde_json::to_string(&report).expect("it serialises");
    assert_eq!(serde_json::from_str::<VerifyReport>(&json).expect("it reads back"), report);
    let opened = OpenVault::open(log.store.clone(), &Credential::Passphrase(Zeroizing::new(PASSPHRASE.into()))).await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn a_bad_frame_touches_exactly_the_points_that_still_need_it() {
    let (log, key) = vault().await;
    let footer = |slot, object: Bytes| {
        Footer::of_object(&log.key, log.machine, log.timeline, &object).map(|footer| (slot, object, footer))
    };
    let cases = [
        (Slot(1), 0, vec![(0, vec![0])]),
        (Slot(1), 1, vec![(0, vec![0]), (1, vec![0]), (2, vec![0])]),
        (Slot(1), 2, vec![(0, vec![1]), (1, vec![1])]),
        (Slot(2), 0, vec![(1, vec![0]), (2, vec![0])]),
        (Slot(3), 0, vec![(2, vec![1])]),
    ];
    for (slot, frame, expected) in cases {
        let name = log.name(slot);
        let (_, object, footer) = footer(slot, log.object(&name).await).expect("the footer opens");
        let entry = footer.frames[frame];
        let places = [entry.offset, entry.offset + 44, entry.offset + 60, entry.offset + entry.item_bytes() - 1];
        for place in places {
            log.store.damage(&name, Some(flipped(&object, place as usize * 8)));
            let report = verified(&log, &key).await;
            assert_eq!(report.bad.len(), 1, "{report}");
            assert_eq!(touched(&log, &report, &name), expected, "slot {slot} frame {frame} byte {place}");
            no_wrong_bytes(&log, &report).await;
        }
        log.store.damage(&name, Some(object));
    }
}

#[tokio::test]
async fn an_object_without_a_footer_loses_everything_from_there_on() {
    let (log, key) = vault().await;
    for slot in [Slot(0), Slot(1), Slot(2), Slot(3)] {
        let name = log.name(slot);
        let object = log.object(&name).await;
        let end = object.len();
        let damaged = [
            None,
            Some(object.slice(..end - 1)),
            Some(object.slice(..64)),
            Some(Bytes::new()),
            Some([&object[..], b"x"].concat().into()),
            Some(flipped(&object, (end - 140) * 8)),
            Some(flipped(&object, (end - 20) * 8)),
        ];
        for (case, bytes) in damaged.into_iter().enumerate() {
            // The last slot taken away is a shorter log, which only the agent's memory can tell from an older one.
            if case == 0 && slot == Slot(3) {
                continue;
            }
            log.store.damage(&name, bytes);
            let report = verified(&log, &key).await;
            let points = touched(&log, &report, &name);
            let bad = report.bad.iter().find(|bad| bad.object == name.as_str()).expect("it is named");
            assert!(bad.lost_from.contains_key(&log.timeline), "slot {slot} case {case}: {report}");
            // Marks of the object itself are lost with it; later ones are named.
            let later: Vec<usize> = (slot.0.max(1) as usize..3).filter(|n| log.taken[*n].slot > slot).collect();
            let named: Vec<usize> = points.iter().map(|(point, _)| *point).collect();
            assert!(later.iter().all(|point| named.contains(point)), "slot {slot} case {case}: {report}");
            let sound = report.machines[0].timelines[0].sound_points;
            assert_eq!(sound, slot.0.saturating_sub(1), "slot {slot} case {case}: {report}");
        }
        log.store.damage(&name, Some(object));
    }
}

#[tokio::test]
async fn any_single_flipped_bit_of_any_object_is_found_and_never_read_as_data() {
    let (log, key) = vault().await;
    let listed = log.store.list("", None, 100).await.expect("it lists");
    let names: Vec<_> = listed.into_iter().map(|line| line.name).collect();
    let mut rng = Seeded::new(17);
    for name in names {
        let object = log.object(&name).await;
        for _ in 0..40 {
            let bit = rng.0.random_range(0..object.len() * 8);
            log.store.damage(&name, Some(flipped(&object, bit)));
            let opened = OpenVault::open(log.store.clone(), &Credential::Key(key.clone())).await;
            match opened {
                Ok(vault) => {
                    let report = verify(&vault, &Scope::Whole, &|_| ()).await.expect("the store answers");
                    assert!(report.bad.iter().any(|bad| bad.object == name.as_str()), "{name} bit {bit}: {report}");
                    let has_points = name.as_str().contains("/log/");
                    if has_points {
                        lost_or_right(&log, &report).await;
                    }
                }
                Err(error) => panic!("{name} bit {bit}: {error}"),
            }
        }
        log.store.damage(&name, Some(object));
    }
}

/// As [`no_wrong_bytes`], for damage that may take marks with it.
async fn lost_or_right(log: &TestLog, report: &VerifyReport) {
    if report.bad.iter().all(|bad| bad.lost_from.is_empty()) {
        return no_wrong_bytes(log, report).await;
    }
    let reader = log.reader().await;
    for point in reader.points() {
        let taken = log.taken.iter().find(|taken| taken.id == point.id).expect("a mark of the log");
        for (disk, model) in &taken.disks {
            let cache = Arc::new(FrameCache::new(1 << 20));
            let volume = Volume::of_point(&reader, &point, *disk, cache, VolumeLimits::default()).expect("covered");
            let mut bytes = vec![0xee; model.len()];
            if volume.read(0, &mut bytes).await.is_ok() {
                assert!(bytes == *model);
            }
        }
    }
}

#[tokio::test]
async fn swapped_objects_are_both_named() {
    let (mut log, key) = vault().await;
    log.describe(&key, "web server / 1", 2, &[log.timeline]).await;
    let (machine, timeline) = (log.machine, log.timeline);
    let pairs = [
        (log.name(Slot(1)), log.name(Slot(2))),
        (log.name(Slot(0)), log.name(Slot(3))),
        (ObjectName::about(machine, 1), ObjectName::about(machine, 2)),
        (ObjectName::about(machine, 1), ObjectName::manifest(machine, timeline)),
        (ObjectName::keys(1), log.name(Slot(1))),
    ];
    for (a, b) in pairs {
        let (bytes_a, bytes_b) = (log.object(&a).await, log.object(&b).await);
        log.store.damage(&a, Some(bytes_b.clone()));
        log.store.damage(&b, Some(bytes_a.clone()));
        let report = verified(&log, &key).await;
        for name in [&a, &b] {
            assert!(report.bad.iter().any(|bad| bad.object == name.as_str()), "{name}: {report}");
        }
        lost_or_right(&log, &report).await;
        log.store.damage(&a, Some(bytes_a));
        log.store.damage(&b, Some(bytes_b));
    }
    let copied = ObjectName::keys(9);
    log.store.damage(&copied, Some(log.object(&ObjectName::keys(1)).await));
    let report = verified(&log, &key).await;
    assert!(report.bad.iter().any(|bad| bad.object == copied.as_str()), "{report}");
}

#[tokio::test]
async fn an_object_of_another_history_with_the_same_key_breaks_the_chain() {
    let (log, key) = vault().await;
    let mut other = TestLog::bare(Arc::default(), log.machine, log.timeline);
    (other.key, other.chance) = (log.key.clone(), Seeded::new(8));
    other.control(crate::vault::segment::Control::Fence).await;
    assert_ne!(log.object(&log.name(Slot(0))).await, other.object(&log.name(Slot(0))).await);
    other.record(Record::Incarnation { id: crate::ids::IncarnationId([1; 16]), predecessor: None });
    other.add_disk(0, 128 << 10);
    other.write(0, 0, &[0xff; 4096]);
    other.mark();
    other.end_segment().await;
    other.write(0, 0, &[0xfe; 4096]);
    other.end_segment().await;
    log.store.damage(&log.name(Slot(2)), Some(other.object(&log.name(Slot(2))).await));
    let report = verified(&log, &key).await;
    let bad = report.bad.iter().find(|bad| bad.object == log.name(Slot(2)).as_str()).expect("it is named");
    assert!(bad.lost_from.contains_key(&log.timeline), "{report}");
    assert_eq!(report.machines[0].timelines[0].sound_points, 1);
    lost_or_right(&log, &report).await;
}

#[tokio::test]
async fn damage_of_a_parent_touches_the_points_of_its_children() {
    let (mut log, key) = vault().await;
    let child_id = TimelineId([0x99; 8]);
    let mut child = log.branch(child_id).await;
    child.write(0, 0, &[0xdd; 4096]);
    child.mark();
    child.end_segment().await;
    log.describe(&key, "web server / 1", 2, &[log.timeline, child_id]).await;
    assert!(verified(&log, &key).await.is_sound());
    let name = log.name(Slot(1));
    let object = log.object(&name).await;
    let footer = Footer::of_object(&log.key, log.machine, log.timeline, &object).expect("it opens");
    log.store.damage(&name, Some(flipped(&object, (footer.frames[1].offset as usize + 60) * 8)));
    let report = verified(&child, &key).await;
    let bad = report.bad.iter().find(|bad| bad.object == name.as_str()).expect("it is named");
    let own = child.taken.last().expect("a mark").id;
    assert!(bad.points.iter().any(|p| p.timeline == child_id && p.point == own && p.disks == [DiskNo(0)]), "{report}");
    no_wrong_bytes(&child, &report).await;
}

#[tokio::test]
async fn a_lost_description_locks_its_machine_and_an_older_one_is_used() {
    let (mut log, key) = vault().await;
    log.describe(&key, "renamed", 2, &[log.timeline]).await;
    let newest = ObjectName::about(log.machine, 2);
    log.store.damage(&newest, Some(Bytes::from_static(b"not a description")));
    let report = verified(&log, &key).await;
    assert_eq!(report.machines[0].name, "web server / 1");
    assert_eq!(touched(&log, &report, &newest), []);
    log.store.damage(&ObjectName::about(log.machine, 1), None);
    let report = verified(&log, &key).await;
    assert!(report.machines[0].locked && report.machines[0].timelines.is_empty());
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_never_called_damage() {
    let (log, _) = vault().await;
    let refused = |credential: Credential| {
        let store = log.store.clone();
        async move { OpenVault::open(store, &credential).await.expect_err("it is refused") }
    };
    let wrong = Credential::Key(VaultKey::from_bytes([1; 32]));
    assert!(matches!(refused(wrong).await, VaultError::Refused(_)));
    let wrong = Credential::Passphrase(Zeroizing::new("incorrect horse".into()));
    let error = refused(wrong.clone()).await;
    assert_eq!(error.to_string(), "this passphrase does not open the vault");
    let keys = ObjectName::keys(1);
    let object = log.object(&keys).await;
    log.store.damage(&keys, Some(flipped(&object, 400)));
    assert!(matches!(refused(wrong).await, VaultError::KeysDamaged { .. }));
    let key = Credential::Key(VaultKey::from_bytes([1; 32]));
    let empty = OpenVault::open(Arc::new(MemoryStore::new()), &key);
    assert!(matches!(empty.await, Err(VaultError::NoVault)));
}

#[tokio::test]
async fn without_its_key_object_a_vault_still_opens_with_the_vault_key() {
    let (log, key) = vault().await;
    log.store.damage(&ObjectName::keys(1), None);
    let report = verified(&log, &key).await;
    assert_eq!(report.vault, None);
    assert_eq!(report.bad.len(), 1, "{report}");
    assert_eq!(report.machines[0].timelines[0].sound_points, 3);
}

#[tokio::test]
async fn foreign_objects_are_named_and_touch_nothing() {
    let (log, key) = vault().await;
    for name in ["readme", "machines/zz/log/1", "keys/old", "machines/00/about/0000000000000001"] {
        let name = ObjectName::listed(name).expect("a store can hold it");
        log.store.damage(&name, Some(Bytes::from_static(b"hello")));
    }
    let report = verified(&log, &key).await;
    assert!(report.is_sound());
    assert_eq!(report.foreign, ["keys/old", "machines/00/about/0000000000000001", "machines/zz/log/1", "readme"]);
    assert_eq!(open(&log, &key).await.machines().await.expect("it lists").len(), 1);
}

#[tokio::test]
async fn a_slot_with_a_huge_number_is_damage_and_ends_no_program() {
    let (log, key) = vault().await;
    let object = log.object(&log.name(Slot(3))).await;
    log.store.damage(&log.name(Slot(u64::MAX)), Some(object.clone()));
    for slot in [Slot(u64::MAX - 1), Slot(1 << 40), Slot(u64::MAX)] {
        log.store.damage(&log.name(slot), Some(object.clone()));
        let report = verified(&log, &key).await;
        lost_or_right(&log, &report).await;
        let reader = log.reader().await;
        assert_eq!(reader.points().len(), 3);
        log.store.damage(&log.name(slot), None);
    }
}

/// The object of a slot, with one bit of its first item flipped.
async fn damage_slot(log: &TestLog, slot: u64) -> ObjectName {
    let name = ObjectName::log(log.machine, log.timeline, Slot(slot));
    let (object, _) = log.store.get(&name).await.expect("the object is there");
    log.store.damage(&name, Some(flipped(&object, (HEADER_BYTES + 40) * 8)));
    name
}

#[tokio::test]
async fn a_point_is_verified_by_what_it_needs_and_nothing_else() {
    let (log, key) = vault().await;
    let verified = async |mark: usize| {
        let reader = log.reader().await;
        let points = reader.points();
        let point = points.iter().find(|point| point.id == log.taken[mark].id).expect("a point of the log");
        let scope = PointScope::of(&reader, point, &point.disks).await.expect("its maps can be made");
        verify(&open(&log, &key).await, &Scope::Point(scope), &|_| ()).await.expect("the store answers")
    };
    let report = verified(0).await;
    assert_eq!((report.log_objects_read, report.log_objects_left), (1, 3), "slot 1 of 0 to 3: {report}");
    assert_eq!(verified(2).await.log_objects_read, 3, "B of slot 1, A' of slot 2, C' of slot 3");
    let name = damage_slot(&log, 3).await;
    assert!(verified(1).await.is_sound(), "slot 3 lies behind the point");
    let report = verified(2).await;
    assert_eq!(touched(&log, &report, &name), [(2, vec![1])], "{report}");
}

#[tokio::test]
async fn a_sample_is_the_same_for_the_same_seed_and_finds_what_it_reads() {
    let (log, key) = vault().await;
    let sampled = async |percent: f64, seed: u64| {
        let scope = Scope::Sample { percent, seed };
        verify(&open(&log, &key).await, &scope, &|_| ()).await.expect("the store answers")
    };
    assert_eq!(sampled(100.0, 5).await.log_objects_left, 0);
    damage_slot(&log, 2).await;
    let (mut found, mut read) = (0, 0);
    for seed in 0..200 {
        let report = sampled(50.0, seed).await;
        assert_eq!(report, sampled(50.0, seed).await);
        found += u64::from(!report.is_sound());
        read += report.log_objects_read;
    }
    assert!((70..130).contains(&found), "one object of four, in half of the samples: {found} of 200");
    assert!((350..450).contains(&read), "half of four objects, 200 times: {read}");
}
