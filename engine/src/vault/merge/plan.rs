//! Which merge comes next. Pure: what there is in, one step out; shown before it is performed.
//!
//! ```text
//!   base            runs, full size       small runs      live segments
//!   ├──────────────┤├────┤├────┤├────┤    ├┤├┤├┤          ││││││││││ tail
//!        ▲ base: rewritten when what lies behind it and     │
//!        │ holds no retained point is half as large         │ live: when enough of them are old enough
//!        └────────────────────────────┘    └ tier: as soon as [`MergePolicy::width`] of them lie side by side
//! ```
//!
//! Why so (docs/adr/0005): a byte is written once as a segment, once into a first run, and then only into the base, whose
//! rewriting costs one over the share at which it happens. Runs of full parts gain nothing by being put together, for a part
//! is an object of its own; small runs are put together until their parts are full.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::perform::MergeJob;
use crate::codec::Put;
use crate::ids::{Lsn, RunId, Slot, Timestamp};
use crate::record::{Record, RecordAt};
use crate::vault::manifest::Times;
use crate::vault::read::points::RecoveryPoint;
use crate::vault::read::segment_view::{ObjectPlace, SegmentView};
use crate::vault::read::timeline::TimelineReader;
use crate::vault::retention::{Aging, Ladder, RetentionPlan, counted_from};
use crate::vault::segment::{Boundary, ITEM_PLAIN_BYTES_MAX};

/// When what is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergePolicy {
    /// So many live segments that are old enough are merged.
    pub live_segments: usize,
    /// Or so many bytes of them; also the most that one merge of live segments takes.
    pub live_bytes: u64,
    /// So many live segments are merged however young: a log must stay quick to open.
    pub live_segments_max: usize,
    /// So many small runs side by side are put together.
    pub width: usize,
    /// A run below this size is small: it does not fill a part.
    pub small_bytes: u64,
    /// The base is rewritten when what can go into it has this share of its size, in percent.
    pub base_percent: u64,
    /// Records and retained positions of one run, in bytes: they lie in the footer of its first part.
    pub head_bytes_max: u64,
}

impl Default for MergePolicy {
    /// Measured by `a_year_of_one_percent_daily_churn_costs_less_than_four_times_its_bytes`; see docs/adr/0005.
    fn default() -> Self {
        Self {
            live_segments: 64,
            live_bytes: 128 << 20,
            live_segments_max: 1024,
            width: 8,
            small_bytes: 64 << 20,
            base_percent: 50,
            head_bytes_max: ITEM_PLAIN_BYTES_MAX as u64 / 2,
        }
    }
}

/// A run, as far as planning goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFacts {
    /// Which.
    pub id: RunId,
    /// First and last slot.
    pub slots: (Slot, Slot),
    /// Its size.
    pub bytes: u64,
    /// How many of its positions are still retained.
    pub retained: usize,
    /// How many it keeps although nobody wants them any more.
    pub idle: usize,
    /// What a run that takes it in keeps of its records and positions, in bytes.
    pub head_bytes: u64,
}

/// A live log object, as far as planning goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveFacts {
    /// Its slot.
    pub slot: Slot,
    /// Its size.
    pub bytes: u64,
    /// Nothing in it is kept by the rung that keeps all.
    pub old: bool,
    /// It holds writes or records: not a fence.
    pub segment: bool,
    /// What a run that takes it in keeps of its records and positions, in bytes.
    pub head_bytes: u64,
}

/// Why a merge is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Enough live segments.
    Live,
    /// Enough small runs.
    Tier,
    /// Enough that the base hides, or is hidden by.
    Base,
    /// Everything is to be brought together.
    Thorough,
}

/// The next merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergeStep {
    /// Why.
    pub reason: Reason,
    /// First slot.
    pub from: Slot,
    /// Last slot.
    pub to: Slot,
    /// The runs it replaces.
    pub replaces: Vec<RunId>,
    /// Bytes that it reads, at most.
    pub bytes: u64,
}

/// What merging finds in a timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Runs, oldest first.
    pub runs: Vec<RunFacts>,
    /// Live log objects, in order of slots; the last is the log's end.
    pub live: Vec<LiveFacts>,
}

impl Facts {
    /// What a timeline has, under a plan of what stays.
    pub fn of(reader: &TimelineReader, plan: &RetentionPlan, ladder: &Ladder) -> Self {
        let pinned: Vec<Lsn> =
            reader.manifest().map_or(Vec::new(), |manifest| manifest.pins.iter().map(|pin| pin.lsn).collect());
        let wanted = |lsn: &Lsn| plan.keeps(*lsn) || pinned.contains(lsn);
        let own = |view: &&Arc<SegmentView>| view.timeline == reader.timeline();
        let first_part = |view: &Arc<SegmentView>| match view.place {
            ObjectPlace::Run(run, 0) => Some((run, head_bytes(&view.footer.records, wanted))),
            _ => None,
        };
        let heads: HashMap<RunId, u64> = reader.segments().iter().filter(own).filter_map(first_part).collect();
        let runs = reader.runs().iter().filter(|run| run.timeline == reader.timeline()).map(|run| {
            let retained = run.boundaries.iter().filter(|boundary| wanted(&boundary.lsn)).count();
            let idle = run.boundaries.len() - retained;
            let head_bytes = heads.get(&run.id).copied().unwrap_or(0);
            RunFacts { id: run.id, slots: run.slots, bytes: run.bytes, retained, idle, head_bytes }
        });
        let young_from = Timestamp(plan.counted_from.0.saturating_sub_unsigned(ladder.all_for_s() * 1_000_000));
        let live = reader.segments().iter().filter(own).filter_map(|view| {
            let ObjectPlace::Slot(slot) = view.place else { return None };
            let footer = &view.footer;
            let branch = matches!(footer.control, Some(crate::vault::segment::Control::Branch(_)));
            (!branch).then(|| LiveFacts {
                slot,
                bytes: view.object_bytes,
                old: footer.closed_at < young_from,
                segment: footer.control.is_none(),
                head_bytes: head_bytes(&footer.records, wanted),
            })
        });
        Self { runs: runs.collect(), live: live.collect() }
    }

    /// The next merge under `policy`; with `thorough` all that can be merged, at once.
    pub fn next(&self, policy: &MergePolicy, thorough: bool) -> Option<MergeStep> {
        if thorough {
            return self.thorough(policy);
        }
        self.live(policy).or_else(|| self.tier(policy)).or_else(|| self.base(policy))
    }

    /// Live objects that may be merged: the log's end stays, by which owners and readers find their way.
    fn mergeable(&self) -> &[LiveFacts] {
        &self.live[..self.live.len().saturating_sub(1)]
    }

    fn live(&self, policy: &MergePolicy) -> Option<MergeStep> {
        let all = self.mergeable();
        let old = all.iter().take_while(|live| live.old).count();
        let count = if all.len() > policy.live_segments_max { all.len() } else { old };
        let bytes: u64 = all[..count].iter().map(|live| live.bytes).sum();
        if count < policy.live_segments && bytes < policy.live_bytes {
            return None;
        }
        let (mut taken, mut size) = (0, 0);
        let room = fitting(all.iter().map(|live| live.head_bytes), policy);
        while taken < count.min(room) && (taken == 0 || size + all[taken].bytes <= policy.live_bytes) {
            size += all[taken].bytes;
            taken += 1;
        }
        self.step(Reason::Live, self.runs.len(), taken)
    }

    fn tier(&self, policy: &MergePolicy) -> Option<MergeStep> {
        let small = |run: &RunFacts| run.bytes < policy.small_bytes;
        let mut from = self.runs.len();
        while from > 0 {
            let end = from;
            while from > 0 && small(&self.runs[from - 1]) && end - from < policy.width {
                from -= 1;
            }
            from = from.max(end - fitting(self.runs[from..end].iter().rev().map(|run| run.head_bytes), policy));
            // Runs of one size: a tiny one beside a nearly full one waits for its like.
            let group = &self.runs[from..end];
            let sizes = || group.iter().map(|run| run.bytes);
            let alike = sizes().max().unwrap_or(0) <= sizes().min().unwrap_or(0).saturating_mul(policy.width as u64);
            if group.len() >= policy.width.max(2) && alike {
                return self.runs_step(Reason::Tier, from, end);
            }
            from = end - 1;
        }
        None
    }

    /// The base with all behind it that holds no retained point any more, when that is worth it.
    fn base(&self, policy: &MergePolicy) -> Option<MergeStep> {
        let (base, behind) = self.runs.split_first()?;
        let spent = behind.iter().take_while(|run| run.retained == 0).count();
        let heads = self.runs[..=spent].iter().map(|run| run.head_bytes);
        let spent = fitting(heads, policy) - 1;
        let bytes: u64 = behind[..spent].iter().map(|run| run.bytes).sum();
        let due = spent > 0 && bytes.saturating_mul(100) >= base.bytes.saturating_mul(policy.base_percent);
        due.then(|| self.runs_step(Reason::Base, 0, spent + 1)).flatten()
    }

    /// All there is, in as few runs as their heads allow.
    fn thorough(&self, policy: &MergePolicy) -> Option<MergeStep> {
        let live = self.mergeable();
        if live.iter().any(|live| live.segment) {
            let taken = fitting(live.iter().map(|live| live.head_bytes), policy);
            let beside: u64 = live[..taken].iter().map(|live| live.head_bytes).sum();
            let heads = [beside].into_iter().chain(self.runs.iter().rev().map(|run| run.head_bytes));
            return self.step(Reason::Thorough, self.runs.len() + 1 - fitting(heads, policy), taken);
        }
        let mut from = 0;
        while from < self.runs.len() {
            let end = from + fitting(self.runs[from..].iter().map(|run| run.head_bytes), policy);
            if end - from > 1 || self.runs[from].idle > 0 {
                return self.runs_step(Reason::Thorough, from, end);
            }
            from = end;
        }
        None
    }

    /// Runs from `from` on and so many live objects.
    fn step(&self, reason: Reason, from: usize, live: usize) -> Option<MergeStep> {
        let objects = &self.live[..live];
        let live_bytes: u64 = objects.iter().map(|live| live.bytes).sum();
        let last = objects.last()?;
        if !objects.iter().any(|object| object.segment) {
            return None;
        }
        let runs = &self.runs[from..];
        let begin = runs.first().map_or(objects[0].slot, |run| run.slots.0);
        let bytes = live_bytes + runs.iter().map(|run| run.bytes).sum::<u64>();
        let replaces = runs.iter().map(|run| run.id).collect();
        Some(MergeStep { reason, from: begin, to: last.slot, replaces, bytes })
    }

    fn runs_step(&self, reason: Reason, from: usize, end: usize) -> Option<MergeStep> {
        let runs = &self.runs[from..end];
        let (first, last) = (runs.first()?, runs.last()?);
        let bytes = runs.iter().map(|run| run.bytes).sum();
        let replaces = runs.iter().map(|run| run.id).collect();
        Some(MergeStep { reason, from: first.slots.0, to: last.slots.1, replaces, bytes })
    }
}

/// How many heads, of one at least, fit into one.
fn fitting(heads: impl Iterator<Item = u64>, policy: &MergePolicy) -> usize {
    let mut sum = 0_u64;
    let fits = |head: &u64| {
        sum = sum.saturating_add(*head);
        sum <= policy.head_bytes_max
    };
    heads.take_while(fits).count().max(1)
}

/// What a run keeps of records, in bytes, with the position of each mark that stays.
fn head_bytes(records: &[RecordAt], wanted: impl Fn(&Lsn) -> bool) -> u64 {
    let (mut out, mut positions) = (Put::default(), 0);
    for at in records {
        match at.record {
            Record::Mark(_) if !wanted(&at.lsn) => continue,
            Record::Mark(_) => positions += 1,
            _ => {}
        }
        at.put(&mut out);
    }
    (out.len() + positions * Boundary::BYTES) as u64
}

impl MergeStep {
    /// The step as a job that keeps what the plan does.
    pub fn job(&self, plan: &RetentionPlan) -> MergeJob {
        let retained = plan.kept.iter().map(|(lsn, _)| *lsn).collect();
        MergeJob { from: self.from, to: self.to, replaces: self.replaces.clone(), retained }
    }
}

/// What retention would do to a timeline's points, pins counted in.
pub fn retention_of(reader: &TimelineReader, ladder: &Ladder, now: Timestamp) -> RetentionPlan {
    let points: Vec<Aging> = reader.points().iter().map(|point: &RecoveryPoint| Aging::from(point)).collect();
    let pins = reader.manifest().map_or(&[][..], |manifest| &manifest.pins);
    let times = Times { now, in_log: counted_from(&points, now) };
    let pinned: Vec<Lsn> = pins.iter().filter(|pin| !pin.is_over(times)).map(|pin| pin.lsn).collect();
    crate::vault::retention::plan(&points, ladder, &pinned, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: u8, bytes: u64, retained: usize) -> RunFacts {
        let slots = (Slot(u64::from(id) * 10), Slot(u64::from(id) * 10 + 9));
        RunFacts { id: RunId([id; 8]), slots, bytes, retained, idle: 0, head_bytes: 0 }
    }

    fn live(slot: u64, bytes: u64, old: bool) -> LiveFacts {
        LiveFacts { slot: Slot(slot), bytes, old, segment: true, head_bytes: 0 }
    }

    #[test]
    fn the_end_of_the_log_and_what_is_young_stay_live() {
        let policy = MergePolicy { live_segments: 4, ..MergePolicy::default() };
        let mut facts = Facts { runs: Vec::new(), live: (0..5).map(|slot| live(slot, 10, true)).collect() };
        let step = facts.next(&policy, false).expect("four are old, beside the last");
        assert_eq!((step.from, step.to, step.reason), (Slot(0), Slot(3), Reason::Live));
        facts.live[3].old = false;
        assert_eq!(facts.next(&policy, false), None);
        let crowd = MergePolicy { live_segments_max: 3, ..policy };
        assert_eq!(facts.next(&crowd, false).map(|step| step.to), Some(Slot(3)), "too many to stay");
    }

    #[test]
    fn small_runs_side_by_side_are_put_together() {
        let policy = MergePolicy { width: 3, ..MergePolicy::default() };
        let sizes = [1 << 40, 5, 4, 6];
        let runs = sizes.iter().enumerate().map(|(id, bytes)| run(id as u8, *bytes, 1)).collect();
        let step = Facts { runs, live: Vec::new() }.next(&policy, false).expect("three small ones");
        assert_eq!((step.reason, step.from, step.to, step.bytes), (Reason::Tier, Slot(10), Slot(39), 15));
    }

    #[test]
    fn the_base_is_rewritten_when_enough_lies_behind_it_that_holds_no_point() {
        let policy = MergePolicy { small_bytes: 0, ..MergePolicy::default() };
        let mut runs = vec![run(0, 100, 0), run(1, 30, 0), run(2, 30, 1), run(3, 30, 0)];
        assert_eq!(Facts { runs: runs.clone(), live: Vec::new() }.next(&policy, false), None);
        runs[1].bytes = 50;
        let step = Facts { runs, live: Vec::new() }.next(&policy, false).expect("half of the base");
        assert_eq!((step.reason, step.replaces.len()), (Reason::Base, 2));
    }

    #[test]
    fn no_run_gets_more_records_and_positions_than_one_footer_has_room_for() {
        let policy = MergePolicy { live_segments: 4, width: 2, head_bytes_max: 100, ..MergePolicy::default() };
        let heavy = |slot| LiveFacts { head_bytes: 40, ..live(slot, 10, true) };
        let mut facts = Facts { runs: Vec::new(), live: (0..6).map(heavy).collect() };
        assert_eq!(facts.next(&policy, false).map(|step| step.to), Some(Slot(1)), "two of them");
        facts.runs = (0..3).map(|id| RunFacts { head_bytes: 60, ..run(id, 10, 0) }).collect();
        let step = facts.next(&policy, true).expect("all of it");
        assert_eq!((step.to, step.replaces.len()), (Slot(1), 0), "no run beside them");
        facts.live.truncate(1);
        assert_eq!(facts.next(&policy, false), None, "no two runs fit into one");
        assert_eq!(facts.next(&policy, true), None);
        facts.runs[1].head_bytes = 40;
        let steps = [facts.next(&policy, false), facts.next(&policy, true)].map(|step| step.expect("two fit"));
        assert_eq!(steps.map(|step| step.from), [Slot(10), Slot(0)], "the youngest of their size; the oldest of all");
        facts.runs[0].idle = 1;
        facts.runs[1].head_bytes = 60;
        assert_eq!(facts.next(&policy, true).map(|step| step.replaces.len()), Some(1), "what nobody wants goes");
    }

    /// A machine of `disk` bytes, of which one percent changes each day, no block twice: what a year costs in bytes written
    /// to the vault, as a multiple of what came in; and the most objects that a point needed.
    fn year(disk: u64, segment: u64, policy: &MergePolicy) -> (f64, u64) {
        const DAYS: u64 = 365;
        let (mut facts, mut ages) = (Facts::default(), Vec::new());
        let (mut slot, mut id, mut came, mut wrote, mut objects_max) = (0, 0_u8, 0_u64, 0_u64, 0);
        let part = 64 << 20;
        for day in 0..DAYS {
            let mut left = if day == 0 { disk } else { disk / 100 };
            while left > 0 {
                let bytes = segment.min(left);
                facts.live.push(live(slot, bytes, true));
                (slot, came, wrote, left) = (slot + 1, came + bytes, wrote + bytes, left - bytes);
                if facts.live.len() < 8 {
                    continue;
                }
                while let Some(step) = facts.next(policy, false) {
                    let taken = facts.live.partition_point(|live| live.slot <= step.to);
                    let first = facts.runs.iter().position(|run| run.slots.0 >= step.from).unwrap_or(facts.runs.len());
                    // Merged into the base, churn takes the place of what it hides.
                    let bytes = if first == 0 { step.bytes.min(disk) } else { step.bytes };
                    facts.live.drain(..taken);
                    let gone = step.replaces.len();
                    id = id.wrapping_add(1);
                    let merged = RunFacts { slots: (step.from, step.to), ..run(id, bytes, 1) };
                    facts.runs.splice(first..first + gone, [merged]);
                    ages.splice(first..first + gone, [day]);
                    wrote += bytes;
                }
            }
            // After fifteen days nothing of a day is retained.
            for (run, born) in facts.runs.iter_mut().zip(&ages) {
                run.retained = usize::from(born + 15 >= day);
            }
            let parts = facts.runs.iter().map(|run| u64::div_ceil(run.bytes, part));
            objects_max = objects_max.max(parts.sum::<u64>() + facts.live.len() as u64);
        }
        (wrote as f64 / came as f64, objects_max)
    }

    #[test]
    fn a_year_of_one_percent_daily_churn_costs_less_than_four_times_its_bytes() {
        let policy = MergePolicy::default();
        let mut curve = String::new();
        for gib in [10, 50, 100] {
            let (cost, objects) = year(gib << 30, 16 << 20, &policy);
            curve += &format!("{gib} GiB: {cost:.2} times, {objects} objects; ");
            assert!(cost <= 4.0, "{curve}");
            assert!(objects <= gib * 16 * 2 + 200, "{curve}");
        }
        println!("{curve}");
    }
}
