//! `farshore vault repair`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use clap::Args;
use farshore_actors::supervise::{OsChance, wall_clock};
use farshore_engine::ids::{RunId, TimelineId, WriterId};
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::manifest_keeper::{ManifestKeeper, read_manifest};
use farshore_engine::vault::merge::{FullSpeed, MergeLimits, Merger};
use farshore_engine::vault::read::open_vault::OpenVault;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::repair::{Copies, NoCopies, Proof, StoreCopies, repair_small};
use farshore_engine::vault::scrub::{Damaged, Slice, scrub};
use farshore_engine::vault::store::ObjectStore;
use parking_lot::Mutex;

use super::access::{Access, read_failure, runtime};
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;
use crate::vault_place::{Purpose, VaultPlace};

/// From where to repair.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    access: Access,
    /// A copy of the vault: a folder, file:///path, or azblob://account/container/prefix. It is only read. Without one, merged
    /// runs are made again where what they were merged from is still in the vault.
    #[arg(long, value_name = "PATH|URL")]
    from: Option<String>,
    /// Address of the copy's blob service, where it is not Azure's public one.
    #[arg(long, value_name = "URL", requires = "from")]
    from_endpoint: Option<String>,
    /// Also take a sound copy of the last object of a log, which no other object can prove to be the right one. Only for a copy
    /// that no server ever wrote to.
    #[arg(long, requires = "from")]
    accept_unproven: bool,
}

/// Reads everything and puts back what is damaged; fails where anything stays damaged.
pub(super) fn run(args: &RepairArgs, at: &VaultSettings) -> Outcome {
    let runtime = runtime()?;
    let (store, credential) = args.access.store(at, Purpose::Change, &runtime)?;
    let vault = runtime.block_on(OpenVault::open(store, &credential)).map_err(super::access::vault_failure)?;
    let copy = match &args.from {
        Some(from) => {
            let place = VaultPlace::parse(from, args.from_endpoint.as_deref().unwrap_or_default())?;
            Some(place.open(&at.azure, Purpose::Read, &runtime)?)
        }
        None => None,
    };
    let proof = if args.accept_unproven { Proof::SoundCopyIsEnough } else { Proof::Required };
    let mut tally = Tally::default();
    runtime.block_on(async {
        if let Some(copy) = &copy {
            let small = repair_small(&vault, &**copy).await.map_err(read_failure)?;
            small.repaired.iter().for_each(|object| tally.repaired(object));
            small.stays.iter().for_each(|(object, why)| tally.stays(object, why));
        }
        for entry in vault.machines().await.map_err(read_failure)? {
            let Some(about) = entry.about else {
                tally.stays(&format!("machine {}", entry.machine), &"no description of it can be read");
                continue;
            };
            let source = vault.source(&about).map_err(read_failure)?;
            let copied = |copy: &Arc<dyn ObjectStore>| StoreCopies {
                source: LogSource::new(copy.clone(), entry.machine, source.key().clone()),
            };
            let copies: Box<dyn Copies> = match &copy {
                Some(copy) => Box::new(copied(copy)),
                None => Box::new(NoCopies),
            };
            let done =
                scrub(&source, Some(Slice::ALL), &[], (&*copies, proof), &FullSpeed).await.map_err(read_failure)?;
            println!("machine {} ({}): {} log objects read", about.name, entry.machine, done.objects);
            done.repaired.iter().for_each(|object| tally.repaired(object));
            let renewed = renew(&vault, &source, &done.damaged).await?;
            for damaged in &done.damaged {
                let object = &damaged.found.object;
                match run_of(object).and_then(|(_, run)| renewed.get(&run)) {
                    Some(Ok(new)) => tally.replaced(object, *new),
                    Some(Err(why)) => tally.stays(object, &format!("{}; {why}", damaged.stays)),
                    None => tally.stays(object, &damaged.stays),
                }
                print!("{}", damaged.found);
            }
        }
        Ok::<(), Failure>(())
    })?;
    println!("{} objects put back or made again, {} stay damaged", tally.repaired, tally.stays);
    match tally.stays {
        0 => Ok(()),
        _ => Err(Failure::failed("objects stay damaged; the lines above say which, and why")),
    }
}

/// The timeline and the run that an object is a part of, if it is one.
fn run_of(object: &str) -> Option<(TimelineId, RunId)> {
    let name = ObjectName::listed(object)?;
    Some((name.owner()?.1, name.run()?.0))
}

/// Makes damaged runs again from what they were merged from, and names what stands in their place. In the name of the
/// timeline's owner: like any change of its own, this one is taken only on the manifest that it was made for.
async fn renew(
    vault: &OpenVault,
    source: &LogSource,
    damaged: &[Damaged],
) -> Result<BTreeMap<RunId, Result<RunId, String>>, Failure> {
    let mut renewed = BTreeMap::new();
    for (timeline, run) in damaged.iter().filter_map(|damaged| run_of(&damaged.found.object)).collect::<BTreeSet<_>>() {
        let Some((manifest, _)) = read_manifest(source, timeline).await.map_err(read_failure)? else { continue };
        let (machine, key, chance) = (source.machine(), source.key().clone(), Arc::new(Mutex::new(OsChance)));
        let keeper = ManifestKeeper::new(vault.store().clone(), machine, timeline, key, chance);
        let owner = (manifest.epoch, WriterId::draw(&mut OsChance));
        let (limits, pace) = (MergeLimits::default(), Arc::new(FullSpeed));
        let merger = Merger::new(source.clone(), timeline, keeper, owner, limits, pace, Arc::new(wall_clock));
        match merger.renew(run, None).await {
            Ok(Some(new)) => drop(renewed.insert(run, Ok(new.id))),
            // Somebody else did.
            Ok(None) => {}
            Err(error) => drop(renewed.insert(run, Err(error.to_string()))),
        }
    }
    Ok(renewed)
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

    fn replaced(&mut self, object: &str, run: RunId) {
        self.repaired += 1;
        println!("made again {object}: run {run} stands in its place");
    }

    fn stays(&mut self, object: &str, why: &dyn Display) {
        self.stays += 1;
        println!("damaged   {object}: {why}");
    }
}
