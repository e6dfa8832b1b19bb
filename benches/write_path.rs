//! What the splitter costs an application: a captured disk beside `qemu-nbd` (its default cache) and nbdkit's file plugin, on
//! the same kind of file, by fio's NBD engine. The log is taken away and called committed as fast as it comes. The three
//! take turns, so that a busy machine is as busy for all; told are the medians of their turns and the ratios.
//!
//! `cargo bench --bench write_path`. The bars: with random writes of 4 KiB at queue depth 16, at least 0.9 of qemu-nbd and 0.6
//! of nbdkit.

mod rig;

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::capture::activity_layout::{ActivityHeader, DiskIdentity, LogIdentity};
use farshore_engine::capture::activity_log::ActivityLog;
use farshore_engine::capture::opening::{KnownDisk, KnownLog, plan};
use farshore_engine::capture::scan::SCAN_CHUNK_BYTES;
use farshore_engine::capture::{
    DiskStart, Notes, RegionSet, Splitter, SplitterConfig, Tap, TapDisk, TapExport, scanner,
};
use farshore_engine::digest::DigestKey;
use farshore_engine::ids::{IncarnationId, Lsn};
use farshore_engine::nbd::{BackingDisk, BackingOptions, NbdServer, ServerOptions};
use farshore_engine::vault::state::LogState;
use rig::fio::{DEPTH_1_FLUSH, DEPTH_16, Load, Other, filled, turn, turn_seconds, turns};
use rig::report::{Bar, Report};
use rig::{eventually, is_bench, median, sized};
use slog::{Logger, o};

const REGION_BYTES: u64 = 1 << 20;

/// Nothing is written down: no other life follows.
struct NoNotes;

impl Notes for NoNotes {
    fn reserve(&self, _: Lsn) -> io::Result<()> {
        Ok(())
    }

    fn disavow(&self) -> io::Result<()> {
        Ok(())
    }
}

fn captured(image: &Path, activity: &Path, bytes: u64) -> Arc<Tap> {
    let backing = BackingDisk::open(image, BackingOptions::default()).expect("opens");
    let hot = RegionSet::all((bytes / REGION_BYTES) as u32);
    let config = SplitterConfig {
        budget_bytes: 128 << 20,
        mark_interval: Duration::from_secs(1),
        linger: Duration::from_millis(10),
        scan_chunk_bytes: SCAN_CHUNK_BYTES,
    };
    let start = DiskStart { size_bytes: bytes, region_bytes: REGION_BYTES, hot: hot.clone() };
    let header = ActivityHeader {
        sequence: 1,
        clean: false,
        region_bytes: REGION_BYTES,
        disk: DiskIdentity { size_bytes: bytes, ..DiskIdentity::default() },
        log: LogIdentity::default(),
        incarnation: IncarnationId([1; 16]),
    };
    let file = File::options().read(true).write(true).create(true).truncate(true).open(activity).expect("opens");
    let activity = ActivityLog::begin(Box::new(file), header, hot, None).expect("written");
    let disk = TapDisk { name: "e".into(), backing: Arc::new(backing), activity };
    let mut splitter = Splitter::new(config, Lsn(1), vec![start]);
    let known = KnownLog {
        incarnation: IncarnationId([1; 16]),
        lineage: Vec::new(),
        clean_stop: None,
        committed: Lsn::ZERO,
        first: Lsn(1),
        next_disk: 0,
        disks: vec![KnownDisk { name: "e".into(), size_bytes: bytes, sector_bytes: 512, distrust: None, hot: true }],
    };
    splitter.open(plan(&known, &LogState::default()), Duration::ZERO);
    Arc::new(Tap::new(splitter, vec![disk], DigestKey::new([7; 32]), Box::new(NoNotes)))
}

/// Takes batches, lays them out as a session does, and calls them committed.
fn drain(tap: &Tap) {
    while !tap.is_stopping() {
        let (now, mut taken) = (tap.now(), false);
        tap.reserve_if_due().expect("nothing is written");
        tap.splitter().close_batch(now);
        loop {
            let Some(draft) = tap.splitter().take_batch() else { break };
            let batch = std::hint::black_box(draft.lay_out());
            tap.splitter().committed(batch.last);
            taken = true;
        }
        tap.wake_scanner();
        if !taken {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The disks under test, in the order of their turns.
struct Contest<'a> {
    uris: [(&'static str, &'a str); 3],
    mib: u64,
}

impl Contest<'_> {
    /// Medians of requests a second, in the same order.
    fn hold(&self, load: &Load, report: &mut Report) -> [f64; 3] {
        let mut taken = [const { Vec::new() }; 3];
        for _ in 0..turns() {
            for (turns, (_, uri)) in taken.iter_mut().zip(&self.uris) {
                turns.push(turn(uri, self.mib, turn_seconds(), load.args));
            }
        }
        let mut medians = [0.0; 3];
        for ((name, _), (turns, per_second)) in self.uris.iter().zip(taken.iter().zip(&mut medians)) {
            *per_second = median(turns.iter().map(|turn| turn.per_second).collect());
            report.tell(format!("{}: {name}", load.name), *per_second, "/s");
            let p99 = median(turns.iter().map(|turn| turn.p99_milliseconds).collect());
            report.tell(format!("{}: {name}, p99", load.name), p99, "ms");
        }
        medians
    }
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let mib = sized(64, 1024);
    let mut report = Report::new("write_path");
    let dir = tempfile::tempdir().expect("a directory");
    let image = |name: &str| {
        let path = dir.path().join(name);
        filled(&path, mib);
        path
    };
    let tap = captured(&image("ours.img"), &dir.path().join("e.activity"), mib << 20);
    let threads: Vec<_> = [scanner::run as fn(&Tap), drain]
        .into_iter()
        .map(|run| {
            let tap = tap.clone();
            std::thread::spawn(move || run(&tap))
        })
        .collect();
    let begun = Instant::now();
    eventually("the first scan", Duration::from_secs(120), || match tap.splitter().disk_view(0).gap {
        None => Ok(()),
        Some(_) => Err("it goes on".into()),
    });
    report.tell("first scan", mib as f64 / begun.elapsed().as_secs_f64(), "MiB/s");
    let logger = Logger::root(slog::Discard, o!());
    let server =
        NbdServer::bind_unix(&dir.path().join("ours.sock"), ServerOptions::default(), &logger).expect("listens");
    server.set_exports(vec![Arc::new(TapExport::new(tap.clone(), 0))]);
    let ours = server.uri("e");
    let (qemu, nbdkit) = (Other::qemu_nbd(&image("q.img"), dir.path()), Other::nbdkit(&image("k.img"), dir.path()));
    let contest = Contest { uris: [("captured", &ours), ("qemu-nbd", &qemu.uri), ("nbdkit file", &nbdkit.uri)], mib };
    let [captured, qemu_nbd, nbdkit_file] = contest.hold(&DEPTH_16, &mut report);
    report.judge("depth 16: captured / qemu-nbd", captured / qemu_nbd, "", Bar::AtLeast(0.9));
    report.judge("depth 16: captured / nbdkit file", captured / nbdkit_file, "", Bar::AtLeast(0.6));
    let [captured, qemu_nbd, nbdkit_file] = contest.hold(&DEPTH_1_FLUSH, &mut report);
    report.tell("depth 1, flush: captured / qemu-nbd", captured / qemu_nbd, "");
    report.tell("depth 1, flush: captured / nbdkit file", captured / nbdkit_file, "");
    let lost = tap.splitter().disk_view(0).lost_writes;
    report.judge("writes that left the ordered stream", lost as f64, "", Bar::AtMost(0.0));
    server.shutdown(Duration::from_secs(5));
    tap.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("ends"));
    report.finish()
}
