//! The upload stream: fills one machine's log slots with its closed segments, strictly in order.
//!
//! Owns: the [`Committer`] (pure), and the bytes that are on their way. Parent: the machine.
//! Bounds: `upload_window` segments at once, each with credit of the process server's for its bytes.
//! In: [`OfferSegment`]. Out, to the machine: [`StreamOpen`], [`SegmentCommitted`], [`StreamStopped`].
//!
//! ```text
//!   read the log's tail ─► Committer ─► fence, where ours is not the newest ─► StreamOpen(state)
//!   machine offers what the vault has not ─► seal footer ─► stage ─► publish ─► SegmentCommitted
//!                                                  any doubt: look at the slot
//! ```
//!
//! Crash story: nothing here is durable but in vault and cache. A new life reads the tail and says how far it goes; the
//! machine offers again what lies behind. A publish of the former life that lands late is found in its slot and counts.

mod slot;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::WeakAddr;
use actix::prelude::*;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::note::Note;
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::{Lsn, Slot};
use farshore_engine::log::committer::{Committer, Effect, LogObject, Offer, Start, StopReason};
use farshore_engine::log::sequencer::ClosedSegment;
use farshore_engine::log::{Owner, SegmentNo};
use farshore_engine::record::RecordAt;
use farshore_engine::vault::read::tail::Tail;
use farshore_engine::vault::segment::{FooterDigest, FooterPlace, SealedControl};
use farshore_engine::vault::state::LogState;
use farshore_engine::vault::store::{Staged, StoreErrorKind};
use slog::{info, warn};

use super::IssueCode;
use super::ledger::MachineSpec;
use super::machine::Machine;
use crate::supervise::{ActorKind, LaneTurn, Life, Retire, Ward};

pub(super) use slot::read_tail;
use work::Ready;
pub(super) use work::{WorkError, put};

/// Pause before the tail is read again when the vault does not answer.
const TAIL_PAUSE: Duration = Duration::from_secs(1);

/// Pause before what cannot be read in the vault is read again: it may be put right meanwhile.
pub(super) const DAMAGE_PAUSE: Duration = Duration::from_secs(5);

/// What to do about a vault that does not do its part.
const VAULT_REMEDY: &str = "Look at the vault; segments wait in the cache meanwhile, and the RPO grows.";

/// What every life of an upload stream is made of.
#[derive(Clone)]
pub(super) struct StreamSpec {
    pub(super) machine: MachineSpec,
    pub(super) dir: CacheDir,
    pub(super) home: WeakAddr<Machine>,
}

/// To the machine: the log is this owner's, and this is its end in the vault. What lies behind is to be offered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct StreamOpen {
    pub(super) state: LogState,
    pub(super) next_slot: Slot,
}

/// From the machine: a closed segment, in log order.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(super) struct OfferSegment {
    pub(super) closed: Arc<ClosedSegment>,
    pub(super) note: Option<Note>,
}

/// To the machine: a segment fills its slot.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct SegmentCommitted {
    pub(super) segment: SegmentNo,
    pub(super) slot: Slot,
    pub(super) last: Lsn,
    pub(super) records: Arc<[RecordAt]>,
}

/// To the machine: nothing more is committed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) enum StreamStopped {
    /// Another owner has the log.
    Fenced { by: Owner, slot: Option<Slot> },
    /// A cached segment cannot be read: take stock of the cache again.
    CacheDamaged(String),
}

/// The actor.
pub(super) struct UploadStream {
    spec: StreamSpec,
    life: Life,
    turn: LaneTurn,
    committer: Option<Committer>,
    /// The committer of before the log's end was read again.
    before: Option<Committer>,
    /// The log's state at its end, as it was read, or as an object behind that says (by its slot).
    states: BTreeMap<Option<Slot>, LogState>,
    offers: BTreeMap<SegmentNo, OfferSegment>,
    /// What was sealed, by its footer: the committer says which version counts.
    ready: HashMap<FooterDigest, Arc<Ready>>,
    fences: HashMap<FooterDigest, SealedControl>,
    staged: HashMap<FooterDigest, (LogObject, Staged)>,
}

impl Ward for UploadStream {
    type Id = ();
    type Spec = StreamSpec;
    const KIND: &'static str = "upload stream";

    fn revive(spec: StreamSpec, life: Life, _: &mut Context<Self>) -> Self {
        Self {
            turn: spec.machine.footer_lane.take_turn(),
            spec,
            life,
            committer: None,
            before: None,
            states: BTreeMap::new(),
            offers: BTreeMap::new(),
            ready: HashMap::new(),
            fences: HashMap::new(),
            staged: HashMap::new(),
        }
    }
}

impl Actor for UploadStream {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        self.begin(ctx);
    }
}

impl UploadStream {
    fn chaos(&self) {
        self.spec.machine.wiring.config.chaos.check(ActorKind::UploadStream, Some(self.spec.machine.machine));
    }

    fn tell<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Machine: Handler<M>,
    {
        if let Some(home) = self.spec.home.upgrade() {
            home.do_send(message);
        }
    }

    /// Reads the log's end and starts from there, forgetting everything else.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        self.end_committer();
        self.states.clear();
        self.offers.clear();
        self.ready.clear();
        self.fences.clear();
        self.staged.clear();
        let reading = read_tail(self.spec.machine.clone());
        ctx.spawn(reading.into_actor(self).map(|tail, stream, ctx| stream.tail_is_read(tail, ctx)));
    }

    fn tail_is_read(&mut self, tail: Result<Tail, WorkError>, ctx: &mut Context<Self>) {
        self.chaos();
        let tail = match tail {
            Ok(tail) => tail,
            Err(WorkError::Store { kind, text }) => {
                self.store_failed(kind, &text);
                ctx.run_later(TAIL_PAUSE, Self::begin);
                return;
            }
            Err(WorkError::Damaged(text)) => return self.vault_is_damaged(&text, ctx),
            Err(WorkError::Cache(text)) => return self.tell(StreamStopped::CacheDamaged(text)),
        };
        self.store_answered();
        self.spec.machine.board.clear(IssueCode::VaultDamaged);
        let newest = tail.last_owner.map(|(epoch, writer)| Owner { epoch, writer });
        let start = Start { place: FooterPlace { slot: tail.next, previous: tail.previous }, newest };
        let me = self.spec.machine.owner;
        self.states.insert(None, tail.state);
        let started = match self.before.take() {
            Some(before) => before.start_again(start),
            None => Committer::start(me, start, self.spec.machine.wiring.config.limits.upload_window),
        };
        match started {
            Ok((committer, effects)) => {
                let open = newest == Some(me);
                self.committer = Some(committer);
                if open {
                    self.is_open(tail.next, None);
                }
                self.carry_out(effects, ctx);
            }
            Err(by) => self.tell(StreamStopped::Fenced { by, slot: None }),
        }
    }

    fn end_committer(&mut self) {
        self.before = self.committer.take().or(self.before.take());
    }

    fn is_open(&self, next_slot: Slot, state_of: Option<Slot>) {
        let state = self.states.get(&state_of).expect("a fence is sealed once the state it carries is known");
        self.tell(StreamOpen { state: state.clone(), next_slot });
    }

    /// Feeds the committer and carries out what it says.
    fn feed(&mut self, ctx: &mut Context<Self>, event: impl FnOnce(&mut Committer) -> Vec<Effect>) {
        self.chaos();
        self.life.progress();
        // Answers to what was begun before the tail was read again belong to a committer that is gone.
        let Some(committer) = &mut self.committer else { return };
        let effects = event(committer);
        self.carry_out(effects, ctx);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::SealFence { attempt, place, state_of } => self.seal_fence(attempt, place, state_of, ctx),
                Effect::Seal { attempt, segment, place } => self.seal(attempt, segment, place, ctx),
                Effect::Stage { attempt, object, slot, footer } => self.stage(attempt, object, slot, footer, ctx),
                Effect::Publish { attempt, footer, .. } => self.publish(attempt, footer, ctx),
                Effect::Look { attempt, slot } => self.look(attempt, slot, ctx),
                Effect::RetryAfter { attempt, after } => {
                    ctx.run_later(after, move |stream, ctx| stream.feed(ctx, |committer| committer.retry(attempt)));
                }
                Effect::Adopted { fence, state_of } => {
                    self.spec.machine.board.edit(|status| status.uploads.fences += 1);
                    self.is_open(fence.next(), state_of);
                }
                Effect::Committed { segment, slot, last, digest } => self.committed(segment, slot, last, digest),
                Effect::Stopped(reason) => self.stopped(reason, ctx),
            }
        }
    }

    fn committed(&mut self, segment: SegmentNo, slot: Slot, last: Lsn, digest: FooterDigest) {
        self.offers.remove(&segment);
        self.staged.retain(|_, (object, _)| *object != LogObject::Segment(segment));
        // The version in the slot may be a former life's; what it holds is the same.
        let sealed = self.ready.get(&digest).or_else(|| self.ready.values().find(|ready| ready.segment == segment));
        let sealed = sealed.cloned();
        self.ready.retain(|_, ready| ready.segment != segment);
        self.spec.machine.board.edit(|status| {
            status.uploads.segments += 1;
            status.uploads.bytes += sealed.as_ref().map_or(0, |ready| ready.object_bytes());
            status.uploads.frames += sealed.as_ref().map_or(0, |ready| ready.frames);
        });
        let records = sealed.map_or_else(|| Arc::from([]), |ready| ready.records.clone());
        self.tell(SegmentCommitted { segment, slot, last, records });
    }

    fn stopped(&mut self, reason: StopReason, ctx: &mut Context<Self>) {
        let log = &self.spec.machine.wiring.config.log;
        warn!(log, "the upload stream stops"; "machine" => %self.spec.machine.machine, "reason" => ?reason);
        match reason {
            StopReason::Fenced { by, slot } => self.tell(StreamStopped::Fenced { by, slot: Some(slot) }),
            StopReason::Damaged { slot } => {
                let text = format!("slot {slot} of machine {} cannot be read", self.spec.machine.machine);
                self.vault_is_damaged(&text, ctx);
            }
            StopReason::Reread { .. } => self.begin(ctx),
        }
    }

    /// Nothing is sent behind damage. The log's end is read again after a pause: it may be put right meanwhile.
    pub(super) fn vault_is_damaged(&mut self, text: &str, ctx: &mut Context<Self>) {
        self.spec.machine.board.vault_is_damaged(text);
        self.end_committer();
        ctx.run_later(DAMAGE_PAUSE, Self::begin);
    }

    fn store_failed(&self, kind: StoreErrorKind, text: &str) {
        let wiring = &self.spec.machine.wiring;
        wiring.vault_answered(kind == StoreErrorKind::Full);
        self.spec.machine.board.edit(|status| status.uploads.failures += 1);
        let (code, what, remedy) = match kind {
            StoreErrorKind::Full => (
                IssueCode::VaultFull,
                format!("the vault has no room: {text}"),
                "Make room; segments wait in the cache meanwhile, and the RPO grows.",
            ),
            _ => (IssueCode::VaultAway, format!("the vault does not take segments: {text}"), VAULT_REMEDY),
        };
        self.spec.machine.board.raise(code, Severity::Critical, what, remedy);
    }

    fn store_answered(&self) {
        self.spec.machine.wiring.vault_answered(true);
        self.spec.machine.board.clear(IssueCode::VaultAway);
        self.spec.machine.board.clear(IssueCode::VaultFull);
    }
}

impl Handler<OfferSegment> for UploadStream {
    type Result = ();

    fn handle(&mut self, msg: OfferSegment, ctx: &mut Self::Context) {
        let closed = &msg.closed;
        let footer = msg.note.map(|note| (note.place, note.digest));
        let salt = closed.identity.salt;
        let offer = Offer { segment: closed.segment, salt, last: closed.last, items_end: closed.items_end, footer };
        self.offers.insert(closed.segment, msg);
        self.feed(ctx, |committer| committer.offer(offer));
    }
}

impl Handler<Retire> for UploadStream {
    type Result = ();

    /// Nothing to flush: the machine waits until what it offered is committed, as long as it has time.
    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        info!(self.spec.machine.wiring.config.log, "the upload stream ends"; "machine" => %self.spec.machine.machine);
        ctx.stop();
    }
}
