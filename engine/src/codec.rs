//! The two cursors every format is written and read with: little-endian, bounds-checked, never panicking on input.

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end inside `what`.
    #[error("cut short inside {what}")]
    Short {
        /// The field or structure that is incomplete.
        what: &'static str,
    },
    /// `what` holds a value that the format does not allow.
    #[error("{what} holds {value}, which the format does not allow")]
    Value {
        /// The field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A checksum over `what` does not match.
    #[error("the checksum of {what} does not match")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// `what` was written by a version that this program does not know.
    #[error("{what} has format version {version}; this program reads up to {newest}: upgrade it")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version found.
        version: u16,
        /// The newest one known.
        newest: u16,
    },
    /// `what` goes on after its end.
    #[error("{count} bytes follow the end of {what}")]
    Trailing {
        /// The structure.
        what: &'static str,
        /// How many bytes are too many.
        count: usize,
    },
}

/// Reads fields off the front of a buffer.
#[derive(Debug, Clone)]
pub struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Short { what })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Short { what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian, signed.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// A text with a 16-bit length in front, at most `max` bytes long.
    pub fn text(&mut self, max: usize, what: &'static str) -> Result<String, Malformed> {
        let count = usize::from(self.u16(what)?);
        if count > max {
            return Err(Malformed::Value { what, value: count as u64 });
        }
        let bytes = self.bytes(count, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Value { what, value: count as u64 })
    }

    /// A count of items of at least `item_bytes` each: refused when the rest could not hold them, so that a
    /// hostile count never reserves memory.
    pub fn count(&mut self, item_bytes: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = self.u32(what)? as usize;
        if count.saturating_mul(item_bytes.max(1)) > self.rest.len() {
            return Err(Malformed::Short { what });
        }
        Ok(count)
    }

    /// Asserts that everything was read.
    pub fn end(self, what: &'static str) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Malformed::Trailing { what, count }),
        }
    }
}

/// Writes fields to the end of a buffer.
#[derive(Debug, Default)]
pub struct Put {
    bytes: BytesMut,
}

impl Put {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(capacity) }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.put_u8(value);
        self
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes.put_u16_le(value);
        self
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.put_u32_le(value);
        self
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.put_u64_le(value);
        self
    }

    /// Eight bytes, little-endian, signed.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.put_i64_le(value);
        self
    }

    /// Bytes as they are.
    pub fn slice(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.put_slice(value);
        self
    }

    /// A text with a 16-bit length in front.
    ///
    /// # Panics
    /// Where the text is longer than 65,535 bytes: callers bound names before they write them.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.u16(u16::try_from(value.len()).expect("texts in formats are bounded"));
        self.slice(value.as_bytes())
    }

    /// A count of items that follow.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("counts in formats are bounded"))
    }

    /// How many bytes are written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The buffer itself, for what must be written in place.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The written bytes, frozen.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}
