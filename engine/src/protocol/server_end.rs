//! The process server's end of one connection: checks what an agent says before it reaches the log, and bounds it.
//!
//! ```text
//!             Hello                    open(log)                    durable(lsn), committed(lsn) ─► acks, credit
//!   Fresh ─────────────► Introduced ─────────────► Open ── Batch ─► Accept, in order, each once
//!     │ anything else        │ refuse(..)            │ violation, Bye, silence, retire(..)
//!     └──────────────────────┴───────────────────────┴──► Closed
//! ```
//!
//! Invariants: a batch is given out only if it follows the log's end, or begins a life that the log accepts; no batch is
//! given out twice; at most the window and one batch are given out and not durable.
//!
//! The caller finds the log between `Introduced` and `Open` (it may have to be adopted first); pings are answered all
//! the while. Which of two connections of one machine goes on, [`rival`] says.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::Batch;
use crate::ids::{Epoch, IncarnationId, Lsn, MachineId, TimelineId, Timestamp};
use crate::vault::state::LogState;

use super::agent_end::DEAD_AFTER;
use super::check::{Expected, Standing, take_batch};
use super::codec::batch_cost_bytes;
use super::compare::{COMPARES_MAX, Digests, Part};
use super::frame::FrameError;
use super::message::{
    AgentMessage, Hello, MarkRequest, PROTOCOL_VERSION, Redirect, Refusal, RefusalCode, ServerMessage, Welcome,
};

/// What the caller does for a session, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEffect {
    /// Find the log of this agent's machine, then call [`ServerEnd::open`] or [`ServerEnd::refuse`].
    Introduced(Box<Hello>),
    /// Append this batch to the log; it is the next one.
    Accept(Batch),
    /// Nothing was written after `lsn`, which is the last of the log, up to `at`.
    Idle {
        /// The last LSN of the log.
        lsn: Lsn,
        /// When that was still so.
        at: Timestamp,
    },
    /// Read this part of a disk as the writes before `at` left it, then call [`ServerEnd::digests`]; one after the other.
    Compare {
        /// Which part.
        part: Part,
        /// The first LSN of the agent's life.
        at: Lsn,
    },
    /// Send this.
    Send(ServerMessage),
    /// Close the connection once everything is sent.
    Close(String),
}

/// The log that a session writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLog {
    /// Its timeline.
    pub timeline: TimelineId,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// A number that no other session of this epoch has.
    pub session: u64,
    /// What the log says behind everything that was accepted, durable or not.
    pub log: LogState,
    /// Everything up to here is on disk.
    pub durable: Lsn,
    /// Everything up to here is in the vault.
    pub committed: Lsn,
    /// How many bytes of batches may be given out and not durable.
    pub window_bytes: u64,
}

/// What becomes of a connection when another one of the same machine says hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// The same life connects again: the old connection is half open and is retired.
    Replace,
    /// Another life: refused as [`RefusalCode::SecondAgent`] while the old connection lives. [`ServerEnd::probe`] makes
    /// the system notice an old one whose machine has restarted; the newcomer tries again.
    Refuse,
}

/// Decides between an open session's life and a newcomer's. A successor waits as well: a clone of the machine
/// looks exactly like one, and must not push out a living agent.
pub fn rival(open: IncarnationId, newcomer: &Hello) -> Rival {
    if newcomer.incarnation == open { Rival::Replace } else { Rival::Refuse }
}

#[derive(Debug)]
struct Session {
    life: IncarnationId,
    /// The first LSN of the life.
    first: Lsn,
    /// The first LSN of the life, until its first batch is accepted.
    beginning: Option<Lsn>,
    epoch: Epoch,
    session: u64,
    log: LogState,
    durable: Lsn,
    committed: Lsn,
    window: u64,
    /// What the agent may still send, in bytes; below zero after the batch that overdrew it.
    balance: i64,
    /// Batches given out and not durable: last LSN and cost.
    in_flight: VecDeque<(Lsn, u64)>,
    in_flight_bytes: u64,
    /// Parts that were asked for and not answered.
    compares: VecDeque<Part>,
}

#[derive(Debug)]
enum State {
    Fresh,
    Introduced(Box<Hello>),
    Open(Box<Session>),
    Closed,
}

/// The process server's end of one connection.
#[derive(Debug)]
pub struct ServerEnd {
    peer: MachineId,
    state: State,
    heard: Duration,
}

impl ServerEnd {
    /// An end for a connection whose certificate names `peer`.
    pub fn new(peer: MachineId, now: Duration) -> Self {
        Self { peer, state: State::Fresh, heard: now }
    }

    /// Whether batches are taken.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The machine that the certificate names.
    pub fn machine(&self) -> MachineId {
        self.peer
    }

    /// Bytes of batches given out and not durable.
    pub fn in_flight_bytes(&self) -> u64 {
        if let State::Open(session) = &self.state { session.in_flight_bytes } else { 0 }
    }

    /// A message has arrived.
    pub fn received(&mut self, message: AgentMessage, now: Duration) -> Vec<ServerEffect> {
        if matches!(self.state, State::Closed) {
            return Vec::new();
        }
        self.heard = now;
        match (message, &mut self.state) {
            (AgentMessage::Ping, _) => vec![ServerEffect::Send(ServerMessage::Pong)],
            (AgentMessage::Bye { reason }, _) => {
                self.state = State::Closed;
                vec![ServerEffect::Close(format!("the agent says goodbye: {reason}"))]
            }
            (AgentMessage::Hello(hello), State::Fresh) => self.introduced(hello),
            (AgentMessage::Batch(batch), State::Open(session)) => {
                let taken = session.take(batch);
                taken.unwrap_or_else(|fault| self.violation(&fault))
            }
            (AgentMessage::Idle { lsn, at }, State::Open(session)) if lsn == session.log.last_lsn => {
                vec![ServerEffect::Idle { lsn, at }]
            }
            (AgentMessage::Idle { lsn, .. }, State::Open(session)) if lsn < session.log.last_lsn => Vec::new(),
            (AgentMessage::Idle { .. }, State::Open(_)) => self.violation("idle after an LSN that was never sent"),
            (AgentMessage::Compare(part), State::Open(session)) if session.compares.len() < COMPARES_MAX => {
                session.compares.push_back(part);
                vec![ServerEffect::Compare { part, at: session.first }]
            }
            (AgentMessage::Compare(_), State::Open(_)) => self.violation("more questions than may wait for an answer"),
            (AgentMessage::Hello(_), _) => self.violation("a second hello"),
            (AgentMessage::Batch(_) | AgentMessage::Idle { .. } | AgentMessage::Compare(_), _) => {
                self.violation("a batch before the welcome")
            }
        }
    }

    fn introduced(&mut self, hello: Box<Hello>) -> Vec<ServerEffect> {
        if hello.version == 0 || hello.version > PROTOCOL_VERSION {
            let text = format!(
                "the agent speaks protocol version {}, this process server up to {PROTOCOL_VERSION}: upgrade it",
                hello.version
            );
            return self.turn_away(Refusal::new(RefusalCode::VersionUnknown, text));
        }
        if hello.machine != self.peer {
            let text = format!(
                "the certificate is machine {}'s, but the agent says it is {}: enrol this machine again",
                self.peer, hello.machine
            );
            return self.turn_away(Refusal::new(RefusalCode::WrongMachine, text));
        }
        if hello.first_lsn == Lsn::ZERO {
            return self.turn_away(Refusal::new(RefusalCode::Malformed, "LSNs begin at 1"));
        }
        self.state = State::Introduced(hello.clone());
        vec![ServerEffect::Introduced(hello)]
    }

    /// The log is found: welcomes the agent, or turns it away by the log's rules.
    ///
    /// # Panics
    /// Where no hello waits, or durable and committed lie behind the log's end.
    pub fn open(&mut self, found: OpenLog) -> Vec<ServerEffect> {
        let State::Introduced(hello) = &self.state else {
            assert!(matches!(self.state, State::Closed), "a log is opened for an agent that has said hello");
            return Vec::new();
        };
        assert!(found.committed <= found.durable && found.durable <= found.log.last_lsn, "acks lie within the log");
        if let Err(refusal) = admit(hello, &found) {
            return self.turn_away(*refusal);
        }
        let own = found.log.incarnation == Some(hello.incarnation);
        let OpenLog { epoch, session, log, durable, committed, window_bytes, .. } = found;
        let welcome = Welcome { epoch, session, committed, durable, credit_bytes: window_bytes, log: log.clone() };
        self.state = State::Open(Box::new(Session {
            life: hello.incarnation,
            first: hello.first_lsn,
            beginning: (!own).then_some(hello.first_lsn),
            epoch,
            session,
            log,
            durable,
            committed,
            window: window_bytes,
            balance: i64::try_from(window_bytes).unwrap_or(i64::MAX),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            compares: VecDeque::new(),
        }));
        vec![ServerEffect::Send(ServerMessage::Welcome(Box::new(welcome)))]
    }

    /// There is no log for this agent here.
    pub fn refuse(&mut self, refusal: Refusal) -> Vec<ServerEffect> {
        if matches!(self.state, State::Closed) { Vec::new() } else { self.turn_away(refusal) }
    }

    /// Everything up to `lsn` is on disk: acknowledges it and gives credit back.
    pub fn durable(&mut self, lsn: Lsn) -> Vec<ServerEffect> {
        let State::Open(session) = &mut self.state else { return Vec::new() };
        assert!(lsn <= session.log.last_lsn, "LSN {lsn} is durable, but was never accepted");
        if lsn <= session.durable {
            return Vec::new();
        }
        session.durable = lsn;
        while session.in_flight.front().is_some_and(|(last, _)| *last <= lsn) {
            let (_, cost) = session.in_flight.pop_front().expect("just seen");
            session.in_flight_bytes -= cost;
        }
        let mut effects = vec![session.say_durable()];
        effects.extend(session.grant());
        effects
    }

    /// Everything up to `lsn` is in the vault.
    pub fn committed(&mut self, lsn: Lsn) -> Vec<ServerEffect> {
        let State::Open(session) = &mut self.state else { return Vec::new() };
        if lsn <= session.committed {
            return Vec::new();
        }
        session.committed = lsn;
        let (epoch, session) = (session.epoch, session.session);
        vec![ServerEffect::Send(ServerMessage::Committed { epoch, session, lsn })]
    }

    /// The answer to the oldest question that has none.
    ///
    /// # Panics
    /// Where it answers another one: questions are answered in order.
    pub fn digests(&mut self, digests: Digests) -> Vec<ServerEffect> {
        let State::Open(session) = &mut self.state else { return Vec::new() };
        let asked = session.compares.pop_front();
        assert_eq!(asked, Some(digests.part), "questions are answered in order");
        vec![ServerEffect::Send(ServerMessage::Digests(Box::new(digests)))]
    }

    /// Another bound on what may be given out and not durable; 0 stops the agent.
    pub fn set_window(&mut self, bytes: u64) -> Vec<ServerEffect> {
        let State::Open(session) = &mut self.state else { return Vec::new() };
        session.window = bytes;
        session.grant().into_iter().collect()
    }

    /// Asks the agent for a mark.
    pub fn mark_now(&mut self, request: MarkRequest) -> Vec<ServerEffect> {
        if !self.is_open() {
            return Vec::new();
        }
        vec![ServerEffect::Send(ServerMessage::MarkNow(request))]
    }

    /// Sends the agent to the log's new owner.
    pub fn redirect(&mut self, redirect: Redirect) -> Vec<ServerEffect> {
        if matches!(self.state, State::Closed) {
            return Vec::new();
        }
        self.state = State::Closed;
        vec![
            ServerEffect::Send(ServerMessage::Redirect(redirect)),
            ServerEffect::Close("the machine's log has another owner".into()),
        ]
    }

    /// Ends the session from this side.
    pub fn retire(&mut self, reason: &str) -> Vec<ServerEffect> {
        if matches!(self.state, State::Closed) { Vec::new() } else { self.say_bye(reason) }
    }

    /// Says something that changes nothing, so that the system finds out whether the other end still exists.
    pub fn probe(&self) -> Vec<ServerEffect> {
        match self.state {
            State::Closed => Vec::new(),
            State::Fresh | State::Introduced(_) | State::Open(_) => vec![ServerEffect::Send(ServerMessage::Pong)],
        }
    }

    /// What arrived was no message.
    pub fn broken(&mut self, fault: &FrameError) -> Vec<ServerEffect> {
        if matches!(self.state, State::Closed) { Vec::new() } else { self.violation(fault) }
    }

    /// Time has passed: an agent that is silent is gone.
    pub fn tick(&mut self, now: Duration) -> Vec<ServerEffect> {
        if matches!(self.state, State::Closed) || now.saturating_sub(self.heard) < DEAD_AFTER {
            return Vec::new();
        }
        self.say_bye(&format!("nothing was heard from the agent for {} s", DEAD_AFTER.as_secs()))
    }

    fn violation(&mut self, fault: &(impl std::fmt::Display + ?Sized)) -> Vec<ServerEffect> {
        match self.state {
            State::Open(_) => self.say_bye(&format!("malformed: {fault}")),
            State::Fresh | State::Introduced(_) | State::Closed => {
                self.turn_away(Refusal::new(RefusalCode::Malformed, fault.to_string()))
            }
        }
    }

    fn say_bye(&mut self, reason: &str) -> Vec<ServerEffect> {
        self.state = State::Closed;
        vec![
            ServerEffect::Send(ServerMessage::Bye { reason: reason.to_owned() }),
            ServerEffect::Close(reason.to_owned()),
        ]
    }

    fn turn_away(&mut self, refusal: Refusal) -> Vec<ServerEffect> {
        self.state = State::Closed;
        let reason = refusal.text.clone();
        vec![ServerEffect::Send(ServerMessage::Refused(Box::new(refusal))), ServerEffect::Close(reason)]
    }
}

impl Session {
    fn take(&mut self, batch: Batch) -> Result<Vec<ServerEffect>, String> {
        let cost = batch_cost_bytes(&batch);
        if self.balance <= 0 {
            return Err(format!("a batch of {cost} bytes without credit"));
        }
        let expected = match self.beginning {
            Some(first) => Expected::Beginning { life: self.life, first },
            None => Expected::Follower,
        };
        let standing = take_batch(&batch, &mut self.log, expected).map_err(|fault| fault.to_string())?;
        self.balance = self.balance.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        match standing {
            // What is durable already is acknowledged again; what is not, when it is.
            Standing::Duplicate => {
                let again = (batch.last <= self.durable).then(|| self.say_durable());
                Ok(again.into_iter().chain(self.grant()).collect())
            }
            Standing::Next => {
                self.beginning = None;
                self.in_flight.push_back((batch.last, cost));
                self.in_flight_bytes += cost;
                Ok([ServerEffect::Accept(batch)].into_iter().chain(self.grant()).collect())
            }
        }
    }

    fn say_durable(&self) -> ServerEffect {
        let Self { epoch, session, durable: lsn, .. } = *self;
        ServerEffect::Send(ServerMessage::Durable { epoch, session, lsn })
    }

    /// Credit that is due: what the window leaves beside what is given out and what the agent may still send. Given
    /// in eighths of the window, or as soon as the agent has none left.
    fn grant(&mut self) -> Option<ServerEffect> {
        let wide = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let due = wide(self.window).saturating_sub(wide(self.in_flight_bytes)).saturating_sub(self.balance);
        let worth_it = due >= wide(self.window / 8) || (self.balance <= 0 && due > -self.balance);
        let bytes = u64::try_from(due).ok().filter(|bytes| *bytes > 0 && worth_it)?;
        self.balance += due;
        Some(ServerEffect::Send(ServerMessage::Credit { bytes }))
    }
}

/// The log's rules for an agent: the right timeline, an owner that is not behind, and a life that the log's last one
/// leads to.
fn admit(hello: &Hello, found: &OpenLog) -> Result<(), Box<Refusal>> {
    let log = &found.log;
    let refuse = |code, text: String| {
        let refusal = Refusal { log_incarnation: log.incarnation, log_last: log.last_lsn, ..Refusal::new(code, text) };
        Err(Box::new(refusal))
    };
    if hello.timeline != found.timeline {
        let text = format!("the machine's log goes on in timeline {}, not in {}", found.timeline, hello.timeline);
        return refuse(RefusalCode::WrongTimeline, text);
    }
    if hello.epoch_known > found.epoch {
        let text = format!("epoch {} is known to the agent, this owner has {}", hello.epoch_known, found.epoch);
        return refuse(RefusalCode::NotOwner, text);
    }
    let Some(last_life) = log.incarnation else {
        return if hello.first_lsn > log.last_lsn { Ok(()) } else { refuse(RefusalCode::LsnTaken, taken(hello, log)) };
    };
    if last_life == hello.incarnation {
        return Ok(());
    }
    let reset = hello.reset.is_some_and(|reset| reset.log_incarnation == last_life);
    if !hello.lineage.contains(&last_life) && !reset {
        let text = format!(
            "the log ends in life {last_life}, which this agent does not descend from (a clone, a machine rolled back, \
             or lost state): every disk must be compared in full"
        );
        return refuse(RefusalCode::IncarnationUnknown, text);
    }
    if hello.first_lsn <= log.last_lsn {
        return refuse(RefusalCode::LsnTaken, taken(hello, log));
    }
    Ok(())
}

fn taken(hello: &Hello, log: &LogState) -> String {
    format!(
        "this life begins at LSN {}, but the log holds LSNs up to {}: begin behind it",
        hello.first_lsn, log.last_lsn
    )
}
