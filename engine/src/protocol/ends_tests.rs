//! Both ends together: what each rule does. `model` runs them through long random histories.

mod model;

use std::time::Duration;

use bytes::Bytes;

use super::agent_end::{AgentEnd, AgentEvent, Alarm};
use super::message::{AgentMessage, Hello, HelloKey, Redirect, RefusalCode, ServerMessage, Welcome};
use super::server_end::{OpenLog, ServerEffect, ServerEnd};
use crate::batch::Batch;
use crate::digest::{DigestKey, digests};
use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, MachineId, TimelineId, Timestamp};
use crate::record::{DiskInfo, GapReason, Record, RecordAt};
use crate::section::SectionBuilder;
use crate::vault::state::LogState;

const MACHINE: MachineId = MachineId([1; 16]);
const TIMELINE: TimelineId = TimelineId([2; 8]);
const WINDOW: u64 = 8 << 10;
const BEGINNING_LSNS: u64 = 10;

fn life(number: u8) -> IncarnationId {
    IncarnationId([number; 16])
}

fn disk() -> DiskInfo {
    DiskInfo { disk: DiskNo(0), name: "disk".into(), size_bytes: 1 << 20, sector_bytes: 512 }
}

fn hello(number: u8, first_lsn: u64) -> Hello {
    Hello {
        version: 1,
        machine: MACHINE,
        timeline: TIMELINE,
        incarnation: life(number),
        lineage: Vec::new(),
        trusted: true,
        reset: None,
        epoch_known: Epoch::ZERO,
        first_lsn: Lsn(first_lsn),
        data_key: HelloKey::new([0; 32]),
        agent: "test".into(),
        disks: vec![disk()],
    }
}

/// A batch of `lsns` LSNs with one write of `bytes` bytes that names its LSN.
fn batch(first: u64, lsns: u64, bytes: usize) -> Batch {
    let data = Bytes::from(vec![first as u8; bytes]);
    let sums = digests(&DigestKey::new([0; 32]), 0, &data);
    let mut builder = SectionBuilder::default();
    builder.data(Lsn(first), 0, data, &sums);
    let last = Lsn(first + lsns - 1);
    Batch { first: Lsn(first), last, sections: vec![(DiskNo(0), builder.finish())], records: Vec::new() }
}

fn beginning(hello: &Hello, log: &LogState) -> Batch {
    let first = hello.first_lsn;
    let mut records = vec![Record::Incarnation { id: hello.incarnation, predecessor: log.incarnation }];
    records.push(match log.disks.get(&DiskNo(0)) {
        None => Record::DiskAdded(disk()),
        Some(_) => Record::GapOpened { disk: DiskNo(0), from: log.last_lsn.next(), reason: GapReason::UncleanStop },
    });
    let records = (first.0..).zip(records).map(|(lsn, record)| RecordAt { lsn: Lsn(lsn), record }).collect();
    Batch { first, last: Lsn(first.0 + BEGINNING_LSNS - 1), sections: Vec::new(), records }
}

#[derive(Default)]
struct Owner {
    epoch: u64,
    /// State behind each accepted batch, and the batch.
    log: Vec<(LogState, Batch)>,
    durable: usize,
    committed: usize,
    sessions: u64,
}

impl Owner {
    fn state(&self, count: usize) -> LogState {
        count.checked_sub(1).map(|index| self.log[index].0.clone()).unwrap_or_default()
    }

    fn lsn(&self, count: usize) -> Lsn {
        self.state(count).last_lsn
    }

    fn open(&mut self) -> OpenLog {
        self.sessions += 1;
        OpenLog {
            timeline: TIMELINE,
            epoch: Epoch(self.epoch),
            session: self.sessions,
            log: self.state(self.log.len()),
            durable: self.lsn(self.durable),
            committed: self.lsn(self.committed),
            window_bytes: WINDOW,
        }
    }

    fn accept(&mut self, batch: Batch) {
        let mut state = self.state(self.log.len());
        state.follows(&batch).expect("an accepted batch follows the log");
        self.log.push((state, batch));
    }
}

/// An agent end and a server end that have shaken hands over an empty log; the beginning is accepted and durable.
fn in_session(window_bytes: u64) -> (AgentEnd, ServerEnd) {
    let mut agent = AgentEnd::new(hello(1, 1), Lsn::ZERO);
    let mut server = ServerEnd::new(MACHINE, Duration::ZERO);
    agent.connected(Duration::ZERO);
    server.received(agent.poll_send().unwrap(), Duration::ZERO);
    let mut owner = Owner { epoch: 1, ..Owner::default() };
    let effects = server.open(OpenLog { window_bytes, ..owner.open() });
    tell(&mut agent, effects);
    agent.open_with(beginning(agent.hello(), &LogState::default()));
    pass(&mut agent, &mut server);
    let effects = server.durable(Lsn(BEGINNING_LSNS));
    tell(&mut agent, effects);
    (agent, server)
}

fn tell(agent: &mut AgentEnd, effects: Vec<ServerEffect>) -> Vec<AgentEvent> {
    let messages = effects.into_iter().filter_map(|effect| match effect {
        ServerEffect::Send(message) => Some(message),
        _ => None,
    });
    messages.flat_map(|message| agent.received(message, Duration::ZERO)).collect()
}

/// Sends whatever the agent may send; what the server gives out.
fn pass(agent: &mut AgentEnd, server: &mut ServerEnd) -> Vec<ServerEffect> {
    let mut effects = Vec::new();
    while let Some(message) = agent.poll_send() {
        effects.extend(server.received(message, Duration::ZERO));
    }
    effects
}

fn refusal_of(hello: Hello, log: LogState, epoch: u64) -> Option<RefusalCode> {
    let mut server = ServerEnd::new(MACHINE, Duration::ZERO);
    let mut effects = server.received(AgentMessage::Hello(Box::new(hello)), Duration::ZERO);
    if matches!(effects[..], [ServerEffect::Introduced(_)]) {
        let mut owner = Owner { epoch, ..Owner::default() };
        effects = server.open(OpenLog { durable: log.last_lsn, committed: log.last_lsn, log, ..owner.open() });
    }
    effects.into_iter().find_map(|effect| match effect {
        ServerEffect::Send(ServerMessage::Refused(refusal)) => Some(refusal.code),
        _ => None,
    })
}

fn log_of(number: u8, last: u64) -> LogState {
    LogState { last_lsn: Lsn(last), incarnation: Some(life(number)), ..LogState::default() }
}

#[test]
fn only_a_life_that_the_logs_last_one_leads_to_is_welcomed() {
    let log = || log_of(1, 50);
    let heir = |lineage: Vec<IncarnationId>| Hello { lineage, ..hello(2, 100) };
    let reset =
        |number| Some(super::message::Reset { log_incarnation: life(number), reason: GapReason::ActivityLogLost });
    assert_eq!(refusal_of(hello(2, 1), LogState::default(), 1), None, "an empty log takes any life");
    assert_eq!(refusal_of(hello(1, 1), log(), 1), None, "the same life comes back");
    assert_eq!(refusal_of(heir(vec![life(9), life(1)]), log(), 1), None, "a follower");
    assert_eq!(refusal_of(heir(vec![life(9)]), log(), 1), Some(RefusalCode::IncarnationUnknown), "a clone");
    assert_eq!(refusal_of(heir(Vec::new()), log(), 1), Some(RefusalCode::IncarnationUnknown), "lost state");
    assert_eq!(
        refusal_of(Hello { reset: reset(1), ..heir(Vec::new()) }, log(), 1),
        None,
        "a reset of exactly that life"
    );
    let other = Hello { reset: reset(7), ..heir(Vec::new()) };
    assert_eq!(refusal_of(other, log(), 1), Some(RefusalCode::IncarnationUnknown), "a reset of another life");
    let behind = Hello { first_lsn: Lsn(50), ..heir(vec![life(1)]) };
    assert_eq!(refusal_of(behind, log(), 1), Some(RefusalCode::LsnTaken), "an LSN that the log has");
}

#[test]
fn a_hello_from_elsewhere_is_refused_with_its_code() {
    let ask = |hello| refusal_of(hello, LogState::default(), 3);
    let other_machine = Hello { machine: MachineId([9; 16]), ..hello(1, 1) };
    assert_eq!(ask(other_machine), Some(RefusalCode::WrongMachine));
    assert_eq!(ask(Hello { timeline: TimelineId([9; 8]), ..hello(1, 1) }), Some(RefusalCode::WrongTimeline));
    assert_eq!(ask(Hello { epoch_known: Epoch(4), ..hello(1, 1) }), Some(RefusalCode::NotOwner));
    assert_eq!(ask(Hello { version: 2, ..hello(1, 1) }), Some(RefusalCode::VersionUnknown));
    assert_eq!(ask(Hello { first_lsn: Lsn::ZERO, ..hello(1, 1) }), Some(RefusalCode::Malformed));
    assert_eq!(ask(hello(1, 1)), None);
}

#[test]
fn the_same_life_replaces_its_old_connection_and_any_other_life_waits() {
    use super::server_end::{Rival, rival};
    assert_eq!(rival(life(1), &hello(1, 1)), Rival::Replace);
    let heir = Hello { lineage: vec![life(1)], ..hello(2, 100) };
    assert_eq!(rival(life(1), &heir), Rival::Refuse);
}

/// What an agent that has seen LSN `committed` committed in epoch 1 makes of a welcome.
fn events_of(epoch: u64, committed: u64, log: LogState) -> Vec<AgentEvent> {
    let mut agent = AgentEnd::new(Hello { epoch_known: Epoch(1), ..hello(2, 100) }, Lsn(50));
    agent.connected(Duration::ZERO);
    agent.received(
        ServerMessage::Welcome(Box::new(Welcome {
            epoch: Epoch(epoch),
            session: 1,
            committed: Lsn(committed),
            durable: log.last_lsn,
            credit_bytes: WINDOW,
            log,
        })),
        Duration::ZERO,
    )
}

#[test]
fn a_log_that_is_shorter_than_what_was_committed_raises_an_alarm_and_gets_nothing() {
    let alarm = |events: &[AgentEvent]| match events {
        [AgentEvent::Alarm(alarm), AgentEvent::Disconnect(_)] => Some(*alarm),
        _ => None,
    };
    let shorter = Some(Alarm::ShorterLog { committed: Lsn(50), found: Lsn(49) });
    assert_eq!(alarm(&events_of(2, 49, log_of(1, 49))), shorter, "a new owner knows only what is committed");
    assert_eq!(alarm(&events_of(2, 49, log_of(1, 60))), shorter, "what it has cached does not count");
    assert_eq!(alarm(&events_of(1, 49, log_of(1, 49))), shorter);
    assert_eq!(alarm(&events_of(1, 40, log_of(1, 60))), None, "the same owner, restarted, is still uploading");
    assert_eq!(alarm(&events_of(2, 50, log_of(1, 50))), None);
}

#[test]
fn a_log_with_lsns_that_were_never_given_raises_an_alarm() {
    let longer = Alarm::LongerLog { written: Lsn(99), found: Lsn(100) };
    assert_eq!(events_of(1, 50, log_of(1, 100))[0], AgentEvent::Alarm(longer), "another life behind our first LSN");
    let longer = Alarm::LongerLog { written: Lsn::ZERO, found: Lsn(120) };
    assert_eq!(events_of(1, 50, log_of(2, 120))[0], AgentEvent::Alarm(longer), "our own life, from a clone");
}

#[test]
fn an_agent_never_goes_to_a_lower_epoch() {
    let welcome = events_of(0, 50, log_of(1, 50));
    assert!(matches!(welcome[..], [AgentEvent::Disconnect(_)]), "{welcome:?}");
    let (mut agent, mut server) = in_session(WINDOW);
    let effects = server.redirect(Redirect { addresses: vec!["b:9443".into()], epoch: Epoch(5) });
    let events = tell(&mut agent, effects);
    assert!(matches!(events[..], [AgentEvent::Redirected(_), AgentEvent::Disconnect(_)]), "{events:?}");
    assert_eq!(agent.epoch_known(), Epoch(5), "the old owner is not asked again");
}

#[test]
fn a_silent_peer_is_pinged_after_five_seconds_and_dead_after_fifteen() {
    let (mut agent, mut server) = in_session(WINDOW);
    let at = Duration::from_millis;
    assert_eq!(agent.next_tick(), Some(at(5000)));
    assert!(agent.tick(at(4999)).is_empty() && agent.poll_send().is_none());
    assert!(agent.tick(at(5000)).is_empty());
    assert_eq!(agent.poll_send(), Some(AgentMessage::Ping));
    assert_eq!(server.received(AgentMessage::Ping, at(5000)), [ServerEffect::Send(ServerMessage::Pong)]);
    assert!(agent.tick(at(14_999)).is_empty());
    assert!(matches!(agent.tick(at(15_000))[..], [AgentEvent::Disconnect(_)]));
    assert!(matches!(agent.poll_send(), Some(AgentMessage::Ping | AgentMessage::Bye { .. })));
    assert!(server.tick(at(19_999)).is_empty());
    assert!(matches!(server.tick(at(20_000))[..], [ServerEffect::Send(_), ServerEffect::Close(_)]));
    assert!(server.tick(at(30_000)).is_empty(), "once");
}

#[test]
fn an_agent_that_only_listens_is_not_taken_for_dead() {
    let (mut agent, mut server) = in_session(WINDOW);
    for second in 1..60 {
        let now = Duration::from_secs(second);
        assert!(agent.tick(now).is_empty() && server.tick(now).is_empty(), "second {second}");
        let asked = super::message::MarkRequest {
            id: Default::default(),
            kind: crate::record::MarkKind::Crash,
            label: String::new(),
        };
        agent.received(ServerMessage::MarkNow(asked), now);
        while let Some(message) = agent.poll_send() {
            server.received(message, now);
        }
    }
}

#[test]
fn a_window_of_zero_stops_the_agent_and_a_wider_one_lets_it_go_on() {
    let (mut agent, mut server) = in_session(4 << 10);
    let accepted =
        |effects: &[ServerEffect]| effects.iter().filter(|effect| matches!(effect, ServerEffect::Accept(_))).count();
    (0..64).for_each(|n| agent.push(batch(BEGINNING_LSNS + 1 + n, 1, 512)));
    let first = pass(&mut agent, &mut server);
    assert!((1..=8).contains(&accepted(&first)), "{}", accepted(&first));
    server.set_window(0);
    let effects = server.durable(Lsn(BEGINNING_LSNS + accepted(&first) as u64));
    tell(&mut agent, effects);
    assert_eq!(accepted(&pass(&mut agent, &mut server)), 0);
    let effects = server.set_window(1 << 20);
    tell(&mut agent, effects);
    assert_eq!(accepted(&pass(&mut agent, &mut server)), 64 - accepted(&first));
}

#[test]
fn a_batch_larger_than_the_whole_window_still_travels() {
    let (mut agent, mut server) = in_session(1 << 10);
    agent.push(batch(BEGINNING_LSNS + 1, 1, 64 << 10));
    agent.push(batch(BEGINNING_LSNS + 2, 1, 64 << 10));
    assert!(matches!(pass(&mut agent, &mut server)[..], [ServerEffect::Accept(_)]), "one at a time");
    let effects = server.durable(Lsn(BEGINNING_LSNS + 1));
    tell(&mut agent, effects);
    assert!(matches!(pass(&mut agent, &mut server)[..], [ServerEffect::Accept(_)]), "and the next");
}

#[test]
fn a_batch_without_credit_ends_the_session() {
    let (_, mut server) = in_session(1);
    let send = |server: &mut ServerEnd, n| {
        server.received(AgentMessage::Batch(batch(BEGINNING_LSNS + n, 1, 512)), Duration::ZERO)
    };
    assert!(matches!(send(&mut server, 1)[..], [ServerEffect::Accept(_)]));
    assert!(matches!(send(&mut server, 2)[..], [ServerEffect::Send(_), ServerEffect::Close(_)]));
}

#[test]
fn idle_is_said_once_everything_before_it_is_sent_and_not_if_more_was_written() {
    let (mut agent, mut server) = in_session(1 << 20);
    agent.push(batch(BEGINNING_LSNS + 1, 1, 512));
    agent.idle(Timestamp(5));
    let effects = pass(&mut agent, &mut server);
    let lsn = Lsn(BEGINNING_LSNS + 1);
    assert!(matches!(&effects[..], [ServerEffect::Accept(_), ServerEffect::Idle { lsn: at, .. }] if *at == lsn));
    agent.idle(Timestamp(6));
    agent.push(batch(BEGINNING_LSNS + 2, 1, 512));
    assert!(matches!(pass(&mut agent, &mut server)[..], [ServerEffect::Accept(_)]));
}

#[test]
fn a_part_is_asked_for_once_the_beginning_is_committed_and_answered_in_order() {
    use crate::protocol::compare::{COMPARES_MAX, Digests, Part};
    let (mut agent, mut server) = in_session(1 << 20);
    assert!(!agent.may_compare(), "what came before this life may be in no vault yet");
    let effects = server.committed(Lsn(BEGINNING_LSNS));
    tell(&mut agent, effects);
    let parts: Vec<Part> =
        (0..).map(|n| Part { disk: DiskNo(0), offset: n << 20, len: 1 << 20 }).take(COMPARES_MAX).collect();
    parts.iter().for_each(|part| agent.compare(*part));
    assert!(!agent.may_compare(), "so many may wait");
    let asked = pass(&mut agent, &mut server);
    let at = Lsn(1);
    assert!(asked.iter().zip(&parts).all(|(effect, part)| *effect == ServerEffect::Compare { part: *part, at }));
    assert_eq!(asked.len(), COMPARES_MAX);
    for part in &parts {
        let digests = Digests::unknown(*part);
        let effects = server.digests(digests.clone());
        assert_eq!(tell(&mut agent, effects), [AgentEvent::Digests(digests)]);
    }
    assert!(agent.may_compare());
    let unasked = ServerMessage::Digests(Box::new(Digests::unknown(parts[0])));
    assert!(matches!(agent.received(unasked, Duration::ZERO)[..], [AgentEvent::Disconnect(_)]));

    let (_, mut server) = in_session(1 << 20);
    for n in 0..=COMPARES_MAX {
        let effects = server.received(AgentMessage::Compare(parts[0]), Duration::ZERO);
        assert_eq!(server.is_open(), n < COMPARES_MAX, "a question too many ends the session: {effects:?}");
    }
}

#[test]
fn writes_past_the_disk_or_to_no_disk_end_the_session_and_reach_no_log() {
    let hostile: [fn(&mut Batch); 5] = [
        |batch| batch.sections[0].0 = DiskNo(9),
        |batch| batch.sections.push(batch.sections[0].clone()),
        |batch| batch.sections[0].1 = Bytes::from_static(b"no section"),
        |batch| batch.last = Lsn(batch.last.0 - 1),
        |batch| {
            let data = Bytes::from(vec![1; 512]);
            let mut builder = SectionBuilder::default();
            builder.data(batch.first, disk().size_bytes, data.clone(), &digests(&DigestKey::new([0; 32]), 0, &data));
            batch.sections[0].1 = builder.finish();
        },
    ];
    for (index, spoil) in hostile.iter().enumerate() {
        let (_, mut server) = in_session(1 << 20);
        let mut bad = batch(BEGINNING_LSNS + 1, 2, 512);
        spoil(&mut bad);
        if index == 3 {
            // Its write has LSN first + 1, beyond the run.
            let data = Bytes::from(vec![1; 512]);
            let mut builder = SectionBuilder::default();
            builder.data(bad.first.next(), 0, data.clone(), &digests(&DigestKey::new([0; 32]), 0, &data));
            bad.sections[0].1 = builder.finish();
        }
        let effects = server.received(AgentMessage::Batch(bad), Duration::ZERO);
        assert!(matches!(effects[..], [ServerEffect::Send(_), ServerEffect::Close(_)]), "{index}: {effects:?}");
    }
}
