//! The vault's log in memory: slots filled create-if-absent, each checked as it is filled.

use bytes::Bytes;

use crate::ids::{Lsn, MachineId, Slot, TimelineId};
use crate::log::Owner;
use crate::log::committer::{Found, Start};
use crate::vault::crypto::DataKey;
use crate::vault::segment::{Control, Footer, FooterDigest, FooterPlace, ObjectKind};
use crate::vault::state::LogState;
use crate::vault::store::PutOutcome;

#[derive(Debug)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
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

#[derive(Debug)]
pub(super) struct ModelLog {
    pub(super) machine: MachineId,
    pub(super) timeline: TimelineId,
    pub(super) key: DataKey,
    pub(super) slots: Vec<Object>,
}

impl ModelLog {
    /// Fills a slot if it is empty.
    ///
    /// # Errors
    /// The invariant that the object breaks.
    pub(super) fn fill(&mut self, slot: Slot, bytes: &Bytes) -> Result<PutOutcome, String> {
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
        self.slots.push(Object { bytes: bytes.clone(), footer });
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

    pub(super) fn tail(&self) -> (Start, LogState) {
        let state = self.slots.last().map_or_else(LogState::default, |last| last.footer.state.clone());
        (Start { place: self.place(), newest: self.newest() }, state)
    }

    /// Everything up to it is committed.
    pub(super) fn last(&self) -> Lsn {
        self.slots.last().map_or(Lsn::ZERO, |last| last.footer.state.last_lsn)
    }
}
