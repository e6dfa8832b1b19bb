//! Faults on purpose: armed, looked at and disarmed. Only in processes that were started with `--enable-chaos`.

use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, delete, get, post, web};
use farshore_actors::control::injection::{InjectedAt, InjectedView};
use farshore_engine::control::messages::{ActorKind, Injection};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Admin;
use crate::page::{LIMIT_MAX, Page};
use crate::problem::{Problem, RequestFault};
use crate::routes::machines::resolve;
use crate::server::Api;
use crate::show::name_of;

/// How the configuration server's own process is called.
const CONFIG_SERVER: &str = "config-server";
/// Longest that a fault lasts, in milliseconds.
const FOR_MS_MAX: u64 = 24 * 3600 * 1000;
/// Most panics of one fault.
const TIMES_MAX: u32 = 10_000;

/// A kind of actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorBody {
    /// Owns a process server's machines.
    ProcessServer,
    /// Owns one machine's log writer.
    Machine,
    /// Seals one disk's frames.
    Disk,
    /// Fills one machine's log slots.
    UploadStream,
    /// Merges one machine's log.
    Compactor,
    /// Reads one machine's log again.
    Scrubber,
    /// Speaks with one agent.
    AgentSession,
    /// Owns the configuration server's inventory.
    Orchestrator,
    /// Speaks with one process server.
    ProcessServerLink,
    /// Carries out one job.
    Job,
}

impl From<ActorBody> for ActorKind {
    fn from(actor: ActorBody) -> Self {
        match actor {
            ActorBody::ProcessServer => Self::ProcessServer,
            ActorBody::Machine => Self::Machine,
            ActorBody::Disk => Self::Disk,
            ActorBody::UploadStream => Self::UploadStream,
            ActorBody::Compactor => Self::Compactor,
            ActorBody::Scrubber => Self::Scrubber,
            ActorBody::AgentSession => Self::AgentSession,
            ActorBody::Orchestrator => Self::Orchestrator,
            ActorBody::ProcessServerLink => Self::ProcessServerLink,
            ActorBody::Job => Self::Job,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultBody {
    /// An actor panics at its next messages.
    Panic {
        /// Which kind.
        actor: ActorBody,
        /// Only where it belongs to this machine: id, or unique name.
        #[serde(default)]
        machine: Option<String>,
        /// How often at most.
        #[serde(default = "once")]
        #[schema(minimum = 1, maximum = 10000)]
        times: u32,
        /// For how long at most, in milliseconds.
        #[serde(default)]
        #[schema(minimum = 1, maximum = 86400000)]
        for_ms: Option<u64>,
    },
    /// Calls of the vault fail.
    VaultFail {
        /// For how long, in milliseconds.
        #[schema(minimum = 1, maximum = 86400000)]
        for_ms: u64,
        /// The effect takes place; only the answer is lost.
        #[serde(default)]
        after_effect: bool,
    },
    /// Calls of the vault take longer.
    VaultSlow {
        /// For how long, in milliseconds.
        #[schema(minimum = 1, maximum = 86400000)]
        for_ms: u64,
        /// How much longer, in milliseconds.
        #[schema(minimum = 1, maximum = 86400000)]
        delay_ms: u64,
    },
    /// The cache's disk has no room.
    CacheFull {
        /// For how long, in milliseconds.
        #[schema(minimum = 1, maximum = 86400000)]
        for_ms: u64,
    },
}

fn once() -> u32 {
    1
}

/// A fault that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InjectBody {
    /// Where: `config-server`, or a process server's id or unique name.
    pub process: String,
    /// What.
    pub fault: FaultBody,
}

/// A fault that was armed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InjectedBody {
    /// Its id.
    pub id: String,
    /// Where: `config-server`, or a process server's id.
    pub process: String,
    /// What; as it was asked for, a machine by its id.
    #[schema(value_type = Object)]
    pub fault: Injection,
    /// `armed` or `over`.
    pub state: String,
    /// How often it has struck.
    pub fired: u64,
}

impl From<InjectedView> for InjectedBody {
    fn from(view: InjectedView) -> Self {
        let process = match view.at {
            InjectedAt::ConfigServer => CONFIG_SERVER.to_owned(),
            InjectedAt::ProcessServer(id) => id.to_string(),
        };
        let InjectedView { fault, .. } = view;
        Self {
            id: format!("{process}:{}", fault.id),
            process,
            fault: fault.injection,
            state: name_of(&fault.state),
            fired: fault.fired,
        }
    }
}

fn place(api: &Api, text: &str) -> Result<InjectedAt, Problem> {
    if text == CONFIG_SERVER {
        return Ok(InjectedAt::ConfigServer);
    }
    if let Ok(id) = text.parse() {
        return Ok(InjectedAt::ProcessServer(api.plane.process_server(id)?.id));
    }
    let mut named = api.plane.process_servers(None, LIMIT_MAX).items;
    named.retain(|server| server.name == text);
    match named.as_slice() {
        [one] => Ok(InjectedAt::ProcessServer(one.id)),
        [] => Err(Problem::of(RequestFault::NotFound, format!("process '{text}'"))),
        _ => Err(Problem::of(RequestFault::AmbiguousName, format!("process server '{text}'"))),
    }
}

fn injection(api: &Api, body: FaultBody) -> Result<Injection, Problem> {
    let time = |name: &str, ms: u64| match (1..=FOR_MS_MAX).contains(&ms) {
        true => Ok(ms),
        false => {
            Err(Problem::of(RequestFault::Malformed, format!("fault.{name}: {ms} is not between 1 and {FOR_MS_MAX}")))
        }
    };
    Ok(match body {
        FaultBody::Panic { actor, machine, times, for_ms } => {
            if !(1..=TIMES_MAX).contains(&times) {
                let text = format!("fault.times: {times} is not between 1 and {TIMES_MAX}");
                return Err(Problem::of(RequestFault::Malformed, text));
            }
            let machine = machine.map(|machine| resolve(&api.plane, &machine)).transpose()?;
            let for_ms = for_ms.map(|ms| time("for_ms", ms)).transpose()?;
            Injection::Panic { actor: actor.into(), machine, times, for_ms }
        }
        FaultBody::VaultFail { for_ms, after_effect } => {
            Injection::VaultFail { for_ms: time("for_ms", for_ms)?, after_effect }
        }
        FaultBody::VaultSlow { for_ms, delay_ms } => {
            Injection::VaultSlow { for_ms: time("for_ms", for_ms)?, delay_ms: time("delay_ms", delay_ms)? }
        }
        FaultBody::CacheFull { for_ms } => Injection::CacheFull { for_ms: time("for_ms", for_ms)? },
    })
}

/// Every fault that is armed, or was, in every process that allows them and answers.
#[utoipa::path(tag = "chaos",
    responses((status = 200, body = Page<InjectedBody>), (status = "4XX", body = Problem)))]
#[get("/api/v1/chaos/faults")]
pub(crate) async fn list_faults(_: Admin, api: web::Data<Api>) -> Result<web::Json<Page<InjectedBody>>, Problem> {
    let items = api.plane.injected().await?.into_iter().map(InjectedBody::from).collect();
    Ok(web::Json(Page { items, next_cursor: None }))
}

/// Arms a fault. It strikes from now on until its time or its number is used up.
#[utoipa::path(tag = "chaos", request_body = InjectBody,
    responses((status = 201, body = InjectedBody, headers(("Location" = String))), (status = "4XX", body = Problem)))]
#[post("/api/v1/chaos/faults")]
pub(crate) async fn arm_fault(
    caller: Admin,
    api: web::Data<Api>,
    body: web::Json<InjectBody>,
) -> Result<HttpResponse, Problem> {
    let InjectBody { process, fault } = body.into_inner();
    let (at, injection) = (place(&api, &process)?, injection(&api, fault)?);
    let armed = InjectedBody::from(api.plane.inject(&caller, at, injection).await?);
    let location = format!("/api/v1/chaos/faults/{}", armed.id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(armed))
}

/// Disarms a fault; what it has struck stays struck.
#[utoipa::path(tag = "chaos", params(("fault" = String, Path)),
    responses((status = 200, body = InjectedBody), (status = "4XX", body = Problem)))]
#[delete("/api/v1/chaos/faults/{fault}")]
pub(crate) async fn disarm_fault(
    _: Admin,
    api: web::Data<Api>,
    path: web::Path<String>,
) -> Result<web::Json<InjectedBody>, Problem> {
    let unknown = || Problem::of(RequestFault::NotFound, format!("fault '{}'", *path));
    let (process, id) = path.rsplit_once(':').ok_or_else(unknown)?;
    let id = id.parse().map_err(|_| unknown())?;
    Ok(web::Json(api.plane.disarm(place(&api, process)?, id).await?.into()))
}
