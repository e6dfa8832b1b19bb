//! What a test has in hand: a log, a plain copy of its disks at every mark, readers that stay open, and the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use rand::RngCore;

use super::mortal::Mortal;
use crate::ids::{DiskNo, Lsn, MarkId, Slot, Timestamp};
use crate::record::Record;
use crate::section::WriteKind;
use crate::vault::manifest::{Pin, PinKind};
use crate::vault::manifest_keeper::ManifestKeeper;
use crate::vault::merge::plan::{Facts, MergePolicy, retention_of};
use crate::vault::merge::{FullSpeed, MergeError, MergeLimits, Merger, Mutation, Sightings};
use crate::vault::read::error::ReadError;
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::segment_view::{LogSource, ObjectPlace};
use crate::vault::read::test_log::{Seeded, TestLog};
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::volume::{Volume, VolumeLimits};
use crate::vault::retention::{Ladder, Rung};
use crate::vault::segment::Packing;
use crate::vault::store::ObjectStore;

/// Size of a disk.
pub(super) const SECTORS: u64 = 96;
/// How long what is doomed stays.
pub(super) const GRACE_S: i64 = 1000;

pub(super) fn ladder(rungs: &[(u64, u64)]) -> Ladder {
    Ladder::new(rungs.iter().map(|(every_s, for_s)| Rung { every_s: *every_s, for_s: *for_s }).collect())
        .expect("it rises")
}

/// Everything that a test has in hand. A mark is captured at as many seconds as its LSN.
pub(super) struct World {
    pub(super) log: TestLog,
    pub(super) clock: Arc<AtomicI64>,
    pub(super) sightings: Option<Arc<Sightings>>,
    pub(super) ladder: Ladder,
    pub(super) policy: MergePolicy,
    pub(super) mutation: Option<Mutation>,
    /// Marks that some merge was free to drop.
    pub(super) free: BTreeSet<Lsn>,
    pub(super) readers: Vec<(Volume, MarkId, DiskNo)>,
    pub(super) seed: u64,
    /// What the disks held at the end of each slot.
    pub(super) ends: BTreeMap<Slot, BTreeMap<DiskNo, Vec<u8>>>,
    pub(super) noise: Seeded,
}

impl World {
    pub(super) async fn new(mutation: Option<Mutation>) -> Self {
        Self::of(&[SECTORS * 512; 2], mutation).await
    }

    pub(super) async fn of(sizes: &[u64], mutation: Option<Mutation>) -> Self {
        let policy = MergePolicy { live_segments: 2, width: 2, small_bytes: 1 << 20, ..MergePolicy::default() };
        Self {
            log: TestLog::new(sizes).await,
            clock: Arc::new(AtomicI64::new(0)),
            sightings: None,
            ladder: ladder(&[(0, 15), (20, 60), (60, 400)]),
            policy,
            mutation,
            free: BTreeSet::new(),
            readers: Vec::new(),
            seed: 100,
            ends: BTreeMap::new(),
            noise: Seeded::new(4),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp((self.log.lsn as i64 + self.clock.load(Ordering::SeqCst)) * 1_000_000)
    }

    pub(super) fn merger(&mut self, crash: Option<(u32, bool)>) -> Merger {
        self.seed += 1;
        let store = Mortal::new(self.log.store.clone(), crash.map(|(calls, _)| calls + 1), crash.is_some_and(|c| c.1));
        let (machine, timeline, key) = (self.log.machine, self.log.timeline, self.log.key.clone());
        let chance = Arc::new(Mutex::new(Seeded::new(self.seed)));
        let now = self.now();
        Merger {
            source: LogSource::new(store.clone(), machine, key.clone()),
            timeline,
            keeper: ManifestKeeper::new(store, machine, timeline, key, chance),
            owner: (self.log.epoch, self.log.writer),
            limits: MergeLimits {
                map_bytes_max: 2 << 10,
                frame_bytes_max: 64 << 10,
                part_bytes: 24 << 10,
                frame_payload_bytes: 8 << 10,
                packing: Packing::Zstd(1),
            },
            pace: Arc::new(FullSpeed),
            clock: Arc::new(move || now),
            sightings: self.sightings.clone(),
            mutation: self.mutation,
        }
    }

    pub(super) fn write(&mut self, disk: u16, sector: u64, sectors: u64) {
        let room = self.log.models[&DiskNo(disk)].len().saturating_sub(sector as usize * 512);
        let mut data = vec![0; room.min(sectors as usize * 512)];
        self.noise.0.fill_bytes(&mut data);
        if !data.is_empty() {
            self.log.write(disk, sector * 512, &data);
        }
    }

    pub(super) fn fill(&mut self, disk: u16, sector: u64, sectors: u64, undefined: bool) {
        let room = self.log.models[&DiskNo(disk)].len().saturating_sub(sector as usize * 512);
        let len = room.min(sectors as usize * 512) as u32;
        if len > 0 {
            self.log.fill(disk, sector * 512, len, if undefined { WriteKind::Undefined } else { WriteKind::Zero });
        }
    }

    pub(super) async fn end_segment(&mut self) {
        self.log.record(Record::ActivityLogInvalid { disk: DiskNo(0) });
        let slot = self.log.end_segment().await;
        self.ends.insert(slot, self.log.models.clone());
    }

    /// One merge, if one is due; true if it was committed.
    pub(super) async fn merge(&mut self, thorough: bool, crash: Option<(u32, bool)>) -> Result<bool, MergeError> {
        let merger = self.merger(crash);
        merger.keeper.adopt(merger.owner.0).await?;
        let reader = TimelineReader::open_with_log(merger.source.clone(), merger.timeline).await?;
        assert!(reader.broken().is_none(), "{:?}", reader.broken());
        let plan = retention_of(&reader, &self.ladder, self.now());
        let Some(step) = Facts::of(&reader, &plan, &self.ladder).next(&self.policy, thorough) else { return Ok(false) };
        self.free.extend(&plan.dropped);
        merger.merge(&reader, &step.job(&plan)).await.map(|_| true)
    }

    /// Damages a part of a run, and has the run made again; where that cannot be, the part is put back as it was.
    pub(super) async fn rot(&mut self, nth: usize, at: usize, crash: Option<(u32, bool)>) -> Result<(), String> {
        let merger = self.merger(None);
        let (manifest, _) = merger.keeper.read(merger.owner.0).await.map_err(|error| error.to_string())?;
        let parts = manifest.runs.iter().flat_map(|run| (0..run.parts).map(move |part| (run, part)));
        let Some((run, part)) = parts.clone().nth(nth % parts.count().max(1)) else { return Ok(()) };
        let name = ObjectPlace::Run(run.id, part).name(self.log.machine, self.log.timeline);
        let whole = self.log.object(&name).await;
        let mut bytes = whole.to_vec();
        bytes[at % whole.len()] ^= 0x20;
        self.log.store.damage(&name, Some(bytes.into()));
        if merger.kept_by(run).await.map_err(|error| error.to_string())?.is_none() {
            // Nobody knows any more what it kept: the ladder says it anew.
            let marks = self.log.taken.iter().map(|taken| taken.lsn);
            self.free.extend(marks.filter(|lsn| *lsn > run.first && *lsn <= run.last));
        }
        let ladder = self.ladder.clone();
        if crash.is_some() {
            let _ = self.merger(crash).renew(run.id, Some(&ladder)).await;
        }
        match self.merger(None).renew(run.id, Some(&ladder)).await {
            Ok(_) => {}
            Err(MergeError::Unmade { .. }) => self.log.store.damage(&name, Some(whole)),
            Err(error) => return Err(format!("making a run again failed: {error}")),
        }
        self.check().await
    }

    pub(super) async fn pins(&mut self) -> Vec<Pin> {
        let merger = self.merger(None);
        merger.keeper.read(merger.owner.0).await.expect("the store answers").0.pins
    }

    pub(super) async fn hold(&mut self, nth: usize) {
        let reader = self.log.reader().await;
        let points = reader.points();
        let Some(point) = points.get(nth % points.len().max(1)) else { return };
        let merger = self.merger(None);
        let pin = Pin {
            id: format!("hold {}", point.lsn),
            kind: PinKind::Hold,
            lsn: point.lsn,
            created_at: self.now(),
            note: String::new(),
            expires_at: None,
        };
        // Twice the same one is refused.
        if merger.keeper.change(merger.owner.0, |manifest| manifest.pin(pin.clone())).await.is_ok() {
            self.free.remove(&point.lsn);
        }
    }

    pub(super) async fn release(&mut self, nth: usize) {
        let pins = self.pins().await;
        if let Some(pin) = pins.get(nth % pins.len().max(1)) {
            let merger = self.merger(None);
            merger.keeper.change(merger.owner.0, |manifest| manifest.release(&pin.id)).await.expect("it is there");
        }
    }

    pub(super) async fn open_reader(&mut self, nth: usize) {
        let reader = self.log.reader().await;
        let points = reader.points();
        let Some(point) = points.get(nth % points.len().max(1)) else { return };
        let disk = DiskNo((nth % 2) as u16);
        let limits = VolumeLimits { map_bytes_max: 4 << 10, read_ahead_bytes: 0 };
        let volume = Volume::of_point(&reader, point, disk, Arc::new(FrameCache::new(1)), limits);
        self.readers.push((volume.expect("the point is there"), point.id, disk));
    }

    /// Every point that is listed shows what the disks held; every one that no merge was free to drop is listed.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        let reader = self.log.reader().await;
        if let Some(broken) = reader.broken() {
            return Err(format!("the log broke: {broken:?}"));
        }
        let committed = self.log.chain.next;
        let points: BTreeMap<MarkId, _> = reader.points().into_iter().map(|point| (point.id, point)).collect();
        let held: BTreeSet<Lsn> = self.pins().await.iter().map(|pin| pin.lsn).collect();
        for taken in self.log.taken.iter().filter(|taken| taken.slot < committed) {
            let Some(point) = points.get(&taken.id) else {
                if held.contains(&taken.lsn) || !self.free.contains(&taken.lsn) {
                    return Err(format!("the point at LSN {} is gone", taken.lsn));
                }
                match bytes_at(&reader, DiskNo(0), taken.lsn).await {
                    Err(ReadError::NotRetained { .. }) => continue,
                    // Nothing was written between it and a position that stays.
                    Ok(bytes) if bytes == taken.disks[&DiskNo(0)] => continue,
                    other => {
                        return Err(format!("LSN {} is not retained, and yet: {:?}", taken.lsn, other.map(|_| ())));
                    }
                }
            };
            if (point.slot, point.lsn) != (taken.slot, taken.lsn) {
                return Err(format!("the point at LSN {} says it lies elsewhere: {point:?}", taken.lsn));
            }
            for (disk, model) in &taken.disks {
                let bytes = bytes_at(&reader, *disk, taken.lsn).await.map_err(|error| error.to_string())?;
                if bytes != *model {
                    return Err(format!("disk {disk} at LSN {} is not what it was", taken.lsn));
                }
            }
        }
        for (disk, model) in &self.log.models {
            let (end, slots) = (reader.chain().last_lsn, self.ends.last_key_value());
            if slots.is_some_and(|(slot, ends)| slot.next() == committed && ends[disk] == *model) {
                let bytes = bytes_at(&reader, *disk, end.next()).await.map_err(|error| error.to_string())?;
                if bytes != *model {
                    return Err(format!("disk {disk} at the log's end is not what it is"));
                }
            }
        }
        self.check_readers(&points.keys().copied().collect()).await
    }

    pub(super) async fn check_readers(&mut self, listed: &BTreeSet<MarkId>) -> Result<(), String> {
        let mut over = Vec::new();
        for (nth, (volume, id, disk)) in self.readers.iter().enumerate() {
            let taken = self.log.taken.iter().find(|taken| taken.id == *id).expect("it was taken");
            let mut bytes = vec![0xee; volume.info().size_bytes as usize];
            match volume.read(0, &mut bytes).await {
                Ok(()) if bytes == taken.disks[disk] => {}
                Ok(()) => return Err(format!("an open reader at LSN {} reads other bytes", taken.lsn)),
                // It outlived the grace, and nobody held its point.
                Err(ReadError::NotRetained { .. }) if !listed.contains(id) => over.push(nth),
                Err(error) => return Err(format!("an open reader at LSN {} fails: {error}", taken.lsn)),
            }
        }
        over.into_iter().rev().for_each(|nth| {
            self.readers.remove(nth);
        });
        Ok(())
    }

    /// Merges all there is, sweeps twice with the grace between, and looks at what is left.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.end_segment().await;
        while self.merge(true, None).await.map_err(|error| error.to_string())? {}
        for _ in 0..3 {
            self.clock.fetch_add(GRACE_S + 1, Ordering::SeqCst);
            let merger = self.merger(None);
            merger.sweep(GRACE_S as u64 * 1_000_000).await.map_err(|error| error.to_string())?;
        }
        self.check().await?;
        self.check_space().await
    }

    /// Data in runs, against what two neighbouring states that stay differ by.
    pub(super) async fn check_space(&mut self) -> Result<(), String> {
        let merger = self.merger(None);
        let (manifest, _) = merger.keeper.read(merger.owner.0).await.expect("the store answers");
        let reader = TimelineReader::open_with_log(self.log.source(), self.log.timeline).await.expect("it answers");
        let Some(run) = manifest.runs.first() else { return Ok(()) };
        if manifest.runs.len() > 1 || !manifest.doomed.is_empty() {
            return Err(format!("not all was merged, or not all was swept: {manifest:?}"));
        }
        let boundaries = &reader.runs()[0].boundaries;
        let mut states: Vec<&BTreeMap<DiskNo, Vec<u8>>> = Vec::new();
        for boundary in boundaries.iter() {
            states.extend(self.log.taken.iter().find(|taken| taken.lsn == boundary.lsn).map(|taken| &taken.disks));
        }
        // A fence at the run's end changes nothing.
        states.extend(self.ends.range(..=run.to).next_back().map(|(_, state)| state));
        let mut need = 0;
        let mut before: BTreeMap<DiskNo, Vec<u8>> = BTreeMap::new();
        for state in states {
            for (disk, bytes) in state {
                let empty = Vec::new();
                let old = before.get(disk).unwrap_or(&empty);
                for (n, sector) in bytes.chunks(512).enumerate() {
                    let same = old.get(n * 512..n * 512 + 512).is_some_and(|old| old == sector);
                    let data = sector.iter().any(|byte| *byte != 0);
                    need += if data && !same { 512 } else { 0 };
                }
            }
            before = state.clone();
        }
        let views = reader.segments().iter().filter(|view| matches!(view.place, ObjectPlace::Run(..)));
        let held: u64 = views.map(|view| view.footer.counters.payload_bytes).sum();
        if held * 10 > need * 13 {
            return Err(format!("{held} bytes are held where {need} are needed"));
        }
        let names = self.log.store.list("machines/", None, 10_000).await.expect("it lists");
        let here = Some((self.log.machine, self.log.timeline));
        for line in names.iter().filter(|line| line.name.owner() == here) {
            let number = line.name.number().map(Slot);
            let own = line.name.run().is_some_and(|(id, _)| id == run.id);
            let log =
                line.name.run().is_none() && number.is_some_and(|slot| slot >= manifest.floor || self.is_fence(slot));
            if !own && !log && number.is_some() {
                return Err(format!("{} was left behind", line.name));
            }
        }
        Ok(())
    }

    /// Slots that end nothing hold no writes.
    pub(super) fn is_fence(&self, slot: Slot) -> bool {
        !self.ends.contains_key(&slot)
    }
}

pub(super) fn limits() -> VolumeLimits {
    VolumeLimits { map_bytes_max: 1 << 20, read_ahead_bytes: 0 }
}

pub(super) async fn bytes_at(reader: &TimelineReader, disk: DiskNo, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
    let volume = Volume::at(reader, disk, lsn, Arc::new(FrameCache::new(1 << 20)), limits())?;
    let mut bytes = vec![0xee; volume.info().size_bytes as usize];
    volume.read(0, &mut bytes).await?;
    Ok(bytes)
}

/// A log of `segments` segments with a few marks each.
pub(super) async fn history(segments: u64) -> World {
    let mut world = World::new(None).await;
    for n in 0..segments {
        for m in 0..3 {
            world.write((n % 2) as u16, (n * 7 + m * 11) % SECTORS, 5);
            world.log.mark();
            world.log.end_batch();
        }
        world.end_segment().await;
    }
    world
}
