//! Served points: a recovery point's disks as NBD exports at a process server.

use std::time::Duration;

use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, delete, get, post, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_actors::control::ledger::records::{JobState, ServeId};
use farshore_actors::control::plane::Caller;
use farshore_actors::control::view::{ServeRequest, ServedView};
use farshore_engine::control::messages::{Export, NearReport, PointSelector};
use farshore_engine::ids::DiskNo;
use farshore_engine::vault::export::Format;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::{Operator, Viewer};
use crate::page::{Page, PageQuery};
use crate::problem::{self, Problem, RequestFault};
use crate::routes::jobs::{JobBody, accepted, ended, location};
use crate::routes::machines::resolve;
use crate::routes::points::PointBody;
use crate::server::Api;
use crate::show::{self, name_of};

/// How long a request waits for its served point; after that the job is named instead. A process server has 30 s to open
/// a point.
const SERVED_WITHIN: Duration = Duration::from_secs(35);
/// How long a request waits for a served point's end. A process server has 15 s for it.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// A served point.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ServedBody {
    /// Its number.
    pub id: String,
    /// The machine.
    pub machine: String,
    /// Who serves it.
    pub process_server: String,
    /// `starting`, `serving` or `stopping`.
    pub state: String,
    /// It is a test failover: it is ended by its clean-up, with notes.
    pub test_failover: bool,
    /// What was asked for: `latest`, a point's id, or a time.
    pub asked_for: String,
    /// The point that was chosen; its disks are in `exports`.
    pub point: Option<PointBody>,
    /// Writes are refused; otherwise they go to an overlay that is thrown away.
    pub read_only: bool,
    /// Since when.
    pub since: String,
    /// Its disks.
    pub exports: Vec<ExportBody>,
    /// How far they have been brought near the process server; absent where that is not done (`serving.hydrate`).
    pub near: Option<NearBody>,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

/// How far a served point's disks have been brought near, in the background.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NearBody {
    /// Bytes of the disks that are near as a whole.
    pub reached_bytes: u64,
    /// Their size.
    pub total_bytes: u64,
    /// Nothing more is brought: all is near, there is no room for more, or the vault cannot be read.
    pub ended: bool,
}

impl From<NearReport> for NearBody {
    fn from(near: NearReport) -> Self {
        let NearReport { serve: _, reached_bytes, total_bytes, ended } = near;
        Self { reached_bytes, total_bytes, ended }
    }
}

/// A disk of a served point.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExportBody {
    /// The disk's number within the machine.
    pub disk: u16,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its NBD URI: a unix socket at the process server's host.
    pub uri: String,
    /// Writes are refused.
    pub read_only: bool,
}

impl From<Export> for ExportBody {
    fn from(export: Export) -> Self {
        let Export { disk, name, size_bytes, uri, read_only, socket: _ } = export;
        Self { disk: disk.0, name, size_bytes, uri, read_only }
    }
}

impl From<ServedView> for ServedBody {
    fn from(view: ServedView) -> Self {
        let exports: Vec<_> = view.exports.into_iter().map(ExportBody::from).collect();
        let point = view.point.map(|point| PointBody {
            disks: exports.iter().map(|export| export.disk).collect(),
            allowed_operations: vec!["serve".into()],
            ..PointBody::from(point)
        });
        Self {
            id: view.id.to_string(),
            machine: view.machine.to_string(),
            process_server: view.process_server.to_string(),
            state: name_of(&view.state),
            test_failover: view.test,
            asked_for: match view.selector {
                PointSelector::Newest => "latest".into(),
                PointSelector::Mark { mark } => mark.to_string(),
                PointSelector::Time { time } => show::time(time),
            },
            point,
            read_only: view.read_only,
            since: show::time(view.since),
            exports,
            near: view.near.map(NearBody::from),
            allowed_operations: vec![if view.test { "clean_up".into() } else { "stop".into() }],
        }
    }
}

/// A point that shall be served.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeBody {
    /// The machine: id, or unique name.
    pub machine: String,
    /// `latest`, a point's id, or an RFC 3339 time: the newest point that was taken then or before.
    pub point: String,
    /// Numbers of the disks; none: all that the point covers.
    #[serde(default)]
    pub disks: Vec<u16>,
    /// Refuse writes instead of keeping them in an overlay.
    #[serde(default)]
    pub read_only: bool,
}

pub(crate) fn selector(text: &str) -> Result<PointSelector, Problem> {
    if text == "latest" {
        return Ok(PointSelector::Newest);
    }
    if let Ok(mark) = text.parse() {
        return Ok(PointSelector::Mark { mark });
    }
    let time = show::parse_time(text);
    let detail = || format!("point '{text}' is neither `latest`, nor a point's id, nor an RFC 3339 time");
    Ok(PointSelector::Time { time: time.ok_or_else(|| Fault::new(FaultCode::InvalidValue, detail()))? })
}

/// Served points, in order of numbers.
#[utoipa::path(tag = "served-points", params(PageQuery),
    responses((status = 200, body = Page<ServedBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/served-points")]
pub(crate) async fn list_served_points(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<ServedBody>>, Problem> {
    let page = api.plane.served_points(query.cursor::<u64>()?.map(ServeId), query.limit()?);
    Ok(web::Json(Page::of(page, ServedBody::from)))
}

/// One served point.
#[utoipa::path(tag = "served-points", params(("served" = u64, Path)),
    responses((status = 200, body = ServedBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/served-points/{served}")]
pub(crate) async fn get_served_point(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<u64>,
) -> Result<web::Json<ServedBody>, Problem> {
    Ok(web::Json(api.plane.served_point(ServeId(*path))?.into()))
}

/// Serves a point. 201 once its exports are there; 202 with the job where that takes long.
#[utoipa::path(tag = "served-points", request_body = ServeBody,
    responses((status = 201, body = ServedBody, headers(("Location" = String))),
        (status = 202, body = ServedBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/served-points")]
pub(crate) async fn serve_point(
    caller: Operator,
    api: web::Data<Api>,
    body: web::Json<ServeBody>,
) -> Result<HttpResponse, Problem> {
    let ServeBody { machine, point, disks, read_only } = body.into_inner();
    let machine = resolve(&api.plane, &machine)?;
    let disks = disks.into_iter().map(DiskNo).collect();
    let request = ServeRequest { machine, selector: selector(&point)?, disks, read_only, test: false };
    begin(&api, &caller, request, "served-points").await
}

async fn begin(api: &Api, caller: &Caller, request: ServeRequest, list: &str) -> Result<HttpResponse, Problem> {
    let begun = api.plane.begin_serve(caller, request).await?;
    let job = ended(&api.plane, begun.job.id, SERVED_WITHIN).await?;
    let serve = begun.serve.ok_or_else(|| Problem::of(RequestFault::Internal, "the job serves nothing"))?;
    match job.state {
        JobState::Failed | JobState::Cancelled => Err(problem::of_job(job.trouble.as_deref())),
        JobState::Running => {
            let view = api.plane.served_point(serve)?;
            let location = location(job.id);
            Ok(HttpResponse::Accepted().insert_header((LOCATION, location)).json(ServedBody::from(view)))
        }
        JobState::Done => {
            let view = api.plane.served_point(serve)?;
            let location = format!("/api/v1/{list}/{serve}");
            Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(ServedBody::from(view)))
        }
    }
}

/// Ends a served point; what was written to it is thrown away.
#[utoipa::path(tag = "served-points", params(("served" = u64, Path)),
    responses((status = 204), (status = 202, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[delete("/api/v1/served-points/{served}")]
pub(crate) async fn stop_serving(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<u64>,
) -> Result<HttpResponse, Problem> {
    end(&api, &caller, ServeId(*path), String::new()).await
}

async fn end(api: &Api, caller: &Caller, serve: ServeId, notes: String) -> Result<HttpResponse, Problem> {
    let begun = api.plane.begin_stop_serving(caller, serve, notes).await?;
    let job = ended(&api.plane, begun.job.id, ENDED_WITHIN).await?;
    match job.state {
        JobState::Done => Ok(HttpResponse::NoContent().finish()),
        JobState::Failed | JobState::Cancelled => Err(problem::of_job(job.trouble.as_deref())),
        JobState::Running => Ok(HttpResponse::Accepted().insert_header((LOCATION, location(job.id))).finish()),
    }
}

/// A test failover that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestFailoverBody {
    /// The machine: id, or unique name.
    pub machine: String,
    /// `latest`, a point's id, or an RFC 3339 time: the newest point that was taken then or before.
    pub point: String,
}

/// What was seen in a test failover.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CleanUpBody {
    /// Notes, at most 500 characters: they stand in the event of the clean-up.
    #[serde(default)]
    pub notes: String,
}

/// Longest notes, in characters.
const NOTES_CHARS_MAX: usize = 500;

/// Test failovers that are not cleaned up, in order of numbers.
#[utoipa::path(tag = "test-failovers", params(PageQuery),
    responses((status = 200, body = Page<ServedBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/test-failovers")]
pub(crate) async fn list_test_failovers(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<ServedBody>>, Problem> {
    let after = query.cursor::<u64>()?.map(ServeId);
    Ok(web::Json(Page::of(api.plane.test_failovers(after, query.limit()?), ServedBody::from)))
}

/// One test failover.
#[utoipa::path(tag = "test-failovers", params(("test_failover" = u64, Path)),
    responses((status = 200, body = ServedBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/test-failovers/{test_failover}")]
pub(crate) async fn get_test_failover(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<u64>,
) -> Result<web::Json<ServedBody>, Problem> {
    Ok(web::Json(test(&api, ServeId(*path))?.into()))
}

fn test(api: &Api, id: ServeId) -> Result<ServedView, Problem> {
    let view = api.plane.served_point(id)?;
    match view.test {
        true => Ok(view),
        false => {
            Err(Fault::new(FaultCode::ServedPointUnknown, format!("served point {id} is no test failover")).into())
        }
    }
}

/// Begins a test failover: every disk that the point covers is exported over NBD with an overlay that takes writes. Needs
/// neither the machine nor its agent. 201 once its exports are there; 202 with the job where that takes long.
#[utoipa::path(tag = "test-failovers", request_body = TestFailoverBody,
    responses((status = 201, body = ServedBody, headers(("Location" = String))),
        (status = 202, body = ServedBody, headers(("Location" = String))), (status = "4XX", body = Problem),
        (status = "5XX", body = Problem)))]
#[post("/api/v1/test-failovers")]
pub(crate) async fn begin_test_failover(
    caller: Operator,
    api: web::Data<Api>,
    body: web::Json<TestFailoverBody>,
) -> Result<HttpResponse, Problem> {
    let machine = resolve(&api.plane, &body.machine)?;
    let selector = selector(&body.point)?;
    let request = ServeRequest { machine, selector, disks: vec![], read_only: false, test: true };
    begin(&api, &caller, request, "test-failovers").await
}

/// Ends a test failover: what was written to it is thrown away, the notes are kept as an event.
#[utoipa::path(tag = "test-failovers", params(("test_failover" = u64, Path)), request_body = CleanUpBody,
    responses((status = 204), (status = 202, headers(("Location" = String))), (status = "4XX", body = Problem),
        (status = "5XX", body = Problem)))]
#[post("/api/v1/test-failovers/{test_failover}/clean-up")]
pub(crate) async fn clean_up_test_failover(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<u64>,
    body: web::Json<CleanUpBody>,
) -> Result<HttpResponse, Problem> {
    let notes = body.into_inner().notes;
    if notes.chars().count() > NOTES_CHARS_MAX {
        let detail = format!("notes have at most {NOTES_CHARS_MAX} characters");
        return Err(Fault::new(FaultCode::InvalidValue, detail).into());
    }
    let id = test(&api, ServeId(*path))?.id;
    end(&api, &caller, id, notes).await
}

/// A restore that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    /// The machine: id, or unique name.
    pub machine: String,
    /// `latest`, a point's id, or an RFC 3339 time: the newest point that was taken then or before.
    pub point: String,
    /// Numbers of the disks; none: all that the point covers.
    #[serde(default)]
    pub disks: Vec<u16>,
    /// As what.
    #[serde(default)]
    pub format: RestoreFormat,
}

/// What kind of files a restore writes.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreFormat {
    /// The disks' bytes, holes as holes.
    #[default]
    Raw,
    /// QEMU's format.
    Qcow2,
    /// A VHD of the disk's size, as Azure takes it.
    VhdFixed,
    /// A VHD that grows.
    VhdDynamic,
}

impl From<RestoreFormat> for Format {
    fn from(format: RestoreFormat) -> Self {
        match format {
            RestoreFormat::Raw => Self::Raw,
            RestoreFormat::Qcow2 => Self::Qcow2,
            RestoreFormat::VhdFixed => Self::VhdFixed,
            RestoreFormat::VhdDynamic => Self::VhdDynamic,
        }
    }
}

/// Begins to write a point's disks to files at a process server. The job's `result` names their directory there.
#[utoipa::path(tag = "restores", request_body = RestoreBody,
    responses((status = 202, body = JobBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/restores")]
pub(crate) async fn begin_restore(
    caller: Operator,
    api: web::Data<Api>,
    body: web::Json<RestoreBody>,
) -> Result<HttpResponse, Problem> {
    let RestoreBody { machine, point, disks, format } = body.into_inner();
    let machine = resolve(&api.plane, &machine)?;
    let disks = disks.into_iter().map(DiskNo).collect();
    let request = ServeRequest { machine, selector: selector(&point)?, disks, read_only: true, test: false };
    Ok(accepted(api.plane.begin_restore(&caller, request, format.into()).await?))
}

#[cfg(test)]
mod tests {
    use farshore_engine::ids::{MarkId, Timestamp};

    use super::*;

    #[test]
    fn a_point_is_named_by_latest_by_its_id_or_by_a_time() {
        assert_eq!(selector("latest").expect("known"), PointSelector::Newest);
        let mark = MarkId([7; 16]);
        assert_eq!(selector(&mark.to_string()).expect("an id"), PointSelector::Mark { mark });
        let time = PointSelector::Time { time: Timestamp(1_000_000) };
        assert_eq!(selector("1970-01-01T00:00:01Z").expect("a time"), time);
        assert_eq!(selector("newest").expect_err("unknown").status, 422);
    }
}
