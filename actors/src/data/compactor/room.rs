//! Where merging happens: a thread of its own for the whole process server, one look at a time. So memory is bounded by one
//! merge, whatever is merged, and a merge never holds up an arbiter.
//!
//! A look goes on when its actor ends, until it is next asked whether it may: what it commits is what its owner may commit.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use farshore_engine::cache::limits::Pressure;
use farshore_engine::ids::{MachineId, TimelineId};
use farshore_engine::vault::manifest_keeper::ManifestKeeper;
use farshore_engine::vault::merge::{MergeError, MergeLimits, Merger, Pace, Round, Rules};
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::timeline::TimelineReader;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;

use crate::data::ledger::MachineSpec;
use crate::data::wiring::Wiring;
use crate::supervise::{OsChance, wall_clock};

/// Machines whose log is kept read between looks. Chosen: those that are merged over and over; a log of a thousand segments
/// takes a few MiB.
const READERS_MAX: usize = 4;
/// Pause before it is looked again whether the cache has room.
const PRESSURE_PAUSE: Duration = Duration::from_millis(250);

/// What all compactors of a process server share.
#[derive(Debug)]
pub(in crate::data) struct MergeRoom {
    runtime: Option<Runtime>,
    /// Whoever has it looks; with it, logs as they were read last.
    turn: tokio::sync::Mutex<VecDeque<Known>>,
}

#[derive(Debug)]
struct Known {
    machine: MachineId,
    timeline: TimelineId,
    reader: TimelineReader,
}

impl MergeRoom {
    pub(in crate::data) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("merge").enable_all().build()?;
        Ok(Self { runtime: Some(runtime), turn: tokio::sync::Mutex::default() })
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("there until it is dropped").handle()
    }

    /// Runs work on a thread of the room. Dropped, the answer is not waited for; the work goes on.
    pub(super) fn run<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> impl Future<Output = Result<T, JoinError>> + Send + 'static {
        let driver = self.handle().clone();
        self.handle().spawn_blocking(move || driver.block_on(work()))
    }
}

impl Drop for MergeRoom {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed where the last holder may be an actor; a merge that is cut off is made again.
            runtime.shutdown_background();
        }
    }
}

/// Says to the work of a compactor's life that it shall end, when that life does.
#[derive(Debug, Default)]
pub(super) struct Reins(Arc<AtomicBool>);

impl Reins {
    pub(super) fn held(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Reins {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// As fast as it is allowed, and not at all while segments have no room: they come first.
struct Throttle {
    over: Arc<AtomicBool>,
    wiring: Arc<Wiring>,
}

#[async_trait::async_trait]
impl Pace for Throttle {
    async fn go_on(&self, bytes: u64) -> bool {
        let is_over = || self.over.load(SeqCst);
        while !is_over() && !matches!(self.wiring.pressure(), Pressure::Normal | Pressure::Warning) {
            tokio::time::sleep(PRESSURE_PAUSE).await;
        }
        let rate = self.wiring.config.limits.merging.bytes_per_second_max.max(1);
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
        !is_over()
    }
}

fn merger(spec: &MachineSpec, over: Arc<AtomicBool>) -> Merger {
    let (store, key) = (spec.wiring.config.store.clone(), spec.data_key());
    let chance = Arc::new(Mutex::new(OsChance));
    let source = LogSource::new(store.clone(), spec.machine, key.clone());
    let keeper = ManifestKeeper::new(store, spec.machine, spec.timeline, key, chance);
    let owner = (spec.owner.epoch, spec.owner.writer);
    let limits = MergeLimits { packing: spec.packing(), ..spec.wiring.config.limits.merging.limits };
    let pace = Arc::new(Throttle { over, wiring: spec.wiring.clone() });
    Merger::new(source, spec.timeline, keeper, owner, limits, pace, Arc::new(wall_clock))
}

/// Makes the manifest this owner's: from here on no older one merges or deletes. // I4
pub(super) async fn adopt(spec: MachineSpec, over: Arc<AtomicBool>) -> Result<(), MergeError> {
    let merger = merger(&spec, over);
    merger.keeper.adopt(spec.owner.epoch).await?;
    Ok(())
}

/// One look, when it is this machine's turn.
pub(super) async fn look(spec: MachineSpec, over: Arc<AtomicBool>, rules: Rules) -> Result<Round, MergeError> {
    let mut known = spec.wiring.merging.turn.lock().await;
    if over.load(SeqCst) {
        return Err(MergeError::Stopped);
    }
    let own = |one: &Known| one.machine == spec.machine && one.timeline == spec.timeline;
    let mut reader = known.iter().position(own).and_then(|at| known.remove(at)).map(|one| one.reader);
    // One that was read under another key is of no use.
    reader = reader.filter(|reader| reader.source().key().as_bytes() == spec.data_key().as_bytes());
    let round = merger(&spec, over).look(&mut reader, &rules).await;
    if let Some(reader) = reader {
        known.truncate(READERS_MAX - 1);
        known.push_front(Known { machine: spec.machine, timeline: spec.timeline, reader });
    }
    round
}
