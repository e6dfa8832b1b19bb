//! Test support: a log written through the real segment writer, with a plain copy of every disk beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use super::chain::Chain;
use super::segment_view::LogSource;
use super::timeline::TimelineReader;
use crate::digest::digests;
use crate::ids::{
    Chance, DiskNo, Epoch, IncarnationId, Lsn, MachineId, MarkId, Salt, Slot, TimelineId, Timestamp, VaultId, WriterId,
};
use crate::record::{DiskInfo, Mark, MarkKind, Record, RecordAt};
use crate::section::{SectionBuilder, WriteKind};
use crate::vault::about::{About, TimelineInfo, WrappedKey};
use crate::vault::crypto::{DataKey, VaultKey};
use crate::vault::keys::{KeyObject, PassphraseCost};
use crate::vault::layout::ObjectName;
use crate::vault::manifest::Manifest;
use crate::vault::segment::{
    Branch, Control, FooterPlace, FrameSealer, ItemNo, LogVersion, ObjectKind, SegmentIdentity, SegmentIndex,
    seal_control, seal_footer,
};
use crate::vault::state::LogState;
use crate::vault::store::memory::MemoryStore;
use crate::vault::store::{ObjectStore, PutOutcome};

/// The passphrase of test vaults.
pub const PASSPHRASE: &str = "correct horse battery";

/// Seeded chance.
pub struct Seeded(pub SmallRng);

impl Seeded {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }
}

impl Chance for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

/// A mark and what every disk held there.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The mark.
    pub id: MarkId,
    /// Its place.
    pub lsn: Lsn,
    /// The slot that it will lie in.
    pub slot: Slot,
    /// The disks' bytes.
    pub disks: BTreeMap<DiskNo, Vec<u8>>,
}

struct OpenSegment {
    identity: SegmentIdentity,
    sealer: FrameSealer,
    index: SegmentIndex,
    bytes: BytesMut,
    next_item: ItemNo,
}

/// A log in the making.
pub struct TestLog {
    /// Where it lies.
    pub store: Arc<MemoryStore>,
    /// The machine's data key.
    pub key: DataKey,
    /// The machine.
    pub machine: MachineId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The owner.
    pub writer: WriterId,
    /// The log's end.
    pub chain: Chain,
    /// What the log says so far, whole batches only.
    pub state: LogState,
    /// The disks as they are now.
    pub models: BTreeMap<DiskNo, Vec<u8>>,
    /// The marks so far.
    pub taken: Vec<Taken>,
    /// Where salts and ids come from.
    pub chance: Seeded,
    /// The last LSN that was given.
    pub lsn: u64,
    batch_first: u64,
    sections: BTreeMap<DiskNo, SectionBuilder>,
    records: Vec<RecordAt>,
    segment: Option<OpenSegment>,
}

impl TestLog {
    /// A log whose disks have these sizes and are in order from the start.
    pub async fn new(sizes: &[u64]) -> Self {
        let mut log = Self::bare(Arc::new(MemoryStore::new()), MachineId([0xa1; 16]), TimelineId([0x71; 8]));
        log.control(Control::Fence).await;
        log.record(Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None });
        for (disk, size) in sizes.iter().enumerate() {
            log.add_disk(disk as u16, *size);
        }
        log
    }

    /// An empty log: no fence, no disks.
    pub fn bare(store: Arc<MemoryStore>, machine: MachineId, timeline: TimelineId) -> Self {
        let mut chance = Seeded::new(7);
        Self {
            store,
            key: DataKey::draw(&mut chance),
            machine,
            timeline,
            epoch: Epoch(1),
            writer: WriterId([0x11; 16]),
            chain: Chain::EMPTY,
            state: LogState::default(),
            models: BTreeMap::new(),
            taken: Vec::new(),
            chance,
            lsn: 0,
            batch_first: 1,
            sections: BTreeMap::new(),
            records: Vec::new(),
            segment: None,
        }
    }

    /// Adds a disk that is in order at once.
    pub fn add_disk(&mut self, disk: u16, size_bytes: u64) {
        self.add_vast_disk(disk, size_bytes);
        self.models.insert(DiskNo(disk), vec![0; size_bytes as usize]);
    }

    /// Adds a disk that is too large for a copy of it beside the log.
    pub fn add_vast_disk(&mut self, disk: u16, size_bytes: u64) {
        let name = format!("disk {disk}");
        self.record(Record::DiskAdded(DiskInfo { disk: DiskNo(disk), name, size_bytes, sector_bytes: 512 }));
        self.record(Record::GapClosed { disk: DiskNo(disk) });
    }

    /// Puts a record.
    pub fn record(&mut self, record: Record) -> Lsn {
        self.lsn += 1;
        self.records.push(RecordAt { lsn: Lsn(self.lsn), record });
        Lsn(self.lsn)
    }

    /// Changes a disk's size.
    pub fn resize(&mut self, disk: u16, size_bytes: u64) {
        self.record(Record::DiskResized { disk: DiskNo(disk), size_bytes });
        self.models.get_mut(&DiskNo(disk)).expect("the disk is there").resize(size_bytes as usize, 0);
    }

    /// Writes data.
    pub fn write(&mut self, disk: u16, offset: u64, data: &[u8]) {
        self.lsn += 1;
        let sums = digests(&self.key.digest_key(), offset, data);
        let section = self.sections.entry(DiskNo(disk)).or_default();
        section.data(Lsn(self.lsn), offset, Bytes::copy_from_slice(data), &sums);
        if let Some(model) = self.models.get_mut(&DiskNo(disk)) {
            model[offset as usize..][..data.len()].copy_from_slice(data);
        }
    }

    /// Writes zeroes, or undefined bytes.
    pub fn fill(&mut self, disk: u16, offset: u64, len: u32, kind: WriteKind) {
        self.lsn += 1;
        self.sections.entry(DiskNo(disk)).or_default().fill(Lsn(self.lsn), offset, len, kind);
        let model = self.models.get_mut(&DiskNo(disk)).expect("the disk is there");
        model[offset as usize..][..len as usize].fill(0);
    }

    /// Takes a mark; remembers what the disks hold there.
    pub fn mark(&mut self) -> MarkId {
        self.mark_at(Timestamp(self.lsn as i64 * 1_000_000))
    }

    /// Takes a mark that was captured then.
    pub fn mark_at(&mut self, captured_at: Timestamp) -> MarkId {
        let id = MarkId::draw(&mut self.chance);
        let mark = Mark { id, kind: MarkKind::Crash, captured_at, members: vec![], label: String::new() };
        let lsn = self.record(Record::Mark(mark));
        self.taken.push(Taken { id, lsn, slot: self.chain.next, disks: self.models.clone() });
        id
    }

    /// Ends the batch.
    pub fn end_batch(&mut self) {
        let (first, last) = (Lsn(self.batch_first), Lsn(self.lsn));
        if last < first {
            return;
        }
        let mut segment = self.segment.take().unwrap_or_else(|| self.begin_segment());
        let mut frames = 0;
        for (disk, section) in std::mem::take(&mut self.sections) {
            let number = segment.number();
            let item = segment.sealer.seal_frame(number, disk, first, last, &section.finish()).expect("well formed");
            segment.push(&item);
            frames += 1;
        }
        let records = std::mem::take(&mut self.records);
        let number = segment.number();
        let end = segment.sealer.seal_batch_end(number, first, last, frames, &records);
        segment.push(&end);
        self.state.follow_run(first, last, &records).expect("the log is in order");
        self.batch_first = self.lsn + 1;
        self.segment = Some(segment);
    }

    fn begin_segment(&mut self) -> OpenSegment {
        let identity = self.identity();
        OpenSegment {
            identity,
            sealer: FrameSealer::new(&self.key, identity),
            index: SegmentIndex::new(),
            bytes: BytesMut::from(&identity.encode(ObjectKind::Segment)[..]),
            next_item: ItemNo::FIRST,
        }
    }

    fn identity(&mut self) -> SegmentIdentity {
        SegmentIdentity {
            machine: self.machine,
            timeline: self.timeline,
            epoch: self.epoch,
            writer: self.writer,
            salt: Salt::draw(&mut self.chance),
            created_at: Timestamp(5),
            version: LogVersion::V1,
        }
    }

    /// Ends batch and segment, and fills the next slot with it.
    pub async fn end_segment(&mut self) -> Slot {
        self.end_batch();
        let segment = self.segment.take().expect("the segment holds a batch");
        let place = FooterPlace { slot: self.chain.next, previous: self.chain.previous };
        let salt = Salt::draw(&mut self.chance);
        let OpenSegment { identity, index, mut bytes, .. } = segment;
        let items_end = bytes.len() as u64;
        let footer = seal_footer(&self.key, &identity, place, &index, &self.state, salt, Timestamp(6), items_end);
        bytes.extend_from_slice(&footer.bytes);
        self.publish(bytes.freeze(), footer.digest).await
    }

    /// Fills the next slot with a fence or a branch.
    pub async fn control(&mut self, control: Control) -> Slot {
        let (identity, salt) = (self.identity(), Salt::draw(&mut self.chance));
        let place = FooterPlace { slot: self.chain.next, previous: self.chain.previous };
        let sealed = seal_control(&self.key, &identity, control, place, &self.state, salt, Timestamp(6));
        self.publish(sealed.bytes, sealed.digest).await
    }

    async fn publish(&mut self, bytes: Bytes, digest: crate::vault::segment::FooterDigest) -> Slot {
        let slot = self.chain.next;
        let name = self.name(slot);
        let outcome = self.store.put_if_absent(&name, "test", bytes).await.expect("the store takes it");
        assert_eq!(outcome, PutOutcome::Created);
        self.chain = Chain {
            next: slot.next(),
            previous: digest,
            owner: Some((self.epoch, self.writer)),
            last_lsn: self.state.last_lsn,
        };
        slot
    }

    /// The name of a slot's object.
    pub fn name(&self, slot: Slot) -> ObjectName {
        ObjectName::log(self.machine, self.timeline, slot)
    }

    /// A child that begins at the newest mark of this log, which must be in a filled slot and the log's last entry.
    pub async fn branch(&mut self, timeline: TimelineId) -> TestLog {
        let taken = self.taken.last().expect("there is a mark").clone();
        assert_eq!(taken.lsn, self.state.last_lsn, "the branch begins at the log's end");
        let mut child = Self::bare(self.store.clone(), self.machine, timeline);
        child.key = self.key.clone();
        child.chance = Seeded::new(99);
        child.state = self.state.clone();
        child.models = taken.disks.clone();
        (child.lsn, child.batch_first) = (taken.lsn.0, taken.lsn.0 + 1);
        child.taken = self.taken.clone();
        let branch = Branch { timeline: self.timeline, slot: taken.slot, lsn: taken.lsn, footer: self.chain.previous };
        child.control(Control::Branch(branch)).await;
        child
    }

    /// What the log needs around it to be a vault: key object, description, manifest. Gives the vault key.
    pub async fn wrap_in_vault(&mut self, name: &str) -> VaultKey {
        let key = VaultKey::from_bytes([0x5e; 32]);
        let mut keys = KeyObject::new(VaultId([0xfa; 16]), Timestamp(1));
        let cost = PassphraseCost::LEAST;
        keys.add_passphrase(&key, PASSPHRASE, cost, &mut self.chance).expect("the passphrase is long enough");
        let object = keys.seal(&key, &mut self.chance);
        self.put(&ObjectName::keys(keys.generation()), object).await;
        self.describe(&key, name, 1, &[self.timeline]).await;
        let manifest = Manifest::new(self.epoch).seal(self.machine, self.timeline, &self.key, &mut self.chance);
        self.put(&ObjectName::manifest(self.machine, self.timeline), manifest).await;
        key
    }

    /// Writes a generation of the machine's description.
    pub async fn describe(&mut self, key: &VaultKey, name: &str, generation: u64, timelines: &[TimelineId]) {
        let timeline = |id: &TimelineId| TimelineInfo { id: *id, parent: None, created_at: Timestamp(1) };
        let about = About {
            machine: self.machine,
            name: name.into(),
            disks: self.state.disks.values().map(|disk| disk.info.clone()).collect(),
            timelines: timelines.iter().map(timeline).collect(),
            hardware: BTreeMap::new(),
            data_key: WrappedKey::wrap(key, self.machine, &self.key, &mut self.chance),
        };
        let (name, object) = about.seal(generation, key, &mut self.chance);
        self.put(&name, object).await;
    }

    async fn put(&self, name: &ObjectName, bytes: Bytes) {
        let outcome = self.store.put_if_absent(name, "test", bytes).await.expect("the store takes it");
        assert_eq!(outcome, PutOutcome::Created);
    }

    /// The bytes of an object.
    pub async fn object(&self, name: &ObjectName) -> Bytes {
        self.store.get(name).await.expect("the object is there").0
    }

    /// The machine's logs, for a reader.
    pub fn source(&self) -> LogSource {
        LogSource::new(self.store.clone(), self.machine, self.key.clone())
    }

    /// Reads the log.
    pub async fn reader(&self) -> TimelineReader {
        TimelineReader::open(self.source(), self.timeline).await.expect("the store answers")
    }
}

impl OpenSegment {
    fn number(&mut self) -> ItemNo {
        let number = self.next_item;
        self.next_item = number.next();
        number
    }

    fn push(&mut self, item: &crate::vault::segment::SealedItem) {
        self.index.push(self.bytes.len() as u64, item);
        self.bytes.extend_from_slice(&item.bytes);
    }
}
