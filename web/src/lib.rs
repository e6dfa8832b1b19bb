//! The management interface: REST under `/api/v1`, its OpenAPI document, problem documents (RFC 9457).
//!
//! ```text
//!   client ─► Server (TLS, limits) ─► routes::*  caller and role ─► ControlPlane (façade of the control plane)
//!                                     │                                │
//!                                     └── openapi: one list of routes  └── Fault ─► problem: one table of statuses
//! ```
//!
//! It shows what the façade says and asks it for changes. What it owns is small, bounded and may be lost: the throttle of
//! failed logins, the dashboard's sessions, the live feed and the charts' last hours (`board`).

pub mod auth;
mod board;
mod command;
mod dashboard;
pub mod openapi;
pub mod page;
pub mod problem;
pub mod routes;
pub mod server;
pub mod show;
mod webhook;

pub use server::{Server, ServerConfig, ServerError};
