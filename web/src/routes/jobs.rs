//! Jobs: long work that goes on after any crash.

use std::time::Duration;

use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, get, post, web};
use farshore_actors::control::ledger::jobs;
use farshore_actors::control::ledger::records::{JobId, JobKind, JobRecord, JobState};
use farshore_actors::control::plane::ControlPlane;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Operator, Viewer};
use crate::page::{Page, PageQuery};
use crate::problem::Problem;
use crate::routes::machines::resolve;
use crate::server::Api;
use crate::show::{self, name_of, operations};

/// Time between looks at a job that is waited for: reading the ledger costs a lock and a few copies.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobBody {
    /// Its number.
    pub id: String,
    /// `protect`, `move`, `serve`, `stop_serving`, `restore` or `delete_points`.
    pub kind: String,
    /// The machine that it is about.
    pub machine: String,
    /// The process server before, of a move.
    pub source: Option<String>,
    /// The process server after, of a move; where it is restored, of a restore.
    pub target: Option<String>,
    /// The served point that it is about.
    pub served_point: Option<String>,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The step it is at, or was at when it ended.
    pub step: String,
    /// The steps that it takes when nothing comes in between.
    pub steps: Vec<String>,
    /// Steps that are over.
    pub steps_done: Vec<StepBody>,
    /// Why it failed, or why its step is being tried again.
    pub trouble: Option<String>,
    /// How far its present step is, where that can be said.
    pub progress: Option<ProgressBody>,
    /// What came of it: the directory on the process server's host, of a restore.
    pub result: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// When it was made.
    pub created_at: String,
    /// When it last went on.
    pub updated_at: String,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

/// How far something is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ProgressBody {
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes that there are; 0 until that is known.
    pub total_bytes: u64,
}

/// A step that is over.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepBody {
    /// The step.
    pub step: String,
    /// When it was over.
    pub at: String,
    /// What came of it.
    pub detail: String,
}

impl From<JobRecord> for JobBody {
    fn from(job: JobRecord) -> Self {
        let (source, target) = match &job.kind {
            JobKind::Move { source, target, .. } => (Some(source.to_string()), Some(target.to_string())),
            JobKind::Restore { process_server, .. } => (None, Some(process_server.to_string())),
            _ => (None, None),
        };
        let allowed_operations = operations(&jobs::operations(&job));
        let steps = job.kind.steps().iter().map(name_of).collect();
        let progress = job.progress;
        let done = job.done.into_iter();
        let steps_done =
            done.map(|step| StepBody { step: name_of(&step.step), at: show::time(step.at), detail: step.detail });
        Self {
            id: job.id.to_string(),
            kind: job.kind.name().to_owned(),
            machine: job.kind.machine().to_string(),
            source,
            target,
            served_point: job.kind.serve().map(|serve| serve.to_string()),
            state: name_of(&job.state),
            step: name_of(&job.step),
            steps_done: steps_done.collect(),
            trouble: job.trouble,
            by: job.by,
            created_at: show::time(job.created_at),
            updated_at: show::time(job.updated_at),
            steps,
            progress: progress.map(|at| ProgressBody { done_bytes: at.done_bytes, total_bytes: at.total_bytes }),
            result: job.result,
            allowed_operations,
        }
    }
}

/// Where a job is found.
pub(crate) fn location(job: JobId) -> String {
    format!("/api/v1/jobs/{job}")
}

/// Waits for a job's end, but not longer than `within`.
pub(crate) async fn ended(plane: &ControlPlane, id: JobId, within: Duration) -> Result<JobRecord, Problem> {
    let until = tokio::time::Instant::now() + within;
    loop {
        let job = plane.job(id)?;
        if job.state != JobState::Running || tokio::time::Instant::now() >= until {
            return Ok(job);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Which jobs are wanted.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct JobsQuery {
    /// Only this machine's: id, or unique name.
    pub machine: Option<String>,
    /// `next_cursor` of the part before.
    pub cursor: Option<String>,
    /// Most items, 1 to 500; 100 where nothing is said.
    pub limit: Option<usize>,
}

/// Jobs, newest first.
#[utoipa::path(tag = "jobs", params(JobsQuery),
    responses((status = 200, body = Page<JobBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/jobs")]
pub(crate) async fn list_jobs(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<JobsQuery>,
) -> Result<web::Json<Page<JobBody>>, Problem> {
    let JobsQuery { machine, cursor, limit } = query.into_inner();
    let part = PageQuery { cursor, limit };
    let (before, limit) = (part.cursor::<u64>()?.map(JobId), part.limit()?);
    let machine = machine.map(|machine| resolve(&api.plane, &machine)).transpose()?;
    Ok(web::Json(Page::of(api.plane.jobs(before, limit, machine), JobBody::from)))
}

/// One job.
#[utoipa::path(tag = "jobs", params(("job" = u64, Path)),
    responses((status = 200, body = JobBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/jobs/{job}")]
pub(crate) async fn get_job(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<u64>,
) -> Result<web::Json<JobBody>, Problem> {
    Ok(web::Json(api.plane.job(JobId(*path))?.into()))
}

/// The answer to a job that was begun.
pub(crate) fn accepted(job: JobRecord) -> HttpResponse {
    HttpResponse::Accepted().insert_header((LOCATION, location(job.id))).json(JobBody::from(job))
}

/// Calls a job off, while nothing that it did would have to be undone.
#[utoipa::path(tag = "jobs", params(("job" = u64, Path)),
    responses((status = 200, body = JobBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/jobs/{job}/cancel")]
pub(crate) async fn cancel_job(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<u64>,
) -> Result<web::Json<JobBody>, Problem> {
    Ok(web::Json(api.plane.cancel_job(&caller, JobId(*path)).await?.into()))
}

/// Does again, as a new job, what a job that failed or was cancelled did not.
#[utoipa::path(tag = "jobs", params(("job" = u64, Path)),
    responses((status = 202, body = JobBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/jobs/{job}/retry")]
pub(crate) async fn retry_job(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<u64>,
) -> Result<HttpResponse, Problem> {
    Ok(accepted(api.plane.retry_job(&caller, JobId(*path)).await?))
}
