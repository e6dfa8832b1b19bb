//! fio through its NBD engine, and the servers that ours is compared with.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::{Process, text};
use super::{eventually, sized};

/// What fio is told to do.
pub struct Load {
    pub name: &'static str,
    pub args: &'static [&'static str],
}

pub const DEPTH_16: Load =
    Load { name: "4 KiB random writes, depth 16", args: &["--rw=randwrite", "--bs=4k", "--iodepth=16"] };
pub const DEPTH_1_FLUSH: Load = Load {
    name: "4 KiB random writes, depth 1, flush",
    args: &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
};

/// What a turn of fio came to.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub per_second: f64,
    pub p99_milliseconds: f64,
}

/// The time that a turn takes.
pub fn turn_seconds() -> u32 {
    sized(1, 10)
}

/// How often each takes its turn.
pub fn turns() -> usize {
    sized(1, 5)
}

/// One turn against an export of `mib` MiB.
pub fn turn(uri: &str, mib: u64, seconds: u32, args: &[&str]) -> Turn {
    let output = Command::new("fio")
        .args(["--name=b", "--ioengine=nbd", "--time_based", "--output-format=json", "--randrepeat=0"])
        .args(["--norandommap", "--buffer_compress_percentage=50", "--buffer_compress_chunk=512"])
        .arg(format!("--size={mib}M"))
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--uri={uri}"))
        .args(args)
        .output()
        .expect("fio runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(&said[said.find('{').expect("JSON")..]).expect("JSON");
    let write = &json["jobs"][0]["write"];
    let p99 = write["clat_ns"]["percentile"]["99.000000"].as_f64().expect("a percentile");
    Turn { per_second: write["iops"].as_f64().expect("a figure"), p99_milliseconds: p99 / 1e6 }
}

/// A file without holes.
pub fn filled(path: &Path, mib: u64) {
    let block = vec![0x5a; 1 << 20];
    let mut file = File::create(path).expect("a file");
    for _ in 0..mib {
        file.write_all(&block).expect("filled");
    }
    file.sync_all().expect("synced");
}

/// Somebody else's NBD server over a file.
pub struct Other {
    _process: Process,
    pub uri: String,
}

impl Other {
    /// `qemu-nbd` with its default cache.
    pub fn qemu_nbd(image: &Path, dir: &Path) -> Self {
        let socket = dir.join("qemu.sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["-f", "raw", "-x", "e", "-t", "-e", "8", "-k", text(&socket), text(image)]);
        Self::start("qemu-nbd", command, socket, "e")
    }

    /// nbdkit's file plugin.
    pub fn nbdkit(image: &Path, dir: &Path) -> Self {
        let socket = dir.join("nbdkit.sock");
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U", text(&socket), "file", &format!("file={}", text(image))]);
        Self::start("nbdkit", command, socket, "")
    }

    fn start(name: &str, command: Command, socket: PathBuf, export: &str) -> Self {
        let process = Process::start(name, command, &socket.with_extension("log"));
        eventually(name, Duration::from_secs(20), || {
            if socket.exists() { Ok(()) } else { Err("it does not listen yet".into()) }
        });
        Self { _process: process, uri: format!("nbd+unix:///{export}?socket={}", socket.display()) }
    }
}
