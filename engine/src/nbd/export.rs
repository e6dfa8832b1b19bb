//! The port between NBD and what it serves: one trait, blocking, in bytes.
//!
//! The server checks every request against [`ExportInfo`] before it calls: offsets and lengths are multiples of the
//! sector, not empty, within the size, no longer than [`REQUEST_BYTES_MAX`], and no changing call reaches a read-only
//! export. Calls come from many threads at once, and in any order that the client's requests in flight allow.

use std::io;

use bytes::Bytes;
use rustix::io::Errno;

/// Longest read, write or block-status answer of one request, in bytes. Protocol: the maximum payload that the NBD
/// specification lets a client assume without asking; libnbd and QEMU refuse more.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// What a client is told about an export when it opens it. Must not change while the export is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name by which clients ask for it; at most 4096 bytes.
    pub name: String,
    /// For people; shown by `nbdinfo`.
    pub description: String,
    /// Size in bytes; a multiple of `sector_bytes`.
    pub size_bytes: u64,
    /// Smallest unit of a request: 512 or 4096.
    pub sector_bytes: u32,
    /// Whether every change is refused.
    pub read_only: bool,
    /// Whether clients should schedule as for a spinning disk.
    pub rotational: bool,
    /// Whether `flush` makes completed writes stable.
    pub can_flush: bool,
    /// Whether a single request can be made stable.
    pub can_fua: bool,
    /// Whether `trim` is taken.
    pub can_trim: bool,
    /// Whether `write_zeroes` is taken.
    pub can_zero: bool,
    /// Whether `write_zeroes` can tell at once that it would not be faster than writing.
    pub can_fast_zero: bool,
    /// Whether `cache` is taken.
    pub can_cache: bool,
    /// Whether a flush on one connection covers what was completed on all.
    pub can_multi_conn: bool,
}

impl ExportInfo {
    /// A writable export that can do everything.
    pub fn full(name: impl Into<String>, size_bytes: u64, sector_bytes: u32) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            size_bytes,
            sector_bytes,
            read_only: false,
            rotational: false,
            can_flush: true,
            can_fua: true,
            can_trim: true,
            can_zero: true,
            can_fast_zero: true,
            can_cache: true,
            can_multi_conn: true,
        }
    }

    /// A read-only export.
    pub fn read_only(name: impl Into<String>, size_bytes: u64, sector_bytes: u32) -> Self {
        Self {
            read_only: true,
            can_fua: false,
            can_trim: false,
            can_zero: false,
            can_fast_zero: false,
            ..Self::full(name, size_bytes, sector_bytes)
        }
    }
}

/// How zeroes are to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// The range must stay (or become) allocated.
    pub no_hole: bool,
    /// The zeroes must be stable before the reply.
    pub fua: bool,
    /// Fail with [`NbdError::NotSupported`] where it would not be faster than writing zeroes as data.
    pub fast: bool,
}

/// A run of equal allocation, as `base:allocation` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Length in bytes; never 0.
    pub len: u64,
    /// Not allocated.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// One request, as [`Export::is_quick`] is asked about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Write `len` bytes.
    Write {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// Stable before the reply.
        fua: bool,
    },
    /// Make completed writes stable.
    Flush,
    /// Forget a range.
    Trim {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// Stable before the reply.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// How.
        flags: ZeroFlags,
    },
    /// Have a range at hand.
    Cache {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Tell what is allocated.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
}

/// Why a request failed; each is one error number of the protocol, with a text for clients that read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NbdError {
    /// EIO: the storage beneath failed.
    #[error("input/output error: {0}")]
    Io(String),
    /// EINVAL: the request makes no sense.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// ENOSPC: no room, or past the end of the disk.
    #[error("no space: {0}")]
    NoSpace(String),
    /// EPERM: the export may not be changed.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// ENOTSUP: not here, or not faster.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// ESHUTDOWN: the server is stopping; ask again after a reconnect.
    #[error("shutting down: {0}")]
    Shutdown(String),
    /// EOVERFLOW: the answer does not fit (a read that may not be split).
    #[error("too large: {0}")]
    Overflow(String),
}

impl From<io::Error> for NbdError {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::NoSpace(text),
            Some(Errno::OPNOTSUPP | Errno::NOSYS) => Self::NotSupported(text),
            Some(Errno::ROFS | Errno::PERM) => Self::NotPermitted(text),
            Some(Errno::INVAL) => Self::Invalid(text),
            _ => Self::Io(text),
        }
    }
}

/// Something that can be served as a disk.
pub trait Export: Send + Sync {
    /// What it is; constant while it is served.
    fn info(&self) -> ExportInfo;

    /// Fills `out` from `offset` on.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError>;

    /// Fills `out` if that needs no waiting, else returns false and leaves `out` undefined. Lets a read that is in
    /// memory already be answered on the connection's own thread.
    fn read_now(&self, _offset: u64, _out: &mut [u8]) -> bool {
        false
    }

    /// Writes `data` at `offset`; with `fua` it is stable on return. `data` is the export's to keep: it is a buffer of its own,
    /// not a view into a larger one.
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), NbdError>;

    /// Makes every write that completed before the call, on any connection, stable.
    fn flush(&self) -> Result<(), NbdError>;

    /// The client no longer needs these bytes.
    fn trim(&self, offset: u64, len: u32, fua: bool) -> Result<(), NbdError>;

    /// Makes a range read as zeroes.
    fn write_zeroes(&self, offset: u64, len: u32, flags: ZeroFlags) -> Result<(), NbdError>;

    /// The client will read this range soon: advice, which need not be followed.
    fn cache(&self, _offset: u64, _len: u32) -> Result<(), NbdError> {
        Ok(())
    }

    /// The allocation from `offset` on, at most `max_extents` extents. They begin at `offset`, follow each other, and cover at
    /// least one sector; together they may be shorter than `len` but not longer.
    fn block_status(&self, offset: u64, len: u32, max_extents: usize) -> Result<Vec<StatusExtent>, NbdError>;

    /// Whether the request can run on the thread that reads the connection: true only where it will not wait for
    /// anything slower than the page cache. A read is asked for with [`Export::read_now`] first when this says false.
    fn is_quick(&self, op: &Op) -> bool;
}
