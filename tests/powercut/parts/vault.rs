//! A vault in a folder: log slots created in order, some staged ahead, and a manifest replaced again and again.
//! Acknowledged: a slot that was created, a manifest that was swapped.

use bytes::Bytes;
use farshore_engine::ids::{MachineId, Slot, TimelineId};
use farshore_engine::sim::chance::SeededChance;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::{ETag, ObjectStore, PutOutcome, StoreError, StoreErrorKind, SwapOutcome};

use super::Job;

const MACHINE: MachineId = MachineId([1; 16]);
const TIMELINE: TimelineId = TimelineId([2; 8]);
const STAGED_AHEAD: u64 = 3;

/// What a slot holds: some tens of kilobytes that follow from its number.
fn contents(number: u64, salt: u64) -> Bytes {
    let mut chance = SeededChance::new(number ^ (salt << 48));
    let words = chance.between(1, 8192);
    (0..words).flat_map(|_| chance.below(u64::MAX).to_le_bytes()).collect()
}

fn slot_name(number: u64) -> ObjectName {
    ObjectName::log(MACHINE, TIMELINE, Slot(number))
}

fn manifest_name() -> ObjectName {
    ObjectName::manifest(MACHINE, TIMELINE)
}

fn manifest(version: u64) -> Bytes {
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.extend_from_slice(&contents(version, 1));
    bytes.into()
}

/// Nothing, where there is no such object.
async fn find(store: &FolderStore, name: &ObjectName) -> Result<Option<(Bytes, ETag)>, StoreError> {
    match store.get(name).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct Found {
    slots: u64,
    manifest: Option<(u64, ETag)>,
}

/// Every filled slot is whole, whether it was acknowledged or not, and none that was is missing.
async fn check(store: &FolderStore, job: &Job) -> Result<Found, String> {
    let mut slots = 0;
    while let Some((bytes, _)) = find(store, &slot_name(slots + 1)).await.map_err(|error| error.to_string())? {
        slots += 1;
        if bytes != contents(slots, 0) {
            return Err(format!("slot {slots} is filled with other bytes ({})", bytes.len()));
        }
    }
    let acked = job.acked.highest("slot").unwrap_or(0);
    if slots < acked {
        return Err(format!("slot {acked} was filled, found {slots}"));
    }
    let held = find(store, &manifest_name()).await.map_err(|error| error.to_string())?;
    let manifest = match held {
        None => None,
        Some((bytes, etag)) => {
            let version = bytes.first_chunk().map(|version| u64::from_le_bytes(*version));
            let whole = version.filter(|version| bytes == self::manifest(*version));
            Some((whole.ok_or("the manifest is torn")?, etag))
        }
    };
    let (acked, version) = (job.acked.highest("manifest").unwrap_or(0), manifest.as_ref().map_or(0, |held| held.0));
    if version < acked {
        return Err(format!("manifest {acked} was swapped in, found {version}"));
    }
    Ok(Found { slots, manifest })
}

async fn go_on(store: &FolderStore, job: &Job, found: Found) -> Result<(), StoreError> {
    let (mut slot, mut held) = (found.slots, found.manifest);
    loop {
        let mut staged = Vec::new();
        for ahead in 1..=STAGED_AHEAD {
            let number = slot + ahead;
            let token = format!("{}-{number}", job.seed);
            staged.push(store.stage(&slot_name(number), &token, vec![contents(number, 0)]).await?);
        }
        for staged in &staged {
            slot += 1;
            assert_eq!(store.publish(staged).await?, PutOutcome::Created, "nobody else fills slots");
            job.acks.note("slot", slot);
        }
        let version = held.as_ref().map_or(0, |(version, _)| *version) + 1;
        let expected = held.as_ref().map(|(_, etag)| etag);
        match store.put_if_match(&manifest_name(), expected, manifest(version)).await? {
            SwapOutcome::Swapped(etag) => held = Some((version, etag)),
            SwapOutcome::Conflict => panic!("nobody else changes the manifest"),
        }
        job.acks.note("manifest", version);
    }
}

pub(super) fn run(job: &Job) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let store = match FolderStore::open(&job.folder, runtime.handle().clone()) {
        Ok(store) => store,
        Err(error) => {
            job.found(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        let found = match check(&store, job).await {
            Ok(found) => found,
            Err(lost) => {
                job.found(Err(lost));
                return;
            }
        };
        let version = found.manifest.as_ref().map_or(0, |held| held.0);
        if job.found(Ok(format!("{} slots and manifest {version} found", found.slots))) {
            // Ends when the power is gone.
            let _ = go_on(&store, job, found).await;
        }
    });
}
