//! A vault that fails and is slow when it is told to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_engine::ids::MachineId;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::store::{
    ETag, Listed, ObjectMeta, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind, SwapOutcome,
};

use super::Chaos;

pub(super) struct ChaosStore {
    store: Arc<dyn ObjectStore>,
    chaos: Arc<Chaos>,
}

fn failed(doing: &str) -> StoreError {
    let cause = "chaos: a fault was armed for the vault".to_owned();
    StoreError { kind: StoreErrorKind::Unavailable, doing: doing.to_owned(), cause }
}

impl ChaosStore {
    pub(super) fn new(store: Arc<dyn ObjectStore>, chaos: Arc<Chaos>) -> Self {
        Self { store, chaos }
    }

    async fn call<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = self.chaos.at_vault();
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        if fault.fails_before {
            return Err(failed(doing));
        }
        let result = call.await;
        if fault.fails_after { Err(failed(doing)) } else { result }
    }
}

#[async_trait]
impl ObjectStore for ChaosStore {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        self.call("stage an object", self.store.stage(name, token, parts)).await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        self.call("publish an object", self.store.publish(staged)).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.call("replace an object", self.store.put_if_match(name, expected, bytes)).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.call("get an object", self.store.get(name)).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.call("get a range", self.store.get_range(name, offset, len)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.call("look at an object", self.store.head(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.call("list objects", self.store.list(prefix, after, limit)).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.store.wanted_for(machine, span);
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.call("delete an object", self.store.delete(name)).await
    }
}
