//! Puts a damaged log object back as it was written, from a copy of it.
//!
//! ```text
//!   copies ─► proven sound (checked whole, in memory) ─► proven to be the one ─► replaces the damaged one ─► checked again
//! ```
//!
//! Objects are never written anew but here, and here only with the bytes that they had. What they were, others of the log say:
//! the footer behind it, or the manifest for the last part of a run; else its own footer where it still opens. At the end of a
//! log, where nothing is behind, it is what remains of the footer itself: no two footers are sealed alike, so one that agrees
//! with the copy's in most of its bytes was that one. So a segment that lost the race for its slot, or one of a vault that went
//! another way, is never put there (I2, I3).
//!
//! Crash story: an object is replaced whole, by one conditional call; before it the damaged one is there, behind it the
//! sound one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::layout::{ObjectName, about_prefix, catalog_prefix, keys_prefix, machines_prefix};
use super::manifest::Manifest;
use super::manifest_keeper::read_manifest;
use super::read::error::{Damage, ReadError};
use super::read::open_vault::{OpenVault, generations, parts};
use super::read::segment_view::{LogSource, ObjectPlace, SegmentView};
use super::read::verify::{LiveObject, check_live, open_live};
use super::segment::FooterDigest;
use super::store::memory::MemoryStore;
use super::store::{ETag, ObjectStore, PutOutcome, StoreError, StoreErrorKind, SwapOutcome};
use crate::ids::{Slot, TimelineId};

/// Where copies of log objects may be.
#[async_trait]
pub trait Copies: Send + Sync {
    /// What is there under the object's name; nothing needs to be right about it. Empty: no copy.
    ///
    /// # Errors
    /// In words, when the place does not answer.
    async fn copies_of(&self, timeline: TimelineId, place: ObjectPlace) -> Result<Vec<Bytes>, String>;
}

/// No copies anywhere.
#[derive(Debug, Clone, Copy)]
pub struct NoCopies;

#[async_trait]
impl Copies for NoCopies {
    async fn copies_of(&self, _: TimelineId, _: ObjectPlace) -> Result<Vec<Bytes>, String> {
        Ok(Vec::new())
    }
}

/// Another store that holds the same vault, or did: a folder or container that it was copied to.
pub struct StoreCopies {
    /// The logs there; the key is the vault's own.
    pub source: LogSource,
}

#[async_trait]
impl Copies for StoreCopies {
    async fn copies_of(&self, timeline: TimelineId, place: ObjectPlace) -> Result<Vec<Bytes>, String> {
        match self.source.store().get(&place.name(self.source.machine(), timeline)).await {
            Ok((bytes, _)) => Ok(vec![bytes]),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Why an object stays damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// Nobody has one.
    #[error("there is no copy of it")]
    NoCopy,
    /// A place where one may be does not answer.
    #[error("copies of it could not be read: {0}")]
    CopiesAway(String),
    /// The copy is damaged too.
    #[error("the copy of it is damaged too: {0}")]
    CopyDamaged(Damage),
    /// The copy is sound, and another object.
    #[error("the copy is another object than the one that stood here: it is of a history that went another way")]
    OtherObject,
    /// Nothing tells which object it was.
    #[error(
        "nothing proves that the copy is what stood here: its own footer cannot be read, and no sound object follows it"
    )]
    Unproven,
    /// The store does not let it be replaced.
    #[error("the store does not let it be replaced: {0}")]
    Refused(String),
    /// It changed meanwhile.
    #[error("the object changed meanwhile: verify again")]
    Changed,
    /// It is still not what was written.
    #[error("it was replaced and is still damaged: {0}; the store is not to be trusted")]
    StillDamaged(Damage),
}

/// What counts as proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Only what the rest of the log says.
    Required,
    /// A sound copy is taken where nothing can prove or disprove it: the end of a log.
    SoundCopyIsEnough,
}

/// Puts the small objects back that open with the vault key: key objects, descriptions of machines, snapshots of the
/// catalog. One that is there and damaged is replaced; where no key object or no description opens at all, the newest of the
/// copy is taken. Gives what was put back, and what could not be with the reason.
///
/// # Errors
/// When the vault does not answer, or the copy.
pub async fn repair_small(vault: &OpenVault, copy: &dyn ObjectStore) -> Result<SmallRepairs, ReadError> {
    let mut done = SmallRepairs::default();
    let mut rooms = vec![(keys_prefix(), true), (catalog_prefix(), false)];
    for part in parts(copy, &machines_prefix()).await.map_err(ReadError::Store)? {
        rooms.extend(part.parse().ok().map(|machine| (about_prefix(machine), true)));
    }
    for (prefix, needed) in rooms {
        let names = generations(&**vault.store(), &prefix).await.map_err(ReadError::Store)?;
        let mut sound = 0;
        for name in names {
            match small(vault, &**vault.store(), &name).await? {
                Ok(_) => sound += 1,
                Err(_) => sound += u64::from(put_small(vault, copy, &name, &mut done).await?),
            }
        }
        if needed && sound == 0 {
            for name in generations(copy, &prefix).await.map_err(ReadError::Store)? {
                if put_small(vault, copy, &name, &mut done).await? {
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// What became of small objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmallRepairs {
    /// Put back.
    pub repaired: Vec<String>,
    /// Still damaged, and why.
    pub stays: Vec<(String, RepairError)>,
}

/// A small object's bytes, where it opens.
async fn small(
    vault: &OpenVault,
    store: &dyn ObjectStore,
    name: &ObjectName,
) -> Result<Result<Bytes, Damage>, ReadError> {
    let bytes = match store.get(name).await.map_err(|error| ReadError::store(name, error)) {
        Ok((bytes, _)) => bytes,
        Err(ReadError::Damaged { damage, .. }) => return Ok(Err(damage)),
        Err(other) => return Err(other),
    };
    Ok(vault.opens(name, &bytes).map(|()| bytes))
}

/// Puts the copy of a small object in its place; tells whether it stands there now.
async fn put_small(
    vault: &OpenVault,
    copy: &dyn ObjectStore,
    name: &ObjectName,
    done: &mut SmallRepairs,
) -> Result<bool, ReadError> {
    let found = match vault.store().head(name).await {
        Ok(meta) => Some(meta.etag),
        Err(error) if error.kind == StoreErrorKind::NotFound => None,
        Err(error) => return Err(ReadError::Store(error)),
    };
    let put = match small(vault, copy, name).await? {
        Ok(bytes) => replace(&**vault.store(), name, found.as_ref(), bytes).await,
        Err(Damage::Missing) => Err(RepairError::NoCopy),
        Err(damage) => Err(RepairError::CopyDamaged(damage)),
    };
    let stands = put.is_ok();
    match put {
        Ok(()) => done.repaired.push(name.to_string()),
        Err(error) => done.stays.push((name.to_string(), error)),
    }
    Ok(stands)
}

/// Puts one damaged object back. The outer error is the store's: nothing is said of the object then.
///
/// # Errors
/// [`RepairError`] says why it stays as it is.
pub async fn repair(
    source: &LogSource,
    timeline: TimelineId,
    place: ObjectPlace,
    copies: &dyn Copies,
    proof: Proof,
) -> Result<Result<(), RepairError>, ReadError> {
    let name = place.name(source.machine(), timeline);
    let found = match source.store().head(&name).await {
        Ok(meta) => Some(meta.etag),
        Err(error) if error.kind == StoreErrorKind::NotFound => None,
        Err(error) => return Err(ReadError::Store(error)),
    };
    let offered = match copies.copies_of(timeline, place).await {
        Ok(offered) => offered,
        Err(why) => return Ok(Err(RepairError::CopiesAway(why))),
    };
    let mut why = RepairError::NoCopy;
    for bytes in offered {
        let copy = match checked_copy(source, timeline, place, bytes.clone()).await? {
            Ok(copy) => copy,
            Err(damage) => {
                why = RepairError::CopyDamaged(damage);
                continue;
            }
        };
        match (wanted(source, timeline, place).await?, proof) {
            (Some(digest), _) if digest == copy.footer.digest => {}
            (Some(_), _) => {
                why = RepairError::OtherObject;
                continue;
            }
            (None, Proof::SoundCopyIsEnough) => {}
            (None, Proof::Required) if remains_of(source, &name, &bytes, copy.footer.items_end).await? => {}
            (None, Proof::Required) => {
                why = RepairError::Unproven;
                continue;
            }
        }
        return match replace(source.store(), &name, found.as_ref(), bytes).await {
            Ok(()) => check(source, timeline, place).await,
            Err(error) => Ok(Err(error)),
        };
    }
    Ok(Err(why))
}

/// Checks a copy whole, as if it stood in a vault of its own.
async fn checked_copy(
    source: &LogSource,
    timeline: TimelineId,
    place: ObjectPlace,
    bytes: Bytes,
) -> Result<Result<SegmentView, Damage>, ReadError> {
    let alone = Arc::new(MemoryStore::new());
    let object = LiveObject { place, bytes: Some(bytes.len() as u64) };
    let name = place.name(source.machine(), timeline);
    alone.put_if_absent(&name, "copy", bytes).await.map_err(ReadError::Store)?;
    let copied = LogSource::new(alone, source.machine(), source.key().clone());
    match check_live(&copied, timeline, object).await? {
        Ok(faults) => match faults.into_first() {
            None => opened(&copied, timeline, object).await,
            Some(damage) => Ok(Err(damage)),
        },
        Err(damage) => Ok(Err(damage)),
    }
}

async fn opened(
    source: &LogSource,
    timeline: TimelineId,
    object: LiveObject,
) -> Result<Result<SegmentView, Damage>, ReadError> {
    match open_live(source, timeline, object).await {
        Ok(view) => Ok(Ok(view)),
        Err(ReadError::Damaged { damage, .. }) => Ok(Err(damage)),
        Err(other) => Err(other),
    }
}

/// The digest of the footer that belongs here, where anything tells it.
async fn wanted(
    source: &LogSource,
    timeline: TimelineId,
    place: ObjectPlace,
) -> Result<Option<FooterDigest>, ReadError> {
    let told = told(source, timeline, place).await?;
    if let Some(told) = told.as_ref().filter(|told| told.proven) {
        return Ok(Some(told.digest));
    }
    let own = opened(source, timeline, LiveObject { place, bytes: None }).await?;
    Ok(own.ok().map(|view| view.footer.digest).or(told.map(|told| told.digest)))
}

/// What others say of the object in a place.
struct Told {
    /// The digest of its footer.
    digest: FooterDigest,
    /// Whether who says so is itself what others say.
    proven: bool,
}

async fn told(source: &LogSource, timeline: TimelineId, place: ObjectPlace) -> Result<Option<Told>, ReadError> {
    let manifest = match read_manifest(source, timeline).await {
        Ok(found) => found.map(|(manifest, _)| manifest),
        Err(ReadError::Damaged { .. }) => None,
        Err(other) => return Err(other),
    };
    let open = async |place| opened(source, timeline, LiveObject { place, bytes: None }).await.map(Result::ok);
    let witness = match behind(place, manifest.as_ref()) {
        Behind::Object(witness) => witness,
        Behind::Told(digest) => return Ok(Some(Told { digest, proven: true })),
        Behind::Nothing => return Ok(None),
    };
    let Some(view) = open(witness).await? else { return Ok(None) };
    let proven = match behind(witness, manifest.as_ref()) {
        Behind::Object(next) => open(next).await?.is_some_and(|next| next.footer.previous == view.footer.digest),
        Behind::Told(digest) => digest == view.footer.digest,
        Behind::Nothing => false,
    };
    Ok(Some(Told { digest: view.footer.previous, proven }))
}

/// Whether an object that reads well by itself is another than the one that stood there: what follows it was built on another,
/// or, at the end of a log, it was built on another than what is there.
///
/// # Errors
/// When the store does not answer.
pub(in crate::vault) async fn is_exchanged(
    source: &LogSource,
    timeline: TimelineId,
    object: LiveObject,
) -> Result<bool, ReadError> {
    let Ok(own) = opened(source, timeline, object).await? else { return Ok(false) };
    if let Some(told) = told(source, timeline, object.place).await? {
        return Ok(told.proven && told.digest != own.footer.digest);
    }
    let ObjectPlace::Slot(Slot(slot @ 1..)) = object.place else { return Ok(false) };
    let before = LiveObject { place: ObjectPlace::Slot(Slot(slot - 1)), bytes: None };
    // Behind the floor it is gone, and nothing is told.
    let before = opened(source, timeline, before).await?;
    Ok(before.is_ok_and(|before| before.footer.digest != own.footer.previous))
}

/// Whether what is left of an object's footer is that of the copy.
async fn remains_of(source: &LogSource, name: &ObjectName, copy: &Bytes, items_end: u64) -> Result<bool, ReadError> {
    let found = match source.store().get_range(name, items_end, copy.len() as u64 - items_end + 1).await {
        Ok(found) => found,
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Refused) => return Ok(false),
        Err(error) => return Err(ReadError::Store(error)),
    };
    let wanted = &copy[items_end as usize..];
    let alike = found.iter().zip(wanted).filter(|(found, wanted)| found == wanted).count();
    Ok(found.len() == wanted.len() && alike * 2 > wanted.len())
}

/// What names the object in a place.
enum Behind {
    /// The object behind it, in its footer.
    Object(ObjectPlace),
    /// The manifest: this is its digest.
    Told(FooterDigest),
    Nothing,
}

fn behind(place: ObjectPlace, manifest: Option<&Manifest>) -> Behind {
    let runs = manifest.map_or(&[][..], |manifest| &manifest.runs);
    match place {
        // What a child branched from stands before its runs.
        ObjectPlace::Slot(Slot(0)) if !runs.is_empty() => Behind::Object(ObjectPlace::Run(runs[0].id, 0)),
        ObjectPlace::Slot(slot) => Behind::Object(ObjectPlace::Slot(slot.next())),
        ObjectPlace::Run(run, part) => match runs.iter().find(|known| known.id == run) {
            Some(known) if part + 1 == known.parts => Behind::Told(known.footer),
            Some(known) if part < known.parts => Behind::Object(ObjectPlace::Run(run, part + 1)),
            _ => Behind::Nothing,
        },
    }
}

async fn replace(
    store: &dyn ObjectStore,
    name: &ObjectName,
    found: Option<&ETag>,
    bytes: Bytes,
) -> Result<(), RepairError> {
    let refused = |error: StoreError| RepairError::Refused(error.to_string());
    let done = match found {
        Some(_) => {
            let swapped = store.put_if_match(name, found, bytes).await.map_err(refused)?;
            matches!(swapped, SwapOutcome::Swapped(_))
        }
        None => {
            let put = store.put_if_absent(name, "repair", bytes).await.map_err(refused)?;
            put == PutOutcome::Created
        }
    };
    if done { Ok(()) } else { Err(RepairError::Changed) }
}

async fn check(
    source: &LogSource,
    timeline: TimelineId,
    place: ObjectPlace,
) -> Result<Result<(), RepairError>, ReadError> {
    let damage = match check_live(source, timeline, LiveObject { place, bytes: None }).await? {
        Ok(faults) => faults.into_first(),
        Err(damage) => Some(damage),
    };
    Ok(damage.map_or(Ok(()), |damage| Err(RepairError::StillDamaged(damage))))
}

#[cfg(test)]
mod tests;
