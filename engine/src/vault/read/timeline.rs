//! A timeline's log, read: its footers, checked and chained, and the points they tell of.
//!
//! Footers are fetched [`IN_FLIGHT`] at a time, one range read each. The log is readable up to the first object that is
//! missing or damaged: what lies behind it is no point of anything (I6), and no error either, so that all the rest of a
//! damaged vault can still be read. Footers behind the break are opened all the same, for the gaps they tell of.
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
use super::segment_view::{LogSource, SegmentView};
use super::slots::{FilledSlot, Slots, find_new_slots, find_slots};
use crate::ids::{Lsn, MarkId, Slot, TimelineId};
use crate::record::{Record, RecordAt};
use crate::vault::layout::ObjectName;
use crate::vault::segment::{Branch, Control};
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
    segments: Vec<Arc<SegmentView>>,
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
        Self::open_branch(source, timeline, 0).await
    }

    async fn open_branch(source: LogSource, timeline: TimelineId, depth: usize) -> Result<Self, ReadError> {
        let mut reader = Self {
            source,
            timeline,
            segments: Vec::new(),
            chain: Chain::EMPTY,
            history: History::default(),
            late: None,
            lost: Vec::new(),
            broken: None,
            kept_bytes: 0,
        };
        let (machine, store) = (reader.source.machine(), reader.source.store());
        let slots = find_slots(store, machine, timeline, Slot(0)).await.map_err(ReadError::Store)?;
        reader.load(slots, depth).await?;
        Ok(reader)
    }

    /// Reads what was added to the log since, without listing it. After a break it reads from the broken object on.
    pub async fn refresh(&mut self) -> Result<(), ReadError> {
        if self.broken.as_ref().is_some_and(|broken| broken.timeline != self.timeline) {
            *self = Self::open(self.source.clone(), self.timeline).await?;
            return Ok(());
        }
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
            let view = match view {
                Ok(view) => Ok(view),
                Err(ReadError::Damaged { damage, .. }) => Err(damage),
                Err(other) => return Err(other),
            };
            self.take(slot, view, depth).await?;
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
        if self.kept_bytes + view.kept_bytes() > KEPT_PAGE_BYTES {
            view.drop_pages();
        }
        // A parent's records and states are taken once more, by its child.
        if depth == 0 {
            view.forget_log();
        }
        self.kept_bytes += view.kept_bytes();
        self.segments.push(Arc::new(view));
        self.chain = chain;
        Ok(Ok(()))
    }

    /// Puts the parent's log up to the branch in front.
    async fn begin_at(&mut self, branch: Branch, depth: usize) -> Result<Result<(), Damage>, ReadError> {
        if depth >= ANCESTORS_MAX {
            return Ok(Err(Damage::StrayBranch));
        }
        let parent = Box::pin(Self::open_branch(self.source.clone(), branch.timeline, depth + 1)).await?;
        let own = parent.segments.iter().position(|view| view.timeline == branch.timeline && view.slot == branch.slot);
        let Some(end) = own else {
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
        self.adopt(&parent.segments[..=end], branch.lsn);
        Ok(Ok(()))
    }

    /// Takes checked objects of a parent, up to an LSN.
    fn adopt(&mut self, segments: &[Arc<SegmentView>], limit: Lsn) {
        for view in segments {
            let view = match view.footer.last > limit {
                true => Arc::new(view.up_to(limit)),
                false => view.clone(),
            };
            // The parent's reader applied the same records, in the same order.
            let fed = feed(&mut self.history, &view, true);
            assert!(fed.is_ok(), "a checked log stays in order");
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
    let writes: Vec<Lsn> = footer.frames.iter().map(|frame| frame.first).collect();
    let state = (footer.state.last_lsn <= view.limit).then_some(&footer.state);
    history.take(SegmentRecords { place: (view.timeline, view.slot), records, writes: &writes, state, readable })
}
