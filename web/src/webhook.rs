//! How webhooks are reached: HTTPS, or plain HTTP on this host and where it was allowed. No redirect is followed, little
//! is read of an answer, and nothing takes longer than [`WITHIN`].

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use farshore_actors::control::webhooks::{Parcel, Post};
use reqwest::{Client, Url};

/// Longest time for a request and its answer. Chosen: a receiver that takes longer to say yes queues nothing.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest address, in bytes.
const URL_BYTES_MAX: usize = 1024;

/// Sends over HTTP.
pub(crate) struct HttpPost {
    near: Client,
    far: Client,
}

impl HttpPost {
    /// Two clients: one for this host, which no proxy leads to, and one for the others.
    pub(crate) fn new() -> Result<Self, String> {
        // One provider for the whole process, whoever comes first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = || {
            Client::builder()
                .timeout(WITHIN)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("farshore/", env!("CARGO_PKG_VERSION")))
                .http1_only()
        };
        let built = |client: reqwest::Result<Client>| client.map_err(|error| error.to_string());
        Ok(Self { near: built(builder().no_proxy().build())?, far: built(builder().build())? })
    }
}

#[async_trait]
impl Post for HttpPost {
    async fn post(&self, parcel: Parcel) -> Result<u16, String> {
        let Parcel { url, headers, body } = parcel;
        let url = Url::parse(&url).map_err(|error| error.to_string())?;
        let client = if is_here(&url) { &self.near } else { &self.far };
        let mut request = client.post(url).header("content-type", "application/json").body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send().await.map(|answer| answer.status().as_u16()).map_err(|error| why(&error))
    }
}

/// The innermost cause, without the address: it may hold a secret, and events show this.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", WITHIN.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error.source() {
        Some(_) => cause.to_string(),
        None => "the request failed".into(),
    }
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Why this cannot be a webhook's address; `Ok` is the address as it is kept.
pub(crate) fn check(text: &str, allow_plain_http: bool) -> Result<String, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("url: at most {URL_BYTES_MAX} bytes are taken"));
    }
    let url = Url::parse(text).map_err(|error| format!("url: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "url: it holds a user or a password, which lists would show; put what is secret into its path".into()
        );
    }
    match url.scheme() {
        "https" => Ok(url.into()),
        "http" if allow_plain_http || is_here(&url) => Ok(url.into()),
        "http" => Err("url: plain HTTP to another host shows everybody on the way what is told; use https, or set \
                       allow_plain_http"
            .into()),
        other => Err(format!("url: '{other}' is not taken; use https")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_host_unless_it_is_allowed_and_nothing_else_is_taken() {
        for good in ["https://pager.example/x?y=1", "http://127.0.0.1:1/", "http://[::1]:1/x", "http://localhost/"] {
            assert!(check(good, false).is_ok(), "{good}");
        }
        for bad in ["http://pager.example/", "http://10.0.0.1/", "ftp://127.0.0.1/", "pager", "https://u:p@x.example/"]
        {
            assert!(check(bad, false).is_err(), "{bad}");
        }
        assert!(check("http://pager.example/", true).is_ok());
        assert!(check(&format!("https://x.example/{}", "a".repeat(URL_BYTES_MAX)), true).is_err());
    }
}
