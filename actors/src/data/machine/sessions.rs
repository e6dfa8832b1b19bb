//! A machine's agent: which connection speaks for it, and what it is told.
//!
//! ```text
//!   connection ─► AgentSession ─ hello ─► key offered ─► log open? ─ no ─► waits (bounded)
//!                                                          │ yes
//!                                     a rival is open? ────┤ same life: the old one is retired
//!                                                          │ another life: refused, the old one is probed
//!                                                          ▼
//!                                                    Open(log, window)
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::ids::{Chance, IncarnationId, MarkId};
use farshore_engine::protocol::server_end::{Rival, rival};
use farshore_engine::protocol::{Hello, OpenLog, Redirect, Refusal, RefusalCode};
use farshore_engine::vault::crypto::DataKey;
use parking_lot::Mutex;
use slog::{info, warn};

use super::{AskForMark, Machine, SendAgentTo, SetPressure, TakeConnection, now};
use crate::data::agent_session::{AgentSession, Connection, SessionHello, SessionIdle, SessionSpec, ToSession};
use crate::data::ledger::{KeyOffer, MachineSpec};
use crate::data::{DataError, DataEventKind, MachinePhase, SessionStatus};
use crate::supervise::{OsChance, Warden};

/// Connections of one machine at a time. Chosen: the open one, its successor, and two that nobody has noticed to be gone.
const CONNECTIONS_MAX: usize = 4;
/// How long a hello waits for the log to be opened before the agent is told to try again.
const HELLO_WAIT: Duration = Duration::from_secs(10);

struct Waiting {
    session: u64,
    hello: Box<Hello>,
    address: SocketAddr,
}

/// Who speaks for the machine.
pub(super) struct Sessions {
    open: Option<(u64, IncarnationId)>,
    waiting: Vec<Waiting>,
    window_bytes: u64,
    paused_until: Duration,
    /// Where the log went, for agents that come later.
    redirect: Option<Redirect>,
}

impl Sessions {
    pub(super) fn new(spec: &MachineSpec) -> Self {
        let window_bytes = spec.wiring.window_bytes();
        Self { open: None, waiting: Vec::new(), window_bytes, paused_until: Duration::ZERO, redirect: None }
    }

    pub(super) fn is_open(&self, session: u64) -> bool {
        self.open.is_some_and(|(open, _)| open == session)
    }

    /// Agents are asked to come back later until then.
    pub(super) fn pause_until(&mut self, at: Duration) {
        self.paused_until = at;
    }
}

impl Machine {
    fn connect(&mut self, connection: Connection, ctx: &mut Context<Self>) {
        if self.agents.children().count() >= CONNECTIONS_MAX {
            info!(self.log, "a connection too many is closed"; "peer" => %connection.address);
            return;
        }
        let mut bytes = [0; 8];
        OsChance.fill(&mut bytes);
        let number = u64::from_le_bytes(bytes);
        let connection = Arc::new(Mutex::new(Some(connection)));
        let spec = SessionSpec { machine: self.spec.clone(), number, home: ctx.address().downgrade(), connection };
        Warden::<AgentSession>::admit(self, number, spec, ctx);
    }

    fn hello(&mut self, msg: SessionHello, ctx: &mut Context<Self>) {
        let offered = DataKey::from_bytes(*msg.hello.data_key.bytes());
        match self.spec.key.offer(&offered) {
            KeyOffer::Known => {}
            KeyOffer::Taken => self.key_is_here(ctx),
            KeyOffer::Differs => {
                let text = "the data key that the agent brought is not this machine's: enrol the machine again";
                return self.refuse(msg.session, Refusal::new(RefusalCode::VaultLocked, text));
            }
        }
        let waiting = Waiting { session: msg.session, hello: msg.hello, address: msg.address };
        if self.writer.is_none() && self.failed.is_none() {
            self.sessions.waiting.push(waiting);
            let session = msg.session;
            ctx.run_later(HELLO_WAIT, move |machine, _| machine.waited_long_enough(session));
            return;
        }
        self.greet(waiting);
    }

    fn greet(&mut self, newcomer: Waiting) {
        if let Some(refusal) = self.reason_to_refuse() {
            return self.refuse(newcomer.session, refusal);
        }
        if let Some((open, life)) = self.sessions.open.filter(|(open, _)| *open != newcomer.session) {
            match rival(life, &newcomer.hello) {
                Rival::Replace => {
                    self.say(open, ToSession::End("the same agent has connected again".into()));
                    self.session_is_over(open);
                }
                Rival::Refuse => {
                    self.say(open, ToSession::Probe);
                    let text = "another agent of this machine is connected; where that is an old one that is gone, it \
                                is noticed within seconds";
                    return self.refuse(newcomer.session, Refusal::new(RefusalCode::SecondAgent, text));
                }
            }
        }
        self.open_for(newcomer);
    }

    fn open_for(&mut self, newcomer: Waiting) {
        let Some(writer) = &self.writer else { return };
        let (session, hello) = (newcomer.session, newcomer.hello);
        let open = OpenLog {
            timeline: self.spec.timeline,
            epoch: self.spec.owner.epoch,
            session,
            log: writer.sequencer.accepted_state().clone(),
            durable: writer.sequencer.durable(),
            committed: writer.book.committed(),
            window_bytes: self.sessions.window_bytes,
        };
        info!(self.log, "an agent has a session"; "session" => session, "peer" => %newcomer.address,
            "incarnation" => %hello.incarnation, "durable" => %open.durable);
        self.sessions.open = Some((session, hello.incarnation));
        let status = SessionStatus {
            incarnation: hello.incarnation,
            since: now(),
            agent: hello.agent,
            peer: newcomer.address.to_string(),
        };
        self.spec.board.edit(|board| board.session = Some(status));
        self.say(session, ToSession::Open(Box::new(open)));
    }

    fn reason_to_refuse(&self) -> Option<Refusal> {
        let refusal =
            |code, text: String| Some(Refusal { redirect: self.sessions.redirect.clone(), ..Refusal::new(code, text) });
        if let Some(error) = &self.failed {
            return refusal(RefusalCode::NotOwner, format!("this process server does not write the log: {error}"));
        }
        if let Some(leaving) = &self.leaving {
            let (code, text) = leaving.refusal;
            return refusal(code, text.into());
        }
        if self.spec.wiring.now() < self.sessions.paused_until {
            return refusal(RefusalCode::NotReady, "the cache disk failed a moment ago".into());
        }
        None
    }

    /// The log is open, or never will be: everybody who waits gets an answer.
    pub(super) fn greet_those_who_wait(&mut self) {
        for waiting in std::mem::take(&mut self.sessions.waiting) {
            self.greet(waiting);
        }
    }

    pub(super) fn refuse_those_who_wait(&mut self, code: RefusalCode, why: &str) {
        for waiting in std::mem::take(&mut self.sessions.waiting) {
            self.refuse(waiting.session, Refusal::new(code, why));
        }
    }

    fn waited_long_enough(&mut self, session: u64) {
        let Some(at) = self.sessions.waiting.iter().position(|waiting| waiting.session == session) else { return };
        self.sessions.waiting.remove(at);
        let text = match self.phase() {
            MachinePhase::Locked => "the log has no key yet".to_owned(),
            _ => "the log is being opened, and the vault takes its time".to_owned(),
        };
        self.refuse(session, Refusal::new(RefusalCode::NotReady, text));
    }

    fn refuse(&self, session: u64, refusal: Refusal) {
        warn!(self.log, "an agent is turned away"; "session" => session, "why" => &refusal.text);
        self.spec.board.tell(DataEventKind::AgentRefused { text: refusal.text.clone() });
        self.say(session, ToSession::Refuse(Box::new(refusal)));
    }

    fn say(&self, session: u64, words: ToSession) {
        if let Some(agent) = self.agents.get(&session) {
            agent.do_send(words);
        }
    }

    /// Tells the open session, if there is one.
    pub(super) fn to_session(&self, words: ToSession) {
        if let Some((session, _)) = self.sessions.open {
            self.say(session, words);
        }
    }

    /// Ends the open session; its agent connects again and sends what is not durable.
    pub(super) fn end_session(&mut self, why: &str) {
        if let Some((session, _)) = self.sessions.open {
            self.say(session, ToSession::End(why.into()));
            self.session_is_over(session);
        }
    }

    /// Turns everybody away: the log cannot be written here.
    pub(super) fn end_sessions(&mut self, why: &DataError) {
        self.greet_those_who_wait();
        let why = why.to_string();
        let lives: Vec<u64> = self.agents.children().copied().collect();
        lives.into_iter().for_each(|session| self.say(session, ToSession::End(why.clone())));
        self.sessions.open = None;
        self.spec.board.edit(|status| status.session = None);
    }

    pub(super) fn session_is_over(&mut self, session: u64) {
        self.sessions.waiting.retain(|waiting| waiting.session != session);
        if self.sessions.is_open(session) {
            self.sessions.open = None;
            self.spec.board.edit(|status| status.session = None);
        }
    }

    /// The agent is sent elsewhere, and so is whoever comes later.
    pub(super) fn redirect(&mut self, redirect: Redirect) {
        self.to_session(ToSession::Redirect(redirect.clone()));
        if let Some((session, _)) = self.sessions.open {
            self.session_is_over(session);
        }
        self.sessions.redirect = Some(redirect);
    }
}

impl Handler<TakeConnection> for Machine {
    type Result = ();

    fn handle(&mut self, msg: TakeConnection, ctx: &mut Self::Context) {
        self.chaos();
        self.connect(msg.0, ctx);
    }
}

impl Handler<SessionHello> for Machine {
    type Result = ();

    fn handle(&mut self, msg: SessionHello, ctx: &mut Self::Context) {
        self.chaos();
        self.hello(msg, ctx);
    }
}

impl Handler<SessionIdle> for Machine {
    type Result = ();

    fn handle(&mut self, msg: SessionIdle, ctx: &mut Self::Context) {
        self.chaos();
        if !self.sessions.is_open(msg.session) {
            return;
        }
        if let Some(writer) = &mut self.writer {
            writer.book.idle(msg.lsn, msg.at);
        }
        self.upkeep(ctx);
    }
}

impl Handler<SendAgentTo> for Machine {
    type Result = ();

    fn handle(&mut self, msg: SendAgentTo, _: &mut Self::Context) {
        self.chaos();
        self.redirect(msg.0);
    }
}

impl Handler<SetPressure> for Machine {
    type Result = ();

    fn handle(&mut self, msg: SetPressure, _: &mut Self::Context) {
        self.chaos();
        self.sessions.window_bytes = msg.window_bytes;
        self.to_session(ToSession::Window(msg.window_bytes));
    }
}

impl Handler<AskForMark> for Machine {
    type Result = Result<MarkId, DataError>;

    fn handle(&mut self, msg: AskForMark, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        if self.sessions.open.is_none() || !self.is_ready() {
            return Err(DataError::AgentAway(self.spec.machine));
        }
        let id = msg.0.id;
        self.to_session(ToSession::MarkNow(msg.0));
        Ok(id)
    }
}
