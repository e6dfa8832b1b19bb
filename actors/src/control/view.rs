//! What the API shows: ledger and live picture put together, in domain words.

use std::time::Duration;

use farshore_engine::control::messages::{
    AgentReport, CacheReport, Export, Issue, MachineReport, MachineState, MemberRole, NearReport, PointInfo,
    PointSelector, Severity,
};
use farshore_engine::ids::{DiskNo, MachineId, ProcessServerId, TimelineId, Timestamp};
use farshore_engine::record::DiskInfo;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;
use farshore_engine::vault::store::metered::StoreCounts;

use super::control_room::ControlRoom;
use super::health::{self, Health, Protection, RpoLimits};
use super::ledger::Ledger;
use super::ledger::records::{
    AssignmentRecord, AuditRecord, EventRecord, JobRecord, Machine, MachinePolicy, ProcessServer, ServeId, Served,
    ServedState,
};
use super::ledger::webhooks::{Delivery, DeliveryState, Webhook, pending};
use super::live::{Live, Reach};
use crate::supervise::wall_clock;

/// A machine.
#[derive(Debug, Clone)]
pub struct MachineView {
    /// Its id.
    pub id: MachineId,
    /// Its label.
    pub name: String,
    /// Its timeline.
    pub timeline: TimelineId,
    /// When it joined.
    pub enrolled_at: Timestamp,
    /// Where its protection stands.
    pub protection: Protection,
    /// How it is.
    pub health: Health,
    /// What is wrong, worst first.
    pub issues: Vec<Issue>,
    /// Its recovery point objective now; `None` before the first point.
    pub rpo: Option<Duration>,
    /// Its owner.
    pub assignment: Option<AssignmentRecord>,
    /// Its owner's label.
    pub owner_name: Option<String>,
    /// Its disks.
    pub disks: Vec<DiskInfo>,
    /// Its agent's last report, and when it came.
    pub report: Option<(Timestamp, AgentReport)>,
    /// Its agent has a control session.
    pub agent_connected: bool,
    /// What its owner last said of it.
    pub at_owner: Option<MachineReport>,
    /// RPO from which it is in warning, and critical.
    pub limits: RpoLimits,
    /// Time between marks under load.
    pub mark_interval: Duration,
    /// With what its frames are packed.
    pub packing: Packing,
    /// Which of its points stay.
    pub retention: Ladder,
    /// What its own policy says; the rest is the installation's.
    pub policy: MachinePolicy,
    /// Counts the edits of it.
    pub revision: u64,
    /// What may be done with it now.
    pub allowed_operations: Vec<&'static str>,
}

/// A process server.
#[derive(Debug, Clone)]
pub struct ProcessServerView {
    /// Its id.
    pub id: ProcessServerId,
    /// Its label.
    pub name: String,
    /// Where agents reach it.
    pub addresses: Vec<String>,
    /// When it joined.
    pub enrolled_at: Timestamp,
    /// How it is to be reached.
    pub reach: Reach,
    /// How it is.
    pub health: Health,
    /// What is wrong, worst first.
    pub issues: Vec<Issue>,
    /// Its program's version.
    pub program_version: String,
    /// Part of its CPUs that it uses, 0 to 1.
    pub cpu: Option<f64>,
    /// Its cache.
    pub cache: Option<CacheReport>,
    /// What it has asked of the vault since it started.
    pub store: Option<StoreCounts>,
    /// When its last heartbeat came.
    pub heartbeat_at: Option<Timestamp>,
    /// How many machines it owns.
    pub machines: usize,
    /// How many of them replicate now.
    pub replicating: usize,
    /// What may be done with it now.
    pub allowed_operations: Vec<&'static str>,
}

/// A served point.
#[derive(Debug, Clone)]
pub struct ServedView {
    /// Its number.
    pub id: ServeId,
    /// The machine.
    pub machine: MachineId,
    /// Who serves it.
    pub process_server: ProcessServerId,
    /// Where it stands.
    pub state: ServedState,
    /// What was asked for.
    pub selector: PointSelector,
    /// The point that was chosen.
    pub point: Option<PointInfo>,
    /// Writes are refused.
    pub read_only: bool,
    /// Since when.
    pub since: Timestamp,
    /// It is a test failover.
    pub test: bool,
    /// Where its disks are.
    pub exports: Vec<Export>,
    /// How far they have been brought near, where that is done.
    pub near: Option<NearReport>,
}

/// Everything that there is, at one moment.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The moment.
    pub at: Timestamp,
    /// Machines that are not removed, in order of ids.
    pub machines: Vec<MachineView>,
    /// Process servers that are not removed, in order of ids.
    pub process_servers: Vec<ProcessServerView>,
    /// Jobs that are not over, the oldest first.
    pub jobs_running: Vec<JobRecord>,
    /// How many points are served.
    pub served_points: usize,
    /// Bytes of their disks that have been brought near.
    pub near_bytes: u64,
    /// What is wrong with the installation as a whole.
    pub issues: Vec<Issue>,
}

/// How the installation is.
#[derive(Debug, Clone)]
pub struct HealthView {
    /// The worst of all.
    pub health: Health,
    /// Machines by protection and health.
    pub machines: Vec<(Protection, Health)>,
    /// Process servers by health.
    pub process_servers: Vec<Health>,
    /// What is wrong with the installation as a whole.
    pub issues: Vec<Issue>,
    /// The master target, as a fact: it cannot be used yet.
    pub master_target: &'static str,
}

/// A join token as it was made. Its text is shown once.
pub struct JoinTicket {
    /// Its public part.
    pub id: u64,
    /// The token.
    pub token: zeroize::Zeroizing<String>,
    /// Who may join with it.
    pub role: MemberRole,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How often it may be used.
    pub uses_max: u32,
    /// Where to join.
    pub control_addresses: Vec<String>,
    /// Whom to trust there.
    pub authority_fingerprint: String,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next part begins; `None`: there is none.
    pub next: Option<String>,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only these machines' events.
    pub machine: Option<MachineId>,
    /// Only these and worse.
    pub severity: Option<Severity>,
}

impl EventFilter {
    /// Whether an event is wanted.
    pub fn takes(&self, event: &EventRecord) -> bool {
        use super::ledger::records::Subject;
        let machine = self.machine.is_none_or(|machine| event.subject == Subject::Machine(machine));
        machine && self.severity.is_none_or(|severity| event.severity >= severity)
    }
}

/// Which entries of the audit log are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this caller's.
    pub by: Option<String>,
    /// Only this action.
    pub action: Option<String>,
}

impl AuditFilter {
    fn fits(wanted: &Option<String>, value: &str) -> bool {
        wanted.as_deref().is_none_or(|wanted| wanted == value)
    }

    /// Whether an entry is wanted.
    pub fn takes(&self, entry: &AuditRecord) -> bool {
        Self::fits(&self.by, &entry.by) && Self::fits(&self.action, &entry.action)
    }
}

pub(super) fn machine(room: &ControlRoom, ledger: &Ledger, live: &Live, machine: &Machine) -> MachineView {
    let now = wall_clock();
    let limits = room.policy.rpo_limits(machine);
    let issues = health::of_machine(ledger, live, machine, limits, now);
    let assignment = ledger.assignments.get(&machine.id).cloned();
    let owner = assignment.as_ref().and_then(|now| ledger.process_servers.get(&now.process_server));
    let agent = live.machines.get(&machine.id);
    let at_owner = assignment.as_ref().and_then(|now| live.machine_at(now.process_server, machine.id)).cloned();
    MachineView {
        id: machine.id,
        name: machine.name.clone(),
        timeline: machine.timeline,
        enrolled_at: machine.enrolled_at,
        protection: health::protection(ledger, live, machine),
        limits,
        mark_interval: room.policy.mark_interval_of(machine),
        packing: room.policy.packing_of(machine),
        retention: room.policy.retention_of(machine),
        policy: machine.policy.clone(),
        revision: machine.revision,
        health: Health::of(&issues),
        issues,
        rpo: health::rpo(ledger, live, machine.id, now),
        owner_name: owner.map(|owner| owner.name.clone()),
        allowed_operations: machine_operations(ledger, machine, at_owner.as_ref()),
        assignment,
        disks: ledger.disks_of(machine.id).cloned().collect(),
        report: agent.and_then(|agent| agent.report.clone()),
        agent_connected: agent.is_some_and(|agent| agent.connected_since.is_some()),
        at_owner,
    }
}

fn machine_operations(ledger: &Ledger, machine: &Machine, at_owner: Option<&MachineReport>) -> Vec<&'static str> {
    let mut allowed = Vec::new();
    let busy = ledger.running_jobs().any(|job| job.kind.machine() == machine.id);
    let assigned = ledger.assignments.get(&machine.id).is_some();
    if assigned && !machine.points_deleted {
        allowed.extend(["list_points", "serve_point", "test_failover", "restore"]);
    }
    if !busy && !machine.points_deleted {
        allowed.push("delete_points");
    }
    if !machine.removed {
        allowed.push("edit");
        if !busy {
            allowed.push(if machine.paused { "resume" } else { "pause" });
        }
        if at_owner.is_some_and(|report| report.state == MachineState::Replicating) {
            allowed.push("mark");
        }
        let servers = ledger.process_servers.iter().filter(|server| !server.removed).count();
        if assigned && !busy && servers > 1 && !machine.paused {
            allowed.push("move");
        }
        if !busy {
            allowed.push("remove");
        }
    }
    allowed
}

pub(super) fn process_server(ledger: &Ledger, live: &Live, server: &ProcessServer) -> ProcessServerView {
    let now = wall_clock();
    let issues = health::of_process_server(ledger, live, server.id, now);
    let owned = ledger.assignments.iter().filter(|assignment| assignment.process_server == server.id);
    let owned: Vec<MachineId> =
        owned.map(|assignment| assignment.machine).filter(|machine| ledger.machine(*machine).is_ok()).collect();
    let entry = live.servers.get(&server.id);
    let heartbeat = entry.and_then(|entry| entry.heartbeat.as_ref());
    let replicating = heartbeat.map_or(0, |(_, heartbeat)| {
        heartbeat.machines.iter().filter(|report| report.state == MachineState::Replicating).count()
    });
    ProcessServerView {
        id: server.id,
        name: server.name.clone(),
        addresses: server.addresses.clone(),
        enrolled_at: server.enrolled_at,
        reach: live.reach(server.id, now),
        health: Health::of(&issues),
        issues,
        program_version: entry.map(|entry| entry.program_version.clone()).unwrap_or_default(),
        cpu: heartbeat.map(|(_, heartbeat)| heartbeat.cpu),
        cache: heartbeat.map(|(_, heartbeat)| heartbeat.cache),
        store: heartbeat.map(|(_, heartbeat)| heartbeat.store),
        heartbeat_at: heartbeat.map(|(at, _)| *at),
        machines: owned.len(),
        replicating,
        allowed_operations: if owned.is_empty() { vec!["remove"] } else { vec!["move_machines"] },
    }
}

pub(super) fn served(ledger: &Ledger, live: &Live, served: &Served) -> ServedView {
    let heartbeat = live.servers.get(&served.process_server).and_then(|entry| entry.heartbeat.as_ref());
    let near = heartbeat.and_then(|(_, said)| said.near.iter().find(|near| near.serve == served.id.0).copied());
    ServedView {
        id: served.id,
        machine: served.machine,
        process_server: served.process_server,
        state: served.state,
        selector: served.selector,
        point: served.point.clone(),
        read_only: served.read_only,
        since: served.since,
        test: served.test,
        exports: ledger.exports_of(served.id).map(|export| export.export.clone()).collect(),
        near,
    }
}

/// A webhook.
#[derive(Debug, Clone)]
pub struct WebhookView {
    /// What is remembered of it.
    pub webhook: Webhook,
    /// How much it is still to be told.
    pub pending: usize,
    /// What it was told last, or what cannot be told.
    pub last: Option<Delivery>,
}

pub(super) fn webhook(ledger: &Ledger, webhook: &Webhook) -> WebhookView {
    let all = || ledger.deliveries_of(webhook.id);
    let tried = all().rev().find(|delivery| delivery.attempts > 0 && delivery.state != DeliveryState::Pending);
    let stuck = all().find(|delivery| delivery.state == DeliveryState::Pending && delivery.attempts > 0);
    WebhookView {
        webhook: webhook.clone(),
        pending: pending(ledger, webhook.id).count(),
        last: stuck.or(tried).cloned(),
    }
}

/// What was asked for when a point is to be served.
#[derive(Debug, Clone)]
pub struct ServeRequest {
    /// The machine.
    pub machine: MachineId,
    /// Which point.
    pub selector: PointSelector,
    /// Which disks; empty: all that the point covers.
    pub disks: Vec<DiskNo>,
    /// Refuse writes.
    pub read_only: bool,
    /// It is a test failover.
    pub test: bool,
}

/// Long work that was begun.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The job.
    pub job: JobRecord,
    /// What it will serve, for a job that does.
    pub serve: Option<ServeId>,
}
