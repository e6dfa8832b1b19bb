//! The installation as a whole: health, version, and the description of this API.

use std::collections::BTreeMap;

use actix_web::{get, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Viewer;
use crate::openapi::document;
use crate::problem::Problem;
use crate::server::Api;
use crate::show::{HealthBody, name_of};

/// How the installation is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InstallationBody {
    /// `running`: who can answer runs.
    pub state: String,
    /// The worst of all that there is.
    pub health: HealthBody,
    /// Machines by state.
    pub machines_by_state: BTreeMap<String, usize>,
    /// Machines by health.
    pub machines_by_health: BTreeMap<String, usize>,
    /// Process servers by health.
    pub process_servers_by_health: BTreeMap<String, usize>,
    /// Whether recovered machines can be built here.
    pub master_target: String,
    /// How long the management interface has been up.
    pub uptime_seconds: u64,
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_insert(0) += 1);
    counts
}

/// How the installation is.
#[utoipa::path(tag = "system", responses((status = 200, body = InstallationBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/health")]
pub(crate) async fn get_health(_: Viewer, api: web::Data<Api>) -> web::Json<InstallationBody> {
    let view = api.plane.health();
    web::Json(InstallationBody {
        state: "running".into(),
        machines_by_state: count(view.machines.iter().map(|(protection, _)| name_of(protection))),
        machines_by_health: count(view.machines.iter().map(|(_, health)| name_of(health))),
        process_servers_by_health: count(view.process_servers.iter().map(name_of)),
        health: HealthBody::new(view.health, view.issues),
        master_target: view.master_target.to_owned(),
        uptime_seconds: api.started.elapsed().as_secs(),
    })
}

/// Which program answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct VersionBody {
    /// `farshore`.
    pub product: String,
    /// The program's version.
    pub version: String,
    /// The API's version.
    pub api: String,
}

/// Which program answers. Needs no token.
#[utoipa::path(tag = "system", security(()), responses((status = 200, body = VersionBody)))]
#[get("/api/v1/version")]
pub(crate) async fn get_version() -> web::Json<VersionBody> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    web::Json(VersionBody { product: "farshore".into(), version, api: "v1".into() })
}

/// This API's OpenAPI document. Needs no token.
#[utoipa::path(tag = "system", security(()), responses((status = 200, body = Object)))]
#[get("/api/v1/openapi.json")]
pub(crate) async fn get_openapi() -> web::Json<&'static utoipa::openapi::OpenApi> {
    web::Json(document())
}
