//! Webhooks: who is told of changes of health. A webhook's secret is in the answer that made it, and nowhere else.

use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, delete, get, post, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_actors::control::health::Health;
use farshore_actors::control::ledger::webhooks::{
    Delivery, DeliveryId, DeliveryState, HealthChange, News, Webhook, WebhookId,
};
use farshore_actors::control::view::WebhookView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::auth::Admin;
use crate::page::{Page, PageQuery};
use crate::problem::Problem;
use crate::routes::events::SubjectBody;
use crate::routes::tokens::secret_if_there;
use crate::server::Api;
use crate::show::{self, name_of};
use crate::webhook;

/// A webhook that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// What to call it.
    pub label: String,
    /// Where it is told: https, or plain http on the configuration server's own host.
    pub url: String,
    /// Take plain http to another host: everybody on the way sees what is told.
    #[serde(default)]
    pub allow_plain_http: bool,
}

/// A webhook. Its secret is there only in the answer that made it.
#[derive(Serialize, ToSchema)]
pub struct WebhookBody {
    /// Its id.
    pub id: String,
    /// What the operator calls it.
    pub label: String,
    /// Where it is told.
    pub url: String,
    /// Plain http to another host is taken.
    pub allow_plain_http: bool,
    /// When it was made.
    pub created_at: String,
    /// What its requests are signed with. It is shown only when it is made.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "secret_if_there")]
    #[schema(value_type = Option<String>)]
    pub secret: Option<Zeroizing<String>>,
    /// `waiting` before the first delivery, then `delivered`, `retrying` or `failed` as the last one stands.
    pub state: String,
    /// How much it is still to be told.
    pub pending: usize,
    /// How much had to make room for later news because it did not answer.
    pub dropped: u64,
    /// What was tried last.
    pub last_delivery: Option<DeliveryBody>,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

/// Something that a webhook is told.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeliveryBody {
    /// Its id, the `Farshore-Delivery` of its requests; a later one is higher.
    pub id: String,
    /// When it happened.
    pub at: String,
    /// `health_changed` or `test`.
    pub event: String,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next; null once it is over.
    pub next_attempt_at: Option<String>,
    /// When it was over.
    pub over_at: Option<String>,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
    /// What changed; null of a test.
    pub health: Option<HealthChangeBody>,
}

/// A change of health.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct HealthChangeBody {
    /// Of what.
    pub subject: SubjectBody,
    /// Its label; empty for the installation.
    pub name: String,
    /// How it was: `normal`, `warning` or `critical`.
    pub before: String,
    /// How it is.
    pub level: String,
    /// Code of the worst issue.
    pub code: Option<String>,
    /// What happened and why.
    pub cause: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
}

impl From<HealthChange> for HealthChangeBody {
    fn from(change: HealthChange) -> Self {
        let HealthChange { subject, name, before, health, code, cause, remedy } = change;
        let level = |health: Health| name_of(&health);
        Self { subject: subject.into(), name, before: level(before), level: level(health), code, cause, remedy }
    }
}

impl From<Delivery> for DeliveryBody {
    fn from(delivery: Delivery) -> Self {
        let Delivery { id, at, news, state, attempts, next_at, status, trouble, .. } = delivery;
        let open = state == DeliveryState::Pending;
        let (event, health) = match news {
            News::Test { .. } => ("test", None),
            News::HealthChanged(change) => ("health_changed", Some(change.into())),
        };
        Self {
            id: id.to_string(),
            at: show::time(at),
            event: event.into(),
            state: name_of(&state),
            attempts,
            next_attempt_at: open.then(|| show::time(next_at)),
            over_at: (!open).then(|| show::time(next_at)),
            status,
            trouble,
            health,
        }
    }
}

impl From<WebhookView> for WebhookBody {
    fn from(view: WebhookView) -> Self {
        let WebhookView { webhook, pending, last } = view;
        let Webhook { id, label, url, allow_plain_http, created_at, dropped, .. } = webhook;
        let state = match last.as_ref().map(|last| last.state) {
            None => "waiting",
            Some(DeliveryState::Pending) => "retrying",
            Some(DeliveryState::Delivered) => "delivered",
            Some(DeliveryState::Failed) => "failed",
        };
        Self {
            id: id.to_string(),
            label,
            url,
            allow_plain_http,
            created_at: show::time(created_at),
            secret: None,
            state: state.into(),
            pending,
            dropped,
            last_delivery: last.map(Into::into),
            allowed_operations: vec!["test".into(), "delete".into()],
        }
    }
}

fn parse_id(text: &str) -> Result<WebhookId, Problem> {
    let unknown = |_| Fault::new(FaultCode::WebhookUnknown, format!("webhook '{text}'"));
    Ok(text.parse().map(WebhookId).map_err(unknown)?)
}

/// Webhooks, without their secrets.
#[utoipa::path(tag = "webhooks", params(PageQuery),
    responses((status = 200, body = Page<WebhookBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/webhooks")]
pub(crate) async fn list_webhooks(
    _: Admin,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<WebhookBody>>, Problem> {
    let page = api.plane.webhooks(query.cursor::<u64>()?.map(WebhookId), query.limit()?);
    Ok(web::Json(Page::of(page, WebhookBody::from)))
}

/// One webhook, without its secret.
#[utoipa::path(tag = "webhooks", params(("webhook" = String, Path, description = "The webhook's id")),
    responses((status = 200, body = WebhookBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/webhooks/{webhook}")]
pub(crate) async fn get_webhook(
    _: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<web::Json<WebhookBody>, Problem> {
    Ok(web::Json(api.plane.webhook(parse_id(&path)?)?.into()))
}

/// Makes a webhook. From then on it is told, signed, of everything that is not normal and of every change of that.
#[utoipa::path(tag = "webhooks", request_body = NewWebhook,
    responses((status = 201, body = WebhookBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/webhooks")]
pub(crate) async fn create_webhook(
    caller: Admin,
    api: web::Data<Api>,
    body: web::Json<NewWebhook>,
) -> Result<HttpResponse, Problem> {
    let NewWebhook { label, url, allow_plain_http } = body.into_inner();
    let url = webhook::check(&url, allow_plain_http).map_err(|why| Fault::new(FaultCode::InvalidValue, why))?;
    let (made, secret) = api.plane.create_webhook(&caller, label, url, allow_plain_http).await?;
    let location = format!("/api/v1/webhooks/{}", made.webhook.id);
    let body = WebhookBody { secret: Some(secret), ..made.into() };
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(body))
}

/// Ends a webhook. What it was not told yet is forgotten.
#[utoipa::path(tag = "webhooks", params(("webhook" = String, Path, description = "The webhook's id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
#[delete("/api/v1/webhooks/{webhook}")]
pub(crate) async fn delete_webhook(
    caller: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    api.plane.delete_webhook(&caller, parse_id(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Tells a webhook nothing, to see whether it arrives: the list of its deliveries shows what became of it.
#[utoipa::path(tag = "webhooks", params(("webhook" = String, Path, description = "The webhook's id")),
    responses((status = 202, body = DeliveryBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/webhooks/{webhook}/test")]
pub(crate) async fn test_webhook(
    caller: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = parse_id(&path)?;
    let queued = api.plane.test_webhook(&caller, id).await?;
    let location = format!("/api/v1/webhooks/{id}/deliveries");
    Ok(HttpResponse::Accepted().insert_header((LOCATION, location)).json(DeliveryBody::from(queued)))
}

/// What a webhook was told and will be, newest first: everything that waits, and the last fifty that are over.
#[utoipa::path(tag = "webhooks", params(("webhook" = String, Path, description = "The webhook's id"), PageQuery),
    responses((status = 200, body = Page<DeliveryBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/webhooks/{webhook}/deliveries")]
pub(crate) async fn list_deliveries(
    _: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<DeliveryBody>>, Problem> {
    let before = query.cursor::<u64>()?.map(DeliveryId);
    Ok(web::Json(Page::of(api.plane.deliveries(parse_id(&path)?, before, query.limit()?)?, DeliveryBody::from)))
}
