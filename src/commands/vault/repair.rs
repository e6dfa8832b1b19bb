//! `farshore vault repair`.

use std::fmt::Display;

use clap::Args;
use farshore_engine::vault::merge::FullSpeed;
use farshore_engine::vault::read::open_vault::OpenVault;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::repair::{Proof, StoreCopies, repair_small};
use farshore_engine::vault::scrub::{Slice, scrub};

use super::access::{Access, read_failure, runtime};
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;
use crate::vault_place::{Purpose, VaultPlace};

/// From where to repair.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    access: Access,
    /// A copy of the vault: a folder, file:///path, or azblob://account/container/prefix. It is only read.
    #[arg(long, value_name = "PATH|URL")]
    from: String,
    /// Address of the copy's blob service, where it is not Azure's public one.
    #[arg(long, value_name = "URL")]
    from_endpoint: Option<String>,
    /// Also take a sound copy of the last object of a log, which no other object can prove to be the right one. Only for a copy
    /// that no server ever wrote to.
    #[arg(long)]
    accept_unproven: bool,
}

/// Reads everything and puts back what is damaged; fails where anything stays damaged.
pub(super) fn run(args: &RepairArgs, at: &VaultSettings) -> Outcome {
    let runtime = runtime()?;
    let (store, credential) = args.access.store(at, Purpose::Change, &runtime)?;
    let vault = runtime.block_on(OpenVault::open(store, &credential)).map_err(super::access::vault_failure)?;
    let copy = VaultPlace::parse(&args.from, args.from_endpoint.as_deref().unwrap_or_default())?;
    let copy = copy.open(&at.azure, Purpose::Read, &runtime)?;
    let proof = if args.accept_unproven { Proof::SoundCopyIsEnough } else { Proof::Required };
    let mut tally = Tally::default();
    runtime.block_on(async {
        let small = repair_small(&vault, &*copy).await.map_err(read_failure)?;
        small.repaired.iter().for_each(|object| tally.repaired(object));
        small.stays.iter().for_each(|(object, why)| tally.stays(object, why));
        for entry in vault.machines().await.map_err(read_failure)? {
            let Some(about) = entry.about else {
                tally.stays(&format!("machine {}", entry.machine), &"no description of it can be read");
                continue;
            };
            let source = vault.source(&about).map_err(read_failure)?;
            let copies = StoreCopies { source: LogSource::new(copy.clone(), entry.machine, source.key().clone()) };
            let done =
                scrub(&source, Some(Slice::ALL), &[], (&copies, proof), &FullSpeed).await.map_err(read_failure)?;
            println!("machine {} ({}): {} log objects read", about.name, entry.machine, done.objects);
            done.repaired.iter().for_each(|object| tally.repaired(object));
            for damaged in &done.damaged {
                tally.stays(&damaged.found.object, &damaged.stays);
                print!("{}", damaged.found);
            }
        }
        Ok::<(), Failure>(())
    })?;
    println!("{} objects put back, {} stay damaged", tally.repaired, tally.stays);
    match tally.stays {
        0 => Ok(()),
        _ => Err(Failure::failed("objects stay damaged; the lines above say which, and why")),
    }
}

#[derive(Debug, Default)]
struct Tally {
    repaired: u64,
    stays: u64,
}

impl Tally {
    fn repaired(&mut self, object: &str) {
        self.repaired += 1;
        println!("put back  {object}");
    }

    fn stays(&mut self, object: &str, why: &dyn Display) {
        self.stays += 1;
        println!("damaged   {object}: {why}");
    }
}
