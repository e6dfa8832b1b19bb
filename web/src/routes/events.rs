//! Events: what happened, and who did what.

use actix_web::{get, web};
use farshore_actors::control::ledger::records::{EventId, EventRecord, Subject};
use farshore_actors::control::view::EventFilter;
use farshore_engine::control::messages::Severity;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Viewer;
use crate::page::{Page, PageQuery};
use crate::problem::{Problem, RequestFault};
use crate::routes::machines::resolve;
use crate::server::Api;
use crate::show;

/// Something that happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EventBody {
    /// Its number; a later event has a higher one.
    pub id: String,
    /// When.
    pub at: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// Stable code.
    pub code: String,
    /// What it is about.
    pub subject: SubjectBody,
    /// What happened, why, what to do.
    pub text: String,
}

/// What an event is about.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SubjectBody {
    /// `installation`, `machine` or `process_server`.
    pub kind: String,
    /// Its id, where it has one.
    pub id: Option<String>,
}

impl From<Subject> for SubjectBody {
    fn from(subject: Subject) -> Self {
        let (kind, id) = match subject {
            Subject::Installation => ("installation", None),
            Subject::Machine(id) => ("machine", Some(id.to_string())),
            Subject::ProcessServer(id) => ("process_server", Some(id.to_string())),
        };
        Self { kind: kind.to_owned(), id }
    }
}

impl From<EventRecord> for EventBody {
    fn from(event: EventRecord) -> Self {
        Self {
            id: event.id.to_string(),
            at: show::time(event.at),
            severity: show::severity_name(event.severity),
            code: event.code,
            subject: event.subject.into(),
            text: event.text,
        }
    }
}

/// Which events are wanted.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only this machine's: id, or unique name.
    pub machine: Option<String>,
    /// Only these and worse: `info`, `warning` or `critical`.
    pub severity: Option<String>,
    /// `next_cursor` of the part before.
    pub cursor: Option<String>,
    /// Most items, 1 to 500; 100 where nothing is said.
    pub limit: Option<usize>,
}

fn severity(text: &str) -> Result<Severity, Problem> {
    match text {
        "info" => Ok(Severity::Info),
        "warning" => Ok(Severity::Warning),
        "critical" => Ok(Severity::Critical),
        _ => Err(Problem::of(RequestFault::Malformed, "query: severity is none of info, warning, critical")),
    }
}

/// Events, newest first.
#[utoipa::path(tag = "events", params(EventsQuery),
    responses((status = 200, body = Page<EventBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/events")]
pub(crate) async fn list_events(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<EventsQuery>,
) -> Result<web::Json<Page<EventBody>>, Problem> {
    let EventsQuery { machine, severity: least, cursor, limit } = query.into_inner();
    let part = PageQuery { cursor, limit };
    let (before, limit) = (part.cursor::<u64>()?.map(EventId), part.limit()?);
    let filter = EventFilter {
        machine: machine.map(|machine| resolve(&api.plane, &machine)).transpose()?,
        severity: least.as_deref().map(severity).transpose()?,
    };
    Ok(web::Json(Page::of(api.plane.events(before, limit, &filter), EventBody::from)))
}
