//! A damaged run is made again from what it was merged from, while that waits for its grace.
//!
//! ```text
//!   ripe to be deleted ─► is what was made of it sound? ─ yes ─► deleted
//!                                    │ no: it stays
//!   damaged run ─► the pieces it was made of ─► read in its place ─► merged anew ─► takes its place in the manifest
//!        ▲                     │ one is damaged, too
//!        └─ what that one was made of
//! ```
//!
//! Nothing comes back to life: the pieces stay doomed, the new run has a name of its own, and the damaged one is doomed like
//! any run that was replaced. So whoever sweeps meanwhile, even one that was taken for dead, deletes nothing that counts.
//!
//! Crash story: that of any merge.

use std::collections::BTreeSet;

use super::perform::MergeJob;
use super::plan::retention_of;
use super::{MergeError, Merger};
use crate::ids::{Lsn, RunId, Slot};
use crate::vault::manifest::{Doomed, Manifest, Run};
use crate::vault::read::error::ReadError;
use crate::vault::read::runs::open_run;
use crate::vault::read::segment_view::ObjectPlace;
use crate::vault::read::timeline::{Instead, Piece, TimelineReader};
use crate::vault::read::verify::{LiveObject, ObjectFaults, check_live, open_live};
use crate::vault::retention::Ladder;

impl Merger {
    /// Makes a live run again, with the positions that it kept; where its head cannot be read, with those that `ladder` wants.
    /// `None` where it is not live any more.
    ///
    /// # Errors
    /// [`MergeError::Unmade`] where nothing whole is left to make it from.
    pub async fn renew(&self, run: RunId, ladder: Option<&Ladder>) -> Result<Option<Run>, MergeError> {
        let (manifest, _) = self.keeper.read(self.owner.0).await?;
        let Some(old) = manifest.runs.iter().find(|live| live.id == run) else { return Ok(None) };
        let mut unfit = BTreeSet::new();
        while let Some(pieces) = pieces(&manifest, old, &unfit) {
            let failed = match self.renew_from(old, &pieces, ladder).await {
                Ok(new) => return Ok(Some(new)),
                Err(error) => error,
            };
            // What a damaged piece was made of may be there, too.
            let MergeError::Read(ReadError::Damaged { object, .. }) = &failed else { return Err(failed) };
            let known = |id: &RunId| pieces.iter().any(|piece| matches!(piece, Piece::Run(run) if run.id == *id));
            match object.run().map(|(id, _)| id).filter(known) {
                Some(id) => unfit.insert(id),
                None => return Err(MergeError::Unmade { run, why: failed.to_string() }),
            };
        }
        Err(MergeError::Unmade { run, why: "what it was merged from is deleted".into() })
    }

    async fn renew_from(&self, old: &Run, pieces: &[Piece], ladder: Option<&Ladder>) -> Result<Run, MergeError> {
        let instead = Instead { run: old.id, pieces };
        let reader = TimelineReader::open_instead(self.source.clone(), self.timeline, instead).await?;
        if let Some(broken) = reader.broken().filter(|broken| broken.slot <= old.to) {
            return Err(ReadError::damaged(broken.object.clone(), broken.damage.clone()).into());
        }
        let retained = match (self.kept_by(old).await?, ladder) {
            (Some(kept), _) => kept,
            (None, Some(ladder)) => {
                retention_of(&reader, ladder, (self.clock)()).kept.iter().map(|(lsn, _)| *lsn).collect()
            }
            (None, None) => {
                let why = "which points it keeps cannot be read; the process server of the machine knows its retention";
                return Err(MergeError::Unmade { run: old.id, why: why.into() });
            }
        };
        let runs = pieces.iter().filter_map(|piece| match piece {
            Piece::Run(run) => Some(run.id),
            Piece::Slots(..) => None,
        });
        let job = MergeJob { from: old.from, to: old.to, replaces: runs.collect(), retained };
        let (new, boundaries) = self.make(&reader, &job).await?;
        self.commit(&new, &[old.id], &boundaries).await?;
        Ok(new)
    }

    /// The positions that a run keeps, where its head can be read.
    pub(super) async fn kept_by(&self, run: &Run) -> Result<Option<BTreeSet<Lsn>>, MergeError> {
        let place = ObjectPlace::Run(run.id, 0);
        match open_live(&self.source, self.timeline, LiveObject { place, bytes: None }).await {
            Ok(view) => {
                let head = view.footer.run.as_ref();
                Ok(head.map(|head| head.boundaries.iter().map(|boundary| boundary.lsn).collect()))
            }
            Err(ReadError::Damaged { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// The runs that were made of what is about to be deleted and do not read as they were written: each is read whole, once
    /// in this process's life while it reads well.
    pub(super) async fn unsound(&self, manifest: &Manifest, ripe: &[&Doomed]) -> Result<Vec<Run>, MergeError> {
        let mut found = Vec::new();
        for run in manifest.runs.iter().filter(|run| ripe.iter().any(|doomed| doomed.is_in(run))) {
            if !self.is_sound(run).await? {
                found.push(run.clone());
            }
        }
        Ok(found)
    }

    async fn is_sound(&self, run: &Run) -> Result<bool, MergeError> {
        if let Some(known) = self.sightings.as_ref().and_then(|sightings| sightings.sound(run.id)) {
            return Ok(known);
        }
        let sound = self.reads_well(run).await?;
        if let Some(sightings) = &self.sightings {
            sightings.note(run.id, sound, None);
        }
        Ok(sound)
    }

    async fn reads_well(&self, run: &Run) -> Result<bool, MergeError> {
        match open_run(&self.source, self.timeline, run, 0).await {
            Ok(_) => {}
            Err(ReadError::Damaged { .. }) => return Ok(false),
            Err(other) => return Err(other.into()),
        }
        for part in 0..run.parts {
            if !self.part_reads_well(run, part).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a part of a run whole.
    pub(super) async fn part_reads_well(&self, run: &Run, part: u32) -> Result<bool, MergeError> {
        if !self.pace.go_on(run.bytes / u64::from(run.parts)).await {
            return Err(MergeError::Stopped);
        }
        let object = LiveObject { place: ObjectPlace::Run(run.id, part), bytes: None };
        let checked = check_live(&self.source, self.timeline, object).await?;
        Ok(checked.as_ref().is_ok_and(ObjectFaults::is_empty))
    }
}

/// What stands for all the slots of a run and was doomed: the largest runs, but none of `unfit`, and the log objects where there
/// are no runs. `None` where a stretch of it is gone.
fn pieces(manifest: &Manifest, of: &Run, unfit: &BTreeSet<RunId>) -> Option<Vec<Piece>> {
    let runs = || {
        manifest.doomed.iter().filter_map(|doomed| match doomed {
            Doomed::Run { was: Some(was), .. } if was.to <= of.to && !unfit.contains(&was.id) => Some(&**was),
            _ => None,
        })
    };
    let slots = |at| {
        manifest.doomed.iter().find_map(|doomed| match doomed {
            Doomed::Slots { from, to, .. } if *from <= at && at <= *to => Some(*to),
            _ => None,
        })
    };
    let (mut at, mut pieces) = (of.from, Vec::new());
    while at <= of.to {
        let piece = match runs().filter(|run| run.from == at).max_by_key(|run| run.to) {
            Some(run) => Piece::Run(run.clone()),
            None => {
                let ahead = runs().map(|run| run.from).filter(|from| *from > at).min();
                let end = slots(at)?.min(of.to);
                Piece::Slots(at, ahead.map_or(end, |ahead| end.min(Slot(ahead.0 - 1))))
            }
        };
        at = match &piece {
            Piece::Run(run) => run.to.next(),
            Piece::Slots(_, to) => to.next(),
        };
        pieces.push(piece);
    }
    Some(pieces)
}
