//! Jobs: how they begin, go on and end.

use farshore_engine::control::messages::{PointSelector, Severity};
use farshore_engine::ids::{DiskNo, MachineId, ProcessServerId};
use farshore_engine::record::DISKS_MAX;
use farshore_engine::vault::export::Format;

use super::members::{RemoveMachine, process_server};
use super::records::{JobId, JobKind, JobRecord, JobState, JobStep, Machine, Progress, StepDone, Subject};
use super::serve::NotServed;
use super::{Decision, Draft, Ledger};
use crate::control::fault::{Fault, FaultCode};

/// Finished jobs that are kept.
const FINISHED_MAX: usize = 1000;
/// Steps of one job that are kept: the last ones, for a job that tries again and again.
const STEPS_MAX: usize = 6;
/// Longest text of a step or of a job's trouble, in characters: with six of them a record stays below 4 KiB.
const DETAIL_CHARS_MAX: usize = 100;
/// Longest result of a job, in characters.
const RESULT_CHARS_MAX: usize = 200;

/// Writes a job into the draft.
pub(super) fn draft_job(draft: &mut Draft<'_>, kind: JobKind, by: String) -> JobRecord {
    let step = match kind {
        JobKind::Protect { .. } | JobKind::Move { .. } => JobStep::Prepare,
        JobKind::DeletePoints { .. } => JobStep::Release,
        JobKind::Serve { .. } | JobKind::StopServing { .. } | JobKind::Restore { .. } => JobStep::Carry,
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
        progress: None,
        result: None,
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
        if machine.paused {
            return Err(Fault::new(FaultCode::MachinePaused, format!("machine '{}'", machine.name)));
        }
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
        let machine = draft.ledger.machine(self.machine)?;
        if machine.paused {
            return Err(Fault::new(FaultCode::MachinePaused, format!("machine '{}'", machine.name)));
        }
        refuse_a_second(draft, self.machine)?;
        Ok(draft_job(draft, JobKind::Protect { machine: self.machine }, self.by))
    }
}

pub(super) fn refuse_a_second(draft: &Draft<'_>, machine: MachineId) -> Result<(), Fault> {
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

/// How far a job is.
pub struct JobProgressed {
    /// The job.
    pub job: JobId,
    /// How far.
    pub progress: Progress,
    /// What came of it, once that is so.
    pub result: Option<String>,
}

impl Decision for JobProgressed {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let job = running(draft, self.job)?;
        let result = self.result.map(|result| draft.text(result).chars().take(RESULT_CHARS_MAX).collect());
        let (progress, updated_at) = (Some(self.progress), draft.now);
        draft.put(&JobRecord { progress, result, updated_at, trouble: None, ..job });
        Ok(())
    }
}

/// Begins to write a point's disks to files.
pub struct BeginRestore {
    /// The machine.
    pub machine: MachineId,
    /// Where.
    pub process_server: ProcessServerId,
    /// Which point.
    pub selector: PointSelector,
    /// Which disks; empty: all.
    pub disks: Vec<DiskNo>,
    /// As what.
    pub format: Format,
    /// Who asks.
    pub by: String,
}

impl Decision for BeginRestore {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let Self { machine, process_server: server, selector, disks, format, by } = self;
        with_points(draft.ledger, machine)?;
        process_server(draft.ledger, server)?;
        if disks.len() > DISKS_MAX {
            return Err(Fault::new(FaultCode::InvalidValue, format!("at most {DISKS_MAX} disks can be named")));
        }
        Ok(draft_job(draft, JobKind::Restore { machine, process_server: server, selector, disks, format }, by))
    }
}

/// Begins to delete a removed machine's replica.
pub struct BeginDeletePoints {
    /// The machine.
    pub machine: MachineId,
    /// Who asks.
    pub by: String,
}

impl Decision for BeginDeletePoints {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let machine = with_points(draft.ledger, self.machine)?.clone();
        let busy = |detail: String| Err(Fault::new(FaultCode::MachineBusy, detail));
        if let Some(served) = draft.ledger.served.iter().find(|served| served.machine == self.machine) {
            return busy(format!("its point is served as {}: stop that first", served.id));
        }
        if let Some(job) = draft.ledger.running_jobs().find(|job| job.kind.machine() == self.machine) {
            return busy(format!("job {} ({})", job.id, job.kind.name()));
        }
        if !machine.removed {
            RemoveMachine { machine: self.machine, by: self.by.clone() }.decide(draft)?;
        }
        let text = format!("{} asked to delete every recovery point of machine '{}'.", self.by, machine.name);
        draft.event(Severity::Warning, "points_deletion_requested", Subject::Machine(self.machine), text);
        Ok(draft_job(draft, JobKind::DeletePoints { machine: self.machine }, self.by))
    }
}

/// A machine whose replica is in the vault.
pub(super) fn with_points(ledger: &Ledger, machine: MachineId) -> Result<&Machine, Fault> {
    let known = ledger.machines.get(&machine);
    let known = known.ok_or_else(|| Fault::new(FaultCode::MachineUnknown, format!("machine {machine}")))?;
    match known.points_deleted {
        true => {
            Err(Fault::new(FaultCode::PointUnknown, format!("the points of machine '{}' were deleted", known.name)))
        }
        false => Ok(known),
    }
}

/// Whether a job can be called off now: nothing that it did so far would have to be undone.
fn can_cancel(job: &JobRecord) -> bool {
    let early = matches!(job.step, JobStep::Prepare | JobStep::Release);
    job.state == JobState::Running
        && match job.kind {
            JobKind::Move { .. } | JobKind::DeletePoints { .. } => early,
            JobKind::Serve { .. } | JobKind::Restore { .. } => true,
            JobKind::Protect { .. } | JobKind::StopServing { .. } => false,
        }
}

fn can_retry(job: &JobRecord) -> bool {
    let over = matches!(job.state, JobState::Failed | JobState::Cancelled);
    over && !matches!(job.kind, JobKind::Serve { .. } | JobKind::StopServing { .. })
}

/// What may be done with a job now.
pub fn operations(job: &JobRecord) -> Vec<&'static str> {
    let all = [("cancel", can_cancel(job)), ("retry", can_retry(job))];
    all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name).collect()
}

/// Calls a job off.
pub struct CancelJob {
    /// The job.
    pub job: JobId,
    /// Who asks.
    pub by: String,
}

impl Decision for CancelJob {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let job = known(draft.ledger, self.job)?.clone();
        if !can_cancel(&job) {
            let detail = format!("job {} ({}) is {:?} at {:?}", job.id, job.kind.name(), job.state, job.step);
            return Err(Fault::new(FaultCode::JobNotCancellable, detail));
        }
        let text = format!("{} cancelled job {} ({}).", self.by, job.id, job.kind.name());
        draft.event(Severity::Info, "job_cancelled", Subject::Machine(job.kind.machine()), &text);
        if let JobKind::Serve { serve, .. } = job.kind {
            // What was begun at the process server is ended by its next heartbeat's remedies.
            NotServed { serve }.decide(draft)?;
        }
        let trouble = Some(short(draft, &text));
        let job = JobRecord { state: JobState::Cancelled, trouble, updated_at: draft.now, ..job };
        draft.put(&job);
        Ok(job)
    }
}

/// Does again what a job did not.
pub struct RetryJob {
    /// The job.
    pub job: JobId,
    /// Who asks.
    pub by: String,
}

impl Decision for RetryJob {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let (job, by) = (known(draft.ledger, self.job)?.clone(), self.by);
        if !can_retry(&job) {
            let detail = format!("job {} ({}) is {:?}", job.id, job.kind.name(), job.state);
            return Err(Fault::new(FaultCode::JobNotRetryable, detail));
        }
        match job.kind {
            JobKind::Protect { machine } => BeginProtect { machine, by }.decide(draft),
            JobKind::Move { machine, target, .. } => BeginMove { machine, target, by }.decide(draft),
            JobKind::Restore { machine, process_server, selector, disks, format } => {
                BeginRestore { machine, process_server, selector, disks, format, by }.decide(draft)
            }
            JobKind::DeletePoints { machine } => BeginDeletePoints { machine, by }.decide(draft),
            JobKind::Serve { .. } | JobKind::StopServing { .. } => unreachable!("can_retry says no"),
        }
    }
}

fn known(ledger: &Ledger, id: JobId) -> Result<&JobRecord, Fault> {
    ledger.jobs.get(&id).ok_or_else(|| Fault::new(FaultCode::JobUnknown, format!("job {id}")))
}

fn running(draft: &Draft<'_>, id: JobId) -> Result<JobRecord, Fault> {
    let job = draft.ledger.jobs.get(&id).filter(|job| job.state == JobState::Running);
    job.cloned().ok_or_else(|| Fault::new(FaultCode::JobUnknown, format!("job {id} is not running")))
}

fn short(draft: &Draft<'_>, text: &str) -> String {
    draft.text(text).chars().take(DETAIL_CHARS_MAX).collect()
}
