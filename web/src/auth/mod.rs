//! Who calls: a bearer token, or a session of the dashboard, belongs to a role, and each handler names the role that it
//! needs in its arguments.
//!
//! Tokens carry 256 random bits, so guessing is hopeless; the throttle only keeps a client with a wrong token from
//! filling the log.

pub(crate) mod rate;
pub(crate) mod session;

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use farshore_actors::control::ledger::records::ApiRole;
use farshore_actors::control::plane::Caller;
use slog::warn;

use crate::problem::{Problem, RequestFault};
use crate::server::Api;

/// Failures of one address that are answered as such within a window. Chosen: a person who pastes the wrong token does
/// not come near it.
const FAILURES_MAX: u32 = 20;
/// How long failures are remembered.
const WINDOW: Duration = Duration::from_secs(10);
/// Addresses that are remembered at a time.
const ADDRESSES_MAX: usize = 1024;

/// Counts failed logins by address; bounded.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<IpAddr, (Instant, u32)>>);

impl Throttle {
    /// Counts a failure; whether there have been too many.
    fn failed(&self, from: Option<IpAddr>, now: Instant) -> bool {
        let Some(from) = from else { return false };
        let mut failures = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if failures.len() >= ADDRESSES_MAX {
            failures.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&from) {
            return true;
        }
        let entry = failures.entry(from).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
        entry.1 > FAILURES_MAX
    }
}

fn caller(request: &HttpRequest, needed: ApiRole) -> Result<Caller, Problem> {
    let api = request.app_data::<web::Data<Api>>();
    let api = api.ok_or_else(|| Problem::of(RequestFault::Internal, "the server is not set up"))?;
    let caller = match (has_bearer(request), session::cookie(request)) {
        (true, _) => by_token(request, api)?,
        (false, Some(cookie)) => by_session(request, api, cookie)?,
        (false, None) => return Err(Problem::of(RequestFault::Unauthenticated, "the request carries no token")),
    };
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if caller.token.is_some_and(|token| !api.rates.admit(token, changes, Instant::now())) {
        return Err(Problem::of(RequestFault::RateLimited, format!("with the token of '{}'", caller.name)));
    }
    match caller.role >= needed {
        true => Ok(caller),
        false => Err(Problem::of(
            RequestFault::Forbidden,
            format!("the token of '{}' has role {}, needed is {}", caller.name, name(caller.role), name(needed)),
        )),
    }
}

/// Who calls, where that is known; nothing is counted and nobody is refused by this.
pub(crate) fn known(request: &HttpRequest) -> Option<Caller> {
    let api = request.app_data::<web::Data<Api>>()?;
    match has_bearer(request) {
        true => api.plane.caller(bearer(request)?),
        false => api.plane.caller_of(api.sessions.find(session::cookie(request)?, Instant::now())?.token),
    }
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok())?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether a request brings a token of its own; a cookie does not count then.
pub(crate) fn has_bearer(request: &HttpRequest) -> bool {
    request.headers().contains_key(AUTHORIZATION)
}

fn by_token(request: &HttpRequest, api: &Api) -> Result<Caller, Problem> {
    let caller = bearer(request).and_then(|token| api.plane.caller(token));
    caller.ok_or_else(|| failed(request, api, "the token is unknown, revoked or expired"))
}

fn by_session(request: &HttpRequest, api: &Api, cookie: &str) -> Result<Caller, Problem> {
    let over = || Problem::of(RequestFault::Unauthenticated, "the session is over");
    let found = api.sessions.find(cookie, Instant::now()).ok_or_else(over)?;
    let caller = api.plane.caller_of(found.token).ok_or_else(over)?;
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let shown = request.headers().get(session::CSRF).and_then(|value| value.to_str().ok());
    match safe || shown == Some(found.csrf.as_str()) {
        true => Ok(caller),
        false => Err(Problem::of(RequestFault::Csrf, "X-Farshore-Csrf is missing or not the session's")),
    }
}

/// A login that failed: counted, and told.
pub(crate) fn failed(request: &HttpRequest, api: &Api, why: &str) -> Problem {
    let from = request.peer_addr().map(|peer| peer.ip());
    if api.throttle.failed(from, Instant::now()) {
        return Problem::of(RequestFault::TooManyAttempts, "from this address");
    }
    warn!(api.log, "a login that is not valid was refused"; "from" => ?from);
    Problem::of(RequestFault::Unauthenticated, why)
}

fn name(role: ApiRole) -> &'static str {
    match role {
        ApiRole::Viewer => "viewer",
        ApiRole::Operator => "operator",
        ApiRole::Admin => "admin",
    }
}

macro_rules! needs {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(Caller);

        impl Deref for $name {
            type Target = Caller;

            fn deref(&self) -> &Caller {
                &self.0
            }
        }

        impl FromRequest for $name {
            type Error = Problem;
            type Future = Ready<Result<Self, Problem>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                ready(caller(request, ApiRole::$name).map(Self))
            }
        }
    };
}

needs! {
    /// A caller who may look. Always a handler's first argument: the body of a stranger is not read.
    Viewer
}
needs! {
    /// A caller who may act on machines.
    Operator
}
needs! {
    /// A caller who may change who may act.
    Admin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_address_are_cut_off_and_forgotten_and_do_not_touch_another() {
        let throttle = Throttle::default();
        let (one, other) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let start = Instant::now();
        assert!((0..FAILURES_MAX).all(|_| !throttle.failed(one, start)));
        assert!(throttle.failed(one, start));
        assert!(!throttle.failed(other, start));
        assert!(!throttle.failed(one, start + WINDOW));
    }
}
