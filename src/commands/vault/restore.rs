//! `farshore vault restore` and `farshore vault export`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use farshore_actors::supervise::wall_clock;
use farshore_engine::ids::Epoch;
use farshore_engine::vault::export::Format;
use farshore_engine::vault::read::restore::{RestoreError, RestorePlan, plan_as};
use farshore_engine::vault::read::select::show_time;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::store::pages::PageTarget;

use super::access::{Access, MachineArgs, PointArgs, read_failure, runtime};
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::VaultSettings;
use crate::vault_place::store_failure;

/// What to restore, and where.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    what: What,
    /// The directory for the files: one NAME.raw a disk. An interrupted restore of the same point goes on there.
    #[arg(long, value_name = "DIR", required_unless_present = "onto")]
    to: Option<PathBuf>,
    /// An old copy of the one disk, a raw file or a block device: only what differs is written to it.
    #[arg(long, value_name = "FILE|DEVICE", conflicts_with = "to")]
    onto: Option<PathBuf>,
    /// Replace files that are there.
    #[arg(long, conflicts_with = "onto")]
    force: bool,
    /// Only show what would be written.
    #[arg(long)]
    dry_run: bool,
}

/// What to export, and as what.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    what: What,
    /// raw, qcow2, vhd-fixed (as Azure takes it) or vhd-dynamic.
    #[arg(long)]
    format: Format,
    /// The directory for the files: one a disk. An interrupted export of the same point goes on there. Or a page blob for one
    /// disk as vhd-fixed, ready to become a managed disk: azblob://account/container/NAME.vhd
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// Address of the blob service of that page blob's account, outside Azure's public cloud.
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    to_endpoint: String,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
    /// Only show what would be written.
    #[arg(long)]
    dry_run: bool,
}

/// Which point of which machine of which vault.
#[derive(Debug, Args)]
struct What {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    point: PointArgs,
}

/// Plans, shows, performs.
pub(super) fn run(args: &RestoreArgs, at: &VaultSettings) -> Outcome {
    match (&args.onto, &args.to) {
        (Some(copy), _) => args.what.onto(at, copy, args.dry_run),
        (None, to) => {
            let to = to.as_deref().unwrap_or(Path::new("."));
            args.what.write(at, Format::Raw, to, args.force, args.dry_run, "restored")
        }
    }
}

/// The same, as files of a format.
pub(super) fn export(args: &ExportArgs, at: &VaultSettings) -> Outcome {
    if args.to.starts_with("azblob://") {
        return args.what.to_pages(at, args);
    }
    args.what.write(at, args.format, Path::new(&args.to), args.force, args.dry_run, "exported")
}

impl What {
    /// Plans and shows.
    async fn plan(
        &self,
        vault: &farshore_engine::vault::read::open_vault::OpenVault,
        format: Format,
        to: &Path,
    ) -> Result<(RestorePlan, TimelineReader), Failure> {
        let chosen = self.machine.choose(vault).await?;
        let (point, disks) = self.point.choose(&chosen)?;
        println!(
            "machine {}, point {} captured {} (LSN {})",
            chosen.about.name,
            point.id,
            show_time(point.captured_at),
            point.lsn
        );
        let plan = plan_as(&chosen.reader, point, &disks, to, format).await.map_err(failure)?;
        Ok((plan, chosen.reader))
    }

    fn write(
        &self,
        at: &VaultSettings,
        format: Format,
        to: &Path,
        force: bool,
        dry_run: bool,
        verb: &'static str,
    ) -> Outcome {
        let runtime = runtime()?;
        let vault = self.access.open(at, &runtime)?;
        runtime.block_on(async {
            let (plan, _) = self.plan(&vault, format, to).await?;
            for disk in &plan.disks {
                let (info, target) = (&disk.disk, disk.target.display());
                println!("    disk {} ({} bytes, {} of data) -> {target}", info.name, info.size_bytes, disk.data_bytes);
            }
            if dry_run {
                return Ok(());
            }
            let meter = Meter::new(verb, "bytes");
            plan.perform(force, &|at| meter.show(at.bytes_done, at.bytes_total)).await.map_err(failure)?;
            meter.end();
            println!("{verb}");
            Ok(())
        })
    }

    fn to_pages(&self, at: &VaultSettings, args: &ExportArgs) -> Outcome {
        if args.format != Format::VhdFixed {
            return Err(Failure::usage("a page blob takes --format vhd-fixed: that is what becomes a managed disk"));
        }
        let runtime = runtime()?;
        let target = at.azure.pages(&args.to, &args.to_endpoint, &runtime)?;
        let vault = self.access.open(at, &runtime)?;
        runtime.block_on(async {
            let (plan, reader) = self.plan(&vault, Format::VhdFixed, Path::new(".")).await?;
            let [disk] = plan.disks.as_slice() else {
                return Err(Failure::usage("a page blob takes one disk: name it with --disk"));
            };
            println!("    disk {} ({} of data) -> {}", disk.disk.name, disk.data_bytes, target.name());
            if args.dry_run {
                return Ok(());
            }
            target.prepare().await.map_err(store_failure)?;
            // A later export to the same blob has a higher one, and ends this one.
            let epoch = Epoch(wall_clock().0.unsigned_abs());
            let meter = Meter::new("exported", "bytes");
            let progress =
                |at: farshore_engine::vault::read::restore::Progress| meter.show(at.bytes_done, at.bytes_total);
            let exporting = plan.export_to_pages(&reader, &target, epoch, args.force, &progress);
            let sent = exporting.await.map_err(failure)?;
            meter.end();
            println!("exported: {sent} bytes were sent, all else is zero");
            Ok(())
        })
    }

    fn onto(&self, at: &VaultSettings, copy: &Path, dry_run: bool) -> Outcome {
        let runtime = runtime()?;
        let vault = self.access.open(at, &runtime)?;
        runtime.block_on(async {
            let (plan, _) = self.plan(&vault, Format::Raw, Path::new(".")).await?;
            let [disk] = plan.disks.as_slice() else {
                return Err(Failure::usage("--onto takes one disk: name it with --disk"));
            };
            println!("    disk {} ({} of data) onto {}", disk.disk.name, disk.data_bytes, copy.display());
            if dry_run {
                return Ok(());
            }
            let meter = Meter::new("compared", "bytes");
            let progress =
                |at: farshore_engine::vault::read::restore::Progress| meter.show(at.bytes_done, at.bytes_total);
            let written = plan.bring_onto(copy, &progress).await.map_err(failure)?;
            meter.end();
            println!("restored: {written} bytes differed and were written");
            Ok(())
        })
    }
}

fn failure(error: RestoreError) -> Failure {
    match error {
        RestoreError::Read(error) => read_failure(error),
        RestoreError::Target(error) => store_failure(error),
        RestoreError::Exists(_)
        | RestoreError::TargetExists(_)
        | RestoreError::TooLarge(_)
        | RestoreError::TooSmall { .. } => Failure::new(ExitKind::Usage, error),
        other => Failure::failed(other),
    }
}

/// Progress on a terminal's standard error, at most once a percent; silent elsewhere.
pub(super) struct Meter {
    verb: &'static str,
    unit: &'static str,
    begun: Instant,
    shown_percent: AtomicU64,
    terminal: bool,
}

impl Meter {
    pub(super) fn new(verb: &'static str, unit: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { verb, unit, begun: Instant::now(), shown_percent: AtomicU64::new(u64::MAX), terminal }
    }

    pub(super) fn show(&self, done: u64, total: u64) {
        let percent = (u128::from(done) * 100 / u128::from(total.max(1))) as u64;
        if self.terminal && self.shown_percent.swap(percent, Ordering::Relaxed) != percent {
            let pace = pace(done, total, self.begun.elapsed(), self.unit);
            eprint!("\r{} {percent} % ({done} of {total} {}){pace}\x1b[K", self.verb, self.unit);
        }
    }

    /// Leaves the line.
    pub(super) fn end(&self) {
        if self.terminal && self.shown_percent.load(Ordering::Relaxed) != u64::MAX {
            eprintln!();
        }
    }
}

/// How fast it goes, and when it will be over.
fn pace(done: u64, total: u64, spent: Duration, unit: &str) -> String {
    let a_second = done as f64 / spent.as_secs_f64().max(0.001);
    if done == 0 || done >= total || a_second < 0.01 {
        return String::new();
    }
    let left = ((total - done) as f64 / a_second).round() as u64;
    let rate = match unit {
        "bytes" => format!("{:.1} MB/s", a_second / 1e6),
        other => format!("{a_second:.1} {other}/s"),
    };
    format!(", {rate}, {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_tells_the_rate_and_the_time_that_is_left() {
        let pace = |done, spent| pace(done, 1_000_000_000, Duration::from_secs(spent), "bytes");
        assert_eq!(pace(100_000_000, 10), ", 10.0 MB/s, 0:01:30 left");
        assert_eq!(pace(0, 10), "");
        assert_eq!(pace(1_000_000_000, 10), "");
    }
}
