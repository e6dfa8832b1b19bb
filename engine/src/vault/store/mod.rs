//! The store port: what Farshore asks of an object store, and no more.
//!
//! An object is immutable but for the manifests, which change only by [`ObjectStore::put_if_match`]; and a damaged object is put
//! back by it as it was (`vault::repair`). Creating is
//! create-if-absent, in two steps so that the bytes of later objects may travel while an earlier one is still being
//! published: [`ObjectStore::stage`] brings the bytes to the store under a token, [`ObjectStore::publish`] makes
//! them the object, or says that another is there already. Staged bytes that are never published become garbage
//! that the adapter clears away.
//!
//! Every error leaves it open whether the effect took place unless it says otherwise: callers look
//! (`get_range`) before they conclude (see `log::committer`).

pub mod azure;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
pub mod folder;
pub mod memory;
pub mod metered;
pub mod pages;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::layout::ObjectName;
use crate::ids::MachineId;

/// What the next step after a failed store call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The object is not there.
    NotFound,
    /// The store has no room.
    Full,
    /// The store refuses these credentials, or may not write there.
    Denied,
    /// The store does not answer, or answered "later": try again.
    Unavailable,
    /// What was asked for makes no sense to this store (a name it cannot hold, a range past the end).
    Refused,
    /// The store keeps the object as it is until a time that was set when it was written.
    Immutable,
    /// The store cannot do what a vault needs (no atomic create): choose another place.
    Unsuitable,
}

/// A store call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct StoreError {
    /// What to do next.
    pub kind: StoreErrorKind,
    /// Verb and thing, as "publish machines/…/log/0000000000000001".
    pub doing: String,
    /// What the store said.
    pub cause: String,
}

/// An object's version, as the store names it; compared, never interpreted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutOutcome {
    /// The object is there with these bytes, durable.
    Created,
    /// An object was there before; nothing changed. It may be this caller's own, from a try whose answer was lost.
    AlreadyExists,
}

/// What became of a conditional replace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SwapOutcome {
    /// The object has these bytes, durable, under this version.
    Swapped(ETag),
    /// The object had another version (or was there, or was missing, against what was expected); nothing changed.
    Conflict,
}

/// An object's size and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Size in bytes.
    pub bytes: u64,
    /// Version.
    pub etag: ETag,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object.
    pub name: ObjectName,
    /// Size in bytes.
    pub bytes: u64,
}

/// Bytes that were brought to the store and are no object yet.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The object they will be.
    pub name: ObjectName,
    /// Adapter's own: where they lie.
    pub token: String,
    /// How many they are.
    pub bytes: u64,
    /// Adapter's own: the bytes, where they are so few that publishing brings them.
    held: Option<Arc<Held>>,
}

/// Few bytes that wait in memory for publishing, within their adapter's credit for them.
#[derive(Debug)]
struct Held {
    name: ObjectName,
    token: String,
    bytes: Bytes,
    _credit: OwnedSemaphorePermit,
}

impl Staged {
    /// So many bytes that lie where `token` says.
    pub fn new(name: ObjectName, token: String, bytes: u64) -> Self {
        Self { name, token, bytes, held: None }
    }

    /// The bytes, where they are held for just this object under this token.
    fn held(&self) -> Option<&Bytes> {
        let held = self.held.as_ref().filter(|held| held.name == self.name && held.token == self.token);
        held.map(|held| &held.bytes)
    }
}

/// What every adapter answers to a range that begins behind the object.
pub(crate) fn past_the_end(name: &ObjectName, offset: u64, size: u64) -> StoreError {
    let cause = format!("the object has {size} bytes, and byte {offset} was asked for");
    StoreError { kind: StoreErrorKind::Refused, doing: format!("get a range of {name}"), cause }
}

/// An object store, or a folder that behaves like one.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Brings `parts` (one object, cut anywhere) to the store. `token` is the caller's: it names epoch, writer
    /// and content, so that rivals' bytes never mix. Durable only once published.
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError>;

    /// Makes staged bytes the object, if none is there. Durable on return.
    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError>;

    /// Replaces the object whose version is `expected` (`None`: it must not exist). Durable on return.
    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError>;

    /// The whole object and its version.
    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError>;

    /// `len` bytes from `offset` on, or fewer where the object ends; an offset that is not within the object is
    /// `Refused`.
    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError>;

    /// Size and version.
    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError>;

    /// Up to `limit` objects whose names begin with `prefix`, in order of names, after `after`. A list may be
    /// stale: it may miss what was created just now.
    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError>;

    /// Removes an object; one that is not there is no error.
    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// What is written of a machine's log from now on is wanted for so long. A store that keeps objects from being changed
    /// may keep it until then; for others this is nothing.
    fn wanted_for(&self, machine: MachineId, span: Duration);

    /// Create-if-absent in one step.
    async fn put_if_absent(&self, name: &ObjectName, token: &str, bytes: Bytes) -> Result<PutOutcome, StoreError> {
        let staged = self.stage(name, token, vec![bytes]).await?;
        self.publish(&staged).await
    }
}
