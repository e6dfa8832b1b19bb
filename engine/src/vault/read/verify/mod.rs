//! Reads everything in a vault and tells which objects are not what was written, and which points of which disks that
//! touches.
//!
//! ```text
//!   list ─► keys, catalog, descriptions, manifests: opened
//!        └► each log object: footer, header, items, digests, index (object.rs)
//!   each timeline: chained and read as a reader would ─► first break: everything behind it is lost
//!        └► bad frames of the readable part ─► which marks still need a byte of them (touch.rs)
//! ```
//!
//! Damage never ends a verify and never panics it (I9); only a store that does not answer does. A wrong key does not get
//! here: the vault does not open with it.

mod object;
mod report;
mod scope;
#[cfg(test)]
mod tests;
mod touch;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};

pub use self::report::{BadObjectReport, MachineReport, TimelineReport, TouchedPoint, VerifyReport};
pub use self::scope::{PointScope, Scope};

use self::object::{ObjectFaults, check_object};
use self::touch::{Faults, Place, touches};
use super::error::{Damage, ReadError};
use super::open_vault::{Credential, KeysFault, OpenVault, open_keys};
use super::points::RecoveryPoint;
use super::segment_view::{LogSource, ObjectPlace};
use super::slots::{FilledSlot, find_slots};
use super::timeline::TimelineReader;
use crate::ids::{MachineId, Slot, TimelineId};
use crate::vault::about::About;
use crate::vault::catalog::Catalog;
use crate::vault::crypto::VaultKey;
use crate::vault::layout::ObjectName;
use crate::vault::manifest::Manifest;
use crate::vault::manifest_keeper::read_manifest;
use crate::vault::store::{ObjectStore, StoreError};
use bytes::Bytes;

/// Log objects read at once. Chosen: one frame of each is in memory, and two cores are busy.
const OBJECTS_IN_FLIGHT: usize = 4;
/// Names asked for in one list call.
const LIST_LIMIT: usize = 5000;

/// How far a verify is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Objects checked.
    pub objects_done: u64,
    /// Objects there are.
    pub objects_total: u64,
}

/// What a listing shows.
#[derive(Debug, Default)]
struct Contents {
    objects: u64,
    bytes: u64,
    keys: Vec<ObjectName>,
    catalog: Vec<ObjectName>,
    machines: BTreeMap<MachineId, MachineContents>,
    foreign: Vec<String>,
}

#[derive(Debug, Default)]
struct MachineContents {
    abouts: Vec<ObjectName>,
    timelines: BTreeSet<TimelineId>,
    manifests: BTreeSet<TimelineId>,
}

/// Verifies a vault, as far as the scope goes.
pub async fn verify(
    vault: &OpenVault,
    scope: &Scope,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<VerifyReport, ReadError> {
    let contents = Contents::list(&**vault.store()).await.map_err(ReadError::Store)?;
    let report = VerifyReport {
        vault: vault.vault(),
        objects: contents.objects,
        bytes: contents.bytes,
        foreign: contents.foreign.clone(),
        scope: scope.to_string(),
        ..VerifyReport::default()
    };
    let mut run = Verify { vault, scope, report, progress, done: 0, total: contents.objects };
    run.keys(&contents.keys).await?;
    run.catalog(&contents.catalog).await?;
    for (machine, found) in contents.machines.iter().filter(|(machine, _)| scope.has(**machine)) {
        run.machine(*machine, found).await?;
    }
    Ok(run.report)
}

impl Contents {
    async fn list(store: &dyn ObjectStore) -> Result<Self, StoreError> {
        let mut contents = Self::default();
        let mut after = None;
        loop {
            let lines = store.list("", after.as_ref(), LIST_LIMIT).await?;
            for line in &lines {
                contents.objects += 1;
                contents.bytes += line.bytes;
                if contents.take(&line.name).is_none() {
                    contents.foreign.push(line.name.to_string());
                }
            }
            match lines.last() {
                Some(last) if lines.len() == LIST_LIMIT => after = Some(last.name.clone()),
                _ => return Ok(contents),
            }
        }
    }

    /// Puts a name where it belongs. `None` where it belongs nowhere.
    fn take(&mut self, name: &ObjectName) -> Option<()> {
        let parts: Vec<&str> = name.as_str().split('/').collect();
        let numbered = name.number().is_some();
        match parts.as_slice() {
            ["keys", _] if numbered => self.keys.push(name.clone()),
            ["catalog", _] if numbered => self.catalog.push(name.clone()),
            ["machines", machine, "about", _] if numbered => {
                self.machines.entry(machine.parse().ok()?).or_default().abouts.push(name.clone());
            }
            ["machines", machine, timeline, "log", _] if numbered => {
                let (machine, timeline) = (machine.parse().ok()?, timeline.parse().ok()?);
                self.machines.entry(machine).or_default().timelines.insert(timeline);
            }
            ["machines", machine, timeline, "runs", ..] if name.run().is_some() => {
                let (machine, timeline) = (machine.parse().ok()?, timeline.parse().ok()?);
                self.machines.entry(machine).or_default().timelines.insert(timeline);
            }
            ["machines", machine, timeline, "manifest"] => {
                let (machine, timeline) = (machine.parse().ok()?, timeline.parse().ok()?);
                self.machines.entry(machine).or_default().manifests.insert(timeline);
            }
            _ => return None,
        }
        Some(())
    }
}

struct Verify<'a> {
    vault: &'a OpenVault,
    scope: &'a Scope,
    report: VerifyReport,
    progress: &'a (dyn Fn(VerifyProgress) + Sync),
    done: u64,
    total: u64,
}

impl Verify<'_> {
    fn step(&mut self) {
        self.done += 1;
        (self.progress)(VerifyProgress { objects_done: self.done, objects_total: self.total.max(self.done) });
    }

    /// Reads a small object whole; notes it as bad where that shows damage.
    async fn small(&mut self, name: &ObjectName) -> Result<Option<bytes::Bytes>, ReadError> {
        self.step();
        match self.vault.store().get(name).await.map_err(|error| ReadError::store(name, error)) {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(ReadError::Damaged { damage, .. }) => {
                self.report.bad(name.as_str()).problem(damage);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    async fn keys(&mut self, names: &[ObjectName]) -> Result<(), ReadError> {
        if names.is_empty() {
            self.report.bad(ObjectName::keys(1).as_str()).problem(
                "no key object is there: only the vault key itself opens this vault; restore keys/ from a copy",
            );
        }
        let credential = Credential::Key(self.vault.key().clone());
        for name in names {
            let Some(bytes) = self.small(name).await? else { continue };
            match open_keys(name, &bytes, &credential) {
                Ok(_) => {}
                Err(KeysFault::Damaged(damage)) => self.report.bad(name.as_str()).problem(damage),
                // A rotation that was cut off leaves the object of the key before: it counts no more.
                Err(KeysFault::Refused(_)) if self.opens_with_the_previous(name, &bytes) => {}
                Err(KeysFault::Refused(error)) => self.report.bad(name.as_str()).problem(error),
            }
        }
        Ok(())
    }

    fn opens_with_the_previous(&self, name: &ObjectName, bytes: &Bytes) -> bool {
        let previous = self.vault.previous_key().cloned().map(Credential::Key);
        previous.is_some_and(|credential| open_keys(name, bytes, &credential).is_ok())
    }

    async fn catalog(&mut self, names: &[ObjectName]) -> Result<(), ReadError> {
        for name in names {
            let Some(bytes) = self.small(name).await? else { continue };
            let open = |key: &VaultKey| Catalog::open(name.number().unwrap_or(0), &bytes, key);
            if let Err(error) = self.vault.with_keys(open) {
                self.report.bad(name.as_str()).problem(Damage::from(error));
            }
        }
        Ok(())
    }

    async fn machine(&mut self, machine: MachineId, found: &MachineContents) -> Result<(), ReadError> {
        let mut newest: Option<About> = None;
        for name in found.abouts.iter().rev() {
            self.step();
            match self.vault.about(machine, name).await? {
                Ok(about) => newest = newest.or(Some(about)),
                Err(damage) => self.report.bad(name.as_str()).problem(damage),
            }
        }
        let Some(about) = newest else {
            if found.abouts.is_empty() {
                let name = ObjectName::about(machine, 1);
                self.report.bad(name.as_str()).problem("no description of the machine is there, and none of its key");
            }
            let entry = MachineReport { machine, name: String::new(), timelines: Vec::new(), locked: true };
            self.report.machines.push(entry);
            return Ok(());
        };
        let source = self.vault.source(&about)?;
        let described: BTreeSet<TimelineId> = about.timelines.iter().map(|timeline| timeline.id).collect();
        for timeline in &found.manifests {
            self.manifest(&source, *timeline).await?;
        }
        let mut faults = Faults::new();
        let mut unreadable = BTreeMap::new();
        let mut slots = BTreeMap::new();
        for timeline in &found.timelines {
            let filled = self.log_objects(&source, *timeline, &mut faults, &mut unreadable).await?;
            slots.insert(*timeline, filled);
        }
        let mut timelines = Vec::new();
        for timeline in &found.timelines {
            let mut entry = self.timeline(&source, *timeline, &faults, &unreadable).await?;
            entry.slots = slots[timeline];
            entry.described = described.contains(timeline);
            timelines.push(entry);
        }
        self.report.machines.push(MachineReport { machine, name: about.name.clone(), timelines, locked: false });
        Ok(())
    }

    async fn manifest(&mut self, source: &LogSource, timeline: TimelineId) -> Result<(), ReadError> {
        let name = ObjectName::manifest(source.machine(), timeline);
        if let Some(bytes) = self.small(&name).await?
            && let Err(error) = Manifest::open(source.machine(), timeline, &bytes, source.key())
        {
            self.report.bad(name.as_str()).problem(Damage::from(error));
        }
        Ok(())
    }

    /// Reads every log object of a timeline whole; gives the number of filled slots.
    async fn log_objects(
        &mut self,
        source: &LogSource,
        timeline: TimelineId,
        faults: &mut Faults,
        unreadable: &mut BTreeMap<Place, Damage>,
    ) -> Result<u64, ReadError> {
        let (objects, slots, missing) = live_objects(source, timeline).await?;
        unreadable.extend(missing.into_iter().map(|slot| ((timeline, ObjectPlace::Slot(slot)), Damage::Missing)));
        let taken = |object: &LiveObject| self.scope.takes(source.machine(), &(timeline, object.place));
        let (objects, left): (Vec<_>, Vec<_>) = objects.into_iter().partition(taken);
        self.report.log_objects_read += objects.len() as u64;
        self.report.log_objects_left += left.len() as u64;
        left.iter().for_each(|_| self.step());
        let checks = objects.into_iter().map(|object| {
            let source = source.clone();
            async move {
                let task = tokio::spawn(async move { check_live(&source, timeline, object).await });
                (object.place, task.await.expect("checking bad input never panics"))
            }
        });
        let mut checked = stream::iter(checks).buffered(OBJECTS_IN_FLIGHT);
        while let Some((place, result)) = checked.next().await {
            self.step();
            match result? {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    faults.insert((timeline, place), found);
                }
                Err(damage) => {
                    unreadable.insert((timeline, place), damage);
                }
            }
        }
        for ((of, place), damage) in unreadable.iter().filter(|((of, _), _)| *of == timeline) {
            self.report.bad(place.name(source.machine(), *of).as_str()).problem(damage);
        }
        for ((of, place), found) in faults.iter().filter(|((of, _), _)| *of == timeline) {
            let bad = self.report.bad(place.name(source.machine(), *of).as_str());
            found.problems.iter().for_each(|problem| bad.problem(problem));
        }
        Ok(slots)
    }

    /// Reads a timeline as any reader does, and tells which of its points damage touches.
    async fn timeline(
        &mut self,
        source: &LogSource,
        timeline: TimelineId,
        faults: &Faults,
        unreadable: &BTreeMap<Place, Damage>,
    ) -> Result<TimelineReport, ReadError> {
        let reader = TimelineReader::open(source.clone(), timeline).await?;
        let (points, lost) = (reader.points(), reader.lost_points());
        let machine = source.machine();
        let mut touched = BTreeSet::new();
        for touch in touches(source, reader.segments(), reader.history(), &points, faults).await? {
            let (of, place) = touch.object;
            touched.insert(touch.point);
            let bad = self.report.bad(place.name(machine, of).as_str());
            bad.touch(machine, timeline, &points[touch.point], &[touch.disk]);
        }
        if let Some(broken) = reader.broken() {
            let bad = self.report.bad(broken.object.as_str());
            bad.problem(&broken.damage);
            bad.lost_from.insert(timeline, reader.chain().last_lsn);
            lost.iter().for_each(|point| bad.touch(machine, timeline, point, &point.disks));
            // Behind the break each bad object would lose what follows it even if the first were repaired.
            for (of, place) in unreadable.keys().chain(faults.keys()).filter(|(of, _)| *of == timeline) {
                let ObjectPlace::Slot(slot) = *place else { continue };
                if slot <= broken.slot {
                    continue;
                }
                let bad = self.report.bad(place.name(machine, *of).as_str());
                let after = |point: &&RecoveryPoint| point.timeline == *of && point.slot >= slot;
                lost.iter().filter(after).for_each(|point| bad.touch(machine, timeline, point, &point.disks));
            }
        }
        Ok(TimelineReport {
            timeline,
            slots: 0,
            sound_points: (points.len() - touched.len()) as u64,
            touched_points: (touched.len() + lost.len()) as u64,
            described: false,
        })
    }
}

/// An object that a timeline's readers need.
#[derive(Debug, Clone, Copy)]
struct LiveObject {
    place: ObjectPlace,
    /// Its size; of a part it is asked for.
    bytes: Option<u64>,
}

/// What a timeline's readers need: the parts of its runs, then the slots from the floor on; how many slots that is; and
/// those that are missing. What merging replaced and what waits to be deleted is none of it.
async fn live_objects(
    source: &LogSource,
    timeline: TimelineId,
) -> Result<(Vec<LiveObject>, u64, Vec<Slot>), ReadError> {
    let manifest = match read_manifest(source, timeline).await {
        Ok(found) => found.map(|(manifest, _)| manifest),
        Err(ReadError::Damaged { .. }) => None,
        Err(other) => return Err(other),
    };
    let (floor, runs) = manifest.map_or((Slot(0), Vec::new()), |manifest| (manifest.floor, manifest.runs));
    let parts = runs.iter().flat_map(|run| (0..run.parts).map(|part| ObjectPlace::Run(run.id, part)));
    let branch = runs.first().filter(|run| run.from > Slot(0)).map(|_| ObjectPlace::Slot(Slot(0)));
    let merged = branch.into_iter().chain(parts).map(|place| LiveObject { place, bytes: None });
    let mut objects: Vec<_> = merged.collect();
    let slots = find_slots(source.store(), source.machine(), timeline, floor).await.map_err(ReadError::Store)?;
    let filled = slots.filled.iter();
    objects.extend(filled.map(|slot| LiveObject { place: ObjectPlace::Slot(slot.slot), bytes: Some(slot.bytes) }));
    Ok((objects, slots.filled.len() as u64, slots.missing))
}

/// Reads one object whole. The outer error is the store's.
async fn check_live(
    source: &LogSource,
    timeline: TimelineId,
    object: LiveObject,
) -> Result<Result<ObjectFaults, Damage>, ReadError> {
    let name = object.place.name(source.machine(), timeline);
    let bytes = match object.bytes {
        Some(bytes) => Ok(bytes),
        None => source.store().head(&name).await.map(|meta| meta.bytes).map_err(|error| ReadError::store(&name, error)),
    };
    let opened = match (bytes, object.place) {
        (Ok(bytes), ObjectPlace::Slot(slot)) => source.open(timeline, FilledSlot { slot, bytes }, 0).await,
        (Ok(bytes), ObjectPlace::Run(run, part)) => source.open_part(timeline, run, part, bytes, 0).await,
        (Err(error), _) => Err(error),
    };
    match opened {
        Ok(view) => check_object(source, &view).await.map(Ok),
        Err(ReadError::Damaged { damage, .. }) => Ok(Err(damage)),
        Err(other) => Err(other),
    }
}
