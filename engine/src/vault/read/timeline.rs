//! A timeline's log, read: its footers, checked and chained, and the points they tell of.
//!
//! Footers are fetched [`IN_FLIGHT`] at a time, one range read each. The log is readable up to the first object that is
//! missing or damaged: what lies behind it is no point of anything (I6), and no error either, so that all the rest of a
//! damaged vault can still be read. Footers behind the break are opened all the same, for the gaps they tell of.
//!
//! What was merged is read first: the runs that the manifest names, then the live segments from its floor on. Inside a run
//! only the positions that it kept can be read. A reader that was opened before a merge reads on while the objects it knows
//! are there; [`TimelineReader::refresh`] takes up what the manifest says since.
//!
//! A child timeline begins with its parent's objects, up to the branch:
//!
//! ```text
//!   parent   0 ── 1 ── 2 ── 3 ── 4        segments of the child:
//!                      └ lsn 57           parent/0, parent/1, parent/2 up to LSN 57, child/0 (branch), child/1 ...
//!   child              0 ── 1 ── 2
//! ```

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::chain::Chain;
use super::error::{Damage, ReadError};
use super::points::{History, RecoveryPoint, SegmentRecords};
use super::runs::{ReadableRun, open_run};
use super::segment_view::{LogSource, ObjectPlace, SegmentView};
use super::slots::{FilledSlot, Slots, find_new_slots, find_slots};
use crate::ids::{Lsn, MarkId, RunId, Slot, TimelineId};
use crate::record::{Record, RecordAt};
use crate::vault::layout::ObjectName;
use crate::vault::manifest::{Manifest, Run};
use crate::vault::manifest_keeper::read_manifest;
use crate::vault::segment::{Boundary, Branch, Control};
use crate::vault::state::{DiskState, LogState, StateError};

/// Store calls at once. Chosen: 1,000 footers at 20 ms take 1.3 s; more wins little and is what stores throttle.
pub const IN_FLIGHT: usize = 16;
/// Index pages kept, sealed, by one reader, in bytes. Chosen: the pages of 3 million random writes.
const KEPT_PAGE_BYTES: usize = 32 << 20;
/// How deep timelines may branch from each other.
const ANCESTORS_MAX: usize = 64;

/// The first object of a log that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its slot.
    pub slot: Slot,
    /// The object.
    pub object: ObjectName,
    /// What is wrong with it.
    pub damage: Damage,
}

/// A readable log, frozen: what a volume reads from, while its timeline goes on.
#[derive(Debug, Clone)]
pub struct LogView {
    /// Store and keys.
    pub source: LogSource,
    /// The log's objects, the parents' first.
    pub segments: Vec<Arc<SegmentView>>,
}

/// A piece of what a run was merged from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A run that was live before.
    Run(Run),
    /// The log objects of these slots, both included.
    Slots(Slot, Slot),
}

/// What is read in the place of a run: the pieces that it was merged from, in order.
#[derive(Debug, Clone, Copy)]
pub struct Instead<'a> {
    /// The run.
    pub run: RunId,
    /// Its pieces; side by side they stand for what the run does.
    pub pieces: &'a [Piece],
}

/// Some points, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointPage {
    /// The points.
    pub points: Vec<RecoveryPoint>,
    /// Where the next page begins: pass it as `before`. `None` where there is no more.
    pub next: Option<Lsn>,
}

/// Reads one timeline of one machine.
#[derive(Debug, Clone)]
pub struct TimelineReader {
    source: LogSource,
    timeline: TimelineId,
    /// What the manifest says; `None` where there is none, or none that can be read.
    manifest: Option<Manifest>,
    runs: Vec<ReadableRun>,
    segments: Vec<Arc<SegmentView>>,
    /// Records and states of footers are kept: whoever merges needs them.
    keeps_log: bool,
    chain: Chain,
    history: History,
    /// The history with what footers behind a break tell of gaps.
    late: Option<History>,
    /// Points behind the break, as far as footers there name them.
    lost: Vec<RecoveryPoint>,
    broken: Option<Break>,
    kept_bytes: usize,
}

impl TimelineReader {
    /// Reads the log of `timeline`, and of those it branched from.
    pub async fn open(source: LogSource, timeline: TimelineId) -> Result<Self, ReadError> {
        Self::open_branch(source, timeline, 0, false, None).await
    }

    /// The same, with the records and states of all footers kept: for merging.
    pub async fn open_with_log(source: LogSource, timeline: TimelineId) -> Result<Self, ReadError> {
        Self::open_branch(source, timeline, 0, true, None).await
    }

    /// The same, with what a run was merged from read in its place.
    pub async fn open_instead(
        source: LogSource,
        timeline: TimelineId,
        instead: Instead<'_>,
    ) -> Result<Self, ReadError> {
        Self::open_branch(source, timeline, 0, true, Some(instead)).await
    }

    async fn open_branch(
        source: LogSource,
        timeline: TimelineId,
        depth: usize,
        keeps_log: bool,
        instead: Option<Instead<'_>>,
    ) -> Result<Self, ReadError> {
        let manifest = match read_manifest(&source, timeline).await {
            Ok(found) => found.map(|(manifest, _)| manifest),
            // Without it the log can still be read as far as its first segments are there; verify names the damage.
            Err(ReadError::Damaged { .. }) => None,
            Err(other) => return Err(other),
        };
        let mut reader = Self {
            source,
            timeline,
            manifest,
            runs: Vec::new(),
            segments: Vec::new(),
            keeps_log,
            chain: Chain::EMPTY,
            history: History::default(),
            late: None,
            lost: Vec::new(),
            broken: None,
            kept_bytes: 0,
        };
        reader.load_runs(depth, instead).await?;
        let (machine, store) = (reader.source.machine(), reader.source.store());
        let slots = find_slots(store, machine, timeline, reader.floor()).await.map_err(ReadError::Store)?;
        reader.load(slots, depth).await?;
        Ok(reader)
    }

    /// Takes the runs that the manifest names; before them the branch, which stays a log object of its own.
    async fn load_runs(&mut self, depth: usize, instead: Option<Instead<'_>>) -> Result<(), ReadError> {
        let runs = self.merged().to_vec();
        if runs.first().is_some_and(|run| run.from > Slot(0)) {
            self.load_slots(Slot(0), Slot(0), depth).await?;
        }
        for run in runs {
            let pieces = match instead {
                Some(instead) if instead.run == run.id => instead.pieces.to_vec(),
                _ => vec![Piece::Run(run)],
            };
            for piece in &pieces {
                match piece {
                    _ if self.broken.is_some() => return Ok(()),
                    Piece::Run(run) => self.load_run(run).await?,
                    Piece::Slots(from, to) => self.load_slots(*from, *to, depth).await?,
                }
            }
        }
        Ok(())
    }

    async fn load_run(&mut self, run: &Run) -> Result<(), ReadError> {
        let taken = match open_run(&self.source, self.timeline, run, KEPT_PAGE_BYTES / IN_FLIGHT).await {
            Ok(parts) => self
                .take_run(run, parts)
                .map_err(|damage| (ObjectPlace::Run(run.id, 0).name(self.source.machine(), self.timeline), damage)),
            Err(ReadError::Damaged { object, damage }) => Err((object, damage)),
            Err(other) => return Err(other),
        };
        if let Err((object, damage)) = taken {
            self.broken = Some(Break { timeline: self.timeline, slot: run.from, object, damage });
        }
        Ok(())
    }

    /// Takes the log objects of slots that are known to be filled.
    async fn load_slots(&mut self, from: Slot, to: Slot, depth: usize) -> Result<(), ReadError> {
        let (source, timeline) = (self.source.clone(), self.timeline);
        let opens = (from.0..=to.0).map(Slot).map(|slot| {
            let source = source.clone();
            async move {
                let name = source.name(timeline, slot);
                let opened = match source.store().head(&name).await.map_err(|error| ReadError::store(&name, error)) {
                    Ok(meta) => source.open(timeline, FilledSlot { slot, bytes: meta.bytes }, 0).await,
                    Err(error) => Err(error),
                };
                (slot, opened)
            }
        });
        let mut opened = stream::iter(opens).buffered(IN_FLIGHT);
        while let Some((slot, view)) = opened.next().await {
            self.take(slot, damage_apart(view)?, depth).await?;
        }
        Ok(())
    }

    fn take_run(&mut self, run: &Run, parts: Vec<SegmentView>) -> Result<(), Damage> {
        let first_part = &parts.first().expect("an open run has parts").footer;
        let mut chain = self.chain;
        chain.follow_run(first_part)?;
        feed(&mut self.history, &parts[0], true).map_err(Damage::Order)?;
        self.chain = chain;
        self.runs.push(ReadableRun {
            timeline: self.timeline,
            id: run.id,
            slots: (run.from, run.to),
            first: run.first,
            last: run.last,
            boundaries: boundaries(&parts[0]).into(),
            bytes: run.bytes,
        });
        for mut view in parts {
            self.keep_pages(&mut view);
            if !self.keeps_log {
                view.forget_log();
            }
            self.segments.push(Arc::new(view));
        }
        Ok(())
    }

    /// Keeps an object's index pages while there is room for them.
    fn keep_pages(&mut self, view: &mut SegmentView) {
        if self.kept_bytes + view.kept_bytes() > KEPT_PAGE_BYTES {
            view.drop_pages();
        }
        self.kept_bytes += view.kept_bytes();
    }

    /// Reads what was added to the log since, without listing it. After a break it reads from the broken object on.
    pub async fn refresh(&mut self) -> Result<(), ReadError> {
        let now = match read_manifest(&self.source, self.timeline).await {
            Ok(found) => found.map(|(manifest, _)| manifest),
            Err(ReadError::Damaged { .. }) => None,
            Err(other) => return Err(other),
        };
        let merged = now.as_ref().map_or(&[][..], |manifest| &manifest.runs) != self.merged();
        let early = |broken: &Break| broken.timeline != self.timeline || broken.slot < self.floor();
        if merged || self.broken.as_ref().is_some_and(early) {
            *self = Self::open_branch(self.source.clone(), self.timeline, 0, self.keeps_log, None).await?;
            return Ok(());
        }
        self.manifest = now;
        let (machine, store, next) = (self.source.machine(), self.source.store(), self.chain.next);
        let slots = match self.broken.is_some() {
            true => find_slots(store, machine, self.timeline, next).await,
            false => find_new_slots(store, machine, self.timeline, next).await,
        };
        let slots = slots.map_err(ReadError::Store)?;
        let before = (self.broken.take(), self.late.take(), std::mem::take(&mut self.lost));
        let loaded = self.load(slots, 0).await;
        if loaded.is_err() && self.broken.is_none() {
            // The store went away before the break was looked at again: it is taken to be there still.
            (self.broken, self.late, self.lost) = before;
        }
        loaded
    }

    async fn load(&mut self, slots: Slots, depth: usize) -> Result<(), ReadError> {
        let mut missing = slots.missing.into_iter().peekable();
        let (source, timeline) = (self.source.clone(), self.timeline);
        let keep = KEPT_PAGE_BYTES / IN_FLIGHT;
        let fetches = slots.filled.into_iter().map(|filled: FilledSlot| {
            let source = source.clone();
            async move { (filled.slot, source.open(timeline, filled, keep).await) }
        });
        let mut opened = stream::iter(fetches).buffered(IN_FLIGHT);
        while let Some((slot, view)) = opened.next().await {
            while let Some(gone) = missing.next_if(|gone| *gone < slot) {
                self.take(gone, Err(Damage::Missing), depth).await?;
            }
            self.take(slot, damage_apart(view)?, depth).await?;
        }
        Ok(())
    }

    async fn take(&mut self, slot: Slot, view: Result<SegmentView, Damage>, depth: usize) -> Result<(), ReadError> {
        if self.broken.is_some() {
            if let Ok(view) = view {
                self.take_late(&view);
            }
            return Ok(());
        }
        let taken = match view {
            Ok(view) => self.take_next(view, depth).await?,
            Err(damage) => Err(damage),
        };
        if let Err(damage) = taken {
            // A parent that is broken before the branch has said so already.
            self.broken.get_or_insert_with(|| Break {
                timeline: self.timeline,
                slot,
                object: self.source.name(self.timeline, slot),
                damage,
            });
        }
        Ok(())
    }

    async fn take_next(&mut self, mut view: SegmentView, depth: usize) -> Result<Result<(), Damage>, ReadError> {
        let mut chain = self.chain;
        if let Err(damage) = chain.follow(&view.footer) {
            return Ok(Err(damage));
        }
        if let Some(Control::Branch(branch)) = view.footer.control
            && let Err(damage) = self.begin_at(branch, depth).await?
        {
            return Ok(Err(damage));
        }
        if let Err(error) = feed(&mut self.history, &view, true) {
            return Ok(Err(Damage::Order(error)));
        }
        self.keep_pages(&mut view);
        if !self.keeps_log {
            view.forget_log();
        }
        self.segments.push(Arc::new(view));
        self.chain = chain;
        Ok(Ok(()))
    }

    /// Puts the parent's log up to the branch in front.
    async fn begin_at(&mut self, branch: Branch, depth: usize) -> Result<Result<(), Damage>, ReadError> {
        if depth >= ANCESTORS_MAX {
            return Ok(Err(Damage::StrayBranch));
        }
        // A parent's records and states are taken once more, by its child.
        let parent = Box::pin(Self::open_branch(self.source.clone(), branch.timeline, depth + 1, true, None)).await?;
        if let Some((end, footer)) = parent.merged_end(&branch) {
            if footer != branch.footer {
                return Ok(Err(Damage::Parent { parent: branch.timeline, slot: branch.slot }));
            }
            self.runs = parent.runs.iter().take_while(|run| run.first <= branch.lsn).cloned().collect();
            self.runs.iter_mut().for_each(|run| run.last = run.last.min(branch.lsn));
            self.adopt(&parent.segments[..=end], branch.lsn);
            return Ok(Ok(()));
        }
        let own =
            |view: &Arc<SegmentView>| view.timeline == branch.timeline && view.place == ObjectPlace::Slot(branch.slot);
        let Some(end) = parent.segments.iter().position(own) else {
            // The parent is broken, or too short: either way the object that the branch names is not readable.
            let broken = parent.broken.unwrap_or_else(|| Break {
                timeline: branch.timeline,
                slot: branch.slot,
                object: self.source.name(branch.timeline, branch.slot),
                damage: Damage::Missing,
            });
            self.adopt(&parent.segments, Lsn(u64::MAX));
            self.broken = Some(broken);
            return Ok(Err(Damage::Missing));
        };
        if parent.segments[end].footer.digest != branch.footer {
            return Ok(Err(Damage::Parent { parent: branch.timeline, slot: branch.slot }));
        }
        self.runs = parent.runs.clone();
        self.adopt(&parent.segments[..=end], branch.lsn);
        Ok(Ok(()))
    }

    /// Where the position that a branch names lies in one of this timeline's runs: the place of the run's last part, and the
    /// footer that the position's slot had.
    fn merged_end(&self, branch: &Branch) -> Option<(usize, crate::vault::segment::FooterDigest)> {
        let run = self
            .runs
            .iter()
            .find(|run| run.timeline == branch.timeline && run.slots.0 <= branch.slot && branch.slot <= run.slots.1)?;
        let footer = run.boundary(branch.lsn).filter(|found| found.slot == branch.slot)?.footer;
        let last =
            self.segments.iter().rposition(|view| matches!(view.place, ObjectPlace::Run(id, _) if id == run.id))?;
        Some((last, footer))
    }

    /// Takes checked objects of a parent, up to an LSN.
    fn adopt(&mut self, segments: &[Arc<SegmentView>], limit: Lsn) {
        for view in segments {
            let view = match view.footer.last > limit {
                true => Arc::new(view.up_to(limit)),
                false => view.clone(),
            };
            // The parent's reader applied the same records, in the same order. Only the first part of a run has any.
            if !matches!(view.place, ObjectPlace::Run(_, 1..)) {
                let fed = feed(&mut self.history, &view, true);
                assert!(fed.is_ok(), "a checked log stays in order");
            }
            let view = match self.keeps_log {
                true => view,
                false => Arc::new(SegmentView::clone(&view).without_log()),
            };
            self.kept_bytes += view.kept_bytes();
            self.segments.push(view);
        }
    }

    /// Takes what a footer behind a break tells: of gaps, and of points that are lost.
    fn take_late(&mut self, view: &SegmentView) {
        let late = self.late.get_or_insert_with(|| self.history.clone());
        // Records may not follow here: the state at the footer's end counts in any case.
        if feed(late, view, false).is_err() {
            late.jump(&view.footer.state);
        }
        let place = (view.timeline, view.slot);
        let lost = view.footer.records.iter().filter_map(|at| lost_point(place, at, &view.footer.state));
        self.lost.extend(lost);
    }

    fn told(&self) -> &History {
        self.late.as_ref().unwrap_or(&self.history)
    }

    /// The timeline.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// What the manifest says; `None` where there is none.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Whether it kept the records and states of all footers.
    pub fn keeps_log(&self) -> bool {
        self.keeps_log
    }

    /// The first slot that counts by itself.
    pub fn floor(&self) -> Slot {
        self.manifest.as_ref().map_or(Slot(0), |manifest| manifest.floor)
    }

    fn merged(&self) -> &[Run] {
        self.manifest.as_ref().map_or(&[], |manifest| &manifest.runs)
    }

    /// The runs, those of parents first.
    pub fn runs(&self) -> &[ReadableRun] {
        &self.runs
    }

    /// Whether a position can be read: merging has not dropped it.
    pub fn retains(&self, lsn: Lsn) -> bool {
        !self.runs.iter().any(|run| run.has_dropped(lsn))
    }

    /// Store and keys.
    pub fn source(&self) -> &LogSource {
        &self.source
    }

    /// The first object that cannot be read, if any.
    pub fn broken(&self) -> Option<&Break> {
        self.broken.as_ref()
    }

    /// What the readable log says at its end.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The readable log's end.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The readable objects, those of parents first.
    pub fn segments(&self) -> &[Arc<SegmentView>] {
        &self.segments
    }

    /// The readable log as it is now.
    pub fn view(&self) -> Arc<LogView> {
        Arc::new(LogView { source: self.source.clone(), segments: self.segments.clone() })
    }

    /// Every point, oldest first.
    pub fn points(&self) -> Vec<RecoveryPoint> {
        self.told().points().collect()
    }

    /// The points behind a break, as far as footers that can be opened name them, oldest first. None of them can be read.
    /// What happened to their disks before is not known: a disk counts unless it has a gap at its footer's end.
    pub fn lost_points(&self) -> &[RecoveryPoint] {
        &self.lost
    }

    /// Up to `limit` points before `before` (a page's `next`), newest first.
    pub fn page(&self, before: Option<Lsn>, limit: usize) -> PointPage {
        let mut points: Vec<_> = self.told().newest(before).take(limit.saturating_add(1)).collect();
        let more = points.len() > limit;
        points.truncate(limit);
        let next = points.last().filter(|_| more).map(|point| point.lsn);
        PointPage { points, next }
    }

    /// The newest point that `wanted` agrees to.
    pub fn find(&self, wanted: impl Fn(&RecoveryPoint) -> bool) -> Option<RecoveryPoint> {
        self.told().newest(None).find(wanted)
    }

    /// The newest point.
    pub fn newest(&self) -> Option<RecoveryPoint> {
        self.told().newest(None).next()
    }

    /// The point with this id.
    pub fn point(&self, id: MarkId) -> Option<RecoveryPoint> {
        self.told().newest(None).find(|point| point.id == id)
    }
}

/// Tells what an object shows from a store that does not answer.
fn damage_apart(opened: Result<SegmentView, ReadError>) -> Result<Result<SegmentView, Damage>, ReadError> {
    match opened {
        Ok(view) => Ok(Ok(view)),
        Err(ReadError::Damaged { damage, .. }) => Ok(Err(damage)),
        Err(other) => Err(other),
    }
}

fn boundaries(view: &SegmentView) -> Vec<Boundary> {
    view.footer.run.as_ref().map_or(Vec::new(), |head| head.boundaries.clone())
}

/// A mark behind a break as the point it would be.
fn lost_point((timeline, slot): (TimelineId, Slot), at: &RecordAt, state: &LogState) -> Option<RecoveryPoint> {
    let Record::Mark(mark) = &at.record else { return None };
    let in_order = |disk: &&DiskState| disk.gap.is_none_or(|gap| gap.from >= at.lsn);
    let disks: Vec<_> = state.disks.values().filter(in_order).map(|disk| disk.info.disk).collect();
    (!disks.is_empty()).then(|| RecoveryPoint {
        id: mark.id,
        lsn: at.lsn,
        kind: mark.kind,
        captured_at: mark.captured_at,
        disks,
        in_gap: Vec::new(),
        members: mark.members.clone(),
        label: mark.label.clone(),
        timeline,
        slot,
    })
}

/// Tells a history what a segment says.
fn feed(history: &mut History, view: &SegmentView, readable: bool) -> Result<(), StateError> {
    let footer = &view.footer;
    let records = &footer.records[..footer.records.partition_point(|at| at.lsn <= view.limit)];
    // Of a run, the records alone tell what matters: see `merge::records`.
    let writes: Vec<Lsn> = match footer.run {
        Some(_) => Vec::new(),
        None => footer.frames.iter().map(|frame| frame.first).collect(),
    };
    let boundaries = footer.run.as_ref().map_or(&[][..], |head| &head.boundaries);
    let state = (footer.state.last_lsn <= view.limit).then_some(&footer.state);
    let place = (view.timeline, view.slot);
    history.take(SegmentRecords { place, boundaries, records, writes: &writes, state, readable })
}
