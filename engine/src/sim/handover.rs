//! Planned moves, as configuration server and process servers make them: the source takes nothing more, sends what it has,
//! and forgets its cache; another owner is named; the agent, which stays where it was until then, is told.
//!
//! ```text
//!   No ─ release ─► Begun ─ all is sent, or the time is over ─► Over ─ agent told, or `LET_GO` later ─► process ends
//! ```
//!
//! Things may happen in between: the source dies, somebody else is named owner, nobody tells the agent.

use std::time::Duration;

use super::context::{Context, Event, LinkNo};
use super::counters::Seen;
use super::log::ModelLog;
use super::process::Process;
use super::world::{SERVERS, World, seat};
use crate::ids::Epoch;
use crate::log::sequencer::Sequencer;
use crate::protocol::{Redirect, RefusalCode};

/// How long a server that releases a log may take to send what it has.
const RELEASE: Duration = Duration::from_secs(1);
/// How long a server that has released a log keeps its agent, so that it hears where to go: as process servers do.
const LET_GO: Duration = Duration::from_secs(30);
/// How many of a thousand agents nobody tells where their log went.
const UNTOLD: u64 = 400;

/// How far a process is with handing over its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    No,
    /// It takes nothing more, and sends what it has.
    Begun,
    /// It writes no more.
    Over,
}

/// A planned move of a machine between two servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    machine: usize,
    from: usize,
    to: usize,
    /// The source's ownership.
    epoch: Epoch,
    /// When it goes on without the source's word.
    latest: Duration,
}

impl Process {
    /// The log goes to another owner, in order: nothing more is taken, what is here is closed and sent.
    fn release(&mut self, log: &ModelLog, ctx: &mut Context) {
        self.leaves = Leaves::Begun;
        self.stop_taking();
        let waiting: Vec<LinkNo> = self.hellos.keys().copied().filter(|link| self.open != Some(*link)).collect();
        waiting.into_iter().for_each(|link| self.refuse(link, RefusalCode::NotOwner));
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.close_open();
        }
        self.upkeep(log, ctx);
    }

    /// Whether nothing is left that only this process has.
    fn is_released(&self) -> bool {
        let sent = self.committer.as_ref().is_none_or(|committer| committer.backlog() == 0);
        self.sequencer.as_ref().is_none_or(|sequencer| Sequencer::is_idle(sequencer) && sent)
    }

    /// What is not committed by now is sent again to the next owner: nothing may be uploaded behind its back.
    fn released(&mut self) {
        self.leaves = Leaves::Over;
        (self.committer, self.sequencer) = (None, None);
        self.closed.clear();
    }
}

impl World {
    pub(super) fn begin_move(&mut self, machine: usize) {
        let from = self.machines[machine].owner;
        let to = (from + 1 + self.ctx.chance.below(SERVERS as u64 - 1) as usize) % SERVERS;
        self.ctx.say("control", format!("moves machine {machine} from server {from} to server {to}"));
        self.ctx.seen(Seen::OwnerMoved);
        self.on_process(seat(machine, from), |process, log, ctx| process.release(log, ctx));
        let (epoch, latest) = (self.machines[machine].epoch, self.ctx.now + RELEASE);
        self.ctx.within(10_000, 30_000, Event::Move(Move { machine, from, to, epoch, latest }));
    }

    pub(super) fn move_on(&mut self, of: Move) {
        let source = seat(of.machine, of.from);
        let here = self.seats[source].process.as_ref();
        let leaves = here.filter(|process| process.owner.epoch == of.epoch && process.leaves == Leaves::Begun);
        if leaves.is_some_and(|process| !process.is_released()) && self.ctx.now < of.latest {
            return self.ctx.within(10_000, 30_000, Event::Move(of));
        }
        if leaves.is_some() {
            self.end_release(source);
        }
        if self.machines[of.machine].epoch == of.epoch {
            self.assign(of.machine, of.to);
        }
        if !self.ctx.chance.happens(UNTOLD) {
            self.ctx.within(1000, 100_000, Event::Redirect { machine: of.machine, from: of.from });
        }
    }

    /// The source writes no more, and a restart does not take the log for its own again. It stays for its agent.
    fn end_release(&mut self, source: usize) {
        let place = &mut self.seats[source];
        let Some(process) = &mut place.process else { return };
        process.released();
        match process.dir.forget(process.owner) {
            Ok(()) => place.assigned = None,
            Err(error) => self.ctx.say(place.name(), format!("the released log's cache stays: {error}")),
        }
        // What only this owner had is let go of: the agent has it.
        place.told = None;
        self.ctx.say(place.name(), "has let go of its log");
        let over = Event::LetGo { server: source, life: place.lives };
        self.ctx.at(self.ctx.now + LET_GO, over);
    }

    pub(super) fn redirect(&mut self, machine: usize, from: usize) {
        let (owner, epoch) = (self.machines[machine].owner, self.machines[machine].epoch);
        let redirect = Redirect { addresses: vec![format!("server {owner}")], epoch };
        self.on_process(seat(machine, from), |process, _, _| {
            if process.owner.epoch < epoch {
                process.redirect(&redirect);
            }
        });
    }

    pub(super) fn let_go(&mut self, server: usize, life: u64) {
        let Some(process) = self.seats[server].process.as_ref().filter(|process| process.life == life) else { return };
        if process.open.is_some() {
            self.ctx.seen(Seen::LetGo);
        }
        self.stop_process(server);
    }
}
