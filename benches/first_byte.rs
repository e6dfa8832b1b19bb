//! How long the first byte of a point takes, from a folder, with nothing in the process's memory: the log's footers are read
//! and chained, the disk's map is made, one frame is fetched and checked. Warm: the objects are in the page cache. Cold: they
//! were dropped from it.
//!
//! `cargo bench --bench first_byte [-- SEGMENTS WRITES]`: a log of that many segments (1,000) with that many random
//! writes of 512 bytes each (500) on a disk of 256 MiB. The bar: one second, warm and cold.

mod rig;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::ids::DiskNo;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::test_log::{Seeded, TestLog};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::folder::FolderStore;
use rand::Rng;
use rig::report::{Bar, Report};
use rig::{is_bench, median, sized};
use rustix::fs::{Advice, fadvise};
use tokio::runtime::Runtime;

const DISK_BYTES: u64 = 256 << 20;
const WRITE_BYTES: u64 = 512;
const BAR_SECONDS: f64 = 1.0;
const TURNS: usize = 5;

async fn log(segments: usize, writes: usize) -> TestLog {
    let mut log = TestLog::new(&[DISK_BYTES]).await;
    let mut rng = Seeded::new(1);
    for segment in 0..segments {
        for _ in 0..writes {
            let (at, byte) = (rng.0.random_range(0..DISK_BYTES / WRITE_BYTES), rng.0.random());
            log.write(0, at * WRITE_BYTES, &[byte; WRITE_BYTES as usize]);
        }
        if segment + 1 == segments {
            log.mark();
        }
        log.end_segment().await;
    }
    log
}

/// Drops every file below a folder from the page cache.
fn drop_from_cache(dir: &Path) {
    for entry in fs::read_dir(dir).expect("it lists") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            drop_from_cache(&path);
        } else {
            let file = File::open(&path).expect("it opens");
            // Only what is on the disk can be dropped.
            file.sync_data().expect("it syncs");
            fadvise(&file, 0, None, Advice::DontNeed).expect("the kernel takes the advice");
        }
    }
}

/// Opens the log anew and reads one block of its newest point.
fn first_byte(dir: &Path, log: &TestLog, turn: usize, runtime: &Runtime) -> Duration {
    let store = FolderStore::open_read_only(dir, runtime.handle().clone()).expect("it opens");
    runtime.block_on(async {
        let begun = Instant::now();
        let source = LogSource::new(Arc::new(store), log.machine, log.key.clone());
        let reader = TimelineReader::open(source, log.timeline).await.expect("it reads");
        let point = reader.newest().expect("a point");
        let frames = Arc::new(FrameCache::new(64 << 20));
        let volume = Volume::of_point(&reader, &point, DiskNo(0), frames, VolumeLimits::default()).expect("covered");
        let mut bytes = [0; 4096];
        volume.read(4096 * turn as u64, &mut bytes).await.expect("it reads");
        let taken = begun.elapsed();
        let model = &log.taken[0].disks[&DiskNo(0)];
        assert!(bytes == model[4096 * turn..4096 * (turn + 1)], "the right bytes");
        taken
    })
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let segments = numbers.first().copied().unwrap_or_else(|| sized(50, 1000));
    let writes = numbers.get(1).copied().unwrap_or(500);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let mut report = Report::new("first_byte");
    let log = runtime.block_on(async {
        let log = log(segments, writes).await;
        for line in log.store.list("", None, usize::MAX).await.expect("it lists") {
            let path = dir.path().join(line.name.as_str());
            fs::create_dir_all(path.parent().expect("objects lie in folders")).expect("a folder");
            fs::write(path, log.object(&line.name).await).expect("an object");
        }
        log
    });
    report.tell("segments", segments as f64, "");
    report.tell("writes in each", writes as f64, "");
    for (name, cold) in [("cold", true), ("warm", false)] {
        let turn = |turn| {
            if cold {
                drop_from_cache(dir.path());
            }
            first_byte(dir.path(), &log, turn, &runtime).as_secs_f64()
        };
        let seconds = median((0..TURNS).map(turn).collect());
        report.judge(format!("first byte, {name}"), seconds, "s", Bar::AtMost(BAR_SECONDS));
    }
    report.finish()
}
