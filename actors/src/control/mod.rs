//! The control plane: orchestrator, links to process servers, jobs, state store and certificate authority.
//!
//! ```text
//!   web ─► ControlPlane (façade, in domain words)
//!             │ reads: ledger and live picture        │ changes: Decide, one after the other
//!             ▼                                       ▼
//!          ControlRoom ◄──────────────────────── Orchestrator ─► state store (sled: durable before acknowledged)
//!                                                 ├ ProcessServerLink *  commands down, heartbeats up
//!                                                 └ Job *                move, protect, serve: steps written down
//!          WebhookKeeper: tells changes of health, signed and retried
//!   members ─TLS 9444─► ControlListener ─► MemberSession *
//! ```

pub mod config_server_link;
pub mod control_room;
pub mod fault;
pub mod health;
pub mod injection;
pub mod key_file;
pub mod ledger;
pub mod live;
pub mod membership;
pub mod node;
pub mod plane;
pub mod recover;
pub mod secret_file;
pub mod server;
pub mod state;
pub mod vault_door;
pub mod vault_keeper;
pub mod view;
pub mod webhooks;

mod catalog_keeper;
mod control_listener;
mod enrolment;
mod job;
mod member_session;
mod orchestrator;
mod process_server_link;
mod reconcile;

#[cfg(test)]
mod tests;
