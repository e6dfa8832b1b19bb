//! Hydration: all that a served disk needs is brought near in the background, in order of place, while it is read already.
//!
//! It reads the vault as readers do, frame by frame, and keeps what opens; what lies near already is not fetched again, so an
//! interrupted hydration goes on where it was. Bounds: one window of the map and a read's frames in memory.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::error::ReadError;
use super::volume::Volume;

/// How far hydration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hydration {
    /// Up to which place of the disk everything is near.
    pub reached: u64,
    /// The disk's size, in bytes.
    pub size_bytes: u64,
    /// Bytes fetched.
    pub fetched_bytes: u64,
    /// It ended here: the folder has no room for more.
    pub full: bool,
}

impl Hydration {
    /// Whether the whole disk is near.
    pub fn is_done(&self) -> bool {
        self.reached >= self.size_bytes
    }
}

/// Brings a disk near, telling how far it is after each stretch.
///
/// # Errors
/// The vault does not answer, or holds damage.
pub async fn hydrate(volume: &Volume, told: impl Fn(Hydration)) -> Result<Hydration, ReadError> {
    let (size_bytes, bytes) = (volume.info().size_bytes, AtomicU64::new(0));
    let mut now = Hydration { reached: 0, size_bytes, fetched_bytes: 0, full: false };
    while !now.is_done() && !now.full {
        let next = volume.bring_stretch(now.reached, &bytes).await?;
        now.full = next.is_none();
        now.reached = next.unwrap_or(now.reached);
        now.fetched_bytes = bytes.load(Relaxed);
        told(now);
    }
    Ok(now)
}
