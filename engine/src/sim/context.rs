//! What everything in a run shares: virtual time, chance, the queue of events, the weather, the trace.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;

use super::chance::SeededChance;
use super::mishaps::KINDS;
use super::mutation::Mutation;
use crate::ids::{DiskNo, Slot};
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
    /// The agent's script goes on.
    Script,
    /// The agent looks at the clock.
    AgentTick,
    /// The agent connects.
    Connect,
    /// A message arrives at the agent.
    ToAgent(LinkNo, ServerMessage),
    /// A message arrives at a process server.
    ToServer(LinkNo, AgentMessage),
    /// Both ends notice that the link is gone.
    LinkDown(LinkNo),
    /// Something for one life of a process.
    Process { server: usize, life: u64, event: ProcessEvent },
    /// An object reaches the store, whoever still waits for it.
    Land { slot: Slot, object: Bytes, by: Owner, waits: Option<(usize, u64, Attempt)> },
    /// A process server starts again.
    Restart(usize),
    /// Something goes wrong.
    Mishap,
    /// A process server loses power, shortly after it was killed.
    PowerCut(usize),
    /// A process server notices that a link is gone.
    ServerNotices(LinkNo),
    /// A planned move goes on: from a server that releases the log to another, at the latest at a time.
    Move(usize, usize, Duration),
    /// There is room again on a process server's cache disk.
    RoomAgain(usize),
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
    /// A slot can be looked at.
    Look(Attempt, Slot),
    /// A pause is over.
    Retry(Attempt),
}

/// How often what goes wrong, in thousandths; drawn per seed, so that some runs have much of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// A store call fails before it has an effect.
    pub(super) store_fails: u64,
    /// A store call has its effect, and its answer is lost.
    pub(super) answer_lost: u64,
    /// A publish has its effect long after its answer said that it failed.
    pub(super) lands_late: u64,
    /// A write to the cache disk is torn, a sync or a create fails.
    pub(super) disk_fails: u64,
    /// A disk actor dies while sealing.
    pub(super) disk_actor_dies: u64,
    /// A sync takes at most so long, in microseconds.
    pub(super) sync_micros_max: u64,
    /// Weights, in the order of [`super::mishaps::Kind`].
    pub(super) mishaps: [u64; KINDS],
}

impl Weather {
    /// Nothing goes wrong.
    pub(super) fn calm() -> Self {
        Self {
            store_fails: 0,
            answer_lost: 0,
            lands_late: 0,
            disk_fails: 0,
            disk_actor_dies: 0,
            sync_micros_max: 4000,
            mishaps: [0; KINDS],
        }
    }

    pub(super) fn draw(chance: &mut SeededChance) -> Self {
        let mut level = |high: u64| [0, high / 5, high][chance.below(3) as usize];
        Self {
            store_fails: level(300),
            answer_lost: level(300),
            lands_late: level(200),
            disk_fails: level(60),
            disk_actor_dies: level(5),
            sync_micros_max: 1000 + level(100_000),
            mishaps: std::array::from_fn(|kind| level(20) + u64::from(kind == 0)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Context {
    pub(super) now: Duration,
    pub(super) chance: SeededChance,
    pub(super) weather: Weather,
    pub(super) mutation: Option<Mutation>,
    pub(super) trace: Vec<String>,
    queue: BTreeMap<(Duration, u64), Event>,
    drawn: u64,
    /// Until then the store answers nobody.
    pub(super) store_away_until: Duration,
    /// What was found broken.
    pub(super) broken: Option<String>,
}

impl Context {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut chance = SeededChance::new(seed);
        let weather = Weather::draw(&mut chance);
        Self {
            now: Duration::ZERO,
            chance,
            weather,
            mutation,
            trace: Vec::new(),
            queue: BTreeMap::new(),
            drawn: 0,
            store_away_until: Duration::ZERO,
            broken: None,
        }
    }

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether a call to the store fails before it has an effect.
    pub(super) fn store_fails(&mut self) -> bool {
        self.chance.happens(self.weather.store_fails) || self.now < self.store_away_until
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
