//! A journal, understood: every write with when it was submitted and answered, and for each block the writes to it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::journal::{self, Event, EventAt, JournalDisk, JournalError, JournalHeader, WriteKind};
use crate::ids::Timestamp;

/// One submitted write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteAt {
    pub(crate) seq: u64,
    pub(crate) kind: WriteKind,
    pub(crate) disk: u16,
    pub(crate) block: u64,
    pub(crate) blocks: u32,
    pub(crate) submitted_at: Timestamp,
    pub(crate) answer: Answer,
}

/// How a write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not, so far.
    None,
    /// With an error: it may be there or not.
    Failed,
    /// It is there. Every write from sequence `before` on was submitted after that.
    Acknowledged { before: u64, at: Timestamp },
}

/// Everything that a journal tells.
#[derive(Debug)]
pub struct History {
    header: JournalHeader,
    /// In order of sequence.
    writes: Vec<WriteAt>,
    /// For each disk and block, places in `writes`, rising.
    blocks: HashMap<(u16, u64), Vec<u32>>,
    next_seq: u64,
    reconnects: u64,
}

impl History {
    /// Reads the journal at `path`. It may still be written to.
    pub fn read(path: &Path) -> Result<Self, JournalError> {
        let (header, events) = journal::read(path)?;
        Self::of(header, &events, path)
    }

    pub(crate) fn of(header: JournalHeader, events: &[EventAt], path: &Path) -> Result<Self, JournalError> {
        let mut history = Self { header, writes: Vec::new(), blocks: HashMap::new(), next_seq: 1, reconnects: 0 };
        let mut places = HashMap::new();
        for (event, at) in events.iter().enumerate() {
            history.take(at, &mut places).map_err(|why| JournalError::Contradiction {
                path: path.to_owned(),
                event,
                why,
            })?;
        }
        Ok(history)
    }

    /// `places`: of writes without an answer, by sequence; `None` for a flush.
    fn take(&mut self, at: &EventAt, places: &mut HashMap<u64, Option<usize>>) -> Result<(), &'static str> {
        match at.event {
            Event::Submitted { .. } | Event::FlushSubmitted { .. } => {
                if at.seq != self.next_seq {
                    return Err("a sequence that is not the next");
                }
                self.next_seq += 1;
                let place = self.take_submission(at)?;
                places.insert(at.seq, place);
            }
            Event::Acknowledged | Event::Failed => {
                let place = places.remove(&at.seq).ok_or("an answer to nothing that waits for one")?;
                if let Some(place) = place {
                    self.writes[place].answer = match at.event {
                        Event::Failed => Answer::Failed,
                        _ => Answer::Acknowledged { before: self.next_seq, at: at.time },
                    };
                }
            }
            Event::Reconnected => self.reconnects += 1,
        }
        Ok(())
    }

    fn take_submission(&mut self, at: &EventAt) -> Result<Option<usize>, &'static str> {
        let Event::Submitted { kind, disk, block, blocks } = at.event else { return Ok(None) };
        let disk_bytes = self.header.disks.get(usize::from(disk)).ok_or("a disk that is not in the header")?.size_bytes;
        let end = block.checked_add(blocks.into()).and_then(|end| end.checked_mul(self.header.block_bytes.into()));
        if blocks == 0 || end.is_none_or(|end| end > disk_bytes) {
            return Err("a write that is empty or reaches past its disk");
        }
        let place = self.writes.len();
        let answer = Answer::None;
        self.writes.push(WriteAt { seq: at.seq, kind, disk, block, blocks, submitted_at: at.time, answer });
        for block in block..block + u64::from(blocks) {
            let writes = self.blocks.entry((disk, block)).or_default();
            if let Some(last) = writes.last()
                && self.writes[*last as usize].answer == Answer::None
            {
                return Err("two writes in flight to one block");
            }
            writes.push(u32::try_from(place).map_err(|_| "more than 2^32 writes")?);
        }
        Ok(Some(place))
    }

    /// Out of what the payloads were made.
    pub fn seed(&self) -> u64 {
        self.header.seed
    }

    /// Size of a block in bytes.
    pub fn block_bytes(&self) -> u32 {
        self.header.block_bytes
    }

    /// The disks, in order of their numbers.
    pub fn disks(&self) -> &[JournalDisk] {
        &self.header.disks
    }

    /// The sequence that the next write will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// How many writes were submitted.
    pub fn write_count(&self) -> usize {
        self.writes.len()
    }

    /// How many writes were acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        self.writes.iter().filter(|write| matches!(write.answer, Answer::Acknowledged { .. })).count()
    }

    /// How often connections were lost and made again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// The writes to a block, in order.
    pub(crate) fn of_block(&self, disk: u16, block: u64) -> impl DoubleEndedIterator<Item = &WriteAt> {
        let places = self.blocks.get(&(disk, block)).map(Vec::as_slice).unwrap_or_default();
        places.iter().map(|place| &self.writes[*place as usize])
    }

    /// The blocks of a disk that were ever written, in order.
    pub(crate) fn blocks_of(&self, disk: u16) -> Vec<u64> {
        let mut blocks: Vec<_> = self.blocks.keys().filter(|key| key.0 == disk).map(|key| key.1).collect();
        blocks.sort_unstable();
        blocks
    }

    /// The write of a sequence.
    pub(crate) fn write(&self, seq: u64) -> Option<&WriteAt> {
        self.writes.binary_search_by_key(&seq, |write| write.seq).ok().map(|place| &self.writes[place])
    }

    /// All writes, in order.
    pub(crate) fn writes(&self) -> impl Iterator<Item = &WriteAt> {
        self.writes.iter()
    }

    /// The writes that were never answered, in order.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = &WriteAt> {
        self.writes.iter().filter(|write| write.answer == Answer::None)
    }

    /// For each written block the last write to it, in order of place.
    pub(crate) fn last_of_blocks(&self) -> BTreeMap<(u16, u64), WriteAt> {
        let last = |places: &Vec<u32>| places.last().map(|place| self.writes[*place as usize]);
        self.blocks.iter().filter_map(|(key, places)| Some((*key, last(places)?))).collect()
    }
}
