//! What goes wrong in a run, as a list that is drawn from the seed before the run begins: so a run can be played again
//! with a part of it, and a failing one be cut down to the faults that it needs.
//!
//! A fault strikes at its time. Some are over at once (a kill); others are troubles that last: while one lasts, each
//! operation of its kind goes wrong with a probability of the fault's own.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::chance::SeededChance;

/// How long things go wrong, in virtual time.
pub const STORM: Duration = Duration::from_secs(6);
/// Fewest faults of a schedule. Chosen: some strike nothing, and at least 10 must (the campaign's test holds that).
const FAULTS_MIN: u64 = 24;
/// Most faults of a schedule.
const FAULTS_MAX: u64 = 52;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

kinds! {
    /// Lasts: store calls fail before they have an effect.
    StoreFails,
    /// Lasts: store calls have their effect, and the answer is lost.
    AnswersLost,
    /// Lasts: publishes have their effect long after their answer said that they failed.
    LandsLate,
    /// Lasts: the store is slow.
    StoreSlow,
    /// Lasts: staged bytes are not whole.
    StoreTears,
    /// Lasts: lists do not know the newest objects.
    StaleLists,
    /// Lasts: the store answers nobody.
    StoreAway,
    /// Lasts: writes to cache disks are torn, their syncs and creates fail.
    CacheFails,
    /// Lasts: syncs of cache disks take long.
    CacheSlow,
    /// Lasts: a cache disk has little room.
    CacheFull,
    /// A cache disk is replaced by an empty one.
    CacheLost,
    /// A bit of a cache disk flips.
    CacheDamaged,
    /// Lasts: disk actors die while they seal.
    DiskActorsDie,
    /// Lasts: messages take long.
    LinkSlow,
    /// A connection is lost.
    LinkLost,
    /// Lasts: process servers do not notice that connections are gone.
    LinkHalfOpen,
    /// Lasts: nothing gets through in one direction.
    LinkOneWay,
    /// A process server is killed.
    ServerKilled,
    /// A process server loses power.
    ServerPowerCut,
    /// A process server's host fails in steps: its process dies, what was not synced cannot be written back, the store is
    /// slow, then the power goes.
    HostFails,
    /// The log is given to another server without a word to the first.
    NewOwner,
    /// The log is moved as planned.
    PlannedMove,
    /// Lasts: protected disks fail to read, write and sync.
    SourceFails,
    /// Lasts: the application writes much more than before.
    Burst,
    /// A machine loses power.
    MachinePowerCut,
    /// A machine loses power in the middle of a write to its agent's own storage.
    MachineDies,
    /// Somebody else writes to a disk while no agent looks.
    ChangedBehind,
    /// An agent loses its state.
    StateLost,
    /// An activity log is lost, or a bit of it flips.
    ActivityLogLost,
    /// Lasts: an activity log cannot be written.
    ActivityLogFails,
    /// A machine goes back to a copy of it; the first of these takes the copy.
    RolledBack,
    /// A machine's clock jumps.
    ClockJump,
    /// An agent is killed, and starts again.
    AgentKilled,
    /// An agent stops cleanly, and starts again.
    AgentStopped,
}

/// One fault of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its number in the schedule.
    pub number: usize,
    /// When it strikes.
    pub at: Duration,
    /// What it is.
    pub kind: Kind,
    /// How long it lasts, where it does.
    pub lasts: Duration,
    /// How likely an operation is to suffer from it, in thousandths.
    pub strength: u64,
    /// Whom or what it strikes; taken modulo how many there are.
    pub aim: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, at, kind, lasts, strength, aim } = self;
        write!(f, "#{number} at {} ms: {kind:?}", at.as_millis())?;
        write!(f, " (for {} ms, strength {strength}, aim {})", lasts.as_millis(), aim % 1000)
    }
}

/// The schedule of a seed. What one fault is does not depend on the others that are kept.
pub fn draw(seed: u64) -> Vec<Fault> {
    // A stream of its own: what the run draws besides does not shift it.
    let mut chance = SeededChance::new(seed ^ 0x5eed_fa17_5eed_fa17);
    // Some runs have much of one kind and nothing of another.
    let weights: Vec<u64> = Kind::ALL.iter().map(|_| [0, 1, 6][chance.below(3) as usize]).collect();
    let all: u64 = weights.iter().sum::<u64>().max(1);
    let count = chance.between(FAULTS_MIN, FAULTS_MAX);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let mut drawn = chance.below(all);
            let kind = Kind::ALL.iter().zip(&weights).find(|(_, weight)| {
                let here = drawn < **weight;
                drawn = drawn.saturating_sub(**weight);
                here
            });
            let longest = [300_000, 2_000_000][chance.below(2) as usize];
            Fault {
                number: 0,
                at: Duration::from_micros(chance.between(20_000, STORM.as_micros() as u64 - 500_000)),
                kind: kind.map_or(Kind::LinkLost, |(kind, _)| *kind),
                lasts: Duration::from_micros(chance.between(50_000, longest)),
                strength: [50, 200, 600][chance.below(3) as usize],
                aim: chance.below(u64::MAX),
            }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults.iter_mut().enumerate().for_each(|(number, fault)| fault.number = number);
    faults
}

/// Cuts a list of faults down to one that still fails, by halves, quarters and so on down to single faults (Zeller's
/// delta debugging). `fails` plays a list; it is called at most `plays_max` times.
pub fn minimise(
    all: BTreeSet<usize>,
    plays_max: usize,
    mut fails: impl FnMut(&BTreeSet<usize>) -> bool,
) -> BTreeSet<usize> {
    let mut kept: Vec<usize> = all.into_iter().collect();
    let mut plays = 0;
    let mut parts = 2;
    while !kept.is_empty() && plays < plays_max {
        let size = kept.len().div_ceil(parts);
        let mut cut = false;
        for at in (0..kept.len()).step_by(size) {
            let rest: BTreeSet<usize> = kept
                .iter()
                .enumerate()
                .filter(|(n, _)| !(at..at + size).contains(n))
                .map(|(_, number)| *number)
                .collect();
            plays += 1;
            if fails(&rest) {
                kept = rest.into_iter().collect();
                cut = true;
                break;
            }
            if plays >= plays_max {
                break;
            }
        }
        parts = match (cut, size) {
            (true, _) => (parts - 1).max(2),
            (false, 1) => break,
            (false, _) => (parts * 2).min(kept.len()),
        };
    }
    kept.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_cut_down_to_the_faults_that_it_needs() {
        let needed = BTreeSet::from([3, 17]);
        let mut plays = 0;
        let found = minimise((0..40).collect(), 500, |kept| {
            plays += 1;
            needed.is_subset(kept)
        });
        assert_eq!(found, needed);
        assert!(plays < 60, "{plays} plays");
        assert_eq!(minimise((0..40).collect(), 500, |_| true), BTreeSet::new(), "a run that fails without any fault");
        assert_eq!(minimise((0..4).collect(), 500, |kept| kept.len() == 4).len(), 4, "all are needed");
    }

    #[test]
    fn every_kind_is_drawn_within_a_few_seeds_and_no_schedule_is_empty() {
        let mut kinds = BTreeSet::new();
        for seed in 0..60 {
            let faults = draw(seed);
            assert!(faults.len() as u64 >= FAULTS_MIN);
            assert_eq!(faults, draw(seed));
            kinds.extend(faults.iter().map(|fault| fault.kind));
        }
        assert_eq!(kinds.len(), Kind::ALL.len());
    }
}
