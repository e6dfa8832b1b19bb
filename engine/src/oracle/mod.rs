//! The oracle: it writes blocks that say who they are, keeps a journal of what was acknowledged, and proves of any image of
//! the disks that it is a state they could have been in.
//!
//! ```text
//!   Workload ── submitted ─► Journal ◄─ acknowledged ──┐
//!      └────── stamped blocks ──► NBD exports of one machine (any number of disks)
//!
//!   Journal ─► History ─┐
//!   images of all disks ┴─► check ─► Findings: the cut, or each violation with disk, block, sequence and why
//! ```
//!
//! What is proved (I2, I3). The writes that an image shows, W, must be all writes up to some cut, but for those that were in
//! flight there: **every write that was acknowledged before any write of W was submitted is in W or overwritten by a later
//! write of W.** And every block is whole, at its place, and was really written. This is decided exactly, because:
//! sequence numbers are drawn, and journalled, in the order of submission, before the write is sent; acknowledgements are
//! journalled before the writer goes on; no block has two writes in flight.
//!
//! A write whose answer was lost with its connection is sent again as it was, under its number: until it is
//! acknowledged it may be there or not, as the journal says. A write that was answered with an error stays so for ever.

pub mod check;
mod history;
pub mod image;
pub mod journal;
mod stamp;
pub mod workload;

pub use check::{Bounds, Findings, Violation, check};
pub use history::History;
pub use image::Image;
pub use journal::{Journal, JournalError};
pub use workload::{Pattern, Workload, WorkloadError, WorkloadReport};
