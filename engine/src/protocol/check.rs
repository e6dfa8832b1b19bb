//! What a batch must be before it enters a log: what [`LogState`] asks of every log, and what one session of one life
//! asks beyond that. Pure; a fault names what is wrong, and the session ends.

use crate::batch::Batch;
use crate::codec::Malformed;
use crate::ids::{DiskNo, IncarnationId, Lsn};
use crate::record::Record;
use crate::section::{Section, WriteEntry};
use crate::vault::state::{LogState, StateError};

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// It overlaps the log's end.
    #[error("a batch of LSNs {first} to {last} reaches across the log's end at {end}")]
    Overlap {
        /// Where it begins.
        first: Lsn,
        /// Where it ends.
        last: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// The first batch of a life does not begin where and as it was announced.
    #[error("the first batch of life {life} must begin at LSN {expected} with its incarnation record")]
    NoBeginning {
        /// The agent's life.
        life: IncarnationId,
        /// The first LSN it announced.
        expected: Lsn,
    },
    /// An incarnation record where none belongs.
    #[error("an incarnation record lies inside a life, at LSN {lsn}")]
    StrayBeginning {
        /// Where.
        lsn: Lsn,
    },
    /// A write outside the batch's run, or with the LSN of a record.
    #[error("LSN {lsn} is out of its place in the batch of {first} to {last}")]
    LsnOutOfPlace {
        /// The LSN.
        lsn: Lsn,
        /// Where the batch begins.
        first: Lsn,
        /// Where it ends.
        last: Lsn,
    },
    /// A section that is no section of its disk.
    #[error("section of disk {disk}: {cause}")]
    Section {
        /// The disk.
        disk: DiskNo,
        /// What is wrong.
        cause: Malformed,
    },
    /// It does not follow the log.
    #[error(transparent)]
    Log(#[from] StateError),
}

/// How a batch stood to the log's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It came next; the log's state has moved on.
    Next,
    /// The log had it already.
    Duplicate,
}

/// What the session expects next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The batch behind the log's end.
    Follower,
    /// The first batch of this life, at this LSN.
    Beginning {
        /// The life.
        life: IncarnationId,
        /// Its first LSN.
        first: Lsn,
    },
}

/// Takes a batch into the log's state, whole or not at all.
pub fn take_batch(batch: &Batch, log: &mut LogState, expected: Expected) -> Result<Standing, BatchFault> {
    let Batch { first, last, .. } = *batch;
    if let Expected::Follower = expected {
        if last <= log.last_lsn {
            return Ok(Standing::Duplicate);
        }
        if first <= log.last_lsn {
            return Err(BatchFault::Overlap { first, last, end: log.last_lsn });
        }
    }
    check_beginning(batch, expected)?;
    let mut next = log.clone();
    next.follows(batch)?;
    for (disk, bytes) in &batch.sections {
        check_section(batch, *disk, bytes, log)?;
    }
    *log = next;
    Ok(Standing::Next)
}

fn check_beginning(batch: &Batch, expected: Expected) -> Result<(), BatchFault> {
    let mut records = batch.records.iter();
    if let Expected::Beginning { life, first } = expected {
        let begins = batch.first == first
            && records.next().is_some_and(|at| {
                at.lsn == first && matches!(&at.record, Record::Incarnation { id, .. } if *id == life)
            });
        if !begins {
            return Err(BatchFault::NoBeginning { life, expected: first });
        }
    }
    let stray = records.find(|at| matches!(at.record, Record::Incarnation { .. }));
    stray.map_or(Ok(()), |at| Err(BatchFault::StrayBeginning { lsn: at.lsn }))
}

fn check_section(batch: &Batch, disk: DiskNo, bytes: &bytes::Bytes, log: &LogState) -> Result<(), BatchFault> {
    let fault = |cause| BatchFault::Section { disk, cause };
    let section = Section::parse(bytes, disk_bytes(batch, log, disk)).map_err(fault)?;
    let out_of_place = |lsn| BatchFault::LsnOutOfPlace { lsn, first: batch.first, last: batch.last };
    // The entries are in order already (`Section::parse`), so the ends tell whether all lie inside.
    let ends: [Option<&WriteEntry>; 2] = [section.entries.first(), section.entries.last()];
    for end in ends {
        let lsn = end.ok_or(fault(Malformed::Value { what: "section entries", value: 0 }))?.lsn;
        if lsn < batch.first || lsn > batch.last {
            return Err(out_of_place(lsn));
        }
    }
    // A record has its LSN for itself, or a mark would say nothing about the write beside it.
    let shared =
        batch.records.iter().find(|at| section.entries.binary_search_by_key(&at.lsn, |entry| entry.lsn).is_ok());
    shared.map_or(Ok(()), |at| Err(out_of_place(at.lsn)))
}

/// The largest size the disk has anywhere in the batch.
fn disk_bytes(batch: &Batch, log: &LogState, disk: DiskNo) -> u64 {
    let before = log.disks.get(&disk).map(|state| state.info.size_bytes);
    let within = batch.records.iter().filter_map(|at| match &at.record {
        Record::DiskAdded(info) if info.disk == disk => Some(info.size_bytes),
        Record::DiskResized { disk: resized, size_bytes } if *resized == disk => Some(*size_bytes),
        _ => None,
    });
    before.into_iter().chain(within).max().unwrap_or(0)
}
