//! Seeds of the simulator (`farshore_engine::sim`).
//!
//! - `FARSHORE_SEED=n` plays one seed and prints its trace; `FARSHORE_FAULTS=1,5` keeps only those faults of its
//!   schedule, `FARSHORE_MUTATION=Name` plays it with a defect on purpose.
//! - `FARSHORE_SEEDS=a..b` plays those instead of the fixed ones.
//!
//! A seed that fails is cut down to the faults that it needs, and printed with its trace and the command that replays it
//! exactly.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use farshore_engine::sim::counters::{Counters, Seen};
use farshore_engine::sim::mutation::Mutation;
use farshore_engine::sim::run::{Broken, Play, Summary, minimised, run};

/// What is played where nothing else is asked for.
const SEEDS: Range<u64> = 0..2000;
/// A defect that shows in no run of these is one that the simulator cannot see.
const MUTATION_SEEDS: Range<u64> = 0..2000;
/// Where the mutations are listed with the seeds that catch them.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/INVARIANTS.md");
/// The last lines before that list.
const TABLE: &str = "| mutation | breaks | seed |\n|---|---|---|\n";
/// What each seed must have at least: events, and faults that really struck.
const EVENTS_LEAST: u64 = 3000;
const FAULTS_LEAST: u64 = 10;
/// Seeds from which on a campaign must have seen everything that is counted.
const CAMPAIGN_SEEDS: u64 = 200;

fn seeds() -> Range<u64> {
    let Ok(text) = env::var("FARSHORE_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("FARSHORE_SEEDS=a..b");
    from.trim().parse().expect("a number")..to.trim().parse().expect("a number")
}

/// What seeds came to.
#[derive(Default)]
struct Campaign {
    seeds: u64,
    writes: usize,
    slots: usize,
    lives: u64,
    counters: Counters,
    events_least: u64,
    faults_least: u64,
    broken: Option<Box<Broken>>,
}

impl Campaign {
    fn take(&mut self, summary: &Summary) {
        let (events, faults) = (summary.events, summary.counters.faults());
        self.events_least = if self.seeds == 0 { events } else { self.events_least.min(events) };
        self.faults_least = if self.seeds == 0 { faults } else { self.faults_least.min(faults) };
        self.seeds += 1;
        self.writes += summary.writes;
        self.slots += summary.slots;
        self.lives += summary.lives;
        self.counters.add(&summary.counters);
    }

    fn add(&mut self, other: Self) {
        if other.seeds > 0 {
            let least = |mine: u64, other: u64| if self.seeds == 0 { other } else { mine.min(other) };
            self.events_least = least(self.events_least, other.events_least);
            self.faults_least = least(self.faults_least, other.faults_least);
        }
        self.seeds += other.seeds;
        self.writes += other.writes;
        self.slots += other.slots;
        self.lives += other.lives;
        self.counters.add(&other.counters);
        let seed = |broken: &Option<Box<Broken>>| broken.as_ref().map_or(u64::MAX, |broken| broken.play.seed);
        if seed(&other.broken) < seed(&self.broken) {
            self.broken = other.broken;
        }
    }
}

/// Plays the seeds on every core, up to the first that fails.
fn campaign(seeds: Range<u64>, mutation: Option<Mutation>) -> Campaign {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let (next, first_broken) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let work = || {
        let mut mine = Campaign::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > first_broken.load(Ordering::Relaxed) {
                return mine;
            }
            match run(&Play { mutation, ..Play::of(seed) }) {
                Ok(summary) => mine.take(&summary),
                Err(broken) => {
                    first_broken.fetch_min(seed, Ordering::Relaxed);
                    mine.broken = Some(broken);
                    return mine;
                }
            }
        }
    };
    let played: Vec<Campaign> = std::thread::scope(|scope| {
        let plays: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        plays.into_iter().map(|play| play.join().expect("a run ends with a result")).collect()
    });
    let mut all = Campaign::default();
    played.into_iter().for_each(|campaign| all.add(campaign));
    all
}

#[test]
fn no_seed_breaks_an_invariant() {
    let all = campaign(seeds(), None);
    if let Some(broken) = all.broken {
        panic!("{}", minimised(broken));
    }
    println!("{} seeds: {} writes in {} slots, {} lives of agents", all.seeds, all.writes, all.slots, all.lives);
    println!("fewest events of a seed: {}, fewest faults: {}", all.events_least, all.faults_least);
    print!("{}", all.counters);
    assert!(all.writes as u64 > all.seeds * 100, "the runs write something");
    assert!(all.events_least >= EVENTS_LEAST && all.faults_least >= FAULTS_LEAST, "a seed is too quiet to prove much");
    let never: Vec<&str> = all.counters.never().into_iter().map(Seen::text).collect();
    assert!(all.seeds < CAMPAIGN_SEEDS || never.is_empty(), "{} seeds without once: {never:?}", all.seeds);
}

#[test]
fn one_seed() {
    let Ok(seed) = env::var("FARSHORE_SEED") else { return };
    let mut play = Play::of(seed.parse().expect("FARSHORE_SEED is a number"));
    if let Ok(name) = env::var("FARSHORE_MUTATION") {
        play.mutation = Some(Mutation::named(&name).expect("FARSHORE_MUTATION names a mutation"));
    }
    if let Ok(kept) = env::var("FARSHORE_FAULTS") {
        let numbers = kept.split(',').filter(|number| !number.is_empty());
        play.kept = Some(numbers.map(|number| number.parse().expect("FARSHORE_FAULTS is numbers")).collect());
    }
    match run(&play) {
        Ok(summary) => println!("seed {seed} holds: {summary:?}"),
        Err(broken) => panic!("{broken}"),
    }
}

fn row_of(mutation: Mutation) -> String {
    format!("| `{mutation:?}` | {} | ", mutation.breaks())
}

/// Looks for the first seed that notices each mutation, and puts them into the document.
fn write_document() {
    let (mut rows, mut missed) = (Vec::new(), Vec::new());
    for mutation in Mutation::ALL {
        let Some(broken) = campaign(MUTATION_SEEDS, Some(mutation)).broken else {
            missed.push(mutation);
            continue;
        };
        println!("{mutation:?}: seed {}: {}", broken.play.seed, broken.what);
        rows.push(format!("{}{} |", row_of(mutation), broken.play.seed));
    }
    let document = fs::read_to_string(DOCUMENT).expect("the document");
    let (before, _) = document.split_once(TABLE).expect("the document has the table");
    fs::write(DOCUMENT, format!("{before}{TABLE}{}\n", rows.join("\n"))).expect("written");
    assert!(missed.is_empty(), "not noticed in any run: {missed:?}");
}

/// Every defect that the shell around the cores could have is found: docs/INVARIANTS.md names a seed for each.
/// `FARSHORE_WRITE=1` looks for them anew.
#[test]
fn every_mutation_is_caught_by_the_seed_that_the_document_names() {
    if env::var("FARSHORE_WRITE").is_ok() {
        write_document();
    }
    let document = fs::read_to_string(DOCUMENT).expect("the document");
    for mutation in Mutation::ALL {
        let seed =
            document.lines().find_map(|line| line.strip_prefix(&row_of(mutation))?.strip_suffix(" |")?.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| panic!("docs/INVARIANTS.md names no seed for {mutation:?}"));
        assert!(MUTATION_SEEDS.contains(&seed), "{mutation:?} is found within the seeds");
        assert!(run(&Play::mutated(seed, mutation)).is_err(), "{mutation:?} is not noticed in seed {seed}");
        assert!(run(&Play::of(seed)).is_ok(), "seed {seed} is broken without {mutation:?} as well");
    }
}

/// The shorter schedule of a failing seed fails as well, and none of what is left can go.
#[test]
fn a_failing_seed_is_cut_down_to_the_faults_that_it_needs() {
    let mutation = Mutation::NewerOwnerIsIgnored;
    let broken = campaign(MUTATION_SEEDS, Some(mutation)).broken.expect("this one is found");
    let all = broken.faults.len();
    let short = minimised(broken);
    let kept: BTreeSet<usize> = short.play.kept.clone().expect("it was cut down");
    assert!(kept.len() < all, "{} of {all} faults are needed", kept.len());
    for number in &kept {
        let without = kept.iter().copied().filter(|kept| kept != number).collect();
        assert!(run(&Play { kept: Some(without), ..short.play.clone() }).is_ok(), "fault {number} is not needed");
    }
    assert!(short.to_string().contains("FARSHORE_FAULTS="));
}
