//! `farshore vault restore`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use farshore_engine::vault::read::restore::{RestoreError, RestorePlan, plan};
use farshore_engine::vault::read::select::show_time;

use super::access::{Access, MachineArgs, PointArgs, read_failure, runtime};
use crate::exit::{ExitKind, Failure, Outcome};

/// What to restore, and where.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    point: PointArgs,
    /// The directory for the files: one NAME.raw a disk.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
    /// Only show what would be written.
    #[arg(long)]
    dry_run: bool,
}

/// Plans, shows, performs.
pub(super) fn run(args: &RestoreArgs) -> Outcome {
    let runtime = runtime()?;
    let vault = args.access.open(&runtime)?;
    runtime.block_on(async {
        let chosen = args.machine.choose(&vault).await?;
        let (point, disks) = args.point.choose(&chosen)?;
        println!(
            "machine {}, point {} captured {} (LSN {})",
            chosen.about.name,
            point.id,
            show_time(point.captured_at),
            point.lsn
        );
        let plan = plan(&chosen.reader, point, &disks, &args.to).await.map_err(failure)?;
        show(&plan);
        if args.dry_run {
            return Ok(());
        }
        let meter = Meter::new("restored", "bytes");
        plan.perform(args.force, &|at| meter.show(at.bytes_done, at.bytes_total)).await.map_err(failure)?;
        meter.end();
        println!("restored");
        Ok(())
    })
}

fn show(plan: &RestorePlan) {
    for disk in &plan.disks {
        let (info, target) = (&disk.disk, disk.target.display());
        println!("    disk {} ({} bytes, {} of data) -> {target}", info.name, info.size_bytes, disk.data_bytes);
    }
}

fn failure(error: RestoreError) -> Failure {
    match error {
        RestoreError::Read(error) => read_failure(error),
        RestoreError::Exists(_) => Failure::new(ExitKind::Usage, error),
        other => Failure::failed(other),
    }
}

/// Progress on a terminal's standard error, at most once a percent; silent elsewhere.
pub(super) struct Meter {
    verb: &'static str,
    unit: &'static str,
    shown_percent: AtomicU64,
    terminal: bool,
}

impl Meter {
    pub(super) fn new(verb: &'static str, unit: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { verb, unit, shown_percent: AtomicU64::new(u64::MAX), terminal }
    }

    pub(super) fn show(&self, done: u64, total: u64) {
        let percent = (u128::from(done) * 100 / u128::from(total.max(1))) as u64;
        if self.terminal && self.shown_percent.swap(percent, Ordering::Relaxed) != percent {
            eprint!("\r{} {percent} % ({done} of {total} {})", self.verb, self.unit);
        }
    }

    /// Leaves the line.
    pub(super) fn end(&self) {
        if self.terminal && self.shown_percent.load(Ordering::Relaxed) != u64::MAX {
            eprintln!();
        }
    }
}
