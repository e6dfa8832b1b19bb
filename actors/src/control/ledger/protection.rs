//! How a machine is protected: its policy, and whether it is paused.
//!
//! A pause is one bit that is durable before it acts: the owner is told to let go by its next heartbeat's remedies, agents
//! hear of no owner, and no protect job begins. Writes meanwhile stay hot on the machine; resuming gives the log a new
//! owner, and the scanner brings what is hot.

use std::ops::RangeInclusive;

use farshore_engine::control::messages::Severity;
use farshore_engine::ids::MachineId;

use super::jobs::{draft_job, refuse_a_second};
use super::records::{JobKind, JobRecord, Machine, MachinePolicy, Subject};
use super::{Decision, Draft, check_label};
use crate::control::fault::{Fault, FaultCode};

/// Longest RPO that can be wanted, in seconds: a day.
const RPO_SECONDS_MAX: u64 = 86_400;

/// Mark intervals that can be wanted, in milliseconds: as the settings take them.
const MARK_INTERVAL_MS: RangeInclusive<u64> = 100..=3_600_000;

/// Pauses a machine's protection.
pub struct PauseMachine {
    /// The machine.
    pub machine: MachineId,
    /// Who asks.
    pub by: String,
}

impl Decision for PauseMachine {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let machine = draft.ledger.machine(self.machine)?.clone();
        if machine.paused {
            return Ok(());
        }
        refuse_a_second(draft, self.machine)?;
        let text = format!(
            "{} paused the protection of machine '{}': its writes stay on the machine until it is resumed.",
            self.by, machine.name
        );
        let revision = machine.revision + 1;
        draft.put(&Machine { paused: true, revision, ..machine });
        draft.event(Severity::Warning, "machine_paused", Subject::Machine(self.machine), text);
        Ok(())
    }
}

/// Resumes a machine's protection: a job finds it an owner.
pub struct ResumeMachine {
    /// The machine.
    pub machine: MachineId,
    /// Who asks.
    pub by: String,
}

impl Decision for ResumeMachine {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let machine = draft.ledger.machine(self.machine)?.clone();
        if !machine.paused {
            let detail = format!("machine '{}' is not paused", machine.name);
            return Err(Fault::new(FaultCode::NotPaused, detail));
        }
        refuse_a_second(draft, self.machine)?;
        let text = format!("{} resumed the protection of machine '{}'.", self.by, machine.name);
        let revision = machine.revision + 1;
        draft.put(&Machine { paused: false, revision, ..machine });
        draft.event(Severity::Info, "machine_resumed", Subject::Machine(self.machine), text);
        Ok(draft_job(draft, JobKind::Protect { machine: self.machine }, self.by))
    }
}

/// Has a machine's disks read again, and sent where its log may not have them.
pub struct ResyncMachine {
    /// The machine.
    pub machine: MachineId,
    /// Who asks.
    pub by: String,
}

impl Decision for ResyncMachine {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let machine = draft.ledger.machine(self.machine)?.clone();
        let text = format!(
            "{} asked for the disks of machine '{}' to be read again: its agent begins when it is connected and has a session.",
            self.by, machine.name
        );
        draft.put(&Machine { resyncs: machine.resyncs + 1, revision: machine.revision + 1, ..machine });
        draft.event(Severity::Warning, "resync_asked", Subject::Machine(self.machine), text);
        Ok(())
    }
}

/// Changes a machine's label and policy.
pub struct EditMachine {
    /// The machine.
    pub machine: MachineId,
    /// Which revision the caller saw.
    pub seen: u64,
    /// Its label from now on.
    pub name: Option<String>,
    /// Its policy from now on.
    pub policy: Option<MachinePolicy>,
    /// Who asks.
    pub by: String,
}

impl Decision for EditMachine {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let machine = draft.ledger.machine(self.machine)?.clone();
        if machine.revision != self.seen {
            let detail = format!("machine '{}' is at revision {}, not {}", machine.name, machine.revision, self.seen);
            return Err(Fault::new(FaultCode::ChangedMeanwhile, detail));
        }
        let name = self.name.unwrap_or_else(|| machine.name.clone());
        check_label(&name, "a name")?;
        let policy = self.policy.unwrap_or(machine.policy);
        check_policy(&policy)?;
        let text = format!("{} changed the name or policy of machine '{name}'.", self.by);
        draft.put(&Machine { name, policy, revision: machine.revision + 1, ..machine });
        draft.event(Severity::Info, "machine_edited", Subject::Machine(self.machine), text);
        Ok(())
    }
}

fn check_policy(policy: &MachinePolicy) -> Result<(), Fault> {
    let invalid = |detail: &str| Err(Fault::new(FaultCode::InvalidValue, detail));
    let MachinePolicy { rpo_warning_seconds: warning, rpo_critical_seconds: critical, mark_interval_ms, .. } = *policy;
    if mark_interval_ms.is_some_and(|ms| !MARK_INTERVAL_MS.contains(&ms)) {
        return invalid("a mark interval lies in 100 to 3600000 milliseconds");
    }
    if [warning, critical].into_iter().flatten().any(|seconds| !(1..=RPO_SECONDS_MAX).contains(&seconds)) {
        return invalid("an RPO lies in 1 to 86400 seconds");
    }
    if warning.zip(critical).is_some_and(|(warning, critical)| warning > critical) {
        return invalid("the RPO of a warning is not longer than the critical one");
    }
    Ok(())
}
