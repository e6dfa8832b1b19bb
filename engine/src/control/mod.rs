//! The control protocol: enrolment, assignments, commands and heartbeats.
//!
//! Members (agents and process servers) keep one outbound TLS session to the configuration server, port 9444. What they
//! say is a [`messages::FromMember`], what they hear a [`messages::ToMember`]: JSON bodies in the frames of
//! [`crate::transport`]. Nothing here is on the write path: replication goes on while no session is up.

pub mod backoff;
pub mod client;
pub mod link;
pub mod messages;
pub mod tls;
