//! Which points stay: the plan of a machine's retention, and holds.

use actix_web::{HttpResponse, delete, get, post, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_engine::control::messages::{HoldInfo, RetentionReport};
use farshore_engine::vault::retention::Ladder;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Operator, Viewer};
use crate::problem::Problem;
use crate::routes::machines::resolve;
use crate::routes::points::PointBody;
use crate::routes::served::selector;
use crate::server::Api;
use crate::show::{self, name_of};

/// What keeps a position readable.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct HoldBody {
    /// Its id.
    pub id: String,
    /// `hold`: an operator's; `reader`: a served point, a restore or a comparison; `branch`: a timeline begins there.
    pub kind: String,
    /// The position.
    pub lsn: u64,
    /// The point there; null where none is.
    pub point: Option<PointBody>,
    /// Why, and by whom.
    pub reason: String,
    /// Since when.
    pub created_at: String,
    /// When it ends by itself; null: when it is released.
    pub expires_at: Option<String>,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

impl From<HoldInfo> for HoldBody {
    fn from(held: HoldInfo) -> Self {
        let kind = name_of(&held.kind);
        Self {
            allowed_operations: if kind == "hold" { vec!["release".into()] } else { vec![] },
            id: held.hold,
            kind,
            lsn: held.lsn.0,
            point: held.point.map(PointBody::from),
            reason: held.reason,
            created_at: show::time(held.created_at),
            expires_at: held.expires_at.map(show::time),
        }
    }
}

/// Points that stay for one reason.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KeptBody {
    /// A rung's number, counted from 0, or `pinned`, `newest`, `clocks_apart`.
    pub why: String,
    /// How many.
    pub points: u64,
}

/// What retention and merging would do now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RetentionBody {
    /// The ladder that the plan is made with: rungs of how often and how long, the densest first.
    pub ladder: String,
    /// The time that ages are counted from: the newest point's.
    pub counted_from: String,
    /// Points that stay.
    pub kept: Vec<KeptBody>,
    /// How many points go. They can be read until they are merged.
    pub dropped: u64,
    /// The oldest of them, at most a hundred.
    pub dropped_first: Vec<PointBody>,
    /// Segments that no run stands for, and their size in bytes.
    pub live_segments: u64,
    /// Their size in bytes.
    pub live_bytes: u64,
    /// Runs.
    pub runs: u64,
    /// Their size in bytes.
    pub run_bytes: u64,
    /// Replaced stretches and runs that wait for their grace before they are deleted.
    pub waiting: u64,
    /// What keeps positions readable.
    pub holds: Vec<HoldBody>,
}

impl RetentionBody {
    fn of(ladder: &Ladder, plan: RetentionReport) -> Self {
        Self {
            ladder: ladder.to_string(),
            counted_from: show::time(plan.counted_from),
            kept: plan.kept.into_iter().map(|(why, points)| KeptBody { why, points }).collect(),
            dropped: plan.dropped,
            dropped_first: plan.dropped_first.into_iter().map(PointBody::from).collect(),
            live_segments: plan.standing.live_segments,
            live_bytes: plan.standing.live_bytes,
            runs: plan.standing.runs,
            run_bytes: plan.standing.run_bytes,
            waiting: plan.standing.waiting,
            holds: plan.holds.into_iter().map(HoldBody::from).collect(),
        }
    }
}

/// Which ladder a plan is made with.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RetentionQuery {
    /// As `all:2h,1h:1d,2h:7d,4h:15d`; the machine's own without it.
    pub ladder: Option<String>,
}

/// A ladder out of what a caller wrote.
pub(crate) fn ladder(text: &str) -> Result<Ladder, Fault> {
    text.parse().map_err(|error: farshore_engine::vault::retention::BadLadder| {
        Fault::new(FaultCode::InvalidValue, error.to_string())
    })
}

/// What retention would do to a machine's points, before it does. Changes nothing.
#[utoipa::path(tag = "retention",
    params(("machine" = String, Path, description = "Id, or unique name"), RetentionQuery),
    responses((status = 200, body = RetentionBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/machines/{machine}/retention")]
pub(crate) async fn plan_retention(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<String>,
    query: web::Query<RetentionQuery>,
) -> Result<web::Json<RetentionBody>, Problem> {
    let wanted = query.ladder.as_deref().map(ladder).transpose()?;
    let machine = resolve(&api.plane, &path)?;
    let (ladder, plan) = api.plane.retention(machine, wanted).await?;
    Ok(web::Json(RetentionBody::of(&ladder, plan)))
}

/// A point that shall stay.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldWanted {
    /// `latest`, a point's id, or an RFC 3339 time: the newest point that was taken then or before.
    pub point: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself, RFC 3339; without it, when it is released.
    pub expires_at: Option<String>,
}

/// Keeps a point, whatever the machine's retention says.
#[utoipa::path(tag = "retention", params(("machine" = String, Path, description = "Id, or unique name")),
    request_body = HoldWanted,
    responses((status = 201, body = HoldBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/machines/{machine}/holds")]
pub(crate) async fn hold_point(
    caller: Operator,
    api: web::Data<Api>,
    path: web::Path<String>,
    body: web::Json<HoldWanted>,
) -> Result<HttpResponse, Problem> {
    let machine = resolve(&api.plane, &path)?;
    let HoldWanted { point, reason, expires_at } = body.into_inner();
    let time = |text: String| {
        let bad = || Fault::new(FaultCode::InvalidValue, format!("'{text}' is no RFC 3339 time"));
        show::parse_time(&text).ok_or_else(bad)
    };
    let expires_at = expires_at.map(time).transpose()?;
    let held = api.plane.hold(&caller, machine, selector(&point)?, reason, expires_at).await?;
    Ok(HttpResponse::Created().json(HoldBody::from(held)))
}

/// Ends a hold. Its point goes when retention no longer wants it.
#[utoipa::path(tag = "retention",
    params(("machine" = String, Path, description = "Id, or unique name"), ("hold" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
#[delete("/api/v1/machines/{machine}/holds/{hold}")]
pub(crate) async fn release_hold(
    _: Operator,
    api: web::Data<Api>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (machine, hold) = path.into_inner();
    api.plane.release_hold(resolve(&api.plane, &machine)?, hold).await?;
    Ok(HttpResponse::NoContent().finish())
}
