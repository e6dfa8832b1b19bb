//! Opening the vault at start: made at the first one, with a 0600 key file and a recovery key that is shown once; refused
//! when it is somebody else's.
//!
//! ```text
//!   keys/<n> in the vault   key file     what happens
//!   none                    none         the vault is made: key file first, then keys/1
//!   none                    there        the vault is made with that key (an earlier start died in between)
//!   there                   opens it     the vault is ours
//!   there                   does not     refused: another installation's, or the wrong key file
//!   there                   none         refused: the key is missing
//! ```
//!
//! A vault that is empty although this installation had one before is refused as well: it is the wrong place, or the
//! replicas are gone, and neither heals by beginning anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_engine::ids::VaultId;
use farshore_engine::vault::crypto::VaultKey;
use farshore_engine::vault::keys::{KeyObject, KeysError, RecoveryKey, parse_key_file, print_key_file};
use farshore_engine::vault::layout::{self, ObjectName};
use farshore_engine::vault::store::{ObjectStore, PutOutcome, StoreError};
use zeroize::Zeroizing;

use super::secret_file::{self, SecretFileError};
use crate::supervise::{OsChance, wall_clock};

/// Why the vault cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VaultDoorError {
    /// The key file does not open it.
    #[error(
        "the vault belongs to another installation, or {key_file} is not its key ({cause}): choose an empty place for the \
             vault, or give the key file of the installation it belongs to"
    )]
    Foreign {
        /// The key file.
        key_file: PathBuf,
        /// What the vault says.
        cause: KeysError,
    },
    /// There is no key file.
    #[error(
        "vault {vault} is there, but its key is not: {key_file} does not exist. If the vault is another installation's, \
             choose an empty place; if it is ours, put the key file back (the recovery key opens the vault as well: \
             `farshore vault ls --recovery-key`)"
    )]
    NoKey {
        /// The vault, as it says.
        vault: VaultId,
        /// Where the key file was looked for.
        key_file: PathBuf,
    },
    /// Another vault is there.
    #[error(
        "this installation's vault is {ours}, the one here is {here}: check the vault's address, or give this installation \
             a state directory of its own"
    )]
    NotOurs {
        /// Ours.
        ours: VaultId,
        /// The one that was found.
        here: VaultId,
    },
    /// No vault is there, and there was one.
    #[error(
        "this installation's vault {ours} is not here: nothing lies at the vault's address. Check it; nothing is made anew \
             where replicas should be"
    )]
    Gone {
        /// Ours.
        ours: VaultId,
    },
    /// The key file cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The key file holds no key.
    #[error("{key_file} holds no vault key: expected one line of 64 hexadecimal digits")]
    BadKeyFile {
        /// The key file.
        key_file: PathBuf,
    },
    /// The store failed.
    #[error("open the vault: {0}")]
    Store(#[from] StoreError),
    /// The key object is damaged.
    #[error("open the vault: {0}")]
    Keys(#[from] KeysError),
}

/// An open vault.
#[derive(Debug)]
pub struct OpenVault {
    /// Which.
    pub vault: VaultId,
    /// Its key.
    pub key: VaultKey,
    /// The recovery key, where the vault was made just now: to be shown once.
    pub recovery_key: Option<Zeroizing<String>>,
}

/// Opens the vault in `store`, or makes it. `ours` is the installation's vault, if it has one.
pub async fn open(
    store: &Arc<dyn ObjectStore>,
    key_file: &Path,
    ours: Option<VaultId>,
) -> Result<OpenVault, VaultDoorError> {
    let key = match secret_file::read(key_file)? {
        Some(text) => {
            let bad = |_| VaultDoorError::BadKeyFile { key_file: key_file.to_owned() };
            Some(parse_key_file(&text).map_err(bad)?)
        }
        None => None,
    };
    let keys = store.list(&layout::keys_prefix(), None, 1000).await?;
    let newest = keys.into_iter().filter_map(|listed| Some((listed.name.number()?, listed.name))).max();
    let Some((_, name)) = newest else {
        return match ours {
            Some(ours) => Err(VaultDoorError::Gone { ours }),
            None => make(store, key_file, key).await,
        };
    };
    let (bytes, _) = store.get(&name).await?;
    let locked = KeyObject::parse(&bytes)?;
    let vault = locked.vault();
    let Some(key) = key else { return Err(VaultDoorError::NoKey { vault, key_file: key_file.to_owned() }) };
    if let Err(cause) = locked.open(&key) {
        return Err(VaultDoorError::Foreign { key_file: key_file.to_owned(), cause });
    }
    match ours {
        Some(ours) if ours != vault => Err(VaultDoorError::NotOurs { ours, here: vault }),
        _ => Ok(OpenVault { vault, key, recovery_key: None }),
    }
}

async fn make(
    store: &Arc<dyn ObjectStore>,
    key_file: &Path,
    key: Option<VaultKey>,
) -> Result<OpenVault, VaultDoorError> {
    let mut chance = OsChance;
    let key = match key {
        Some(key) => key,
        None => {
            let key = VaultKey::draw(&mut chance);
            // Before anything is sealed with it: a vault without a key would be lost at once.
            secret_file::write(key_file, print_key_file(&key).as_bytes())?;
            key
        }
    };
    let recovery = RecoveryKey::draw(&mut chance);
    let mut object = KeyObject::new(VaultId::draw(&mut chance), wall_clock());
    object.add_recovery(&key, &recovery, &mut chance);
    let name = ObjectName::keys(object.generation());
    match store.put_if_absent(&name, "keys-first", object.seal(&key, &mut chance)).await? {
        PutOutcome::Created => Ok(OpenVault { vault: object.vault(), key, recovery_key: Some(recovery.print()) }),
        // Somebody made a vault here in this moment.
        PutOutcome::AlreadyExists => {
            let (bytes, _) = store.get(&name).await?;
            let cause = KeyObject::parse(&bytes)?.open(&key).err();
            let cause = cause.unwrap_or(KeysError::NotAuthentic { vault: object.vault() });
            Err(VaultDoorError::Foreign { key_file: key_file.to_owned(), cause })
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_engine::vault::store::folder::FolderStore;

    use super::*;

    fn store(dir: &Path, name: &str) -> Arc<dyn ObjectStore> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(FolderStore::open(&dir.join(name), runtime).expect("a folder"))
    }

    #[tokio::test]
    async fn the_first_start_makes_the_vault_and_later_ones_open_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, key_file) = (store(dir.path(), "vault"), dir.path().join("vault.key"));
        let made = open(&store, &key_file, None).await.expect("made");
        assert!(made.recovery_key.is_some());
        let again = open(&store, &key_file, Some(made.vault)).await.expect("opened");
        assert_eq!((again.vault, again.recovery_key.is_none()), (made.vault, true));
        let recovery: RecoveryKey = made.recovery_key.expect("shown").parse().expect("well formed");
        let (bytes, _) = store.get(&ObjectName::keys(1)).await.expect("there");
        let opened = KeyObject::parse(&bytes).expect("parses").open_with_recovery(&recovery);
        assert_eq!(opened.expect("the recovery key opens it").0.vault(), made.vault);
    }

    #[tokio::test]
    async fn a_start_that_died_after_the_key_file_goes_on_with_that_key() {
        let dir = tempfile::tempdir().expect("temp dir");
        let key_file = dir.path().join("vault.key");
        let key = VaultKey::from_bytes([7; 32]);
        secret_file::write(&key_file, print_key_file(&key).as_bytes()).expect("written");
        let made = open(&store(dir.path(), "vault"), &key_file, None).await.expect("made");
        assert_eq!(made.key.as_bytes(), &[7; 32]);
    }

    #[tokio::test]
    async fn a_vault_of_another_installation_is_refused_clearly() {
        let dir = tempfile::tempdir().expect("temp dir");
        let theirs = store(dir.path(), "theirs");
        let their_key = dir.path().join("their.key");
        let vault = open(&theirs, &their_key, None).await.expect("made").vault;
        let our_key = dir.path().join("our.key");
        let error = open(&theirs, &our_key, None).await.expect_err("no key");
        assert!(matches!(error, VaultDoorError::NoKey { vault: found, .. } if found == vault), "{error}");
        assert!(!our_key.exists(), "no key is made for somebody else's vault");
        let ours = open(&store(dir.path(), "ours"), &our_key, None).await.expect("made").vault;
        let error = open(&theirs, &our_key, None).await.expect_err("wrong key");
        assert!(matches!(error, VaultDoorError::Foreign { .. }), "{error}");
        let error = open(&theirs, &their_key, Some(ours)).await.expect_err("not ours");
        assert!(matches!(error, VaultDoorError::NotOurs { .. }), "{error}");
        let error = open(&store(dir.path(), "elsewhere"), &our_key, Some(ours)).await.expect_err("gone");
        assert!(matches!(error, VaultDoorError::Gone { .. }), "{error}");
        secret_file::write(&our_key, b"half a ke").expect("damaged");
        let error = open(&theirs, &our_key, None).await.expect_err("no key in it");
        assert!(matches!(error, VaultDoorError::BadKeyFile { .. }), "{error}");
    }
}
