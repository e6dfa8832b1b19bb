//! Everything at one look: is all protected, what is behind and why, what runs, where the load is. Also its history.

use std::collections::BTreeMap;

use actix_web::{get, web};
use farshore_actors::control::health::{Health, Protection};
use farshore_actors::control::view::{MachineView, Picture, ProcessServerView};
use farshore_engine::control::messages::Issue;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Viewer;
use crate::board::history::{Rates, Sample};
use crate::problem::{Problem, RequestFault};
use crate::routes::events::SubjectBody;
use crate::routes::jobs::JobBody;
use crate::routes::machines::resolve;
use crate::server::Api;
use crate::show::{self, name_of};

/// Problems that are listed; the counts count all.
const PROBLEMS_MAX: usize = 100;
/// Minutes of history where the request does not say.
const MINUTES_DEFAULT: u32 = 60;
/// Most minutes of history.
const MINUTES_MAX: u32 = 720;

/// Bytes a second; null: not known yet.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct RatesBody {
    /// Written by applications on the machine.
    pub write_bytes_per_second: Option<f32>,
    /// Received by the process server.
    pub shipped_bytes_per_second: Option<f32>,
    /// Put into the vault, compressed and sealed.
    pub uploaded_bytes_per_second: Option<f32>,
}

impl From<Rates> for RatesBody {
    fn from(rates: Rates) -> Self {
        let known = |rate: f32| (!rate.is_nan()).then_some(rate);
        Self {
            write_bytes_per_second: known(rates.write),
            shipped_bytes_per_second: known(rates.shipped),
            uploaded_bytes_per_second: known(rates.uploaded),
        }
    }
}

/// Everything at one look.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OverviewBody {
    /// The worst health of all that there is: `normal`, `warning` or `critical`.
    pub health: String,
    /// Machines.
    pub machines: MachineCountsBody,
    /// The machine that is furthest behind; null where none has a recovery point.
    pub worst_rpo: Option<WorstRpoBody>,
    /// What all machines together write, ship and upload.
    pub rates: RatesBody,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: u64,
    /// Jobs that are not over, the oldest first; at most 100.
    pub jobs_running: Vec<JobBody>,
    /// How many jobs are not over.
    pub jobs_running_count: usize,
    /// How many points are served: test failovers and plain ones.
    pub served_points: usize,
    /// Where the load is.
    pub process_servers: Vec<LoadBody>,
    /// What is wrong, worst first; at most 100.
    pub problems: Vec<ProblemItemBody>,
    /// How many things are wrong.
    pub problems_count: usize,
}

/// Machines, counted.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct MachineCountsBody {
    /// All of them.
    pub total: usize,
    /// Those whose every write goes to the log in order.
    pub protected: usize,
    /// By state.
    pub by_state: BTreeMap<String, usize>,
    /// By health.
    pub by_health: BTreeMap<String, usize>,
}

/// The machine that is furthest behind.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WorstRpoBody {
    /// Its id.
    pub machine: String,
    /// Its label.
    pub name: String,
    /// How much would be lost if its site were lost now.
    pub rpo_seconds: f64,
    /// Why, where something is known to be wrong.
    pub cause: Option<String>,
}

/// What a process server carries.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LoadBody {
    /// Its id.
    pub id: String,
    /// Its label.
    pub name: String,
    /// Its health: `normal`, `warning` or `critical`.
    pub health: String,
    /// Part of its CPUs that it uses, 0 to 1.
    pub cpu: Option<f64>,
    /// Part of its cache that holds what is in no vault yet, 0 to 1.
    pub cache_backlog: Option<f64>,
    /// Bytes that are in no vault yet.
    pub backlog_bytes: Option<u64>,
    /// How many machines it owns.
    pub machines: usize,
}

/// Something that is wrong now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProblemItemBody {
    /// Stable code.
    pub code: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What happened and why.
    pub cause: String,
    /// What to do.
    pub remedy: String,
    /// What it is about.
    pub subject: SubjectBody,
    /// The subject's label.
    pub name: String,
    /// Where the subject is found in this API.
    pub link: String,
}

impl OverviewBody {
    /// Everything of a picture.
    pub(crate) fn of(api: &Api, picture: &Picture) -> Self {
        let machines = &picture.machines;
        let worst = machines.iter().filter_map(|machine| machine.rpo.map(|rpo| (rpo, machine)));
        let worst = worst.max_by_key(|(rpo, _)| *rpo).map(|(rpo, machine)| WorstRpoBody {
            machine: machine.id.to_string(),
            name: machine.name.clone(),
            rpo_seconds: rpo.as_secs_f64(),
            cause: machine.issues.first().map(|issue| issue.text.clone()),
        });
        let (problems, problems_count) = problems(picture);
        let levels = machines.iter().map(|machine| machine.health);
        let levels = levels.chain(picture.process_servers.iter().map(|server| server.health));
        let health = levels.chain([Health::of(&picture.issues)]).max().unwrap_or(Health::Normal);
        let sample = api.board.now();
        Self {
            health: name_of(&health),
            machines: counts(machines),
            worst_rpo: worst,
            rates: sample.map_or(UNKNOWN, |sample| sample.rates.into()),
            backlog_bytes: machines
                .iter()
                .filter_map(|machine| machine.at_owner.as_ref())
                .map(|at| at.backlog_bytes)
                .sum(),
            jobs_running: picture.jobs_running.iter().take(100).cloned().map(JobBody::from).collect(),
            jobs_running_count: picture.jobs_running.len(),
            served_points: picture.served_points,
            process_servers: picture.process_servers.iter().map(load).collect(),
            problems,
            problems_count,
        }
    }
}

const UNKNOWN: RatesBody =
    RatesBody { write_bytes_per_second: None, shipped_bytes_per_second: None, uploaded_bytes_per_second: None };

fn counts(machines: &[MachineView]) -> MachineCountsBody {
    let mut counts = MachineCountsBody { total: machines.len(), ..MachineCountsBody::default() };
    for machine in machines {
        *counts.by_state.entry(name_of(&machine.protection)).or_insert(0) += 1;
        *counts.by_health.entry(name_of(&machine.health)).or_insert(0) += 1;
        counts.protected += usize::from(machine.protection == Protection::Protected);
    }
    counts
}

fn load(server: &ProcessServerView) -> LoadBody {
    let part = |used: u64, most: u64| if most == 0 { 0.0 } else { used as f64 / most as f64 };
    LoadBody {
        id: server.id.to_string(),
        name: server.name.clone(),
        health: name_of(&server.health),
        cpu: server.cpu,
        cache_backlog: server.cache.map(|cache| part(cache.backlog_bytes, cache.bytes_max)),
        backlog_bytes: server.cache.map(|cache| cache.backlog_bytes),
        machines: server.machines,
    }
}

/// What is wrong, worst first, and how much of it.
fn problems(picture: &Picture) -> (Vec<ProblemItemBody>, usize) {
    let whole = picture
        .issues
        .iter()
        .map(|issue| (issue, "installation", None, "the installation", "/api/v1/health".to_owned()));
    let servers = picture.process_servers.iter().flat_map(|server| {
        let id = server.id.to_string();
        let link = format!("/api/v1/process-servers/{id}");
        server
            .issues
            .iter()
            .map(move |issue| (issue, "process_server", Some(id.clone()), server.name.as_str(), link.clone()))
    });
    let machines = picture.machines.iter().flat_map(|machine| {
        let id = machine.id.to_string();
        let link = format!("/api/v1/machines/{id}");
        machine
            .issues
            .iter()
            .map(move |issue| (issue, "machine", Some(id.clone()), machine.name.as_str(), link.clone()))
    });
    let mut all: Vec<_> = whole.chain(servers).chain(machines).collect();
    all.sort_by_key(|(issue, ..)| std::cmp::Reverse(issue.severity));
    let count = all.len();
    let shown = all.into_iter().take(PROBLEMS_MAX).map(|(issue, kind, id, name, link)| {
        let Issue { code, severity, text, remedy } = issue.clone();
        let subject = SubjectBody { kind: kind.to_owned(), id };
        let severity = show::severity_name(severity);
        ProblemItemBody { code, severity, cause: text, remedy, subject, name: name.to_owned(), link }
    });
    (shown.collect(), count)
}

/// Everything at one look.
#[utoipa::path(tag = "system", responses((status = 200, body = OverviewBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/overview")]
pub(crate) async fn get_overview(_: Viewer, api: web::Data<Api>) -> web::Json<OverviewBody> {
    let picture = api.plane.picture();
    web::Json(OverviewBody::of(&api, &picture))
}

/// How much of the past is wanted.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// The last so many minutes, 1 to 720; 60 where nothing is said. Up to 15, samples are 5 seconds apart, beyond it 60.
    #[param(minimum = 1, maximum = 720)]
    pub minutes: Option<u32>,
}

/// How something fared lately. Kept in memory: a restart begins anew.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct HistoryBody {
    /// The machine; null: everything together.
    pub machine: Option<String>,
    /// Seconds between samples.
    pub step_seconds: u32,
    /// The samples, the oldest first. Times that are missing were not seen.
    pub samples: Vec<SampleBody>,
}

/// One moment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SampleBody {
    /// When.
    pub at: String,
    /// RPO then (of everything together: the worst).
    pub rpo_seconds: Option<f32>,
    /// Bytes that were in no vault yet.
    pub backlog_bytes: f32,
    /// Rates then.
    #[serde(flatten)]
    pub rates: RatesBody,
}

impl From<Sample> for SampleBody {
    fn from(sample: Sample) -> Self {
        Self {
            at: show::time(farshore_engine::ids::Timestamp(i64::from(sample.at) * 1_000_000)),
            rpo_seconds: (!sample.rpo.is_nan()).then_some(sample.rpo),
            backlog_bytes: sample.backlog,
            rates: sample.rates.into(),
        }
    }
}

fn minutes(query: &HistoryQuery) -> Result<u32, Problem> {
    match query.minutes.unwrap_or(MINUTES_DEFAULT) {
        minutes if (1..=MINUTES_MAX).contains(&minutes) => Ok(minutes),
        minutes => Err(Problem::of(
            RequestFault::Malformed,
            format!("query: minutes {minutes} does not lie in 1 to {MINUTES_MAX}"),
        )),
    }
}

/// How the installation fared lately.
#[utoipa::path(tag = "system", params(HistoryQuery),
    responses((status = 200, body = HistoryBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/history")]
pub(crate) async fn get_history(
    _: Viewer,
    api: web::Data<Api>,
    query: web::Query<HistoryQuery>,
) -> Result<web::Json<HistoryBody>, Problem> {
    let (step_seconds, samples) = api.board.since(None, minutes(&query)?, show::now());
    let samples = samples.into_iter().map(SampleBody::from).collect();
    Ok(web::Json(HistoryBody { machine: None, step_seconds, samples }))
}

/// How a machine fared lately.
#[utoipa::path(tag = "machines", params(("machine" = String, Path, description = "Id, or unique name"), HistoryQuery),
    responses((status = 200, body = HistoryBody), (status = "4XX", body = Problem)))]
#[get("/api/v1/machines/{machine}/history")]
pub(crate) async fn get_machine_history(
    _: Viewer,
    api: web::Data<Api>,
    path: web::Path<String>,
    query: web::Query<HistoryQuery>,
) -> Result<web::Json<HistoryBody>, Problem> {
    let machine = resolve(&api.plane, &path)?;
    let (step_seconds, samples) = api.board.since(Some(machine), minutes(&query)?, show::now());
    let samples = samples.into_iter().map(SampleBody::from).collect();
    Ok(web::Json(HistoryBody { machine: Some(machine.to_string()), step_seconds, samples }))
}
