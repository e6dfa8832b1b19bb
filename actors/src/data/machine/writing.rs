//! The log's way through the machine: batch in, frames to the disks, one append and one sync for all that waits,
//! acknowledgement, closed segments to the upload stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::cache::CacheError;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::file::SegmentFile;
use farshore_engine::cache::recover::reindex;
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::{DiskNo, Lsn, Salt};
use farshore_engine::log::SegmentNo;
use farshore_engine::log::sequencer::{AppendJob, AppendNo, Dispatch, LogOf, Sequencer};
use farshore_engine::record::RecordAt;
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::segment::{FrameSealer, SegmentIdentity};
use farshore_engine::vault::state::LogState;
use parking_lot::Mutex;
use slog::{error, warn};

use super::book::{Book, CommitFact, Done};
use super::{Machine, now};
use crate::data::agent_session::{AppendBatch, ToSession};
use crate::data::board::Spare;
use crate::data::disk::{Disk, DiskSpec, FramesSealed, SealFrame};
use crate::data::ledger::MachineSpec;
use crate::data::upload::{OfferSegment, SegmentCommitted};
use crate::data::{DataEventKind, IssueCode};
use crate::supervise::{Credit, OsChance, TurnError, Warden};

/// How long agents wait after a write to the cache disk failed.
pub(super) const CACHE_PAUSE: Duration = Duration::from_secs(1);

/// The open log.
pub(super) struct LogWriter {
    pub(super) sequencer: Sequencer,
    pub(super) book: Book,
    pub(super) dir: CacheDir,
    key: DataKey,
    /// The file being appended to; only the one append under way touches it.
    file: Arc<Mutex<Option<SegmentFile>>>,
    /// Credit of batches that are not durable, by last LSN.
    credits: VecDeque<(Lsn, Credit)>,
    /// The newest segment's sealer, for batch ends: they are small and sealed where they are.
    sealer: Option<(Salt, FrameSealer)>,
    /// When the timer that closes the open segment goes off.
    close_timer: Option<(Duration, SpawnHandle)>,
    /// Whether the upload stream takes offers.
    pub(super) stream_open: bool,
}

impl LogWriter {
    pub(super) fn new(spec: &MachineSpec, dir: CacheDir, state: LogState, next_segment: SegmentNo, book: Book) -> Self {
        let log = LogOf { machine: spec.machine, timeline: spec.timeline, owner: spec.owner };
        let limits = spec.wiring.config.limits.sequencer;
        Self {
            sequencer: Sequencer::new(log, limits, state, next_segment),
            book,
            dir,
            key: spec.key.get().expect("the log is opened with the key"),
            file: Arc::default(),
            credits: VecDeque::new(),
            sealer: None,
            close_timer: None,
            stream_open: true,
        }
    }

    fn sealer(&mut self, identity: SegmentIdentity) -> &FrameSealer {
        if self.sealer.as_ref().is_none_or(|(salt, _)| *salt != identity.salt) {
            self.sealer = Some((identity.salt, FrameSealer::new(&self.key, identity)));
        }
        &self.sealer.as_ref().expect("just made").1
    }

    /// Everything that is durable, closed and committed.
    pub(super) fn is_flushed(&self) -> bool {
        self.sequencer.is_idle() && !self.sequencer.is_appending() && self.book.is_empty()
    }
}

impl Machine {
    fn accept(&mut self, msg: AppendBatch, ctx: &mut Context<Self>) {
        if !self.is_ready() || !self.sessions.is_open(msg.session) {
            return;
        }
        let Some(writer) = &mut self.writer else { return };
        let last = msg.batch.last;
        writer.sequencer.begin_in(self.spec.packing().version());
        match writer.sequencer.accept(msg.batch, self.spec.wiring.now(), now(), &mut OsChance) {
            Ok(dispatch) => {
                writer.credits.push_back((last, msg.credit));
                self.dispatch(dispatch, ctx);
            }
            Err(refused) => self.end_session(&format!("the batch is not accepted: {refused}")),
        }
        self.upkeep(ctx);
    }

    fn dispatch(&mut self, dispatch: Dispatch, ctx: &mut Context<Self>) {
        let (batch, identity) = (dispatch.batch, dispatch.identity);
        for job in dispatch.frames {
            let spec = DiskSpec { machine: self.spec.clone(), disk: job.disk, home: ctx.address().downgrade() };
            if !self.disks.contains(&job.disk) {
                Warden::<Disk>::admit(self, job.disk, spec, ctx);
            }
            // A disk that is being restarted gets all it has to seal when it is back.
            if let Some(disk) = self.disks.get(&job.disk) {
                disk.do_send(SealFrame { batch, identity, job });
            }
        }
        let Some(writer) = &mut self.writer else { return };
        let end = dispatch.end;
        let sealer = writer.sealer(identity);
        let item = sealer.seal_batch_end(end.number, end.first, end.last, end.frames, &end.records);
        writer.sequencer.sealed(batch, item);
    }

    /// A disk's actor was made anew: what the last one had in hand is sealed again, under new numbers.
    pub(super) fn dispatch_again(&mut self, disk: DiskNo, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        for dispatch in writer.sequencer.dispatch_again(disk) {
            self.dispatch(dispatch, ctx);
        }
        self.upkeep(ctx);
    }

    fn frames_are_sealed(&mut self, sealed: FramesSealed, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        for (batch, item) in sealed.frames {
            match item {
                Ok(item) => drop(writer.sequencer.sealed(batch, item)),
                Err(error) => {
                    let what = format!("what the agent sent cannot be sealed: {error}");
                    writer.sequencer.forget_waiting();
                    writer.credits.clear();
                    self.spec.board.raise(
                        IssueCode::Unsealable,
                        Severity::Critical,
                        what.clone(),
                        "Report this defect.",
                    );
                    self.end_session(&what);
                    break;
                }
            }
        }
        self.upkeep(ctx);
    }

    /// After every event, in this order.
    pub(super) fn upkeep(&mut self, ctx: &mut Context<Self>) {
        self.life.progress();
        self.append_what_is_ready(ctx);
        self.offer_what_is_closed();
        self.set_close_timer(ctx);
        self.show();
        self.finish_leaving();
    }

    fn append_what_is_ready(&mut self, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        let Some(job) = writer.sequencer.take_append() else { return };
        let (append, dir, file) = (job.append, writer.dir.clone(), writer.file.clone());
        let (turn, pool) = (self.turn.clone(), self.spec.wiring.file_pool.clone());
        let appending = async move { turn.run(&pool, move || append_and_sync(&dir, &file, &job)).await };
        ctx.spawn(appending.into_actor(self).map(move |done, machine, ctx| machine.appended(append, done, ctx)));
    }

    fn appended(&mut self, append: AppendNo, done: Result<Result<(), CacheError>, TurnError>, ctx: &mut Context<Self>) {
        self.chaos();
        let Some(writer) = &mut self.writer else { return };
        match done {
            Ok(Ok(())) => {
                let before = writer.credits.len();
                let durable = writer.sequencer.appended_and_synced(append);
                while writer.credits.front().is_some_and(|(last, _)| *last <= durable) {
                    writer.credits.pop_front();
                }
                let batches = (before - writer.credits.len()) as u64;
                self.spec.board.edit(|status| status.batches += batches);
                self.spec.board.clear(IssueCode::CacheFailed);
                self.spec.board.clear(IssueCode::CacheFull);
                self.to_session(ToSession::Durable(durable));
            }
            Ok(Err(error)) => self.append_failed(append, &error),
            Err(TurnError::Superseded) => return ctx.stop(),
            Err(TurnError::Offload(error)) => panic!("append to the cache: {error}"),
        }
        self.upkeep(ctx);
    }

    /// Never tried again: the file is abandoned, the agent connects again and sends what is not durable.
    fn append_failed(&mut self, append: AppendNo, error: &CacheError) {
        error!(self.log, "a write to the cache disk failed"; "error" => %error);
        let Some(writer) = &mut self.writer else { return };
        writer.sequencer.failed(append);
        writer.credits.clear();
        let (code, remedy) = match error.is_full() {
            true => (IssueCode::CacheFull, "Make room on the cache disk; agents keep what is not durable."),
            false => (IssueCode::CacheFailed, "Look at the cache disk; agents keep what is not durable."),
        };
        self.spec.board.raise(code, Severity::Critical, error.to_string(), remedy);
        self.sessions.pause_until(self.spec.wiring.now() + CACHE_PAUSE);
        self.end_session(&format!("the process server could not write its cache: {error}"));
    }

    fn offer_what_is_closed(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        while let Some(closed) = writer.sequencer.take_closed() {
            let waiting = writer.book.add(closed, None);
            if writer.stream_open
                && let Some(stream) = self.streams.get(&())
            {
                stream.do_send(OfferSegment { closed: waiting.closed, note: waiting.note });
            }
        }
    }

    /// Offers everything that waits: the stream has just opened.
    pub(super) fn offer_all(&mut self) {
        let (Some(writer), Some(stream)) = (&mut self.writer, self.streams.get(&())) else { return };
        writer.stream_open = true;
        for waiting in writer.book.waiting() {
            stream.do_send(OfferSegment { closed: waiting.closed.clone(), note: waiting.note });
        }
    }

    /// The stream, or a later life of it, has read the vault's log up to `state`. What it holds of what waited is
    /// committed, and tells its marks and gaps as ever; records that are not in memory are read from the cache first.
    pub(super) fn offer_again(&mut self, state: LogState, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        let unread = writer.book.unread(&state);
        if unread.is_empty() {
            return self.caught_up(state, &BTreeMap::new(), ctx);
        }
        let (dir, key, turn) = (writer.dir.clone(), writer.key.clone(), self.turn.clone());
        let (pool, log) = (self.spec.wiring.file_pool.clone(), self.log.clone());
        let read = move || {
            let records = unread.iter().map(|closed| (closed.segment, reindex(&dir, closed, &key)));
            let mut read = BTreeMap::new();
            for (segment, index) in records {
                match index {
                    Ok(index) => drop(read.insert(segment, index.records().to_vec())),
                    Err(error) => warn!(log, "a committed segment's marks are not told"; "why" => %error),
                }
            }
            read
        };
        let reading = async move { turn.run(&pool, read).await };
        ctx.spawn(reading.into_actor(self).map(move |read, machine, ctx| match read {
            Ok(read) => machine.caught_up(state, &read, ctx),
            Err(TurnError::Superseded) => ctx.stop(),
            Err(TurnError::Offload(error)) => panic!("read from the cache: {error}"),
        }));
    }

    fn caught_up(&mut self, state: LogState, read: &BTreeMap<SegmentNo, Vec<RecordAt>>, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        let (done, facts) = writer.book.catch_up(state, read);
        let committed = writer.book.committed();
        done.into_iter().for_each(|done| self.keep_as_spare(done));
        facts.into_iter().for_each(|fact| self.tell(fact));
        self.to_session(ToSession::Committed(committed));
        self.offer_all();
        self.upkeep(ctx);
    }

    pub(super) fn stream_is_lost(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.stream_open = false;
        }
    }

    fn segment_is_committed(&mut self, msg: &SegmentCommitted, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        let Some((done, facts)) = writer.book.commit(msg.segment, &msg.records) else { return };
        self.spec.board.edit(|status| status.next_slot = status.next_slot.max(msg.slot.next()));
        self.keep_as_spare(done);
        facts.into_iter().for_each(|fact| self.tell(fact));
        self.to_session(ToSession::Committed(msg.last));
        self.upkeep(ctx);
    }

    fn keep_as_spare(&self, done: Done) {
        let order = self.spec.wiring.next_commit();
        self.spec.board.spare_added(Spare { order, segment: done.segment, bytes: done.bytes });
    }

    fn tell(&self, fact: CommitFact) {
        self.spec.board.tell(match fact {
            CommitFact::Mark { mark, lsn, disks } => DataEventKind::MarkCommitted { mark, lsn, disks },
            CommitFact::GapOpened { disk, gap } => {
                DataEventKind::GapOpened { disk, from: gap.from, reason: gap.reason }
            }
            CommitFact::GapClosed { disk, at } => DataEventKind::GapClosed { disk, at },
        });
    }

    fn set_close_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(writer) = &mut self.writer else { return };
        let due = writer.sequencer.closes_at();
        if writer.close_timer.as_ref().map(|(at, _)| *at) == due {
            return;
        }
        if let Some((_, timer)) = writer.close_timer.take() {
            ctx.cancel_future(timer);
        }
        let Some(at) = due else { return };
        let wait = at.saturating_sub(self.spec.wiring.now());
        let timer = ctx.run_later(wait, |machine, ctx| {
            let time = machine.spec.wiring.now();
            if let Some(writer) = &mut machine.writer {
                writer.close_timer = None;
                writer.sequencer.tick(time);
            }
            machine.upkeep(ctx);
        });
        writer.close_timer = Some((at, timer));
    }

    fn show(&self) {
        let Some(writer) = &self.writer else { return };
        let spare_bytes = self.spec.board.spare_bytes();
        let backlog_bytes = writer.book.waiting_bytes() + writer.sequencer.open_bytes();
        self.spec.board.edit(|status| {
            status.durable = writer.sequencer.durable();
            status.committed = writer.book.committed();
            status.newest_mark = writer.book.newest_mark();
            status.idle_confirmed_at = writer.book.idle_confirmed_at();
            status.backlog_bytes = backlog_bytes;
            status.cached_bytes = backlog_bytes + spare_bytes;
        });
    }
}

/// Creates the file where that is due, appends and syncs. After any failure the file is let go of for good.
fn append_and_sync(dir: &CacheDir, file: &Mutex<Option<SegmentFile>>, job: &AppendJob) -> Result<(), CacheError> {
    let mut held = file.lock();
    let mut open = match &job.create {
        Some(identity) => SegmentFile::create(dir, job.segment, identity)?,
        None => held.take().expect("a segment's first append creates its file"),
    };
    assert_eq!(open.segment(), job.segment, "one segment is appended to at a time");
    match open.append(job.offset, &job.parts).and_then(|()| open.sync()) {
        Ok(()) => *held = Some(open),
        Err(error) => {
            // Before anything goes to the next file: or what was never durable could be found there after a crash.
            open.abandon(dir);
            return Err(error);
        }
    }
    Ok(())
}

impl Handler<AppendBatch> for Machine {
    type Result = ();

    fn handle(&mut self, msg: AppendBatch, ctx: &mut Self::Context) {
        self.chaos();
        self.accept(msg, ctx);
    }
}

impl Handler<FramesSealed> for Machine {
    type Result = ();

    fn handle(&mut self, msg: FramesSealed, ctx: &mut Self::Context) {
        self.chaos();
        self.frames_are_sealed(msg, ctx);
    }
}

impl Handler<SegmentCommitted> for Machine {
    type Result = ();

    fn handle(&mut self, msg: SegmentCommitted, ctx: &mut Self::Context) {
        self.chaos();
        self.segment_is_committed(&msg, ctx);
    }
}
