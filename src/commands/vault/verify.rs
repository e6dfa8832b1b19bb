//! `farshore vault verify`.

use clap::Args;
use farshore_engine::vault::read::verify::verify;

use super::access::{Access, read_failure, runtime};
use super::ls::print_json;
use super::restore::Meter;
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;

/// What to verify.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    access: Access,
    /// The report as JSON, with every touched point.
    #[arg(long)]
    json: bool,
}

/// Verifies; fails where anything is damaged.
pub(super) fn run(args: &VerifyArgs, at: &VaultSettings) -> Outcome {
    let runtime = runtime()?;
    let vault = args.access.open(at, &runtime)?;
    let meter = Meter::new("verified", "objects");
    let report =
        runtime.block_on(verify(&vault, &|at| meter.show(at.objects_done, at.objects_total))).map_err(read_failure)?;
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
