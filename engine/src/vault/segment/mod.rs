//! The segment: the immutable object that fills one log slot. Fences and branches are the same object without items.
//!
//! ```text
//!   ┌ header ┐┌ item ┐┌ item ┐ ... ┌ index page ┐ ... ┌ top ┐┌ trailer ┐
//!   └────────┘└──────┴─ written by the cache ─┘ └── footer, sealed when slot and predecessor are known ──┘
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `header` | the first 128 bytes: whose segment this is |
//! | `item` | the 48 bytes in front of each sealed frame or batch end |
//! | `seal` | sections to sealed items and back |
//! | `packing` | what plaintext is packed with before it is sealed |
//! | `page` | the rows of one disk, packed |
//! | `index` | what a segment holds, gathered while items are appended |
//! | `trailer` | the last 128 bytes: where the top lies and whose slot this is |
//! | `run` | what a part of a merged run says of itself |
//! | `top` | the plaintext of the top |
//! | `footer` | sealing and opening of footers, fences and branches |
//! | `scan` | items of an open or cut file, with and without a key |
//!
//! Crash story: a segment in the cache without a footer is scanned, cut behind its last whole batch, gets a footer and
//! is sent; it is never appended to again, so no item number is used twice under its salt.

pub mod footer;
pub mod header;
pub mod index;
pub mod item;
pub mod packing;
mod page;
pub mod run;
pub mod scan;
pub mod seal;
mod top;
pub mod trailer;

pub use footer::{FooterPlace, PartContents, SealedControl, SealedFooter, seal_control, seal_footer, seal_part_footer};
pub use header::{LogVersion, ObjectKind, SegmentIdentity};
pub use index::{Counters, FrameEntry, IndexRow, SegmentIndex};
pub use item::{Codec, ITEM_PLAIN_BYTES_MAX, ItemHeader, ItemKind, ItemNo};
pub use packing::{NoPacking, Packing};
pub use run::{Boundary, RunHead};
pub use scan::{BatchSpan, Scan, rebuild_index, scan_whole_batches};
pub use seal::{FrameOpener, FrameSealer, SealedItem};
pub use top::{Branch, Control, Footer, FooterDigest, PageEntry};
pub use trailer::Trailer;

#[cfg(test)]
mod tests;
