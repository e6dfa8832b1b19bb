//! The envelope of the small sealed objects: machine descriptions, manifests, snapshots of the configuration server's
//! state. Their bodies are JSON, so that a later version can add to them; around it lies this:
//!
//! ```text
//!   0 magic "FARSHOBJ" | 8 version u16 | 10 kind u8 (1 about, 2 manifest, 3 catalog) | 11 codec u8 (0 raw, 1 snappy)
//!   12 plain_bytes u32 | 16 salt 16 | 32 sealed_bytes u32 | 36 crc u32 over bytes 0..36 and the sealed bytes
//!   40 sealed bytes
//! ```
//!
//! The seal's key comes from the salt; its nonce is 0; associated data = bytes 0..36 and the object's name. A body
//! under another's name, even of the same kind and key, does not open.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::crypto::{OpenError, SealKey, TAG_BYTES};
use super::layout::ObjectName;
use super::segment::Codec;
use super::segment::LogVersion;
use super::segment::packing::{Packing, unpack, with_packed};
use crate::codec::{Malformed, Put, Take};
use crate::ids::{Chance, Salt};

/// Version of the envelope and of the bodies in it.
pub const ENVELOPE_VERSION: u16 = 1;
/// Most plaintext of a body, in bytes. Chosen: far above any manifest or catalog; bounds what a reader reserves.
pub const BODY_BYTES_MAX: usize = 64 << 20;
const MAGIC: [u8; 8] = *b"FARSHOBJ";
const HEAD_BYTES: usize = 40;
const AUTHENTICATED_BYTES: usize = 36;
const NONCE: u64 = 0;

/// What lies in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnvelopeKind {
    /// A machine's description.
    About,
    /// A timeline's manifest.
    Manifest,
    /// A snapshot of the configuration server's state.
    Catalog,
}

impl EnvelopeKind {
    fn code(self) -> u8 {
        match self {
            Self::About => 1,
            Self::Manifest => 2,
            Self::Catalog => 3,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::About => "machine description",
            Self::Manifest => "manifest",
            Self::Catalog => "catalog",
        }
    }
}

/// Seals `body` for the object `name`; `key` derives the key from the salt that is drawn here.
///
/// # Panics
/// Where the body is larger than [`BODY_BYTES_MAX`]: its owner bounds it.
pub fn seal<T: Serialize>(
    kind: EnvelopeKind,
    name: &ObjectName,
    body: &T,
    key: impl FnOnce(&Salt) -> SealKey,
    chance: &mut dyn Chance,
) -> Bytes {
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(body).expect("bodies are plain data"));
    assert!(plain.len() <= BODY_BYTES_MAX, "a body is bounded");
    let salt = Salt::draw(chance);
    with_packed(Packing::Snappy, &plain, |codec, packed| {
        let mut out = Put::with_capacity(HEAD_BYTES + packed.len() + TAG_BYTES);
        out.slice(&MAGIC).u16(ENVELOPE_VERSION).u8(kind.code()).u8(codec.code()).count(plain.len());
        out.slice(&salt.0).count(packed.len() + TAG_BYTES).u32(0).slice(packed);
        let mut out = BytesMut::from(out.as_slice());
        let aad = [&out[..AUTHENTICATED_BYTES], name.as_str().as_bytes()].concat();
        let tag = key(&salt).seal_detached(NONCE, &aad, &mut out[HEAD_BYTES..]);
        out.put_slice(&tag);
        let crc = crc(&out);
        out[AUTHENTICATED_BYTES..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    })
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..AUTHENTICATED_BYTES]);
    crc.update(&bytes[HEAD_BYTES..]);
    crc.finalize()
}

/// Checks magic, version, kind, lengths and CRC: all that can be checked without a key.
pub fn check(kind: EnvelopeKind, bytes: &[u8]) -> Result<(), Malformed> {
    head(kind, bytes).map(|_| ())
}

fn head(kind: EnvelopeKind, bytes: &[u8]) -> Result<(Codec, usize, Salt), Malformed> {
    let what = kind.what();
    let mut input = Take::new(bytes);
    if input.array(what)? != MAGIC {
        return Err(Malformed::Value { what, value: u64::from(bytes[0]) });
    }
    match input.u16(what)? {
        ENVELOPE_VERSION => {}
        version => return Err(Malformed::Version { what, version, newest: ENVELOPE_VERSION }),
    }
    match input.u8(what)? {
        code if code == kind.code() => {}
        other => return Err(Malformed::Value { what: "sealed object's kind", value: other.into() }),
    }
    let codec = Codec::from_code(input.u8(what)?)?;
    codec.check_within(LogVersion::V1)?;
    let plain_bytes = input.u32(what)? as usize;
    let salt = Salt(input.array(what)?);
    let sealed_bytes = input.u32(what)? as usize;
    let found = input.u32(what)?;
    if sealed_bytes != input.rest().len() {
        return Err(Malformed::Short { what });
    }
    if crc(bytes) != found {
        return Err(Malformed::Checksum { what });
    }
    if plain_bytes > BODY_BYTES_MAX {
        return Err(Malformed::Value { what, value: plain_bytes as u64 });
    }
    Ok((codec, plain_bytes, salt))
}

/// Opens what [`seal`] made for the object `name`.
pub fn open<T: DeserializeOwned>(
    kind: EnvelopeKind,
    name: &ObjectName,
    bytes: &[u8],
    key: impl FnOnce(&Salt) -> SealKey,
) -> Result<T, OpenError> {
    let what = kind.what();
    let (codec, plain_bytes, salt) = head(kind, bytes)?;
    let aad = [&bytes[..AUTHENTICATED_BYTES], name.as_str().as_bytes()].concat();
    let body = key(&salt).open(NONCE, &aad, &bytes[HEAD_BYTES..], what)?;
    let plain = unpack(codec, plain_bytes, body, what)?;
    serde_json::from_slice(&plain).map_err(|error| OpenError::Body { what, cause: error.to_string() })
}
