//! A point's disks as files of any [`Format`]: plan, show, perform; or brought onto old copies of the disks.
//!
//! Each frame that the point needs is fetched once, whatever order its writes have on the disk, many at a time; holes and
//! zeroes stay holes of the file.
//!
//! Crash story: everything is written to hidden files beside the targets, synced, and renamed only when all disks are
//! whole. A restore that dies leaves such files and no target; the next one of the same point goes on with them (see
//! `target`).

mod in_place;
mod target;
mod to_pages;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt};

use super::error::{Damage, ReadError};
use super::extent_map::{ExtentMap, Source};
use super::frame_cache::FrameCache;
use super::points::RecoveryPoint;
use super::timeline::{LogView, TimelineReader};
use super::volume::{Volume, VolumeLimits};
use crate::ids::DiskNo;
use crate::record::DiskInfo;
use crate::vault::export::{Allocated, Format, Layout, Stamp, TooLarge};
use crate::vault::store::StoreError;
use target::{Identity, Partial};

/// Frames on their way at once. Chosen: keeps two cores and a store with 20 ms of latency busy, in 16 MiB.
const FRAMES_IN_FLIGHT: usize = 16;
/// Data after which an interrupted restore can go on. Chosen: a sync this often costs nothing, and less is soon done again.
const NOTE_EVERY_BYTES: u64 = 256 << 20;
/// Data of one disk that is taken in one go; frames at the borders are fetched twice.
const STRETCH_BYTES: u64 = 1 << 30;

/// Why a point was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The vault could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file system refused.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// Verb.
        doing: &'static str,
        /// What was being done it to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something is there already.
    #[error("{} exists and is not empty: move it away, restore elsewhere, or say --force to replace it", .0.display())]
    Exists(PathBuf),
    /// A blob is there already.
    #[error("{0} is there already: name another, or say --force to replace it")]
    TargetExists(String),
    /// The target does not take it.
    #[error(transparent)]
    Target(#[from] StoreError),
    /// Not enough room.
    #[error("{} has {available} bytes of room and the point needs {needed}: free some, or restore elsewhere", dir.display())]
    NoRoom {
        /// The target directory.
        dir: PathBuf,
        /// Bytes of data that the files will hold.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The format cannot hold the disk.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// An old copy that has no room for the disk.
    #[error("{} has {available} bytes and the disk has {needed}: give a larger one", path.display())]
    TooSmall {
        /// The copy.
        path: PathBuf,
        /// Its size.
        available: u64,
        /// The disk's.
        needed: u64,
    },
    /// Another restore is at work there.
    #[error("{} is being written by another restore: wait for it, or restore elsewhere", .0.display())]
    Busy(PathBuf),
    /// A worker died.
    #[error("restoring stopped: {0}")]
    Stopped(String),
}

/// What a restore would do to one disk.
#[derive(Debug, Clone)]
pub struct DiskPlan {
    /// The disk, as it was at the point.
    pub disk: DiskInfo,
    /// The file it will be.
    pub target: PathBuf,
    /// Bytes of data in it; the rest are holes.
    pub data_bytes: u64,
    /// Size of the file.
    pub file_bytes: u64,
    layout: Arc<Layout>,
    volume: Volume,
}

/// What a restore would do.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// The point.
    pub point: RecoveryPoint,
    /// Its disks.
    pub disks: Vec<DiskPlan>,
    /// What the files will be.
    pub format: Format,
    dir: PathBuf,
    view: Arc<LogView>,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of data written.
    pub bytes_done: u64,
    /// Bytes of data there are.
    pub bytes_total: u64,
}

/// A name made safe for a file: letters, digits, dots, dashes and underscores stay, everything else becomes an
/// underscore; never hidden, never empty, at most 100 characters.
pub fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let mut out: String = name.chars().take(100).map(safe).collect();
    while out.len() > 200 {
        out.pop();
    }
    if out.starts_with(['.', '-']) || out.is_empty() {
        out.insert(0, '_');
    }
    out
}

/// Makes the plan for raw files: which, how much data.
pub async fn plan(
    reader: &TimelineReader,
    point: RecoveryPoint,
    disks: &[DiskNo],
    dir: &Path,
) -> Result<RestorePlan, RestoreError> {
    plan_as(reader, point, disks, dir, Format::Raw).await
}

/// Makes the plan for files of a format.
pub async fn plan_as(
    reader: &TimelineReader,
    point: RecoveryPoint,
    disks: &[DiskNo],
    dir: &Path,
    format: Format,
) -> Result<RestorePlan, RestoreError> {
    // Frames are fetched once each, without the cache; limits bound the maps.
    let frames = Arc::new(FrameCache::new(0));
    let limits = VolumeLimits { read_ahead_bytes: 0, ..VolumeLimits::default() };
    let mut plans: Vec<DiskPlan> = Vec::new();
    for disk in disks {
        let volume = Volume::of_point(reader, &point, *disk, frames.clone(), limits)?;
        let info = volume.info().clone();
        let mut target = dir.join(format!("{}.{}", file_name(&info.name), format.extension()));
        if plans.iter().any(|other| other.target == target) {
            target = dir.join(format!("{}-{disk}.{}", file_name(&info.name), format.extension()));
        }
        let mut allocated = Allocated::new(info.size_bytes, format.block_bytes());
        let (mut data_bytes, mut at) = (0, 0);
        while at < info.size_bytes {
            let map = volume.map(at).await?;
            // A window may begin before the place that it was made for.
            for run in map.runs(at..map.window().end).filter(|run| !run.is_zero()) {
                data_bytes += run.len;
                allocated.add(run.offset..run.offset + run.len);
            }
            at = map.window().end;
        }
        let layout = Layout::new(format, info.size_bytes, allocated, stamp(&point, *disk))?;
        let (file_bytes, layout) = (layout.file_bytes(), Arc::new(layout));
        plans.push(DiskPlan { disk: info, target, data_bytes, file_bytes, layout, volume });
    }
    Ok(RestorePlan { point, disks: plans, format, dir: dir.to_owned(), view: reader.view() })
}

/// The same for the same point and disk, so that an export can be gone on with.
fn stamp(point: &RecoveryPoint, disk: DiskNo) -> Stamp {
    let mut hash = blake3::Hasher::new();
    hash.update(&point.id.0).update(&disk.0.to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    Stamp { unix_seconds: point.captured_at.0 / 1_000_000, id }
}

impl RestorePlan {
    /// Bytes of data of all disks.
    pub fn data_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.data_bytes).sum()
    }

    /// Writes the files. `force` replaces targets that are not empty.
    pub async fn perform(&self, force: bool, progress: &(dyn Fn(Progress) + Sync)) -> Result<(), RestoreError> {
        fs::create_dir_all(&self.dir).map_err(|source| failed("create", &self.dir, source))?;
        for disk in &self.disks {
            check_target(&disk.target, force)?;
        }
        self.check_room()?;
        let report = self.reporter(progress);
        let mut files = Vec::new();
        for disk in &self.disks {
            let mut file = Partial::open(&disk.target, self.identity(disk))?;
            self.write_disk(disk, &mut file, &report).await?;
            for (at, bytes) in disk.layout.metadata() {
                file.write(at, &bytes)?;
            }
            files.push(file);
        }
        for file in &files {
            file.file.sync_all().map_err(|source| failed("sync", &file.path, source))?;
        }
        for file in files {
            // Again: a target may have come to be in the meantime.
            check_target(&file.target, force)?;
            file.finish()?;
        }
        let sync = File::open(&self.dir).and_then(|dir| dir.sync_all());
        sync.map_err(|source| failed("sync", &self.dir, source))
    }

    /// Brings the plan's only disk onto an old copy of it, a raw file or a block device: only what differs is written.
    /// Gives the bytes that were.
    ///
    /// # Panics
    /// With a plan of several disks, or of another format than raw.
    pub async fn bring_onto(&self, copy: &Path, progress: &(dyn Fn(Progress) + Sync)) -> Result<u64, RestoreError> {
        assert!(self.disks.len() == 1 && self.format == Format::Raw, "one raw disk is brought onto one copy");
        let (disk, written) = (&self.disks[0], Arc::new(AtomicU64::new(0)));
        let file = Arc::new(in_place::open(copy, disk.disk.size_bytes)?);
        let report = self.reporter(progress);
        let mut at = 0;
        while at < disk.disk.size_bytes {
            let map = disk.volume.map(at).await?;
            let end = map.window().end.min(at + STRETCH_BYTES);
            self.write_stretch(
                &map,
                at..end,
                &Goal::Onto { file: file.clone(), written: written.clone() },
                copy,
                &report,
            )
            .await?;
            let zeroes: Vec<_> =
                map.runs(at..end).filter(|run| run.is_zero()).map(|run| (run.offset, run.len)).collect();
            let (file, written) = (file.clone(), written.clone());
            let zeroing = tokio::task::spawn_blocking(move || {
                zeroes.into_iter().try_for_each(|(offset, len)| {
                    let bytes = in_place::bring_zeroes(&file, offset, len)?;
                    written.fetch_add(bytes, Ordering::Relaxed);
                    Ok(())
                })
            });
            let zeroed: io::Result<()> = zeroing.await.map_err(|error| RestoreError::Stopped(error.to_string()))?;
            zeroed.map_err(|source| failed("write", copy, source))?;
            at = end;
        }
        file.sync_all().map_err(|source| failed("sync", copy, source))?;
        Ok(written.load(Ordering::Relaxed))
    }

    fn reporter<'a>(&'a self, progress: &'a (dyn Fn(Progress) + Sync)) -> impl Fn(u64) + Sync + 'a {
        let (done, bytes_total) = (AtomicU64::new(0), self.data_bytes());
        move |bytes| {
            let bytes_done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(Progress { bytes_done, bytes_total });
        }
    }

    fn identity(&self, plan: &DiskPlan) -> Identity {
        Identity {
            machine: self.view.source.machine(),
            timeline: self.point.timeline,
            point: self.point.id,
            disk: plan.disk.disk,
            format: self.format,
            file_bytes: plan.file_bytes,
        }
    }

    fn check_room(&self) -> Result<(), RestoreError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|source| failed("look at", &self.dir, source.into()))?;
        let (needed, available) = (self.data_bytes(), stat.f_bavail.saturating_mul(stat.f_frsize));
        match needed <= available {
            true => Ok(()),
            false => Err(RestoreError::NoRoom { dir: self.dir.clone(), needed, available }),
        }
    }

    async fn write_disk(
        &self,
        plan: &DiskPlan,
        file: &mut Partial,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RestoreError> {
        let goal = Goal::New { file: file.file.clone(), layout: plan.layout.clone() };
        let (mut at, mut since_note) = (0, 0);
        while at < plan.disk.size_bytes {
            let map = plan.volume.map(at).await?;
            let end = map.window().end.min(at + STRETCH_BYTES);
            let from = at.max(file.done_until().min(end));
            // What an earlier restore did counts.
            report(map.runs(at..from).filter(|run| !run.is_zero()).map(|run| run.len).sum());
            since_note += self.write_stretch(&map, from..end, &goal, &file.path, report).await?;
            if since_note >= NOTE_EVERY_BYTES {
                file.note(end)?;
                since_note = 0;
            }
            at = end;
        }
        Ok(())
    }

    /// Writes what a map shows of a range; gives how many bytes of data that is.
    async fn write_stretch(
        &self,
        map: &ExtentMap,
        range: Range<u64>,
        goal: &Goal,
        path: &Path,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<u64, RestoreError> {
        let work = by_frame(map, range).into_iter().map(|pieces| self.write_frame(pieces, goal.clone(), path));
        let mut written = stream::iter(work).buffer_unordered(FRAMES_IN_FLIGHT);
        let mut sum = 0;
        while let Some(bytes) = written.next().await {
            let bytes = bytes?;
            sum += bytes;
            report(bytes);
        }
        Ok(sum)
    }

    /// Fetches one frame, and writes what the point needs of it.
    async fn write_frame(&self, pieces: Vec<Piece>, goal: Goal, path: &Path) -> Result<u64, RestoreError> {
        let (segment, frame) = (pieces[0].segment, pieces[0].frame);
        let view = self.view.clone();
        let item = view.source.item(&view.segments[segment as usize], frame).await?;
        let opened = tokio::task::spawn_blocking(move || {
            let segment = &view.segments[segment as usize];
            let name = || view.source.name_of(segment);
            let damaged = |damage: Damage| Failure::Read(ReadError::damaged(name(), damage));
            let open = view.source.open_frame(segment, frame, &item).map_err(damaged)?;
            let mut bytes_written = 0;
            for piece in pieces {
                let bytes = open.bytes(piece.payload_at, piece.len, piece.offset);
                let bytes = bytes.ok_or_else(|| damaged(Damage::Index { frame, offset: piece.offset }))?;
                goal.write(piece.offset, bytes).map_err(Failure::Write)?;
                bytes_written += piece.len as u64;
            }
            Ok(bytes_written)
        });
        match opened.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(Failure::Read(error))) => Err(error.into()),
            Ok(Err(Failure::Write(source))) => Err(failed("write", path, source)),
            Err(error) => Err(RestoreError::Stopped(error.to_string())),
        }
    }
}

/// Where the disk's bytes go.
#[derive(Clone)]
enum Goal {
    /// A new file, to the places that its layout gives.
    New { file: Arc<File>, layout: Arc<Layout> },
    /// An old copy of the disk, where they differ.
    Onto { file: Arc<File>, written: Arc<AtomicU64> },
}

impl Goal {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::New { file, layout } => {
                let mut left = bytes;
                for (at, len) in layout.places(offset..offset + bytes.len() as u64) {
                    let (here, rest) = left.split_at(len);
                    file.write_all_at(here, at)?;
                    left = rest;
                }
                Ok(())
            }
            Self::Onto { file, written } => {
                written.fetch_add(in_place::bring(file, offset, bytes)?, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

enum Failure {
    Read(ReadError),
    Write(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    segment: u32,
    frame: u32,
    payload_at: u32,
    offset: u64,
    len: usize,
}

/// The data of a range, frame by frame.
fn by_frame(map: &ExtentMap, range: Range<u64>) -> Vec<Vec<Piece>> {
    let mut pieces: Vec<Piece> = map
        .runs(range)
        .filter_map(|extent| match extent.source {
            Some(Source::Data { segment, frame, payload_at }) => {
                Some(Piece { segment, frame, payload_at, offset: extent.offset, len: extent.len as usize })
            }
            _ => None,
        })
        .collect();
    pieces.sort_unstable();
    pieces.chunk_by(|a, b| (a.segment, a.frame) == (b.segment, b.frame)).map(<[Piece]>::to_vec).collect()
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> RestoreError {
    RestoreError::File { doing, path: path.to_owned(), source }
}

/// Refuses to write over anything that holds bytes; devices, directories and links are never replaced.
fn check_target(target: &Path, force: bool) -> Result<(), RestoreError> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("look at", target, source)),
        Ok(meta) if meta.is_file() && (meta.len() == 0 || force) => Ok(()),
        Ok(_) => Err(RestoreError::Exists(target.to_owned())),
    }
}

#[cfg(test)]
mod tests;
