//! One merge: sources in, a run out, and a manifest that names it.
//!
//! The commit looks once more: under the manifest version that it replaces, the run must stand for exactly what is live, keep
//! every pinned position, not have been given up, and have all its parts. A pin, a sweep or an owner that came meanwhile
//! changes that version, and the look is taken again.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::layers::DiskLayers;
use super::records::{boundaries, records, removals};
use super::writer::{RunPlan, RunWriter};
use super::{MergeError, Merger};
use crate::ids::{DiskNo, Lsn, RunId, Slot};
use crate::section::WriteKind;
use crate::vault::layout::{ObjectName, run_prefix};
use crate::vault::manifest::Run;
use crate::vault::manifest_keeper::ChangeError;
use crate::vault::read::error::{Damage, ReadError};
use crate::vault::read::extent_map::{Extent, Source};
use crate::vault::read::frame_cache::{FrameCache, OpenFrame};
use crate::vault::read::segment_view::{ObjectPlace, SegmentView};
use crate::vault::read::timeline::TimelineReader;
use crate::vault::segment::{Boundary, RunHead};
use crate::vault::store::StoreErrorKind;

/// How often the commit looks again. Chosen: as often as any other change of a manifest.
const TRIES: usize = 16;
/// Extents whose frames are fetched together.
const BATCH_EXTENTS: usize = 4096;
/// Data of them, in bytes.
const BATCH_BYTES: u64 = 4 << 20;
/// Frames fetched at once.
const FRAMES_IN_FLIGHT: usize = 8;
/// Longest row of zeroes, in bytes.
const FILL_BYTES_MAX: u64 = 1 << 30;

/// What shall be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeJob {
    /// First slot.
    pub from: Slot,
    /// Last slot.
    pub to: Slot,
    /// The runs among it, in order.
    pub replaces: Vec<RunId>,
    /// The positions that stay, of the whole timeline; pinned ones stay anyway.
    pub retained: BTreeSet<Lsn>,
}

impl Merger {
    /// Merges, and commits the manifest that names the run. `reader` is the timeline with its log, as it was planned on.
    pub async fn merge(&self, reader: &TimelineReader, job: &MergeJob) -> Result<Run, MergeError> {
        let (run, boundaries) = self.make(reader, job).await?;
        self.commit(&run, &job.replaces, &boundaries).await?;
        Ok(run)
    }

    /// Makes the run, which nobody reads yet, and tells the positions that it keeps.
    pub(super) async fn make(
        &self,
        reader: &TimelineReader,
        job: &MergeJob,
    ) -> Result<(Run, Vec<Boundary>), MergeError> {
        assert!(reader.keeps_log(), "records and states are merged, so the reader must have kept them");
        let outdated = || MergeError::Outdated { from: job.from, to: job.to };
        let place = |view: &Arc<SegmentView>| view.timeline == self.timeline && self.is_source(view, job);
        let all = reader.segments();
        let begin = all.iter().position(place).ok_or_else(outdated)?;
        let count = all[begin..].iter().take_while(|view| place(view)).count();
        let views = &all[begin..begin + count];
        let last = views.last().expect("there is one");
        if last.slot != job.to {
            return Err(match reader.broken() {
                Some(broken) => {
                    let object = broken.object.clone();
                    MergeError::Broken { from: job.from, to: job.to, readable: broken.slot, object }
                }
                None => outdated(),
            });
        }
        let (plan, boundaries) = self.plan_run(reader, views, job).ok_or_else(outdated)?;
        let lsns = plan.lsns;
        let removed = removals(&plan.records);
        let mut writer = RunWriter::new(self, plan);
        let frames = FrameCache::new(self.limits.frame_bytes_max);
        let disks: BTreeSet<DiskNo> = views.iter().flat_map(|view| &view.footer.pages).map(|page| page.disk).collect();
        let mut layers: Vec<DiskLayers<'_>> = Vec::new();
        for disk in disks {
            let sizes = reader.history().sizes(disk);
            let share = self.limits.map_bytes_max;
            #[allow(unused_mut)]
            let mut own = DiskLayers::new(&self.source, views, disk, sizes, share);
            #[cfg(any(test, feature = "testing"))]
            {
                own.older_wins = self.mutated(super::Mutation::OlderShadowsNewer);
            }
            layers.push(own);
        }
        let uppers = boundaries.iter().map(|boundary| boundary.lsn).chain([lsns.1.next()]);
        let mut lower = lsns.0;
        for (number, upper) in uppers.enumerate() {
            // The bottom of all layers lies on a disk of zeroes.
            let bottom = begin == 0 && number == 0;
            for own in &mut layers {
                // At no position from here on is the disk there.
                if removed.get(&own.disk()).is_some_and(|removed| *removed < upper) {
                    continue;
                }
                let work = Layer { merger: self, views, frames: &frames, lsn: Lsn(upper.0.saturating_sub(1)), bottom };
                work.write(own, lower.max(lsns.0)..upper, &mut writer).await?;
            }
            lower = lower.max(upper);
        }
        let run = writer.finish().await?;
        #[cfg(any(test, feature = "testing"))]
        if self.mutated(super::Mutation::DeleteBeforeCommit) {
            for view in views {
                self.source.store().delete(&self.source.name_of(view)).await?;
            }
        }
        Ok((run, boundaries))
    }

    fn is_source(&self, view: &SegmentView, job: &MergeJob) -> bool {
        match view.place {
            ObjectPlace::Slot(slot) => slot >= job.from && slot <= job.to,
            ObjectPlace::Run(run, _) => job.replaces.contains(&run),
        }
    }

    /// What the run will be beside its rows. `None` where the sources hold no writes or are no whole stretch.
    fn plan_run(
        &self,
        reader: &TimelineReader,
        views: &[Arc<SegmentView>],
        job: &MergeJob,
    ) -> Option<(RunPlan, Vec<Boundary>)> {
        let sources: Vec<&SegmentView> = views.iter().map(|view| &**view).collect();
        let (head, tail) = (sources.first()?, sources.last()?);
        let (from, before) = match &head.footer.run {
            Some(run) => (run.from, run.before),
            None => (head.slot, head.footer.previous),
        };
        if from != job.from
            || head.footer.control.is_some_and(|control| control != crate::vault::segment::Control::Fence)
        {
            return None;
        }
        let (behind, owner, state) = match &tail.footer.run {
            // Only the first part says so.
            Some(last) => {
                let first =
                    sources.iter().find(|view| matches!(view.place, ObjectPlace::Run(run, 0) if run == last.run))?;
                (last.behind, last.owner, &first.footer.state)
            }
            None => (tail.footer.digest, (tail.footer.epoch, tail.footer.writer), &tail.footer.state),
        };
        let first = sources.iter().find(|view| view.footer.control.is_none())?.footer.first;
        let pins = reader.manifest().map_or(&[][..], |manifest| &manifest.pins);
        let mut wanted = job.retained.clone();
        #[allow(unused_mut)]
        let mut held: Vec<Lsn> = pins.iter().map(|pin| pin.lsn).collect();
        #[cfg(any(test, feature = "testing"))]
        if self.mutated(super::Mutation::DropHeld) {
            held.iter().for_each(|lsn| {
                wanted.remove(lsn);
            });
            held.clear();
        }
        wanted.extend(held);
        let boundaries = boundaries(&sources, &wanted);
        let kept: BTreeSet<Lsn> = boundaries.iter().map(|boundary| boundary.lsn).collect();
        let head = RunHead {
            run: RunId::draw(&mut *self.keeper.chance().lock()),
            part: 0,
            from,
            to: job.to,
            before,
            behind,
            owner,
            boundaries: boundaries.clone(),
        };
        let records = records(&sources, |lsn| kept.contains(&lsn));
        Some((RunPlan { head, lsns: (first, state.last_lsn), records, state: state.clone() }, boundaries))
    }

    /// Commits the manifest in which the run stands in the place of `replaced`.
    pub(super) async fn commit(
        &self,
        run: &Run,
        replaced: &[RunId],
        boundaries: &[Boundary],
    ) -> Result<(), MergeError> {
        let kept = |lsn: Lsn| boundaries.binary_search_by_key(&lsn, |boundary| boundary.lsn).is_ok();
        #[cfg(any(test, feature = "testing"))]
        let kept = |lsn: Lsn| kept(lsn) || self.mutated(super::Mutation::DropHeld);
        for _ in 0..TRIES {
            let (mut manifest, etag) = self.keeper.read(self.owner.0).await?;
            // The answer of an earlier try may have been lost.
            if manifest.runs.contains(run) {
                return Ok(());
            }
            let change = manifest.commit_run(self.owner.0, run.clone(), replaced, kept, (self.clock)());
            change.map_err(ChangeError::from)?;
            self.all_parts_are_there(run).await?;
            if self.keeper.put(&manifest, etag.as_ref()).await? {
                return Ok(());
            }
        }
        Err(ChangeError::Busy.into())
    }

    async fn all_parts_are_there(&self, run: &Run) -> Result<(), MergeError> {
        let (store, machine) = (self.source.store(), self.source.machine());
        let lines = store.list(&run_prefix(machine, self.timeline, run.id), None, run.parts as usize).await?;
        let listed: BTreeSet<ObjectName> = lines.into_iter().map(|line| line.name).collect();
        for part in 0..run.parts {
            let name = ObjectName::run_part(machine, self.timeline, run.id, part);
            if listed.contains(&name) {
                continue;
            }
            // A list may be stale, and gives so many lines at most.
            match store.head(&name).await {
                Ok(_) => {}
                Err(error) if error.kind == StoreErrorKind::NotFound => {
                    return Err(MergeError::PartGone { run: run.id, part });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// One layer of one disk, on its way into a run.
struct Layer<'a> {
    merger: &'a Merger,
    views: &'a [Arc<SegmentView>],
    frames: &'a FrameCache,
    /// The LSN of its rows.
    lsn: Lsn,
    bottom: bool,
}

impl Layer<'_> {
    async fn write(
        &self,
        disk: &mut DiskLayers<'_>,
        lsns: Range<Lsn>,
        writer: &mut RunWriter<'_>,
    ) -> Result<(), MergeError> {
        let Some(reach) = disk.reach(&lsns) else { return Ok(()) };
        let (mut at, mut batch, mut held) = (reach.start, Vec::new(), 0);
        while at < reach.end {
            let map = disk.map(&lsns, at, reach.end).await?;
            let window = map.window();
            for run in map.runs(window.clone()) {
                match run.source {
                    None => continue,
                    Some(Source::Zero) if self.bottom => continue,
                    Some(Source::Data { .. }) => held += run.len,
                    Some(_) => {}
                }
                batch.push(run);
                if batch.len() >= BATCH_EXTENTS || held >= BATCH_BYTES {
                    self.flush(disk.disk(), &std::mem::take(&mut batch), writer).await?;
                    held = 0;
                }
            }
            at = window.end;
        }
        self.flush(disk.disk(), &batch, writer).await
    }

    /// Writes extents that follow each other on the disk.
    async fn flush(&self, disk: DiskNo, batch: &[Extent], writer: &mut RunWriter<'_>) -> Result<(), MergeError> {
        let bytes: u64 = batch.iter().filter(|run| !run.is_zero()).map(|run| run.len).sum();
        if !self.merger.pace.go_on(bytes).await {
            return Err(MergeError::Stopped);
        }
        let mut at = 0;
        while at < batch.len() {
            // So many distinct frames as are fetched at once; they stay in hand while they are copied.
            let (mut end, mut wanted) = (at, Vec::new());
            while end < batch.len() {
                if let Some(Source::Data { segment, frame, .. }) = batch[end].source
                    && !wanted.contains(&(segment, frame))
                {
                    if wanted.len() == FRAMES_IN_FLIGHT {
                        break;
                    }
                    wanted.push((segment, frame));
                }
                end += 1;
            }
            let open = self.fetch(&wanted).await?;
            for extent in &batch[at..end] {
                self.put(disk, extent, &open, writer).await?;
            }
            at = end;
        }
        Ok(())
    }

    async fn fetch(&self, wanted: &[(u32, u32)]) -> Result<HashMap<(u32, u32), Arc<OpenFrame>>, MergeError> {
        let fetches = wanted.iter().map(|(segment, frame)| async move {
            let view = &self.views[*segment as usize];
            let weight = view.footer.frames[*frame as usize].plain_bytes as usize;
            let load = self.merger.source.frame(view, *frame);
            self.frames.get_or_load(view.frame_id(*frame), weight, load).await.map(|open| ((*segment, *frame), open))
        });
        let fetched: Vec<Result<_, ReadError>> = stream::iter(fetches).buffered(FRAMES_IN_FLIGHT).collect().await;
        fetched.into_iter().collect::<Result<_, _>>().map_err(MergeError::from)
    }

    async fn put(
        &self,
        disk: DiskNo,
        extent: &Extent,
        open: &HashMap<(u32, u32), Arc<OpenFrame>>,
        writer: &mut RunWriter<'_>,
    ) -> Result<(), MergeError> {
        match extent.source.expect("holes are left out") {
            Source::Data { segment, frame, payload_at } => {
                let (from, len) = (&open[&(segment, frame)], extent.len as usize);
                let bytes = from.bytes(payload_at, len, extent.offset);
                let digests = from.digests(payload_at, len, extent.offset);
                let view = &self.views[segment as usize];
                let wrong = || {
                    let damage = Damage::Index { frame, offset: extent.offset };
                    ReadError::damaged(self.merger.source.name_of(view), damage)
                };
                writer.data(disk, self.lsn, extent.offset, bytes.ok_or_else(wrong)?, digests.as_deref()).await
            }
            fill => {
                let kind = if fill == Source::Zero { WriteKind::Zero } else { WriteKind::Undefined };
                let mut at = extent.offset;
                while at < extent.end() {
                    let len = (extent.end() - at).min(FILL_BYTES_MAX);
                    writer.fill(disk, self.lsn, at, len as u32, kind).await?;
                    at += len;
                }
                Ok(())
            }
        }
    }
}
