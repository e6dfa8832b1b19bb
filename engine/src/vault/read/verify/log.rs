//! One timeline's objects, checked one by one, and what their damage touches: the part of a verify that needs no more than
//! the machine's key.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{ObjectFaults, check_object};
use super::report::{TimelineReport, VerifyReport};
use super::touch::{Faults, Place, touches};
use crate::ids::{MachineId, Slot, TimelineId};
use crate::vault::manifest_keeper::read_manifest;
use crate::vault::read::error::{Damage, ReadError};
use crate::vault::read::points::RecoveryPoint;
use crate::vault::read::segment_view::{LogSource, ObjectPlace, SegmentView};
use crate::vault::read::slots::{FilledSlot, find_slots};
use crate::vault::read::timeline::TimelineReader;

/// What is wrong with objects of a machine.
#[derive(Debug, Default)]
pub(in crate::vault) struct Findings {
    faults: Faults,
    unreadable: BTreeMap<Place, Damage>,
}

impl Findings {
    /// Takes what checking an object gave; tells whether it is sound.
    pub(in crate::vault) fn take(&mut self, place: Place, checked: Result<ObjectFaults, Damage>) -> bool {
        match checked {
            Ok(found) if found.is_empty() => return true,
            Ok(found) => drop(self.faults.insert(place, found)),
            Err(damage) => drop(self.unreadable.insert(place, damage)),
        }
        false
    }

    /// The damaged objects.
    pub(in crate::vault) fn places(&self) -> impl Iterator<Item = &Place> {
        self.unreadable.keys().chain(self.faults.keys())
    }

    /// Writes into the report what is wrong with a timeline's own objects.
    pub(in crate::vault) fn note(&self, report: &mut VerifyReport, machine: MachineId, timeline: TimelineId) {
        for ((of, place), damage) in self.unreadable.iter().filter(|((of, _), _)| *of == timeline) {
            report.bad(place.name(machine, *of).as_str()).problem(damage);
        }
        for ((of, place), found) in self.faults.iter().filter(|((of, _), _)| *of == timeline) {
            let bad = report.bad(place.name(machine, *of).as_str());
            found.problems.iter().for_each(|problem| bad.problem(problem));
        }
    }

    /// Reads a timeline as any reader does, and writes into the report which of its points damage touches.
    pub(in crate::vault) async fn map(
        &self,
        report: &mut VerifyReport,
        source: &LogSource,
        timeline: TimelineId,
    ) -> Result<TimelineReport, ReadError> {
        let reader = TimelineReader::open(source.clone(), timeline).await?;
        let (points, lost) = (reader.points(), reader.lost_points());
        let machine = source.machine();
        let mut touched = BTreeSet::new();
        for touch in touches(source, reader.segments(), reader.history(), &points, &self.faults).await? {
            let (of, place) = touch.object;
            touched.insert(touch.point);
            let bad = report.bad(place.name(machine, of).as_str());
            bad.touch(machine, timeline, &points[touch.point], &[touch.disk]);
        }
        if let Some(broken) = reader.broken() {
            let bad = report.bad(broken.object.as_str());
            bad.problem(&broken.damage);
            bad.lost_from.insert(timeline, reader.chain().last_lsn);
            lost.iter().for_each(|point| bad.touch(machine, timeline, point, &point.disks));
            // Behind the break each bad object would lose what follows it even if the first were repaired.
            for (of, place) in self.places().filter(|(of, _)| *of == timeline) {
                let ObjectPlace::Slot(slot) = *place else { continue };
                if slot <= broken.slot {
                    continue;
                }
                let bad = report.bad(place.name(machine, *of).as_str());
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
pub(in crate::vault) struct LiveObject {
    pub(in crate::vault) place: ObjectPlace,
    /// Its size; of a part it is asked for.
    pub(in crate::vault) bytes: Option<u64>,
}

/// What a timeline's readers need: the parts of its runs, then the slots from the floor on; how many slots that is; and
/// those that are missing. What merging replaced and what waits to be deleted is none of it.
pub(in crate::vault) async fn live_objects(
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

/// Opens an object's footer.
pub(in crate::vault) async fn open_live(
    source: &LogSource,
    timeline: TimelineId,
    object: LiveObject,
) -> Result<SegmentView, ReadError> {
    let name = object.place.name(source.machine(), timeline);
    let bytes = match object.bytes {
        Some(bytes) => bytes,
        None => source.store().head(&name).await.map_err(|error| ReadError::store(&name, error))?.bytes,
    };
    match object.place {
        ObjectPlace::Slot(slot) => source.open(timeline, FilledSlot { slot, bytes }, 0).await,
        ObjectPlace::Run(run, part) => source.open_part(timeline, run, part, bytes, 0).await,
    }
}

/// Reads one object whole. The outer error is the store's.
pub(in crate::vault) async fn check_live(
    source: &LogSource,
    timeline: TimelineId,
    object: LiveObject,
) -> Result<Result<ObjectFaults, Damage>, ReadError> {
    match open_live(source, timeline, object).await {
        Ok(view) => check_object(source, &view).await.map(Ok),
        Err(ReadError::Damaged { damage, .. }) => Ok(Err(damage)),
        Err(other) => Err(other),
    }
}
