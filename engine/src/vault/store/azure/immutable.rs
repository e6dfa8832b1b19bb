//! Immutability: log objects and parts of runs are written with a policy of their own (version-level WORM), under which Azure
//! lets nobody change or delete them until its end, whatever credential they have.
//!
//! The policy travels with the request that makes the object, so no object is ever there without it. Manifests, keys,
//! descriptions and snapshots change as ever: Azure keeps their former versions, if the account is told to.

use std::time::Duration;

use azure_core::time::OffsetDateTime;
use azure_storage_blob::models::{BlobContainerClientGetPropertiesResultHeaders, ImmutabilityPolicyMode};

use super::*;

/// Until when what is written stays as it is, and whether the policy itself can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Immutability {
    /// From the creation of each object on.
    pub keep: Duration,
    /// As long as the object's machine wants it ([`ObjectStore::wanted_for`]), where that is longer.
    pub as_wanted: bool,
    /// Nobody can shorten or take away a locked policy, the account's owner included.
    pub locked: bool,
}

/// No policy lasts longer. Chosen: beyond any retention, and still a date.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The policy of one object.
pub(super) type Policy = (Option<OffsetDateTime>, Option<ImmutabilityPolicyMode>);

impl Immutability {
    fn policy(self, wanted: Option<Duration>, now: OffsetDateTime) -> Policy {
        let mode = if self.locked { ImmutabilityPolicyMode::Locked } else { ImmutabilityPolicyMode::Unlocked };
        let keep = wanted.filter(|_| self.as_wanted).map_or(self.keep, |wanted| wanted.max(self.keep));
        (Some(now + keep.min(CENTURY)), Some(mode))
    }
}

impl Inner {
    /// What an object is made with. Only what is never written again has a policy.
    pub(super) fn policy_of(&self, name: &ObjectName) -> Policy {
        let kept = name.as_str().contains("/log/") || name.run().is_some();
        match self.immutability.filter(|_| kept) {
            Some(immutability) => {
                let wanted = name.owner().and_then(|(machine, _)| self.wanted.lock().get(&machine).copied());
                immutability.policy(wanted, OffsetDateTime::now_utc())
            }
            None => (None, None),
        }
    }

    /// Refuses a container that would not hold a policy.
    pub(super) async fn check_immutability(&self) -> Result<(), StoreError> {
        if self.immutability.is_none() {
            return Ok(());
        }
        let doing = format!("keep what is written to {} from being changed", self.place.container());
        let properties = self.tried(|| async { self.container.get_properties(None).await }).await.certain(&doing)?;
        match properties.is_immutable_storage_with_versioning_enabled() {
            Ok(Some(true)) => Ok(()),
            _ => {
                let cause =
                    "the container has no version-level immutability: make one with it (az storage container-rm \
                             create --enable-vlw), or take back the wish for it"
                        .to_owned();
                Err(StoreError { kind: StoreErrorKind::Unsuitable, doing, cause })
            }
        }
    }
}

impl AzureStore {
    /// From now on log objects and runs are written so that nobody can change them for so long. Before the first call:
    /// [`AzureStore::prepare`] then refuses a container that cannot do it.
    ///
    /// # Panics
    /// On a store that was cloned.
    #[must_use]
    pub fn immutable(mut self, immutability: Immutability) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("it is decided before the store is shared");
        inner.immutability = Some(immutability);
        self
    }
}
