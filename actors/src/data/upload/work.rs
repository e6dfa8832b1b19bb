//! The work of an upload stream: sealing footers, staging, publishing, looking. Each piece is one future of the actor;
//! what blocks or computes runs in the pools.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use farshore_engine::cache::CacheError;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::file::SegmentFile;
use farshore_engine::cache::recover::reindex;
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::{Salt, Slot};
use farshore_engine::log::SegmentNo;
use farshore_engine::log::committer::{Attempt, LogObject};
use farshore_engine::record::RecordAt;
use farshore_engine::vault::segment::{
    Control, FooterDigest, FooterPlace, LogVersion, SealedControl, SegmentIdentity, SegmentIndex, seal_control,
    seal_footer,
};
use farshore_engine::vault::state::LogState;
use farshore_engine::vault::store::{PutOutcome, Staged, StoreError, StoreErrorKind};

use super::slot::{look, open_slot};
use super::{IssueCode, OfferSegment, StreamStopped, UploadStream};
use crate::data::ledger::MachineSpec;
use crate::supervise::{LaneTurn, OsChance, TurnError, wall_clock};

/// Pause before a step is tried again that the committer has no answer for.
const STEP_PAUSE: Duration = Duration::from_millis(500);

/// Why a piece of work failed.
#[derive(Debug)]
pub(in crate::data) enum WorkError {
    /// The store did not do it, or may have.
    Store { kind: StoreErrorKind, text: String },
    /// What the store gave cannot be read.
    Damaged(String),
    /// The cache file cannot be read.
    Cache(String),
}

/// A segment with its footer.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) segment: SegmentNo,
    footer: Bytes,
    digest: FooterDigest,
    items_end: u64,
    pub(super) frames: u64,
    pub(super) records: Arc<[RecordAt]>,
}

impl Ready {
    pub(super) fn object_bytes(&self) -> u64 {
        self.items_end + self.footer.len() as u64
    }
}

impl UploadStream {
    /// Makes a fence record. Its state is the log's: the tail's, or that of an older owner's object found behind it.
    pub(super) fn seal_fence(
        &mut self,
        attempt: Attempt,
        place: FooterPlace,
        state_of: Option<Slot>,
        ctx: &mut Context<Self>,
    ) {
        let (spec, known) = (self.spec.machine.clone(), self.states.get(&state_of).cloned());
        let reading = async move {
            if let Some(known) = known {
                return Ok(known);
            }
            let slot = state_of.expect("the state at the log's end was read with it");
            let view = open_slot(&spec, slot).await?;
            let missing = || WorkError::Damaged(format!("slot {slot} was filled and is empty"));
            view.map(|view| view.footer.state).ok_or_else(missing)
        };
        ctx.spawn(reading.into_actor(self).map(move |state: Result<LogState, WorkError>, stream, ctx| match state {
            Ok(state) => {
                stream.states.insert(state_of, state.clone());
                stream.fence_state_is_known(attempt, place, &state, ctx);
            }
            Err(error) => {
                stream.failed(error, ctx);
                // Without a committer the log's end is read again first.
                if stream.committer.is_some() {
                    ctx.run_later(STEP_PAUSE, move |stream, ctx| stream.seal_fence(attempt, place, state_of, ctx));
                }
            }
        }));
    }

    fn fence_state_is_known(
        &mut self,
        attempt: Attempt,
        place: FooterPlace,
        state: &LogState,
        ctx: &mut Context<Self>,
    ) {
        let (spec, at) = (&self.spec.machine, wall_clock());
        let identity = SegmentIdentity {
            machine: spec.machine,
            timeline: spec.timeline,
            epoch: spec.owner.epoch,
            writer: spec.owner.writer,
            salt: Salt::draw(&mut OsChance),
            created_at: at,
            version: LogVersion::V1,
        };
        let salt = Salt::draw(&mut OsChance);
        let sealed = seal_control(&spec.data_key(), &identity, Control::Fence, place, state, salt, at);
        let digest = sealed.digest;
        self.fences.insert(digest, sealed);
        self.feed(ctx, |committer| committer.sealed(attempt, digest));
    }

    /// Seals a segment's footer for its place, and puts it behind the items in the cache.
    pub(super) fn seal(&mut self, attempt: Attempt, segment: SegmentNo, place: FooterPlace, ctx: &mut Context<Self>) {
        let Some(offer) = self.offers.get(&segment).cloned() else { return };
        let sealing = seal_segment(self.spec.machine.clone(), self.spec.dir.clone(), self.turn.clone(), offer, place);
        ctx.spawn(sealing.into_actor(self).map(move |sealed, stream, ctx| match sealed {
            Ok(ready) => {
                let digest = ready.digest;
                stream.ready.insert(digest, Arc::new(ready));
                stream.feed(ctx, |committer| committer.sealed(attempt, digest));
            }
            Err(error) => stream.failed(error, ctx),
        }));
    }

    /// Brings an object's bytes to the store, within the process server's credit.
    pub(super) fn stage(
        &mut self,
        attempt: Attempt,
        object: LogObject,
        slot: Slot,
        footer: FooterDigest,
        ctx: &mut Context<Self>,
    ) {
        let source = match object {
            LogObject::Fence => self.fences.get(&footer).cloned().map(Source::Fence),
            LogObject::Segment(segment) => match self.ready.get(&footer) {
                Some(ready) => Some(Source::Segment(ready.clone())),
                None => self.offers.get(&segment).cloned().map(Source::Sealed),
            },
        };
        let source = source.expect("what is staged was sealed by this life, or offered with its footer");
        let (spec, dir, turn) = (self.spec.machine.clone(), self.spec.dir.clone(), self.turn.clone());
        let staging = stage(spec, dir, turn, source, slot);
        ctx.spawn(staging.into_actor(self).map(move |staged, stream, ctx| match staged {
            Ok((staged, ready)) => {
                stream.store_answered();
                stream.staged.insert(footer, (object, staged));
                stream.ready.extend(ready.map(|ready| (footer, ready)));
                stream.feed(ctx, |committer| committer.staged(attempt));
            }
            Err(error) => {
                stream.failed(error, ctx);
                stream.feed(ctx, |committer| committer.stage_failed(attempt));
            }
        }));
    }

    /// Makes staged bytes the object in its slot, if none is there.
    pub(super) fn publish(&mut self, attempt: Attempt, footer: FooterDigest, ctx: &mut Context<Self>) {
        let (_, staged) = self.staged.get(&footer).cloned().expect("an object is published once it is staged");
        let spec = self.spec.machine.clone();
        let publishing = async move {
            let store = &spec.wiring.config.store;
            spec.store_call("publishing a segment", store.publish(&staged)).await
        };
        ctx.spawn(publishing.into_actor(self).map(move |outcome: Result<PutOutcome, StoreError>, stream, ctx| {
            match outcome {
                Ok(outcome) => {
                    stream.store_answered();
                    stream.feed(ctx, |committer| committer.published(attempt, outcome));
                }
                Err(error) => {
                    stream.store_failed(error.kind, &error.to_string());
                    stream.feed(ctx, |committer| committer.publish_failed(attempt, error.kind));
                }
            }
        }));
    }

    /// Reads what lies in a slot.
    pub(super) fn look(&mut self, attempt: Attempt, slot: Slot, ctx: &mut Context<Self>) {
        let looking = look(self.spec.machine.clone(), slot);
        ctx.spawn(looking.into_actor(self).map(move |found, stream, ctx| match found {
            Ok(found) => stream.feed(ctx, |committer| committer.found(attempt, &found)),
            Err(error) => {
                stream.failed(error, ctx);
                stream.feed(ctx, |committer| committer.look_failed(attempt));
            }
        }));
    }

    fn failed(&mut self, error: WorkError, ctx: &mut Context<Self>) {
        match error {
            WorkError::Store { kind, text } => self.store_failed(kind, &text),
            WorkError::Damaged(text) if self.committer.is_some() => self.vault_is_damaged(&text, ctx),
            // What was begun before the damage was seen; the log's end is read again already.
            WorkError::Damaged(_) => {}
            WorkError::Cache(text) => self.tell(StreamStopped::CacheDamaged(text)),
        }
    }
}

impl From<CacheError> for WorkError {
    fn from(error: CacheError) -> Self {
        Self::Cache(error.to_string())
    }
}

impl From<TurnError> for WorkError {
    fn from(error: TurnError) -> Self {
        Self::Cache(error.to_string())
    }
}

async fn seal_segment(
    spec: MachineSpec,
    dir: CacheDir,
    turn: LaneTurn,
    offer: OfferSegment,
    place: FooterPlace,
) -> Result<Ready, WorkError> {
    let (closed, key) = (offer.closed, spec.data_key());
    let loaded = match &closed.index {
        Some(_) => None,
        None => Some(load_index(&spec, &dir, &turn, &closed).await?),
    };
    let (for_seal, salt) = (closed.clone(), Salt::draw(&mut OsChance));
    let sealing = move || {
        let closed = for_seal;
        let index = loaded.as_ref().or(closed.index.as_ref()).expect("an index is kept or was loaded");
        let (identity, state, end) = (&closed.identity, &closed.state_after, closed.items_end);
        let footer = seal_footer(&key, identity, place, index, state, salt, wall_clock(), end);
        (footer, index.frames().len() as u64, Arc::<[RecordAt]>::from(index.records()))
    };
    let (footer, frames, records) = spec.wiring.seal_pool.run(sealing).await.map_err(TurnError::from)?;
    if !closed.abandoned {
        keep_footer(&spec, &dir, &turn, &closed, &footer.bytes, place, footer.digest).await?;
    }
    let (segment, items_end) = (closed.segment, closed.items_end);
    Ok(Ready { segment, footer: footer.bytes, digest: footer.digest, items_end, frames, records })
}

type Closed = farshore_engine::log::sequencer::ClosedSegment;

async fn load_index(
    spec: &MachineSpec,
    dir: &CacheDir,
    turn: &LaneTurn,
    closed: &Arc<Closed>,
) -> Result<SegmentIndex, WorkError> {
    let (dir, closed, key) = (dir.clone(), closed.clone(), spec.data_key());
    Ok(turn.run(&spec.wiring.file_pool, move || reindex(&dir, &closed, &key)).await??)
}

/// A footer that cannot be kept in the cache is no reason not to upload it: a restart would seal another one.
async fn keep_footer(
    spec: &MachineSpec,
    dir: &CacheDir,
    turn: &LaneTurn,
    closed: &Closed,
    footer: &Bytes,
    place: FooterPlace,
    digest: FooterDigest,
) -> Result<(), WorkError> {
    let (dir, segment, end, footer) = (dir.clone(), closed.segment, closed.items_end, footer.clone());
    let keeping = move || SegmentFile::open(&dir, segment)?.write_footer(end, &footer, place, digest);
    if let Err(error) = turn.run(&spec.wiring.file_pool, keeping).await? {
        let code = if error.is_full() { IssueCode::CacheFull } else { IssueCode::CacheFailed };
        spec.board.raise(code, Severity::Warning, error.to_string(), "Look at the cache disk.");
    }
    Ok(())
}

/// Where an object's bytes come from.
enum Source {
    Fence(SealedControl),
    Segment(Arc<Ready>),
    /// A segment whose footer an earlier life sealed for this very place.
    Sealed(OfferSegment),
}

async fn stage(
    spec: MachineSpec,
    dir: CacheDir,
    turn: LaneTurn,
    source: Source,
    slot: Slot,
) -> Result<(Staged, Option<Arc<Ready>>), WorkError> {
    let ready = match source {
        Source::Fence(fence) => return Ok((put(&spec, slot, vec![fence.bytes], fence.digest).await?, None)),
        Source::Segment(ready) => ready,
        Source::Sealed(offer) => Arc::new(reopen(&spec, &dir, &turn, &offer).await?),
    };
    let _credit = spec.wiring.uploads.take(ready.object_bytes() as usize).await;
    let (segment, end, footer) = (ready.segment, ready.items_end, ready.footer.clone());
    let reading = move || SegmentFile::open(&dir, segment)?.read_items(end);
    let items = turn.run(&spec.wiring.file_pool, reading).await??;
    Ok((put(&spec, slot, vec![items, footer], ready.digest).await?, Some(ready)))
}

/// A sealed segment of an earlier life, with what the machine wants to know of it.
async fn reopen(spec: &MachineSpec, dir: &CacheDir, turn: &LaneTurn, offer: &OfferSegment) -> Result<Ready, WorkError> {
    let note = offer.note.expect("a segment without a note is sealed first");
    let index = load_index(spec, dir, turn, &offer.closed).await?;
    let (dir, segment) = (dir.clone(), offer.closed.segment);
    let reading = move || SegmentFile::open(&dir, segment)?.read_footer(&note);
    let footer = turn.run(&spec.wiring.file_pool, reading).await??;
    Ok(Ready {
        segment: offer.closed.segment,
        footer,
        digest: note.digest,
        items_end: note.items_end,
        frames: index.frames().len() as u64,
        records: index.records().into(),
    })
}

/// Stages parts under a token that names epoch, writer and content, so that rivals' bytes never mix.
pub(in crate::data) async fn put(
    spec: &MachineSpec,
    slot: Slot,
    parts: Vec<Bytes>,
    digest: FooterDigest,
) -> Result<Staged, StoreError> {
    let token = format!("{:016x}-{}-{digest}", spec.owner.epoch.0, spec.owner.writer);
    let name = spec.slot_name(slot);
    let store = &spec.wiring.config.store;
    spec.store_call("staging a segment", store.stage(&name, &token, parts)).await
}
