//! What of a log's records and positions a run takes along. Pure: footers in, lists out.
//!
//! Marks that are not retained go; everything else stays, for it tells of disks, sizes and gaps that retained points depend
//! on, and is little. One thing is told by writes between records: a clean stop that a write follows is none. Runs do not
//! keep LSNs of writes, so such a stop is left out, and the life after it opens its gap as it did.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{DiskNo, Lsn};
use crate::record::{Record, RecordAt};
use crate::vault::read::segment_view::SegmentView;
use crate::vault::segment::Boundary;

/// The records of `sources`, which follow each other, without the marks that `keeps` does not want.
pub(super) fn records(sources: &[&SegmentView], keeps: impl Fn(Lsn) -> bool) -> Vec<RecordAt> {
    let all: Vec<&RecordAt> = sources.iter().flat_map(|view| &view.footer.records).collect();
    // First LSNs of batches with writes, in order of the log; a run has taken out what they would tell.
    let live = sources.iter().filter(|view| view.footer.run.is_none());
    let writes: BTreeSet<Lsn> = live.flat_map(|view| &view.footer.frames).map(|frame| frame.first).collect();
    let mut kept = Vec::new();
    for (at, record) in all.iter().enumerate() {
        let stays = match record.record {
            Record::Mark(_) => keeps(record.lsn),
            Record::CleanStop { .. } => {
                let next = all.get(at + 1);
                let end = next.map_or(Lsn(u64::MAX), |next| next.lsn);
                let nothing_between = writes.range(record.lsn.next()..end).next().is_none();
                nothing_between && next.is_none_or(|next| matches!(next.record, Record::Incarnation { .. }))
            }
            _ => true,
        };
        if stays {
            kept.push((*record).clone());
        }
    }
    kept
}

/// The positions among `wanted` that lie in `sources`, with the slots that held them. A position inside a run that the run
/// has not kept cannot be had back, and is not among them.
pub(super) fn boundaries(sources: &[&SegmentView], wanted: &BTreeSet<Lsn>) -> Vec<Boundary> {
    let mut found = Vec::new();
    for view in sources.iter().filter(|view| view.footer.control.is_none()) {
        match &view.footer.run {
            // Only the first part has any.
            Some(head) => found.extend(head.boundaries.iter().filter(|own| wanted.contains(&own.lsn))),
            None => {
                let (slot, footer) = (view.slot, view.footer.digest);
                let inside = wanted.range(view.footer.first..=view.footer.last);
                found.extend(inside.map(|lsn| Boundary { lsn: *lsn, slot, footer }));
            }
        }
    }
    found
}

/// When each disk left, for those that did.
pub(super) fn removals(records: &[RecordAt]) -> BTreeMap<DiskNo, Lsn> {
    let removal = |at: &RecordAt| match at.record {
        Record::DiskRemoved { disk } => Some((disk, at.lsn)),
        _ => None,
    };
    records.iter().filter_map(removal).collect()
}
