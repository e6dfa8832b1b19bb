//! A log whose key has not come yet: what an earlier life of this process sealed is sent all the same, byte for byte.
//!
//! ```text
//!   each sealed segment, in order:   its slot is filled? ── with these very bytes ─► the next one
//!                                        │ no              └ with others ─► stop: the key decides
//!                                        ▼
//!                                    the slot before holds the footer that this one was sealed behind? ── no ─► stop
//!                                        │ yes
//!                                        ▼
//!                                    stage, publish if absent ─► the next one
//! ```
//!
//! Why that is safe without opening anything (I4): a footer names its slot, and by digest the footer before it. If that one
//! lies where it should, nobody has filled a slot in between, and no fence; if a fence comes now, publishing finds the slot
//! filled. What is sent is exactly what the owner would send once it has the key. A segment that has no footer yet waits: a
//! footer is sealed with the key.

use actix::prelude::*;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::file::SegmentFile;
use farshore_engine::cache::note::Note;
use farshore_engine::ids::Slot;
use farshore_engine::log::SegmentNo;
use farshore_engine::vault::read::segment_view::footer_digest_in;
use farshore_engine::vault::segment::FooterDigest;
use farshore_engine::vault::store::PutOutcome;
use slog::{info, warn};

use super::Machine;
use super::adopt::VAULT_PAUSE;
use crate::data::MachinePhase;
use crate::data::ledger::MachineSpec;
use crate::data::upload::{WorkError, put};
use crate::supervise::LaneTurn;

/// What became of one segment.
enum Sent {
    /// It fills its slot now.
    Now,
    /// It did already.
    Before,
    /// The log goes on in another way.
    Not,
}

impl Machine {
    /// Sends what is sealed, as long as there is no key.
    pub(super) fn send_sealed(&mut self, ctx: &mut Context<Self>) {
        let Some(stock) = self.stock.as_ref().filter(|stock| stock.owner == Some(self.spec.owner)) else { return };
        if self.phase() != MachinePhase::Locked {
            return;
        }
        let segments = stock.recovered.segments.iter();
        let sealed: Vec<_> = segments.filter_map(|found| Some((found.segment, found.note?))).collect();
        if sealed.is_empty() {
            return;
        }
        let (spec, dir, turn) = (self.spec.clone(), stock.dir.clone(), self.turn.clone());
        let sending = async move { send_all(&spec, &dir, &turn, &sealed).await };
        ctx.spawn(sending.into_actor(self).map(|sent, machine, ctx| match sent {
            Ok(segments) => {
                machine.life.progress();
                machine.spec.wiring.vault_answered(true);
                machine.spec.board.edit(|status| status.uploads.segments += segments);
                if segments > 0 {
                    info!(machine.log, "sealed segments were sent without a key"; "segments" => segments);
                }
            }
            Err(WorkError::Store { text, .. }) => {
                machine.spec.wiring.vault_answered(false);
                warn!(machine.log, "sealed segments wait for the vault"; "why" => text);
                ctx.run_later(VAULT_PAUSE, Self::send_sealed);
            }
            // With the key it is looked at closely, and told.
            Err(WorkError::Damaged(text) | WorkError::Cache(text)) => {
                warn!(machine.log, "sealed segments wait for the key"; "why" => text);
            }
        }));
    }
}

/// How many were sent.
async fn send_all(
    spec: &MachineSpec,
    dir: &CacheDir,
    turn: &LaneTurn,
    sealed: &[(SegmentNo, Note)],
) -> Result<u64, WorkError> {
    let mut sent = 0;
    for (segment, note) in sealed {
        match send(spec, dir, turn, *segment, *note).await? {
            Sent::Now => sent += 1,
            Sent::Before => {}
            Sent::Not => break,
        }
    }
    Ok(sent)
}

async fn send(
    spec: &MachineSpec,
    dir: &CacheDir,
    turn: &LaneTurn,
    segment: SegmentNo,
    note: Note,
) -> Result<Sent, WorkError> {
    let (slot, store) = (note.place.slot, &spec.wiring.config.store);
    let digest_in =
        async |slot: Slot| -> Result<_, WorkError> { Ok(footer_digest_in(&**store, &spec.slot_name(slot)).await?) };
    if let Some(found) = digest_in(slot).await? {
        return Ok(if found == note.digest { Sent::Before } else { Sent::Not });
    }
    let before = match slot.0.checked_sub(1) {
        Some(before) => digest_in(Slot(before)).await?,
        None => Some(FooterDigest::NONE),
    };
    if before != Some(note.place.previous) {
        return Ok(Sent::Not);
    }
    let _credit = spec.wiring.uploads.take(note.object_bytes as usize).await;
    let dir = dir.clone();
    let reading = move || {
        let file = SegmentFile::open(&dir, segment)?;
        Ok::<_, farshore_engine::cache::CacheError>(vec![file.read_items(note.items_end)?, file.read_footer(&note)?])
    };
    let parts = turn.run(&spec.wiring.file_pool, reading).await??;
    let staged = put(spec, slot, parts, note.digest).await?;
    match store.publish(&staged).await? {
        PutOutcome::Created => Ok(Sent::Now),
        // Whose it is shows the next look; none is taken, because the key will come and look more closely.
        PutOutcome::AlreadyExists => Ok(Sent::Not),
    }
}
