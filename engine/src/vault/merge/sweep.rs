//! What goes: doomed objects once their grace is over, and the parts of runs that no manifest names.
//!
//! ```text
//!   orphan found ─► manifest committed that dooms it ─► grace ─► deleted ─► manifest committed without it
//! ```
//!
//! An orphan may be the run of a merge that is about to be committed, by a process that was taken for dead. The manifest that
//! dooms it settles that: the other's put no longer matches, and on the version it reads next its run is given up. Only when
//! every part is gone does the name leave the list, and then the commit finds no parts (I7).

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{MergeError, Merger};
use crate::ids::{RunId, Slot, Timestamp};
use crate::vault::layout::{ObjectName, run_prefix, runs_prefix};
use crate::vault::manifest::{Doomed, Manifest, ManifestError, Run, Times};
use crate::vault::manifest_keeper::{ChangeError, read_manifest};
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::segment::{ObjectKind, SegmentIdentity};
use crate::vault::store::StoreErrorKind;

/// Names asked for in one list call.
const LIST_LIMIT: usize = 5000;

/// What a sweep did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that were deleted.
    pub deleted: u64,
    /// Doomed entries whose time has not come.
    pub waiting: u64,
    /// Doomed entries that the store keeps for longer, or that a damaged run was made of; they are tried again.
    pub kept: u64,
    /// Runs that are damaged.
    pub damaged: Vec<Run>,
    /// Runs that nothing names.
    pub orphans: Vec<RunId>,
}

/// How long a run that was found damaged is not read again.
const DAMAGED_FOR: Duration = Duration::from_secs(3600);

/// Since when this process knows what is doomed, by a clock that does not jump: a wall clock that was set ahead makes
/// nothing go early. Who starts anew waits for one grace more. And which runs it has read again.
pub struct Sightings {
    uptime: Box<dyn Fn() -> Duration + Send + Sync>,
    first: Mutex<HashMap<Doomed, Duration>>,
    runs: Mutex<HashMap<RunId, ReadAgain>>,
}

/// What reading a run again showed.
struct ReadAgain {
    at: Duration,
    sound: bool,
    unmade: Option<String>,
}

impl std::fmt::Debug for Sightings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sightings").field("first", &self.first).finish_non_exhaustive()
    }
}

impl Sightings {
    /// None yet. `uptime` is a clock that does not jump.
    pub fn new(uptime: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { uptime: Box::new(uptime), first: Mutex::default(), runs: Mutex::default() }
    }

    /// None yet, by the host's monotonic clock.
    pub fn from_now() -> Self {
        let begun = Instant::now();
        Self::new(move || begun.elapsed())
    }

    /// How long something has been known, from this call on.
    fn known_for(&self, doomed: &Doomed) -> Duration {
        let now = (self.uptime)();
        now.saturating_sub(*self.first.lock().entry(doomed.clone()).or_insert(now))
    }

    /// Whether a run read well, where that is known well enough.
    pub(super) fn sound(&self, run: RunId) -> Option<bool> {
        let runs = self.runs.lock();
        let known = runs.get(&run)?;
        (known.sound || self.is_recent(known.at)).then_some(known.sound)
    }

    /// Why a run could not be made again, where that was tried a short while ago.
    pub(super) fn unmade(&self, run: RunId) -> Option<String> {
        let runs = self.runs.lock();
        let known = runs.get(&run).filter(|known| self.is_recent(known.at))?;
        known.unmade.clone()
    }

    fn is_recent(&self, at: Duration) -> bool {
        (self.uptime)().saturating_sub(at) < DAMAGED_FOR
    }

    /// Notes how a run read; of a damaged one, why it could not be made again.
    pub(super) fn note(&self, run: RunId, sound: bool, unmade: Option<String>) {
        let known = ReadAgain { at: (self.uptime)(), sound, unmade };
        self.runs.lock().insert(run, known);
    }

    /// Forgets what is doomed no longer, and runs that are not live.
    fn keep_only(&self, manifest: &Manifest) {
        self.first.lock().retain(|known, _| manifest.doomed.contains(known));
        self.runs.lock().retain(|known, _| manifest.runs.iter().any(|live| live.id == *known));
    }
}

impl Merger {
    /// Whether something was doomed long enough ago, by the wall clock and by this process's own. A clock that went back
    /// makes this wait longer, never shorter.
    pub(super) fn is_ripe(&self, doomed: &Doomed, now: Timestamp, grace_micros: u64) -> bool {
        let known_for = self.sightings.as_ref().map(|sightings| sightings.known_for(doomed).as_micros());
        let known_long_enough = known_for.is_none_or(|known_for| known_for >= grace_micros.into());
        known_long_enough && doomed.at() <= now && now.micros_since(doomed.at()) >= grace_micros
    }

    /// The runs that have parts and that the manifest does not know. Changes nothing: the dry run of the sweep.
    pub async fn orphans(&self) -> Result<Vec<RunId>, MergeError> {
        let (store, machine) = (self.source.store(), self.source.machine());
        let prefix = runs_prefix(machine, self.timeline);
        let (mut found, mut after) = (BTreeSet::new(), None);
        // Listed before the manifest is read: a run that is committed meanwhile is named by then.
        loop {
            let lines = store.list(&prefix, after.as_ref(), LIST_LIMIT).await?;
            found.extend(lines.iter().filter_map(|line| Some(line.name.run()?.0)));
            match lines.last() {
                Some(last) if lines.len() == LIST_LIMIT => after = Some(last.name.clone()),
                _ => break,
            }
        }
        let (manifest, _) = self.keeper.read(self.owner.0).await?;
        let known = |run: &RunId| manifest.is_doomed(*run) || manifest.runs.iter().any(|live| live.id == *run);
        Ok(found.into_iter().filter(|run| !known(run)).collect())
    }

    /// Dooms orphans, deletes what was doomed at least `grace_micros` ago. No merge of this owner may be under way.
    pub async fn sweep(&self, grace_micros: u64) -> Result<Swept, MergeError> {
        let mut swept = Swept { orphans: self.orphans().await?, ..Swept::default() };
        let now = (self.clock)();
        // Nothing was ever merged, pinned or left behind: there is nothing to look after.
        let Some((manifest, _)) = read_manifest(&self.source, self.timeline).await? else {
            if swept.orphans.is_empty() {
                return Ok(swept);
            }
            return self.doom(&swept.orphans, now).await.map(|()| swept);
        };
        if manifest.epoch > self.owner.0 {
            let error = ManifestError::Fenced { asked: self.owner.0, current: manifest.epoch };
            return Err(ChangeError::Refused(error).into());
        }
        if !swept.orphans.is_empty() {
            self.doom(&swept.orphans, now).await?;
        }
        if let Some(sightings) = &self.sightings {
            sightings.keep_only(&manifest);
        }
        let is_ripe = |doomed: &&Doomed| self.is_ripe(doomed, now, grace_micros);
        let (ripe, waiting): (Vec<_>, Vec<_>) = manifest.doomed.iter().partition(is_ripe);
        swept.waiting = waiting.len() as u64;
        let unsound = self.unsound(&manifest, &ripe).await?;
        let mut gone = Vec::new();
        for doomed in ripe {
            // It may be all that the run can be made again from.
            if unsound.iter().any(|run| doomed.is_in(run)) {
                swept.kept += 1;
                continue;
            }
            match self.delete(doomed).await {
                Ok(deleted) => {
                    swept.deleted += deleted;
                    gone.push(doomed.clone());
                }
                Err(MergeError::Store(error)) if error.kind == StoreErrorKind::Immutable => swept.kept += 1,
                Err(error) => return Err(error),
            }
        }
        swept.damaged = unsound;
        if !gone.is_empty() {
            let change = |manifest: &mut Manifest| {
                self.own(manifest)?;
                manifest.forget(&gone);
                Ok(())
            };
            self.keeper.change(self.owner.0, change).await?;
        }
        Ok(swept)
    }

    /// Takes away the pins that are over.
    pub(super) async fn end_pins(&self, times: Times) -> Result<(), MergeError> {
        let change = |manifest: &mut Manifest| {
            self.own(manifest)?;
            manifest.expire_pins(times);
            Ok(())
        };
        self.keeper.change(self.owner.0, change).await?;
        Ok(())
    }

    async fn doom(&self, orphans: &[RunId], now: Timestamp) -> Result<(), MergeError> {
        let change = |manifest: &mut Manifest| {
            self.own(manifest)?;
            manifest.give_up(orphans, now);
            Ok(())
        };
        self.keeper.change(self.owner.0, change).await?;
        Ok(())
    }

    /// An older owner changes nothing.
    fn own(&self, manifest: &Manifest) -> Result<(), ManifestError> {
        match self.owner.0 < manifest.epoch {
            true => Err(ManifestError::Fenced { asked: self.owner.0, current: manifest.epoch }),
            false => Ok(()),
        }
    }

    /// Deletes what a committed manifest doomed; gives how many objects that were.
    async fn delete(&self, doomed: &Doomed) -> Result<u64, MergeError> {
        match doomed {
            Doomed::Slots { from, to, .. } => {
                let mut deleted = 0;
                for slot in from.0..=to.0 {
                    deleted += u64::from(self.delete_segment(Slot(slot)).await?);
                }
                Ok(deleted)
            }
            Doomed::Run { id, .. } => {
                let prefix = run_prefix(self.source.machine(), self.timeline, *id);
                let mut deleted = 0;
                loop {
                    let lines = self.source.store().list(&prefix, None, LIST_LIMIT).await?;
                    for line in &lines {
                        self.source.store().delete(&line.name).await?;
                        deleted += 1;
                    }
                    if lines.len() < LIST_LIMIT {
                        return Ok(deleted);
                    }
                }
            }
        }
    }

    /// Deletes what fills a slot, unless it is a fence or a branch: a stale owner must always meet them (I4).
    async fn delete_segment(&self, slot: Slot) -> Result<bool, MergeError> {
        let (store, name) = (self.source.store(), ObjectName::log(self.source.machine(), self.timeline, slot));
        let header = match store.get_range(&name, 0, HEADER_BYTES as u64).await {
            Ok(header) => header,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // What cannot be recognised is left where it is.
        let segment = matches!(SegmentIdentity::decode(&header), Ok((ObjectKind::Segment, _)));
        if segment {
            store.delete(&name).await?;
        }
        Ok(segment)
    }
}
