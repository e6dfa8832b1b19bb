//! The HTTP server: TLS, or plain HTTP on loopback where that was asked for; limits on everything that a peer sends.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::error::InternalError;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use farshore_actors::control::plane::{Caller, ControlPlane};
use farshore_actors::supervise::OsChance;
use farshore_engine::ids::Chance;
use slog::{Logger, error, info};
use zeroize::Zeroizing;

use crate::auth::Throttle;
use crate::auth::rate::Rates;
use crate::auth::session::Sessions;
use crate::board::Board;
use crate::board::watcher::watch;
use crate::command::Answers;
use crate::problem::{self, Problem, RequestFault};
use crate::webhook::HttpPost;
use crate::{command, dashboard, openapi, routes};

/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Time for a request's headers. Chosen: a slow link sends 64 KiB in it; twice as long doubles what silent peers hold.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Idle time after which a connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most connections of one worker at a time. Chosen: dashboards (an event stream each) and scripts of a site; each costs some 20 KiB.
const CONNECTIONS_MAX: usize = 2048;
/// Most TLS handshakes of one worker at a time: each is a signature.
const HANDSHAKES_MAX: usize = 32;
/// Threads that answer requests.
const WORKERS: usize = 2;
/// Seconds that requests have to end when the server stops.
const STOP_WITHIN_SECONDS: u64 = 3;

/// What a server is started with.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificate and key; `None`: plain HTTP, on a loopback address only.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Plain HTTP for others than this host.
    #[error(
        "plain HTTP on {0} would send tokens over the network in the clear: listen on a loopback address, or use HTTPS"
    )]
    PlainBeyondLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("listen on {address} for management: {cause}; choose another address, or end what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
}

/// What every handler sees.
pub(crate) struct Api {
    pub(crate) plane: ControlPlane,
    pub(crate) log: Logger,
    pub(crate) throttle: Throttle,
    pub(crate) sessions: Sessions,
    pub(crate) rates: Rates,
    pub(crate) answers: Answers,
    pub(crate) board: Arc<Board>,
    pub(crate) secure: bool,
    pub(crate) started: Instant,
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    secure: bool,
    api: web::Data<Api>,
    handle: ServerHandle,
}

impl Server {
    /// Starts one. Must be called where an actix `System` runs.
    pub fn start(config: ServerConfig, plane: ControlPlane, log: Logger) -> Result<Self, ServerError> {
        if config.tls.is_none() && !config.listen.ip().is_loopback() {
            return Err(ServerError::PlainBeyondLoopback(config.listen));
        }
        let failed = |cause| ServerError::Listen { address: config.listen, cause };
        let socket = TcpListener::bind(config.listen).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let secure = config.tls.is_some();
        let api = Api {
            plane,
            log: log.clone(),
            throttle: Throttle::default(),
            sessions: Sessions::default(),
            rates: Rates::default(),
            answers: Answers::default(),
            board: Arc::new(Board::new(draw_life())),
            secure,
            started: Instant::now(),
        };
        let api = web::Data::new(api);
        let shared = api.clone();
        let server = HttpServer::new(move || {
            App::new().app_data(shared.clone()).configure(configure).wrap(from_fn(command::pass)).wrap(headers(secure))
        })
        .workers(WORKERS)
        .client_request_timeout(HEADERS_WITHIN)
        .keep_alive(KEEP_ALIVE)
        .max_connections(CONNECTIONS_MAX)
        .max_connection_rate(HANDSHAKES_MAX)
        .shutdown_timeout(STOP_WITHIN_SECONDS)
        .disable_signals();
        let server = match config.tls {
            Some(tls) => server.listen_rustls_0_23(socket, (*tls).clone()),
            None => server.listen(socket),
        };
        let running = server.map_err(failed)?.run();
        let handle = running.handle();
        info!(log, "the management interface is up"; "address" => %address, "https" => secure);
        let log_of_end = log.clone();
        actix_web::rt::spawn(async move {
            if let Err(cause) = running.await {
                error!(log_of_end, "the management interface ended: restart the process"; "cause" => %cause);
            }
        });
        actix_web::rt::spawn(watch(api.clone()));
        match HttpPost::new() {
            Ok(post) => api.plane.post_with(Arc::new(post)),
            Err(cause) => error!(log, "webhooks cannot be told: restart the process"; "cause" => cause),
        }
        Ok(Self { address, secure, api, handle })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.address)
    }

    /// What to open in a browser to begin a session that may what `caller` may; once, and within minutes.
    pub fn login_link(&self, caller: &Caller) -> Option<Zeroizing<String>> {
        let code = self.api.sessions.code(caller.token?, Instant::now());
        Some(Zeroizing::new(format!("{}/#login={}", self.url(), *code)))
    }

    /// Takes no more requests, ends event streams, and ends once those that run are answered, or after a few seconds.
    pub async fn stop(&self) {
        self.api.board.feed.close();
        self.handle.stop(true).await;
    }
}

fn draw_life() -> u64 {
    let mut life = [0; 8];
    OsChance.fill(&mut life);
    u64::from_be_bytes(life)
}

/// Scripts, styles and requests of the dashboard come from here and nowhere else, and no page frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                      connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Headers that every answer carries; a handler's own stand.
fn headers(secure: bool) -> DefaultHeaders {
    let headers = DefaultHeaders::new()
        .add((CACHE_CONTROL, "no-store"))
        .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .add((CONTENT_SECURITY_POLICY, POLICY))
        .add((X_FRAME_OPTIONS, "DENY"))
        .add((REFERRER_POLICY, "no-referrer"))
        .add(("cross-origin-opener-policy", "same-origin"))
        .add(("cross-origin-resource-policy", "same-origin"))
        .add(("permissions-policy", "camera=(), geolocation=(), microphone=()"));
    match secure {
        true => headers.add((STRICT_TRANSPORT_SECURITY, "max-age=31536000")),
        false => headers,
    }
}

fn configure(app: &mut web::ServiceConfig) {
    let answer = |problem: Problem, cause: String| -> actix_web::Error {
        InternalError::from_response(cause, problem.error_response()).into()
    };
    let json = web::JsonConfig::default()
        .limit(BODY_BYTES_MAX)
        .error_handler(move |error, _| answer(problem::of_json(&error), error.to_string()));
    let query =
        web::QueryConfig::default().error_handler(move |error, _| answer(problem::of_query(&error), error.to_string()));
    let path =
        web::PathConfig::default().error_handler(move |error, _| answer(problem::of_path(&error), error.to_string()));
    app.app_data(json)
        .app_data(query)
        .app_data(path)
        .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
        .configure(routes::register)
        .configure(dashboard::register)
        .default_service(web::to(nothing_here));
}

/// What no route takes: the address is not there, or does not take the method.
async fn nothing_here(request: HttpRequest) -> HttpResponse {
    let allow = openapi::methods_at(request.path());
    let problem = match allow.is_empty() {
        true => Problem::of(RequestFault::NotFound, format!("{} {}", request.method(), request.path())),
        false => Problem::method(allow),
    };
    problem.error_response()
}
