//! One seed, played from start to end.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::check::check;
use super::mutation::Mutation;
use super::world::World;

/// How long things go wrong, in virtual time.
const STORM: Duration = Duration::from_secs(12);
/// How long everything may take to get through after that. Longest: a silent link (15 s), then a pause of the
/// committer (10 s), then the backlog.
const CALM: Duration = Duration::from_secs(90);
/// Events after which a run is taken to go in circles.
const EVENTS_MAX: u64 = 500_000;

/// What a run did, if nothing was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Slots filled.
    pub slots: usize,
    /// Writes in the log.
    pub writes: usize,
    /// Lives of the agent.
    pub lives: usize,
    /// Events played.
    pub events: u64,
}

/// What was broken.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The seed that shows it.
    pub seed: u64,
    /// What does not hold.
    pub what: String,
    /// What happened before.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "replay: FARSHORE_SEED={} cargo test --test simulation one_seed -- --nocapture", self.seed)
    }
}

/// Plays one seed.
///
/// # Errors
/// The first thing that was found broken, with the trace that leads to it.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Summary, Box<Broken>> {
    let mut world = World::new(seed, mutation);
    // A broken invariant that a core notices itself is a finding like any other.
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let played = played.unwrap_or_else(|panic| Err(format!("a core asserts: {}", said(&*panic))));
    let broken = |what: String, world: &World| Box::new(Broken { seed, what, trace: world.ctx.trace.clone() });
    match played {
        Ok((events, writes)) => {
            let (slots, lives) = (world.log.slots.len(), world.history.lives.len());
            Ok(Summary { slots, writes, lives, events })
        }
        Err(what) => Err(broken(what, &world)),
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

fn play(world: &mut World) -> Result<(u64, usize), String> {
    let mut events = 0;
    let mut calm = false;
    while !(calm && world.is_through()) {
        events += 1;
        let goes_on = world.step();
        if let Some(broken) = world.ctx.broken.take() {
            return Err(broken);
        }
        if !goes_on {
            return Err("nothing happens any more, and not everything got through".into());
        }
        if !calm && world.ctx.now >= STORM {
            calm = true;
            world.calm_down();
        }
        if world.ctx.now >= STORM + CALM {
            return Err(format!("not everything got through within {} s of calm", CALM.as_secs()));
        }
        if events >= EVENTS_MAX {
            return Err(format!("it goes in circles: {events} events"));
        }
    }
    check(&world.log, &world.history).map(|writes| (events, writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for seed in [3, 77] {
            let first = run(seed, None).map_err(|broken| broken.to_string());
            assert_eq!(first, run(seed, None).map_err(|broken| broken.to_string()));
            assert!(first.is_ok_and(|summary| summary.writes > 100));
        }
    }
}
