//! What a process server is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_engine::cache::io::{CacheIo, DiskIo};
use farshore_engine::cache::limits::CacheLimits;
use farshore_engine::log::committer::WINDOW_DEFAULT;
use farshore_engine::log::sequencer::SequencerLimits;
use farshore_engine::vault::store::ObjectStore;
use rustls::ServerConfig;
use slog::Logger;

use super::{EventSink, MergingLimits, ScrubbingLimits};
use crate::supervise::{Chaos, RestartPolicy};

/// Bounds of a process server (I10).
#[derive(Debug, Clone)]
pub struct DataLimits {
    /// Bytes of all machines' batches that are received and not durable. A batch is taken off the socket only
    /// within it.
    pub memory_bytes_max: usize,
    /// Bytes of segments that are being brought to the vault.
    pub upload_bytes_max: usize,
    /// Segments of one machine on their way to the vault at once.
    pub upload_window: usize,
    /// Bounds of each machine's sequencer; its `in_flight_bytes_max` is the agent's window.
    pub sequencer: SequencerLimits,
    /// The cache's room.
    pub cache: CacheLimits,
    /// How often room is measured and time is looked at.
    pub tick: Duration,
    /// When actors are restarted and given up.
    pub restarts: RestartPolicy,
    /// How long an actor that was given up rests before it is tried again.
    pub storm_rest: Duration,
    /// Wait for one store call after which it is said that the vault does not answer.
    pub store_call_slow: Duration,
    /// Longest wait for one store call before it counts as failed.
    pub store_call_max: Duration,
    /// Threads for blocking file calls.
    pub file_threads: usize,
    /// Threads that actors live on.
    pub arbiters: usize,
    /// Memory for frames of served points, in bytes, per point.
    pub serve_cache_bytes: usize,
    /// Frames of served points that are kept on disk, in bytes, of all points; 0: none.
    pub serve_near_bytes_max: u64,
    /// Whether all that a served point needs is brought there.
    pub serve_hydrate: bool,
    /// Merging.
    pub merging: MergingLimits,
    /// Scrubbing.
    pub scrubbing: ScrubbingLimits,
}

impl Default for DataLimits {
    /// Chosen for a process server of 2 cores and 1 GiB that takes tens of machines: eight full windows in memory, eight
    /// segments on their way. Two file threads would let one slow sync hold up half of all machines; eight more than
    /// one disk can serve.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            memory_bytes_max: 256 << 20,
            upload_bytes_max: 128 << 20,
            upload_window: WINDOW_DEFAULT,
            sequencer: SequencerLimits::default(),
            cache: CacheLimits::default(),
            tick: Duration::from_secs(1),
            restarts: RestartPolicy::default(),
            storm_rest: Duration::from_secs(60),
            store_call_slow: Duration::from_secs(10),
            store_call_max: Duration::from_secs(120),
            file_threads: 4,
            arbiters: cores.saturating_sub(1).max(1),
            serve_cache_bytes: 32 << 20,
            serve_near_bytes_max: 0,
            serve_hydrate: false,
            merging: MergingLimits::default(),
            scrubbing: ScrubbingLimits::default(),
        }
    }
}

/// What a process server is started with.
#[derive(Clone)]
pub struct DataConfig {
    /// Where segments are cached. Belongs to this process server alone.
    pub cache_dir: PathBuf,
    /// Where sockets and overlays of served points lie.
    pub serve_dir: PathBuf,
    /// Where agents connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How they are met: this server's certificate, clients' certificates required.
    pub tls: Arc<ServerConfig>,
    /// The vault.
    pub store: Arc<dyn ObjectStore>,
    /// The cache disk.
    pub io: Arc<dyn CacheIo>,
    /// Bounds.
    pub limits: DataLimits,
    /// Where events go.
    pub events: EventSink,
    /// The switch that makes actors panic.
    pub chaos: Arc<Chaos>,
    /// The log.
    pub log: Logger,
}

impl DataConfig {
    /// The file system as cache disk.
    pub fn disk() -> Arc<dyn CacheIo> {
        Arc::new(DiskIo)
    }
}

impl std::fmt::Debug for DataConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataConfig").field("cache_dir", &self.cache_dir).field("listen", &self.listen).finish()
    }
}
