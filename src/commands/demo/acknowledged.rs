//! What a database has answered for, and when: what a point of a later moment must have.

use std::sync::{Arc, Mutex, PoisonError};

use farshore_engine::ids::Timestamp;

/// The transfers that were answered for, with the time right after the answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged(Arc<Mutex<Vec<(Timestamp, u64)>>>);

impl Acknowledged {
    /// Transfer `id` was answered for before `at`.
    pub(super) fn note(&self, at: Timestamp, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((at, id));
    }

    /// The last transfer that was answered for until now.
    pub(super) fn newest(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |(_, id)| *id)
    }

    /// The last transfer that was answered for before `time`: what a point of that time must have.
    pub(super) fn before(&self, time: Timestamp) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().take_while(|(at, _)| *at < time).last().map_or(0, |(_, id)| *id)
    }
}
