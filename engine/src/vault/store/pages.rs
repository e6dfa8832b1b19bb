//! The port for page targets: a blob of fixed size that is written in place, page by page, and can become a managed disk.
//!
//! ```text
//!   create (all zeroes, sequence number = epoch) ─► write, write, clear ... each only while the number is still ours
//!                                                    └ a later owner has created it anew or claimed it ─► refused
//! ```
//!
//! Invariants
//! - A page is 512 bytes; ranges begin and end at pages. What does not is refused here, before anything is sent.
//! - I4: whoever writes names its epoch; once a higher one has the blob, nothing of a lower one is written.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use crate::ids::Epoch;

/// The unit of writing, in bytes.
pub const PAGE_BYTES: u64 = 512;
/// Most bytes of one write (Azure: Put Page).
pub const PAGES_WRITE_MAX: usize = 4 << 20;
/// The largest blob (Azure: page blobs).
pub const PAGES_BYTES_MAX: u64 = 8 << 40;

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagesCreated {
    /// It is there, all zeroes, ours.
    Created,
    /// Something of that name is there; nothing has changed.
    AlreadyExists,
}

/// A place for one blob of pages.
#[async_trait]
pub trait PageTarget: Send + Sync {
    /// What messages call it; no credential is part of it.
    fn name(&self) -> String;

    /// Makes it, `bytes` long, zero all over, for `epoch`. `replace`: whatever is there goes.
    async fn create(&self, bytes: u64, epoch: Epoch, replace: bool) -> Result<PagesCreated, StoreError>;

    /// Makes it `epoch`'s, if no higher one has it.
    async fn claim(&self, epoch: Epoch) -> Result<(), StoreError>;

    /// Writes whole pages, at most [`PAGES_WRITE_MAX`] bytes of them. Durable on return.
    async fn write(&self, offset: u64, bytes: Bytes, epoch: Epoch) -> Result<(), StoreError>;

    /// Makes pages zero, so that they take no room.
    async fn clear(&self, range: Range<u64>, epoch: Epoch) -> Result<(), StoreError>;

    /// The page at `offset`; nothing where there is no blob, or it ends before.
    async fn page(&self, offset: u64) -> Result<Option<Bytes>, StoreError>;

    /// The pages that hold something, in order.
    async fn ranges(&self) -> Result<Vec<Range<u64>>, StoreError>;
}
