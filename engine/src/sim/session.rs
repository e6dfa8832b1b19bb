//! A process server's sessions: one open, others waiting or turned away.

use super::context::{Context, LinkNo, ProcessEvent};
use super::counters::Seen;
use super::handover::Leaves;
use super::log::ModelLog;
use super::mutation::Mutation;
use super::process::Process;
use crate::capture::LSN_RESERVE;
use crate::ids::{Lsn, MachineId};
use crate::protocol::server_end::{Rival, rival};
use crate::protocol::{
    AgentMessage, Digests, Hello, OpenLog, Redirect, Refusal, RefusalCode, ServerEffect, ServerEnd, ServerMessage,
};

/// What an agent may have under way, in bytes.
const WINDOW_BYTES: u64 = 64 << 10;

/// What the links do with messages of a process.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(LinkNo, ServerMessage),
    Close(LinkNo),
}

impl Process {
    pub(super) fn connected(&mut self, link: LinkNo, machine: MachineId, ctx: &Context) {
        self.sessions.insert(link, ServerEnd::new(machine, ctx.now));
    }

    pub(super) fn disconnected(&mut self, link: LinkNo) {
        self.sessions.remove(&link);
        self.hellos.remove(&link);
        self.compares.remove(&link);
        self.open = self.open.filter(|open| *open != link);
    }

    pub(super) fn received(&mut self, link: LinkNo, message: AgentMessage, log: &ModelLog, ctx: &mut Context) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        // I10: an agent may overdraw its credit by one batch, so before each it is within.
        if matches!(message, AgentMessage::Batch(_)) && session.in_flight_bytes() > WINDOW_BYTES {
            let held = session.in_flight_bytes();
            ctx.fail(format!("I10: a session holds {held} bytes of at most {WINDOW_BYTES}, and gets more"));
        }
        let effects = session.received(message, ctx.now);
        self.carry_out(link, effects, log, ctx);
    }

    fn carry_out(&mut self, link: LinkNo, effects: Vec<ServerEffect>, log: &ModelLog, ctx: &mut Context) {
        for effect in effects {
            match effect {
                ServerEffect::Introduced(hello) => self.introduced(link, hello, ctx),
                ServerEffect::Accept(batch) => self.accept(batch, log, ctx),
                ServerEffect::Idle { .. } => {}
                ServerEffect::Compare { part, at } => {
                    let questions = self.compares.entry(link).or_default();
                    questions.push_back((part, at));
                    if questions.len() == 1 {
                        self.later(500, 20_000, ProcessEvent::Compare(link), ctx);
                    }
                }
                ServerEffect::Send(message) => self.outgoing.push(Outgoing::Message(link, message)),
                ServerEffect::Close(_) => {
                    self.outgoing.push(Outgoing::Close(link));
                    self.disconnected(link);
                }
            }
        }
    }

    /// Answers a session's oldest question for digests, from the vault. One that does not answer is asked again later;
    /// what it cannot read counts as different.
    pub(super) fn compare(&mut self, link: LinkNo, log: &ModelLog, ctx: &mut Context) {
        let Some((part, at)) = self.compares.get(&link).and_then(|questions| questions.front().copied()) else {
            return;
        };
        let again = ProcessEvent::Compare(link);
        let fails = ctx.store_fails();
        let unreadable = fails && ctx.chance.happens(250);
        if fails && !unreadable {
            return self.later(50_000, 300_000, again, ctx);
        }
        let older = Lsn(at.0.saturating_sub(LSN_RESERVE - 10));
        let at = if ctx.is(Mutation::ComparedWithOlder) { older } else { at };
        let digests = if unreadable { None } else { log.digests(part, at) };
        ctx.seen(if digests.is_some() { Seen::Compared } else { Seen::NotCompared });
        let questions = self.compares.entry(link).or_default();
        questions.pop_front();
        if !questions.is_empty() {
            self.later(500, 5000, again, ctx);
        }
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let effects = session.digests(digests.unwrap_or_else(|| Digests::unknown(part)));
        self.carry_out(link, effects, log, ctx);
    }

    fn introduced(&mut self, link: LinkNo, hello: Box<Hello>, ctx: &mut Context) {
        if self.leaves != Leaves::No {
            return self.refuse(link, RefusalCode::NotOwner);
        }
        if let Some(open) = self.open {
            match rival(self.hellos[&open].incarnation, &hello) {
                Rival::Replace => self.retire_session("the same life has connected again", ctx),
                Rival::Refuse => {
                    // A real link says so when it is probed; here the world does, soon.
                    return self.refuse(link, RefusalCode::SecondAgent);
                }
            }
        }
        self.hellos.insert(link, hello);
        self.welcome_waiting(ctx);
    }

    pub(super) fn refuse(&mut self, link: LinkNo, code: RefusalCode) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        for effect in session.refuse(Refusal::new(code, "not now")) {
            self.outgoing.extend(match effect {
                ServerEffect::Send(message) => Some(Outgoing::Message(link, message)),
                ServerEffect::Close(_) => Some(Outgoing::Close(link)),
                _ => None,
            });
        }
        self.disconnected(link);
    }

    /// Opens the newest hello that waits, once the log is this owner's.
    pub(super) fn welcome_waiting(&mut self, ctx: &mut Context) {
        let (Some(sequencer), None) = (&self.sequencer, self.open) else { return };
        let Some(link) = self.hellos.keys().next_back().copied() else { return };
        let found = OpenLog {
            timeline: self.dir.timeline(),
            epoch: self.owner.epoch,
            session: link,
            log: sequencer.accepted_state().clone(),
            durable: sequencer.durable(),
            committed: self.committed,
            window_bytes: if ctx.is(Mutation::CreditIsIgnored) { 1 << 30 } else { WINDOW_BYTES },
        };
        let durable = found.durable;
        let Some(session) = self.sessions.get_mut(&link) else { return };
        for effect in session.open(found) {
            match effect {
                ServerEffect::Send(message) => {
                    if matches!(message, ServerMessage::Welcome(_)) {
                        self.open = Some(link);
                        ctx.seen(Seen::Welcomed);
                        self.told = self.told.max(durable);
                        ctx.say(self.name(), format!("link {link} is welcome: durable {durable}"));
                    }
                    self.outgoing.push(Outgoing::Message(link, message));
                }
                ServerEffect::Close(_) => {
                    self.outgoing.push(Outgoing::Close(link));
                    self.sessions.remove(&link);
                    self.hellos.remove(&link);
                    return;
                }
                _ => {}
            }
        }
    }

    pub(super) fn tell_durable(&mut self, lsn: Lsn) {
        let Some((link, session)) = self.open.and_then(|link| Some((link, self.sessions.get_mut(&link)?))) else {
            return;
        };
        self.told = self.told.max(lsn);
        for effect in session.durable(lsn) {
            if let ServerEffect::Send(message) = effect {
                self.outgoing.push(Outgoing::Message(link, message));
            }
        }
    }

    pub(super) fn tell_committed(&mut self, lsn: Lsn) {
        self.committed = self.committed.max(lsn);
        let Some((link, session)) = self.open.and_then(|link| Some((link, self.sessions.get_mut(&link)?))) else {
            return;
        };
        for effect in session.committed(lsn) {
            if let ServerEffect::Send(message) = effect {
                self.outgoing.push(Outgoing::Message(link, message));
            }
        }
    }

    /// The agent may send no more.
    pub(super) fn stop_taking(&mut self) {
        let Some((link, session)) = self.open.and_then(|link| Some((link, self.sessions.get_mut(&link)?))) else {
            return;
        };
        for effect in session.set_window(0) {
            if let ServerEffect::Send(message) = effect {
                self.outgoing.push(Outgoing::Message(link, message));
            }
        }
    }

    /// Sends the agent to the next owner.
    pub(super) fn redirect(&mut self, redirect: &Redirect) {
        let Some((link, session)) = self.open.and_then(|link| Some((link, self.sessions.get_mut(&link)?))) else {
            return;
        };
        for effect in session.redirect(redirect.clone()) {
            self.outgoing.extend(match effect {
                ServerEffect::Send(message) => Some(Outgoing::Message(link, message)),
                ServerEffect::Close(_) => Some(Outgoing::Close(link)),
                _ => None,
            });
        }
        self.disconnected(link);
    }

    /// Ends the open session: what was not durable is asked for again.
    pub(super) fn retire_session(&mut self, reason: &str, ctx: &mut Context) {
        let Some(link) = self.open else { return };
        let Some(session) = self.sessions.get_mut(&link) else { return };
        ctx.say(super::process::name(self.server), format!("retires link {link}: {reason}"));
        for effect in session.retire(reason) {
            self.outgoing.extend(match effect {
                ServerEffect::Send(message) => Some(Outgoing::Message(link, message)),
                ServerEffect::Close(_) => Some(Outgoing::Close(link)),
                _ => None,
            });
        }
        self.disconnected(link);
    }
}
