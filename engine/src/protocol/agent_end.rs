//! The agent's end of the protocol: owns the batches that are not committed yet and decides what to say next.
//!
//! ```text
//!            connected                 Welcome                           disconnected
//!   Down ──────────────► Greeting ──────────────► Open ─────────────────────────────────► Down
//!                           │                       │ Redirect, Bye, silence, violation
//!                           └── Refused, Redirect ──┴──► Closing (what is in the outbox is still sent)
//!
//!   held:  │ committed: dropped │ durable │ sent │ to send ........ pushed │
//!                                         ▲ Welcome takes the sending place back behind durable
//! ```
//!
//! Invariants: a batch is held until it is committed (I3); batches are sent in order, each at most once a
//! connection, within credit; acknowledgements of any session but the newest change nothing; the epoch never
//! falls; a log that is shorter than what was reported committed, or longer than what was written, raises an
//! alarm and gets nothing (never silently extended).
//!
//! Crash story: nothing here survives a crash. What was held is in hot regions of the activity log; the next life
//! reads them again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::Batch;
use crate::ids::{Epoch, Lsn, Timestamp};
use crate::record::{DiskInfo, Record};

use super::codec::batch_cost_bytes;
use super::compare::{COMPARES_MAX, Digests, Part};
use super::frame::BODY_BYTES_MAX;
use super::message::{AgentMessage, Hello, MarkRequest, Redirect, Refusal, Reset, ServerMessage, Welcome};

/// Silence after which either end makes itself heard. Chosen: half of it doubles idle traffic, double of it finds
/// a dead process server too late for a 30 s failover.
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// Silence after which the other end is taken for dead: three pings.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);

/// What an agent learns from its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// A process server takes the writes.
    Accepted(Accepted),
    /// Everything up to here is on the process server's disk.
    Durable(Lsn),
    /// Everything up to here is in the vault; its batches are let go.
    Committed(Lsn),
    /// The record with which this life began is in the vault: the lineage is this life alone from now on.
    BeginningCommitted,
    /// The process server does not take the writes; the connection ends.
    Refused(Refusal),
    /// Another process server does; the connection ends.
    Redirected(Redirect),
    /// What was asked for with [`AgentEnd::compare`].
    Digests(Digests),
    /// A mark is asked for.
    MarkNow(MarkRequest),
    /// The log is not what it was; the connection ends, and nothing is sent there.
    Alarm(Alarm),
    /// The connection is to be closed once what [`AgentEnd::poll_send`] still gives is sent.
    Disconnect(String),
}

/// A welcome, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What the process server said.
    pub welcome: Welcome,
    /// Whether this life must begin in the log: [`AgentEnd::open_with`] is due, and no batch is sent before it.
    pub opening_due: bool,
}

/// Why a log is not extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// It ends before what was reported committed: the vault has lost objects, or is another one.
    ShorterLog {
        /// What was reported committed.
        committed: Lsn,
        /// What the log has.
        found: Lsn,
    },
    /// It holds LSNs of this life that were never written: a clone of this machine writes as well.
    LongerLog {
        /// The last LSN that was given.
        written: Lsn,
        /// What the log has.
        found: Lsn,
    },
}

#[derive(Debug)]
struct Held {
    batch: Batch,
    cost: u64,
}

#[derive(Debug)]
struct Session {
    epoch: Epoch,
    session: u64,
    /// How many of the held batches, from the front, need no sending in this session.
    passed: usize,
    /// Everything up to here is known to the server.
    sent: Lsn,
    credit: i64,
    opening_due: bool,
    /// Parts that were asked for and not answered.
    compares: VecDeque<Part>,
}

#[derive(Debug)]
enum Link {
    Down,
    Greeting,
    Open(Session),
    Closing,
}

/// The agent's end.
#[derive(Debug)]
pub struct AgentEnd {
    hello: Hello,
    link: Link,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The last LSN that was pushed.
    pushed: Lsn,
    durable: Lsn,
    committed: Lsn,
    /// The epoch in which `committed` was reported.
    committed_in: Epoch,
    /// The last LSN of the batch with which this life begins, once it is made.
    beginning: Option<Lsn>,
    beginning_committed: bool,
    idle: Option<(Lsn, Timestamp)>,
    outbox: VecDeque<AgentMessage>,
    now: Duration,
    heard: Duration,
    spoke: Duration,
    pinged: Duration,
}

impl AgentEnd {
    /// An end that is not connected. `committed` is the last LSN that was reported committed, in epoch
    /// `hello.epoch_known`, to this life or an earlier one (0 and 0 where nothing is known).
    pub fn new(hello: Hello, committed: Lsn) -> Self {
        assert!(hello.first_lsn > committed, "a life begins behind everything that was committed");
        Self {
            committed_in: hello.epoch_known,
            hello,
            link: Link::Down,
            held: VecDeque::new(),
            held_bytes: 0,
            pushed: Lsn::ZERO,
            durable: committed,
            committed,
            beginning: None,
            beginning_committed: false,
            idle: None,
            outbox: VecDeque::new(),
            now: Duration::ZERO,
            heard: Duration::ZERO,
            spoke: Duration::ZERO,
            pinged: Duration::ZERO,
        }
    }

    /// What the next connection will begin with.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Other disks from the next connection on.
    pub fn set_disks(&mut self, disks: Vec<DiskInfo>) {
        self.hello.disks = disks;
    }

    /// Leave to follow a life outside the lineage, from the next connection on.
    pub fn set_reset(&mut self, reset: Option<Reset>) {
        self.hello.reset = reset;
    }

    /// Takes a batch to hold, and to send when it may.
    ///
    /// # Panics
    /// Where it does not follow the last one, or is longer than a message may be.
    pub fn push(&mut self, batch: Batch) {
        assert!(batch.first > self.pushed && batch.first >= self.hello.first_lsn, "batches are pushed in order");
        assert!(self.pushed == Lsn::ZERO || batch.first == self.pushed.next(), "batches follow one another");
        self.pushed = batch.last;
        self.idle = None;
        let held = self.hold(batch);
        self.held.push_back(held);
    }

    /// Takes the batch with which this life begins in the log that the last `Accepted` described: its first record
    /// is the incarnation, whose predecessor is that log's. It lies before every pushed batch; where one was made
    /// for another log before, it replaces that one and covers the same LSNs.
    ///
    /// # Panics
    /// Where it does not begin at `first_lsn` with the incarnation, or leaves a hole before what was pushed.
    pub fn open_with(&mut self, batch: Batch) {
        let first = self.hello.first_lsn;
        let begins = batch.records.first().is_some_and(|at| {
            at.lsn == first && matches!(at.record, Record::Incarnation { id, .. } if id == self.hello.incarnation)
        });
        assert!(batch.first == first && begins, "a life begins at its first LSN with its incarnation record");
        assert!(self.beginning.is_none_or(|last| last == batch.last), "a second beginning covers the same LSNs");
        if self.beginning.is_some() {
            let old = self.held.pop_front().expect("a beginning is held until it is committed");
            assert_eq!(old.batch.first, first, "the beginning is the first batch held");
            self.held_bytes -= old.batch.weight_bytes();
        }
        assert!(
            self.held.front().is_none_or(|next| next.batch.first == batch.last.next()),
            "what was pushed follows the beginning"
        );
        self.beginning = Some(batch.last);
        self.pushed = self.pushed.max(batch.last);
        let held = self.hold(batch);
        self.held.push_front(held);
        if let Link::Open(session) = &mut self.link {
            session.opening_due = false;
            session.passed = 0;
        }
    }

    fn hold(&mut self, batch: Batch) -> Held {
        assert!(batch.weight_bytes() <= BODY_BYTES_MAX / 2, "a batch of {} bytes", batch.weight_bytes());
        self.held_bytes += batch.weight_bytes();
        Held { cost: batch_cost_bytes(&batch), batch }
    }

    /// Nothing was written after the last pushed batch up to `at`; said once everything before it is sent.
    pub fn idle(&mut self, at: Timestamp) {
        self.idle = Some((self.pushed, at));
    }

    /// Whether one more part may be asked for now: the beginning of this life is in the vault, and with it everything
    /// before, so whoever owns the log gives the same answer. Questions end with their connection.
    pub fn may_compare(&self) -> bool {
        match &self.link {
            Link::Open(session) => self.beginning_committed && session.compares.len() < COMPARES_MAX,
            Link::Down | Link::Greeting | Link::Closing => false,
        }
    }

    /// Asks what the log said of a part of a disk before this life began.
    ///
    /// # Panics
    /// Where it may not.
    pub fn compare(&mut self, part: Part) {
        assert!(self.may_compare(), "a part is asked for when it may be");
        if let Link::Open(session) = &mut self.link {
            session.compares.push_back(part);
            self.outbox.push_back(AgentMessage::Compare(part));
        }
    }

    /// Bytes of batches that are held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of held batches that the current process server has not been sent.
    pub fn unsent_bytes(&self) -> usize {
        let passed = if let Link::Open(session) = &self.link { session.passed } else { 0 };
        self.held.iter().skip(passed).map(|held| held.batch.weight_bytes()).sum()
    }

    /// Whether everything that was pushed is committed.
    pub fn is_drained(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether a process server takes the writes.
    pub fn is_open(&self) -> bool {
        matches!(self.link, Link::Open(_))
    }

    /// Everything up to here is in the vault.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Everything up to here is on the process server's disk.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The highest epoch known.
    pub fn epoch_known(&self) -> Epoch {
        self.hello.epoch_known
    }

    /// A connection to a process server stands: it begins with a hello.
    pub fn connected(&mut self, now: Duration) {
        self.link = Link::Greeting;
        self.outbox.clear();
        self.outbox.push_back(AgentMessage::Hello(Box::new(self.hello.clone())));
        (self.now, self.heard, self.spoke, self.pinged) = (now, now, now, now);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now: Duration) {
        self.now = now;
        self.link = Link::Down;
        self.outbox.clear();
    }

    /// The agent stops or goes elsewhere: a goodbye is sent, then the connection is to be closed.
    pub fn say_bye(&mut self, reason: &str) {
        if !matches!(self.link, Link::Down | Link::Closing) {
            self.close(reason);
        }
    }

    /// What to send next, if anything may be sent.
    pub fn poll_send(&mut self) -> Option<AgentMessage> {
        let message = self.outbox.pop_front().or_else(|| self.next_batch()).or_else(|| self.next_idle())?;
        self.spoke = self.now;
        Some(message)
    }

    fn next_batch(&mut self) -> Option<AgentMessage> {
        let Link::Open(session) = &mut self.link else { return None };
        let held = self.held.get(session.passed)?;
        // The last batch may overdraw: so one longer than the whole credit still travels, and the server's memory
        // is bounded by its credit and one batch.
        if session.opening_due || session.credit <= 0 {
            return None;
        }
        session.credit -= i64::try_from(held.cost).unwrap_or(i64::MAX);
        session.passed += 1;
        session.sent = session.sent.max(held.batch.last);
        Some(AgentMessage::Batch(held.batch.clone()))
    }

    fn next_idle(&mut self) -> Option<AgentMessage> {
        let Link::Open(session) = &self.link else { return None };
        if session.opening_due || session.passed < self.held.len() {
            return None;
        }
        self.idle.take().map(|(lsn, at)| AgentMessage::Idle { lsn, at })
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<AgentEvent> {
        self.now = now;
        if matches!(self.link, Link::Down | Link::Closing) {
            return Vec::new();
        }
        let since = |then: Duration| now.saturating_sub(then);
        if since(self.heard) >= DEAD_AFTER {
            let reason = format!("the process server has not answered for {} s", DEAD_AFTER.as_secs());
            return self.disconnect(&reason);
        }
        if since(self.pinged) >= PING_AFTER && (since(self.heard) >= PING_AFTER || since(self.spoke) >= PING_AFTER) {
            self.pinged = now;
            self.outbox.push_back(AgentMessage::Ping);
        }
        Vec::new()
    }

    /// When [`AgentEnd::tick`] next has something to do.
    pub fn next_tick(&self) -> Option<Duration> {
        match self.link {
            Link::Down | Link::Closing => None,
            Link::Greeting | Link::Open(_) => {
                let ping = self.pinged.max(self.heard.min(self.spoke)) + PING_AFTER;
                Some(ping.min(self.heard + DEAD_AFTER))
            }
        }
    }

    /// A message has arrived.
    pub fn received(&mut self, message: ServerMessage, now: Duration) -> Vec<AgentEvent> {
        self.now = now;
        if matches!(self.link, Link::Down | Link::Closing) {
            return Vec::new();
        }
        self.heard = now;
        match message {
            ServerMessage::Welcome(welcome) if matches!(self.link, Link::Greeting) => self.welcomed(*welcome),
            ServerMessage::Welcome(_) => self.disconnect("the process server sent a second welcome"),
            ServerMessage::Refused(refusal) => self.refused(*refusal),
            ServerMessage::Durable { epoch, session, lsn } => self.acknowledged(epoch, session, lsn, None),
            ServerMessage::Committed { epoch, session, lsn } => self.acknowledged(epoch, session, lsn, Some(lsn)),
            ServerMessage::Credit { bytes } => {
                if let Link::Open(session) = &mut self.link {
                    session.credit = session.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
                }
                Vec::new()
            }
            ServerMessage::Redirect(redirect) => self.redirected(redirect),
            ServerMessage::MarkNow(request) => vec![AgentEvent::MarkNow(request)],
            ServerMessage::Digests(digests) => self.compared(*digests),
            ServerMessage::Pong => Vec::new(),
            ServerMessage::Bye { reason } => {
                self.link = Link::Closing;
                vec![AgentEvent::Disconnect(format!("the process server says goodbye: {reason}"))]
            }
        }
    }

    fn compared(&mut self, digests: Digests) -> Vec<AgentEvent> {
        let asked = if let Link::Open(session) = &mut self.link { session.compares.pop_front() } else { None };
        match asked == Some(digests.part) {
            true => vec![AgentEvent::Digests(digests)],
            false => self.disconnect("it sends digests that were not asked for"),
        }
    }

    /// What arrived was no message.
    pub fn broken(&mut self, fault: &super::frame::FrameError) -> Vec<AgentEvent> {
        match self.link {
            Link::Down | Link::Closing => Vec::new(),
            Link::Greeting | Link::Open(_) => self.disconnect(&fault.to_string()),
        }
    }

    fn welcomed(&mut self, welcome: Welcome) -> Vec<AgentEvent> {
        if welcome.epoch < self.hello.epoch_known {
            let known = self.hello.epoch_known;
            return self.disconnect(&format!("it owns epoch {}, but epoch {known} is known", welcome.epoch));
        }
        if let Some(alarm) = self.alarm(&welcome) {
            self.close("the log is not the one that was written");
            return vec![AgentEvent::Alarm(alarm), AgentEvent::Disconnect(alarm.to_string())];
        }
        let own = welcome.log.incarnation == Some(self.hello.incarnation);
        let passed = if own { self.held.partition_point(|held| held.batch.last <= welcome.durable) } else { 0 };
        if own && self.held.get(passed).is_some_and(|held| held.batch.first <= welcome.durable) {
            return self.disconnect("it acknowledges a part of a batch");
        }
        self.hello.epoch_known = welcome.epoch;
        self.durable = welcome.durable;
        self.link = Link::Open(Session {
            epoch: welcome.epoch,
            session: welcome.session,
            passed,
            sent: welcome.log.last_lsn,
            credit: i64::try_from(welcome.credit_bytes).unwrap_or(i64::MAX),
            opening_due: !own,
            compares: VecDeque::new(),
        });
        let committed = welcome.committed;
        let mut events = vec![AgentEvent::Accepted(Accepted { welcome, opening_due: !own })];
        events.extend(self.advance_committed(committed));
        events
    }

    fn alarm(&self, welcome: &Welcome) -> Option<Alarm> {
        // A new owner knows the log from the vault alone; the old one, restarted, may still be uploading.
        let moved = welcome.epoch > self.committed_in;
        let found = if moved { welcome.committed } else { welcome.durable };
        if found < self.committed {
            return Some(Alarm::ShorterLog { committed: self.committed, found });
        }
        let own = welcome.log.incarnation == Some(self.hello.incarnation);
        let written = if own { self.pushed } else { Lsn(self.hello.first_lsn.0 - 1) };
        let follows =
            |held: &Held| held.batch.first == self.hello.first_lsn || held.batch.first <= welcome.durable.next();
        let hole = own && self.held.front().is_some_and(|held| !follows(held));
        if hole {
            return Some(Alarm::ShorterLog { committed: self.committed, found: welcome.durable });
        }
        (welcome.log.last_lsn > written).then_some(Alarm::LongerLog { written, found: welcome.log.last_lsn })
    }

    fn refused(&mut self, refusal: Refusal) -> Vec<AgentEvent> {
        self.link = Link::Closing;
        let text = format!("the process server refuses: {}", refusal.text);
        vec![AgentEvent::Refused(refusal), AgentEvent::Disconnect(text)]
    }

    fn redirected(&mut self, redirect: Redirect) -> Vec<AgentEvent> {
        if redirect.epoch < self.hello.epoch_known {
            return self.disconnect("it redirects to a lower epoch");
        }
        self.hello.epoch_known = redirect.epoch;
        let mut events = vec![AgentEvent::Redirected(redirect)];
        events.extend(self.disconnect("redirected"));
        events
    }

    fn acknowledged(&mut self, epoch: Epoch, number: u64, lsn: Lsn, committed: Option<Lsn>) -> Vec<AgentEvent> {
        let Link::Open(session) = &self.link else {
            return self.disconnect("it acknowledges before it has welcomed");
        };
        if (session.epoch, session.session) != (epoch, number) {
            return Vec::new();
        }
        if lsn > session.sent {
            let sent = session.sent;
            return self.disconnect(&format!("it acknowledges LSN {lsn}, but only {sent} was sent"));
        }
        let mut events = Vec::new();
        if lsn > self.durable {
            self.durable = lsn;
            events.push(AgentEvent::Durable(lsn));
        }
        if let Some(committed) = committed {
            events.extend(self.advance_committed(committed));
        }
        events
    }

    fn advance_committed(&mut self, committed: Lsn) -> Vec<AgentEvent> {
        let Link::Open(session) = &mut self.link else { return Vec::new() };
        self.committed_in = session.epoch;
        if committed <= self.committed {
            return Vec::new();
        }
        self.committed = committed;
        while self.held.front().is_some_and(|held| held.batch.last <= committed) {
            let held = self.held.pop_front().expect("just seen");
            self.held_bytes -= held.batch.weight_bytes();
            session.passed = session.passed.saturating_sub(1);
        }
        let mut events = vec![AgentEvent::Committed(committed)];
        if !self.beginning_committed && self.beginning.is_some_and(|last| last <= committed) {
            self.beginning_committed = true;
            events.push(AgentEvent::BeginningCommitted);
        }
        events
    }

    fn disconnect(&mut self, reason: &str) -> Vec<AgentEvent> {
        self.close(reason);
        vec![AgentEvent::Disconnect(reason.to_owned())]
    }

    fn close(&mut self, reason: &str) {
        self.link = Link::Closing;
        self.outbox.clear();
        self.outbox.push_back(AgentMessage::Bye { reason: reason.to_owned() });
    }
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ShorterLog { committed, found } => write!(
                f,
                "the log ends at LSN {found}, but LSN {committed} was reported committed: the vault has lost objects or \
                 is another one; check the vault before anything is written to it"
            ),
            Self::LongerLog { written, found } => write!(
                f,
                "the log ends at LSN {found}, but this agent has written only up to {written}: another agent writes as \
                 this machine (a clone?); stop one of them"
            ),
        }
    }
}
