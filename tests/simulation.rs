//! Seeds of the simulator (`farshore_engine::sim`).
//!
//! - `FARSHORE_SEED=n` plays one seed and prints its trace.
//! - `FARSHORE_SEEDS=a..b` plays those instead of the fixed ones.
//!
//! A seed that fails is printed with its trace and the command that replays it exactly.

use std::env;
use std::ops::Range;

use farshore_engine::sim::mutation::Mutation;
use farshore_engine::sim::run::{Broken, Summary, run};

/// What every check plays. More seeds find rarer things: `FARSHORE_SEEDS=0..100000` runs them for as long as one likes.
const SEEDS: Range<u64> = 0..200;
/// A defect that shows in no run of these is one that the simulator cannot see.
const MUTATION_SEEDS: Range<u64> = 0..400;

fn seeds() -> Range<u64> {
    let Ok(text) = env::var("FARSHORE_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("FARSHORE_SEEDS=a..b");
    from.trim().parse().expect("a number")..to.trim().parse().expect("a number")
}

/// Plays the seeds on every core and gives the first that fails, by number.
fn first_broken(seeds: Range<u64>, mutation: Option<Mutation>) -> (Vec<Summary>, Option<Box<Broken>>) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let played: Vec<(Vec<Summary>, Option<Box<Broken>>)> = std::thread::scope(|scope| {
        let plays = (0..cores).map(|core| {
            let mine = seeds.clone().skip(core as usize).step_by(cores as usize);
            scope.spawn(move || {
                let mut summaries = Vec::new();
                for seed in mine {
                    match run(seed, mutation) {
                        Ok(summary) => summaries.push(summary),
                        Err(broken) => return (summaries, Some(broken)),
                    }
                }
                (summaries, None)
            })
        });
        let plays: Vec<_> = plays.collect();
        plays.into_iter().map(|play| play.join().expect("a run ends with a result")).collect()
    });
    let mut summaries = Vec::new();
    let mut first: Option<Box<Broken>> = None;
    for (some, broken) in played {
        summaries.extend(some);
        if let Some(broken) = broken
            && first.as_ref().is_none_or(|first| broken.seed < first.seed)
        {
            first = Some(broken);
        }
    }
    (summaries, first)
}

#[test]
fn no_seed_breaks_an_invariant() {
    let (summaries, broken) = first_broken(seeds(), None);
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    let writes: usize = summaries.iter().map(|summary| summary.writes).sum();
    let slots: usize = summaries.iter().map(|summary| summary.slots).sum();
    println!("{} seeds: {writes} writes in {slots} slots", summaries.len());
    assert!(writes > summaries.len() * 100, "the runs write something");
}

#[test]
fn one_seed() {
    let Ok(seed) = env::var("FARSHORE_SEED") else { return };
    match run(seed.parse().expect("FARSHORE_SEED is a number"), None) {
        Ok(summary) => println!("seed {seed} holds: {summary:?}"),
        Err(broken) => panic!("{broken}"),
    }
}

/// Every defect that the shell around the cores could have is found within the seeds.
#[test]
fn every_mutation_is_caught() {
    for mutation in Mutation::ALL {
        let (_, broken) = first_broken(MUTATION_SEEDS, Some(mutation));
        let broken = broken.unwrap_or_else(|| panic!("{mutation:?} is not noticed in any run"));
        assert!(run(broken.seed, None).is_ok(), "seed {} is broken without the defect as well", broken.seed);
        println!("{mutation:?}: seed {}: {}", broken.seed, broken.what);
    }
}
