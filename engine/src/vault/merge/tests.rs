//! Merging against a model: logs that the real writer wrote, a plain copy of every disk at every mark beside them, crashes at
//! every call that changes the store, and readers that stay open throughout. I7: what retention or a pin wants is there.

mod model;
mod mortal;
mod renewing;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::plan::{Facts, MergePolicy, retention_of};
use super::{Merger, Sightings};
use crate::ids::{DiskNo, Epoch, Lsn, Slot, TimelineId, Timestamp, WriterId};
use crate::record::{GapReason, Record};
use crate::vault::manifest::{Pin, PinKind};
use crate::vault::pins::{PinError, drop_pins, put_pin, renew_pins};
use crate::vault::read::open_vault::{Credential, OpenVault};
use crate::vault::read::segment_view::{LogSource, ObjectPlace};
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::verify::{Scope, verify};
use crate::vault::repair::{Proof, StoreCopies, repair};
use crate::vault::retention::Ladder;
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::store::faulty::{Aim, Fault, FaultPlan, FaultyStore, StoreCall};
use crate::vault::store::memory::MemoryStore;
use crate::vault::store::{ObjectStore, StoreErrorKind};
use world::{GRACE_S, SECTORS, World, bytes_at, history, ladder};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

// I7
#[test]
fn a_merge_that_dies_at_any_call_loses_nothing_and_is_made_again() {
    block_on(async {
        let mut deaths = 0;
        for calls in 0.. {
            let mut finished = false;
            for effect in [false, true] {
                let mut world = history(6).await;
                world.merge(true, None).await.expect("the first run");
                for _ in 0..2 {
                    world.write(0, 3, 9);
                    world.log.mark();
                    world.end_segment().await;
                }
                let merged = world.merge(true, Some((calls, effect))).await;
                finished |= merged.is_ok();
                deaths += u32::from(merged.is_err());
                world.check().await.expect("nothing is lost");
                world.settle().await.expect("and it can be made again");
            }
            if finished {
                break;
            }
        }
        assert!(deaths >= 8, "only {deaths} calls to die at");
    });
}

#[test]
fn a_sweep_that_dies_at_any_call_is_taken_up_again() {
    block_on(async {
        for calls in 0..20 {
            for effect in [false, true] {
                let mut world = history(6).await;
                world.merge(true, Some((2, true))).await.expect_err("an orphan");
                world.merge(true, None).await.expect("a run");
                world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
                let _ = world.merger(Some((calls, effect))).sweep(GRACE_S as u64 * 1_000_000).await;
                world.check().await.expect("nothing is lost");
                world.settle().await.expect("and it goes on");
            }
        }
    });
}

#[test]
fn a_run_that_was_given_up_is_never_committed() {
    block_on(async {
        let mut world = history(6).await;
        let merger = world.merger(None);
        let reader = TimelineReader::open_with_log(merger.source.clone(), merger.timeline).await.expect("it reads");
        let plan = retention_of(&reader, &world.ladder, world.now());
        let step = Facts::of(&reader, &plan, &world.ladder).next(&world.policy, true).expect("it is due");
        // It has written its parts and is asleep before its commit; another takes it for dead and sweeps behind it.
        let sleeper = world.merger(Some((2, true)));
        sleeper.merge(&reader, &step.job(&plan)).await.expect_err("asleep");
        let orphans = merger.orphans().await.expect("it lists");
        assert_eq!(orphans.len(), 1);
        let swept = merger.sweep(GRACE_S as u64 * 1_000_000).await.expect("it sweeps");
        assert_eq!(swept.orphans, orphans);
        let (mut manifest, _) = merger.keeper.read(merger.owner.0).await.expect("it reads");
        assert!(manifest.is_doomed(orphans[0]));
        let run = crate::vault::manifest::Run {
            id: orphans[0],
            from: Slot(0),
            to: Slot(5),
            parts: 1,
            bytes: 1,
            first: Lsn(1),
            last: Lsn(9),
            footer: crate::vault::segment::FooterDigest::NONE,
        };
        assert!(manifest.commit_run(merger.owner.0, run, &[], |_| true, world.now()).is_err());
        world.settle().await.expect("its parts go");
    });
}

#[test]
fn a_damaged_part_of_a_run_is_put_back_from_a_copy() {
    block_on(async {
        let mut world = history(6).await;
        world.merge(true, None).await.expect("a run");
        let merger = world.merger(None);
        let (manifest, _) = merger.keeper.read(merger.owner.0).await.expect("it reads");
        let (run, store) = (&manifest.runs[0], &world.log.store);
        let source = world.log.source();
        for part in 0..run.parts {
            let place = ObjectPlace::Run(run.id, part);
            let name = place.name(world.log.machine, world.log.timeline);
            let sound = world.log.object(&name).await;
            let copy = MemoryStore::new();
            copy.damage(&name, Some(sound.clone()));
            let copies = StoreCopies { source: LogSource::new(Arc::new(copy), source.machine(), source.key().clone()) };
            for damage in [None, Some(sound.slice(..sound.len() - 1))] {
                store.damage(&name, damage);
                let done = repair(&source, world.log.timeline, place, &copies, Proof::Required).await;
                assert_eq!(done.expect("the store answers"), Ok(()), "part {part} of {}", run.parts);
                assert_eq!(world.log.object(&name).await, sound);
            }
        }
        world.check().await.expect("nothing is lost");
    });
}

// I4
#[test]
fn an_owner_that_was_replaced_merges_and_sweeps_nothing() {
    block_on(async {
        let mut world = history(6).await;
        let stale = world.merger(None);
        let reader = TimelineReader::open_with_log(stale.source.clone(), stale.timeline).await.expect("it reads");
        let plan = retention_of(&reader, &world.ladder, world.now());
        let step = Facts::of(&reader, &plan, &world.ladder).next(&world.policy, true).expect("it is due");
        let newer = Merger { owner: (Epoch(9), WriterId([9; 16])), ..world.merger(None) };
        newer.keeper.adopt(Epoch(9)).await.expect("it is newer");
        let error = stale.merge(&reader, &step.job(&plan)).await.expect_err("fenced");
        assert!(error.is_fenced(), "{error}");
        assert!(stale.sweep(0).await.expect_err("fenced").is_fenced());
        world.log.epoch = Epoch(9);
        world.check().await.expect("nothing is lost");
    });
}

#[test]
fn a_pin_that_comes_while_a_run_is_made_keeps_the_run_out() {
    block_on(async {
        let mut world = history(8).await;
        world.ladder = ladder(&[(0, 1)]);
        let merger = world.merger(None);
        let reader = TimelineReader::open_with_log(merger.source.clone(), merger.timeline).await.expect("it reads");
        let plan = retention_of(&reader, &world.ladder, world.now());
        let step = Facts::of(&reader, &plan, &world.ladder).next(&world.policy, true).expect("it is due");
        world.hold(3).await;
        let error = merger.merge(&reader, &step.job(&plan)).await.expect_err("the hold is younger than the plan");
        assert!(error.to_string().contains("pinned"), "{error}");
        world.settle().await.expect("planned again, it is kept");
        assert!(world.log.reader().await.points().iter().any(|point| point.lsn == world.log.taken[3].lsn));
    });
}

#[test]
fn gaps_disks_that_leave_and_lives_that_end_badly_are_told_as_before() {
    block_on(async {
        let mut world = history(3).await;
        world.ladder = Ladder::default();
        world.log.add_disk(2, SECTORS * 512);
        world.log.write(2, 0, &[7; 4096]);
        world.log.mark();
        world.end_segment().await;
        let opened = Record::GapOpened { disk: DiskNo(0), from: Lsn(world.log.lsn + 1), reason: GapReason::Overload };
        world.log.record(opened);
        world.write(0, 1, 3);
        world.log.mark();
        world.log.record(Record::GapClosed { disk: DiskNo(0) });
        world.log.record(Record::DiskRemoved { disk: DiskNo(2) });
        world.log.models.remove(&DiskNo(2));
        world.log.mark();
        world.end_segment().await;
        world.log.record(Record::CleanStop { captured_at: Timestamp(1) });
        world.log.end_batch();
        world.write(1, 1, 3);
        world.end_segment().await;
        let id = |n: u8| crate::ids::IncarnationId([n; 16]);
        world.log.record(Record::Incarnation { id: id(2), predecessor: Some(id(1)) });
        world.log.mark();
        world.end_segment().await;
        for disk in 0..2 {
            world.log.record(Record::GapClosed { disk: DiskNo(disk) });
        }
        world.log.mark();
        world.log.record(Record::CleanStop { captured_at: Timestamp(1) });
        world.log.record(Record::Incarnation { id: id(3), predecessor: Some(id(2)) });
        world.log.mark();
        world.end_segment().await;
        world.end_segment().await;
        let before = world.log.reader().await;
        assert!(world.merge(true, None).await.expect("it merges"));
        let after = world.log.reader().await;
        assert_eq!(after.points(), before.points());
        assert_eq!(after.history().state(), before.history().state());
        for point in before.points() {
            for disk in &point.disks {
                let (one, other) =
                    (bytes_at(&before, *disk, point.lsn).await, bytes_at(&after, *disk, point.lsn).await);
                assert_eq!(one.expect("it reads"), other.expect("it reads"), "disk {disk} at {}", point.lsn);
            }
        }
    });
}

#[test]
fn a_child_reads_its_parents_runs_up_to_the_branch() {
    block_on(async {
        let mut world = history(3).await;
        world.log.mark();
        let slot = world.log.end_segment().await;
        world.ends.insert(slot, world.log.models.clone());
        let branch_at = world.log.taken.last().expect("marks").lsn;
        let mut child = world.log.branch(TimelineId([0x72; 8])).await;
        child.write(0, 0, &[9; 512]);
        child.mark();
        child.end_segment().await;
        let pin = Pin {
            id: "branch".into(),
            kind: PinKind::Branch,
            lsn: branch_at,
            created_at: Timestamp(0),
            note: String::new(),
            expires_at: None,
        };
        let merger = world.merger(None);
        merger.keeper.change(merger.owner.0, |manifest| manifest.pin(pin.clone())).await.expect("room");
        world.write(0, 0, 9);
        world.log.mark();
        world.end_segment().await;
        world.ladder = ladder(&[(0, 1)]);
        world.settle().await.expect("it merges");
        assert!(world.log.store.head(&world.log.name(slot)).await.is_err(), "the branch's slot is gone");
        let reader = TimelineReader::open(world.log.source(), TimelineId([0x72; 8])).await.expect("it answers");
        assert!(reader.broken().is_none(), "{:?}", reader.broken());
        for taken in child.taken.iter().filter(|taken| taken.lsn >= branch_at) {
            for (disk, model) in &taken.disks {
                let bytes = bytes_at(&reader, *disk, taken.lsn).await.expect("it reads");
                assert!(bytes == *model, "disk {disk} at {}", taken.lsn);
            }
        }
        let last = child.taken.last().expect("marks").id;
        assert_eq!(reader.newest().map(|point| point.id), Some(last));
    });
}

#[test]
fn damage_in_a_run_is_named_with_the_points_it_touches_and_never_read_as_data() {
    block_on(async {
        let mut world = history(6).await;
        let key = world.log.wrap_in_vault("machine").await;
        world.ladder = Ladder::default();
        assert!(world.merge(true, None).await.expect("it merges"));
        let vault = OpenVault::open(world.log.store.clone(), &Credential::Key(key)).await.expect("it opens");
        let sound = verify(&vault, &Scope::Whole, &|_| ()).await.expect("it reads");
        assert!(sound.is_sound(), "{sound:?}");
        let names = world.log.store.list("machines/", None, 1000).await.expect("it lists");
        let parts: Vec<_> = names.iter().filter(|line| line.name.run().is_some()).collect();
        assert!(parts.len() > 1, "several parts");
        for line in &parts {
            let whole = world.log.object(&line.name).await;
            for at in [0, 60, line.bytes / 3, line.bytes / 2, line.bytes - 200, line.bytes - 60] {
                let mut bytes = whole.to_vec();
                bytes[at as usize] ^= 4;
                world.log.store.damage(&line.name, Some(bytes.into()));
                let report = verify(&vault, &Scope::Whole, &|_| ()).await.expect("it reads");
                let found = report.bad.iter().any(|bad| bad.object == line.name.as_str());
                assert!(found, "byte {at} of {}", line.name);
                let reader = world.log.reader().await;
                for taken in &world.log.taken {
                    for (disk, model) in &taken.disks {
                        let read = bytes_at(&reader, *disk, taken.lsn).await;
                        assert!(
                            read.is_err() || read.is_ok_and(|bytes| bytes == *model),
                            "wrong bytes at {}",
                            taken.lsn
                        );
                    }
                }
            }
            world.log.store.damage(&line.name, Some(whole));
        }
        world.check().await.expect("as before");
    });
}

#[test]
fn two_thousand_segments_become_few_objects_and_every_hundredth_point_opens() {
    block_on(async {
        let mut world = World::of(&[16 * 512], None).await;
        world.policy = MergePolicy { live_segments: 250, width: 4, ..MergePolicy::default() };
        world.ladder = ladder(&[(0, 300), (30, 100_000)]);
        for n in 0..2000 {
            world.write(0, n * 7 % 16, 1);
            world.log.mark();
            world.end_segment().await;
        }
        let mut merges = 0;
        while world.merge(false, None).await.expect("it merges") {
            merges += 1;
        }
        let reader = world.log.reader().await;
        let (objects, points) = (reader.segments().len(), reader.points().len());
        assert!(merges > 0 && objects < 500, "{merges} merges left {objects} objects");
        assert!((200..800).contains(&points), "{points} points");
        for point in reader.points().iter().step_by(points / 20) {
            let taken = world.log.taken.iter().find(|taken| taken.id == point.id).expect("it was taken");
            let bytes = bytes_at(&reader, DiskNo(0), point.lsn).await.expect("it reads");
            assert!(bytes == taken.disks[&DiskNo(0)], "LSN {}", point.lsn);
        }
    });
}

#[test]
fn a_clock_that_is_set_ahead_deletes_nothing_before_its_grace_and_one_set_back_only_waits() {
    block_on(async {
        let mut world = history(6).await;
        let uptime = Arc::new(AtomicU64::new(7));
        let steady = uptime.clone();
        world.sightings = Some(Arc::new(Sightings::new(move || Duration::from_secs(steady.load(Ordering::SeqCst)))));
        world.merge(true, None).await.expect("a run");
        let grace = GRACE_S as u64 * 1_000_000;
        world.clock.fetch_add(GRACE_S * 100, Ordering::SeqCst);
        let swept = world.merger(None).sweep(grace).await.expect("it sweeps");
        assert!(swept.deleted == 0 && swept.waiting > 0, "known for no time at all: {swept:?}");
        uptime.fetch_add(GRACE_S as u64 - 1, Ordering::SeqCst);
        assert_eq!(world.merger(None).sweep(grace).await.expect("it sweeps").deleted, 0);
        uptime.fetch_add(1, Ordering::SeqCst);
        world.clock.fetch_sub(GRACE_S * 100, Ordering::SeqCst);
        assert_eq!(world.merger(None).sweep(grace).await.expect("it sweeps").deleted, 0, "by the wall clock too early");
        world.clock.fetch_add(GRACE_S, Ordering::SeqCst);
        assert!(world.merger(None).sweep(grace).await.expect("it sweeps").deleted > 0);
        world.check().await.expect("nothing is lost");
    });
}

#[test]
fn what_the_store_still_keeps_stays_doomed_and_the_rest_goes() {
    block_on(async {
        let mut world = history(6).await;
        world.merge(true, None).await.expect("a run");
        world.end_segment().await;
        world.merge(true, None).await.expect("another in its place");
        world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
        let merger = world.merger(None);
        let doomed = merger.keeper.read(merger.owner.0).await.expect("it reads").0.doomed.len();
        assert!(doomed >= 2, "segments and a run");
        let immutable = Fault::ErrorBefore(StoreErrorKind::Immutable);
        let worm = Arc::new(FaultyStore::new(world.log.store.clone(), FaultPlan::none()));
        worm.set_plan(FaultPlan::none().and(Aim::all(StoreCall::Delete), immutable));
        let source = LogSource::new(worm, world.log.machine, world.log.key.clone());
        let swept =
            Merger { source, ..world.merger(None) }.sweep(GRACE_S as u64 * 1_000_000).await.expect("no failure");
        assert_eq!((swept.deleted, swept.kept), (0, doomed as u64));
        let swept = merger.sweep(GRACE_S as u64 * 1_000_000).await.expect("the store lets go");
        assert!(swept.deleted > 0 && swept.kept == 0, "{swept:?}");
        world.check().await.expect("nothing is lost");
    });
}

#[test]
fn a_history_of_more_points_than_one_footer_holds_becomes_several_runs() {
    block_on(async {
        let mut world = history(30).await;
        world.ladder = ladder(&[(0, 100_000)]);
        world.policy.head_bytes_max = 2500;
        while world.merge(true, None).await.expect("it merges") {}
        let reader = world.log.reader().await;
        let positions: Vec<usize> = reader.runs().iter().map(|run| run.boundaries.len()).collect();
        assert!(positions.len() >= 3, "90 points in runs of {positions:?}");
        assert!(positions.iter().all(|positions| *positions < 30), "{positions:?}");
        assert_eq!(reader.points().len(), 90);
        world.check().await.expect("each is what it was");
    });
}

fn rules(world: &World, orphans: bool) -> super::Rules {
    let grace_micros = GRACE_S as u64 * 1_000_000;
    super::Rules {
        ladder: world.ladder.clone(),
        policy: world.policy,
        grace_micros,
        thorough: false,
        orphans,
        suspects: BTreeSet::new(),
    }
}

// I7
#[test]
fn looks_one_after_the_other_merge_and_sweep_until_nothing_is_due_and_a_pin_on_what_was_dropped_is_refused() {
    block_on(async {
        let mut world = history(24).await;
        let mut reader = None;
        let (mut merges, mut dropped) = (0, Vec::new());
        loop {
            let merger = world.merger(None);
            merger.keeper.adopt(merger.owner.0).await.expect("the store answers");
            let plan = retention_of(&world.log.reader().await, &world.ladder, world.now());
            let round = merger.look(&mut reader, &rules(&world, false)).await.expect("a look");
            world.free.extend(&plan.dropped);
            dropped.extend(plan.dropped);
            world.check().await.expect("what stays is right");
            match round.merged {
                Some(_) => merges += 1,
                None => break,
            }
        }
        assert!(merges >= 1, "{merges}");
        world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
        let merger = world.merger(None);
        let round = merger.look(&mut reader, &rules(&world, false)).await.expect("a look");
        assert!(round.swept.is_some_and(|swept| swept.deleted > 0), "the grace is over");
        let round = merger.look(&mut reader, &rules(&world, false)).await.expect("a look");
        assert_eq!((round.merged, round.swept, round.standing.map(|standing| standing.doomed)), (None, None, Some(0)));

        let known = reader.as_mut().expect("left for the next look");
        let pin = |lsn: Lsn, expires_at| Pin {
            id: "hold".into(),
            kind: PinKind::Hold,
            lsn,
            created_at: Timestamp(0),
            note: String::new(),
            expires_at,
        };
        let lost = *dropped.iter().find(|lsn| !known.retains(**lsn)).expect("something was dropped");
        let refused = put_pin(known, &merger.keeper, &pin(lost, None)).await;
        assert!(matches!(refused, Err(PinError::Dropped(lsn)) if lsn == lost), "{refused:?}");
        let kept = known.points()[0].lsn;
        put_pin(known, &merger.keeper, &pin(kept, None)).await.expect("it can be read");
        put_pin(known, &merger.keeper, &pin(kept, Some(Timestamp(9)))).await.expect("the same again");
        let other = put_pin(known, &merger.keeper, &pin(known.points()[1].lsn, None)).await;
        assert!(matches!(other, Err(PinError::Change(_))), "one name, one position: {other:?}");
        let names = ["hold".to_owned(), "none".to_owned()];
        let missing = renew_pins(&merger.keeper, &names, Timestamp(11)).await.expect("the store answers");
        assert_eq!((missing, world.pins().await[0].expires_at), (vec!["none".to_owned()], Some(Timestamp(11))));
        assert_eq!(drop_pins(&merger.keeper, &names).await.expect("the store answers"), 1);
        assert_eq!(drop_pins(&merger.keeper, &names).await.expect("the store answers"), 0);
    });
}

// I7
#[test]
fn nothing_is_merged_or_deleted_while_a_part_of_the_log_cannot_be_read() {
    block_on(async {
        let mut world = history(24).await;
        let merger = world.merger(None);
        let mut reader = None;
        let round = merger.look(&mut reader, &rules(&world, false)).await.expect("a look");
        let (_, run) = round.merged.expect("a merge is due");
        world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
        let part = crate::vault::layout::ObjectName::run_part(world.log.machine, world.log.timeline, run.id, 0);
        world.log.store.delete(&part).await.expect("the damage");
        world.log.store.delete(&world.log.name(run.to)).await.expect("and of what it was made of");
        let merger = world.merger(None);
        let before = world.log.store.list("machines/", None, 10_000).await.expect("it lists");
        let broken = merger.look(&mut None, &rules(&world, true)).await;
        assert!(matches!(broken, Err(super::MergeError::Broken { .. })), "{broken:?}");
        assert_eq!(world.log.store.list("machines/", None, 10_000).await.expect("it lists"), before);
    });
}

#[test]
fn a_log_in_which_something_is_always_to_be_merged_is_swept_all_the_same() {
    block_on(async {
        let mut world = history(8).await;
        let (mut reader, mut deleted) = (None, 0);
        for _ in 0..6 {
            for n in 0..40 {
                world.write(0, n % SECTORS, 2);
                world.log.mark();
                world.end_segment().await;
            }
            world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
            let merger = world.merger(None);
            let round = merger.look(&mut reader, &rules(&world, false)).await.expect("a look");
            assert!(round.merged.is_some(), "there is always something");
            deleted += round.swept.map_or(0, |swept| swept.deleted);
        }
        assert!(deleted > 0, "what the first merges replaced is gone");
    });
}

#[test]
fn a_look_ends_a_hold_when_the_log_has_come_to_its_end_and_not_when_a_clock_was_set_ahead() {
    block_on(async {
        let mut world = history(8).await;
        let mut reader = None;
        world.merger(None).look(&mut reader, &rules(&world, false)).await.expect("a look");
        let known = reader.as_mut().expect("left for the next look");
        let newest = known.points().last().expect("points").captured_at;
        let hold = Pin {
            id: "hold".into(),
            kind: PinKind::Hold,
            lsn: known.points()[0].lsn,
            created_at: Timestamp(0),
            note: String::new(),
            expires_at: Some(Timestamp(newest.0 + 2_000_000)),
        };
        put_pin(known, &world.merger(None).keeper, &hold).await.expect("it can be read");
        world.clock.fetch_add(1_000_000, Ordering::SeqCst);
        world.merger(None).look(&mut reader, &rules(&world, false)).await.expect("a look");
        assert_eq!(world.pins().await.len(), 1, "only the clock has come that far");
        for _ in 0..3 {
            world.write(0, 0, 1);
            world.log.mark();
            world.end_segment().await;
        }
        world.merger(None).look(&mut reader, &rules(&world, false)).await.expect("a look");
        assert_eq!(world.pins().await, []);
    });
}

#[test]
fn damage_stops_a_merge_only_while_a_point_that_stays_can_see_it() {
    block_on(async {
        let mut world = World::of(&[SECTORS * 512], None).await;
        world.ladder = ladder(&[(0, 15)]);
        world.write(0, 0, 8);
        world.log.mark();
        world.end_segment().await;
        let name = world.log.name(*world.ends.keys().next().expect("it was ended"));
        let mut bytes = world.log.object(&name).await.to_vec();
        bytes[HEADER_BYTES + 200] ^= 1;
        world.log.store.delete(&name).await.expect("the store answers");
        world.log.store.put_if_absent(&name, "rot", bytes.into()).await.expect("the damage");
        // The disk is read again: what the damaged frame held is there anew.
        for _ in 0..3 {
            world.write(0, 0, 8);
            world.log.mark();
            world.end_segment().await;
        }
        let stopped = world.merge(true, None).await;
        assert!(matches!(stopped, Err(super::MergeError::Read(_))), "{stopped:?}");
        for _ in 0..12 {
            world.write(0, 40, 2);
            world.log.mark();
            world.end_segment().await;
        }
        assert!(world.merge(true, None).await.expect("no point that stays needs what is damaged"));
        world.check().await.expect("every point that stays is as it was");
    });
}
