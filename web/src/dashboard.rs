//! The dashboard: a page that is part of the program. It has no way of its own to the installation: it calls the API
//! like any other client.
//!
//! Owns nothing but a table of bytes made by `build.rs`. Names under `assets/` carry a digest of their contents, so they
//! may be kept for ever; the page that names them is asked for each time, and answered with 304 while it is the same.

use std::sync::OnceLock;

use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};

use crate::problem::{Problem, RequestFault};

/// A file whose name changes with its contents.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// A file of the dashboard.
struct Asset {
    path: &'static str,
    plain: &'static [u8],
    gzip: Option<&'static [u8]>,
    brotli: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

impl Asset {
    fn media_type(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("woff2") => "font/woff2",
            Some("txt") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        }
    }

    /// The smallest form that the client takes, and its name.
    fn encoded(&self, accepted: &str) -> (&'static [u8], Option<&'static str>) {
        let takes = |wanted: &str| {
            accepted.split(',').any(|part| {
                let mut words = part.split(';').map(str::trim);
                let refused = |word: &str| word.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
                words.next() == Some(wanted) && !words.any(refused)
            })
        };
        match (self.brotli, self.gzip) {
            (Some(bytes), _) if takes("br") => (bytes, Some("br")),
            (_, Some(bytes)) if takes("gzip") => (bytes, Some("gzip")),
            _ => (self.plain, None),
        }
    }
}

/// A tag of the page: the names in it carry digests, so its own digest is one of everything.
fn page_tag(page: &Asset) -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        page.plain.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    })
}

fn answer(request: &HttpRequest, asset: &'static Asset) -> HttpResponse {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_page = asset.path == "index.html";
    let mut answer = HttpResponse::Ok();
    if is_page {
        let tag = page_tag(asset);
        if header(IF_NONE_MATCH).split(',').any(|known| known.trim().trim_start_matches("W/") == tag) {
            answer = HttpResponse::NotModified();
        }
        answer.insert_header((ETAG, tag)).insert_header((CACHE_CONTROL, "no-cache"));
    } else {
        answer.insert_header((CACHE_CONTROL, if asset.path.starts_with("assets/") { FOR_EVER } else { "no-cache" }));
    }
    answer.insert_header((CONTENT_TYPE, asset.media_type())).insert_header((VARY, "accept-encoding"));
    let (bytes, encoding) = asset.encoded(header(ACCEPT_ENCODING));
    if let Some(encoding) = encoding {
        answer.insert_header((CONTENT_ENCODING, encoding));
    }
    answer.body(bytes)
}

async fn page(request: HttpRequest) -> HttpResponse {
    let path = match request.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    match ASSETS.iter().find(|asset| asset.path == path) {
        Some(asset) => answer(&request, asset),
        None => {
            Problem::of(RequestFault::NotFound, format!("{} {}", request.method(), request.path())).error_response()
        }
    }
}

/// Registers the page. It is no part of the API, so it is not in its document.
pub(crate) fn register(app: &mut web::ServiceConfig) {
    for path in ["/", "/index.html", "/favicon.svg", "/licences.txt", "/assets/{file}"] {
        app.service(web::resource(path).route(web::get().to(page)).route(web::head().to(page)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dashboard's types are made from this file; where it says something else than the server, they would lie.
    #[test]
    fn the_dashboard_is_built_against_the_api_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard/openapi.json");
        let served = crate::openapi::document().to_pretty_json().expect("the document is JSON") + "\n";
        if std::env::var_os("FARSHORE_WRITE").is_some() {
            std::fs::write(path, &served).expect("write the document");
        }
        let built = std::fs::read_to_string(path).unwrap_or_default();
        let remedy = "run `make api-types`, and build the dashboard again: its compiler says what no longer fits";
        assert!(built == served, "web/dashboard/openapi.json is not what the server says: {remedy}");
    }

    #[test]
    fn a_client_gets_the_smallest_form_that_it_takes() {
        let asset = Asset { path: "a.js", plain: b"plain", gzip: Some(b"gzip"), brotli: Some(b"brotli") };
        let named = |accepted| asset.encoded(accepted).1;
        assert_eq!(named("gzip, deflate, br;q=0.9"), Some("br"));
        assert_eq!(named("gzip, br;q=0"), Some("gzip"));
        assert_eq!(named("gzip;q=0.0"), None);
        assert_eq!(named(""), None);
        let bare = Asset { gzip: None, brotli: None, ..asset };
        assert_eq!(bare.encoded("br, gzip"), (&b"plain"[..], None));
    }

    #[test]
    fn there_is_always_a_page() {
        let page = ASSETS.iter().find(|asset| asset.path == "index.html").expect("an index");
        assert!(page.plain.starts_with(b"<!doctype html>"));
        assert!(page_tag(page).len() == 18);
    }
}
