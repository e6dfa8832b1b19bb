//! One seed, played from start to end.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::check::check;
use super::counters::Counters;
use super::mutation::Mutation;
use super::schedule::{self, Fault, STORM};
use super::world::World;

/// How long everything may take to get through after that. Longest: a silent link (15 s), then a pause of the
/// committer (10 s), then the backlog.
const CALM: Duration = Duration::from_secs(90);
/// Events after which a run is taken to go in circles.
const EVENTS_MAX: u64 = 500_000;

/// Plays that the search for a shorter schedule may take.
const MINIMISE_PLAYS_MAX: usize = 250;

/// What is played: a seed; the mutation that it is played with; and of its faults those that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Play {
    /// The seed.
    pub seed: u64,
    /// The defect on purpose, if there is one.
    pub mutation: Option<Mutation>,
    /// Numbers of the faults that strike; `None` for all.
    pub kept: Option<BTreeSet<usize>>,
}

impl Play {
    /// A seed as it is.
    pub fn of(seed: u64) -> Self {
        Self { seed, mutation: None, kept: None }
    }

    /// A seed, played with a defect.
    pub fn mutated(seed: u64, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..Self::of(seed) }
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = schedule::draw(self.seed);
        faults.retain(|fault| self.kept.as_ref().is_none_or(|kept| kept.contains(&fault.number)));
        faults
    }
}

/// What a run did, if nothing was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Slots filled.
    pub slots: usize,
    /// Writes in the log.
    pub writes: usize,
    /// Lives of agents.
    pub lives: u64,
    /// Events played.
    pub events: u64,
    /// What happened.
    pub counters: Counters,
}

/// What was broken.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The play that shows it.
    pub play: Play,
    /// What does not hold.
    pub what: String,
    /// The faults that strike.
    pub faults: Vec<Fault>,
    /// What happened before.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Play { seed, mutation, kept } = &self.play;
        writeln!(f, "seed {seed}: {}", self.what)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "faults of its schedule:")?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))?;
        write!(f, "replay: FARSHORE_SEED={seed}")?;
        if let Some(kept) = kept {
            let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
            write!(f, " FARSHORE_FAULTS={}", kept.join(","))?;
        }
        if let Some(mutation) = mutation {
            write!(f, " FARSHORE_MUTATION={mutation:?}")?;
        }
        write!(f, " cargo test --test simulation one_seed -- --nocapture")
    }
}

/// Plays a seed.
///
/// # Errors
/// The first thing that was found broken, with the trace that leads to it.
pub fn run(what: &Play) -> Result<Summary, Box<Broken>> {
    let faults = what.faults();
    let mut world = World::new(what.seed, what.mutation, faults.clone());
    // A broken invariant that a core notices itself is a finding like any other.
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let played = played.unwrap_or_else(|panic| Err(format!("a core asserts: {}", said(&*panic))));
    match played {
        Ok((events, writes)) => {
            let slots = world.machines.iter().map(|machine| machine.log.slots.len()).sum();
            let lives = world.machines.iter().map(|machine| machine.lives).sum();
            Ok(Summary { slots, writes, lives, events, counters: world.ctx.counters })
        }
        Err(broken) => Err(Box::new(Broken { play: what.clone(), what: broken, faults, trace: world.ctx.trace })),
    }
}

/// Cuts the schedule of a play that is broken down to the faults that it needs, and plays that.
pub fn minimised(broken: Box<Broken>) -> Box<Broken> {
    let all = broken.faults.iter().map(|fault| fault.number).collect();
    let of = |kept: &BTreeSet<usize>| Play { kept: Some(kept.clone()), ..broken.play.clone() };
    let kept = schedule::minimise(all, MINIMISE_PLAYS_MAX, |kept| run(&of(kept)).is_err());
    run(&of(&kept)).err().unwrap_or(broken)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

fn play(world: &mut World) -> Result<(u64, usize), String> {
    let mut events = 0;
    while !(world.ctx.calm && world.is_through()) {
        events += 1;
        let goes_on = world.step();
        if let Some(broken) = world.ctx.broken.take() {
            return Err(broken);
        }
        if !goes_on {
            return Err("nothing happens any more, and not everything got through".into());
        }
        if !world.ctx.calm && world.ctx.now >= STORM {
            world.calm_down();
        }
        if world.ctx.now >= STORM + CALM {
            return Err(format!("not everything got through within {} s of calm", CALM.as_secs()));
        }
        if events >= EVENTS_MAX {
            return Err(format!("it goes in circles: {events} events"));
        }
    }
    let checked = world.machines.iter().map(|machine| {
        let broken = |what: String| format!("machine {}: {what}", machine.index);
        check(machine).map_err(broken)
    });
    checked.sum::<Result<usize, String>>().map(|writes| (events, writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for seed in [3, 77] {
            let first = run(&Play::of(seed)).map_err(|broken| broken.to_string());
            assert_eq!(first, run(&Play::of(seed)).map_err(|broken| broken.to_string()));
            assert!(first.is_ok_and(|summary| summary.writes > 100));
        }
    }
}
