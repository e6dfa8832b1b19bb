//! Both ends against a model log: lost connections, crashes of either side, moves, and what must hold through them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::protocol::Accepted;
use crate::protocol::codec::batch_cost_bytes;
use crate::protocol::message::Refusal;

struct World {
    now: Duration,
    owner: Owner,
    agent: AgentEnd,
    lives: u8,
    lineage: Vec<IncarnationId>,
    next_lsn: u64,
    /// Everything that the living agent has pushed, by first LSN.
    pushed: BTreeMap<u64, Batch>,
    server: Option<ServerEnd>,
    to_server: VecDeque<AgentMessage>,
    to_agent: VecDeque<ServerMessage>,
    stale: Vec<ServerMessage>,
    largest_cost: u64,
    committed_seen: Lsn,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            owner: Owner { epoch: 1, ..Owner::default() },
            agent: AgentEnd::new(hello(1, 1), Lsn::ZERO),
            lives: 1,
            lineage: vec![life(1)],
            next_lsn: 1 + BEGINNING_LSNS,
            pushed: BTreeMap::new(),
            server: None,
            to_server: VecDeque::new(),
            to_agent: VecDeque::new(),
            stale: Vec::new(),
            largest_cost: 0,
            committed_seen: Lsn::ZERO,
        };
        world.connect();
        world
    }

    fn push(&mut self, size: u16) {
        let lsns = 1 + u64::from(size % 3);
        let batch = batch(self.next_lsn, lsns, 512 * (1 + usize::from(size % 24)));
        self.next_lsn += lsns;
        self.largest_cost = self.largest_cost.max(batch_cost_bytes(&batch));
        self.pushed.insert(batch.first.0, batch.clone());
        self.agent.push(batch);
    }

    fn connect(&mut self) {
        self.cut();
        self.agent.connected(self.now);
        self.server = Some(ServerEnd::new(MACHINE, self.now));
    }

    /// The connection breaks; whatever is on its way is lost, and some of it haunts later.
    fn cut(&mut self) {
        self.agent.disconnected(self.now);
        self.server = None;
        self.to_server.clear();
        self.stale.extend(self.to_agent.drain(..));
        self.stale.truncate(32);
    }

    fn agent_sends(&mut self) {
        if let Some(message) = self.agent.poll_send() {
            self.to_server.push_back(message);
        }
    }

    fn server_receives(&mut self) {
        let Some(message) = self.to_server.pop_front() else { return };
        let Some(server) = &mut self.server else { return };
        let effects = server.received(message, self.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<ServerEffect>) {
        for effect in effects {
            match effect {
                ServerEffect::Introduced(_) => {
                    let found = self.owner.open();
                    let effects = self.server.as_mut().expect("it has just spoken").open(found);
                    self.perform(effects);
                }
                ServerEffect::Accept(batch) => {
                    if let Some(sent) = self.pushed.get(&batch.first.0) {
                        assert_eq!(sent, &batch, "the batch is the one that was pushed");
                    }
                    self.owner.accept(batch);
                    let bound = WINDOW + self.largest_cost;
                    let held = self.server.as_ref().map_or(0, ServerEnd::in_flight_bytes);
                    assert!(held <= bound, "{held} bytes are given out and not durable, the bound is {bound}"); // I10
                }
                ServerEffect::Compare { .. } => panic!("nobody asked"),
                ServerEffect::Idle { lsn, .. } => assert_eq!(lsn, self.owner.lsn(self.owner.log.len())),
                ServerEffect::Send(ServerMessage::Refused(refusal)) => panic!("refused: {}", refusal.text),
                ServerEffect::Send(ServerMessage::Bye { reason }) => panic!("thrown out: {reason}"),
                ServerEffect::Send(message) => self.to_agent.push_back(message),
                ServerEffect::Close(_) => self.server = None,
            }
        }
    }

    fn agent_receives(&mut self) {
        if let Some(message) = self.to_agent.pop_front() {
            self.agent_hears(message);
        }
    }

    fn agent_hears(&mut self, message: ServerMessage) {
        for event in self.agent.received(message, self.now) {
            match event {
                AgentEvent::Accepted(Accepted { welcome, opening_due: true }) => {
                    self.agent.open_with(beginning(self.agent.hello(), &welcome.log));
                }
                AgentEvent::Committed(lsn) => {
                    assert!(lsn <= self.owner.lsn(self.owner.committed), "committed means in the vault"); // I3
                    assert!(lsn > self.committed_seen, "committed rises");
                    self.committed_seen = lsn;
                }
                AgentEvent::BeginningCommitted => self.lineage = vec![life(self.lives)],
                AgentEvent::Durable(_) | AgentEvent::Accepted(_) | AgentEvent::Redirected(_) => {}
                AgentEvent::Disconnect(reason) => assert!(reason.contains("redirect"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn sync(&mut self, back: usize) {
        let accepted = self.owner.log.len();
        self.owner.durable = accepted - back % (accepted - self.owner.durable + 1);
        let lsn = self.owner.lsn(self.owner.durable);
        let effects = self.server.as_mut().map(|server| server.durable(lsn)).unwrap_or_default();
        self.perform(effects);
    }

    fn commit(&mut self, back: usize) {
        self.owner.committed = self.owner.durable - back % (self.owner.durable - self.owner.committed + 1);
        let lsn = self.owner.lsn(self.owner.committed);
        let effects = self.server.as_mut().map(|server| server.committed(lsn)).unwrap_or_default();
        self.perform(effects);
    }

    /// The process server dies and comes back with its disk.
    fn server_restarts(&mut self) {
        self.owner.log.truncate(self.owner.durable);
        self.cut();
    }

    /// Another process server takes over with nothing but the vault.
    fn move_away(&mut self, announced: bool) {
        let epoch = self.owner.epoch + 1;
        if announced && let Some(server) = &mut self.server {
            let redirect = Redirect { addresses: vec!["other:9443".into()], epoch: Epoch(epoch) };
            let effects = server.redirect(redirect);
            self.perform(effects);
            while !self.to_agent.is_empty() {
                self.agent_receives();
            }
        }
        self.cut();
        let kept = self.owner.log[..self.owner.committed].to_vec();
        self.owner = Owner { epoch, durable: kept.len(), committed: kept.len(), log: kept, sessions: 0 };
    }

    /// The agent dies; its next life knows what the old one had written down.
    fn agent_restarts(&mut self) {
        self.cut();
        self.lives += 1;
        let first = (self.next_lsn / 1000 + 1) * 1000;
        let mut hello = hello(self.lives, first);
        hello.lineage = self.lineage.clone();
        hello.epoch_known = self.agent.epoch_known();
        self.lineage.push(life(self.lives));
        self.next_lsn = first + BEGINNING_LSNS;
        self.pushed.clear();
        self.agent = AgentEnd::new(hello, self.agent.committed());
    }

    fn step(&mut self, what: u8, how: u16) {
        match what {
            0..=19 => self.push(how),
            20..=39 => (0..=how % 8).for_each(|_| self.agent_sends()),
            40..=59 => (0..=how % 8).for_each(|_| self.server_receives()),
            60..=79 => (0..=how % 8).for_each(|_| self.agent_receives()),
            80..=85 => self.sync(usize::from(how)),
            86..=89 => self.commit(usize::from(how)),
            90 => self.connect(),
            91 => self.server_restarts(),
            92 => self.move_away(how.is_multiple_of(2)),
            93 if how.is_multiple_of(2) && self.lives < 50 => self.agent_restarts(),
            94 => self.agent.idle(Timestamp(i64::from(how))),
            95 => {
                self.now += Duration::from_millis(u64::from(how) % 3000);
                let events = self.agent.tick(self.now);
                assert!(events.iter().all(|event| matches!(event, AgentEvent::Disconnect(_))), "{events:?}");
            }
            // An acknowledgement of an old session turns up.
            96..=97 => {
                let acks = |message: &ServerMessage| {
                    matches!(message, ServerMessage::Durable { .. } | ServerMessage::Committed { .. })
                };
                if let Some(ack) = self.stale.pop().filter(acks)
                    && self.agent.is_open()
                {
                    let before = (self.agent.durable(), self.agent.committed());
                    self.agent_hears(ack);
                    assert_eq!(before, (self.agent.durable(), self.agent.committed()), "stale acks change nothing");
                }
            }
            _ => {}
        }
    }

    /// Everything works again: what the living agent holds arrives, in order, once.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..10_000 {
            self.agent_sends();
            self.server_receives();
            self.agent_receives();
            if self.to_server.is_empty() && self.to_agent.is_empty() {
                self.sync(0);
                self.commit(0);
                if self.to_agent.is_empty() && self.agent.is_drained() {
                    break;
                }
            }
        }
        assert!(self.agent.is_drained(), "{} bytes are never committed", self.agent.held_bytes());
        assert_eq!(self.agent.held_bytes(), 0);
        let mut arrived = self.owner.log.iter().map(|(_, batch)| batch);
        for (first, pushed) in &self.pushed {
            // In order and once: the iterator never goes back.
            let found = arrived.find(|batch| batch.first.0 == *first);
            assert_eq!(found, Some(pushed), "what was pushed at {first} is in the log"); // I3
        }
        assert_eq!(self.owner.state(self.owner.log.len()).incarnation, Some(life(self.lives)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_through_lost_connections_crashes_and_moves(
        steps in proptest::collection::vec((0_u8..98, any::<u16>()), 0..600)
    ) {
        let mut world = World::new();
        for (what, how) in steps {
            world.step(what, how);
        }
        world.settle();
    }

    #[test]
    fn no_sequence_of_an_agents_messages_makes_a_server_panic_or_accept_out_of_order(
        script in proptest::collection::vec((0_u8..8, 0_u64..40, 1_u64..5, any::<bool>()), 0..60)
    ) {
        let mut server = ServerEnd::new(MACHINE, Duration::ZERO);
        let mut owner = Owner { epoch: 3, ..Owner::default() };
        let own = hello(1, 1);
        for (what, at, length, valid) in script {
            let message = match what {
                0 => AgentMessage::Hello(Box::new(if valid { own.clone() } else { hello(at as u8, at) })),
                1 => AgentMessage::Ping,
                2 => AgentMessage::Idle { lsn: Lsn(at), at: Timestamp(0) },
                3 => AgentMessage::Bye { reason: String::new() },
                4 => AgentMessage::Batch(beginning(&own, &LogState::default())),
                _ => {
                    let mut batch = batch(at.max(1), length, 512);
                    if !valid {
                        let hostile = Record::GapClosed { disk: DiskNo(at as u16) };
                        batch.records.push(RecordAt { lsn: Lsn(at + length - 1), record: hostile });
                        batch.sections[0].0 = DiskNo(length as u16);
                    }
                    AgentMessage::Batch(batch)
                }
            };
            for effect in server.received(message, Duration::ZERO) {
                match effect {
                    ServerEffect::Introduced(_) => { server.open(owner.open()); }
                    ServerEffect::Accept(batch) => owner.accept(batch),
                    _ => {}
                }
            }
            prop_assert!(server.in_flight_bytes() <= WINDOW + 4096);
        }
    }

    #[test]
    fn no_sequence_of_a_servers_messages_makes_an_agent_panic_or_let_go_of_what_is_not_committed(
        script in proptest::collection::vec((0_u8..9, 0_u64..60, 0_u64..3), 0..60)
    ) {
        let mut agent = AgentEnd::new(hello(1, 1), Lsn::ZERO);
        let mut log = LogState::default();
        agent.connected(Duration::ZERO);
        let mut next = 1 + BEGINNING_LSNS;
        for (what, lsn, session) in script {
            let (epoch, lsn) = (Epoch(session), Lsn(lsn));
            let message = match what {
                0 => {
                    log.last_lsn = lsn;
                    log.incarnation = (session > 0).then(|| life(session as u8));
                    ServerMessage::Welcome(Box::new(Welcome {
                        epoch, session, committed: lsn, durable: lsn, credit_bytes: lsn.0 * 100, log: log.clone(),
                    }))
                }
                1 => ServerMessage::Durable { epoch, session, lsn },
                2 => ServerMessage::Committed { epoch, session, lsn },
                3 => ServerMessage::Credit { bytes: u64::MAX },
                4 => ServerMessage::Redirect(Redirect { addresses: Vec::new(), epoch }),
                5 => ServerMessage::Bye { reason: String::new() },
                6 => ServerMessage::Refused(Box::new(Refusal::new(RefusalCode::NotOwner, ""))),
                7 => {
                    agent.push(batch(next, 1, 512));
                    next += 1;
                    ServerMessage::Pong
                }
                _ => {
                    agent.disconnected(Duration::ZERO);
                    agent.connected(Duration::ZERO);
                    ServerMessage::Pong
                }
            };
            for event in agent.received(message, Duration::ZERO) {
                if let AgentEvent::Accepted(Accepted { welcome, opening_due: true }) = event {
                    agent.open_with(beginning(agent.hello(), &welcome.log));
                }
            }
            while agent.poll_send().is_some() {}
        }
    }
}
