//! `farshore chaos run`: scenarios against a whole installation of real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::chaos::defects::{Defect, Of, VERIFIER};
use crate::chaos::report::{Report, junit};
use crate::chaos::run::{NoReport, Order, run};
use crate::chaos::scenario::Scenario;
use crate::exit::{Failure, Outcome};

/// How the report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For what reads JUnit.
    Junit,
}

/// What is to be run.
#[derive(Debug, Args)]
pub(crate) struct ChaosRunArgs {
    /// The scenario: the name of one that is built in, as mix, or a TOML file; docs/chaos.md is its manual.
    scenario: PathBuf,
    /// Seed of faults, places and payloads; the same seed is the same schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs, with this and the following seeds.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// How long faults go on, in seconds.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    duration: f64,
    /// Write the report here in all formats.
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// What is printed at the end.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Where the installation's directory is made; the system's place for temporary files without it. Keep it short.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Keep that directory even where all is well.
    #[arg(long)]
    keep: bool,
    /// Run a member with a built-in defect, to see that the harness finds it (see docs/chaos.md).
    #[arg(long = "defect", value_name = "MEMBER=DEFECT", value_parser = defect)]
    defects: Vec<(String, Defect)>,
}

fn defect(text: &str) -> Result<(String, Defect), String> {
    let (member, name) = text.split_once('=').ok_or("expected MEMBER=DEFECT, as m1=ack-before-activity-log")?;
    let all: Vec<&str> = Defect::ALL.iter().map(|(name, ..)| *name).collect();
    let defect = Defect::named(name).ok_or_else(|| format!("there is no defect '{name}', only {}", all.join(", ")))?;
    let fits = match defect.of() {
        Of::Agents => member.starts_with('m'),
        Of::Servers => member.starts_with("ps-"),
        Of::All => member != VERIFIER,
        Of::Verifier => member == VERIFIER,
    };
    if fits { Ok((member.to_owned(), defect)) } else { Err(format!("'{member}' cannot have the defect '{name}'")) }
}

/// Part of a file system, in percent, that must be free: below it process servers slow agents down, as they should.
const FREE_PERCENT_MIN: u64 = 30;

/// How much of a directory's file system is free, in percent and in bytes.
fn free(dir: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    Some((stat.f_bavail.saturating_mul(100) / stat.f_blocks.max(1), bytes))
}

impl ChaosRunArgs {
    /// Where the run's directory is made: what was asked for, else the first usual place with room.
    fn place(&self) -> Result<PathBuf, Failure> {
        let usual = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
        let places = self.work_dir.as_ref().map_or(usual.to_vec(), |dir| vec![dir.clone()]);
        let roomy =
            |dir: &&PathBuf| free(dir).is_some_and(|(percent, bytes)| percent >= FREE_PERCENT_MIN && bytes >= 1 << 30);
        places.iter().find(roomy).cloned().ok_or_else(|| {
            let names: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            Failure::usage(format!(
                "less than {FREE_PERCENT_MIN} % or 1 GiB is free at {}: process servers slow agents down there, and a run would \
                 prove nothing; name a place with room with --work-dir",
                names.join(", ")
            ))
        })
    }

    fn order(&self, scenario: &Scenario, seed: u64) -> Result<Order, Failure> {
        let duration = Duration::try_from_secs_f64(self.duration);
        let defects: String = self.defects.iter().map(|(at, what)| format!(" --defect {at}={}", what.name())).collect();
        Ok(Order {
            scenario: scenario.clone(),
            seed,
            duration: duration.map_err(|error| Failure::usage(format!("--duration {}: {error}", self.duration)))?,
            under: self.place()?,
            keep: self.keep,
            defects: self.defects.clone(),
            replay: format!(
                "farshore chaos run {} --seed {seed} --duration {}{defects}",
                self.scenario.display(),
                self.duration
            ),
        })
    }
}

/// Runs the rounds; fails where a check did.
pub(super) fn run_scenario(args: &ChaosRunArgs, stop: &AtomicBool) -> Outcome {
    let scenario = Scenario::read(&args.scenario).map_err(Failure::usage)?;
    let unknown = |member: &str| member != VERIFIER && !scenario.processes().iter().any(|known| known == member);
    if let Some((member, _)) = args.defects.iter().find(|(member, _)| unknown(member)) {
        let text = format!("no process is called '{member}'; there are {}", scenario.processes().join(", "));
        return Err(Failure::usage(text));
    }
    let mut reports = Vec::new();
    for round in 0..args.rounds {
        let order = args.order(&scenario, args.seed.wrapping_add(round))?;
        match run(&order, stop) {
            Ok(report) => {
                eprint!("{}", report.text());
                reports.push(report);
            }
            Err(NoReport::Stopped) => return Err(Failure::failed("stopped; every process of the run has ended")),
            Err(NoReport::Broken(why)) => return Err(Failure::failed(format!("{why}\nagain: {}", order.replay))),
        }
    }
    let (text, json) = (text_of(&reports), json_of(&reports)?);
    let xml = junit(&reports);
    if let Some(dir) = &args.report_dir {
        write_all(dir, [("report.txt", &text), ("report.json", &json), ("report.xml", &xml)])?;
    }
    match args.format {
        Format::Text => print!("{text}"),
        Format::Json => println!("{json}"),
        Format::Junit => print!("{xml}"),
    }
    let failed: Vec<String> =
        reports.iter().filter(|report| !report.passed()).map(|report| report.seed.to_string()).collect();
    match failed.len() {
        0 => Ok(()),
        count => {
            Err(Failure::failed(format!("{count} of {} rounds failed: seeds {}", reports.len(), failed.join(", "))))
        }
    }
}

fn text_of(reports: &[Report]) -> String {
    let passed = reports.iter().filter(|report| report.passed()).count();
    let all: String = reports.iter().map(Report::text).collect();
    format!("{all}{passed} of {} rounds passed\n", reports.len())
}

fn json_of(reports: &[Report]) -> Result<String, Failure> {
    let passed = reports.iter().all(Report::passed);
    serde_json::to_string_pretty(&json!({ "passed": passed, "rounds": reports }))
        .map_err(|error| Failure::failed(format!("write the report: {error}")))
}

fn write_all(dir: &Path, files: [(&str, &String); 3]) -> Outcome {
    fs::create_dir_all(dir).map_err(|error| Failure::failed(format!("make {}: {error}", dir.display())))?;
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| Failure::failed(format!("write {}: {error}", path.display())))?;
    }
    Ok(())
}
