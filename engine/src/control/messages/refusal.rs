//! Why something was refused: one list of codes for the whole control protocol.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stable code. New ones may be added: an old peer reads them as [`RefusalCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No such join token, or its secret is wrong.
    TokenUnknown,
    /// The join token's time is over.
    TokenExpired,
    /// The join token was used as often as it may be.
    TokenUsedUp,
    /// The join token is for another role.
    TokenWrongRole,
    /// This message needs a certificate, and the session has none.
    CertificateRequired,
    /// The certificate's member is not in the inventory.
    MemberUnknown,
    /// The member was removed from the inventory.
    MemberRemoved,
    /// The peer speaks another version.
    VersionUnsupported,
    /// The message cannot be understood, or does not belong here.
    Malformed,
    /// The machine is not known there.
    MachineUnknown,
    /// The disk is not known there.
    DiskUnknown,
    /// No such point, or retention has dropped it.
    PointUnknown,
    /// No such served point.
    ServeUnknown,
    /// Another owner has the machine, or had it with a higher epoch.
    StaleEpoch,
    /// The process server does not own the machine.
    NotOwner,
    /// The data key is not there: the vault is locked.
    VaultLocked,
    /// The vault does not answer, or refuses.
    VaultUnavailable,
    /// Too much is going on: try again.
    Busy,
    /// The other side is not connected.
    NotConnected,
    /// No answer in time: it may still happen.
    TimedOut,
    /// Something broke; the server's log says more.
    Internal,
    /// A code of a newer version.
    #[serde(other)]
    Other,
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// No, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text} ({code}). {remedy}")]
pub struct Refusal {
    /// Stable code.
    pub code: RefusalCode,
    /// What happened and why.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

impl Refusal {
    /// A refusal with texts for people.
    pub fn new(code: RefusalCode, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, text: text.into(), remedy: remedy.into() }
    }
}
