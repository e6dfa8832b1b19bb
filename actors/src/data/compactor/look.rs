//! One look of a compactor, on a thread of the back room, one at a time for the whole process server: so memory is bounded by
//! one merge, whatever is merged. What it commits is what its owner may commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use farshore_engine::ids::{MachineId, TimelineId};
use farshore_engine::vault::manifest_keeper::ManifestKeeper;
use farshore_engine::vault::merge::{MergeError, MergeLimits, Merger, Round, Rules, Sightings};
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::timeline::TimelineReader;
use parking_lot::Mutex;

use crate::data::back_room::Throttle;
use crate::data::ledger::MachineSpec;
use crate::supervise::{OsChance, wall_clock};

/// Machines whose log is kept read between looks. Chosen: those that are merged over and over; a log of a thousand segments
/// takes a few MiB.
const READERS_MAX: usize = 4;

/// Whose turn it is: whoever has it looks; with it, logs as they were read last.
#[derive(Debug, Default)]
pub(in crate::data) struct MergeTurn(tokio::sync::Mutex<VecDeque<Known>>);

#[derive(Debug)]
struct Known {
    machine: MachineId,
    timeline: TimelineId,
    reader: TimelineReader,
}

fn merger(spec: &MachineSpec, over: Arc<AtomicBool>) -> Merger {
    let (store, key) = (spec.wiring.config.store.clone(), spec.data_key());
    let chance = Arc::new(Mutex::new(OsChance));
    let source = LogSource::new(store.clone(), spec.machine, key.clone());
    let keeper = ManifestKeeper::new(store, spec.machine, spec.timeline, key, chance);
    let owner = (spec.owner.epoch, spec.owner.writer);
    let limits = MergeLimits { packing: spec.packing(), ..spec.wiring.config.limits.merging.limits };
    let bytes_per_second_max = spec.wiring.config.limits.merging.bytes_per_second_max;
    let pace = Arc::new(Throttle { over, wiring: spec.wiring.clone(), bytes_per_second_max });
    Merger::new(source, spec.timeline, keeper, owner, limits, pace, Arc::new(wall_clock))
}

/// Makes the manifest this owner's: from here on no older one merges or deletes. // I4
pub(super) async fn adopt(spec: MachineSpec, over: Arc<AtomicBool>) -> Result<(), MergeError> {
    let merger = merger(&spec, over);
    merger.keeper.adopt(spec.owner.epoch).await?;
    Ok(())
}

/// One look, when it is this machine's turn.
pub(super) async fn look(
    spec: MachineSpec,
    over: Arc<AtomicBool>,
    rules: Rules,
    sightings: Arc<Sightings>,
) -> Result<Round, MergeError> {
    let mut known = spec.wiring.merging.0.lock().await;
    if over.load(SeqCst) {
        return Err(MergeError::Stopped);
    }
    let own = |one: &Known| one.machine == spec.machine && one.timeline == spec.timeline;
    let mut reader = known.iter().position(own).and_then(|at| known.remove(at)).map(|one| one.reader);
    // One that was read under another key is of no use.
    reader = reader.filter(|reader| reader.source().key().as_bytes() == spec.data_key().as_bytes());
    let merger = Merger { sightings: Some(sightings), ..merger(&spec, over) };
    let round = merger.look(&mut reader, &rules).await;
    if let Some(reader) = reader {
        known.truncate(READERS_MAX - 1);
        known.push_front(Known { machine: spec.machine, timeline: spec.timeline, reader });
    }
    round
}
