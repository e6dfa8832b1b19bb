//! `farshore demo`: a working system that a stranger understands in a minute, without root. It runs this very binary's
//! roles as processes of their own, puts stamped pages and a database at work on protected disks through NBD, serves a
//! recovery point within the first minute, lets the oracle and an audit of the database judge it, and goes on until it is
//! told to stop. With root, nbdfuse and loop
//! devices SQLite works on the mounted filesystem of a second disk meanwhile, and is recovered from the point.
//!
//! ```text
//!   begun:   images ─► servers ─► agent ─► mounted, SQLite (root) ─► database ─► workload
//!   ended:   workload ─► database ─► SQLite ─► unmount, loop, FUSE ─► agent ─► servers        at the end, on failure, on a signal
//! ```

mod acknowledged;
mod bank;
mod figures;
mod image;
mod ledger;
mod mounted;
mod process;
mod prove;

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use farshore_engine::ids::Timestamp;
use farshore_engine::nbd::NbdUri;
use farshore_engine::oracle::{Journal, Workload, workload};
use serde_json::Value;

use self::bank::Bank;
use self::ledger::Ledger;
use self::mounted::Mounted;
use self::process::{Process, farshore};
use crate::exit::{Failure, Outcome};

/// Size of the disk that the workload writes to, in bytes.
const DATA_DISK_BYTES: u64 = 128 << 20;
/// Size of the disk that the database lies on, in bytes.
const BANK_DISK_BYTES: u64 = 64 << 20;
/// Pages written a second: a busy small disk, and a demo that leaves the machine usable.
const WRITES_PER_SECOND: f64 = 500.0;
/// How long the workload runs before a point is served and checked.
const BEFORE_CHECK: Duration = Duration::from_secs(15);
/// Longest wait for any single step.
const STEP_MAX: Duration = Duration::from_secs(60);
/// How long the end of a process takes to be seen after its connections broke.
const ROLE_ENDS_WITHIN: Duration = Duration::from_millis(500);
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
    /// Leave SQLite on a mounted filesystem out, also where root could mount one.
    #[arg(long)]
    no_mount: bool,
}

/// The demo under way.
struct Demo {
    dir: PathBuf,
    begun: Instant,
    stop: Arc<AtomicBool>,
    // In the order in which they are ended where the demo does not come to its end.
    ledger: Option<Ledger>,
    bank: Option<Bank>,
    mounted: Option<Mounted>,
    roles: Vec<Process>,
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

    /// A second line under what was said.
    fn and(&self, text: &str) {
        println!("          {text}");
    }

    /// Everything that shall run does.
    fn alive(&mut self) -> Outcome {
        self.roles.iter_mut().try_for_each(Process::alive)?;
        let at_work = self.at_work();
        if at_work.is_err() {
            // A role that ends takes its exports with it a moment before it is seen to have ended: it is the one to name.
            thread::sleep(ROLE_ENDS_WITHIN);
            self.roles.iter_mut().try_for_each(Process::alive)?;
        }
        at_work
    }

    /// Everything that uses the exports does.
    fn at_work(&mut self) -> Outcome {
        self.mounted.as_mut().map_or(Ok(()), Mounted::alive)?;
        self.bank.as_mut().map_or(Ok(()), Bank::alive)?;
        self.ledger.as_mut().map_or(Ok(()), Ledger::alive)
    }

    /// Waits for something, watching the roles and Ctrl-C.
    fn wait<T>(&mut self, what: &str, mut probe: impl FnMut(&Self) -> Result<T, String>) -> Result<T, Failure> {
        let begun = Instant::now();
        loop {
            let why = match probe(self) {
                Ok(value) => return Ok(value),
                Err(why) => why,
            };
            self.alive()?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(stopped());
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
        let state = self.text("site");
        let output = farshore()
            .map_err(|failure| failure.text)?
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
        self.roles.push(Process::role("up", &self.dir, &[&args[..], &more[..]].concat())?);
        let endpoints = self.wait("the servers", |demo| demo.json("site/endpoints.json"))?;
        let management = endpoints["management"].as_str().unwrap_or_default();
        self.say(&format!("configuration server and process server run ({management}); the vault is a folder"));
        let code = self.wait("a login code", |demo| demo.ctl(&["login-code"]))?;
        self.say(&format!(
            "dashboard, by a link that works once: {management}{}",
            code["path"].as_str().unwrap_or("/")
        ));
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
        let [system, data, bank] =
            ["system", "data", "bank"].map(|disk| format!("{disk}={}", self.text(&format!("{disk}.img"))));
        let args = ["agent", "--name", MACHINE, "--state-dir", &state, "--disk", &system, "--disk", &data];
        let more = ["--disk", &bank, "--server", &control, "--token", &token, "--ca-fingerprint", &fingerprint];
        self.roles.push(Process::role("agent", &self.dir, &[&args[..], &more[..]].concat())?);
        self.wait("the machine's exports", |demo| {
            ["system", "data", "bank"].into_iter().try_for_each(|disk| {
                let socket = demo.path(&format!("agent/{disk}.sock"));
                std::os::unix::net::UnixStream::connect(socket).map(drop).map_err(|error| error.to_string())
            })
        })?;
        self.say(&format!(
            "machine '{MACHINE}' is protected: its mobility agent exports its disks over NBD and ships every write"
        ));
        Ok(())
    }

    fn uri(&self, disk: &str) -> Result<NbdUri, Failure> {
        let uri = format!("nbd+unix:///{disk}?socket={}", self.path(&format!("agent/{disk}.sock")).display());
        uri.parse().map_err(|error| Failure::failed(format!("{uri}: {error}")))
    }

    fn go_on(&mut self, until: Option<Instant>) -> Outcome {
        let (state, vault, key) = (self.text("site"), self.text("site/vault"), self.text("site/vault.key"));
        let me = std::env::current_exe().map_or_else(|_| "farshore".into(), |path| path.display().to_string());
        self.say("that is the minute; load and replication go on until Ctrl-C. To look around, in another terminal:");
        self.and(&format!("its recovery points            {me} ctl --state-dir {state} points {MACHINE}"));
        self.and(&format!("serve the newest over NBD      {me} ctl --state-dir {state} serve {MACHINE} latest"));
        self.and(&format!("check the vault, no server     {me} vault verify --vault {vault} --key-file {key}"));
        let until = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(u32::MAX.into()));
        match self.watch_until(until) {
            Err(_) if self.stop.load(Ordering::Relaxed) => Ok(()),
            outcome => outcome,
        }
    }

    /// With root: the filesystem of 'system' mounted through its export, and SQLite at work on it.
    fn mount_system(&mut self, args: &DemoArgs) -> Outcome {
        let missing = if args.no_mount { Some("--no-mount was given") } else { mounted::missing() };
        if let Some(why) = missing {
            self.say(&format!("SQLite on a mounted disk is left out: {why}"));
            return Ok(());
        }
        let mounted = Mounted::new("system", &self.dir, &self.uri("system")?.to_string())?;
        let bank = Bank::open(mounted.at.join("bank.db"), wall_clock);
        self.mounted = Some(mounted);
        self.bank = Some(bank?);
        self.say(
            "load on 'system': mounted (nbdfuse, loop, ext4); SQLite moves money between accounts, each move synced",
        );
        Ok(())
    }

    fn run(&mut self, args: &DemoArgs) -> Outcome {
        let system = image::make_system(&self.path("system.img"), &self.path("system.files"))?;
        for (name, bytes) in [("data.img", DATA_DISK_BYTES), ("bank.img", BANK_DISK_BYTES)] {
            fs::File::create(self.path(name))
                .and_then(|file| file.set_len(bytes))
                .map_err(|error| Failure::failed(format!("make {name}: {error}")))?;
        }
        self.say(&format!(
            "made three disks: 'system' ({system}), 'data' ({} MiB, empty) and 'bank' ({} MiB, empty)",
            DATA_DISK_BYTES >> 20,
            BANK_DISK_BYTES >> 20
        ));
        self.start_site()?;
        self.start_agent()?;
        self.mount_system(args)?;
        self.ledger = Some(Ledger::open(&self.uri("bank")?, wall_clock)?);
        self.say(
            "load on 'bank': a database (redb) on the disk itself, through NBD; it moves money between accounts, in",
        );
        self.and("transactions of which the demo remembers when each was acknowledged");

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
        self.say(&format!(
            "load on 'data': {WRITES_PER_SECOND} pages a second through NBD; each bears its number and a digest, and a"
        ));
        self.and("journal outside of Farshore remembers which were acknowledged");
        let stop_load = AtomicBool::new(false);
        thread::scope(|scope| {
            let load = scope.spawn(|| workload::run(&plan, &journal, None, &wall_clock, &stop_load));
            let done = self.under_load(args, &journal_at);
            stop_load.store(true, Ordering::Relaxed);
            let report = load.join().map_err(|_| Failure::failed("the workload ended in a panic"))?;
            done?;
            let report = report.map_err(Failure::failed)?;
            self.say(&format!(
                "{} pages were written to 'data', no write failed; half of them took at most {} µs, 99 of 100 at most {} µs",
                report.writes, report.latency_p50_micros, report.latency_p99_micros
            ));
            Ok(())
        })
    }

    fn under_load(&mut self, args: &DemoArgs, journal: &Path) -> Outcome {
        self.watch_until(Instant::now() + BEFORE_CHECK)?;
        self.prove(journal)?;
        self.go_on(args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)))
    }

    /// Watches everything until then, with a line of figures now and then.
    fn watch_until(&mut self, at: Instant) -> Outcome {
        let mut shown = Instant::now();
        while Instant::now() < at {
            self.alive()?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            if shown.elapsed() >= FIGURES_EVERY {
                shown = Instant::now();
                self.say(&self.figures().unwrap_or_else(|why| format!("no figures: {why}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Ends everything, from the top down: what is written last still finds its way.
    fn end(&mut self) {
        self.ledger = None;
        self.bank = None;
        self.mounted = None;
        // The agent first: it brings what it holds to the process server.
        while let Some(role) = self.roles.pop() {
            drop(role);
        }
    }
}

fn stopped() -> Failure {
    Failure::failed("stopped before a point was proved")
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
        println!("          port {wanted} is taken: using {port} instead");
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
    println!("Farshore demo: protects a machine, serves a moment of its past and proves it right, within a minute.");
    println!("          everything it makes lies in {}; Ctrl-C ends it", dir.display());
    let (begun, roles) = (Instant::now(), Vec::new());
    let mut demo = Demo { dir: dir.clone(), begun, stop, ledger: None, bank: None, mounted: None, roles };
    let outcome = demo.run(args);
    demo.say(if demo.mounted.is_some() { "ending: unmounting, then the agent, then the servers" } else { "ending" });
    demo.end();
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
