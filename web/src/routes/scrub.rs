//! Reading a machine's log in the vault again: how it fares, and on demand.

use actix_web::{HttpResponse, get, post, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_engine::control::messages::{DamagedObject, ScrubReport};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Operator, Viewer};
use crate::problem::Problem;
use crate::routes::machines::resolve;
use crate::server::Api;
use crate::show;

/// An object of a machine's log that is not what was written.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DamagedObjectBody {
    /// Its name in the vault.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Why it was not put back.
    pub stays: String,
    /// How many recovery points it touches.
    pub touched_points: u64,
    /// When the newest of them was captured; null: none that can be named.
    pub newest_touched_at: Option<String>,
}

impl From<DamagedObject> for DamagedObjectBody {
    fn from(damaged: DamagedObject) -> Self {
        let DamagedObject { object, problem, stays, touched_points, newest_touched } = damaged;
        Self { object, problem, stays, touched_points, newest_touched_at: newest_touched.map(show::time) }
    }
}

/// What reading a machine's log again has found, and did since its process server began.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScrubBody {
    /// It is being read right now.
    pub running: bool,
    /// When a part of it was last read to its end; null: not yet.
    pub ended_at: Option<String>,
    /// When all of it was last read to its end at once, as somebody wanted; null: not in this life of the process server.
    pub whole_at: Option<String>,
    /// Slices read to their end.
    pub slices: u64,
    /// How many slices are all of it.
    pub slices_per_cycle: u64,
    /// Objects read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were put back.
    pub repaired: u64,
    /// How many objects are damaged now.
    pub damaged_objects: u64,
    /// How many recovery points that touches.
    pub touched_points: u64,
    /// The first of them.
    pub damaged: Vec<DamagedObjectBody>,
}

impl From<ScrubReport> for ScrubBody {
    fn from(report: ScrubReport) -> Self {
        Self {
            running: report.running,
            ended_at: report.ended_at.map(show::time),
            whole_at: report.whole_at.map(show::time),
            slices: report.slices,
            slices_per_cycle: report.slices_per_cycle,
            objects: report.objects,
            bytes: report.bytes,
            repaired: report.repaired,
            damaged_objects: report.damaged_objects,
            touched_points: report.touched_points,
            damaged: report.damaged.into_iter().map(DamagedObjectBody::from).collect(),
        }
    }
}

/// How reading a machine's log again fares, as its process server said last.
#[utoipa::path(tag = "points", params(("machine" = String, Path, description = "Id, or unique name")),
    responses((status = 200, body = ScrubBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/machines/{machine}/scrub")]
pub(crate) async fn get_scrub(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<web::Json<ScrubBody>, Problem> {
    let view = api.plane.machine(resolve(&api.plane, &path)?)?;
    let report = view.at_owner.and_then(|report| report.scrub);
    let unknown = || Fault::new(FaultCode::MachineUnassigned, "no process server has reported of its log");
    Ok(web::Json(report.ok_or_else(unknown)?.into()))
}

/// Has all of a machine's log read again, and what is damaged put back where the cache still has it. Answers at once.
#[utoipa::path(tag = "points", params(("machine" = String, Path, description = "Id, or unique name")),
    responses((status = 202, description = "It is read as soon as it is its turn"), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/scrub")]
pub(crate) async fn begin_scrub(
    _: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let machine = resolve(&api.plane, &path)?;
    api.plane.scrub(machine).await?;
    Ok(HttpResponse::Accepted().finish())
}

/// Has a machine's disks read again by its agent, and sent where the log may not have them: for damage that no copy puts right.
/// Points before it stay as they are; none shows the disks until it is over. Answers at once.
#[utoipa::path(tag = "points", params(("machine" = String, Path, description = "Id, or unique name")),
    responses((status = 202, description = "The agent begins as soon as it hears of it"), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/resync")]
pub(crate) async fn resync(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let machine = resolve(&api.plane, &path)?;
    api.plane.resync(&caller, machine).await?;
    Ok(HttpResponse::Accepted().finish())
}
