//! What a long history costs: a log of a hundred thousand segments with a million marks, all retained, of a disk of 1 TiB, written
//! through the real writer and merged as a compactor would; then read by a process that knows nothing of it.
//!
//! `cargo bench --bench long_history [-- SEGMENTS...]`: one row of figures for each size (10,000 and 100,000; 1,000,000 takes
//! long). The bars are of 100,000 segments: list points within 1 s, open any of them within 2 s and 1 GiB of memory, plan
//! retention within 2 s.

mod rig;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Instant;

use farshore_engine::ids::{DiskNo, MachineId, TimelineId, Timestamp};
use farshore_engine::vault::manifest_keeper::ManifestKeeper;
use farshore_engine::vault::merge::plan::MergePolicy;
use farshore_engine::vault::merge::{FullSpeed, MergeLimits, Merger, Rules, preview};
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::test_log::{Seeded, TestLog};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use farshore_engine::vault::retention::{Ladder, Rung};
use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::memory::MemoryStore;
use parking_lot::Mutex;
use rand::Rng;
use rig::process::{run, text};
use rig::report::{Bar, Report};
use rig::{is_bench, sized};
use serde_json::{Value, json};

const DISK_BYTES: u64 = 1 << 40;
const BLOCK: u64 = 4096;
const MARKS: u64 = 10;
/// Between two marks: a million are nine and a half years.
const MARK_SECONDS: i64 = 300;
/// Segments between looks of the compactor, at least; there are no more than a hundred looks.
const LOOK: usize = 1100;
/// The size that the bars are of.
const JUDGED: usize = 100_000;
/// With this argument it is the reader of a log that another process wrote.
const READER: &str = "--read";

/// The ladder that keeps all of it.
fn all() -> Ladder {
    Ladder::new(vec![Rung { every_s: 0, for_s: 1000 * 365 * 86_400 }]).expect("it rises")
}

/// Writes the log and merges it; gives the time of its last mark.
async fn write(segments: usize) -> (TestLog, Timestamp) {
    let mut log = TestLog::new(&[]).await;
    log.add_vast_disk(0, DISK_BYTES);
    let clock = Arc::new(AtomicI64::new(0));
    let (time, source) = (clock.clone(), log.source());
    let now = move || Timestamp(time.load(SeqCst));
    let chance = Arc::new(Mutex::new(Seeded::new(3)));
    let keeper = ManifestKeeper::new(log.store.clone(), log.machine, log.timeline, log.key.clone(), chance);
    keeper.adopt(log.epoch).await.expect("nobody else is here");
    let owner = (log.epoch, log.writer);
    let limits = MergeLimits::default();
    let merger = Merger::new(source, log.timeline, keeper, owner, limits, Arc::new(FullSpeed), Arc::new(now));
    let rules = Rules {
        ladder: all(),
        policy: MergePolicy::default(),
        grace_micros: 0,
        thorough: false,
        orphans: false,
        suspects: Default::default(),
    };
    let (mut rng, mut reader) = (Seeded::new(1), None);
    for segment in 0..segments {
        // Which segment it is, where every segment writes.
        log.write(0, 0, &[segment.to_le_bytes(); BLOCK as usize / 8].concat());
        for _ in 0..MARKS {
            let (at, byte) = (rng.0.random_range(1..DISK_BYTES / BLOCK), rng.0.random());
            log.write(0, at * BLOCK, &[byte; BLOCK as usize]);
            let at = clock.fetch_add(MARK_SECONDS * 1_000_000, SeqCst);
            log.mark_at(Timestamp(at));
        }
        log.end_segment().await;
        log.taken.clear();
        let look = LOOK.max(segments / 100);
        if segment % look == look - 1 {
            while merger.look(&mut reader, &rules).await.expect("it merges").merged.is_some() {}
        }
    }
    (log, Timestamp(clock.load(SeqCst)))
}

/// Most memory of this process, in MiB.
fn most_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has a line for it");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// Reads a log as a process does that starts.
async fn read(dir: &Path, now: Timestamp, segments: u64) -> Value {
    let known = TestLog::bare(Arc::new(MemoryStore::new()), MachineId([0xa1; 16]), TimelineId([0x71; 8]));
    let runtime = tokio::runtime::Handle::current();
    let open = || -> LogSource {
        let store = FolderStore::open_read_only(dir, runtime.clone()).expect("it opens");
        LogSource::new(Arc::new(store), known.machine, known.key.clone())
    };
    let begun = Instant::now();
    let reader = TimelineReader::open(open(), known.timeline).await.expect("it reads");
    let page = reader.page(None, 1000);
    let listed = begun.elapsed().as_secs_f64();
    assert_eq!(page.points.len(), 1000, "a page");
    let (points, objects) = (reader.points(), reader.segments().len());
    assert_eq!(points.len() as u64, segments * MARKS, "every point is retained");
    let mut slowest: f64 = 0.0;
    for n in (0..=4).map(|quarter| (points.len() - 1) * quarter / 4) {
        let begun = Instant::now();
        let frames = Arc::new(FrameCache::new(64 << 20));
        let limits = VolumeLimits::default();
        let volume = Volume::of_point(&reader, &points[n], DiskNo(0), frames, limits).expect("it is retained");
        let mut bytes = [0; BLOCK as usize];
        volume.read(0, &mut bytes).await.expect("it reads");
        assert_eq!(bytes[..8], (n as u64 / MARKS).to_le_bytes(), "the segment that the point is of");
        slowest = slowest.max(begun.elapsed().as_secs_f64());
    }
    let memory = most_memory();
    drop((reader, points, page));
    let begun = Instant::now();
    let reader = TimelineReader::open_with_log(open(), known.timeline).await.expect("it reads");
    let read_with_log = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let planned = preview(&reader, &Ladder::default(), &MergePolicy::default(), now);
    assert!(planned.standing.dropped > 0, "most of it would go");
    json!({
        "objects": objects,
        "listed": listed,
        "opened": listed + slowest,
        "memory": memory,
        "planned": begun.elapsed().as_secs_f64(),
        "read_with_log": read_with_log,
    })
}

/// Writes a log of this size, has it read by another process, and tells of it.
fn measure(report: &mut Report, segments: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let begun = Instant::now();
    let now = runtime.block_on(async {
        let (log, now) = write(segments).await;
        for line in log.store.list("", None, usize::MAX).await.expect("it lists") {
            let path = dir.path().join(line.name.as_str());
            fs::create_dir_all(path.parent().expect("objects lie in folders")).expect("a folder");
            fs::write(path, log.object(&line.name).await).expect("an object");
        }
        now
    });
    let name = |what: &str| format!("{segments} segments: {what}");
    report.tell(name("written and merged in"), begun.elapsed().as_secs_f64(), "s");
    let (path, now, segments_text) = (text(dir.path()), now.0.to_string(), segments.to_string());
    let program = std::env::current_exe().expect("it runs");
    let found = run(text(&program), &[READER, path, &now, &segments_text]);
    let found: Value = serde_json::from_str(&found).expect("the reader's figures");
    let figure = |key: &str| found[key].as_f64().expect("a figure");
    report.tell(name("objects of the log"), figure("objects"), "");
    for (what, key, unit, bar) in [
        ("a thousand points listed, from nothing", "listed", "s", 1.0),
        ("first byte of the slowest of five points, from nothing", "opened", "s", 2.0),
        ("most memory of listing and opening", "memory", "MiB", 1024.0),
        ("retention planned", "planned", "s", 2.0),
    ] {
        match segments == JUDGED {
            true => report.judge(name(what), figure(key), unit, Bar::AtMost(bar)),
            false => report.tell(name(what), figure(key), unit),
        }
    }
    report.tell(name("the log read with what retention looks at"), figure("read_with_log"), "s");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == READER) {
        let number = |n: usize| arguments[at + n].parse::<i64>().expect("a number");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let segments = number(3).unsigned_abs();
        println!("{}", runtime.block_on(read(Path::new(&arguments[at + 1]), Timestamp(number(2)), segments)));
        return ExitCode::SUCCESS;
    }
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new("long_history");
    let sizes: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { sized(vec![1000], vec![JUDGED / 10, JUDGED]) } else { sizes };
    sizes.into_iter().for_each(|segments| measure(&mut report, segments));
    report.finish()
}
