//! Looking at the log in the vault: its tail, one slot, the state that a slot's footer carries.

use std::time::Duration;

use farshore_engine::control::messages::Severity;
use farshore_engine::ids::Slot;
use farshore_engine::log::Owner;
use farshore_engine::log::committer::Found;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::read::error::{Damage, ReadError};
use farshore_engine::vault::read::segment_view::{LogSource, ObjectPlace, SegmentView};
use farshore_engine::vault::read::slots::FilledSlot;
use farshore_engine::vault::read::tail::{Tail, find_merged_tail};
use farshore_engine::vault::repair::{Proof, repair};
use farshore_engine::vault::segment::{Control, ObjectKind};
use farshore_engine::vault::store::{StoreError, StoreErrorKind};
use tokio::time::timeout;

use super::work::WorkError;
use super::{IssueCode, VAULT_REMEDY};
use crate::data::DataEventKind;
use crate::data::cached_copies::CachedCopies;
use crate::data::ledger::MachineSpec;

impl MachineSpec {
    pub(in crate::data) fn slot_name(&self, slot: Slot) -> ObjectName {
        ObjectName::log(self.machine, self.timeline, slot)
    }

    /// Waits for a store call, not longer than its limit: then it counts as failed, which leaves open whether it
    /// happened. Long before that it is said that the vault does not answer.
    pub(super) async fn store_call<T, E: From<StoreError>>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let limits = &self.wiring.config.limits;
        let mut call = std::pin::pin!(call);
        if let Ok(answer) = timeout(limits.store_call_slow, &mut call).await {
            return answer;
        }
        self.vault_is_silent(doing, limits.store_call_slow);
        let rest = limits.store_call_max.saturating_sub(limits.store_call_slow);
        timeout(rest, call).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", limits.store_call_max.as_secs());
            Err(StoreError { kind: StoreErrorKind::Unavailable, doing: doing.to_owned(), cause }.into())
        })
    }

    fn vault_is_silent(&self, doing: &str, so_long: Duration) {
        let text = format!("the vault does not answer: {doing} has taken {} s", so_long.as_secs());
        self.wiring.vault_answered(false);
        self.board.raise(IssueCode::VaultAway, Severity::Critical, text, VAULT_REMEDY);
    }
}

/// The log's end. Where its last object is damaged, and lies in the cache as it was written, it is put back first.
pub(in crate::data) async fn read_tail(spec: MachineSpec) -> Result<Tail, WorkError> {
    let (key, store) = (spec.data_key(), &*spec.wiring.config.store);
    let read = || spec.store_call("reading the log's tail", find_merged_tail(store, spec.machine, spec.timeline, &key));
    let failed = match read().await {
        Ok(tail) => return Ok(tail),
        Err(error) => error,
    };
    let damaged = match &failed {
        ReadError::Damaged { damage: Damage::Missing, .. } => None,
        ReadError::Damaged { object, .. } => object.number().map(Slot).filter(|slot| spec.slot_name(*slot) == *object),
        _ => None,
    };
    let Some(slot) = damaged else { return Err(failed.into()) };
    let (place, copies) = (ObjectPlace::Slot(slot), CachedCopies::of(&spec));
    let source = LogSource::new(spec.wiring.config.store.clone(), spec.machine, key.clone());
    let repairing = repair(&source, spec.timeline, place, &copies, Proof::Required);
    if spec.store_call("putting back the log's last object", repairing).await?.is_err() {
        return Err(failed.into());
    }
    let (objects, how) = (vec![spec.slot_name(slot).to_string()], "put back from the cache");
    spec.board.tell(DataEventKind::ObjectsRepaired { objects, how });
    Ok(read().await?)
}

/// Opens what fills a slot; `None` where nothing does.
pub(super) async fn open_slot(spec: &MachineSpec, slot: Slot) -> Result<Option<SegmentView>, WorkError> {
    let (name, store) = (spec.slot_name(slot), &spec.wiring.config.store);
    let bytes = match spec.store_call("looking at a slot", store.head(&name)).await {
        Ok(meta) => meta.bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let source = LogSource::new(store.clone(), spec.machine, spec.data_key());
    let opening = async { source.open(spec.timeline, FilledSlot { slot, bytes }, 0).await.map_err(WorkError::from) };
    Ok(Some(spec.store_call("reading a slot", opening).await?))
}

/// What lies in a slot, for the committer.
pub(super) async fn look(spec: MachineSpec, slot: Slot) -> Result<Found, WorkError> {
    let view = match open_slot(&spec, slot).await {
        Ok(Some(view)) => view,
        Ok(None) => return Ok(Found::Absent),
        Err(WorkError::Damaged(_)) => return Ok(Found::Damaged),
        Err(error) => return Err(error),
    };
    let footer = view.footer;
    let kind = match footer.control {
        None => ObjectKind::Segment,
        Some(Control::Fence) => ObjectKind::Fence,
        Some(Control::Branch(_)) => ObjectKind::Branch,
    };
    let owner = Owner { epoch: footer.epoch, writer: footer.writer };
    let salt = footer.identity.salt;
    Ok(Found::Object { kind, owner, salt, items_end: footer.items_end, digest: footer.digest })
}

impl From<ReadError> for WorkError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => error.into(),
            // Between finding a slot filled and reading it nothing removes it: the store is confused, not the vault.
            ReadError::Damaged { damage: Damage::Missing, .. } => {
                Self::Store { kind: StoreErrorKind::Unavailable, text: error.to_string() }
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> Self {
        Self::Store { kind: error.kind, text: error.to_string() }
    }
}
