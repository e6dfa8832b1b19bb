//! Who keeps the vault key: the port for a key management service, behind which passphrases and recovery keys stand as well.
//!
//! ```text
//!   open   key object ─► source.find(vault, slots) ─► a key ─► the object's own seal says whether it is the vault's
//!   add    provider.wrap(vault, key) ─► slot ─► the changed object goes its way (see `change`)
//! ```
//!
//! A provider may be a service far away: it may refuse, fail, or never answer. Each call has a bound; an answer that comes
//! later than that is nobody's, and nothing was changed. What a source gives is never believed: only the key under which the
//! object authenticates opens it. A provider must bind what it wraps to the vault, so that no slot opens another one's.
//!
//! Crash story: nothing is kept here.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{
    KeyObject, KeySlot, KeysError, KnownSlot, LockedKeys, PASSPHRASE_CHARS_MIN, PassphraseCost, RecoveryKey, hex,
    passphrase_key, recovery_key, unhex, unwrap_vault_key, wrap_vault_key,
};
use crate::ids::{Chance, Salt, VaultId};
use crate::vault::crypto::VaultKey;

/// How long a provider may take. Chosen: a service's own retries fit; whoever waits still sees what they wait for.
pub const PROVIDER_PATIENCE: Duration = Duration::from_secs(20);

/// Why a provider gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// None of the slots is this provider's.
    #[error("the vault has no key slot of {provider}: open it in another way, and add one")]
    NoSlot {
        /// Who.
        provider: String,
    },
    /// What it gave, or was asked for, is not right.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It refused, or could not be reached.
    #[error("{provider} gave no key: {cause}")]
    Failed {
        /// Who.
        provider: String,
        /// What it said.
        cause: String,
    },
    /// It did not answer in time.
    #[error("{provider} did not answer within {} s: look whether it can be reached, and try again", .within.as_secs_f32())]
    Late {
        /// Who.
        provider: String,
        /// How long it had.
        within: Duration,
    },
}

/// One way to the vault key, as the key object holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot(KeySlot);

/// What a key management service wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which kind of service.
    pub provider: String,
    /// Which of its keys, with its version.
    pub key: String,
    /// What it gave.
    pub sealed: Vec<u8>,
}

impl Slot {
    /// A slot of what a service wrapped.
    pub fn wrapped(wrapped: &WrappedKey) -> Self {
        let WrappedKey { provider, key, sealed } = wrapped;
        let (provider, key, sealed) = (provider.clone(), key.clone(), hex(sealed));
        Self(KeySlot::Known(KnownSlot::Wrapped { provider, key, sealed }))
    }

    /// What a service wrapped, if this is such a slot.
    pub fn as_wrapped(&self) -> Option<WrappedKey> {
        let KeySlot::Known(KnownSlot::Wrapped { provider, key, sealed }) = &self.0 else { return None };
        Some(WrappedKey { provider: provider.clone(), key: key.clone(), sealed: unhex(sealed)? })
    }
}

/// Finds the vault key.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// What messages call it.
    fn name(&self) -> String;

    /// The vault key, from one of the slots or from elsewhere.
    async fn find(&self, vault: VaultId, slots: &[Slot]) -> Result<VaultKey, ProviderError>;
}

/// Wraps the vault key, and finds it again in what it wrapped.
#[async_trait]
pub trait KeyProvider: KeySource {
    /// The vault key in a slot, bound to the vault.
    async fn wrap(&self, vault: VaultId, key: &VaultKey) -> Result<Slot, ProviderError>;
}

async fn in_time<T>(
    source: &(impl KeySource + ?Sized),
    within: Duration,
    call: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let late = |_| ProviderError::Late { provider: source.name(), within };
    tokio::time::timeout(within, call).await.map_err(late)?
}

impl LockedKeys {
    /// Opens with what `source` finds, within a bound of time.
    pub async fn open_by(
        self,
        source: &dyn KeySource,
        within: Duration,
    ) -> Result<(KeyObject, VaultKey), ProviderError> {
        let slots: Vec<Slot> = self.body.slots.iter().cloned().map(Slot).collect();
        let key = in_time(source, within, source.find(self.body.vault, &slots)).await?;
        Ok((self.open(&key)?, key))
    }
}

impl KeyObject {
    /// Adds a slot of `provider`. Where that fails, nothing has changed.
    pub async fn add_by(
        &mut self,
        key: &VaultKey,
        provider: &dyn KeyProvider,
        within: Duration,
    ) -> Result<(), ProviderError> {
        let slot = in_time(provider, within, provider.wrap(self.body.vault, key)).await?;
        self.body.slots.push(slot.0);
        Ok(())
    }
}

/// A passphrase.
pub struct PassphraseProvider {
    passphrase: Zeroizing<String>,
    cost: PassphraseCost,
    chance: Mutex<Box<dyn Chance + Send>>,
}

impl PassphraseProvider {
    /// With what a guess shall cost, and chance for salts.
    pub fn new(passphrase: Zeroizing<String>, cost: PassphraseCost, chance: Box<dyn Chance + Send>) -> Self {
        Self { passphrase, cost, chance: Mutex::new(chance) }
    }

    /// Argon2id takes its time: not on a thread that others wait for.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&str) -> Result<T, KeysError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let passphrase = self.passphrase.clone();
        let done = tokio::task::spawn_blocking(move || work(&passphrase)).await;
        Ok(done.map_err(|error| ProviderError::Failed { provider: self.name(), cause: error.to_string() })??)
    }
}

#[async_trait]
impl KeySource for PassphraseProvider {
    fn name(&self) -> String {
        "a passphrase".into()
    }

    async fn find(&self, vault: VaultId, slots: &[Slot]) -> Result<VaultKey, ProviderError> {
        let slots = slots.to_vec();
        self.aside(move |passphrase| {
            let mut error = KeysError::NoPassphrase;
            for Slot(slot) in &slots {
                let KeySlot::Known(KnownSlot::Passphrase { salt, argon2id, sealed }) = slot else { continue };
                error = KeysError::WrongPassphrase;
                let wrap = passphrase_key(passphrase, salt, *argon2id)?;
                if let Some(key) = unwrap_vault_key(&wrap, b"passphrase", vault, sealed) {
                    return Ok(key);
                }
            }
            Err(error)
        })
        .await
    }
}

#[async_trait]
impl KeyProvider for PassphraseProvider {
    async fn wrap(&self, vault: VaultId, key: &VaultKey) -> Result<Slot, ProviderError> {
        if self.passphrase.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(KeysError::PassphraseTooShort.into());
        }
        let salt = Salt::draw(&mut **self.chance.lock());
        let (key, argon2id) = (key.clone(), self.cost);
        self.aside(move |passphrase| {
            let wrap = passphrase_key(passphrase, &salt, argon2id)?;
            let sealed = wrap_vault_key(&wrap, b"passphrase", vault, &key);
            Ok(Slot(KeySlot::Known(KnownSlot::Passphrase { salt, argon2id, sealed })))
        })
        .await
    }
}

/// A recovery key.
pub struct RecoveryProvider {
    recovery: RecoveryKey,
    chance: Mutex<Box<dyn Chance + Send>>,
}

impl RecoveryProvider {
    /// With chance for salts.
    pub fn new(recovery: RecoveryKey, chance: Box<dyn Chance + Send>) -> Self {
        Self { recovery, chance: Mutex::new(chance) }
    }
}

#[async_trait]
impl KeySource for RecoveryProvider {
    fn name(&self) -> String {
        "a recovery key".into()
    }

    async fn find(&self, vault: VaultId, slots: &[Slot]) -> Result<VaultKey, ProviderError> {
        let key = slots.iter().find_map(|Slot(slot)| match slot {
            KeySlot::Known(KnownSlot::Recovery { salt, sealed }) => {
                unwrap_vault_key(&recovery_key(&self.recovery, salt), b"recovery", vault, sealed)
            }
            _ => None,
        });
        Ok(key.ok_or(KeysError::WrongRecoveryKey)?)
    }
}

#[async_trait]
impl KeyProvider for RecoveryProvider {
    async fn wrap(&self, vault: VaultId, key: &VaultKey) -> Result<Slot, ProviderError> {
        let salt = Salt::draw(&mut **self.chance.lock());
        let sealed = wrap_vault_key(&recovery_key(&self.recovery, &salt), b"recovery", vault, key);
        Ok(Slot(KeySlot::Known(KnownSlot::Recovery { salt, sealed })))
    }
}

#[cfg(test)]
mod tests;
