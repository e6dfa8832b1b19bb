//! The time and the chance of the process, read in one place so that everything else takes them as values.

use std::time::{SystemTime, UNIX_EPOCH};

use farshore_engine::ids::{Chance, Timestamp};
use rand::TryRngCore;
use rand::rngs::OsRng;

/// What the wall clock says. Only labels are made of it, never an order.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_clock() -> Timestamp {
    let now = SystemTime::now();
    let micros = match now.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Timestamp(micros)
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
