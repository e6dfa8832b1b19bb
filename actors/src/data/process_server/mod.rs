//! The process server's actor: owns the machines that are assigned here.
//!
//! Owns: the ledger of assignments, the listener for agents, the cache guard, what is served. Parent: the root of the
//! data plane. Children: [`Machine`], spread over the arbiters.
//! In: the commands of [`super::messages`]; [`AgentConnected`] from the listener.
//!
//! Crash story: what it knows lies in the ledger beside it, so a new life finds every machine with its key; a new process
//! finds them in the cache's owner files. Machines end with a life and are made anew by the next: their agents connect
//! again.

mod assign;
mod cache;
mod cpu;
mod holds;
mod listen;
pub(super) mod points;
mod restores;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::cache::io::Space;
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::MachineId;
use farshore_engine::protocol::{Redirect, Refusal, RefusalCode};
use futures_util::future::join_all;
use slog::{Logger, info};

use super::agent_session::Connection;
use super::board::Board;
use super::ledger::Ledger;
use super::machine::{AskForMark, Machine, SendAgentTo, TakeConnection};
use super::messages::{RedirectAgent, Report, RequestMark};
use super::wiring::Wiring;
use super::{ActorReport, DataError, IssueCode, ProcessServerReport};
use crate::supervise::{
    ActorKind, Ended, Life, Loss, OsChance, Parent, Placement, Retire, Ward, Warden, attend, on_ended, wall_clock,
};
use cpu::CpuMeter;
use farshore_engine::ids::MarkId;
use farshore_engine::protocol::MarkRequest;
use points::PointServer;

/// Time for the machines to flush when the process stops.
const STOP_MAX: Duration = Duration::from_millis(4500);

/// What every life of the process server's actor is made of.
#[derive(Clone)]
pub(super) struct ServerSpec {
    pub(super) wiring: Arc<Wiring>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) listener: Arc<TcpListener>,
    pub(super) points: Arc<PointServer>,
    /// How this very actor fares; written by its parent.
    pub(super) own: Arc<parking_lot::Mutex<ActorReport>>,
}

/// From the listener: an agent with a good certificate.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AgentConnected(pub(super) Connection);

/// Where a machine's actor lives now; later than the life that the caller saw die (0: any).
#[derive(Message)]
#[rtype(result = "Option<(Addr<Machine>, u64)>")]
pub(super) struct LocateMachine {
    pub(super) machine: MachineId,
    pub(super) after: u64,
}

/// The actor.
pub(super) struct ProcessServer {
    spec: ServerSpec,
    life: Life,
    log: Logger,
    machines: Warden<Machine>,
    space: Space,
    /// A measurement of the cache disk is under way.
    measuring: bool,
    cpu: CpuMeter,
    /// Connections that are being turned away.
    refusing: usize,
}

impl Ward for ProcessServer {
    type Id = ();
    type Spec = ServerSpec;
    const KIND: &'static str = "process server";

    fn revive(spec: ServerSpec, life: Life, _: &mut Context<Self>) -> Self {
        let config = &spec.wiring.config;
        let place = Placement::Spread(spec.wiring.arbiters.clone());
        let log = config.log.clone();
        Self {
            machines: Warden::new(log.clone(), place, config.limits.restarts.clone()),
            space: Space { total_bytes: 0, free_bytes: 0 },
            measuring: false,
            cpu: CpuMeter::default(),
            refusing: 0,
            spec,
            life,
            log,
        }
    }
}

impl Actor for ProcessServer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        attend::<Self, Machine>(self, ctx);
        for spec in self.spec.ledger.all() {
            Warden::admit(self, spec.machine, spec, ctx);
        }
        self.listen(ctx);
        self.measure_cache(ctx);
        ctx.run_interval(self.spec.wiring.config.limits.tick, Self::measure_cache);
    }
}

impl ProcessServer {
    fn chaos(&self) {
        self.spec.wiring.config.chaos.check(ActorKind::ProcessServer, None);
        self.life.progress();
    }

    fn board(&self, machine: MachineId) -> Option<Arc<Board>> {
        self.spec.ledger.get(machine).map(|spec| spec.board)
    }

    /// Hands a connection to its machine, or turns it away in words that the agent understands.
    fn route(&mut self, connection: Connection, ctx: &mut Context<Self>) {
        let machine = connection.machine;
        if let Some(addr) = self.machines.get(&machine) {
            return addr.do_send(TakeConnection(connection));
        }
        let refusal = match self.spec.ledger.get(machine) {
            Some(_) => Refusal::new(RefusalCode::NotReady, "the machine's log is being opened"),
            None => Refusal {
                redirect: self.spec.ledger.redirect(machine),
                ..Refusal::new(RefusalCode::NotOwner, "this process server does not own the machine's log")
            },
        };
        self.turn_away(connection, refusal, ctx);
    }

    fn report(&mut self) -> ProcessServerReport {
        let wiring = &self.spec.wiring;
        let machines: Vec<_> = self.spec.ledger.all().iter().map(|spec| spec.board.status()).collect();
        ProcessServerReport {
            at: wall_clock(),
            cache: self.cache_state(&machines),
            memory_bytes: (wiring.memory.bytes_max() - wiring.memory.free_bytes()) as u64,
            memory_bytes_max: wiring.memory.bytes_max() as u64,
            vault_reachable: wiring.vault_reachable(),
            machines,
            serving: self.spec.points.serving(),
            near: self.spec.points.near(),
            process_server: self.spec.own.lock().clone(),
            events_lost: wiring.config.events.lost(),
            cpu: self.cpu.share(),
        }
    }
}

impl Parent<Machine> for ProcessServer {
    fn warden(&mut self) -> &mut Warden<Machine> {
        &mut self.machines
    }

    fn child_born(&mut self, machine: &MachineId, _: Addr<Machine>, _: u64, _: &mut Context<Self>) {
        if let Some(board) = self.board(*machine) {
            board.clear(IssueCode::ThreadBlocked);
            board.actor_born(ActorKind::Machine);
        }
    }

    fn child_blocked(&mut self, machine: &MachineId, _: &mut Context<Self>) {
        let Some(board) = self.board(*machine) else { return };
        let stall = self.spec.wiring.config.limits.restarts.stall_max;
        let what = format!(
            "the machine's actor has made no progress for more than {} s and cannot be ended: something blocks its \
             thread, and with it every machine on it",
            stall.as_secs()
        );
        let remedy = "Look at the vault and the cache disk; where they answer, restart the process server and report this \
                      defect. Nothing committed or durable is lost; agents keep what is neither.";
        board.raise(IssueCode::ThreadBlocked, Severity::Critical, what, remedy);
    }

    /// A machine that was given up rests and is tried again: nothing else would ever bring it back.
    fn child_lost(&mut self, machine: &MachineId, loss: Loss, ctx: &mut Context<Self>) {
        let Some(board) = self.board(*machine) else { return };
        board.actor_lost(ActorKind::Machine, &loss);
        if let Loss::GaveUp { .. } = loss {
            let machine = *machine;
            let rest = self.spec.wiring.config.limits.storm_rest;
            ctx.run_later(rest, move |server, ctx| Warden::<Machine>::resume(server, &machine, ctx));
        }
    }
}

impl Handler<Ended<Machine>> for ProcessServer {
    type Result = ();

    fn handle(&mut self, msg: Ended<Machine>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Handler<LocateMachine> for ProcessServer {
    type Result = Option<(Addr<Machine>, u64)>;

    fn handle(&mut self, msg: LocateMachine, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        self.machines.locate(&msg.machine, msg.after)
    }
}

impl Handler<AgentConnected> for ProcessServer {
    type Result = ();

    fn handle(&mut self, msg: AgentConnected, ctx: &mut Self::Context) {
        self.chaos();
        self.route(msg.0, ctx);
    }
}

impl Handler<Report> for ProcessServer {
    type Result = MessageResult<Report>;

    fn handle(&mut self, _: Report, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        MessageResult(self.report())
    }
}

impl Handler<RedirectAgent> for ProcessServer {
    type Result = Result<(), DataError>;

    fn handle(&mut self, msg: RedirectAgent, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        if self.spec.ledger.epoch(msg.machine).is_some_and(|own| own >= msg.epoch) {
            return Ok(());
        }
        let redirect = Redirect { addresses: msg.addresses, epoch: msg.epoch };
        self.spec.ledger.set_redirect(msg.machine, redirect.clone());
        if let Some(machine) = self.machines.get(&msg.machine) {
            machine.do_send(SendAgentTo(redirect));
        }
        Ok(())
    }
}

impl Handler<RequestMark> for ProcessServer {
    type Result = ResponseFuture<Result<MarkId, DataError>>;

    fn handle(&mut self, msg: RequestMark, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let Some(machine) = self.machines.get(&msg.machine).cloned() else {
            let error = match self.spec.ledger.get(msg.machine) {
                Some(_) => DataError::Restarting("the machine"),
                None => DataError::NotOwner(msg.machine),
            };
            return Box::pin(async move { Err(error) });
        };
        let request = MarkRequest { id: MarkId::draw(&mut OsChance), kind: msg.kind, label: msg.label };
        Box::pin(
            async move { machine.send(AskForMark(request)).await.unwrap_or(Err(DataError::Restarting("the machine"))) },
        )
    }
}

impl Handler<Retire> for ProcessServer {
    type Result = ResponseActFuture<Self, ()>;

    /// Leaves first: the machines flush, then this actor ends.
    fn handle(&mut self, _: Retire, _: &mut Self::Context) -> Self::Result {
        let ids: Vec<MachineId> = self.machines.children().copied().collect();
        info!(self.log, "the process server stops"; "machines" => ids.len());
        let retiring: Vec<_> = ids.iter().map(|machine| self.machines.retire(machine, STOP_MAX)).collect();
        self.spec.points.stop_all();
        Box::pin(join_all(retiring).into_actor(self).map(|_, _, ctx| ctx.stop()))
    }
}
