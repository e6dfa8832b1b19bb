//! Live changes as server-sent events.

use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, get, web};

use crate::auth::Viewer;
use crate::problem::{Problem, RequestFault};
use crate::server::Api;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Live changes, for as long as the client listens. Server-sent events; `data:` is JSON:
///
/// - `reset` `{"reason": "begun" | "missed" | "restarted"}`: fetch what you show anew, then follow. Always the first
///   event of a stream that does not go on behind its `Last-Event-ID`.
/// - `machine`: the item of `GET /api/v1/machines/{machine}`, when it changed, at most once a second; one that was
///   removed has the state `removed`.
/// - `process_server`, `job`, `event`: the items of their lists.
/// - `overview`: the item of `GET /api/v1/overview`, at most every two seconds.
///
/// A comment comes every 15 seconds where nothing else does. A stream ends with the token or session that opened it.
#[utoipa::path(tag = "system",
    params(("Last-Event-ID" = Option<String>, Header, description = "`id` of the last event that was seen")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem),
        (status = 503, body = Problem)))]
#[get("/api/v1/stream")]
pub(crate) async fn get_stream(
    caller: Viewer,
    api: web::Data<Api>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let after = request.headers().get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let (plane, token) = (api.plane.clone(), caller.token);
    let valid = move || token.is_none_or(|token| plane.caller_of(token).is_some());
    let stream = api.board.feed.stream(after, valid);
    let stream =
        stream.map_err(|_| Problem::of(RequestFault::Busy, "as many event streams as are allowed are open"))?;
    Ok(HttpResponse::Ok()
        .insert_header(("content-type", "text/event-stream"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(stream))
}
