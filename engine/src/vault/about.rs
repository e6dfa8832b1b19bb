//! A machine's description: what a stranger with the vault key needs in order to bring the machine back. Sealed under
//! the vault key as generations `about/<n>`; the highest counts, and an older one is deleted only after the newer was
//! read back.
//!
//! It holds the machine's data key, wrapped once more, so that a description can be shown and passed on without
//! giving the key away.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::crypto::{DataKey, KEY_BYTES, OpenError, VaultKey};
use super::envelope::{self, EnvelopeKind};
use super::layout::ObjectName;
use crate::ids::{Chance, MachineId, Salt, TimelineId, Timestamp};
use crate::record::DiskInfo;
use bytes::BytesMut;
use zeroize::Zeroizing;

/// A machine's data key under the vault key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// What the wrapping key was derived with.
    pub salt: Salt,
    /// Key and tag, in hexadecimal digits.
    pub sealed: String,
}

impl WrappedKey {
    /// Wraps a machine's data key; it opens for that machine only.
    pub fn wrap(vault_key: &VaultKey, machine: MachineId, data_key: &DataKey, chance: &mut dyn Chance) -> Self {
        let salt = Salt::draw(chance);
        let mut sealed = BytesMut::from(&data_key.as_bytes()[..]);
        vault_key.wrap_key(&salt).seal_in_place(0, &machine.0, &mut sealed);
        Self { salt, sealed: super::keys::hex(&sealed) }
    }

    /// Unwraps the data key.
    pub fn unwrap(&self, vault_key: &VaultKey, machine: MachineId) -> Result<DataKey, OpenError> {
        let what = "wrapped data key";
        let sealed = super::keys::unhex(&self.sealed).ok_or(OpenError::Seal { what })?;
        let key = Zeroizing::new(vault_key.wrap_key(&self.salt).open(0, &machine.0, &sealed, what)?);
        let key = key.first_chunk::<KEY_BYTES>().filter(|_| key.len() == KEY_BYTES).ok_or(OpenError::Seal { what })?;
        Ok(DataKey::from_bytes(*key))
    }
}

/// One history of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineInfo {
    /// Its name in the vault.
    pub id: TimelineId,
    /// The timeline it left, if it did.
    pub parent: Option<TimelineId>,
    /// When it began.
    pub created_at: Timestamp,
}

/// A machine's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The machine.
    pub machine: MachineId,
    /// Its name, the operator's.
    pub name: String,
    /// Its disks, as of this generation; the log knows better.
    pub disks: Vec<DiskInfo>,
    /// Its histories, oldest first. The last is the one that is written.
    pub timelines: Vec<TimelineInfo>,
    /// What else is needed to build it again: firmware, processors, memory, networks, as the agent told it.
    #[serde(default)]
    pub hardware: BTreeMap<String, String>,
    /// Its data key.
    pub data_key: WrappedKey,
}

impl About {
    /// Unwraps the machine's data key.
    pub fn unwrap_data_key(&self, vault_key: &VaultKey) -> Result<DataKey, OpenError> {
        self.data_key.unwrap(vault_key, self.machine)
    }

    /// Seals this as a generation of the machine's description: the object's name and bytes.
    pub fn seal(&self, generation: u64, key: &VaultKey, chance: &mut dyn Chance) -> (ObjectName, Bytes) {
        let name = ObjectName::about(self.machine, generation);
        let bytes = envelope::seal(EnvelopeKind::About, &name, self, |salt| key.about_key(salt), chance);
        (name, bytes)
    }

    /// Opens the generation that lies under this machine's name.
    pub fn open(machine: MachineId, generation: u64, bytes: &[u8], key: &VaultKey) -> Result<Self, OpenError> {
        let name = ObjectName::about(machine, generation);
        envelope::open(EnvelopeKind::About, &name, bytes, |salt| key.about_key(salt))
    }
}
