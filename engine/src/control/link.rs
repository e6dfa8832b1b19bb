//! One connection of the control protocol, and what makes one: ports, so that sessions are tested without TLS.

use std::time::Duration;

use async_trait::async_trait;

use super::messages::{FromMember, Refusal, ToMember};

/// Longest that one message may take to be sent. A peer that does not read for so long is as good as gone.
pub const SAY_WITHIN: Duration = Duration::from_secs(10);

/// Why a connection cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing answers there.
    #[error("connect to {address}: {cause}")]
    Unreachable {
        /// The address.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The other side is not who it should be, or does not take our certificate.
    #[error("the configuration server at {address} is not trusted, or does not trust us: {cause}")]
    Untrusted {
        /// The address.
        address: String,
        /// What TLS said.
        cause: String,
    },
    /// The connection broke, or what came over it makes no sense.
    #[error("control connection: {0}")]
    Broken(String),
    /// The other side said no.
    #[error("the configuration server refuses: {0}")]
    Refused(Refusal),
}

/// The member's end of one connection.
#[async_trait]
pub trait Link: Send {
    /// Sends a message; an error ends the connection.
    async fn say(&mut self, message: &FromMember) -> Result<(), LinkError>;

    /// The next message; `None`: the other side closed. Dropping the future loses nothing.
    async fn hear(&mut self) -> Result<Option<ToMember>, LinkError>;
}

/// Makes connections.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Connects to `address` (`host:port`), TLS included.
    async fn connect(&self, address: &str) -> Result<Box<dyn Link>, LinkError>;
}
