//! One scrub, when it is this machine's turn: on a thread of the back room, one at a time for the whole process server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use farshore_engine::cache::dir::CacheDir;
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::repair::Proof;
use farshore_engine::vault::scrub::{Scrubbed, Slice, scrub as read_again};
use slog::warn;

use crate::data::back_room::Throttle;
use crate::data::cached_copies::CachedCopies;
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
    let copies = CachedCopies::of(&spec);
    let done = read_again(&source, work.slice, &suspects, (&copies, Proof::Required), &pace).await?;
    let names: Vec<String> = done.damaged.iter().map(|damaged| damaged.found.object.clone()).collect();
    if let Some(dir) = dir.filter(|_| !done.cut_off && names != suspects)
        && let Err(error) = dir.note_suspects(&names)
    {
        warn!(config.log, "damaged objects are not remembered over a restart"; "why" => %error);
    }
    Ok(done)
}
