//! A machine that writes: batches whose every byte follows from its disk and LSN, so that whoever reads them back can tell
//! what they must be.

use bytes::Bytes;

use super::chance::SeededChance;
use crate::batch::Batch;
use crate::digest::{DigestKey, digests};
use crate::ids::{Chance, DiskNo, IncarnationId, Lsn, MarkId, Timestamp};
use crate::log::sequencer::Dispatch;
use crate::record::{DiskInfo, Mark, MarkKind, Record, RecordAt};
use crate::section::SectionBuilder;
use crate::vault::crypto::DataKey;
use crate::vault::segment::{FrameSealer, SealedItem};

/// Size of a block of the made disks, and of every write to them, in bytes.
pub const BLOCK_BYTES: u64 = 512;

/// The machine.
#[derive(Debug, Clone)]
pub struct Maker {
    digest_key: DigestKey,
    disks: u16,
    blocks: u64,
    next: Lsn,
}

/// One write of a made batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its LSN.
    pub lsn: Lsn,
    /// The disk.
    pub disk: DiskNo,
    /// Where on it, in bytes.
    pub offset: u64,
}

impl Maker {
    /// A machine with so many disks of so many blocks, whose first LSN is `next`.
    pub fn new(key: &DataKey, disks: u16, blocks: u64, next: Lsn) -> Self {
        Self { digest_key: key.digest_key(), disks, blocks, next }
    }

    /// The next LSN.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// The disks.
    pub fn disks(&self) -> Vec<DiskInfo> {
        let info = |disk: u16| DiskInfo {
            disk: DiskNo(disk),
            name: format!("disk {disk}"),
            size_bytes: self.blocks * BLOCK_BYTES,
            sector_bytes: 512,
        };
        (0..self.disks).map(info).collect()
    }

    /// The batch with which a life begins; a first one brings the disks along.
    pub fn begin(&mut self, id: IncarnationId, predecessor: Option<IncarnationId>) -> Batch {
        let mut records = vec![Record::Incarnation { id, predecessor }];
        if predecessor.is_none() {
            records.extend(self.disks().into_iter().map(Record::DiskAdded));
        }
        self.records(records)
    }

    /// A batch of one record.
    pub fn record(&mut self, record: Record) -> Batch {
        self.records(vec![record])
    }

    /// A batch of one mark.
    pub fn mark(&mut self, kind: MarkKind, chance: &mut dyn Chance) -> Batch {
        let id = MarkId::draw(chance);
        let captured_at = Timestamp(self.next.0 as i64);
        self.record(Record::Mark(Mark { id, kind, captured_at, members: Vec::new(), label: String::new() }))
    }

    fn records(&mut self, records: Vec<Record>) -> Batch {
        let first = self.next;
        let at = |(n, record)| RecordAt { lsn: Lsn(first.0 + n as u64), record };
        let records: Vec<RecordAt> = records.into_iter().enumerate().map(at).collect();
        let last = Lsn(first.0 + records.len() as u64 - 1);
        self.next = last.next();
        Batch { first, last, sections: Vec::new(), records }
    }

    /// A batch of so many writes, somewhere.
    pub fn writes(&mut self, count: u64, chance: &mut SeededChance) -> (Batch, Vec<Made>) {
        let made: Vec<Made> = (0..count)
            .map(|n| {
                let lsn = Lsn(self.next.0 + n);
                let disk = DiskNo(chance.below(self.disks.into()) as u16);
                Made { lsn, disk, offset: chance.below(self.blocks) * BLOCK_BYTES }
            })
            .collect();
        (self.batch(&made), made)
    }

    fn batch(&mut self, made: &[Made]) -> Batch {
        let (first, count) = (self.next, made.len() as u64);
        self.next = Lsn(first.0 + count);
        let section = |disk: u16| {
            let mut builder = SectionBuilder::default();
            for write in made.iter().filter(|write| write.disk.0 == disk) {
                let data = contents(write.disk, write.lsn);
                builder.data(write.lsn, write.offset, data.clone(), &digests(&self.digest_key, write.offset, &data));
            }
            (!builder.is_empty()).then(|| (DiskNo(disk), builder.finish()))
        };
        let sections = (0..self.disks).filter_map(section).collect();
        Batch { first, last: Lsn(first.0 + count - 1), sections, records: Vec::new() }
    }
}

/// What a write with this LSN puts on this disk.
pub fn contents(disk: DiskNo, lsn: Lsn) -> Bytes {
    let mut state = lsn.0 ^ (u64::from(disk.0) << 48);
    let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
    while bytes.len() < BLOCK_BYTES as usize {
        // SplitMix64 (Steele, Lea, Flood 2014): no two writes look alike, and none compresses.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.into()
}

/// Seals everything that was dispatched, in order.
///
/// # Panics
/// When a section is none.
pub fn seal(key: &DataKey, dispatch: &Dispatch) -> Vec<SealedItem> {
    let sealer = FrameSealer::new(key, dispatch.identity);
    let frame = |job: &crate::log::sequencer::FrameJob| {
        let sealed = sealer.seal_frame(job.number, job.disk, job.first, job.last, &job.section);
        sealed.expect("a made section is one")
    };
    let end = &dispatch.end;
    let end = sealer.seal_batch_end(end.number, end.first, end.last, end.frames, &end.records);
    dispatch.frames.iter().map(frame).chain([end]).collect()
}
