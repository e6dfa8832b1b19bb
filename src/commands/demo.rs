//! `farshore demo`: a working system that a stranger understands in a minute, without root. It runs this very binary's
//! roles as processes of their own, puts stamped database pages on a protected disk through NBD, serves a recovery point
//! within the first minute, lets the oracle judge it, and goes on until it is told to stop.

mod image;

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use farshore_engine::ids::Timestamp;
use farshore_engine::nbd::NbdUri;
use farshore_engine::oracle::check::Subject;
use farshore_engine::oracle::image::NbdImage;
use farshore_engine::oracle::{Bounds, History, Journal, Workload, check, workload};
use serde_json::Value;

use crate::exit::{Failure, Outcome};

/// Size of the disk that the workload writes to, in bytes.
const DATA_DISK_BYTES: u64 = 128 << 20;
/// Pages written a second: a busy small database, and a demo that leaves the machine usable.
const WRITES_PER_SECOND: f64 = 500.0;
/// How long the workload runs before a point is served and checked.
const BEFORE_CHECK: Duration = Duration::from_secs(20);
/// Longest wait for any single step.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Time between two lines of figures.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// The protected machine's name.
const MACHINE: &str = "demo";

/// What the demo takes.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where everything is kept; a fresh temporary directory without it.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the directory at the end.
    #[arg(long)]
    keep: bool,
    /// End this many seconds after the check, instead of at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
}

/// A role of this binary as a process that ends with the demo.
struct Role {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Role {
    fn start(name: &'static str, dir: &Path, args: &[&str]) -> Result<Self, Failure> {
        let log = dir.join(format!("{name}.log"));
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let files = open().and_then(|out| Ok((open()?, out)));
        let (err, out) = files.map_err(|error| Failure::failed(format!("open {}: {error}", log.display())))?;
        let binary = std::env::current_exe().map_err(|error| Failure::failed(format!("find this program: {error}")))?;
        let child = Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| Failure::failed(format!("start {name}: {error}")))?;
        Ok(Self { name, child, log })
    }

    /// An error once it has ended, with what it said last.
    fn alive(&mut self) -> Result<(), Failure> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(15).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Err(Failure::failed(format!("{} ended with {status}; it said:\n{}", self.name, last.join("\n"))))
    }

    /// SIGTERM, and a bounded wait.
    fn stop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // One that ended by itself needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(12) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.stop();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The demo under way.
struct Demo {
    dir: PathBuf,
    begun: Instant,
    stop: Arc<AtomicBool>,
    roles: Vec<Role>,
}

impl Demo {
    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.begun.elapsed().as_secs_f64());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Waits for something, watching the roles and Ctrl-C.
    fn wait<T>(&mut self, what: &str, mut probe: impl FnMut(&Self) -> Result<T, String>) -> Result<T, Failure> {
        let begun = Instant::now();
        loop {
            let why = match probe(self) {
                Ok(value) => return Ok(value),
                Err(why) => why,
            };
            self.roles.iter_mut().try_for_each(Role::alive)?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::failed(format!("stopped while waiting for {what}")));
            }
            if begun.elapsed() > STEP_MAX {
                return Err(Failure::failed(format!("waited {STEP_MAX:?} for {what}: {why}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn json(&self, name: &str) -> Result<Value, String> {
        let text = fs::read_to_string(self.path(name)).map_err(|error| format!("read {name}: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))
    }

    /// `farshore ctl --json`, the way anybody would call it.
    fn ctl(&self, args: &[&str]) -> Result<Value, String> {
        let binary = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let state = self.text("site");
        let output = Command::new(binary)
            .args(["ctl", "--state-dir", &state, "--json"])
            .args(args)
            .output()
            .map_err(|error| format!("run ctl: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| format!("ctl {args:?}: {error}"))
    }

    fn start_site(&mut self) -> Result<(), Failure> {
        let port = free_port(farshore_engine::defaults::MANAGEMENT_PORT);
        let management = format!("127.0.0.1:{port}");
        let state = self.text("site");
        let loopback = "127.0.0.1:0";
        let args = ["up", "--state-dir", &state, "--plain-http", "--listen-management", &management];
        let more = ["--listen-replication", loopback, "--listen-control", loopback];
        self.roles.push(Role::start("up", &self.dir, &[&args[..], &more[..]].concat())?);
        let endpoints = self.wait("the servers", |demo| demo.json("site/endpoints.json"))?;
        let management = endpoints["management"].as_str().unwrap_or_default();
        self.say(&format!("configuration server and process server are up: {management}"));
        Ok(())
    }

    fn start_agent(&mut self) -> Result<(), Failure> {
        let endpoints = self.json("site/endpoints.json").map_err(Failure::failed)?;
        let field = |name: &str| endpoints[name].as_str().unwrap_or_default().to_owned();
        let (control, fingerprint) = (field("control"), field("ca_fingerprint"));
        let token = self
            .wait("a join token", |demo| Ok(demo.ctl(&["token", "create", "--role", "machine"])?["token"].clone()))?;
        let token = token.as_str().unwrap_or_default().to_owned();
        let state = self.text("agent");
        let (system, data) = (format!("system={}", self.text("system.img")), format!("data={}", self.text("data.img")));
        let args = ["agent", "--name", MACHINE, "--state-dir", &state, "--disk", &system, "--disk", &data];
        let more = ["--server", &control, "--token", &token, "--ca-fingerprint", &fingerprint];
        self.roles.push(Role::start("agent", &self.dir, &[&args[..], &more[..]].concat())?);
        self.wait("the machine's exports", |demo| {
            let socket = demo.path("agent/data.sock");
            std::os::unix::net::UnixStream::connect(socket).map(drop).map_err(|error| error.to_string())
        })?;
        self.say(&format!("machine '{MACHINE}' is protected: disks system (ext4) and data, exported over NBD"));
        Ok(())
    }

    fn uri(&self, disk: &str) -> Result<NbdUri, Failure> {
        let uri = format!("nbd+unix:///{disk}?socket={}", self.path(&format!("agent/{disk}.sock")).display());
        uri.parse().map_err(|error| Failure::failed(format!("{uri}: {error}")))
    }

    /// One line of figures.
    fn figures(&self) -> Result<String, String> {
        let status = self.json("agent/status.json")?;
        let points = self.ctl(&["points", MACHINE, "--limit", "500"])?;
        let points = points["items"].as_array().map_or(0, Vec::len);
        let number = |name: &str| status[name].as_u64().unwrap_or(0);
        let gap = status["disks"].as_array().and_then(|disks| disks.iter().find(|disk| !disk["gap"].is_null()));
        let state = gap.map_or("in order".into(), |disk| format!("catching up ({})", disk["gap"]));
        Ok(format!(
            "log position {}, durable {}, committed {}; {points} recovery points; {state}",
            number("last_lsn"),
            number("durable"),
            number("committed"),
        ))
    }

    /// Serves the newest point, judges it, and says what it proved.
    fn prove(&mut self, journal: &Path) -> Result<(), Failure> {
        let point = self.wait("a recovery point of both disks", |demo| {
            let points = demo.ctl(&["points", MACHINE, "--limit", "1"])?;
            let newest = points["items"][0].clone();
            let both = newest["disks"].as_array().is_some_and(|disks| disks.len() == 2);
            if both { Ok(newest) } else { Err(format!("the newest is {newest}")) }
        })?;
        let id = point["id"].as_str().unwrap_or_default().to_owned();
        self.say(&format!("serving the recovery point of {} ({id})", point["captured_at"].as_str().unwrap_or("?")));
        let begun = Instant::now();
        let served = self.ctl(&["serve", MACHINE, &id]).map_err(Failure::failed)?;
        let uri = |disk: &str| -> Result<NbdUri, Failure> {
            let exports = served["exports"].as_array().cloned().unwrap_or_default();
            let export = exports.iter().find(|export| export["name"] == disk);
            let uri = export.and_then(|export| export["uri"].as_str()).unwrap_or_default();
            uri.parse().map_err(|error| Failure::failed(format!("the export of {disk} ('{uri}'): {error}")))
        };
        let connect = |uri: &NbdUri| {
            NbdImage::connect(uri).map_err(|error| Failure::failed(format!("connect to {uri}: {error}")))
        };
        let mut data = connect(&uri("data")?)?;
        self.say(&format!("served after {} ms", begun.elapsed().as_millis()));
        let history = History::read(journal).map_err(Failure::failed)?;
        let mut subjects = [Subject { image: &mut data, base: None }];
        let findings = check(&history, &mut subjects, &Bounds::default()).map_err(Failure::failed)?;
        if !findings.is_consistent() {
            return Err(Failure::failed(format!("the oracle refutes the point: {:?}", findings.violations)));
        }
        self.say(&format!(
            "proved: all {} written pages of the point are whole, and they are exactly a prefix of what was written: \
             {} acknowledged writes up to number {}, none missing",
            findings.stamped_blocks, findings.required_writes, findings.cut_seq
        ));
        let differs = image::first_difference(&self.path("system.img"), &mut connect(&uri("system")?)?)?;
        match differs {
            None => self.say("proved: the point's ext4 disk equals its source byte for byte"),
            Some(at) => return Err(Failure::failed(format!("the point's system disk differs at byte {at}"))),
        }
        let serve = served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned);
        self.ctl(&["unserve", &serve]).map_err(Failure::failed)?;
        Ok(())
    }

    fn go_on(&mut self, until: Option<Instant>) -> Outcome {
        let vault = self.text("site/vault");
        let key = self.text("site/vault.key");
        self.say("going on; Ctrl-C ends it. Meanwhile, in another terminal:");
        println!("          farshore ctl --state-dir {} points {MACHINE}", self.text("site"));
        println!("          farshore vault ls --vault {vault} --key-file {key}");
        println!("          farshore vault verify --vault {vault} --key-file {key}");
        let mut shown = Instant::now();
        while !self.stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            self.roles.iter_mut().try_for_each(Role::alive)?;
            if shown.elapsed() >= FIGURES_EVERY {
                shown = Instant::now();
                self.say(&self.figures().unwrap_or_else(|why| format!("no figures: {why}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn run(&mut self, args: &DemoArgs) -> Outcome {
        let files = image::make_system(&self.path("system.img"), &self.path("system.files"))?;
        fs::File::create(self.path("data.img"))
            .and_then(|file| file.set_len(DATA_DISK_BYTES))
            .map_err(|error| Failure::failed(format!("make the data disk: {error}")))?;
        self.say(&format!("made {files} and an empty data disk of {} MiB", DATA_DISK_BYTES >> 20));
        self.start_site()?;
        self.start_agent()?;

        let plan = Workload {
            rate: Some(WRITES_PER_SECOND),
            zero_percent: 2,
            flush_every: 50,
            read_percent: 5,
            ..Workload::new(vec![self.uri("data")?])
        };
        let header = workload::header(&plan).map_err(Failure::failed)?;
        let journal_at = self.path("journal");
        let journal = Journal::create(&journal_at, header).map_err(Failure::failed)?;
        self.say("four writers put stamped database pages on 'data' through NBD, journalled");
        let stop_load = AtomicBool::new(false);
        thread::scope(|scope| {
            let load = scope.spawn(|| workload::run(&plan, &journal, None, &wall_clock, &stop_load));
            let done = self.under_load(args, &journal_at);
            stop_load.store(true, Ordering::Relaxed);
            let report = load.join().map_err(|_| Failure::failed("the workload ended in a panic"))?;
            done?;
            let report = report.map_err(Failure::failed)?;
            self.say(&format!(
                "{} writes, none failed; half of them took at most {} µs, 99 of 100 at most {} µs",
                report.writes, report.latency_p50_micros, report.latency_p99_micros
            ));
            Ok(())
        })
    }

    fn under_load(&mut self, args: &DemoArgs, journal: &Path) -> Outcome {
        let check_at = Instant::now() + BEFORE_CHECK;
        let mut shown = Instant::now();
        self.wait_until(check_at, |demo| {
            if shown.elapsed() >= FIGURES_EVERY {
                shown = Instant::now();
                demo.say(&demo.figures().unwrap_or_else(|why| format!("no figures: {why}")));
            }
        })?;
        self.prove(journal)?;
        self.go_on(args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)))
    }

    fn wait_until(&mut self, at: Instant, mut meanwhile: impl FnMut(&Self)) -> Outcome {
        while Instant::now() < at {
            self.roles.iter_mut().try_for_each(Role::alive)?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::failed("stopped before the first point was checked"));
            }
            meanwhile(self);
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The wanted port, or the next free one above it.
fn free_port(wanted: u16) -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (wanted..wanted.saturating_add(100)).find(free).unwrap_or(0);
    if port != wanted {
        println!("          port {wanted} is taken, using {port}");
    }
    port
}

fn make_dir(args: &DemoArgs) -> Result<PathBuf, Failure> {
    let dir =
        args.dir.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("farshore-demo-{}", std::process::id())));
    if dir.exists() && fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let text = format!("{} is not empty: the demo wants a directory of its own", dir.display());
        return Err(Failure::usage(text));
    }
    fs::create_dir_all(&dir).map_err(|error| Failure::failed(format!("make {}: {error}", dir.display())))?;
    dir.canonicalize().map_err(|error| Failure::failed(format!("find {}: {error}", dir.display())))
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs, stop: Arc<AtomicBool>) -> Outcome {
    let dir = make_dir(args)?;
    println!("Farshore demo. Everything it makes lies in {}", dir.display());
    let mut demo = Demo { dir: dir.clone(), begun: Instant::now(), stop, roles: Vec::new() };
    let outcome = demo.run(args);
    demo.say("stopping");
    // The agent first: it brings what it holds to the process server.
    while let Some(role) = demo.roles.pop() {
        drop(role);
    }
    if outcome.is_err() || args.keep || args.dir.is_some() {
        println!("          kept: {}", dir.display());
    } else if let Err(error) = fs::remove_dir_all(&dir) {
        println!("          could not remove {}: {error}", dir.display());
    }
    if outcome.is_ok() && std::io::stdout().is_terminal() {
        println!("          next: README.md, \"For real\"");
    }
    outcome
}
