//! Sessions of the dashboard, and the one-time codes that begin them. In memory: a restart asks for a login again.
//!
//! A session is 256 random bits in an HttpOnly, SameSite=Strict cookie, of which only the SHA-256 is kept. It may what
//! the API token may that it began with, and ends with it. A second secret, which scripts of the dashboard read from
//! `GET /api/v1/session` and send as `X-Farshore-Csrf`, shows that an unsafe request comes from the dashboard itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::{COOKIE, HeaderName};
use farshore_actors::control::ledger::records::TokenId;
use farshore_actors::control::ledger::tokens::hex;
use farshore_actors::supervise::OsChance;
use farshore_engine::ids::Chance;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The cookie's name.
pub(crate) const COOKIE_NAME: &str = "farshore_session";
/// The header that carries the second secret.
pub(crate) const CSRF: HeaderName = HeaderName::from_static("x-farshore-csrf");
/// A session that is not used for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(12 * 3600);
/// A session ends after this time however much it is used.
pub(crate) const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most sessions; the one that was unused longest makes room.
const SESSIONS_MAX: usize = 1024;
/// How long a code may be used.
pub(crate) const CODE_VALID: Duration = Duration::from_secs(600);
/// Most codes that wait to be used; the oldest makes room.
const CODES_MAX: usize = 64;

type Hash = [u8; 32];

/// Sessions and codes.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<Hash, Session>,
    codes: BTreeMap<Hash, (TokenId, Instant)>,
}

#[derive(Debug, Clone)]
struct Session {
    token: TokenId,
    csrf: Zeroizing<String>,
    begun: Instant,
    used: Instant,
}

/// A session as its owner may see it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The API token that it began with.
    pub(crate) token: TokenId,
    /// The second secret.
    pub(crate) csrf: Zeroizing<String>,
    /// How long it goes on at most.
    pub(crate) left: Duration,
}

fn draw() -> Zeroizing<String> {
    let mut secret = Zeroizing::new([0; 32]);
    OsChance.fill(&mut *secret);
    Zeroizing::new(hex(&*secret))
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

impl Sessions {
    /// A code with which a browser begins a session, once.
    pub(crate) fn code(&self, token: TokenId, now: Instant) -> Zeroizing<String> {
        let code = draw();
        let mut inner = self.0.lock();
        inner.codes.retain(|_, (_, made)| now.duration_since(*made) < CODE_VALID);
        if inner.codes.len() >= CODES_MAX {
            let oldest = inner.codes.iter().min_by_key(|(_, (_, made))| *made).map(|(hash, _)| *hash);
            oldest.map(|oldest| inner.codes.remove(&oldest));
        }
        inner.codes.insert(hash(&code), (token, now));
        code
    }

    /// The API token behind a code, which is used up by this.
    pub(crate) fn redeem(&self, code: &str, now: Instant) -> Option<TokenId> {
        let (token, made) = self.0.lock().codes.remove(&hash(code))?;
        (now.duration_since(made) < CODE_VALID).then_some(token)
    }

    /// Begins a session; answers the cookie's value.
    pub(crate) fn begin(&self, token: TokenId, now: Instant) -> Zeroizing<String> {
        let cookie = draw();
        let mut inner = self.0.lock();
        inner.sessions.retain(|_, session| session.lives(now));
        if inner.sessions.len() >= SESSIONS_MAX {
            let unused = inner.sessions.iter().min_by_key(|(_, session)| session.used).map(|(hash, _)| *hash);
            unused.map(|unused| inner.sessions.remove(&unused));
        }
        inner.sessions.insert(hash(&cookie), Session { token, csrf: draw(), begun: now, used: now });
        cookie
    }

    /// The session of a cookie.
    pub(crate) fn find(&self, cookie: &str, now: Instant) -> Option<Found> {
        let mut inner = self.0.lock();
        let session = inner.sessions.get_mut(&hash(cookie)).filter(|session| session.lives(now))?;
        session.used = now;
        let left = LIFE_MAX.saturating_sub(now.duration_since(session.begun));
        Some(Found { token: session.token, csrf: session.csrf.clone(), left })
    }

    /// Ends a session.
    pub(crate) fn end(&self, cookie: &str) {
        self.0.lock().sessions.remove(&hash(cookie));
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE_MAX && now.duration_since(self.begun) < LIFE_MAX
    }
}

/// The session cookie of a request.
pub(crate) fn cookie(request: &HttpRequest) -> Option<&str> {
    let cookies = request.headers().get_all(COOKIE).filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

/// The header that sets the cookie, or with no value takes it away.
pub(crate) fn set_cookie(value: Option<&str>, secure: bool) -> String {
    let (value, age) = value.map_or(("", 0), |value| (value, LIFE_MAX.as_secs()));
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_begins_one_session_and_no_second_one_and_not_late() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let code = sessions.code(TokenId(7), start);
        assert_eq!(sessions.redeem("nonsense", start), None);
        assert_eq!(sessions.redeem(&code, start), Some(TokenId(7)));
        assert_eq!(sessions.redeem(&code, start), None, "it is used up");
        let late = sessions.code(TokenId(7), start);
        assert_eq!(sessions.redeem(&late, start + CODE_VALID), None);
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old_and_when_it_is_ended() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let idle = sessions.begin(TokenId(7), start);
        assert!(sessions.find(&idle, start + IDLE_MAX).is_none());
        let old = sessions.begin(TokenId(7), start);
        let hours = (1..7 * 3).map(|n| start + Duration::from_secs(n * 8 * 3600));
        assert!(hours.into_iter().all(|at| sessions.find(&old, at).is_some()));
        assert!(sessions.find(&old, start + LIFE_MAX).is_none());
        let ended = sessions.begin(TokenId(7), start);
        sessions.end(&ended);
        assert!(sessions.find(&ended, start).is_none());
    }

    #[test]
    fn sessions_and_codes_are_bounded_and_the_least_used_go() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let first = sessions.begin(TokenId(1), start);
        for n in 0..SESSIONS_MAX as u64 {
            sessions.begin(TokenId(n), start + Duration::from_millis(n + 1));
        }
        assert_eq!(sessions.0.lock().sessions.len(), SESSIONS_MAX);
        assert!(sessions.find(&first, start).is_none());
        let first = sessions.code(TokenId(1), start);
        for n in 0..CODES_MAX as u64 {
            sessions.code(TokenId(n), start + Duration::from_millis(n + 1));
        }
        assert_eq!(sessions.redeem(&first, start), None);
    }
}
