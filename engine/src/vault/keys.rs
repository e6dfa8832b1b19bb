//! The key object: the vault's identity and its key slots, as generations `keys/<n>`. Each slot holds the vault key
//! wrapped for somebody who may open the vault. A changed object is a new generation; the old one goes only after the
//! new one was read back.
//!
//! ```text
//!   0 magic "FARSHKEY" | 8 version u16 | 10 zero u16 | 12 body_bytes u32 | 16 salt 16
//!   32 body: JSON (vault, generation, created_at, slots)
//!      mac 32     BLAKE3 keyed by HKDF(vault key, salt, "farshore/1 keys") over all before
//!      crc u32    over all before
//!
//!   slot := passphrase  Argon2id(passphrase, salt, memory, passes, lanes) ─┐
//!         | recovery    HKDF(recovery key, salt, "farshore/1 recovery")    ├─ AES-256-GCM(vault key), nonce 0,
//!         | wrapped     by a key management service (see [`provider`])
//!         | unknown     kept as it is, for a newer program                 ┘  associated data = kind | vault id
//!
//!   previous (version 2 only, while the vault key is being rotated): { salt, sealed }: the key before, in
//!         AES-256-GCM under HKDF(vault key, salt, "farshore/1 previous"), nonce 0, associated data = "previous" | vault id
//! ```
//!
//! An object is of version 2 exactly while it holds the previous key, so that a program that would not look for it
//! refuses the vault instead of calling half of it damaged (see [`rotate`]).
//!
//! The body cannot be trusted before a slot gave the vault key, so what Argon2id is asked to do is bounded first; then
//! the MAC tells whether anything was changed. A wrong passphrase is told apart from a damaged object by the CRC.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::crypto::{KEY_BYTES, SealKey, VaultKey, derive};
use crate::codec::{Malformed, Put, Take};
use crate::ids::{Chance, Salt, Timestamp, VaultId};

pub mod change;
pub mod provider;
mod recovery;
pub mod rotate;

pub use recovery::{BadRecoveryKey, RecoveryKey};

/// Version of the key object, and of the vault's format as a whole.
pub const KEYS_VERSION: u16 = 1;
/// Version of a key object that holds the previous vault key as well.
pub const KEYS_VERSION_ROTATING: u16 = 2;
const MAGIC: [u8; 8] = *b"FARSHKEY";
/// Associated data of the previous key.
const PREVIOUS: &[u8] = b"previous";
const HEAD_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
/// Most bytes of a body. Chosen: hundreds of slots.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Shortest passphrase, in characters. Chosen: Argon2id makes guessing slow, not impossible.
pub const PASSPHRASE_CHARS_MIN: usize = 8;

/// What Argon2id is to spend on one guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassphraseCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// RFC 9106, second recommended option but for one lane (we compute lanes one after the other): about 0.15 s.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 1 };
    /// For tests: the least that Argon2id takes.
    pub const LEAST: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// Bounds what an object that is not authenticated yet may make this program do.
    fn check(&self) -> Result<(), KeysError> {
        let bounded = self.memory_kib <= 1 << 20 && self.passes <= 16 && self.lanes <= 16;
        bounded.then_some(()).ok_or(KeysError::Cost)
    }
}

/// One way to the vault key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum KeySlot {
    Known(KnownSlot),
    /// Of a kind that this program does not know.
    Unknown(serde_json::Value),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum KnownSlot {
    Passphrase { salt: Salt, argon2id: PassphraseCost, sealed: String },
    Recovery { salt: Salt, sealed: String },
    Wrapped { provider: String, key: String, sealed: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    vault: VaultId,
    generation: u64,
    created_at: Timestamp,
    slots: Vec<KeySlot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<PreviousKey>,
}

/// The vault key before this one, under this one: what is not re-wrapped yet opens with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviousKey {
    salt: Salt,
    sealed: String,
}

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// A passphrase.
    Passphrase,
    /// A recovery key.
    Recovery,
    /// What a key management service wrapped.
    Wrapped,
    /// Something that a newer program knows.
    Unknown,
}

/// Why the vault stays locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The object is damaged, or no key object.
    #[error("the vault's key object cannot be read: {0}; restore it from a copy of the vault")]
    Malformed(#[from] Malformed),
    /// No slot opens with this passphrase.
    #[error("this passphrase does not open the vault")]
    WrongPassphrase,
    /// No slot opens with this recovery key.
    #[error("this recovery key does not open the vault: it belongs to another vault, or was replaced")]
    WrongRecoveryKey,
    /// The vault key is not this vault's, or the object was changed by someone without it.
    #[error("this key is not vault {vault}'s, or the vault's key object was changed by someone who does not have it")]
    NotAuthentic {
        /// The vault, as the object says.
        vault: VaultId,
    },
    /// Nothing to open with a passphrase.
    #[error("the vault has no passphrase: open it with its key file or the recovery key")]
    NoPassphrase,
    /// A slot that is not there.
    #[error("the vault has no key slot {slot}: 'farshore vault key ls' shows those it has")]
    NoSuchSlot {
        /// Its number.
        slot: usize,
    },
    /// A passphrase that is too easy.
    #[error("the passphrase is too short: it needs at least {PASSPHRASE_CHARS_MIN} characters")]
    PassphraseTooShort,
    /// Argon2id would be asked for more than is sensible.
    #[error(
        "the key object asks for more work than any vault does: it was changed; restore it from a copy of the vault"
    )]
    Cost,
}

/// The key object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyObject {
    body: Body,
}

/// A key object whose seal has not been checked yet: it can only be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedKeys {
    body: Body,
    salt: Salt,
    authenticated: Bytes,
    mac: [u8; MAC_BYTES],
}

impl KeyObject {
    /// The first key object of a vault, without slots.
    pub fn new(vault: VaultId, created_at: Timestamp) -> Self {
        Self { body: Body { vault, generation: 1, created_at, slots: Vec::new(), previous: None } }
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.body.vault
    }

    /// Which `keys/<n>` this is.
    pub fn generation(&self) -> u64 {
        self.body.generation
    }

    /// When the vault was made.
    pub fn created_at(&self) -> Timestamp {
        self.body.created_at
    }

    /// This object as the generation after it, to be changed and written.
    #[must_use]
    pub fn next_generation(mut self) -> Self {
        self.body.generation += 1;
        self
    }

    /// The generation after this one under the vault key `next`: without slots, and with `key` for what is not
    /// re-wrapped yet.
    #[must_use]
    pub fn rotated(self, key: &VaultKey, next: &VaultKey, chance: &mut dyn Chance) -> Self {
        let salt = Salt::draw(chance);
        let sealed = wrap_vault_key(&next.previous_key(&salt), PREVIOUS, self.body.vault, key);
        let mut rotated = self.next_generation();
        rotated.body.slots.clear();
        rotated.body.previous = Some(PreviousKey { salt, sealed });
        rotated
    }

    /// The vault key before `key`, while the vault is being rotated from it.
    pub fn previous(&self, key: &VaultKey) -> Option<VaultKey> {
        let previous = self.body.previous.as_ref()?;
        unwrap_vault_key(&key.previous_key(&previous.salt), PREVIOUS, self.body.vault, &previous.sealed)
    }

    /// Forgets the previous key, when nothing needs it any more.
    pub fn forget_previous(&mut self) {
        self.body.previous = None;
    }

    /// Adds a passphrase. Takes as long as `cost` says: not for an actor's thread.
    pub fn add_passphrase(
        &mut self,
        key: &VaultKey,
        passphrase: &str,
        cost: PassphraseCost,
        chance: &mut dyn Chance,
    ) -> Result<(), KeysError> {
        if passphrase.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(KeysError::PassphraseTooShort);
        }
        let salt = Salt::draw(chance);
        let wrap = passphrase_key(passphrase, &salt, cost)?;
        let sealed = wrap_vault_key(&wrap, b"passphrase", self.body.vault, key);
        self.body.slots.push(KeySlot::Known(KnownSlot::Passphrase { salt, argon2id: cost, sealed }));
        Ok(())
    }

    /// Adds a recovery key, which is then to be shown once.
    pub fn add_recovery(&mut self, key: &VaultKey, recovery: &RecoveryKey, chance: &mut dyn Chance) {
        let salt = Salt::draw(chance);
        let wrap = recovery_key(recovery, &salt);
        let sealed = wrap_vault_key(&wrap, b"recovery", self.body.vault, key);
        self.body.slots.push(KeySlot::Known(KnownSlot::Recovery { salt, sealed }));
    }

    /// The slots, in order.
    pub fn slots(&self) -> impl Iterator<Item = SlotKind> + '_ {
        self.body.slots.iter().map(|slot| match slot {
            KeySlot::Known(KnownSlot::Passphrase { .. }) => SlotKind::Passphrase,
            KeySlot::Known(KnownSlot::Recovery { .. }) => SlotKind::Recovery,
            KeySlot::Known(KnownSlot::Wrapped { .. }) => SlotKind::Wrapped,
            KeySlot::Unknown(_) => SlotKind::Unknown,
        })
    }

    /// Takes a slot away. What it opened is opened by the others, and by the vault key itself.
    pub fn remove_slot(&mut self, slot: usize) -> Result<SlotKind, KeysError> {
        let kind = self.slots().nth(slot).ok_or(KeysError::NoSuchSlot { slot })?;
        self.body.slots.remove(slot);
        Ok(kind)
    }

    /// Takes away every recovery key, before a new one is added.
    pub fn remove_recovery(&mut self) {
        self.body.slots.retain(|slot| !matches!(slot, KeySlot::Known(KnownSlot::Recovery { .. })));
    }

    /// Takes away every passphrase, before a new one is added.
    pub fn remove_passphrases(&mut self) {
        self.body.slots.retain(|slot| !matches!(slot, KeySlot::Known(KnownSlot::Passphrase { .. })));
    }

    /// Lays the object out, authenticated by the vault key.
    pub fn seal(&self, key: &VaultKey, chance: &mut dyn Chance) -> Bytes {
        let body = serde_json::to_vec(&self.body).expect("slots are plain data");
        let salt = Salt::draw(chance);
        let mut out = Put::with_capacity(HEAD_BYTES + body.len() + MAC_BYTES + 4);
        let version = if self.body.previous.is_some() { KEYS_VERSION_ROTATING } else { KEYS_VERSION };
        out.slice(&MAGIC).u16(version).u16(0).count(body.len()).slice(&salt.0).slice(&body);
        let mac = key.authenticate_keys(&salt, out.as_slice());
        out.slice(mac.as_bytes());
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        out.into_bytes()
    }

    /// Reads a key object. What it says counts only after one of the `open` calls.
    pub fn parse(bytes: &Bytes) -> Result<LockedKeys, KeysError> {
        const WHAT: &str = "key object";
        let mut input = Take::new(bytes);
        if input.array(WHAT)? != MAGIC {
            return Err(Malformed::Value { what: WHAT, value: u64::from(bytes[0]) }.into());
        }
        let version = input.u16(WHAT)?;
        if !matches!(version, KEYS_VERSION | KEYS_VERSION_ROTATING) {
            return Err(Malformed::Version { what: WHAT, version, newest: KEYS_VERSION_ROTATING }.into());
        }
        if bytes.len() < HEAD_BYTES + MAC_BYTES + 4 {
            return Err(Malformed::Short { what: WHAT }.into());
        }
        let (front, crc) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(front).to_le_bytes() != crc {
            return Err(Malformed::Checksum { what: WHAT }.into());
        }
        let zero = input.u16(WHAT)?;
        let body_bytes = input.u32(WHAT)? as usize;
        if zero != 0 || body_bytes > BODY_BYTES_MAX {
            return Err(Malformed::Value { what: WHAT, value: body_bytes as u64 }.into());
        }
        let salt = Salt(input.array(WHAT)?);
        let body = input.bytes(body_bytes, WHAT)?;
        let mac = input.array(WHAT)?;
        input.u32(WHAT)?;
        input.end(WHAT)?;
        let body: Body = serde_json::from_slice(body).map_err(|_| Malformed::Value { what: WHAT, value: 0 })?;
        if body.previous.is_some() != (version == KEYS_VERSION_ROTATING) {
            return Err(Malformed::Value { what: WHAT, value: version.into() }.into());
        }
        Ok(LockedKeys { body, salt, authenticated: bytes.slice(..HEAD_BYTES + body_bytes), mac })
    }
}

impl LockedKeys {
    /// The vault, as the object says.
    pub fn vault(&self) -> VaultId {
        self.body.vault
    }

    /// Which `keys/<n>` the object says it is; the caller compares it with the name it read.
    pub fn generation(&self) -> u64 {
        self.body.generation
    }

    /// Opens with the vault key itself, from a key file.
    pub fn open(self, key: &VaultKey) -> Result<KeyObject, KeysError> {
        // blake3's comparison takes the same time wherever the difference is.
        if key.authenticate_keys(&self.salt, &self.authenticated) != blake3::Hash::from_bytes(self.mac) {
            return Err(KeysError::NotAuthentic { vault: self.body.vault });
        }
        Ok(KeyObject { body: self.body })
    }

    /// Opens with a passphrase. Takes as long as the slots' costs say: not for an actor's thread.
    pub fn open_with_passphrase(self, passphrase: &str) -> Result<(KeyObject, VaultKey), KeysError> {
        let mut error = KeysError::NoPassphrase;
        for slot in &self.body.slots {
            let KeySlot::Known(KnownSlot::Passphrase { salt, argon2id, sealed }) = slot else { continue };
            error = KeysError::WrongPassphrase;
            let wrap = passphrase_key(passphrase, salt, *argon2id)?;
            if let Some(key) = unwrap_vault_key(&wrap, b"passphrase", self.body.vault, sealed) {
                return Ok((self.open(&key)?, key));
            }
        }
        Err(error)
    }

    /// Opens with the recovery key.
    pub fn open_with_recovery(self, recovery: &RecoveryKey) -> Result<(KeyObject, VaultKey), KeysError> {
        let key = self.body.slots.iter().find_map(|slot| match slot {
            KeySlot::Known(KnownSlot::Recovery { salt, sealed }) => {
                unwrap_vault_key(&recovery_key(recovery, salt), b"recovery", self.body.vault, sealed)
            }
            _ => None,
        });
        let key = key.ok_or(KeysError::WrongRecoveryKey)?;
        Ok((self.open(&key)?, key))
    }
}

fn passphrase_key(passphrase: &str, salt: &Salt, cost: PassphraseCost) -> Result<SealKey, KeysError> {
    cost.check()?;
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES));
    let argon =
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params.map_err(|_| KeysError::Cost)?);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    argon.hash_password_into(passphrase.as_bytes(), &salt.0, &mut *key).map_err(|_| KeysError::Cost)?;
    Ok(SealKey::new(&key))
}

fn recovery_key(recovery: &RecoveryKey, salt: &Salt) -> SealKey {
    SealKey::new(&derive(recovery.as_bytes(), Some(salt), "farshore/1 recovery"))
}

fn wrap_vault_key(wrap: &SealKey, kind: &[u8], vault: VaultId, key: &VaultKey) -> String {
    let mut sealed = BytesMut::from(&key.as_bytes()[..]);
    wrap.seal_in_place(0, &[kind, &vault.0].concat(), &mut sealed);
    hex(&sealed)
}

fn unwrap_vault_key(wrap: &SealKey, kind: &[u8], vault: VaultId, sealed: &str) -> Option<VaultKey> {
    let key = wrap.open(0, &[kind, &vault.0].concat(), &unhex(sealed)?, "key slot").ok().map(Zeroizing::new)?;
    key.as_slice().try_into().ok().map(VaultKey::from_bytes)
}

/// What a key file holds: 64 hexadecimal digits and a line's end.
pub fn print_key_file(key: &VaultKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES * 2 + 1));
    key.as_bytes().iter().for_each(|byte| push_hex(&mut text, *byte));
    text.push('\n');
    text
}

/// Why a key file holds no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the vault key file does not hold a key: expected one line of 64 hexadecimal digits")]
pub struct BadKeyFile;

/// Reads what [`print_key_file`] gave.
pub fn parse_key_file(text: &str) -> Result<VaultKey, BadKeyFile> {
    let bytes = Zeroizing::new(unhex(text.trim_ascii()).ok_or(BadKeyFile)?);
    bytes.as_slice().try_into().map(VaultKey::from_bytes).map_err(|_| BadKeyFile)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    bytes.iter().for_each(|byte| push_hex(&mut text, *byte));
    text
}

fn push_hex(text: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from_digit(digit.into(), 16).expect("four bits"));
    }
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    rest.is_empty().then_some(())?;
    pairs.iter().map(|[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8)).collect()
}

#[cfg(test)]
mod tests;
