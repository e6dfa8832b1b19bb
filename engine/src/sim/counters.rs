//! What happened in a run, counted: every kind of fault that really struck, every state and transition that a campaign
//! must have been through. A campaign in which one of them stays at zero has not tested it, and fails.

use std::fmt;

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Seen {
            $($(#[$doc])* $name,)*
        }

        impl Seen {
            /// Everything that is counted.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// In words: kind, then what.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

counted! {
    /// The store failed before the effect.
    StoreErrorBefore = "fault: store, error before the effect",
    /// The store had the effect, and its answer was lost.
    StoreErrorAfter = "fault: store, error after the effect",
    /// The store had the effect long after it had said that it failed.
    StoreLate = "fault: store, effect long after the error",
    /// The store was slow.
    StoreSlow = "fault: store, slow",
    /// Staged bytes were not whole.
    StoreTorn = "fault: store, torn",
    /// A list did not know the newest objects.
    StoreStaleList = "fault: store, stale list",
    /// The store answered nobody.
    StoreAway = "fault: store, away",
    /// A write to a cache disk was torn.
    CacheTorn = "fault: cache disk, torn write",
    /// A sync of a cache disk failed.
    CacheSync = "fault: cache disk, failed sync",
    /// A file could not be created on a cache disk.
    CacheCreate = "fault: cache disk, failed create",
    /// A sync of a cache disk took long.
    CacheSlow = "fault: cache disk, slow sync",
    /// A cache disk had little room.
    CacheFull = "fault: cache disk, full",
    /// A cache disk was replaced.
    CacheLost = "fault: cache disk, lost",
    /// A bit of a cache disk flipped.
    CacheDamaged = "fault: cache disk, flipped bit",
    /// A message took long.
    LinkSlow = "fault: link, delay",
    /// A connection was lost.
    LinkLost = "fault: link, lost",
    /// The process server did not notice for long that a connection was gone.
    LinkHalfOpen = "fault: link, half-open",
    /// Messages got through in one direction only.
    LinkOneWay = "fault: link, one way",
    /// A process server was killed.
    ServerKilled = "fault: process server, killed",
    /// A process server lost power.
    ServerPowerCut = "fault: process server, power cut",
    /// A process server's host failed in steps: kill, failed writeback, power cut.
    HostFailed = "fault: process server, host fails in steps",
    /// A disk's actor died.
    DiskActorDied = "fault: process server, a disk's actor died",
    /// An owner was replaced without being asked.
    OwnerReplaced = "fault: owner, replaced",
    /// The log was moved as planned.
    OwnerMoved = "fault: owner, planned move",
    /// A machine lost power.
    MachinePowerCut = "fault: machine, power cut",
    /// A machine lost power in the middle of a write of its agent's own.
    AgentDied = "fault: machine, power cut within a write beside the disks",
    /// A write to a protected disk failed half way.
    SourceWriteFailed = "fault: protected disk, torn write",
    /// A protected disk could not be read.
    SourceReadFailed = "fault: protected disk, failed read",
    /// A sync of a protected disk failed.
    SourceSyncFailed = "fault: protected disk, failed sync",
    /// A disk was changed while no agent looked.
    ChangedBehind = "fault: protected disk, changed behind the agent",
    /// An agent lost its state.
    StateLost = "fault: agent, state lost",
    /// An activity log was lost or damaged.
    ActivityLogLost = "fault: agent, activity log lost or damaged",
    /// An activity log could not be written.
    ActivityLogFails = "fault: agent, activity log cannot be written",
    /// A machine went back to a copy of it.
    RolledBack = "fault: machine, rolled back to a copy",
    /// A machine's clock jumped.
    ClockJumped = "fault: machine, clock jump",
    /// The application wrote much more than before.
    Burst = "fault: machine, burst of writes",
    /// An agent was killed.
    AgentKilled = "fault: agent, killed",
    /// An agent was stopped cleanly.
    AgentStopped = "fault: agent, stopped cleanly",
    /// A segment was committed.
    SegmentCommitted = "state: segment committed",
    /// A fence was committed.
    Adopted = "state: log adopted by a fence",
    /// An owner found its own log again after a restart.
    Resumed = "state: log resumed by its owner",
    /// An owner learnt that it is no more.
    Fenced = "state: owner fenced",
    /// A cached segment was discarded.
    SegmentDiscarded = "state: cached segment discarded",
    /// A cached segment was found after a restart and sent.
    SegmentRecovered = "state: cached segment recovered",
    /// A cache was lost, and a new epoch asked for.
    EpochAsked = "state: new epoch asked for a lost cache",
    /// An agent was welcomed.
    Welcomed = "state: session open",
    /// A life began on its machine.
    LifeBegun = "state: life begun on its machine",
    /// A life began in the log.
    LifeOpened = "state: life begun in the log",
    /// A life began anew in the log of another owner.
    LifeReopened = "state: life begun anew at another owner",
    /// A life began behind one that it does not know.
    StartedOver = "state: log taken over from an unknown life",
    /// A life ended with a clean stop.
    StoppedClean = "state: life ended with a clean stop",
    /// A life was stopped, and not everything was committed in time.
    StoppedUnclean = "state: life stopped without a clean stop",
    /// A disk began a life in order.
    OpenedInOrder = "state: disk opened in order",
    /// A disk began a life in a gap.
    OpenedInGap = "state: disk opened in a gap",
    /// A disk is compared as a whole.
    FullCompare = "state: full compare",
    /// Digests were answered for a part of a disk.
    Compared = "state: part compared by digest",
    /// A part could not be read for its digests, and counted as different.
    NotCompared = "state: part not compared, sent",
    /// Something that was compared was equal, and not sent.
    FoundEqual = "state: compared and equal, not sent",
    /// A disk's gap was closed by the scan.
    GapClosed = "state: gap closed",
    /// A write did not fit, and a gap was opened.
    Overloaded = "state: overloaded, gap opened",
    /// A hole was scanned.
    HoleScanned = "state: hole scanned",
    /// An activity log was believed.
    ActivityLogTrusted = "state: activity log trusted",
    /// An activity log was not believed.
    ActivityLogDistrusted = "state: activity log not trusted",
    /// A life could not write its activity log.
    ActivityLogFailed = "state: activity log failed",
    /// An activity log could be neither written nor emptied, and the agent's state says so.
    Disavowed = "state: activity logs disavowed",
    /// A region was recorded hot.
    RegionHeated = "state: region recorded hot",
    /// A region was cooled.
    RegionCooled = "state: region cooled",
    /// A request waited for a range.
    RangeWaited = "state: range waited for",
    /// A mark was taken.
    MarkTaken = "state: mark taken",
    /// A point was read while things went wrong.
    PointRead = "state: point read",
    /// An agent was turned away.
    Refused = "state: agent turned away",
    /// An agent was sent to the next owner.
    Redirected = "state: agent redirected",
    /// An agent whom nobody told where its log went was let go of by the server that had released it.
    LetGo = "state: agent of a released log let go of",
    /// An append failed.
    AppendFailed = "state: append failed, file abandoned",
}

/// How often each was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters(Vec<u64>);

impl Default for Counters {
    fn default() -> Self {
        Self(vec![0; Seen::ALL.len()])
    }
}

impl Counters {
    pub(super) fn count(&mut self, seen: Seen) {
        self.0[seen as usize] += 1;
    }

    /// How often it was seen.
    pub fn of(&self, seen: Seen) -> u64 {
        self.0[seen as usize]
    }

    /// Faults that really struck.
    pub fn faults(&self) -> u64 {
        Seen::ALL.iter().filter(|seen| seen.text().starts_with("fault: ")).map(|seen| self.of(*seen)).sum()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum += more);
    }

    /// What never happened.
    pub fn never(&self) -> Vec<Seen> {
        Seen::ALL.iter().copied().filter(|seen| self.of(*seen) == 0).collect()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Seen::ALL.iter().try_for_each(|seen| writeln!(f, "{:>10}  {}", self.of(*seen), seen.text()))
    }
}
