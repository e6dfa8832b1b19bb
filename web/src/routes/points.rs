//! Recovery points of a machine, and marks on demand.

use actix_web::{HttpResponse, get, post, web};
use farshore_actors::control::view;
use farshore_engine::control::messages::PointInfo;
use farshore_engine::ids::Lsn;
use farshore_engine::record::MarkKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::{Operator, Viewer};
use crate::page::{Page, PageQuery};
use crate::problem::Problem;
use crate::routes::machines::resolve;
use crate::server::Api;
use crate::show::{self, name_of};

/// A recovery point.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PointBody {
    /// Its mark's id.
    pub id: String,
    /// Its place in the log: it shows the writes with a smaller LSN.
    pub lsn: u64,
    /// `crash`, `app` or `group`: what it promises.
    pub kind: String,
    /// When it was taken, by the machine's clock.
    pub captured_at: String,
    /// What the operator calls it; may be empty.
    pub label: String,
    /// Numbers of the disks that it covers; a disk inside a gap is not among them.
    pub disks: Vec<u16>,
    /// `available`: every point that is listed can be served.
    pub state: String,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

impl From<PointInfo> for PointBody {
    fn from(point: PointInfo) -> Self {
        let allowed = if point.disks.is_empty() { vec![] } else { vec!["serve".to_owned()] };
        Self {
            id: point.mark.to_string(),
            lsn: point.lsn.0,
            kind: name_of(&point.kind),
            captured_at: show::time(point.captured_at),
            label: point.label,
            disks: point.disks.into_iter().map(|disk| disk.0).collect(),
            state: "available".into(),
            allowed_operations: allowed,
        }
    }
}

/// A machine's recovery points, newest first.
#[utoipa::path(tag = "points", params(("machine" = String, Path, description = "Id, or unique name"), PageQuery),
    responses((status = 200, body = Page<PointBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/machines/{machine}/points")]
pub(crate) async fn list_points(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<PointBody>>, Problem> {
    let (before, limit) = (query.cursor::<u64>()?.map(Lsn), query.limit()?);
    let machine = resolve(&api.plane, &path)?;
    let page = api.plane.points(machine, before, u32::try_from(limit).unwrap_or(u32::MAX)).await?;
    let page = view::Page { items: page.points, next: page.next_before.map(|lsn| lsn.to_string()) };
    Ok(web::Json(Page::of(page, PointBody::from)))
}

/// A mark that is wanted.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkBody {
    /// What the operator calls it.
    #[serde(default)]
    pub label: String,
    /// Run the machine's hooks around it, so that its applications are at rest: an app-consistent mark.
    #[serde(default)]
    pub app: bool,
}

/// A mark that was asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MarkRequestedBody {
    /// The recovery point has this id once it is committed.
    pub id: String,
}

/// Asks the machine's agent for a mark now. It is a recovery point once it is committed.
#[utoipa::path(tag = "points", params(("machine" = String, Path, description = "Id, or unique name")),
    request_body = MarkBody,
    responses((status = 202, body = MarkRequestedBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/marks")]
pub(crate) async fn request_mark(
    _: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
    body: web::Json<MarkBody>,
) -> Result<HttpResponse, Problem> {
    let machine = resolve(&api.plane, &path)?;
    let MarkBody { label, app } = body.into_inner();
    let kind = if app { MarkKind::App } else { MarkKind::Crash };
    let mark = api.plane.mark(machine, kind, label).await?;
    Ok(HttpResponse::Accepted().json(MarkRequestedBody { id: mark.to_string() }))
}
