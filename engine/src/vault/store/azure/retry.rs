//! When a call is tried again: one owner of all retries, with a budget, and never before the service said.

use std::time::Duration;

use parking_lot::Mutex;

/// Bounds of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    /// Most tries of a call.
    pub tries_max: u32,
    /// The first pause; each further one is twice as long.
    pub pause_min: Duration,
    /// The longest pause that we choose; the service may ask for more.
    pub pause_max: Duration,
    /// Longest that a call may go on: no pause is begun that would end later.
    pub total_max: Duration,
    /// Longest that a request may go without any progress.
    pub stall: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            tries_max: 6,
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(8),
            // Half of what the data plane waits for a store: what follows is its own pause and a look.
            total_max: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

impl RetryLimits {
    /// How long to wait before the next try; `None`: give up. `chance` is between 0 and 1.
    pub(super) fn pause(&self, tries: u32, spent: Duration, asked: Option<Duration>, chance: f64) -> Option<Duration> {
        if tries >= self.tries_max {
            return None;
        }
        let ours = self.pause_max.min(self.pause_min * (1 << (tries.max(1) - 1).min(16)));
        // Between half and all of it, so that many callers do not come back at once.
        let ours = ours.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        let pause = ours.max(asked.unwrap_or_default());
        (spent + pause <= self.total_max).then_some(pause)
    }
}

/// Retries that the whole store may still spend: a service in trouble is not loaded further by us. Each success earns a
/// tenth of one.
#[derive(Debug)]
pub(super) struct Budget(Mutex<f64>);

/// What a store begins with, and most that it can have.
const BUDGET_MAX: f64 = 100.0;
const EARNED: f64 = 0.1;

impl Budget {
    pub(super) fn new() -> Self {
        Self(Mutex::new(BUDGET_MAX))
    }

    pub(super) fn earn(&self) {
        let mut left = self.0.lock();
        *left = (*left + EARNED).min(BUDGET_MAX);
    }

    /// Whether one more retry may be done.
    pub(super) fn spend(&self) -> bool {
        let mut left = self.0.lock();
        let may = *left >= 1.0;
        if may {
            *left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_never_shorter_than_the_service_asked() {
        let (limits, soon) = (RetryLimits::default(), Duration::ZERO);
        let ours: Vec<_> = (1..6).map(|tries| limits.pause(tries, soon, None, 1.0).expect("again")).collect();
        assert!(ours.windows(2).all(|pair| pair[1] == pair[0] * 2), "{ours:?}");
        assert_eq!(limits.pause(1, soon, None, 0.0), Some(limits.pause_min / 2));
        assert_eq!(limits.pause(6, soon, None, 0.0), None, "the last try was the last");
        assert_eq!(limits.pause(1, soon, Some(Duration::from_secs(20)), 1.0), Some(Duration::from_secs(20)));
        let late = Duration::from_secs(45);
        assert_eq!(limits.pause(1, late, Some(Duration::from_secs(20)), 1.0), None, "that would end too late");
    }

    #[test]
    fn a_store_in_trouble_runs_out_of_retries_and_earns_them_back() {
        let budget = Budget::new();
        let spent = (0..1000).filter(|_| budget.spend()).count();
        assert_eq!(spent, 100);
        (0..11).for_each(|_| budget.earn());
        assert!(budget.spend() && !budget.spend());
    }
}
