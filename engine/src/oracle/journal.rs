//! The journal: an append-only file that says which writes were submitted and which were answered, in the order in which
//! that happened.
//!
//! ```text
//!   header   0 magic "FARSHJNL" | 8 version u16 | 10 disks u16 | 12 header_bytes u32 | 16 seed u64 | 24 block_bytes u32
//!            | 28 (size_bytes u64, name: length u16 + bytes)* | crc u32 over all before it
//!   event    0 kind u8 | 1 zero | 2 disk u16 | 4 blocks u32 | 8 seq u64 | 16 block u64 | 24 time i64 | 32 zero u32
//!            | 36 crc u32 over bytes 0..36                                                                (40 bytes)
//!   kinds    1 write submitted, 2 zeroes submitted, 3 trim submitted, 4 flush submitted (block 0, blocks 0)
//!            5 acknowledged, 6 answered with an error, 7 connections were lost and made again
//! ```
//!
//! Numbers are little-endian. Sequences are drawn from 1 in the order of the file, one for each submission; an answer
//! names its sequence. Time is the wall clock in microseconds, and only for people and for bounds by time.
//! Crash story: each event is one plain append; a killed process loses none that it went on after. A torn last event
//! was not gone on after, and is ignored. The file is not synced: it does not survive a power cut of its own machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::history::History;
use crate::codec::{Malformed, Put, Take};
use crate::ids::Timestamp;
use crate::record::{DISKS_MAX, NAME_BYTES_MAX};

const MAGIC: [u8; 8] = *b"FARSHJNL";
const VERSION: u16 = 1;
pub(crate) const EVENT_BYTES: usize = 40;
const FIXED_HEADER_BYTES: usize = 28;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refuses.
    #[error("journal {path}: {source}")]
    File {
        /// The journal.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a journal looks like.
    #[error("journal {path} is damaged: {source}")]
    Malformed {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        source: Malformed,
    },
    /// Its events contradict each other.
    #[error("journal {path} contradicts itself at event {event}: {why}")]
    Contradiction {
        /// The journal.
        path: PathBuf,
        /// Which event, from 0.
        event: usize,
        /// How.
        why: &'static str,
    },
    /// It was written for other disks.
    #[error("journal {path} was written for {theirs}, not for {ours}: use another journal")]
    OtherDisks {
        /// The journal.
        path: PathBuf,
        /// What its header says.
        theirs: String,
        /// What it was to be used for.
        ours: String,
    },
}

/// A disk in a journal; its number is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalDisk {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What a journal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalHeader {
    /// Out of which all payloads are made.
    pub seed: u64,
    /// Size of a stamped block in bytes.
    pub block_bytes: u32,
    /// The disks.
    pub disks: Vec<JournalDisk>,
}

impl JournalHeader {
    fn encode(&self) -> Vec<u8> {
        let mut body = Put::default();
        for disk in &self.disks {
            body.u64(disk.size_bytes).text(&disk.name);
        }
        let mut out = Put::default();
        let header_bytes = FIXED_HEADER_BYTES + body.len() + 4;
        out.slice(&MAGIC).u16(VERSION).u16(self.disks.len() as u16).u32(header_bytes as u32);
        out.u64(self.seed).u32(self.block_bytes).slice(body.as_slice());
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        out.into_bytes().to_vec()
    }

    /// Reads a header and gives the bytes behind it.
    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut input = Take::new(bytes);
        if input.array("journal header")? != MAGIC {
            return Err(Malformed::Value { what: "journal magic", value: 0 });
        }
        match input.u16("journal version")? {
            VERSION => {}
            version => return Err(Malformed::Version { what: "journal", version, newest: VERSION }),
        }
        let count = input.u16("journal disks")?;
        let header_bytes = input.u32("journal header")? as usize;
        let body_end = header_bytes.checked_sub(4).ok_or(Malformed::Short { what: "journal header" })?;
        let (header, rest) = bytes.split_at_checked(header_bytes).ok_or(Malformed::Short { what: "journal header" })?;
        if Take::new(&header[body_end..]).u32("journal header")? != crc32fast::hash(&header[..body_end]) {
            return Err(Malformed::Checksum { what: "journal header" });
        }
        let (seed, block_bytes) = (input.u64("journal seed")?, input.u32("journal block size")?);
        if !matches!(block_bytes, 512 | 1024 | 2048 | 4096) {
            return Err(Malformed::Value { what: "journal block size", value: block_bytes.into() });
        }
        let disks = (0..count)
            .map(|_| {
                let size_bytes = input.u64("disk size")?;
                Ok(JournalDisk { size_bytes, name: input.text(NAME_BYTES_MAX, "disk name")? })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        Ok((Self { seed, block_bytes, disks }, rest))
    }

    fn summary(&self) -> String {
        let disks: Vec<_> =
            self.disks.iter().map(|disk| format!("{} ({} bytes)", disk.name, disk.size_bytes)).collect();
        format!("{} in blocks of {} with seed {}", disks.join(", "), self.block_bytes, self.seed)
    }
}

/// What a submitted write puts into its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteKind {
    /// Stamped blocks.
    Stamped,
    /// Zeroes.
    Zeroes,
    /// A trim: zeroes, or whatever was there.
    Trim,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Submitted { kind: WriteKind, disk: u16, block: u64, blocks: u32 },
    FlushSubmitted { disk: u16 },
    Acknowledged,
    Failed,
    Reconnected,
}

/// An event as it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventAt {
    pub(crate) event: Event,
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
}

impl EventAt {
    fn encode(&self) -> [u8; EVENT_BYTES] {
        let (kind, disk, block, blocks) = match self.event {
            Event::Submitted { kind, disk, block, blocks } => (
                match kind {
                    WriteKind::Stamped => 1,
                    WriteKind::Zeroes => 2,
                    WriteKind::Trim => 3,
                },
                disk,
                block,
                blocks,
            ),
            Event::FlushSubmitted { disk } => (4, disk, 0, 0),
            Event::Acknowledged => (5, 0, 0, 0),
            Event::Failed => (6, 0, 0, 0),
            Event::Reconnected => (7, 0, 0, 0),
        };
        let mut out = [0; EVENT_BYTES];
        out[0] = kind;
        out[2..4].copy_from_slice(&disk.to_le_bytes());
        out[4..8].copy_from_slice(&u32::to_le_bytes(blocks));
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&block.to_le_bytes());
        out[24..32].copy_from_slice(&self.time.0.to_le_bytes());
        let crc = crc32fast::hash(&out[..36]);
        out[36..40].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Take::new(bytes);
        let (kind, _) = (input.u8("event kind")?, input.u8("event")?);
        let (disk, blocks) = (input.u16("event disk")?, input.u32("event blocks")?);
        let (seq, block) = (input.u64("event sequence")?, input.u64("event block")?);
        let time = Timestamp(input.i64("event time")?);
        input.u32("event")?;
        if input.u32("event checksum")? != crc32fast::hash(&bytes[..36]) {
            return Err(Malformed::Checksum { what: "event" });
        }
        let submitted = |kind| Event::Submitted { kind, disk, block, blocks };
        let event = match kind {
            1 => submitted(WriteKind::Stamped),
            2 => submitted(WriteKind::Zeroes),
            3 => submitted(WriteKind::Trim),
            4 => Event::FlushSubmitted { disk },
            5 => Event::Acknowledged,
            6 => Event::Failed,
            7 => Event::Reconnected,
            _ => return Err(Malformed::Value { what: "event kind", value: kind.into() }),
        };
        Ok(Self { event, seq, time })
    }
}

/// Reads a journal's header and events; a torn last event is left out.
pub(crate) fn read(path: &Path) -> Result<(JournalHeader, Vec<EventAt>), JournalError> {
    let failed = |source| JournalError::File { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(failed)?;
    parse(&bytes).map_err(|source| JournalError::Malformed { path: path.to_owned(), source })
}

fn parse(bytes: &[u8]) -> Result<(JournalHeader, Vec<EventAt>), Malformed> {
    let (header, rest) = JournalHeader::decode(bytes)?;
    let events = rest.chunks_exact(EVENT_BYTES).map(EventAt::decode).collect::<Result<_, _>>()?;
    Ok((header, events))
}

/// A journal open for writing, shared by the workload's threads.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    header: JournalHeader,
    tail: Mutex<Tail>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    next_seq: u64,
}

impl Journal {
    /// Begins a journal at `path`, where there must be none.
    pub fn create(path: &Path, header: JournalHeader) -> Result<Self, JournalError> {
        assert!(header.disks.len() <= DISKS_MAX, "callers bound the disks of a machine");
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        let mut file = OpenOptions::new().append(true).create_new(true).open(path).map_err(failed)?;
        file.write_all(&header.encode()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), header, tail: Mutex::new(Tail { file, next_seq: 1 }) })
    }

    /// Goes on with a journal that an earlier process left, and gives what happened so far. A torn last event is cut off.
    pub fn resume(path: &Path, header: JournalHeader) -> Result<(Self, History), JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        let (theirs, events) = read(path)?;
        if theirs != header {
            let (theirs, ours) = (theirs.summary(), header.summary());
            return Err(JournalError::OtherDisks { path: path.to_owned(), theirs, ours });
        }
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        file.set_len((header.encode().len() + events.len() * EVENT_BYTES) as u64).map_err(failed)?;
        let history = History::of(header.clone(), &events, path)?;
        let tail = Mutex::new(Tail { file, next_seq: history.next_seq() });
        Ok((Self { path: path.to_owned(), header, tail }, history))
    }

    /// What the journal is about.
    pub fn header(&self) -> &JournalHeader {
        &self.header
    }

    /// The sequence that the next submission will have.
    pub(crate) fn next_seq(&self) -> u64 {
        self.tail.lock().next_seq
    }

    /// Draws the sequence of a write and records that it is about to be sent.
    pub(crate) fn submit(&self, event: Event, time: Timestamp) -> Result<u64, JournalError> {
        let mut tail = self.tail.lock();
        let seq = tail.next_seq;
        self.append(&mut tail, EventAt { event, seq, time })?;
        tail.next_seq += 1;
        Ok(seq)
    }

    /// Records the answer to a write, or a reconnect.
    pub(crate) fn note(&self, event: Event, seq: u64, time: Timestamp) -> Result<(), JournalError> {
        self.append(&mut self.tail.lock(), EventAt { event, seq, time })
    }

    fn append(&self, tail: &mut Tail, event: EventAt) -> Result<(), JournalError> {
        let failed = |source| JournalError::File { path: self.path.clone(), source };
        tail.file.write_all(&event.encode()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> JournalHeader {
        let disk = |name: &str| JournalDisk { name: name.into(), size_bytes: 1 << 20 };
        JournalHeader { seed: 42, block_bytes: 4096, disks: vec![disk("a"), disk("b")] }
    }

    fn write(block: u64) -> Event {
        Event::Submitted { kind: WriteKind::Stamped, disk: 1, block, blocks: 2 }
    }

    #[test]
    fn a_journal_reads_back_and_goes_on_where_it_was_torn() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let journal = Journal::create(&path, header()).expect("created");
        assert_eq!(journal.submit(write(5), Timestamp(1)).expect("appended"), 1);
        journal.note(Event::Acknowledged, 1, Timestamp(2)).expect("appended");
        assert_eq!(journal.submit(write(7), Timestamp(3)).expect("appended"), 2);
        drop(journal);
        assert!(matches!(Journal::create(&path, header()), Err(JournalError::File { .. })), "never overwritten");
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 3]).expect("torn");
        let (journal, history) = Journal::resume(&path, header()).expect("resumed");
        assert_eq!(history.next_seq(), 2, "the torn submission never happened");
        assert_eq!(journal.submit(write(9), Timestamp(4)).expect("appended"), 2);
        let (read_header, events) = read(&path).expect("whole again");
        assert_eq!(read_header, header());
        assert_eq!(events.len(), 3);
        assert_eq!(events[2], EventAt { event: write(9), seq: 2, time: Timestamp(4) });
    }

    #[test]
    fn a_damaged_journal_is_refused_wherever_it_is_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let journal = Journal::create(&path, header()).expect("created");
        journal.submit(write(5), Timestamp(1)).expect("appended");
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(parse(&damaged).is_err(), "damaged at {at}");
        }
        for cut in 0..header().encode().len() {
            assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_journal_of_other_disks_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        drop(Journal::create(&path, header()).expect("created"));
        let other = JournalHeader { seed: 43, ..header() };
        assert!(matches!(Journal::resume(&path, other), Err(JournalError::OtherDisks { .. })));
    }
}
