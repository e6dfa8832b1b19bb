//! A whole installation at work, real processes: what replication takes from an application, how far the replica is behind,
//! how much memory it needs.
//!
//! `cargo bench --bench under_load`. The bars: with replication running, random writes of 4 KiB at depth 16 reach 0.6 of what
//! they do while it is paused (the servers stopped by a signal), all of them are committed 10 s after the last one, and none
//! has left the ordered stream. Under steady 20 MB/s of random writes a mark is committed and readable in the vault 2 s after its
//! capture (median), 5 s in 99 of 100 cases. The agent never has more than 256 MiB, the servers 200 MiB and 1 MiB for each machine
//! beside their buffers.

mod rig;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farshore_engine::ids::DiskNo;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::open_vault::OpenVault;
use farshore_engine::vault::read::points::RecoveryPoint;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use rig::fio::{DEPTH_16, filled, turn, turn_seconds};
use rig::report::{Bar, Report};
use rig::site::{BUFFERS_MIB, Machine, Site, reader};
use rig::{is_bench, median, quantile, sized};
use tokio::runtime::Runtime;

const MIB: f64 = (1 << 20) as f64;

fn lost_writes(machine: &Machine) -> f64 {
    let status = machine.settled(Duration::from_secs(600));
    status["disks"][0]["lost_writes"].as_u64().expect("a count") as f64
}

/// fio at full speed, with the servers stopped and with replication running, in turns.
fn replication_beside_application(site: &Site, machine: &Machine, mib: u64, report: &mut Report) {
    let (mut paused, mut running, mut settling, mut p99, mut lost) = (vec![], vec![], vec![], vec![], 0.0);
    for _ in 0..sized(1, 3) {
        site.servers.signal("STOP");
        paused.push(turn(&machine.uri(), mib, turn_seconds(), DEPTH_16.args).per_second);
        site.servers.signal("CONT");
        let before = lost_writes(machine);
        let turn = turn(&machine.uri(), mib, turn_seconds(), DEPTH_16.args);
        let ended = Instant::now();
        running.push(turn.per_second);
        p99.push(turn.p99_milliseconds);
        lost += lost_writes(machine) - before;
        settling.push(ended.elapsed().as_secs_f64());
    }
    let (paused, running) = (median(paused), median(running));
    report.tell("depth 16: replication paused", paused, "/s");
    report.tell("depth 16: replication running", running, "/s");
    report.tell("depth 16: replication running, p99", median(p99), "ms");
    report.judge("depth 16: running / paused", running / paused, "", Bar::AtLeast(0.6));
    report.judge("all committed after the last write", quantile(&settling, 1000), "s", Bar::AtMost(10.0));
    report.judge("writes that left the ordered stream", lost, "", Bar::AtMost(0.0));
}

/// Reads the beginning of the disk at a point.
async fn read_back(reader: &TimelineReader, point: &RecoveryPoint, frames: &Arc<FrameCache>) {
    let volume = Volume::of_point(reader, point, DiskNo(0), frames.clone(), VolumeLimits::default());
    let mut bytes = [0; 4096];
    volume.expect("the point covers the disk").read(0, &mut bytes).await.expect("it reads");
}

/// Seconds from a mark's capture until it was found in the vault and read back, of every mark of the load.
fn lags(reader: &mut TimelineReader, runtime: &Runtime, load: &std::thread::JoinHandle<()>) -> Vec<f64> {
    let frames = Arc::new(FrameCache::new(16 << 20));
    let mut seen: BTreeSet<_> = reader.points().iter().map(|point| point.id).collect();
    let mut lags = Vec::new();
    while !load.is_finished() {
        runtime.block_on(async {
            reader.refresh().await.expect("the vault reads");
            let new: Vec<_> = reader.points().into_iter().filter(|point| seen.insert(point.id)).collect();
            let Some(newest) = new.last() else { return };
            read_back(reader, newest, &frames).await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64;
            lags.extend(new.iter().map(|point| (now - point.captured_at.0) as f64 / 1e6));
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    lags
}

fn rpo(vault: &OpenVault, runtime: &Runtime, machine: &Machine, mib: u64, report: &mut Report) {
    let mut reader = reader(vault, runtime, "m");
    let (uri, seconds) = (machine.uri(), sized(5, 60));
    let load = std::thread::spawn(move || {
        let args = ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--rate=20m", "--rate_process=linear"];
        turn(&uri, mib, seconds, &args);
    });
    let lags = lags(&mut reader, runtime, &load);
    load.join().expect("fio ends");
    report.tell("20 MB/s: marks seen", lags.len() as f64, "");
    report.judge("20 MB/s: capture to read back, median", quantile(&lags, 500), "s", Bar::AtMost(2.0));
    report.judge("20 MB/s: capture to read back, p99", quantile(&lags, 990), "s", Bar::AtMost(5.0));
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let mib = sized(64, 1024);
    let mut report = Report::new("under_load");
    let dir = tempfile::tempdir().expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let image = dir.path().join("disk.img");
    filled(&image, mib);
    let site = Site::start(dir.path());
    let vault = site.vault(&runtime);
    report.tell("servers: memory before any machine", site.servers.resident_bytes() as f64 / MIB, "MiB");
    let machine = Machine::start(dir.path(), &site, "m", &image, &site.token(1));
    machine.exported();
    machine.settled(Duration::from_secs(600));
    rpo(&vault, &runtime, &machine, mib, &mut report);
    machine.settled(Duration::from_secs(600));
    replication_beside_application(&site, &machine, mib, &mut report);
    report.judge("agent: most memory", machine.agent.peak_bytes() as f64 / MIB, "MiB", Bar::AtMost(256.0));
    let servers = site.servers.peak_bytes() as f64 / MIB;
    report.judge("servers: most memory", servers, "MiB", Bar::AtMost(200.0 + 1.0 + BUFFERS_MIB));
    machine.agent.stop();
    site.servers.stop();
    report.finish()
}
