//! What every actor of the control plane shares: the ledger and the live picture to read, ways to the actors, ports.
//!
//! Only the Orchestrator's present life writes the ledger, and only what is durable. Reading needs no actor: the API
//! shows the last known state even while the Orchestrator is being restarted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{Command, CommandResult, Welcome};
use farshore_engine::ids::ProcessServerId;
use farshore_engine::transport::CertificateAuthority;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;
use parking_lot::{RwLock, RwLockReadGuard};
use slog::Logger;
use tokio::sync::watch;

use super::fault::{Fault, FaultCode};
use super::health::RpoLimits;
use super::ledger::records::{Counters, EventRecord, JobRecord, Machine, Record as _, Served, ServedExport};
use super::ledger::webhooks::{Delivery, Told};
use super::ledger::{Decision, Ledger};
use super::live::Live;
use super::orchestrator::{Decide, Orchestrator};
use super::process_server_link::{Execute, ProcessServerLink};
use super::state::{Batch, StateStore};
use super::vault_keeper::VaultKeeper;
use super::webhooks::Post;
use super::webhooks::secret::WebhookKey;
use crate::supervise::Chaos;

/// How long a caller waits for an Orchestrator that is being restarted.
const ORCHESTRATOR_WITHIN: Duration = Duration::from_secs(5);

/// Values that members are told, and thresholds of health.
#[derive(Debug, Clone)]
pub struct ControlPolicy {
    /// Where members reach the configuration server (`host:port`).
    pub control_addresses: Vec<String>,
    /// Time between marks under load.
    pub mark_interval: Duration,
    /// Oldest that an open segment gets.
    pub seal_interval: Duration,
    /// With what frames are packed.
    pub packing: Packing,
    /// Which points stay.
    pub retention: Ladder,
    /// RPO from which a machine is in warning.
    pub rpo_warning: Duration,
    /// RPO from which a machine is critical.
    pub rpo_critical: Duration,
    /// How long a member's certificate is valid, in days.
    pub certificate_days: u32,
    /// Time that the owner before has to upload what it cached, during a move.
    pub release_within: Duration,
    /// Time that a new owner has to fence the log and learn its tail, before another one is tried.
    pub adopt_within: Duration,
}

impl ControlPolicy {
    /// RPO from which this machine is in warning, and critical.
    pub(super) fn rpo_limits(&self, machine: &Machine) -> RpoLimits {
        let wanted = |seconds: Option<u64>, otherwise| seconds.map_or(otherwise, Duration::from_secs);
        RpoLimits {
            warning: wanted(machine.policy.rpo_warning_seconds, self.rpo_warning),
            critical: wanted(machine.policy.rpo_critical_seconds, self.rpo_critical),
        }
    }

    /// What a member is told at the begin of a session, and a machine again when it changes.
    pub(super) fn welcome(&self, machine: Option<&Machine>) -> Welcome {
        let mark_interval = machine.map_or(self.mark_interval, |machine| self.mark_interval_of(machine));
        Welcome {
            control_addresses: self.control_addresses.clone(),
            mark_interval_ms: mark_interval.as_millis() as u64,
            seal_interval_ms: self.seal_interval.as_millis() as u64,
            resyncs: machine.map_or(0, |machine| machine.resyncs),
        }
    }

    /// With what this machine's frames are packed.
    pub(super) fn packing_of(&self, machine: &Machine) -> Packing {
        machine.policy.packing.unwrap_or(self.packing)
    }

    /// Which of this machine's points stay.
    pub(super) fn retention_of(&self, machine: &Machine) -> Ladder {
        machine.policy.retention.clone().unwrap_or_else(|| self.retention.clone())
    }

    /// Time between this machine's marks under load.
    pub(super) fn mark_interval_of(&self, machine: &Machine) -> Duration {
        machine.policy.mark_interval_ms.map_or(self.mark_interval, Duration::from_millis)
    }
}

/// What every actor of the control plane shares.
pub struct ControlRoom {
    /// Where it logs.
    pub log: Logger,
    /// Values that members are told.
    pub policy: ControlPolicy,
    /// Where the ledger is kept.
    pub store: Arc<dyn StateStore>,
    /// Machines' data keys.
    pub vault: Arc<dyn VaultKeeper>,
    /// Signs members' certificates.
    pub authority: CertificateAuthority,
    /// The switch for injected panics.
    pub chaos: Arc<Chaos>,
    /// What the webhooks' secrets are made from.
    pub webhook_key: WebhookKey,
    post: RwLock<Option<Arc<dyn Post>>>,
    ledger: RwLock<Ledger>,
    ledger_changes: watch::Sender<u64>,
    live: RwLock<Live>,
    orchestrator: watch::Sender<Option<Addr<Orchestrator>>>,
    links: RwLock<BTreeMap<ProcessServerId, Addr<ProcessServerLink>>>,
    fatal: watch::Sender<Option<String>>,
    changes: Changes,
}

/// How often the ledger changed.
#[derive(Debug, Default)]
struct Changes {
    all: AtomicU64,
    lasting: AtomicU64,
}

/// Tables that tell of what goes on, and are no loss to a configuration server that is brought back.
const PASSING_TABLES: [&str; 7] = [
    JobRecord::TABLE,
    EventRecord::TABLE,
    Counters::TABLE,
    Served::TABLE,
    ServedExport::TABLE,
    Delivery::TABLE,
    Told::TABLE,
];

impl ControlRoom {
    /// An empty room; the Orchestrator fills it.
    pub fn new(
        log: Logger,
        policy: ControlPolicy,
        store: Arc<dyn StateStore>,
        vault: Arc<dyn VaultKeeper>,
        authority: CertificateAuthority,
        chaos: Arc<Chaos>,
        webhook_key: WebhookKey,
    ) -> Self {
        Self {
            log,
            policy,
            store,
            vault,
            authority,
            chaos,
            webhook_key,
            post: RwLock::default(),
            ledger: RwLock::default(),
            ledger_changes: watch::Sender::new(0),
            live: RwLock::default(),
            orchestrator: watch::Sender::new(None),
            links: RwLock::default(),
            fatal: watch::Sender::new(None),
            changes: Changes::default(),
        }
    }

    /// What is remembered. Hold it shortly.
    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        // A thread that reads twice must not wait for a writer that waits for it.
        self.ledger.read_recursive()
    }

    /// What is so now. Hold it shortly.
    pub fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read_recursive()
    }

    /// Counts a batch that was applied.
    pub(super) fn count_change(&self, batch: &Batch) {
        let passing =
            |key: &str| PASSING_TABLES.iter().any(|table| key.split_once('/').is_some_and(|(own, _)| own == *table));
        self.changes.all.fetch_add(1, Relaxed);
        if batch.changes().iter().any(|change| !passing(change.key())) {
            self.changes.lasting.fetch_add(1, Relaxed);
        }
    }

    /// Changes so far: all of them, and those that a configuration server must not forget.
    pub(super) fn changes(&self) -> (u64, u64) {
        (self.changes.all.load(Relaxed), self.changes.lasting.load(Relaxed))
    }

    pub(super) fn with_ledger<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let changed = change(&mut self.ledger.write());
        self.ledger_changes.send_modify(|changes| *changes += 1);
        changed
    }

    /// Counts the ledger's changes.
    pub fn ledger_changes(&self) -> watch::Receiver<u64> {
        self.ledger_changes.subscribe()
    }

    pub(super) fn with_live<T>(&self, change: impl FnOnce(&mut Live) -> T) -> T {
        change(&mut self.live.write())
    }

    /// Says how webhooks are reached from now on.
    pub(super) fn post_with(&self, post: Arc<dyn Post>) {
        *self.post.write() = Some(post);
    }

    /// How webhooks are reached; `None`: nobody has said yet.
    pub(super) fn post(&self) -> Option<Arc<dyn Post>> {
        self.post.read().clone()
    }

    /// Says where the Orchestrator is now, once it has the ledger.
    pub(super) fn orchestrator_is(&self, addr: Option<Addr<Orchestrator>>) {
        self.orchestrator.send_replace(addr);
    }

    pub(super) fn link_is(&self, server: ProcessServerId, addr: Option<Addr<ProcessServerLink>>) {
        let mut links = self.links.write();
        match addr {
            Some(addr) => links.insert(server, addr),
            None => links.remove(&server),
        };
    }

    /// Nothing more can be decided: the process must end, and why.
    pub(super) fn fail(&self, why: String) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(why);
            first
        });
    }

    /// Why the configuration server must end, once it must.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// The Orchestrator's present life; waits for one that is being restarted.
    pub(super) async fn orchestrator(&self) -> Result<Addr<Orchestrator>, Fault> {
        let mut seen = self.orchestrator.subscribe();
        let unavailable = |why: &str| Fault::new(FaultCode::Unavailable, why);
        // A life that has just ended still stands there for a moment; `connected` tells most of those apart.
        let there = seen.wait_for(|addr| addr.as_ref().is_some_and(Addr::connected));
        match tokio::time::timeout(ORCHESTRATOR_WITHIN, there).await {
            Ok(Ok(addr)) => addr.clone().ok_or_else(|| unavailable("the orchestrator is being restarted")),
            Ok(Err(_)) => Err(unavailable("the configuration server is shutting down")),
            Err(_) => Err(unavailable("the orchestrator is being restarted")),
        }
    }

    /// Has the ledger changed; answered once that is durable. After `Unavailable` it may have happened all the same.
    pub async fn decide<D: Decision>(&self, decision: D) -> Result<D::Outcome, Fault> {
        let orchestrator = self.orchestrator().await?;
        match orchestrator.send(Decide(decision)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::new(
                FaultCode::Unavailable,
                "the orchestrator was restarted meanwhile: look before trying again",
            )),
        }
    }

    /// Has a process server carry out a command. After `TimedOut` it may happen all the same.
    pub async fn execute(
        &self,
        server: ProcessServerId,
        command: Command,
        within: Duration,
    ) -> Result<CommandResult, Fault> {
        let link = self.links.read().get(&server).cloned();
        let away = || Fault::new(FaultCode::ProcessServerAway, format!("process server {server} has no session"));
        match link.ok_or_else(away)?.send(Execute { command, within }).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::new(FaultCode::Unavailable, "the link to the process server was restarted meanwhile")),
        }
    }
}

impl std::fmt::Debug for ControlRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlRoom")
    }
}
