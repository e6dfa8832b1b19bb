//! Backpressure that cannot be gone around: a permit for bytes is taken at the edge (the socket), travels inside the
//! message, and is free again when the work is done or the message dies with its actor.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this, so that a pool may be larger than 4 GiB.
const UNIT_BYTES: usize = 4096;

/// How many bytes may be under way.
#[derive(Debug, Clone)]
pub struct CreditPool {
    units: Arc<Semaphore>,
    units_max: usize,
}

/// Permission to hold some bytes; given back when dropped.
#[derive(Debug)]
pub struct Credit {
    _permit: OwnedSemaphorePermit,
}

impl CreditPool {
    /// A pool of `bytes_max`, at least one unit of 4 KiB.
    pub fn new(bytes_max: usize) -> Self {
        let units_max = (bytes_max / UNIT_BYTES).clamp(1, u32::MAX as usize);
        Self { units: Arc::new(Semaphore::new(units_max)), units_max }
    }

    /// Waits until `bytes` may be held. A single request larger than the pool takes the whole pool.
    pub async fn take(&self, bytes: usize) -> Credit {
        let units = bytes.div_ceil(UNIT_BYTES).clamp(1, self.units_max);
        let permit = self.units.clone().acquire_many_owned(units as u32).await;
        Credit { _permit: permit.expect("a credit pool is never closed") }
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }

    /// Bytes of the whole pool.
    pub fn bytes_max(&self) -> usize {
        self.units_max * UNIT_BYTES
    }
}
