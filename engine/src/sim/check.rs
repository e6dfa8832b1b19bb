//! The last word of a run: the whole log is opened and compared with what the agents wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::agent::{DISKS, History};
use super::log::ModelLog;
use super::maker::{BLOCK_BYTES, contents};
use crate::ids::{DiskNo, Lsn};
use crate::record::Record;
use crate::section::Section;
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::segment_view::LogSource;
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::volume::{Volume, VolumeLimits};
use crate::vault::segment::{FrameOpener, ItemKind, scan_whole_batches};
use crate::vault::state::LogState;

/// What the log says.
#[derive(Debug, Default)]
struct Read {
    state: LogState,
    /// LSN of every write, with its disk, place and bytes.
    writes: BTreeMap<Lsn, (DiskNo, u64, Bytes)>,
    records: BTreeMap<Lsn, Record>,
    /// Marks at which no disk has a gap.
    whole_marks: BTreeSet<Lsn>,
}

/// Checks everything that must hold of the finished log; gives how many writes it has.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn check(log: &ModelLog, history: &History) -> Result<usize, String> {
    let read = read(log)?;
    // I3: nothing that was reported committed is missing.
    if read.state.last_lsn < history.committed {
        let last = read.state.last_lsn;
        return Err(format!("LSN {} was reported committed, the log ends at {last}", history.committed));
    }
    // I2: of each life the log has a prefix, whole: every write up to the life's last logged LSN, and no other.
    let mut expected: BTreeSet<Lsn> = BTreeSet::new();
    for (n, (first, life)) in history.lives.iter().enumerate() {
        let end = history.lives.get(n + 1).map_or(Lsn(u64::MAX), |next| next.0);
        let logged = read.writes.keys().chain(read.records.keys()).filter(|lsn| (*first..end).contains(lsn)).max();
        let Some(logged) = logged else { continue };
        let begins = read.records.get(first);
        if !matches!(begins, Some(Record::Incarnation { id, .. }) if id == life) {
            return Err(format!("life {life} does not begin at LSN {first}: {begins:?}"));
        }
        expected.extend(history.writes.range(*first..=*logged).map(|(lsn, _)| *lsn));
        for (lsn, record) in history.records.range(*first..=*logged) {
            if read.records.get(lsn) != Some(record) {
                return Err(format!("the record at LSN {lsn} is {:?}, not {record:?}", read.records.get(lsn)));
            }
        }
    }
    let found: BTreeSet<Lsn> = read.writes.keys().copied().collect();
    if let Some(lsn) = expected.symmetric_difference(&found).next() {
        let what = if found.contains(lsn) { "is in the log, but was never written" } else { "is missing" };
        return Err(format!("the write at LSN {lsn} {what}"));
    }
    for (lsn, (disk, offset, data)) in &read.writes {
        let made = history.writes[lsn];
        if (made.disk, made.offset) != (*disk, *offset) || *data != contents(made.disk, made.contents) {
            return Err(format!("the write at LSN {lsn} is in another place, or has other bytes"));
        }
    }
    check_points(log, history, &read)?;
    Ok(found.len())
}

/// Points that are read back in full; the newest and others evenly spread.
const POINTS_READ: usize = 4;

/// I2 and I6 through the readers that everyone uses: every mark outside a gap is a point, no other is, and a point shows
/// what the source's disks held when it was taken.
fn check_points(log: &ModelLog, history: &History, read: &Read) -> Result<(), String> {
    let source = LogSource::new(log.store.clone(), log.machine, log.key.clone());
    let reader = log.wait(TimelineReader::open(source, log.timeline)).map_err(|error| error.to_string())?;
    if let Some(broken) = reader.broken() {
        return Err(format!("the log breaks at slot {}: {:?}", broken.slot, broken.damage));
    }
    let points = reader.points();
    let marks = read.records.values().filter(|record| matches!(record, Record::Mark(_))).count();
    let (whole, part): (Vec<_>, Vec<_>) = points.iter().partition(|point| point.in_gap.is_empty());
    if points.len() > marks || whole.is_empty() != read.whole_marks.is_empty() {
        return Err(format!("{} points of {marks} marks, {} in gaps", points.len(), part.len()));
    }
    let found: BTreeSet<Lsn> = whole.iter().map(|point| point.lsn).collect();
    if found != read.whole_marks {
        return Err(format!("the points lie at {found:?}, the marks outside gaps at {:?}", read.whole_marks));
    }
    let frames = Arc::new(FrameCache::new(16 << 20));
    for point in whole.iter().step_by((whole.len() / POINTS_READ).max(1)) {
        let expected = history.disk_at(point.lsn);
        for disk in (0..DISKS).map(DiskNo) {
            let volume = Volume::of_point(&reader, point, disk, frames.clone(), VolumeLimits::default())
                .map_err(|error| error.to_string())?;
            let mut shown = vec![0; volume.info().size_bytes as usize];
            log.wait(volume.read(0, &mut shown)).map_err(|error| error.to_string())?;
            for (n, block) in shown.chunks(BLOCK_BYTES as usize).enumerate() {
                let offset = n as u64 * BLOCK_BYTES;
                let held = expected.get(&(disk, offset)).map(|(_, from)| contents(disk, *from));
                if held.unwrap_or_else(|| vec![0; BLOCK_BYTES as usize].into()) != block {
                    return Err(format!(
                        "I2: the point at LSN {} shows another block at {offset} of disk {disk}",
                        point.lsn
                    ));
                }
            }
        }
    }
    Ok(())
}

fn read(log: &ModelLog) -> Result<Read, String> {
    let mut read = Read::default();
    for (slot, object) in log.slots.iter().enumerate() {
        let at = |what: &dyn std::fmt::Display| format!("slot {slot}: {what}");
        if object.footer.control.is_none() {
            read_segment(log, &object.bytes, &mut read).map_err(|error| at(&error))?;
        }
        if read.state != object.footer.state {
            return Err(at(&"the state in its footer is not what the log says"));
        }
    }
    Ok(read)
}

fn read_segment(log: &ModelLog, object: &bytes::Bytes, read: &mut Read) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let scan = scan_whole_batches(object).map_err(|error| text(&error))?;
    let opener = FrameOpener::new(&log.key, &scan.identity);
    for batch in &scan.batches {
        let mut records = Vec::new();
        for (at, header) in &batch.items {
            let item = object.slice(*at as usize..*at as usize + header.item_bytes());
            let (_, plain) = opener.open_item(&item).map_err(|error| text(&error))?;
            match header.kind {
                ItemKind::Frame { disk } => read_section(log, disk, &plain, read)?,
                ItemKind::BatchEnd { .. } => records = opener.reopen(&item).map_err(|error| text(&error))?.records,
            }
        }
        let before = read.state.clone();
        read.state.follow_run(batch.first, batch.last, &records).map_err(|error| text(&error))?;
        for at in records.iter().filter(|at| matches!(at.record, Record::Mark(_))) {
            // The simulated agent marks in batches of their own.
            if before.disks.values().all(|disk| disk.gap.is_none()) {
                read.whole_marks.insert(at.lsn);
            }
        }
        read.records.extend(records.into_iter().map(|at| (at.lsn, at.record)));
    }
    Ok(())
}

fn read_section(log: &ModelLog, disk: DiskNo, plain: &bytes::Bytes, read: &mut Read) -> Result<(), String> {
    let section = Section::parse(plain, u64::MAX).map_err(|error| error.to_string())?;
    if let Some(at) = section.first_damage(&log.key.digest_key()) {
        return Err(format!("disk {disk} at {at}: the digest does not hold"));
    }
    for row in section.rows() {
        let data = section.payload.slice(row.payload_at..row.payload_at + row.entry.len as usize);
        if read.writes.insert(row.entry.lsn, (disk, row.entry.offset, data)).is_some() {
            return Err(format!("the write at LSN {} is there twice", row.entry.lsn));
        }
    }
    Ok(())
}
