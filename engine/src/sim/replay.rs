//! What a log says, read as it is filled: every frame is opened, every digest checked, every write laid onto the replica,
//! every mark judged (I2, I6).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::machine::DISKS;
use super::source::{self, BLOCK_BYTES, BLOCKS, Snapshot, SourceDisk, Value};
use crate::ids::{DiskNo, Lsn, MarkId};
use crate::record::{Record, RecordAt};
use crate::section::{Section, WriteKind};
use crate::vault::crypto::DataKey;
use crate::vault::segment::{FrameOpener, ItemKind, scan_whole_batches};
use crate::vault::state::LogState;

/// What a mark shows.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) lsn: Lsn,
    /// Disks that have no gap there: the log's number, and the machine's.
    pub(super) whole: Vec<(DiskNo, usize)>,
    pub(super) disks: Vec<Vec<Value>>,
}

/// What the log says up to its end.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) state: LogState,
    /// What the replica holds, per disk.
    pub(super) disks: Vec<Vec<Value>>,
    pub(super) marks: Vec<Shown>,
    pub(super) writes: usize,
}

impl Default for Replay {
    fn default() -> Self {
        let (state, disks) = (LogState::default(), vec![vec![0; BLOCKS]; DISKS]);
        Self { state, disks, marks: Vec::new(), writes: 0 }
    }
}

/// Marks that agents took, and the disks that they are judged by.
#[derive(Debug)]
pub(super) struct Truth<'a> {
    pub(super) disks: &'a [SourceDisk],
    pub(super) marks: &'a BTreeMap<MarkId, Vec<Snapshot>>,
}

enum Entry {
    Write { disk: DiskNo, offset: u64, len: u32, data: Option<Bytes> },
    Record(Record),
}

impl Replay {
    /// Takes a segment.
    ///
    /// # Errors
    /// What does not hold.
    pub(super) fn take(&mut self, object: &Bytes, key: &DataKey, truth: &Truth<'_>) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let scan = scan_whole_batches(object).map_err(|error| text(&error))?;
        let opener = FrameOpener::new(key, &scan.identity);
        for batch in &scan.batches {
            let mut records: Vec<RecordAt> = Vec::new();
            let mut entries: BTreeMap<Lsn, Vec<Entry>> = BTreeMap::new();
            for (at, header) in &batch.items {
                let item = object.slice(*at as usize..*at as usize + header.item_bytes());
                let (_, plain) = opener.open_item(&item).map_err(|error| text(&error))?;
                match header.kind {
                    ItemKind::Frame { disk } => read_section(key, disk, &plain, &mut entries)?,
                    ItemKind::BatchEnd { .. } => {
                        records = opener.reopen(&item).map_err(|error| text(&error))?.records;
                    }
                }
            }
            for at in &records {
                entries.entry(at.lsn).or_default().push(Entry::Record(at.record.clone()));
            }
            if let Some(lsn) = entries.keys().find(|lsn| !(batch.first..=batch.last).contains(lsn)) {
                return Err(format!("LSN {lsn} lies outside the batch {} to {}", batch.first, batch.last));
            }
            let mut state = self.state.clone();
            for (lsn, entry) in entries.into_iter().flat_map(|(lsn, all)| all.into_iter().map(move |one| (lsn, one))) {
                self.apply(lsn, entry, &mut state, truth)?;
            }
            self.state.follow_run(batch.first, batch.last, &records).map_err(|error| text(&error))?;
        }
        Ok(())
    }

    fn apply(&mut self, lsn: Lsn, entry: Entry, state: &mut LogState, truth: &Truth<'_>) -> Result<(), String> {
        match entry {
            Entry::Write { disk, offset, len, data } => {
                self.writes += 1;
                let replica = &mut self.disks[index_of(state, disk)?];
                let first = (offset / BLOCK_BYTES) as usize;
                for n in 0..(u64::from(len) / BLOCK_BYTES) as usize {
                    let at = n * BLOCK_BYTES as usize;
                    let bytes = data.as_ref().map(|data| &data[at..at + BLOCK_BYTES as usize]);
                    let value = bytes.map_or(Some(0), source::value);
                    replica[first + n] =
                        value.ok_or(format!("LSN {lsn} has other bytes in block {} than any write", first + n))?;
                }
            }
            Entry::Record(record) => {
                state.apply(&RecordAt { lsn, record: record.clone() }).map_err(|error| error.to_string())?;
                if let Record::DiskAdded(info) = &record {
                    self.disks[index_of(state, info.disk)?] = vec![0; BLOCKS];
                }
                if let Record::Mark(mark) = record {
                    let taken = truth.marks.get(&mark.id).ok_or(format!("the mark at LSN {lsn} was never taken"))?;
                    let whole = state.disks.iter().filter(|(_, disk)| disk.gap.is_none());
                    let whole = whole.map(|(disk, _)| Ok((*disk, index_of(state, *disk)?)));
                    let whole = whole.collect::<Result<Vec<_>, String>>()?;
                    let shown = Shown { lsn, whole, disks: self.disks.clone() };
                    judge(&shown, taken, truth.disks)?;
                    self.marks.push(shown);
                }
            }
        }
        Ok(())
    }
}

/// Which of the machine's disks the log knows by this number: a disk whose first number never got into the log has
/// another one.
fn index_of(state: &LogState, disk: DiskNo) -> Result<usize, String> {
    let name = state.disks.get(&disk).map(|disk| disk.info.name.as_str());
    let index = name.and_then(|name| (0..DISKS).find(|index| source::name(*index) == name));
    index.ok_or_else(|| format!("disk {disk} is none"))
}

/// I2: a mark shows what the disks could have held after a crash at its time; I6: where it does not, a gap says so.
fn judge(shown: &Shown, taken: &[Snapshot], disks: &[SourceDisk]) -> Result<(), String> {
    for (number, at) in shown.whole.iter().copied() {
        for (block, value) in shown.disks[at].iter().enumerate() {
            if !disks[at].could_hold(&taken[at], block, *value) {
                let lsn = shown.lsn;
                return Err(format!(
                    "I2: the mark at LSN {lsn} shows in block {block} of disk {number} what it could not have held then ({value})"
                ));
            }
        }
    }
    Ok(())
}

fn read_section(
    key: &DataKey,
    disk: DiskNo,
    plain: &Bytes,
    entries: &mut BTreeMap<Lsn, Vec<Entry>>,
) -> Result<(), String> {
    let section = Section::parse(plain, u64::MAX).map_err(|error| error.to_string())?;
    if let Some(at) = section.first_damage(&key.digest_key()) {
        return Err(format!("disk {disk} at {at}: the digest does not hold"));
    }
    for row in section.rows() {
        let (offset, len) = (row.entry.offset, row.entry.len);
        let data = match row.entry.kind {
            WriteKind::Data => Some(section.payload.slice(row.payload_at..row.payload_at + len as usize)),
            WriteKind::Zero | WriteKind::Undefined => None,
        };
        entries.entry(row.entry.lsn).or_default().push(Entry::Write { disk, offset, len, data });
    }
    Ok(())
}
