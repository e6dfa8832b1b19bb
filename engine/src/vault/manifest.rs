//! The manifest of a timeline: the one object that changes, and only by put-if-match. It says which runs are live,
//! below which slot only they count (the floor), what must stay readable (pins), and who owns the timeline (the
//! epoch).
//!
//! A change is made in three steps: read with its ETag, change the value by the methods here, put if the ETag still
//! matches; after a conflict again from the first. A lower epoch never follows a higher one (I4).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::crypto::{DataKey, OpenError};
use super::envelope::{self, EnvelopeKind};
use super::layout::ObjectName;
use crate::ids::{Chance, Epoch, Lsn, MachineId, Slot, TimelineId, Timestamp};

/// Most pins of a timeline. Chosen: bounds the object that every reader fetches first; far above what people hold.
pub const PINS_MAX: usize = 1024;

/// Why a position is kept readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// An operator asked for it.
    Hold,
    /// A point is being served.
    Reader,
    /// A timeline begins there.
    Branch,
}

/// What keeps a position readable. It is real only once it stands in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its name, unique in the manifest.
    pub id: String,
    /// Why it is there.
    pub kind: PinKind,
    /// The position: everything with a smaller LSN stays readable.
    pub lsn: Lsn,
    /// When it was put there.
    pub created_at: Timestamp,
    /// What the operator wrote.
    #[serde(default)]
    pub note: String,
}

/// A merged run. Version 1 of the format has none; a manifest that names one was written by a newer program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Run {}

/// A timeline's manifest. Fields that this program does not know are refused: it would lose them when it writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Grows with every change.
    pub version: u64,
    /// The owner that last adopted the timeline.
    pub epoch: Epoch,
    /// Slots from here on count by themselves; below only the runs do.
    pub floor: Slot,
    /// What must stay readable.
    pub pins: Vec<Pin>,
    /// Live runs.
    pub runs: Vec<Run>,
}

/// A change that a manifest does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Somebody newer owns the timeline.
    #[error("epoch {asked} cannot change this timeline: epoch {current} owns it; this owner must stop")]
    Fenced {
        /// Who asks.
        asked: Epoch,
        /// Who owns it.
        current: Epoch,
    },
    /// The pin's name is taken.
    #[error("a pin named '{0}' is there already")]
    PinTaken(String),
    /// No such pin.
    #[error("there is no pin named '{0}'")]
    NoSuchPin(String),
    /// Too many pins.
    #[error("the timeline has {PINS_MAX} pins, the most it can have: release some")]
    TooManyPins,
}

impl Manifest {
    /// The manifest of a timeline that begins.
    pub fn new(epoch: Epoch) -> Self {
        Self { version: 1, epoch, floor: Slot::ZERO, pins: Vec::new(), runs: Vec::new() }
    }

    /// Makes `epoch` the owner. The owner itself may say so again.
    pub fn adopt(&mut self, epoch: Epoch) -> Result<(), ManifestError> {
        if epoch < self.epoch {
            return Err(ManifestError::Fenced { asked: epoch, current: self.epoch });
        }
        self.epoch = epoch;
        self.version += 1;
        Ok(())
    }

    /// Adds a pin.
    pub fn pin(&mut self, pin: Pin) -> Result<(), ManifestError> {
        if self.pins.iter().any(|own| own.id == pin.id) {
            return Err(ManifestError::PinTaken(pin.id));
        }
        if self.pins.len() >= PINS_MAX {
            return Err(ManifestError::TooManyPins);
        }
        self.pins.push(pin);
        self.version += 1;
        Ok(())
    }

    /// Takes a pin away.
    pub fn release(&mut self, id: &str) -> Result<Pin, ManifestError> {
        let at = self.pins.iter().position(|pin| pin.id == id);
        let at = at.ok_or_else(|| ManifestError::NoSuchPin(id.to_owned()))?;
        self.version += 1;
        Ok(self.pins.remove(at))
    }

    /// Seals this version.
    pub fn seal(&self, machine: MachineId, timeline: TimelineId, key: &DataKey, chance: &mut dyn Chance) -> Bytes {
        let name = ObjectName::manifest(machine, timeline);
        envelope::seal(EnvelopeKind::Manifest, &name, self, |salt| key.manifest_key(salt), chance)
    }

    /// Opens a version that lies under this timeline's name.
    pub fn open(machine: MachineId, timeline: TimelineId, bytes: &[u8], key: &DataKey) -> Result<Self, OpenError> {
        let name = ObjectName::manifest(machine, timeline);
        envelope::open(EnvelopeKind::Manifest, &name, bytes, |salt| key.manifest_key(salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(id: &str) -> Pin {
        Pin { id: id.into(), kind: PinKind::Hold, lsn: Lsn(5), created_at: Timestamp(0), note: String::new() }
    }

    #[test]
    fn a_lower_epoch_never_follows_a_higher_one() {
        let mut manifest = Manifest::new(Epoch(3));
        manifest.adopt(Epoch(5)).expect("higher");
        manifest.adopt(Epoch(5)).expect("itself");
        let fenced = Err(ManifestError::Fenced { asked: Epoch(4), current: Epoch(5) });
        assert_eq!(manifest.adopt(Epoch(4)), fenced);
        assert_eq!(manifest.version, 3);
    }

    #[test]
    fn pins_are_bounded_and_each_has_a_name_of_its_own() {
        let mut manifest = Manifest::new(Epoch(1));
        for n in 0..PINS_MAX {
            manifest.pin(pin(&n.to_string())).expect("room");
        }
        assert_eq!(manifest.pin(pin("one more")), Err(ManifestError::TooManyPins));
        assert_eq!(manifest.pin(pin("7")), Err(ManifestError::PinTaken("7".into())));
        assert_eq!(manifest.release("7").map(|pin| pin.id).as_deref(), Ok("7"));
        assert_eq!(manifest.release("7"), Err(ManifestError::NoSuchPin("7".into())));
    }
}
