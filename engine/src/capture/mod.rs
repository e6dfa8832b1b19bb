//! The write path on the protected machine: gives writes their order, keeps track of what may differ from the replica,
//! and reads again what was lost.
//!
//! ```text
//!   splitter   order, range locks, ladder ─┐
//!   window     frontier and batches        ├─ pure; one value behind one lock
//!   regions    hot, stale, virgin          │
//!   scan       the one scanner's plan      │
//!   compare    what need not be sent       │
//!   marks      when a mark is due          │
//!   opening    how a life begins          ─┘
//!   tap        the splitter at work: locks, disks, activity logs; tap_export for NBD, scanner for the scan
//! ```

pub mod activity_layout;
pub mod activity_log;
mod bits;
mod compare;
pub mod content;
pub mod identity;
mod marks;
pub mod opening;
mod ranges;
mod regions;
pub mod scan;
pub mod scanner;
mod splitter;
pub mod tap;
pub mod tap_export;
pub mod trust;
mod window;

pub use bits::RegionSet;
pub use regions::SyncNo;
pub use splitter::{DiskStart, DiskView, Grant, LSN_RESERVE, Moved, Outcome, Splitter, SplitterConfig, Ticket};
pub use tap::{Notes, Tap, TapDisk};
pub use tap_export::TapExport;
pub use trust::Distrust;
pub use window::DraftBatch;

#[cfg(test)]
mod model_tests;
