//! The replication engine of Farshore: one ordered log of writes per machine, and its views.
//!
//! Pure cores (no clock, no randomness, no I/O of their own) beside the ports and adapters that carry out what they
//! decide. Nothing here knows of actors or HTTP.

pub mod agent;
pub mod batch;
pub mod cache;
pub mod capture;
pub mod codec;
pub mod control;
pub mod defaults;
pub mod digest;
pub mod ids;
pub mod log;
pub mod nbd;
pub mod oracle;
pub mod protocol;
pub mod record;
pub mod section;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod transport;
pub mod vault;
