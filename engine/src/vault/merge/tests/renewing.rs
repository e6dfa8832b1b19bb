//! Damaged runs that are made again from what they were merged from.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::world::{GRACE_S, World, history};
use super::{block_on, rules};
use crate::ids::{Lsn, RunId};
use crate::vault::layout::ObjectName;
use crate::vault::manifest::Run;
use crate::vault::merge::{MergeError, Merger, Rules, Sightings};
use crate::vault::read::segment_view::ObjectPlace;

async fn runs(world: &mut World) -> Vec<Run> {
    let merger = world.merger(None);
    merger.keeper.read(merger.owner.0).await.expect("the store answers").0.runs
}

fn name(world: &World, run: RunId, part: u32) -> ObjectName {
    ObjectPlace::Run(run, part).name(world.log.machine, world.log.timeline)
}

async fn renewed(world: &mut World, run: RunId) -> Result<Option<Run>, MergeError> {
    let (merger, ladder) = (world.merger(None), world.ladder.clone());
    merger.renew(run, Some(&ladder)).await
}

/// Flips a bit of a run's part.
async fn damage(world: &World, run: RunId, part: u32, at: impl Fn(usize) -> usize) {
    let name = name(world, run, part);
    let mut bytes = world.log.object(&name).await.to_vec();
    let at = at(bytes.len());
    bytes[at] ^= 8;
    world.log.store.damage(&name, Some(bytes.into()));
}

async fn points(world: &World) -> Vec<Lsn> {
    world.log.reader().await.points().iter().map(|point| point.lsn).collect()
}

/// A run of segments, then a larger one of that run, another and segments.
async fn two_levels() -> World {
    let mut world = history(6).await;
    assert!(world.merge(true, None).await.expect("the first run"));
    for n in 0..4 {
        world.write(0, n * 9, 9);
        world.log.mark();
        world.end_segment().await;
    }
    world
}

// I7
#[test]
fn a_damaged_run_is_made_again_from_what_it_was_merged_from() {
    block_on(async {
        for level in [1, 2] {
            for kind in 0..5 {
                let mut world = two_levels().await;
                if level == 2 {
                    assert!(world.merge(true, None).await.expect("the second run"));
                }
                let run = runs(&mut world).await[0].clone();
                let before = points(&world).await;
                world.open_reader(0).await;
                world.open_reader(usize::MAX / 2).await;
                for part in 0..run.parts {
                    damage(&world, run.id, part, |len| [50, len / 3, len / 2, len - 50, 0][kind]).await;
                    if kind == 4 {
                        world.log.store.damage(&name(&world, run.id, part), None);
                    }
                }
                let new =
                    renewed(&mut world, run.id).await.expect("what it was made of is there").expect("it was live");
                assert_eq!((new.from, new.to, new.first, new.last), (run.from, run.to, run.first, run.last));
                assert_eq!(runs(&mut world).await[0], new);
                let head_stood = kind < 3;
                if head_stood {
                    assert_eq!(points(&world).await, before, "level {level}, damage {kind}");
                }
                // Without the head, the ladder says anew what stays.
                world.free.extend(world.log.taken.iter().map(|taken| taken.lsn).filter(|_| !head_stood));
                world.check().await.expect("every point and reader is as it was");
                world.settle().await.expect("and the damaged one goes");
            }
        }
    });
}

// I7
#[test]
fn what_a_damaged_piece_was_made_of_is_taken_instead_of_it_and_where_that_is_damaged_nothing_changes() {
    block_on(async {
        let mut world = two_levels().await;
        let first = runs(&mut world).await[0].clone();
        assert!(world.merge(true, None).await.expect("the second run"));
        let second = runs(&mut world).await[0].clone();
        damage(&world, second.id, 0, |len| len / 2).await;
        damage(&world, first.id, 0, |len| len - 50).await;
        let third = renewed(&mut world, second.id).await.expect("the segments are there").expect("it was live");
        world.check().await.expect("every point is as it was");
        damage(&world, third.id, 0, |len| len / 2).await;
        let name = world.log.name(first.to);
        let whole = world.log.object(&name).await;
        world.log.store.damage(&name, None);
        let unmade = renewed(&mut world, third.id).await;
        assert!(matches!(&unmade, Err(MergeError::Unmade { run, .. }) if *run == third.id), "{unmade:?}");
        assert_eq!(runs(&mut world).await, std::slice::from_ref(&third));
        world.log.store.damage(&name, Some(whole));
        renewed(&mut world, third.id).await.expect("a copy of the segment was put back").expect("it is live");
        world.check().await.expect("every point is as it was");
        assert_eq!(renewed(&mut world, third.id).await.expect("the store answers"), None, "it is live no longer");
    });
}

// I7
#[test]
fn what_a_damaged_run_was_made_of_is_not_deleted_but_used() {
    block_on(async {
        for suspected in [false, true] {
            let mut world = history(24).await;
            let sightings = {
                let clock = world.clock.clone();
                Arc::new(Sightings::new(move || Duration::from_secs(clock.load(Ordering::SeqCst) as u64)))
            };
            let look = async |world: &mut World, suspects: &[(RunId, u32)]| {
                let rules = Rules { suspects: suspects.iter().copied().collect(), ..rules(world, false) };
                let merger = Merger { sightings: Some(sightings.clone()), ..world.merger(None) };
                merger.look(&mut None, &rules).await.expect("a look")
            };
            let (_, run) = look(&mut world, &[]).await.merged.expect("a merge is due");
            let kept = points(&world).await;
            world.free.extend(world.log.taken.iter().map(|taken| taken.lsn).filter(|lsn| !kept.contains(lsn)));
            world.policy.live_segments = usize::MAX;
            damage(&world, run.id, 0, |len| len / 2).await;
            let looked = match suspected {
                true => look(&mut world, &[(run.id, 0)]).await,
                false => {
                    look(&mut world, &[]).await;
                    world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
                    look(&mut world, &[]).await
                }
            };
            assert_eq!(looked.renewed.iter().map(|(old, _)| *old).collect::<Vec<_>>(), [run.id]);
            let new = looked.renewed[0].1.clone();
            world.check().await.expect("every point is as it was");
            let mut deleted = look(&mut world, &[]).await.swept.map_or(0, |swept| swept.deleted);
            world.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
            deleted += look(&mut world, &[(run.id, 0)]).await.swept.expect("it is due").deleted;
            let segments = world.ends.range(run.from..=run.to).count() as u64;
            assert_eq!(deleted, segments + u64::from(run.parts), "what it was made of, and the damaged run");
            // Nothing is left to make it from: it stays, and is named.
            damage(&world, new.id, 0, |len| len / 2).await;
            let looked = look(&mut world, &[(new.id, 0)]).await;
            assert!(looked.renewed.is_empty() && looked.unmade.len() == 1, "{looked:?}");
            assert_eq!(runs(&mut world).await, [new]);
        }
    });
}
