//! The machine actor: writes one machine's log.
//!
//! Owns: the cache directory, the [`Sequencer`] (pure), the acknowledgements. Parent: the process server.
//! Children, all on its arbiter: agent sessions, disks, the upload stream, the compactor, the scrubber.
//! Bounds: the sequencer's `in_flight_bytes_max`; one append at a time; every batch's credit until it is durable.
//! In: [`TakeConnection`], [`WaitAdopted`], [`ReleaseLog`], [`SendAgentTo`], [`AskForMark`], [`SetPressure`],
//! [`Evict`], [`KeyIsHere`], [`Retire`]; facts of its children.
//!
//! ```text
//!   Opening ─► Locked? ─► Adopting ─► Ready ─► Releasing ─► (dismissed)
//!      │ cache    key        │ tail, claim, fence, unlock
//!      └─────────────────────┴──────► Failed, Fenced: nothing more is written
//! ```
//!
//! Invariants: durable is said only of whole synced batches; committed only of filled slots; the owner is in the cache
//! directory, synced, before the fence is written and before the first append; a life touches the directory only in its
//! turn of the lane.
//!
//! Crash story: a life is made from the cache directory and the vault. The segment that was open is cut behind its last
//! whole batch and closed; what the vault has not is offered again; a new segment begins under a new salt. The agent's
//! connection ends with the life; it connects again and sends what is not durable.

mod adopt;
mod book;
mod leaving;
mod locked;
mod sessions;
mod writing;

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::ids::{DiskNo, MachineId, MarkId, Timestamp};
use farshore_engine::log::SegmentNo;
use farshore_engine::protocol::{MarkRequest, Redirect};
use slog::Logger;
use tokio::sync::oneshot;

use super::agent_session::{AgentSession, Connection};
use super::compactor::Compactor;
use super::disk::Disk;
use super::ledger::MachineSpec;
use super::messages::{Adopted, Released};
use super::scrubber::Scrubber;
use super::upload::{StreamOpen, UploadStream};
use super::{DataError, MachinePhase};
use crate::supervise::{
    ActorKind, Ended, LaneTurn, Life, Loss, Parent, Placement, Retire, Ward, Warden, attend, on_ended,
};
use adopt::Stock;
use leaving::Leaving;
use sessions::Sessions;
use writing::LogWriter;

/// An agent of this machine has connected.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TakeConnection(pub(super) Connection);

/// Answer once the log is adopted, or cannot be.
#[derive(Message)]
#[rtype(result = "Result<Adopted, DataError>")]
pub(super) struct WaitAdopted;

/// The machine's key cell was filled.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct KeyIsHere;

/// Close, upload what is cached within the time, and write no more.
#[derive(Message)]
#[rtype(result = "Result<Released, DataError>")]
pub(super) struct ReleaseLog {
    pub(super) within: Duration,
}

/// Send the agent, if it has a session, to the log's new owner.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SendAgentTo(pub(super) Redirect);

/// Ask the agent for a mark.
#[derive(Message)]
#[rtype(result = "Result<MarkId, DataError>")]
pub(super) struct AskForMark(pub(super) MarkRequest);

/// So many bytes of batches the agent may have under way, from now on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(super) struct SetPressure {
    pub(super) window_bytes: u64,
}

/// Throw these committed segments out of the cache.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Evict(pub(super) Vec<SegmentNo>);

/// The actor.
pub(super) struct Machine {
    spec: MachineSpec,
    life: Life,
    log: Logger,
    turn: LaneTurn,
    disks: Warden<Disk>,
    agents: Warden<AgentSession>,
    streams: Warden<UploadStream>,
    compactors: Warden<Compactor>,
    scrubbers: Warden<Scrubber>,
    sessions: Sessions,
    /// What the cache directory holds, until the log is open.
    stock: Option<Stock>,
    /// The log, once it is open.
    writer: Option<LogWriter>,
    leaving: Option<Leaving>,
    /// Those who wait for the log to be adopted.
    waiters: Vec<oneshot::Sender<Result<Adopted, DataError>>>,
    /// Why the log cannot be adopted.
    failed: Option<DataError>,
}

impl Ward for Machine {
    type Id = MachineId;
    type Spec = MachineSpec;
    const KIND: &'static str = "machine";

    fn revive(spec: MachineSpec, life: Life, _: &mut Context<Self>) -> Self {
        let log = spec.wiring.config.log.new(slog::o!("machine" => spec.machine.to_string()));
        let policy = || spec.wiring.config.limits.restarts.clone();
        let once = || crate::supervise::RestartPolicy { restarts_max: 0, ..policy() };
        Self {
            turn: spec.append_lane.take_turn(),
            disks: Warden::new(log.clone(), Placement::WithParent, policy()),
            agents: Warden::new(log.clone(), Placement::WithParent, once()),
            streams: Warden::new(log.clone(), Placement::WithParent, policy()),
            compactors: Warden::new(log.clone(), Placement::WithParent, policy()),
            scrubbers: Warden::new(log.clone(), Placement::WithParent, policy()),
            sessions: Sessions::new(&spec),
            stock: None,
            writer: None,
            leaving: None,
            waiters: Vec::new(),
            failed: None,
            spec,
            life,
            log,
        }
    }
}

impl Actor for Machine {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        attend::<Self, Disk>(self, ctx);
        attend::<Self, AgentSession>(self, ctx);
        attend::<Self, UploadStream>(self, ctx);
        attend::<Self, Compactor>(self, ctx);
        attend::<Self, Scrubber>(self, ctx);
        self.spec.board.edit(|status| status.session = None);
        self.take_stock(ctx);
    }
}

impl Machine {
    fn chaos(&self) {
        self.spec.wiring.config.chaos.check(ActorKind::Machine, Some(self.spec.machine));
    }

    fn phase(&self) -> MachinePhase {
        self.spec.board.read(|status| status.phase)
    }

    fn set_phase(&self, phase: MachinePhase) {
        self.spec.board.edit(|status| status.phase = phase);
    }

    fn is_ready(&self) -> bool {
        self.writer.is_some() && self.failed.is_none() && self.leaving.is_none()
    }

    /// A child's failure that restarting it does not heal is this actor's: the process server makes the machine anew.
    fn escalate(&self, what: &str, loss: &Loss) {
        if let Loss::GaveUp { ending } = loss {
            panic!("{what} was given up: {ending}");
        }
    }
}

impl Parent<Disk> for Machine {
    fn warden(&mut self) -> &mut Warden<Disk> {
        &mut self.disks
    }

    fn child_born(&mut self, disk: &DiskNo, _: Addr<Disk>, incarnation: u64, ctx: &mut Context<Self>) {
        self.spec.board.actor_born(ActorKind::Disk);
        if incarnation > 1 {
            self.dispatch_again(*disk, ctx);
        }
    }

    fn child_lost(&mut self, disk: &DiskNo, loss: Loss, _: &mut Context<Self>) {
        self.spec.board.actor_lost(ActorKind::Disk, &loss);
        self.escalate(&format!("the actor of disk {disk}"), &loss);
    }
}

impl Handler<Ended<Disk>> for Machine {
    type Result = ();

    fn handle(&mut self, msg: Ended<Disk>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<UploadStream> for Machine {
    fn warden(&mut self) -> &mut Warden<UploadStream> {
        &mut self.streams
    }

    fn child_born(&mut self, (): &(), _: Addr<UploadStream>, _: u64, _: &mut Context<Self>) {
        self.spec.board.actor_born(ActorKind::UploadStream);
    }

    fn child_lost(&mut self, (): &(), loss: Loss, _: &mut Context<Self>) {
        self.spec.board.actor_lost(ActorKind::UploadStream, &loss);
        self.stream_is_lost();
        self.escalate("the upload stream", &loss);
    }
}

impl Handler<Ended<UploadStream>> for Machine {
    type Result = ();

    fn handle(&mut self, msg: Ended<UploadStream>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<Compactor> for Machine {
    fn warden(&mut self) -> &mut Warden<Compactor> {
        &mut self.compactors
    }

    fn child_born(&mut self, (): &(), _: Addr<Compactor>, _: u64, _: &mut Context<Self>) {
        self.spec.board.actor_born(ActorKind::Compactor);
    }

    /// The log goes on without it: one that was given up rests and is tried again.
    fn child_lost(&mut self, (): &(), loss: Loss, ctx: &mut Context<Self>) {
        self.spec.board.actor_lost(ActorKind::Compactor, &loss);
        if let Loss::GaveUp { .. } = loss {
            let rest = self.spec.wiring.config.limits.storm_rest;
            ctx.run_later(rest, |machine, ctx| Warden::<Compactor>::resume(machine, &(), ctx));
        }
    }
}

impl Handler<Ended<Compactor>> for Machine {
    type Result = ();

    fn handle(&mut self, msg: Ended<Compactor>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<Scrubber> for Machine {
    fn warden(&mut self) -> &mut Warden<Scrubber> {
        &mut self.scrubbers
    }

    fn child_born(&mut self, (): &(), _: Addr<Scrubber>, _: u64, _: &mut Context<Self>) {
        self.spec.board.actor_born(ActorKind::Scrubber);
    }

    /// The log goes on without it: one that was given up rests and is tried again.
    fn child_lost(&mut self, (): &(), loss: Loss, ctx: &mut Context<Self>) {
        self.spec.board.actor_lost(ActorKind::Scrubber, &loss);
        if let Loss::GaveUp { .. } = loss {
            let rest = self.spec.wiring.config.limits.storm_rest;
            ctx.run_later(rest, |machine, ctx| Warden::<Scrubber>::resume(machine, &(), ctx));
        }
    }
}

impl Handler<Ended<Scrubber>> for Machine {
    type Result = ();

    fn handle(&mut self, msg: Ended<Scrubber>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<AgentSession> for Machine {
    fn warden(&mut self) -> &mut Warden<AgentSession> {
        &mut self.agents
    }

    fn child_born(&mut self, _: &u64, _: Addr<AgentSession>, _: u64, _: &mut Context<Self>) {
        self.spec.board.actor_born(ActorKind::AgentSession);
    }

    /// A session is not restarted: it is given up at its first failure, which is no storm.
    fn child_lost(&mut self, session: &u64, loss: Loss, _: &mut Context<Self>) {
        let loss = match loss {
            Loss::GaveUp { ending } => {
                self.agents.dismiss(session);
                Loss::Restarting { ending, pause: Duration::ZERO }
            }
            other => other,
        };
        self.spec.board.actor_lost(ActorKind::AgentSession, &loss);
        self.session_is_over(*session);
    }
}

impl Handler<Ended<AgentSession>> for Machine {
    type Result = ();

    fn handle(&mut self, msg: Ended<AgentSession>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Handler<WaitAdopted> for Machine {
    type Result = ResponseFuture<Result<Adopted, DataError>>;

    fn handle(&mut self, _: WaitAdopted, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let (tell, told) = oneshot::channel();
        match (&self.failed, self.adopted()) {
            (Some(error), _) => drop(tell.send(Err(error.clone()))),
            (None, Some(adopted)) => drop(tell.send(Ok(adopted))),
            (None, None) => self.waiters.push(tell),
        }
        Box::pin(async move { told.await.unwrap_or(Err(DataError::Restarting("the machine"))) })
    }
}

impl Handler<KeyIsHere> for Machine {
    type Result = ();

    fn handle(&mut self, _: KeyIsHere, ctx: &mut Self::Context) {
        self.chaos();
        self.key_is_here(ctx);
    }
}

impl Handler<StreamOpen> for Machine {
    type Result = ();

    fn handle(&mut self, msg: StreamOpen, ctx: &mut Self::Context) {
        self.chaos();
        self.stream_is_open(msg, ctx);
    }
}

impl Handler<Retire> for Machine {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) -> Self::Result {
        self.retire(ctx)
    }
}

/// The wall clock's micro-steps back never reach a label.
fn now() -> Timestamp {
    crate::supervise::wall_clock()
}
