//! The model-based property test, and the proof that it can fail.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use super::block_on;
use super::world::{GRACE_S, SECTORS, World, ladder};
use crate::vault::merge::Mutation;
use crate::vault::retention::Ladder;
use crate::vault::segment::Control;

#[derive(Debug, Clone)]
enum Step {
    Write { disk: u16, sector: u64, sectors: u64 },
    Fill { disk: u16, sector: u64, sectors: u64, undefined: bool },
    Resize { disk: u16, sectors: u64 },
    Mark,
    EndBatch,
    EndSegment,
    Merge { thorough: bool, crash: Option<(u32, bool)> },
    Sweep { crash: Option<(u32, bool)> },
    Rot { nth: usize, at: usize, crash: Option<(u32, bool)> },
    Wait(i64),
    Ladder(usize),
    Hold(usize),
    Release(usize),
    Reader(usize),
    NewOwner,
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0..2_u16, 0..SECTORS, 1..24_u64);
    let crash = || prop_oneof![2 => Just(None), 1 => (0..12_u32, any::<bool>()).prop_map(Some)];
    prop_oneof![
        8 => place.clone().prop_map(|(disk, sector, sectors)| Step::Write { disk, sector, sectors }),
        3 => (place, any::<bool>()).prop_map(|((disk, sector, sectors), undefined)| {
            Step::Fill { disk, sector, sectors, undefined }
        }),
        1 => (0..2_u16, SECTORS / 2..=SECTORS).prop_map(|(disk, sectors)| Step::Resize { disk, sectors }),
        6 => Just(Step::Mark),
        2 => Just(Step::EndBatch),
        5 => Just(Step::EndSegment),
        5 => (any::<bool>(), crash()).prop_map(|(thorough, crash)| Step::Merge { thorough, crash }),
        2 => crash().prop_map(|crash| Step::Sweep { crash }),
        2 => (any::<usize>(), any::<usize>(), crash()).prop_map(|(nth, at, crash)| Step::Rot { nth, at, crash }),
        1 => (1..GRACE_S * 2).prop_map(Step::Wait),
        1 => (0..4_usize).prop_map(Step::Ladder),
        2 => any::<usize>().prop_map(Step::Hold),
        1 => any::<usize>().prop_map(Step::Release),
        2 => any::<usize>().prop_map(Step::Reader),
        1 => Just(Step::NewOwner),
    ]
}

async fn take(world: &mut World, step: &Step) -> Result<(), String> {
    match *step {
        Step::Write { disk, sector, sectors } => world.write(disk, sector, sectors),
        Step::Fill { disk, sector, sectors, undefined } => world.fill(disk, sector, sectors, undefined),
        Step::Resize { disk, sectors } => world.log.resize(disk, sectors * 512),
        Step::Mark => {
            world.log.mark();
        }
        Step::EndBatch => world.log.end_batch(),
        Step::EndSegment => world.end_segment().await,
        Step::Merge { thorough, crash } => {
            // Dead or not due: either way nothing may be lost.
            let _ = world.merge(thorough, crash).await;
            world.check().await?;
        }
        Step::Sweep { crash } => {
            let merger = world.merger(crash);
            let _ = merger.sweep(GRACE_S as u64 * 1_000_000).await;
            world.check().await?;
        }
        Step::Rot { nth, at, crash } => world.rot(nth, at, crash).await?,
        Step::Wait(seconds) => {
            world.clock.fetch_add(seconds, Ordering::SeqCst);
        }
        Step::Ladder(which) => {
            world.ladder = match which {
                0 => Ladder::default(),
                1 => ladder(&[(0, 5)]),
                2 => ladder(&[(10, 40), (30, 300)]),
                _ => ladder(&[(0, 15), (20, 60), (60, 400)]),
            };
        }
        Step::Hold(nth) => world.hold(nth).await,
        Step::Release(nth) => world.release(nth).await,
        Step::Reader(nth) => world.open_reader(nth).await,
        Step::NewOwner => {
            // What the old owner had not sent is lost with it, as far as this log goes: it ends its segment first.
            world.end_segment().await;
            world.log.epoch = world.log.epoch.next();
            world.log.control(Control::Fence).await;
        }
    }
    Ok(())
}

/// Runs the model; the first history that fails, if any.
fn run_model(mutation: Option<Mutation>, cases: u32) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&proptest::collection::vec(step(), 1..110), |steps| {
        let done = block_on(async {
            let mut world = World::new(mutation).await;
            for step in &steps {
                take(&mut world, step).await?;
            }
            world.settle().await
        });
        done.map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, steps)) => Err(format!("{why}\n{steps:#?}")),
        Err(TestError::Abort(why)) => panic!("the model did not run: {why}"),
    }
}

// I7
#[test]
fn through_merges_retention_holds_and_crashes_every_retained_point_equals_the_model() {
    if let Err(why) = run_model(None, 96) {
        panic!("{why}");
    }
}

/// The test above can fail: each of these bugs is found by it.
#[test]
fn a_premature_delete_a_dropped_hold_and_a_shadowing_error_are_found_by_the_model() {
    for mutation in [Mutation::DeleteBeforeCommit, Mutation::DropHeld, Mutation::OlderShadowsNewer] {
        let found = run_model(Some(mutation), 400);
        assert!(found.is_err(), "{mutation:?} was not found");
    }
}
