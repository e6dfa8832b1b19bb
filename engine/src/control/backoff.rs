//! How long to wait before the next try: doubled, bounded, spread.

use std::time::Duration;

use crate::ids::Chance;

/// Waits between tries. Each is drawn between half and all of a bound that doubles, so that members that lost the same
/// server do not come back in one wave.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    /// Begins at `min`, ends at `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, tries: 0 }
    }

    /// The wait before the next try.
    pub fn next(&mut self, chance: &mut dyn Chance) -> Duration {
        let bound = self.min.saturating_mul(1 << self.tries.min(20)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        let mut draw = [0; 2];
        chance.fill(&mut draw);
        let half = bound / 2;
        half + half.mul_f64(f64::from(u16::from_le_bytes(draw)) / f64::from(u16::MAX))
    }

    /// A try succeeded: begin at `min` again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u8);

    impl Chance for Always {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn waits_double_up_to_the_bound_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut most = Always(0xff);
        let waits: Vec<u128> = (0..6).map(|_| backoff.next(&mut most).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(&mut Always(0)), Duration::from_millis(50));
        for _ in 0..100 {
            assert!(backoff.next(&mut most) <= Duration::from_secs(1));
        }
    }
}
