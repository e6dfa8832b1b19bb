//! Our NBD server beside `qemu-nbd` (its default cache), on the same kind of file, by fio's NBD engine. The two take turns, so
//! that a busy machine is as busy for both; told are the medians of their turns and the ratio.
//!
//! `cargo bench --bench nbd_fio [-- TURNS]`. The bar: at least 0.9 of qemu-nbd with random writes of 4 KiB at queue
//! depth 16.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::nbd::{BackingDisk, BackingOptions, FileExport, NbdServer, ServerOptions};
use slog::{Logger, o};

const DISK_BYTES: u64 = 1 << 30;
const TURN_SECONDS: u32 = 3;
const BAR: f64 = 0.9;

struct Load {
    name: &'static str,
    args: &'static [&'static str],
    /// Whether the bar holds for it.
    judged: bool,
}

const LOADS: [Load; 4] = [
    Load { name: "4 KiB random write, depth 16", args: &["--rw=randwrite", "--bs=4k", "--iodepth=16"], judged: true },
    Load { name: "4 KiB random read, depth 16", args: &["--rw=randread", "--bs=4k", "--iodepth=16"], judged: false },
    Load { name: "4 KiB random write, depth 1", args: &["--rw=randwrite", "--bs=4k", "--iodepth=1"], judged: false },
    Load { name: "1 MiB sequential write, depth 4", args: &["--rw=write", "--bs=1M", "--iodepth=4"], judged: false },
];

/// A `qemu-nbd` that ends with its value.
struct QemuNbd(Child);

impl QemuNbd {
    fn start(image: &Path, socket: &Path) -> Self {
        let child = Command::new("/usr/bin/qemu-nbd")
            .args(["-f", "raw", "-x", "e", "-t", "-e", "8", "-k"])
            .args([socket, image])
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-nbd starts");
        let until = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            assert!(Instant::now() < until, "qemu-nbd listens within 10 s");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One turn of fio: requests a second.
fn turn(uri: &str, load: &Load) -> f64 {
    let output = Command::new("/usr/bin/fio")
        .args(["--name=b", "--ioengine=nbd", "--size=1G", "--time_based", "--output-format=json", "--randrepeat=0"])
        .arg(format!("--runtime={TURN_SECONDS}"))
        .arg(format!("--uri={uri}"))
        .args(load.args)
        .output()
        .expect("fio runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text[text.find('{').expect("JSON")..]).expect("JSON");
    let job = &json["jobs"][0];
    ["read", "write"].iter().filter_map(|side| job[side]["iops"].as_f64()).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn filled(path: &Path) {
    let block = vec![0x5a; 1 << 20];
    let mut file = std::fs::File::create(path).expect("a file");
    for _ in 0..DISK_BYTES >> 20 {
        std::io::Write::write_all(&mut file, &block).expect("filled");
    }
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
    let backing = BackingDisk::open(&ours, BackingOptions::default()).expect("opens");
    let logger = Logger::root(slog::Discard, o!());
    let server =
        NbdServer::bind_unix(&dir.path().join("ours.sock"), ServerOptions::default(), &logger).expect("listens");
    server.set_exports(vec![Arc::new(FileExport::new("e", Arc::new(backing)))]);
    let socket = dir.path().join("theirs.sock");
    let _qemu = QemuNbd::start(&theirs, &socket);
    let qemu_uri = format!("nbd+unix:///e?socket={}", socket.display());

    let mut met = true;
    for load in &LOADS {
        let (mut our_turns, mut their_turns) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            their_turns.push(turn(&qemu_uri, load));
            our_turns.push(turn(&server.uri("e"), load));
        }
        let (ours, theirs) = (median(our_turns), median(their_turns));
        let ratio = ours / theirs;
        println!("{:<34} farshore {ours:>8.0}/s   qemu-nbd {theirs:>8.0}/s   ratio {ratio:.2}", load.name);
        met &= !load.judged || ratio >= BAR;
    }
    assert!(met, "random writes of 4 KiB at depth 16 are below {BAR} of qemu-nbd");
}
