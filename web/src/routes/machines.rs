//! Machines: what is protected, how well, and by whom.

use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_actors::control::ledger::records::{AssignmentRecord, MachinePolicy};
use farshore_actors::control::plane::ControlPlane;
use farshore_actors::control::view::MachineView;
use farshore_engine::control::messages::{AgentReport, MachineReport};
use farshore_engine::ids::{MachineId, ProcessServerId};
use farshore_engine::vault::segment::Packing;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Operator, Viewer};
use crate::board::Board;
use crate::page::{Page, PageQuery};
use crate::problem::{Problem, RequestFault};
use crate::routes::jobs::{JobBody, accepted, location};
use crate::routes::overview::RatesBody;
use crate::server::Api;
use crate::show::{self, HealthBody, name_of, operations};

/// A machine.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MachineBody {
    /// Its id.
    pub id: String,
    /// Its label. Labels may repeat.
    pub name: String,
    /// Its present timeline.
    pub timeline: String,
    /// When it joined.
    pub enrolled_at: String,
    /// Where its protection stands.
    pub state: String,
    /// How it is.
    pub health: HealthBody,
    /// How much would be lost if its site were lost now; null before the first recovery point.
    pub rpo_seconds: Option<f64>,
    /// What is wanted of its protection.
    pub policy: PolicyBody,
    /// Which version of its label and policy this is: its `ETag`, and the `If-Match` of an edit.
    pub etag: String,
    /// Who owns its log.
    pub assignment: Option<AssignmentBody>,
    /// What it writes, ships and has uploaded, in bytes a second.
    pub rates: RatesBody,
    /// Its disks.
    pub disks: Vec<DiskBody>,
    /// Its agent.
    pub agent: AgentBody,
    /// How its log stands at its owner.
    pub log: Option<LogBody>,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

/// Who owns a machine's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AssignmentBody {
    /// The owner.
    pub process_server: String,
    /// The owner's label.
    pub process_server_name: Option<String>,
    /// The ownership number; each new owner has a higher one.
    pub epoch: u64,
    /// `adopting` or `active`.
    pub stage: String,
    /// Since when.
    pub since: String,
}

/// A disk of a machine.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DiskBody {
    /// Its number within the machine.
    pub disk: u16,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its logical sector size.
    pub sector_bytes: u32,
    /// Where its replication stands; null until its agent has said so.
    pub state: Option<String>,
    /// Bytes in regions that may differ from the replica.
    pub hot_bytes: Option<u64>,
    /// Bytes that are still to be read.
    pub scan_bytes_left: Option<u64>,
    /// Why order is lost on it now.
    pub gap: Option<String>,
    /// Where the application finds it.
    pub export: Option<String>,
}

/// A machine's agent.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AgentBody {
    /// It has a control session.
    pub connected: bool,
    /// When its last report came.
    pub reported_at: Option<String>,
    /// The last LSN that it gave.
    pub last_lsn: Option<u64>,
    /// Bytes of writes that it holds until they are committed.
    pub memory_bytes: Option<u64>,
    /// Most of them.
    pub memory_bytes_max: Option<u64>,
    /// Rung of the overload ladder, 1 to 4.
    pub overload_rung: Option<u8>,
}

/// How a machine's log stands at its owner.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogBody {
    /// The log's state there.
    pub state: String,
    /// The log is on the owner's disk up to here.
    pub durable: u64,
    /// The log is in the vault up to here.
    pub committed: u64,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: u64,
    /// When the newest recovery point was taken.
    pub newest_point_at: Option<String>,
    /// The newest recovery point's place in the log.
    pub newest_point_lsn: Option<u64>,
}

impl MachineBody {
    /// A machine with its rates.
    pub(crate) fn of(view: MachineView, board: &Board) -> Self {
        let report = view.report.as_ref().map(|(_, report)| report);
        let disk = |info: &farshore_engine::record::DiskInfo| {
            let now = report.and_then(|report| report.disks.iter().find(|disk| disk.disk == info.disk));
            DiskBody {
                disk: info.disk.0,
                name: info.name.clone(),
                size_bytes: info.size_bytes,
                sector_bytes: info.sector_bytes,
                state: now.map(|now| name_of(&now.state)),
                hot_bytes: now.map(|now| now.hot_bytes),
                scan_bytes_left: now.map(|now| now.scan_bytes_left),
                gap: now.and_then(|now| now.gap).map(|gap| name_of(&gap)),
                export: now.and_then(|now| now.export.clone()),
            }
        };
        Self {
            policy: policy(&view),
            etag: etag(view.revision),
            rates: board.rates(view.id, show::now()).into(),
            disks: view.disks.iter().map(disk).collect(),
            agent: agent(view.agent_connected, view.report.as_ref()),
            log: view.at_owner.as_ref().map(log),
            assignment: view.assignment.map(|assignment| assigned(&assignment, view.owner_name)),
            id: view.id.to_string(),
            name: view.name,
            timeline: view.timeline.to_string(),
            enrolled_at: show::time(view.enrolled_at),
            state: name_of(&view.protection),
            health: HealthBody::new(view.health, view.issues),
            rpo_seconds: view.rpo.map(|rpo| rpo.as_secs_f64()),
            allowed_operations: operations(&view.allowed_operations),
        }
    }
}

fn assigned(assignment: &AssignmentRecord, owner: Option<String>) -> AssignmentBody {
    AssignmentBody {
        process_server: assignment.process_server.to_string(),
        process_server_name: owner,
        epoch: assignment.epoch.0,
        stage: name_of(&assignment.stage),
        since: show::time(assignment.since),
    }
}

fn agent(connected: bool, report: Option<&(farshore_engine::ids::Timestamp, AgentReport)>) -> AgentBody {
    let said = report.map(|(_, report)| report);
    AgentBody {
        connected,
        reported_at: report.map(|(at, _)| show::time(*at)),
        last_lsn: said.map(|report| report.last_lsn.0),
        memory_bytes: said.map(|report| report.memory_bytes),
        memory_bytes_max: said.map(|report| report.memory_bytes_max),
        overload_rung: said.map(|report| report.rung),
    }
}

fn log(report: &MachineReport) -> LogBody {
    LogBody {
        state: name_of(&report.state),
        durable: report.durable.0,
        committed: report.committed.0,
        backlog_bytes: report.backlog_bytes,
        newest_point_at: report.newest_mark.map(|mark| show::time(mark.captured_at)),
        newest_point_lsn: report.newest_mark.map(|mark| mark.lsn.0),
    }
}

/// The machine that is meant by an id, or by a name that only one machine has.
pub(crate) fn resolve(plane: &ControlPlane, text: &str) -> Result<MachineId, Problem> {
    if let Ok(id) = text.parse() {
        return Ok(plane.machine(id)?.id);
    }
    let found = plane.machines_named(text);
    match found[..] {
        [id] => Ok(id),
        [] => Err(Fault::new(FaultCode::MachineUnknown, format!("machine '{text}'")).into()),
        _ => Err(Problem::of(RequestFault::AmbiguousName, format!("{} machines are called '{text}'", found.len()))),
    }
}

/// Machines, in order of ids.
#[utoipa::path(tag = "machines", params(PageQuery),
    responses((status = 200, body = Page<MachineBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/machines")]
pub(crate) async fn list_machines(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<MachineBody>>, Problem> {
    let page = api.plane.machines(query.cursor()?, query.limit()?, false);
    Ok(web::Json(Page::of(page, |view| MachineBody::of(view, &api.board))))
}

/// One machine, by id or by a name that no other machine has.
#[utoipa::path(tag = "machines", params(("machine" = String, Path, description = "Id, or unique name")),
    responses((status = 200, body = MachineBody, headers(("ETag" = String))), (status = "4XX", body = Problem)))]
#[get("/api/v1/machines/{machine}")]
pub(crate) async fn get_machine(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    shown(&api, resolve(&api.plane, &path)?)
}

fn shown(api: &Api, id: MachineId) -> Result<HttpResponse, Problem> {
    let body = MachineBody::of(api.plane.machine(id)?, &api.board);
    Ok(HttpResponse::Ok().insert_header((ETAG, body.etag.clone())).json(body))
}

/// What is wanted of a machine's protection.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PolicyBody {
    /// RPO from which it is in warning.
    pub rpo_warning_seconds: u64,
    /// RPO from which it is critical.
    pub rpo_critical_seconds: u64,
    /// Time between recovery points under load.
    pub mark_interval_ms: u64,
    /// What its data is packed with: `snappy`, or `zstd:` and a level.
    pub codec: String,
    /// Which points stay: rungs of how often and how long, the densest first.
    pub retention: String,
    /// Some of these are the machine's own; otherwise all are the installation's.
    pub own: bool,
    /// What the machine's own policy says; what is null there is the installation's.
    pub wanted: PolicyEdit,
}

fn policy(view: &MachineView) -> PolicyBody {
    PolicyBody {
        rpo_warning_seconds: view.limits.warning.as_secs(),
        rpo_critical_seconds: view.limits.critical.as_secs(),
        mark_interval_ms: view.mark_interval.as_millis() as u64,
        codec: view.packing.to_string(),
        retention: view.retention.to_string(),
        own: view.policy != MachinePolicy::default(),
        wanted: PolicyEdit {
            rpo_warning_seconds: view.policy.rpo_warning_seconds,
            rpo_critical_seconds: view.policy.rpo_critical_seconds,
            mark_interval_ms: view.policy.mark_interval_ms,
            codec: view.policy.packing.map(|packing| packing.to_string()),
            retention: view.policy.retention.as_ref().map(ToString::to_string),
        },
    }
}

fn wanted_policy(edit: &PolicyEdit) -> Result<MachinePolicy, Fault> {
    let packing = edit.codec.as_deref().map(str::parse::<Packing>).transpose();
    Ok(MachinePolicy {
        rpo_warning_seconds: edit.rpo_warning_seconds,
        rpo_critical_seconds: edit.rpo_critical_seconds,
        mark_interval_ms: edit.mark_interval_ms,
        packing: packing.map_err(|error| Fault::new(FaultCode::InvalidValue, error.to_string()))?,
        retention: edit.retention.as_deref().map(super::retention::ladder).transpose()?,
    })
}

fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// An edit of a machine. What is not named stays.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineEdit {
    /// Its label.
    pub name: Option<String>,
    /// What is wanted of its protection.
    pub policy: Option<PolicyEdit>,
}

/// What is wanted of a machine's protection; what is not named is the installation's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyEdit {
    /// RPO from which it is in warning, 1 to 86400 seconds.
    pub rpo_warning_seconds: Option<u64>,
    /// RPO from which it is critical, 1 to 86400 seconds.
    pub rpo_critical_seconds: Option<u64>,
    /// Time between recovery points under load, 100 to 3600000 milliseconds. Its agent follows at once, or when it is back.
    pub mark_interval_ms: Option<u64>,
    /// Which points stay: rungs of how often and how long, the densest first, as `all:2h,1h:1d,2h:7d,4h:15d`. What a
    /// shorter ladder lets go of cannot be had back: look at the plan first.
    pub retention: Option<String>,
    /// What its data is packed with: `snappy`, `zstd`, or `zstd:` and a level of 1 to 19. Counts from its next segment on;
    /// what is in the vault stays as it is.
    pub codec: Option<String>,
}

/// Changes a machine's label and policy. `If-Match` names the version that the caller saw.
#[utoipa::path(tag = "machines",
    params(("machine" = String, Path, description = "Id, or unique name"),
        ("If-Match" = String, Header, description = "The machine's `etag`")),
    request_body = MachineEdit,
    responses((status = 200, body = MachineBody, headers(("ETag" = String))), (status = "4XX", body = Problem)))]
#[patch("/api/v1/machines/{machine}")]
pub(crate) async fn edit_machine(
    caller: Operator,
    request: HttpRequest,
    api: web::Data<Api>,
    path: web::Path<String>,
    body: web::Json<MachineEdit>,
) -> Result<HttpResponse, Problem> {
    let id = resolve(&api.plane, &path)?;
    let seen = request.headers().get(IF_MATCH).and_then(|value| value.to_str().ok());
    let seen = seen.ok_or_else(|| Problem::of(RequestFault::PreconditionRequired, "header If-Match is missing"))?;
    let revision =
        seen.trim().strip_prefix('"').and_then(|seen| seen.strip_suffix('"')).and_then(|seen| seen.parse().ok());
    let foreign = || Fault::new(FaultCode::ChangedMeanwhile, format!("If-Match {seen} is no etag of a machine"));
    let revision = revision.ok_or_else(foreign)?;
    let MachineEdit { name, policy } = body.into_inner();
    let policy = policy.as_ref().map(wanted_policy).transpose()?;
    api.plane.edit_machine(&caller, id, revision, name, policy).await?;
    shown(&api, id)
}

/// Pauses a machine's protection: its writes stay on the machine until it is resumed.
#[utoipa::path(tag = "machines", params(("machine" = String, Path, description = "Id, or unique name")),
    responses((status = 200, body = MachineBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/pause")]
pub(crate) async fn pause_machine(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = resolve(&api.plane, &path)?;
    api.plane.pause(&caller, id).await?;
    shown(&api, id)
}

/// Resumes a machine's protection: a job finds it an owner, then what was written meanwhile is sent.
#[utoipa::path(tag = "machines", params(("machine" = String, Path, description = "Id, or unique name")),
    responses((status = 202, body = JobBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/resume")]
pub(crate) async fn resume_machine(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = resolve(&api.plane, &path)?;
    Ok(accepted(api.plane.resume(&caller, id).await?))
}

/// What becomes of a removed machine's recovery points.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PointsAfter {
    /// They stay in the vault.
    #[default]
    Keep,
    /// They are deleted for good.
    Delete,
}

/// How a machine is removed.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    /// `keep` (where nothing is said) or `delete`.
    #[serde(default)]
    #[param(inline)]
    pub points: PointsAfter,
}

/// Ends a machine's protection. Its replica stays in the vault, or is deleted by the job that is answered; a machine that
/// was removed before can be named by its id to delete its points.
#[utoipa::path(tag = "machines",
    params(("machine" = String, Path, description = "Id, or unique name"), RemoveQuery),
    responses((status = 204), (status = 202, body = JobBody, headers(("Location" = String))),
        (status = "4XX", body = Problem)))]
#[delete("/api/v1/machines/{machine}")]
pub(crate) async fn remove_machine(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
    query: web::Query<RemoveQuery>,
) -> Result<HttpResponse, Problem> {
    let id = resolve(&api.plane, &path)?;
    if query.points == PointsAfter::Delete {
        return Ok(accepted(api.plane.begin_delete_points(&caller, id).await?));
    }
    api.plane.remove_machine(&caller, id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Where a machine shall go.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// Id of the process server that shall own it.
    pub to: String,
}

/// Begins to move a machine to another process server.
#[utoipa::path(tag = "machines", params(("machine" = String, Path, description = "Id, or unique name")),
    request_body = MoveBody,
    responses((status = 202, body = JobBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/move")]
pub(crate) async fn move_machine(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
    body: web::Json<MoveBody>,
) -> Result<HttpResponse, Problem> {
    let machine = resolve(&api.plane, &path)?;
    let unknown = |_| Fault::new(FaultCode::ProcessServerUnknown, format!("process server '{}'", body.to));
    let target: ProcessServerId = body.to.parse().map_err(unknown)?;
    let begun = api.plane.begin_move(&caller, machine, target).await?;
    let location = location(begun.job.id);
    Ok(HttpResponse::Accepted().insert_header((LOCATION, location)).json(JobBody::from(begun.job)))
}
