//! The seeded simulator: the pure cores wired together on one thread, in virtual time, with faults drawn from one seed.
//!
//! [`chance`] is where its randomness comes from; [`maker`] is a machine that writes.

pub mod chance;
pub mod maker;
