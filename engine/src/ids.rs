//! The numbers and names that cross module borders, each a type of its own.
//!
//! No bare `u64` leaves a module: an [`Epoch`] cannot be passed for a [`Slot`], and none of them can be
//! printed into an object name by hand (`vault::layout` builds names, and only it).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number before every other.
            pub const ZERO: Self = Self(0);

            /// The number after this one.
            ///
            /// # Panics
            /// At 2^64 - 1, which no history reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect(concat!(stringify!($name), " is exhausted")))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The log sequence number of one write or one record, machine-wide, never used twice. The first is 1;
    /// 0 stands for "before everything".
    Lsn
}
number! {
    /// The ownership number of a machine's log. Each new owner gets a higher one.
    Epoch
}
number! {
    /// The number of a segment in a timeline's log. Slots are filled in order, each once, from 0.
    Slot
}

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}: expected {digits} hexadecimal digits")]
pub struct BadId {
    text: String,
    what: &'static str,
    digits: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $bytes;

            /// A fresh identifier out of the caller's chance.
            pub fn draw(chance: &mut dyn Chance) -> Self {
                let mut bytes = [0; $bytes];
                chance.fill(&mut bytes);
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { text: text.chars().take(64).collect(), what: $what, digits: $bytes * 2 };
                // Lower case only: one identifier has one spelling, in object names above all.
                let lower_hex = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
                if text.len() != $bytes * 2 || !text.as_bytes().iter().all(|c| lower_hex(c)) {
                    return Err(bad());
                }
                let mut bytes = [0; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier! {
    /// One vault, drawn when it is made.
    VaultId, 16, "a vault id"
}
identifier! {
    /// One protected machine. Its name is a label; this is what it is known by.
    MachineId, 16, "a machine id"
}
identifier! {
    /// One history of a machine. Never reused.
    TimelineId, 8, "a timeline id"
}
identifier! {
    /// One owner's identity within an epoch; survives its restarts.
    WriterId, 16, "a writer id"
}
identifier! {
    /// One life of an agent.
    IncarnationId, 16, "an incarnation id"
}
identifier! {
    /// One mark. A group mark has the same id in each member's log.
    MarkId, 16, "a mark id"
}
identifier! {
    /// One merged run of a timeline. Drawn for it and never used again, so that an attempt which died leaves nothing that
    /// another could take for its own.
    RunId, 8, "a run id"
}
identifier! {
    /// One process server.
    ProcessServerId, 16, "a process server id"
}
identifier! {
    /// The random input of one key derivation; one segment has one for its frames, each footer one of its own.
    Salt, 16, "a salt"
}

/// The number of a disk within its machine; stays with the disk for its life and is never given to another.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskNo(pub u16);

impl fmt::Display for DiskNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DiskNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskNo({})", self.0)
    }
}

/// A wall-clock time: microseconds since 1970-01-01T00:00:00Z. Log order is the order of points; a time only
/// labels it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Microseconds from `earlier` to this time; 0 where the clock went backwards.
    pub fn micros_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.0)
    }
}

/// Where randomness comes from. The engine has none of its own: processes pass the operating system's, tests
/// and the simulator a seeded one.
pub trait Chance: Send {
    /// Fills `bytes` with random bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_exactly_one_spelling() {
        let id: TimelineId = "00112233445566ff".parse().expect("well formed");
        assert_eq!(id.to_string(), "00112233445566ff");
        for bad in
            ["", "00112233445566FF", "00112233445566f", "00112233445566fff", "../../../../etc/", "0011223344556é"]
        {
            assert!(bad.parse::<TimelineId>().is_err(), "{bad}");
        }
    }
}
