//! A store that counts what is asked of the one behind it: calls and bytes, by kind, also those that fail.
//!
//! Counts are of the port's calls, which an adapter turns into requests: in Azure an object of one block is staged without
//! any and published with one, a larger one is a request for each block and another to publish it.
//!
//! Invariants: a count never falls, and every call is passed on unchanged, once. Crash story: counts are of this
//! process's life.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ETag, Listed, ObjectMeta, ObjectName, ObjectStore, PutOutcome, Staged, StoreError, SwapOutcome};
use crate::ids::MachineId;

/// What was asked of a store until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCounts {
    /// Bytes brought, to be published.
    pub stages: u64,
    /// Staged bytes made an object.
    pub publishes: u64,
    /// Conditional replaces.
    pub replaces: u64,
    /// Whole objects and ranges read.
    pub gets: u64,
    /// Sizes and versions asked for.
    pub heads: u64,
    /// Listings.
    pub lists: u64,
    /// Deletes.
    pub deletes: u64,
    /// Bytes of stages and replaces.
    pub sent_bytes: u64,
    /// Bytes that were read.
    pub received_bytes: u64,
}

impl StoreCounts {
    /// Calls of every kind.
    pub fn calls(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    /// Calls by kind: its name, how many.
    pub fn by_kind(&self) -> [(&'static str, u64); 7] {
        [
            ("stage", self.stages),
            ("publish", self.publishes),
            ("replace", self.replaces),
            ("get", self.gets),
            ("head", self.heads),
            ("list", self.lists),
            ("delete", self.deletes),
        ]
    }

    /// What came after `earlier`, which is of the same store.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            stages: self.stages - earlier.stages,
            publishes: self.publishes - earlier.publishes,
            replaces: self.replaces - earlier.replaces,
            gets: self.gets - earlier.gets,
            heads: self.heads - earlier.heads,
            lists: self.lists - earlier.lists,
            deletes: self.deletes - earlier.deletes,
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            received_bytes: self.received_bytes - earlier.received_bytes,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    stages: AtomicU64,
    publishes: AtomicU64,
    replaces: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// A store whose calls are counted.
pub struct MeteredStore {
    store: Arc<dyn ObjectStore>,
    counters: Counters,
}

impl std::fmt::Debug for MeteredStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MeteredStore").field(&self.counts()).finish()
    }
}

impl MeteredStore {
    /// Counts from nothing what is asked of `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, counters: Counters::default() }
    }

    /// What was asked until now.
    pub fn counts(&self) -> StoreCounts {
        let at = &self.counters;
        StoreCounts {
            stages: at.stages.load(Relaxed),
            publishes: at.publishes.load(Relaxed),
            replaces: at.replaces.load(Relaxed),
            gets: at.gets.load(Relaxed),
            heads: at.heads.load(Relaxed),
            lists: at.lists.load(Relaxed),
            deletes: at.deletes.load(Relaxed),
            sent_bytes: at.sent_bytes.load(Relaxed),
            received_bytes: at.received_bytes.load(Relaxed),
        }
    }

    fn received(&self, bytes: &Bytes) {
        self.counters.received_bytes.fetch_add(bytes.len() as u64, Relaxed);
    }
}

#[async_trait]
impl ObjectStore for MeteredStore {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        self.counters.stages.fetch_add(1, Relaxed);
        self.counters.sent_bytes.fetch_add(parts.iter().map(|part| part.len() as u64).sum(), Relaxed);
        self.store.stage(name, token, parts).await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        self.counters.publishes.fetch_add(1, Relaxed);
        self.store.publish(staged).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.counters.replaces.fetch_add(1, Relaxed);
        self.counters.sent_bytes.fetch_add(bytes.len() as u64, Relaxed);
        self.store.put_if_match(name, expected, bytes).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.counters.gets.fetch_add(1, Relaxed);
        let got = self.store.get(name).await?;
        self.received(&got.0);
        Ok(got)
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.counters.gets.fetch_add(1, Relaxed);
        let got = self.store.get_range(name, offset, len).await?;
        self.received(&got);
        Ok(got)
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.counters.heads.fetch_add(1, Relaxed);
        self.store.head(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.counters.lists.fetch_add(1, Relaxed);
        self.store.list(prefix, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.counters.deletes.fetch_add(1, Relaxed);
        self.store.delete(name).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.store.wanted_for(machine, span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MachineId, Slot, TimelineId};
    use crate::vault::store::conformance;
    use crate::vault::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_metered_store_is_a_store() {
        conformance::run(&MeteredStore::new(Arc::new(MemoryStore::new()))).await;
    }

    #[tokio::test]
    async fn every_call_is_counted_once_by_its_kind_also_one_that_fails() {
        let store = MeteredStore::new(Arc::new(MemoryStore::new()));
        let name = |slot| ObjectName::log(MachineId([1; 16]), TimelineId([2; 8]), Slot(slot));
        store.put_if_absent(&name(0), "one", Bytes::from_static(b"four")).await.unwrap();
        store.put_if_match(&name(1), None, Bytes::from_static(b"sixsix")).await.unwrap();
        let earlier = store.counts();
        let expected = StoreCounts { stages: 1, publishes: 1, replaces: 1, sent_bytes: 10, ..StoreCounts::default() };
        assert_eq!(earlier, expected);
        store.get(&name(0)).await.unwrap();
        store.get_range(&name(1), 2, 3).await.unwrap();
        store.get(&name(9)).await.unwrap_err();
        store.head(&name(0)).await.unwrap();
        store.list("", None, 10).await.unwrap();
        store.delete(&name(0)).await.unwrap();
        let expected =
            StoreCounts { gets: 3, heads: 1, lists: 1, deletes: 1, received_bytes: 7, ..StoreCounts::default() };
        assert_eq!(store.counts().since(&earlier), expected);
        assert_eq!(store.counts().calls(), 9);
    }
}
