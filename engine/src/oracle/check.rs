//! The checker: is what these images show a state that the machine's disks could have been in?
//!
//! Each block shows one of its writes, or what it held before the first. A block of zeroes may show any of several writes (zeroes,
//! trims), and an old block may be one that a later trim left as it was: such a block has several *candidates*. With w the highest
//! sequence shown, each block has to show at least the last of its writes that was acknowledged before w was submitted.
//!
//! The least w that fits is found from below: every block takes its lowest candidate that suffices; if that raises w, more
//! may be required of others; and so on until nothing moves. Requirements only grow with w, so what fails at the least w
//! fails at every w: the answer is exact.

use std::fmt;
use std::io;

use serde::Serialize;

use super::history::{Answer, History, WriteAt};
use super::image::Image;
use super::journal::WriteKind;
use super::stamp::{self, SECTOR_BYTES, Stamp};
use crate::ids::Timestamp;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// Violations told in full; the rest are counted.
const TOLD_MAX: usize = 100;
/// Older writes of a block that are compared with a torn block's sectors.
const OLDER_MAX: usize = 64;

/// What the images must show beyond being a possible state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// Every write that was acknowledged before this time must be there (I3).
    pub acked_before: Option<Timestamp>,
    /// Every acknowledged write up to this sequence must be there.
    pub at_least_seq: Option<u64>,
    /// No write that was submitted from this time on may be there.
    pub none_after: Option<Timestamp>,
}

/// What is wrong with one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fault {
    /// It cannot be read.
    Unreadable {
        /// Why.
        error: String,
    },
    /// Parts of it are of another write.
    Torn {
        /// The sequence in its head.
        head_seq: u64,
        /// Its sectors that do not belong to that.
        sectors: Vec<usize>,
        /// The write whose sectors those are, if they are all of one.
        sectors_seq: Option<u64>,
    },
    /// It is whole, but belongs to another place.
    Misplaced {
        /// Disk it belongs to.
        of_disk: u16,
        /// Block it belongs to.
        of_block: u64,
        /// Its sequence.
        seq: u64,
    },
    /// It is whole and at its place, but the journal has no such write.
    NeverSubmitted {
        /// Its sequence.
        seq: u64,
    },
    /// It is neither a stamped block nor what was there before.
    Foreign {
        /// What it begins with.
        front: String,
    },
    /// A write is missing that must be there, since a later one is.
    Lost {
        /// The write that is missing.
        seq: u64,
        /// The write that the block shows instead; 0 for what was there before.
        shows_seq: u64,
        /// A write that the images show and that was submitted after the missing one was acknowledged.
        since_seq: u64,
        /// Where that one is shown.
        since_disk: u16,
        /// Where that one is shown.
        since_block: u64,
    },
    /// A write is missing that was acknowledged before the bound that was asked for.
    Missing {
        /// The write that is missing.
        seq: u64,
        /// The write that the block shows instead; 0 for what was there before.
        shows_seq: u64,
        /// When the missing one was acknowledged, in microseconds since 1970.
        acked_at_micros: i64,
    },
    /// A write is there that was submitted after the bound that was asked for.
    TooNew {
        /// The write.
        seq: u64,
        /// When it was submitted, in microseconds since 1970.
        submitted_at_micros: i64,
    },
}

/// A fault and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The disk's number.
    pub disk: u16,
    /// The disk's name.
    pub disk_name: String,
    /// The block's number on the disk.
    pub block: u64,
    /// What is wrong.
    #[serde(flatten)]
    pub fault: Fault,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk, disk_name, block, fault } = self;
        write!(f, "disk {disk} ({disk_name}) block {block}: ")?;
        let shown = |seq: &u64| if *seq == 0 { "what was there before".to_owned() } else { format!("write {seq}") };
        match fault {
            Fault::Unreadable { error } => write!(f, "cannot be read: {error}"),
            Fault::Torn { head_seq, sectors, sectors_seq } => {
                let whose = sectors_seq.map_or("no write that is known".to_owned(), |seq| shown(&seq));
                write!(f, "torn: its head is of write {head_seq}, but its sectors {sectors:?} are of {whose}")
            }
            Fault::Misplaced { of_disk, of_block, seq } => {
                write!(f, "at the wrong place: it is block {of_block} of disk {of_disk}, by write {seq}")
            }
            Fault::NeverSubmitted { seq } => write!(f, "shows write {seq}, which was never submitted to it"),
            Fault::Foreign { front } => {
                write!(f, "holds neither a stamped block nor what was there before: it begins with {front}")
            }
            Fault::Lost { seq, shows_seq, since_seq, since_disk, since_block } => write!(
                f,
                "write {seq} is lost: it shows {}, but write {since_seq}, seen on disk {since_disk} block {since_block}, \
                 was submitted after {seq} had been acknowledged",
                shown(shows_seq)
            ),
            Fault::Missing { seq, shows_seq, acked_at_micros } => write!(
                f,
                "write {seq}, acknowledged at {acked_at_micros} µs and so within the bound, is missing: it shows {}",
                shown(shows_seq)
            ),
            Fault::TooNew { seq, submitted_at_micros } => {
                write!(f, "shows write {seq}, which was submitted at {submitted_at_micros} µs, after the bound")
            }
        }
    }
}

/// What the checker found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The highest write that the images show, where they are consistent: the cut.
    pub cut_seq: u64,
    /// When it was submitted, in microseconds since 1970.
    pub cut_submitted_at_micros: i64,
    /// The highest write of each disk that the images show.
    pub disk_seqs: Vec<u64>,
    /// Blocks looked at.
    pub blocks: u64,
    /// Of them, those that show a stamped write.
    pub stamped_blocks: u64,
    /// Acknowledged writes that the cut required, and that were found or found overwritten.
    pub required_writes: u64,
    /// The first violations.
    pub violations: Vec<Violation>,
    /// How many there are in all.
    pub violation_count: u64,
}

impl Findings {
    /// Whether all is well.
    pub fn is_consistent(&self) -> bool {
        self.violation_count == 0
    }

    fn tell(&mut self, history: &History, disk: u16, block: u64, fault: Fault) {
        self.violation_count += 1;
        if self.violations.len() < TOLD_MAX {
            let disk_name = history.disks()[usize::from(disk)].name.clone();
            self.violations.push(Violation { disk, disk_name, block, fault });
        }
    }
}

/// Why a check cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// One image for each disk is needed: a part of a machine proves nothing about all of it.
    #[error("the journal has {disks} disks, but {images} images were given: give one for each")]
    Count {
        /// Disks in the journal.
        disks: usize,
        /// Images given.
        images: usize,
    },
    /// An image has another size than its disk.
    #[error("the image of disk {name} has {image_bytes} bytes, the disk {disk_bytes}")]
    Size {
        /// The disk.
        name: String,
        /// Size of the image.
        image_bytes: u64,
        /// Size of the disk.
        disk_bytes: u64,
    },
}

/// A disk to be checked.
pub struct Subject<'a> {
    /// What it shows.
    pub image: &'a mut dyn Image,
    /// What it held before the first write; zeroes where not given.
    pub base: Option<&'a mut dyn Image>,
}

/// What a written block may show, and what it is taken to show.
struct Shown {
    disk: u16,
    block: u64,
    /// Rising sequences; 0 stands for what was there before.
    candidates: Vec<u64>,
    chosen: u64,
    /// The last write that the bounds ask for, with the time of its acknowledgement.
    bound: Option<(u64, Timestamp)>,
}

/// Checks the images of all disks, in order of their numbers, against the history.
pub fn check(history: &History, subjects: &mut [Subject<'_>], bounds: &Bounds) -> Result<Findings, CheckError> {
    if subjects.len() != history.disks().len() {
        return Err(CheckError::Count { disks: history.disks().len(), images: subjects.len() });
    }
    for (disk, subject) in history.disks().iter().zip(subjects.iter()) {
        let image_bytes = subject.image.size_bytes();
        if image_bytes != disk.size_bytes {
            return Err(CheckError::Size { name: disk.name.clone(), image_bytes, disk_bytes: disk.size_bytes });
        }
    }
    let mut findings = Findings::default();
    let mut shown = Vec::new();
    for (disk, subject) in subjects.iter_mut().enumerate() {
        Scan { history, bounds, disk: disk as u16, findings: &mut findings, shown: &mut shown }.run(subject);
    }
    settle(history, &mut shown);
    judge(history, &shown, bounds, &mut findings);
    Ok(findings)
}

/// Reads one disk.
struct Scan<'a> {
    history: &'a History,
    bounds: &'a Bounds,
    disk: u16,
    findings: &'a mut Findings,
    shown: &'a mut Vec<Shown>,
}

impl Scan<'_> {
    fn run(&mut self, subject: &mut Subject<'_>) {
        let block_bytes = u64::from(self.history.block_bytes());
        let end = subject.image.size_bytes() / block_bytes;
        let written = self.history.blocks_of(self.disk);
        let mut written = written.iter().peekable();
        let mut next = 0;
        while next < end {
            let zeroes = self.zeroes_to_skip(subject, next, end);
            let count = if zeroes > 0 { zeroes } else { (PIECE_BYTES / block_bytes).min(end - next) };
            let piece =
                if zeroes > 0 { Ok(None) } else { read_piece(subject, next * block_bytes, count * block_bytes) };
            match piece {
                Ok(None) => {
                    let zero = vec![0; block_bytes as usize];
                    while let Some(block) = written.next_if(|block| **block < next + count) {
                        self.look(*block, &zero, &zero);
                    }
                    self.findings.blocks += count;
                }
                Ok(Some((data, base))) => {
                    for (at, block) in (next..next + count).enumerate() {
                        let range = at * block_bytes as usize..(at + 1) * block_bytes as usize;
                        let was_written = written.next_if(|written| **written == block).is_some();
                        if was_written || data[range.clone()] != base[range.clone()] {
                            self.look(block, &data[range.clone()], &base[range]);
                        }
                    }
                    self.findings.blocks += count;
                }
                Err(error) => {
                    self.findings.tell(self.history, self.disk, next, Fault::Unreadable { error: error.to_string() });
                    while written.next_if(|block| **block < next + count).is_some() {}
                }
            }
            next += count;
        }
    }

    /// Whole blocks from `next` on that are zero in the image and need not be read; only where the base is zero too.
    fn zeroes_to_skip(&self, subject: &mut Subject<'_>, next: u64, end: u64) -> u64 {
        if subject.base.is_some() {
            return 0;
        }
        let block_bytes = u64::from(self.history.block_bytes());
        let zeroes = subject.image.zeroes_at(next * block_bytes, (end - next) * block_bytes) / block_bytes;
        // Asking for each of many short holes would cost more than reading them.
        if zeroes * block_bytes >= PIECE_BYTES || next + zeroes == end { zeroes } else { 0 }
    }

    /// Takes down what one block shows.
    fn look(&mut self, block: u64, data: &[u8], base: &[u8]) {
        let is_zero = data.iter().all(|byte| *byte == 0);
        let mut candidates = Vec::new();
        if data == base {
            candidates.push(0);
        }
        if let Some(stamp) = Stamp::read(data) {
            match self.fault_of(&stamp, block, data) {
                // What was there before may look like anything.
                Some(_) if data == base => {}
                Some(fault) => return self.findings.tell(self.history, self.disk, block, fault),
                None => candidates.push(stamp.seq),
            }
            self.findings.stamped_blocks += 1;
        }
        // Trims may have left the block as it was, also behind writes that never happened.
        let mut left_as_it_is = candidates.contains(&0);
        for write in self.history.of_block(self.disk, block) {
            let shows = match write.kind {
                WriteKind::Stamped => candidates.contains(&write.seq),
                WriteKind::Zeroes => is_zero,
                WriteKind::Trim => is_zero || left_as_it_is,
            };
            if shows && !candidates.contains(&write.seq) {
                candidates.push(write.seq);
            }
            left_as_it_is = shows || (left_as_it_is && !matches!(write.answer, Answer::Acknowledged { .. }));
        }
        if candidates.is_empty() {
            let front = data.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            return self.findings.tell(self.history, self.disk, block, Fault::Foreign { front });
        }
        let (chosen, bound) = (candidates[0], bound_below(self.history, self.disk, block, self.bounds));
        self.shown.push(Shown { disk: self.disk, block, candidates, chosen, bound });
    }

    fn fault_of(&self, stamp: &Stamp, block: u64, data: &[u8]) -> Option<Fault> {
        if stamp.seed != self.history.seed() {
            let front = format!("the stamp of another workload, with seed {}", stamp.seed);
            return Some(Fault::Foreign { front });
        }
        let sectors = stamp.wrong_sectors(data);
        if !stamp::is_whole(data) || !sectors.is_empty() {
            let sectors_seq = self.owner_of(&sectors, block, data);
            return Some(Fault::Torn { head_seq: stamp.seq, sectors, sectors_seq });
        }
        if (stamp.disk, stamp.block) != (self.disk, block) {
            return Some(Fault::Misplaced { of_disk: stamp.disk, of_block: stamp.block, seq: stamp.seq });
        }
        let submitted = self.history.write(stamp.seq).is_some_and(|write| {
            let blocks = write.block..write.block + u64::from(write.blocks);
            write.kind == WriteKind::Stamped && write.disk == self.disk && blocks.contains(&block)
        });
        (!submitted).then_some(Fault::NeverSubmitted { seq: stamp.seq })
    }

    /// The write of the block to which all those sectors belong.
    fn owner_of(&self, sectors: &[usize], block: u64, data: &[u8]) -> Option<u64> {
        let mut stamped =
            self.history.of_block(self.disk, block).rev().filter(|write| write.kind == WriteKind::Stamped);
        stamped.by_ref().take(OLDER_MAX).map(|write| write.seq).find(|seq| {
            let mut made = vec![0; data.len()];
            Stamp { seed: self.history.seed(), disk: self.disk, block, seq: *seq }.fill(&mut made);
            let range = |sector: &usize| sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            sectors.iter().all(|sector| made[range(sector)] == data[range(sector)])
        })
    }
}

/// A piece of the image with the same piece of the base; `None` where both are zero.
fn read_piece(subject: &mut Subject<'_>, offset: u64, len: u64) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut data = vec![0; len as usize];
    subject.image.read(offset, &mut data)?;
    let mut base = vec![0; len as usize];
    if let Some(image) = &mut subject.base {
        image.read(offset, &mut base)?;
    } else if data == base {
        return Ok(None);
    }
    Ok(Some((data, base)))
}

/// The last write to a block that was acknowledged before write `w` was submitted.
fn required(history: &History, disk: u16, block: u64, w: u64) -> Option<&WriteAt> {
    let acknowledged_before =
        |write: &&WriteAt| matches!(write.answer, Answer::Acknowledged { before, .. } if before <= w);
    history.of_block(disk, block).rev().find(acknowledged_before)
}

/// The last write to a block that the bounds ask for.
fn bound_below(history: &History, disk: u16, block: u64, bounds: &Bounds) -> Option<(u64, Timestamp)> {
    history.of_block(disk, block).rev().find_map(|write| {
        let Answer::Acknowledged { at, .. } = write.answer else { return None };
        let in_time = bounds.acked_before.is_some_and(|bound| at < bound);
        (in_time || bounds.at_least_seq.is_some_and(|seq| write.seq <= seq)).then_some((write.seq, at))
    })
}

/// Takes for each block the lowest candidate that suffices, until nothing moves.
fn settle(history: &History, shown: &mut [Shown]) {
    let mut w = 0;
    loop {
        for block in shown.iter_mut() {
            let needed = required(history, block.disk, block.block, w).map_or(0, |write| write.seq);
            let needed = needed.max(block.bound.map_or(0, |bound| bound.0));
            // Where none suffices it stays, for `judge` to tell, and so that others are not blamed for it.
            if let Some(enough) = block.candidates.iter().find(|seq| **seq >= needed) {
                block.chosen = *enough;
            }
        }
        let highest = shown.iter().map(|block| block.chosen).max().unwrap_or(0);
        if highest == w {
            return;
        }
        w = highest;
    }
}

fn judge(history: &History, shown: &[Shown], bounds: &Bounds, findings: &mut Findings) {
    let newest = shown.iter().max_by_key(|block| block.chosen);
    let w = newest.map_or(0, |block| block.chosen);
    findings.cut_seq = w;
    findings.cut_submitted_at_micros = history.write(w).map_or(0, |write| write.submitted_at.0);
    findings.disk_seqs = vec![0; history.disks().len()];
    for block in shown {
        let disk_seq = &mut findings.disk_seqs[usize::from(block.disk)];
        *disk_seq = (*disk_seq).max(block.chosen);
        let (seq, newest) = (block.chosen, newest.expect("there is one"));
        let lost = required(history, block.disk, block.block, w).filter(|write| write.seq > seq);
        let missing = block.bound.filter(|bound| bound.0 > seq);
        let fault = if let Some(lost) = lost {
            let (since_disk, since_block) = (newest.disk, newest.block);
            Some(Fault::Lost { seq: lost.seq, shows_seq: seq, since_seq: w, since_disk, since_block })
        } else if let Some((lost, at)) = missing {
            Some(Fault::Missing { seq: lost, shows_seq: seq, acked_at_micros: at.0 })
        } else {
            too_new(history, seq, bounds)
        };
        if let Some(fault) = fault {
            findings.tell(history, block.disk, block.block, fault);
        }
    }
    let was_required = |write: &&WriteAt| matches!(write.answer, Answer::Acknowledged { before, .. } if before <= w);
    findings.required_writes = history.writes().filter(was_required).count() as u64;
}

/// The bound from above.
fn too_new(history: &History, seq: u64, bounds: &Bounds) -> Option<Fault> {
    let (write, bound) = (history.write(seq)?, bounds.none_after?);
    let submitted_at_micros = write.submitted_at.0;
    (write.submitted_at >= bound).then_some(Fault::TooNew { seq, submitted_at_micros })
}

#[cfg(test)]
mod tests;
