//! `farshore chaos workload` writes stamped blocks to the exports of a machine's disks and keeps a journal; `farshore chaos
//! check` proves from the journal that images or exports show a state those disks could have been in; `farshore chaos run`
//! breaks whole installations on purpose.

mod agents;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use farshore_engine::ids::Timestamp;
use farshore_engine::nbd::NbdUri;
use farshore_engine::oracle::check::{CheckError, Subject};
use farshore_engine::oracle::image::{DiskImage, NbdImage};
use farshore_engine::oracle::workload::{self, WorkloadReport};
use farshore_engine::oracle::{
    Bounds, Findings, History, Image, Journal, JournalError, Pattern, Workload, WorkloadError, check,
};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::exit::{ExitKind, Failure, Outcome};

/// Prove that nothing is lost: a workload with a journal, and a checker.
#[derive(Debug, Subcommand)]
pub(crate) enum ChaosCommand {
    /// Start a whole installation, break it by a scenario, and judge what is left.
    Run(run::ChaosRunArgs),
    /// Many synthetic machines in one process, with real sessions.
    Agents(agents::ChaosAgentsArgs),
    /// Print the JSON schema of scenarios.
    Schema,
    /// Write stamped blocks through NBD and journal what was acknowledged.
    Workload(WorkloadArgs),
    /// Check images or exports of all disks of a machine, taken at one point, against a journal.
    Check(CheckArgs),
}

/// Which blocks a workload chooses.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PatternArg {
    /// All alike.
    Random,
    /// Half of the writes go to a sixteenth of the blocks.
    Hot,
    /// One after another.
    Sequential,
}

/// What a workload is to do.
#[derive(Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// The export of one disk, as nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME; once for each disk, in their order.
    #[arg(long = "nbd", required = true, value_name = "URI")]
    nbd: Vec<NbdUri>,
    /// Where the journal is written; must not exist yet, but with --resume.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// Go on with the journal of an earlier run on the same disks.
    #[arg(long)]
    resume: bool,
    /// Stop after this time.
    #[arg(long)]
    seconds: Option<f64>,
    /// Stop after this many requests.
    #[arg(long)]
    writes: Option<u64>,
    /// Requests a second over all disks; without, as fast as they go.
    #[arg(long)]
    rate: Option<f64>,
    /// Seed of places and payloads; without, drawn from the clock (or the journal's, with --resume).
    #[arg(long)]
    seed: Option<u64>,
    /// Size of a stamped block: 512, 1024, 2048 or 4096 bytes.
    #[arg(long, default_value_t = 4096)]
    block_bytes: u32,
    /// Connections to each disk, each with one request in flight.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Which blocks are written.
    #[arg(long, value_enum, default_value = "random")]
    pattern: PatternArg,
    /// Most blocks of one write.
    #[arg(long, default_value_t = 4)]
    blocks_max: u32,
    /// Use only this many bytes from the front of each disk.
    #[arg(long, default_value_t = 0)]
    span_bytes: u64,
    /// Of a hundred writes, how many are zeroes.
    #[arg(long, default_value_t = 0)]
    zero_percent: u8,
    /// Of a hundred writes, how many are trims.
    #[arg(long, default_value_t = 0)]
    trim_percent: u8,
    /// Of a hundred writes, how many must be stable on return.
    #[arg(long, default_value_t = 0)]
    fua_percent: u8,
    /// Of a hundred requests, how many are reads compared with what was acknowledged.
    #[arg(long, default_value_t = 0)]
    read_percent: u8,
    /// Flush after this many writes of a connection; 0 for never.
    #[arg(long, default_value_t = 0)]
    flush_every: u64,
    /// How long a connection may be away before the workload gives up.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    reconnect: f64,
    /// Go on when the server answers with an error.
    #[arg(long)]
    tolerate_errors: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What is to be checked.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The journal.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// A disk's image file, device or export; DISK is its number or name. Once for each disk.
    #[arg(long = "image", required = true, value_name = "DISK=PATH|URI")]
    images: Vec<String>,
    /// What a disk held before the workload; zeroes where not given.
    #[arg(long = "base", value_name = "DISK=PATH|URI")]
    bases: Vec<String>,
    /// Every write acknowledged before this time must be there (RFC 3339, or microseconds since 1970).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    acked_before: Option<Timestamp>,
    /// Every acknowledged write up to this sequence must be there.
    #[arg(long, value_name = "SEQ")]
    at_least_seq: Option<u64>,
    /// No write submitted from this time on may be there.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    none_after: Option<Timestamp>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs a chaos command.
pub(crate) fn run(command: &ChaosCommand) -> Outcome {
    match command {
        ChaosCommand::Run(args) => run::run_scenario(args, stop_on_signal()?.as_ref()),
        ChaosCommand::Agents(args) => agents::run(args, stop_on_signal()?.as_ref()),
        ChaosCommand::Schema => print_json(&crate::chaos::shape::schema()),
        ChaosCommand::Workload(args) => run_workload(args),
        ChaosCommand::Check(args) => run_check(args),
    }
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(micros) = text.parse() {
        return Ok(Timestamp(micros));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())?;
    i64::try_from(time.unix_timestamp_nanos() / 1000).map(Timestamp).map_err(|error| error.to_string())
}

fn show_time(micros: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{micros} µs since 1970"))
}

fn now() -> Timestamp {
    // A clock before 1970 only spoils bounds by time; the order in the journal is what counts.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn seconds(text: &str, value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value).map_err(|error| Failure::usage(format!("--{text} {value}: {error}")))
}

impl WorkloadArgs {
    fn plan(&self, seed: u64) -> Result<Workload, Failure> {
        Ok(Workload {
            disks: self.nbd.clone(),
            seed,
            block_bytes: self.block_bytes,
            connections: self.connections,
            pattern: match self.pattern {
                PatternArg::Random => Pattern::Random,
                PatternArg::Hot => Pattern::Hot,
                PatternArg::Sequential => Pattern::Sequential,
            },
            blocks_max: self.blocks_max,
            span_bytes: self.span_bytes,
            zero_percent: self.zero_percent,
            trim_percent: self.trim_percent,
            fua_percent: self.fua_percent,
            read_percent: self.read_percent,
            flush_every: self.flush_every,
            rate: self.rate,
            duration: self.seconds.map(|value| seconds("seconds", value)).transpose()?,
            writes: self.writes,
            reconnect: seconds("reconnect", self.reconnect)?,
            tolerate_errors: self.tolerate_errors,
        })
    }

    /// Opens the journal, and gives the seed with it: the one asked for, else the journal's own.
    fn open(&self) -> Result<(Workload, Journal, Option<History>), Failure> {
        let earlier = if self.resume { Some(History::read(&self.journal).map_err(journal_failure)?) } else { None };
        let drawn = || now().0.unsigned_abs();
        let seed = self.seed.or(earlier.map(|history| history.seed())).unwrap_or_else(drawn);
        let plan = self.plan(seed)?;
        let header = workload::header(&plan).map_err(workload_failure)?;
        if self.resume {
            let (journal, history) = Journal::resume(&self.journal, header).map_err(journal_failure)?;
            return Ok((plan, journal, Some(history)));
        }
        Ok((plan, Journal::create(&self.journal, header).map_err(journal_failure)?, None))
    }
}

fn journal_failure(error: JournalError) -> Failure {
    Failure::usage(error)
}

fn workload_failure(error: WorkloadError) -> Failure {
    let kind = match &error {
        WorkloadError::Plan(_) | WorkloadError::Journal(_) => ExitKind::Usage,
        WorkloadError::Unreachable { .. } => ExitKind::Unreachable,
        WorkloadError::Refused { .. } | WorkloadError::WrongRead { .. } => ExitKind::Failed,
    };
    Failure::new(kind, error)
}

fn run_workload(args: &WorkloadArgs) -> Outcome {
    let (plan, journal, earlier) = args.open()?;
    let stop = stop_on_signal()?;
    let report = workload::run(&plan, &journal, earlier.as_ref(), &now, &stop).map_err(workload_failure)?;
    if args.json {
        return print_json(&report);
    }
    show_report(&report, plan.seed);
    Ok(())
}

/// A flag that SIGINT and SIGTERM set, so that the report is printed and the journal ends cleanly.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let wait = move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            flag.store(true, Ordering::Relaxed);
            std::io::Result::Ok(())
        })
    };
    // Ends with the process.
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(stop)
}

fn show_report(report: &WorkloadReport, seed: u64) {
    let mib = report.write_bytes as f64 / (1 << 20) as f64;
    println!("{} writes acknowledged, {mib:.1} MiB in {:.1} s, seed {seed}", report.writes, report.seconds);
    println!(
        "latency: half ≤ {} µs, 99 % ≤ {} µs, longest {} µs",
        report.latency_p50_micros, report.latency_p99_micros, report.latency_max_micros
    );
    println!(
        "{} flushes, {} reads as expected, {} reconnects, {} refused, {} settled from before, last sequence {}",
        report.flushes, report.reads, report.reconnects, report.failed_writes, report.settled_writes, report.last_seq
    );
}

fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(format!("print JSON: {error}")))?;
    println!("{text}");
    Ok(())
}

fn run_check(args: &CheckArgs) -> Outcome {
    let history = History::read(&args.journal).map_err(journal_failure)?;
    let mut images = open_all(&history, &args.images)?;
    let mut bases = open_all(&history, &args.bases)?;
    let mut subjects = Vec::new();
    for ((disk, image), base) in history.disks().iter().zip(&mut images).zip(&mut bases) {
        let image = image.as_deref_mut().ok_or_else(|| {
            Failure::usage(format!(
                "no image of disk {}: a part of a machine proves nothing about all of it",
                disk.name
            ))
        })?;
        subjects.push(Subject { image, base: base.as_deref_mut().map(|base| base as &mut dyn Image) });
    }
    let bounds =
        Bounds { acked_before: args.acked_before, at_least_seq: args.at_least_seq, none_after: args.none_after };
    let findings = check(&history, &mut subjects, &bounds).map_err(|error| match error {
        CheckError::Count { .. } => Failure::usage(error),
        CheckError::Size { .. } => Failure::failed(error),
    })?;
    if args.json {
        print_json(&findings)?;
    } else {
        show_findings(&history, &findings);
    }
    match findings.violation_count {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} violations: this is no state that the disks were in"))),
    }
}

type OpenImage = Option<Box<dyn Image>>;

/// Opens what `DISK=PATH|URI` names, in order of the disks.
fn open_all(history: &History, named: &[String]) -> Result<Vec<OpenImage>, Failure> {
    let mut images: Vec<OpenImage> = history.disks().iter().map(|_| None).collect();
    for text in named {
        let (disk, place) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("'{text}': expected DISK=PATH or DISK=URI, DISK a number or name"))
        })?;
        let by_name = history.disks().iter().position(|known| known.name == disk);
        let slot = by_name.or_else(|| disk.parse().ok()).and_then(|number| images.get_mut(number));
        let slot = slot.ok_or_else(|| Failure::usage(format!("the journal has no disk '{disk}'")))?;
        if slot.is_some() {
            return Err(Failure::usage(format!("disk '{disk}' is given twice")));
        }
        *slot = Some(open_image(place)?);
    }
    Ok(images)
}

fn open_image(place: &str) -> Result<Box<dyn Image>, Failure> {
    if place.starts_with("nbd:") || place.starts_with("nbd+") {
        let uri: NbdUri = place.parse().map_err(Failure::usage)?;
        let image = NbdImage::connect(&uri).map_err(|error| Failure::new(ExitKind::Unreachable, error))?;
        return Ok(Box::new(image));
    }
    Ok(Box::new(DiskImage::open(Path::new(place)).map_err(Failure::usage)?))
}

fn show_findings(history: &History, findings: &Findings) {
    for violation in &findings.violations {
        println!("VIOLATION {violation}");
    }
    let told = findings.violations.len() as u64;
    if findings.violation_count > told {
        println!("... and {} more", findings.violation_count - told);
    }
    println!(
        "{} blocks looked at, {} show stamped writes, of {} submitted and {} acknowledged",
        findings.blocks,
        findings.stamped_blocks,
        history.write_count(),
        history.acknowledged_count()
    );
    if findings.is_consistent() {
        let time = show_time(findings.cut_submitted_at_micros);
        println!(
            "consistent: every one of the {} writes acknowledged before write {} (submitted {time}) is there or overwritten",
            findings.required_writes, findings.cut_seq
        );
    }
}
