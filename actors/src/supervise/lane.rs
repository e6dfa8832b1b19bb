//! A lane: blocking jobs over one resource (a machine's cache directory) that never overlap, over all lives of its
//! owner. A job that an aborted life had begun may still run in its pool; the next life waits for it, and a job that the
//! old life had only queued is refused. So no life ever writes beside its successor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::Semaphore;

use super::{OffloadError, OffloadPool};

/// The resource's lane; kept by the owner's parent, so that it outlives the owner's lives.
#[derive(Debug, Clone)]
pub struct Lane {
    gate: Arc<Semaphore>,
    newest: Arc<AtomicU64>,
}

/// One life's right to use the lane, until the next life takes its turn.
#[derive(Debug, Clone)]
pub struct LaneTurn {
    lane: Lane,
    turn: u64,
}

/// Why a job of the lane gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// A later life has taken the lane: this one must not touch the resource again.
    #[error("a later life of this actor uses the resource now")]
    Superseded,
    /// The pool did not run the job to its end.
    #[error(transparent)]
    Offload(#[from] OffloadError),
}

impl Default for Lane {
    fn default() -> Self {
        Self { gate: Arc::new(Semaphore::new(1)), newest: Arc::default() }
    }
}

impl Lane {
    /// Takes the lane over from the life before.
    pub fn take_turn(&self) -> LaneTurn {
        let turn = self.newest.fetch_add(1, SeqCst) + 1;
        LaneTurn { lane: self.clone(), turn }
    }
}

impl LaneTurn {
    /// Runs `job` after every earlier job of the lane.
    pub async fn run<T, F>(&self, pool: &OffloadPool, job: F) -> Result<T, TurnError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let gate = self.lane.gate.clone().acquire_owned().await.expect("a lane is never closed");
        let (newest, turn) = (self.lane.newest.clone(), self.turn);
        let checked = move || {
            let _gate = gate;
            (newest.load(SeqCst) == turn).then(job)
        };
        pool.run(checked).await?.ok_or(TurnError::Superseded)
    }
}
