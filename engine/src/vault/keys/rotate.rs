//! Rotating the vault key without writing data anew: machines' data keys are wrapped again, the data stays as it is.
//!
//! ```text
//!   begin   keys/<g+1>     under the new key: new slots, and the key before sealed in it; from here on the old one is refused
//!   finish  about, catalog under the new key as the next generation, read back; then those under the old key go
//!           ... again, until a look at everything finds nothing under the old key
//!           keys/<g+2>     the same slots without the key before; then the older generations go
//! ```
//!
//! Crash story: the caller keeps the new key before `begin`. Until `keys/<g+1>` is there only the old key opens the vault,
//! from then on only the new one, and it opens what is under either. Whoever has the new key calls [`finish`] until it
//! says that it is done. Nothing is deleted before what replaces it was read back. A server that still has the old key
//! asks whether it counts before and after it writes (`still_opens`), and stops.
//!
//! What it does not do: machines keep their data keys. Who copied a description and had the old key reads that machine
//! for as long as it lives.

use std::sync::Arc;

use bytes::Bytes;

use super::change::{ChangeError, generations, read, read_back};
use super::{KeyObject, KeysError};
use crate::ids::{Chance, MachineId};
use crate::vault::about::{About, WrappedKey};
use crate::vault::catalog::Catalog;
use crate::vault::crypto::VaultKey;
use crate::vault::layout::{ObjectName, about_prefix, catalog_prefix, machines_prefix};
use crate::vault::read::open_vault::{Credential, generations as numbered, parts};
use crate::vault::store::{ObjectStore, PutOutcome, StoreError};

/// Looks at everything before a rotation gives up. Chosen: each finds what somebody wrote under the old key during the one
/// before, and who writes asks first whether that key still counts.
const PASSES_MAX: usize = 8;

/// Why a rotation is not through. It can always be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The keys could not be read or written.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("{0}; run the rotation again: it goes on where it is")]
    Store(#[from] StoreError),
    /// One rotation at a time.
    #[error("the vault is being rotated to this key already: finish that first")]
    UnderWay,
    /// What cannot be read cannot be wrapped again.
    #[error(
        "no description of machine {machine} can be read: its data key would stay under the old vault key; restore {} \
         from a copy of the vault, or delete the machine, and run the rotation again",
        about_prefix(*machine)
    )]
    Unreadable {
        /// Whose.
        machine: MachineId,
    },
    /// Something else than what was written.
    #[error("{object} does not read back as it was written; run the rotation again")]
    NotReadBack {
        /// Which.
        object: ObjectName,
    },
    /// Somebody writes under the old key all the time.
    #[error("a server that has the old vault key goes on writing: stop it, and run the rotation again")]
    StillWritten,
}

/// What a finished rotation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finished {
    /// Machines whose data key was wrapped again.
    pub machines: u64,
    /// Whether the configuration server's state was sealed again.
    pub catalog: bool,
}

/// Whether `key` is the vault's, as its newest readable key object says; a vault without one does not contradict.
pub async fn still_opens(store: &Arc<dyn ObjectStore>, key: &VaultKey) -> Result<bool, StoreError> {
    for name in generations(store).await?.iter().rev() {
        let (bytes, _) = store.get(name).await?;
        if let Ok(locked) = KeyObject::parse(&bytes) {
            return Ok(locked.open(key).is_ok());
        }
    }
    Ok(true)
}

/// Makes `next`, which the caller keeps somewhere safe already, the vault key. `slots` gives the new object its slots: it has
/// none. On return the old key, its passphrases and its recovery key are refused, and [`finish`] is due.
pub async fn begin<T>(
    store: &Arc<dyn ObjectStore>,
    credential: &Credential,
    next: &VaultKey,
    chance: &mut dyn Chance,
    slots: impl FnOnce(&mut KeyObject, &VaultKey, &mut dyn Chance) -> Result<T, KeysError>,
) -> Result<T, RotateError> {
    let (now, key) = read(store, credential).await?;
    if now.previous(&key).is_some() {
        return Err(RotateError::UnderWay);
    }
    let mut rotated = now.rotated(&key, next, chance);
    let given = slots(&mut rotated, next, chance).map_err(ChangeError::from)?;
    replace_keys(store, &rotated, next, chance).await?;
    Ok(given)
}

/// Wraps everything again that is still under the key before; then that key is forgotten. Without a rotation it does nothing.
pub async fn finish(
    store: &Arc<dyn ObjectStore>,
    key: &VaultKey,
    chance: &mut dyn Chance,
) -> Result<Finished, RotateError> {
    let (mut object, key) = read(store, &Credential::Key(key.clone())).await?;
    let mut finished = Finished::default();
    let Some(previous) = object.previous(&key) else { return Ok(finished) };
    let keys = Keys { store, key: &key, previous: &previous };
    for _ in 0..PASSES_MAX {
        let pass = keys.pass(chance).await?;
        finished.machines += pass.machines;
        finished.catalog |= pass.catalog;
        if pass == Finished::default() {
            object = object.next_generation();
            object.forget_previous();
            replace_keys(store, &object, &key, chance).await?;
            return Ok(finished);
        }
    }
    Err(RotateError::StillWritten)
}

/// Writes the next key object, reads it back, and takes the older ones away.
async fn replace_keys(
    store: &Arc<dyn ObjectStore>,
    object: &KeyObject,
    key: &VaultKey,
    chance: &mut dyn Chance,
) -> Result<(), RotateError> {
    let (name, bytes) = (ObjectName::keys(object.generation()), object.seal(key, chance));
    if !put_ours(store, &name, &bytes).await? {
        return Err(ChangeError::Raced.into());
    }
    read_back(store, &name, &bytes, key).await?;
    for older in generations(store).await?.into_iter().filter(|older| *older < name) {
        store.delete(&older).await?;
    }
    Ok(())
}

/// Creates an object; whether it is there with these bytes then. A lost answer is looked after.
async fn put_ours(store: &Arc<dyn ObjectStore>, name: &ObjectName, bytes: &Bytes) -> Result<bool, StoreError> {
    let token = format!("rotate-{}", blake3::hash(bytes).to_hex());
    match store.put_if_absent(name, &token, bytes.clone()).await {
        Ok(PutOutcome::Created) => Ok(true),
        Ok(PutOutcome::AlreadyExists) => Ok(store.get(name).await?.0 == *bytes),
        Err(error) => match store.get(name).await {
            Ok((found, _)) if found == *bytes => Ok(true),
            _ => Err(error),
        },
    }
}

struct Keys<'a> {
    store: &'a Arc<dyn ObjectStore>,
    key: &'a VaultKey,
    previous: &'a VaultKey,
}

/// The generations of one object, highest first, as far as they open with either key.
struct Opened<T> {
    highest: u64,
    newest: Option<(T, bool)>,
    /// Those under the key before.
    old: Vec<ObjectName>,
}

impl Keys<'_> {
    async fn pass(&self, chance: &mut dyn Chance) -> Result<Finished, RotateError> {
        let mut pass = Finished::default();
        for part in parts(&**self.store, &machines_prefix()).await? {
            if let Ok(machine) = part.parse::<MachineId>() {
                pass.machines += u64::from(self.machine(machine, chance).await?);
            }
        }
        pass.catalog = self.catalog(chance).await?;
        Ok(pass)
    }

    /// Opens every generation under `prefix`; `open` gets its number and bytes.
    async fn open<T>(
        &self,
        prefix: &str,
        open: impl Fn(u64, &Bytes, &VaultKey) -> Option<T>,
    ) -> Result<Option<Opened<T>>, RotateError> {
        let names = numbered(&**self.store, prefix).await?;
        let Some(highest) = names.first().and_then(ObjectName::number) else { return Ok(None) };
        let mut opened = Opened { highest, newest: None, old: Vec::new() };
        for name in names {
            let (bytes, number) = (self.store.get(&name).await?.0, name.number().unwrap_or(0));
            let ours = open(number, &bytes, self.key).map(|body| (body, true));
            let found = ours.or_else(|| open(number, &bytes, self.previous).map(|body| (body, false)));
            if matches!(found, Some((_, false))) {
                opened.old.push(name);
            }
            opened.newest = opened.newest.or(found);
        }
        Ok(Some(opened))
    }

    async fn machine(&self, machine: MachineId, chance: &mut dyn Chance) -> Result<bool, RotateError> {
        let open = |number, bytes: &Bytes, key: &VaultKey| {
            let about = About::open(machine, number, bytes, key).ok()?;
            let data_key = about.unwrap_data_key(key).ok()?;
            Some((about, data_key))
        };
        // A machine without any description is one that is being deleted.
        let Some(opened) = self.open(&about_prefix(machine), open).await? else { return Ok(false) };
        let Some(((mut about, data_key), ours)) = opened.newest else {
            return Err(RotateError::Unreadable { machine });
        };
        if !ours {
            about.data_key = WrappedKey::wrap(self.key, machine, &data_key, chance);
            let (name, bytes) = about.seal(opened.highest + 1, self.key, chance);
            self.put(&name, &bytes).await?;
        }
        self.delete(opened.old).await.map(|deleted| deleted || !ours)
    }

    async fn catalog(&self, chance: &mut dyn Chance) -> Result<bool, RotateError> {
        let open = |number, bytes: &Bytes, key: &VaultKey| Catalog::open(number, bytes, key).ok();
        let Some(opened) = self.open(&catalog_prefix(), open).await? else { return Ok(false) };
        let Some((catalog, ours)) = opened.newest else { return Ok(false) };
        if !ours {
            let (name, bytes) = catalog.seal(opened.highest + 1, self.key, chance);
            self.put(&name, &bytes).await?;
        }
        self.delete(opened.old).await.map(|deleted| deleted || !ours)
    }

    /// A rival at this name is met again by the next pass.
    async fn put(&self, name: &ObjectName, bytes: &Bytes) -> Result<(), RotateError> {
        let ours = put_ours(self.store, name, bytes).await?;
        let back = ours && self.store.get(name).await?.0 == *bytes;
        back.then_some(()).ok_or_else(|| RotateError::NotReadBack { object: name.clone() })
    }

    async fn delete(&self, old: Vec<ObjectName>) -> Result<bool, RotateError> {
        for name in &old {
            self.store.delete(name).await?;
        }
        Ok(!old.is_empty())
    }
}

#[cfg(test)]
mod tests;
