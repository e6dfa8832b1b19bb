//! What happens when the cache runs short of room. Pure: measured room in, a decision out.
//!
//! ```text
//!   room left   100 % ─────── 30 % ─────── 25 % ─────── 20 % ────────── floor ── 0
//!               Normal         Warning      Critical     Throttled        Refusing
//!                                                        credit shrinks   agents go down their ladder
//!                                                        with the room
//! ```
//!
//! Room is the smaller of two shares: what is free on the cache's file system, of as much of it as the cache may take, and
//! what is left of the budget. Committed
//! segments count as room: they stay only while nobody needs it, and the oldest go first. A full disk loses nothing:
//! what cannot be appended is not acknowledged.

use super::io::Space;

/// Shares are counted in thousandths.
const WHOLE: u64 = 1000;

/// When which pressure begins. Shares are thousandths of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most bytes of all segment files together.
    pub budget_bytes: u64,
    /// Below it the operator is told.
    pub warning_share: u64,
    /// Below it the operator must act.
    pub critical_share: u64,
    /// Below it agents get less credit.
    pub throttle_share: u64,
    /// Below it nothing more is accepted.
    pub floor_share: u64,
}

impl Default for CacheLimits {
    /// 10 GiB; 30, 25 and 20 % are what Site Recovery's operators know; the floor of 5 % is chosen: footers and the file
    /// system's own needs fit into it.
    fn default() -> Self {
        Self { budget_bytes: 10 << 30, warning_share: 300, critical_share: 250, throttle_share: 200, floor_share: 50 }
    }
}

/// What the cache holds, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUsage {
    /// Room on its file system.
    pub space: Space,
    /// Bytes of segments that are not committed.
    pub waiting_bytes: u64,
    /// Bytes of segments that are committed and could go.
    pub committed_bytes: u64,
}

/// How short room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// It is not.
    Normal,
    /// Below 30 %.
    Warning,
    /// Below 25 %.
    Critical,
    /// Below 20 %: agents get `credit_share` thousandths of their credit.
    Throttled {
        /// Never 0, falling with the room.
        credit_share: u64,
    },
    /// At the floor: nothing is accepted, agents go down their ladder.
    Refusing,
}

impl Pressure {
    /// How much of its full credit an agent gets.
    pub fn credit(self, full_bytes: u64) -> u64 {
        match self {
            Self::Normal | Self::Warning | Self::Critical => full_bytes,
            Self::Throttled { credit_share } => full_bytes / WHOLE * credit_share,
            Self::Refusing => 0,
        }
    }
}

impl CacheLimits {
    /// The room that is left, in thousandths.
    pub fn room_share(&self, usage: &CacheUsage) -> u64 {
        // Of a disk that is larger than the cache may ever be, only as much counts as the cache may take.
        let usable_bytes = usage.space.total_bytes.min(self.budget_bytes);
        let of_disk = share(usage.space.free_bytes.saturating_add(usage.committed_bytes), usable_bytes);
        let of_budget = share(self.budget_bytes.saturating_sub(usage.waiting_bytes), self.budget_bytes);
        of_disk.min(of_budget)
    }

    /// How short room is.
    pub fn pressure(&self, usage: &CacheUsage) -> Pressure {
        let room = self.room_share(usage);
        match room {
            _ if room <= self.floor_share => Pressure::Refusing,
            _ if room < self.throttle_share => {
                let above_floor = room - self.floor_share;
                let credit_share = (above_floor * WHOLE / (self.throttle_share - self.floor_share)).max(1);
                Pressure::Throttled { credit_share }
            }
            _ if room < self.critical_share => Pressure::Critical,
            _ if room < self.warning_share => Pressure::Warning,
            _ => Pressure::Normal,
        }
    }

    /// How many bytes of committed segments are to go, oldest first, so that the budget holds and the file system
    /// keeps its warning share free.
    pub fn bytes_to_evict(&self, usage: &CacheUsage) -> u64 {
        let over_budget = usage.waiting_bytes.saturating_add(usage.committed_bytes).saturating_sub(self.budget_bytes);
        let free_wanted = usage.space.total_bytes / WHOLE * self.warning_share;
        let short_of_free = free_wanted.saturating_sub(usage.space.free_bytes);
        over_budget.max(short_of_free).min(usage.committed_bytes)
    }

    /// Which of the committed segments, given oldest first with their sizes, are to go.
    pub fn choose_evicted<T>(&self, usage: &CacheUsage, oldest_first: impl IntoIterator<Item = (T, u64)>) -> Vec<T> {
        let mut missing = self.bytes_to_evict(usage);
        let mut evicted = Vec::new();
        for (segment, bytes) in oldest_first {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(bytes);
            evicted.push(segment);
        }
        evicted
    }
}

fn share(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        0
    } else {
        u64::try_from(u128::from(part.min(whole)) * u128::from(WHOLE) / u128::from(whole)).unwrap_or(WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn usage(free_percent: u64, waiting_bytes: u64, committed_bytes: u64) -> CacheUsage {
        let total_bytes = 100 * GIB;
        CacheUsage { space: Space { total_bytes, free_bytes: free_percent * GIB }, waiting_bytes, committed_bytes }
    }

    #[test]
    fn pressure_rises_step_by_step_as_room_falls() {
        let limits = CacheLimits { budget_bytes: 1000 * GIB, ..CacheLimits::default() };
        let at = |percent| limits.pressure(&usage(percent, 0, 0));
        assert_eq!(at(30), Pressure::Normal);
        assert_eq!(at(29), Pressure::Warning);
        assert_eq!(at(25), Pressure::Warning);
        assert_eq!(at(24), Pressure::Critical);
        assert_eq!(at(20), Pressure::Critical);
        assert_eq!(at(19), Pressure::Throttled { credit_share: 933 });
        assert_eq!(at(6), Pressure::Throttled { credit_share: 66 });
        assert_eq!(at(5), Pressure::Refusing);
        assert_eq!(at(0), Pressure::Refusing);
        let credits: Vec<u64> = (0..100).map(|percent| at(percent).credit(1 << 20)).collect();
        assert!(credits.is_sorted(), "more room never means less credit");
    }

    #[test]
    fn the_budget_counts_as_much_as_the_disk() {
        let limits = CacheLimits::default();
        assert_eq!(limits.pressure(&usage(90, 7 * GIB, 0)), Pressure::Normal);
        assert_eq!(limits.pressure(&usage(90, 9 * GIB, 0)), Pressure::Throttled { credit_share: 333 });
        assert_eq!(limits.pressure(&usage(90, 10 * GIB, 0)), Pressure::Refusing);
        assert_eq!(limits.pressure(&usage(90, 0, 10 * GIB)), Pressure::Normal, "committed segments are room");
    }

    #[test]
    fn a_large_disk_that_is_nearly_full_is_no_reason_while_the_whole_cache_fits_in_what_is_free() {
        let limits = CacheLimits::default();
        assert_eq!(
            limits.pressure(&usage(10, 0, 0)),
            Pressure::Normal,
            "10 of 100 GiB are free, 10 are wanted at most"
        );
        assert_eq!(limits.pressure(&usage(2, 0, 0)), Pressure::Critical);
        assert_eq!(limits.pressure(&usage(0, 0, 0)), Pressure::Refusing);
    }

    #[test]
    fn committed_segments_go_oldest_first_and_waiting_ones_never() {
        let limits = CacheLimits::default();
        let files = || (0..8).map(|n| (n, GIB));
        assert_eq!(limits.choose_evicted(&usage(90, GIB, 8 * GIB), files()), Vec::<i32>::new());
        assert_eq!(limits.choose_evicted(&usage(90, 4 * GIB, 8 * GIB), files()), [0, 1]);
        assert_eq!(limits.choose_evicted(&usage(27, 0, 8 * GIB), files()), [0, 1, 2]);
        assert_eq!(limits.bytes_to_evict(&usage(0, 20 * GIB, GIB)), GIB, "only what is committed can go");
    }

    #[test]
    fn sizes_at_the_end_of_the_number_range_do_no_harm() {
        let space = Space { total_bytes: u64::MAX, free_bytes: u64::MAX };
        let full = CacheUsage { space, waiting_bytes: u64::MAX, committed_bytes: u64::MAX };
        assert_eq!(CacheLimits::default().pressure(&full), Pressure::Refusing);
        let none = CacheUsage { space: Space { total_bytes: 0, free_bytes: 0 }, waiting_bytes: 0, committed_bytes: 0 };
        assert_eq!(CacheLimits::default().pressure(&none), Pressure::Refusing);
    }
}
