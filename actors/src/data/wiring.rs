//! What every actor of a process server is given: pools, credit, vault, cache disk, clock. Shared by value; nothing in
//! it belongs to one machine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use farshore_engine::cache::limits::Pressure;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::DataConfig;
use super::back_room::BackRoom;
use super::compactor::MergeTurn;
use super::compare::Comparer;
use crate::supervise::{Arbiters, CreditPool, OffloadPool};

/// Jobs that run in the file pool or wait for it, at most, for each of its threads.
const FILE_JOBS_PER_THREAD: u32 = 64;

/// What every actor of a process server is given.
#[derive(Debug)]
pub(super) struct Wiring {
    pub(super) config: DataConfig,
    /// Sealing and opening.
    pub(super) seal_pool: OffloadPool,
    /// Appends, syncs, reads of segment files.
    pub(super) file_pool: OffloadPool,
    /// Batches in memory.
    pub(super) memory: CreditPool,
    /// Segments on their way to the vault.
    pub(super) uploads: CreditPool,
    /// Reads what agents compare with.
    pub(super) comparer: Comparer,
    /// Merges and scrubs.
    pub(super) back_room: BackRoom,
    /// Who merges.
    pub(super) merging: MergeTurn,
    /// Who scrubs.
    pub(super) scrubbing: tokio::sync::Mutex<()>,
    pub(super) arbiters: Arbiters,
    began: Instant,
    /// Counts commits of segments over all machines: what was committed first leaves the cache first.
    commits: AtomicU64,
    /// Whether the last store call got an answer.
    vault_reachable: AtomicBool,
    pressure: Mutex<Pressure>,
}

impl Wiring {
    /// Starts pools and arbiters. Must be called where an actix `System` runs.
    pub(super) fn start(config: DataConfig) -> io::Result<Arc<Self>> {
        let limits = &config.limits;
        let file_jobs = limits.file_threads.max(1) as u32 * FILE_JOBS_PER_THREAD;
        Ok(Arc::new(Self {
            seal_pool: OffloadPool::for_cpu()?,
            file_pool: OffloadPool::new("cache", limits.file_threads, file_jobs)?,
            memory: CreditPool::new(limits.memory_bytes_max),
            uploads: CreditPool::new(limits.upload_bytes_max),
            comparer: Comparer::start(limits.serve_cache_bytes)?,
            back_room: BackRoom::start()?,
            merging: MergeTurn::default(),
            scrubbing: tokio::sync::Mutex::default(),
            arbiters: Arbiters::start(limits.arbiters)?,
            began: Instant::now(),
            commits: AtomicU64::new(0),
            vault_reachable: AtomicBool::new(true),
            pressure: Mutex::new(Pressure::Normal),
            config,
        }))
    }

    /// Monotonic time, for the pure cores.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What an agent may have under way while room is not short: half of what its sequencer takes, because the two count
    /// a batch's weight differently, and one batch may overdraw it.
    pub(super) fn window_bytes(&self) -> u64 {
        self.pressure().credit(self.config.limits.sequencer.in_flight_bytes_max as u64 / 2)
    }

    pub(super) fn pressure(&self) -> Pressure {
        *self.pressure.lock()
    }

    /// Sets how short room is; gives what it was.
    pub(super) fn set_pressure(&self, pressure: Pressure) -> Pressure {
        std::mem::replace(&mut *self.pressure.lock(), pressure)
    }

    /// The number of the next commit.
    pub(super) fn next_commit(&self) -> u64 {
        self.commits.fetch_add(1, Relaxed)
    }

    pub(super) fn vault_answered(&self, reachable: bool) {
        self.vault_reachable.store(reachable, Relaxed);
    }

    pub(super) fn vault_reachable(&self) -> bool {
        self.vault_reachable.load(Relaxed)
    }
}
