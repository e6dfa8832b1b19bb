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
        version: LogVersion::V1,
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

#[test]
fn a_damaged_batch_cuts_the_file_before_it_and_a_tail_of_zeroes_is_no_batch() {
    let made = example();
    let bytes = made.items.freeze();
    let whole = scan_whole_batches(&bytes).expect("a header");
    let second = &whole.batches[1];
    for at in [second.start, second.start + 60, second.end - 1] {
        let mut damaged = bytes.to_vec();
        damaged[at as usize] ^= 1;
        assert_eq!(scan_whole_batches(&damaged).expect("a header").cut, second.start, "damage at {at}");
    }
    let preallocated = [&bytes[..], &[0; 4096]].concat();
    assert_eq!(scan_whole_batches(&preallocated).expect("a header"), whole);
    let closed = object().0;
    assert_eq!(scan_whole_batches(&closed).expect("a header"), whole, "a footer is no batch");
}

#[test]
fn batches_that_were_swapped_or_repeated_are_cut() {
    let bytes = example().items.freeze();
    let whole = scan_whole_batches(&bytes).expect("a header");
    let part = |batch: &BatchSpan| &bytes[batch.start as usize..batch.end as usize];
    let (header, one, two) = (&bytes[..header::HEADER_BYTES], part(&whole.batches[0]), part(&whole.batches[1]));
    let cut = |parts: &[&[u8]]| scan_whole_batches(&parts.concat()).expect("a header").batches.len();
    assert_eq!(cut(&[header, one, two]), 2);
    assert_eq!(cut(&[header, two, one]), 1);
    assert_eq!(cut(&[header, one, one, two]), 1);
    let batch_end = whole.batches[0].items.last().expect("its end").0 as usize;
    let end_only = &bytes[batch_end..whole.batches[0].end as usize];
    assert_eq!(cut(&[header, end_only]), 0, "a batch end without its frames");
}

#[test]
fn an_item_of_another_segment_does_not_open() {
    let made = example();
    let frame = made.index.frames()[0];
    let item = made.items.freeze().slice(frame.offset as usize..(frame.offset + frame.item_bytes()) as usize);
    let opens = |identity: SegmentIdentity| FrameOpener::new(&key(), &identity).open_item(&item).is_ok();
    assert!(opens(identity()));
    assert!(opens(SegmentIdentity { epoch: Epoch(9), ..identity() }), "items are not bound to the epoch: footers are");
    assert!(!opens(SegmentIdentity { salt: Salt([0; 16]), ..identity() }));
    assert!(!opens(SegmentIdentity { machine: MachineId([0; 16]), ..identity() }));
    assert!(!opens(SegmentIdentity { timeline: TimelineId([0; 8]), ..identity() }));
}

#[test]
fn frames_of_zstd_need_version_2_and_an_object_of_version_1_is_never_given_any() {
    let mut builder = SectionBuilder::default();
    builder.data(Lsn(1), 0, vec![7; 8192].into(), &digests(&key().digest_key(), 0, &[7; 8192]));
    let section = builder.finish();
    let newer = SegmentIdentity { version: LogVersion::V2, ..identity() };
    let sealed = |identity: SegmentIdentity| {
        let sealer = FrameSealer::new(&key(), identity).packed(Packing::Zstd(3));
        sealer.seal_frame(ItemNo(1), DiskNo(0), Lsn(1), Lsn(1), &section).expect("well formed")
    };
    assert_eq!(sealed(identity()).header.codec, Codec::Snappy, "a segment that was begun before the policy changed");
    let frame = sealed(newer);
    assert_eq!(frame.header.codec, Codec::Zstd);
    assert_eq!(FrameOpener::new(&key(), &newer).reopen(&frame.bytes), Ok(frame.clone()));
    assert!(FrameOpener::new(&key(), &identity()).reopen(&frame.bytes).is_err());
}

#[test]
fn a_16_mib_segment_of_small_writes_opens_with_one_read_of_its_last_64_kib() {
    let sealer = FrameSealer::new(&key(), identity());
    let mut index = SegmentIndex::new();
    let mut state = LogState::default();
    let mut at = header::HEADER_BYTES as u64;
    for batch in 0..32_u64 {
        let (first, last) = (Lsn(batch * 128 + 1), Lsn(batch * 128 + 128));
        let mut builder = SectionBuilder::default();
        for lsn in first.0..=last.0 {
            let offset = lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24 << 12;
            builder.fill(Lsn(lsn), offset, 4096, WriteKind::Zero);
        }
        let number = ItemNo(batch * 2 + 1);
        let frame = sealer.seal_frame(number, DiskNo(0), first, last, &builder.finish()).expect("well formed");
        let end = sealer.seal_batch_end(number.next(), first, last, 1, &[]);
        for item in [frame, end] {
            index.push(at, &item);
            at += item.bytes.len() as u64;
        }
        state.follow_run(first, last, &[]).expect("in order");
    }
    let footer = seal_footer(&key(), &identity(), place(), &index, &state, Salt([1; 16]), Timestamp(0), at);
    let trailer = Trailer::parse(&footer.bytes).expect("a trailer");
    let top_and_trailer = trailer.top_sealed_bytes as usize + trailer::TRAILER_BYTES;
    assert!(top_and_trailer < 4 << 10, "top and trailer have {top_and_trailer} bytes");
    assert!(footer.bytes.len() < 64 << 10, "the footer has {} bytes for {} rows", footer.bytes.len(), 4096);
}
