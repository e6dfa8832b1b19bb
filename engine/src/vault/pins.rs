//! Pinning a position: what keeps it readable, for an operator, a reader or a branch.
//!
//! A pin is real only once it stands in the manifest, and it may only be put on what can still be read: under the manifest
//! version that the pin is put into, no run may have dropped its position. A merge that is committed meanwhile changes that
//! version, and the look is taken again (I7).

use super::manifest::{Manifest, ManifestError, Pin};
use super::manifest_keeper::{ChangeError, ManifestKeeper};
use super::read::error::ReadError;
use super::read::timeline::TimelineReader;
use crate::ids::{Epoch, Lsn, Timestamp};

/// How often a pin is tried again after a conflict.
const TRIES: usize = 16;

/// A pin that did not come about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PinError {
    /// The timeline cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The manifest did not take it.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Merging has dropped the position.
    #[error("LSN {0} can no longer be read: merging has dropped it; list the points and choose another one")]
    Dropped(Lsn),
}

/// Pins a position of the reader's timeline; brings the reader up to date. The same pin again (name, kind and position)
/// takes the new note and expiry.
pub async fn put_pin(reader: &mut TimelineReader, keeper: &ManifestKeeper, pin: &Pin) -> Result<(), PinError> {
    for _ in 0..TRIES {
        reader.refresh().await?;
        if !reader.retains(pin.lsn) {
            return Err(PinError::Dropped(pin.lsn));
        }
        // A timeline that was never merged has no manifest; its owner adopts the one that is made here.
        let (mut manifest, etag) = keeper.read(Epoch::ZERO).await?;
        if !same_runs(&manifest, reader) {
            continue;
        }
        put(&mut manifest, pin).map_err(ChangeError::from)?;
        if keeper.put(&manifest, etag.as_ref()).await? {
            return Ok(());
        }
    }
    Err(ChangeError::Busy.into())
}

/// What was checked in the reader holds for this manifest.
fn same_runs(manifest: &Manifest, reader: &TimelineReader) -> bool {
    manifest.runs.as_slice() == reader.manifest().map_or(&[][..], |known| &known.runs)
}

fn put(manifest: &mut Manifest, pin: &Pin) -> Result<(), ManifestError> {
    match manifest.pins.iter_mut().find(|known| known.id == pin.id) {
        Some(known) if known.kind == pin.kind && known.lsn == pin.lsn => {
            (known.note, known.expires_at) = (pin.note.clone(), pin.expires_at);
            manifest.version += 1;
            Ok(())
        }
        _ => manifest.pin(pin.clone()),
    }
}

/// Moves the expiry of pins that are still there; gives those that are not.
pub async fn renew_pins(keeper: &ManifestKeeper, ids: &[String], until: Timestamp) -> Result<Vec<String>, ChangeError> {
    let change = |manifest: &mut Manifest| {
        for pin in manifest.pins.iter_mut().filter(|pin| ids.contains(&pin.id)) {
            pin.expires_at = Some(until);
        }
        manifest.version += 1;
        Ok(ids.iter().filter(|id| manifest.pins.iter().all(|pin| pin.id != **id)).cloned().collect())
    };
    Ok(keeper.change(Epoch::ZERO, change).await?.1)
}

/// Takes pins away; those that are not there are no error. Says how many were.
pub async fn drop_pins(keeper: &ManifestKeeper, ids: &[String]) -> Result<usize, ChangeError> {
    let (manifest, _) = keeper.read(Epoch::ZERO).await?;
    if !manifest.pins.iter().any(|pin| ids.contains(&pin.id)) {
        return Ok(0);
    }
    let change = |manifest: &mut Manifest| {
        let before = manifest.pins.len();
        manifest.pins.retain(|pin| !ids.contains(&pin.id));
        manifest.version += 1;
        Ok(before - manifest.pins.len())
    };
    Ok(keeper.change(Epoch::ZERO, change).await?.1)
}
