//! The last word of a run: the whole log is opened and compared with what the agents wrote.

use std::collections::{BTreeMap, BTreeSet};

use super::agent::History;
use super::log::ModelLog;
use super::maker::contents;
use crate::ids::{DiskNo, Lsn};
use crate::record::Record;
use crate::section::Section;
use crate::vault::segment::{FrameOpener, ItemKind, scan_whole_batches};
use crate::vault::state::LogState;

/// What the log says.
#[derive(Debug, Default)]
struct Read {
    state: LogState,
    /// LSN of every write, with its disk and place.
    writes: BTreeMap<Lsn, (DiskNo, u64)>,
    records: BTreeMap<Lsn, Record>,
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
    for (lsn, (disk, offset)) in &read.writes {
        let made = history.writes[lsn];
        if (made.disk, made.offset) != (*disk, *offset) {
            return Err(format!("the write at LSN {lsn} is in another place"));
        }
    }
    Ok(found.len())
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
        read.state.follow_run(batch.first, batch.last, &records).map_err(|error| text(&error))?;
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
        if data != contents(disk, row.entry.lsn) {
            return Err(format!("the write at LSN {} has other bytes", row.entry.lsn));
        }
        if read.writes.insert(row.entry.lsn, (disk, row.entry.offset)).is_some() {
            return Err(format!("the write at LSN {} is there twice", row.entry.lsn));
        }
    }
    Ok(())
}
