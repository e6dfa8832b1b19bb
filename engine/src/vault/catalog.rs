//! Snapshots of the configuration server's state, sealed into the vault: with the vault and its key an installation
//! whose configuration server is lost is brought back, on any address (I11).
//!
//! Generations `catalog/<n>`; the highest that opens counts, and an older one is deleted only after the newer was read
//! back. A snapshot holds the certificate authority's key, so members that were enrolled before go on being members.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::crypto::{OpenError, VaultKey};
use super::envelope::{self, EnvelopeKind};
use super::layout::ObjectName;
use crate::ids::{Chance, Timestamp, VaultId};

/// What a configuration server needs in order to be itself again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The vault it belongs to.
    pub vault: VaultId,
    /// When the snapshot was taken.
    pub created_at: Timestamp,
    /// The authority's certificate, PEM.
    pub authority_pem: String,
    /// The authority's private key, PEM.
    #[serde(with = "secret_text")]
    pub authority_key_pem: Zeroizing<String>,
    /// Every record of the state, by its key. Records are JSON, kept here as their text.
    pub records: BTreeMap<String, String>,
}

/// A text that is wiped when it is let go of.
mod secret_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("vault", &self.vault)
            .field("created_at", &self.created_at)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Seals this as a generation of the catalog: the object's name and bytes.
    pub fn seal(&self, generation: u64, key: &VaultKey, chance: &mut dyn Chance) -> (ObjectName, Bytes) {
        let name = ObjectName::catalog(generation);
        let bytes = envelope::seal(EnvelopeKind::Catalog, &name, self, |salt| key.catalog_key(salt), chance);
        (name, bytes)
    }

    /// Opens the generation that lies under its name.
    pub fn open(generation: u64, bytes: &[u8], key: &VaultKey) -> Result<Self, OpenError> {
        let name = ObjectName::catalog(generation);
        envelope::open(EnvelopeKind::Catalog, &name, bytes, |salt| key.catalog_key(salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::read::test_log::Seeded;

    fn catalog() -> Catalog {
        Catalog {
            vault: VaultId([1; 16]),
            created_at: Timestamp(5),
            authority_pem: "certificate".into(),
            authority_key_pem: Zeroizing::new("secret".into()),
            records: BTreeMap::from([("machine/1".into(), "{\"name\":\"db\"}".into())]),
        }
    }

    #[test]
    fn a_snapshot_opens_under_its_own_name_and_key_alone() {
        let key = VaultKey::from_bytes([7; 32]);
        let (name, bytes) = catalog().seal(3, &key, &mut Seeded::new(1));
        assert_eq!(name, ObjectName::catalog(3));
        assert_eq!(Catalog::open(3, &bytes, &key), Ok(catalog()));
        assert!(Catalog::open(4, &bytes, &key).is_err(), "another generation's name");
        assert!(Catalog::open(3, &bytes, &VaultKey::from_bytes([8; 32])).is_err(), "another key");
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(Catalog::open(3, &bad, &key).is_err(), "byte {at} changed");
        }
    }

    #[test]
    fn what_is_shown_of_a_snapshot_holds_no_key() {
        assert!(!format!("{:?}", catalog()).contains("secret"));
    }
}
