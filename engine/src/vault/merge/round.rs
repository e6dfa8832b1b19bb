//! One look at a timeline: what stays, what is merged next, what goes. What its owner does over and over; each look starts
//! from what the vault says, so it may end anywhere and be begun again.
//!
//! ```text
//!   adopt (once) ─► read the timeline ─► broken? stop ─► sweep what is doomed long enough ─► plan ─► merge one step
//!                        ▲                 │                  │ a run is damaged                     │     │ committed
//!                        │                 └── a run is? ─────┴──────────► make it again ◄───────────┘     │
//!                        └─────────────────────────────────────────────────────┴───────────────────────────┘
//! ```
//!
//! Nothing is merged and nothing deleted while any part of the log cannot be read: what is doomed may be the last good copy
//! of what is damaged.

use std::collections::BTreeSet;

use super::plan::{Facts, MergePolicy, MergeStep, retention_of};
use super::{MergeError, Merger, Swept};
use crate::ids::{RunId, Slot, Timestamp};
use crate::vault::manifest::{Run, Times};
use crate::vault::read::error::ReadError;
use crate::vault::read::timeline::TimelineReader;
use crate::vault::retention::{Ladder, RetentionPlan};

/// What looking is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Which points stay.
    pub ladder: Ladder,
    /// When what is merged.
    pub policy: MergePolicy,
    /// How long what is doomed stays, in microseconds.
    pub grace_micros: u64,
    /// Merge all there is, at once.
    pub thorough: bool,
    /// Look for what merges that never ended left behind, which lists every run.
    pub orphans: bool,
    /// Parts of runs that somebody found damaged: they are read again, and the run is made again where that is so.
    pub suspects: BTreeSet<(RunId, u32)>,
}

/// A timeline as merging sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Points that can be read.
    pub points: usize,
    /// Points that the plan lets go.
    pub dropped: usize,
    /// Pins.
    pub pins: usize,
    /// Log objects that no run stands for.
    pub live: usize,
    /// Their size.
    pub live_bytes: u64,
    /// Runs.
    pub runs: usize,
    /// Their size.
    pub run_bytes: u64,
    /// Entries of the doomed list.
    pub doomed: usize,
    /// The first slot that counts by itself.
    pub floor: Slot,
}

/// What a look came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// The timeline before it; `None` where a damaged run had to be made again first.
    pub standing: Option<Standing>,
    /// The merge that was committed.
    pub merged: Option<(MergeStep, Run)>,
    /// Damaged runs, and what stands in their place now.
    pub renewed: Vec<(RunId, Run)>,
    /// Damaged runs that could not be made again, and why.
    pub unmade: Vec<(Run, String)>,
    /// What was swept, where something was due.
    pub swept: Option<Swept>,
}

/// What retention and merging would do to a timeline, without doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The timeline now.
    pub standing: Standing,
    /// Which points stay, and why.
    pub plan: RetentionPlan,
    /// The next merge.
    pub next: Option<MergeStep>,
    /// When each doomed entry was doomed; the earliest first.
    pub doomed_at: Vec<Timestamp>,
}

/// Looks without changing anything. The reader must have its log.
pub fn preview(reader: &TimelineReader, ladder: &Ladder, policy: &MergePolicy, now: Timestamp) -> Preview {
    let plan = retention_of(reader, ladder, now);
    let facts = Facts::of(reader, &plan, ladder);
    let next = match reader.broken() {
        None => facts.next(policy, false),
        Some(_) => None,
    };
    let mut doomed_at: Vec<Timestamp> =
        reader.manifest().map_or(Vec::new(), |manifest| manifest.doomed.iter().map(|doomed| doomed.at()).collect());
    doomed_at.sort_unstable();
    Preview { standing: standing(reader, &plan, &facts), plan, next, doomed_at }
}

fn standing(reader: &TimelineReader, plan: &RetentionPlan, facts: &Facts) -> Standing {
    let manifest = reader.manifest();
    Standing {
        points: plan.kept.len() + plan.dropped.len(),
        dropped: plan.dropped.len(),
        pins: manifest.map_or(0, |manifest| manifest.pins.len()),
        live: facts.live.len(),
        live_bytes: facts.live.iter().map(|live| live.bytes).sum(),
        runs: facts.runs.len(),
        run_bytes: facts.runs.iter().map(|run| run.bytes).sum(),
        doomed: manifest.map_or(0, |manifest| manifest.doomed.len()),
        floor: reader.floor(),
    }
}

impl Merger {
    /// Looks at the timeline under `rules`: sweeps what is due, and makes one merge where one is. `reader` is the timeline as
    /// it was read last, with its log, if it was; it is brought up to date, and left for the next look.
    pub async fn look(&self, reader: &mut Option<TimelineReader>, rules: &Rules) -> Result<Round, MergeError> {
        let known = match reader.take() {
            Some(mut known) => {
                known.refresh().await?;
                known
            }
            None => TimelineReader::open_with_log(self.source.clone(), self.timeline).await?,
        };
        let mut round = Round::default();
        let suspects = self.doubted(&known, rules).await?;
        self.renew_all(suspects, rules, &mut round).await?;
        if round.renewed.is_empty()
            && let Some(broken) = known.broken()
        {
            let (from, readable, object) = (broken.slot, broken.slot, broken.object.clone());
            return Err(MergeError::Broken { from, to: known.chain().next, readable, object });
        }
        if round.renewed.is_empty() {
            self.tend(&known, rules, &mut round).await?;
        }
        *reader = Some(known);
        Ok(round)
    }

    /// Sweeps what is due, and makes one merge where one is; runs that turn out damaged by that are made again.
    async fn tend(&self, known: &TimelineReader, rules: &Rules, round: &mut Round) -> Result<(), MergeError> {
        let now = (self.clock)();
        let plan = retention_of(known, &rules.ladder, now);
        let facts = Facts::of(known, &plan, &rules.ladder);
        round.standing = Some(standing(known, &plan, &facts));
        let times = Times { now, in_log: plan.counted_from };
        if known.manifest().is_some_and(|manifest| manifest.pins.iter().any(|pin| pin.is_over(times))) {
            self.end_pins(times).await?;
        }
        // Before the merge: under a load that always leaves something to merge nothing else would ever be deleted.
        if rules.orphans || self.is_sweep_due(known, now, rules.grace_micros) {
            let swept = self.sweep(rules.grace_micros).await?;
            self.renew_all(swept.damaged.clone(), rules, round).await?;
            round.swept = Some(swept);
            if !round.renewed.is_empty() {
                return Ok(());
            }
        }
        let Some(step) = facts.next(&rules.policy, rules.thorough) else { return Ok(()) };
        let failed = match self.merge(known, &step.job(&plan)).await {
            Ok(run) => {
                round.merged = Some((step, run));
                return Ok(());
            }
            Err(error) => error,
        };
        if let MergeError::Read(ReadError::Damaged { object, .. }) = &failed
            && let Some((run, _)) = object.run()
        {
            let runs = known.manifest().map_or(&[][..], |manifest| &manifest.runs);
            let damaged = runs.iter().filter(|live| live.id == run).cloned().collect();
            self.renew_all(damaged, rules, round).await?;
        }
        if round.renewed.is_empty() { Err(failed) } else { Ok(()) }
    }

    /// The live runs that cannot be read as they were written: those with a suspect part, and the one at which the log breaks.
    async fn doubted(&self, known: &TimelineReader, rules: &Rules) -> Result<Vec<Run>, MergeError> {
        let Some(manifest) = known.manifest() else { return Ok(Vec::new()) };
        let own = known.broken().filter(|broken| broken.timeline == self.timeline);
        let broken = own.and_then(|broken| broken.object.run()).map(|(run, _)| run);
        let mut found = Vec::new();
        for run in &manifest.runs {
            let mut damaged = broken == Some(run.id);
            for (_, part) in rules.suspects.iter().filter(|(id, part)| *id == run.id && *part < run.parts) {
                damaged = damaged || !self.part_reads_well(run, *part).await?;
            }
            found.extend(damaged.then(|| run.clone()));
        }
        Ok(found)
    }

    /// Makes damaged runs again, the oldest first; what cannot be made again is left as it is, and tried again later.
    async fn renew_all(&self, runs: Vec<Run>, rules: &Rules, round: &mut Round) -> Result<(), MergeError> {
        for run in runs {
            if let Some(why) = self.sightings.as_ref().and_then(|sightings| sightings.unmade(run.id)) {
                round.unmade.push((run, why));
                continue;
            }
            let unmade = match self.renew(run.id, Some(&rules.ladder)).await {
                Ok(new) => {
                    round.renewed.extend(new.map(|new| (run.id, new)));
                    continue;
                }
                Err(error @ MergeError::Unmade { .. }) => error.to_string(),
                Err(other) => return Err(other),
            };
            if let Some(sightings) = &self.sightings {
                sightings.note(run.id, false, Some(unmade.clone()));
            }
            round.unmade.push((run, unmade));
        }
        Ok(())
    }

    fn is_sweep_due(&self, reader: &TimelineReader, now: Timestamp, grace_micros: u64) -> bool {
        let Some(manifest) = reader.manifest() else { return false };
        // Each is looked at: from here on it is known.
        manifest.doomed.iter().filter(|doomed| self.is_ripe(doomed, now, grace_micros)).count() > 0
    }
}
