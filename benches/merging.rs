//! What merging costs. How fast it is: bytes of sources that a core merges in a second, of a disk's first contents and of random
//! writes. How much it writes: a year of 1 % churn a day through the real writer and merger, at a sixty-fourth of every size that
//! counts in bytes, as a curve.
//!
//! `cargo bench --bench merging`. The bars: at least 150 MB/s a core; at most four times what came in, written in a year.

mod rig;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Instant;

use farshore_engine::ids::Timestamp;
use farshore_engine::vault::manifest_keeper::ManifestKeeper;
use farshore_engine::vault::merge::plan::MergePolicy;
use farshore_engine::vault::merge::{FullSpeed, MergeLimits, Merger, Rules};
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::test_log::{Seeded, TestLog};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::metered::MeteredStore;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::SliceRandom;
use rig::payload::{WRITE_BYTES, payload};
use rig::report::{Bar, Report};
use rig::{is_bench, sized};
use tokio::runtime::Runtime;

const MIB: u64 = 1 << 20;
/// Every size in bytes is divided by this for the year.
const SCALE: u64 = 64;
const DAYS: u64 = 365;
const DAY_MICROS: i64 = 86_400_000_000;
/// Marks in a day.
const MARKS: u64 = 24;

/// A log in the making, and who merges it.
struct Machine {
    log: TestLog,
    store: Arc<MeteredStore>,
    merger: Merger,
    reader: Option<TimelineReader>,
    rules: Rules,
    clock: Arc<AtomicI64>,
    payload: Vec<u8>,
    segment_bytes: u64,
    open_bytes: u64,
    /// Bytes of its segments.
    received: u64,
}

impl Machine {
    async fn new(disk_bytes: u64, scale: u64) -> Self {
        let mut log = TestLog::new(&[]).await;
        log.add_vast_disk(0, disk_bytes);
        let clock = Arc::new(AtomicI64::new(DAY_MICROS));
        let time = clock.clone();
        let store = Arc::new(MeteredStore::new(log.store.clone()));
        let chance = Arc::new(Mutex::new(Seeded::new(3)));
        let keeper = ManifestKeeper::new(store.clone(), log.machine, log.timeline, log.key.clone(), chance);
        keeper.adopt(log.epoch).await.expect("nobody else is here");
        let whole = MergeLimits::default();
        let limits = MergeLimits { part_bytes: whole.part_bytes / scale as usize, ..whole };
        let merger = Merger::new(
            LogSource::new(store.clone(), log.machine, log.key.clone()),
            log.timeline,
            keeper,
            (log.epoch, log.writer),
            limits,
            Arc::new(FullSpeed),
            Arc::new(move || Timestamp(time.load(SeqCst))),
        );
        let whole = MergePolicy::default();
        let policy =
            MergePolicy { live_bytes: whole.live_bytes / scale, small_bytes: whole.small_bytes / scale, ..whole };
        let rules = Rules {
            ladder: Ladder::default(),
            policy,
            grace_micros: 0,
            thorough: false,
            orphans: false,
            suspects: Default::default(),
        };
        let segment_bytes = 16 * MIB / scale;
        let payload = payload(9, 8 << 20);
        Self { log, store, merger, reader: None, rules, clock, payload, segment_bytes, open_bytes: 0, received: 0 }
    }

    /// Writes so many bytes at a place; a full segment is committed. True where one was.
    async fn write(&mut self, offset: u64, len: usize, rng: &mut Seeded) -> bool {
        let at = rng.0.random_range(0..(self.payload.len() - len) / 8) * 8;
        self.log.write(0, offset, &self.payload[at..at + len]);
        self.open_bytes += len as u64;
        if self.open_bytes.is_multiple_of(MIB) {
            self.log.end_batch();
        }
        let full = self.open_bytes >= self.segment_bytes;
        if full {
            self.commit().await;
        }
        full
    }

    fn mark(&mut self, after: i64) {
        let at = self.clock.fetch_add(after, SeqCst) + after;
        self.log.mark_at(Timestamp(at));
    }

    async fn commit(&mut self) {
        let slot = self.log.end_segment().await;
        self.log.taken.clear();
        self.received += self.log.object(&self.log.name(slot)).await.len() as u64;
        self.open_bytes = 0;
    }

    /// Merges what is due; gives the bytes of what was merged.
    async fn merge(&mut self) -> u64 {
        let mut bytes = 0;
        while let Some((step, _)) = self.merger.look(&mut self.reader, &self.rules).await.expect("it merges").merged {
            bytes += step.bytes;
        }
        bytes
    }
}

/// CPU time of all of this process.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn speed(report: &mut Report, runtime: &Runtime) {
    let total = sized(320, 1024) * MIB;
    for (name, len) in [("first contents, 1 MiB writes", MIB as usize), ("random 4 KiB writes", WRITE_BYTES)] {
        runtime.block_on(async {
            let (disk, mut rng) = (total, Seeded::new(5));
            let mut machine = Machine::new(disk, 1).await;
            let mut places: Vec<u64> = (0..disk / len as u64).collect();
            if len == WRITE_BYTES {
                places.shuffle(&mut rng.0);
            }
            for place in places {
                if machine.write(place * len as u64, len, &mut rng).await {
                    machine.mark(DAY_MICROS / MARKS as i64);
                }
            }
            machine.mark(0);
            machine.commit().await;
            machine.rules.grace_micros = u64::MAX;
            let (before, begun) = (cpu(), Instant::now());
            let bytes = machine.merge().await as f64 / 1e6;
            let (taken, wall) = (cpu() - before, begun.elapsed().as_secs_f64());
            report.judge(format!("merged, {name}, a core"), bytes / taken, "MB/s", Bar::AtLeast(150.0));
            report.tell(format!("merged, {name}, by the clock"), bytes / wall, "MB/s");
            // Before what was merged goes, the runs are read once more.
            machine.rules.grace_micros = 0;
            let before = cpu();
            machine.merge().await;
            let swept = cpu() - before;
            report.tell(format!("merged, read once more and swept, {name}, a core"), bytes / (taken + swept), "MB/s");
            report.tell(format!("merged, {name}, in all"), bytes, "MB");
        });
    }
}

fn year(report: &mut Report, runtime: &Runtime) {
    let disk = sized(1024, 16 * 1024) * MIB / SCALE;
    runtime.block_on(async {
        let mut rng = Seeded::new(6);
        let mut machine = Machine::new(disk, SCALE).await;
        for place in 0..disk / MIB {
            machine.write(place * MIB, MIB as usize, &mut rng).await;
            machine.merge().await;
        }
        machine.mark(0);
        machine.commit().await;
        let first = machine.received;
        let blocks = disk / WRITE_BYTES as u64;
        for day in 1..=sized(40, DAYS) {
            for hour in 0..MARKS {
                for _ in 0..blocks / 100 / MARKS {
                    let place = rng.0.random_range(0..blocks);
                    if machine.write(place * WRITE_BYTES as u64, WRITE_BYTES, &mut rng).await {
                        machine.merge().await;
                    }
                }
                machine.mark(DAY_MICROS / MARKS as i64);
                if hour + 1 == MARKS {
                    machine.commit().await;
                    machine.merge().await;
                }
            }
            if [30, 90, 180].contains(&day) || day == sized(40, DAYS) {
                let sent = machine.store.counts().sent_bytes;
                let listed = machine.log.store.list("", None, usize::MAX).await.expect("it lists");
                let stored: u64 = listed.iter().map(|line| line.bytes).sum();
                let ratio = (machine.received + sent) as f64 / machine.received as f64;
                match day {
                    DAYS => report.judge(format!("day {day}: written by received"), ratio, "", Bar::AtMost(4.0)),
                    _ => report.tell(format!("day {day}: written by received"), ratio, ""),
                }
                report.tell(format!("day {day}: stored by first contents"), stored as f64 / first as f64, "");
                let objects = machine.log.reader().await.segments().len();
                report.tell(format!("day {day}: objects that a reader opens"), objects as f64, "");
            }
        }
    });
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut report = Report::new("merging");
    speed(&mut report, &runtime);
    year(&mut report, &runtime);
    report.finish()
}
