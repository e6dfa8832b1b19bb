//! The end of a log: what an owner must know before it fills the next slot.
//!
//! Found by listing from the floor and probing upward; only the last object is read. A slot that is missing below it is
//! damage: it is never taken for the end, and never filled again (I4).

use super::chain::Chain;
use super::error::{Damage, ReadError};
use super::segment_view::open_footer;
use super::slots::find_slots;
use crate::ids::{Epoch, MachineId, Slot, TimelineId, WriterId};
use crate::vault::crypto::DataKey;
use crate::vault::layout::ObjectName;
use crate::vault::manifest_keeper::read_manifest_in;
use crate::vault::segment::FooterDigest;
use crate::vault::state::LogState;
use crate::vault::store::ObjectStore;

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The first slot that is not filled.
    pub next: Slot,
    /// Digest of the last footer; [`FooterDigest::NONE`] where no slot is filled.
    pub previous: FooterDigest,
    /// What the log says up to its end.
    pub state: LogState,
    /// The highest epoch in the log: epochs never fall, so it is the last object's.
    pub highest_epoch: Epoch,
    /// Who filled the last slot.
    pub last_owner: Option<(Epoch, WriterId)>,
}

/// Finds the end of a timeline's log. `floor` is the manifest's: the first slot that counts by itself.
pub async fn find_tail(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    key: &DataKey,
    floor: Slot,
) -> Result<Tail, ReadError> {
    let slots = find_slots(store, machine, timeline, floor).await.map_err(ReadError::Store)?;
    let missing = |slot| Err(ReadError::damaged(ObjectName::log(machine, timeline, slot), Damage::Missing));
    if let Some(slot) = slots.missing.first() {
        return missing(*slot);
    }
    let Some(last) = slots.filled.last() else {
        // The manifest's floor lies behind an object that was there: a log cannot have become empty.
        return if floor > Slot(0) { missing(floor) } else { Ok(Tail::empty()) };
    };
    let opened = open_footer(store, machine, timeline, key, *last).await?;
    let chain = Chain::behind(&opened.footer);
    Ok(Tail {
        next: chain.next,
        previous: chain.previous,
        highest_epoch: opened.footer.epoch,
        last_owner: chain.owner,
        state: opened.footer.state,
    })
}

/// The same, from the floor that the timeline's manifest names.
pub async fn find_merged_tail(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    key: &DataKey,
) -> Result<Tail, ReadError> {
    let manifest = read_manifest_in(store, machine, timeline, key).await?;
    let floor = manifest.map_or(Slot(0), |(manifest, _)| manifest.floor);
    find_tail(store, machine, timeline, key, floor).await
}

impl Tail {
    /// The end of a log that was never written.
    pub fn empty() -> Self {
        Self {
            next: Slot(0),
            previous: FooterDigest::NONE,
            state: LogState::default(),
            highest_epoch: Epoch::ZERO,
            last_owner: None,
        }
    }
}
