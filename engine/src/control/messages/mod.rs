//! What members and the configuration server say to each other.
//!
//! ```text
//!   without a certificate                    with one (role and id are in it)
//!
//!   member ── Enrol ──────────► server       member ── Hello ────────────────────► server
//!          ◄─ Enrolled/Refused ─                    ◄─ Welcome / Refused ─────────
//!          (connection closes)               agent  ── Where, AgentReport ───────►
//!                                                   ◄─ Assigned, NotProtected, Redirect
//!                                            process ── Heartbeat, Answer ───────►
//!                                            server  ◄─ Command ──────────────────
//!                                            both   ── Ping / Pong ──
//! ```
//!
//! Invariants: a message names the version it was written for only in its first one (`Enrol`, `Hello`); unknown fields
//! are ignored, an unknown kind of message is a refusal; a session's member is the one in its certificate, whatever a
//! message claims. Data keys cross only inside TLS, to the machine they belong to or to its owner, and never show in
//! `Debug`.

mod agent;
mod enrol;
mod injection;
mod point;
mod process_server;
mod refusal;
mod secret;

pub use agent::{AgentReport, Assignment, DiskReport, DiskState, NotProtected, NotProtectedReason};
pub use enrol::{Enrol, Enrolled, Hello, MachineGrant, MemberRole, Welcome};
pub use injection::{ActorKind, ChaosCommand, ChaosState, InjectedFault, Injection, InjectionState};
pub use point::{Export, PointInfo, PointSelector, PointsPage};
pub use process_server::{
    Answer, Assign, CacheReport, Command, CommandResult, DamagedObject, Heartbeat, HoldInfo, Issue, MachineReport,
    MachineState, MarkReport, MergingReport, NearReport, Numbered, RetentionReport, ScrubReport,
};
pub use refusal::{Refusal, RefusalCode};
pub use secret::{JoinSecret, WireKey};

use serde::{Deserialize, Serialize};

use crate::ids::Timestamp;

/// The version of this protocol.
pub const CONTROL_VERSION: u16 = 1;
/// Longest message, in bytes. The largest are a page of points and a machine of 256 disks, both below 128 KiB.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Most points in one page.
pub const POINTS_PER_PAGE_MAX: u32 = 256;

/// What a member says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum FromMember {
    /// I have no certificate yet; here is a token.
    Enrol(Enrol),
    /// First message of a session.
    Hello(Hello),
    /// Agent: where does my machine's log go?
    Where,
    /// Agent: how it stands, sent every few seconds and when something changes.
    AgentReport(AgentReport),
    /// Process server: how it stands, every second.
    Heartbeat(Heartbeat),
    /// Process server: what became of a command.
    Answer(Answer),
    /// Are you there?
    Ping,
}

/// What the configuration server says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ToMember {
    /// The member exists from now on, and this is its certificate.
    Enrolled(Enrolled),
    /// The session is open; or, later in it: this is so from now on.
    Welcome(Welcome),
    /// No, and why. The connection closes after it.
    Refused(Refusal),
    /// Agent: this process server owns the log.
    Assigned(Assignment),
    /// Agent: nobody takes writes of this machine now.
    NotProtected(NotProtected),
    /// Agent: the log has a new owner. Leave the old one.
    Redirect(Assignment),
    /// Process server: do this.
    Command(Numbered),
    /// I am.
    Pong,
}

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Will become a problem, or lowers what is promised.
    Warning,
    /// A promise is broken now, or a person must act.
    Critical,
}

/// Something that happened at a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEvent {
    /// When, by the member's clock.
    pub at: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// Stable code, snake case, as `activity_log_lost`.
    pub code: String,
    /// What happened, why, and what to do.
    pub text: String,
}

/// A message that is none.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// Longer than [`CONTROL_MESSAGE_BYTES_MAX`].
    #[error("control message of {bytes} bytes: at most {CONTROL_MESSAGE_BYTES_MAX} are taken")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON of a known kind.
    #[error("control message is malformed: {0}")]
    Malformed(serde_json::Error),
}

/// The body of a message.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, BadMessage> {
    let body = serde_json::to_vec(message).map_err(BadMessage::Malformed)?;
    if body.len() > CONTROL_MESSAGE_BYTES_MAX {
        return Err(BadMessage::TooLong { bytes: body.len() });
    }
    Ok(body)
}

/// The message in a body.
pub fn decode<'a, M: Deserialize<'a>>(body: &'a [u8]) -> Result<M, BadMessage> {
    if body.len() > CONTROL_MESSAGE_BYTES_MAX {
        return Err(BadMessage::TooLong { bytes: body.len() });
    }
    serde_json::from_slice(body).map_err(BadMessage::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MachineId, TimelineId};

    #[test]
    fn a_message_comes_back_as_it_was_said() {
        let said = ToMember::Command(Numbered {
            id: 7,
            command: Command::Assign(Assign {
                machine: MachineId([1; 16]),
                timeline: TimelineId([2; 8]),
                epoch: crate::ids::Epoch(3),
                writer: crate::ids::WriterId([4; 16]),
                data_key: WireKey::new([5; 32]),
                packing: Some("zstd:9".parse().expect("a codec")),
                doubted: vec!["machines/01/02/log/0000000000000003".into()],
            }),
        });
        let body = encode(&said).expect("encodes");
        assert_eq!(decode::<ToMember>(&body).expect("decodes"), said);
        assert!(!format!("{said:?}").contains("0505"), "a key never shows in Debug");
    }

    #[test]
    fn a_malformed_or_too_long_message_is_an_error() {
        for bad in ["", "{}", "null", r#"{"message":"nonsense"}"#, r#"{"message":"where""#, "\u{0}"] {
            assert!(decode::<FromMember>(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = vec![b' '; CONTROL_MESSAGE_BYTES_MAX + 1];
        assert!(matches!(decode::<FromMember>(&long), Err(BadMessage::TooLong { .. })));
    }

    #[test]
    fn a_newer_server_s_refusal_code_is_still_a_refusal() {
        let body = br#"{"message":"refused","code":"from_the_future","text":"t","remedy":"r"}"#;
        let ToMember::Refused(refusal) = decode(body).expect("decodes") else { panic!("a refusal") };
        assert_eq!(refusal.code, RefusalCode::Other);
    }
}
