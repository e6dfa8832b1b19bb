//! The HTTP server: TLS, or plain HTTP on loopback where that was asked for; limits on everything that a peer sends.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::error::InternalError;
use actix_web::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use farshore_actors::control::plane::ControlPlane;
use slog::{Logger, error, info};

use crate::auth::Throttle;
use crate::problem::{self, Problem, RequestFault};
use crate::{openapi, routes};

/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Time for a request's headers. Chosen: a slow link sends 64 KiB in it; twice as long doubles what silent peers hold.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Idle time after which a connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most connections of one worker at a time. Chosen: dashboards and scripts of a site; each costs some 20 KiB.
const CONNECTIONS_MAX: usize = 512;
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
    pub(crate) started: Instant,
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    secure: bool,
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
        let api = Api { plane, log: log.clone(), throttle: Throttle::default(), started: Instant::now() };
        let api = web::Data::new(api);
        let server = HttpServer::new(move || {
            let headers =
                DefaultHeaders::new().add((CACHE_CONTROL, "no-store")).add((X_CONTENT_TYPE_OPTIONS, "nosniff"));
            App::new().app_data(api.clone()).configure(configure).wrap(headers)
        })
        .workers(WORKERS)
        .client_request_timeout(HEADERS_WITHIN)
        .keep_alive(KEEP_ALIVE)
        .max_connections(CONNECTIONS_MAX)
        .max_connection_rate(HANDSHAKES_MAX)
        .shutdown_timeout(STOP_WITHIN_SECONDS)
        .disable_signals();
        let secure = config.tls.is_some();
        let server = match config.tls {
            Some(tls) => server.listen_rustls_0_23(socket, (*tls).clone()),
            None => server.listen(socket),
        };
        let running = server.map_err(failed)?.run();
        let handle = running.handle();
        info!(log, "the management interface is up"; "address" => %address, "https" => secure);
        actix_web::rt::spawn(async move {
            if let Err(cause) = running.await {
                error!(log, "the management interface ended: restart the process"; "cause" => %cause);
            }
        });
        Ok(Self { address, secure, handle })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.address)
    }

    /// Takes no more requests, and ends once those that run are answered, or after a few seconds.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
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
