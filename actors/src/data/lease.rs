//! A pin for as long as something reads: taken before the first read, renewed while it lasts, dropped with it.
//!
//! Crash story: a process that dies leaves its pins in the manifest; each ends by itself [`LEASE`] after it was renewed last, by
//! the clock of whoever owns the machine then. That is far above what clocks disagree by, and costs space only.

use std::sync::Arc;
use std::time::Duration;

use farshore_engine::ids::{Chance as _, Lsn, MachineId, TimelineId, Timestamp};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::manifest::{Pin, PinKind};
use farshore_engine::vault::manifest_keeper::ManifestKeeper;
use farshore_engine::vault::pins::{PinError, drop_pins, put_pin, renew_pins};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::store::ObjectStore;
use parking_lot::Mutex;
use slog::{Logger, warn};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::supervise::{OsChance, wall_clock};

/// How long a pin outlives the process that renews it.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(2 * 3600);

/// Where pins of a timeline are put.
#[derive(Clone)]
pub(super) struct PinPlace {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) machine: MachineId,
    pub(super) timeline: TimelineId,
    pub(super) key: DataKey,
}

impl PinPlace {
    pub(super) fn of(store: &Arc<dyn ObjectStore>, reader: &TimelineReader) -> Self {
        let (machine, timeline, key) = (reader.source().machine(), reader.timeline(), reader.source().key().clone());
        Self { store: store.clone(), machine, timeline, key }
    }

    pub(super) fn keeper(&self) -> ManifestKeeper {
        let chance = Arc::new(Mutex::new(OsChance));
        ManifestKeeper::new(self.store.clone(), self.machine, self.timeline, self.key.clone(), chance)
    }
}

/// A position that stays readable while this is held.
pub(super) struct Lease {
    ending: Option<Box<dyn FnOnce() + Send + Sync>>,
    renewing: AbortHandle,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PinPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinPlace").field("machine", &self.machine).finish_non_exhaustive()
    }
}

fn until() -> Timestamp {
    Timestamp(wall_clock().0.saturating_add_unsigned(LEASE.as_micros() as u64))
}

impl Lease {
    /// Pins a position of the reader's timeline; renewals run on `handle`.
    pub(super) async fn take(
        what: &str,
        place: PinPlace,
        reader: &mut TimelineReader,
        lsn: Lsn,
        handle: &Handle,
        log: &Logger,
    ) -> Result<Self, PinError> {
        let mut bytes = [0; 8];
        OsChance.fill(&mut bytes);
        let id = format!("{what}-{:016x}", u64::from_le_bytes(bytes));
        let (note, created_at) = (what.to_owned(), wall_clock());
        let pin = Pin { id: id.clone(), kind: PinKind::Reader, lsn, created_at, note, expires_at: Some(until()) };
        put_pin(reader, &place.keeper(), &pin).await?;
        let (ids, log, driver) = (vec![id], log.clone(), handle.clone());
        let renewing = handle.spawn(renew(place.clone(), ids.clone(), driver.clone(), log.clone())).abort_handle();
        let ending = move || {
            let work = driver.clone();
            driver.spawn_blocking(move || {
                if let Err(error) = work.block_on(async { drop_pins(&place.keeper(), &ids).await }) {
                    warn!(log, "a pin that nobody needs stays until it expires"; "pin" => &ids[0], "why" => %error);
                }
            });
        };
        Ok(Self { ending: Some(Box::new(ending)), renewing })
    }
}

async fn renew(place: PinPlace, ids: Vec<String>, driver: Handle, log: Logger) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let (at, names, work) = (place.clone(), ids.clone(), driver.clone());
        let renewed =
            driver.spawn_blocking(move || work.block_on(async { renew_pins(&at.keeper(), &names, until()).await }));
        match renewed.await {
            Ok(Ok(gone)) if gone.is_empty() => {}
            Ok(Ok(_)) => warn!(log, "a pin that is needed is gone: what it kept may be dropped"; "pin" => &ids[0]),
            Ok(Err(error)) => {
                warn!(log, "a pin was not renewed, and is tried again"; "pin" => &ids[0], "why" => %error)
            }
            Err(_) => return,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        if let Some(ending) = self.ending.take() {
            ending();
        }
    }
}
