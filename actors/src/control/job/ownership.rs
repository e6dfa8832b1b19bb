//! Protect and move: a machine's log gets an owner, or another one.
//!
//! ```text
//!   config server            source                target                 agent
//!     │ prepare: target connected?
//!     │── Release(e) ────────► upload, let go (bounded; skipped when it is away)
//!     │ assign: (target, e+1) written down
//!     │── Assign(e+1) ──────────────────────────────► fence, learn the tail
//!     │◄────────────────────────────────── Assigned ─┤
//!     │ adopted: written down; from here agents may hear of it
//!     │── Redirect ──────────────────────────────────────────────────────────►│ (control session)
//!     │── Redirect ──────────► tells the agent as well, if it is still there
//! ```
//!
//! A source that is dead or stopped cannot do harm: the fence is what ends its ownership, not its consent (I4).

use std::time::Duration;

use farshore_engine::control::messages::{Assign, Command, CommandResult};
use farshore_engine::ids::{Epoch, MachineId, ProcessServerId, Timestamp};

use super::StepOutcome;
use crate::control::control_room::ControlRoom;
use crate::control::fault::{Fault, FaultCode};
use crate::control::ledger::Ledger;
use crate::control::ledger::assign::{Adopted, AssignTo, epoch_of, told_to_agent};
use crate::control::ledger::records::{AssignmentRecord, AssignmentStage, JobKind, JobRecord, JobStep};
use crate::control::live::{Live, Reach};
use crate::supervise::wall_clock;

/// Time for telling the source's agent.
const REDIRECT_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn take(room: &ControlRoom, job: &JobRecord) -> StepOutcome {
    let outcome = match job.step {
        JobStep::Prepare => prepare(room, job),
        JobStep::Release => release(room, job).await,
        JobStep::Assign => assign(room, job).await,
        JobStep::Adopt => adopt(room, job).await,
        JobStep::Redirect => redirect(room, job).await,
        JobStep::Carry => Ok(StepOutcome::Failed("an ownership job has no such step".into())),
    };
    outcome.unwrap_or_else(|fault| StepOutcome::of(&fault))
}

/// How a process server is to be reached; `None`: too early to say.
fn reach(room: &ControlRoom, server: ProcessServerId) -> Option<Reach> {
    let (now, live) = (wall_clock(), room.live());
    let reach = live.reach(server, now);
    (reach != Reach::Away || live.settled(now)).then_some(reach)
}

fn prepare(room: &ControlRoom, job: &JobRecord) -> Result<StepOutcome, Fault> {
    room.ledger().machine(job.kind.machine())?;
    match &job.kind {
        JobKind::Move { target, .. } => match reach(room, *target) {
            Some(Reach::Connected) => Ok(StepOutcome::next(JobStep::Release, "the target is connected")),
            None => Ok(StepOutcome::Again(format!("process server {target} is not back yet"))),
            // Nothing has happened yet: the operator hears at once that it cannot be done.
            Some(_) => Ok(StepOutcome::Failed(format!("process server {target} is not connected"))),
        },
        _ => {
            let owner = choose(&room.ledger(), &room.live(), job.kind.machine(), wall_clock())?;
            Ok(StepOutcome::next(JobStep::Assign, format!("process server {owner} can take it")))
        }
    }
}

async fn release(room: &ControlRoom, job: &JobRecord) -> Result<StepOutcome, Fault> {
    let JobKind::Move { machine, source, .. } = job.kind else {
        return Ok(StepOutcome::next(JobStep::Assign, "nothing to release"));
    };
    match reach(room, source) {
        Some(Reach::Connected) => {}
        None => return Ok(StepOutcome::Again(format!("process server {source} is not back yet"))),
        Some(_) => return Ok(StepOutcome::next(JobStep::Assign, "the source is not connected: release skipped")),
    }
    let within = room.policy.release_within;
    let epoch = epoch_of(&room.ledger(), machine);
    let command = Command::Release { machine, epoch, within_ms: within.as_millis() as u64 };
    let detail = match room.execute(source, command, within + Duration::from_secs(1)).await {
        Ok(CommandResult::Released { committed, durable }) => {
            format!("released: committed up to LSN {committed}, durable up to {durable}")
        }
        Ok(_) => "released".to_owned(),
        // The fence makes it safe without the source.
        Err(fault) => format!("the source did not release ({fault}): its ownership ends with the fence"),
    };
    Ok(StepOutcome::next(JobStep::Assign, detail))
}

async fn assign(room: &ControlRoom, job: &JobRecord) -> Result<StepOutcome, Fault> {
    let machine = job.kind.machine();
    let (owner, seen, written) = {
        let ledger = room.ledger();
        let owner = match job.kind {
            JobKind::Move { target, .. } => target,
            _ => choose(&ledger, &room.live(), machine, wall_clock())?,
        };
        let now = ledger.assignments.get(&machine);
        // An earlier life of this job wrote it down and died before it could say so.
        let written = now.filter(|now| now.stage == AssignmentStage::Adopting && now.process_server == owner);
        (owner, epoch_of(&ledger, machine), written.cloned())
    };
    let assignment = match written {
        Some(assignment) => assignment,
        None => room.decide(AssignTo { machine, process_server: owner, seen, above: Epoch::ZERO }).await?,
    };
    Ok(StepOutcome::next(JobStep::Adopt, format!("process server {owner} under epoch {}", assignment.epoch)))
}

async fn adopt(room: &ControlRoom, job: &JobRecord) -> Result<StepOutcome, Fault> {
    let machine = job.kind.machine();
    let (assignment, (timeline, packing)) = {
        let ledger = room.ledger();
        let assignment = ledger.assignments.get(&machine).cloned();
        let known = ledger.machine(machine)?;
        (assignment, (known.timeline, room.policy.packing_of(known)))
    };
    let Some(assignment) = assignment else { return Ok(StepOutcome::next(JobStep::Assign, "nothing is assigned")) };
    let AssignmentRecord { process_server, epoch, writer, .. } = assignment;
    let data_key = room.vault.data_key(machine).await?;
    let doubted = room.live().doubted.get(&machine).cloned().unwrap_or_default();
    let packing = Some(packing);
    let command = Command::Assign(Assign { machine, timeline, epoch, writer, data_key, packing, doubted });
    match room.execute(process_server, command, room.policy.adopt_within).await {
        Ok(CommandResult::AssignStale { highest }) => {
            // The log knows a higher epoch than the ledger: the ledger came from an older export, or a rival was there.
            room.decide(AssignTo { machine, process_server, seen: epoch, above: highest }).await?;
            Ok(StepOutcome::Again(format!("the log is at epoch {highest}: a higher one is assigned")))
        }
        Ok(result) => {
            room.decide(Adopted { machine, epoch }).await?;
            let detail = match result {
                CommandResult::Assigned { committed, next_slot } => {
                    format!("adopted at slot {next_slot}, committed up to LSN {committed}")
                }
                _ => "adopted".to_owned(),
            };
            Ok(StepOutcome::next(JobStep::Redirect, detail))
        }
        Err(fault) if fault.code == FaultCode::EpochStale => {
            room.decide(AssignTo { machine, process_server, seen: epoch, above: epoch }).await?;
            Ok(StepOutcome::Again(format!("{fault}: the next epoch is assigned")))
        }
        Err(fault) => given_up(room, job, &assignment, &fault).await,
    }
}

/// The new owner did not adopt: again, or with another owner when that has taken too long.
async fn given_up(
    room: &ControlRoom,
    job: &JobRecord,
    assignment: &AssignmentRecord,
    fault: &Fault,
) -> Result<StepOutcome, Fault> {
    let now = wall_clock();
    let waited = now.micros_since(assignment.since);
    if waited < room.policy.adopt_within.as_micros() as u64 {
        return Ok(StepOutcome::of(fault));
    }
    let JobKind::Move { machine, source, .. } = job.kind else {
        return Ok(StepOutcome::next(JobStep::Assign, format!("the owner did not adopt ({fault})")));
    };
    if room.live().reach(source, now) != Reach::Connected || assignment.process_server == source {
        // Neither can take it: there is nothing better than to go on trying.
        return Ok(StepOutcome::Again(fault.to_string()));
    }
    // Back to where it came from, under the next epoch.
    room.decide(AssignTo { machine, process_server: source, seen: assignment.epoch, above: Epoch::ZERO }).await?;
    Ok(StepOutcome::Again(format!("the target did not adopt ({fault}): the machine goes back to its source")))
}

async fn redirect(room: &ControlRoom, job: &JobRecord) -> Result<StepOutcome, Fault> {
    let machine = job.kind.machine();
    let told = told_to_agent(&room.ledger(), machine);
    let Some(told) = told else { return Ok(StepOutcome::done("the machine was removed meanwhile")) };
    let JobKind::Move { source, target, .. } = job.kind else {
        return Ok(StepOutcome::done(format!("process server {} owns the log", told.process_server)));
    };
    if told.process_server != target {
        return Ok(StepOutcome::Failed(format!(
            "process server {target} did not adopt; the machine is back at {source}"
        )));
    }
    // The agent hears it over its own control session; this is for one whose session is down.
    let command = Command::Redirect { machine, epoch: told.epoch, addresses: told.addresses };
    let detail = match room.execute(source, command, REDIRECT_WITHIN).await {
        Ok(_) => "the agent is redirected",
        Err(_) => "the agent is redirected over its control session; the source could not be told",
    };
    Ok(StepOutcome::done(detail))
}

/// Who takes a machine: its present owner where that is connected, otherwise the connected one with the fewest machines.
fn choose(ledger: &Ledger, live: &Live, machine: MachineId, now: Timestamp) -> Result<ProcessServerId, Fault> {
    let connected = |id: ProcessServerId| live.reach(id, now) == Reach::Connected;
    let candidates = ledger.process_servers.iter().filter(|server| !server.removed && connected(server.id));
    let owner = ledger.assignments.get(&machine).map(|assignment| assignment.process_server);
    let owns = |id| ledger.assignments.iter().filter(|assignment| assignment.process_server == id).count();
    let best = candidates.min_by_key(|server| (owner != Some(server.id), owns(server.id), server.id));
    best.map(|server| server.id).ok_or_else(|| Fault::new(FaultCode::NoProcessServer, "no process server is connected"))
}
