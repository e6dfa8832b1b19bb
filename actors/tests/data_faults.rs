//! What the cache disk, agents and operators do to a process server, one thing at a time.

mod data_rig;

use std::io::{self, Error, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use data_rig::agent::Agent;
use data_rig::{Rig, TIMELINE, key, machine, until};
use farshore_actors::data::{DataConfig, DataEventKind, IssueCode, MachinePhase};
use farshore_actors::supervise::ActorKind;
use farshore_engine::cache::io::{CacheFile, CacheIo, Space};
use farshore_engine::control::messages::{Command, CommandResult, Injection, PointSelector, RefusalCode, WireKey};
use farshore_engine::ids::{Epoch, Lsn};
use farshore_engine::nbd::client::{ClientOptions, NbdClient, NbdUri};
use farshore_engine::protocol;
use farshore_engine::record::MarkKind;
use farshore_engine::vault::export::Format;

/// A cache disk whose next syncs of segment files fail, as often as it is told.
struct FailingSync {
    disk: Arc<dyn CacheIo>,
    failures: Arc<AtomicU32>,
}

struct FailingFile {
    file: Box<dyn CacheFile>,
    failures: Arc<AtomicU32>,
}

impl CacheIo for FailingSync {
    fn create_dirs(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dirs(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(path, bytes_max)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        Ok(Box::new(FailingFile { file: self.disk.create(path)?, failures: self.failures.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        self.disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }
}

impl CacheFile for FailingFile {
    fn write_at(&mut self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.file.write_at(offset, parts)
    }

    fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        self.file.read_at(offset, bytes_max)
    }

    fn sync(&mut self) -> io::Result<()> {
        let fails = self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Err(Error::from(ErrorKind::Other)) } else { self.file.sync() }
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn is_empty(&self) -> io::Result<bool> {
        self.file.is_empty()
    }
}

#[actix::test]
async fn after_a_failed_fsync_the_file_is_abandoned_and_the_agent_sends_again() {
    let failures = Arc::new(AtomicU32::new(0));
    let mut rig = Rig::new();
    rig.io = Arc::new(FailingSync { disk: DataConfig::disk(), failures: failures.clone() });
    let mut server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10]);
    agent.load(|agent| agent.durable() > Lsn(100)).await;
    for round in 0..3 {
        let (sessions, durable) = (agent.sessions(), agent.durable());
        failures.store(1, SeqCst);
        agent.load(|agent| agent.sessions() > sessions && agent.durable() > durable).await;
        assert_eq!(failures.load(SeqCst), 0, "round {round}");
    }
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let failed = |kind: &DataEventKind| matches!(kind, DataEventKind::Trouble { code: IssueCode::CacheFailed, .. });
    assert!(server.told().iter().any(failed));
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len());
    assert_eq!(server.status(1).await.unwrap().actors[&ActorKind::Machine].restarts, 0, "nothing had to die for it");
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_cache_disk_that_is_full_when_a_log_is_opened_is_waited_for_and_nothing_has_to_die_for_it() {
    let mut rig = Rig::new();
    rig.io = rig.chaos.around_cache(DataConfig::disk());
    let mut server = rig.server("one").await;
    rig.chaos.inject(Injection::CacheFull { for_ms: 2500 }).unwrap();
    server.assign(1, 1).await.unwrap();
    server.wait_phase(1, MachinePhase::Ready).await;
    let failed = |kind: &DataEventKind| matches!(kind, DataEventKind::Trouble { code: IssueCode::CacheFailed, .. });
    assert!(server.told().iter().any(failed));
    let agent = rig.agent(&server, 1, &[64 << 10]);
    agent.write(4);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let status = server.status(1).await.unwrap();
    assert!(status.health.is_empty(), "{:?}", status.health);
    assert_eq!(status.actors.get(&ActorKind::Machine).map_or(0, |actor| actor.restarts), 0);
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn sessions_may_die_any_number_of_times() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[64 << 10]);
    for session in 1..=8 {
        until("the agent has a session", async || agent.sessions() == session).await;
        rig.chaos.arm(ActorKind::AgentSession, Some(machine(1))).unwrap();
        let last = agent.write(1);
        agent.wait_durable(last).await;
    }
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_second_agent_of_a_machine_is_refused_while_the_first_one_lives() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[64 << 10]);
    let last = agent.write(1);
    agent.wait_committed(last).await;
    let clone = rig.agent(&server, 1, &[64 << 10]);
    until("the clone is refused", async || !clone.refusals().is_empty()).await;
    assert_eq!(clone.refusals()[0].code, protocol::RefusalCode::SecondAgent);
    let last = agent.write(1);
    agent.wait_committed(last).await;
    assert_eq!((agent.sessions(), clone.sessions()), (1, 0));
    // Once the first one is gone the clone is found out by its life, which the log does not know.
    drop(agent);
    let unknown = protocol::RefusalCode::IncarnationUnknown;
    until("the clone is found out", async || clone.refusals().iter().any(|refusal| refusal.code == unknown)).await;
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_key_that_does_not_open_the_log_is_refused_and_the_right_one_taken() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[64 << 10]);
    let last = agent.write(1);
    agent.wait_committed(last).await;
    assert!(server.plane.kill().await);
    let server = rig.server("one").await;
    server.wait_phase(1, MachinePhase::Locked).await;
    let wrong = Agent::start_with_key(&rig.authority, server.plane.address(), 1, &[64 << 10], [9; 32]);
    until("the wrong key is refused", async || !wrong.refusals().is_empty()).await;
    assert_eq!(wrong.refusals()[0].code, protocol::RefusalCode::VaultLocked);
    assert_eq!(server.status(1).await.unwrap().phase, MachinePhase::Locked);
    drop(wrong);
    agent.connect_to(server.plane.address());
    let last = agent.write(1);
    agent.wait_committed(last).await;
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn an_operator_asks_for_a_mark_and_serves_it() {
    let mut rig = Rig::new();
    rig.limits.serve_near_bytes_max = 1 << 30;
    rig.limits.serve_hydrate = true;
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10, 64 << 10]);
    let last = agent.write(50);
    agent.wait_committed(last).await;
    let ask = Command::RequestMark { machine: machine(1), kind: MarkKind::App, label: "before the upgrade".into() };
    let CommandResult::MarkRequested { mark } = server.plane.execute(ask).await.unwrap() else { panic!("a mark") };
    until("the mark is committed", async || {
        let newest = server.status(1).await.unwrap().newest_mark;
        newest.is_some_and(|newest| newest.mark == mark)
    })
    .await;
    let serve = Command::ServePoint {
        serve: 4,
        machine: machine(1),
        timeline: TIMELINE,
        data_key: WireKey::new(*key(1).as_bytes()),
        point: PointSelector::Mark { mark },
        disks: Vec::new(),
        read_only: true,
    };
    let CommandResult::Served { point, exports } = server.plane.execute(serve.clone()).await.unwrap() else {
        panic!("served")
    };
    assert_eq!((point.mark, point.label.as_str(), exports.len()), (mark, "before the upgrade", 2));
    let again = server.plane.execute(serve).await.unwrap();
    assert!(matches!(again, CommandResult::Served { point: same, .. } if same == point), "the same is served once");
    // A panic of the process server's actor leaves what is served alone.
    rig.chaos.arm(ActorKind::ProcessServer, None).unwrap();
    assert_eq!(server.plane.report().await.unwrap().serving, [4]);
    let taken = agent.taken().into_iter().find(|taken| taken.id == mark).unwrap();
    for export in &exports {
        let held = taken.disks[&export.disk].clone();
        let uri: NbdUri = export.uri.parse().unwrap();
        let read = std::thread::spawn(move || {
            let mut client = NbdClient::connect(&uri, ClientOptions::default()).unwrap();
            let mut bytes = vec![0; client.size_bytes() as usize];
            client.read(0, &mut bytes).unwrap();
            bytes
        });
        until("the disk is read", async || read.is_finished()).await;
        assert!(read.join().unwrap() == held, "disk {} is served as it was", export.disk);
    }
    let near = rig.dir.path().join("one/serve/near");
    let frames = || std::fs::read_dir(&near).unwrap().count();
    until("frames are near, beside the lock", async || frames() >= 3).await;
    until("all of it to be near, as the report says", async || {
        let near = server.plane.report().await.unwrap().near;
        near.iter().any(|near| near.serve == 4 && near.ended && near.reached_bytes == near.total_bytes)
    })
    .await;
    server.plane.execute(Command::StopServing { serve: 4 }).await.unwrap();
    assert_eq!(server.plane.report().await.unwrap().serving, Vec::<u64>::new());
    let restore = Command::RestorePoint {
        restore: 7,
        machine: machine(1),
        timeline: TIMELINE,
        data_key: WireKey::new(*key(1).as_bytes()),
        point: PointSelector::Mark { mark },
        disks: Vec::new(),
        format: Format::Raw,
    };
    let restored = parking_lot::Mutex::new(None);
    until("the point is restored to images", async || match server.plane.execute(restore.clone()).await.unwrap() {
        CommandResult::Restored { directory, total_bytes } => {
            *restored.lock() = Some((directory, total_bytes));
            true
        }
        CommandResult::Restoring { .. } => false,
        other => panic!("{other:?}"),
    })
    .await;
    let (directory, total_bytes) = restored.lock().take().unwrap();
    assert!(total_bytes > 0);
    let mut images: Vec<Vec<u8>> =
        std::fs::read_dir(&directory).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    let mut wanted: Vec<Vec<u8>> = taken.disks.values().cloned().collect();
    images.sort();
    wanted.sort();
    assert!(images == wanted, "the images are the point's disks");
    let mut export = restore.clone();
    if let Command::RestorePoint { restore, format, .. } = &mut export {
        (*restore, *format) = (8, Format::Qcow2);
    }
    until("the point is exported", async || {
        matches!(server.plane.execute(export.clone()).await.unwrap(), CommandResult::Restored { .. })
    })
    .await;
    let exported = directory.replace("/7", "/8");
    for entry in std::fs::read_dir(&exported).unwrap() {
        let path = entry.unwrap().path();
        assert!(std::fs::read(&path).unwrap().starts_with(b"QFI\xfb"), "{}", path.display());
    }
    server.plane.execute(Command::CancelRestore { restore: 7 }).await.unwrap();
    assert!(!std::path::Path::new(&directory).exists(), "what is called off is thrown away");
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn what_makes_no_sense_is_refused_with_a_code() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    let code = |result: Result<CommandResult, farshore_engine::control::messages::Refusal>| result.unwrap_err().code;
    let release = Command::Release { machine: machine(1), epoch: Epoch(1), within_ms: 10 };
    assert_eq!(code(server.plane.execute(release).await), RefusalCode::NotOwner);
    let mark = Command::RequestMark { machine: machine(1), kind: MarkKind::Crash, label: String::new() };
    assert_eq!(code(server.plane.execute(mark.clone()).await), RefusalCode::NotOwner);
    server.assign(1, 3).await.unwrap();
    assert_eq!(code(server.plane.execute(mark).await), RefusalCode::NotConnected);
    let stale = Ok(CommandResult::AssignStale { highest: Epoch(3) });
    assert_eq!(server.assign(1, 3).await, stale, "another writer of the same epoch");
    assert_eq!(server.assign(1, 2).await, stale);
    let serve = Command::ServePoint {
        serve: 1,
        machine: machine(1),
        timeline: TIMELINE,
        data_key: WireKey::new(*key(1).as_bytes()),
        point: PointSelector::Newest,
        disks: Vec::new(),
        read_only: false,
    };
    assert_eq!(code(server.plane.execute(serve).await), RefusalCode::PointUnknown);
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_lost_cache_directory_needs_a_new_epoch() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    let writer = farshore_engine::ids::WriterId([7; 16]);
    server.assign_as(1, 1, writer).await.unwrap();
    let agent = rig.agent(&server, 1, &[64 << 10]);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    assert!(server.plane.kill().await);
    std::fs::remove_dir_all(rig.cache_dir("one")).unwrap();
    let server = rig.server("one").await;
    let lost = server.assign_as(1, 1, writer).await;
    assert_eq!(lost, Ok(CommandResult::AssignStale { highest: Epoch(1) }));
    assert_eq!(server.status(1).await.unwrap().phase, MachinePhase::Failed);
    server.assign(1, 2).await.unwrap();
    agent.connect_to(server.plane.address());
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    assert_eq!(rig.check_points(1, &agent).await, 2);
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn an_idle_agent_keeps_the_rpo_small() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[64 << 10]);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    until("the confirmation counts", async || {
        agent.say_idle();
        let status = server.status(1).await.unwrap();
        status.idle_confirmed_at.is_some_and(|at| at > status.newest_mark.unwrap().captured_at)
    })
    .await;
    let status = server.status(1).await.unwrap();
    let confirmed = status.idle_confirmed_at.unwrap();
    let later = farshore_engine::ids::Timestamp(confirmed.0 + 3_000_000);
    assert_eq!(status.rpo(later), Some(Duration::from_secs(3)));
    // A write ends it: what was confirmed said nothing of it.
    let last = agent.write(1);
    agent.wait_durable(last).await;
    // Words of before the write may still have been on their way.
    assert!(server.status(1).await.unwrap().idle_confirmed_at >= Some(confirmed));
    let marked = agent.mark(MarkKind::App);
    agent.wait_committed(marked).await;
    until("the new mark counts", async || server.status(1).await.unwrap().newest_mark.unwrap().lsn == marked).await;
    assert_eq!(server.status(1).await.unwrap().idle_confirmed_at, None);
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn strangers_on_the_port_are_closed_and_agents_still_served() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let address = server.plane.address();
    let strangers = std::thread::spawn(move || {
        for n in 0..20_u8 {
            let mut stranger = std::net::TcpStream::connect(address).unwrap();
            stranger.set_read_timeout(Some(data_rig::PATIENCE)).unwrap();
            io::Write::write_all(&mut stranger, &[n; 600]).unwrap();
            // A reset is as good an end as a close.
            drop(stranger.read_to_end(&mut Vec::new()));
        }
    });
    let agent = rig.agent(&server, 1, &[64 << 10]);
    let last = agent.write(1);
    agent.wait_committed(last).await;
    until("the strangers are done", async || strangers.is_finished()).await;
    strangers.join().unwrap();
    assert!(server.plane.stop().await);
}
