//! Answers to agents that compare a disk with its replica: the digests of what earlier lives left, read from the vault.
//!
//! Only digests travel to the agent; the bytes are read where the vault is near. Reading runs on a thread of its own, never on
//! an actor's. Bounds: one cache of frames for all sessions, two parts at a time over all of them, read in small steps; a
//! session's extent maps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_engine::ids::{DiskNo, Lsn};
use farshore_engine::protocol::{Digests, Part};
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use slog::warn;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, Semaphore};

use super::lease::{Lease, PinPlace};
use super::ledger::MachineSpec;

/// Parts that are read at a time. Chosen: one keeps the vault busy while the other's digests are taken.
const PARTS_AT_ONCE: usize = 2;
/// How much is read at a time, in bytes: bounds what a part takes in memory, however long it is.
const STEP_BYTES: u32 = 1 << 20;
/// Memory for a session's extent maps, per disk, in bytes.
const MAP_BYTES_MAX: usize = 8 << 20;
/// How far reading goes ahead: the parts come in order.
const READ_AHEAD_BYTES: u64 = 4 << 20;
/// Pause before a vault that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Comparer {
    runtime: Option<Runtime>,
    frames: Arc<FrameCache>,
    turns: Semaphore,
}

impl Comparer {
    /// One that keeps frames of at most so many bytes.
    pub(super) fn start(frames_bytes_max: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("compare").enable_all().build()?;
        let (frames, turns) = (Arc::new(FrameCache::new(frames_bytes_max)), Semaphore::new(PARTS_AT_ONCE));
        Ok(Self { runtime: Some(runtime), frames, turns })
    }
}

impl Drop for Comparer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed where the last holder may be an actor; nothing is left that would matter.
            runtime.shutdown_background();
        }
    }
}

/// One session's view of its machine's log: opened with the first question.
#[derive(Debug, Clone, Default)]
pub(super) struct LogBefore(Arc<Mutex<Opened>>);

#[derive(Debug, Default)]
struct Opened {
    reader: Option<TimelineReader>,
    /// Keeps the position readable while disks are compared with it.
    lease: Option<Lease>,
    volumes: HashMap<DiskNo, Volume>,
}

/// The digests of a part as the writes before `at` left it. Waits for a vault that is away; what cannot be read for another
/// reason counts as different, so that it is sent.
pub(super) async fn digests(spec: MachineSpec, log: LogBefore, part: Part, at: Lsn) -> Digests {
    let comparer = &spec.wiring.comparer;
    let _turn = comparer.turns.acquire().await;
    let handle = comparer.runtime.as_ref().expect("there until it is dropped").handle();
    loop {
        let (spec_of_task, log, driver) = (spec.clone(), log.clone(), handle.clone());
        let task = handle.spawn_blocking(move || driver.block_on(read(spec_of_task, log, part, at)));
        match task.await {
            Ok(Ok(digests)) => return digests,
            Ok(Err(ReadError::Store(error))) => {
                warn!(spec.wiring.config.log, "the comparison waits for the vault"; "machine" => %spec.machine,
                    "why" => %error);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Err(error)) => return unread(&spec, part, &error.to_string()),
            Err(error) => return unread(&spec, part, &error.to_string()),
        }
    }
}

fn unread(spec: &MachineSpec, part: Part, why: &str) -> Digests {
    warn!(spec.wiring.config.log, "a part of a disk cannot be compared, and is sent"; "machine" => %spec.machine,
        "disk" => %part.disk, "offset" => part.offset, "why" => why);
    Digests::unknown(part)
}

async fn read(spec: MachineSpec, log: LogBefore, part: Part, at: Lsn) -> Result<Digests, ReadError> {
    let volume = log.volume(&spec, part.disk, at).await?;
    let (mut pieces, mut done) = (Vec::with_capacity(part.piece_count()), 0);
    let key = spec.data_key().digest_key();
    while done < part.len {
        let step = Part { offset: part.offset + u64::from(done), len: STEP_BYTES.min(part.len - done), ..part };
        let mut data = vec![0; step.len as usize];
        volume.read(step.offset, &mut data).await?;
        pieces.extend(Digests::of(step, &key, &data).pieces);
        done += step.len;
    }
    Ok(Digests { part, pieces })
}

impl LogBefore {
    async fn volume(&self, spec: &MachineSpec, disk: DiskNo, at: Lsn) -> Result<Volume, ReadError> {
        let mut opened = self.0.lock().await;
        if let Some(volume) = opened.volumes.get(&disk) {
            return Ok(volume.clone());
        }
        if opened.reader.is_none() {
            let source = LogSource::new(spec.wiring.config.store.clone(), spec.machine, spec.data_key());
            opened.reader = Some(TimelineReader::open(source, spec.timeline).await?);
        }
        let Opened { reader, lease, .. } = &mut *opened;
        let reader = reader.as_mut().expect("just opened");
        // A comparison may take longer than points stay. // I7
        if lease.is_none() && reader.retains(at) {
            let handle = spec.wiring.comparer.runtime.as_ref().expect("there until it is dropped").handle();
            let place = PinPlace::of(&spec.wiring.config.store, reader);
            match Lease::take("compare", place, reader, at, handle, &spec.wiring.config.log).await {
                Ok(taken) => *lease = Some(taken),
                Err(error) => warn!(spec.wiring.config.log, "what disks are compared with is not pinned";
                    "machine" => %spec.machine, "why" => %error),
            }
        }
        let limits = VolumeLimits { map_bytes_max: MAP_BYTES_MAX, read_ahead_bytes: READ_AHEAD_BYTES };
        let volume = Volume::at(reader, disk, at, spec.wiring.comparer.frames.clone(), limits)?;
        opened.volumes.insert(disk, volume.clone());
        Ok(volume)
    }
}
