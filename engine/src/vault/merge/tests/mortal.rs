//! A store that a process dies on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::ids::MachineId;
use crate::vault::layout::ObjectName;
use crate::vault::store::{
    ETag, Listed, ObjectMeta, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind, SwapOutcome,
};

/// A store that a process dies on: at one of the calls that change it, before or after the effect; then nothing answers.
pub(super) struct Mortal {
    inner: Arc<dyn ObjectStore>,
    left: Mutex<Option<u32>>,
    effect: bool,
}

impl Mortal {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, after_calls: Option<u32>, effect: bool) -> Arc<Self> {
        Arc::new(Self { inner, left: Mutex::new(after_calls), effect })
    }

    fn dead(&self) -> Result<(), StoreError> {
        match *self.left.lock() {
            Some(0) => Err(gone()),
            _ => Ok(()),
        }
    }

    async fn changing<T>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        let dies = {
            let mut left = self.left.lock();
            if *left == Some(0) {
                return Err(gone());
            }
            *left = left.map(|left| left - 1);
            *left == Some(0)
        };
        if dies && !self.effect {
            return Err(gone());
        }
        let done = call.await;
        if dies { Err(gone()) } else { done }
    }
}

pub(super) fn gone() -> StoreError {
    StoreError { kind: StoreErrorKind::Unavailable, doing: "live".into(), cause: "the process is dead".into() }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        self.changing(self.inner.stage(name, token, parts)).await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        self.changing(self.inner.publish(staged)).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.changing(self.inner.put_if_match(name, expected, bytes)).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.dead()?;
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.dead()?;
        self.inner.get_range(name, offset, len).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.dead()?;
        self.inner.head(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.dead()?;
        self.inner.list(prefix, after, limit).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.inner.wanted_for(machine, span);
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.changing(self.inner.delete(name)).await
    }
}
