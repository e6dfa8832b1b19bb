//! The file that says whose a machine's cache directory is. Layout:
//!
//! ```text
//!   0 magic "FARSHOWN" | 8 version u16 | 10 zero 6 | 16 epoch u64 | 24 writer 16 | 40 zero 20
//!   60 crc u32 over bytes 0..60
//! ```

use bytes::Bytes;

use crate::codec::{Put, Take};
use crate::ids::{Epoch, WriterId};
use crate::log::Owner;

/// How long the file is, in bytes.
pub const OWNER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"FARSHOWN";
const VERSION: u16 = 1;

/// Lays it out.
pub(super) fn encode(owner: Owner) -> Bytes {
    let mut out = Put::with_capacity(OWNER_BYTES);
    out.slice(MAGIC).u16(VERSION).slice(&[0; 6]).u64(owner.epoch.0).slice(&owner.writer.0).slice(&[0; 20]);
    let crc = crc32fast::hash(out.as_slice());
    out.u32(crc);
    out.into_bytes()
}

/// Reads it; `None` where it is no owner file of a known version.
pub(super) fn decode(bytes: &[u8]) -> Option<Owner> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if bytes.len() != OWNER_BYTES || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut input = Take::new(body);
    let known = input.array("owner magic").ok()? == *MAGIC
        && input.u16("owner version").ok()? == VERSION
        && input.array("owner").ok()? == [0; 6];
    let epoch = Epoch(input.u64("owner epoch").ok()?);
    let writer = WriterId(input.array("owner writer").ok()?);
    let known = known && input.rest() == [0; 20];
    known.then_some(Owner { epoch, writer })
}
