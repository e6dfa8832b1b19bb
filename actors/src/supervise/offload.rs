//! Work that would hold up an arbiter: sealing in one pool, blocking file calls in another, so that an fsync never
//! waits for a compression nor the other way round.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use super::watched::panic_text;

/// Why a job gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The job panicked; the pool goes on.
    #[error("a job of the {pool} pool panicked: {text}")]
    Panicked {
        /// Which pool.
        pool: &'static str,
        /// The panic's text.
        text: String,
    },
    /// The pool is being shut down.
    #[error("the {pool} pool is shut down")]
    Closed {
        /// Which pool.
        pool: &'static str,
    },
}

/// A fixed number of threads with a bound on the jobs that wait for them.
#[derive(Debug, Clone)]
pub struct OffloadPool {
    name: &'static str,
    threads: Arc<rayon::ThreadPool>,
    jobs: Arc<Semaphore>,
    jobs_max: u32,
}

impl OffloadPool {
    /// A pool of `threads` threads, in which at most `jobs_max` jobs run or wait.
    pub fn new(name: &'static str, threads: usize, jobs_max: u32) -> io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(move |n| format!("{name}-{n}"))
            .build()
            .map_err(io::Error::other)?;
        let jobs_max = jobs_max.max(1);
        Ok(Self { name, threads: Arc::new(pool), jobs: Arc::new(Semaphore::new(jobs_max as usize)), jobs_max })
    }

    /// A pool for CPU work: one core is left for the arbiters, and twice as many jobs as threads may wait.
    pub fn for_cpu() -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1)).max(1);
        Self::new("seal", threads, 2 * threads as u32 + 2)
    }

    /// Runs `job` on a thread of the pool. A dropped future leaves the job running; its place in the pool is taken
    /// until it is over.
    #[expect(clippy::disallowed_methods, reason = "the one place: the panic is caught inside the job")]
    pub async fn run<T, F>(&self, job: F) -> Result<T, OffloadError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let closed = OffloadError::Closed { pool: self.name };
        let permit = self.jobs.clone().acquire_owned().await.map_err(|_| closed.clone())?;
        let (answer, result) = oneshot::channel();
        self.threads.spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(job));
            drop(permit);
            // The asker may be gone: then nobody wants the result, and dropping it may panic no more than the job.
            drop(catch_unwind(AssertUnwindSafe(|| drop(answer.send(result)))));
        });
        match result.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(panic)) => Err(OffloadError::Panicked { pool: self.name, text: panic_text(&*panic) }),
            Err(_) => Err(closed),
        }
    }

    /// Takes no further job and waits for those that were taken.
    pub async fn drain(&self) {
        if self.jobs.acquire_many(self.jobs_max).await.is_ok() {
            self.jobs.close();
        }
    }

    /// Jobs that run or wait for a thread.
    pub fn jobs_under_way(&self) -> usize {
        (self.jobs_max as usize).saturating_sub(self.jobs.available_permits())
    }
}
