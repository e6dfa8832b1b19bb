//! The control plane end to end: real sockets and certificates, real state, process servers and agents played by tests.

mod bad_input;
mod healing;
mod moving;
mod real_nodes;
mod recovery;
mod serving;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use farshore_engine::control::client::{SessionEvent, SessionHandle, SessionTimes, enrol, session};
use farshore_engine::control::link::LinkError;
use farshore_engine::control::messages::*;
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, MarkId, ProcessServerId, Slot};
use farshore_engine::record::{DiskInfo, MarkKind};
use farshore_engine::transport::{Identity, KeyRequest};
use farshore_engine::vault::segment::Packing;
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::metered::StoreCounts;
use parking_lot::Mutex;
use slog::{Discard, Logger, o};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::config_server_link::{DataPort, LinkSpec, LinkStatus, RunningLink};
use super::control_room::ControlPolicy;
use super::ledger::records::{ApiRole, JobRecord, JobState};
use super::membership::{JoinTicketIn, Membership};
use super::plane::{Caller, ControlPlane};
use super::server::{ConfigServer, ConfigServerConfig, StartError};
use super::view::JoinTicket;
use crate::supervise::{Chaos, wall_clock};

/// Longest wait for anything; nothing is timed by it.
const WITHIN: Duration = Duration::from_secs(30);

fn log() -> Logger {
    Logger::root(Discard, o!())
}

fn config(dir: &Path, chaos: Arc<Chaos>, listen: SocketAddr) -> ConfigServerConfig {
    let vault = FolderStore::open(&dir.join("vault"), tokio::runtime::Handle::current()).expect("a folder");
    ConfigServerConfig {
        state_dir: dir.join("config-server"),
        control_listen: listen,
        hosts: vec![],
        vault: Arc::new(vault),
        vault_key_file: dir.join("vault.key"),
        policy: ControlPolicy {
            packing: Packing::Snappy,
            retention: farshore_engine::vault::retention::Ladder::default(),
            control_addresses: vec![],
            mark_interval: Duration::from_secs(1),
            seal_interval: Duration::from_secs(2),
            rpo_warning: Duration::from_secs(30),
            rpo_critical: Duration::from_secs(300),
            certificate_days: 365,
            release_within: Duration::from_secs(2),
            adopt_within: Duration::from_secs(3),
        },
        export_every: Duration::from_secs(600),
        chaos,
        log: log(),
    }
}

/// An installation: a configuration server in a directory of its own.
struct Installation {
    dir: TempDir,
    chaos: Arc<Chaos>,
    server: Option<ConfigServer>,
    address: SocketAddr,
}

impl Installation {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let chaos = Arc::new(Chaos::new(true));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = ConfigServer::start(config(dir.path(), chaos.clone(), any)).await.expect("starts");
        let address = server.control_address();
        Self { dir, chaos, server: Some(server), address }
    }

    fn server(&self) -> &ConfigServer {
        self.server.as_ref().expect("it runs")
    }

    fn plane(&self) -> ControlPlane {
        self.server().plane()
    }

    async fn stop(&mut self) {
        self.server.take().expect("it runs").stop(Duration::from_secs(10)).await;
    }

    /// Starts it again at the same address. The store's thread lets go of its lock just after the stop.
    async fn start_again(&mut self) {
        for _ in 0..500 {
            let config = config(self.dir.path(), self.chaos.clone(), self.address);
            match ConfigServer::start(config).await {
                Ok(server) => return self.server = Some(server),
                Err(StartError::State(super::state::StateError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("starts again: {error}"),
            }
        }
        panic!("the state is never let go of");
    }

    async fn ticket(&self, role: MemberRole) -> JoinTicket {
        let (plane, valid_for) = (self.plane(), Duration::from_secs(600));
        plane.create_join_token(&operator(), role, "t".into(), valid_for, 1).await.expect("a token")
    }

    async fn join(&self, name: &str) -> Server {
        let ticket = self.ticket(MemberRole::ProcessServer).await;
        let ticket = JoinTicketIn {
            control_addresses: ticket.control_addresses,
            token: JoinSecret::new(ticket.token.as_str()),
            authority: ticket.authority_fingerprint.parse().expect("a fingerprint"),
        };
        let address = vec![format!("127.0.0.1:{}", 20_000 + name.len())];
        let dir = self.dir.path().join(name);
        let member = Membership::open_or_join(&dir, Some(&ticket), name, &address, "test").await.expect("joins");
        let again = Membership::open_or_join(&dir, None, name, &address, "test").await.expect("is a member");
        assert_eq!(again.id, member.id);
        let port = Arc::new(FakePort::default());
        let mut server = Server { id: member.id, member, port, link: None, address };
        server.connect().await;
        server
    }

    async fn enrol(&self, name: &str) -> Machine {
        let key = KeyRequest::generate().expect("a key");
        let ticket = self.ticket(MemberRole::Machine).await;
        let enrolled = self.enrol_with(&ticket, name, &key).await.expect("enrolled");
        let grant = enrolled.machine.clone().expect("a machine's papers");
        let identity = Identity::from_pem(&enrolled.certificate_pem, &enrolled.ca_pem, &key.key_pem).expect("papers");
        Machine { id: grant.machine, grant, identity, addresses: enrolled.control_addresses }
    }

    async fn enrol_with(&self, ticket: &JoinTicket, name: &str, key: &KeyRequest) -> Result<Enrolled, LinkError> {
        let connect = TlsConnect::to_enrol(ticket.authority_fingerprint.parse().expect("a fingerprint"));
        let request = enrolment(&ticket.token, name, key);
        enrol(&connect.expect("a client"), &ticket.control_addresses, request, WITHIN).await
    }

    /// Waits for a job's end.
    async fn over(&self, job: super::ledger::records::JobId) -> JobRecord {
        let plane = self.plane();
        until("the job is over", || {
            let job = plane.job(job).expect("the job is known");
            (job.state != JobState::Running).then_some(job)
        })
        .await
    }

    async fn epoch_of(&self, machine: MachineId, owner: ProcessServerId) -> Epoch {
        let plane = self.plane();
        until("the machine is adopted", || {
            let view = plane.machine(machine).expect("the machine is known");
            let assignment = view.assignment.filter(|assignment| assignment.process_server == owner)?;
            let active = assignment.stage == super::ledger::records::AssignmentStage::Active;
            active.then_some(assignment.epoch)
        })
        .await
    }
}

fn operator() -> Caller {
    Caller { name: "test".into(), role: ApiRole::Operator, token: None }
}

fn enrolment(token: &str, name: &str, key: &KeyRequest) -> Enrol {
    Enrol {
        version: CONTROL_VERSION,
        token: JoinSecret::new(token),
        csr_pem: key.request_pem.clone(),
        role: MemberRole::Machine,
        name: name.into(),
        disks: vec![DiskInfo { disk: DiskNo(0), name: "root".into(), size_bytes: 1 << 20, sector_bytes: 512 }],
        replication_addresses: vec![],
        program_version: "test".into(),
    }
}

/// Waits until `look` sees something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < WITHIN {
        if let Some(seen) = look() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited {WITHIN:?} in vain until {what}");
}

/// A process server with a link of its own and no data plane.
struct Server {
    id: ProcessServerId,
    member: Membership,
    port: Arc<FakePort>,
    link: Option<RunningLink>,
    address: Vec<String>,
}

impl Server {
    async fn connect(&mut self) {
        let connect = Arc::new(TlsConnect::as_member(&self.member.identity).expect("a client"));
        let (port, member, address) = (self.port.clone(), self.member.clone(), self.address.clone());
        let spec = LinkSpec::new(port, connect, member, address, "test".into(), process_life(), log());
        let link = RunningLink::start(spec);
        let mut status = link.status();
        let connected = status.wait_for(|status| matches!(status, LinkStatus::Connected(_)));
        tokio::time::timeout(WITHIN, connected).await.expect("in time").expect("connected");
        self.link = Some(link);
    }
}

fn process_life() -> u64 {
    use farshore_engine::ids::Chance;
    let mut bytes = [0; 8];
    crate::supervise::OsChance.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Plays a process server's data plane.
#[derive(Default)]
struct FakePort {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    owned: BTreeMap<MachineId, (Epoch, MachineState)>,
    keys: BTreeMap<MachineId, WireKey>,
    heard: Vec<String>,
    serving: Vec<u64>,
    refuses_assign: bool,
    never_answers_assign: bool,
    highest: Option<Epoch>,
    events: Vec<MemberEvent>,
    /// What its scrubs found damaged.
    damaged: Vec<String>,
}

impl FakePort {
    fn heard(&self, what: &str) -> usize {
        self.inner.lock().heard.iter().filter(|heard| heard.starts_with(what)).count()
    }

    fn set<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock())
    }

    fn epoch(&self, machine: MachineId) -> Option<Epoch> {
        self.inner.lock().owned.get(&machine).map(|(epoch, _)| *epoch)
    }
}

fn point() -> PointInfo {
    PointInfo {
        mark: MarkId([3; 16]),
        lsn: Lsn(7),
        kind: MarkKind::Crash,
        captured_at: wall_clock(),
        label: "before the upgrade".into(),
        disks: vec![DiskNo(0)],
    }
}

#[async_trait]
impl DataPort for FakePort {
    async fn execute(&self, command: Command) -> Result<CommandResult, Refusal> {
        let hangs = self.set(|inner| matches!(command, Command::Assign(_)) && inner.never_answers_assign);
        if hangs {
            self.set(|inner| inner.heard.push("assign, unanswered".into()));
            std::future::pending::<()>().await;
        }
        self.set(|inner| answer(inner, command))
    }

    async fn heartbeat(&self) -> Option<Heartbeat> {
        Some(self.set(|inner| Heartbeat {
            at: wall_clock(),
            cpu: 0.1,
            cache: CacheReport { used_bytes: 1, bytes_max: 100, backlog_bytes: 1, disk_free_bytes: 100 },
            vault_reachable: true,
            store: StoreCounts::default(),
            machines: inner.owned.iter().map(|owned| report(owned, &inner.damaged)).collect(),
            serving: inner.serving.clone(),
            near: vec![],
            events: vec![],
        }))
    }

    fn take_events(&self) -> Vec<MemberEvent> {
        self.set(|inner| std::mem::take(&mut inner.events))
    }
}

fn report((machine, (epoch, state)): (&MachineId, &(Epoch, MachineState)), damaged: &[String]) -> MachineReport {
    let damaged = damaged.iter().map(|object| DamagedObject {
        object: object.clone(),
        problem: "it is missing".into(),
        stays: "there is no copy of it".into(),
        touched_points: 1,
        newest_touched: None,
    });
    let scrub = ScrubReport { ended_at: Some(wall_clock()), damaged: damaged.collect(), ..ScrubReport::default() };
    MachineReport {
        machine: *machine,
        epoch: *epoch,
        state: *state,
        durable: Lsn(9),
        committed: Lsn(8),
        next_slot: Slot(3),
        packing: None,
        retention: None,
        merging: None,
        scrub: Some(scrub),
        newest_mark: Some(MarkReport { mark: MarkId([3; 16]), lsn: Lsn(7), captured_at: wall_clock() }),
        idle_confirmed_at: None,
        backlog_bytes: 0,
        received_bytes: 0,
        uploaded_bytes: 0,
        upload_failures: 0,
        actor_restarts: 0,
        issues: vec![],
    }
}

fn answer(inner: &mut Inner, command: Command) -> Result<CommandResult, Refusal> {
    match command {
        Command::SetPacking { .. } | Command::SetRetention { .. } | Command::Scrub { .. } => Ok(CommandResult::Done),
        Command::Assign(assign) => {
            inner.heard.push(format!("assign {} doubting {:?}", assign.epoch, assign.doubted));
            if inner.refuses_assign {
                return Err(Refusal::new(RefusalCode::VaultUnavailable, "no vault", "wait"));
            }
            if let Some(highest) = inner.highest.filter(|highest| assign.epoch <= *highest) {
                return Ok(CommandResult::AssignStale { highest });
            }
            inner.owned.insert(assign.machine, (assign.epoch, MachineState::Replicating));
            inner.keys.insert(assign.machine, assign.data_key);
            Ok(CommandResult::Assigned { committed: Lsn(8), next_slot: Slot(3) })
        }
        Command::Release { machine, epoch, .. } => {
            inner.heard.push(format!("release {epoch}"));
            inner.owned.remove(&machine);
            Ok(CommandResult::Released { committed: Lsn(8), durable: Lsn(9) })
        }
        Command::Redirect { epoch, addresses, .. } => {
            inner.heard.push(format!("redirect {epoch} {}", addresses.join(",")));
            Ok(CommandResult::Done)
        }
        Command::ListPoints { .. } => {
            Ok(CommandResult::Points(PointsPage { points: vec![point()], next_before: None }))
        }
        Command::ServePoint { serve, read_only, .. } => {
            inner.heard.push(format!("serve {serve}"));
            inner.serving.push(serve);
            let export = Export {
                disk: DiskNo(0),
                name: "root".into(),
                size_bytes: 1 << 20,
                socket: format!("/run/farshore/{serve}.sock"),
                uri: format!("nbd+unix:///root?socket=/run/farshore/{serve}.sock"),
                read_only,
            };
            Ok(CommandResult::Served { point: point(), exports: vec![export] })
        }
        Command::StopServing { serve } => {
            inner.heard.push(format!("stop {serve}"));
            inner.serving.retain(|served| *served != serve);
            Ok(CommandResult::Done)
        }
        Command::RestorePoint { .. } => {
            Ok(CommandResult::Restored { directory: "/var/lib/farshore/restored/1".into(), total_bytes: 1 << 20 })
        }
        Command::CancelRestore { .. } => Ok(CommandResult::Done),
        Command::Retention { .. } | Command::Hold { .. } | Command::ReleaseHold { .. } => {
            Err(Refusal::new(RefusalCode::PointUnknown, "no points here", ""))
        }
        Command::Chaos(_) => Err(Refusal::new(RefusalCode::Internal, "no faults here", "")),
        Command::RequestMark { .. } => Ok(CommandResult::MarkRequested { mark: MarkId([4; 16]) }),
    }
}

/// An enrolled machine.
struct Machine {
    id: MachineId,
    grant: MachineGrant,
    identity: Identity,
    addresses: Vec<String>,
}

impl Machine {
    /// Opens a control session as its agent.
    #[expect(clippy::disallowed_methods, reason = "an agent is no actor; its task ends with its handle")]
    fn agent(&self, life: u64) -> Agent {
        let connect = Arc::new(TlsConnect::as_member(&self.identity).expect("a client"));
        let hello = move || Hello {
            version: CONTROL_VERSION,
            life,
            program_version: "test".into(),
            replication_addresses: vec![],
            disks: vec![],
        };
        let chance = Box::new(crate::supervise::OsChance);
        let times = SessionTimes::default();
        let (handle, events, driver) = session(connect, self.addresses.clone(), Arc::new(hello), times, chance);
        let driver = actix_rt::spawn(driver.run());
        Agent { handle, events, driver }
    }
}

/// A session of an agent.
struct Agent {
    handle: SessionHandle,
    events: mpsc::Receiver<SessionEvent>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Agent {
    async fn next(&mut self) -> SessionEvent {
        tokio::time::timeout(WITHIN, self.events.recv()).await.expect("in time").expect("the session goes on")
    }

    async fn connected(&mut self) {
        while !matches!(self.next().await, SessionEvent::Connected { .. }) {}
    }

    /// The next message that is not the one before again.
    async fn message(&mut self) -> ToMember {
        loop {
            if let SessionEvent::Message(message) = self.next().await {
                return message;
            }
        }
    }

    /// Asks until the answer is an assignment under at least `epoch`.
    async fn assigned(&mut self, epoch: Epoch) -> Assignment {
        loop {
            let _ = self.handle.say(FromMember::Where);
            let told = tokio::time::timeout(Duration::from_millis(300), self.events.recv()).await;
            let Ok(Some(SessionEvent::Message(ToMember::Assigned(told) | ToMember::Redirect(told)))) = told else {
                continue;
            };
            if told.epoch >= epoch {
                return told;
            }
        }
    }
}
