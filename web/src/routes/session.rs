//! The dashboard's session: begun with a token or a one-time code, carried by a cookie, safe from other sites' pages.

use std::time::{Duration, Instant};

use actix_web::http::header::SET_COOKIE;
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use farshore_actors::control::plane::Caller;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::{self, Viewer, session};
use crate::problem::{Problem, RequestFault};
use crate::routes::tokens::CallerRole;
use crate::server::Api;
use crate::show;

/// What a session begins with: exactly one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// An API token.
    pub token: Option<String>,
    /// A one-time code, as it stands in a login link behind `#login=`.
    pub code: Option<String>,
}

/// Who calls, and what they may.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SessionBody {
    /// The label of the token that it began with.
    pub name: String,
    /// What it allows.
    pub role: CallerRole,
    /// Send it as `X-Farshore-Csrf` with every POST, PUT, PATCH and DELETE; null for a bearer token, which needs none.
    pub csrf_token: Option<String>,
    /// When it ends at the latest; null for a bearer token.
    pub expires_at: Option<String>,
}

/// A login code that was made.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LoginCodeBody {
    /// The code. It begins one session.
    pub code: String,
    /// What to open in a browser, behind the server's address.
    pub path: String,
    /// When it ends unused.
    pub expires_at: String,
}

fn body(caller: &Caller, found: Option<session::Found>) -> SessionBody {
    SessionBody {
        name: caller.name.clone(),
        role: caller.role.into(),
        expires_at: found.as_ref().map(|found| in_future(found.left)),
        csrf_token: found.map(|found| found.csrf.to_string()),
    }
}

fn in_future(time: Duration) -> String {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    show::time(farshore_engine::ids::Timestamp(show::now().0.saturating_add(micros)))
}

/// Begins a session: sets the cookie. Needs no token but the one in the body.
#[utoipa::path(tag = "session", security(()), request_body = NewSession,
    responses((status = 201, body = SessionBody, headers(("Set-Cookie" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/session")]
pub(crate) async fn begin_session(
    request: HttpRequest,
    api: web::Data<Api>,
    wanted: web::Json<NewSession>,
) -> Result<HttpResponse, Problem> {
    let now = Instant::now();
    let caller = match (&wanted.token, &wanted.code) {
        (Some(token), None) => api.plane.caller(token.trim()),
        (None, Some(code)) => api.sessions.redeem(code.trim(), now).and_then(|token| api.plane.caller_of(token)),
        _ => return Err(Problem::of(RequestFault::Malformed, "body: give either a token or a code")),
    };
    let Some((caller, token)) = caller.and_then(|caller| caller.token.map(|token| (caller, token))) else {
        return Err(auth::failed(&request, &api, "the token or code is unknown, used up or expired"));
    };
    let cookie = api.sessions.begin(token, now);
    let found = api.sessions.find(&cookie, now);
    Ok(HttpResponse::Created()
        .insert_header((SET_COOKIE, session::set_cookie(Some(&cookie), api.secure)))
        .json(body(&caller, found)))
}

/// Who calls: by cookie or by bearer token.
#[utoipa::path(tag = "session", responses((status = 200, body = SessionBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/session")]
pub(crate) async fn get_session(caller: Viewer, request: HttpRequest, api: web::Data<Api>) -> web::Json<SessionBody> {
    let cookie = if auth::has_bearer(&request) { None } else { session::cookie(&request) };
    let found = cookie.and_then(|cookie| api.sessions.find(cookie, Instant::now()));
    web::Json(body(&caller, found))
}

/// Ends the session of the cookie, and takes the cookie away.
#[utoipa::path(tag = "session", responses((status = 204, headers(("Set-Cookie" = String))), (status = "4XX", body = Problem)))]
#[delete("/api/v1/session")]
pub(crate) async fn end_session(_: Viewer, request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    if let Some(cookie) = session::cookie(&request) {
        api.sessions.end(cookie);
    }
    HttpResponse::NoContent().insert_header((SET_COOKIE, session::set_cookie(None, api.secure))).finish()
}

/// Makes a one-time code with which a browser begins a session that may what the caller may.
#[utoipa::path(tag = "session", responses((status = 201, body = LoginCodeBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/login-codes")]
pub(crate) async fn create_login_code(caller: Viewer, api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let token =
        caller.token.ok_or_else(|| Problem::of(RequestFault::Forbidden, "only a token's bearer can do this"))?;
    let code = api.sessions.code(token, Instant::now()).to_string();
    let (path, expires_at) = (format!("/#login={code}"), in_future(session::CODE_VALID));
    Ok(HttpResponse::Created().json(LoginCodeBody { code, path, expires_at }))
}
