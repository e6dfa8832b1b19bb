//! The vault's log: slots filled create-if-absent in a store in memory, each checked as it is filled, and read back by
//! the readers that everyone uses, over lists that may be stale.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::replay::{Replay, Truth};
use crate::ids::{Lsn, MachineId, Slot, TimelineId};
use crate::log::Owner;
use crate::log::committer::{Found, Start};
use crate::protocol::{Digests, Part};
use crate::vault::crypto::DataKey;
use crate::vault::layout::ObjectName;
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::segment_view::LogSource;
use crate::vault::read::tail::find_tail;
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::volume::{Volume, VolumeLimits};
use crate::vault::segment::{Control, Footer, FooterDigest, FooterPlace, ObjectKind};
use crate::vault::state::LogState;
use crate::vault::store::faulty::{Aim, Fault, FaultPlan, FaultyStore, StoreCall};
use crate::vault::store::memory::MemoryStore;
use crate::vault::store::{ObjectStore, PutOutcome};

#[derive(Debug)]
pub(super) struct Object {
    pub(super) footer: Footer,
}

impl Object {
    pub(super) fn owner(&self) -> Owner {
        Owner { epoch: self.footer.epoch, writer: self.footer.writer }
    }

    fn kind(&self) -> ObjectKind {
        match self.footer.control {
            None => ObjectKind::Segment,
            Some(Control::Fence) => ObjectKind::Fence,
            Some(Control::Branch(_)) => ObjectKind::Branch,
        }
    }
}

pub(super) struct ModelLog {
    pub(super) machine: MachineId,
    pub(super) timeline: TimelineId,
    pub(super) key: DataKey,
    pub(super) slots: Vec<Object>,
    /// What they say.
    pub(super) replay: Replay,
    pub(super) store: Arc<FaultyStore>,
    /// Runs the readers; nothing in them waits.
    runtime: Runtime,
}

impl std::fmt::Debug for ModelLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelLog").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl ModelLog {
    pub(super) fn new(machine: MachineId, timeline: TimelineId, key: DataKey) -> Self {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), FaultPlan::none()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a reactor");
        Self { machine, timeline, key, slots: Vec::new(), replay: Replay::default(), store, runtime }
    }

    /// Runs a reader to its end.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Fills a slot if it is empty.
    ///
    /// # Errors
    /// The invariant that the object breaks.
    pub(super) fn fill(&mut self, slot: Slot, bytes: &Bytes, truth: &Truth<'_>) -> Result<PutOutcome, String> {
        let end = self.slots.len() as u64;
        if slot.0 < end {
            return Ok(PutOutcome::AlreadyExists);
        }
        if slot.0 > end {
            return Err(format!("slot {slot} is filled while slot {end} is empty: a reader would stop before it"));
        }
        let footer = Footer::of_object(&self.key, self.machine, self.timeline, bytes)
            .map_err(|error| format!("slot {slot} does not open: {error}"))?;
        self.check(slot, &footer)?;
        if footer.control.is_none() {
            self.replay.take(bytes, &self.key, truth).map_err(|error| format!("slot {slot}: {error}"))?;
        }
        if self.replay.state != footer.state {
            return Err(format!("slot {slot}: the state in its footer is not what the log says"));
        }
        let name = ObjectName::log(self.machine, self.timeline, slot);
        let put = self.wait(self.store.put_if_absent(&name, "one", bytes.clone()));
        assert!(matches!(put, Ok(PutOutcome::Created)), "the slot was empty");
        self.slots.push(Object { footer });
        Ok(PutOutcome::Created)
    }

    fn check(&self, slot: Slot, footer: &Footer) -> Result<(), String> {
        let place = self.place();
        if footer.slot != slot || footer.previous != place.previous {
            return Err(format!("the object in slot {slot} was sealed for another place"));
        }
        let newest = self.newest();
        let owner = Owner { epoch: footer.epoch, writer: footer.writer };
        if newest.is_some_and(|newest| newest.epoch > owner.epoch) {
            return Err(format!("I4: {owner} fills slot {slot} behind a newer owner"));
        }
        if newest != Some(owner) && footer.control.is_none() {
            return Err(format!("{owner} fills slot {slot} without a fence"));
        }
        let last = self.last();
        if footer.control.is_none() && footer.first <= last {
            return Err(format!("slot {slot} begins at LSN {}, which slots before hold (up to {last})", footer.first));
        }
        Ok(())
    }

    pub(super) fn found(&self, slot: Slot) -> Found {
        let object = usize::try_from(slot.0).ok().and_then(|slot| self.slots.get(slot));
        object.map_or(Found::Absent, |object| Found::Object {
            kind: object.kind(),
            owner: object.owner(),
            salt: object.footer.identity.salt,
            items_end: object.footer.items_end,
            digest: object.footer.digest,
        })
    }

    fn place(&self) -> FooterPlace {
        let previous = self.slots.last().map_or(FooterDigest::NONE, |last| last.footer.digest);
        FooterPlace { slot: Slot(self.slots.len() as u64), previous }
    }

    fn newest(&self) -> Option<Owner> {
        self.slots.last().map(Object::owner)
    }

    /// The end of the log, as an owner finds it.
    ///
    /// # Errors
    /// When the reader does not find what is there.
    pub(super) fn tail(&self, stale_lists: bool) -> Result<(Start, LogState), String> {
        let plan = FaultPlan::none();
        let aim = Aim::all(StoreCall::List);
        self.store.set_plan(if stale_lists { plan.and(aim, Fault::StaleList) } else { plan });
        let found = self.wait(find_tail(&*self.store, self.machine, self.timeline, &self.key, Slot(0)));
        let tail = found.map_err(|error| format!("the log's end is not found: {error}"))?;
        let newest = tail.last_owner.map(|(epoch, writer)| Owner { epoch, writer });
        let place = FooterPlace { slot: tail.next, previous: tail.previous };
        if place != self.place() || newest != self.newest() {
            return Err(format!("slot {} is taken for the log's end, but that is {}", place.slot, self.place().slot));
        }
        Ok((Start { place, newest }, tail.state))
    }

    /// The digests of a part as the writes before `at` left it; none where that cannot be read.
    pub(super) fn digests(&self, part: Part, at: Lsn) -> Option<Digests> {
        let source = LogSource::new(self.store.clone(), self.machine, self.key.clone());
        let reader = self.wait(TimelineReader::open(source, self.timeline)).ok()?;
        let frames = Arc::new(FrameCache::new(1 << 20));
        let volume = Volume::at(&reader, part.disk, at, frames, VolumeLimits::default()).ok()?;
        let mut data = vec![0; part.len as usize];
        self.wait(volume.read(part.offset, &mut data)).ok()?;
        Some(Digests::of(part, &self.key.digest_key(), &data))
    }

    /// Everything up to it is committed.
    pub(super) fn last(&self) -> Lsn {
        self.slots.last().map_or(Lsn::ZERO, |last| last.footer.state.last_lsn)
    }
}
