//! The NBD protocol's numbers and message layouts, and nothing else. All numbers are big-endian.
//!
//! ```text
//!   greeting           0 "NBDMAGIC" | 8 "IHAVEOPT" | 16 handshake flags u16            server → client
//!   client flags       0 flags u32                                                     client → server
//!   option             0 "IHAVEOPT" | 8 option u32 | 12 length u32 | 16 data           client → server
//!   option reply       0 0x3e889045565a9 u64 | 8 option u32 | 12 kind u32 | 16 length u32 | 20 data
//!   EXPORT_NAME reply  0 size u64 | 8 transmission flags u16 | 10 zero 124 (left out under NO_ZEROES)
//!
//!   request            0 0x25609513 u32 | 4 flags u16 | 6 command u16 | 8 cookie u64 | 16 offset u64 | 24 length u32 | 28 data
//!   simple reply       0 0x67446698 u32 | 4 error u32 | 8 cookie u64 | 16 data
//!   chunk              0 0x668e33ef u32 | 4 flags u16 | 6 kind u16 | 8 cookie u64 | 16 length u32 | 20 body
//!     data body          0 offset u64 | 8 bytes          hole body        0 offset u64 | 8 length u32
//!     status body        0 context u32 | 4 (length u32, flags u32)*
//!     error body         0 error u32 | 4 text length u16 | 6 text | (offset u64, for ERROR_OFFSET)
//! ```

use super::export::NbdError;

/// First eight bytes of a server.
pub(crate) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Begins every option, and follows the greeting of a newstyle server.
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins every option reply.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins every request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins every simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins every structured chunk.
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Length of the greeting.
pub(crate) const GREETING_BYTES: usize = 18;
/// Length of an option's head.
pub(crate) const OPTION_HEAD_BYTES: usize = 16;
/// Length of an option reply's head.
pub(crate) const OPTION_REPLY_HEAD_BYTES: usize = 20;
/// Length of a request without data.
pub(crate) const REQUEST_BYTES: usize = 28;
/// Length of a simple reply without data.
pub(crate) const SIMPLE_REPLY_BYTES: usize = 16;
/// Length of a chunk without body.
pub(crate) const CHUNK_HEAD_BYTES: usize = 20;
/// Longest text of the protocol (names, descriptions, queries, error texts).
pub(crate) const TEXT_BYTES_MAX: usize = 4096;
/// Zeroes after the reply to EXPORT_NAME, unless both sides leave them out.
pub(crate) const EXPORT_NAME_ZEROES: usize = 124;

/// Handshake flags, of both sides.
pub(crate) mod handshake_flag {
    /// Options are answered.
    pub(crate) const FIXED_NEWSTYLE: u16 = 1;
    /// The 124 zeroes are left out.
    pub(crate) const NO_ZEROES: u16 = 2;
}

/// Options a client may send.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of option replies.
pub(crate) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    /// Set in every refusal.
    pub(crate) const ERROR: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR | 1;
    pub(crate) const ERR_POLICY: u32 = ERROR | 2;
    pub(crate) const ERR_INVALID: u32 = ERROR | 3;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR | 6;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// What an INFO reply tells.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags of an export.
pub(crate) mod transmission_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const ROTATIONAL: u16 = 1 << 4;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    /// Do not fragment the answer to a read.
    pub(crate) const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

/// Kinds of structured chunks.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    /// Set in every kind that tells an error.
    pub(crate) const ERROR_BIT: u16 = 1 << 15;
    pub(crate) const ERROR: u16 = ERROR_BIT | 1;
    pub(crate) const ERROR_OFFSET: u16 = ERROR_BIT | 2;
    /// Flag: the last chunk of its reply.
    pub(crate) const FLAG_DONE: u16 = 1;
}

/// Flags of an extent in the context `base:allocation`.
pub(crate) mod allocation {
    pub(crate) const HOLE: u32 = 1;
    pub(crate) const ZERO: u32 = 2;
}

/// The one metadata context.
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";
/// Its number on the wire. Chosen: the protocol leaves it to the server.
pub(crate) const BASE_ALLOCATION_ID: u32 = 1;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;

impl NbdError {
    /// The protocol's error number.
    pub fn errno(&self) -> u32 {
        match self {
            Self::Io(_) => EIO,
            Self::Invalid(_) => EINVAL,
            Self::NoSpace(_) => ENOSPC,
            Self::NotPermitted(_) => EPERM,
            Self::NotSupported(_) => ENOTSUP,
            Self::Shutdown(_) => ESHUTDOWN,
            Self::Overflow(_) => EOVERFLOW,
        }
    }

    /// The error that a number on the wire stands for; unknown numbers count as EINVAL (the specification's rule).
    pub(crate) fn from_errno(errno: u32, text: String) -> Self {
        match errno {
            EIO => Self::Io(text),
            ENOSPC => Self::NoSpace(text),
            EPERM => Self::NotPermitted(text),
            ENOTSUP => Self::NotSupported(text),
            ESHUTDOWN => Self::Shutdown(text),
            EOVERFLOW => Self::Overflow(text),
            _ => Self::Invalid(text),
        }
    }

    /// Its text without the kind in front.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Io(text)
            | Self::Invalid(text)
            | Self::NoSpace(text)
            | Self::NotPermitted(text)
            | Self::NotSupported(text)
            | Self::Shutdown(text)
            | Self::Overflow(text) => text,
        }
    }
}

/// A request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Request {
    /// Lays it out.
    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        out[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..28].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Reads it; `None` where the magic is wrong, after which nothing of the stream can be trusted.
    pub(crate) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut input = Fields(bytes);
        (input.u32()? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: input.u16()?,
            command: input.u16()?,
            cookie: input.u64()?,
            offset: input.u64()?,
            length: input.u32()?,
        })
    }
}

/// An option's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OptionHead {
    pub(crate) option: u32,
    pub(crate) length: u32,
}

impl OptionHead {
    /// Lays it out.
    pub(crate) fn encode(&self) -> [u8; OPTION_HEAD_BYTES] {
        let mut out = [0; OPTION_HEAD_BYTES];
        out[0..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..16].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Reads it; `None` where the magic is wrong.
    pub(crate) fn decode(bytes: &[u8; OPTION_HEAD_BYTES]) -> Option<Self> {
        let mut input = Fields(bytes);
        (input.u64()? == OPTION_MAGIC).then_some(())?;
        Some(Self { option: input.u32()?, length: input.u32()? })
    }
}

/// The server's first bytes.
pub(crate) fn greeting() -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[0..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..18].copy_from_slice(&(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
    out
}

/// Appends an option reply.
pub(crate) fn put_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&wire_len(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends a simple reply's head.
pub(crate) fn put_simple_reply(out: &mut Vec<u8>, cookie: u64, errno: u32) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&errno.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

/// Appends a chunk's head.
pub(crate) fn put_chunk_head(out: &mut Vec<u8>, cookie: u64, kind: u16, done: bool, body_bytes: usize) {
    out.extend_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out.extend_from_slice(&(if done { chunk::FLAG_DONE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&wire_len(body_bytes).to_be_bytes());
}

/// Appends a data chunk up to where its bytes follow.
pub(crate) fn put_data_chunk_head(out: &mut Vec<u8>, cookie: u64, done: bool, offset: u64, data_bytes: usize) {
    put_chunk_head(out, cookie, chunk::OFFSET_DATA, done, 8 + data_bytes);
    out.extend_from_slice(&offset.to_be_bytes());
}

/// Appends a hole chunk.
pub(crate) fn put_hole_chunk(out: &mut Vec<u8>, cookie: u64, done: bool, offset: u64, len: u32) {
    put_chunk_head(out, cookie, chunk::OFFSET_HOLE, done, 12);
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
}

/// Appends the one chunk of a block-status answer.
pub(crate) fn put_status_chunk(out: &mut Vec<u8>, cookie: u64, extents: &[(u32, u32)]) {
    put_chunk_head(out, cookie, chunk::BLOCK_STATUS, true, 4 + extents.len() * 8);
    out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
    for (len, flags) in extents {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
    }
}

/// Appends the error chunk that ends a reply, with the place where a read failed if it has one.
pub(crate) fn put_error_chunk(out: &mut Vec<u8>, cookie: u64, error: &NbdError, offset: Option<u64>) {
    let text = clipped(error.text());
    let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
    put_chunk_head(out, cookie, kind, true, 6 + text.len() + offset.map_or(0, |_| 8));
    out.extend_from_slice(&error.errno().to_be_bytes());
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_be_bytes());
    }
}

/// The text's front that a message can carry, cut between characters.
fn clipped(text: &str) -> &str {
    const ERROR_TEXT_BYTES_MAX: usize = 512;
    let end = (0..=text.len().min(ERROR_TEXT_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("messages are bounded well below 4 GiB")
}

/// Reads big-endian fields off the front of a message.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    /// A text with a 32-bit length in front, of at most [`TEXT_BYTES_MAX`] bytes.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        (len <= TEXT_BYTES_MAX).then_some(())?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
