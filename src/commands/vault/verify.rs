//! `farshore vault verify`.

use std::time::SystemTime;

use clap::Args;
use farshore_engine::ids::TimelineId;
use farshore_engine::vault::read::open_vault::OpenVault;
use farshore_engine::vault::read::select::PointSelector;
use farshore_engine::vault::read::verify::{PointScope, Scope, verify};

use super::access::{Access, MachineArgs, PointArgs, read_failure, runtime};
use super::ls::print_json;
use super::restore::Meter;
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;

/// What to verify.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    access: Access,
    /// Read only what one point of this machine needs: the machine, by its name or id.
    #[arg(long, value_name = "NAME|ID")]
    machine: Option<String>,
    /// The timeline; the one that was written last, if not given.
    #[arg(long, value_name = "ID", requires = "machine")]
    timeline: Option<TimelineId>,
    /// latest, a point's id, or a time: the newest point captured at it or before. The newest, if not given.
    #[arg(long, value_name = "latest|ID|TIME", requires = "machine")]
    point: Option<PointSelector>,
    /// Only this disk, by its name or number; may be given several times. All disks of the point, if not given.
    #[arg(long = "disk", value_name = "NAME|NUMBER", requires = "machine")]
    disks: Vec<String>,
    /// Read only this share of the log objects, in percent.
    #[arg(long, value_name = "PERCENT", conflicts_with = "machine")]
    sample: Option<f64>,
    /// Which objects the sample takes: the same number takes the same ones. A new one each time, if not given.
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    seed: Option<u64>,
    /// The report as JSON, with every touched point.
    #[arg(long)]
    json: bool,
}

/// Verifies; fails where anything is damaged.
pub(super) fn run(args: &VerifyArgs, at: &VaultSettings) -> Outcome {
    let runtime = runtime()?;
    let vault = args.access.open(at, &runtime)?;
    let scope = runtime.block_on(args.scope(&vault))?;
    let meter = Meter::new("verified", "objects");
    let progress =
        |at: farshore_engine::vault::read::verify::VerifyProgress| meter.show(at.objects_done, at.objects_total);
    let report = runtime.block_on(verify(&vault, &scope, &progress)).map_err(read_failure)?;
    meter.end();
    match args.json {
        true => print_json(&report)?,
        false => print!("{report}"),
    }
    match report.is_sound() {
        true => Ok(()),
        false => Err(Failure::failed("the vault is damaged; the report names the objects and the points they touch")),
    }
}

impl VerifyArgs {
    async fn scope(&self, vault: &OpenVault) -> Result<Scope, Failure> {
        if let Some(percent) = self.sample {
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(Failure::usage("--sample takes a share above 0 and up to 100, in percent"));
            }
            return Ok(Scope::Sample { percent, seed: self.seed.unwrap_or_else(new_seed) });
        }
        let Some(machine) = self.machine.clone() else { return Ok(Scope::Whole) };
        let chosen = MachineArgs { machine, timeline: self.timeline }.choose(vault).await?;
        let point = self.point.unwrap_or(PointSelector::Latest);
        let (point, disks) = PointArgs { point, disks: self.disks.clone() }.choose(&chosen)?;
        let found = PointScope::of(&chosen.reader, &point, &disks).await.map_err(read_failure)?;
        Ok(Scope::Point(found))
    }
}

/// Another number each time: the microseconds since 1970.
fn new_seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
