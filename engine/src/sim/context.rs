//! What everything in a run shares: virtual time, chance, the queue of events, the troubles, the counters, the trace.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;

use super::chance::SeededChance;
use super::counters::{Counters, Seen};
use super::handover::Move;
use super::mutation::Mutation;
use super::schedule::{Fault, Kind};
use super::source::Value;
use crate::capture::SyncNo;
use crate::ids::{DiskNo, MarkId, Slot};
use crate::log::Owner;
use crate::log::committer::Attempt;
use crate::log::sequencer::{AppendNo, BatchNo};
use crate::protocol::{AgentMessage, ServerMessage};
use crate::vault::segment::{FooterDigest, SealedItem};
use crate::vault::store::PutOutcome;

/// Lines of the trace that are kept.
const TRACE_LINES_MAX: usize = 600;

/// One connection between agent and process server.
pub(super) type LinkNo = u64;

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Event {
    /// Something for one life of an agent.
    Machine { machine: usize, life: u64, event: MachineEvent },
    /// An agent starts, where none is.
    AgentStart(usize),
    /// An agent's session looks at the clock.
    AgentTick(usize),
    /// An agent connects.
    Connect(usize),
    /// A message arrives at the agent.
    ToAgent(LinkNo, ServerMessage),
    /// A message arrives at a process server.
    ToServer(LinkNo, AgentMessage),
    /// Both ends notice that the link is gone.
    LinkDown(LinkNo),
    /// Something for one life of a process.
    Process { server: usize, life: u64, event: ProcessEvent },
    /// An object reaches the store, whoever still waits for it.
    Land { machine: usize, slot: Slot, object: Bytes, by: Owner, waits: Option<(usize, u64, Attempt)> },
    /// A process server starts again.
    Restart(usize),
    /// Something goes wrong.
    Fault(Fault),
    /// A process server loses power, shortly after it was killed.
    PowerCut(usize),
    /// A process server notices that a link is gone.
    ServerNotices(LinkNo),
    /// A planned move goes on.
    Move(Move),
    /// The agent of a machine is told where its log is now, by the server that released it.
    Redirect { machine: usize, from: usize },
    /// A process that has let go of its log ends.
    LetGo { server: usize, life: u64 },
    /// There is room again on a process server's cache disk.
    RoomAgain(usize),
    /// Storage beside a machine's disks works again.
    MediumAgain(usize),
    /// A reader looks at a machine's newest point.
    Read(usize),
}

/// Something for one life of an agent.
#[derive(Debug)]
pub(super) enum MachineEvent {
    /// The application goes on.
    Script,
    /// A request takes its next step.
    Request(u64),
    /// The scanner takes its next step.
    Scan,
    /// The clock's thread looks.
    Clock,
    /// The cooler's thread looks.
    Cool,
    /// A sync of a disk has its answer.
    Synced(usize, SyncNo, Vec<Value>),
    /// A mark that was taken before is said to be of now (a defect on purpose).
    Claim(MarkId),
}

/// Something for one life of a process.
#[derive(Debug)]
pub(super) enum ProcessEvent {
    /// The log's tail was read.
    TailRead,
    /// An item is sealed.
    Sealed(BatchNo, Box<SealedItem>),
    /// A disk's actor died.
    DiskDied(DiskNo),
    /// The next question of a session for digests can be answered.
    Compare(LinkNo),
    /// The sync of an append is due.
    Sync(AppendNo),
    /// The clock.
    Tick,
    /// A footer is sealed.
    FooterSealed(Attempt, FooterDigest),
    /// Bytes were staged, or not.
    Staged(Attempt, bool),
    /// The store answered a publish; `None`: with an error.
    Published(Attempt, Option<PutOutcome>),
    /// The store says that it has nothing of what was staged.
    StagedLost(Attempt),
    /// A slot can be looked at.
    Look(Attempt, Slot),
    /// A pause is over.
    Retry(Attempt),
}

/// A trouble that lasts.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    until: Duration,
    strength: u64,
}

#[derive(Debug)]
pub(super) struct Context {
    pub(super) now: Duration,
    pub(super) chance: SeededChance,
    pub(super) mutation: Option<Mutation>,
    pub(super) trace: Vec<String>,
    queue: BTreeMap<(Duration, u64), Event>,
    drawn: u64,
    troubles: BTreeMap<Kind, Trouble>,
    pub(super) counters: Counters,
    /// Nothing goes wrong any more, and nothing is written.
    pub(super) calm: bool,
    /// What was found broken.
    pub(super) broken: Option<String>,
}

impl Context {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        Self {
            now: Duration::ZERO,
            chance: SeededChance::new(seed),
            mutation,
            trace: Vec::new(),
            queue: BTreeMap::new(),
            drawn: 0,
            troubles: BTreeMap::new(),
            counters: Counters::default(),
            calm: false,
            broken: None,
        }
    }

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(super) fn seen(&mut self, seen: Seen) {
        self.counters.count(seen);
    }

    /// A trouble begins; of two of one kind the later one counts.
    pub(super) fn trouble(&mut self, fault: &Fault) {
        let until = self.now + fault.lasts;
        self.troubles.insert(fault.kind, Trouble { until, strength: fault.strength });
    }

    /// All troubles are over.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.troubles.clear();
    }

    /// Whether a trouble of this kind lasts.
    pub(super) fn lasts(&self, kind: Kind) -> bool {
        self.troubles.get(&kind).is_some_and(|trouble| self.now < trouble.until)
    }

    /// Whether an operation suffers from a trouble of this kind; counted where it does.
    pub(super) fn suffers(&mut self, kind: Kind, seen: Seen) -> bool {
        let Some(trouble) = self.troubles.get(&kind).copied().filter(|trouble| self.now < trouble.until) else {
            return false;
        };
        let hit = self.chance.happens(trouble.strength);
        if hit {
            self.seen(seen);
        }
        hit
    }

    /// Whether a call to the store fails before it has an effect.
    pub(super) fn store_fails(&mut self) -> bool {
        if self.lasts(Kind::StoreAway) {
            self.seen(Seen::StoreAway);
            return true;
        }
        self.suffers(Kind::StoreFails, Seen::StoreErrorBefore)
    }

    /// How long a call to the store takes that would take this long, in microseconds.
    pub(super) fn store_takes(&mut self, micros: u64) -> u64 {
        if self.suffers(Kind::StoreSlow, Seen::StoreSlow) { micros * self.chance.between(5, 40) } else { micros }
    }

    pub(super) fn at(&mut self, when: Duration, event: Event) {
        self.drawn += 1;
        self.queue.insert((when, self.drawn), event);
    }

    /// After a time between the bounds, in microseconds.
    pub(super) fn within(&mut self, from: u64, to: u64, event: Event) {
        let after = self.chance.between(from, to);
        self.at(self.now + Duration::from_micros(after), event);
    }

    /// Something for a life of an agent, after a time between the bounds, in microseconds.
    pub(super) fn machine(&mut self, (machine, life): (usize, u64), from: u64, to: u64, event: MachineEvent) {
        self.within(from, to, Event::Machine { machine, life, event });
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let ((when, _), event) = self.queue.pop_first()?;
        self.now = when;
        Some(event)
    }

    pub(super) fn say(&mut self, who: impl Display, what: impl Display) {
        if self.trace.len() >= TRACE_LINES_MAX {
            self.trace.drain(..TRACE_LINES_MAX / 2);
        }
        self.trace.push(format!("{:>10.3} ms  {who:<10} {what}", self.now.as_secs_f64() * 1000.0));
    }

    /// Notes the first thing that is broken; the run ends with it.
    pub(super) fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say("BROKEN", &what);
        self.broken.get_or_insert(what);
    }
}
