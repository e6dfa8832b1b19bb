//! Jobs: how they begin, go on and end.

use farshore_engine::control::messages::Severity;
use farshore_engine::ids::{MachineId, ProcessServerId};

use super::members::process_server;
use super::records::{JobId, JobKind, JobRecord, JobState, JobStep, StepDone, Subject};
use super::{Decision, Draft};
use crate::control::fault::{Fault, FaultCode};

/// Finished jobs that are kept.
const FINISHED_MAX: usize = 1000;
/// Steps of one job that are kept: the last ones, for a job that tries again and again.
const STEPS_MAX: usize = 6;
/// Longest text of a step or of a job's trouble, in characters: with six of them a record stays below 4 KiB.
const DETAIL_CHARS_MAX: usize = 100;

/// Writes a job into the draft.
pub(super) fn draft_job(draft: &mut Draft<'_>, kind: JobKind, by: String) -> JobRecord {
    let step = match kind {
        JobKind::Protect { .. } | JobKind::Move { .. } => JobStep::Prepare,
        JobKind::Serve { .. } | JobKind::StopServing { .. } => JobStep::Carry,
    };
    let by = draft.text(by).chars().take(100).collect();
    let job = JobRecord {
        id: draft.next_job(),
        kind,
        state: JobState::Running,
        step,
        done: Vec::new(),
        created_at: draft.now,
        updated_at: draft.now,
        trouble: None,
        by,
    };
    draft.put(&job);
    let finished = draft.ledger.jobs.iter().filter(|job| job.state != JobState::Running);
    let finished: Vec<JobId> = finished.map(|job| job.id).collect();
    let too_many = finished.len().saturating_sub(FINISHED_MAX);
    finished[..too_many].iter().for_each(|id| draft.delete::<JobRecord>(id));
    job
}

/// Begins to move a machine.
pub struct BeginMove {
    /// The machine.
    pub machine: MachineId,
    /// Where to.
    pub target: ProcessServerId,
    /// Who asks.
    pub by: String,
}

impl Decision for BeginMove {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let machine = draft.ledger.machine(self.machine)?;
        let target = process_server(draft.ledger, self.target)?;
        let Some(assignment) = draft.ledger.assignments.get(&self.machine) else {
            return Err(Fault::new(FaultCode::MachineUnassigned, format!("machine '{}'", machine.name)));
        };
        refuse_a_second(draft, self.machine)?;
        if assignment.process_server == self.target {
            let detail = format!("machine '{}' is on process server '{}'", machine.name, target.name);
            return Err(Fault::new(FaultCode::AlreadyThere, detail));
        }
        let kind = JobKind::Move { machine: self.machine, source: assignment.process_server, target: self.target };
        let text = format!("{} asked to move machine '{}' to process server '{}'.", self.by, machine.name, target.name);
        draft.event(Severity::Info, "move_requested", Subject::Machine(self.machine), text);
        Ok(draft_job(draft, kind, self.by))
    }
}

/// Begins to find an owner for a machine that has none that works.
pub struct BeginProtect {
    /// The machine.
    pub machine: MachineId,
    /// Who asks.
    pub by: String,
}

impl Decision for BeginProtect {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        draft.ledger.machine(self.machine)?;
        refuse_a_second(draft, self.machine)?;
        Ok(draft_job(draft, JobKind::Protect { machine: self.machine }, self.by))
    }
}

fn refuse_a_second(draft: &Draft<'_>, machine: MachineId) -> Result<(), Fault> {
    let other = draft.ledger.running_jobs().find(|job| job.kind.machine() == machine && job.kind.changes_owner());
    match other {
        Some(job) => Err(Fault::new(FaultCode::MachineBusy, format!("job {} ({})", job.id, job.kind.name()))),
        None => Ok(()),
    }
}

/// A step of a job is over; the next one is written down before it is begun.
pub struct StepOver {
    /// The job.
    pub job: JobId,
    /// The step that is over.
    pub step: JobStep,
    /// What came of it.
    pub detail: String,
    /// What comes next; `None`: the job is done.
    pub next: Option<JobStep>,
}

impl Decision for StepOver {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let mut job = running(draft, self.job)?;
        if job.step != self.step {
            // This step was taken by an earlier life of the same job, which did not hear of it.
            return Ok(job);
        }
        let detail = short(draft, &self.detail);
        job.done.push(StepDone { step: self.step, at: draft.now, detail });
        let surplus = job.done.len().saturating_sub(STEPS_MAX);
        job.done.drain(..surplus);
        job.updated_at = draft.now;
        job.trouble = None;
        match self.next {
            Some(next) => job.step = next,
            None => {
                job.state = JobState::Done;
                let text = format!("Job {} ({}) is done. {}", job.id, job.kind.name(), self.detail);
                draft.event(Severity::Info, "job_done", Subject::Machine(job.kind.machine()), text);
            }
        }
        draft.put(&job);
        Ok(job)
    }
}

/// A job's step is tried again, and why.
pub struct StepTrouble {
    /// The job.
    pub job: JobId,
    /// Why.
    pub trouble: String,
}

impl Decision for StepTrouble {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let mut job = running(draft, self.job)?;
        let trouble = short(draft, &self.trouble);
        if job.trouble.as_ref() != Some(&trouble) {
            let text = format!("Job {} ({}) cannot go on yet: {}", job.id, job.kind.name(), self.trouble);
            draft.event(Severity::Warning, "job_waits", Subject::Machine(job.kind.machine()), text);
            job.trouble = Some(trouble);
            job.updated_at = draft.now;
            draft.put(&job);
        }
        Ok(job)
    }
}

/// A job could not be done.
pub struct JobFailed {
    /// The job.
    pub job: JobId,
    /// Why.
    pub why: String,
}

impl Decision for JobFailed {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let mut job = running(draft, self.job)?;
        job.state = JobState::Failed;
        job.trouble = Some(short(draft, &self.why));
        job.updated_at = draft.now;
        let text = format!("Job {} ({}) failed: {}", job.id, job.kind.name(), self.why);
        draft.event(Severity::Warning, "job_failed", Subject::Machine(job.kind.machine()), text);
        draft.put(&job);
        Ok(job)
    }
}

fn running(draft: &Draft<'_>, id: JobId) -> Result<JobRecord, Fault> {
    let job = draft.ledger.jobs.get(&id).filter(|job| job.state == JobState::Running);
    job.cloned().ok_or_else(|| Fault::new(FaultCode::JobUnknown, format!("job {id} is not running")))
}

fn short(draft: &Draft<'_>, text: &str) -> String {
    draft.text(text).chars().take(DETAIL_CHARS_MAX).collect()
}
