//! The control plane's façade: what the API may look at and ask for, in domain words. No address of an actor leaves it.

use std::sync::Arc;
use std::time::Duration;

use farshore_engine::control::messages::{
    Command, CommandResult, HoldInfo, MemberRole, PointSelector, PointsPage, RetentionReport,
};
use farshore_engine::ids::{Chance as _, Lsn, MachineId, MarkId, ProcessServerId, Timestamp};
use farshore_engine::record::MarkKind;
use farshore_engine::vault::export::Format;
use farshore_engine::vault::retention::Ladder;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::control_room::ControlRoom;
use super::fault::{Fault, FaultCode};
use super::health::{self, Health};
use super::ledger::audit::WriteAudit;
use super::ledger::check_label;
use super::ledger::jobs::{BeginDeletePoints, BeginMove, BeginRestore, CancelJob, RetryJob};
use super::ledger::members::{self, RemoveMachine, RemoveProcessServer};
use super::ledger::protection::{EditMachine, PauseMachine, ResumeMachine, ResyncMachine};
use super::ledger::records::{
    ApiRole, ApiToken, AuditId, AuditRecord, EventId, EventRecord, JobId, JobRecord, JoinToken, MachinePolicy, Record,
    ServeId, TokenId,
};
use super::ledger::serve::{self, BeginServe, BeginStop};
use super::ledger::tokens::{CreateApiToken, CreateJoinToken, RevokeApiToken, RevokeJoinToken, check_api};
use super::ledger::webhooks::{self, CreateWebhook, DeleteWebhook, Delivery, DeliveryId, TestWebhook, WebhookId};
use super::live::Reach;
use super::vault_keeper::KeySlots;
use super::view::{
    self, AuditFilter, Begun, EventFilter, HealthView, JoinTicket, MachineView, Page, Picture, ProcessServerView,
    ServeRequest, ServedView, WebhookView,
};
use super::webhooks::Post;
use crate::supervise::{OsChance, wall_clock};

/// Time for a process server to answer a question.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(15);

/// Who asks, and what they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's label: it stands in events.
    pub name: String,
    /// What the token allows.
    pub role: ApiRole,
    /// The token, where one was shown; a session that began with it ends with it.
    pub token: Option<TokenId>,
}

/// The way in. Clones are the same.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    pub(super) room: Arc<ControlRoom>,
}

impl ControlPlane {
    pub(super) fn new(room: Arc<ControlRoom>) -> Self {
        Self { room }
    }

    /// Who a bearer token belongs to; `None`: it is not valid.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let token = check_api(&self.room.ledger(), token, wall_clock())?;
        Some(Caller { name: token.label, role: token.role, token: Some(token.id) })
    }

    /// Who a token belongs to that was shown before; `None`: it is no longer valid.
    pub fn caller_of(&self, token: TokenId) -> Option<Caller> {
        let ledger = self.room.ledger();
        let now = ledger.api_tokens.get(&token).filter(|token| token.expires_at.is_none_or(|at| at > wall_clock()))?;
        Some(Caller { name: now.label.clone(), role: now.role, token: Some(token) })
    }

    /// Counts the changes of what is remembered.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.room.ledger_changes()
    }

    /// Everything that there is now, at one moment.
    pub fn picture(&self) -> Picture {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let machines = ledger.machines.iter().filter(|machine| !machine.removed);
        let servers = ledger.process_servers.iter().filter(|server| !server.removed);
        Picture {
            at: wall_clock(),
            machines: machines.map(|machine| view::machine(&self.room, &ledger, &live, machine)).collect(),
            process_servers: servers.map(|server| view::process_server(&ledger, &live, server)).collect(),
            jobs_running: ledger.running_jobs().cloned().collect(),
            served_points: ledger.served.len(),
            near_bytes: live.heartbeats().flat_map(|said| &said.near).map(|near| near.reached_bytes).sum(),
            issues: health::of_installation(&ledger),
        }
    }

    /// Machines in order of ids, from behind `after` on; removed ones only where they are asked for.
    pub fn machines(&self, after: Option<MachineId>, limit: usize, removed: bool) -> Page<MachineView> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let wanted = ledger.machines.iter().filter(|machine| after.is_none_or(|after| machine.id > after));
        let wanted = wanted.filter(|machine| removed || !machine.removed);
        let views = wanted.map(|machine| view::machine(&self.room, &ledger, &live, machine));
        page(views, limit, |machine| machine.id.to_string())
    }

    /// Machines of this label that are not removed.
    pub fn machines_named(&self, name: &str) -> Vec<MachineId> {
        let ledger = self.room.ledger();
        let named = ledger.machines.iter().filter(|machine| !machine.removed && machine.name == name);
        named.map(|machine| machine.id).collect()
    }

    /// One machine, a removed one too.
    pub fn machine(&self, id: MachineId) -> Result<MachineView, Fault> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let machine = ledger.machines.get(&id);
        let machine = machine.ok_or_else(|| Fault::new(FaultCode::MachineUnknown, format!("machine {id}")))?;
        Ok(view::machine(&self.room, &ledger, &live, machine))
    }

    /// Process servers in order of ids, from behind `after` on.
    pub fn process_servers(&self, after: Option<ProcessServerId>, limit: usize) -> Page<ProcessServerView> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let wanted = ledger.process_servers.iter().filter(|server| after.is_none_or(|after| server.id > after));
        let wanted = wanted.filter(|server| !server.removed);
        page(wanted.map(|server| view::process_server(&ledger, &live, server)), limit, |server| server.id.to_string())
    }

    /// One process server.
    pub fn process_server(&self, id: ProcessServerId) -> Result<ProcessServerView, Fault> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        Ok(view::process_server(&ledger, &live, members::process_server(&ledger, id)?))
    }

    /// Jobs, newest first, from before `before` on.
    pub fn jobs(&self, before: Option<JobId>, limit: usize, machine: Option<MachineId>) -> Page<JobRecord> {
        let ledger = self.room.ledger();
        let wanted = ledger.jobs.iter().rev().filter(|job| before.is_none_or(|before| job.id < before));
        let wanted = wanted.filter(|job| machine.is_none_or(|machine| job.kind.machine() == machine));
        page(wanted.cloned(), limit, |job| job.id.to_string())
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Result<JobRecord, Fault> {
        let ledger = self.room.ledger();
        ledger.jobs.get(&id).cloned().ok_or_else(|| Fault::new(FaultCode::JobUnknown, format!("job {id}")))
    }

    /// Events, newest first, from before `before` on.
    pub fn events(&self, before: Option<EventId>, limit: usize, filter: &EventFilter) -> Page<EventRecord> {
        let ledger = self.room.ledger();
        let wanted = ledger.events.iter().rev().filter(|event| before.is_none_or(|before| event.id < before));
        page(wanted.filter(|event| filter.takes(event)).cloned(), limit, |event| event.id.to_string())
    }

    /// The audit log, newest first, from before `before` on; only one caller's or one action's where that is asked for.
    pub fn audit_log(&self, before: Option<AuditId>, limit: usize, filter: &AuditFilter) -> Page<AuditRecord> {
        let ledger = self.room.ledger();
        let wanted = ledger.audit.iter().rev().filter(|entry| before.is_none_or(|before| entry.id < before));
        page(wanted.filter(|entry| filter.takes(entry)).cloned(), limit, |entry| entry.id.to_string())
    }

    /// Writes into the audit log; durable on return.
    pub async fn audit(&self, entry: WriteAudit) -> Result<(), Fault> {
        self.room.decide(entry).await
    }

    /// Served points in order of numbers.
    pub fn served_points(&self, after: Option<ServeId>, limit: usize) -> Page<ServedView> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let wanted = ledger.served.iter().filter(|served| after.is_none_or(|after| served.id > after));
        page(wanted.map(|served| view::served(&ledger, &live, served)), limit, |served| served.id.to_string())
    }

    /// Test failovers in order of numbers.
    pub fn test_failovers(&self, after: Option<ServeId>, limit: usize) -> Page<ServedView> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let wanted = ledger.served.iter().filter(|served| served.test && after.is_none_or(|after| served.id > after));
        page(wanted.map(|served| view::served(&ledger, &live, served)), limit, |served| served.id.to_string())
    }

    /// One served point.
    pub fn served_point(&self, id: ServeId) -> Result<ServedView, Fault> {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        Ok(view::served(&ledger, &live, serve::served(&ledger, id)?))
    }

    /// Who may open the vault.
    pub async fn key_slots(&self) -> Result<KeySlots, Fault> {
        self.room.vault.key_slots().await
    }

    /// How the installation is.
    pub fn health(&self) -> HealthView {
        let (ledger, live) = (self.room.ledger(), self.room.live());
        let machines: Vec<_> = ledger
            .machines
            .iter()
            .filter(|machine| !machine.removed)
            .map(|machine| view::machine(&self.room, &ledger, &live, machine))
            .map(|machine| (machine.protection, machine.health))
            .collect();
        let now = wall_clock();
        let servers = ledger.process_servers.iter().filter(|server| !server.removed);
        let process_servers: Vec<_> =
            servers.map(|server| Health::of(&health::of_process_server(&ledger, &live, server.id, now))).collect();
        let issues = health::of_installation(&ledger);
        let all = machines.iter().map(|(_, health)| *health).chain(process_servers.iter().copied());
        let health = all.chain([Health::of(&issues)]).max().unwrap_or(Health::Normal);
        HealthView { health, machines, process_servers, issues, master_target: "not_available_yet" }
    }

    /// A machine's recovery points, newest first, as its owner reads them from the vault; the last owner, while its
    /// protection is paused.
    pub async fn points(&self, machine: MachineId, before: Option<Lsn>, limit: u32) -> Result<PointsPage, Fault> {
        let (server, timeline) = self.owner(machine)?;
        let data_key = self.room.vault.data_key(machine).await.ok();
        let command = Command::ListPoints { machine, timeline, before, limit, data_key };
        match self.room.execute(server, command, ASK_WITHIN).await? {
            CommandResult::Points(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks a machine's agent for a mark now; an app mark runs the machine's hooks around it, and where it has none the agent
    /// takes a crash mark and says so.
    pub async fn mark(&self, machine: MachineId, kind: MarkKind, label: String) -> Result<MarkId, Fault> {
        if !label.is_empty() {
            check_label(&label, "a mark's label")?;
        }
        self.room.ledger().machine(machine)?;
        let (server, _) = self.owner(machine)?;
        let command = Command::RequestMark { machine, kind, label };
        match self.room.execute(server, command, ASK_WITHIN).await? {
            CommandResult::MarkRequested { mark } => Ok(mark),
            other => Err(unexpected(&other)),
        }
    }

    /// Has all of a machine's log read again by its owner, which puts back what is damaged. The machine's report tells what came
    /// of it.
    pub async fn scrub(&self, machine: MachineId) -> Result<(), Fault> {
        self.room.ledger().machine(machine)?;
        let (server, _) = self.owner(machine)?;
        match self.room.execute(server, Command::Scrub { machine }, ASK_WITHIN).await? {
            CommandResult::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Has a machine's disks read again by its agent, and sent where the log may not have them: what helps where the vault's
    /// objects are damaged and no copy of them is left. No point shows the disks until that is over.
    pub async fn resync(&self, caller: &Caller, machine: MachineId) -> Result<(), Fault> {
        self.room.decide(ResyncMachine { machine, by: caller.name.clone() }).await
    }

    /// What retention and merging would do to a machine's points, by its policy or by `ladder`, and what is held.
    pub async fn retention(
        &self,
        machine: MachineId,
        ladder: Option<Ladder>,
    ) -> Result<(Ladder, RetentionReport), Fault> {
        let (server, timeline) = self.owner(machine)?;
        let own = self.room.ledger().machine(machine).map(|known| self.room.policy.retention_of(known))?;
        let ladder = ladder.unwrap_or(own);
        let data_key = self.room.vault.data_key(machine).await?;
        let command = Command::Retention { machine, timeline, data_key, ladder: ladder.clone() };
        match self.room.execute(server, command, ASK_WITHIN).await? {
            CommandResult::Retention(plan) => Ok((ladder, plan)),
            other => Err(unexpected(&other)),
        }
    }

    /// Keeps a point, whatever its machine's retention says.
    pub async fn hold(
        &self,
        caller: &Caller,
        machine: MachineId,
        point: PointSelector,
        reason: String,
        expires_at: Option<Timestamp>,
    ) -> Result<HoldInfo, Fault> {
        check_label(&reason, "a hold's reason")?;
        if expires_at.is_some_and(|at| at <= wall_clock()) {
            return Err(Fault::new(FaultCode::InvalidValue, "a hold ends in the future, or never"));
        }
        let (server, timeline) = self.owner(machine)?;
        let data_key = self.room.vault.data_key(machine).await?;
        let mut bytes = [0; 8];
        OsChance.fill(&mut bytes);
        let hold = format!("hold-{:016x}", u64::from_le_bytes(bytes));
        let reason = format!("{reason} ({})", caller.name);
        let command = Command::Hold { machine, timeline, data_key, hold, point, reason, expires_at };
        match self.room.execute(server, command, ASK_WITHIN).await? {
            CommandResult::Held(held) => Ok(held),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a hold.
    pub async fn release_hold(&self, machine: MachineId, hold: String) -> Result<(), Fault> {
        let (server, timeline) = self.owner(machine)?;
        let data_key = self.room.vault.data_key(machine).await?;
        let unknown = Fault::new(FaultCode::HoldUnknown, format!("hold '{hold}'"));
        let command = Command::ReleaseHold { machine, timeline, data_key, hold };
        match self.room.execute(server, command, ASK_WITHIN).await? {
            CommandResult::HoldReleased { was_there: true } => Ok(()),
            CommandResult::HoldReleased { was_there: false } => Err(unknown),
            other => Err(unexpected(&other)),
        }
    }

    fn owner(&self, machine: MachineId) -> Result<(ProcessServerId, farshore_engine::ids::TimelineId), Fault> {
        let ledger = self.room.ledger();
        let known = ledger.machines.get(&machine);
        let known = known.ok_or_else(|| Fault::new(FaultCode::MachineUnknown, format!("machine {machine}")))?;
        let assignment = ledger
            .assignments
            .get(&machine)
            .ok_or_else(|| Fault::new(FaultCode::MachineUnassigned, format!("machine '{}'", known.name)))?;
        Ok((assignment.process_server, known.timeline))
    }

    /// Begins to move a machine to another process server.
    pub async fn begin_move(
        &self,
        caller: &Caller,
        machine: MachineId,
        target: ProcessServerId,
    ) -> Result<Begun, Fault> {
        let job = self.room.decide(BeginMove { machine, target, by: caller.name.clone() }).await?;
        Ok(Begun { job, serve: None })
    }

    /// Ends a machine's protection; its replica stays in the vault.
    pub async fn remove_machine(&self, caller: &Caller, machine: MachineId) -> Result<(), Fault> {
        self.room.decide(RemoveMachine { machine, by: caller.name.clone() }).await
    }

    /// Strikes a process server off that owns nothing.
    pub async fn remove_process_server(&self, caller: &Caller, id: ProcessServerId) -> Result<(), Fault> {
        self.room.decide(RemoveProcessServer { id, by: caller.name.clone() }).await
    }

    /// Begins to serve a point.
    pub async fn begin_serve(&self, caller: &Caller, request: ServeRequest) -> Result<Begun, Fault> {
        let ServeRequest { machine, selector, disks, read_only, test } = request;
        let (process_server, by) = (self.reader_for(machine)?, caller.name.clone());
        let begin = BeginServe { machine, selector, disks, read_only, process_server, test, by };
        let (served, job) = self.room.decide(begin).await?;
        Ok(Begun { job, serve: Some(served.id) })
    }

    /// Who reads a machine's points: its owner, or, while that is away, any process server that is connected. Reading needs
    /// nothing but the vault and the machine's key.
    fn reader_for(&self, machine: MachineId) -> Result<ProcessServerId, Fault> {
        let (owner, _) = self.owner(machine)?;
        let (ledger, live, now) = (self.room.ledger(), self.room.live(), wall_clock());
        let connected = |server: &ProcessServerId| live.reach(*server, now) == Reach::Connected;
        let servers = ledger.process_servers.iter().filter(|server| !server.removed).map(|server| server.id);
        Ok(if connected(&owner) { owner } else { servers.into_iter().find(connected).unwrap_or(owner) })
    }

    /// Begins to write a point's disks to files of a format at a process server.
    pub async fn begin_restore(
        &self,
        caller: &Caller,
        request: ServeRequest,
        format: Format,
    ) -> Result<JobRecord, Fault> {
        let ServeRequest { machine, selector, disks, .. } = request;
        let (process_server, by) = (self.reader_for(machine)?, caller.name.clone());
        self.room.decide(BeginRestore { machine, process_server, selector, disks, format, by }).await
    }

    /// Pauses a machine's protection.
    pub async fn pause(&self, caller: &Caller, machine: MachineId) -> Result<(), Fault> {
        self.room.decide(PauseMachine { machine, by: caller.name.clone() }).await
    }

    /// Resumes a machine's protection.
    pub async fn resume(&self, caller: &Caller, machine: MachineId) -> Result<JobRecord, Fault> {
        self.room.decide(ResumeMachine { machine, by: caller.name.clone() }).await
    }

    /// Changes a machine's label and policy, if nobody did since `seen`.
    pub async fn edit_machine(
        &self,
        caller: &Caller,
        machine: MachineId,
        seen: u64,
        name: Option<String>,
        policy: Option<MachinePolicy>,
    ) -> Result<(), Fault> {
        self.room.decide(EditMachine { machine, seen, name, policy, by: caller.name.clone() }).await
    }

    /// Ends a machine's protection and begins to delete its replica.
    pub async fn begin_delete_points(&self, caller: &Caller, machine: MachineId) -> Result<JobRecord, Fault> {
        self.room.decide(BeginDeletePoints { machine, by: caller.name.clone() }).await
    }

    /// Calls a job off.
    pub async fn cancel_job(&self, caller: &Caller, job: JobId) -> Result<JobRecord, Fault> {
        self.room.decide(CancelJob { job, by: caller.name.clone() }).await
    }

    /// Does again what a job did not.
    pub async fn retry_job(&self, caller: &Caller, job: JobId) -> Result<JobRecord, Fault> {
        self.room.decide(RetryJob { job, by: caller.name.clone() }).await
    }

    /// Begins to end a served point.
    pub async fn begin_stop_serving(&self, caller: &Caller, serve: ServeId, notes: String) -> Result<Begun, Fault> {
        let job = self.room.decide(BeginStop { serve, notes, by: caller.name.clone() }).await?;
        Ok(Begun { job, serve: Some(serve) })
    }

    /// Makes a join token. Its text is shown once.
    pub async fn create_join_token(
        &self,
        caller: &Caller,
        role: MemberRole,
        label: String,
        valid_for: Duration,
        uses_max: u32,
    ) -> Result<JoinTicket, Fault> {
        let make = CreateJoinToken { role, label, valid_for, uses_max, by: caller.name.clone() };
        let (token, text) = self.room.decide(make).await?;
        Ok(JoinTicket {
            id: token.id.0,
            token: text,
            role: token.role,
            expires_at: token.expires_at,
            uses_max: token.uses_max,
            control_addresses: self.room.policy.control_addresses.clone(),
            authority_fingerprint: self.room.authority.fingerprint().to_string(),
        })
    }

    /// Join tokens, without their secrets.
    pub fn join_tokens(&self, after: Option<TokenId>, limit: usize) -> Page<JoinToken> {
        let ledger = self.room.ledger();
        let wanted = ledger.join_tokens.iter().filter(|token| after.is_none_or(|after| token.id > after));
        page(wanted.cloned(), limit, |token| JoinToken::key_text(&token.id))
    }

    /// Ends a join token.
    pub async fn revoke_join_token(&self, caller: &Caller, id: TokenId) -> Result<(), Fault> {
        self.room.decide(RevokeJoinToken { id, by: caller.name.clone() }).await
    }

    /// Makes an API token. Its text is shown once.
    pub async fn create_api_token(
        &self,
        caller: &Caller,
        role: ApiRole,
        label: String,
        valid_for: Option<Duration>,
    ) -> Result<(ApiToken, Zeroizing<String>), Fault> {
        self.room.decide(CreateApiToken { role, label, valid_for, by: caller.name.clone() }).await
    }

    /// API tokens, without their secrets.
    pub fn api_tokens(&self, after: Option<TokenId>, limit: usize) -> Page<ApiToken> {
        let ledger = self.room.ledger();
        let wanted = ledger.api_tokens.iter().filter(|token| after.is_none_or(|after| token.id > after));
        page(wanted.cloned(), limit, |token| ApiToken::key_text(&token.id))
    }

    /// Ends an API token.
    pub async fn revoke_api_token(&self, caller: &Caller, id: TokenId) -> Result<(), Fault> {
        self.room.decide(RevokeApiToken { id, by: caller.name.clone() }).await
    }
}

impl ControlPlane {
    /// Webhooks in order of numbers.
    pub fn webhooks(&self, after: Option<WebhookId>, limit: usize) -> Page<WebhookView> {
        let ledger = self.room.ledger();
        let wanted = ledger.webhooks.iter().filter(|webhook| after.is_none_or(|after| webhook.id > after));
        page(wanted.map(|webhook| view::webhook(&ledger, webhook)), limit, |view| view.webhook.id.to_string())
    }

    /// One webhook.
    pub fn webhook(&self, id: WebhookId) -> Result<WebhookView, Fault> {
        let ledger = self.room.ledger();
        Ok(view::webhook(&ledger, webhooks::webhook(&ledger, id)?))
    }

    /// What a webhook was told and will be, newest first, from before `before` on.
    pub fn deliveries(&self, id: WebhookId, before: Option<DeliveryId>, limit: usize) -> Result<Page<Delivery>, Fault> {
        let ledger = self.room.ledger();
        webhooks::webhook(&ledger, id)?;
        let wanted = ledger.deliveries_of(id).rev().filter(|delivery| before.is_none_or(|at| delivery.id < at));
        Ok(page(wanted.cloned(), limit, |delivery| delivery.id.to_string()))
    }

    /// Makes a webhook whose address was looked at. Its secret is shown once.
    pub async fn create_webhook(
        &self,
        caller: &Caller,
        label: String,
        url: String,
        allow_plain_http: bool,
    ) -> Result<(WebhookView, Zeroizing<String>), Fault> {
        let (key, by) = (self.room.webhook_key.clone(), caller.name.clone());
        let (webhook, secret) = self.room.decide(CreateWebhook { label, url, allow_plain_http, key, by }).await?;
        Ok((self.webhook(webhook.id)?, secret))
    }

    /// Ends a webhook.
    pub async fn delete_webhook(&self, caller: &Caller, id: WebhookId) -> Result<(), Fault> {
        self.room.decide(DeleteWebhook { id, by: caller.name.clone() }).await
    }

    /// Tells a webhook nothing, to see whether it arrives.
    pub async fn test_webhook(&self, caller: &Caller, id: WebhookId) -> Result<Delivery, Fault> {
        self.room.decide(TestWebhook { id, by: caller.name.clone() }).await
    }

    /// Says how webhooks are reached.
    pub fn post_with(&self, post: Arc<dyn Post>) {
        self.room.post_with(post);
    }
}

pub(super) fn unexpected(result: &CommandResult) -> Fault {
    Fault::new(FaultCode::Refused, format!("the process server answered something else: {result:?}"))
}

fn page<T>(items: impl Iterator<Item = T>, limit: usize, cursor: impl Fn(&T) -> String) -> Page<T> {
    let mut items: Vec<T> = items.take(limit + 1).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    Page { items, next }
}
