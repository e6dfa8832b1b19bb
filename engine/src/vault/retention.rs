//! Which recovery points stay: a ladder of rungs, read from the newest point backwards. Pure: points in, plan out; the plan
//! can be shown before anything follows from it.
//!
//! ```text
//!   age    0        2 h            1 day                   7 days            15 days
//!          ├─ all ──┼─ one an hour ┼─ one every two hours ──┼─ one every 4 h ─┤ gone
//! ```
//!
//! Ages are counted from the newest point, or from now where the newest lies in the future: a machine that falls silent
//! loses nothing because nothing newer came. Buckets lie on whole multiples of a rung's interval, so the point that stands
//! for a bucket stays the same while time goes on. In a bucket a group point goes before an app-consistent one and that
//! before a crash-consistent one, a point of all disks before one of some, then the older one: of a mark that several
//! machines share they all keep theirs, whatever points of their own they have beside it. While the newest point lies further in
//! the future than [`CLOCKS_APART_MAX_MICROS`], clocks disagree and nothing is dropped.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::read::points::RecoveryPoint;
use crate::ids::{Lsn, Timestamp};
use crate::record::MarkKind;

/// How far clocks may disagree. Chosen: far above what synchronised clocks do, far below the shortest rung.
pub const CLOCKS_APART_MAX_MICROS: u64 = 10 * 60 * 1_000_000;
/// Most rungs of a ladder.
pub const RUNGS_MAX: usize = 16;

/// One rung: a point every so often, for points up to an age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// Seconds between points; 0 keeps all.
    pub every_s: u64,
    /// Up to which age, in seconds.
    pub for_s: u64,
}

/// How points are thinned out with age.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Rung>", into = "Vec<Rung>")]
pub struct Ladder(Vec<Rung>);

/// A ladder that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLadder {
    /// No rung, or too many.
    #[error("a ladder has 1 to {RUNGS_MAX} rungs, this one has {0}")]
    Rungs(usize),
    /// Not how a ladder is written.
    #[error(
        "'{0}' is no ladder: write rungs as how often and how long, the densest first, like all:2h,1h:1d,2h:7d,4h:15d"
    )]
    Text(String),
    /// A rung that reaches nowhere.
    #[error("rung {0} must reach at least one second back")]
    Empty(usize),
    /// A rung that the one before it covers.
    #[error("rung {0} must reach further back and be no denser than the rung before it")]
    Order(usize),
    /// More than a program can count.
    #[error("rung {0} reaches further back than a thousand years")]
    TooLong(usize),
}

impl TryFrom<Vec<Rung>> for Ladder {
    type Error = BadLadder;

    fn try_from(rungs: Vec<Rung>) -> Result<Self, BadLadder> {
        Self::new(rungs)
    }
}

impl From<Ladder> for Vec<Rung> {
    fn from(ladder: Ladder) -> Self {
        ladder.0
    }
}

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;

impl Default for Ladder {
    /// Site Recovery's: all for 2 hours, hourly to a day, every two hours to 7 days, every four to 15.
    fn default() -> Self {
        let rung = |every_s, for_s| Rung { every_s, for_s };
        Self(vec![rung(0, 2 * HOUR_S), rung(HOUR_S, DAY_S), rung(2 * HOUR_S, 7 * DAY_S), rung(4 * HOUR_S, 15 * DAY_S)])
    }
}

impl Ladder {
    /// A ladder of these rungs, the densest first.
    pub fn new(rungs: Vec<Rung>) -> Result<Self, BadLadder> {
        if rungs.is_empty() || rungs.len() > RUNGS_MAX {
            return Err(BadLadder::Rungs(rungs.len()));
        }
        if let Some(n) = rungs.iter().position(|rung| rung.for_s == 0) {
            return Err(BadLadder::Empty(n));
        }
        for (n, pair) in rungs.windows(2).enumerate() {
            if pair[1].for_s <= pair[0].for_s || pair[1].every_s < pair[0].every_s {
                return Err(BadLadder::Order(n + 1));
            }
        }
        match rungs.iter().position(|rung| rung.for_s.max(rung.every_s) > 365_000 * DAY_S) {
            Some(n) => Err(BadLadder::TooLong(n)),
            None => Ok(Self(rungs)),
        }
    }

    /// The rungs, the densest first.
    pub fn rungs(&self) -> &[Rung] {
        &self.0
    }

    /// Up to which age any point stays, in seconds.
    pub fn reach_s(&self) -> u64 {
        self.0.last().map_or(0, |rung| rung.for_s)
    }

    /// Up to which age every point stays, in seconds.
    pub fn all_for_s(&self) -> u64 {
        self.0.iter().take_while(|rung| rung.every_s == 0).map(|rung| rung.for_s).last().unwrap_or(0)
    }
}

/// Names of spans, the longest first.
const SPANS: [(&str, u64); 6] =
    [("y", 365 * DAY_S), ("w", 7 * DAY_S), ("d", DAY_S), ("h", HOUR_S), ("m", 60), ("s", 1)];

/// As people write it: `all:2h,1h:1d,2h:7d,4h:15d`.
impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |seconds: u64| {
            let fits = SPANS.iter().find(|(name, unit)| !matches!(*name, "y" | "w") && seconds.is_multiple_of(*unit));
            let (name, unit) = fits.expect("every span is whole seconds");
            format!("{}{name}", seconds / unit)
        };
        for (n, rung) in self.0.iter().enumerate() {
            let every = if rung.every_s == 0 { "all".to_owned() } else { span(rung.every_s) };
            write!(f, "{}{every}:{}", if n == 0 { "" } else { "," }, span(rung.for_s))?;
        }
        Ok(())
    }
}

impl FromStr for Ladder {
    type Err = BadLadder;

    fn from_str(text: &str) -> Result<Self, BadLadder> {
        let bad = || BadLadder::Text(text.chars().take(200).collect());
        let span = |text: &str| -> Option<u64> {
            let (name, unit) = SPANS.iter().find(|(name, _)| text.ends_with(name))?;
            text.strip_suffix(name)?.parse::<u64>().ok()?.checked_mul(*unit)
        };
        let rung = |text: &str| {
            let (every, reach) = text.trim().split_once(':')?;
            let every_s = if every == "all" { 0 } else { span(every).filter(|every| *every > 0)? };
            Some(Rung { every_s, for_s: span(reach)? })
        };
        Self::new(text.split(',').map(rung).collect::<Option<Vec<_>>>().ok_or_else(bad)?)
    }
}

/// What of a point its retention depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aging {
    /// Its place.
    pub lsn: Lsn,
    /// When it was taken.
    pub captured_at: Timestamp,
    /// What it promises.
    pub kind: MarkKind,
    /// It covers every disk that the machine had there.
    pub complete: bool,
}

impl From<&RecoveryPoint> for Aging {
    fn from(point: &RecoveryPoint) -> Self {
        let complete = point.in_gap.is_empty();
        Self { lsn: point.lsn, captured_at: point.captured_at, kind: point.kind, complete }
    }
}

/// Why a point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A rung of the ladder, counted from 0.
    Rung(usize),
    /// It is pinned.
    Pinned,
    /// It is the newest, or the newest that covers every disk.
    Newest,
    /// Clocks disagree: nothing is dropped.
    ClocksApart,
}

/// What retention would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// The time that ages were counted from.
    pub counted_from: Timestamp,
    /// The points that stay, in order of the log.
    pub kept: Vec<(Lsn, Why)>,
    /// The points that go, in order of the log.
    pub dropped: Vec<Lsn>,
}

impl RetentionPlan {
    /// Whether the point at this position stays.
    pub fn keeps(&self, lsn: Lsn) -> bool {
        self.kept.binary_search_by_key(&lsn, |(lsn, _)| *lsn).is_ok()
    }
}

/// The time that ages are counted from: the newest point's, or now where that lies in the future.
pub fn counted_from(points: &[Aging], now: Timestamp) -> Timestamp {
    points.iter().map(|point| point.captured_at).max().map_or(now, |newest| newest.min(now))
}

/// Plans: `points` in order of the log, `pinned` positions in any.
pub fn plan(points: &[Aging], ladder: &Ladder, pinned: &[Lsn], now: Timestamp) -> RetentionPlan {
    let newest_at = points.iter().map(|point| point.captured_at).max().unwrap_or(now);
    let counted_from = counted_from(points, now);
    if newest_at.micros_since(now) > CLOCKS_APART_MAX_MICROS {
        let kept = points.iter().map(|point| (point.lsn, Why::ClocksApart)).collect();
        return RetentionPlan { counted_from, kept, dropped: Vec::new() };
    }
    let mut why: Vec<Option<Why>> = vec![None; points.len()];
    let newest = [points.len().checked_sub(1), points.iter().rposition(|point| point.complete)];
    newest.into_iter().flatten().for_each(|at| why[at] = Some(Why::Newest));
    let mut pinned = pinned.to_vec();
    pinned.sort_unstable();
    for (at, _) in points.iter().enumerate().filter(|(_, point)| pinned.binary_search(&point.lsn).is_ok()) {
        why[at] = why[at].or(Some(Why::Pinned));
    }
    for (number, rung) in ladder.0.iter().enumerate() {
        for at in rung_keeps(points, rung, counted_from) {
            why[at] = why[at].or(Some(Why::Rung(number)));
        }
    }
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (point, why) in points.iter().zip(why) {
        match why {
            Some(why) => kept.push((point.lsn, why)),
            None => dropped.push(point.lsn),
        }
    }
    RetentionPlan { counted_from, kept, dropped }
}

/// What goes before what in a bucket, the smallest first.
fn worth(kind: MarkKind) -> u8 {
    match kind {
        MarkKind::Group => 0,
        MarkKind::App => 1,
        MarkKind::Crash => 2,
    }
}

/// The points that one rung keeps, by their places.
fn rung_keeps(points: &[Aging], rung: &Rung, counted_from: Timestamp) -> Vec<usize> {
    let reach = rung.for_s.saturating_mul(1_000_000);
    let young = points.iter().enumerate().filter(|(_, point)| counted_from.micros_since(point.captured_at) <= reach);
    if rung.every_s == 0 {
        return young.map(|(at, _)| at).collect();
    }
    let interval = i64::try_from(rung.every_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let mut best: HashMap<i64, usize> = HashMap::new();
    // Points come mostly in order of time: the bucket at hand goes into the table only when another begins.
    let mut open: Option<(i64, usize)> = None;
    let better = |one: usize, other: usize| {
        let rank = |at: usize| (worth(points[at].kind), !points[at].complete, points[at].captured_at, at);
        if rank(one) < rank(other) { one } else { other }
    };
    let mut close = |bucket: i64, at: usize| {
        best.entry(bucket).and_modify(|known| *known = better(*known, at)).or_insert(at);
    };
    for (at, point) in young {
        let bucket = point.captured_at.0.div_euclid(interval);
        open = Some(match open {
            Some((known, best)) if known == bucket => (bucket, better(best, at)),
            Some((known, best)) => {
                close(known, best);
                (bucket, at)
            }
            None => (bucket, at),
        });
    }
    if let Some((bucket, at)) = open {
        close(bucket, at);
    }
    best.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60 * 1_000_000;

    fn at(lsn: u64, minutes: i64) -> Aging {
        let captured_at = Timestamp(minutes * MINUTE);
        Aging { lsn: Lsn(lsn), captured_at, kind: MarkKind::Crash, complete: true }
    }

    /// A point a minute, from `minutes` before time 0 up to it.
    fn history(minutes: u64) -> Vec<Aging> {
        (0..=minutes).map(|n| at(n + 1, n as i64 - minutes as i64)).collect()
    }

    #[test]
    fn the_default_ladder_is_that_of_site_recovery() {
        let points = history(20 * 24 * 60);
        let plan = plan(&points, &Ladder::default(), &[], Timestamp(0));
        let ages: Vec<i64> =
            points.iter().filter(|point| plan.keeps(point.lsn)).map(|point| -point.captured_at.0 / MINUTE).collect();
        let between = |from: i64, to: i64| ages.iter().filter(|age| **age > from && **age <= to).count();
        assert_eq!(between(-1, 120), 121, "every one for two hours");
        assert_eq!(between(120, 24 * 60), 22, "hourly to a day");
        assert_eq!(between(24 * 60, 7 * 24 * 60), 72, "every two hours to 7 days");
        assert_eq!(between(7 * 24 * 60, 15 * 24 * 60), 48, "every four hours to 15 days");
        assert_eq!(between(15 * 24 * 60, i64::MAX), 0);
        assert_eq!(plan.kept.len() + plan.dropped.len(), points.len());
    }

    #[test]
    fn a_machine_that_fell_silent_keeps_what_it_has() {
        let points = history(10 * 24 * 60);
        let then = plan(&points, &Ladder::default(), &[], Timestamp(0));
        let years_later = plan(&points, &Ladder::default(), &[], Timestamp(5 * 365 * 24 * 60 * MINUTE));
        assert_eq!(then, years_later);
        assert!(then.keeps(points.last().expect("points").lsn));
    }

    #[test]
    fn clocks_that_disagree_drop_nothing() {
        let points = history(10 * 24 * 60);
        let plan = plan(&points, &Ladder::default(), &[], Timestamp(-11 * MINUTE));
        assert!(plan.dropped.is_empty());
        assert!(plan.kept.iter().all(|(_, why)| *why == Why::ClocksApart));
    }

    #[test]
    fn an_app_consistent_point_stands_for_its_hour_and_a_pinned_one_stays_beside_it() {
        let mut points = history(600);
        let app = points.iter().position(|point| point.captured_at.0 == -330 * MINUTE).expect("it is there");
        points[app].kind = MarkKind::App;
        let pinned = points[app + 3].lsn;
        let plan = plan(&points, &Ladder::default(), &[pinned], Timestamp(0));
        let hour = points.iter().filter(|point| (-360 * MINUTE..-300 * MINUTE).contains(&point.captured_at.0));
        let kept: Vec<Lsn> = hour.filter(|point| plan.keeps(point.lsn)).map(|point| point.lsn).collect();
        assert_eq!(kept, [points[app].lsn, pinned]);
    }

    #[test]
    fn machines_that_share_a_group_mark_keep_the_same_one_of_each_hour() {
        let kept_of = |app_every: usize, phase: usize| {
            let mut points = history(10 * 60);
            points.iter_mut().skip(phase).step_by(app_every).for_each(|point| point.kind = MarkKind::App);
            let shared = |point: &&mut Aging| point.captured_at.0 % (20 * MINUTE) == 0;
            points.iter_mut().filter(shared).for_each(|point| point.kind = MarkKind::Group);
            let plan = plan(&points, &"all:1h,1h:1d".parse().expect("a ladder"), &[], Timestamp(0));
            let old = points.iter().filter(|point| point.captured_at.0 < -60 * MINUTE && plan.keeps(point.lsn));
            old.map(|point| (point.captured_at, point.kind)).collect::<Vec<_>>()
        };
        let (one, other) = (kept_of(7, 3), kept_of(11, 0));
        assert_eq!(one, other);
        assert!(one.len() == 9 && one.iter().all(|(_, kind)| *kind == MarkKind::Group), "{one:?}");
    }

    #[test]
    fn the_newest_point_of_all_disks_stays_beside_newer_ones_of_some() {
        let mut points = history(30 * 24 * 60);
        let last_whole = points.len() - 25 * 24 * 60;
        points[last_whole + 1..].iter_mut().for_each(|point| point.complete = false);
        let plan = plan(&points, &Ladder::default(), &[], Timestamp(0));
        assert!(plan.keeps(points[last_whole].lsn));
    }

    #[test]
    fn a_ladder_is_written_as_it_is_read() {
        let text = "all:2h,1h:1d,2h:7d,4h:15d";
        assert_eq!(Ladder::default().to_string(), text);
        assert_eq!(text.parse(), Ok(Ladder::default()));
        let years: Ladder = "all:90s, 1d:52w,1w:7y".parse().expect("a ladder");
        assert_eq!(years.to_string().parse(), Ok(years));
        for bad in ["", "all", "1h", "0s:1d", "all:2", "all:h", "1x:2d", "all:2h,,1h:1d", "all:99999999999999999999y"] {
            assert!(matches!(bad.parse::<Ladder>(), Err(BadLadder::Text(_))), "{bad}");
        }
    }

    #[test]
    fn a_ladder_must_rise() {
        let rung = |every_s, for_s| Rung { every_s, for_s };
        assert_eq!(Ladder::new(vec![]), Err(BadLadder::Rungs(0)));
        assert_eq!(Ladder::new(vec![rung(0, 0)]), Err(BadLadder::Empty(0)));
        assert!(serde_json::from_str::<Ladder>("[]").is_err(), "nothing goes around the check");
        assert_eq!(Ladder::new(vec![rung(0, 60), rung(60, 60)]), Err(BadLadder::Order(1)));
        assert_eq!(Ladder::new(vec![rung(60, 60), rung(0, 90)]), Err(BadLadder::Order(1)));
        assert_eq!(Ladder::new(vec![rung(1, u64::MAX)]), Err(BadLadder::TooLong(0)));
        assert!(Ladder::new(vec![rung(0, 60), rung(60, 90)]).is_ok());
    }

    #[test]
    fn a_million_marks_are_planned_in_two_seconds() {
        let points = history(1_000_000);
        let begun = Instant::now();
        let plan = plan(&points, &Ladder::default(), &[Lsn(77)], Timestamp(0));
        // The bar is 2 s; asserted at five times that, for unoptimised builds on busy machines.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(plan.keeps(Lsn(77)));
    }

    proptest! {
        /// What one plan drops no later plan misses: each bucket that a rung reaches whole, and that ever had a point, has
        /// one, as long as intervals are multiples of each other.
        #[test]
        fn thinned_step_by_step_each_bucket_keeps_a_point(
            gaps in proptest::collection::vec((1..90_i64, any::<bool>()), 1..200), stops in 1..6_usize
        ) {
            let ladder = Ladder::new(vec![
                Rung { every_s: 0, for_s: HOUR_S },
                Rung { every_s: HOUR_S, for_s: DAY_S },
                Rung { every_s: 4 * HOUR_S, for_s: 4 * DAY_S },
            ]).expect("it rises");
            let mut now = 0;
            let mut all = Vec::new();
            let mut left: Vec<Aging> = Vec::new();
            for (n, (gap, app)) in gaps.iter().enumerate() {
                now += gap;
                let mut point = at(n as u64 + 1, now);
                point.kind = if *app { MarkKind::App } else { MarkKind::Crash };
                all.push(point);
                left.push(point);
                if n % stops == 0 {
                    let plan = plan(&left, &ladder, &[], Timestamp(now * MINUTE));
                    left.retain(|point| plan.keeps(point.lsn));
                }
            }
            for rung in &ladder.rungs()[1..] {
                let interval = rung.every_s as i64 * 1_000_000;
                let bucket = |point: &Aging| point.captured_at.0.div_euclid(interval);
                let oldest = now * MINUTE - rung.for_s as i64 * 1_000_000;
                for point in all.iter().filter(|point| bucket(point) * interval >= oldest) {
                    let kept = left.iter().any(|left| bucket(left) == bucket(point));
                    prop_assert!(kept, "nothing is left of the bucket of {:?}", point);
                }
            }
        }
    }
}
