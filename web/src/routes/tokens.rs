//! Tokens: to join, and to call this API. A token's text is in the answer that made it, and nowhere else.

use std::time::Duration;

use actix_web::{HttpResponse, delete, get, post, web};
use farshore_actors::control::fault::{Fault, FaultCode};
use farshore_actors::control::ledger::records::{ApiRole, ApiToken, JoinToken, TokenId};
use farshore_actors::control::view::JoinTicket;
use farshore_engine::control::messages::MemberRole;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::auth::Admin;
use crate::page::{Page, PageQuery};
use crate::problem::{Problem, RequestFault};
use crate::server::Api;
use crate::show;

/// How long a join token is valid where the request does not say.
const JOIN_VALID_SECONDS: u64 = 3600;

/// Who may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JoinRole {
    /// A protected machine's agent.
    Machine,
    /// A process server.
    ProcessServer,
}

impl From<MemberRole> for JoinRole {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Machine => Self::Machine,
            MemberRole::ProcessServer => Self::ProcessServer,
        }
    }
}

impl From<JoinRole> for MemberRole {
    fn from(role: JoinRole) -> Self {
        match role {
            JoinRole::Machine => Self::Machine,
            JoinRole::ProcessServer => Self::ProcessServer,
        }
    }
}

/// What a caller may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CallerRole {
    /// May look.
    Viewer,
    /// May act on machines.
    Operator,
    /// May change who may act.
    Admin,
}

impl From<ApiRole> for CallerRole {
    fn from(role: ApiRole) -> Self {
        match role {
            ApiRole::Viewer => Self::Viewer,
            ApiRole::Operator => Self::Operator,
            ApiRole::Admin => Self::Admin,
        }
    }
}

impl From<CallerRole> for ApiRole {
    fn from(role: CallerRole) -> Self {
        match role {
            CallerRole::Viewer => Self::Viewer,
            CallerRole::Operator => Self::Operator,
            CallerRole::Admin => Self::Admin,
        }
    }
}

/// A join token that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// Who may join with it.
    pub role: JoinRole,
    /// What the operator calls it.
    #[serde(default)]
    pub label: String,
    /// How long it is valid; an hour where nothing is said.
    pub valid_for_seconds: Option<u64>,
    /// How often it may be used; once where nothing is said.
    pub uses: Option<u32>,
    /// What the command shall call the member; its host's name where nothing is said.
    pub name: Option<String>,
    /// Disks that the command shall protect, each `NAME=PATH`.
    #[serde(default)]
    pub disks: Vec<String>,
}

/// A join token that was made.
#[derive(Serialize, ToSchema)]
pub struct JoinTicketBody {
    /// Its public part.
    pub id: String,
    /// The token. It is shown only here.
    #[serde(serialize_with = "secret")]
    #[schema(value_type = String)]
    pub token: Zeroizing<String>,
    /// Who may join with it.
    pub role: JoinRole,
    /// When it ends.
    pub expires_at: String,
    /// How often it may be used.
    pub uses: u32,
    /// SHA-256 of the certificate of the installation's authority: whom to trust at the first contact.
    pub ca_fingerprint: String,
    /// Where to join.
    pub control_addresses: Vec<String>,
    /// What to run where it is to join. Disks that were not named here are named there with `--disk NAME=PATH`; a process
    /// server finds the vault in its own configuration.
    #[serde(serialize_with = "secret")]
    #[schema(value_type = String)]
    pub command: Zeroizing<String>,
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl JoinTicketBody {
    /// A ticket with the command that uses it.
    fn of(ticket: JoinTicket, name: Option<&str>, disks: &[String]) -> Self {
        let servers: Vec<String> = ticket.control_addresses.iter().map(|at| format!("--server {at}")).collect();
        let servers = servers.join(" ");
        let (fingerprint, token) = (&ticket.authority_fingerprint, &*ticket.token);
        let trust = format!("{servers} --ca-fingerprint {fingerprint} --token {token}");
        let name = name.map(|name| format!(" --name {}", quoted(name))).unwrap_or_default();
        let disks: String = disks.iter().map(|disk| format!(" --disk {}", quoted(disk))).collect();
        let command = match ticket.role {
            MemberRole::Machine => format!("farshore agent{name}{disks} {trust}"),
            MemberRole::ProcessServer => format!("farshore process-server{name} {trust}"),
        };
        Self {
            id: print_id(TokenId(ticket.id)),
            role: ticket.role.into(),
            expires_at: show::time(ticket.expires_at),
            uses: ticket.uses_max,
            ca_fingerprint: ticket.authority_fingerprint,
            control_addresses: ticket.control_addresses,
            token: ticket.token,
            command: Zeroizing::new(command),
        }
    }
}

/// A join token, without its text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JoinTokenBody {
    /// Its public part.
    pub id: String,
    /// Who may join with it.
    pub role: JoinRole,
    /// What the operator calls it.
    pub label: String,
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    pub expires_at: String,
    /// How often it may be used.
    pub uses_max: u32,
    /// How often it was.
    pub uses: u32,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

impl From<JoinToken> for JoinTokenBody {
    fn from(token: JoinToken) -> Self {
        Self {
            id: print_id(token.id),
            role: token.role.into(),
            label: token.label,
            created_at: show::time(token.created_at),
            expires_at: show::time(token.expires_at),
            uses_max: token.uses_max,
            uses: token.uses,
            allowed_operations: vec!["revoke".into()],
        }
    }
}

/// An API token that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiToken {
    /// What it allows.
    pub role: CallerRole,
    /// Whose it is: stands in events.
    pub label: String,
    /// How long it is valid; for ever where nothing is said.
    pub valid_for_seconds: Option<u64>,
}

/// An API token. Its text is there only in the answer that made it.
#[derive(Serialize, ToSchema)]
pub struct ApiTokenBody {
    /// Its public part.
    pub id: String,
    /// The token. It is shown only when it is made.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "secret_if_there")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Zeroizing<String>>,
    /// What it allows.
    pub role: CallerRole,
    /// Whose it is.
    pub label: String,
    /// When it was made.
    pub created_at: String,
    /// When it ends, if ever.
    pub expires_at: Option<String>,
    /// What may be done with it now.
    pub allowed_operations: Vec<String>,
}

impl From<ApiToken> for ApiTokenBody {
    fn from(token: ApiToken) -> Self {
        Self {
            id: print_id(token.id),
            token: None,
            role: token.role.into(),
            label: token.label,
            created_at: show::time(token.created_at),
            expires_at: token.expires_at.map(show::time),
            allowed_operations: vec!["revoke".into()],
        }
    }
}

/// The only place where a secret is written out.
fn secret<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

pub(crate) fn secret_if_there<S: Serializer>(
    text: &Option<Zeroizing<String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    text.as_ref().map(|text| text.as_str()).serialize(serializer)
}

fn print_id(id: TokenId) -> String {
    format!("{:016x}", id.0)
}

fn parse_id(text: &str) -> Result<TokenId, Problem> {
    let number = if text.len() == 16 { u64::from_str_radix(text, 16).ok() } else { None };
    let id = number.map(TokenId).filter(|id| print_id(*id) == text);
    id.ok_or_else(|| Fault::new(FaultCode::TokenUnknown, format!("token '{text}'")).into())
}

fn cursor(query: &PageQuery) -> Result<Option<TokenId>, Problem> {
    let Some(text) = &query.cursor else { return Ok(None) };
    let bad = |_| Problem::of(RequestFault::Malformed, "query: the cursor is not one that this list gave");
    parse_id(text).map(Some).map_err(bad)
}

/// Join tokens that were made, without their texts.
#[utoipa::path(tag = "tokens", params(PageQuery),
    responses((status = 200, body = Page<JoinTokenBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/join-tokens")]
pub(crate) async fn list_join_tokens(
    _: Admin,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<JoinTokenBody>>, Problem> {
    let page = api.plane.join_tokens(cursor(&query)?, query.limit()?);
    Ok(web::Json(Page::of(page, JoinTokenBody::from)))
}

fn check_words(name: Option<&str>, disks: &[String]) -> Result<(), Problem> {
    let bad = |word: &str| word.is_empty() || word.len() > 1024 || word.chars().any(char::is_control);
    let shaped = |disk: &String| disk.split_once('=').is_some_and(|(name, path)| !name.is_empty() && !path.is_empty());
    if name.is_some_and(bad) || disks.len() > 256 || disks.iter().any(|disk| bad(disk) || !shaped(disk)) {
        let detail = "a name has 1 to 1024 bytes, and a disk is NAME=PATH, at most 256 of them";
        return Err(Fault::new(FaultCode::InvalidValue, detail).into());
    }
    Ok(())
}

/// Makes a join token.
#[utoipa::path(tag = "tokens", request_body = NewJoinToken,
    responses((status = 201, body = JoinTicketBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/join-tokens")]
pub(crate) async fn create_join_token(
    caller: Admin,
    api: web::Data<Api>,
    body: web::Json<NewJoinToken>,
) -> Result<HttpResponse, Problem> {
    let NewJoinToken { role, label, valid_for_seconds, uses, name, disks } = body.into_inner();
    check_words(name.as_deref(), &disks)?;
    let valid_for = Duration::from_secs(valid_for_seconds.unwrap_or(JOIN_VALID_SECONDS));
    let made = api.plane.create_join_token(&caller, role.into(), label, valid_for, uses.unwrap_or(1));
    Ok(HttpResponse::Created().json(JoinTicketBody::of(made.await?, name.as_deref(), &disks)))
}

/// Ends a join token.
#[utoipa::path(tag = "tokens", params(("token" = String, Path, description = "The token's id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
#[delete("/api/v1/join-tokens/{token}")]
pub(crate) async fn revoke_join_token(
    caller: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    api.plane.revoke_join_token(&caller, parse_id(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// API tokens, without their texts.
#[utoipa::path(tag = "tokens", params(PageQuery),
    responses((status = 200, body = Page<ApiTokenBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/api-tokens")]
pub(crate) async fn list_api_tokens(
    _: Admin,
    api: web::Data<Api>,
    query: web::Query<PageQuery>,
) -> Result<web::Json<Page<ApiTokenBody>>, Problem> {
    let page = api.plane.api_tokens(cursor(&query)?, query.limit()?);
    Ok(web::Json(Page::of(page, ApiTokenBody::from)))
}

/// Makes an API token.
#[utoipa::path(tag = "tokens", request_body = NewApiToken,
    responses((status = 201, body = ApiTokenBody), (status = "4XX", body = Problem)))]
#[post("/api/v1/api-tokens")]
pub(crate) async fn create_api_token(
    caller: Admin,
    api: web::Data<Api>,
    body: web::Json<NewApiToken>,
) -> Result<HttpResponse, Problem> {
    let NewApiToken { role, label, valid_for_seconds } = body.into_inner();
    let valid_for = valid_for_seconds.map(Duration::from_secs);
    let (made, text) = api.plane.create_api_token(&caller, role.into(), label, valid_for).await?;
    Ok(HttpResponse::Created().json(ApiTokenBody { token: Some(text), ..made.into() }))
}

/// Ends an API token.
#[utoipa::path(tag = "tokens", params(("token" = String, Path, description = "The token's id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
#[delete("/api/v1/api-tokens/{token}")]
pub(crate) async fn revoke_api_token(
    caller: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    api.plane.revoke_api_token(&caller, parse_id(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}
