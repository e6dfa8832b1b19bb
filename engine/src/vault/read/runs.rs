//! The merged runs of a timeline, read: each whole or not at all.
//!
//! A run's parts chain through their footers as the log does, and the manifest names the last footer: so no part can be
//! exchanged, left out or taken from another run.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::error::{Damage, ReadError};
use super::segment_view::{LogSource, SegmentView};
use super::timeline::IN_FLIGHT;
use crate::ids::{Lsn, RunId, Slot, TimelineId};
use crate::vault::layout::{ObjectName, run_prefix};
use crate::vault::manifest::Run;
use crate::vault::segment::Boundary;

/// Parts asked for in one list call.
const LIST_LIMIT: usize = 5000;

/// What a reader knows of a run once its parts are taken.
#[derive(Debug, Clone)]
pub struct ReadableRun {
    /// The timeline it lies in.
    pub timeline: TimelineId,
    /// Which.
    pub id: RunId,
    /// First and last slot that it stands for.
    pub slots: (Slot, Slot),
    /// First LSN.
    pub first: Lsn,
    /// Last LSN that counts.
    pub last: Lsn,
    /// The positions in it that can be read.
    pub boundaries: Arc<[Boundary]>,
    /// How many bytes its parts have.
    pub bytes: u64,
}

impl ReadableRun {
    /// Whether the position lies inside the run and is none that it kept.
    pub fn has_dropped(&self, lsn: Lsn) -> bool {
        lsn > self.first && lsn <= self.last && self.boundary(lsn).is_none()
    }

    /// The boundary at a position.
    pub fn boundary(&self, lsn: Lsn) -> Option<&Boundary> {
        let at = self.boundaries.binary_search_by_key(&lsn, |boundary| boundary.lsn).ok()?;
        Some(&self.boundaries[at])
    }
}

/// Sizes of a run's parts as a list tells them; a list may miss some.
async fn listed_sizes(source: &LogSource, timeline: TimelineId, run: RunId) -> Result<BTreeMap<u32, u64>, ReadError> {
    let prefix = run_prefix(source.machine(), timeline, run);
    let (mut sizes, mut after) = (BTreeMap::new(), None);
    loop {
        let lines = source.store().list(&prefix, after.as_ref(), LIST_LIMIT).await.map_err(ReadError::Store)?;
        let parts = lines.iter().filter_map(|line| Some((line.name.run()?.1, line.bytes)));
        sizes.extend(parts);
        match lines.last() {
            Some(last) if lines.len() == LIST_LIMIT => after = Some(last.name.clone()),
            _ => return Ok(sizes),
        }
    }
}

/// Opens every part of a run, in order. An error names the part; damage is told from a store that does not answer by the
/// error's kind.
pub async fn open_run(
    source: &LogSource,
    timeline: TimelineId,
    run: &Run,
    keep_bytes: usize,
) -> Result<Vec<SegmentView>, ReadError> {
    let sizes = listed_sizes(source, timeline, run.id).await?;
    let opens = (0..run.parts).map(|part| {
        let listed = sizes.get(&part).copied();
        async move {
            let name = ObjectName::run_part(source.machine(), timeline, run.id, part);
            let bytes = match listed {
                Some(bytes) => bytes,
                None => source.store().head(&name).await.map_err(|error| ReadError::store(&name, error))?.bytes,
            };
            source.open_part(timeline, run.id, part, bytes, keep_bytes).await
        }
    });
    let mut opened = stream::iter(opens).buffered(IN_FLIGHT);
    let mut parts: Vec<SegmentView> = Vec::new();
    while let Some(view) = opened.next().await {
        let view = view?;
        check_part(run, parts.last(), &view).map_err(|damage| ReadError::damaged(source.name_of(&view), damage))?;
        parts.push(view);
    }
    match parts.last() {
        Some(last) if last.footer.digest == run.footer => Ok(parts),
        last => {
            let part = last.map_or(0, |_| run.parts - 1);
            let name = ObjectName::run_part(source.machine(), timeline, run.id, part);
            Err(ReadError::damaged(name, Damage::Part))
        }
    }
}

fn check_part(run: &Run, before: Option<&SegmentView>, view: &SegmentView) -> Result<(), Damage> {
    let footer = &view.footer;
    let head = footer.run.as_ref().ok_or(Damage::Part)?;
    let fits = (head.from, head.to) == (run.from, run.to) && (footer.first, footer.last) == (run.first, run.last);
    let follows = before.is_none_or(|before| before.footer.digest == footer.previous);
    let bare = head.part == 0 || footer.records.is_empty();
    (fits && follows && bare).then_some(()).ok_or(Damage::Part)
}
