//! Where work on the vault happens that may wait: merging and scrubbing. Threads of its own for the whole process server, so
//! that it never holds up an arbiter; one merge and one scrub at a time, so that memory is bounded by one of each.
//!
//! Work goes on when its actor ends, until it is next asked whether it may.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use farshore_engine::cache::limits::Pressure;
use farshore_engine::vault::merge::Pace;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;

use super::wiring::Wiring;

/// Pause before it is looked again whether the cache has room.
const PRESSURE_PAUSE: Duration = Duration::from_millis(250);

/// The threads.
#[derive(Debug)]
pub(super) struct BackRoom {
    runtime: Option<Runtime>,
}

impl BackRoom {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("back-room").enable_all().build()?;
        Ok(Self { runtime: Some(runtime) })
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

impl Drop for BackRoom {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed where the last holder may be an actor; what is cut off is done again.
            runtime.shutdown_background();
        }
    }
}

/// Says to the work of an actor's life that it shall end, when that life does.
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
pub(super) struct Throttle {
    pub(super) over: Arc<AtomicBool>,
    pub(super) wiring: Arc<Wiring>,
    pub(super) bytes_per_second_max: u64,
}

#[async_trait::async_trait]
impl Pace for Throttle {
    async fn go_on(&self, bytes: u64) -> bool {
        let is_over = || self.over.load(SeqCst);
        while !is_over() && !matches!(self.wiring.pressure(), Pressure::Normal | Pressure::Warning) {
            tokio::time::sleep(PRESSURE_PAUSE).await;
        }
        let rate = self.bytes_per_second_max.max(1);
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
        !is_over()
    }
}
