//! Process servers: who takes machines' writes.

use actix_web::{HttpResponse, delete, get, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_actors::control::live::Reach;
use farshore_actors::control::view::ProcessServerView;
use farshore_engine::ids::ProcessServerId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Admin, Viewer};
use crate::page::{Page, PageQuery};
use crate::problem::Problem;
use crate::server::Api;
use crate::show::{self, HealthBody, operations};

/// A process server.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProcessServerBody {
    /// Its id.
    pub id: String,
    /// Its label.
    pub name: String,
    /// Where agents reach it.
    pub addresses: Vec<String>,
    /// When it joined.
    pub enrolled_at: String,
    /// `connected`, `silent` (a session without heartbeats) or `away`.
    pub state: String,
    /// How it is.
    pub health: HealthBody,
    /// Its program's version; empty until it has said so.
    pub program_version: String,
    /// Part of its CPUs that it uses, 0 to 1.
    pub cpu: Option<f64>,
    /// Its cache.
    pub cache: Option<CacheBody>,
    /// When its last heartbeat came.
    pub heartbeat_at: Option<String>,
    /// How many machines it owns.
    pub machines: usize,
    /// How many of them replicate now.
    pub machines_replicating: usize,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

/// A process server's cache.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CacheBody {
    /// Bytes of segments.
    pub used_bytes: u64,
    /// Most of them.
    pub bytes_max: u64,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: u64,
    /// Bytes free on the cache's disk.
    pub disk_free_bytes: u64,
}

impl From<ProcessServerView> for ProcessServerBody {
    fn from(view: ProcessServerView) -> Self {
        let state = match view.reach {
            Reach::Connected => "connected",
            Reach::Silent => "silent",
            Reach::Away => "away",
        };
        let cache = view.cache.map(|cache| CacheBody {
            used_bytes: cache.used_bytes,
            bytes_max: cache.bytes_max,
            backlog_bytes: cache.backlog_bytes,
            disk_free_bytes: cache.disk_free_bytes,
        });
        Self {
            id: view.id.to_string(),
            name: view.name,
            addresses: view.addresses,
            enrolled_at: show::time(view.enrolled_at),
            state: state.to_owned(),
            health: HealthBody::new(view.health, view.issues),
            program_version: view.program_version,
            cpu: view.cpu,
            cache,
            heartbeat_at: view.heartbeat_at.map(show::time),
            machines: view.machines,
            machines_replicating: view.replicating,
            allowed_operations: operations(&view.allowed_operations),
        }
    }
}

fn id_of(text: &str) -> Result<ProcessServerId, Problem> {
    let unknown = |_| Fault::new(FaultCode::ProcessServerUnknown, format!("process server '{text}'")).into();
    text.parse().map_err(unknown)
}

/// Process servers, in order of ids.
#[utoipa::path(tag = "process-servers", params(PageQuery),
    responses((status = 200, body = Page<ProcessServerBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/process-servers")]
pub(crate) async fn list_process_servers(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<ProcessServerBody>>, Problem> {
    let page = api.plane.process_servers(query.cursor()?, query.limit()?);
    Ok(web::Json(Page::of(page, ProcessServerBody::from)))
}

/// One process server.
#[utoipa::path(tag = "process-servers", params(("process_server" = String, Path)),
    responses((status = 200, body = ProcessServerBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/process-servers/{process_server}")]
pub(crate) async fn get_process_server(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<web::Json<ProcessServerBody>, Problem> {
    Ok(web::Json(api.plane.process_server(id_of(&path)?)?.into()))
}

/// Strikes a process server off that owns nothing.
#[utoipa::path(tag = "process-servers", params(("process_server" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
#[delete("/api/v1/process-servers/{process_server}")]
pub(crate) async fn remove_process_server(
    caller: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    api.plane.remove_process_server(&caller, id_of(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}
