//! Restoring a point to raw images on a process server, and deleting a machine's points from the vault.

use std::time::Duration;

use farshore_engine::control::messages::{Command, CommandResult};
use farshore_engine::ids::MachineId;

use super::StepOutcome;
use crate::control::control_room::ControlRoom;
use crate::control::fault::{Fault, FaultCode};
use crate::control::ledger::jobs::JobProgressed;
use crate::control::ledger::members::PointsDeleted;
use crate::control::ledger::records::{JobKind, JobRecord, JobState, JobStep, Progress};

/// Time for an answer: the work goes on at the process server meanwhile.
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// Time between looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Has the process server restore, and follows it. The same command again tells how far it is, or begins anew where the
/// process server was restarted.
pub(super) async fn restore(room: &ControlRoom, job: &JobRecord) -> StepOutcome {
    match try_restore(room, job).await {
        Ok(outcome) => outcome,
        Err(fault) => match fault.code {
            FaultCode::Refused => StepOutcome::Failed(fault.to_string()),
            _ => StepOutcome::of(&fault),
        },
    }
}

async fn try_restore(room: &ControlRoom, job: &JobRecord) -> Result<StepOutcome, Fault> {
    let JobKind::Restore { machine, process_server, selector, ref disks, format } = job.kind else {
        return Ok(StepOutcome::Failed("this is no restore".into()));
    };
    let timeline = {
        let ledger = room.ledger();
        let known = ledger.machines.get(&machine);
        known.ok_or_else(|| Fault::new(FaultCode::MachineUnknown, format!("machine {machine}")))?.timeline
    };
    let data_key = room.vault.data_key(machine).await?;
    let mut seen = None;
    loop {
        if !runs(room, job) {
            let stop = Command::CancelRestore { restore: job.id.0 };
            return room.execute(process_server, stop, ASK_WITHIN).await.map(|_| StepOutcome::done("cancelled"));
        }
        let command = Command::RestorePoint {
            restore: job.id.0,
            machine,
            timeline,
            data_key: data_key.clone(),
            point: selector,
            disks: disks.clone(),
            format,
        };
        match room.execute(process_server, command, ASK_WITHIN).await? {
            CommandResult::Restoring { done_bytes, total_bytes } => {
                let progress = Progress { done_bytes, total_bytes };
                if seen != Some(progress) {
                    room.decide(JobProgressed { job: job.id, progress, result: None }).await?;
                    seen = Some(progress);
                }
            }
            CommandResult::Restored { directory, total_bytes } => {
                let progress = Progress { done_bytes: total_bytes, total_bytes };
                room.decide(JobProgressed { job: job.id, progress, result: Some(directory) }).await?;
                return Ok(StepOutcome::done("the point's disks are files at the process server"));
            }
            other => return Ok(StepOutcome::Failed(format!("the process server answered {other:?}"))),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn runs(room: &ControlRoom, job: &JobRecord) -> bool {
    room.ledger().jobs.get(&job.id).is_some_and(|job| job.state == JobState::Running)
}

/// Deletes a removed machine's objects, once no process server has it any more.
pub(super) async fn delete_points(room: &ControlRoom, job: &JobRecord, machine: MachineId) -> StepOutcome {
    if job.step == JobStep::Release {
        let owner = {
            let (ledger, live) = (room.ledger(), room.live());
            let has = |server: &farshore_engine::ids::ProcessServerId| live.machine_at(*server, machine).is_some();
            let away = ledger.assignments.get(&machine).map(|assignment| assignment.process_server);
            live.servers.keys().copied().find(has).or(away.filter(|owner| !live.servers.contains_key(owner)))
        };
        return match owner {
            Some(owner) => StepOutcome::Again(format!("process server {owner} has not let go of the machine yet")),
            None => StepOutcome::next(JobStep::Carry, "no process server has the machine"),
        };
    }
    let deleted = match room.vault.delete_machine(machine).await {
        Ok(deleted) => deleted,
        Err(fault) => return StepOutcome::of(&fault),
    };
    match room.decide(PointsDeleted { machine }).await {
        Ok(()) => StepOutcome::done(format!("{deleted} object(s) of the machine were deleted from the vault")),
        Err(fault) => StepOutcome::of(&fault),
    }
}
