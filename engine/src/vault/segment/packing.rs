//! How plaintext becomes smaller before it is sealed. A policy says with what; each frame says what was done to it, so a
//! policy may change at any time and nothing that lies in a vault is touched.
//!
//! ```text
//!   snappy      0.65 GB/s a core; the default
//!   zstd:1..19  smaller and slower with each level; frames of log objects of version 2 only
//! ```
//!
//! Whatever the policy, what does not become smaller stays as it is. Indexes and tops are always packed with Snappy:
//! they are read first and are small.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

use super::header::LogVersion;
use super::item::Codec;
use crate::codec::Malformed;
use crate::defaults::ZSTD_LEVEL;

/// Levels of zstd that a policy may name. The negative ones are no faster than Snappy; beyond 19 a thread would need
/// hundreds of megabytes.
const ZSTD_LEVELS: std::ops::RangeInclusive<u8> = 1..=19;

/// With what frames are packed from now on: `snappy`, `zstd` or `zstd:<level>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Packing {
    /// Snappy.
    #[default]
    Snappy,
    /// zstd at this level, 1 to 19.
    Zstd(u8),
}

impl Packing {
    /// The version of the log objects that may hold its frames.
    pub fn version(self) -> LogVersion {
        match self {
            Self::Snappy => LogVersion::V1,
            Self::Zstd(_) => LogVersion::V2,
        }
    }

    /// What of it a log object of this version takes: a segment that was begun before the policy changed keeps to what
    /// its version allows.
    #[must_use]
    pub fn within(self, version: LogVersion) -> Self {
        if self.version() <= version { self } else { Self::Snappy }
    }
}

/// A text that names no packing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no codec: say snappy, zstd, or zstd:<level> with a level of 1 to 19")]
pub struct NoPacking(String);

impl FromStr for Packing {
    type Err = NoPacking;

    fn from_str(text: &str) -> Result<Self, NoPacking> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        match (name, level) {
            ("snappy", None) => Ok(Self::Snappy),
            ("zstd", None) => Ok(Self::Zstd(ZSTD_LEVEL)),
            ("zstd", Some(level)) => {
                let level = level.parse().ok().filter(|level| ZSTD_LEVELS.contains(level));
                level.map(Self::Zstd).ok_or_else(|| NoPacking(text.to_owned()))
            }
            _ => Err(NoPacking(text.to_owned())),
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snappy => f.write_str("snappy"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl TryFrom<String> for Packing {
    type Error = NoPacking;

    fn try_from(text: String) -> Result<Self, NoPacking> {
        text.parse()
    }
}

impl From<Packing> for String {
    fn from(packing: Packing) -> Self {
        packing.to_string()
    }
}

/// What a thread keeps between frames, in bytes, at most: room to compress a batch of target size.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// What a thread packs with.
struct Bench {
    snappy: snap::raw::Encoder,
    /// The last level's; making one anew costs more than a small frame.
    zstd: Option<(u8, Compressor<'static>)>,
    room: Vec<u8>,
}

thread_local! {
    /// Compression writes here and only what it gave is copied: the buffer of an item is then exactly its length,
    /// and nothing is zeroed first. Measured: benches/sealing.
    static BENCH: RefCell<Bench> =
        RefCell::new(Bench { snappy: snap::raw::Encoder::new(), zstd: None, room: Vec::new() });
    /// What a thread unpacks zstd with.
    static UNZSTD: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Bench {
    fn pack(&mut self, packing: Packing, plain: &[u8]) -> Option<(Codec, usize)> {
        let most = match packing {
            Packing::Snappy => snap::raw::max_compress_len(plain.len()),
            Packing::Zstd(_) => zstd::zstd_safe::compress_bound(plain.len()),
        };
        if self.room.len() < most {
            self.room.resize(most, 0);
        }
        match packing {
            Packing::Snappy => self.snappy.compress(plain, &mut self.room).ok().map(|len| (Codec::Snappy, len)),
            Packing::Zstd(level) => {
                if self.zstd.as_ref().is_none_or(|(made, _)| *made != level) {
                    self.zstd = Some((level, Compressor::new(level.into()).ok()?));
                }
                let (_, compressor) = self.zstd.as_mut()?;
                compressor.compress_to_buffer(plain, &mut self.room[..]).ok().map(|len| (Codec::Zstd, len))
            }
        }
    }
}

/// Calls `with` with the smaller of `plain` and its packed form.
pub(in crate::vault) fn with_packed<T>(packing: Packing, plain: &[u8], with: impl FnOnce(Codec, &[u8]) -> T) -> T {
    BENCH.with_borrow_mut(|bench| {
        let result = match bench.pack(packing, plain) {
            Some((codec, len)) if len < plain.len() => with(codec, &bench.room[..len]),
            _ => with(Codec::Raw, plain),
        };
        if bench.room.len() > SCRATCH_BYTES_KEPT {
            bench.room.truncate(SCRATCH_BYTES_KEPT);
            bench.room.shrink_to_fit();
        }
        result
    })
}

/// Undoes [`with_packed`]; `plain_bytes` is what an authenticated header says, and all that is reserved.
pub(in crate::vault) fn unpack(
    codec: Codec,
    plain_bytes: usize,
    body: Vec<u8>,
    what: &'static str,
) -> Result<Bytes, Malformed> {
    let wrong = || Malformed::Value { what, value: plain_bytes as u64 };
    let plain = match codec {
        Codec::Raw => body,
        Codec::Snappy => {
            if snap::raw::decompress_len(&body).ok() != Some(plain_bytes) {
                return Err(wrong());
            }
            snap::raw::Decoder::new().decompress_vec(&body).map_err(|_| wrong())?
        }
        Codec::Zstd => unzstd(&body, plain_bytes).ok_or_else(wrong)?,
    };
    if plain.len() != plain_bytes {
        return Err(wrong());
    }
    Ok(plain.into())
}

fn unzstd(body: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    UNZSTD.with_borrow_mut(|unzstd| {
        if unzstd.is_none() {
            *unzstd = Decompressor::new().ok();
        }
        unzstd.as_mut()?.decompress(body, plain_bytes).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(packing: Packing, plain: &[u8]) -> (Codec, Vec<u8>) {
        with_packed(packing, plain, |codec, body| (codec, body.to_vec()))
    }

    #[test]
    fn every_packing_reads_back_and_what_does_not_shrink_stays_raw() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 50).to_le_bytes()).collect();
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for packing in [Packing::Snappy, Packing::Zstd(1), Packing::Zstd(3), Packing::Zstd(19), Packing::Zstd(1)] {
            for plain in [&text[..], &text[..7], &[], &noise] {
                let (codec, body) = packed(packing, plain);
                let shrinks = plain.len() == text.len();
                let wanted = if packing == Packing::Snappy { Codec::Snappy } else { Codec::Zstd };
                assert_eq!(codec, if shrinks { wanted } else { Codec::Raw }, "{packing} {}", plain.len());
                assert_eq!(unpack(codec, plain.len(), body, "test").expect("it reads back"), plain);
            }
        }
        assert!(packed(Packing::Zstd(9), &text).1.len() < packed(Packing::Snappy, &text).1.len());
    }

    #[test]
    fn a_packed_body_that_gives_another_length_than_was_said_is_refused() {
        let plain = vec![7; 100_000];
        for packing in [Packing::Snappy, Packing::Zstd(3)] {
            let (codec, body) = packed(packing, &plain);
            for said in [0, 1, plain.len() - 1, plain.len() + 1, 32 << 20] {
                assert!(unpack(codec, said, body.clone(), "test").is_err(), "{packing} {said}");
            }
            assert!(unpack(codec, plain.len(), body[..body.len() - 1].to_vec(), "test").is_err());
        }
    }

    #[test]
    fn a_packing_is_said_in_a_word_and_nothing_else_is_taken() {
        for (text, packing) in
            [("snappy", Packing::Snappy), ("zstd:1", Packing::Zstd(1)), ("zstd:19", Packing::Zstd(19))]
        {
            assert_eq!(text.parse(), Ok(packing));
            assert_eq!(packing.to_string(), text);
        }
        assert_eq!("zstd".parse(), Ok(Packing::Zstd(ZSTD_LEVEL)));
        for text in ["", "lz4", "snappy:1", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "zstd:3:4", "Zstd"] {
            assert!(text.parse::<Packing>().is_err(), "{text}");
        }
    }
}
