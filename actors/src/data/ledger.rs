//! Which machines are assigned here, beside the actors: a process server that dies and is made anew finds them, with
//! their keys, without asking anybody. A process that is started anew finds them in the cache's owner files, without keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farshore_engine::cache::CacheError;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::io::CacheIo;
use farshore_engine::ids::{Epoch, MachineId, TimelineId};
use farshore_engine::log::Owner;
use farshore_engine::protocol::Redirect;
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::segment::Packing;
use parking_lot::Mutex;

use super::board::Board;
use super::wiring::Wiring;
use crate::supervise::Lane;

/// A machine's data key, as soon as somebody brings it. In memory only.
#[derive(Clone, Default)]
pub(super) struct KeyCell(Arc<Mutex<Option<HeldKey>>>);

struct HeldKey {
    key: DataKey,
    /// It came with the assignment, or has opened the log: no other is taken.
    proven: bool,
}

impl KeyCell {
    pub(super) fn get(&self) -> Option<DataKey> {
        self.0.lock().as_ref().map(|held| held.key.clone())
    }

    /// Takes a key that came with the assignment.
    pub(super) fn assign(&self, key: &DataKey) -> KeyOffer {
        self.put(key, true)
    }

    /// Takes a key that an agent brought.
    pub(super) fn offer(&self, key: &DataKey) -> KeyOffer {
        self.put(key, false)
    }

    /// One that is there already stays: the log is sealed under it, and another could only do harm.
    fn put(&self, key: &DataKey, proven: bool) -> KeyOffer {
        let mut held = self.0.lock();
        match held.as_mut() {
            Some(known) if known.key.as_bytes() == key.as_bytes() => {
                known.proven |= proven;
                KeyOffer::Known
            }
            Some(known) if known.proven || !proven => KeyOffer::Differs,
            _ => {
                *held = Some(HeldKey { key: key.clone(), proven });
                KeyOffer::Taken
            }
        }
    }

    /// The key has opened the log.
    pub(super) fn is_proven(&self) {
        if let Some(held) = self.0.lock().as_mut() {
            held.proven = true;
        }
    }

    /// The key does not open the log: gives it up, unless it did before.
    pub(super) fn withdraw(&self) -> bool {
        let mut held = self.0.lock();
        held.take_if(|held| !held.proven).is_some()
    }
}

/// What became of a key that was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyOffer {
    /// It is the machine's key now.
    Taken,
    /// It was known.
    Known,
    /// Another one is known.
    Differs,
}

/// What every life of a machine's actors is made of.
#[derive(Clone)]
pub(super) struct MachineSpec {
    pub(super) machine: MachineId,
    pub(super) timeline: TimelineId,
    pub(super) owner: Owner,
    pub(super) key: KeyCell,
    /// Appends and recovery of the cache directory, over all lives of the machine's actor.
    pub(super) append_lane: Lane,
    /// Footers and reads of closed segments, over all lives of its upload stream.
    pub(super) footer_lane: Lane,
    pub(super) board: Arc<Board>,
    pub(super) wiring: Arc<Wiring>,
}

impl MachineSpec {
    /// The machine's data key.
    ///
    /// # Panics
    /// Before the log was opened with it.
    pub(super) fn data_key(&self) -> DataKey {
        self.key.get().expect("the log is opened with the key, which then stays")
    }

    /// With what its frames are packed.
    pub(super) fn packing(&self) -> Packing {
        self.board.read(|status| status.packing)
    }

    pub(super) fn new(
        (wiring, ledger): (&Arc<Wiring>, &Ledger),
        machine: MachineId,
        timeline: TimelineId,
        owner: Owner,
        key: Option<&DataKey>,
    ) -> Self {
        let cell = KeyCell::default();
        if let Some(key) = key {
            cell.assign(key);
        }
        let (append_lane, footer_lane) = ledger.lanes(machine);
        Self {
            machine,
            timeline,
            owner,
            key: cell,
            append_lane,
            footer_lane,
            board: Arc::new(Board::new(machine, timeline, owner, wiring.config.events.clone())),
            wiring: wiring.clone(),
        }
    }
}

/// The machines assigned here.
#[derive(Default)]
pub(super) struct Ledger {
    machines: Mutex<BTreeMap<MachineId, MachineSpec>>,
    /// Where agents of machines that went elsewhere are sent.
    redirects: Mutex<BTreeMap<MachineId, Redirect>>,
    /// Each machine's lanes, over all its assignments: what one owner's actors have begun in the cache ends before the
    /// next one's begin.
    lanes: Mutex<BTreeMap<MachineId, (Lane, Lane)>>,
}

impl Ledger {
    pub(super) fn get(&self, machine: MachineId) -> Option<MachineSpec> {
        self.machines.lock().get(&machine).cloned()
    }

    fn lanes(&self, machine: MachineId) -> (Lane, Lane) {
        self.lanes.lock().entry(machine).or_default().clone()
    }

    pub(super) fn all(&self) -> Vec<MachineSpec> {
        self.machines.lock().values().cloned().collect()
    }

    pub(super) fn put(&self, spec: MachineSpec) {
        self.redirects.lock().remove(&spec.machine);
        self.machines.lock().insert(spec.machine, spec);
    }

    pub(super) fn remove(&self, machine: MachineId) {
        self.machines.lock().remove(&machine);
    }

    pub(super) fn redirect(&self, machine: MachineId) -> Option<Redirect> {
        self.redirects.lock().get(&machine).cloned()
    }

    /// Remembers where a machine's log went, unless something newer is known.
    pub(super) fn set_redirect(&self, machine: MachineId, redirect: Redirect) {
        let mut redirects = self.redirects.lock();
        if redirects.get(&machine).is_none_or(|known| known.epoch <= redirect.epoch) {
            redirects.insert(machine, redirect);
        }
    }

    /// The epoch under which a machine is assigned.
    pub(super) fn epoch(&self, machine: MachineId) -> Option<Epoch> {
        self.machines.lock().get(&machine).map(|spec| spec.owner.epoch)
    }
}

/// A directory of the cache that somebody owned.
#[derive(Debug)]
pub(super) struct FoundOwner {
    pub(super) machine: MachineId,
    pub(super) timeline: TimelineId,
    pub(super) owner: Result<Owner, CacheError>,
}

/// The owners that a cache names: what this process server was assigned before it was started. Of several timelines of
/// one machine the one with the highest epoch counts. Blocks.
pub(super) fn find_owners(io: &Arc<dyn CacheIo>, cache: &Path) -> std::io::Result<Vec<FoundOwner>> {
    let mut found: BTreeMap<MachineId, FoundOwner> = BTreeMap::new();
    for machine in io.list(cache)?.iter().filter_map(|name| name.parse::<MachineId>().ok()) {
        for timeline in io.list(&cache.join(machine.to_string()))?.iter().filter_map(|name| name.parse().ok()) {
            let dir = CacheDir::open(io.clone(), cache, machine, timeline);
            let Some(owner) = dir.and_then(|dir| dir.owner()).transpose() else { continue };
            let epoch = |found: &FoundOwner| found.owner.as_ref().map_or(Epoch::ZERO, |owner| owner.epoch);
            let here = FoundOwner { machine, timeline, owner };
            if found.get(&machine).is_none_or(|known| epoch(known) < epoch(&here)) {
                found.insert(machine, here);
            }
        }
    }
    Ok(found.into_values().collect())
}
