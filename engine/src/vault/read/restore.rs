//! A point's disks as raw files: plan, show, perform.
//!
//! Each frame that the point needs is fetched once, whatever order its writes have on the disk; holes and zeroes stay
//! holes of the file.
//!
//! Crash story: everything is written to hidden files beside the targets, synced, and renamed only when all disks are
//! whole. A restore that dies leaves `.<name>.farshore-<pid>` files and no target.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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

/// Frames on their way at once. Chosen: keeps two cores and a store with 20 ms of latency busy, in 16 MiB.
const FRAMES_IN_FLIGHT: usize = 16;

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
    volume: Volume,
}

/// What a restore would do.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// The point.
    pub point: RecoveryPoint,
    /// Its disks.
    pub disks: Vec<DiskPlan>,
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

/// Makes the plan: which files, how much data.
pub async fn plan(
    reader: &TimelineReader,
    point: RecoveryPoint,
    disks: &[DiskNo],
    dir: &Path,
) -> Result<RestorePlan, RestoreError> {
    // Frames are fetched once each, without the cache; limits bound the maps.
    let frames = Arc::new(FrameCache::new(0));
    let limits = VolumeLimits { read_ahead_bytes: 0, ..VolumeLimits::default() };
    let mut plans: Vec<DiskPlan> = Vec::new();
    for disk in disks {
        let volume = Volume::of_point(reader, &point, *disk, frames.clone(), limits)?;
        let info = volume.info().clone();
        let mut target = dir.join(format!("{}.raw", file_name(&info.name)));
        if plans.iter().any(|other| other.target == target) {
            target = dir.join(format!("{}-{disk}.raw", file_name(&info.name)));
        }
        let mut data_bytes = 0;
        let mut at = 0;
        while at < info.size_bytes {
            let map = volume.map(at).await?;
            // A window may begin before the place that it was made for.
            let runs = map.runs(at..map.window().end);
            data_bytes += runs.filter(|run| !run.is_zero()).map(|run| run.len).sum::<u64>();
            at = map.window().end;
        }
        plans.push(DiskPlan { disk: info, target, data_bytes, volume });
    }
    Ok(RestorePlan { point, disks: plans, dir: dir.to_owned(), view: reader.view() })
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
        let done = AtomicU64::new(0);
        let report = |bytes: u64| {
            let bytes_done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(Progress { bytes_done, bytes_total: self.data_bytes() });
        };
        let mut files = Vec::new();
        for disk in &self.disks {
            let file = Partial::create(&disk.target, disk.disk.size_bytes)?;
            self.write_disk(disk, &file, &report).await?;
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
        file: &Partial,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RestoreError> {
        let mut at = 0;
        while at < plan.disk.size_bytes {
            let map = plan.volume.map(at).await?;
            let work = by_frame(&map, at..map.window().end)
                .into_iter()
                .map(|pieces| self.write_frame(pieces, file.file.clone(), &file.path));
            let mut written = stream::iter(work).buffer_unordered(FRAMES_IN_FLIGHT);
            while let Some(bytes) = written.next().await {
                report(bytes?);
            }
            at = map.window().end;
        }
        Ok(())
    }

    /// Fetches one frame, and writes what the point needs of it.
    async fn write_frame(&self, pieces: Vec<Piece>, file: Arc<File>, path: &Path) -> Result<u64, RestoreError> {
        let (segment, frame) = (pieces[0].segment, pieces[0].frame);
        let view = self.view.clone();
        let item = view.source.item(&view.segments[segment as usize], frame).await?;
        let opened = tokio::task::spawn_blocking(move || {
            let segment = &view.segments[segment as usize];
            let name = || view.source.name(segment.timeline, segment.slot);
            let damaged = |damage: Damage| Failure::Read(ReadError::damaged(name(), damage));
            let open = view.source.open_frame(segment, frame, &item).map_err(damaged)?;
            let mut bytes_written = 0;
            for piece in pieces {
                let bytes = open.bytes(piece.payload_at, piece.len, piece.offset);
                let bytes = bytes.ok_or_else(|| damaged(Damage::Index { frame, offset: piece.offset }))?;
                file.write_all_at(bytes, piece.offset).map_err(Failure::Write)?;
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

/// A file in the making; removed again unless it is finished.
struct Partial {
    file: Arc<File>,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Partial {
    fn create(target: &Path, size_bytes: u64) -> Result<Self, RestoreError> {
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = target.with_file_name(format!(".{name}.farshore-{}", std::process::id()));
        // What a process of the same number left behind is nobody's any more.
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = opened.map_err(|source| failed("create", &path, source))?;
        let partial = Self { file: Arc::new(file), path, target: target.to_owned(), finished: false };
        let sized = partial.file.set_len(size_bytes);
        sized.map_err(|source| failed("set the size of", &partial.path, source))?;
        Ok(partial)
    }

    fn finish(mut self) -> Result<(), RestoreError> {
        fs::rename(&self.path, &self.target).map_err(|source| failed("put in place", &self.target, source))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // The next restore writes over what cannot be removed now.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_disk_name_becomes_a_plain_file_name() {
        assert_eq!(file_name("data disk / 1"), "data_disk___1");
        assert_eq!(file_name("../../etc/passwd"), "_.._.._etc_passwd");
        assert_eq!(file_name("/"), "_");
        assert_eq!(file_name(""), "_");
        assert_eq!(file_name("-rf"), "_-rf");
        assert_eq!(file_name("Größe"), "Größe");
        assert!(file_name(&"ü".repeat(300)).len() <= 201);
    }
}
