//! Reads a machine's log again, slice by slice, and puts back what is damaged from a copy where there is one.
//!
//! A cycle is cut into slices by the objects' names: each object is in one of them, whatever else there is, so that nobody
//! needs to remember how far a cycle is. One object is read at a time, at the pace that is allowed.
//!
//! ```text
//!   live objects ─► in the slice, or suspect ─► read whole ─┬ sound, and the one that its neighbours know
//!                                                           └ damaged ─► repair ─┬ put back
//!                                                                                └ told, with the points that it touches
//! ```

use serde::{Deserialize, Serialize};

use super::layout::{ObjectName, machine_prefix};
use super::merge::Pace;
use super::read::error::{Damage, ReadError};
use super::read::open_vault::parts;
use super::read::segment_view::{LogSource, ObjectPlace};
use super::read::verify::{
    BadObjectReport, Findings, LiveObject, ObjectFaults, Place, VerifyReport, check_live, live_objects, share_of,
};
use super::repair::{Copies, Proof, RepairError, is_exchanged, repair};
use super::store::StoreError;
use crate::ids::TimelineId;

/// What of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Which slice, from 0.
    pub number: u64,
    /// How many a cycle has; at least 1.
    pub of: u64,
}

impl Slice {
    /// Everything at once.
    pub const ALL: Self = Self { number: 0, of: 1 };

    /// Whether an object is in it.
    pub(in crate::vault) fn takes(&self, name: &ObjectName) -> bool {
        (share_of(name, 0) * self.of as f64) as u64 == self.number
    }
}

/// A damaged object that could not be put back, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// What verify says of it.
    pub found: BadObjectReport,
    /// Why it stays as it is.
    pub stays: String,
}

/// What came of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Objects read.
    pub objects: u64,
    /// Their bytes, as far as they were listed.
    pub bytes: u64,
    /// Objects put back, by name.
    pub repaired: Vec<String>,
    /// What is damaged and stays so.
    pub damaged: Vec<Damaged>,
    /// The pace was told to end: the slice was not read to its end.
    pub cut_off: bool,
}

/// Reads a slice of a machine's log objects, whichever timeline they are of, and the `suspects` whichever slice they are in; with
/// no slice the suspects alone.
///
/// # Errors
/// When the store does not answer; what was put back by then stays put back.
pub async fn scrub(
    source: &LogSource,
    slice: Option<Slice>,
    suspects: &[String],
    (copies, proof): (&dyn Copies, Proof),
    pace: &dyn Pace,
) -> Result<Scrubbed, ReadError> {
    let mut scrub = Scrub { source, slice, suspects, copies, proof, pace, done: Scrubbed::default() };
    let (mut findings, mut stays) = (Findings::default(), Vec::new());
    let timelines = timelines(source).await.map_err(ReadError::Store)?;
    for timeline in &timelines {
        scrub.timeline(*timeline, &mut findings, &mut stays).await?;
    }
    if !stays.is_empty() {
        scrub.done.damaged = told(source, &timelines, &findings, stays).await?;
    }
    Ok(scrub.done)
}

/// The timelines of a machine that have objects.
async fn timelines(source: &LogSource) -> Result<Vec<TimelineId>, StoreError> {
    let parts = parts(source.store(), &machine_prefix(source.machine())).await?;
    Ok(parts.iter().filter_map(|part| part.parse().ok()).collect())
}

struct Scrub<'a> {
    source: &'a LogSource,
    slice: Option<Slice>,
    suspects: &'a [String],
    copies: &'a dyn Copies,
    proof: Proof,
    pace: &'a dyn Pace,
    done: Scrubbed,
}

impl Scrub<'_> {
    fn takes(&self, place: &Place) -> bool {
        let machine = self.source.machine();
        let name = place.1.name(machine, place.0);
        self.slice.is_some_and(|slice| slice.takes(&name))
            || self.suspects.iter().any(|suspect| suspect == name.as_str())
    }

    async fn timeline(
        &mut self,
        timeline: TimelineId,
        findings: &mut Findings,
        stays: &mut Vec<(String, RepairError)>,
    ) -> Result<(), ReadError> {
        let (objects, _, missing) = live_objects(self.source, timeline).await?;
        let missing = missing.into_iter().map(|slot| LiveObject { place: ObjectPlace::Slot(slot), bytes: None });
        for object in missing.chain(objects) {
            if !self.takes(&(timeline, object.place)) {
                continue;
            }
            let bytes = object.bytes.unwrap_or(0);
            if self.done.cut_off || !self.pace.go_on(bytes).await {
                self.done.cut_off = true;
                return Ok(());
            }
            self.done.objects += 1;
            self.done.bytes += bytes;
            let mut checked = check_live(self.source, timeline, object).await?;
            let mut sound = checked.as_ref().is_ok_and(ObjectFaults::is_empty);
            if sound && is_exchanged(self.source, timeline, object).await? {
                (checked, sound) = (Err(Damage::Chain), false);
            }
            // What was merged meanwhile may be gone, and nobody needs it.
            if sound || !is_live(self.source, timeline, object.place).await? {
                continue;
            }
            let name = object.place.name(self.source.machine(), timeline).to_string();
            match repair(self.source, timeline, object.place, self.copies, self.proof).await? {
                Ok(()) => self.done.repaired.push(name),
                Err(error) => {
                    stays.push((name, error));
                    findings.take((timeline, object.place), checked);
                }
            }
        }
        Ok(())
    }
}

async fn is_live(source: &LogSource, timeline: TimelineId, place: ObjectPlace) -> Result<bool, ReadError> {
    let (objects, _, missing) = live_objects(source, timeline).await?;
    let missing = missing.into_iter().map(ObjectPlace::Slot);
    Ok(objects.iter().map(|object| object.place).chain(missing).any(|live| live == place))
}

async fn told(
    source: &LogSource,
    timelines: &[TimelineId],
    findings: &Findings,
    stays: Vec<(String, RepairError)>,
) -> Result<Vec<Damaged>, ReadError> {
    let mut report = VerifyReport::default();
    for timeline in timelines {
        findings.note(&mut report, source.machine(), *timeline);
        findings.map(&mut report, source, *timeline).await?;
    }
    let why = |object: &str| {
        let known = stays.iter().find(|(name, _)| name == object);
        known.map_or_else(|| RepairError::NoCopy.to_string(), |(_, error)| error.to_string())
    };
    Ok(report.bad.into_iter().map(|found| Damaged { stays: why(&found.object), found }).collect())
}

#[cfg(test)]
mod tests;
