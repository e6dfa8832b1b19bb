//! One run: start, load, break, heal, judge, stop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use farshore_actors::supervise::wall_clock;
use farshore_engine::oracle::{Journal, Workload, WorkloadError, WorkloadReport, workload};
use serde_json::Value;

use super::defects::Defect;
use super::injure::Injuries;
use super::judge;
use super::report::{Report, Verdict};
use super::scenario::Scenario;
use super::schedule::{Due, schedule};
use super::site::{Kind, Site};

/// The longest that the installation may take to come up. Chosen: far more than two busy cores need.
const STARTS_WITHIN: Duration = Duration::from_secs(90);
/// How often processes are looked after and faults are due.
const TICK: Duration = Duration::from_millis(20);
/// How often the agents' own views are read: a life of an agent may be short.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the control plane is asked how it is.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What a run is asked to be.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// What is run.
    pub(crate) scenario: Scenario,
    /// The seed of schedule, places and payloads.
    pub(crate) seed: u64,
    /// How long faults go on.
    pub(crate) duration: Duration,
    /// Where its directory is made.
    pub(crate) under: PathBuf,
    /// Keep the directory even where all is well.
    pub(crate) keep: bool,
    /// Members that run with a defect, for negative controls.
    pub(crate) defects: Vec<(String, Defect)>,
    /// The command that does it again.
    pub(crate) replay: String,
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoReport {
    /// Ctrl-C.
    Stopped,
    /// The harness itself failed.
    Broken(String),
}

impl From<String> for NoReport {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

/// The load on one machine.
struct Load {
    machine: String,
    thread: JoinHandle<Result<WorkloadReport, WorkloadError>>,
}

/// An issue that stood in health.
#[derive(Debug, Clone)]
pub(crate) struct Stood {
    /// Whose it was.
    pub(crate) of: String,
    /// When it was seen first and last, in seconds after the begin of the run.
    pub(crate) from: f64,
    pub(crate) until: f64,
    /// What the operator was told.
    pub(crate) cause: String,
    pub(crate) remedy: String,
}

/// A run under way.
pub(crate) struct Run<'a> {
    pub(crate) order: &'a Order,
    pub(crate) site: Site,
    stop: &'a AtomicBool,
    begun: Instant,
    stop_load: Arc<AtomicBool>,
    loads: Vec<Load>,
    loaded: bool,
    looked: Instant,
    sampled: Instant,
    /// Codes of issues and events that were seen, with the target or machine they were seen at.
    pub(crate) seen: BTreeSet<String>,
    /// Issues that were seen in health, by code.
    pub(crate) stood: BTreeMap<String, Stood>,
    /// Machines that were compared in full in some life, and why.
    pub(crate) compared: BTreeSet<String>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// Does a run, and gives its report. Its processes have ended when this returns, whatever happened.
pub(crate) fn run(order: &Order, stop: &AtomicBool) -> Result<Report, NoReport> {
    let due = schedule(&order.scenario, order.seed, order.duration.as_secs_f64());
    eprintln!("{}, seed {}: {}", order.scenario.name, order.seed, order.scenario.about);
    due.iter().for_each(|due| eprintln!("  {due}"));
    let dir = order.under.join(format!("farshore-chaos-{}-{}", std::process::id(), order.seed));
    fs::create_dir_all(&dir).map_err(|error| format!("make {}: {error}", dir.display()))?;
    let mut run = Run {
        order,
        site: Site::new(dir.clone(), order.scenario.clone(), &order.defects)?,
        stop,
        begun: Instant::now(),
        stop_load: Arc::default(),
        loads: Vec::new(),
        loaded: false,
        looked: Instant::now(),
        sampled: Instant::now(),
        seen: BTreeSet::new(),
        stood: BTreeMap::new(),
        compared: BTreeSet::new(),
        verdicts: Vec::new(),
    };
    let done = run.go(&due);
    run.stop_load.store(true, Relaxed);
    let seconds = run.begun.elapsed().as_secs_f64();
    let verdicts = std::mem::take(&mut run.verdicts);
    drop(run);
    let mut report = Report {
        scenario: order.scenario.name.clone(),
        seed: order.seed,
        replay: order.replay.clone(),
        seconds,
        schedule: due,
        verdicts,
        kept: None,
    };
    let wanted = order.keep || done.is_err() || !report.passed();
    if wanted && done != Err(NoReport::Stopped) {
        report.kept = Some(dir.display().to_string());
        if let Err(NoReport::Broken(why)) = &done {
            return Err(NoReport::Broken(format!("{why} (everything lies in {})", dir.display())));
        }
    } else if let Err(error) = fs::remove_dir_all(&dir) {
        eprintln!("  could not remove {}: {error}", dir.display());
    }
    done.map(|()| report)
}

impl Run<'_> {
    /// A line of progress.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("[{:6.1} s] {text}", self.begun.elapsed().as_secs_f64());
    }

    /// A check was made.
    pub(crate) fn found(&mut self, check: &str, passed: bool, detail: impl Into<String>) {
        let detail = detail.into();
        if !passed {
            self.say(&format!("FAILED {check}: {detail}"));
        }
        self.verdicts.push(Verdict { check: check.to_owned(), passed, detail });
    }

    fn go(&mut self, due: &[Due]) -> Result<(), NoReport> {
        self.bring_up()?;
        self.start_loads()?;
        self.break_things(due)?;
        judge::rpo(self)?;
        self.end_loads()?;
        judge::settled(self)?;
        self.say("what was written is committed, or will not be");
        judge::issues(self)?;
        judge::resync(self);
        judge::points(self)?;
        self.say("points were looked at");
        let wrong = self.site.stop();
        self.found("every process stops cleanly within ten seconds", wrong.is_empty(), wrong.join("\n"));
        judge::vault(self)?;
        judge::processes(self);
        let (answered, asked) = self.site.answered();
        self.say(&format!("{answered} of {asked} faults and moves asked for over the API were taken"));
        let carried: u64 = self.site.carried().iter().map(|(_, _, bytes)| bytes).sum();
        self.say(&format!(
            "{} processes were started, {} MiB went through the links",
            self.site.starts(),
            carried >> 20
        ));
        Ok(())
    }

    /// Waits for something, looking after everything meanwhile; `None` where it did not come in time.
    pub(crate) fn wait<T>(
        &mut self,
        within: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<Option<T>, String>,
    ) -> Result<Option<T>, NoReport> {
        let begun = Instant::now();
        loop {
            self.look_after()?;
            if let Some(value) = probe(self)? {
                return Ok(Some(value));
            }
            if begun.elapsed() > within {
                return Ok(None);
            }
            thread::sleep(TICK);
        }
    }

    /// Looks after processes, load and health; false where a process is away.
    fn look_after(&mut self) -> Result<bool, NoReport> {
        if self.stop.load(Relaxed) {
            return Err(NoReport::Stopped);
        }
        let all_up = self.site.upkeep()?;
        if self.looked.elapsed() >= LOOK_EVERY {
            self.look_at_agents();
            self.looked = Instant::now();
        }
        if self.sampled.elapsed() >= SAMPLE_EVERY {
            self.sample();
            self.sampled = Instant::now();
        }
        Ok(all_up)
    }

    /// Notes which agents compare their disks in full; first contents do not count.
    pub(crate) fn look_at_agents(&mut self) {
        for machine in self.site.names(Kind::Agent) {
            let Ok(status) = self.site.status(&machine) else { continue };
            if status["full_compare"] == Value::Bool(true) && self.loaded {
                self.compared.insert(machine);
            }
        }
    }

    /// Notes what the control plane says now; it may be away.
    fn sample(&mut self) {
        let expect = &self.order.scenario.expect;
        if !self.site.is_up("config") || expect.seen.is_empty() && expect.health.is_empty() {
            return;
        }
        for list in ["machines", "process-servers"] {
            let Ok(listed) = self.site.ctl(&[list]) else { continue };
            for item in listed["items"].as_array().cloned().unwrap_or_default() {
                self.sample_health(&item);
            }
        }
        if let Ok(events) = self.site.ctl(&["events", "--limit", "200"]) {
            let items = events["items"].as_array().cloned().unwrap_or_default();
            self.seen.extend(items.iter().filter_map(|event| event["code"].as_str().map(str::to_owned)));
        }
    }

    /// Notes the issues of a machine or process server.
    fn sample_health(&mut self, item: &Value) {
        let now = self.begun.elapsed().as_secs_f64();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for issue in item["health"]["issues"].as_array().cloned().unwrap_or_default() {
            let code = text(&issue["code"]);
            let new = Stood {
                of: text(&item["name"]),
                from: now,
                until: now,
                cause: text(&issue["cause"]),
                remedy: text(&issue["remedy"]),
            };
            self.seen.insert(code.clone());
            self.stood.entry(code).or_insert(new).until = now;
        }
    }

    fn bring_up(&mut self) -> Result<(), NoReport> {
        self.site.make_disks()?;
        for kind in [Kind::Config, Kind::Server, Kind::Agent] {
            let names = self.site.names(kind);
            for name in &names {
                self.site.start(name)?;
            }
            let up = self.wait(STARTS_WITHIN, |run| Ok(names.iter().all(|name| run.site.is_up(name)).then_some(())))?;
            if up.is_none() || !self.site.troubles.is_empty() {
                let why = self.site.troubles.join("\n");
                return Err(NoReport::Broken(format!("not every process came up at the start: {why}")));
            }
        }
        match self.all_committed(STARTS_WITHIN)? {
            Ok(()) => self.say("the installation is up, and first contents are committed"),
            Err(why) => return Err(NoReport::Broken(format!("first contents were not committed in time: {why}"))),
        }
        Ok(())
    }

    /// Waits until every machine's writes are committed and no disk has a gap.
    pub(crate) fn all_committed(&mut self, within: Duration) -> Result<Result<(), String>, NoReport> {
        let mut why = String::new();
        let done = self.wait(within, |run| {
            for machine in run.site.names(Kind::Agent) {
                let status = match run.site.status(&machine) {
                    Ok(status) if run.site.is_own(&machine, &status) => status,
                    Ok(_) => Value::Null,
                    Err(error) => Value::from(error),
                };
                let gapless = status["disks"].as_array().is_some_and(|disks| disks.iter().all(|d| d["gap"].is_null()));
                let last = status["last_lsn"].as_u64();
                if !gapless || last.is_none() || status["committed"].as_u64() < last {
                    why = format!("{machine}: {status}");
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        Ok(done.ok_or(why))
    }

    fn start_loads(&mut self) -> Result<(), NoReport> {
        let plan = &self.order.scenario.load;
        for (number, machine) in self.site.names(Kind::Agent).into_iter().enumerate() {
            let uris: Result<Vec<_>, _> = self.site.disks().iter().map(|disk| self.site.uri(&machine, disk)).collect();
            let work = Workload {
                seed: self.order.seed.wrapping_add(number as u64),
                connections: 2,
                blocks_max: plan.blocks_max,
                span_bytes: plan.span_mib << 20,
                zero_percent: 2,
                trim_percent: 1,
                fua_percent: 2,
                read_percent: 5,
                flush_every: 20,
                rate: Some(plan.writes_per_second),
                reconnect: Duration::from_secs(60),
                ..Workload::new(uris?)
            };
            let failed =
                |why: &dyn std::fmt::Display| NoReport::Broken(format!("prepare the load of {machine}: {why}"));
            let header = workload::header(&work).map_err(|error| failed(&error))?;
            let path = self.site.path(&format!("{machine}.journal"));
            let journal = Journal::create(&path, header).map_err(|error| failed(&error))?;
            let stop = self.stop_load.clone();
            let write = move || workload::run(&work, &journal, None, &wall_clock, &stop);
            let thread = thread::Builder::new().name(format!("load-{machine}")).spawn(write);
            let thread = thread.map_err(|error| failed(&error))?;
            self.loads.push(Load { machine, thread });
        }
        self.loaded = true;
        Ok(())
    }

    fn break_things(&mut self, due: &[Due]) -> Result<(), NoReport> {
        let mut injuries = Injuries::new(due);
        let (begun, duration) = (Instant::now(), self.order.duration.as_secs_f64());
        while begun.elapsed().as_secs_f64() < duration || !injuries.are_over() {
            self.look_after()?;
            for due in injuries.advance(&mut self.site, begun.elapsed().as_secs_f64())? {
                self.say(&due.to_string());
            }
            thread::sleep(TICK);
        }
        let begun = Instant::now();
        let up = self.wait(self.patience(), |run| Ok(run.site.upkeep()?.then_some(())))?;
        let took = format!("after {:.1} s", begun.elapsed().as_secs_f64());
        self.say(&format!("the last fault is over {took}"));
        let missing = if up.is_some() { String::new() } else { format!(", not {}", self.site.missing().join(", ")) };
        self.found("every process comes back", up.is_some(), took + &missing);
        Ok(())
    }

    fn end_loads(&mut self) -> Result<(), NoReport> {
        self.stop_load.store(true, Relaxed);
        let loads = std::mem::take(&mut self.loads);
        let (mut fine, mut details) = (true, Vec::new());
        for Load { machine, thread, .. } in loads {
            match thread.join() {
                Ok(Ok(report)) => {
                    fine &= report.failed_writes == 0 && report.writes > 0;
                    details.push(format!(
                        "{machine}: {} writes, {} failed, {} reads as expected, {} reconnects, half ≤ {} µs, longest {} ms",
                        report.writes,
                        report.failed_writes,
                        report.reads,
                        report.reconnects,
                        report.latency_p50_micros,
                        report.latency_max_micros / 1000
                    ));
                }
                Ok(Err(error)) => {
                    fine = false;
                    details.push(format!("{machine}: {error}"));
                }
                Err(_) => return Err(NoReport::Broken(format!("the load of {machine} panicked"))),
            }
        }
        self.found("no application write fails", fine, details.join("\n"));
        Ok(())
    }

    /// The longest wait for the system to settle.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.order.scenario.expect.settle_seconds)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.stop_load.store(true, Relaxed);
        // Without its agent a load would try to connect for a minute; it is left to end with the process.
    }
}
