//! The manifest of a timeline: the one object that changes, and only by put-if-match. It says which runs are live,
//! below which slot only they count (the floor), what must stay readable (pins), and who owns the timeline (the
//! epoch).
//!
//! A change is made in three steps: read with its ETag, change the value by the methods here, put if the ETag still
//! matches; after a conflict again from the first ([`super::manifest_keeper`]). A lower epoch never follows a higher
//! one (I4).
//!
//! ```text
//!   slot    0 ............ floor ......... tail
//!           └ runs, oldest first ┘└ live segments ┘          doomed: what a committed version no longer needs
//! ```
//!
//! Nothing is deleted that is not doomed by a committed version, and nothing that was ever doomed comes back (I7): a run
//! enters [`Manifest::runs`] only while it is not doomed and its parts are there, and leaves the doomed list only when its
//! parts are gone. A manifest without runs, expiring pins or doomed objects has the bytes of version 1.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::crypto::{DataKey, OpenError};
use super::envelope::{self, EnvelopeKind};
use super::layout::ObjectName;
use super::segment::FooterDigest;
use crate::ids::{Chance, Epoch, Lsn, MachineId, RunId, Slot, TimelineId, Timestamp};

/// Most pins of a timeline. Chosen: bounds the object that every reader fetches first; far above what people hold.
pub const PINS_MAX: usize = 1024;

/// Why a position is kept readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// An operator asked for it.
    Hold,
    /// A point is being served.
    Reader,
    /// A timeline begins there.
    Branch,
}

/// What keeps a position readable. It is real only once it stands in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its name, unique in the manifest.
    pub id: String,
    /// Why it is there.
    pub kind: PinKind,
    /// The position: everything with a smaller LSN stays readable.
    pub lsn: Lsn,
    /// When it was put there.
    pub created_at: Timestamp,
    /// What the operator wrote.
    #[serde(default)]
    pub note: String,
    /// When it goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What time it is, where one clock may be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// By this host's clock.
    pub now: Timestamp,
    /// By the log: when its newest point was captured, or now where that lies in the future.
    pub in_log: Timestamp,
}

impl Pin {
    /// Whether its time has come. A reader renews its pin by the wall clock. What else has an end waits until the log has
    /// come that far, too: a clock that was set ahead gives no hold up, and neither does time over a machine that is off.
    pub fn is_over(&self, times: Times) -> bool {
        let now = match self.kind {
            PinKind::Reader => times.now,
            PinKind::Hold | PinKind::Branch => times.in_log.min(times.now),
        };
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// A live run: it stands for the log objects of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// The first slot that it stands for.
    pub from: Slot,
    /// The last one.
    pub to: Slot,
    /// How many parts it has; never 0.
    pub parts: u32,
    /// The size of all parts, in bytes.
    pub bytes: u64,
    /// First LSN of what it stands for.
    pub first: Lsn,
    /// Last LSN of what it stands for.
    pub last: Lsn,
    /// Digest of the last part's footer, which chains all parts.
    pub footer: FooterDigest,
}

/// Objects that no version needs any more: they are deleted after a grace, for readers that still hold them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Doomed {
    /// The segments of these slots, both included; fences and branches among them stay for ever.
    Slots {
        /// First.
        from: Slot,
        /// Last.
        to: Slot,
        /// When a version first did without them.
        at: Timestamp,
    },
    /// A run, live before or left behind by a merge that never ended.
    Run {
        /// Which.
        id: RunId,
        /// When a version first did without it.
        at: Timestamp,
        /// The run that it was, where it was live: the run in its place can be made again from it. Manifests of the first
        /// programs do not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<Box<Run>>,
    },
}

impl Doomed {
    /// When a version first did without it.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Slots { at, .. } | Self::Run { at, .. } => *at,
        }
    }

    /// Whether `run` was made of it, wholly or in part: it lies among the slots that the run stands for.
    pub fn is_in(&self, run: &Run) -> bool {
        let (from, to) = match self {
            Self::Slots { from, to, .. } => (*from, *to),
            Self::Run { was: Some(was), .. } => (was.from, was.to),
            Self::Run { was: None, .. } => return false,
        };
        from <= run.to && run.from <= to
    }
}

/// A timeline's manifest. Fields that this program does not know are refused: it would lose them when it writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Grows with every change.
    pub version: u64,
    /// The owner that last adopted the timeline.
    pub epoch: Epoch,
    /// Slots from here on count by themselves; below only the runs do.
    pub floor: Slot,
    /// What must stay readable.
    pub pins: Vec<Pin>,
    /// Live runs, oldest first: each begins behind the one before.
    pub runs: Vec<Run>,
    /// What may be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doomed: Vec<Doomed>,
}

/// A change that a manifest does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Somebody newer owns the timeline.
    #[error("epoch {asked} cannot change this timeline: epoch {current} owns it; this owner must stop")]
    Fenced {
        /// Who asks.
        asked: Epoch,
        /// Who owns it.
        current: Epoch,
    },
    /// The pin's name is taken.
    #[error("a pin named '{0}' is there already")]
    PinTaken(String),
    /// No such pin.
    #[error("there is no pin named '{0}'")]
    NoSuchPin(String),
    /// Too many pins.
    #[error("the timeline has {PINS_MAX} pins, the most it can have: release some")]
    TooManyPins,
    /// The runs or slots that a new run stands for are not live any more.
    #[error("run {0} cannot take its place: what it was merged from is not what the manifest has; plan again")]
    Outrun(RunId),
    /// A run that was given up.
    #[error("run {0} was given up and its parts may be deleted: merge again under another name")]
    GivenUp(RunId),
    /// A pin that came while the run was made.
    #[error("run {run} does not keep LSN {lsn}, which is pinned by '{pin}': plan again")]
    Pinned {
        /// The run.
        run: RunId,
        /// The pin.
        pin: String,
        /// Its position.
        lsn: Lsn,
    },
}

impl Manifest {
    /// The manifest of a timeline that begins.
    pub fn new(epoch: Epoch) -> Self {
        Self { version: 1, epoch, floor: Slot::ZERO, pins: Vec::new(), runs: Vec::new(), doomed: Vec::new() }
    }

    /// Makes `epoch` the owner. The owner itself may say so again.
    pub fn adopt(&mut self, epoch: Epoch) -> Result<(), ManifestError> {
        if epoch < self.epoch {
            return Err(ManifestError::Fenced { asked: epoch, current: self.epoch });
        }
        self.epoch = epoch;
        self.version += 1;
        Ok(())
    }

    /// Adds a pin.
    pub fn pin(&mut self, pin: Pin) -> Result<(), ManifestError> {
        if self.pins.iter().any(|own| own.id == pin.id) {
            return Err(ManifestError::PinTaken(pin.id));
        }
        if self.pins.len() >= PINS_MAX {
            return Err(ManifestError::TooManyPins);
        }
        self.pins.push(pin);
        self.version += 1;
        Ok(())
    }

    /// Takes a pin away.
    pub fn release(&mut self, id: &str) -> Result<Pin, ManifestError> {
        let at = self.pins.iter().position(|pin| pin.id == id);
        let at = at.ok_or_else(|| ManifestError::NoSuchPin(id.to_owned()))?;
        self.version += 1;
        Ok(self.pins.remove(at))
    }

    /// Makes `run` stand for what it was merged from: the live runs `replaced` (in order, side by side) and, where it ends
    /// behind them, the live slots up to its end. `kept` says whether a position can be read in it. What it replaces is
    /// doomed from here on.
    pub fn commit_run(
        &mut self,
        epoch: Epoch,
        run: Run,
        replaced: &[RunId],
        kept: impl Fn(Lsn) -> bool,
        at: Timestamp,
    ) -> Result<(), ManifestError> {
        if epoch < self.epoch {
            return Err(ManifestError::Fenced { asked: epoch, current: self.epoch });
        }
        if self.is_doomed(run.id) {
            return Err(ManifestError::GivenUp(run.id));
        }
        let place = self.place_of(&run, replaced).ok_or(ManifestError::Outrun(run.id))?;
        let inside = |pin: &&Pin| pin.lsn > run.first && pin.lsn <= run.last;
        if let Some(pin) = self.pins.iter().filter(inside).find(|pin| !kept(pin.lsn)) {
            return Err(ManifestError::Pinned { run: run.id, pin: pin.id.clone(), lsn: pin.lsn });
        }
        if run.to >= self.floor {
            let from = self.floor.max(run.from);
            self.doomed.push(Doomed::Slots { from, to: run.to, at });
            self.floor = run.to.next();
        }
        let before = self.runs.splice(place..place + replaced.len(), [run]);
        self.doomed.extend(before.map(|was| Doomed::Run { id: was.id, at, was: Some(Box::new(was)) }));
        self.epoch = epoch;
        self.version += 1;
        Ok(())
    }

    /// Where among the runs a new one goes; `None` where it does not stand for exactly what is there.
    fn place_of(&self, run: &Run, replaced: &[RunId]) -> Option<usize> {
        if self.runs.iter().any(|live| live.id == run.id) {
            return None;
        }
        // The runs before the new one end where it begins. A branch in slot 0 stays a log object of its own.
        let place = self.runs.iter().position(|live| live.to >= run.from).unwrap_or(self.runs.len());
        let begins = match place.checked_sub(1) {
            Some(before) => self.runs[before].to.next() == run.from,
            None if replaced.is_empty() => run.from <= Slot(1),
            None => self.runs.first().is_some_and(|first| first.from == run.from),
        };
        let same = self.runs[place..].iter().map(|live| live.id).take(replaced.len()).eq(replaced.iter().copied());
        let ends = match self.runs.get(place + replaced.len()) {
            Some(behind) => behind.from == run.to.next(),
            None => run.to >= self.floor || (run.to.next() == self.floor && !replaced.is_empty()),
        };
        (begins && same && ends && run.from <= run.to).then_some(place)
    }

    /// Whether a run is on the doomed list.
    pub fn is_doomed(&self, run: RunId) -> bool {
        self.doomed.iter().any(|doomed| matches!(doomed, Doomed::Run { id, .. } if *id == run))
    }

    /// Dooms runs that no version names: a merge that never ended left their parts behind. Live ones are left alone.
    pub fn give_up(&mut self, runs: &[RunId], at: Timestamp) {
        for id in runs {
            if !self.is_doomed(*id) && !self.runs.iter().any(|live| live.id == *id) {
                self.doomed.push(Doomed::Run { id: *id, at, was: None });
            }
        }
        // Counts even where nothing was doomed: no version that was read before can be replaced any more.
        self.version += 1;
    }

    /// Forgets doomed objects that are gone from the store.
    pub fn forget(&mut self, gone: &[Doomed]) {
        self.doomed.retain(|doomed| !gone.contains(doomed));
        self.version += 1;
    }

    /// Takes away the pins that are over; gives their names.
    pub fn expire_pins(&mut self, times: Times) -> Vec<String> {
        let over = |pin: &Pin| pin.is_over(times);
        let gone: Vec<String> = self.pins.iter().filter(|pin| over(pin)).map(|pin| pin.id.clone()).collect();
        if !gone.is_empty() {
            self.pins.retain(|pin| !over(pin));
            self.version += 1;
        }
        gone
    }

    /// Seals this version.
    pub fn seal(&self, machine: MachineId, timeline: TimelineId, key: &DataKey, chance: &mut dyn Chance) -> Bytes {
        let name = ObjectName::manifest(machine, timeline);
        envelope::seal(EnvelopeKind::Manifest, &name, self, |salt| key.manifest_key(salt), chance)
    }

    /// Opens a version that lies under this timeline's name.
    pub fn open(machine: MachineId, timeline: TimelineId, bytes: &[u8], key: &DataKey) -> Result<Self, OpenError> {
        let name = ObjectName::manifest(machine, timeline);
        envelope::open(EnvelopeKind::Manifest, &name, bytes, |salt| key.manifest_key(salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(id: &str) -> Pin {
        Pin {
            id: id.into(),
            kind: PinKind::Hold,
            lsn: Lsn(5),
            created_at: Timestamp(0),
            note: String::new(),
            expires_at: None,
        }
    }

    fn run(id: u8, from: u64, to: u64) -> Run {
        let (first, last) = (Lsn(from * 10 + 1), Lsn(to * 10 + 10));
        let (from, to, footer) = (Slot(from), Slot(to), FooterDigest([id; 32]));
        Run { id: RunId([id; 8]), from, to, parts: 1, bytes: 100, first, last, footer }
    }

    const NOW: Timestamp = Timestamp(7);

    #[test]
    fn a_run_takes_the_place_of_exactly_what_it_was_merged_from() {
        let mut manifest = Manifest::new(Epoch(2));
        let id = |n: u8| RunId([n; 8]);
        let mut commit = |run: Run, replaced: &[RunId]| manifest.commit_run(Epoch(2), run, replaced, |_| false, NOW);
        assert_eq!(commit(run(1, 3, 4), &[]), Err(ManifestError::Outrun(id(1))), "slots 0 to 2 would be lost");
        assert_eq!(commit(run(1, 0, 4), &[]), Ok(()));
        assert_eq!(commit(run(2, 5, 9), &[]), Ok(()));
        assert_eq!(commit(run(2, 10, 11), &[]), Err(ManifestError::Outrun(id(2))), "one name, one run");
        assert_eq!(commit(run(3, 10, 12), &[]), Ok(()));
        assert_eq!(commit(run(4, 0, 12), &[id(1), id(3)]), Err(ManifestError::Outrun(id(4))), "run 2 is between");
        assert_eq!(commit(run(4, 0, 8), &[id(1), id(2)]), Err(ManifestError::Outrun(id(4))), "half of run 2");
        assert_eq!(commit(run(4, 5, 12), &[id(2)]), Err(ManifestError::Outrun(id(4))), "run 3 would be lost");
        assert_eq!(commit(run(4, 0, 9), &[id(1), id(2)]), Ok(()));
        assert_eq!(commit(run(5, 0, 20), &[id(4), id(3)]), Ok(()), "runs and the live slots behind them");
        assert_eq!(commit(run(1, 21, 30), &[]), Err(ManifestError::GivenUp(id(1))), "nothing comes back to life");
        assert_eq!(manifest.floor, Slot(21));
        assert_eq!(manifest.runs.iter().map(|run| run.id).collect::<Vec<_>>(), [id(5)]);
        let slots = manifest.doomed.iter().filter_map(|doomed| match doomed {
            Doomed::Slots { from, to, .. } => Some((from.0, to.0)),
            Doomed::Run { .. } => None,
        });
        assert_eq!(slots.collect::<Vec<_>>(), [(0, 4), (5, 9), (10, 12), (13, 20)]);
    }

    #[test]
    fn a_run_without_a_pinned_position_and_one_of_an_older_epoch_are_refused() {
        let mut manifest = Manifest::new(Epoch(2));
        manifest.pin(pin("hold")).expect("room");
        let refused = manifest.commit_run(Epoch(2), run(1, 0, 4), &[], |_| false, NOW);
        assert_eq!(refused, Err(ManifestError::Pinned { run: RunId([1; 8]), pin: "hold".into(), lsn: Lsn(5) }));
        let fenced = Err(ManifestError::Fenced { asked: Epoch(1), current: Epoch(2) });
        assert_eq!(manifest.commit_run(Epoch(1), run(1, 0, 4), &[], |_| true, NOW), fenced);
        assert_eq!(manifest.commit_run(Epoch(2), run(1, 0, 4), &[], |lsn| lsn == Lsn(5), NOW), Ok(()));
    }

    #[test]
    fn a_pin_goes_when_its_time_has_come_and_not_before() {
        let mut manifest = Manifest::new(Epoch(1));
        manifest.pin(Pin { expires_at: Some(Timestamp(8)), ..pin("short") }).expect("room");
        manifest.pin(pin("for ever")).expect("room");
        let times = |now: i64, in_log: i64| Times { now: Timestamp(now), in_log: Timestamp(in_log) };
        assert!(manifest.expire_pins(times(NOW.0, NOW.0)).is_empty());
        assert!(manifest.expire_pins(times(1 << 50, 7)).is_empty(), "a clock that was set ahead");
        assert!(manifest.expire_pins(times(7, 1 << 50)).is_empty());
        assert_eq!(manifest.expire_pins(times(8, 8)), ["short"]);
        assert_eq!(manifest.pins.len(), 1);
    }

    #[test]
    fn a_lower_epoch_never_follows_a_higher_one() {
        let mut manifest = Manifest::new(Epoch(3));
        manifest.adopt(Epoch(5)).expect("higher");
        manifest.adopt(Epoch(5)).expect("itself");
        let fenced = Err(ManifestError::Fenced { asked: Epoch(4), current: Epoch(5) });
        assert_eq!(manifest.adopt(Epoch(4)), fenced);
        assert_eq!(manifest.version, 3);
    }

    #[test]
    fn pins_are_bounded_and_each_has_a_name_of_its_own() {
        let mut manifest = Manifest::new(Epoch(1));
        for n in 0..PINS_MAX {
            manifest.pin(pin(&n.to_string())).expect("room");
        }
        assert_eq!(manifest.pin(pin("one more")), Err(ManifestError::TooManyPins));
        assert_eq!(manifest.pin(pin("7")), Err(ManifestError::PinTaken("7".into())));
        assert_eq!(manifest.release("7").map(|pin| pin.id).as_deref(), Ok("7"));
        assert_eq!(manifest.release("7"), Err(ManifestError::NoSuchPin("7".into())));
    }
}
