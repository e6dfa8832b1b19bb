//! Reading and changing a timeline's manifest in a store: every change is read, made, put if nobody else was faster, and
//! made again where somebody was.
//!
//! Crash story: a change is one conditional put, there or not. A put whose answer was lost is looked at: what lies there is
//! either this change, or the change is made again on what does.

use std::sync::Arc;

use parking_lot::Mutex;

use super::crypto::DataKey;
use super::layout::ObjectName;
use super::manifest::{Manifest, ManifestError};
use super::read::error::ReadError;
use super::read::segment_view::LogSource;
use super::store::{ETag, ObjectStore, StoreError, StoreErrorKind, SwapOutcome};
use crate::ids::{Chance, Epoch, MachineId, TimelineId};

/// How often a change is made again after a conflict. Chosen: an owner and a few operators are all that change it.
const TRIES: usize = 16;

/// A change that did not come about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// The manifest cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store did not take it, and it is not known whether it did after all.
    #[error(transparent)]
    Store(StoreError),
    /// The manifest does not take the change.
    #[error(transparent)]
    Refused(#[from] ManifestError),
    /// Others changed it every time.
    #[error("the manifest was changed by others {TRIES} times in a row: try again later")]
    Busy,
}

/// The manifest of one timeline, and who may change it. Clones are the same keeper.
#[derive(Clone)]
pub struct ManifestKeeper {
    store: Arc<dyn ObjectStore>,
    machine: MachineId,
    timeline: TimelineId,
    key: DataKey,
    chance: Arc<Mutex<dyn Chance>>,
}

impl std::fmt::Debug for ManifestKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManifestKeeper").field("timeline", &self.timeline).finish_non_exhaustive()
    }
}

/// Reads a timeline's manifest. `None` where there is none: nothing was ever merged or pinned there.
pub async fn read_manifest(source: &LogSource, timeline: TimelineId) -> Result<Option<(Manifest, ETag)>, ReadError> {
    read_manifest_in(source.store(), source.machine(), timeline, source.key()).await
}

/// The same without a source.
pub async fn read_manifest_in(
    store: &dyn ObjectStore,
    machine: MachineId,
    timeline: TimelineId,
    key: &DataKey,
) -> Result<Option<(Manifest, ETag)>, ReadError> {
    let name = ObjectName::manifest(machine, timeline);
    match store.get(&name).await {
        Ok((bytes, etag)) => {
            let manifest = Manifest::open(machine, timeline, &bytes, key);
            Ok(Some((manifest.map_err(|error| ReadError::damaged(name, error))?, etag)))
        }
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReadError::Store(error)),
    }
}

impl ManifestKeeper {
    /// The keeper of a timeline's manifest; salts come from `chance`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        machine: MachineId,
        timeline: TimelineId,
        key: DataKey,
        chance: Arc<Mutex<dyn Chance>>,
    ) -> Self {
        Self { store, machine, timeline, key, chance }
    }

    /// Where salts come from.
    pub(super) fn chance(&self) -> &Arc<Mutex<dyn Chance>> {
        &self.chance
    }

    /// The manifest and its version in the store; a new one of `epoch`, not stored yet, where there is none.
    pub async fn read(&self, epoch: Epoch) -> Result<(Manifest, Option<ETag>), ReadError> {
        let found = read_manifest_in(&*self.store, self.machine, self.timeline, &self.key).await?;
        Ok(match found {
            Some((manifest, etag)) => (manifest, Some(etag)),
            None => (Manifest::new(epoch), None),
        })
    }

    /// Puts a changed manifest if what lies there is still `expected`; false where it is not.
    pub async fn put(&self, manifest: &Manifest, expected: Option<&ETag>) -> Result<bool, ChangeError> {
        let bytes = manifest.seal(self.machine, self.timeline, &self.key, &mut *self.chance.lock());
        let name = ObjectName::manifest(self.machine, self.timeline);
        let failed = match self.store.put_if_match(&name, expected, bytes.clone()).await {
            Ok(SwapOutcome::Swapped(_)) => return Ok(true),
            Ok(SwapOutcome::Conflict) => None,
            Err(error) => Some(error),
        };
        // Either way it may be this very put that lies there: its answer was lost, or the store repeated it.
        match (self.store.get(&name).await, failed) {
            (Ok((found, _)), _) if found == bytes => Ok(true),
            (Ok((_, etag)), Some(failed)) if Some(&etag) == expected => Err(ChangeError::Store(failed)),
            (Ok(_), _) => Ok(false),
            (Err(error), None) if error.kind == StoreErrorKind::NotFound => Ok(false),
            (Err(error), None) => Err(ChangeError::Store(error)),
            (Err(_), Some(failed)) => Err(ChangeError::Store(failed)),
        }
    }

    /// Makes a change, again after every conflict.
    pub async fn change<T>(
        &self,
        epoch: Epoch,
        mut change: impl FnMut(&mut Manifest) -> Result<T, ManifestError>,
    ) -> Result<(Manifest, T), ChangeError> {
        for _ in 0..TRIES {
            let (mut manifest, etag) = self.read(epoch).await?;
            let made = change(&mut manifest)?;
            if self.put(&manifest, etag.as_ref()).await? {
                return Ok((manifest, made));
            }
        }
        Err(ChangeError::Busy)
    }

    /// Makes `epoch` the owner: no older one changes the manifest from here on.
    pub async fn adopt(&self, epoch: Epoch) -> Result<Manifest, ChangeError> {
        let (manifest, etag) = self.read(epoch).await?;
        if manifest.epoch == epoch && etag.is_some() {
            return Ok(manifest);
        }
        Ok(self.change(epoch, |manifest| manifest.adopt(epoch)).await?.0)
    }
}
