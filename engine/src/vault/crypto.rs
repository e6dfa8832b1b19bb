//! Keys and the sealing of bytes: HKDF-SHA-256 derives, AES-256-GCM seals.
//!
//! ```text
//!   vault key ─┬ "farshore/1 keys"      authenticates keys/<n>
//!              ├ "farshore/1 about"     seals about/<n>
//!              ├ "farshore/1 data-key"  wraps a machine's data key inside its about
//!              └ "farshore/1 catalog"   seals catalog/<n>
//!   data key  ─┬ "farshore/1 digest"    (no salt) keyed BLAKE3 of write pieces
//!              ├ "farshore/1 frames"    items of one segment; nonce = item number
//!              ├ "farshore/1 footer"    one footer; nonce 0 = top, 1.. = index pages
//!              └ "farshore/1 manifest"  one version of a manifest
//! ```
//!
//! The one rule that everything rests on: **no nonce is used twice under one key**. A key is derived from a salt that
//! is drawn afresh whenever something else is sealed, and under one salt each number is given out once. Keys wipe
//! themselves when dropped, and no key prints.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use bytes::BytesMut;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::codec::Malformed;
use crate::digest::DigestKey;
use crate::ids::{Chance, Salt};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// What a seal adds to the bytes it covers.
pub const TAG_BYTES: usize = 16;

/// Why sealed bytes do not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes around the seal are not what the format allows.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The tag does not match.
    #[error(
        "the seal of {what} does not hold: its bytes were changed, it lies in the wrong place, or the key is not its own"
    )]
    Seal {
        /// What was being opened.
        what: &'static str,
    },
    /// The seal holds, but what is in it is of no version that this program knows.
    #[error("{what} is sound but cannot be read ({cause}): it was written by a newer program; upgrade this one")]
    Body {
        /// What was being opened.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
}

/// The key of a vault. All else is sealed under keys derived from it, or wrapped by one.
#[derive(Clone)]
pub struct VaultKey(Zeroizing<[u8; KEY_BYTES]>);

/// The key of one machine's replica.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultKey(..)")
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// HKDF-SHA-256 of `key` with `salt` for one purpose.
pub(super) fn derive(key: &[u8], salt: Option<&Salt>, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut out = Zeroizing::new([0; KEY_BYTES]);
    Hkdf::<Sha256>::new(salt.map(|salt| &salt.0[..]), key)
        .expand(purpose.as_bytes(), &mut *out)
        .expect("32 bytes are within what HKDF gives");
    out
}

fn draw_key(chance: &mut dyn Chance) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    chance.fill(&mut *key);
    key
}

impl VaultKey {
    /// A fresh key.
    pub fn draw(chance: &mut dyn Chance) -> Self {
        Self(draw_key(chance))
    }

    /// A key that was kept elsewhere; `bytes` are wiped.
    pub fn from_bytes(mut bytes: [u8; KEY_BYTES]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// The key itself, for wrapping it and for the key file.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Authenticates `body` of a key object: a BLAKE3 keyed for this salt.
    pub fn authenticate_keys(&self, salt: &Salt, body: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&derive(&*self.0, Some(salt), "farshore/1 keys"), body)
    }

    /// Seals one generation of a machine's description.
    pub fn about_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 about"))
    }

    /// Wraps one machine's data key.
    pub fn wrap_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 data-key"))
    }

    /// Wraps the vault key before this one, while the vault is being rotated.
    pub fn previous_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 previous"))
    }

    /// Seals one snapshot of the configuration server's state.
    pub fn catalog_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 catalog"))
    }
}

impl DataKey {
    /// A fresh key.
    pub fn draw(chance: &mut dyn Chance) -> Self {
        Self(draw_key(chance))
    }

    /// A key handed over by its owner; `bytes` are wiped.
    pub fn from_bytes(mut bytes: [u8; KEY_BYTES]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// The key itself, for handing it over.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key of the digests of write pieces; the same for the machine's whole life.
    pub fn digest_key(&self) -> DigestKey {
        DigestKey::new(*derive(&*self.0, None, "farshore/1 digest"))
    }

    /// Seals the items of the segment with this salt.
    pub fn frame_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 frames"))
    }

    /// Seals one footer.
    pub fn footer_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 footer"))
    }

    /// Seals one version of a manifest.
    pub fn manifest_key(&self, salt: &Salt) -> SealKey {
        SealKey::new(&derive(&*self.0, Some(salt), "farshore/1 manifest"))
    }
}

/// A derived key, ready to seal. Clones share it.
#[derive(Clone)]
pub struct SealKey(Arc<Aes256Gcm>);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// 4 zero bytes, then the number, little-endian.
fn nonce(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes.into()
}

impl SealKey {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(Arc::new(Aes256Gcm::new(key.into())))
    }

    /// Seals `body` where it lies and gives the tag. `number` must never have been used with this key.
    pub fn seal_detached(&self, number: u64, aad: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self.0.encrypt_inout_detached(&nonce(number), aad, body.into());
        tag.expect("what is sealed is far below 64 GiB").into()
    }

    /// Seals `buf` where it lies and appends the tag. `number` must never have been used with this key.
    pub fn seal_in_place(&self, number: u64, aad: &[u8], buf: &mut BytesMut) {
        let tag = self.seal_detached(number, aad, buf);
        buf.extend_from_slice(&tag);
    }

    /// Opens ciphertext and tag.
    pub fn open(&self, number: u64, aad: &[u8], sealed: &[u8], what: &'static str) -> Result<Vec<u8>, OpenError> {
        let (body, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Seal { what })?;
        let mut body = body.to_vec();
        self.0
            .decrypt_inout_detached(&nonce(number), aad, body.as_mut_slice().into(), &Tag::from(*tag))
            .map_err(|_| OpenError::Seal { what })?;
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_only_with_their_key_number_and_associated_data() {
        let key = DataKey::from_bytes([1; 32]);
        let seal = key.frame_key(&Salt([2; 16]));
        let mut sealed = BytesMut::from(&b"some bytes"[..]);
        seal.seal_in_place(7, b"place", &mut sealed);
        assert_eq!(sealed.len(), 10 + TAG_BYTES);
        assert_eq!(seal.open(7, b"place", &sealed, "bytes").as_deref(), Ok(&b"some bytes"[..]));
        let refused = Err(OpenError::Seal { what: "bytes" });
        assert_eq!(seal.open(8, b"place", &sealed, "bytes"), refused);
        assert_eq!(seal.open(7, b"plaice", &sealed, "bytes"), refused);
        assert_eq!(key.frame_key(&Salt([3; 16])).open(7, b"place", &sealed, "bytes"), refused);
        assert_eq!(key.footer_key(&Salt([2; 16])).open(7, b"place", &sealed, "bytes"), refused);
        assert_eq!(seal.open(7, b"place", &sealed[..12], "bytes"), refused);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(7, b"place", &damaged, "bytes"), refused, "bit {bit}");
        }
    }

    #[test]
    fn no_key_prints() {
        let key = DataKey::from_bytes([0xab; 32]);
        let printed = format!("{key:?} {:?} {:?}", VaultKey::from_bytes([0xab; 32]), key.frame_key(&Salt([0; 16])));
        assert_eq!(printed, "DataKey(..) VaultKey(..) SealKey(..)");
    }
}
