//! The compactor: keeps one machine's vault small. Merges its segments into runs, drops what its retention no longer wants,
//! deletes what no run needs, each after the other and at the lowest priority.
//!
//! Owns: when it is looked next, and what came of it. Parent: the machine. The work itself is one task at a time in the
//! [`BackRoom`](super::back_room::BackRoom), for all machines of the process server.
//! Bounds: [`MergingLimits`]; one merge in memory for the whole process server.
//! In: [`Retire`]; its own timer; the board (what the scrubber found damaged). Facts out: the board.
//!
//! ```text
//!   adopt the manifest (at the fence) ─► retention known? ─ no ─► wait: nothing is dropped by a guess
//!        ▲ later                           │ yes
//!        └─ failed             due? ─► look ─┬ merged ─► look again
//!                                │           ├ nothing merged ─► wait until something may be due
//!                                └───────────┴ fenced ─► never again
//! ```
//!
//! Invariants: nothing is dropped before the configuration server has said what the machine's retention is, in this process's
//! life: the default could be shorter than what is wanted (I7). Nothing is merged or deleted under a newer owner (I4).
//!
//! What is doomed goes when its grace is over by the wall clock and by this process's own, so a wall clock that is set ahead
//! deletes nothing early.
//!
//! Crash story: nothing here is durable but in the vault. A merge that was cut off left parts that no manifest names; they are
//! doomed by the first look of the next life, and the merge is made again.

mod look;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{MergingReport, Severity};
use farshore_engine::ids::{MachineId, RunId, Slot};
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::merge::plan::MergePolicy;
use farshore_engine::vault::merge::{MergeError, MergeLimits, Round, Rules, Sightings, Standing};
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::retention::Ladder;
use slog::{Logger, info, warn};
use tokio::time::Instant;

pub(super) use self::look::MergeTurn;
use super::back_room::Reins;
use super::ledger::MachineSpec;
use super::{DataEventKind, IssueCode};
use crate::supervise::{ActorKind, Life, Retire, Ward, wall_clock};

/// Failures in a row after which it is said. Chosen: a vault that is away for a moment says so itself.
const FAILURES_MAX: u32 = 3;
/// So many times as many live segments as there should be are too many.
const BEHIND: usize = 2;
/// Longest pause after failures.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Bounds of merging (I10).
#[derive(Debug, Clone)]
pub struct MergingLimits {
    /// How often it is looked whether something is due; asks nobody.
    pub tick: Duration,
    /// How often a machine is looked at where nothing has happened that would make something due.
    pub idle: Duration,
    /// How long what no run needs any more stays.
    pub grace: Duration,
    /// Bytes of sources merged per second, at most, over all machines.
    pub bytes_per_second_max: u64,
    /// When what is merged.
    pub policy: MergePolicy,
    /// What one merge may use.
    pub limits: MergeLimits,
}

impl Default for MergingLimits {
    /// Chosen: points age by hours, so a look every six finds what only time makes due; an hour is longer than a reader
    /// takes to open a point again; 64 MiB/s leave half of a core and most of a disk to the writes.
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(10),
            idle: Duration::from_secs(6 * 3600),
            grace: Duration::from_secs(3600),
            bytes_per_second_max: 64 << 20,
            policy: MergePolicy::default(),
            limits: MergeLimits::default(),
        }
    }
}

/// What a look was begun with.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    slot: Slot,
    bytes: u64,
    ladder: Ladder,
    doomed: usize,
    suspects: BTreeSet<(RunId, u32)>,
}

/// The actor.
pub(super) struct Compactor {
    spec: MachineSpec,
    life: Life,
    log: Logger,
    reins: Reins,
    adopted: bool,
    at_work: bool,
    fenced: bool,
    /// The last look that came to an end.
    seen: Option<Seen>,
    failures: u32,
    not_before: Instant,
    orphans_at: Option<Instant>,
    sightings: Arc<Sightings>,
}

impl Ward for Compactor {
    type Id = ();
    type Spec = MachineSpec;
    const KIND: &'static str = "compactor";

    fn revive(spec: MachineSpec, life: Life, _: &mut Context<Self>) -> Self {
        let log = spec.wiring.config.log.new(slog::o!("machine" => spec.machine.to_string()));
        Self {
            // Machines that were assigned together are not looked at together.
            not_before: Instant::now() + spread(spec.machine, spec.wiring.config.limits.merging.tick),
            spec,
            life,
            log,
            reins: Reins::default(),
            adopted: false,
            at_work: false,
            fenced: false,
            seen: None,
            failures: 0,
            orphans_at: None,
            sightings: Arc::new(Sightings::from_now()),
        }
    }
}

/// A share of `span`, the same for a machine each time.
fn spread(machine: MachineId, span: Duration) -> Duration {
    span.mul_f64(f64::from(machine.0[0]) / 256.0)
}

impl Actor for Compactor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        self.adopt(ctx);
        ctx.run_interval(self.limits().tick, Self::tick);
    }
}

impl Compactor {
    fn chaos(&self) {
        self.spec.wiring.config.chaos.check(ActorKind::Compactor, Some(self.spec.machine));
    }

    fn limits(&self) -> &MergingLimits {
        &self.spec.wiring.config.limits.merging
    }

    /// Says who owns the timeline, at once: a rival that has not noticed prunes nothing more.
    fn adopt(&mut self, ctx: &mut Context<Self>) {
        self.at_work = true;
        let (spec, over) = (self.spec.clone(), self.reins.held());
        let adopting = self.spec.wiring.back_room.run(move || look::adopt(spec, over));
        ctx.spawn(adopting.into_actor(self).map(|adopted, compactor, _| {
            compactor.at_work = false;
            match adopted.unwrap_or_else(|error| panic!("adopting the manifest failed: {error}")) {
                Ok(()) => {
                    compactor.adopted = true;
                    compactor.failures = 0;
                }
                Err(error) => compactor.failed(&error),
            }
        }));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.chaos();
        if self.at_work || self.fenced || Instant::now() < self.not_before {
            return;
        }
        if !self.adopted {
            return self.adopt(ctx);
        }
        let Some(ladder) = self.spec.board.read(|status| status.retention.clone()) else { return };
        if self.is_due(&ladder) {
            self.look(ladder, ctx);
        }
    }

    /// Whether something may have become due since the last look. Asks nobody but the board.
    fn is_due(&self, ladder: &Ladder) -> bool {
        let Some(seen) = &self.seen else { return true };
        let limits = self.limits();
        let (slot, bytes) = self.spec.board.read(|status| (status.next_slot, status.uploads.bytes));
        let since = seen.at.elapsed();
        slot.0.saturating_sub(seen.slot.0) >= (limits.policy.live_segments as u64 / 2).max(1)
            || bytes.saturating_sub(seen.bytes) >= limits.policy.live_bytes / 2
            || seen.ladder != *ladder
            || since >= limits.idle
            || (seen.doomed > 0 && since >= limits.grace)
            || !self.suspects().is_subset(&seen.suspects)
    }

    /// Parts of runs that the scrubber found damaged.
    fn suspects(&self) -> BTreeSet<(RunId, u32)> {
        let own = (self.spec.machine, self.spec.timeline);
        let part = |object: &str| ObjectName::listed(object).filter(|name| name.owner() == Some(own))?.run();
        self.spec.board.read(|status| status.scrub.damaged.iter().filter_map(|damaged| part(&damaged.object)).collect())
    }

    fn look(&mut self, ladder: Ladder, ctx: &mut Context<Self>) {
        self.at_work = true;
        let limits = self.limits();
        let orphans = self.orphans_at.is_none_or(|at| at.elapsed() >= limits.idle);
        let rules = Rules {
            ladder: ladder.clone(),
            policy: limits.policy,
            grace_micros: limits.grace.as_micros() as u64,
            thorough: false,
            orphans,
            suspects: self.suspects(),
        };
        let (slot, bytes) = self.spec.board.read(|status| (status.next_slot, status.uploads.bytes));
        let seen = Seen { at: Instant::now(), slot, bytes, ladder, doomed: 0, suspects: rules.suspects.clone() };
        let (spec, over, sightings) = (self.spec.clone(), self.reins.held(), self.sightings.clone());
        let looking = self.spec.wiring.back_room.run(move || look::look(spec, over, rules, sightings));
        ctx.spawn(looking.into_actor(self).map(move |round, compactor, ctx| {
            compactor.at_work = false;
            compactor.life.progress();
            compactor.chaos();
            match round.unwrap_or_else(|error| panic!("a look at the vault failed: {error}")) {
                Ok(round) => compactor.looked(seen, round, ctx),
                Err(error) => compactor.failed(&error),
            }
        }));
    }

    fn looked(&mut self, seen: Seen, round: Round, ctx: &mut Context<Self>) {
        self.failures = 0;
        self.spec.board.clear(IssueCode::MergingFailed);
        self.spec.board.clear(IssueCode::RestartStorm);
        self.damage(&round);
        let Some(standing) = &round.standing else { return self.again(ctx) };
        self.note(&round, standing);
        self.is_behind(standing.live);
        let swept = round.swept.as_ref();
        if swept.is_some() {
            self.orphans_at = Some(Instant::now());
        }
        // What a sweep left waiting is looked at again when its grace is over, and so is what it doomed.
        let doomed = swept.map_or(standing.doomed, |swept| (swept.waiting + swept.kept) as usize + swept.orphans.len());
        match round.merged.is_some() || !round.renewed.is_empty() {
            true => self.again(ctx),
            false => self.seen = Some(Seen { doomed, ..seen }),
        }
    }

    /// The next step may be due at once.
    fn again(&mut self, ctx: &mut Context<Self>) {
        self.seen = None;
        ctx.notify(Again);
    }

    /// Tells of damaged runs: what was made again, and what the scrubber is to look at.
    fn damage(&self, round: &Round) {
        let part = |run, part| ObjectName::run_part(self.spec.machine, self.spec.timeline, run, part).to_string();
        for (old, new) in &round.renewed {
            warn!(self.log, "a damaged run was made again from what it was merged from"; "run" => %old, "new" => %new.id);
            let (objects, how) = (vec![part(*old, 0)], "made again from what they were merged from");
            self.spec.board.tell(DataEventKind::ObjectsRepaired { objects, how });
        }
        self.spec.board.edit(|status| status.merging.renewed_runs += round.renewed.len() as u64);
        for (run, why) in &round.unmade {
            warn!(self.log, "a damaged run stays"; "why" => why);
            self.doubt((0..run.parts).map(|number| part(run.id, number)));
        }
    }

    fn doubt(&self, objects: impl Iterator<Item = String>) {
        self.spec.board.edit(|status| {
            let known: BTreeSet<String> = status.doubted.drain(..).chain(objects).collect();
            status.doubted.extend(known);
        });
    }

    /// Puts on the board what came of a look.
    fn note(&self, round: &Round, standing: &Standing) {
        let swept = round.swept.clone().unwrap_or_default();
        if let Some((step, run)) = &round.merged {
            info!(self.log, "segments and runs were merged"; "from" => %step.from, "to" => %step.to,
                "reason" => ?step.reason, "read_bytes" => step.bytes, "run" => %run.id, "bytes" => run.bytes,
                "points" => standing.points, "dropped" => standing.dropped);
        }
        if swept.deleted > 0 || !swept.orphans.is_empty() {
            info!(self.log, "what no run needs was swept"; "deleted" => swept.deleted, "waiting" => swept.waiting, "kept" => swept.kept,
                "orphans" => swept.orphans.len());
        }
        self.spec.board.edit(|status| {
            let merging = &mut status.merging;
            *merging = MergingReport {
                looked_at: Some(wall_clock()),
                points: standing.points as u64,
                live_segments: standing.live as u64,
                live_bytes: standing.live_bytes,
                runs: standing.runs as u64,
                run_bytes: standing.run_bytes,
                pins: standing.pins as u64,
                waiting: round.swept.as_ref().map_or(standing.doomed as u64, |swept| swept.waiting + swept.kept),
                deleted_objects: merging.deleted_objects + swept.deleted,
                ..merging.clone()
            };
            if let Some((step, run)) = &round.merged {
                merging.merges += 1;
                merging.read_bytes += step.bytes;
                merging.written_bytes += run.bytes;
            }
        });
    }

    fn is_behind(&self, live: usize) {
        let most = self.limits().policy.live_segments_max * BEHIND;
        if live <= most {
            return self.spec.board.clear(IssueCode::MergingBehind);
        }
        let what = format!("{live} segments wait to be merged, more than {most}: points open more slowly each day");
        let remedy =
            "Give merging more of the vault and the CPU (`merging.bytes_per_second_max`), or move machines away.";
        self.spec.board.raise(IssueCode::MergingBehind, Severity::Warning, what, remedy);
    }

    fn failed(&mut self, error: &MergeError) {
        if error.is_fenced() {
            info!(self.log, "merging ends: the timeline has a newer owner"; "why" => %error);
            self.fenced = true;
            return;
        }
        self.seen = None;
        if matches!(error, MergeError::Stopped | MergeError::Outdated { .. }) {
            return;
        }
        if let MergeError::Broken { object, .. } | MergeError::Read(ReadError::Damaged { object, .. }) = error {
            self.doubt([object.to_string()].into_iter());
        }
        self.failures += 1;
        let pause = self.limits().tick.saturating_mul(1 << self.failures.min(12)).min(RETRY_MAX);
        self.not_before = Instant::now() + pause;
        warn!(self.log, "merging failed and is tried again"; "why" => %error, "pause_s" => pause.as_secs());
        self.spec.board.edit(|status| status.merging.failures += 1);
        let damaged = matches!(
            error,
            MergeError::Broken { .. } | MergeError::ReadBack { .. } | MergeError::Read(ReadError::Damaged { .. })
        );
        if damaged || self.failures >= FAILURES_MAX {
            let what = format!("nothing is merged or deleted in the vault, which grows meanwhile: {error}");
            let remedy = "Run `farshore vault verify`, and look at the vault; merging is tried again by itself.";
            self.spec.board.raise(IssueCode::MergingFailed, Severity::Warning, what, remedy);
        }
    }
}

/// To itself: a merge was committed, the next may be due.
#[derive(Message)]
#[rtype(result = "()")]
struct Again;

impl Handler<Again> for Compactor {
    type Result = ();

    fn handle(&mut self, _: Again, ctx: &mut Self::Context) {
        self.tick(ctx);
    }
}

impl Handler<Retire> for Compactor {
    type Result = ();

    /// Nothing to flush: a merge that is not committed is made again.
    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
