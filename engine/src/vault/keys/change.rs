//! Changing the key object: a new generation is written, read back and opened, and only then the older ones go.
//!
//! Crash story: between the steps two generations lie in the vault, and the newest counts. The next change takes the older
//! ones away. A passphrase or recovery key that was taken away opens a copy of an old generation still, as any copy of the
//! vault of that time does: the vault key is the same.

use std::sync::Arc;

use bytes::Bytes;

use super::{KeyObject, KeysError};
use crate::ids::Chance;
use crate::vault::crypto::VaultKey;
use crate::vault::layout::{self, ObjectName};
use crate::vault::read::open_vault::{Credential, OpenVault, VaultError};
use crate::vault::store::{ObjectStore, PutOutcome, StoreError};

/// Why the keys are as they were.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The vault could not be opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The change itself makes no sense.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else changed them in this moment.
    #[error("somebody else changed the vault's keys just now: look at them, and try again")]
    Raced,
    /// What was written does not read back.
    #[error("the changed key object does not read back as it was written; the one before it is still there")]
    NotReadBack,
}

/// The newest key object that can be read, with the vault key.
pub async fn read(store: &Arc<dyn ObjectStore>, credential: &Credential) -> Result<(KeyObject, VaultKey), ChangeError> {
    let key = OpenVault::open(store.clone(), credential).await?.key().clone();
    let names = generations(store).await?;
    let Some(newest) = names.last() else { return Err(VaultError::NoVault.into()) };
    let (bytes, _) = store.get(newest).await?;
    Ok((KeyObject::parse(&bytes)?.open(&key)?, key))
}

/// Changes the keys. `change` gets the next generation and the vault key. It may take as long as Argon2id was told to.
pub async fn change<T>(
    store: &Arc<dyn ObjectStore>,
    credential: &Credential,
    chance: &mut dyn Chance,
    change: impl FnOnce(&mut KeyObject, &VaultKey, &mut dyn Chance) -> Result<T, KeysError>,
) -> Result<T, ChangeError> {
    let (now, key) = read(store, credential).await?;
    let mut next = now.next_generation();
    let given = change(&mut next, &key, chance)?;
    let (name, bytes) = (ObjectName::keys(next.generation()), next.seal(&key, chance));
    let token = format!("keys-{}", blake3::hash(&bytes).to_hex());
    if store.put_if_absent(&name, &token, bytes.clone()).await? == PutOutcome::AlreadyExists {
        return Err(ChangeError::Raced);
    }
    read_back(store, &name, &bytes, &key).await?;
    for older in generations(store).await?.into_iter().filter(|older| *older < name) {
        store.delete(&older).await?;
    }
    Ok(given)
}

pub(super) async fn read_back(
    store: &Arc<dyn ObjectStore>,
    name: &ObjectName,
    bytes: &Bytes,
    key: &VaultKey,
) -> Result<(), ChangeError> {
    let (found, _) = store.get(name).await?;
    let opens = KeyObject::parse(&found).and_then(|locked| locked.open(key)).is_ok();
    if found == *bytes && opens { Ok(()) } else { Err(ChangeError::NotReadBack) }
}

/// Oldest first.
pub(super) async fn generations(store: &Arc<dyn ObjectStore>) -> Result<Vec<ObjectName>, StoreError> {
    let listed = store.list(&layout::keys_prefix(), None, 1000).await?;
    Ok(listed.into_iter().map(|listed| listed.name).filter(|name| name.number().is_some()).collect())
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::{PassphraseCost, RecoveryKey, SlotKind};
    use super::*;
    use crate::ids::{Timestamp, VaultId};
    use crate::vault::read::test_log::Seeded;
    use crate::vault::store::memory::MemoryStore;

    fn passphrase(text: &str) -> Credential {
        Credential::Passphrase(Zeroizing::new(text.to_owned()))
    }

    async fn vault() -> (Arc<dyn ObjectStore>, VaultKey, RecoveryKey, Seeded) {
        let mut chance = Seeded::new(8);
        let (store, key): (Arc<dyn ObjectStore>, _) = (Arc::new(MemoryStore::new()), VaultKey::draw(&mut chance));
        let recovery = RecoveryKey::draw(&mut chance);
        let mut object = KeyObject::new(VaultId::draw(&mut chance), Timestamp(1));
        object.add_recovery(&key, &recovery, &mut chance);
        let sealed = object.seal(&key, &mut chance);
        store.put_if_absent(&ObjectName::keys(1), "first", sealed).await.expect("put");
        (store, key, recovery, chance)
    }

    #[tokio::test]
    async fn a_changed_passphrase_opens_the_vault_and_the_old_one_does_not() {
        let (store, key, _, mut chance) = vault().await;
        for text in ["the first passphrase", "the second passphrase"] {
            let set = |object: &mut KeyObject, key: &VaultKey, chance: &mut dyn Chance| {
                object.remove_passphrases();
                object.add_passphrase(key, text, PassphraseCost::LEAST, chance)
            };
            change(&store, &Credential::Key(key.clone()), &mut chance, set).await.expect("it changes");
        }
        let (object, opened) = read(&store, &passphrase("the second passphrase")).await.expect("it opens");
        assert_eq!(opened.as_bytes(), key.as_bytes(), "no data is written anew");
        assert_eq!(object.slots().collect::<Vec<_>>(), [SlotKind::Recovery, SlotKind::Passphrase]);
        let refused = read(&store, &passphrase("the first passphrase")).await;
        assert!(matches!(refused, Err(ChangeError::Vault(VaultError::Refused(KeysError::WrongPassphrase)))));
        assert_eq!(generations(&store).await.expect("list"), [ObjectName::keys(3)], "older generations are gone");
    }

    #[tokio::test]
    async fn a_replaced_recovery_key_is_worth_nothing_and_a_removed_slot_is_gone() {
        let (store, key, old, mut chance) = vault().await;
        let by_key = Credential::Key(key);
        let replace = |object: &mut KeyObject, key: &VaultKey, chance: &mut dyn Chance| {
            let fresh = RecoveryKey::draw(chance);
            object.remove_recovery();
            object.add_recovery(key, &fresh, chance);
            Ok(fresh)
        };
        let fresh = change(&store, &by_key, &mut chance, replace).await.expect("it changes");
        read(&store, &Credential::Recovery(fresh)).await.expect("it opens");
        read(&store, &Credential::Recovery(old)).await.expect_err("it was replaced");
        let removed = change(&store, &by_key, &mut chance, |object, _, _| object.remove_slot(0)).await;
        assert_eq!(removed.expect("it is there"), SlotKind::Recovery);
        let nothing = change(&store, &by_key, &mut chance, |object, _, _| object.remove_slot(0)).await;
        assert!(matches!(nothing, Err(ChangeError::Keys(KeysError::NoSuchSlot { slot: 0 }))));
        read(&store, &by_key).await.expect("the vault key itself always opens it");
    }

    #[tokio::test]
    async fn of_two_changes_at_once_one_is_told_to_look_again() {
        let (store, key, _, mut chance) = vault().await;
        let rival = store.clone();
        let outcome = change(&store, &Credential::Key(key), &mut chance, |object, key, chance| {
            let theirs = object.seal(key, chance);
            futures_util::FutureExt::now_or_never(rival.put_if_absent(&ObjectName::keys(2), "theirs", theirs))
                .expect("memory is at once")
                .expect("put");
            object.remove_slot(0)
        })
        .await;
        assert!(matches!(outcome, Err(ChangeError::Raced)));
        assert_eq!(generations(&store).await.expect("list").len(), 2, "nothing was taken away");
    }
}
