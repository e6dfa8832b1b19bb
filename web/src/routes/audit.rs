//! The audit log.

use actix_web::{get, web};
use farshore_actors::control::ledger::records::{AuditId, AuditRecord};
use farshore_actors::control::view::AuditFilter;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Admin;
use crate::page::{Page, PageQuery};
use crate::problem::Problem;
use crate::routes::tokens::CallerRole;
use crate::server::Api;
use crate::show;

/// A change that was asked for, and what came of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditBody {
    /// Its number; a later one is higher.
    pub id: String,
    /// When it was answered.
    pub at: String,
    /// The label of the token it was asked with.
    pub by: String,
    /// What that token allows.
    pub role: CallerRole,
    /// What was asked for: the operation's `operationId`.
    pub action: String,
    /// The request's path.
    pub target: String,
    /// Where the request came from.
    pub from: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// `done`, or `refused`: by the API or by what it asked.
    pub outcome: String,
    /// The problem's code, where it was refused or failed.
    pub code: Option<String>,
}

impl From<AuditRecord> for AuditBody {
    fn from(entry: AuditRecord) -> Self {
        let AuditRecord { id, at, by, role, action, target, from, status, code } = entry;
        Self {
            id: id.to_string(),
            at: show::time(at),
            by,
            role: role.into(),
            action,
            target,
            from,
            status,
            outcome: if status < 400 { "done".into() } else { "refused".into() },
            code,
        }
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only those asked with the token of this label.
    pub by: Option<String>,
    /// Only this action: an `operationId`.
    pub action: Option<String>,
    /// `next_cursor` of the part before.
    pub cursor: Option<String>,
    /// Most items, 1 to 500; 100 where nothing is said.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<usize>,
}

/// Changes that were asked for, newest first.
#[utoipa::path(tag = "audit", params(AuditQuery),
    responses((status = 200, body = Page<AuditBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/audit-log")]
pub(crate) async fn list_audit_log(
    _: Admin,
    api: web::Data<Api>,
    query: web::Query<AuditQuery>,
) -> Result<web::Json<Page<AuditBody>>, Problem> {
    let AuditQuery { by, action, cursor, limit } = query.into_inner();
    let part = PageQuery { cursor, limit };
    let (before, limit) = (part.cursor::<u64>()?.map(AuditId), part.limit()?);
    Ok(web::Json(Page::of(api.plane.audit_log(before, limit, &AuditFilter { by, action }), AuditBody::from)))
}
