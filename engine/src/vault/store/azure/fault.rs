//! What an answer of the service means for us.

use std::error::Error as _;
use std::time::Duration;

use azure_core::error::{Error, ErrorKind};
use azure_core::http::StatusCode;
use azure_core::http::headers::Headers;

use super::super::{StoreError, StoreErrorKind};

/// What a failed call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no such object.
    Missing,
    /// There is an object, or one of another version.
    Condition,
    /// Blocks that were to be committed are not there.
    NoSuchBlocks,
    /// Blocks of another kind are there: somebody else's object.
    OtherBlocks,
    /// The range begins behind the object.
    PastTheEnd,
    /// Later; not before this long.
    Later(Option<Duration>),
    /// Nothing that trying again would mend.
    Final(StoreErrorKind),
}

/// A failed call.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) verdict: Verdict,
    /// Whether the effect may have taken place.
    pub(super) unsure: bool,
    text: String,
}

impl Fault {
    pub(super) fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self { verdict, unsure: false, text: text.into() }
    }

    /// As an error of the port.
    pub(super) fn into_error(self, doing: String) -> StoreError {
        let kind = match self.verdict {
            Verdict::Missing | Verdict::NoSuchBlocks => StoreErrorKind::NotFound,
            Verdict::Condition | Verdict::OtherBlocks | Verdict::PastTheEnd => StoreErrorKind::Refused,
            Verdict::Later(_) => StoreErrorKind::Unavailable,
            Verdict::Final(kind) => kind,
        };
        StoreError { kind, doing, cause: self.text }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::HttpResponse { status, error_code, raw_response } => {
                let headers = raw_response.as_ref().map(|raw| raw.headers());
                let wait = headers.and_then(retry_after);
                answered(u16::from(*status), error_code.as_deref().unwrap_or_default(), wait)
            }
            ErrorKind::Connection => Self::new(Verdict::Later(None), chain(&error)),
            ErrorKind::Credential => credential(&error),
            // No answer, half an answer, or one that is no answer of this protocol.
            _ => Self { verdict: Verdict::Later(None), unsure: true, text: chain(&error) },
        }
    }
}

fn answered(status: u16, code: &str, wait: Option<Duration>) -> Fault {
    use StoreErrorKind::{Denied, Full, Immutable, Refused, Unavailable};
    let later = matches!(status, 408 | 429 | 500 | 502 | 503 | 504);
    let (verdict, hint) = match (status, code) {
        (404, "ContainerNotFound") => (Verdict::Final(Unavailable), "; make the container, or name another"),
        (404, _) => (Verdict::Missing, ""),
        (409, "ContainerBeingDeleted" | "ContainerDisabled" | "AccountBeingCreated" | "BlobBeingRehydrated") => {
            (Verdict::Final(Unavailable), "")
        }
        (409, "BlobImmutableDueToPolicy") => (Verdict::Final(Immutable), ""),
        (409, "BlobArchived" | "LeaseAlreadyPresent" | "SnapshotsPresent") => (Verdict::Final(Refused), ""),
        (409 | 412, "LeaseIdMissing" | "LeaseNotPresentWithBlobOperation") => {
            (Verdict::Final(Refused), "; somebody holds a lease on it: end the lease")
        }
        (409 | 412, _) => (Verdict::Condition, ""),
        (400, "InvalidBlockList") => (Verdict::NoSuchBlocks, ""),
        (400, "InvalidBlobOrBlock" | "InvalidBlockId" | "InvalidBlobType") => (Verdict::OtherBlocks, ""),
        // The bytes were changed on their way: the next try brings them whole.
        (400, "Md5Mismatch" | "Crc64Mismatch") => (Verdict::Later(None), ""),
        (416, _) => (Verdict::PastTheEnd, ""),
        (401 | 403, "AuthenticationFailed" | "NoAuthenticationInformation") => {
            (Verdict::Final(Denied), "; is the credential right and not expired, and this host's clock too?")
        }
        (401 | 403, _) => {
            (Verdict::Final(Denied), "; the credential needs to read, list, add, create, write and delete blobs")
        }
        (507, _) => (Verdict::Final(Full), ""),
        _ if later => (Verdict::Later(wait), ""),
        _ => (Verdict::Final(Refused), ""),
    };
    let code = if code.is_empty() { StatusCode::from(status).canonical_reason() } else { code.into() };
    Fault { verdict, unsure: later, text: format!("Azure answered {status} {code}{hint}") }
}

/// Tokens come from a service of its own: refused is refused, all else may pass.
fn credential(error: &Error) -> Fault {
    let mut cause = error.source();
    let mut refused = false;
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<Error>() {
            refused |= inner.http_status().is_some_and(|status| (400..404).contains(&u16::from(status)));
        }
        cause = inner.source();
    }
    let verdict = if refused { Verdict::Final(StoreErrorKind::Denied) } else { Verdict::Later(None) };
    Fault::new(verdict, format!("no Entra ID token: {}", chain(error)))
}

/// An error with its causes, each once.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// In seconds; Azure sends no dates there.
fn retry_after(headers: &Headers) -> Option<Duration> {
    let millis = |name: &'static str| headers.get_optional_str(&name.into()).and_then(|text| text.trim().parse().ok());
    let own = millis("x-ms-retry-after-ms").or_else(|| millis("retry-after-ms")).map(Duration::from_millis);
    own.or_else(|| millis("retry-after").map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_container_is_never_taken_for_an_absent_object() {
        let kind = |status, code| answered(status, code, None).into_error("get it".into()).kind;
        assert_eq!(kind(404, "BlobNotFound"), StoreErrorKind::NotFound);
        assert_eq!(kind(404, "ContainerNotFound"), StoreErrorKind::Unavailable);
        assert_eq!(kind(403, "AuthorizationFailure"), StoreErrorKind::Denied);
        assert_eq!(kind(413, "RequestBodyTooLarge"), StoreErrorKind::Refused);
    }

    #[test]
    fn only_an_answer_that_leaves_it_open_is_unsure() {
        for (status, unsure) in [(500, true), (503, true), (409, false), (403, false), (404, false)] {
            assert_eq!(answered(status, "", None).unsure, unsure, "{status}");
        }
        let later = answered(503, "ServerBusy", Some(Duration::from_secs(7)));
        assert_eq!(later.verdict, Verdict::Later(Some(Duration::from_secs(7))));
    }
}
