//! The schedule of a run: which fault strikes where, when, for how long. A pure function of scenario, seed and duration.
//!
//! Two faults never strike one place at a time: a process that is killed is not stopped as well, and what is over is over for
//! its place. A fault that finds all its places taken is left out.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::fault::{Fault, Place, Span};
use super::scenario::Scenario;

/// Time that a process gets to come back before the next fault strikes it, in seconds.
const BREATH_SECONDS: f64 = 1.0;

/// A fault with its time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Due {
    /// Seconds after the load began.
    pub(crate) at: f64,
    /// What happens; its place and its numbers are drawn.
    #[serde(flatten)]
    pub(crate) fault: Fault,
}

impl Due {
    /// When it is over.
    pub(crate) fn until(&self) -> f64 {
        self.at + self.fault.seconds().map_or(0.0, Span::most)
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, fault } = self;
        write!(f, "{at:6.2} s  ")?;
        let lasting = |span: &Span| span.most();
        match fault {
            Fault::Kill { target, seconds } => write!(f, "kill -9 {target}, back after {:.2} s", lasting(seconds)),
            Fault::Pause { target, seconds } => write!(f, "stop {target} for {:.2} s", lasting(seconds)),
            Fault::Restart { target } => write!(f, "restart {target}"),
            Fault::Storm { target, seconds, every } => {
                write!(f, "kill -9 {target} every {:.2} s for {:.2} s", lasting(every), lasting(seconds))
            }
            Fault::BlackHole { link, seconds } => write!(f, "{link} carries nothing for {:.2} s", lasting(seconds)),
            Fault::HalfOpen { link, seconds, way } => {
                write!(f, "{link} carries nothing {way:?} for {:.2} s", lasting(seconds))
            }
            Fault::SlowLink { link, seconds, latency_ms, kib_per_second } => write!(
                f,
                "{link} takes {latency_ms} ms more at {kib_per_second} KiB/s (0: all) for {:.2} s",
                lasting(seconds)
            ),
            Fault::Refuse { link, seconds } => write!(f, "{link} refuses for {:.2} s", lasting(seconds)),
            Fault::Panic { target, actor, times, seconds } => {
                write!(f, "{times} panics of {actor:?} at {target} within {:.2} s", lasting(seconds))
            }
            Fault::VaultFail { target, seconds, after_effect } => {
                let how = if *after_effect { "loses its answers" } else { "fails" };
                write!(f, "the vault {how} at {target} for {:.2} s", lasting(seconds))
            }
            Fault::VaultSlow { target, seconds, delay_ms } => {
                write!(f, "the vault takes {delay_ms} ms more at {target} for {:.2} s", lasting(seconds))
            }
            Fault::CacheFull { target, seconds } => {
                write!(f, "the cache of {target} is full for {:.2} s", lasting(seconds))
            }
            Fault::LoseCache { target, seconds } => {
                write!(f, "kill -9 {target}, its cache is lost, back after {:.2} s", lasting(seconds))
            }
            Fault::Cut { target, seconds } => {
                write!(f, "{target} is cut off the network for {:.2} s", lasting(seconds))
            }
            Fault::Corrupt { seconds, object, bit } => write!(
                f,
                "the bit at {:.2} of the vault's object at {:.2} is another for {:.2} s",
                lasting(bit),
                lasting(object),
                lasting(seconds)
            ),
            Fault::Move { target, to } => write!(f, "{target} moves to {to}"),
            Fault::Reset { link } => write!(f, "{link} is reset"),
            Fault::Skew { target, seconds, offset } => {
                write!(f, "restart {target} with its clock {:+.2} s off for {:.2} s", lasting(offset), lasting(seconds))
            }
        }
    }
}

/// Chance out of a seed: SplitMix64, written out here so that a seed means the same in every version.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "something to choose from");
        (self.next() % bound as u64) as usize
    }

    /// A number of the span, to a hundredth.
    fn draw(&mut self, span: Span) -> f64 {
        let (from, to) = span.ends();
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        ((from + (to - from) * part) * 100.0).round() / 100.0
    }
}

/// What happens in a run, in order of time.
pub(crate) fn schedule(scenario: &Scenario, seed: u64, seconds: f64) -> Vec<Due> {
    let mut dice = Dice(seed);
    let mut plan = Plan { scenario, taken: BTreeMap::new(), due: Vec::new() };
    let mut steps: Vec<_> = scenario.step.iter().filter(|step| step.at <= seconds).collect();
    steps.sort_by(|a, b| a.at.total_cmp(&b.at));
    steps.into_iter().for_each(|step| plan.add(&mut dice, step.at, &step.act));
    if let Some(random) = &scenario.random {
        let weights: usize = random.choose.iter().map(|choice| choice.weight as usize).sum();
        let mut at = dice.draw(random.every);
        while at <= seconds {
            let mut ticket = dice.below(weights);
            let drawn = random.choose.iter().find(|choice| {
                let hit = ticket < choice.weight as usize;
                ticket = ticket.wrapping_sub(choice.weight as usize);
                hit
            });
            let drawn = drawn.expect("a ticket below the sum of weights belongs to a choice");
            plan.add(&mut dice, at, &drawn.act);
            at += dice.draw(random.every).max(0.01);
        }
    }
    plan.due.sort_by(|a, b| a.at.total_cmp(&b.at));
    plan.due
}

struct Plan<'a> {
    scenario: &'a Scenario,
    /// Until when a place is taken.
    taken: BTreeMap<String, f64>,
    due: Vec<Due>,
}

impl Plan<'_> {
    fn add(&mut self, dice: &mut Dice, at: f64, fault: &Fault) {
        let at = (at * 100.0).round() / 100.0;
        let mut places = fault.places(self.scenario);
        places.retain(|place| self.taken.get(place).is_none_or(|until| *until < at));
        if places.is_empty() {
            return;
        }
        let place = places.swap_remove(dice.below(places.len()));
        let due = Due { at, fault: fault.settled(&place, |span| dice.draw(span)) };
        let breath = if matches!(fault.place(), Place::Process(_)) { BREATH_SECONDS } else { 0.0 };
        self.taken.insert(place, due.until() + breath);
        self.due.push(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: &str = r#"
name = "x"
about = "y"
[random]
every = [0.2, 0.8]
choose = [
  { weight = 3, do = { fault = "kill", target = "*", seconds = [0.2, 2] } },
  { do = { fault = "black_hole", link = "data:*", seconds = [0.2, 2] } },
]
"#;

    #[test]
    fn a_schedule_is_a_function_of_its_seed() {
        let scenario = Scenario::parse(RANDOM).expect("fine");
        let one = schedule(&scenario, 1, 60.0);
        assert_eq!(one, schedule(&scenario, 1, 60.0));
        assert_ne!(one, schedule(&scenario, 2, 60.0));
        assert!(one.len() > 20, "{}", one.len());
        let text = |due: &Due| due.to_string();
        assert!(
            one.iter().any(|due| text(due).contains("kill -9")) && one.iter().any(|due| text(due).contains("data:"))
        );
    }

    #[test]
    fn a_place_has_one_fault_at_a_time() {
        let scenario = Scenario::parse(RANDOM).expect("fine");
        for seed in 0..50 {
            let mut until: BTreeMap<String, f64> = BTreeMap::new();
            for due in schedule(&scenario, seed, 60.0) {
                let place = due.fault.places(&scenario).pop().expect("a place");
                assert!(until.get(&place).is_none_or(|until| *until < due.at), "seed {seed}: {due}");
                until.insert(place, due.until());
            }
        }
    }

    #[test]
    fn a_seed_means_the_same_in_every_version() {
        let mut dice = Dice(0);
        // The generator's published test vector.
        assert_eq!([dice.next(), dice.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }
}
