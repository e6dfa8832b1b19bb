//! Which slots of a log are filled: listed from the floor, then probed upward.
//!
//! A list may be stale. It may miss what was created just now, so every slot that it skips, and the one behind its
//! end, is asked for by name before anything is concluded. A slot that is really missing below a filled one is damage,
//! never the end of the log.

use crate::ids::{MachineId, Slot, TimelineId};
use crate::vault::layout::{ObjectName, log_prefix};
use crate::vault::store::{ObjectStore, StoreError, StoreErrorKind};

/// Lines asked of the store in one list call. Azure gives 5,000 at most.
const LIST_LIMIT: usize = 5000;

/// A filled slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilledSlot {
    /// Its number.
    pub slot: Slot,
    /// The object's size in bytes.
    pub bytes: u64,
}

/// The slots of a log from some slot on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// Those that are filled, in order.
    pub filled: Vec<FilledSlot>,
    /// Those that are not, though a later one is.
    pub missing: Vec<Slot>,
    /// The first slot behind all filled ones.
    pub next: Slot,
}

/// Finds the filled slots of a timeline from `from` on.
pub async fn find_slots(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    from: Slot,
) -> Result<Slots, StoreError> {
    let mut slots = Slots { next: from, ..Slots::default() };
    let prefix = log_prefix(machine, timeline);
    let mut after = from.0.checked_sub(1).map(|before| ObjectName::log(machine, timeline, Slot(before)));
    loop {
        let lines = store.list(&prefix, after.as_ref(), LIST_LIMIT).await?;
        for line in &lines {
            // Anything else under the prefix is foreign: verify names it, no reader takes it for a slot.
            let slot = line.name.number().map(Slot).filter(|slot| *slot >= slots.next && slot.0 < u64::MAX);
            if let Some(slot) = slot.filter(|slot| line.name == ObjectName::log(machine, timeline, *slot)) {
                fill_up_to(store, machine, timeline, slot, &mut slots).await?;
                slots.take(FilledSlot { slot, bytes: line.bytes });
            }
        }
        match lines.last() {
            Some(last) if lines.len() == LIST_LIMIT => after = Some(last.name.clone()),
            _ => break,
        }
    }
    probe_upward(store, machine, timeline, &mut slots).await?;
    Ok(slots)
}

/// Finds what was filled from `from` on by probing alone: cheap where a log was read up to there just now. A missing
/// slot is not told from the log's end.
pub async fn find_new_slots(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    from: Slot,
) -> Result<Slots, StoreError> {
    let mut slots = Slots { next: from, ..Slots::default() };
    probe_upward(store, machine, timeline, &mut slots).await?;
    Ok(slots)
}

async fn probe_upward(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    slots: &mut Slots,
) -> Result<(), StoreError> {
    // No log gets there; a foreign object may bear the last number.
    while slots.next.0 < u64::MAX
        && let Some(found) = probe(store, machine, timeline, slots.next).await?
    {
        slots.take(found);
    }
    Ok(())
}

/// Asks by name for the slots that a list skipped before `end`.
async fn fill_up_to(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    end: Slot,
    slots: &mut Slots,
) -> Result<(), StoreError> {
    // A foreign object with a huge number would make this loop endless: so many slots were never skipped by a list.
    const SKIPPED_MAX: u64 = 4096;
    let first = slots.next.0;
    for number in first..end.0.min(first.saturating_add(SKIPPED_MAX)) {
        match probe(store, machine, timeline, Slot(number)).await? {
            Some(found) => slots.take(found),
            None => slots.missing.push(Slot(number)),
        }
    }
    Ok(())
}

async fn probe(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    slot: Slot,
) -> Result<Option<FilledSlot>, StoreError> {
    match store.head(&ObjectName::log(machine, timeline, slot)).await {
        Ok(meta) => Ok(Some(FilledSlot { slot, bytes: meta.bytes })),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Slots {
    fn take(&mut self, found: FilledSlot) {
        self.filled.push(found);
        self.next = found.slot.next();
    }
}
