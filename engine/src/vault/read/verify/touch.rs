//! Which points need a bad frame: those at whose mark at least one byte of the disk still comes from it.
//!
//! Only rows of bad frames are kept in the map; every other row just hides what it covers. So the map is as large as
//! the damage, not as large as the disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::object::ObjectFaults;
use crate::ids::{DiskNo, Lsn, TimelineId};
use crate::section::WriteKind;
use crate::vault::read::error::ReadError;
use crate::vault::read::extent_map::{Extent, ExtentMap, Source};
use crate::vault::read::points::{History, RecoveryPoint};
use crate::vault::read::segment_view::{LogSource, ObjectPlace, SegmentView};
use crate::vault::segment::IndexRow;

/// Where a log object lies.
pub(in crate::vault) type Place = (TimelineId, ObjectPlace);

/// Faults of a machine's objects.
pub(super) type Faults = HashMap<Place, ObjectFaults>;

/// A point of a disk that an object touches.
pub(super) struct Touch {
    pub(super) object: Place,
    pub(super) point: usize,
    pub(super) disk: DiskNo,
}

/// The touches of the readable part of a log: `points` are its points, in order of the log.
pub(super) async fn touches(
    source: &LogSource,
    segments: &[Arc<SegmentView>],
    history: &History,
    points: &[RecoveryPoint],
    faults: &Faults,
) -> Result<Vec<Touch>, ReadError> {
    let mut disks: BTreeSet<DiskNo> = BTreeSet::new();
    for view in segments {
        let Some(found) = faults.get(&(view.timeline, view.place)) else { continue };
        disks.extend(found.frames.keys().map(|frame| view.footer.frames[*frame as usize].disk));
        disks.extend(found.rows_lost.keys());
    }
    let mut found = Vec::new();
    for disk in disks {
        let mut walk = Walk {
            disk,
            segments,
            points,
            next_point: 0,
            map: ExtentMap::new(0..u64::MAX),
            live: HashMap::new(),
            lost: Vec::new(),
            found: &mut found,
        };
        walk.run(source, history, faults).await?;
    }
    Ok(found)
}

/// One disk's way through the log.
struct Walk<'a> {
    disk: DiskNo,
    segments: &'a [Arc<SegmentView>],
    points: &'a [RecoveryPoint],
    next_point: usize,
    map: ExtentMap,
    /// Bytes of the disk that come from bad frames, by segment.
    live: HashMap<u32, u64>,
    /// Objects whose rows are lost, with the first LSN that may be among them.
    lost: Vec<(Place, Lsn)>,
    found: &'a mut Vec<Touch>,
}

impl Walk<'_> {
    async fn run(&mut self, source: &LogSource, history: &History, faults: &Faults) -> Result<(), ReadError> {
        let mut sizes = history.sizes(self.disk).iter().peekable();
        for (number, view) in self.segments.iter().enumerate() {
            let place = (view.timeline, view.place);
            let own = faults.get(&place);
            if let Some(from) = own.and_then(|faults| faults.rows_lost.get(&self.disk)) {
                self.lost.push((place, *from));
            }
            let disk = self.disk;
            for (page, entry) in view.footer.pages.iter().enumerate().filter(|(_, page)| page.disk == disk) {
                let rows = match source.rows(view, page).await {
                    Ok(rows) => rows,
                    Err(ReadError::Damaged { .. }) => continue,
                    Err(other) => return Err(other),
                };
                // Without a bad byte alive, a page without bad frames changes nothing.
                let bad = |row: &IndexRow| own.is_some_and(|faults| faults.frames.contains_key(&row.frame));
                if self.live.is_empty() && !rows.iter().any(bad) {
                    self.pass_points(entry.first);
                    continue;
                }
                for row in rows.iter().take_while(|row| row.lsn <= view.limit) {
                    while let Some((from, size)) = sizes.next_if(|(from, _)| *from < row.lsn) {
                        self.pass_points(*from);
                        self.change(|map, hide| map.resize(*size, hide));
                    }
                    self.pass_points(row.lsn);
                    let bad = bad(row);
                    self.take(number as u32, row, bad);
                }
            }
        }
        for (from, size) in sizes {
            self.pass_points(*from);
            self.change(|map, hide| map.resize(*size, hide));
        }
        self.pass_points(Lsn(u64::MAX));
        Ok(())
    }

    fn take(&mut self, segment: u32, row: &IndexRow, bad: bool) {
        let range = row.offset..row.end();
        self.change(|map, hide| map.hide(range, hide));
        // Zeroes are told by the index alone: no byte of the frame is needed for them.
        if bad && row.kind == WriteKind::Data {
            self.map.write(row.offset, row.len, row.kind, (segment, row.frame, row.payload_at));
            *self.live.entry(segment).or_default() += u64::from(row.len);
        }
    }

    /// Changes the map, and counts what that hides.
    fn change(&mut self, change: impl FnOnce(&mut ExtentMap, &mut dyn FnMut(Extent))) {
        let live = &mut self.live;
        change(&mut self.map, &mut |hidden: Extent| {
            let Some(Source::Data { segment, .. }) = hidden.source else { return };
            if let Some(bytes) = live.get_mut(&segment) {
                *bytes -= hidden.len;
                if *bytes == 0 {
                    live.remove(&segment);
                }
            }
        });
    }

    /// Judges the points whose marks come before the write at `lsn`.
    fn pass_points(&mut self, lsn: Lsn) {
        while let Some(point) = self.points.get(self.next_point).filter(|point| point.lsn < lsn) {
            if point.disks.contains(&self.disk) {
                let live = self.live.keys().map(|segment| &self.segments[*segment as usize]);
                let live = live.map(|view| (view.timeline, view.place));
                let lost = self.lost.iter().filter(|(_, from)| *from < point.lsn).map(|(place, _)| *place);
                let (point, disk) = (self.next_point, self.disk);
                self.found.extend(live.chain(lost).map(|object| Touch { object, point, disk }));
            }
            self.next_point += 1;
        }
    }
}
