//! A recovery point in a vault in memory, made through the engine's own writers, and its exports.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use farshore_engine::digest::digests;
use farshore_engine::ids::{
    Chance, DiskNo, Epoch, IncarnationId, Lsn, MachineId, MarkId, Salt, Slot, TimelineId, Timestamp, WriterId,
};
use farshore_engine::nbd::Export;
use farshore_engine::record::{DiskInfo, Mark, MarkKind, Record, RecordAt};
use farshore_engine::section::SectionBuilder;
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::read::export::VolumeExport;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::overlay::Overlay;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use farshore_engine::vault::segment::{
    Control, FooterDigest, FooterPlace, FrameSealer, ItemNo, LogVersion, ObjectKind, SealedItem, SegmentIdentity,
    SegmentIndex, seal_control, seal_footer,
};
use farshore_engine::vault::state::LogState;
use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::memory::MemoryStore;
use tokio::runtime::Runtime;

use crate::nbd_rig::quiet;

/// Payload of one batch.
const BATCH_BYTES: usize = 512 << 10;

/// Numbers that need not be random here.
struct Counting(u8);

impl Chance for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 1;
        bytes.fill(self.0);
    }
}

/// A segment in the making.
struct Open {
    sealer: FrameSealer,
    index: SegmentIndex,
    bytes: BytesMut,
    next_item: ItemNo,
}

impl Open {
    fn push(&mut self, item: &SealedItem) {
        self.index.push(self.bytes.len() as u64, item);
        self.bytes.extend_from_slice(&item.bytes);
        self.next_item = self.next_item.next();
    }
}

/// One disk at one recovery point.
pub(crate) struct Point {
    runtime: Runtime,
    reader: TimelineReader,
}

impl Point {
    /// A point at which the disk holds `bytes`; runs of zeroes were never written.
    pub(crate) fn new(bytes: &[u8], sector_bytes: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let mut chance = Counting(0);
        let key = DataKey::draw(&mut chance);
        let identity = SegmentIdentity {
            machine: MachineId([0xa1; 16]),
            timeline: TimelineId([0x71; 8]),
            epoch: Epoch(1),
            writer: WriterId([0x11; 16]),
            salt: Salt::draw(&mut chance),
            created_at: Timestamp(5),
            version: LogVersion::V1,
        };
        let store = Arc::new(MemoryStore::new());
        let publish = |slot, object: Bytes| {
            let name = ObjectName::log(identity.machine, identity.timeline, slot);
            runtime.block_on(store.put_if_absent(&name, "test", object)).expect("the store takes it");
        };
        let mut state = LogState::default();
        let place = FooterPlace { slot: Slot(0), previous: FooterDigest::NONE };
        let salt = Salt::draw(&mut chance);
        let fence = seal_control(&key, &identity, Control::Fence, place, &state, salt, Timestamp(6));
        publish(place.slot, fence.bytes);

        let identity = SegmentIdentity { salt: Salt::draw(&mut chance), ..identity };
        let mut open = Open {
            sealer: FrameSealer::new(&key, identity),
            index: SegmentIndex::new(),
            bytes: BytesMut::from(&identity.encode(ObjectKind::Segment)[..]),
            next_item: ItemNo::FIRST,
        };
        write_disk(&mut open, &mut state, &key, bytes, sector_bytes);
        let place = FooterPlace { slot: Slot(1), previous: fence.digest };
        let (salt, items_end) = (Salt::draw(&mut chance), open.bytes.len() as u64);
        let footer = seal_footer(&key, &identity, place, &open.index, &state, salt, Timestamp(7), items_end);
        open.bytes.extend_from_slice(&footer.bytes);
        publish(place.slot, open.bytes.freeze());

        let source = LogSource::new(store.clone(), identity.machine, key);
        let reader = runtime.block_on(TimelineReader::open(source, identity.timeline)).expect("the log is whole");
        Self { runtime, reader }
    }

    /// Serves the disk; with `overlay`, a directory, what is written goes there.
    pub(crate) fn export(&self, name: &str, overlay: Option<&Path>) -> Arc<dyn Export> {
        let point = self.reader.newest().expect("the log ends in a mark");
        let frames = Arc::new(FrameCache::new(16 << 20));
        let volume = Volume::of_point(&self.reader, &point, DiskNo(0), frames, VolumeLimits::default());
        let volume = volume.expect("the point covers the disk");
        let overlay = overlay.map(|dir| Overlay::create(dir, volume.info().size_bytes).expect("an overlay"));
        Arc::new(VolumeExport::new(volume, name, overlay, self.runtime.handle().clone(), &quiet()))
    }
}

/// Batches: the disk appears, its bytes are written, a mark is taken.
fn write_disk(open: &mut Open, state: &mut LogState, key: &DataKey, bytes: &[u8], sector_bytes: u32) {
    let mut lsn = Lsn::ZERO;
    let mut records = Vec::new();
    let disk = DiskInfo { disk: DiskNo(0), name: "disk".into(), size_bytes: bytes.len() as u64, sector_bytes };
    let begin = [
        Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None },
        Record::DiskAdded(disk),
        Record::GapClosed { disk: DiskNo(0) },
    ];
    for record in begin {
        lsn = lsn.next();
        records.push(RecordAt { lsn, record });
    }
    end_batch(open, state, Lsn(1), lsn, None, &records);
    for (number, data) in bytes.chunks(BATCH_BYTES).enumerate() {
        let first = lsn.next();
        let mut section = SectionBuilder::default();
        for (at, data) in data.chunks(65536).enumerate().filter(|(_, data)| data.iter().any(|byte| *byte != 0)) {
            lsn = lsn.next();
            let offset = (number * BATCH_BYTES + at * 65536) as u64;
            section.data(lsn, offset, Bytes::copy_from_slice(data), &digests(&key.digest_key(), offset, data));
        }
        if !section.is_empty() {
            end_batch(open, state, first, lsn, Some(section.finish()), &[]);
        }
    }
    lsn = lsn.next();
    let (id, captured_at) = (MarkId([9; 16]), Timestamp(1_000_000));
    let mark = Mark { id, kind: MarkKind::Crash, captured_at, members: vec![], label: String::new() };
    end_batch(open, state, lsn, lsn, None, &[RecordAt { lsn, record: Record::Mark(mark) }]);
}

fn end_batch(
    open: &mut Open,
    state: &mut LogState,
    first: Lsn,
    last: Lsn,
    section: Option<Bytes>,
    records: &[RecordAt],
) {
    let frames = u32::from(section.is_some());
    if let Some(section) = section {
        let frame = open.sealer.seal_frame(open.next_item, DiskNo(0), first, last, &section).expect("well formed");
        open.push(&frame);
    }
    let end = open.sealer.seal_batch_end(open.next_item, first, last, frames, records);
    open.push(&end);
    state.follow_run(first, last, records).expect("the log is in order");
}
