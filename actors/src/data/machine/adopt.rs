//! How a machine's log is opened: from the cache directory and the vault, in steps that may be begun again at any time.
//!
//! ```text
//!   take stock (no key) ─► key? ─► read the tail ─► may this owner go on? ─► claim the directory ─► upload stream
//!        of the cache        │ no: Locked,    │ newer owner: Fenced       │ cache lost: Failed      │ fences
//!                            └ see `locked`   └ vault away: again                                   ▼
//!                                                              unlock the cache from the log's end ─► Ready
//! ```
//!
//! Where the cache's disk fails or has no room at any of the steps, that is an issue, and they begin again a second later.

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::cache::CacheError;
use farshore_engine::cache::dir::{CacheDir, may_continue};
use farshore_engine::cache::recover::{Discarded, Recovered, Unlocked, recover, unlock};
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::Slot;
use farshore_engine::log::Owner;
use farshore_engine::protocol::RefusalCode;
use farshore_engine::vault::read::tail::Tail;
use slog::{info, warn};

use super::book::Book;
use super::writing::LogWriter;
use super::{Machine, now};
use crate::data::board::Spare;
use crate::data::compactor::Compactor;
use crate::data::messages::Adopted;
use crate::data::scrubber::Scrubber;
use crate::data::upload::{DAMAGE_PAUSE, StreamOpen, StreamSpec, UploadStream, WorkError, read_tail};
use crate::data::{DataError, DataEventKind, IssueCode, MachinePhase};
use crate::supervise::{TurnError, Warden};

/// Pause before the vault is asked again.
pub(super) const VAULT_PAUSE: Duration = Duration::from_secs(1);

/// Pause before the cache disk is tried again.
const CACHE_PAUSE: Duration = Duration::from_secs(1);

/// What the cache directory holds.
pub(super) struct Stock {
    pub(super) dir: CacheDir,
    /// Who owned it when it was looked at.
    pub(super) owner: Option<Owner>,
    pub(super) recovered: Recovered,
    /// The stream said that the log is open, and the cache is being unlocked.
    unlocking: bool,
}

type Done<T> = Result<Result<T, CacheError>, TurnError>;

impl Machine {
    /// First step, without a key.
    pub(super) fn take_stock(&mut self, ctx: &mut Context<Self>) {
        self.set_phase(MachinePhase::Opening);
        let (turn, spec) = (self.turn.clone(), self.spec.clone());
        let looking = async move {
            let wiring = spec.wiring.clone();
            let look = move || {
                let config = &spec.wiring.config;
                let dir = CacheDir::open(config.io.clone(), &config.cache_dir, spec.machine, spec.timeline)?;
                // A damaged owner file is a lost one: this owner must not have written to the log before.
                let owner = match dir.owner() {
                    Err(CacheError::OwnerDamaged { .. }) => None,
                    owner => owner?,
                };
                let recovered = recover(&dir, spec.owner)?;
                Ok(Stock { dir, owner, recovered, unlocking: false })
            };
            turn.run(&wiring.file_pool, look).await
        };
        ctx.spawn(looking.into_actor(self).map(|stock: Done<Stock>, machine, ctx| {
            if let Some(stock) = machine.cache_did(stock, ctx) {
                machine.stock = Some(stock);
                machine.key_is_here(ctx);
            }
        }));
    }

    /// Second step, as soon as there is a key; else it waits for one.
    pub(super) fn key_is_here(&mut self, ctx: &mut Context<Self>) {
        if self.stock.is_none() || self.failed.is_some() || self.phase() == MachinePhase::Adopting {
            return;
        }
        if self.spec.key.get().is_none() {
            self.set_phase(MachinePhase::Locked);
            let what = "the machine's data key is not here, so its log cannot be opened";
            let remedy = "It comes with the machine's agent, or with the configuration server.";
            self.spec.board.raise(IssueCode::VaultLocked, Severity::Warning, what.into(), remedy);
            self.send_sealed(ctx);
            return;
        }
        self.spec.board.clear(IssueCode::VaultLocked);
        self.set_phase(MachinePhase::Adopting);
        self.read_tail(ctx);
    }

    fn read_tail(&mut self, ctx: &mut Context<Self>) {
        let reading = read_tail(self.spec.clone());
        ctx.spawn(reading.into_actor(self).map(|tail, machine, ctx| {
            machine.life.progress();
            match tail {
                Ok(tail) => machine.tail_is_read(&tail, ctx),
                Err(WorkError::Store { text, .. }) => {
                    machine.spec.wiring.vault_answered(false);
                    let what = format!("the machine's log cannot be opened: {text}");
                    machine.spec.board.raise(IssueCode::VaultAway, Severity::Critical, what, "Look at the vault.");
                    ctx.run_later(VAULT_PAUSE, Self::read_tail);
                }
                Err(WorkError::Damaged(text)) if machine.spec.key.withdraw() => machine.key_is_wrong(&text),
                Err(WorkError::Damaged(text) | WorkError::Cache(text)) => {
                    machine.vault_is_damaged(&text);
                    ctx.run_later(DAMAGE_PAUSE, Self::read_tail);
                }
            }
        }));
    }

    /// Third step: whose log is it, and is the cache that this owner had still here?
    fn tail_is_read(&mut self, tail: &Tail, ctx: &mut Context<Self>) {
        if self.failed.is_some() {
            return;
        }
        self.spec.key.is_proven();
        self.spec.wiring.vault_answered(true);
        self.spec.board.clear(IssueCode::VaultAway);
        self.spec.board.clear(IssueCode::VaultDamaged);
        let (me, stock) = (self.spec.owner, self.stock.as_ref().expect("the cache is looked at first"));
        let newest = tail.last_owner.map(|(epoch, writer)| Owner { epoch, writer });
        if let Some(by) = newest.filter(|newest| *newest != me && newest.epoch >= me.epoch) {
            return self.is_fenced(by, None, ctx);
        }
        if let Err(error) = may_continue(me, stock.owner, newest) {
            return self.cache_is_lost(error);
        }
        let (turn, dir, pool) = (self.turn.clone(), stock.dir.clone(), self.spec.wiring.file_pool.clone());
        let discarded = stock.recovered.discarded.clone();
        let claiming = async move {
            let claim = move || {
                dir.claim(me)?;
                remove_discarded(&dir, &discarded)
            };
            turn.run(&pool, claim).await
        };
        ctx.spawn(claiming.into_actor(self).map(|claimed: Done<()>, machine, ctx| {
            if machine.cache_did(claimed, ctx).is_some() && machine.failed.is_none() {
                machine.start_stream(ctx);
            }
        }));
    }

    /// Fourth step: the upload stream fences where that is due, and says when the log is ours.
    fn start_stream(&mut self, ctx: &mut Context<Self>) {
        let stock = self.stock.as_ref().expect("the cache is looked at first");
        self.discarded(&stock.recovered.discarded);
        let (machine, dir, home) = (self.spec.clone(), stock.dir.clone(), ctx.address().downgrade());
        Warden::<UploadStream>::admit(self, (), StreamSpec { machine, dir, home }, ctx);
    }

    /// Fifth step, or the beginning of a later life of the stream.
    pub(super) fn stream_is_open(&mut self, open: StreamOpen, ctx: &mut Context<Self>) {
        if self.failed.is_some() {
            return;
        }
        self.spec.board.edit(|status| status.next_slot = open.next_slot);
        if self.writer.is_some() {
            return self.offer_again(open.state, ctx);
        }
        let Some(stock) = self.stock.as_mut().filter(|stock| !stock.unlocking) else { return };
        stock.unlocking = true;
        let (dir, recovered) = (stock.dir.clone(), stock.recovered.clone());
        let (turn, pool) = (self.turn.clone(), self.spec.wiring.file_pool.clone());
        let key = self.spec.key.get().expect("the log is adopted with the key");
        let committed = open.state.clone();
        let unlocking = async move {
            let unlock = move || {
                let unlocked = unlock(&dir, &recovered, &key, open.state)?;
                remove_discarded(&dir, &unlocked.discarded)?;
                Ok(unlocked)
            };
            turn.run(&pool, unlock).await
        };
        ctx.spawn(unlocking.into_actor(self).map(move |unlocked: Done<Unlocked>, machine, ctx| {
            if let Some(unlocked) = machine.cache_did(unlocked, ctx)
                && machine.failed.is_none()
            {
                machine.is_unlocked(unlocked, Book::new(committed), open.next_slot, ctx);
            }
        }));
    }

    /// Last step: the log goes on behind what is durable.
    fn is_unlocked(&mut self, unlocked: Unlocked, book: Book, next_slot: Slot, ctx: &mut Context<Self>) {
        let stock = self.stock.take().expect("the cache is looked at first");
        self.discarded(&unlocked.discarded);
        for done in &unlocked.committed {
            let (segment, bytes) = (done.segment, done.file_bytes);
            self.spec.board.spares_gone(|known| known == segment);
            self.spec.board.spare_added(Spare { order: self.spec.wiring.next_commit(), segment, bytes });
        }
        let mut writer = LogWriter::new(&self.spec, stock.dir, unlocked.state, stock.recovered.next_segment, book);
        for (closed, note) in unlocked.closed {
            writer.book.add(closed, note);
        }
        let (owner, committed) = (self.spec.owner, writer.book.committed());
        info!(self.log, "the log is adopted"; "owner" => %owner, "committed" => %committed,
            "durable" => %writer.sequencer.durable(), "next_slot" => %next_slot);
        self.writer = Some(writer);
        self.set_phase(MachinePhase::Ready);
        for code in [IssueCode::RestartStorm, IssueCode::CacheFailed] {
            self.spec.board.clear(code);
        }
        self.spec.board.tell(DataEventKind::Adopted { owner, committed });
        Warden::<Compactor>::admit(self, (), self.spec.clone(), ctx);
        Warden::<Scrubber>::admit(self, (), self.spec.clone(), ctx);
        self.offer_all();
        let adopted = self.adopted().expect("the log is open");
        self.waiters.drain(..).for_each(|waiter| drop(waiter.send(Ok(adopted))));
        self.upkeep(ctx);
        self.greet_those_who_wait();
    }

    pub(super) fn adopted(&self) -> Option<Adopted> {
        let writer = self.writer.as_ref()?;
        let next_slot = self.spec.board.read(|status| status.next_slot);
        Some(Adopted { epoch: self.spec.owner.epoch, committed: writer.book.committed(), next_slot })
    }

    fn discarded(&self, discarded: &[Discarded]) {
        let Some(first) = discarded.first() else { return };
        let (count, reason) = (discarded.len(), first.reason.to_string());
        warn!(self.log, "cached segments are discarded"; "count" => count, "reason" => &reason);
        self.spec.board.tell(DataEventKind::SegmentsDiscarded { count, reason });
    }

    /// What a job in the cache directory gave; `None` where this life, or the machine, cannot go on.
    fn cache_did<T>(&mut self, done: Done<T>, ctx: &mut Context<Self>) -> Option<T> {
        self.life.progress();
        match done {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error @ CacheError::Disk { .. })) => {
                self.cache_is_away(&error, ctx);
                None
            }
            Err(TurnError::Offload(error)) => panic!("a job in the cache directory failed: {error}"),
            Ok(Err(error)) => {
                self.cache_is_lost(error);
                None
            }
            Err(TurnError::Superseded) => {
                ctx.stop();
                None
            }
        }
    }

    /// A disk that has no room or fails now may work in a moment: the steps begin again then.
    fn cache_is_away(&mut self, error: &CacheError, ctx: &mut Context<Self>) {
        self.streams.dismiss(&());
        self.stock = None;
        if self.failed.is_some() {
            return;
        }
        self.set_phase(MachinePhase::Opening);
        let what = format!("the machine's log cannot be opened: {error}");
        let remedy = "Make room on the cache disk, or bring it back; it is tried again each second.";
        self.spec.board.raise(IssueCode::CacheFailed, Severity::Critical, what, remedy);
        ctx.run_later(CACHE_PAUSE, |machine, ctx| {
            if machine.failed.is_none() {
                machine.take_stock(ctx);
            }
        });
    }

    /// The key that an agent brought does not open the log. Whoever has the right one may come.
    fn key_is_wrong(&mut self, text: &str) {
        warn!(self.log, "the key that an agent brought does not open the log"; "why" => text);
        self.set_phase(MachinePhase::Locked);
        let what = format!("the data key that the machine's agent brought does not open its log: {text}");
        self.spec.board.raise(IssueCode::VaultLocked, Severity::Critical, what, "Enrol the machine again.");
        self.refuse_those_who_wait(
            RefusalCode::VaultLocked,
            "the data key that the agent brought does not open the machine's log",
        );
    }

    fn cache_is_lost(&mut self, error: CacheError) {
        let remedy = "Assign the machine again: with a new epoch it starts with an empty cache, and nothing is lost.";
        self.spec.board.raise(IssueCode::CacheLost, Severity::Critical, error.to_string(), remedy);
        self.fail(error.into(), MachinePhase::Failed);
    }

    fn vault_is_damaged(&mut self, text: &str) {
        self.spec.board.vault_is_damaged(text);
        let error = DataError::VaultDamaged(text.into());
        self.refuse_those_who_wait(RefusalCode::NotReady, &error.to_string());
        self.waiters.drain(..).for_each(|waiter| drop(waiter.send(Err(error.clone()))));
    }

    /// The log cannot be written by this life any more.
    pub(super) fn fail(&mut self, error: DataError, phase: MachinePhase) {
        warn!(self.log, "the log is not written any more"; "why" => %error, "at" => now().0);
        self.set_phase(phase);
        self.waiters.drain(..).for_each(|waiter| drop(waiter.send(Err(error.clone()))));
        self.end_sessions(&error);
        self.failed = Some(error);
        self.streams.dismiss(&());
        self.compactors.dismiss(&());
        self.scrubbers.dismiss(&());
        self.finish_leaving();
    }
}

fn remove_discarded(dir: &CacheDir, discarded: &[Discarded]) -> Result<(), CacheError> {
    discarded.iter().try_for_each(|discarded| dir.remove(discarded.segment))
}
