//! An agent without disks: it makes writes up, remembers what they make of its disks, and speaks the real protocol.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_actors::supervise::{OsChance, wall_clock};
use farshore_engine::batch::Batch;
use farshore_engine::digest::{DigestKey, digests};
use farshore_engine::ids::{DiskNo, Epoch, IncarnationId, Lsn, MarkId};
use farshore_engine::protocol::message::PROTOCOL_VERSION;
use farshore_engine::protocol::{AgentEnd, AgentEvent, Hello, HelloKey, Refusal, ServerMessage};
use farshore_engine::record::{DiskInfo, Mark, MarkKind, Record, RecordAt};
use farshore_engine::section::{SectionBuilder, WriteKind};
use farshore_engine::transport::framed::framed;
use farshore_engine::transport::identity::{CertificateAuthority, Role};
use farshore_engine::transport::tls::{Peers, SharedIdentity, Trust, client_config, connect};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{TIMELINE, key, machine, until};

/// What an agent holds before it writes no more: its own budget.
const HELD_BYTES_MAX: usize = 16 << 20;

/// What the disks held at a mark.
#[derive(Clone)]
pub struct Taken {
    pub id: MarkId,
    pub lsn: Lsn,
    pub disks: BTreeMap<DiskNo, Vec<u8>>,
}

/// When an acknowledgement came, and of what.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub at: Instant,
    pub durable: Lsn,
}

struct State {
    end: AgentEnd,
    address: SocketAddr,
    opening: Option<Batch>,
    next: Lsn,
    disks: BTreeMap<DiskNo, Vec<u8>>,
    infos: Vec<DiskInfo>,
    taken: Vec<Taken>,
    acks: Vec<Ack>,
    refusals: Vec<Refusal>,
    sessions: usize,
    redirects: usize,
    digests: DigestKey,
    rng: SmallRng,
    trouble: Vec<String>,
}

/// The agent; dropped, its connection is cut.
pub struct Agent {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Agent {
    pub fn start(authority: &CertificateAuthority, address: SocketAddr, n: u8, disk_bytes: &[u64]) -> Self {
        Self::start_with_key(authority, address, n, disk_bytes, *key(n).as_bytes())
    }

    pub fn start_with_key(
        authority: &CertificateAuthority,
        address: SocketAddr,
        n: u8,
        disk_bytes: &[u64],
        data_key: [u8; 32],
    ) -> Self {
        let identity = authority.issue(Role::Machine(machine(n)), &[], wall_clock(), 7).unwrap();
        let trust = Trust::Authority(authority.certificate().clone());
        let shared = SharedIdentity::new(&identity).unwrap();
        let tls = client_config(Some(&shared), trust, Peers::AnyProcessServer).unwrap();
        let infos: Vec<DiskInfo> = disk_bytes.iter().enumerate().map(|(disk, bytes)| info(disk, *bytes)).collect();
        let hello = Hello {
            version: PROTOCOL_VERSION,
            machine: machine(n),
            timeline: TIMELINE,
            incarnation: IncarnationId::draw(&mut OsChance),
            lineage: Vec::new(),
            trusted: true,
            reset: None,
            epoch_known: Epoch::ZERO,
            first_lsn: Lsn(1),
            data_key: HelloKey::new(data_key),
            agent: "test".into(),
            disks: infos.clone(),
        };
        let opening = opening(&hello, &infos);
        let state = State {
            end: AgentEnd::new(hello, Lsn::ZERO),
            address,
            next: opening.last.next(),
            opening: Some(opening),
            disks: infos.iter().map(|info| (info.disk, vec![0; info.size_bytes as usize])).collect(),
            infos,
            taken: Vec::new(),
            acks: Vec::new(),
            refusals: Vec::new(),
            sessions: 0,
            redirects: 0,
            digests: key(n).digest_key(),
            rng: SmallRng::seed_from_u64(n.into()),
            trouble: Vec::new(),
        };
        let (state, wake) = (Arc::new(Mutex::new(state)), Arc::new(Notify::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(run(state.clone(), wake.clone(), tls));
        Self { state, wake, _tasks: tasks }
    }

    /// Writes at random places of random disks, as one batch; gives its last LSN.
    pub fn write(&self, writes: usize) -> Lsn {
        let mut state = self.state.lock();
        let batch = state.make_writes(writes);
        let last = batch.last;
        state.end.push(batch);
        self.wake.notify_one();
        last
    }

    /// Takes a mark, as a batch of its own; gives its LSN.
    pub fn mark(&self, kind: MarkKind) -> Lsn {
        let mut state = self.state.lock();
        let lsn = state.take_mark(MarkId::draw(&mut OsChance), kind, "");
        self.wake.notify_one();
        lsn
    }

    pub fn say_idle(&self) {
        self.state.lock().end.idle(wall_clock());
        self.wake.notify_one();
    }

    pub fn connect_to(&self, address: SocketAddr) {
        self.state.lock().address = address;
    }

    pub fn durable(&self) -> Lsn {
        self.state.lock().end.durable()
    }

    pub fn committed(&self) -> Lsn {
        self.state.lock().end.committed()
    }

    pub fn held_bytes(&self) -> usize {
        self.state.lock().end.held_bytes()
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.state.lock().taken.clone()
    }

    pub fn acks(&self) -> Vec<Ack> {
        self.state.lock().acks.clone()
    }

    pub fn sessions(&self) -> usize {
        self.state.lock().sessions
    }

    pub fn redirects(&self) -> usize {
        self.state.lock().redirects
    }

    pub fn refusals(&self) -> Vec<Refusal> {
        self.state.lock().refusals.clone()
    }

    pub fn trouble(&self) -> Vec<String> {
        self.state.lock().trouble.clone()
    }

    pub async fn wait_durable(&self, lsn: Lsn) {
        until(&format!("LSN {lsn} is durable ({:?})", self.trouble()), async || self.durable() >= lsn).await;
    }

    pub async fn wait_committed(&self, lsn: Lsn) {
        until(&format!("LSN {lsn} is committed"), async || self.committed() >= lsn).await;
    }

    /// Writes and marks until `enough` says so; the window of what is under way stays small.
    pub async fn load(&self, enough: impl Fn(&Self) -> bool) -> Lsn {
        let mut last = Lsn::ZERO;
        let mut batches = 0;
        let began = Instant::now();
        while !enough(self) {
            assert!(began.elapsed() < 4 * super::PATIENCE, "the load never ends: {:?}", self.trouble());
            tokio::time::sleep(Duration::from_millis(2)).await;
            if self.held_bytes() > HELD_BYTES_MAX {
                continue;
            }
            last = self.write(4);
            batches += 1;
            if batches % 10 == 0 {
                last = self.mark(MarkKind::Crash);
            }
        }
        last
    }
}

fn info(disk: usize, size_bytes: u64) -> DiskInfo {
    DiskInfo { disk: DiskNo(disk as u16), name: format!("disk {disk}"), size_bytes, sector_bytes: 512 }
}

/// The life begins with its disks, which are all zeroes and so in order at once.
fn opening(hello: &Hello, infos: &[DiskInfo]) -> Batch {
    let mut records = vec![Record::Incarnation { id: hello.incarnation, predecessor: None }];
    records.extend(infos.iter().cloned().map(Record::DiskAdded));
    records.extend(infos.iter().map(|info| Record::GapClosed { disk: info.disk }));
    let records: Vec<RecordAt> =
        records.into_iter().zip(1..).map(|(record, lsn)| RecordAt { lsn: Lsn(lsn), record }).collect();
    Batch { first: Lsn(1), last: Lsn(records.len() as u64), sections: Vec::new(), records }
}

impl State {
    fn take_lsn(&mut self) -> Lsn {
        let lsn = self.next;
        self.next = lsn.next();
        lsn
    }

    fn make_writes(&mut self, writes: usize) -> Batch {
        let first = self.next;
        let mut sections: BTreeMap<DiskNo, SectionBuilder> = BTreeMap::new();
        for _ in 0..writes {
            let lsn = self.take_lsn();
            let disk = DiskNo(self.rng.random_range(0..self.infos.len()) as u16);
            let held = self.disks.get_mut(&disk).unwrap();
            let sectors = held.len() / 512;
            let len = 512 * self.rng.random_range(1..=32.min(sectors));
            let offset = 512 * self.rng.random_range(0..=(held.len() - len) / 512);
            let section = sections.entry(disk).or_default();
            if self.rng.random_bool(0.1) {
                held[offset..offset + len].fill(0);
                section.fill(lsn, offset as u64, len as u32, WriteKind::Zero);
                continue;
            }
            let mut data = vec![0; len];
            // Half of it compresses.
            self.rng.fill_bytes(&mut data[..len / 2]);
            held[offset..offset + len].copy_from_slice(&data);
            let sums = digests(&self.digests, offset as u64, &data);
            section.data(lsn, offset as u64, Bytes::from(data), &sums);
        }
        let sections = sections.into_iter().map(|(disk, section)| (disk, section.finish())).collect();
        Batch { first, last: Lsn(self.next.0 - 1), sections, records: Vec::new() }
    }

    fn take_mark(&mut self, id: MarkId, kind: MarkKind, label: &str) -> Lsn {
        let lsn = self.take_lsn();
        let mark = Mark { id, kind, captured_at: wall_clock(), members: Vec::new(), label: label.into() };
        self.taken.push(Taken { id, lsn, disks: self.disks.clone() });
        let records = vec![RecordAt { lsn, record: Record::Mark(mark) }];
        self.end.push(Batch { first: lsn, last: lsn, sections: Vec::new(), records });
        lsn
    }

    /// What the protocol's end says; `false` ends the connection.
    fn react(&mut self, events: Vec<AgentEvent>) -> bool {
        let mut goes_on = true;
        for event in events {
            match event {
                AgentEvent::Accepted(accepted) => {
                    self.sessions += 1;
                    if accepted.opening_due {
                        let opening = self.opening.clone().expect("a life begins once");
                        self.end.open_with(opening);
                    }
                }
                AgentEvent::Durable(durable) => self.acks.push(Ack { at: Instant::now(), durable }),
                AgentEvent::Refused(refusal) => {
                    let elsewhere = refusal.redirect.as_ref().and_then(|redirect| redirect.addresses.first());
                    if let Some(address) = elsewhere {
                        self.address = address.parse().unwrap();
                    }
                    self.refusals.push(refusal);
                    goes_on = false;
                }
                AgentEvent::Redirected(redirect) => {
                    self.redirects += 1;
                    self.address = redirect.addresses[0].parse().unwrap();
                    goes_on = false;
                }
                AgentEvent::MarkNow(request) => {
                    self.take_mark(request.id, request.kind, &request.label);
                }
                AgentEvent::Alarm(alarm) => self.trouble.push(format!("alarm: {alarm}")),
                AgentEvent::Disconnect(why) => {
                    self.trouble.push(why);
                    goes_on = false;
                }
                AgentEvent::Committed(_) | AgentEvent::BeginningCommitted | AgentEvent::Digests(_) => {}
            }
        }
        goes_on
    }
}

/// Connects, again and again, and speaks.
async fn run(state: Arc<Mutex<State>>, wake: Arc<Notify>, tls: Arc<ClientConfig>) {
    let began = Instant::now();
    loop {
        let address = state.lock().address.to_string();
        match connect(&address, tls.clone()).await {
            Ok(secured) => {
                let (mut reader, mut writer) = framed(secured.stream);
                state.lock().end.connected(began.elapsed());
                let mut goes_on = true;
                while goes_on {
                    loop {
                        let next = state.lock().end.poll_send();
                        let Some(message) = next else { break };
                        writer.queue(&message);
                        if writer.is_full() && writer.flush().await.is_err() {
                            break;
                        }
                    }
                    if writer.flush().await.is_err() {
                        break;
                    }
                    tokio::select! {
                        read = reader.read::<ServerMessage>() => match read {
                            Ok(Some(message)) => {
                                let mut state = state.lock();
                                let events = state.end.received(message, began.elapsed());
                                goes_on = state.react(events);
                            }
                            Ok(None) | Err(_) => goes_on = false,
                        },
                        () = wake.notified() => {}
                        () = tokio::time::sleep(Duration::from_millis(200)) => {
                            let mut state = state.lock();
                            let events = state.end.tick(began.elapsed());
                            goes_on = state.react(events);
                        }
                    }
                }
                state.lock().end.disconnected(began.elapsed());
            }
            Err(fault) => state.lock().trouble.push(fault.to_string()),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
