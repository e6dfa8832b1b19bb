//! When a child is started again, and when it is given up.

use std::time::Duration;

/// When to restart, and when to give up.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    /// The pause before the first restart within the window; it doubles with each further one.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// More restarts than this within the window: the child is given up.
    pub restarts_max: usize,
    /// How long a restart counts.
    pub window: Duration,
    /// A child that shows no progress for this long is aborted and counts as failed.
    pub stall_max: Duration,
    /// How many children are started at once where many are due, and the pause until the next lot: a storm is spread.
    pub starts_max: usize,
    /// See `starts_max`.
    pub starts_pause: Duration,
}

impl Default for RestartPolicy {
    /// Chosen: a first panic is healed before an agent's second batch times out (10 ms); ten restarts in a minute are a
    /// defect that does not go away by restarting; half a minute without a heartbeat is longer than any pause of a
    /// healthy machine under memory pressure.
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(5),
            restarts_max: 10,
            window: Duration::from_secs(60),
            stall_max: Duration::from_secs(30),
            starts_max: 200,
            starts_pause: Duration::from_millis(20),
        }
    }
}

impl RestartPolicy {
    /// The pause before the next start, where `recent` restarts lie within the window.
    pub fn backoff(&self, recent: usize) -> Duration {
        self.backoff_min.saturating_mul(1 << recent.min(16)).min(self.backoff_max)
    }
}
