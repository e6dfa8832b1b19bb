//! Copies of log objects that a process server still has: the segments in its cache.

use bytes::{Bytes, BytesMut};
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::file::SegmentFile;
use farshore_engine::cache::{CacheError, note::Note};
use farshore_engine::ids::{Slot, TimelineId};
use farshore_engine::log::SegmentNo;
use farshore_engine::vault::read::segment_view::ObjectPlace;
use farshore_engine::vault::repair::Copies;

use super::ledger::MachineSpec;

/// The segments of one machine that lie in the cache. Whether one is a copy of what the vault had, others tell.
pub(super) struct CachedCopies(Option<CacheDir>);

impl CachedCopies {
    /// Those of a machine; none where its directory cannot be opened.
    pub(super) fn of(spec: &MachineSpec) -> Self {
        let config = &spec.wiring.config;
        Self(CacheDir::open(config.io.clone(), &config.cache_dir, spec.machine, spec.timeline).ok())
    }
}

#[async_trait::async_trait]
impl Copies for CachedCopies {
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
