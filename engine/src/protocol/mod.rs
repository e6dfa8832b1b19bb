//! The replication protocol between agent and process server: messages, codec, and both ends as pure state machines.
//!
//! ```text
//!   agent     AgentEnd ──Hello, Batch, Idle, Compare, Ping, Bye─────────────────────► ServerEnd   process server
//!             holds     ◄─Welcome, Refused, Durable, Committed, Credit, Digests, ..─── checks
//! ```
//!
//! `frame` is the envelope (also of the control protocol), `message` the words, `codec` their bytes. The ends own
//! no socket and no clock: messages and time go in, messages and events come out.

pub mod agent_end;
pub mod check;
pub mod codec;
pub mod compare;
pub mod frame;
pub mod message;
pub mod server_end;

pub use agent_end::{Accepted, AgentEnd, AgentEvent, Alarm};
pub use compare::{Digests, Part, PieceState};
pub use frame::{Decoder, Frame, FrameBuilder, FrameError, Message};
pub use message::{
    AgentMessage, Hello, HelloKey, MarkRequest, Redirect, Refusal, RefusalCode, Reset, ServerMessage, Welcome,
};
pub use server_end::{OpenLog, ServerEffect, ServerEnd};

#[cfg(test)]
mod ends_tests;
