//! How much of the machine's CPUs this process uses.

use std::time::Duration;

use tokio::time::Instant;

/// Clock ticks per second of /proc, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Shorter spans give the last value: ticks are too coarse for them.
const SPAN_MIN: Duration = Duration::from_millis(500);

/// Measures from one question to the next.
#[derive(Debug)]
pub(super) struct CpuMeter {
    seen: Option<(Instant, f64)>,
    share: f64,
}

impl Default for CpuMeter {
    fn default() -> Self {
        Self { seen: None, share: 0.0 }
    }
}

impl CpuMeter {
    /// Share of all CPUs since the last question, 0 to 1; 0 where the system does not tell.
    pub(super) fn share(&mut self) -> f64 {
        let (now, used) = (Instant::now(), used_seconds().unwrap_or(0.0));
        match self.seen {
            Some((at, _)) if now.duration_since(at) < SPAN_MIN => return self.share,
            Some((at, before)) => {
                let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
                let span = now.duration_since(at).as_secs_f64() * cores;
                self.share = ((used - before) / span).clamp(0.0, 1.0);
            }
            None => {}
        }
        self.seen = Some((now, used));
        self.share
    }
}

fn used_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the command's name, which may hold anything but ends at the last parenthesis: fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}
