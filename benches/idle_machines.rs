//! A process server with a thousand machines that do nothing: what their sessions, actors and caches take, and what it costs to
//! keep them at their recovery points.
//!
//! `cargo bench --bench idle_machines`. The bar: the servers hold 200 MiB and 1 MiB for each machine beside their buffers.

mod rig;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rig::report::{Bar, Report};
use rig::site::{BUFFERS_MIB, Site};
use rig::{eventually, is_bench, sized};

const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let count: u32 = sized(20, 1000);
    let mut report = Report::new("idle_machines");
    let dir = tempfile::tempdir().expect("a directory");
    let site = Site::start(dir.path());
    let empty = site.servers.resident_bytes() as f64 / MIB;
    let begun = Instant::now();
    let crowd = site.crowd(count, 0.0);
    eventually("every machine to be in order", Duration::from_secs(600), || {
        let machines = &site.ctl(&["overview"])["machines"];
        if machines["protected"] == count { Ok(()) } else { Err(machines.to_string()) }
    });
    report.tell("machines", f64::from(count), "");
    report.tell("from nothing to all protected", begun.elapsed().as_secs_f64(), "s");
    let (cpu, watched) = (site.servers.cpu(), Duration::from_secs(sized(5, 60)));
    std::thread::sleep(watched);
    let cpu = (site.servers.cpu() - cpu).as_secs_f64() / watched.as_secs_f64();
    report.tell("servers: cores in use while all idle", cpu, "");
    let (now, most) = (site.servers.resident_bytes() as f64 / MIB, site.servers.peak_bytes() as f64 / MIB);
    report.tell("servers: memory before any machine", empty, "MiB");
    report.tell("servers: memory of one machine", (now - empty) / f64::from(count), "MiB");
    report.judge("servers: most memory", most, "MiB", Bar::AtMost(200.0 + f64::from(count) + BUFFERS_MIB));
    report.tell("synthetic agents: memory of one", crowd.resident_bytes() as f64 / MIB / f64::from(count), "MiB");
    crowd.stop();
    site.servers.stop();
    report.finish()
}
