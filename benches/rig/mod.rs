//! What the benches share: sizes for a full and a quick run, a report that is printed as a table and kept as JSON, fio, the
//! servers to compare with, and whole installations of this binary.
//!
//! Absolute figures of a shared machine say little; what is judged are ratios of things that took turns in one run, CPU
//! times, and latencies. A bar that is missed fails the bench, except in a quick run (`FARSHORE_BENCH_QUICK=1`), which only
//! shows that everything works.

#![allow(dead_code, unreachable_pub, reason = "each bench uses its part of the rig")]

pub mod fio;
pub mod image;
pub mod payload;
pub mod process;
pub mod report;
pub mod site;

use std::time::{Duration, Instant};

/// Whether this is a bench and not `cargo test --all-targets`, which only asks whether it was built.
pub fn is_bench() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// Whether only a smoke test is asked for.
pub fn is_quick() -> bool {
    std::env::var_os("FARSHORE_BENCH_QUICK").is_some()
}

/// `full`, or `quick` in a smoke test.
pub fn sized<T>(quick: T, full: T) -> T {
    if is_quick() { quick } else { full }
}

/// Waits until `probe` gives a value; panics with `what` and the last reason after `patience`.
pub fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(why) => assert!(begun.elapsed() < patience, "waited {patience:?} for {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a median of something");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which so many thousandths lie.
pub fn quantile(values: &[f64], thousandths: usize) -> f64 {
    assert!(!values.is_empty(), "a quantile of something");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * thousandths / 1000).min(sorted.len() - 1)]
}

/// CPU time of this thread: what else the machine does does not count.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
