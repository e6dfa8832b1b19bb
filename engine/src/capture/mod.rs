//! The write path on the protected machine: gives writes their order, keeps track of what may differ from the replica,
//! and reads again what was lost.
//!
//! ```text
//!   splitter   order, range locks, ladder ─┐
//!   window     frontier and batches        ├─ pure; one value behind one lock
//!   regions    hot, stale, virgin          │
//!   scan       the one scanner's plan      │
//!   marks      when a mark is due          │
//!   opening    how a life begins          ─┘
//! ```

pub mod activity_layout;
pub mod activity_log;
mod bits;
pub mod content;
mod marks;
pub mod opening;
mod ranges;
mod regions;
pub mod scan;
mod splitter;
pub mod trust;
mod window;

pub use bits::RegionSet;
pub use regions::SyncNo;
pub use splitter::{DiskStart, Grant, Moved, Outcome, Splitter, SplitterConfig, Ticket};
pub use trust::Distrust;
pub use window::DraftBatch;

#[cfg(test)]
mod model_tests;
