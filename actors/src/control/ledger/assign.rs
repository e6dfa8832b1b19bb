//! Assignments: machine → (process server, epoch, writer), persisted before anybody acts on it (I4).

use farshore_engine::control::messages::{Assignment, Severity};
use farshore_engine::ids::{Epoch, MachineId, ProcessServerId, WriterId};

use super::members::process_server;
use super::records::{AssignmentRecord, AssignmentStage, Subject};
use super::{Decision, Draft, Ledger};
use crate::control::fault::{Fault, FaultCode};

/// Gives a machine an owner under an epoch that is higher than every one before.
pub struct AssignTo {
    /// The machine.
    pub machine: MachineId,
    /// Its next owner.
    pub process_server: ProcessServerId,
    /// The epoch that the caller saw; another one means that somebody else decided meanwhile.
    pub seen: Epoch,
    /// The highest epoch that the log is known to have, where the vault said so.
    pub above: Epoch,
}

impl Decision for AssignTo {
    type Outcome = AssignmentRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<AssignmentRecord, Fault> {
        draft.ledger.machine(self.machine)?;
        process_server(draft.ledger, self.process_server)?;
        let now = epoch_of(draft.ledger, self.machine);
        if now != self.seen {
            let detail = format!("machine {} is at epoch {now}, not {}", self.machine, self.seen);
            return Err(Fault::new(FaultCode::MachineBusy, detail));
        }
        let assignment = AssignmentRecord {
            machine: self.machine,
            process_server: self.process_server,
            epoch: now.max(self.above).next(),
            writer: WriterId::draw(draft.chance),
            stage: AssignmentStage::Adopting,
            since: draft.now,
        };
        draft.put(&assignment);
        Ok(assignment)
    }
}

/// The owner's fence is in the log: agents may hear of it.
pub struct Adopted {
    /// The machine.
    pub machine: MachineId,
    /// The epoch that was adopted.
    pub epoch: Epoch,
}

impl Decision for Adopted {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let assignment = draft.ledger.assignments.get(&self.machine).filter(|now| now.epoch == self.epoch);
        let Some(assignment) = assignment else {
            let detail = format!("machine {} is no longer at epoch {}", self.machine, self.epoch);
            return Err(Fault::new(FaultCode::MachineBusy, detail));
        };
        if assignment.stage == AssignmentStage::Active {
            return Ok(());
        }
        draft.put(&AssignmentRecord { stage: AssignmentStage::Active, ..assignment.clone() });
        let name = draft.ledger.process_servers.get(&assignment.process_server).map_or("?", |server| &server.name);
        let text = format!("Process server '{name}' owns the machine's log under epoch {}.", self.epoch);
        draft.event(Severity::Info, "machine_adopted", Subject::Machine(self.machine), text);
        Ok(())
    }
}

/// The highest epoch ever given to a machine.
pub fn epoch_of(ledger: &Ledger, machine: MachineId) -> Epoch {
    ledger.assignments.get(&machine).map_or(Epoch::ZERO, |assignment| assignment.epoch)
}

/// What an agent may know of its owner.
pub fn told_to_agent(ledger: &Ledger, machine: MachineId) -> Option<Assignment> {
    let timeline = ledger.machine(machine).ok().filter(|machine| !machine.paused)?.timeline;
    let assignment = ledger.assignments.get(&machine).filter(|now| now.stage == AssignmentStage::Active)?;
    let server = ledger.process_servers.get(&assignment.process_server)?;
    Some(Assignment {
        timeline,
        epoch: assignment.epoch,
        process_server: assignment.process_server,
        addresses: server.addresses.clone(),
    })
}
