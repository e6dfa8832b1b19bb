//! The management interface: REST under `/api/v1`, its OpenAPI document, problem documents (RFC 9457).
//!
//! ```text
//!   client ─► Server (TLS, limits) ─► routes::*  caller and role ─► ControlPlane (façade of the control plane)
//!                                     │                                │
//!                                     └── openapi: one list of routes  └── Fault ─► problem: one table of statuses
//! ```
//!
//! This crate owns no state but the throttle of failed logins: it shows what the façade says and asks it for changes.

pub mod auth;
pub mod openapi;
pub mod page;
pub mod problem;
pub mod routes;
pub mod server;
pub mod show;

pub use server::{Server, ServerConfig, ServerError};
