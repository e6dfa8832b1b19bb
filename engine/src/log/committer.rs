//! Fills the slots of one machine's log, strictly in order, with several segments on their way.
//!
//! Owns: where the log ends, which closed segments wait, and what each of them is doing. The upload-stream actor
//! carries out its [`Effect`]s and reports back.
//!
//! ```text
//!   one object (a fence or a segment)
//!                                    ┌───────── retry ◄──────────┐
//!   Waiting ─► Sealing ─► Staging ─► Staged ─► Publishing ─► (Created) ─► committed
//!      ▲          slot and previous     │ front only │ anything else
//!      │          footer predicted      ▼            ▼
//!      │                                         Looking ─► absent: publish (or stage) again
//!      └── the slot was taken by an older owner ◄───┤
//!                                                   ├─► mine: committed
//!                                                   └─► a newer owner: Stopped, for good
//!
//!   the committer      Fencing ──fence filled──► Open ──newer owner seen──► Stopped
//!   (a restarted owner whose fence is the newest starts Open)
//! ```
//!
//! Invariants
//! - I4: slot n+1 is published only when n is known to be filled, by us or by an older owner before our fence. At any
//!   time only one version of an object is on its way to a slot. Once a newer owner was seen, nothing is published.
//! - A publish whose answer is not `Created` proves nothing: the slot is looked at before anything is concluded.
//! - Answers to an effect that was overtaken (its [`Attempt`] is not the object's newest) change nothing.
//!
//! Crash story: nothing here is stored. A restarted owner reads the log's tail, offers what its cache holds beyond it,
//! and starts anew. A publish of its former life may still land: the slot is then found filled with its own segment
//! under another footer, which counts when it holds the same items; otherwise the committer stops with
//! [`StopReason::Reread`] and the owner starts from the tail again.

mod effects;

use std::collections::VecDeque;
use std::time::Duration;

use super::Owner;
use crate::ids::{Lsn, Salt, Slot};
use crate::vault::segment::{FooterDigest, FooterPlace, ObjectKind};
use crate::vault::store::{PutOutcome, StoreErrorKind};

/// Most segments that are sealed and staged ahead of the one being published. Chosen: four of 16 MiB cover 0.5 s of
/// latency at 1 Gbit/s; doubling it doubles what a taken slot makes us send again.
pub const WINDOW_DEFAULT: usize = 4;
/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: an operator who has mended the vault waits no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(10);

pub use effects::{Attempt, Effect, Found, LogObject, Offer, Phase, Start, StopReason};

#[derive(Debug)]
struct Queued {
    object: LogObject,
    /// Salt and end of a segment's items.
    items: Option<(Salt, u64)>,
    last: Lsn,
    ready: Option<(FooterPlace, FooterDigest)>,
    attempt: Attempt,
    step: Step,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Waiting,
    Sealing,
    Staging(FooterDigest),
    Staged(FooterDigest),
    Publishing(FooterDigest),
    /// `restage`: the staged bytes may be gone; bring them again before the next publish.
    Looking(FooterDigest, Restage),
    Resting(FooterDigest, Again),
}

type Restage = bool;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Stage,
    Publish,
    Look(Restage),
}

impl Step {
    fn footer(self) -> Option<FooterDigest> {
        match self {
            Self::Waiting | Self::Sealing => None,
            Self::Staging(footer)
            | Self::Staged(footer)
            | Self::Publishing(footer)
            | Self::Looking(footer, _)
            | Self::Resting(footer, _) => Some(footer),
        }
    }
}

/// The committer of one machine under one owner. See the module.
#[derive(Debug)]
pub struct Committer {
    me: Owner,
    place: FooterPlace,
    phase: Phase,
    window: usize,
    queue: VecDeque<Queued>,
    attempts: u64,
    state_of: Option<Slot>,
    effects: Vec<Effect>,
}

impl Committer {
    /// Begins at the end of the log as it was read. An owner whose own fence is the newest goes on at once; another
    /// one fences first.
    ///
    /// # Errors
    /// The owner that has replaced this one already.
    pub fn start(me: Owner, start: Start, window: usize) -> Result<(Self, Vec<Effect>), Owner> {
        Self::start_behind(0, me, start, window)
    }

    /// Begins anew at the end of the log as it was read again, with nothing offered. What is still answered to attempts of
    /// before changes nothing.
    ///
    /// # Errors
    /// The owner that has replaced this one already.
    pub fn start_again(self, start: Start) -> Result<(Self, Vec<Effect>), Owner> {
        Self::start_behind(self.attempts, self.me, start, self.window)
    }

    fn start_behind(attempts: u64, me: Owner, start: Start, window: usize) -> Result<(Self, Vec<Effect>), Owner> {
        let phase = match start.newest {
            Some(newest) if newest == me => Phase::Open,
            Some(newest) if newest.epoch >= me.epoch => return Err(newest),
            _ => Phase::Fencing,
        };
        let mut it = Self {
            me,
            place: start.place,
            phase,
            window: window.max(1),
            queue: VecDeque::new(),
            attempts,
            state_of: None,
            effects: Vec::new(),
        };
        if phase == Phase::Fencing {
            it.enqueue(LogObject::Fence, None, Lsn::ZERO, None);
        }
        let effects = it.upkeep();
        Ok((it, effects))
    }

    /// A segment was closed. They are offered in log order.
    pub fn offer(&mut self, offer: Offer) -> Vec<Effect> {
        let ordered = self.queue.back().is_none_or(|before| before.last < offer.last);
        assert!(ordered, "segments are offered in log order");
        let items = Some((offer.salt, offer.items_end));
        self.enqueue(LogObject::Segment(offer.segment), items, offer.last, offer.footer);
        self.upkeep()
    }

    /// The footer is sealed, and this is its digest.
    pub fn sealed(&mut self, attempt: Attempt, digest: FooterDigest) -> Vec<Effect> {
        if let Some(at) = self.find(attempt, |step| step == Step::Sealing) {
            self.stage(at, digest);
        }
        self.upkeep()
    }

    /// The bytes are in the store.
    pub fn staged(&mut self, attempt: Attempt) -> Vec<Effect> {
        if let Some(at) = self.find(attempt, |step| matches!(step, Step::Staging(_))) {
            let queued = &mut self.queue[at];
            queued.step = queued.step.footer().map_or(queued.step, Step::Staged);
        }
        self.upkeep()
    }

    /// The bytes may not be in the store.
    pub fn stage_failed(&mut self, attempt: Attempt) -> Vec<Effect> {
        if let Some(at) = self.find(attempt, |step| matches!(step, Step::Staging(_))) {
            self.rest(at, Again::Stage);
        }
        self.upkeep()
    }

    /// The store answered the publish.
    pub fn published(&mut self, attempt: Attempt, outcome: PutOutcome) -> Vec<Effect> {
        let publishing = self.find(attempt, |step| matches!(step, Step::Publishing(_)));
        match (publishing.and_then(|at| self.queue[at].step.footer()), outcome) {
            (Some(footer), PutOutcome::Created) => self.commit_front(footer),
            (Some(_), PutOutcome::AlreadyExists) => self.look(false),
            (None, _) => {}
        }
        self.upkeep()
    }

    /// The publish ended in an error: it may have taken place or not.
    pub fn publish_failed(&mut self, attempt: Attempt, kind: StoreErrorKind) -> Vec<Effect> {
        if self.find(attempt, |step| matches!(step, Step::Publishing(_))).is_some() {
            self.look(matches!(kind, StoreErrorKind::NotFound | StoreErrorKind::Refused));
        }
        self.upkeep()
    }

    /// What lies in the slot that was to be looked at.
    pub fn found(&mut self, attempt: Attempt, found: &Found) -> Vec<Effect> {
        let looking = self.find(attempt, |step| matches!(step, Step::Looking(..)));
        if let Some(Step::Looking(footer, restage)) = looking.map(|at| self.queue[at].step) {
            self.conclude(footer, restage, found);
        }
        self.upkeep()
    }

    /// The slot could not be looked at.
    pub fn look_failed(&mut self, attempt: Attempt) -> Vec<Effect> {
        let looking = self.find(attempt, |step| matches!(step, Step::Looking(..)));
        if let Some((at, Step::Looking(_, restage))) = looking.map(|at| (at, self.queue[at].step)) {
            self.rest(at, Again::Look(restage));
        }
        self.upkeep()
    }

    /// The pause that [`Effect::RetryAfter`] asked for is over.
    pub fn retry(&mut self, attempt: Attempt) -> Vec<Effect> {
        let resting = self.find(attempt, |step| matches!(step, Step::Resting(..)));
        if let Some((at, Step::Resting(footer, again))) = resting.map(|at| (at, self.queue[at].step)) {
            match again {
                Again::Stage => self.stage(at, footer),
                Again::Publish => self.queue[at].step = Step::Staged(footer),
                Again::Look(restage) => self.look(restage),
            }
        }
        self.upkeep()
    }

    /// Somebody else learnt of a newer owner (a reader, the configuration server): stop, as if it had been met.
    pub fn fenced(&mut self, by: Owner, slot: Slot) -> Vec<Effect> {
        if by.epoch > self.me.epoch {
            self.stop(StopReason::Fenced { by, slot });
        }
        self.upkeep()
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The first slot that is not known to be filled, and the footer before it.
    pub fn place(&self) -> FooterPlace {
        self.place
    }

    /// How many segments are offered and not committed.
    pub fn backlog(&self) -> usize {
        self.queue.iter().filter(|queued| queued.object != LogObject::Fence).count()
    }

    /// Whether the object in front has failed and is being tried again: the vault is away or refuses.
    pub fn is_failing(&self) -> bool {
        self.queue.front().is_some_and(|front| front.failures > 0)
    }

    fn enqueue(
        &mut self,
        object: LogObject,
        items: Option<(Salt, u64)>,
        last: Lsn,
        ready: Option<(FooterPlace, FooterDigest)>,
    ) {
        if !matches!(self.phase, Phase::Stopped(_)) {
            let attempt = self.draw();
            self.queue.push_back(Queued { object, items, last, ready, attempt, step: Step::Waiting, failures: 0 });
        }
    }

    fn draw(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }

    fn find(&self, attempt: Attempt, expected: impl Fn(Step) -> bool) -> Option<usize> {
        self.queue.iter().position(|queued| queued.attempt == attempt && expected(queued.step))
    }

    fn slot_of(&self, at: usize) -> Slot {
        Slot(self.place.slot.0 + at as u64)
    }

    /// After every event: give places, then publish the front.
    fn upkeep(&mut self) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Stopped(_)) {
            self.give_places();
            self.publish_front();
        }
        std::mem::take(&mut self.effects)
    }

    fn give_places(&mut self) {
        let open = if self.phase == Phase::Fencing { 1 } else { self.window };
        let mut previous = self.place.previous;
        for at in 0..self.queue.len().min(open) {
            if self.queue[at].step == Step::Waiting {
                self.give_place(at, FooterPlace { slot: self.slot_of(at), previous });
            }
            match self.queue[at].step.footer() {
                Some(footer) => previous = footer,
                None => break,
            }
        }
    }

    fn give_place(&mut self, at: usize, place: FooterPlace) {
        let attempt = self.draw();
        let queued = &mut self.queue[at];
        queued.attempt = attempt;
        if let Some((ready, digest)) = queued.ready.take()
            && ready == place
        {
            self.stage(at, digest);
            return;
        }
        queued.step = Step::Sealing;
        self.effects.push(match queued.object {
            LogObject::Fence => Effect::SealFence { attempt, place, state_of: self.state_of },
            LogObject::Segment(segment) => Effect::Seal { attempt, segment, place },
        });
    }

    fn stage(&mut self, at: usize, footer: FooterDigest) {
        let (attempt, slot) = (self.draw(), self.slot_of(at));
        let queued = &mut self.queue[at];
        queued.attempt = attempt;
        queued.step = Step::Staging(footer);
        self.effects.push(Effect::Stage { attempt, object: queued.object, slot, footer });
    }

    fn publish_front(&mut self) {
        let Some(Step::Staged(footer)) = self.queue.front().map(|front| front.step) else { return };
        let (attempt, slot) = (self.draw(), self.place.slot);
        let front = &mut self.queue[0];
        front.attempt = attempt;
        front.step = Step::Publishing(footer);
        self.effects.push(Effect::Publish { attempt, object: front.object, slot, footer });
    }

    fn look(&mut self, restage: Restage) {
        let (attempt, slot) = (self.draw(), self.place.slot);
        let front = self.queue.front_mut().expect("only the object in front is published and looked for");
        let footer = front.step.footer().expect("what was published has a footer");
        front.attempt = attempt;
        front.step = Step::Looking(footer, restage);
        self.effects.push(Effect::Look { attempt, slot });
    }

    fn rest(&mut self, at: usize, again: Again) {
        let attempt = self.draw();
        let queued = &mut self.queue[at];
        let footer = queued.step.footer().expect("only a sealed object fails");
        let after = PAUSE_MAX.min(PAUSE_MIN * (1 << queued.failures.min(7)));
        queued.failures += 1;
        queued.attempt = attempt;
        queued.step = Step::Resting(footer, again);
        self.effects.push(Effect::RetryAfter { attempt, after });
    }

    /// What is in the slot decides: see the drawing.
    fn conclude(&mut self, footer: FooterDigest, restage: Restage, found: &Found) {
        let slot = self.place.slot;
        let front = self.queue.front().expect("a look is for the object in front");
        match *found {
            Found::Absent => self.rest(0, if restage { Again::Stage } else { Again::Publish }),
            Found::Damaged => self.stop(StopReason::Damaged { slot }),
            Found::Object { digest, .. } if digest == footer => self.commit_front(footer),
            Found::Object { owner, kind, salt, items_end, digest } if owner == self.me => {
                let same = match front.object {
                    LogObject::Fence => kind == ObjectKind::Fence,
                    LogObject::Segment(_) => front.items == Some((salt, items_end)),
                };
                if same { self.commit_front(digest) } else { self.stop(StopReason::Reread { slot }) }
            }
            Found::Object { owner, digest, .. } if owner.epoch < self.me.epoch => self.pass_over(slot, digest),
            Found::Object { owner, .. } => self.stop(StopReason::Fenced { by: owner, slot }),
        }
    }

    /// The front fills the slot, under this footer.
    fn commit_front(&mut self, digest: FooterDigest) {
        let slot = self.place.slot;
        let front = self.queue.pop_front().expect("only the object in front is committed");
        self.place = FooterPlace { slot: slot.next(), previous: digest };
        if front.step.footer() != Some(digest) {
            self.forget_places();
        }
        match front.object {
            LogObject::Fence => {
                self.phase = Phase::Open;
                self.effects.push(Effect::Adopted { fence: slot, state_of: self.state_of });
            }
            LogObject::Segment(segment) => {
                self.effects.push(Effect::Committed { segment, slot, last: front.last, digest });
            }
        }
    }

    /// An older owner's object fills the slot: everything moves up by one, under new footers.
    fn pass_over(&mut self, slot: Slot, digest: FooterDigest) {
        self.place = FooterPlace { slot: slot.next(), previous: digest };
        self.state_of = Some(slot);
        self.forget_places();
    }

    fn forget_places(&mut self) {
        for queued in &mut self.queue {
            queued.step = Step::Waiting;
            queued.ready = None;
        }
    }

    fn stop(&mut self, reason: StopReason) {
        if !matches!(self.phase, Phase::Stopped(_)) {
            self.phase = Phase::Stopped(reason);
            self.queue.clear();
            self.effects.push(Effect::Stopped(reason));
        }
    }
}

#[cfg(test)]
mod tests;
