//! The threads that actors live on: made once by the process's wiring, each with a bounded blocking pool of its own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use actix::prelude::*;
use parking_lot::Mutex;

/// Blocking threads of one arbiter. Own blocking work goes to an `OffloadPool`; this is for what libraries do (name
/// look-ups, the folder store's files).
const BLOCKING_THREADS_MAX: usize = 4;

/// A fixed set of arbiters.
#[derive(Debug, Clone)]
pub struct Arbiters {
    handles: Arc<[ArbiterHandle]>,
    threads: Arc<Mutex<Vec<Arbiter>>>,
}

impl Arbiters {
    /// Starts `count` arbiters (at least one). Must be called where an actix `System` runs.
    pub fn start(count: usize) -> io::Result<Self> {
        let arbiters = (0..count.max(1)).map(|_| Self::start_one()).collect::<io::Result<Vec<_>>>()?;
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        Ok(Self { handles, threads: Arc::new(Mutex::new(arbiters)) })
    }

    fn start_one() -> io::Result<Arbiter> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        Arbiter::try_with_tokio_rt(move || Ok(runtime))
    }

    /// The arbiter for `key`: the same one as long as the same ones live; `None` when all are lost.
    pub fn for_key(&self, key: &impl Hash) -> Option<ArbiterHandle> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let live: Vec<_> = self.handles.iter().filter(|handle| handle.alive()).collect();
        live.get(hasher.finish() as usize % live.len().max(1)).map(|handle| (*handle).clone())
    }

    /// Every arbiter that was started, lost ones too.
    pub fn handles(&self) -> &[ArbiterHandle] {
        &self.handles
    }

    /// Stops every arbiter and waits for their threads, at most for `limit`; says whether all are gone. Blocks: call it
    /// from the wiring after the actors were retired, never from an arbiter.
    pub fn stop_and_join(&self, limit: Duration) -> bool {
        let arbiters = std::mem::take(&mut *self.threads.lock());
        let (count, until) = (arbiters.len(), Instant::now() + limit);
        let (done, joined) = channel();
        for arbiter in arbiters {
            arbiter.stop();
            let done = done.clone();
            // A thread that is blocked is never joined; it must not hold up the others, nor the end of the process.
            std::thread::spawn(move || {
                drop(arbiter.join());
                // Nobody waits any more once the limit is over.
                done.send(()).unwrap_or_default();
            });
        }
        (0..count).all(|_| joined.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok())
    }
}

/// Where a warden's children live.
#[derive(Debug, Clone)]
pub enum Placement {
    /// On the arbiter that their parent lives on.
    WithParent,
    /// Spread over these by the child's id.
    Spread(Arbiters),
}

impl Placement {
    pub(super) fn choose(&self, child: &impl Hash) -> Option<ArbiterHandle> {
        match self {
            Self::WithParent => Arbiter::try_current(),
            Self::Spread(arbiters) => arbiters.for_key(child),
        }
    }
}
