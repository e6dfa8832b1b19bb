//! Why the control plane did not do what it was asked: one list of codes, from which the API's problem documents, the
//! control protocol's refusals and the documentation are made.

use farshore_engine::control::messages::{Refusal, RefusalCode};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $title:literal, $remedy:literal;)*) => {
        /// A stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FaultCode { $($(#[$doc])* $name,)* }

        impl FaultCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is written in answers and documents.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What happened, in a few words that do not change.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What to do.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

faults! {
    /// An input value is not allowed.
    InvalidValue = "invalid_value", "A value is not allowed",
        "Correct the value that the detail names and send the request again.";
    /// No such machine.
    MachineUnknown = "machine_unknown", "There is no such machine",
        "List the machines and use the id of one of them.";
    /// The machine was removed.
    MachineRemoved = "machine_removed", "The machine was removed",
        "Enrol the machine again with a new join token; its replica is still in the vault.";
    /// The machine has no owner yet.
    MachineUnassigned = "machine_unassigned", "No process server has the machine",
        "Wait until a process server is connected and the machine's protect job is done.";
    /// A job of the machine is running.
    MachineBusy = "machine_busy", "A job of the machine is running",
        "Wait for the running job; the detail names it.";
    /// The machine's protection is paused.
    MachinePaused = "machine_paused", "The machine's protection is paused",
        "Resume the machine first.";
    /// The machine's protection is not paused.
    NotPaused = "machine_not_paused", "The machine's protection is not paused",
        "Nothing: there is nothing to resume.";
    /// The item was changed since the caller saw it.
    ChangedMeanwhile = "changed_meanwhile", "The item was changed meanwhile",
        "Read the item again, and decide whether the edit is still wanted.";
    /// The job is over, or too far to be called off.
    JobNotCancellable = "job_not_cancellable", "The job cannot be cancelled now",
        "Wait for its end; the job's allowed_operations say when it can be cancelled.";
    /// The job is not one that can be done again.
    JobNotRetryable = "job_not_retryable", "The job cannot be done again",
        "Ask for the same work anew; only jobs that failed or were cancelled can be retried.";
    /// No such process server.
    ProcessServerUnknown = "process_server_unknown", "There is no such process server",
        "List the process servers and use the id of one of them.";
    /// The process server has no session.
    ProcessServerAway = "process_server_away", "The process server is not connected",
        "Start the process server or check its network, then try again.";
    /// The process server still owns machines.
    ProcessServerInUse = "process_server_in_use", "The process server still owns machines",
        "Move its machines to another process server first.";
    /// Nobody can take a machine.
    NoProcessServer = "no_process_server", "No process server can take the machine",
        "Start a process server, or join another one with a join token.";
    /// The target is the owner.
    AlreadyThere = "already_there", "The process server owns the machine already",
        "Choose another target.";
    /// The log has another owner already.
    EpochStale = "epoch_stale", "The machine's log has another owner already",
        "Nothing: the machine is assigned again under a higher epoch.";
    /// No such point.
    PointUnknown = "point_unknown", "There is no such recovery point",
        "List the machine's points and use one of them.";
    /// No such hold.
    HoldUnknown = "hold_unknown", "There is no such hold",
        "List the machine's holds and use the id of one of them.";
    /// No such served point.
    ServedPointUnknown = "served_point_unknown", "There is no such served point",
        "List the served points and use the id of one of them.";
    /// No such disk.
    DiskUnknown = "disk_unknown", "There is no such disk",
        "Use a disk that the point covers.";
    /// No such job.
    JobUnknown = "job_unknown", "There is no such job",
        "List the jobs; finished ones are kept for a while only.";
    /// No such token.
    TokenUnknown = "token_unknown", "There is no such token, or its secret is wrong",
        "Create a new token and use it exactly as it was printed.";
    /// No such webhook.
    WebhookUnknown = "webhook_unknown", "There is no such webhook",
        "List the webhooks and use the id of one of them.";
    /// The join token's time is over.
    TokenExpired = "token_expired", "The token has expired",
        "Create a new token; join tokens are valid for an hour unless another time is given.";
    /// The join token was used up.
    TokenUsedUp = "token_used_up", "The token was used as often as it may be",
        "Create a new token, or one that may be used more often.";
    /// The join token is for another role.
    TokenWrongRole = "token_wrong_role", "The token is for another role",
        "Create a token for the role that is to join.";
    /// The certificate's member is not known.
    MemberUnknown = "member_unknown", "The certificate belongs to nobody in the inventory",
        "Join again with a new join token.";
    /// The certificate request is no use.
    CertificateRequest = "certificate_request", "The certificate request cannot be signed",
        "Remove the member's identity files and join again.";
    /// The vault's key is not there.
    VaultLocked = "vault_locked", "The vault is locked",
        "Give the configuration server the vault key (key file, or passphrase) and start it again.";
    /// The vault does not answer.
    VaultUnavailable = "vault_unavailable", "The vault does not answer",
        "Check the vault's storage; replication catches up by itself once it is back.";
    /// The vault is another installation's.
    VaultForeign = "vault_foreign", "The vault belongs to another installation",
        "Choose an empty place for the vault, or start with the state directory and key of the installation it belongs to.";
    /// The state store failed.
    StateFailed = "state_failed", "The configuration server cannot write its state",
        "Check the disk under the state directory, then start the configuration server again.";
    /// A member refused or failed.
    Refused = "refused", "The other side refused",
        "The detail says why; correct that and try again.";
    /// No answer in time.
    TimedOut = "timed_out", "No answer in time",
        "It may still happen: look before trying again.";
    /// Faults are not allowed there.
    ChaosDisabled = "chaos_disabled", "Faults cannot be injected there",
        "Start the process with --enable-chaos, on a system that may fail.";
    /// No such fault.
    InjectedFaultUnknown = "injected_fault_unknown", "There is no such injected fault",
        "List the faults and use the id of one of them; a restart of its process forgets them.";
    /// Starting or restarting.
    Unavailable = "unavailable", "The configuration server is not ready",
        "Try again in a few seconds.";
}

/// No, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.title())]
pub struct Fault {
    /// Stable code.
    pub code: FaultCode,
    /// What happened here, with names and values.
    pub detail: String,
}

impl Fault {
    /// A fault with its detail.
    pub fn new(code: FaultCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// As members hear it.
    pub fn refusal(&self) -> Refusal {
        let code = match self.code {
            FaultCode::TokenUnknown => RefusalCode::TokenUnknown,
            FaultCode::TokenExpired => RefusalCode::TokenExpired,
            FaultCode::TokenUsedUp => RefusalCode::TokenUsedUp,
            FaultCode::TokenWrongRole => RefusalCode::TokenWrongRole,
            FaultCode::MemberUnknown => RefusalCode::MemberUnknown,
            FaultCode::MachineRemoved => RefusalCode::MemberRemoved,
            FaultCode::MachineUnknown => RefusalCode::MachineUnknown,
            FaultCode::InvalidValue | FaultCode::CertificateRequest => RefusalCode::Malformed,
            FaultCode::VaultLocked => RefusalCode::VaultLocked,
            FaultCode::VaultUnavailable => RefusalCode::VaultUnavailable,
            FaultCode::Unavailable => RefusalCode::Busy,
            FaultCode::TimedOut => RefusalCode::TimedOut,
            _ => RefusalCode::Internal,
        };
        Refusal::new(code, self.to_string(), self.code.remedy())
    }

    /// What a member's refusal means to whoever asked for the command.
    pub fn from_refusal(refusal: &Refusal) -> Self {
        let code = match refusal.code {
            RefusalCode::PointUnknown => FaultCode::PointUnknown,
            RefusalCode::DiskUnknown => FaultCode::DiskUnknown,
            RefusalCode::StaleEpoch => FaultCode::EpochStale,
            RefusalCode::VaultLocked => FaultCode::VaultLocked,
            RefusalCode::VaultUnavailable => FaultCode::VaultUnavailable,
            RefusalCode::TimedOut => FaultCode::TimedOut,
            RefusalCode::NotConnected => FaultCode::ProcessServerAway,
            _ => FaultCode::Refused,
        };
        Self::new(code, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_says_what_to_do() {
        let mut codes: Vec<_> = FaultCode::ALL.iter().map(|fault| fault.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), FaultCode::ALL.len());
        for fault in FaultCode::ALL {
            assert!(fault.remedy().ends_with('.') && !fault.title().ends_with('.'), "{}", fault.code());
            assert!(fault.code().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", fault.code());
        }
    }
}
