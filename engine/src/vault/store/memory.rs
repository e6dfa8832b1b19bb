//! A store in memory, for tests and the simulator. It behaves as an object store does: versions are counters, staged
//! bytes are kept by name and token until published, a list is never stale.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::{
    ETag, Listed, ObjectMeta, ObjectName, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind, SwapOutcome,
};
use crate::ids::MachineId;

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<ObjectName, (Bytes, u64)>,
    staged: HashMap<(ObjectName, String), Bytes>,
    versions: u64,
}

impl Inner {
    fn put(&mut self, name: &ObjectName, bytes: Bytes) -> ETag {
        self.versions += 1;
        self.objects.insert(name.clone(), (bytes, self.versions));
        etag(self.versions)
    }

    fn object(&self, name: &ObjectName, verb: &str) -> Result<&(Bytes, u64), StoreError> {
        self.objects.get(name).ok_or_else(|| not_found(verb, name))
    }
}

fn etag(version: u64) -> ETag {
    ETag(version.to_string())
}

fn not_found(verb: &str, name: &ObjectName) -> StoreError {
    let cause = "no such object".to_owned();
    StoreError { kind: StoreErrorKind::NotFound, doing: format!("{verb} {name}"), cause }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces an object's bytes whatever they are, as damage does; `None` takes it away.
    #[cfg(any(test, feature = "testing"))]
    pub fn damage(&self, name: &ObjectName, bytes: Option<Bytes>) {
        let mut inner = self.inner.lock();
        match bytes {
            Some(bytes) => {
                inner.put(name, bytes);
            }
            None => {
                inner.objects.remove(name);
            }
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let bytes = match <[Bytes; 1]>::try_from(parts) {
            Ok([one]) => one,
            Err(parts) => parts
                .iter()
                .fold(BytesMut::new(), |mut all, part| {
                    all.extend_from_slice(part);
                    all
                })
                .freeze(),
        };
        let staged = Staged::new(name.clone(), token.to_owned(), bytes.len() as u64);
        self.inner.lock().staged.insert((name.clone(), token.to_owned()), bytes);
        Ok(staged)
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        let mut inner = self.inner.lock();
        let bytes = inner.staged.remove(&(staged.name.clone(), staged.token.clone()));
        if inner.objects.contains_key(&staged.name) {
            return Ok(PutOutcome::AlreadyExists);
        }
        inner.put(&staged.name, bytes.ok_or_else(|| not_found("publish staged bytes of", &staged.name))?);
        Ok(PutOutcome::Created)
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        let mut inner = self.inner.lock();
        let found = inner.objects.get(name).map(|(_, version)| etag(*version));
        match found.as_ref() == expected {
            true => Ok(SwapOutcome::Swapped(inner.put(name, bytes))),
            false => Ok(SwapOutcome::Conflict),
        }
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        let inner = self.inner.lock();
        let (bytes, version) = inner.object(name, "get")?;
        Ok((bytes.clone(), etag(*version)))
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let inner = self.inner.lock();
        let (bytes, _) = inner.object(name, "get a range of")?;
        let size = bytes.len() as u64;
        if offset >= size {
            return Err(super::past_the_end(name, offset, size));
        }
        Ok(bytes.slice(offset as usize..offset.saturating_add(len).min(size) as usize))
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let inner = self.inner.lock();
        let (bytes, version) = inner.object(name, "look at")?;
        Ok(ObjectMeta { bytes: bytes.len() as u64, etag: etag(*version) })
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let inner = self.inner.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let listed =
            inner.objects.range((from, Bound::Unbounded)).filter(|(name, _)| name.as_str().starts_with(prefix));
        Ok(listed
            .take(limit)
            .map(|(name, (bytes, _))| Listed { name: name.clone(), bytes: bytes.len() as u64 })
            .collect())
    }

    fn wanted_for(&self, _: MachineId, _: Duration) {}

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.lock().objects.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_does_what_the_port_promises() {
        super::super::conformance::run(&MemoryStore::new()).await;
    }
}
