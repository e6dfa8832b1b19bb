//! The installation as a whole: health, version, and the description of this API.

use std::collections::BTreeMap;

use actix_web::{get, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Admin, Viewer};
use crate::openapi::document;
use crate::problem::Problem;
use crate::server::Api;
use crate::show::{self, HealthBody, name_of};

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

/// Who may open the vault, beside whoever has the vault key's file. It is changed with `farshore vault key`, at the vault: no
/// secret that opens it goes through this API.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct VaultKeysBody {
    /// The vault.
    pub vault: String,
    /// When it was made.
    pub created_at: String,
    /// How often its keys were changed, and 1.
    pub generation: u64,
    /// What opens each slot: `passphrase`, `recovery`, `wrapped` by a key management service, or `unknown` to this version.
    pub slots: Vec<String>,
}

/// Who may open the vault.
#[utoipa::path(tag = "system", responses((status = 200, body = VaultKeysBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/vault-keys")]
pub(crate) async fn get_vault_keys(_: Admin, api: web::Data<Api>) -> Result<web::Json<VaultKeysBody>, Problem> {
    let keys = api.plane.key_slots().await?;
    Ok(web::Json(VaultKeysBody {
        vault: keys.vault.to_string(),
        created_at: show::time(keys.created_at),
        generation: keys.generation,
        slots: keys.slots.iter().map(name_of).collect(),
    }))
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
