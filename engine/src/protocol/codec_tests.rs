//! Golden files, round trips, and hostile bytes.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::digest::{DigestKey, digests};
use crate::protocol::frame::Decoder;
use crate::record::{DiskInfo, GROUP_MEMBERS_MAX, Mark, RecordAt};
use crate::section::{SectionBuilder, WriteKind};
use crate::vault::state::LogState;

fn disk(number: u16, name: &str) -> DiskInfo {
    DiskInfo { disk: DiskNo(number), name: name.into(), size_bytes: 1 << 30, sector_bytes: 512 }
}

fn section(lsn: u64) -> Bytes {
    let data = Bytes::from(vec![0xa5; 1000]);
    let sums = digests(&DigestKey::new([9; 32]), 512, &data);
    let mut builder = SectionBuilder::default();
    builder.data(Lsn(lsn), 512, data, &sums);
    builder.fill(Lsn(lsn + 1), 65536, 4096, WriteKind::Zero);
    builder.finish()
}

fn batch() -> Batch {
    let mark = Mark {
        id: MarkId([5; 16]),
        kind: MarkKind::App,
        captured_at: Timestamp(1_700_000_000_000_000),
        members: Vec::new(),
        label: "before the upgrade".into(),
    };
    let sections = vec![(DiskNo(0), section(101)), (DiskNo(3), section(103))];
    let records = vec![RecordAt { lsn: Lsn(105), record: Record::Mark(mark) }];
    Batch { first: Lsn(101), last: Lsn(106), sections, records }
}

fn hello(reset: Option<Reset>) -> Hello {
    Hello {
        version: 1,
        machine: MachineId([1; 16]),
        timeline: TimelineId([2; 8]),
        incarnation: IncarnationId([3; 16]),
        lineage: vec![IncarnationId([4; 16]), IncarnationId([5; 16])],
        trusted: reset.is_none(),
        reset,
        epoch_known: Epoch(7),
        first_lsn: Lsn(1000),
        data_key: HelloKey::new([6; 32]),
        agent: "farshore 0.1.0".into(),
        disks: vec![disk(0, "system"), disk(3, "data / ü")],
    }
}

fn part() -> Part {
    Part { disk: DiskNo(3), offset: 1 << 20, len: 5 * 4096 + 512 }
}

fn digests_of_a_part() -> Digests {
    use crate::protocol::compare::PieceState;
    let mut data = vec![0; part().len as usize];
    data[4096..3 * 4096].fill(7);
    data[5 * 4096] = 1;
    let mut digests = Digests::of(part(), &DigestKey::new([9; 32]), &data);
    digests.pieces[4] = PieceState::Unknown;
    digests
}

fn log() -> LogState {
    let mut log = LogState::default();
    let records = [
        Record::Incarnation { id: IncarnationId([4; 16]), predecessor: None },
        Record::DiskAdded(disk(0, "system")),
        Record::DiskAdded(disk(3, "data / ü")),
        Record::GapClosed { disk: DiskNo(0) },
        Record::CleanStop { captured_at: Timestamp(17) },
    ];
    let records: Vec<_> = (1..).zip(records).map(|(lsn, record)| RecordAt { lsn: Lsn(lsn), record }).collect();
    log.follow_run(Lsn(1), Lsn(5), &records).expect("in order");
    log
}

fn agent_messages() -> Vec<(&'static str, AgentMessage)> {
    let reset = Reset { log_incarnation: IncarnationId([8; 16]), reason: GapReason::ActivityLogLost };
    vec![
        ("hello", AgentMessage::Hello(Box::new(hello(None)))),
        ("hello_reset", AgentMessage::Hello(Box::new(hello(Some(reset))))),
        ("batch", AgentMessage::Batch(batch())),
        ("idle", AgentMessage::Idle { lsn: Lsn(106), at: Timestamp(1_700_000_001_000_000) }),
        ("compare", AgentMessage::Compare(part())),
        ("ping", AgentMessage::Ping),
        ("agent_bye", AgentMessage::Bye { reason: "stopping".into() }),
    ]
}

fn server_messages() -> Vec<(&'static str, ServerMessage)> {
    let welcome =
        Welcome { epoch: Epoch(7), session: 42, committed: Lsn(3), durable: Lsn(5), credit_bytes: 8 << 20, log: log() };
    let redirect = Redirect { addresses: vec!["ps2.example:9443".into(), "10.0.0.2:9443".into()], epoch: Epoch(8) };
    let refusal = Refusal {
        code: RefusalCode::NotOwner,
        text: "the machine has moved".into(),
        log_incarnation: Some(IncarnationId([4; 16])),
        log_last: Lsn(106),
        redirect: Some(redirect.clone()),
    };
    let request = MarkRequest { id: MarkId([5; 16]), kind: MarkKind::Crash, label: "now".into() };
    let (epoch, session) = (Epoch(7), 42);
    vec![
        ("welcome", ServerMessage::Welcome(Box::new(welcome))),
        ("refused", ServerMessage::Refused(Box::new(refusal))),
        ("durable", ServerMessage::Durable { epoch, session, lsn: Lsn(106) }),
        ("committed", ServerMessage::Committed { epoch, session, lsn: Lsn(105) }),
        ("credit", ServerMessage::Credit { bytes: 65536 }),
        ("redirect", ServerMessage::Redirect(redirect)),
        ("mark_now", ServerMessage::MarkNow(request)),
        ("digests", ServerMessage::Digests(Box::new(digests_of_a_part()))),
        ("pong", ServerMessage::Pong),
        ("server_bye", ServerMessage::Bye { reason: "shutting down".into() }),
    ]
}

/// The golden file of a message; written first where `FARSHORE_WRITE_GOLDEN` is set (a change of format is a commit
/// of its own).
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/protocol");
    let file = folder.join(format!("{name}.bin"));
    if std::env::var_os("FARSHORE_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&file, now).unwrap();
    }
    std::fs::read(&file).unwrap_or_else(|cause| panic!("{}: {cause}", file.display()))
}

fn stands_as_golden<M: Message + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let bytes = message.encode().concat();
    let golden = golden(name, &bytes);
    assert_eq!(bytes, golden, "{name} is written otherwise than version 1 was");
    let mut decoder = Decoder::default();
    decoder.extend(&golden);
    assert_eq!(decoder.message::<M>().unwrap().as_ref(), Some(message), "{name} reads back");
    assert_eq!(decoder.pending_bytes(), 0);
}

#[test]
fn every_message_is_written_and_read_as_its_golden_file_says() {
    agent_messages().iter().for_each(|(name, message)| stands_as_golden(name, message));
    server_messages().iter().for_each(|(name, message)| stands_as_golden(name, message));
}

fn refuses_every_cut<M: Message + std::fmt::Debug>(name: &str, message: &M) {
    let whole = message.encode().concat();
    let body = Bytes::from(whole[crate::protocol::frame::FRAME_HEAD_BYTES..].to_vec());
    let kind = whole[4];
    for cut in 0..body.len() {
        let cut_body = Frame { kind, body: body.slice(..cut) };
        assert!(M::decode(&cut_body).is_err(), "{name} cut at {cut}");
    }
    let longer = Frame { kind, body: Bytes::from([&body[..], &[0]].concat()) };
    assert!(M::decode(&longer).is_err(), "{name} with one byte more");
}

#[test]
fn a_message_that_is_cut_or_goes_on_is_refused() {
    agent_messages().iter().for_each(|(name, message)| refuses_every_cut(name, message));
    server_messages().iter().for_each(|(name, message)| refuses_every_cut(name, message));
}

#[test]
fn a_batchs_sections_share_memory_with_what_was_received_and_with_what_is_sent() {
    let batch = batch();
    let parts = AgentMessage::Batch(batch.clone()).encode();
    assert_eq!(parts[1].as_ptr(), batch.sections[0].1.as_ptr(), "attached, not copied");
    let whole = Bytes::from(parts.concat());
    let body = whole.slice(crate::protocol::frame::FRAME_HEAD_BYTES..);
    let read = decode_batch(&body).unwrap();
    let range = whole.as_ptr() as usize..whole.as_ptr() as usize + whole.len();
    assert!(read.sections.iter().all(|(_, section)| range.contains(&(section.as_ptr() as usize))));
}

#[test]
fn the_data_key_is_never_printed() {
    let text = format!("{:?}", hello(None));
    assert!(text.contains("HelloKey(..)") && !text.contains("6, 6, 6"), "{text}");
}

#[test]
fn more_records_than_a_batch_may_have_are_refused_before_they_are_read() {
    let gaps = (0..=BATCH_RECORDS_MAX as u64)
        .map(|n| RecordAt { lsn: Lsn(1 + n), record: Record::GapClosed { disk: DiskNo(0) } })
        .collect::<Vec<_>>();
    let last = Lsn(gaps.len() as u64);
    let batch = Batch { first: Lsn(1), last, sections: Vec::new(), records: gaps };
    let frame = AgentMessage::Batch(batch).encode().concat();
    let mut decoder = Decoder::default();
    decoder.extend(&frame);
    assert!(matches!(decoder.message::<AgentMessage>(), Err(FrameError::Body { name: "Batch", .. })));
}

#[test]
fn a_batch_of_many_group_marks_costs_what_its_members_take() {
    let mark = |lsn| {
        let members = vec![MachineId([1; 16]); GROUP_MEMBERS_MAX];
        let (id, kind) = (MarkId([2; 16]), MarkKind::Group);
        let mark = Mark { id, kind, captured_at: Timestamp(0), members, label: "x".repeat(255) };
        RecordAt { lsn: Lsn(lsn), record: Record::Mark(mark) }
    };
    let batch = Batch { first: Lsn(1), last: Lsn(100), sections: Vec::new(), records: (1..=100).map(mark).collect() };
    let wire: usize = AgentMessage::Batch(batch.clone()).encode().iter().map(Bytes::len).sum();
    assert!(batch_cost_bytes(&batch) >= wire as u64, "{} for {wire}", batch_cost_bytes(&batch));
}

#[test]
fn a_reason_that_is_too_long_is_cut_between_characters() {
    let reason = "ü".repeat(TEXT_BYTES_MAX);
    let bytes = AgentMessage::Bye { reason }.encode().concat();
    let mut decoder = Decoder::default();
    decoder.extend(&bytes);
    let Some(AgentMessage::Bye { reason }) = decoder.message().unwrap() else { panic!("no bye") };
    assert_eq!(reason.len(), TEXT_BYTES_MAX);
}

proptest! {
    #[test]
    fn no_body_makes_a_reader_panic(kind in 0_u8..0x50, body in proptest::collection::vec(any::<u8>(), 0..512)) {
        let frame = Frame { kind, body: Bytes::from(body) };
        let _ = AgentMessage::decode(&frame);
        let _ = ServerMessage::decode(&frame);
    }

    #[test]
    fn no_change_of_a_good_message_makes_a_reader_panic(
        which in 0_usize..17, changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)
    ) {
        let all: Vec<Vec<Bytes>> = agent_messages().iter().map(|(_, message)| message.encode())
            .chain(server_messages().iter().map(|(_, message)| message.encode())).collect();
        let mut bytes = all[which].concat();
        let kind = bytes[4];
        let mut body = bytes.split_off(crate::protocol::frame::FRAME_HEAD_BYTES);
        for (at, value) in changes {
            let at = usize::from(at) % body.len().max(1);
            if let Some(byte) = body.get_mut(at) { *byte = value }
        }
        let frame = Frame { kind, body: Bytes::from(body) };
        let _ = AgentMessage::decode(&frame);
        let _ = ServerMessage::decode(&frame);
    }

    #[test]
    fn a_stream_of_anything_ends_in_an_error_or_waits(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let mut decoder = Decoder::default();
        decoder.extend(&bytes);
        while let Ok(Some(_)) = decoder.message::<AgentMessage>() {}
        prop_assert!(decoder.reserved_bytes() <= 64 << 10);
    }
}
