//! A vault opened with one of its keys: its machines, their descriptions, their logs.
//!
//! A wrong key is told apart from damage: key objects have a checksum, so one that is whole and does not open refuses
//! the key. Of several generations of an object the highest readable one counts; what is wrong with those above it is
//! kept for whoever asks. With the vault key itself at hand, damaged key objects do not keep anybody out: every other
//! object proves the key by opening.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::error::{Damage, ReadError};
use super::segment_view::LogSource;
use crate::ids::{MachineId, VaultId};
use crate::vault::about::About;
use crate::vault::catalog::Catalog;
use crate::vault::crypto::{OpenError, VaultKey};
use crate::vault::keys::{KeyObject, KeysError, RecoveryKey};
use crate::vault::layout::{ObjectName, about_prefix, catalog_prefix, keys_prefix, machines_prefix};
use crate::vault::store::{ObjectStore, StoreError};

/// What opens a vault.
#[derive(Clone)]
pub enum Credential {
    /// The vault key itself, from its key file.
    Key(VaultKey),
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The recovery key.
    Recovery(RecoveryKey),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// Why a vault stays closed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VaultError {
    /// The store does not answer, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No key object, nothing else.
    #[error("there is no vault here: no key object was found; check the path")]
    NoVault,
    /// The key is not this vault's. Nothing is said about damage.
    #[error("{0}")]
    Refused(KeysError),
    /// No generation of the key object can be read, and only the vault key itself could do without.
    #[error("the vault's key objects are damaged ({cause}): open it with its key file, or restore keys/ from a copy")]
    KeysDamaged {
        /// What is wrong with the newest.
        cause: String,
    },
}

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadObject {
    /// Which.
    pub object: ObjectName,
    /// What is wrong with it.
    pub damage: Damage,
}

/// An open vault.
#[derive(Clone)]
pub struct OpenVault {
    store: Arc<dyn ObjectStore>,
    key: VaultKey,
    /// While the vault is being rotated: what is not re-wrapped yet opens with it.
    previous: Option<VaultKey>,
    vault: Option<VaultId>,
}

impl std::fmt::Debug for OpenVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenVault").field("vault", &self.vault).finish_non_exhaustive()
    }
}

/// A machine of the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEntry {
    /// The machine.
    pub machine: MachineId,
    /// Its newest readable description; without one nothing of it can be read, for its key is in there.
    pub about: Option<About>,
    /// Descriptions above that one which cannot be read.
    pub damaged: Vec<BadObject>,
}

impl OpenVault {
    /// Opens the vault in `store`. A passphrase takes as long as Argon2id was told to take.
    pub async fn open(store: Arc<dyn ObjectStore>, credential: &Credential) -> Result<Self, VaultError> {
        let mut newest_damage = None;
        for name in generations(&*store, &keys_prefix()).await? {
            let damage = match store.get(&name).await {
                Ok((bytes, _)) => match open_keys(&name, &bytes, credential) {
                    Ok((keys, key)) => {
                        let previous = keys.previous(&key);
                        return Ok(Self { store, key, previous, vault: Some(keys.vault()) });
                    }
                    Err(KeysFault::Refused(error)) => return Err(VaultError::Refused(error)),
                    Err(KeysFault::Damaged(damage)) => damage,
                },
                Err(error) => match ReadError::store(&name, error) {
                    ReadError::Store(error) => return Err(error.into()),
                    _ => Damage::Missing,
                },
            };
            newest_damage.get_or_insert(damage);
        }
        match (credential, newest_damage) {
            (Credential::Key(key), Some(_)) => Ok(Self { store, key: key.clone(), previous: None, vault: None }),
            // A vault that lost its key objects still has machines: the vault key opens them.
            (Credential::Key(key), None) if !store.list(&machines_prefix(), None, 1).await?.is_empty() => {
                Ok(Self { store, key: key.clone(), previous: None, vault: None })
            }
            (_, Some(damage)) => Err(VaultError::KeysDamaged { cause: damage.to_string() }),
            (_, None) => Err(VaultError::NoVault),
        }
    }

    /// The vault, if a key object could be read.
    pub fn vault(&self) -> Option<VaultId> {
        self.vault
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The vault key.
    pub fn key(&self) -> &VaultKey {
        &self.key
    }

    /// The vault key before it, while the vault is being rotated.
    pub fn previous_key(&self) -> Option<&VaultKey> {
        self.previous.as_ref()
    }

    /// Opens with the vault key; and while the vault is being rotated, else with the one before.
    pub(crate) fn with_keys<T>(&self, open: impl Fn(&VaultKey) -> Result<T, OpenError>) -> Result<T, OpenError> {
        open(&self.key).or_else(|error| self.previous.as_ref().map_or(Err(error), &open))
    }

    /// The machines of the vault, by id.
    pub async fn machines(&self) -> Result<Vec<MachineEntry>, ReadError> {
        let mut entries = Vec::new();
        for part in parts(&*self.store, &machines_prefix()).await.map_err(ReadError::Store)? {
            // Anything else under the prefix is foreign; verify names it.
            if let Ok(machine) = part.parse::<MachineId>() {
                entries.push(self.machine(machine).await?);
            }
        }
        Ok(entries)
    }

    /// One machine of the vault.
    pub async fn machine(&self, machine: MachineId) -> Result<MachineEntry, ReadError> {
        let mut entry = MachineEntry { machine, about: None, damaged: Vec::new() };
        for name in generations(&*self.store, &about_prefix(machine)).await.map_err(ReadError::Store)? {
            match self.about(machine, &name).await? {
                Ok(about) => {
                    entry.about = Some(about);
                    break;
                }
                Err(damage) => entry.damaged.push(BadObject { object: name, damage }),
            }
        }
        Ok(entry)
    }

    /// One generation of a machine's description.
    pub async fn about(&self, machine: MachineId, name: &ObjectName) -> Result<Result<About, Damage>, ReadError> {
        let bytes = match self.store.get(name).await {
            Ok((bytes, _)) => bytes,
            Err(error) => match ReadError::store(name, error) {
                ReadError::Damaged { damage, .. } => return Ok(Err(damage)),
                other => return Err(other),
            },
        };
        let generation = name.number().unwrap_or(0);
        let open = |key: &VaultKey| {
            let about = About::open(machine, generation, &bytes, key)?;
            about.unwrap_data_key(key).map(|_| about)
        };
        Ok(self.with_keys(open).map_err(Damage::from))
    }

    /// Whether these are the bytes of a key object, a description or a catalog snapshot of this vault, under this name.
    pub(crate) fn opens(&self, name: &ObjectName, bytes: &Bytes) -> Result<(), Damage> {
        let generation = name.number().unwrap_or(0);
        match name.as_str().split('/').collect::<Vec<_>>()[..] {
            ["keys", _] => {
                let keys = [Some(&self.key), self.previous.as_ref()].into_iter().flatten();
                let opened = keys.map(|key| open_keys(name, bytes, &Credential::Key(key.clone())));
                match opened.reduce(|first, second| first.or(second)) {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(KeysFault::Damaged(damage))) => Err(damage),
                    _ => Err(Damage::Seal { what: "the key object" }),
                }
            }
            ["machines", machine, "about", _] => {
                let machine = machine.parse().map_err(|_| Damage::Missing)?;
                self.with_keys(|key| About::open(machine, generation, bytes, key)?.unwrap_data_key(key).map(drop))
                    .map_err(Damage::from)
            }
            _ => self.with_keys(|key| Catalog::open(generation, bytes, key).map(drop)).map_err(Damage::from),
        }
    }

    /// The newest snapshot of the configuration server's state that can be read, with its generation; and those above
    /// it that cannot.
    pub async fn catalog(&self) -> Result<(Option<(u64, Catalog)>, Vec<BadObject>), ReadError> {
        let mut damaged = Vec::new();
        for name in generations(&*self.store, &catalog_prefix()).await.map_err(ReadError::Store)? {
            let generation = name.number().unwrap_or(0);
            let opened = match self.store.get(&name).await.map_err(|error| ReadError::store(&name, error)) {
                Ok((bytes, _)) => self.with_keys(|key| Catalog::open(generation, &bytes, key)).map_err(Damage::from),
                Err(ReadError::Damaged { damage, .. }) => Err(damage),
                Err(other) => return Err(other),
            };
            match opened {
                Ok(catalog) => return Ok((Some((generation, catalog)), damaged)),
                Err(damage) => damaged.push(BadObject { object: name, damage }),
            }
        }
        Ok((None, damaged))
    }

    /// The logs of a described machine.
    pub fn source(&self, about: &About) -> Result<LogSource, ReadError> {
        let key = self.with_keys(|key| about.unwrap_data_key(key));
        let key = key.map_err(|error| ReadError::damaged(ObjectName::about(about.machine, 0), error))?;
        Ok(LogSource::new(self.store.clone(), about.machine, key))
    }
}

pub(super) enum KeysFault {
    Refused(KeysError),
    Damaged(Damage),
}

/// Opens one generation of the key object.
pub(super) fn open_keys(
    name: &ObjectName,
    bytes: &Bytes,
    credential: &Credential,
) -> Result<(KeyObject, VaultKey), KeysFault> {
    let locked = KeyObject::parse(bytes).map_err(|error| match error {
        KeysError::Malformed(malformed) => KeysFault::Damaged(malformed.into()),
        other => KeysFault::Refused(other),
    })?;
    if Some(locked.generation()) != name.number() {
        return Err(KeysFault::Damaged(Damage::OtherGeneration { generation: locked.generation() }));
    }
    let opened = match credential {
        Credential::Key(key) => locked.open(key).map(|keys| (keys, key.clone())),
        Credential::Passphrase(passphrase) => locked.open_with_passphrase(passphrase),
        Credential::Recovery(recovery) => locked.open_with_recovery(recovery),
    };
    opened.map_err(KeysFault::Refused)
}

/// The numbered objects right under a prefix, highest first.
pub(crate) async fn generations(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<ObjectName>, StoreError> {
    // Old generations go when new ones are read back: more than this are not of our making.
    const GENERATIONS_MAX: usize = 1000;
    let lines = store.list(prefix, None, GENERATIONS_MAX).await?;
    let numbered = |name: &ObjectName| name.number().is_some() && name.as_str().len() == prefix.len() + 16;
    Ok(lines.into_iter().map(|line| line.name).filter(numbered).rev().collect())
}

/// The distinct first parts of the names under a prefix, in order: two list calls a part, whatever lies below.
pub(crate) async fn parts(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<String>, StoreError> {
    let mut parts = Vec::new();
    let mut after = None;
    while let Some(line) = store.list(prefix, after.as_ref(), 1).await?.into_iter().next() {
        let rest = &line.name.as_str()[prefix.len()..];
        let part = rest.split('/').next().unwrap_or(rest).to_owned();
        // '0' follows '/': the name sorts behind everything below the part.
        after = ObjectName::listed(&format!("{prefix}{part}0"));
        parts.push(part);
        if after.is_none() {
            break;
        }
    }
    Ok(parts)
}
