//! A disk at a position of its log.
//!
//! ```text
//!   read(offset, len) ─► extent map of the window ─► runs ─┬ hole, zero ─► zeroes
//!                                                          └ data ─► frame cache ─► get_range of one item
//!                                                                    seal, digests, place on the disk ─► bytes
//! ```
//!
//! A read gives the bytes that were captured, or an error: a frame that does not open, a piece whose digest does not hold,
//! and an index that points to the wrong place are all errors, never other bytes.
//!
//! What a merge replaces stays for a grace; a volume that outlives it finds an object missing, or one that is damaged and was
//! made again under another name. It reads the timeline again and goes on out of what took its place, or says that its
//! position is no longer retained.
//!
//! Reads that go on where one before ended are taken for a stream, and the frames in front of it are fetched ahead.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::error::{Damage, ReadError};
use super::extent_map::{Extent, ExtentMap, Source};
use super::frame_cache::{FrameCache, OpenFrame};
use super::points::RecoveryPoint;
use super::segment_view::{LogSource, SegmentView};
use super::timeline::TimelineReader;
use super::windows::{MapTarget, Windows};
use crate::ids::{DiskNo, Lsn, TimelineId};
use crate::record::DiskInfo;
use crate::vault::manifest::Run;
use crate::vault::manifest_keeper::read_manifest;

/// Frames that one read fetches at once. Chosen: 8 frames of 512 KiB are in flight, 4 MiB a reader.
const FRAMES_IN_FLIGHT: usize = 8;
/// What is brought near at a time, in bytes of the disk: so often it is said how far it is.
const STRETCH_BYTES: u64 = 16 << 20;
/// Sequential streams that are told apart: nbdcopy opens four connections, qemu-img uses eight coroutines.
const STREAMS: usize = 8;

/// What a volume may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeLimits {
    /// Memory for extent maps, in bytes.
    pub map_bytes_max: usize,
    /// How far a stream is read ahead, in bytes of the disk; 0 for not at all.
    pub read_ahead_bytes: u64,
}

impl Default for VolumeLimits {
    /// 64 MiB of maps (1.2 million extents), 4 MiB ahead.
    fn default() -> Self {
        Self { map_bytes_max: 64 << 20, read_ahead_bytes: 4 << 20 }
    }
}

/// A disk at a position.
#[derive(Debug, Clone)]
pub struct Volume {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    info: DiskInfo,
    timeline: TimelineId,
    state: Mutex<Arc<State>>,
    /// Held while the timeline is read again: once for all reads that met a damaged object.
    reopening: tokio::sync::Mutex<()>,
    frames: Arc<FrameCache>,
    limits: VolumeLimits,
    /// Ends of the newest reads, newest last: where a stream would go on.
    ends: Mutex<Vec<u64>>,
    ahead: Arc<Semaphore>,
}

/// The log as it was when it was read last.
#[derive(Debug)]
struct State {
    windows: Windows,
    /// Which runs it had.
    merged: Vec<Run>,
}

/// Pieces of a read that one frame serves.
type Pieces = Vec<Piece>;

#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    len: usize,
    payload_at: u32,
}

impl Volume {
    /// A disk of a recovery point.
    pub fn of_point(
        reader: &TimelineReader,
        point: &RecoveryPoint,
        disk: DiskNo,
        frames: Arc<FrameCache>,
        limits: VolumeLimits,
    ) -> Result<Self, ReadError> {
        if !point.disks.contains(&disk) {
            return Err(ReadError::NotCovered { disk, lsn: point.lsn });
        }
        Self::at(reader, disk, point.lsn, frames, limits)
    }

    /// A disk at any position: it shows the writes with smaller LSNs. Inside a gap that is no state the disk was ever in.
    pub fn at(
        reader: &TimelineReader,
        disk: DiskNo,
        lsn: Lsn,
        frames: Arc<FrameCache>,
        limits: VolumeLimits,
    ) -> Result<Self, ReadError> {
        let readable = reader.chain().last_lsn;
        if lsn > readable.next() {
            return Err(ReadError::Beyond { machine: reader.source().machine(), lsn, readable });
        }
        let (info, state) = State::at(reader, disk, lsn, limits)?;
        let shared = Shared {
            info,
            timeline: reader.timeline(),
            state: Mutex::new(Arc::new(state)),
            reopening: tokio::sync::Mutex::new(()),
            frames,
            limits,
            ends: Mutex::new(Vec::new()),
            ahead: Arc::new(Semaphore::new(FRAMES_IN_FLIGHT)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The disk as it was there.
    pub fn info(&self) -> &DiskInfo {
        &self.shared.info
    }

    /// The position.
    pub fn lsn(&self) -> Lsn {
        self.shared.state().windows.target().lsn
    }

    /// Memory that extent maps take, in bytes.
    pub fn map_bytes(&self) -> usize {
        self.shared.state().windows.held_bytes()
    }

    fn check(&self, range: &Range<u64>) -> Result<(), ReadError> {
        let size_bytes = self.shared.info.size_bytes;
        match range.start <= range.end && range.end <= size_bytes {
            true => Ok(()),
            false => Err(ReadError::OutOfRange { offset: range.start, end: range.end, size_bytes }),
        }
    }

    /// The map whose window holds `offset`.
    pub async fn map(&self, offset: u64) -> Result<Arc<ExtentMap>, ReadError> {
        self.shared.state().windows.map(offset).await
    }

    /// The same; where an object is missing or damaged, out of what merging put in its place. Its extents name other objects then than
    /// those of maps from before: not for who fetches frames himself.
    pub async fn map_again(&self, offset: u64) -> Result<Arc<ExtentMap>, ReadError> {
        let state = self.shared.state();
        match state.windows.map(offset).await {
            Err(damaged) if is_damaged(&damaged) => {
                self.shared.reopen(&state, damaged).await?.windows.map(offset).await
            }
            made => made,
        }
    }

    /// The same, if it is in memory.
    pub fn map_now(&self, offset: u64) -> Option<Arc<ExtentMap>> {
        self.shared.state().windows.get(offset)
    }

    /// Whether the maps of a range are in memory.
    pub fn has_maps(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.map_now(at) {
                Some(map) => at = map.window().end,
                None => return false,
            }
        }
        true
    }

    /// The runs of a range, holes included, from left to right without a break; at most `max` of them.
    pub async fn runs(&self, range: Range<u64>, max: usize) -> Result<Vec<Extent>, ReadError> {
        self.check(&range)?;
        self.shared.state().runs(range, max).await
    }

    /// The runs of a range if their maps are in memory.
    fn runs_now(&self, state: &State, range: Range<u64>) -> Option<Vec<Extent>> {
        self.check(&range).ok()?;
        let (mut runs, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let map = state.windows.get(at)?;
            let end = range.end.min(map.window().end);
            runs.extend(map.runs(at..end));
            at = end;
        }
        Some(runs)
    }

    /// Fills `out` from `offset` on.
    pub async fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let range = offset..offset.saturating_add(out.len() as u64);
        self.check(&range)?;
        let state = self.shared.state();
        match self.read_from(&state, offset, out).await {
            Err(damaged) if is_damaged(&damaged) => {
                let state = self.shared.reopen(&state, damaged).await?;
                self.read_from(&state, offset, out).await?;
            }
            read => read?,
        }
        self.read_ahead(range);
        Ok(())
    }

    async fn read_from(&self, state: &Arc<State>, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let runs = state.runs(offset..offset + out.len() as u64, usize::MAX).await?;
        let frames = zero_and_group(&runs, offset, out);
        let fetches = frames.into_iter().map(|((segment, frame), pieces)| async move {
            self.shared.frame(state, segment, frame).await.map(|open| (segment, frame, pieces, open))
        });
        let mut fetched = stream::iter(fetches).buffer_unordered(FRAMES_IN_FLIGHT);
        while let Some(frame) = fetched.next().await {
            let (segment, frame, pieces, open) = frame?;
            let copied = copy(&open, &pieces, offset, out);
            copied.map_err(|at| state.wrong_index(segment, frame, at))?;
        }
        Ok(())
    }

    /// Fills `out` if everything it takes is in memory.
    pub fn read_now(&self, offset: u64, out: &mut [u8]) -> bool {
        let range = offset..offset.saturating_add(out.len() as u64);
        let state = self.shared.state();
        let Some(runs) = self.runs_now(&state, range.clone()) else { return false };
        let cached = |((segment, frame), pieces): ((u32, u32), Pieces)| {
            Some((self.shared.frames.get(state.frame_id(segment, frame))?, pieces))
        };
        let frames: Option<Vec<_>> = zero_and_group(&runs, offset, out).into_iter().map(cached).collect();
        let done =
            frames.is_some_and(|frames| frames.iter().all(|(open, pieces)| copy(open, pieces, offset, out).is_ok()));
        if done {
            self.read_ahead(range);
        }
        done
    }

    /// Brings near what a stretch of the disk needs. Gives where the next one begins, or `None` where there is no room for
    /// more. `bytes` grows by what was fetched.
    pub(super) async fn bring_stretch(&self, at: u64, bytes: &AtomicU64) -> Result<Option<u64>, ReadError> {
        let state = self.shared.state();
        match self.bring_from(&state, at, bytes).await {
            Err(damaged) if is_damaged(&damaged) => {
                let state = self.shared.reopen(&state, damaged).await?;
                self.bring_from(&state, at, bytes).await
            }
            brought => brought,
        }
    }

    async fn bring_from(&self, state: &State, at: u64, bytes: &AtomicU64) -> Result<Option<u64>, ReadError> {
        let map = state.windows.map(at).await?;
        let end = map.window().end.min(at.saturating_add(STRETCH_BYTES));
        let mut wanted: Vec<(u32, u32)> = Vec::new();
        let mut seen = HashSet::new();
        for run in map.runs(at..end) {
            if let Some(Source::Data { segment, frame, .. }) = run.source
                && seen.insert((segment, frame))
            {
                wanted.push((segment, frame));
            }
        }
        let brought = wanted.into_iter().map(|(segment, frame)| self.shared.bring(state, segment, frame, bytes));
        let mut brought = stream::iter(brought).buffer_unordered(FRAMES_IN_FLIGHT);
        let mut full = false;
        // To the end: a frame that is being put near would otherwise arrive when the folder may be another's.
        while let Some(there_was_room) = brought.next().await {
            full |= !there_was_room?;
        }
        Ok((!full).then_some(end))
    }

    /// Notes where a read ended; where it went on from another's end, fetches what lies ahead of it.
    fn read_ahead(&self, range: Range<u64>) {
        let streams = {
            let mut ends = self.shared.ends.lock();
            let known = ends.iter().position(|end| *end == range.start);
            if let Some(at) = known {
                ends.remove(at);
            } else if ends.len() >= STREAMS {
                ends.remove(0);
            }
            ends.push(range.end);
            known.is_some()
        };
        let end = range.end.saturating_add(self.shared.limits.read_ahead_bytes).min(self.shared.info.size_bytes);
        if !streams || range.end >= end {
            return;
        }
        // Only what the map in memory tells: a stream that enters another window makes its map with its next read.
        let state = self.shared.state();
        let Some(map) = state.windows.get(range.end) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        for run in map.runs(range.end..end.min(map.window().end)) {
            let Some(Source::Data { segment, frame, .. }) = run.source else { continue };
            if self.shared.frames.knows(state.frame_id(segment, frame)) {
                continue;
            }
            let Ok(permit) = self.shared.ahead.clone().try_acquire_owned() else { return };
            let (shared, state) = (self.shared.clone(), state.clone());
            runtime.spawn(async move {
                // A failure is the reader's to meet, when it gets there.
                let _ = shared.frame(&state, segment, frame).await;
                drop(permit);
            });
        }
    }
}

impl Shared {
    fn state(&self) -> Arc<State> {
        self.state.lock().clone()
    }

    /// Reads the timeline again after `state` met an object that is missing or damaged. Where nothing was merged since, that
    /// stays the error.
    async fn reopen(&self, state: &Arc<State>, damaged: ReadError) -> Result<Arc<State>, ReadError> {
        let _once = self.reopening.lock().await;
        let known = self.state();
        if !Arc::ptr_eq(&known, state) {
            return Ok(known);
        }
        let target = state.windows.target();
        let source = &target.view.source;
        let manifest = read_manifest(source, self.timeline).await?;
        if manifest.is_none_or(|(manifest, _)| manifest.runs == state.merged) {
            return Err(damaged);
        }
        let reader = TimelineReader::open(source.clone(), self.timeline).await?;
        let (_, fresh) = State::at(&reader, target.disk, target.lsn, self.limits)?;
        let fresh = Arc::new(fresh);
        *self.state.lock() = fresh.clone();
        Ok(fresh)
    }

    async fn frame(&self, state: &State, segment: u32, frame: u32) -> Result<Arc<OpenFrame>, ReadError> {
        let view = &state.windows.target().view;
        let place = &view.segments[segment as usize];
        let weight_bytes = place.footer.frames[frame as usize].plain_bytes as usize;
        self.frames.get_or_load(place.frame_id(frame), weight_bytes, self.load(&view.source, place, frame)).await
    }

    /// A frame from near, or from the vault; then it is near.
    async fn load(&self, source: &LogSource, place: &SegmentView, frame: u32) -> Result<OpenFrame, ReadError> {
        let Some(near) = self.frames.near() else { return source.frame(place, frame).await };
        let id = place.frame_id(frame);
        if let Some(item) = near.get(id).await {
            if let Ok(open) = source.open_frame(place, frame, &item) {
                return Ok(open);
            }
            near.forget(id).await;
        }
        let (open, item) = source.frame_with_item(place, frame).await?;
        near.put(id, &item).await;
        Ok(open)
    }

    /// Brings a frame near that is not; false where there is no room for it. `bytes` grows by what was fetched.
    async fn bring(&self, state: &State, segment: u32, frame: u32, bytes: &AtomicU64) -> Result<bool, ReadError> {
        let view = &state.windows.target().view;
        let place = &view.segments[segment as usize];
        let (id, size) = (place.frame_id(frame), place.footer.frames[frame as usize].item_bytes());
        let near = self.frames.near().expect("only who has a folder brings anything near");
        if near.knows(id) {
            return Ok(true);
        }
        if !near.has_room(size) {
            return Ok(false);
        }
        let (_, item) = view.source.frame_with_item(place, frame).await?;
        near.put(id, &item).await;
        bytes.fetch_add(size, Relaxed);
        Ok(true)
    }
}

impl State {
    fn at(
        reader: &TimelineReader,
        disk: DiskNo,
        lsn: Lsn,
        limits: VolumeLimits,
    ) -> Result<(DiskInfo, Self), ReadError> {
        if !reader.retains(lsn) {
            return Err(ReadError::NotRetained { machine: reader.source().machine(), lsn });
        }
        let history = reader.history();
        let info = history.disk_at(disk, lsn).ok_or(ReadError::NotCovered { disk, lsn })?;
        let (view, size_bytes, sizes) = (reader.view(), info.size_bytes, history.sizes(disk).to_vec());
        let target = MapTarget { view, disk, lsn, size_bytes, sizes };
        let merged = reader.manifest().map_or(Vec::new(), |manifest| manifest.runs.clone());
        Ok((info, Self { windows: Windows::new(target, limits.map_bytes_max), merged }))
    }

    async fn runs(&self, range: Range<u64>, max: usize) -> Result<Vec<Extent>, ReadError> {
        let (mut runs, mut at) = (Vec::new(), range.start);
        while at < range.end && runs.len() < max {
            let map = self.windows.map(at).await?;
            let end = range.end.min(map.window().end);
            runs.extend(map.runs(at..end).take(max - runs.len()));
            at = end;
        }
        Ok(runs)
    }

    fn frame_id(&self, segment: u32, frame: u32) -> super::frame_cache::FrameId {
        self.windows.target().view.segments[segment as usize].frame_id(frame)
    }

    fn wrong_index(&self, segment: u32, frame: u32, offset: u64) -> ReadError {
        let view = &self.windows.target().view;
        let place = &view.segments[segment as usize];
        ReadError::damaged(view.source.name_of(place), Damage::Index { frame, offset })
    }
}

fn is_damaged(error: &ReadError) -> bool {
    matches!(error, ReadError::Damaged { .. })
}

/// Fills what needs no frame, and gathers the rest by segment and frame.
fn zero_and_group(runs: &[Extent], offset: u64, out: &mut [u8]) -> HashMap<(u32, u32), Pieces> {
    let mut frames: HashMap<(u32, u32), Pieces> = HashMap::new();
    for run in runs {
        let len = run.len as usize;
        match run.source {
            Some(Source::Data { segment, frame, payload_at }) => {
                frames.entry((segment, frame)).or_default().push(Piece { offset: run.offset, len, payload_at });
            }
            _ => out[(run.offset - offset) as usize..][..len].fill(0),
        }
    }
    frames
}

/// Copies a frame's pieces to their places; the place on the disk that the frame does not hold, otherwise.
fn copy(open: &OpenFrame, pieces: &Pieces, offset: u64, out: &mut [u8]) -> Result<(), u64> {
    for piece in pieces {
        let bytes = open.bytes(piece.payload_at, piece.len, piece.offset).ok_or(piece.offset)?;
        out[(piece.offset - offset) as usize..][..piece.len].copy_from_slice(bytes);
    }
    Ok(())
}
