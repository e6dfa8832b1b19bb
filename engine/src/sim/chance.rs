//! Randomness out of one seed.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::ids::Chance;

/// A seeded source of chance: the same seed gives the same run.
#[derive(Debug, Clone)]
pub struct SeededChance(SmallRng);

impl SeededChance {
    /// The chance of this seed.
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.random_range(0..end)
    }

    /// A number of `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..=to)
    }

    /// Whether something happens that does `thousandths` times in a thousand.
    pub fn happens(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

impl Chance for SeededChance {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}
