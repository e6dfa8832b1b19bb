//! `farshore vault ls`.

use clap::Args;
use farshore_engine::ids::{DiskNo, MachineId, TimelineId};
use farshore_engine::record::MarkKind;
use farshore_engine::vault::read::open_vault::OpenVault;
use farshore_engine::vault::read::points::RecoveryPoint;
use farshore_engine::vault::read::select::show_time;
use farshore_engine::vault::read::timeline::TimelineReader;
use serde::Serialize;

use super::access::{Access, Chosen, MachineArgs, read_failure, runtime};
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    access: Access,
    /// List this machine's points, by its name or id.
    #[arg(long, value_name = "NAME|ID")]
    machine: Option<String>,
    /// Of this timeline; of the one that was written last, if not given.
    #[arg(long, value_name = "ID", requires = "machine")]
    timeline: Option<TimelineId>,
    /// Points shown of a machine, newest first; 0 for all.
    #[arg(long, default_value_t = 50, requires = "machine")]
    limit: usize,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    machine: MachineId,
    name: Option<String>,
    disks: Vec<String>,
    timelines: Vec<TimelineLine>,
}

#[derive(Debug, Serialize)]
struct TimelineLine {
    timeline: TimelineId,
    parent: Option<TimelineId>,
    points: usize,
    oldest: Option<RecoveryPoint>,
    newest: Option<RecoveryPoint>,
    /// The object behind which the log cannot be read, and why.
    broken: Option<String>,
}

#[derive(Debug, Serialize)]
struct PointLine {
    #[serde(flatten)]
    point: RecoveryPoint,
    captured: String,
    disk_names: Vec<String>,
}

/// Lists.
pub(super) fn run(args: &LsArgs, at: &VaultSettings) -> Outcome {
    let runtime = runtime()?;
    let vault = args.access.open(at, &runtime)?;
    match &args.machine {
        None => show_machines(&runtime.block_on(machines(&vault))?, args.json),
        Some(machine) => {
            let machine = MachineArgs { machine: machine.clone(), timeline: args.timeline };
            let chosen = runtime.block_on(machine.choose(&vault))?;
            show_points(&points(&chosen, args.limit), args.json)
        }
    }
}

async fn machines(vault: &OpenVault) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for entry in vault.machines().await.map_err(read_failure)? {
        let mut line = Line { machine: entry.machine, name: None, disks: Vec::new(), timelines: Vec::new() };
        if let Some(about) = entry.about {
            let source = vault.source(&about).map_err(read_failure)?;
            for timeline in &about.timelines {
                let reader = TimelineReader::open(source.clone(), timeline.id).await.map_err(read_failure)?;
                let points = reader.points();
                line.timelines.push(TimelineLine {
                    timeline: timeline.id,
                    parent: timeline.parent,
                    points: points.len(),
                    oldest: points.first().cloned(),
                    newest: points.last().cloned(),
                    broken: reader.broken().map(|broken| format!("{}: {}", broken.object, broken.damage)),
                });
            }
            line.disks = about.disks.iter().map(|disk| disk.name.clone()).collect();
            line.name = Some(about.name);
        }
        lines.push(line);
    }
    Ok(lines)
}

fn show_machines(lines: &[Line], json: bool) -> Outcome {
    if json {
        return print_json(&lines);
    }
    if lines.is_empty() {
        println!("the vault holds no machine yet");
    }
    for line in lines {
        let Some(name) = &line.name else {
            println!("(no description can be read)  {}", line.machine);
            continue;
        };
        println!("{name}  {}  disks: {}", line.machine, line.disks.join(", "));
        for timeline in &line.timelines {
            let parent = timeline.parent.map_or_else(String::new, |parent| format!(" (from {parent})"));
            let time = |point: &Option<RecoveryPoint>| point.as_ref().map(|point| show_time(point.captured_at));
            let span = match (time(&timeline.oldest), time(&timeline.newest)) {
                (Some(oldest), Some(newest)) => format!(", {oldest} to {newest}"),
                _ => String::new(),
            };
            println!("    timeline {}{parent}: {} points{span}", timeline.timeline, timeline.points);
            if let Some(broken) = &timeline.broken {
                println!("        cannot be read further: {broken}");
            }
        }
    }
    Ok(())
}

fn points(chosen: &Chosen, limit: usize) -> Vec<PointLine> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let name = |disk: &DiskNo| chosen.disk_name(*disk);
    let page = chosen.reader.page(None, limit).points.into_iter();
    page.map(|point| PointLine {
        captured: show_time(point.captured_at),
        disk_names: point.disks.iter().map(name).collect(),
        point,
    })
    .collect()
}

fn show_points(lines: &[PointLine], json: bool) -> Outcome {
    if json {
        return print_json(&lines);
    }
    println!("{:<32}  {:<27}  {:<5}  {:>12}  DISKS", "POINT", "CAPTURED", "KIND", "LSN");
    for line in lines {
        let kind = match line.point.kind {
            MarkKind::Crash => "crash",
            MarkKind::App => "app",
            MarkKind::Group => "group",
        };
        let label = if line.point.label.is_empty() { String::new() } else { format!("  \"{}\"", line.point.label) };
        let (id, captured, lsn) = (line.point.id, &line.captured, line.point.lsn);
        println!("{id}  {captured:<27}  {kind:<5}  {lsn:>12}  {}{label}", line.disk_names.join(", "));
    }
    Ok(())
}

/// Prints a value for programs.
pub(super) fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    println!("{text}");
    Ok(())
}
