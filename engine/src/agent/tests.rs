//! A whole agent in front of a model of a process server: no TLS, a log in memory, faults on demand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;

use super::*;
use crate::batch::Batch;
use crate::control::messages::{Enrolled, MachineGrant, WireKey};
use crate::digest::DigestKey;
use crate::ids::{Chance, DiskNo, MachineId, ProcessServerId, TimelineId, Timestamp, VaultId};
use crate::nbd::{ClientOptions, NbdClient, NbdUri};
use crate::protocol::{AgentMessage, Digests, OpenLog, ServerEffect, ServerEnd};
use crate::record::{GapReason, Record};
use crate::section::{Section, WriteKind};
use crate::transport::framed::framed;
use crate::transport::identity::{CertificateAuthority, KeyRequest, Role};
use crate::vault::state::LogState;

const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

struct Draw;

impl Chance for Draw {
    fn fill(&mut self, bytes: &mut [u8]) {
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, bytes).expect("randomness");
    }
}

fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_micros() as i64)
}

/// A log, and who may write it.
#[derive(Default)]
struct ModelLog {
    state: LogState,
    batches: Vec<Batch>,
    idle: u64,
}

/// A process server without a disk: durable and committed at once, unless it is told to hold.
#[derive(Default)]
struct ModelServer {
    log: Mutex<ModelLog>,
    away: AtomicBool,
    hold_commits: AtomicBool,
    sessions: AtomicU64,
}

#[async_trait]
impl Dial for Arc<ModelServer> {
    async fn dial(&self, _: &str, _: Option<ProcessServerId>) -> Result<Box<dyn Stream>, String> {
        if self.away.load(Ordering::Relaxed) {
            return Err("nobody is there".into());
        }
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(self.clone().serve(far));
        Ok(Box::new(near))
    }
}

impl ModelServer {
    async fn serve(self: Arc<Self>, stream: tokio::io::DuplexStream) {
        let (mut reader, mut writer) = framed(stream);
        let mut end = ServerEnd::new(MachineId([7; 16]), Duration::ZERO);
        while let Ok(Some(message)) = reader.read::<AgentMessage>().await {
            if self.away.load(Ordering::Relaxed) {
                return;
            }
            let mut effects: std::collections::VecDeque<_> = end.received(message, Duration::ZERO).into();
            let mut done = false;
            while let Some(effect) = effects.pop_front() {
                match effect {
                    ServerEffect::Introduced(_) => effects.extend(end.open(self.open_log())),
                    ServerEffect::Accept(batch) => {
                        let last = batch.last;
                        let mut log = self.log.lock();
                        log.state.follows(&batch).expect("the end has checked it");
                        log.batches.push(batch);
                        drop(log);
                        effects.extend(end.durable(last));
                        if !self.hold_commits.load(Ordering::Relaxed) {
                            effects.extend(end.committed(last));
                        }
                    }
                    ServerEffect::Compare { part, at } => {
                        let end_at = part.offset as usize + part.len as usize;
                        let key: DigestKey = DataKey::from_bytes([5; 32]).digest_key();
                        let replica = self.replica_at(part.disk, end_at, at);
                        effects.extend(end.digests(Digests::of(part, &key, &replica[part.offset as usize..])));
                    }
                    ServerEffect::Idle { .. } => self.log.lock().idle += 1,
                    ServerEffect::Send(message) => writer.queue(&message),
                    ServerEffect::Close(_) => done = true,
                }
            }
            if writer.flush().await.is_err() || done {
                return;
            }
        }
    }

    fn open_log(&self) -> OpenLog {
        let log = self.log.lock().state.clone();
        let durable = log.last_lsn;
        OpenLog {
            timeline: TimelineId([3; 8]),
            epoch: Epoch(1),
            session: self.sessions.fetch_add(1, Ordering::Relaxed) + 1,
            durable,
            committed: if self.hold_commits.load(Ordering::Relaxed) { Lsn::ZERO } else { durable },
            log,
            window_bytes: 4 << 20,
        }
    }

    /// The replica of a disk, every digest checked.
    fn replica(&self, name: &str, size: usize) -> Vec<u8> {
        let number = {
            let log = self.log.lock();
            log.state.disks.values().find(|disk| disk.info.name == name).map(|disk| disk.info.disk)
        };
        self.replica_at(number.expect("a disk of the log"), size, Lsn(u64::MAX))
    }

    /// The first `size` bytes of a disk as the writes before `at` left it.
    fn replica_at(&self, number: DiskNo, size: usize, at: Lsn) -> Vec<u8> {
        let key: DigestKey = DataKey::from_bytes([5; 32]).digest_key();
        let log = self.log.lock();
        // Writes may reach past what is asked for.
        let mut replica = vec![0; 64 * MIB];
        for batch in &log.batches {
            for (_, bytes) in batch.sections.iter().filter(|(disk, _)| *disk == number) {
                let section = Section::parse(bytes, replica.len() as u64).expect("well formed");
                assert_eq!(section.first_damage(&key), None);
                for row in section.rows().filter(|row| row.entry.lsn < at) {
                    let place = row.entry.offset as usize..row.entry.end() as usize;
                    match row.entry.kind {
                        WriteKind::Data => {
                            let data = &section.payload[row.payload_at..][..row.entry.len as usize];
                            replica[place].copy_from_slice(data);
                        }
                        WriteKind::Zero | WriteKind::Undefined => replica[place].fill(0),
                    }
                }
            }
        }
        replica.truncate(size);
        replica
    }

    fn records(&self) -> Vec<Record> {
        self.log.lock().batches.iter().flat_map(|batch| batch.records.iter().map(|at| at.record.clone())).collect()
    }

    fn payload_bytes(&self) -> usize {
        let log = self.log.lock();
        let sections = log.batches.iter().flat_map(|batch| &batch.sections);
        sections.map(|(_, bytes)| Section::parse(bytes, u64::MAX >> 1).expect("well formed").payload.len()).sum()
    }

    fn gap(&self, name: &str) -> Option<GapReason> {
        let log = self.log.lock();
        log.state.disks.values().find(|disk| disk.info.name == name).and_then(|disk| disk.gap).map(|gap| gap.reason)
    }
}

struct Rig {
    dir: tempfile::TempDir,
    server: Arc<ModelServer>,
    disks: Vec<DiskConfig>,
    papers: Papers,
    budget_bytes: usize,
    wall: fn() -> Timestamp,
}

fn papers() -> Papers {
    let now = wall();
    let authority = CertificateAuthority::generate(now, 365).expect("an authority");
    let request = KeyRequest::generate().expect("a key");
    let role = Role::Machine(MachineId([7; 16]));
    let certificate = authority.sign(&request.request_pem, role, &[], now, 365).expect("signs");
    let grant =
        MachineGrant { machine: MachineId([7; 16]), timeline: TimelineId([3; 8]), data_key: WireKey::new([5; 32]) };
    let enrolled = Enrolled {
        certificate_pem: certificate,
        ca_pem: authority.certificate_pem().to_owned(),
        control_addresses: Vec::new(),
        vault: VaultId([1; 16]),
        process_server: None,
        machine: Some(grant),
    };
    Papers::new(enrolled, &request.key_pem).expect("papers")
}

impl Rig {
    fn new(disks: &[(&str, usize)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let disks = disks
            .iter()
            .map(|(name, size)| {
                let path = dir.path().join(format!("{}.img", config::file_name_of(name)));
                File::create(&path).and_then(|file| file.set_len(*size as u64)).expect("an image");
                DiskConfig { name: (*name).to_owned(), path, sector_bytes: None, socket: None }
            })
            .collect();
        Self { dir, server: Arc::default(), disks, papers: papers(), budget_bytes: 64 * MIB, wall }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn try_start(&self) -> Result<Agent, AgentError> {
        let surroundings = Surroundings { wall: self.wall, chance: || Box::new(Draw) };
        let mut config = AgentConfig::new("machine".into(), self.state_dir(), self.disks.clone(), surroundings);
        config.mark_interval = Duration::from_millis(100);
        config.budget_bytes = self.budget_bytes;
        config.cool_after = Duration::from_millis(500);
        let logger = Logger::root(slog::Discard, slog::o!());
        let network = Network {
            dial: Arc::new(self.server.clone()),
            control: None,
            target: Some(Target { addresses: vec!["model".into()], epoch: Epoch(1), process_server: None }),
        };
        Prepared::new(config, logger)?.start(self.papers.clone(), network)
    }

    fn start(&self) -> Agent {
        self.try_start().expect("starts")
    }

    fn client(&self, agent: &Agent, disk: usize) -> NbdClient {
        let uri: NbdUri = agent.status().disks[disk].export.parse().expect("a URI");
        NbdClient::connect(&uri, ClientOptions::default()).expect("connects")
    }

    fn image(&self, disk: usize) -> Vec<u8> {
        std::fs::read(&self.disks[disk].path).expect("reads")
    }

    fn assert_equal(&self) {
        for (number, disk) in self.disks.iter().enumerate() {
            let image = self.image(number);
            let replica = self.server.replica(&disk.name, image.len());
            let differs = image.iter().zip(&replica).position(|(a, b)| a != b);
            assert_eq!(differs, None, "disk '{}' differs from its replica", disk.name);
        }
    }

    /// The end of a life without any of the things that a stop does.
    fn kill(&self, mut agent: Agent) {
        agent.exports.drain(..).for_each(|export| {
            export.shutdown(Duration::from_secs(5));
        });
        agent.shared.tap.stop();
        agent.shared.phase.send_replace(Phase::Ending);
        agent.threads.drain(..).chain(agent.session.take()).for_each(|thread| thread.join().expect("ends"));
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn in_order(agent: &Agent) -> bool {
    let status = agent.status();
    matches!(status.session, SessionState::Open { .. }) && status.disks.iter().all(|disk| disk.gap.is_none())
}

fn all_committed(agent: &Agent) -> bool {
    let status = agent.status();
    in_order(agent) && status.committed == status.last_lsn
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

#[test]
fn a_new_disk_is_replicated_and_then_followed_write_by_write() {
    let rig = Rig::new(&[("os", 8 * MIB), ("data disk/1", 4 * MIB)]);
    std::fs::write(&rig.disks[0].path, {
        let mut image = vec![0; 8 * MIB];
        image[3 * MIB..3 * MIB + 5000].copy_from_slice(&pattern(9, 5000));
        image
    })
    .expect("an image");
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    assert!(rig.server.payload_bytes() <= MIB, "zeroes of a new disk are not shipped");
    let (mut os, mut data) = (rig.client(&agent, 0), rig.client(&agent, 1));
    for n in 0..50 {
        os.write(n * 8192, &pattern(n as u8, 4096), false).expect("writes");
        data.write(n * 4096, &pattern(n as u8, 512), n % 10 == 0).expect("writes");
    }
    os.write_zeroes(16384, 65536, Default::default()).expect("zeroes");
    data.trim(8192, 4096, false).expect("trims");
    os.flush().expect("flushes");
    wait("everything committed", || all_committed(&agent));
    rig.assert_equal();
    let marked = |record: &Record| matches!(record, Record::Mark(_));
    wait("a mark", || rig.server.records().iter().any(marked));
    let status = agent.status();
    assert_eq!(status.disks[1].number, Some(DiskNo(1)));
    assert!(!status.full_compare);
    wait("an idle machine says so", || rig.server.log.lock().idle > 0);
    assert_eq!(agent.stop(Duration::from_secs(10)), Stopped::Clean);
    assert!(rig.server.log.lock().state.clean_stop);
}

#[test]
fn a_clean_stop_is_followed_without_a_gap_or_a_scan() {
    let rig = Rig::new(&[("os", 8 * MIB)]);
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    rig.client(&agent, 0).write(0, &pattern(1, 4096), false).expect("writes");
    assert_eq!(agent.stop(Duration::from_secs(10)), Stopped::Clean);
    let before = rig.server.records().len();
    let agent = rig.start();
    wait("the session", || in_order(&agent));
    rig.client(&agent, 0).write(4096, &pattern(2, 4096), false).expect("writes");
    wait("everything committed", || all_committed(&agent));
    let after = rig.server.records();
    assert!(!after[before..].iter().any(|record| matches!(record, Record::GapOpened { .. })), "{after:?}");
    assert_eq!(agent.status().disks[0].rescanned_bytes, 0);
    rig.assert_equal();
    drop(agent);
}

#[test]
fn points_stay_in_order_of_time_when_the_clock_goes_back() {
    const HOUR_MICROS: i64 = 3_600_000_000;
    let mut rig = Rig::new(&[("os", 8 * MIB)]);
    let marks = |rig: &Rig| -> Vec<i64> {
        let of = |record: Record| if let Record::Mark(mark) = record { Some(mark.captured_at.0) } else { None };
        rig.server.records().into_iter().filter_map(of).collect()
    };
    // An hour ahead, then right, then an hour behind; between them the agent is killed.
    let clocks: [fn() -> Timestamp; 3] =
        [|| Timestamp(wall().0 + HOUR_MICROS), wall, || Timestamp(wall().0 - HOUR_MICROS)];
    for (round, clock) in clocks.into_iter().enumerate() {
        rig.wall = clock;
        let agent = rig.start();
        wait("the disk to be in order", || in_order(&agent));
        let before = marks(&rig).len();
        rig.client(&agent, 0).write(round as u64 * 4096, &pattern(round as u8, 4096), false).expect("writes");
        wait("a mark", || marks(&rig).len() > before);
        wait("everything committed", || all_committed(&agent));
        rig.assert_equal();
        if round > 0 {
            wait("the event", || agent.status().events.iter().any(|event| event.code == "clock_went_back"));
        }
        rig.kill(agent);
    }
    let marks = marks(&rig);
    assert!(marks.is_sorted(), "{marks:?}");
    assert!(marks[0] > wall().0 + HOUR_MICROS / 2, "the first were taken by the wrong clock: {marks:?}");
}

#[test]
fn a_disk_that_is_taken_away_beneath_is_told_of_and_the_next_start_compares_it() {
    let rig = Rig::new(&[("gone", 4 * MIB), ("cut", 4 * MIB), ("stays", 4 * MIB)]);
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    std::fs::remove_file(&rig.disks[0].path).expect("deletes");
    let cut = File::options().write(true).open(&rig.disks[1].path).expect("opens");
    cut.set_len(MIB as u64).expect("cuts");
    let missing = |agent: &Agent, disk: usize| agent.status().disks[disk].missing.clone();
    wait("both to be noticed", || missing(&agent, 0).is_some() && missing(&agent, 1).is_some());
    assert_eq!(missing(&agent, 2), None);
    assert!(missing(&agent, 0).is_some_and(|text| text.contains("deleted") && text.contains("/proc/")));
    let told = agent.status().events.iter().filter(|event| event.code == "disk_missing").count();
    assert_eq!(told, 2, "{:?}", agent.status().events);
    rig.client(&agent, 2).write(0, &pattern(1, 4096), false).expect("the other disk goes on");
    cut.set_len(4 * MIB as u64).expect("brings it back, empty");
    wait("it to be there again", || missing(&agent, 1).is_none());
    drop(agent);
    std::fs::write(&rig.disks[0].path, pattern(7, 4 * MIB)).expect("restores the other one");
    let agent = rig.start();
    wait("the compares", || in_order(&agent) && all_committed(&agent));
    assert!(agent.status().full_compare, "{:?}", agent.status());
    rig.assert_equal();
}

#[test]
fn after_a_kill_only_what_was_hot_is_read_again() {
    let rig = Rig::new(&[("os", 32 * MIB)]);
    std::fs::write(&rig.disks[0].path, pattern(3, 32 * MIB)).expect("an image");
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    wait("cooling", || agent.status().disks[0].hot_regions == 0);
    rig.server.away.store(true, Ordering::Relaxed);
    let mut client = rig.client(&agent, 0);
    client.write(5 * MIB as u64, &pattern(4, 100_000 / 512 * 512), false).expect("writes");
    client.write(9 * MIB as u64, &pattern(5, 4096), false).expect("writes");
    drop(client);
    rig.kill(agent);
    rig.server.away.store(false, Ordering::Relaxed);
    let agent = rig.start();
    wait("the gap closes", || in_order(&agent));
    wait("everything committed", || all_committed(&agent));
    rig.assert_equal();
    let disk = &agent.status().disks[0];
    assert_eq!(disk.hot_bytes_at_start, 2 * MIB as u64);
    assert!(disk.rescanned_bytes <= disk.hot_bytes_at_start, "I5: {disk:?}");
    assert!(!agent.status().full_compare);
    assert!(agent.status().events.iter().any(|event| event.code == "unclean_stop"));
}

#[test]
fn writes_go_on_while_nobody_takes_them_and_the_overload_is_caught_up() {
    let mut rig = Rig::new(&[("os", 32 * MIB), ("quiet", 4 * MIB)]);
    rig.budget_bytes = 4 * MIB;
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    rig.server.away.store(true, Ordering::Relaxed);
    let mut client = rig.client(&agent, 0);
    for n in 0..24 {
        client.write(n * MIB as u64, &pattern(n as u8, MIB), false).expect("writes go on");
    }
    let status = agent.status();
    assert!(status.memory_bytes <= status.memory_bytes_max + 64 * 1024, "I10: {status:?}");
    assert_eq!((status.rung, status.disks[0].gap), (4, Some(GapReason::Overload)));
    assert_eq!(status.disks[1].gap, None);
    rig.server.away.store(false, Ordering::Relaxed);
    wait("the gap closes", || in_order(&agent));
    wait("everything committed", || all_committed(&agent));
    assert_eq!(rig.server.gap("os"), None);
    rig.assert_equal();
}

#[test]
fn what_cannot_be_trusted_is_compared_as_a_whole_and_an_event_says_why() {
    type Harm = fn(&Rig);
    let harms: [(&str, Harm); 4] = [
        ("activity_log_missing", |rig| std::fs::remove_file(rig.state_dir().join("os.activity")).expect("removed")),
        ("disk_changed_behind_agent", |rig| {
            let image = File::options().write(true).open(&rig.disks[0].path).expect("opens");
            std::os::unix::fs::FileExt::write_all_at(&image, &pattern(8, 4096), 2 * MIB as u64).expect("writes");
        }),
        ("activity_log_of_other_disk", |rig| {
            let copy = rig.dir.path().join("copy");
            std::fs::copy(&rig.disks[0].path, &copy).expect("copied");
            std::fs::rename(copy, &rig.disks[0].path).expect("replaced");
        }),
        ("incarnation_unknown", |rig| std::fs::remove_file(rig.state_dir().join("agent.state")).expect("removed")),
    ];
    for (code, harm) in harms {
        let rig = Rig::new(&[("os", 8 * MIB)]);
        let agent = rig.start();
        wait("the first contents", || in_order(&agent));
        rig.client(&agent, 0).write(MIB as u64, &pattern(1, 8192), false).expect("writes");
        assert_eq!(agent.stop(Duration::from_secs(10)), Stopped::Clean, "{code}");
        harm(&rig);
        let sent = rig.server.payload_bytes();
        let agent = rig.start();
        wait(code, || in_order(&agent));
        wait("everything committed", || all_committed(&agent));
        rig.assert_equal();
        wait("the event that says how much was sent", || {
            agent.status().events.iter().any(|event| event.code == "compare_ended")
        });
        let status = agent.status();
        let differed = if code == "disk_changed_behind_agent" { 4096 } else { 0 };
        assert_eq!(rig.server.payload_bytes() - sent, differed, "{code}: what is equal is not sent");
        assert_eq!(status.disks[0].compared_bytes, 8 * MIB as u64, "{code}");
        assert!(status.full_compare, "{code}");
        assert!(status.events.iter().any(|event| event.code == code), "{code}: {:?}", status.events);
        let reasons = rig.server.records();
        let lost = |record: &Record| matches!(record, Record::GapOpened { reason: GapReason::ActivityLogLost, .. });
        assert!(reasons.iter().any(lost), "{code}");
    }
}

#[test]
fn what_was_not_committed_is_sent_again_after_a_lost_connection() {
    let rig = Rig::new(&[("os", 8 * MIB)]);
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    let mut client = rig.client(&agent, 0);
    for round in 0..5 {
        for n in 0..20 {
            client.write(n * 8192, &pattern(round * 20 + n as u8, 4096), false).expect("writes");
        }
        rig.server.away.store(true, Ordering::Relaxed);
        client.write(MIB as u64, &pattern(round, 4096), false).expect("writes");
        wait("the loss is noticed", || !matches!(agent.status().session, SessionState::Open { .. }));
        rig.server.away.store(false, Ordering::Relaxed);
    }
    wait("everything committed", || all_committed(&agent));
    rig.assert_equal();
    assert!(!rig.server.records().iter().any(|record| {
        matches!(record, Record::GapOpened { reason, .. } if *reason != GapReason::InitialReplication)
    }));
}

#[test]
fn a_second_agent_is_refused_in_the_same_directory_and_in_front_of_the_same_disk() {
    let rig = Rig::new(&[("os", MIB)]);
    let agent = rig.start();
    assert!(matches!(rig.try_start(), Err(AgentError::SecondAgent { .. })));
    let mut other = Rig::new(&[("os", MIB)]);
    other.disks = rig.disks.clone();
    assert!(matches!(other.try_start(), Err(AgentError::Disk { .. })));
    drop(agent);
}

#[test]
fn a_disk_of_odd_size_is_refused_with_what_to_do() {
    let rig = Rig::new(&[("os", MIB + 100)]);
    let error = rig.try_start().expect_err("no disk has such a size").to_string();
    assert!(error.contains("os") && error.contains("512") && error.contains("extend"), "{error}");
}

#[test]
fn disks_come_go_and_grow_between_lives() {
    let mut rig = Rig::new(&[("os", 4 * MIB), ("old", MIB)]);
    let agent = rig.start();
    wait("the first contents", || in_order(&agent));
    assert_eq!(agent.stop(Duration::from_secs(10)), Stopped::Clean);
    rig.disks.remove(1);
    let path = rig.dir.path().join("new.img");
    std::fs::write(&path, pattern(1, 2 * MIB)).expect("an image");
    rig.disks.push(DiskConfig { name: "new".into(), path, sector_bytes: Some(4096), socket: None });
    File::options().write(true).open(&rig.disks[0].path).and_then(|file| file.set_len(6 * MIB as u64)).expect("grown");
    let agent = rig.start();
    wait("everything in order", || all_committed(&agent));
    rig.assert_equal();
    let state = rig.server.log.lock().state.clone();
    let names: BTreeMap<DiskNo, (String, u64)> =
        state.disks.values().map(|disk| (disk.info.disk, (disk.info.name.clone(), disk.info.size_bytes))).collect();
    let expected = [(DiskNo(0), ("os".to_owned(), 6 * MIB as u64)), (DiskNo(2), ("new".to_owned(), 2 * MIB as u64))];
    assert_eq!(names, expected.into());
    assert!(Path::new(&config::status_file(&rig.state_dir())).exists());
}
