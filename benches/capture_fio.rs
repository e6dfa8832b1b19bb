//! A captured disk beside nbdkit's file plugin, on the same kind of file, by fio's NBD engine: what the splitter costs. The
//! log is taken away and called committed as fast as it comes. The two take turns, so that a busy machine is as busy for
//! both; told are the medians of their turns and the ratio.
//!
//! `cargo bench --bench capture_fio [-- TURNS]`. The bar: at least 0.6 of nbdkit with random writes of 4 KiB at queue depth 16.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::capture::activity_layout::{ActivityHeader, DiskIdentity, LogIdentity};
use farshore_engine::capture::activity_log::ActivityLog;
use farshore_engine::capture::opening::{KnownDisk, KnownLog, plan};
use farshore_engine::capture::scan::SCAN_CHUNK_BYTES;
use farshore_engine::capture::{DiskStart, RegionSet, Splitter, SplitterConfig, Tap, TapDisk, TapExport, scanner};
use farshore_engine::digest::DigestKey;
use farshore_engine::ids::{IncarnationId, Lsn};
use farshore_engine::nbd::{BackingDisk, BackingOptions, NbdServer, ServerOptions};
use farshore_engine::vault::state::LogState;
use slog::{Logger, o};

const DISK_BYTES: u64 = 1 << 30;
const REGION_BYTES: u64 = 1 << 20;
const TURN_SECONDS: u32 = 3;
const BAR: f64 = 0.6;

struct Nbdkit(Child);

impl Nbdkit {
    fn start(image: &Path, socket: &Path) -> Self {
        let child = Command::new("/usr/bin/nbdkit")
            .args(["-f", "-U"])
            .arg(socket)
            .arg("file")
            .arg(format!("file={}", image.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdkit starts");
        wait("nbdkit listens", || socket.exists());
        Self(child)
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn filled(path: &Path) {
    let block = vec![0x5a; 1 << 20];
    let mut file = File::create(path).expect("a file");
    for _ in 0..DISK_BYTES >> 20 {
        std::io::Write::write_all(&mut file, &block).expect("filled");
    }
}

fn captured(image: &Path, activity: &Path) -> Arc<Tap> {
    let backing = BackingDisk::open(image, BackingOptions::default()).expect("opens");
    let hot = RegionSet::all((DISK_BYTES / REGION_BYTES) as u32);
    let config = SplitterConfig {
        budget_bytes: 128 << 20,
        mark_interval: Duration::from_secs(1),
        linger: Duration::from_millis(10),
        scan_chunk_bytes: SCAN_CHUNK_BYTES,
    };
    let start = DiskStart { size_bytes: DISK_BYTES, region_bytes: REGION_BYTES, hot: hot.clone() };
    let header = ActivityHeader {
        sequence: 1,
        clean: false,
        region_bytes: REGION_BYTES,
        disk: DiskIdentity { size_bytes: DISK_BYTES, ..DiskIdentity::default() },
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
        disks: vec![KnownDisk {
            name: "e".into(),
            size_bytes: DISK_BYTES,
            sector_bytes: 512,
            distrust: None,
            hot: true,
        }],
    };
    splitter.open(plan(&known, &LogState::default()), Duration::ZERO);
    Arc::new(Tap::new(splitter, vec![disk], DigestKey::new([7; 32]), Box::new(|_| Ok(()))))
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

fn turn(uri: &str) -> f64 {
    let output = Command::new("/usr/bin/fio")
        .args(["--name=b", "--ioengine=nbd", "--size=1G", "--time_based", "--output-format=json", "--randrepeat=0"])
        .args(["--rw=randwrite", "--bs=4k", "--iodepth=16"])
        .arg(format!("--runtime={TURN_SECONDS}"))
        .arg(format!("--uri={uri}"))
        .output()
        .expect("fio runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text[text.find('{').expect("JSON")..]).expect("JSON");
    json["jobs"][0]["write"]["iops"].as_f64().expect("a figure")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        // Run among the tests: that it was built is all that is asked.
        return;
    }
    let turns = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, theirs) = (dir.path().join("ours.img"), dir.path().join("theirs.img"));
    filled(&ours);
    filled(&theirs);
    let tap = captured(&ours, &dir.path().join("e.activity"));
    let threads: Vec<_> = [scanner::run as fn(&Tap), drain]
        .into_iter()
        .map(|run| {
            let tap = tap.clone();
            std::thread::spawn(move || run(&tap))
        })
        .collect();
    let began = Instant::now();
    wait("the disk is scanned", || tap.splitter().disk_view(0).gap.is_none());
    println!("first contents: {:.0} MiB/s", (DISK_BYTES >> 20) as f64 / began.elapsed().as_secs_f64());
    let logger = Logger::root(slog::Discard, o!());
    let server =
        NbdServer::bind_unix(&dir.path().join("ours.sock"), ServerOptions::default(), &logger).expect("listens");
    server.set_exports(vec![Arc::new(TapExport::new(tap.clone(), 0))]);
    let socket = dir.path().join("theirs.sock");
    let _nbdkit = Nbdkit::start(&theirs, &socket);
    let their_uri = format!("nbd+unix:///?socket={}", socket.display());
    let (mut our_turns, mut their_turns) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        their_turns.push(turn(&their_uri));
        our_turns.push(turn(&server.uri("e")));
    }
    let lost = tap.splitter().disk_view(0).lost_writes;
    server.shutdown(Duration::from_secs(5));
    tap.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("ends"));
    let (ours, theirs) = (median(our_turns), median(their_turns));
    let ratio = ours / theirs;
    println!(
        "4 KiB random write, depth 16: captured {ours:.0}/s   nbdkit {theirs:.0}/s   ratio {ratio:.2}   lost {lost}"
    );
    assert!(ratio >= BAR, "random writes of 4 KiB at depth 16 are below {BAR} of nbdkit's file plugin");
}
