//! One scrub, when it is this machine's turn: on a thread of the back room, one at a time for the whole process server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use bytes::{Bytes, BytesMut};
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::file::SegmentFile;
use farshore_engine::cache::{CacheError, note::Note};
use farshore_engine::ids::{Slot, TimelineId};
use farshore_engine::log::SegmentNo;
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::segment_view::{LogSource, ObjectPlace};
use farshore_engine::vault::repair::{Copies, Proof};
use farshore_engine::vault::scrub::{Scrubbed, Slice, scrub as read_again};
use slog::warn;

use crate::data::back_room::Throttle;
use crate::data::ledger::MachineSpec;

/// What is to be read.
pub(super) struct Work {
    pub(super) slice: Option<Slice>,
    /// Beside it; `None`: what the life before has noted.
    pub(super) suspects: Option<Vec<String>>,
}

/// Reads it, and notes what is damaged.
pub(super) async fn scrub(spec: MachineSpec, over: Arc<AtomicBool>, work: Work) -> Result<Scrubbed, ReadError> {
    let _turn = spec.wiring.scrubbing.lock().await;
    if over.load(SeqCst) {
        return Ok(Scrubbed { cut_off: true, ..Scrubbed::default() });
    }
    let config = &spec.wiring.config;
    let dir = CacheDir::open(config.io.clone(), &config.cache_dir, spec.machine, spec.timeline).ok();
    let noted = || dir.as_ref().map(CacheDir::suspects).unwrap_or_default();
    let suspects = work.suspects.unwrap_or_else(noted);
    let source = LogSource::new(config.store.clone(), spec.machine, spec.data_key());
    let bytes_per_second_max = config.limits.scrubbing.bytes_per_second_max;
    let pace = Throttle { over, wiring: spec.wiring.clone(), bytes_per_second_max };
    let copies = Cached(dir.clone());
    let done = read_again(&source, work.slice, &suspects, (&copies, Proof::Required), &pace).await?;
    let names: Vec<String> = done.damaged.iter().map(|damaged| damaged.found.object.clone()).collect();
    if let Some(dir) = dir.filter(|_| !done.cut_off && names != suspects)
        && let Err(error) = dir.note_suspects(&names)
    {
        warn!(config.log, "damaged objects are not remembered over a restart"; "why" => %error);
    }
    Ok(done)
}

/// Segments that are committed and still lie in the cache.
struct Cached(Option<CacheDir>);

#[async_trait::async_trait]
impl Copies for Cached {
    async fn copies_of(&self, timeline: TimelineId, place: ObjectPlace) -> Result<Vec<Bytes>, String> {
        let (Some(dir), ObjectPlace::Slot(slot)) = (&self.0, place) else { return Ok(Vec::new()) };
        if dir.timeline() != timeline {
            return Ok(Vec::new());
        }
        let segments = dir.segments().map_err(|error| error.to_string())?;
        // One that is thrown out meanwhile, or is damaged itself, is no copy.
        Ok(segments.into_iter().filter_map(|segment| object_of(dir, segment, slot).ok().flatten()).collect())
    }
}

/// The object as it was sent, where the segment was sealed for this slot.
fn object_of(dir: &CacheDir, segment: SegmentNo, slot: Slot) -> Result<Option<Bytes>, CacheError> {
    let file = SegmentFile::open(dir, segment)?;
    let Some(note) = file.note()?.filter(|note: &Note| note.place.slot == slot) else { return Ok(None) };
    let (items, footer) = (file.read_items(note.items_end)?, file.read_footer(&note)?);
    let mut object = BytesMut::with_capacity(items.len() + footer.len());
    object.extend_from_slice(&items);
    object.extend_from_slice(&footer);
    Ok(Some(object.freeze()))
}
