//! How long the first byte of a point takes, from a folder, with nothing in memory: the log's footers are read and chained,
//! the disk's map is made, one frame is fetched and checked.
//!
//! `cargo bench --bench first_byte [-- SEGMENTS WRITES]`: a log of that many segments (1,000) with that many random
//! writes of 512 bytes each (500) on a disk of 256 MiB. The bar: one second.

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

const DISK_BYTES: u64 = 256 << 20;
const WRITE_BYTES: u64 = 512;
const BAR: Duration = Duration::from_secs(1);
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

fn main() {
    // `cargo test --all-targets` runs benches too, without this argument.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let segments = numbers.first().copied().unwrap_or(1000);
    let writes = numbers.get(1).copied().unwrap_or(500);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let log = runtime.block_on(async {
        let log = log(segments, writes).await;
        for line in log.store.list("", None, usize::MAX).await.expect("it lists") {
            let path = dir.path().join(line.name.as_str());
            std::fs::create_dir_all(path.parent().expect("objects lie in folders")).expect("a folder");
            std::fs::write(path, log.object(&line.name).await).expect("an object");
        }
        log
    });
    let mut totals = Vec::new();
    for turn in 0..TURNS {
        let store = FolderStore::open_read_only(dir.path(), runtime.handle().clone()).expect("it opens");
        let (opened, total, extents) = runtime.block_on(async {
            let began = Instant::now();
            let source = LogSource::new(Arc::new(store), log.machine, log.key.clone());
            let reader = TimelineReader::open(source, log.timeline).await.expect("it reads");
            let point = reader.newest().expect("a point");
            let opened = began.elapsed();
            let frames = Arc::new(FrameCache::new(64 << 20));
            let volume =
                Volume::of_point(&reader, &point, DiskNo(0), frames, VolumeLimits::default()).expect("covered");
            let mut bytes = [0; 4096];
            volume.read(4096 * turn as u64, &mut bytes).await.expect("it reads");
            let total = began.elapsed();
            let model = &log.taken[0].disks[&DiskNo(0)];
            assert!(bytes == model[4096 * turn..4096 * (turn + 1)], "the right bytes");
            (opened, total, volume.map(0).await.expect("a map").len())
        });
        println!("footers {opened:.2?}   first byte {total:.2?}   map of {extents} extents");
        totals.push(total);
    }
    totals.sort_unstable();
    let median = totals[TURNS / 2];
    println!("{segments} segments of {writes} writes: first byte after {median:.2?} (median of {TURNS})");
    assert!(median <= BAR, "the first byte of a point takes at most {BAR:?}");
}
