//! Looking at the log in the vault: its tail, one slot, the state that a slot's footer carries.

use std::time::Duration;

use farshore_engine::ids::Slot;
use farshore_engine::log::Owner;
use farshore_engine::log::committer::Found;
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::read::error::{Damage, ReadError};
use farshore_engine::vault::read::segment_view::{LogSource, SegmentView};
use farshore_engine::vault::read::slots::FilledSlot;
use farshore_engine::vault::read::tail::{Tail, find_tail};
use farshore_engine::vault::segment::{Control, ObjectKind};
use farshore_engine::vault::store::{StoreError, StoreErrorKind};

use super::super::ledger::MachineSpec;
use super::work::WorkError;

/// Waits for a store call no longer than this; then it counts as failed, which leaves open whether it happened.
pub(super) async fn bounded<T>(
    limit: Duration,
    doing: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || StoreError {
        kind: StoreErrorKind::Unavailable,
        doing: doing.to_owned(),
        cause: format!("no answer within {} s", limit.as_secs()),
    };
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
}

impl MachineSpec {
    pub(super) fn data_key(&self) -> DataKey {
        self.key.get().expect("an upload stream is started once the machine has its key")
    }

    pub(super) fn slot_name(&self, slot: Slot) -> ObjectName {
        ObjectName::log(self.machine, self.timeline, slot)
    }

    pub(super) fn store_limit(&self) -> Duration {
        self.wiring.config.limits.store_call_max
    }
}

/// The log's end.
pub(in crate::data) async fn read_tail(spec: MachineSpec) -> Result<Tail, WorkError> {
    let (key, store) = (spec.data_key(), &*spec.wiring.config.store);
    // Runs do not exist yet: every log counts from its first slot.
    let reading = find_tail(store, spec.machine, spec.timeline, &key, Slot::ZERO);
    match tokio::time::timeout(spec.store_limit(), reading).await {
        Ok(tail) => tail.map_err(WorkError::from),
        Err(_) => Err(WorkError::Store {
            kind: StoreErrorKind::Unavailable,
            text: format!("read the log's tail: no answer within {} s", spec.store_limit().as_secs()),
        }),
    }
}

/// Opens what fills a slot; `None` where nothing does.
pub(super) async fn open_slot(spec: &MachineSpec, slot: Slot) -> Result<Option<SegmentView>, WorkError> {
    let (name, store) = (spec.slot_name(slot), &spec.wiring.config.store);
    let bytes = match bounded(spec.store_limit(), "look at a slot", store.head(&name)).await {
        Ok(meta) => meta.bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let source = LogSource::new(store.clone(), spec.machine, spec.data_key());
    Ok(Some(source.open(spec.timeline, FilledSlot { slot, bytes }, 0).await?))
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
