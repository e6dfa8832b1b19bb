//! The envelope of every message, of the replication protocol and of the control protocol alike.
//!
//! ```text
//!   0   body length u32       bytes after this head
//!   4   kind u8               0x01.. agent, 0x41.. server, 0x81.. control
//!   5   flags u8 = 0
//!   6   version u16 = 1
//!   8   crc u32               CRC-32 (IEEE) of bytes 0..8 and the body
//!   12  body
//! ```
//!
//! A [`Decoder`] is fed whatever arrives and gives whole frames; a body is a view of the receive buffer, so section
//! bytes are never copied again. A hostile length reserves at most [`RESERVE_BYTES_MAX`] ahead of what has arrived.

use bytes::{Bytes, BytesMut};

use crate::codec::{Malformed, Put, Take};

/// Version of the envelope and of the messages in it.
pub const FRAME_VERSION: u16 = 1;
/// Bytes in front of the body.
pub const FRAME_HEAD_BYTES: usize = 12;
/// Longest body, in bytes. Chosen: a batch at its target size beside one largest section (8 MiB) fits twice.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Most that is reserved ahead of bytes that have arrived. Chosen: a batch of target size (512 KiB) is received into one
/// allocation; half of it would copy each batch once more.
pub const RESERVE_BYTES_MAX: usize = 1 << 20;
/// Least room offered to a read: one TLS record.
pub const READ_BYTES_MIN: usize = 16 << 10;

/// Why what arrived is no message. The connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body would be longer than this connection allows.
    #[error("a message of {bytes} bytes is announced, {max} are allowed: the other side does not speak this protocol")]
    TooLong {
        /// What the head says.
        bytes: u64,
        /// What is allowed.
        max: u64,
    },
    /// The envelope has a version that this program does not know.
    #[error(
        "the other side speaks protocol version {version}, this program speaks {FRAME_VERSION}: upgrade the older one"
    )]
    Version {
        /// The version found.
        version: u16,
    },
    /// The checksum does not match.
    #[error("the checksum of a message (kind {kind:#04x}) does not match")]
    Checksum {
        /// The kind the head names.
        kind: u8,
    },
    /// No message of this direction has this kind.
    #[error("message kind {kind:#04x} is not known here")]
    Kind {
        /// The kind found.
        kind: u8,
    },
    /// The body is not what its kind says.
    #[error("malformed {name} message: {cause}")]
    Body {
        /// Name of the message.
        name: &'static str,
        /// What is wrong.
        cause: Malformed,
    },
}

/// One message in its envelope, its checksum verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: u8,
    /// The body: a view of the receive buffer.
    pub body: Bytes,
}

/// A set of messages that travel in frames in one direction.
pub trait Message: Sized {
    /// The frame, in parts: written one after the other they are the message. Payload is not copied.
    fn encode(&self) -> Vec<Bytes>;

    /// Reads a message out of its frame.
    fn decode(frame: &Frame) -> Result<Self, FrameError>;
}

/// Builds one frame: fields first, then attachments that are passed on as they are.
#[derive(Debug)]
pub struct FrameBuilder {
    kind: u8,
    head: Put,
    attached: Vec<Bytes>,
}

impl FrameBuilder {
    /// An empty frame of this kind.
    pub fn new(kind: u8) -> Self {
        let mut head = Put::with_capacity(128);
        head.slice(&[0; FRAME_HEAD_BYTES]);
        Self { kind, head, attached: Vec::new() }
    }

    /// Where the body's fields go.
    pub fn body(&mut self) -> &mut Put {
        &mut self.head
    }

    /// Adds bytes behind the fields without copying them.
    pub fn attach(&mut self, bytes: Bytes) {
        self.attached.push(bytes);
    }

    /// The frame in parts.
    ///
    /// # Panics
    /// Where the body is longer than [`BODY_BYTES_MAX`]: messages are bounded before they are built.
    pub fn finish(mut self) -> Vec<Bytes> {
        let body: usize = self.attached.iter().map(Bytes::len).sum::<usize>() + self.head.len() - FRAME_HEAD_BYTES;
        assert!(body <= BODY_BYTES_MAX, "a message of {body} bytes was built; callers bound what they send");
        let head = self.head.buffer();
        head[..4].copy_from_slice(&(body as u32).to_le_bytes());
        head[4] = self.kind;
        head[6..8].copy_from_slice(&FRAME_VERSION.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..8]);
        crc.update(&head[FRAME_HEAD_BYTES..]);
        self.attached.iter().for_each(|part| crc.update(part));
        head[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
        let mut parts = Vec::with_capacity(1 + self.attached.len());
        parts.push(self.head.into_bytes());
        parts.append(&mut self.attached);
        parts
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(BODY_BYTES_MAX)
    }
}

impl Decoder {
    /// A decoder that refuses bodies longer than `body_bytes_max`.
    pub fn new(body_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), body_bytes_max: body_bytes_max.min(BODY_BYTES_MAX) }
    }

    /// The buffer to read the next bytes into, with room for the rest of the message that has begun, as far as it
    /// may be trusted.
    pub fn space(&mut self) -> &mut BytesMut {
        let missing = match self.head() {
            Ok(Some(head)) => (FRAME_HEAD_BYTES + head.body).saturating_sub(self.buffer.len()),
            Ok(None) | Err(_) => 0,
        };
        let room = missing.clamp(READ_BYTES_MIN, RESERVE_BYTES_MAX);
        if self.buffer.capacity() - self.buffer.len() < room.min(missing.max(1)) {
            self.buffer.reserve(room);
        }
        &mut self.buffer
    }

    /// Adds bytes that have arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that have arrived and belong to no whole message yet.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes the buffer takes in memory.
    pub fn reserved_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next whole frame, if it has arrived.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(head) = self.head()? else { return Ok(None) };
        if self.buffer.len() < FRAME_HEAD_BYTES + head.body {
            return Ok(None);
        }
        let mut whole = self.buffer.split_to(FRAME_HEAD_BYTES + head.body).freeze();
        let front = whole.split_to(FRAME_HEAD_BYTES);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&front[..8]);
        crc.update(&whole);
        if crc.finalize() != head.crc {
            return Err(FrameError::Checksum { kind: head.kind });
        }
        Ok(Some(Frame { kind: head.kind, body: whole }))
    }

    /// The next whole message, if it has arrived.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, FrameError> {
        self.frame()?.map(|frame| M::decode(&frame)).transpose()
    }

    fn head(&self) -> Result<Option<Head>, FrameError> {
        if self.buffer.len() < FRAME_HEAD_BYTES {
            return Ok(None);
        }
        let head = Head::take(&mut Take::new(&self.buffer)).map_err(|cause| FrameError::Body { name: "any", cause })?;
        let (bytes, max) = (head.body as u64, self.body_bytes_max as u64);
        if bytes > max {
            return Err(FrameError::TooLong { bytes, max });
        }
        if head.version != FRAME_VERSION {
            return Err(FrameError::Version { version: head.version });
        }
        if head.flags != 0 {
            let cause = Malformed::Value { what: "message flags", value: head.flags.into() };
            return Err(FrameError::Body { name: "any", cause });
        }
        Ok(Some(head))
    }
}

struct Head {
    body: usize,
    kind: u8,
    flags: u8,
    version: u16,
    crc: u32,
}

impl Head {
    fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            body: input.u32("message length")? as usize,
            kind: input.u8("message kind")?,
            flags: input.u8("message flags")?,
            version: input.u16("message version")?,
            crc: input.u32("message checksum")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(kind: u8, fields: &[u8], attached: &[u8]) -> Vec<u8> {
        let mut builder = FrameBuilder::new(kind);
        builder.body().slice(fields);
        builder.attach(Bytes::copy_from_slice(attached));
        builder.finish().concat()
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let mut stream = frame_of(1, b"fields", &[7; 100_000]);
        stream.extend(frame_of(2, b"", b""));
        for step in [1, 7, 12, 4096, stream.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(step) {
                decoder.extend(chunk);
                while let Some(frame) = decoder.frame().expect("well formed") {
                    seen.push((frame.kind, frame.body.len()));
                }
            }
            assert_eq!(seen, [(1, 100_006), (2, 0)], "in steps of {step}");
        }
    }

    #[test]
    fn a_hostile_length_reserves_no_memory_ahead_of_what_arrives() {
        let mut decoder = Decoder::default();
        decoder.extend(&(BODY_BYTES_MAX as u32).to_le_bytes());
        decoder.extend(&[1, 0, 1, 0, 0, 0, 0, 0]);
        decoder.space();
        assert!(decoder.reserved_bytes() <= 2 * RESERVE_BYTES_MAX, "{}", decoder.reserved_bytes());
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = frame_of(1, b"fields", b"attached");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::default();
            decoder.extend(&bad);
            assert!(!matches!(decoder.frame(), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn another_protocol_is_named_at_its_first_bytes() {
        let mut decoder = Decoder::default();
        decoder.extend(b"GET / HTTP/1.1\r\n");
        assert!(matches!(decoder.frame(), Err(FrameError::TooLong { .. })));
        let mut newer = frame_of(1, b"", b"");
        newer[6] = 9;
        let mut decoder = Decoder::default();
        decoder.extend(&newer);
        assert_eq!(decoder.frame(), Err(FrameError::Version { version: 9 }));
    }
}
