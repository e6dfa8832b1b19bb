//! The control plane: orchestrator, links to process servers, jobs, state store and certificate authority.

pub mod fault;
pub mod ledger;
pub mod state;
