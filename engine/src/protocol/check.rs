//! What a batch must be before it enters a log. Pure; a fault names what is wrong, and the session ends.

use crate::batch::Batch;
use crate::codec::Malformed;
use crate::ids::{DiskNo, IncarnationId, Lsn};
use crate::record::Record;
use crate::section::{Section, WriteEntry};

use super::log_view::LogView;

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// It does not follow the log's end.
    #[error("a batch begins at LSN {first}, but LSN {expected} comes next")]
    OutOfOrder {
        /// Where it begins.
        first: Lsn,
        /// Where it should.
        expected: Lsn,
    },
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
    /// The first batch of a life does not say whose it is and whom it follows.
    #[error("the first batch of life {life} does not begin with its incarnation record")]
    NoBeginning {
        /// The agent's life.
        life: IncarnationId,
    },
    /// An incarnation record where none belongs.
    #[error("an incarnation record lies inside a life, at LSN {lsn}")]
    StrayBeginning {
        /// Where.
        lsn: Lsn,
    },
    /// A section or record has an LSN outside the batch, or out of order.
    #[error("LSN {lsn} is out of its place in the batch of {first} to {last}")]
    LsnOutOfPlace {
        /// The LSN.
        lsn: Lsn,
        /// Where the batch begins.
        first: Lsn,
        /// Where it ends.
        last: Lsn,
    },
    /// Sections are not one per disk, in order of disk numbers, each with writes.
    #[error("the section of disk {disk} is empty or out of order")]
    SectionOutOfPlace {
        /// The disk.
        disk: DiskNo,
    },
    /// A disk that the log does not have.
    #[error("disk {disk} is not one of the log's disks")]
    UnknownDisk {
        /// The disk.
        disk: DiskNo,
    },
    /// A section that is no section.
    #[error("section of disk {disk}: {cause}")]
    Section {
        /// The disk.
        disk: DiskNo,
        /// What is wrong.
        cause: Malformed,
    },
}

/// How a batch stands to the log's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It comes next.
    Next,
    /// The log has it already.
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

/// Checks a batch against the log's end.
pub fn check_batch(batch: &Batch, log: &LogView, expected: Expected) -> Result<Standing, BatchFault> {
    let Batch { first, last, .. } = *batch;
    let next = match expected {
        Expected::Follower => {
            if last <= log.last {
                return Ok(Standing::Duplicate);
            }
            if first <= log.last {
                return Err(BatchFault::Overlap { first, last, end: log.last });
            }
            log.last.next()
        }
        Expected::Beginning { first, .. } => first,
    };
    if first != next {
        return Err(BatchFault::OutOfOrder { first, expected: next });
    }
    check_records(batch, log, expected)?;
    check_sections(batch, log)?;
    Ok(Standing::Next)
}

fn check_records(batch: &Batch, log: &LogView, expected: Expected) -> Result<(), BatchFault> {
    let mut previous = None;
    for (index, at) in batch.records.iter().enumerate() {
        let inside = at.lsn >= batch.first && at.lsn <= batch.last;
        if !inside || previous.is_some_and(|previous| previous >= at.lsn) {
            return Err(out_of_place(batch, at.lsn));
        }
        previous = Some(at.lsn);
        let begins = index == 0 && matches!(expected, Expected::Beginning { .. });
        if matches!(at.record, Record::Incarnation { .. }) && !begins {
            return Err(BatchFault::StrayBeginning { lsn: at.lsn });
        }
    }
    if let Expected::Beginning { life, first } = expected {
        let says = batch.records.first().is_some_and(|at| {
            at.lsn == first
                && matches!(&at.record, Record::Incarnation { id, predecessor } if *id == life && *predecessor == log.incarnation)
        });
        if !says {
            return Err(BatchFault::NoBeginning { life });
        }
    }
    Ok(())
}

fn check_sections(batch: &Batch, log: &LogView) -> Result<(), BatchFault> {
    let mut previous: Option<DiskNo> = None;
    for (disk, bytes) in &batch.sections {
        if previous.is_some_and(|previous| previous >= *disk) {
            return Err(BatchFault::SectionOutOfPlace { disk: *disk });
        }
        previous = Some(*disk);
        let size = disk_bytes(batch, log, *disk).ok_or(BatchFault::UnknownDisk { disk: *disk })?;
        let section = Section::parse(bytes, size).map_err(|cause| BatchFault::Section { disk: *disk, cause })?;
        check_entries(batch, *disk, &section.entries)?;
    }
    Ok(())
}

/// The entries are in order already (`Section::parse`); so the ends tell whether all lie inside.
fn check_entries(batch: &Batch, disk: DiskNo, entries: &[WriteEntry]) -> Result<(), BatchFault> {
    let (Some(head), Some(tail)) = (entries.first(), entries.last()) else {
        return Err(BatchFault::SectionOutOfPlace { disk });
    };
    if head.lsn < batch.first {
        return Err(out_of_place(batch, head.lsn));
    }
    if tail.lsn > batch.last {
        return Err(out_of_place(batch, tail.lsn));
    }
    // A record has its LSN for itself, or a mark would say nothing about the write beside it.
    let shared = batch.records.iter().find(|at| entries.binary_search_by_key(&at.lsn, |entry| entry.lsn).is_ok());
    shared.map_or(Ok(()), |at| Err(out_of_place(batch, at.lsn)))
}

/// The largest size the disk has anywhere in the batch.
fn disk_bytes(batch: &Batch, log: &LogView, disk: DiskNo) -> Option<u64> {
    let before = log.disk(disk).map(|info| info.size_bytes);
    let within = batch.records.iter().filter_map(|at| match &at.record {
        Record::DiskAdded(info) if info.disk == disk => Some(info.size_bytes),
        Record::DiskResized { disk: resized, size_bytes } if *resized == disk => Some(*size_bytes),
        _ => None,
    });
    before.into_iter().chain(within).max()
}

fn out_of_place(batch: &Batch, lsn: Lsn) -> BatchFault {
    BatchFault::LsnOutOfPlace { lsn, first: batch.first, last: batch.last }
}
