//! How a machine's log is let go of: handed over, stopped, lost to another owner; and what leaves the cache for want of
//! room.

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::Slot;
use farshore_engine::log::Owner;
use farshore_engine::protocol::RefusalCode;
use slog::{info, warn};
use tokio::sync::oneshot;

use super::{Evict, Machine, ReleaseLog};
use crate::data::agent_session::ToSession;
use crate::data::messages::Released;
use crate::data::upload::StreamStopped;
use crate::data::{DataError, DataEventKind, IssueCode, MachinePhase};

/// Time for what is cached to reach the vault when the process stops. What does not get there stays in the cache.
const STOP_FLUSH_MAX: Duration = Duration::from_secs(4);

/// Somebody waits until everything is in the vault, or the time is over.
pub(super) struct Leaving {
    tell: Vec<oneshot::Sender<()>>,
    /// What agents are told that come meanwhile.
    pub(super) refusal: (RefusalCode, &'static str),
}

impl Machine {
    /// Takes nothing more, closes the open segment, and waits until everything is committed, at most `within`.
    fn leave(
        &mut self,
        within: Duration,
        refusal: (RefusalCode, &'static str),
        ctx: &mut Context<Self>,
    ) -> oneshot::Receiver<()> {
        self.compactors.dismiss(&());
        self.scrubbers.dismiss(&());
        let (tell, told) = oneshot::channel();
        match &mut self.leaving {
            Some(leaving) => leaving.tell.push(tell),
            None => self.leaving = Some(Leaving { tell: vec![tell], refusal }),
        }
        if self.failed.is_none() {
            self.set_phase(MachinePhase::Releasing);
        }
        self.to_session(ToSession::Window(0));
        self.greet_those_who_wait();
        if let Some(writer) = &mut self.writer {
            writer.sequencer.close_open();
        }
        self.upkeep(ctx);
        ctx.run_later(within, |machine, _| machine.leave_now());
        told
    }

    /// Whether everything is where it is to be.
    pub(super) fn finish_leaving(&mut self) {
        let flushed = self.failed.is_some() || self.writer.as_ref().is_none_or(super::writing::LogWriter::is_flushed);
        if self.leaving.is_some() && flushed {
            self.leave_now();
        }
    }

    fn leave_now(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.tell.drain(..).for_each(|tell| tell.send(()).unwrap_or_default());
        }
    }

    fn released(&self) -> Released {
        self.spec.board.read(|status| Released { committed: status.committed, durable: status.durable })
    }

    /// Another owner has the log: what is cached under this epoch is never uploaded.
    pub(super) fn is_fenced(&mut self, by: Owner, slot: Option<Slot>, ctx: &mut Context<Self>) {
        warn!(self.log, "another owner has the log"; "by" => %by, "slot" => ?slot);
        self.spec.board.is_fenced(by);
        self.spec.board.tell(DataEventKind::Fenced { by, slot });
        let what = format!("the log belongs to {by}");
        self.spec.board.raise(IssueCode::Fenced, Severity::Warning, what, "Nothing is to be done: it was moved.");
        self.fail(DataError::StaleEpoch { machine: self.spec.machine, newest: by }, MachinePhase::Fenced);
        self.forget_cache(ctx);
    }

    /// Removes every segment file of this owner. The owner file stays: it says that this epoch was ours.
    fn forget_cache(&mut self, ctx: &mut Context<Self>) {
        let dir = match (self.writer.take(), self.stock.take()) {
            (Some(writer), _) => writer.dir,
            (None, Some(stock)) => stock.dir,
            (None, None) => return,
        };
        self.spec.board.spares_gone(|_| true);
        self.spec.board.edit(|status| (status.backlog_bytes, status.cached_bytes) = (0, 0));
        let (turn, pool, log) = (self.turn.clone(), self.spec.wiring.file_pool.clone(), self.log.clone());
        let removing = async move {
            let remove = move || dir.segments()?.into_iter().try_for_each(|segment| dir.remove(segment));
            match turn.run(&pool, remove).await {
                Ok(Ok(())) => {}
                // They are in nobody's way: the next owner of the directory discards them.
                Ok(Err(error)) => warn!(log, "segments of a lost log stay in the cache"; "why" => %error),
                Err(error) => warn!(log, "segments of a lost log stay in the cache"; "why" => %error),
            }
        };
        ctx.spawn(removing.into_actor(self));
    }

    /// The process stops: what is accepted becomes durable, and reaches the vault as far as there is time.
    pub(super) fn retire(&mut self, ctx: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.end_session("the process server stops");
        let told = self.leave(STOP_FLUSH_MAX, (RefusalCode::ShuttingDown, "the process server stops"), ctx);
        Box::pin(async move { told.await.unwrap_or_default() }.into_actor(self).map(|(), machine, ctx| {
            info!(machine.log, "the machine's actor stops"; "released" => ?machine.released());
            ctx.stop();
        }))
    }
}

impl Handler<ReleaseLog> for Machine {
    type Result = ResponseActFuture<Self, Result<Released, DataError>>;

    fn handle(&mut self, msg: ReleaseLog, ctx: &mut Self::Context) -> Self::Result {
        self.chaos();
        let told = self.leave(msg.within, (RefusalCode::NotOwner, "the machine's log is being handed over"), ctx);
        Box::pin(async move { told.await.unwrap_or_default() }.into_actor(self).map(|(), machine, ctx| {
            let released = machine.released();
            // What is not committed by now is sent again to the next owner: nothing may be uploaded behind its back.
            machine.streams.dismiss(&());
            machine.failed.get_or_insert(DataError::NotOwner(machine.spec.machine));
            machine.forget_cache(ctx);
            Ok(released)
        }))
    }
}

impl Handler<StreamStopped> for Machine {
    type Result = ();

    fn handle(&mut self, msg: StreamStopped, ctx: &mut Self::Context) {
        self.chaos();
        if self.failed.is_some() {
            return;
        }
        match msg {
            StreamStopped::Fenced { by, slot } => self.is_fenced(by, slot, ctx),
            // The next life takes stock of the cache, discards what is damaged, and has it sent again.
            StreamStopped::CacheDamaged(text) => panic!("{text}"),
        }
    }
}

impl Handler<Evict> for Machine {
    type Result = ();

    fn handle(&mut self, msg: Evict, ctx: &mut Self::Context) {
        self.chaos();
        let Some(writer) = &self.writer else { return };
        let (dir, segments) = (writer.dir.clone(), msg.0);
        self.spec.board.spares_gone(|segment| segments.contains(&segment));
        let (turn, pool, log) = (self.turn.clone(), self.spec.wiring.file_pool.clone(), self.log.clone());
        let removing = async move {
            let remove = move || segments.iter().try_for_each(|segment| dir.remove(*segment));
            if let Ok(Err(error)) = turn.run(&pool, remove).await {
                warn!(log, "a committed segment stays in the cache"; "why" => %error);
            }
        };
        ctx.spawn(removing.into_actor(self).map(|(), machine, ctx| machine.upkeep(ctx)));
    }
}
