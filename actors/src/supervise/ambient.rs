//! The time and the chance of the process, read in one place so that everything else takes them as values.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use farshore_engine::ids::{Chance, Timestamp};
use rand::TryRngCore;
use rand::rngs::OsRng;

/// How wrong the wall clock is made, in microseconds: for processes that may fail on purpose.
static CLOCK_OFFSET_MICROS: AtomicI64 = AtomicI64::new(0);

/// Sets the wall clock of this process wrong from now on.
pub fn set_clock_offset(milliseconds: i64) {
    CLOCK_OFFSET_MICROS.store(milliseconds.saturating_mul(1000), Relaxed);
}

/// What the wall clock says. Only labels are made of it, never an order.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_clock() -> Timestamp {
    let now = SystemTime::now();
    let micros = match now.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Timestamp(micros.saturating_add(CLOCK_OFFSET_MICROS.load(Relaxed)))
}

/// The operating system's randomness: for salts, ids and keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsChance;

impl Chance for OsChance {
    /// # Panics
    /// Where the operating system has no randomness to give: nothing may be sealed then.
    fn fill(&mut self, bytes: &mut [u8]) {
        OsRng.try_fill_bytes(bytes).expect("the operating system gives randomness");
    }
}
