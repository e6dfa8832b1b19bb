//! How a life begins in the log: what the log holds already, laid beside what the agent knows, gives the first batch.
//!
//! ```text
//!   LSN   first         first+1 .. per disk two             then
//!         Incarnation   DiskAdded | DiskResized | nothing   writes and records as they came
//!                       GapOpened | nothing
//! ```
//!
//! These LSNs are kept when the agent starts and are filled when a process server first says what the log ends in. Until
//! then nothing leaves. The rule of gaps fails safe: each disk has one from the log's end on, unless the log ends in the
//! clean stop that this agent remembers, and the disk's activity log can be trusted.

use std::time::Duration;

use super::compare::can_compare;
use super::regions::InLog;
use super::splitter::{Moved, Splitter};
use super::trust::Distrust;
use crate::batch::Batch;
use crate::ids::{DiskNo, IncarnationId, Lsn};
use crate::record::{DiskInfo, GapReason, Record, RecordAt};
use crate::vault::state::LogState;

/// LSNs that are kept for the records of each disk.
const RECORDS_PER_DISK: u64 = 2;

/// LSNs that the first batch of a life takes.
pub fn opening_lsns(disks: usize) -> u64 {
    1 + RECORDS_PER_DISK * disks as u64
}

/// What an agent knows of a disk when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDisk {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its sector size in bytes.
    pub sector_bytes: u32,
    /// Why its activity log cannot be trusted, if it cannot.
    pub distrust: Option<Distrust>,
    /// Whether the activity log holds anything as hot.
    pub hot: bool,
}

/// What an agent knows of its log when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLog {
    /// This life.
    pub incarnation: IncarnationId,
    /// The lives that the log may end in.
    pub lineage: Vec<IncarnationId>,
    /// The LSN of the clean stop that ended the last life, if one did.
    pub clean_stop: Option<Lsn>,
    /// The last LSN that was committed as far as the agent remembers.
    pub committed: Lsn,
    /// The first LSN of this life, as it was reserved.
    pub first: Lsn,
    /// No disk number below this one is free.
    pub next_disk: u16,
    /// The disks.
    pub disks: Vec<KnownDisk>,
}

/// How one disk begins in a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOpening {
    /// Its number.
    pub number: DiskNo,
    /// The disk is new to the log.
    pub added: Option<DiskInfo>,
    /// It has another size than in the log.
    pub resized: Option<u64>,
    /// The gap that is open from here on, if one is.
    pub gap: Option<GapReason>,
    /// Why the whole disk is scanned, if it is.
    pub full_scan: Option<Distrust>,
}

/// How a life begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Its incarnation's record.
    pub incarnation: IncarnationId,
    /// What the log ends in.
    pub predecessor: Option<IncarnationId>,
    /// Its first LSN.
    pub first: Lsn,
    /// Its disks, in the agent's order.
    pub disks: Vec<DiskOpening>,
    /// Disks of the log that the machine no longer has.
    pub removed: Vec<DiskNo>,
    /// The first disk number that is free now.
    pub next_disk: u16,
}

/// Lays what the agent knows beside what the log says.
pub fn plan(known: &KnownLog, log: &LogState) -> Opening {
    let all = distrust_all(known, log);
    let follows = log.clean_stop && known.clean_stop == Some(log.last_lsn);
    let taken = log.disks.keys().chain(&log.removed).map(|disk| disk.0 + 1).max().unwrap_or(0);
    let mut next_disk = known.next_disk.max(taken);
    let disks: Vec<DiskOpening> =
        known.disks.iter().map(|disk| open_disk(disk, log, follows, all, &mut next_disk)).collect();
    let stays = |number: &DiskNo| disks.iter().any(|disk| disk.number == *number);
    let removed = log.disks.keys().copied().filter(|number| !stays(number)).collect();
    Opening {
        incarnation: known.incarnation,
        predecessor: log.incarnation,
        first: known.first,
        disks,
        removed,
        next_disk,
    }
}

/// Why nothing that the agent remembers fits the log, if nothing does.
fn distrust_all(known: &KnownLog, log: &LogState) -> Option<Distrust> {
    if log.incarnation.is_some_and(|last| !known.lineage.contains(&last)) {
        return Some(Distrust::OtherLife);
    }
    // What was committed once is in every later log (I3), and nothing follows a clean stop but the next life.
    let differs = log.last_lsn < known.committed || known.clean_stop.is_some_and(|stop| stop != log.last_lsn);
    differs.then_some(Distrust::LogDiffers)
}

fn open_disk(
    disk: &KnownDisk,
    log: &LogState,
    follows: bool,
    all: Option<Distrust>,
    next_disk: &mut u16,
) -> DiskOpening {
    let KnownDisk { name, size_bytes, sector_bytes, distrust, hot } = disk.clone();
    let Some(state) =
        log.disks.values().find(|state| state.info.name == name && state.info.sector_bytes == sector_bytes)
    else {
        let number = DiskNo(*next_disk);
        *next_disk += 1;
        return DiskOpening {
            number,
            added: Some(DiskInfo { disk: number, name, size_bytes, sector_bytes }),
            resized: None,
            gap: Some(GapReason::InitialReplication),
            full_scan: Some(Distrust::Missing),
        };
    };
    let resized = (state.info.size_bytes != size_bytes).then_some(size_bytes);
    let invalid = state.activity_log_invalid.then_some(Distrust::Invalid);
    let full_scan = distrust.or(all).or(invalid).or(resized.map(|_| Distrust::Resized));
    let gap = match (full_scan, follows) {
        (Some(_), _) => Some(GapReason::ActivityLogLost),
        (None, true) => state.gap.map(|gap| gap.reason).or(hot.then_some(GapReason::UncleanStop)),
        (None, false) => Some(GapReason::UncleanStop),
    };
    DiskOpening { number: state.info.disk, added: None, resized, gap, full_scan }
}

impl Opening {
    fn batch(&self) -> Batch {
        let id = self.incarnation;
        let incarnation = Record::Incarnation { id, predecessor: self.predecessor };
        let mut records = vec![RecordAt { lsn: self.first, record: incarnation }];
        let mut lsn = self.first.next();
        for opening in &self.disks {
            let disk = opening.number;
            let change = match (&opening.added, opening.resized) {
                (Some(info), _) => Some(Record::DiskAdded(info.clone())),
                (None, Some(size_bytes)) => Some(Record::DiskResized { disk, size_bytes }),
                (None, None) => None,
            };
            records.extend(change.map(|record| RecordAt { lsn, record }));
            lsn = lsn.next();
            let gap = opening.gap.map(|reason| Record::GapOpened { disk, from: lsn, reason });
            records.extend(gap.map(|record| RecordAt { lsn, record }));
            lsn = lsn.next();
        }
        Batch { first: self.first, last: Lsn(lsn.0 - 1), sections: Vec::new(), records }
    }
}

/// Why a life that has begun cannot begin anew in another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log is another one than before ({0}): restart the agent, which then scans the whole disk")]
pub struct CannotReopen(pub Distrust);

impl Splitter {
    /// Opens the log: gives the batch with which this life begins, and lets go of what waited behind it.
    ///
    /// # Panics
    /// When it is open, or when the first LSN falls.
    pub fn open(&mut self, opening: Opening, now: Duration) -> (Batch, Moved) {
        assert!(self.opening.is_none(), "a life begins once");
        assert!(opening.first >= self.first, "LSNs only move up");
        let shift = opening.first.0 - self.first.0;
        self.window.renumber(shift, opening.disks.iter().map(|disk| disk.number).collect());
        for (disk, opening) in self.disks.iter_mut().zip(&opening.disks) {
            if opening.full_scan.is_some() {
                // Nothing was shipped while everything was stale: then nothing of it is in the log.
                let untouched = disk.regions.stale().count() == disk.regions.stale().size();
                disk.regions.lose_all(match opening.added {
                    Some(_) if untouched => InLog::Nothing,
                    None if can_compare(disk.regions.region_bytes()) => InLog::Earlier,
                    _ => InLog::Other,
                });
            }
            disk.gap = opening.gap.or(disk.gap);
            assert!(disk.gap.is_some() || disk.regions.stale().is_empty(), "what is scanned lies in a gap");
        }
        for disk in &opening.removed {
            self.window.record(Record::DiskRemoved { disk: *disk });
        }
        let batch = opening.batch();
        self.opening = Some(opening);
        self.close_gaps();
        (batch, self.drained(now))
    }

    /// Opens another owner's log, which this life had not reached when the first one was lost: gives the batch anew.
    pub fn reopen(&mut self, opening: &Opening) -> Result<Batch, CannotReopen> {
        let before = self.opening.as_ref().expect("only what was opened is opened again");
        let mut same = before.removed == opening.removed;
        for (was, is) in before.disks.iter().zip(&opening.disks) {
            if let (Some(distrust), None) = (is.full_scan, was.full_scan) {
                return Err(CannotReopen(distrust));
            }
            same &= was.number == is.number && (was.gap.is_some() || is.gap.is_none());
        }
        if same { Ok(opening.batch()) } else { Err(CannotReopen(Distrust::LogDiffers)) }
    }
}
