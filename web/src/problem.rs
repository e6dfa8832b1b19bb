//! Errors as RFC 9457 problem documents: what happened, why, and what to do, with a code that does not change.

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::error::{JsonPayloadError, PathError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use farshore_actors::control::fault::{Fault, FaultCode};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// Media type of problem documents.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The code as a URI.
    #[serde(rename = "type", serialize_with = "urn")]
    #[schema(value_type = String, example = "urn:farshore:problem:malformed_request")]
    kind: Urn,
    /// What happened, in a few words that do not change.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, with names and values.
    pub detail: String,
    /// Stable code.
    pub code: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Methods that the address takes; only of a 405, so its room is on the heap.
    #[serde(skip)]
    allow: Option<Box<str>>,
}

/// A code, written as a URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Urn(&'static str);

fn urn<S: Serializer>(urn: &Urn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:farshore:problem:{}", urn.0))
}

/// What goes wrong before the control plane is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFault {
    /// The request cannot be understood.
    Malformed,
    /// The body is no JSON.
    MediaType,
    /// The body is too large.
    TooLarge,
    /// No token, or one that is not valid.
    Unauthenticated,
    /// Too many tokens that are not valid.
    TooManyAttempts,
    /// The token's role does not allow it.
    Forbidden,
    /// A session's unsafe request does not show that it comes from the dashboard.
    Csrf,
    /// There is no room for it now.
    Busy,
    /// More requests than one caller may make.
    RateLimited,
    /// An idempotency key came with another request before.
    IdempotencyKeyReused,
    /// The first request with this idempotency key is not answered yet.
    UnderWay,
    /// An edit does not say which version it is of.
    PreconditionRequired,
    /// No such address.
    NotFound,
    /// The address does not take this method.
    Method,
    /// Several items have this name.
    AmbiguousName,
    /// The job that was waited for failed.
    JobFailed,
    /// Something broke in here.
    Internal,
}

impl RequestFault {
    /// Every one.
    pub const ALL: &'static [Self] = &[
        Self::Malformed,
        Self::MediaType,
        Self::TooLarge,
        Self::Unauthenticated,
        Self::TooManyAttempts,
        Self::Forbidden,
        Self::Csrf,
        Self::Busy,
        Self::RateLimited,
        Self::IdempotencyKeyReused,
        Self::UnderWay,
        Self::PreconditionRequired,
        Self::NotFound,
        Self::Method,
        Self::AmbiguousName,
        Self::JobFailed,
        Self::Internal,
    ];

    fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Self::Malformed => (
                StatusCode::BAD_REQUEST,
                "malformed_request",
                "The request cannot be understood",
                "Correct what the detail names; /api/v1/openapi.json describes every request.",
            ),
            Self::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body is not JSON",
                "Send the body as application/json.",
            ),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large", "Send at most 64 KiB.")
            }
            Self::Unauthenticated => (
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "A valid API token is needed",
                "Send `Authorization: Bearer <token>` with a token that is valid now.",
            ),
            Self::TooManyAttempts => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_attempts",
                "Too many tokens that are not valid",
                "Wait ten seconds, then use a valid token.",
            ),
            Self::Forbidden => (
                StatusCode::FORBIDDEN,
                "forbidden",
                "The token's role does not allow this",
                "Use a token of the role that the detail names.",
            ),
            Self::Csrf => (
                StatusCode::FORBIDDEN,
                "csrf_token_wrong",
                "The request does not show that it comes from the dashboard",
                "Send the session's csrf_token as X-Farshore-Csrf, or use a bearer token.",
            ),
            Self::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy", "There is no room for it now", "Try again in a few seconds.")
            }
            Self::RateLimited => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "The caller makes too many requests",
                "Slow down: wait as long as Retry-After says. /api/v1/stream brings changes without asking.",
            ),
            Self::IdempotencyKeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "The idempotency key belongs to another request",
                "Use a new key for each request, and the same only to repeat one.",
            ),
            Self::UnderWay => (
                StatusCode::CONFLICT,
                "request_under_way",
                "The same request is under way",
                "Wait for the first answer, or send the request again later.",
            ),
            Self::PreconditionRequired => (
                StatusCode::PRECONDITION_REQUIRED,
                "if_match_missing",
                "The edit does not say which version it is of",
                "Read the item and send its ETag as If-Match.",
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "not_found",
                "There is nothing at this address",
                "See /api/v1/openapi.json for what there is.",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The address does not take this method",
                "Use one of the methods in the Allow header.",
            ),
            Self::AmbiguousName => (
                StatusCode::CONFLICT,
                "name_ambiguous",
                "The name fits several",
                "Use the id of the one that is meant.",
            ),
            Self::JobFailed => (
                StatusCode::CONFLICT,
                "job_failed",
                "The job failed",
                "The detail says why; correct that and try again.",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something broke in the server",
                "Look into the server's log, and report it.",
            ),
        }
    }
}

/// The status of a fault of the control plane.
pub fn status(code: FaultCode) -> StatusCode {
    use FaultCode as C;
    match code {
        C::InvalidValue | C::CertificateRequest => StatusCode::UNPROCESSABLE_ENTITY,
        C::MachineUnknown
        | C::ProcessServerUnknown
        | C::PointUnknown
        | C::HoldUnknown
        | C::ServedPointUnknown
        | C::DiskUnknown
        | C::JobUnknown
        | C::TokenUnknown
        | C::WebhookUnknown
        | C::MemberUnknown
        | C::InjectedFaultUnknown => StatusCode::NOT_FOUND,
        C::MachineRemoved
        | C::MachineUnassigned
        | C::MachineBusy
        | C::ProcessServerInUse
        | C::AlreadyThere
        | C::TokenExpired
        | C::TokenUsedUp
        | C::TokenWrongRole
        | C::EpochStale
        | C::MachinePaused
        | C::NotPaused
        | C::JobNotCancellable
        | C::JobNotRetryable
        | C::VaultForeign
        | C::ChaosDisabled => StatusCode::CONFLICT,
        C::ProcessServerAway | C::NoProcessServer | C::VaultLocked | C::VaultUnavailable | C::Unavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        C::ChangedMeanwhile => StatusCode::PRECONDITION_FAILED,
        C::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        C::Refused => StatusCode::BAD_GATEWAY,
        C::StateFailed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    /// A problem of a request.
    pub fn of(fault: RequestFault, detail: impl Into<String>) -> Self {
        let (status, code, title, remedy) = fault.facts();
        Self::new(status, code, title, detail.into(), remedy)
    }

    /// The address takes other methods.
    pub fn method(allow: Vec<String>) -> Self {
        let allow = allow.join(", ");
        Self { allow: Some(allow.clone().into()), ..Self::of(RequestFault::Method, format!("it takes {allow}")) }
    }

    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: String, remedy: &'static str) -> Self {
        Self { kind: Urn(code), title, status: status.as_u16(), detail, code, remedy, allow: None }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let code = fault.code;
        Self::new(status(code), code.code(), code.title(), fault.detail, code.remedy())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut answer = HttpResponse::build(self.status_code());
        answer.insert_header((CONTENT_TYPE, PROBLEM_JSON));
        match self.status {
            401 => drop(answer.insert_header((WWW_AUTHENTICATE, "Bearer"))),
            405 => drop(answer.insert_header((ALLOW, self.allow.as_deref().unwrap_or_default()))),
            429 if self.code == "rate_limited" => drop(answer.insert_header((RETRY_AFTER, "1"))),
            429 => drop(answer.insert_header((RETRY_AFTER, "10"))),
            503 => drop(answer.insert_header((RETRY_AFTER, "5"))),
            _ => {}
        }
        answer.body(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// A job that failed. Its trouble begins with the title of the fault that ended it: titles never change, so the code can
/// be told from it.
pub(crate) fn of_job(trouble: Option<&str>) -> Problem {
    let trouble = trouble.unwrap_or("it did not say why");
    let known = |&&code: &&FaultCode| trouble.strip_prefix(code.title()).is_some_and(|rest| rest.starts_with(": "));
    match FaultCode::ALL.iter().find(known) {
        Some(&code) => Fault::new(code, trouble[code.title().len() + 2..].to_owned()).into(),
        None => Problem::of(RequestFault::JobFailed, trouble),
    }
}

/// A body that is not what it should be.
pub(crate) fn of_json(error: &JsonPayloadError) -> Problem {
    let fault = match error {
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => RequestFault::TooLarge,
        JsonPayloadError::ContentType => RequestFault::MediaType,
        JsonPayloadError::Payload(actix_web::error::PayloadError::Overflow) => RequestFault::TooLarge,
        _ => RequestFault::Malformed,
    };
    Problem::of(fault, format!("body: {error}"))
}

/// A query that is not what it should be.
pub(crate) fn of_query(error: &QueryPayloadError) -> Problem {
    Problem::of(RequestFault::Malformed, format!("query: {error}"))
}

/// A path that is not what it should be.
pub(crate) fn of_path(error: &PathError) -> Problem {
    Problem::of(RequestFault::Malformed, format!("path: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_jobs_trouble_becomes_the_problem_that_ended_it() {
        let fault = Fault::new(FaultCode::PointUnknown, "mark 7");
        assert_eq!(of_job(Some(&fault.to_string())), Problem::from(fault));
        assert_eq!(of_job(Some("it burned")).code, "job_failed");
        assert_eq!(of_job(None).status, 409);
    }

    #[test]
    fn every_fault_becomes_an_error_status_with_its_own_words() {
        for &code in FaultCode::ALL {
            let problem = Problem::from(Fault::new(code, "what happened"));
            assert!(problem.status_code().is_client_error() || problem.status_code().is_server_error());
            assert_eq!((problem.code, problem.remedy), (code.code(), code.remedy()));
            let answer = problem.error_response();
            assert_eq!(answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()), Some(PROBLEM_JSON));
        }
    }
}
