//! Vaults that do not do what they say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_engine::ids::MachineId;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::store::{
    ETag, Listed, ObjectMeta, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind, SwapOutcome,
};
use parking_lot::Mutex;

/// How long a vault that reports too early takes to do what it said. Chosen: longer than what a scenario has from a commit
/// to the kill that shows it.
const LATE_BY: Duration = Duration::from_secs(20);

type Pending = Arc<Mutex<HashMap<ObjectName, Bytes>>>;

/// Says that objects are there before they are. Whoever asks this process sees them; a crash loses them.
pub(super) struct Early {
    store: Arc<dyn ObjectStore>,
    /// Staged or published, and not in the store.
    pending: Pending,
}

impl Early {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, pending: Arc::default() }
    }

    fn seen(&self, name: &ObjectName) -> Option<Bytes> {
        self.pending.lock().get(name).cloned()
    }
}

#[async_trait]
impl ObjectStore for Early {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let whole = Bytes::from(parts.concat());
        let bytes = whole.len() as u64;
        self.pending.lock().insert(name.clone(), whole);
        Ok(Staged::new(name.clone(), token.to_owned(), bytes))
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        if self.store.head(&staged.name).await.is_ok() {
            self.pending.lock().remove(&staged.name);
            return Ok(PutOutcome::AlreadyExists);
        }
        let (store, pending, staged) = (self.store.clone(), self.pending.clone(), staged.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LATE_BY).await;
            let Some(bytes) = pending.lock().get(&staged.name).cloned() else { return };
            if store.put_if_absent(&staged.name, &staged.token, bytes).await.is_ok() {
                pending.lock().remove(&staged.name);
            }
        });
        Ok(PutOutcome::Created)
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.store.put_if_match(name, expected, bytes).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        match self.seen(name) {
            Some(bytes) => Ok((bytes, ETag("early".into()))),
            None => self.store.get(name).await,
        }
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        match self.seen(name) {
            Some(bytes) if offset < bytes.len() as u64 => {
                let end = offset.saturating_add(len).min(bytes.len() as u64);
                Ok(bytes.slice(offset as usize..end as usize))
            }
            _ => self.store.get_range(name, offset, len).await,
        }
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        match self.seen(name) {
            Some(bytes) => Ok(ObjectMeta { bytes: bytes.len() as u64, etag: ETag("early".into()) }),
            None => self.store.head(name).await,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix, after, limit).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.store.wanted_for(machine, span);
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}

/// Changes a bit of every fourth segment.
pub(super) struct Flipping(pub(super) Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for Flipping {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let mut whole = parts.concat();
        let middle = whole.len() / 2;
        if name.number().is_some_and(|number| number % 4 == 3)
            && let Some(byte) = whole.get_mut(middle)
        {
            *byte ^= 0x10;
        }
        self.0.stage(name, token, vec![whole.into()]).await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        self.0.publish(staged).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.0.put_if_match(name, expected, bytes).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.0.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.0.get_range(name, offset, len).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.0.head(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.list(prefix, after, limit).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.0.wanted_for(machine, span);
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.0.delete(name).await
    }
}

/// Takes no segment any more; everything else goes on.
pub(super) struct Stuck(pub(super) Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for Stuck {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        self.0.stage(name, token, parts).await
    }

    async fn publish(&self, _: &Staged) -> Result<PutOutcome, StoreError> {
        let cause = "a built-in defect keeps every segment out".to_owned();
        Err(StoreError { kind: StoreErrorKind::Unavailable, doing: "publish an object".to_owned(), cause })
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.0.put_if_match(name, expected, bytes).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.0.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.0.get_range(name, offset, len).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.0.head(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.list(prefix, after, limit).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.0.wanted_for(machine, span);
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.0.delete(name).await
    }
}
