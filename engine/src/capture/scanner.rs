//! The scanner's thread: carries out what `scan` plans, disk after disk, while there is room and something to scan.

use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::content::analyse;
use super::scan::{ScanJob, ScanOutcome, ScanSpot, hole_runs};
use super::tap::Tap;

/// How often it looks by itself when nobody wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Scans until the tap stops.
pub fn run(tap: &Tap) {
    while !tap.is_stopping() {
        let steps = (0..tap.disks().len()).filter(|disk| step(tap, *disk)).count();
        if steps == 0 {
            tap.wait_for_scan(LOOK_EVERY);
        }
    }
}

/// One part of one disk; false where there was nothing to do, or no room.
fn step(tap: &Tap, disk: usize) -> bool {
    let spot = tap.splitter().scan_spot(disk, tap.now());
    let Some(spot) = spot else { return false };
    // A hint: looked at again under the range lock.
    let hole_end = hole_end(tap, spot).unwrap_or(None);
    let mut splitter = tap.splitter();
    let job = splitter.begin_scan(spot, hole_end);
    tap.hold(&mut splitter, &job.ticket);
    let lsn = splitter.start_scan(&job);
    drop(splitter);
    if job.compares {
        tap.wake_session();
    }
    let outcome = read(tap, &job).unwrap_or(ScanOutcome::Unreadable);
    let now = tap.now();
    let moved = tap.splitter().complete_scan(job, lsn, outcome, now);
    tap.pass_on(moved);
    true
}

fn read(tap: &Tap, job: &ScanJob) -> io::Result<ScanOutcome> {
    let range = job.range();
    let spot = ScanSpot { disk: job.disk(), offset: range.start };
    if job.hole {
        let still = hole_end(tap, spot)?.is_some_and(|end| end >= range.end);
        return Ok(if still { ScanOutcome::Read(hole_runs(range)) } else { ScanOutcome::NoHole });
    }
    let mut data = vec![0; (range.end - range.start) as usize];
    tap.disks()[job.disk()].backing.read(range.start, &mut data)?;
    Ok(ScanOutcome::Read(analyse(tap.key(), range.start, &Bytes::from(data))))
}

/// Where the hole that covers a spot ends, if one does.
fn hole_end(tap: &Tap, spot: ScanSpot) -> io::Result<Option<u64>> {
    let backing = &tap.disks()[spot.disk].backing;
    let first = backing.extents(spot.offset, backing.size_bytes() - spot.offset, 1)?;
    Ok(first.first().filter(|extent| extent.hole).map(|extent| spot.offset + extent.len))
}
