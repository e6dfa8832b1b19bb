//! Our own HTTP client under the Azure SDK. The SDK's default ends any request after 60 s, even while bytes flow; this one
//! ends a request that makes no progress, however long a slow link may take.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::Bytes;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Method, Request};
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A body is handed over in pieces, each of which is a sign of progress: at first, and on slow links, of this size. At 20 KB/s
/// one takes 3 s.
const PIECE_BYTES_MIN: usize = 64 << 10;
/// And of this size on quick ones, where each piece costs more than its bytes.
const PIECE_BYTES_MAX: usize = 4 << 20;
/// A piece that is gone sooner lets the next one be twice as large.
const QUICK: Duration = Duration::from_millis(100);
/// A piece that is gone later lets the next one be half as large.
const SLOW: Duration = Duration::from_secs(2);
/// Time to reach the service.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Connections that are kept for the next request.
const IDLE_CONNECTIONS: usize = 32;

/// The client.
#[derive(Debug)]
pub(super) struct Wire {
    client: reqwest::Client,
    /// Longest time without any progress.
    stall: Duration,
    /// How large pieces are by now.
    piece_bytes: Arc<AtomicUsize>,
}

impl Wire {
    /// A client; `local` for a service on this host, which no proxy leads to.
    pub(super) fn new(stall: Duration, local: bool) -> Result<Self, String> {
        // One provider for the whole process, whoever comes first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_keepalive(Duration::from_secs(30))
            .http1_only();
        let builder = if local { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { client, stall, piece_bytes: Arc::new(AtomicUsize::new(PIECE_BYTES_MIN)) })
    }

    fn stalled(&self) -> Error {
        let text = format!("no progress for {} s", self.stall.as_secs_f32());
        Error::with_message(ErrorKind::Io, text)
    }
}

/// When something last moved.
#[derive(Debug, Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn moved(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Ends once nothing has moved for this long.
    async fn stalled(&self, limit: Duration) {
        loop {
            let end = *self.0.lock() + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let progress = Progress::new();
        let mut sending = self.client.request(method(request.method())?, request.url().clone());
        for (name, value) in request.headers().iter() {
            sending = sending.header(name.as_str(), value.as_str());
        }
        let length = request.body().len().filter(|length| *length > 0);
        if let Some(length) = length.filter(|_| request.headers().get_optional_str(&"content-length".into()).is_none())
        {
            sending = sending.header("content-length", length);
        }
        sending = match request.body().clone() {
            Body::Bytes(bytes) if bytes.is_empty() => sending,
            Body::Bytes(bytes) => {
                let pieces = pieces(bytes, progress.clone(), self.piece_bytes.clone());
                sending.body(reqwest::Body::wrap_stream(pieces))
            }
            Body::SeekableStream(body) => {
                let moving = progress.clone();
                sending.body(reqwest::Body::wrap_stream(body.inspect(move |_| moving.moved())))
            }
        };
        let answer = tokio::select! {
            answer = sending.send() => answer.map_err(failed)?,
            () = progress.stalled(self.stall) => return Err(self.stalled()),
        };
        let (status, headers) = (answer.status().as_u16().into(), headers(answer.headers()));
        let body = watched(answer.bytes_stream(), self.stall);
        Ok(AsyncRawResponse::new(status, headers, Box::pin(body)))
    }
}

/// A body in pieces, each of which is progress.
fn pieces(
    bytes: Bytes,
    progress: Progress,
    size: Arc<AtomicUsize>,
) -> impl Stream<Item = azure_core::Result<Bytes>> + Send + 'static {
    stream::unfold((bytes, None), move |(mut left, since): (Bytes, Option<Instant>)| {
        progress.moved();
        let known = size.load(Relaxed);
        let wanted = match since.map(|since| since.elapsed()) {
            Some(took) if took < QUICK => known.saturating_mul(2).min(PIECE_BYTES_MAX),
            Some(took) if took > SLOW => (known / 2).max(PIECE_BYTES_MIN),
            _ => known,
        };
        size.store(wanted, Relaxed);
        let piece = left.split_to(left.len().min(wanted));
        async move { (!piece.is_empty()).then_some((Ok(piece), (left, Some(Instant::now())))) }
    })
}

/// An answer's body; it ends in an error once nothing comes for too long.
fn watched(
    body: impl Stream<Item = reqwest::Result<Bytes>> + Send + Unpin + 'static,
    stall: Duration,
) -> impl Stream<Item = azure_core::Result<Bytes>> + Send + 'static {
    stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(stall, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(failed(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(Error::with_message(ErrorKind::Io, "the answer stopped half-way")), None)),
        }
    })
}

/// Without the URL: its query may hold a signature.
fn failed(error: reqwest::Error) -> Error {
    let kind = if error.is_connect() { ErrorKind::Connection } else { ErrorKind::Io };
    Error::new(kind, error.without_url())
}

fn headers(found: &reqwest::header::HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in found {
        if let Ok(value) = value.to_str() {
            headers.insert(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned()));
        }
    }
    headers
}

fn method(method: Method) -> azure_core::Result<reqwest::Method> {
    let unknown = |_| Error::with_message(ErrorKind::Other, "a verb that HTTP does not know");
    reqwest::Method::from_bytes(method.as_str().as_bytes()).map_err(unknown)
}
