//! The NBD server that stands in front of a protected disk and serves points, and a small client.
//!
//! ```text
//!   client ──socket──► server ─► handshake ─► connection ─► dyn Export ─► Splitter over BackingDisk (a protected disk)
//!                      (accept)  (options)    (requests)                  Volume, or its overlay (a served point)
//!                                                                         FileExport (a plain file)
//! ```
//!
//! Blocking threads and std sockets: a write costs one `pwrite` on the thread that read it off the socket, so an await
//! or a hand-over per request would cost more than the request. Only what may wait long (a flush, a cold region, a
//! read from the vault) goes to a connection's few worker threads.
//!
//! Invariants: a reply goes out only when the export has done the request (I1 rests on the export alone); nothing a
//! client sends panics (I9); what one connection can hold in memory is bounded by [`export`]'s limits (I10).
//! Crash story: the server keeps nothing. After a crash its socket file is stale; the next start finds nobody listening
//! on it and takes it over. Clients with a reconnect delay send again what was not answered.

pub mod backing;
pub mod client;
mod connection;
pub mod export;
mod file;
mod handshake;
mod outbox;
mod proto;
mod request;
pub mod server;
mod socket;
mod syncs;

pub use backing::{BackingDisk, BackingError, BackingIdentity, BackingOptions, Presence};
pub use client::{ClientError, ClientOptions, NbdClient, NbdUri};
pub use export::{Export, ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};
pub use file::FileExport;
pub use server::{BindError, NbdServer, ServerOptions};

#[cfg(test)]
mod tests;
