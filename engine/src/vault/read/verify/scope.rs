//! What of a vault is verified: everything, a sample of its log objects, or what one point needs.
//!
//! Keys, catalog, descriptions, manifests and the footers of every log are read in each of them: they are small, and without
//! them nothing can be said of what an object is for.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::touch::Place;
use crate::ids::{DiskNo, MachineId};
use crate::vault::layout::ObjectName;
use crate::vault::read::error::ReadError;
use crate::vault::read::extent_map::Source;
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::points::RecoveryPoint;
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::volume::{Volume, VolumeLimits};

/// Memory for frames while a point's maps are made: none are opened then.
const FRAME_BYTES: usize = 1 << 20;

/// What is verified.
#[derive(Debug, Clone)]
pub enum Scope {
    /// Everything.
    Whole,
    /// A share of the log objects of every machine, the same for the same seed while the vault does not change.
    Sample {
        /// In percent of the objects; above 0, at most 100.
        percent: f64,
        /// Which ones.
        seed: u64,
    },
    /// The log objects that one point of one machine needs.
    Point(PointScope),
}

/// The log objects that a point needs.
#[derive(Debug, Clone)]
pub struct PointScope {
    machine: MachineId,
    point: RecoveryPoint,
    needed: BTreeSet<Place>,
}

impl PointScope {
    /// Finds them: those that any byte of these disks still comes from.
    ///
    /// # Errors
    /// When an index cannot be read: the whole verify tells more then.
    pub async fn of(reader: &TimelineReader, point: &RecoveryPoint, disks: &[DiskNo]) -> Result<Self, ReadError> {
        let frames = Arc::new(FrameCache::new(FRAME_BYTES));
        let view = reader.view();
        let mut needed = BTreeSet::new();
        for disk in disks {
            let volume = Volume::of_point(reader, point, *disk, frames.clone(), VolumeLimits::default())?;
            let (size_bytes, mut at) = (volume.info().size_bytes, 0);
            while at < size_bytes {
                let map = volume.map(at).await?;
                let end = map.window().end;
                let sources = map.runs(at..end).filter_map(|run| match run.source {
                    Some(Source::Data { segment, .. }) => Some(&view.segments[segment as usize]),
                    _ => None,
                });
                needed.extend(sources.map(|segment| (segment.timeline, segment.place)));
                at = end;
            }
        }
        Ok(Self { machine: reader.source().machine(), point: point.clone(), needed })
    }
}

impl Scope {
    /// Whether anything of the machine is in it.
    pub(super) fn has(&self, machine: MachineId) -> bool {
        match self {
            Self::Whole | Self::Sample { .. } => true,
            Self::Point(point) => point.machine == machine,
        }
    }

    /// Whether the log object is read whole.
    pub(super) fn takes(&self, machine: MachineId, place: &Place) -> bool {
        match self {
            Self::Whole => true,
            Self::Sample { percent, seed } => share_of(&place.1.name(machine, place.0), *seed) < percent / 100.0,
            Self::Point(point) => point.machine == machine && point.needed.contains(place),
        }
    }
}

/// A number from 0 to below 1, drawn for an object.
pub(in crate::vault) fn share_of(name: &ObjectName, seed: u64) -> f64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes()).update(name.as_str().as_bytes());
    let drawn = hash.finalize().as_bytes()[..4].iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    f64::from(drawn) / (f64::from(u32::MAX) + 1.0)
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("everything"),
            Self::Sample { percent, seed } => write!(f, "a sample of {percent} %, seed {seed}"),
            Self::Point(point) => write!(f, "what point {} needs", point.point.id),
        }
    }
}
