//! What the NBD tests share: a server in this process over files in a temporary directory, and other people's tools run
//! against it with a bound on their time.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::nbd::{BackingDisk, BackingOptions, Export, FileExport, NbdServer, ServerOptions};
use slog::{Logger, o};

/// Longest time a tool may take.
const TOOL_TIME_MAX: Duration = Duration::from_secs(120);

/// A logger that says nothing.
pub(crate) fn quiet() -> Logger {
    Logger::root(slog::Discard, o!())
}

/// A server over files.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: NbdServer,
}

/// One export of a rig.
pub(crate) struct Disk {
    pub(crate) name: &'static str,
    pub(crate) size_bytes: u64,
    pub(crate) sector_bytes: u32,
    pub(crate) read_only: bool,
}

impl Disk {
    pub(crate) fn new(name: &'static str, size_bytes: u64, sector_bytes: u32) -> Self {
        Self { name, size_bytes, sector_bytes, read_only: false }
    }
}

impl Rig {
    /// Serves new files of these sizes on a unix socket.
    pub(crate) fn new(disks: &[Disk]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("s.sock");
        let server = NbdServer::bind_unix(&socket, ServerOptions::default(), &quiet()).expect("listens");
        let rig = Self { dir, server };
        let exports = disks.iter().map(|disk| rig.export(disk)).collect();
        rig.server.set_exports(exports);
        rig
    }

    /// A file served as it is.
    pub(crate) fn export(&self, disk: &Disk) -> Arc<dyn Export> {
        let path = self.image(disk.name);
        if !path.exists() {
            std::fs::File::create(&path).and_then(|file| file.set_len(disk.size_bytes)).expect("a file");
        }
        let options = BackingOptions { read_only: disk.read_only, sector_bytes: Some(disk.sector_bytes) };
        let backing = BackingDisk::open(&path, options).expect("opens");
        Arc::new(FileExport::new(disk.name, Arc::new(backing)))
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.img"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        self.server.uri(name)
    }
}

/// Whether these tools are there. Where one is missing, the test is a named skip; under CI a failure.
pub(crate) fn have(test: &str, tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !Path::new("/usr/bin").join(tool).exists()).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} needs {missing:?}: install them");
    eprintln!("SKIPPED {test}: {missing:?} not installed");
    if let Some(list) = std::env::var_os("FARSHORE_SKIPS") {
        let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).expect("the list of skips");
        std::io::Write::write_all(&mut list, format!("{test} (needs {missing:?})\n").as_bytes()).expect("noted");
    }
    false
}

/// Runs a tool to its end, or kills it and fails when it takes too long.
pub(crate) fn run(tool: &str, args: &[&str]) -> Output {
    let mut command = Command::new(if tool.contains('/') { tool.into() } else { format!("/usr/bin/{tool}") });
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{tool}: {error}"));
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |pipe: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read");
        bytes
    };
    std::thread::scope(|scope| {
        let (out, err) = (scope.spawn(move || read(&mut stdout)), scope.spawn(move || read(&mut stderr)));
        let until = Instant::now() + TOOL_TIME_MAX;
        let status = loop {
            if let Some(status) = child.try_wait().expect("waits") {
                break status;
            }
            if Instant::now() > until {
                child.kill().expect("ours");
                child.wait().expect("ended");
                panic!("{tool} {args:?} did not end within {TOOL_TIME_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Output { status, stdout: out.join().expect("read"), stderr: err.join().expect("read") }
    })
}

/// Runs a tool that has to succeed, and gives what it printed.
pub(crate) fn succeed(tool: &str, args: &[&str]) -> String {
    let output = run(tool, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Runs a program in nbdsh, connected to `uri`.
pub(crate) fn nbdsh(uri: &str, program: &str) -> String {
    // The bindings belong to the distribution's Python, whatever comes first on the PATH.
    let connect = format!("import nbd\nh = nbd.NBD()\nh.add_meta_context('base:allocation')\nh.connect_uri({uri:?})\n");
    succeed("python3", &["-c", &format!("{connect}{program}")])
}

/// Bytes that do not compress to nothing, with holes between.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = vec![0; len];
    for (number, chunk) in bytes.chunks_mut(65536).enumerate() {
        if number % 3 != 2 {
            chunk.iter_mut().for_each(|byte| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 56) as u8;
            });
        }
    }
    bytes
}

/// Runs fio's NBD engine; it checks what it wrote by checksum.
pub(crate) fn fio(uri: &str, args: &[&str]) {
    let uri = format!("--uri={uri}");
    let mut all = vec!["--name=v", "--ioengine=nbd", &uri, "--rw=randwrite", "--verify=crc32c", "--do_verify=1"];
    all.extend(["--verify_fatal=1", "--randseed=1", "--verify_state_save=0", "--output-format=json", "--thread"]);
    all.extend(args);
    let text = succeed("fio", &all);
    let start = text.find('{').expect("JSON");
    let report: serde_json::Value = serde_json::from_str(&text[start..]).expect("JSON");
    for job in report["jobs"].as_array().expect("jobs") {
        assert_eq!(job["error"], 0, "{job}");
        assert!(job["write"]["total_ios"].as_u64() > Some(0) && job["read"]["total_ios"].as_u64() > Some(0));
    }
}
