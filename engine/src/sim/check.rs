//! The last word of a run, and a look in between: the log is opened by the readers that everyone uses, and compared with
//! what was found in it slot by slot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::log::ModelLog;
use super::machine::Machine;
use super::source::{self, BLOCK_BYTES};
use crate::ids::{DiskNo, Lsn};
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::segment_view::LogSource;
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::volume::{Volume, VolumeLimits};

/// Points that are read back in full at the end; the newest and others evenly spread.
const POINTS_READ: usize = 4;

/// Checks everything that must hold of a finished machine; gives how many writes its log has.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn check(machine: &Machine) -> Result<usize, String> {
    let replay = &machine.log.replay;
    if let Some((number, disk)) = machine.disks.iter().enumerate().find(|(n, disk)| disk.live != replay.disks[*n]) {
        return Err(format!("disk {number} holds {:?}, its replica {:?}", disk.live, replay.disks[number]));
    }
    check_points(&machine.log, POINTS_READ)?;
    Ok(replay.writes)
}

/// I2 and I6 through the readers: every mark outside a gap is a point, no other is, and as many points as asked for show
/// what the log says. Gives how many were read.
pub(super) fn check_points(log: &ModelLog, most: usize) -> Result<usize, String> {
    let expected: BTreeMap<Lsn, (usize, Vec<DiskNo>)> = log
        .replay
        .marks
        .iter()
        .enumerate()
        .filter(|(_, shown)| !shown.whole.is_empty())
        .map(|(n, shown)| (shown.lsn, (n, shown.whole.iter().map(|(disk, _)| *disk).collect())))
        .collect();
    if expected.is_empty() {
        return Ok(0);
    }
    let source = LogSource::new(log.store.clone(), log.machine, log.key.clone());
    let reader = log.wait(TimelineReader::open(source, log.timeline)).map_err(|error| error.to_string())?;
    if let Some(broken) = reader.broken() {
        return Err(format!("the log breaks at slot {}: {:?}", broken.slot, broken.damage));
    }
    let points = reader.points();
    let found: BTreeMap<Lsn, &Vec<DiskNo>> = points.iter().map(|point| (point.lsn, &point.disks)).collect();
    if !found.iter().map(|(lsn, disks)| (lsn, *disks)).eq(expected.iter().map(|(lsn, (_, disks))| (lsn, disks))) {
        return Err(format!("I6: the points are {found:?}, the marks outside gaps {expected:?}"));
    }
    let frames = Arc::new(FrameCache::new(16 << 20));
    let mut read = 0;
    for point in points.iter().rev().step_by((points.len() / most).max(1)).take(most) {
        let shown = &log.replay.marks[expected[&point.lsn].0];
        for (disk, index) in &shown.whole {
            let volume = Volume::of_point(&reader, point, *disk, frames.clone(), VolumeLimits::default())
                .map_err(|error| error.to_string())?;
            let mut bytes = vec![0; volume.info().size_bytes as usize];
            log.wait(volume.read(0, &mut bytes)).map_err(|error| error.to_string())?;
            let blocks = bytes.chunks(BLOCK_BYTES as usize).zip(&shown.disks[*index]);
            if let Some(block) = { blocks }.position(|(bytes, value)| source::value(bytes) != Some(*value)) {
                let lsn = point.lsn;
                return Err(format!(
                    "I2: the point at LSN {lsn} shows another block {block} of disk {disk} than its log"
                ));
            }
        }
        read += 1;
    }
    Ok(read)
}
