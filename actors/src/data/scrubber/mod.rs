//! The scrubber: reads one machine's log again, a slice a day, so that damage is found while there is still a copy of what
//! it has destroyed. What is damaged is put back from the cache where its segment still lies there; what is not stands in health
//! until it reads well.
//!
//! Owns: which slice was read last, which objects are suspect. Parent: the machine. The work itself is one task at a time in the
//! back room, for all machines of the process server.
//! Bounds: [`ScrubbingLimits`]; one frame and one object to be put back in memory for the whole process server.
//! In: [`Retire`]; its own timer; the board (`scrub_wanted`, `doubted`). Facts out: the board.
//!
//! ```text
//!   timer ─► wanted? ─ yes ─► read all
//!            └ no ─► the day's slice not read yet? ─ yes ─► read it, and the suspects
//!                    └ no ─► suspects, and long not looked at? ─ yes ─► read them
//! ```
//!
//! Which slice a day has, the clock says (and the machine's id, so that machines take turns): nothing about it needs to be
//! remembered. A restart reads the day's slice again; a day on which nobody was up is made good in the next cycle.
//!
//! Crash story: suspects are noted in the cache directory, so that health tells of them in the next life too; another owner
//! finds them again when their slice comes.

mod turn;

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{DamagedObject, ScrubReport, Severity};
use farshore_engine::defaults;
use farshore_engine::ids::{MachineId, Timestamp};
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::scrub::{Damaged, Scrubbed, Slice};
use slog::{Logger, info, warn};
use tokio::time::Instant;

use self::turn::Work;
use super::back_room::Reins;
use super::ledger::MachineSpec;
use super::{DataEventKind, IssueCode};
use crate::supervise::{ActorKind, Life, Retire, Ward, wall_clock};

/// Longest pause after failures.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Pause before damaged objects are read again; it doubles each time, up to [`ScrubbingLimits::suspects_every`].
const SUSPECTS_PAUSE: Duration = Duration::from_secs(5);
/// Damaged objects that the report names.
const NAMED_MAX: usize = 20;

/// Bounds of scrubbing (I10).
#[derive(Debug, Clone)]
pub struct ScrubbingLimits {
    /// How often it is looked whether something is due; asks nobody.
    pub tick: Duration,
    /// How often a slice is read.
    pub slice_every: Duration,
    /// So many slices are all of a log.
    pub slices: u64,
    /// How often damaged objects are read again, at least.
    pub suspects_every: Duration,
    /// Bytes read per second, at most, over all machines.
    pub bytes_per_second_max: u64,
}

impl Default for ScrubbingLimits {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(1),
            slice_every: Duration::from_secs(defaults::SCRUB_SLICE_SECONDS),
            slices: defaults::SCRUB_SLICES,
            suspects_every: Duration::from_secs(600),
            bytes_per_second_max: defaults::SCRUB_BYTES_PER_SECOND_MAX,
        }
    }
}

/// The actor.
pub(super) struct Scrubber {
    spec: MachineSpec,
    life: Life,
    log: Logger,
    reins: Reins,
    at_work: bool,
    /// The number of the day whose slice was read last.
    done: Option<u64>,
    /// Objects that are damaged; `None` until the note of the life before was read.
    suspects: Option<Vec<String>>,
    looked_at: Instant,
    /// How often in a row damage was found.
    damaged_looks: u32,
    failures: u32,
    not_before: Instant,
}

impl Ward for Scrubber {
    type Id = ();
    type Spec = MachineSpec;
    const KIND: &'static str = "scrubber";

    fn revive(spec: MachineSpec, life: Life, _: &mut Context<Self>) -> Self {
        let log = spec.wiring.config.log.new(slog::o!("machine" => spec.machine.to_string()));
        let reins = Reins::default();
        let now = Instant::now();
        Self {
            spec,
            life,
            log,
            reins,
            at_work: false,
            done: None,
            suspects: None,
            looked_at: now,
            damaged_looks: 0,
            failures: 0,
            not_before: now,
        }
    }
}

impl Actor for Scrubber {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        ctx.run_interval(self.limits().tick, Self::tick);
    }
}

/// Which day it is for a machine: days begin at another time for each.
fn day(machine: MachineId, now: Timestamp, every: Duration) -> u64 {
    let share = every.mul_f64(f64::from(machine.0[0]) / 256.0);
    let micros = u64::try_from(now.0).unwrap_or(0).saturating_add(share.as_micros() as u64);
    micros / (every.as_micros() as u64).max(1)
}

impl Scrubber {
    fn chaos(&self) {
        self.spec.wiring.config.chaos.check(ActorKind::Scrubber, Some(self.spec.machine));
    }

    fn limits(&self) -> &ScrubbingLimits {
        &self.spec.wiring.config.limits.scrubbing
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.chaos();
        if self.at_work || Instant::now() < self.not_before {
            return;
        }
        let doubted = self.take_doubted();
        let limits = self.limits();
        let today = day(self.spec.machine, wall_clock(), limits.slice_every);
        let suspects = self.suspects.as_ref().is_some_and(|suspects| !suspects.is_empty());
        let pause = SUSPECTS_PAUSE.saturating_mul(1 << self.damaged_looks.min(12)).min(limits.suspects_every);
        let again = doubted || (suspects && self.looked_at.elapsed() >= pause);
        let of = limits.slices.max(1);
        if self.spec.board.edit(|status| std::mem::take(&mut status.scrub_wanted)) {
            self.scrub(Part::Whole, ctx);
        } else if self.done != Some(today) {
            self.scrub(Part::Day(today, Slice { number: today % of, of }), ctx);
        } else if again {
            self.scrub(Part::Suspects, ctx);
        }
    }

    /// Takes what others found damaged among the suspects, once those are known; tells whether there is anything new.
    fn take_doubted(&mut self) -> bool {
        let Some(suspects) = &mut self.suspects else { return false };
        let before = suspects.len();
        for object in self.spec.board.edit(|status| std::mem::take(&mut status.doubted)) {
            if !suspects.contains(&object) {
                suspects.push(object);
            }
        }
        suspects.len() > before
    }

    fn scrub(&mut self, part: Part, ctx: &mut Context<Self>) {
        self.at_work = true;
        let (spec, over) = (self.spec.clone(), self.reins.held());
        let work = Work { slice: part.slice(), suspects: self.suspects.clone() };
        let scrubbing = self.spec.wiring.back_room.run(move || turn::scrub(spec, over, work));
        self.spec.board.edit(|status| status.scrub.running = true);
        ctx.spawn(scrubbing.into_actor(self).map(move |done, scrubber, _| {
            scrubber.at_work = false;
            scrubber.looked_at = Instant::now();
            scrubber.spec.board.edit(|status| status.scrub.running = false);
            scrubber.life.progress();
            scrubber.chaos();
            match done.unwrap_or_else(|error| panic!("a scrub failed: {error}")) {
                Ok(done) => scrubber.scrubbed(part, done),
                Err(error) => scrubber.failed(part, &error),
            }
        }));
    }

    fn scrubbed(&mut self, part: Part, done: Scrubbed) {
        if done.cut_off {
            return;
        }
        self.failures = 0;
        self.spec.board.clear(IssueCode::RestartStorm);
        if let Part::Day(day, _) = part {
            self.done = Some(day);
        }
        info!(self.log, "a part of the log was read again"; "part" => ?part, "objects" => done.objects,
            "bytes" => done.bytes, "repaired" => done.repaired.len(), "damaged" => done.damaged.len());
        if !done.repaired.is_empty() {
            let (objects, how) = (done.repaired.clone(), "put back from the cache");
            self.spec.board.tell(DataEventKind::ObjectsRepaired { objects, how });
        }
        let limits = self.limits().clone();
        let named: Vec<_> = done.damaged.iter().take(NAMED_MAX).map(told).collect();
        self.spec.board.edit(|status| {
            let before = status.scrub.clone();
            let is_slice = matches!(part, Part::Day(..));
            status.scrub = ScrubReport {
                running: false,
                ended_at: Some(wall_clock()),
                whole_at: if part == Part::Whole { Some(wall_clock()) } else { before.whole_at },
                slices: before.slices + u64::from(is_slice),
                slices_per_cycle: limits.slices,
                objects: before.objects + done.objects,
                bytes: before.bytes + done.bytes,
                repaired: before.repaired + done.repaired.len() as u64,
                failures: before.failures,
                damaged_objects: done.damaged.len() as u64,
                touched_points: touched(&done.damaged),
                damaged: named,
            };
        });
        self.is_damaged(&done.damaged);
        self.damaged_looks = if done.damaged.is_empty() { 0 } else { self.damaged_looks + 1 };
        self.suspects = Some(done.damaged.into_iter().map(|damaged| damaged.found.object).collect());
    }

    fn is_damaged(&self, damaged: &[Damaged]) {
        let Some(first) = damaged.first() else { return self.spec.board.clear(IssueCode::ObjectsDamaged) };
        let (count, points) = (damaged.len(), touched(damaged));
        let problem = first.found.problems.first().map_or("it cannot be read", String::as_str);
        let plural = if count == 1 { "" } else { "s" };
        let what = format!(
            "damage in {count} object{plural} of the log in the vault touches {points} recovery points: {}: {problem}; {}",
            first.found.object, first.stays
        );
        let remedy = "Put them back from a copy of the vault (`farshore vault repair --from COPY`), or, without one, have the machine's \
            disks read again (`farshore ctl resync`). They are looked at again within ten minutes.";
        self.spec.board.raise(IssueCode::ObjectsDamaged, Severity::Critical, what, remedy);
    }

    fn failed(&mut self, part: Part, error: &ReadError) {
        if part == Part::Whole {
            self.spec.board.edit(|status| status.scrub_wanted = true);
        }
        self.failures += 1;
        let pause = Duration::from_secs(10).saturating_mul(1 << self.failures.min(12)).min(RETRY_MAX);
        self.not_before = Instant::now() + pause;
        self.spec.board.edit(|status| status.scrub.failures += 1);
        warn!(self.log, "the log was not read again, and is tried later"; "why" => %error, "pause_s" => pause.as_secs());
    }
}

/// What of the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Day(u64, Slice),
    Suspects,
}

impl Part {
    fn slice(self) -> Option<Slice> {
        match self {
            Self::Whole => Some(Slice::ALL),
            Self::Day(_, slice) => Some(slice),
            Self::Suspects => None,
        }
    }
}

fn told(damaged: &Damaged) -> DamagedObject {
    DamagedObject {
        object: damaged.found.object.clone(),
        problem: damaged.found.problems.first().cloned().unwrap_or_default(),
        stays: damaged.stays.clone(),
        touched_points: damaged.found.points.len() as u64,
        newest_touched: damaged.found.points.iter().map(|point| point.captured_at).max(),
    }
}

/// Points that are touched by any of them.
fn touched(damaged: &[Damaged]) -> u64 {
    let points = damaged.iter().flat_map(|damaged| &damaged.found.points).map(|point| (point.timeline, point.point));
    points.collect::<std::collections::BTreeSet<_>>().len() as u64
}

impl Handler<Retire> for Scrubber {
    type Result = ();

    /// Nothing to flush: a slice that was not read to its end is read again.
    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_has_another_slice_and_machines_take_turns() {
        let every = Duration::from_secs(24 * 3600);
        let at = |hours: i64| Timestamp((20_000 * 24 + hours) * 3_600_000_000);
        let (early, late) = (MachineId([0; 16]), MachineId([128; 16]));
        assert_eq!(day(early, at(23), every), day(early, at(0), every));
        assert_eq!(day(early, at(24), every), day(early, at(0), every) + 1);
        assert_eq!(day(late, at(12), every), day(late, at(0), every) + 1, "its day begins at noon");
        assert_eq!(day(early, Timestamp(-5), every), 0);
    }
}
