//! The data plane as others hold it: a handle that starts, asks and stops a process server, and survives its actor.
//!
//! ```text
//!   DataPlane ── ask ──▶ Root ── Locate ──▶ ProcessServer (this life, or the next one after a panic)
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{
    CacheReport, Command, CommandResult, Heartbeat, Issue, MachineReport, MachineState, Refusal,
};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::store::metered::MeteredStore;
use parking_lot::Mutex;
use slog::{error, warn};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::ledger::{Ledger, MachineSpec, find_owners};
use super::messages::{
    AssignMachine, CancelRestore, HoldPoint, ListPoints, PlanRetention, RedirectAgent, ReleaseHold, ReleaseMachine,
    Report, RequestMark, RestorePoint, Restoring, ServePoint, SetPacking, SetRetention, StopServing, WantScrub,
};
use super::process_server::points::PointServer;
use super::process_server::{ProcessServer, ServerSpec};
use super::wiring::Wiring;
use super::{
    ActorReport, DataConfig, DataError, DataEventKind, HealthIssue, MachinePhase, MachineStatus, ProcessServerReport,
};
use crate::supervise::{
    Abort, ActorKind, ChildState, Ended, Loss, Parent, Placement, Retire, Retirement, Warden, attend, on_ended, retire,
    start_root,
};

/// How long a question waits for a process server that is being restarted.
const RESTART_MAX: Duration = Duration::from_secs(20);
/// Pause before the process server's actor is looked for again.
const LOCATE_PAUSE: Duration = Duration::from_millis(10);
/// Time for adopting a log before the answer is "not yet".
const ADOPT_MAX: Duration = Duration::from_secs(20);
/// Time for a process server to stop; its machines have less. With the threads' time, and a configuration server's in the
/// same process, it stays within the 10 s that a stop may take.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Time for threads to end when nothing runs on them any more.
const JOIN_MAX: Duration = Duration::from_secs(1);

/// The root of a data plane: keeps one process server alive.
struct Root {
    servers: Warden<ProcessServer>,
    spec: ServerSpec,
    fatal: watch::Sender<Option<String>>,
}

#[derive(Message)]
#[rtype(result = "Option<(Addr<ProcessServer>, u64)>")]
struct Locate {
    after: u64,
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        attend::<Self, ProcessServer>(self, ctx);
        let spec = self.spec.clone();
        Warden::admit(self, (), spec, ctx);
    }
}

impl Parent<ProcessServer> for Root {
    fn warden(&mut self) -> &mut Warden<ProcessServer> {
        &mut self.servers
    }

    fn child_born(&mut self, (): &(), _: Addr<ProcessServer>, _: u64, _: &mut Context<Self>) {
        self.spec.own.lock().state = ChildState::Alive;
    }

    fn child_lost(&mut self, (): &(), loss: Loss, ctx: &mut Context<Self>) {
        let (ending, given_up) = match loss {
            Loss::Restarting { ending, .. } => (ending.to_string(), false),
            Loss::GaveUp { ending } => (ending.to_string(), true),
            Loss::Finished => return ctx.stop(),
        };
        let mut own = self.spec.own.lock();
        own.state = if given_up { ChildState::GivenUp } else { ChildState::Waiting };
        own.restarts += u64::from(!given_up);
        own.last_failure = Some(ending.clone());
        drop(own);
        let config = &self.spec.wiring.config;
        let kind = DataEventKind::Restarted { kind: ActorKind::ProcessServer, ending: ending.clone(), given_up };
        config.events.tell(None, kind);
        if given_up {
            error!(config.log, "the process server cannot be kept alive"; "ending" => &ending);
            self.fatal.send_replace(Some(format!("the process server cannot be kept alive: {ending}")));
        }
    }
}

impl Handler<Ended<ProcessServer>> for Root {
    type Result = ();

    fn handle(&mut self, msg: Ended<ProcessServer>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Handler<Locate> for Root {
    type Result = Option<(Addr<ProcessServer>, u64)>;

    fn handle(&mut self, msg: Locate, _: &mut Self::Context) -> Self::Result {
        self.servers.locate(&(), msg.after)
    }
}

impl Handler<Retire> for Root {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Retire, _: &mut Self::Context) -> Self::Result {
        let retiring = self.servers.retire(&(), STOP_MAX);
        Box::pin(retiring.into_actor(self).map(|_, _, ctx| ctx.stop()))
    }
}

/// A process server that runs.
#[derive(Clone)]
pub struct DataPlane {
    root: Addr<Root>,
    abort: Abort,
    wiring: Arc<Wiring>,
    /// Counts what is asked of the vault.
    meter: Arc<MeteredStore>,
    address: SocketAddr,
    fatal: watch::Receiver<Option<String>>,
}

impl std::fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPlane").field("address", &self.address).finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Starts a process server: listens, and goes on with the machines whose owner the cache names. Must be called
    /// where an actix `System` runs.
    pub async fn start(mut config: DataConfig) -> io::Result<Self> {
        let meter = Arc::new(MeteredStore::new(config.store.clone()));
        config.store = meter.clone();
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let limits = &config.limits;
        let points = PointServer::start(&config.serve_dir, config.store.clone(), limits, &config.log)?;
        let wiring = Wiring::start(config)?;
        let ledger = Arc::new(Ledger::default());
        go_on_with_owned(&wiring, &ledger).await?;
        let own = ActorReport { state: ChildState::Waiting, restarts: 0, last_failure: None };
        let spec = ServerSpec {
            wiring: wiring.clone(),
            ledger,
            listener: Arc::new(listener),
            points: Arc::new(points),
            own: Arc::new(Mutex::new(own)),
        };
        let (fatal, fatal_seen) = watch::channel(None);
        let (log, policy) = (wiring.config.log.clone(), wiring.config.limits.restarts.clone());
        let lost = fatal.clone();
        let make =
            move |_: &mut Context<Root>| Root { servers: Warden::new(log, Placement::WithParent, policy), spec, fatal };
        let (root, abort) = start_root(make, move |ending| {
            lost.send_if_modified(|seen| {
                let first = seen.is_none();
                *seen = seen.take().or(Some(format!("the process server's root ended: {ending}")));
                first
            });
        });
        Ok(Self { root, abort, wiring, meter, address, fatal: fatal_seen })
    }

    /// Where agents connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process server cannot go on, or was stopped; says why.
    pub async fn ended(&self) -> String {
        let mut fatal = self.fatal.clone();
        let seen = fatal.wait_for(Option::is_some).await;
        seen.ok().and_then(|why| why.clone()).unwrap_or_else(|| "the process server is gone".into())
    }

    /// Asks the process server; where its actor dies meanwhile, asks its next life: every message may be repeated.
    async fn ask<M>(&self, message: M) -> Result<M::Result, DataError>
    where
        M: Message + Clone + Send + 'static,
        M::Result: Send,
        ProcessServer: Handler<M>,
    {
        let (until, mut seen) = (Instant::now() + RESTART_MAX, 0);
        while Instant::now() < until {
            match self.root.send(Locate { after: seen }).await {
                Ok(Some((server, life))) => match server.send(message.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(_) => seen = life,
                },
                Ok(None) => tokio::time::sleep(LOCATE_PAUSE).await,
                Err(_) => break,
            }
        }
        Err(DataError::Restarting("the process server"))
    }

    /// How it all stands.
    pub async fn report(&self) -> Result<ProcessServerReport, DataError> {
        self.ask(Report).await
    }

    /// Carries out a command of the configuration server.
    pub async fn execute(&self, command: Command) -> Result<CommandResult, Refusal> {
        match command {
            Command::Assign(assignment) => {
                let epoch = assignment.epoch;
                match self.ask(AssignMachine { assignment, within: ADOPT_MAX }).await? {
                    Ok(adopted) => {
                        Ok(CommandResult::Assigned { committed: adopted.committed, next_slot: adopted.next_slot })
                    }
                    Err(DataError::StaleEpoch { newest, .. }) => {
                        Ok(CommandResult::AssignStale { highest: newest.epoch })
                    }
                    Err(DataError::CacheLost(_)) => Ok(CommandResult::AssignStale { highest: epoch }),
                    Err(error) => Err(error.into()),
                }
            }
            Command::Release { machine, epoch, within_ms } => {
                let within = Duration::from_millis(within_ms);
                let released = self.ask(ReleaseMachine { machine, epoch, within }).await??;
                Ok(CommandResult::Released { committed: released.committed, durable: released.durable })
            }
            Command::Retention { machine, timeline, data_key, ladder } => {
                let data_key = DataKey::from_bytes(*data_key.bytes());
                let plan = self.ask(PlanRetention { machine, timeline, data_key, ladder }).await??;
                Ok(CommandResult::Retention(plan))
            }
            Command::Hold { machine, timeline, data_key, hold, point, reason, expires_at } => {
                let data_key = DataKey::from_bytes(*data_key.bytes());
                let ask = HoldPoint { machine, timeline, data_key, hold, point, reason, expires_at };
                Ok(CommandResult::Held(self.ask(ask).await??))
            }
            Command::ReleaseHold { machine, timeline, data_key, hold } => {
                let data_key = DataKey::from_bytes(*data_key.bytes());
                let was_there = self.ask(ReleaseHold { machine, timeline, data_key, hold }).await??;
                Ok(CommandResult::HoldReleased { was_there })
            }
            Command::SetRetention { machine, ladder } => {
                self.ask(SetRetention { machine, ladder }).await??;
                Ok(CommandResult::Done)
            }
            Command::Scrub { machine } => {
                self.ask(WantScrub { machine }).await??;
                Ok(CommandResult::Done)
            }
            Command::SetPacking { machine, packing } => {
                self.ask(SetPacking { machine, packing }).await??;
                Ok(CommandResult::Done)
            }
            Command::Redirect { machine, epoch, addresses } => {
                self.ask(RedirectAgent { machine, epoch, addresses }).await??;
                Ok(CommandResult::Done)
            }
            Command::ListPoints { machine, timeline, before, limit, data_key } => {
                let data_key = data_key.map(|key| DataKey::from_bytes(*key.bytes()));
                let page = self.ask(ListPoints { machine, timeline, before, limit, data_key }).await??;
                Ok(CommandResult::Points(page))
            }
            Command::ServePoint { serve, machine, timeline, data_key, point, disks, read_only } => {
                let data_key = DataKey::from_bytes(*data_key.bytes());
                let ask = ServePoint { serve, machine, timeline, data_key, point, disks, read_only };
                let served = self.ask(ask).await??;
                Ok(CommandResult::Served { point: served.point, exports: served.exports })
            }
            Command::StopServing { serve } => {
                self.ask(StopServing { serve }).await?;
                Ok(CommandResult::Done)
            }
            Command::RestorePoint { restore, machine, timeline, data_key, point, disks, format } => {
                let data_key = DataKey::from_bytes(*data_key.bytes());
                let ask = RestorePoint { restore, machine, timeline, data_key, point, disks, format };
                Ok(match self.ask(ask).await?? {
                    Restoring::UnderWay { done_bytes, total_bytes } => {
                        CommandResult::Restoring { done_bytes, total_bytes }
                    }
                    Restoring::Done { directory, total_bytes } => {
                        CommandResult::Restored { directory: directory.display().to_string(), total_bytes }
                    }
                })
            }
            Command::CancelRestore { restore } => {
                self.ask(CancelRestore { restore }).await?;
                Ok(CommandResult::Done)
            }
            Command::Chaos(command) => Ok(CommandResult::Chaos(self.wiring.config.chaos.execute(command))),
            Command::RequestMark { machine, kind, label } => {
                let mark = self.ask(RequestMark { machine, kind, label }).await??;
                Ok(CommandResult::MarkRequested { mark })
            }
        }
    }

    /// How it all stands, as the configuration server hears it. Events are the caller's to add.
    pub async fn heartbeat(&self) -> Result<Heartbeat, DataError> {
        let report = self.report().await?;
        Ok(Heartbeat {
            at: report.at,
            cpu: report.cpu,
            cache: CacheReport {
                used_bytes: report.cache.used_bytes,
                bytes_max: report.cache.budget_bytes,
                backlog_bytes: report.cache.backlog_bytes,
                disk_free_bytes: report.cache.disk_free_bytes,
            },
            vault_reachable: report.vault_reachable,
            machines: report.machines.iter().map(machine_report).collect(),
            store: self.meter.counts(),
            serving: report.serving,
            near: report.near,
            events: Vec::new(),
        })
    }

    /// Stops: machines become durable and reach the vault as far as there is time, then threads end. True where all of it
    /// went as planned.
    pub async fn stop(self) -> bool {
        let flushed = retire(self.root.clone(), self.abort.clone(), STOP_MAX + LOCATE_PAUSE).await;
        self.end_threads().await && flushed == Retirement::Flushed
    }

    /// Ends everything at once, without a flush: what a crash of the process does, as far as one process can do it to
    /// a part of itself. For tests.
    pub async fn kill(self) -> bool {
        self.abort.abort();
        self.end_threads().await
    }

    async fn end_threads(&self) -> bool {
        let (told, ended) = oneshot::channel();
        let wiring = self.wiring.clone();
        std::thread::spawn(move || told.send(wiring.arbiters.stop_and_join(JOIN_MAX)));
        let joined = ended.await.unwrap_or(false);
        self.wiring.seal_pool.drain().await;
        self.wiring.file_pool.drain().await;
        joined
    }
}

/// The machines that the cache's owner files name: they go on without asking anybody, as soon as there is a key.
async fn go_on_with_owned(wiring: &Arc<Wiring>, ledger: &Arc<Ledger>) -> io::Result<()> {
    let (io, cache) = (wiring.config.io.clone(), wiring.config.cache_dir.clone());
    let finding = wiring.file_pool.run(move || {
        io.create_dirs(&cache)?;
        find_owners(&io, &cache)
    });
    for found in finding.await.map_err(io::Error::other)?? {
        match found.owner {
            Ok(owner) => {
                ledger.put(MachineSpec::new((wiring, ledger), found.machine, found.timeline, owner, None));
            }
            Err(error) => {
                warn!(wiring.config.log, "a machine's cache cannot be gone on with: it waits for a new assignment";
                    "machine" => %found.machine, "why" => %error);
            }
        }
    }
    Ok(())
}

fn machine_report(status: &MachineStatus) -> MachineReport {
    let state = match status.phase {
        MachinePhase::Opening => MachineState::Opening,
        MachinePhase::Adopting => MachineState::Adopting,
        MachinePhase::Locked => MachineState::Locked,
        MachinePhase::Ready if status.session.is_none() => MachineState::AgentAway,
        MachinePhase::Ready => MachineState::Replicating,
        MachinePhase::Releasing => MachineState::Releasing,
        MachinePhase::Fenced => MachineState::Fenced,
        MachinePhase::Failed => MachineState::Failed,
    };
    MachineReport {
        machine: status.machine,
        epoch: status.epoch,
        state,
        durable: status.durable,
        committed: status.committed,
        next_slot: status.next_slot,
        packing: Some(status.packing),
        retention: status.retention.clone(),
        merging: Some(status.merging.clone()),
        scrub: Some(status.scrub.clone()),
        newest_mark: status.newest_mark,
        idle_confirmed_at: status.idle_confirmed_at,
        backlog_bytes: status.backlog_bytes,
        received_bytes: status.disks.values().map(|disk| disk.plain_bytes).sum(),
        uploaded_bytes: status.uploads.bytes,
        upload_failures: status.uploads.failures,
        actor_restarts: status.actors.values().map(|actor| actor.restarts).sum(),
        issues: status.health.iter().map(issue).collect(),
    }
}

fn issue(issue: &HealthIssue) -> Issue {
    let HealthIssue { code, severity, text, remedy, .. } = issue.clone();
    Issue { code: code.name().into(), severity, text, remedy }
}
