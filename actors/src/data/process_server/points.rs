//! Recovery points: listing them, and serving them over NBD. What is served outlives the process server's actor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::prelude::*;
use farshore_engine::control::messages::{Export, NearReport, PointInfo, PointSelector, PointsPage};
use farshore_engine::ids::{DiskNo, Lsn, MachineId, TimelineId};
use farshore_engine::nbd::export::Export as NbdExport;
use farshore_engine::nbd::server::{NbdServer, ServerOptions};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::export::VolumeExport;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::hydrate::hydrate;
use farshore_engine::vault::read::near_frames::NearFrames;
use farshore_engine::vault::read::overlay::Overlay;
use farshore_engine::vault::read::points::RecoveryPoint;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use farshore_engine::vault::store::ObjectStore;
use parking_lot::Mutex;
use slog::{Logger, info, warn};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::ProcessServer;
use super::restores::Restores;
use crate::data::lease::{Lease, PinPlace};
use crate::data::messages::{CancelRestore, ListPoints, RestorePoint, Restoring, ServePoint, Served, StopServing};
use crate::data::{DataError, DataLimits};

/// Threads that fetch for served points.
const FETCH_THREADS: usize = 2;
/// Machines whose log is kept opened for listing.
const READERS_MAX: usize = 4;

/// A point that is served. Dropped, it serves no more, and its overlays are gone.
struct ServedPoint {
    answer: Served,
    _server: NbdServer,
    nearer: Option<Nearer>,
    /// Behind the server: it is served no more when this ends.
    _lease: Lease,
}

/// What brings a served point near; dropped, it ends.
struct Nearer {
    now: Arc<Mutex<NearReport>>,
    _held: watch::Sender<()>,
}

/// Lists and serves points.
pub(in crate::data) struct PointServer {
    dir: PathBuf,
    pub(super) store: Arc<dyn ObjectStore>,
    cache_bytes: usize,
    near: Option<Arc<NearFrames>>,
    hydrate: bool,
    log: Logger,
    runtime: Option<Runtime>,
    served: Mutex<BTreeMap<u64, ServedPoint>>,
    restores: Restores,
    /// Logs that were read lately, so that listing again reads only what is new.
    readers: tokio::sync::Mutex<BTreeMap<(MachineId, TimelineId), TimelineReader>>,
}

impl Drop for PointServer {
    fn drop(&mut self) {
        self.stop_all();
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed where the last holder may be an actor; nothing is left that would matter.
            runtime.shutdown_background();
        }
    }
}

impl PointServer {
    pub(in crate::data) fn start(
        dir: &Path,
        store: Arc<dyn ObjectStore>,
        limits: &DataLimits,
        log: &Logger,
    ) -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(FETCH_THREADS).thread_name("fetch").enable_all().build()?;
        let near = || NearFrames::open(&dir.join("near"), limits.serve_near_bytes_max, runtime.handle().clone());
        let near = match limits.serve_near_bytes_max {
            0 => None,
            _ => near().map(Arc::new).inspect_err(|error| {
                warn!(log, "served points are read from the vault alone: the folder for what is near cannot be used";
                    "directory" => %dir.join("near").display(), "error" => %error);
            }).ok(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            store,
            cache_bytes: limits.serve_cache_bytes,
            hydrate: limits.serve_hydrate && near.is_some(),
            near,
            log: log.clone(),
            runtime: Some(runtime),
            served: Mutex::default(),
            restores: Restores::default(),
            readers: tokio::sync::Mutex::default(),
        })
    }

    pub(in crate::data) fn serving(&self) -> Vec<u64> {
        self.served.lock().keys().copied().collect()
    }

    /// How far what is served has been brought near.
    pub(in crate::data) fn near(&self) -> Vec<NearReport> {
        let served = self.served.lock();
        served.values().filter_map(|point| Some(*point.nearer.as_ref()?.now.lock())).collect()
    }

    pub(in crate::data) fn stop_all(&self) {
        self.restores.stop_all();
        let served = std::mem::take(&mut *self.served.lock());
        drop(served);
    }

    fn stop(&self, serve: u64) {
        let gone = self.served.lock().remove(&serve);
        if gone.is_some() {
            info!(self.log, "a point is served no more"; "serve" => serve);
        }
    }

    /// The machine's log up to now.
    pub(super) async fn reader(
        &self,
        machine: MachineId,
        timeline: TimelineId,
        key: &DataKey,
    ) -> Result<TimelineReader, DataError> {
        let mut readers = self.readers.lock().await;
        let known = readers.remove(&(machine, timeline));
        let reader = match known.filter(|known| known.source().key().as_bytes() == key.as_bytes()) {
            Some(mut known) => {
                known.refresh().await?;
                known
            }
            None => TimelineReader::open(LogSource::new(self.store.clone(), machine, key.clone()), timeline).await?,
        };
        if readers.len() >= READERS_MAX {
            readers.pop_first();
        }
        readers.insert((machine, timeline), reader.clone());
        Ok(reader)
    }

    async fn restore(&self, msg: RestorePoint) -> Result<Restoring, DataError> {
        if let Some(known) = self.restores.look(msg.restore) {
            return known;
        }
        let mut reader = self.reader(msg.machine, msg.timeline, &msg.data_key).await?;
        let point = choose(&reader, msg.point).ok_or(DataError::PointUnknown(msg.machine))?;
        if let Some(missing) = msg.disks.iter().find(|disk| !point.disks.contains(disk)) {
            return Err(DataError::DiskUnknown(*missing));
        }
        let lease = self.lease("restore", &mut reader, point.lsn).await?;
        let handle = self.runtime.as_ref().expect("there until it is dropped").handle();
        let directory = self.dir.join("restored").join(msg.restore.to_string());
        info!(self.log, "a point is being restored"; "restore" => msg.restore, "machine" => %msg.machine,
            "mark" => %point.id, "directory" => %directory.display());
        self.restores.begin(msg.restore, directory, (reader, lease), (point, msg.disks, msg.format), handle);
        Ok(Restoring::UnderWay { done_bytes: 0, total_bytes: 0 })
    }

    async fn list(&self, msg: ListPoints, key: DataKey) -> Result<PointsPage, DataError> {
        let reader = self.reader(msg.machine, msg.timeline, &key).await?;
        let page = reader.page(msg.before, msg.limit as usize);
        Ok(PointsPage { points: page.points.into_iter().map(info_of).collect(), next_before: page.next })
    }

    async fn serve(&self, msg: ServePoint) -> Result<Served, DataError> {
        if let Some(known) = self.served.lock().get(&msg.serve) {
            return Ok(known.answer.clone());
        }
        let mut reader = self.reader(msg.machine, msg.timeline, &msg.data_key).await?;
        let point = choose(&reader, msg.point).ok_or(DataError::PointUnknown(msg.machine))?;
        if let Some(missing) = msg.disks.iter().find(|disk| !point.disks.contains(disk)) {
            return Err(DataError::DiskUnknown(*missing));
        }
        // Before the first read: retention may want to drop it in the next moment. // I7
        let lease = self.lease("serve", &mut reader, point.lsn).await?;
        let disks = if msg.disks.is_empty() { point.disks.clone() } else { msg.disks.clone() };
        let served = self.start_serving(&msg, (&reader, lease), point, &disks)?;
        let answer = served.answer.clone();
        let before = self.served.lock().insert(msg.serve, served);
        drop(before);
        info!(self.log, "a point is served"; "serve" => msg.serve, "machine" => %msg.machine,
            "mark" => %answer.point.mark, "lsn" => %answer.point.lsn);
        Ok(answer)
    }

    fn start_serving(
        &self,
        msg: &ServePoint,
        (reader, lease): (&TimelineReader, Lease),
        point: RecoveryPoint,
        disks: &[DiskNo],
    ) -> Result<ServedPoint, DataError> {
        let failed = |error: &dyn std::fmt::Display| DataError::Serve(error.to_string());
        let frames = Arc::new(FrameCache::new(self.cache_bytes).with_near(self.near.clone()));
        std::fs::create_dir_all(&self.dir).map_err(|error| failed(&error))?;
        let socket = self.dir.join(format!("point-{}.sock", msg.serve));
        let server = NbdServer::bind_unix(&socket, ServerOptions::default(), &self.log);
        let server = server.map_err(|error| failed(&error))?;
        let handle = self.runtime.as_ref().expect("there until it is dropped").handle();
        let (mut serving, mut exports): (Vec<Arc<dyn NbdExport>>, Vec<Export>) = (Vec::new(), Vec::new());
        let mut volumes = Vec::new();
        for disk in disks {
            let volume = Volume::of_point(reader, &point, *disk, frames.clone(), VolumeLimits::default())?;
            let (name, info) = (format!("disk{disk}"), volume.info().clone());
            let overlay = match msg.read_only {
                true => None,
                false => Some(Overlay::create(&self.dir, info.size_bytes).map_err(|error| failed(&error))?),
            };
            exports.push(Export {
                disk: *disk,
                name: info.name,
                size_bytes: info.size_bytes,
                socket: socket.display().to_string(),
                uri: server.uri(&name),
                read_only: msg.read_only,
            });
            volumes.push(volume.clone());
            serving.push(Arc::new(VolumeExport::new(volume, name, overlay, handle.clone(), &self.log)));
        }
        server.set_exports(serving);
        let nearer = self.hydrate.then(|| self.bring_near(msg.serve, volumes));
        let answer = Served { point: info_of(point), exports };
        Ok(ServedPoint { answer, _server: server, nearer, _lease: lease })
    }

    /// Brings disks near, one after the other, until what is given is dropped.
    fn bring_near(&self, serve: u64, volumes: Vec<Volume>) -> Nearer {
        let (_held, mut dropped) = watch::channel(());
        let total_bytes = volumes.iter().map(|volume| volume.info().size_bytes).sum();
        let now = Arc::new(Mutex::new(NearReport { serve, reached_bytes: 0, total_bytes, ended: false }));
        let told = now.clone();
        let (log, runtime) = (self.log.clone(), self.runtime.as_ref().expect("there until it is dropped").handle());
        let work = runtime.clone();
        // On a thread of its own: it may take hours, and the fetching threads are the readers'.
        runtime.spawn_blocking(move || {
            let all = async {
                let mut before = 0;
                for volume in &volumes {
                    let done = hydrate(volume, |at| told.lock().reached_bytes = before + at.reached).await;
                    let disk = volume.info().disk;
                    before += done.as_ref().map_or(0, |done| done.reached);
                    match done {
                        Ok(done) => info!(log, "a served disk was brought near"; "serve" => serve, "disk" => %disk,
                            "whole" => done.is_done(), "fetched_bytes" => done.fetched_bytes),
                        Err(error) => warn!(log, "a served disk cannot be brought near: it is read from the vault";
                            "serve" => serve, "disk" => %disk, "error" => %error),
                    }
                }
                told.lock().ended = true;
            };
            work.block_on(async {
                tokio::select! {
                    () = all => {}
                    _ = dropped.changed() => {}
                }
            });
        });
        Nearer { now, _held }
    }

    /// Keeps a position readable while the lease is held.
    async fn lease(&self, what: &str, reader: &mut TimelineReader, lsn: Lsn) -> Result<Lease, DataError> {
        let handle = self.runtime.as_ref().expect("there until it is dropped").handle();
        let place = PinPlace::of(&self.store, reader);
        Lease::take(what, place, reader, lsn, handle, &self.log).await.map_err(DataError::from)
    }
}

pub(super) fn choose(reader: &TimelineReader, point: PointSelector) -> Option<RecoveryPoint> {
    match point {
        PointSelector::Newest => reader.newest(),
        PointSelector::Mark { mark } => reader.point(mark),
        PointSelector::Time { time } => reader.points().into_iter().rfind(|point| point.captured_at <= time),
    }
}

pub(super) fn info_of(point: RecoveryPoint) -> PointInfo {
    PointInfo {
        mark: point.id,
        lsn: point.lsn,
        kind: point.kind,
        captured_at: point.captured_at,
        label: point.label,
        disks: point.disks,
    }
}

impl From<ReadError> for DataError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::VaultAway(error.to_string()),
            ReadError::NotCovered { disk, .. } => Self::DiskUnknown(disk),
            other => Self::VaultDamaged(other.to_string()),
        }
    }
}

impl Handler<ListPoints> for ProcessServer {
    type Result = ResponseFuture<Result<PointsPage, DataError>>;

    fn handle(&mut self, msg: ListPoints, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let (points, known) = (self.spec.points.clone(), self.spec.ledger.get(msg.machine));
        Box::pin(async move {
            let own = known.as_ref().and_then(|spec| spec.key.get());
            let without =
                if known.is_some() { DataError::Locked(msg.machine) } else { DataError::NotOwner(msg.machine) };
            let key = own.or(msg.data_key.clone()).ok_or(without)?;
            points.list(msg, key).await
        })
    }
}

impl Handler<ServePoint> for ProcessServer {
    type Result = ResponseFuture<Result<Served, DataError>>;

    fn handle(&mut self, msg: ServePoint, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let points = self.spec.points.clone();
        Box::pin(async move { points.serve(msg).await })
    }
}

impl Handler<RestorePoint> for ProcessServer {
    type Result = ResponseFuture<Result<Restoring, DataError>>;

    fn handle(&mut self, msg: RestorePoint, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let points = self.spec.points.clone();
        Box::pin(async move { points.restore(msg).await })
    }
}

impl Handler<CancelRestore> for ProcessServer {
    type Result = ();

    fn handle(&mut self, msg: CancelRestore, _: &mut Self::Context) {
        self.chaos();
        self.spec.points.restores.cancel(msg.restore);
    }
}

impl Handler<StopServing> for ProcessServer {
    type Result = ();

    fn handle(&mut self, msg: StopServing, _: &mut Self::Context) {
        self.chaos();
        self.spec.points.stop(msg.serve);
    }
}
