//! Reading a vault: tail, points, extent maps, volumes, verify, restore.
//!
//! ```text
//!   manifest ─► runs ┐
//!   store ─► slots ──┴► segment_view (footers) ─► chain ─► timeline ─► points
//!                          │                                │
//!                          │ index pages                    ▼
//!                          └────────► windows (extent maps) ─► Volume ─► overlay, export, restore
//!                            frames ─► frame_cache ────────────┘
//! ```
//!
//! Nothing here changes a vault. Nothing unverified leaves this room: footers and pages are opened with their seals,
//! footers are chained, and a frame gives bytes only once its seal and the digest of every piece hold.

pub mod chain;
pub mod error;
pub mod export;
pub mod extent_map;
pub mod frame_cache;
pub mod hydrate;
pub mod near_frames;
pub mod open_vault;
pub mod overlay;
pub mod points;
pub mod restore;
pub mod runs;
pub mod segment_view;
pub mod select;
pub mod slots;
pub mod tail;
pub mod timeline;
pub mod verify;
pub mod volume;
pub mod windows;

#[cfg(any(test, feature = "testing"))]
pub mod test_log;
#[cfg(test)]
mod tests;
