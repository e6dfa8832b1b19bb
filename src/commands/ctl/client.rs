//! The API's client: where the server is, whom to trust, what its answers mean for the exit code.

use std::error::Error;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use farshore_engine::ids::{MachineId, ProcessServerId};
use farshore_engine::transport::identity::certificate_from_pem;
use farshore_engine::transport::tls::client_config;
use farshore_engine::transport::{Peers, TlsFault, Trust};
use reqwest::{RequestBuilder, Response, Url};
use serde_json::{Value, json};

use super::CtlArgs;
use super::profile::{self, Profile};
use crate::exit::{ExitKind, Failure};

/// Time to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Time for an answer. The longest that the API takes is 35 s, for a point that is served.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Time after which a stream is opened anew.
const STREAM_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// Items in a part of a list: the most that the API gives.
const PART: usize = 500;

/// The API's client.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    token: String,
}

/// Finds server, token and authority.
pub(super) fn connect(args: &CtlArgs, state_dir: &Path) -> Result<Client, Failure> {
    if args.server.is_none()
        && !state_dir.join("endpoints.json").is_file()
        && let Some(profile) = profile::load()?
    {
        return of_profile(&profile);
    }
    let endpoints = state_dir.join("endpoints.json");
    let known: Option<Value> = fs::read(&endpoints).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let server = match (&args.server, known.as_ref().and_then(|known| known["management"].as_str())) {
        (Some(server), _) => server.clone(),
        (None, Some(server)) => server.to_owned(),
        (None, None) => {
            let text = format!("{} names no server: give --server, or the right --state-dir", endpoints.display());
            return Err(Failure::usage(text));
        }
    };
    let base = url(&server)?;
    let trust = || trust(args, state_dir, known.as_ref());
    client(base, trust, token(args, state_dir)?)
}

/// The client of a profile.
pub(super) fn of_profile(profile: &Profile) -> Result<Client, Failure> {
    let trust = || {
        if let Some(pem) = &profile.authority_pem {
            let certificate = certificate_from_pem(pem, "the authority's certificate").map_err(Failure::usage)?;
            return Ok(Trust::Authority(certificate));
        }
        let fingerprint = profile.ca_fingerprint.as_ref().and_then(|text| text.parse().ok());
        fingerprint.map(Trust::Fingerprint).ok_or_else(|| {
            Failure::usage("whom to trust is not known: log in with --ca-file or with --ca-fingerprint (64 hex digits)")
        })
    };
    client(url(&profile.server)?, trust, profile.token.clone())
}

fn client(base: Url, trust: impl FnOnce() -> Result<Trust, Failure>, token: String) -> Result<Client, Failure> {
    let builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .no_proxy();
    let trust = match base.scheme() {
        "https" => trust()?,
        // Never spoken to: plain HTTP needs no trust, but the client wants a configuration.
        _ => Trust::Fingerprint(farshore_engine::transport::Fingerprint([0; 32])),
    };
    let tls = client_config(None, trust, Peers::ConfigServer).map_err(Failure::usage)?;
    let http = builder.tls_backend_preconfigured((*tls).clone()).build();
    let http = http.map_err(|error| Failure::failed(format!("set up the client: {error}")))?;
    Ok(Client { http, base, token })
}

/// The API's URL. Plain HTTP only to this host: the token would cross the network in the clear.
fn url(server: &str) -> Result<Url, Failure> {
    let bad = |why: &str| Failure::usage(format!("--server {server}: {why}"));
    let text = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let url = Url::parse(&text).map_err(|error| bad(&error.to_string()))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if local => {}
        "http" => return Err(bad("plain HTTP is only for a server on this host; use https")),
        _ => return Err(bad("expected https://HOST:PORT")),
    }
    url.join("/api/v1/").map_err(|error| bad(&error.to_string()))
}

fn trust(args: &CtlArgs, state_dir: &Path, known: Option<&Value>) -> Result<Trust, Failure> {
    let here = ["authority.pem", "ca/ca.pem"].map(|name| state_dir.join(name));
    let file = args.ca_file.clone().or_else(|| here.into_iter().find(|file| file.is_file()));
    if let Some(file) = file {
        let read = fs::read_to_string(&file);
        let pem = read.map_err(|error| Failure::usage(format!("read {}: {error}", file.display())))?;
        let certificate = certificate_from_pem(&pem, "the authority's certificate");
        let bad = |error| Failure::usage(format!("{}: {error}", file.display()));
        return Ok(Trust::Authority(certificate.map_err(bad)?));
    }
    if let Some(text) = &args.ca_fingerprint {
        let bad = |_| Failure::usage("--ca-fingerprint: expected the 64 hex digits that a join token shows");
        return text.parse().map(Trust::Fingerprint).map_err(bad);
    }
    let fingerprint = known.and_then(|known| known["ca_fingerprint"].as_str()).and_then(|text| text.parse().ok());
    fingerprint.map(Trust::Fingerprint).ok_or_else(|| {
        Failure::usage(
            "whom to trust is not known: give --ca-file with the certificate of the installation's authority",
        )
    })
}

/// The token that is named, or that lies in the state directory.
pub(super) fn token(args: &CtlArgs, state_dir: &Path) -> Result<String, Failure> {
    let read = |file: &Path| {
        let text = fs::read_to_string(file);
        let unreadable = |error: io::Error| Failure::usage(format!("read the token in {}: {error}", file.display()));
        text.map(|text| text.trim().to_owned()).map_err(unreadable)
    };
    match (&args.token_file, std::env::var("FARSHORE_TOKEN")) {
        (Some(file), _) => read(file),
        (None, Ok(token)) => Ok(token.trim().to_owned()),
        (None, Err(_)) => read(&state_dir.join("admin.token")),
    }
}

impl Client {
    /// One item.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.http.get(self.url(path)?)).await
    }

    /// What is no JSON, as it is.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let answer = self.open(self.http.get(self.url(path)?)).await?;
        answer.text().await.map_err(|error| self.unreachable(&error))
    }

    /// An answer that does not end: the caller reads it. It goes on behind `last` where that can be.
    pub(super) async fn stream(&self, path: &str, last: Option<&str>) -> Result<Response, Failure> {
        let mut request = self.http.get(self.url(path)?).timeout(STREAM_WITHIN);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        self.open(request).await
    }

    /// An answer whose body is not read yet.
    async fn open(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request.bearer_auth(&self.token).send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        if status < 300 {
            return Ok(answer);
        }
        Err(refused(status, &answer.json().await.unwrap_or_default()))
    }

    /// Makes something, or begins it.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(self.http.post(self.url(path)?).json(body)).await
    }

    /// A one-time code for the dashboard, with the address to open.
    pub(super) async fn login_code(&self) -> Result<Value, Failure> {
        let mut made = self.send(self.http.post(self.url("login-codes")?)).await?;
        let open = self.base.join(made["path"].as_str().unwrap_or("/"));
        made["open"] =
            open.map_err(|error| Failure::failed(format!("the answer holds no address: {error}")))?.as_str().into();
        Ok(made)
    }

    /// Changes something, if it is still the version that was seen.
    pub(super) async fn patch(&self, path: &str, body: &Value, seen: &str) -> Result<Value, Failure> {
        self.send(self.http.patch(self.url(path)?).header("if-match", seen).json(body)).await
    }

    /// Ends something.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.http.delete(self.url(path)?)).await
    }

    /// A list's parts joined, up to so many items.
    pub(super) async fn list(&self, path: &str, most: usize) -> Result<Value, Failure> {
        self.list_where(path, &[], most).await
    }

    /// The same of a list with a filter.
    pub(super) async fn list_where(&self, path: &str, filter: &[(&str, &str)], most: usize) -> Result<Value, Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < most {
            let limit = PART.min(most - items.len()).to_string();
            let mut url = self.url(path)?;
            url.query_pairs_mut()
                .extend_pairs(filter)
                .append_pair("limit", &limit)
                .extend_pairs(cursor.iter().map(|at| ("cursor", at)));
            let mut part = self.send(self.http.get(url)).await?;
            if let Value::Array(more) = part["items"].take() {
                items.extend(more);
            }
            cursor = part["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(json!({ "items": items }))
    }

    /// The id of the machine of that name or id. Names are looked up here: they may hold what a path cannot.
    pub(super) async fn machine_id(&self, text: &str) -> Result<String, Failure> {
        match text.parse::<MachineId>() {
            Ok(id) => Ok(id.to_string()),
            Err(_) => self.id_of("machines", text).await,
        }
    }

    /// The id of the process server of that name or id.
    pub(super) async fn process_server_id(&self, text: &str) -> Result<String, Failure> {
        match text.parse::<ProcessServerId>() {
            Ok(id) => Ok(id.to_string()),
            Err(_) => self.id_of("process-servers", text).await,
        }
    }

    async fn id_of(&self, kind: &str, name: &str) -> Result<String, Failure> {
        let list = self.list(kind, usize::MAX).await?;
        let items = list["items"].as_array().into_iter().flatten();
        let ids: Vec<&str> = items.filter(|item| item["name"] == name).filter_map(|item| item["id"].as_str()).collect();
        match ids[..] {
            [id] => Ok(id.to_owned()),
            [] => Err(Failure::failed(format!("'{name}' is not among the {kind}: see `farshore ctl {kind}`"))),
            _ => Err(Failure::usage(format!("'{name}' is the name of several {kind}; use an id: {}", ids.join(", ")))),
        }
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base.join(path).map_err(|error| Failure::usage(format!("{path}: {error}")))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let answer = request.bearer_auth(&self.token).send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status == 204 || body.is_empty() && status < 300 {
            return Ok(json!({}));
        }
        let said: Result<Value, _> = serde_json::from_slice(&body);
        match said {
            Ok(said) if status < 300 => Ok(said),
            Ok(problem) => Err(refused(status, &problem)),
            Err(_) => Err(Failure::failed(format!("{} answered {status} without JSON: is it Farshore?", self.base))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if let Some(fault) = tls_fault(error) {
            return Failure::new(ExitKind::Refused, format!("{}: {fault}", self.base.authority()));
        }
        let mut cause: &dyn Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
        let text = format!("{} does not answer: {why}. Check that the server runs and the address is right", self.base);
        Failure::new(ExitKind::Unreachable, text)
    }
}

/// What TLS says of it, if it was TLS that failed.
fn tls_fault(error: &reqwest::Error) -> Option<TlsFault> {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = next {
        let io = cause.downcast_ref::<io::Error>();
        if let Some(io) = io.filter(|io| io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())) {
            return Some(TlsFault::explain(io));
        }
        next = cause.source();
    }
    None
}

/// A problem document in words, with what it means for the caller.
fn refused(status: u16, problem: &Value) -> Failure {
    let kind = match status {
        401 | 403 => ExitKind::Refused,
        429 | 503 | 504 => ExitKind::Unreachable,
        _ => ExitKind::Failed,
    };
    let field = |name: &str| problem[name].as_str().unwrap_or_default();
    let (title, detail, remedy, code) = (field("title"), field("detail"), field("remedy"), field("code"));
    match title.is_empty() {
        true => Failure::new(kind, format!("the server answered {status}: is it Farshore?")),
        false => Failure::new(kind, format!("{title}: {detail}. {remedy} ({code}, HTTP {status})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_only_for_this_host() {
        for good in ["http://127.0.0.1:9480", "http://[::1]:1", "http://localhost:80/", "https://far.example", "far:1"]
        {
            let url = url(good).unwrap_or_else(|failure| panic!("{good}: {}", failure.text));
            assert!(url.as_str().ends_with("/api/v1/"), "{url}");
        }
        for bad in ["http://far.example", "http://10.0.0.1:80", "ftp://127.0.0.1", "https://"] {
            assert_eq!(url(bad).err().map(|failure| failure.kind), Some(ExitKind::Usage), "{bad}");
        }
    }

    #[test]
    fn problems_tell_whether_trying_again_helps() {
        let kind = |status| refused(status, &json!({ "title": "t", "detail": "d" })).kind;
        assert_eq!(kind(401), ExitKind::Refused);
        assert_eq!(kind(503), ExitKind::Unreachable);
        assert_eq!(kind(409), ExitKind::Failed);
    }
}
