//! Jobs: long work that survives any crash, because its step is written down before it is begun and every step may be
//! done twice.
//!
//! ```text
//!   protect       prepare ─► assign ─► adopt ─► redirect
//!   move          prepare ─► release ─► assign ─► adopt ─► redirect
//!   serve         carry                              adopt ──owner away too long──► assign (another owner)
//!   stop_serving  carry          restore  carry          delete_points  release ─► carry
//! ```
//!
//! Parent: Orchestrator. An actor per running job; it ends when the job is over. Facts out: `StepOver`, `StepTrouble`,
//! `JobFailed` into the ledger.

mod ownership;
mod restoring;
mod serving;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use slog::debug;

use super::control_room::ControlRoom;
use super::fault::{Fault, FaultCode};
use super::ledger::jobs::{JobFailed, StepOver, StepTrouble};
use super::ledger::records::{JobId, JobKind, JobRecord, JobState, JobStep};
use crate::supervise::{ActorKind, Life, Ward};

/// Pause before a step is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What came of a step.
enum StepOutcome {
    /// It is over; this comes next (`None`: the job is done).
    Next(Option<JobStep>, String),
    /// It cannot be done yet.
    Again(String),
    /// It can never be done.
    Failed(String),
}

impl StepOutcome {
    fn next(step: JobStep, detail: impl Into<String>) -> Self {
        Self::Next(Some(step), detail.into())
    }

    fn done(detail: impl Into<String>) -> Self {
        Self::Next(None, detail.into())
    }

    /// Faults that pass by themselves, and those that do not.
    fn of(fault: &Fault) -> Self {
        match fault.code {
            FaultCode::Unavailable
            | FaultCode::ProcessServerAway
            | FaultCode::NoProcessServer
            | FaultCode::TimedOut
            | FaultCode::VaultLocked
            | FaultCode::VaultUnavailable
            | FaultCode::Refused => Self::Again(fault.to_string()),
            _ => Self::Failed(fault.to_string()),
        }
    }
}

/// Carries out one job.
pub(crate) struct Job {
    room: Arc<ControlRoom>,
    life: Life,
    id: JobId,
}

impl Ward for Job {
    type Id = JobId;
    type Spec = (Arc<ControlRoom>, JobId);
    const KIND: &'static str = "job";

    fn revive((room, id): Self::Spec, life: Life, _: &mut Context<Self>) -> Self {
        Self { room, life, id }
    }
}

impl Actor for Job {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        self.go_on(ctx);
    }
}

impl Job {
    /// Takes the next step, and then the one after it.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        let record = self.room.ledger().jobs.get(&self.id).filter(|job| job.state == JobState::Running).cloned();
        let Some(record) = record else { return ctx.stop() };
        self.room.chaos.check(ActorKind::Job, Some(record.kind.machine()));
        let room = self.room.clone();
        let step = async move {
            let outcome = take(&room, &record).await;
            write_down(&room, &record, outcome).await
        };
        ctx.spawn(step.into_actor(self).map(|pause, this, ctx| {
            this.life.progress();
            match pause {
                None => this.go_on(ctx),
                Some(pause) => drop(ctx.run_later(pause, Self::go_on)),
            }
        }));
    }
}

async fn take(room: &ControlRoom, job: &JobRecord) -> StepOutcome {
    match &job.kind {
        JobKind::Protect { .. } | JobKind::Move { .. } => ownership::take(room, job).await,
        JobKind::Serve { machine, serve } => serving::serve(room, *machine, *serve).await,
        JobKind::Restore { .. } => restoring::restore(room, job).await,
        JobKind::DeletePoints { machine } => restoring::delete_points(room, job, *machine).await,
        JobKind::StopServing { serve, .. } => serving::stop(room, *serve).await,
    }
}

/// Writes a step's outcome down; answers how long to pause before the next step.
async fn write_down(room: &ControlRoom, job: &JobRecord, outcome: StepOutcome) -> Option<Duration> {
    debug!(room.log, "a job's step"; "job" => job.id.0, "kind" => job.kind.name(), "step" => ?job.step);
    let (written, pause) = match outcome {
        StepOutcome::Next(next, detail) => {
            (room.decide(StepOver { job: job.id, step: job.step, detail, next }).await.map(drop), None)
        }
        StepOutcome::Again(trouble) => {
            (room.decide(StepTrouble { job: job.id, trouble }).await.map(drop), Some(AGAIN_AFTER))
        }
        StepOutcome::Failed(why) => (room.decide(JobFailed { job: job.id, why }).await.map(drop), None),
    };
    match written {
        Ok(()) => pause,
        // Not written: the step is taken again, which does no harm.
        Err(_) => Some(AGAIN_AFTER),
    }
}
