//! The segment as a whole: what goes in comes out, and nothing else does.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::digest::digests;
use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, MachineId, MarkId, Salt, Slot, TimelineId, Timestamp, WriterId};
use crate::record::{DiskInfo, Mark, MarkKind, Record, RecordAt};
use crate::section::{Section, SectionBuilder, WriteKind};
use crate::vault::crypto::DataKey;
use crate::vault::state::LogState;

const MACHINE: MachineId = MachineId([0x11; 16]);
const TIMELINE: TimelineId = TimelineId([0x22; 8]);

pub(crate) fn key() -> DataKey {
    DataKey::from_bytes([0x33; 32])
}

pub(crate) fn identity() -> SegmentIdentity {
    SegmentIdentity {
        machine: MACHINE,
        timeline: TIMELINE,
        epoch: Epoch(4),
        writer: WriterId([0x55; 16]),
        salt: Salt([0x66; 16]),
        created_at: Timestamp(1_000_000),
    }
}

fn section(lsns: std::ops::Range<u64>, seed: u64) -> Bytes {
    let digest_key = key().digest_key();
    let mut builder = SectionBuilder::default();
    for lsn in lsns {
        let data: Vec<u8> = (0..4096_u64).map(|n| (n / 16 * lsn * seed) as u8).collect();
        let offset = lsn.wrapping_mul(seed * 7919) % 1000 * 4096;
        if lsn % 5 == 0 {
            builder.fill(Lsn(lsn), offset, 8192, WriteKind::Zero);
        } else {
            builder.data(Lsn(lsn), offset, data.clone().into(), &digests(&digest_key, offset, &data));
        }
    }
    builder.finish()
}

fn at(lsn: u64, record: Record) -> RecordAt {
    RecordAt { lsn: Lsn(lsn), record }
}

fn disk(number: u16) -> Record {
    Record::DiskAdded(DiskInfo { disk: DiskNo(number), name: "disk".into(), size_bytes: 1 << 30, sector_bytes: 512 })
}

pub(crate) struct Example {
    pub(crate) items: BytesMut,
    pub(crate) index: SegmentIndex,
    pub(crate) state: LogState,
    pub(crate) sections: Vec<(DiskNo, Bytes)>,
}

/// Two batches over two disks, with the records that begin a log.
pub(crate) fn example() -> Example {
    let sealer = FrameSealer::new(&key(), identity());
    let mut made = Example {
        items: BytesMut::from(&identity().encode(ObjectKind::Segment)[..]),
        index: SegmentIndex::new(),
        state: LogState::default(),
        sections: vec![],
    };
    let mark = Mark {
        id: MarkId([7; 16]),
        kind: MarkKind::App,
        captured_at: Timestamp(2_000_000),
        members: vec![],
        label: "nightly".into(),
    };
    let life = Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None };
    let batches = [
        (
            1,
            40,
            vec![at(1, life), at(2, disk(0)), at(3, disk(1))],
            vec![(0, section(4..20, 3)), (1, section(20..41, 5))],
        ),
        (41, 90, vec![at(90, Record::Mark(mark))], vec![(0, section(41..90, 11))]),
    ];
    let mut number = ItemNo::FIRST;
    for (first, last, records, sections) in batches {
        let (first, last) = (Lsn(first), Lsn(last));
        let mut items = vec![];
        for (disk, section) in &sections {
            items.push(sealer.seal_frame(number, DiskNo(*disk), first, last, section).expect("well formed"));
            number = number.next();
            made.sections.push((DiskNo(*disk), section.clone()));
        }
        items.push(sealer.seal_batch_end(number, first, last, sections.len() as u32, &records));
        number = number.next();
        for item in items {
            made.index.push(made.items.len() as u64, &item);
            made.items.extend_from_slice(&item.bytes);
        }
        made.state.follow_run(first, last, &records).expect("in order");
    }
    made
}

fn place() -> FooterPlace {
    FooterPlace { slot: Slot(9), previous: FooterDigest([0x77; 32]) }
}

pub(crate) fn object() -> (Bytes, FooterDigest) {
    let mut example = example();
    let end = example.items.len() as u64;
    let (index, state) = (&example.index, &example.state);
    let footer = seal_footer(&key(), &identity(), place(), index, state, Salt([0x88; 16]), Timestamp(3_000_000), end);
    example.items.extend_from_slice(&footer.bytes);
    (example.items.freeze(), footer.digest)
}

#[test]
fn what_was_sealed_into_a_segment_is_read_out_of_it() {
    let made = example();
    let (object, digest) = object();
    let footer = Footer::of_object(&key(), MACHINE, TIMELINE, &object).expect("opens");
    assert_eq!((footer.slot, footer.epoch, footer.digest), (Slot(9), Epoch(4), digest));
    assert_eq!((footer.first, footer.last, footer.control), (Lsn(1), Lsn(90), None));
    assert_eq!(footer.identity, identity());
    assert_eq!((footer.state, footer.previous), (made.state, FooterDigest([0x77; 32])));
    assert_eq!(footer.records, made.index.records());
    assert_eq!(footer.frames, made.index.frames());

    let footer = Footer::of_object(&key(), MACHINE, TIMELINE, &object).expect("opens");
    let opener = FrameOpener::new(&key(), &footer.identity);
    for (entry, (disk, section)) in footer.frames.iter().zip(&made.sections) {
        let item = object.slice(entry.offset as usize..(entry.offset + entry.item_bytes()) as usize);
        let (header, plain) = opener.open_item(&item).expect("opens");
        assert_eq!((header.kind, &plain), (ItemKind::Frame { disk: *disk }, section));
    }
    for (number, page) in footer.pages.iter().enumerate() {
        let sealed = &object[page.offset as usize..page.offset as usize + page.len as usize];
        let rows = footer.open_page(&key(), number, sealed).expect("opens");
        assert_eq!(&rows, &made.index.rows()[&page.disk]);
        for row in rows {
            let (_, section) = &made.sections[row.frame as usize];
            let section = Section::parse(section, u64::MAX).expect("well formed");
            let found = section.rows().any(|own| {
                own.entry.lsn == row.lsn && own.entry.offset == row.offset && own.payload_at == row.payload_at as usize
            });
            assert!(found, "{row:?}");
        }
    }
}

#[test]
fn a_file_is_cut_behind_its_last_whole_batch_wherever_it_ends() {
    let made = example();
    let bytes = made.items.freeze();
    let whole = scan_whole_batches(&bytes).expect("a header");
    assert_eq!((whole.cut, whole.run()), (bytes.len() as u64, Some((Lsn(1), Lsn(90)))));
    let ends: Vec<_> = whole.batches.iter().map(|batch| batch.end).collect();
    for cut in header::HEADER_BYTES..bytes.len() {
        let scan = scan_whole_batches(&bytes[..cut]).expect("a header");
        let expected = ends.iter().copied().filter(|end| *end <= cut as u64).max();
        assert_eq!(scan.cut, expected.unwrap_or(header::HEADER_BYTES as u64), "cut at {cut}");
    }
    let (_, index) = rebuild_index(&FrameOpener::new(&key(), &identity()), &bytes).expect("opens");
    assert_eq!(index, made.index);
}

#[test]
fn a_fence_and_a_branch_are_footers_alone() {
    let state = example().state;
    let branch = Branch { timeline: TimelineId([9; 8]), slot: Slot(3), lsn: Lsn(50), footer: FooterDigest([1; 32]) };
    for control in [Control::Fence, Control::Branch(branch)] {
        let sealed =
            seal_control(&key(), &identity(), control, place(), &state, Salt([0x99; 16]), Timestamp(4_000_000));
        let footer = Footer::of_object(&key(), MACHINE, TIMELINE, &sealed.bytes).expect("opens");
        assert_eq!((footer.control, footer.digest), (Some(control), sealed.digest));
        assert_eq!((footer.first, footer.last, &footer.state), (Lsn(91), Lsn(90), &state));
        assert!(Footer::of_object(&key(), MACHINE, TimelineId([1; 8]), &sealed.bytes).is_err(), "another timeline");
        assert!(Footer::of_object(&DataKey::from_bytes([0; 32]), MACHINE, TIMELINE, &sealed.bytes).is_err());
    }
}
