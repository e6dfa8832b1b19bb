//! How many requests a caller may make: a bucket of tokens for each, refilled at a steady rate.

use std::collections::BTreeMap;
use std::time::Instant;

use farshore_actors::control::ledger::records::TokenId;
use parking_lot::Mutex;

/// Requests a second. Chosen: far beyond what dashboards and scripts need, below what hurts replication.
const PER_SECOND: f64 = 200.0;
/// Requests at once.
const BURST: f64 = 400.0;
/// What a request that changes something costs: each is a synced write of the state store.
const CHANGE_COSTS: f64 = 4.0;
/// Callers that are remembered at a time.
const CALLERS_MAX: usize = 4096;

/// Counts requests by caller; bounded.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<TokenId, (Instant, f64)>>);

impl Rates {
    /// Takes a request of this caller into account; whether it may go on.
    pub(crate) fn admit(&self, caller: TokenId, changes: bool, now: Instant) -> bool {
        let mut buckets = self.0.lock();
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(&caller) {
            buckets.retain(|_, (at, left)| *left + now.duration_since(*at).as_secs_f64() * PER_SECOND < BURST);
        }
        let (at, left) = buckets.entry(caller).or_insert((now, BURST));
        *left = (*left + now.duration_since(*at).as_secs_f64() * PER_SECOND).min(BURST);
        *at = now;
        let cost = if changes { CHANGE_COSTS } else { 1.0 };
        let fine = *left >= cost;
        if fine {
            *left -= cost;
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_let_through_then_the_rate_holds_and_callers_do_not_share() {
        let rates = Rates::default();
        let start = Instant::now();
        let count = |caller, now| (0..1000).filter(|_| rates.admit(TokenId(caller), false, now)).count();
        assert_eq!(count(1, start), BURST as usize);
        assert_eq!(count(2, start), BURST as usize);
        assert_eq!(count(1, start + Duration::from_secs(1)), PER_SECOND as usize);
        assert_eq!(count(1, start + Duration::from_secs(3600)), BURST as usize);
        assert!(!rates.admit(TokenId(1), true, start + Duration::from_secs(3600)));
    }
}
