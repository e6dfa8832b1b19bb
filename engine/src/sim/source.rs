//! A protected disk: what it holds, what of it would survive a power cut, and everything that it ever held. The judge of
//! points: a mark is right where it shows what the disk could have held after a crash at its time (I2).
//!
//! Contents are told by one number per block, drawn once per write and never again; 0 is zeroes. A sync that fails leaves
//! what it should have made durable unsynced; a later one may bring it.

use bytes::Bytes;

use super::chance::SeededChance;
use crate::capture::activity_layout::DiskIdentity;
use crate::ids::{DiskNo, Timestamp};
use crate::record::DiskInfo;

/// Size of a block, in bytes: what a power cut leaves whole.
pub(super) const BLOCK_BYTES: u64 = 1024;
/// Blocks of a disk: few, so that writes overlap.
pub(super) const BLOCKS: usize = 64;
/// Size of a region, in bytes: two pieces, so that what is compared may differ in part.
pub(super) const REGION_BYTES: u64 = 8 * BLOCK_BYTES;

/// What a block holds, told by its number.
pub(super) type Value = u64;

/// What became of one block at one time.
#[derive(Debug, Clone, Copy)]
struct Landed {
    value: Value,
    /// The number of the write that put it there; 0 where none did (the power went, somebody else wrote).
    write: u64,
}

/// What could be seen of a disk when a mark was taken.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// Writes with a smaller number were under way or done.
    write: u64,
    /// Per block: what had completed, and what had landed.
    blocks: Vec<(u32, u32)>,
}

#[derive(Debug, Clone)]
pub(super) struct SourceDisk {
    pub(super) live: Vec<Value>,
    synced: Vec<Value>,
    history: Vec<Vec<Landed>>,
    completed: Vec<u32>,
    pub(super) identity: DiskIdentity,
}

impl SourceDisk {
    /// A disk that holds something already; every third block is zeroes.
    pub(super) fn new(number: usize, values: &mut impl FnMut() -> Value) -> Self {
        let live: Vec<Value> = (0..BLOCKS).map(|block| if block % 3 == 0 { 0 } else { values() }).collect();
        let identity = DiskIdentity {
            size_bytes: BLOCKS as u64 * BLOCK_BYTES,
            inode: 100 + number as u64,
            born_ns: 1,
            ..DiskIdentity::default()
        };
        let history = live.iter().map(|value| vec![Landed { value: *value, write: 0 }]).collect();
        Self { synced: live.clone(), history, completed: vec![1; BLOCKS], live, identity }
    }

    pub(super) fn info(number: usize) -> DiskInfo {
        DiskInfo {
            disk: DiskNo(number as u16),
            name: name(number),
            size_bytes: BLOCKS as u64 * BLOCK_BYTES,
            sector_bytes: 512,
        }
    }

    /// A write reaches the disk, or a part of it does.
    pub(super) fn land(&mut self, first: usize, values: &[Value], write: u64, at: Timestamp) {
        for (block, value) in (first..).zip(values) {
            self.live[block] = *value;
            self.history[block].push(Landed { value: *value, write });
        }
        self.touched(at);
    }

    /// The application was told that its write is done.
    pub(super) fn complete(&mut self, first: usize, count: usize) {
        for block in first..first + count {
            self.completed[block] = self.history[block].len() as u32;
        }
    }

    /// Somebody else changes a block, or the disk comes back as it was.
    pub(super) fn replace(&mut self, block: usize, value: Value) {
        self.live[block] = value;
        self.synced[block] = value;
        self.history[block].push(Landed { value, write: 0 });
        self.complete(block, 1);
    }

    fn touched(&mut self, at: Timestamp) {
        self.identity.modified_ns = at.0.saturating_mul(1000);
        self.identity.changed_ns = self.identity.modified_ns;
    }

    /// What a sync that begins now will make durable.
    pub(super) fn sync_begins(&self) -> Vec<Value> {
        self.live.clone()
    }

    pub(super) fn synced(&mut self, content: Vec<Value>) {
        self.synced = content;
    }

    /// The power goes: each block that was not synced is as it was, or as it became.
    pub(super) fn crash(&mut self, chance: &mut SeededChance) {
        for block in 0..BLOCKS {
            if self.live[block] != self.synced[block] {
                let value = if chance.happens(500) { self.live[block] } else { self.synced[block] };
                self.replace(block, value);
            }
        }
    }

    /// What a block may hold after a crash here.
    pub(super) fn after_crash(&self, block: usize) -> [Value; 2] {
        [self.live[block], self.synced[block]]
    }

    pub(super) fn snapshot(&self, write: u64) -> Snapshot {
        let blocks = self.completed.iter().zip(&self.history).map(|(done, all)| (*done, all.len() as u32)).collect();
        Snapshot { write, blocks }
    }

    /// Whether a block could have held this value after a crash when the snapshot was taken.
    pub(super) fn could_hold(&self, taken: &Snapshot, block: usize, value: Value) -> bool {
        let (completed, landed) = taken.blocks[block];
        let (done, later) = self.history[block].split_at(landed as usize);
        done[completed as usize - 1..].iter().any(|landed| landed.value == value)
            || later.iter().any(|landed| landed.value == value && landed.write > 0 && landed.write < taken.write)
    }
}

/// The name of a disk.
pub(super) fn name(number: usize) -> String {
    format!("disk {number}")
}

/// The bytes of a block.
pub(super) fn block(value: Value) -> Vec<u8> {
    if value == 0 {
        return vec![0; BLOCK_BYTES as usize];
    }
    let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
    bytes.extend_from_slice(&value.to_le_bytes());
    let mut state = value;
    while bytes.len() < BLOCK_BYTES as usize {
        // SplitMix64 (Steele, Lea, Flood 2014): no two blocks look alike, and none compresses.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes
}

/// The bytes of blocks.
pub(super) fn bytes(values: &[Value]) -> Bytes {
    values.iter().flat_map(|value| block(*value)).collect::<Vec<u8>>().into()
}

/// The number of a block with these bytes; none where no write ever put them there.
pub(super) fn value(bytes: &[u8]) -> Option<Value> {
    let value = Value::from_le_bytes(*bytes.first_chunk()?);
    (block(value) == bytes).then_some(value)
}
