//! What every unsafe request passes: it is written into the audit log with its outcome, and repeated with the same
//! `Idempotency-Key` it is answered again instead of done again.
//!
//! ```text
//!   POST, PUT, PATCH, DELETE ─► known key? ─► the answer from before
//!                                  │ no
//!                                  ▼
//!                               handler ─► audit log (durable) ─► answer remembered under its key ─► answer
//! ```
//!
//! Keys belong to their caller, live for a day, and are in memory: after a restart a repeated request is done again,
//! which jobs refuse where it would do harm. Secrets of answers are never at rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody, to_bytes};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{self, Bytes};
use actix_web::{Error, HttpRequest, HttpResponse, ResponseError};
use farshore_actors::control::ledger::audit::WriteAudit;
use farshore_actors::control::ledger::records::TokenId;
use farshore_actors::control::plane::Caller;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use slog::error;

use crate::auth;
use crate::openapi;
use crate::problem::{Problem, RequestFault};
use crate::server::Api;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long an answer is kept for its key.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Most answers that are kept; the oldest makes room.
const KEPT_MAX: usize = 1024;
/// Longest key.
const KEY_BYTES_MAX: usize = 128;
/// Largest answer; none of a command comes near it.
const ANSWER_BYTES_MAX: usize = 1 << 20;

type Key = (TokenId, String);

/// Answers by key.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<BTreeMap<Key, Answer>>);

#[derive(Debug, Clone)]
struct Answer {
    request: [u8; 32],
    at: Instant,
    /// `None`: the first request is still under way.
    said: Option<Said>,
}

#[derive(Debug, Clone)]
struct Said {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Answers {
    /// What was said to this request before. `Ok(None)`: nothing, and from now on it is under way.
    fn begin(&self, key: &Key, request: [u8; 32], now: Instant) -> Result<Option<Said>, Problem> {
        let mut answers = self.0.lock();
        answers.retain(|_, answer| now.duration_since(answer.at) < KEPT_FOR);
        match answers.get(key) {
            Some(answer) if answer.request != request => {
                Err(Problem::of(RequestFault::IdempotencyKeyReused, "the key was sent with another request"))
            }
            Some(Answer { said: Some(said), .. }) => Ok(Some(said.clone())),
            Some(_) => Err(Problem::of(RequestFault::UnderWay, "the first request with this key is not answered yet")),
            None => {
                if answers.len() >= KEPT_MAX {
                    let oldest = answers.iter().min_by_key(|(_, answer)| answer.at).map(|(key, _)| key.clone());
                    oldest.map(|oldest| answers.remove(&oldest));
                }
                answers.insert(key.clone(), Answer { request, at: now, said: None });
                Ok(None)
            }
        }
    }

    /// What is said to the request under this key. A failure of ours is not kept: trying again may help.
    fn end(&self, key: &Key, said: Said) {
        let mut answers = self.0.lock();
        match said.status.is_server_error() || said.status == StatusCode::TOO_MANY_REQUESTS {
            true => drop(answers.remove(key)),
            false => {
                if let Some(answer) = answers.get_mut(key) {
                    answer.said = Some(said);
                }
            }
        }
    }
}

/// Forgets a key whose request was dropped on the way: its caller went away, or the handler panicked.
struct UnderWay<'a> {
    answers: &'a Answers,
    key: Option<Key>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.answers.0.lock().remove(key);
        }
    }
}

/// The middleware.
pub(crate) async fn pass(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let api = request.app_data::<web::Data<Api>>().cloned();
    let caller = if safe { None } else { auth::known(request.request()) };
    let (Some(api), Some(caller)) = (api, caller) else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let key = match key_of(request.request(), &caller) {
        Ok(key) => key,
        Err(problem) => return Ok(request.into_response(problem.error_response())),
    };
    let mut under_way = UnderWay { answers: &api.answers, key: None };
    if let Some(key) = &key {
        let print = match fingerprint(&mut request).await {
            Ok(print) => print,
            Err(problem) => return Ok(request.into_response(problem.error_response())),
        };
        match api.answers.begin(key, print, Instant::now()) {
            Ok(None) => under_way.key = Some(key.clone()),
            Ok(Some(said)) => return Ok(request.into_response(said.again())),
            Err(problem) => return Ok(request.into_response(problem.error_response())),
        }
    }
    let from = request.peer_addr().map_or_else(String::new, |peer| peer.ip().to_string());
    let answer = next.call(request).await?;
    let (request, answer) = answer.into_parts();
    let (answer, body) = answer.into_parts();
    let body = to_bytes_at_most(body).await?;
    let entry = entry(&request, caller, from, answer.status(), &body);
    if let Err(fault) = api.plane.audit(entry).await {
        error!(api.log, "a change could not be written into the audit log"; "path" => request.path(), "fault" => %fault);
    }
    if let Some(key) = under_way.key.take() {
        api.answers.end(&key, Said::of(answer.status(), answer.headers(), body.clone()));
    }
    Ok(ServiceResponse::new(request, answer.set_body(BoxBody::new(body))))
}

async fn to_bytes_at_most(body: impl MessageBody) -> Result<Bytes, Error> {
    let failed = || Problem::of(RequestFault::Internal, "the answer could not be made");
    let bytes = to_bytes(body).await.map_err(|_| failed())?;
    if bytes.len() > ANSWER_BYTES_MAX { Err(failed().into()) } else { Ok(bytes) }
}

fn key_of(request: &HttpRequest, caller: &Caller) -> Result<Option<Key>, Problem> {
    let Some(value) = request.headers().get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= KEY_BYTES_MAX);
    let bad = format!("header Idempotency-Key: expected 1 to {KEY_BYTES_MAX} printable characters");
    let text = text.ok_or_else(|| Problem::of(RequestFault::Malformed, bad))?;
    Ok(caller.token.map(|token| (token, text.to_owned())))
}

/// What tells a request from another: method, address and body.
async fn fingerprint(request: &mut ServiceRequest) -> Result<[u8; 32], Problem> {
    let body = request.extract::<Bytes>().await;
    let body =
        body.map_err(|_| Problem::of(RequestFault::TooLarge, "the body cannot be read, or is over the limit"))?;
    let mut hash = Sha256::new();
    hash.update(request.method().as_str());
    hash.update([0]);
    hash.update(request.uri().to_string());
    hash.update([0]);
    hash.update(&body);
    request.set_payload(Payload::from(body));
    Ok(hash.finalize().into())
}

fn entry(request: &HttpRequest, caller: Caller, from: String, status: StatusCode, body: &[u8]) -> WriteAudit {
    let pattern = request.match_pattern();
    let action = pattern.and_then(|pattern| openapi::operation_id(request.method().as_str(), &pattern));
    let problem = if status.is_success() { None } else { serde_json::from_slice::<serde_json::Value>(body).ok() };
    WriteAudit {
        by: caller.name,
        role: caller.role,
        action: action.map_or_else(|| request.method().to_string(), str::to_owned),
        target: request.path().to_owned(),
        from,
        status: status.as_u16(),
        code: problem.and_then(|problem| problem["code"].as_str().map(str::to_owned)),
    }
}

impl Said {
    fn of(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let kept = [CONTENT_TYPE, LOCATION, actix_web::http::header::ETAG];
        let headers = kept.into_iter().filter_map(|name| headers.get(&name).map(|value| (name, value.clone())));
        Self { status, headers: headers.collect(), body }
    }

    fn again(self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status);
        for header in self.headers {
            answer.insert_header(header);
        }
        answer.insert_header((REPLAYED, "true"));
        answer.body(self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: StatusCode) -> Said {
        Said { status, headers: vec![], body: Bytes::from_static(b"{}") }
    }

    #[test]
    fn a_key_answers_the_same_request_again_and_refuses_another() {
        let answers = Answers::default();
        let (key, now) = ((TokenId(1), "k".to_owned()), Instant::now());
        assert!(answers.begin(&key, [1; 32], now).expect("new").is_none());
        assert_eq!(answers.begin(&key, [1; 32], now).expect_err("under way").code, "request_under_way");
        answers.end(&key, said(StatusCode::CREATED));
        assert!(answers.begin(&key, [1; 32], now).expect("known").is_some());
        assert_eq!(answers.begin(&key, [2; 32], now).expect_err("another").code, "idempotency_key_reused");
        assert!(answers.begin(&(TokenId(2), "k".into()), [2; 32], now).expect("of another caller").is_none());
        assert!(answers.begin(&key, [2; 32], now + KEPT_FOR).expect("forgotten").is_none());
    }

    #[test]
    fn our_own_failures_are_not_kept_and_the_number_of_answers_is_bounded() {
        let answers = Answers::default();
        let now = Instant::now();
        let key = (TokenId(1), "k".to_owned());
        answers.begin(&key, [1; 32], now).expect("new");
        answers.end(&key, said(StatusCode::SERVICE_UNAVAILABLE));
        assert!(answers.begin(&key, [1; 32], now).expect("tried again").is_none());
        for n in 0..2 * KEPT_MAX {
            answers.begin(&(TokenId(2), n.to_string()), [1; 32], now).expect("new");
        }
        assert!(answers.0.lock().len() <= KEPT_MAX);
    }
}
