//! A process server's uploads: what its committer says is done here, with a store that fails as stores do.

use super::context::{Context, Event, ProcessEvent};
use super::counters::Seen;
use super::log::ModelLog;
use super::mutation::Mutation;
use super::process::{End, Process};
use super::schedule::Kind;
use super::world::SERVERS;
use crate::cache::CacheError;
use crate::cache::file::SegmentFile;
use crate::cache::note::Note;
use crate::cache::recover::reindex;
use crate::ids::{Salt, Slot, Timestamp};
use crate::log::SegmentNo;
use crate::log::committer::{Attempt, Effect, Found, LogObject, Offer, StopReason};
use crate::log::sequencer::ClosedSegment;
use crate::vault::segment::{
    Control, FooterDigest, FooterPlace, LogVersion, SegmentIdentity, SegmentIndex, seal_control, seal_footer,
};
use crate::vault::state::LogState;
use crate::vault::store::{PutOutcome, StoreErrorKind};

impl Process {
    pub(super) fn offer(&mut self, closed: ClosedSegment, note: Option<Note>, log: &ModelLog, ctx: &mut Context) {
        let offer = Offer {
            segment: closed.segment,
            salt: closed.identity.salt,
            last: closed.last,
            items_end: closed.items_end,
            footer: note.map(|note| (note.place, note.digest)),
        };
        ctx.say(self.name(), format!("segment {} is closed: LSN {} to {}", closed.segment, closed.first, closed.last));
        self.closed.insert(closed.segment, (closed, note));
        let Some(committer) = &mut self.committer else { return };
        let effects = committer.offer(offer);
        self.perform(effects, log, ctx);
    }

    pub(super) fn perform(&mut self, effects: Vec<Effect>, log: &ModelLog, ctx: &mut Context) {
        for effect in effects {
            match effect {
                Effect::SealFence { attempt, place, state_of } => self.seal_fence(attempt, place, state_of, log, ctx),
                Effect::Seal { attempt, segment, place } => {
                    let sealed = self.seal(attempt, segment, place, log, ctx);
                    self.or_again(sealed, ctx);
                }
                Effect::Stage { attempt, .. } => {
                    let fails = ctx.store_fails();
                    let longest = ctx.store_takes(20_000);
                    self.later(500, longest, ProcessEvent::Staged(attempt, !fails), ctx);
                }
                Effect::Publish { attempt, object, slot, footer } => {
                    let published = self.publish(attempt, object, slot, footer, ctx);
                    self.or_again(published, ctx);
                }
                Effect::Look { attempt, slot } => self.later(300, 5000, ProcessEvent::Look(attempt, slot), ctx),
                Effect::RetryAfter { attempt, after } => {
                    let event = ProcessEvent::Retry(attempt);
                    ctx.at(ctx.now + after, Event::Process { server: self.server, life: self.life, event });
                }
                Effect::Adopted { fence, state_of } => {
                    ctx.seen(Seen::Adopted);
                    ctx.say(self.name(), format!("the log is its own from slot {fence} on"));
                    let state = self.state_behind(state_of, log);
                    self.committed = state.last_lsn;
                    self.open_log(state, log, ctx);
                }
                Effect::Committed { segment, slot, last, .. } => self.segment_committed(segment, slot, last, ctx),
                Effect::Stopped(reason) => self.stopped(reason, ctx),
            }
        }
    }

    fn or_again(&mut self, result: Result<(), CacheError>, ctx: &mut Context) {
        if let Err(error) = result {
            ctx.say(self.name(), format!("cannot go on: {error}"));
            self.end = Some(End::Again);
        }
    }

    fn state_behind(&self, state_of: Option<Slot>, log: &ModelLog) -> LogState {
        state_of.map_or_else(|| self.log_end.clone(), |slot| log.slots[slot.0 as usize].footer.state.clone())
    }

    fn seal_fence(
        &mut self,
        attempt: Attempt,
        place: FooterPlace,
        state_of: Option<Slot>,
        log: &ModelLog,
        ctx: &mut Context,
    ) {
        let identity = SegmentIdentity {
            machine: log.machine,
            timeline: log.timeline,
            epoch: self.owner.epoch,
            writer: self.owner.writer,
            salt: Salt::draw(&mut ctx.chance),
            created_at: Timestamp(0),
            version: LogVersion::V1,
        };
        let state = self.state_behind(state_of, log);
        let salt = Salt::draw(&mut ctx.chance);
        let sealed = seal_control(&log.key, &identity, Control::Fence, place, &state, salt, Timestamp(0));
        self.objects.insert(sealed.digest.0, sealed.bytes);
        self.later(100, 1000, ProcessEvent::FooterSealed(attempt, sealed.digest), ctx);
    }

    fn seal(
        &mut self,
        attempt: Attempt,
        segment: SegmentNo,
        place: FooterPlace,
        log: &ModelLog,
        ctx: &mut Context,
    ) -> Result<(), CacheError> {
        let closed = &self.closed[&segment].0;
        let made: SegmentIndex;
        let index = match &closed.index {
            Some(index) => index,
            None => {
                made = reindex(&self.dir, closed, &log.key)?;
                &made
            }
        };
        let salt = Salt::draw(&mut ctx.chance);
        let state = &closed.state_after;
        let footer = seal_footer(&log.key, &closed.identity, place, index, state, salt, Timestamp(0), closed.items_end);
        let mut file = SegmentFile::open(&self.dir, segment)?;
        if !closed.abandoned && ctx.chance.happens(800) {
            // A footer that does not get into the file costs nothing but the key after a restart.
            let _ = file.write_footer(closed.items_end, &footer.bytes, place, footer.digest);
        }
        let object = [file.read_items(closed.items_end)?, footer.bytes].concat();
        self.objects.insert(footer.digest.0, object.into());
        self.later(100, 1000, ProcessEvent::FooterSealed(attempt, footer.digest), ctx);
        Ok(())
    }

    fn publish(
        &mut self,
        attempt: Attempt,
        object: LogObject,
        slot: Slot,
        footer: FooterDigest,
        ctx: &mut Context,
    ) -> Result<(), CacheError> {
        let object = match object {
            LogObject::Fence => self.objects[&footer.0].clone(),
            LogObject::Segment(segment) => self.object(segment, footer)?,
        };
        ctx.say(self.name(), format!("publishes into slot {slot}"));
        let (by, machine) = (self.owner, self.server / SERVERS);
        if ctx.is(Mutation::PublishedWhenSent) {
            ctx.within(1000, 40_000, Event::Land { machine, slot, object, by, waits: None });
            self.later(10, 20, ProcessEvent::Published(attempt, Some(PutOutcome::Created)), ctx);
        } else if ctx.store_fails() {
            self.later(1000, 50_000, ProcessEvent::Published(attempt, None), ctx);
        } else if ctx.suffers(Kind::StoreTears, Seen::StoreTorn) {
            self.later(1000, 50_000, ProcessEvent::StagedLost(attempt), ctx);
        } else if ctx.suffers(Kind::AnswersLost, Seen::StoreErrorAfter) {
            ctx.within(1000, 50_000, Event::Land { machine, slot, object, by, waits: None });
            self.later(50_000, 90_000, ProcessEvent::Published(attempt, None), ctx);
        } else if ctx.suffers(Kind::LandsLate, Seen::StoreLate) {
            ctx.within(50_000, 900_000, Event::Land { machine, slot, object, by, waits: None });
            self.later(1000, 50_000, ProcessEvent::Published(attempt, None), ctx);
        } else {
            let waits = Some((self.server, self.life, attempt));
            let longest = ctx.store_takes(30_000);
            ctx.within(1000, longest, Event::Land { machine, slot, object, by, waits });
        }
        Ok(())
    }

    fn segment_committed(&mut self, segment: SegmentNo, slot: Slot, last: crate::ids::Lsn, ctx: &mut Context) {
        ctx.say(self.name(), format!("segment {segment} is committed in slot {slot}, up to LSN {last}"));
        ctx.seen(Seen::SegmentCommitted);
        self.closed.remove(&segment);
        if ctx.chance.happens(500) {
            // Room is needed. A file that stays is found committed after a restart.
            let _ = self.dir.remove(segment);
        }
        self.tell_committed(last);
    }

    fn stopped(&mut self, reason: StopReason, ctx: &mut Context) {
        ctx.say(self.name(), format!("stops: {reason:?}"));
        self.end = Some(match reason {
            StopReason::Fenced { .. } => End::Fenced,
            StopReason::Reread { .. } | StopReason::Damaged { .. } => End::Again,
        });
    }

    pub(super) fn footer_sealed(&mut self, attempt: Attempt, digest: FooterDigest, log: &ModelLog, ctx: &mut Context) {
        let effects = self.committer.as_mut().map(|committer| committer.sealed(attempt, digest));
        self.perform(effects.unwrap_or_default(), log, ctx);
    }

    pub(super) fn staged(&mut self, attempt: Attempt, done: bool, log: &ModelLog, ctx: &mut Context) {
        let Some(committer) = &mut self.committer else { return };
        let effects = if done { committer.staged(attempt) } else { committer.stage_failed(attempt) };
        self.perform(effects, log, ctx);
    }

    pub(super) fn published(
        &mut self,
        attempt: Attempt,
        outcome: Option<PutOutcome>,
        log: &ModelLog,
        ctx: &mut Context,
    ) {
        let Some(committer) = &mut self.committer else { return };
        let effects = match outcome {
            None if ctx.is(Mutation::LostAnswerIsSuccess) => committer.published(attempt, PutOutcome::Created),
            None => committer.publish_failed(attempt, StoreErrorKind::Unavailable),
            Some(outcome) => committer.published(attempt, outcome),
        };
        self.perform(effects, log, ctx);
    }

    /// What was staged is not whole: the store knows nothing of it.
    pub(super) fn staged_lost(&mut self, attempt: Attempt, log: &ModelLog, ctx: &mut Context) {
        let Some(committer) = &mut self.committer else { return };
        let effects = committer.publish_failed(attempt, StoreErrorKind::NotFound);
        self.perform(effects, log, ctx);
    }

    pub(super) fn look(&mut self, attempt: Attempt, slot: Slot, log: &ModelLog, ctx: &mut Context) {
        let Some(committer) = &mut self.committer else { return };
        if ctx.store_fails() {
            let effects = committer.look_failed(attempt);
            return self.perform(effects, log, ctx);
        }
        let mut found = log.found(slot);
        if let Found::Object { owner, digest: _, .. } = &mut found {
            let newer = owner.epoch > self.owner.epoch;
            if ctx.is(Mutation::FilledSlotIsPassedOver) || (newer && ctx.is(Mutation::NewerOwnerIsIgnored)) {
                owner.epoch = crate::ids::Epoch(0);
            }
        }
        if let (true, Found::Object { digest, .. }) = (ctx.is(Mutation::FilledSlotIsPassedOver), &mut found) {
            digest.0[0] ^= 1;
        }
        let effects = committer.found(attempt, &found);
        self.perform(effects, log, ctx);
    }

    pub(super) fn retry(&mut self, attempt: Attempt, log: &ModelLog, ctx: &mut Context) {
        let effects = self.committer.as_mut().map(|committer| committer.retry(attempt));
        self.perform(effects.unwrap_or_default(), log, ctx);
    }
}
