//! Supervision that holds when a child panics.
//!
//! `Actor::start` throws away the child's `JoinHandle`, and actix's own `Supervisor` dies with its actor. Here a parent
//! builds the child's context itself, keeps the handle, and hears of every end:
//!
//! ```text
//!   parent actor ── owns ──▶ Warden<W> ── start_watched ──▶ watcher, on the child's arbiter ──▶ the child's future
//!        ▲                                                     │ awaits its JoinHandle
//!        └───────────────── Ended<W> ──────────────────────────┘ Finished │ Panicked │ Killed │ ArbiterLost
//! ```
//!
//! Invariants:
//! - Every life of a child has a number of its own, the incarnation; what concerns an earlier one is dropped.
//! - Every life that was begun is ended by exactly one [`Ended`], whatever becomes of its thread.
//! - A life never outlives its warden: a parent that ends, panics included, leaves no orphans.
//! - What a child holds of others' memory travels in its messages as [`Credit`], and is given back when they die.
//! - CPU work and blocking calls run in an [`OffloadPool`], never on an actor's thread.
//!
//! Crash story: a child that panics is made anew by [`Ward::revive`] from what is durable, after a pause that doubles; a
//! child that keeps failing is given up, and its parent decides what that means.

mod ambient;
mod arbiters;
mod chaos;
mod credit;
mod lane;
mod offload;
mod policy;
mod retire;
mod vitals;
mod warden;
mod watched;

pub use ambient::{OsChance, set_clock_offset, wall_clock};
pub use arbiters::{Arbiters, Placement};
pub use chaos::{Chaos, ChaosDisabled};
pub use credit::{Credit, CreditPool};
pub use farshore_engine::control::messages::ActorKind;
pub use lane::{Lane, LaneTurn, TurnError};
pub use offload::{OffloadError, OffloadPool};
pub use policy::RestartPolicy;
pub use retire::{Retire, Retirement, retire};
pub use vitals::{ChildState, Life, Vitals, VitalsReport};
pub use warden::{Ended, Loss, Parent, Ward, Warden, attend, on_ended};
pub use watched::{Abort, Ending, start_root, start_watched};

#[cfg(test)]
mod tests;
