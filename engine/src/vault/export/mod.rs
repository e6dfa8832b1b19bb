//! What a restored disk looks like as a file: raw, qcow2, VHD of fixed and of dynamic size. Pure layouts: which byte of the
//! disk lies where in the file, and what the file holds beside the disk's bytes.
//!
//! Invariant: a layout is decided before the first byte is written, from the blocks of the disk that hold data. So every
//! block of every disk may be written in any order, in parallel, each once, straight to its final place; what holds no data
//! is a hole of the file or is not in it at all.

mod allocated;
mod qcow2;
mod vhd;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use allocated::Allocated;

/// What kind of file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The disk's bytes, holes as holes.
    #[default]
    Raw,
    /// QEMU's format, version 3.
    Qcow2,
    /// The disk's bytes and a footer; sized in whole MiB, as Azure wants it.
    VhdFixed,
    /// Blocks of 2 MiB that hold data.
    VhdDynamic,
}

/// All formats.
pub const FORMATS: [Format; 4] = [Format::Raw, Format::Qcow2, Format::VhdFixed, Format::VhdDynamic];

impl Format {
    /// Its name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::VhdFixed => "vhd-fixed",
            Self::VhdDynamic => "vhd-dynamic",
        }
    }

    /// How its files end.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::VhdFixed | Self::VhdDynamic => "vhd",
        }
    }

    /// The unit in which it keeps what holds data, in bytes; 0 where the file has room for every byte.
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::Raw | Self::VhdFixed => 0,
            Self::Qcow2 => qcow2::CLUSTER_BYTES,
            Self::VhdDynamic => vhd::BLOCK_BYTES,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no format: raw, qcow2, vhd-fixed or vhd-dynamic")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        FORMATS.into_iter().find(|format| format.name() == text).ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

/// A disk that a format cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a disk of {size_bytes} bytes is too large for {format}: it holds {most_bytes} at most")]
pub struct TooLarge {
    format: Format,
    size_bytes: u64,
    most_bytes: u64,
}

/// What a file says of itself: the same for the same point, so that an interrupted export can be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since 1970: when the point was captured.
    pub unix_seconds: i64,
    /// Identity of the disk's copy.
    pub id: [u8; 16],
}

/// Where everything lies in the file of one disk.
#[derive(Debug, Clone)]
pub struct Layout {
    kind: Kind,
    file_bytes: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    Raw,
    Qcow2(qcow2::Tables),
    VhdFixed(vhd::Fixed),
    VhdDynamic(vhd::Dynamic),
}

impl Layout {
    /// Lays out a disk of `size_bytes`. `allocated` knows its blocks of [`Format::block_bytes`] that hold data.
    ///
    /// # Errors
    /// A disk that the format cannot hold.
    pub fn new(format: Format, size_bytes: u64, allocated: Allocated, stamp: Stamp) -> Result<Self, TooLarge> {
        let (kind, file_bytes) = match format {
            Format::Raw => (Kind::Raw, size_bytes),
            Format::Qcow2 => {
                let tables = qcow2::Tables::new(size_bytes, allocated);
                let bytes = tables.file_bytes();
                (Kind::Qcow2(tables), bytes)
            }
            Format::VhdFixed => {
                let fixed = vhd::Fixed::new(size_bytes, stamp);
                let bytes = fixed.file_bytes();
                (Kind::VhdFixed(fixed), bytes)
            }
            Format::VhdDynamic if size_bytes > vhd::DYNAMIC_BYTES_MAX => {
                return Err(TooLarge { format, size_bytes, most_bytes: vhd::DYNAMIC_BYTES_MAX });
            }
            Format::VhdDynamic => {
                let dynamic = vhd::Dynamic::new(size_bytes, allocated, stamp);
                let bytes = dynamic.file_bytes();
                (Kind::VhdDynamic(dynamic), bytes)
            }
        };
        Ok(Self { kind, file_bytes })
    }

    /// The size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Where a range of the disk lies in the file: for each piece that lies together its start in the file and its length.
    /// All of the range must be in blocks that hold data.
    pub fn places(&self, range: Range<u64>) -> impl Iterator<Item = (u64, usize)> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let (start, together) = match &self.kind {
                Kind::Raw | Kind::VhdFixed(_) => (at, range.end - at),
                Kind::Qcow2(tables) => tables.place(at),
                Kind::VhdDynamic(dynamic) => dynamic.place(at),
            };
            let len = together.min(range.end - at);
            at += len;
            Some((start, len as usize))
        })
    }

    /// What the file holds beside the disk's bytes, in pieces of at most some KiB: start in the file and bytes.
    pub fn metadata(&self) -> Box<dyn Iterator<Item = (u64, Vec<u8>)> + Send + '_> {
        match &self.kind {
            Kind::Raw => Box::new(std::iter::empty()),
            Kind::Qcow2(tables) => Box::new(tables.metadata()),
            Kind::VhdFixed(fixed) => Box::new(fixed.metadata()),
            Kind::VhdDynamic(dynamic) => Box::new(dynamic.metadata()),
        }
    }
}

#[cfg(test)]
mod tests;
