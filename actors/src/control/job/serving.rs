//! Serving a point, and ending it: one command each, with its result written down.

use std::time::Duration;

use farshore_engine::control::messages::{Command, CommandResult};
use farshore_engine::ids::MachineId;

use super::StepOutcome;
use crate::control::control_room::ControlRoom;
use crate::control::fault::{Fault, FaultCode};
use crate::control::ledger::records::{ServeId, ServedState};
use crate::control::ledger::serve::{NotServed, NowServed, served};

/// Time for opening a point: its indexes are fetched from the vault.
const SERVE_WITHIN: Duration = Duration::from_secs(30);
/// Time for ending one.
const STOP_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn serve(room: &ControlRoom, machine: MachineId, serve: ServeId) -> StepOutcome {
    match try_serve(room, machine, serve).await {
        Ok(outcome) => outcome,
        // A point that cannot be opened now is not opened later behind the operator's back.
        Err(fault) if fault.code == FaultCode::Unavailable => StepOutcome::Again(fault.to_string()),
        Err(fault) => {
            // What was begun over there is ended by the next heartbeat's remedies.
            match room.decide(NotServed { serve }).await {
                Ok(()) => StepOutcome::Failed(fault.to_string()),
                Err(again) => StepOutcome::Again(again.to_string()),
            }
        }
    }
}

async fn try_serve(room: &ControlRoom, machine: MachineId, serve: ServeId) -> Result<StepOutcome, Fault> {
    let wanted = served(&room.ledger(), serve)?.clone();
    if wanted.state != ServedState::Starting {
        return Ok(StepOutcome::done("it is served already"));
    }
    let data_key = room.vault.data_key(machine).await?;
    let command = Command::ServePoint {
        serve: serve.0,
        machine,
        timeline: wanted.timeline,
        data_key,
        point: wanted.selector,
        disks: wanted.disks,
        read_only: wanted.read_only,
    };
    match room.execute(wanted.process_server, command, SERVE_WITHIN).await? {
        CommandResult::Served { point, exports } => {
            let detail = format!("{} disk(s) of the point at LSN {} are served", exports.len(), point.lsn);
            room.decide(NowServed { serve, point, exports }).await?;
            Ok(StepOutcome::done(detail))
        }
        other => Ok(StepOutcome::Failed(format!("the process server answered {other:?}"))),
    }
}

pub(super) async fn stop(room: &ControlRoom, serve: ServeId) -> StepOutcome {
    let wanted = served(&room.ledger(), serve).cloned();
    let Ok(wanted) = wanted else { return StepOutcome::done("it is not served any more") };
    let command = Command::StopServing { serve: serve.0 };
    match room.execute(wanted.process_server, command, STOP_WITHIN).await {
        // A process server that is away serves nothing to anybody who could be told; when it comes back, its heartbeat's
        // remedies end what it still serves.
        Ok(_) | Err(Fault { code: FaultCode::ProcessServerAway, .. }) => match room.decide(NotServed { serve }).await {
            Ok(()) => StepOutcome::done("it is no longer served"),
            Err(fault) => StepOutcome::Again(fault.to_string()),
        },
        Err(fault) => StepOutcome::of(&fault),
    }
}
