//! An installation with its API on a free port, a client, and a process server that only talks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use farshore_actors::control::config_server_link::{DataPort, LinkSpec, RunningLink};
use farshore_actors::control::control_room::ControlPolicy;
use farshore_actors::control::membership::{JoinTicketIn, Membership};
use farshore_actors::control::server::{ConfigServer, ConfigServerConfig, StartError};
use farshore_actors::control::state::StateError;
use farshore_actors::supervise::{Chaos, wall_clock};
use farshore_engine::control::client::enrol;
use farshore_engine::control::messages::*;
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, MarkId, Slot, Timestamp};
use farshore_engine::record::{DiskInfo, MarkKind};
use farshore_engine::transport::{KeyRequest, Peers, Trust, tls};
use farshore_engine::vault::manifest::PinKind;
use farshore_engine::vault::segment::Packing;
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::metered::StoreCounts;
use farshore_web::{Server, ServerConfig};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use slog::{Discard, Logger, o};
use tempfile::TempDir;

/// Longest wait for anything; nothing is timed by it.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);

fn log() -> Logger {
    Logger::root(Discard, o!())
}

/// An installation with its API.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) control: ConfigServer,
    pub(crate) web: Server,
    pub(crate) admin: String,
    http: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text"))
    }

    /// Checks that this is a whole problem document with that status and code.
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], status);
        for field in ["type", "title", "detail", "remedy"] {
            assert!(self.body[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {self:?}");
        }
    }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// An installation whose API speaks HTTPS, or plain HTTP.
    pub(crate) async fn start_with(secure: bool) -> Self {
        Self::start_in(tempfile::tempdir().expect("temp dir"), secure).await
    }

    /// Stops it, and starts it again over what it remembers.
    pub(crate) async fn start_again(self) -> Self {
        let Self { dir, control, web, .. } = self;
        web.stop().await;
        control.stop(Duration::from_secs(10)).await;
        Self::start_in(dir, false).await
    }

    async fn start_in(dir: TempDir, secure: bool) -> Self {
        let vault = FolderStore::open(&dir.path().join("vault"), tokio::runtime::Handle::current()).expect("a folder");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = ConfigServerConfig {
            state_dir: dir.path().join("config-server"),
            control_listen: any,
            hosts: vec![],
            vault: Arc::new(vault),
            vault_key_file: dir.path().join("vault.key"),
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
            chaos: Arc::new(Chaos::new(false)),
            log: log(),
        };
        let begun = tokio::time::Instant::now();
        let control = loop {
            match ConfigServer::start(config.clone()).await {
                Ok(control) => break control,
                // The store's thread lets go of its lock just after a stop.
                Err(StartError::State(StateError::InUse { .. })) if begun.elapsed() < WITHIN => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("the configuration server starts: {error}"),
            }
        };
        let tls = secure.then(|| control.management_tls());
        let web = Server::start(ServerConfig { listen: any, tls }, control.plane(), log()).expect("the API starts");
        let admin = std::fs::read_to_string(control.admin_token_file()).expect("the first admin's token");
        let trust = Trust::Fingerprint(control.authority_fingerprint());
        let tls = tls::client_config(None, trust, Peers::ConfigServer).expect("a client");
        let http = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy().timeout(WITHIN);
        Self { dir, control, web, admin: admin.trim().to_owned(), http: http.build().expect("a client") }
    }

    pub(crate) async fn stop(self) {
        self.web.stop().await;
        self.control.stop(Duration::from_secs(10)).await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.web.url())
    }

    /// A request without a token.
    pub(crate) fn bare(&self, method: &str, path: &str) -> RequestBuilder {
        self.http.request(Method::from_bytes(method.as_bytes()).expect("a method"), self.url(path))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.expect("a body");
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
        Answer { status, headers, body }
    }

    /// As `token`, with `body` where it is not null.
    pub(crate) async fn ask_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let request = self.bare(method, &format!("/api/v1/{path}")).bearer_auth(token);
        self.send(if body.is_null() { request } else { request.json(&body) }).await
    }

    /// As the first admin.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask_as(&self.admin, method, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    /// Looks until `seen` finds what it wants.
    pub(crate) async fn until<T>(&self, path: &str, seen: impl Fn(&Value) -> Option<T>) -> T {
        let begun = tokio::time::Instant::now();
        loop {
            let body = self.get(path).await;
            if let Some(found) = seen(&body) {
                return found;
            }
            assert!(begun.elapsed() < WITHIN, "waited in vain: {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ticket(&self, role: &str) -> Value {
        let answer = self.ask("POST", "join-tokens", json!({ "role": role })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body
    }

    /// Joins a machine with one disk; the API's token is what it joins with.
    pub(crate) async fn enrol(&self, name: &str) -> MachineId {
        let ticket = self.ticket("machine").await;
        let text = |field: &str| ticket[field].as_str().expect("a text").to_owned();
        let key = KeyRequest::generate().expect("a key");
        let connect = TlsConnect::to_enrol(text("ca_fingerprint").parse().expect("a fingerprint")).expect("a client");
        let request = Enrol {
            version: CONTROL_VERSION,
            token: JoinSecret::new(text("token")),
            csr_pem: key.request_pem.clone(),
            role: MemberRole::Machine,
            name: name.into(),
            disks: vec![DiskInfo { disk: DiskNo(0), name: "root".into(), size_bytes: 1 << 20, sector_bytes: 512 }],
            replication_addresses: vec![],
            program_version: "test".into(),
        };
        let addresses = [self.control.control_address().to_string()];
        let enrolled = enrol(&connect, &addresses, request, WITHIN).await.expect("enrolled");
        enrolled.machine.expect("a machine's papers").machine
    }

    /// Joins a process server that only talks; it is connected on return.
    pub(crate) async fn join(&self, name: &str) -> (String, RunningLink) {
        let ticket = self.ticket("process-server").await;
        let text = |field: &str| ticket[field].as_str().expect("a text").to_owned();
        let ticket = JoinTicketIn {
            control_addresses: vec![self.control.control_address().to_string()],
            token: JoinSecret::new(text("token")),
            authority: text("ca_fingerprint").parse().expect("a fingerprint"),
        };
        let addresses = vec!["127.0.0.1:20000".to_owned()];
        let dir = self.dir.path().join(name);
        let member = Membership::open_or_join(&dir, Some(&ticket), name, &addresses, "test").await.expect("joins");
        let id = member.id.to_string();
        let connect = Arc::new(TlsConnect::as_member(&member.identity).expect("a client"));
        let life = u64::from_be_bytes(std::array::from_fn(|n| member.id.0[n]));
        let port = Arc::new(Played::default());
        let link = RunningLink::start(LinkSpec::new(port, connect, member, addresses, "test".into(), life, log()));
        let connected = |list: &Value| {
            let items = list["items"].as_array().expect("items");
            items.iter().any(|item| item["id"] == id && item["state"] == "connected").then_some(())
        };
        self.until("process-servers", connected).await;
        (id, link)
    }
}

/// A process server that has three points of each machine and serves whatever it is asked for, but one.
#[derive(Default)]
struct Played(Mutex<Owned>);

#[derive(Default)]
struct Owned {
    machines: BTreeMap<MachineId, Epoch>,
    serving: Vec<u64>,
}

/// The mark that is not there.
pub(crate) const MISSING: MarkId = MarkId([0xee; 16]);

pub(crate) fn point(number: u8) -> PointInfo {
    PointInfo {
        mark: MarkId([number; 16]),
        lsn: Lsn(u64::from(number) * 10),
        kind: MarkKind::Crash,
        captured_at: Timestamp(i64::from(number) * 1_000_000),
        label: String::new(),
        disks: vec![DiskNo(0)],
    }
}

#[async_trait]
impl DataPort for Played {
    async fn execute(&self, command: Command) -> Result<CommandResult, Refusal> {
        let mut owned = self.0.lock().expect("not poisoned");
        Ok(match command {
            Command::SetPacking { .. } | Command::SetRetention { .. } | Command::Scrub { .. } => CommandResult::Done,
            Command::Assign(assign) => {
                owned.machines.insert(assign.machine, assign.epoch);
                CommandResult::Assigned { committed: Lsn(8), next_slot: Slot(3) }
            }
            Command::Release { machine, .. } => {
                owned.machines.remove(&machine);
                CommandResult::Released { committed: Lsn(8), durable: Lsn(9) }
            }
            Command::Redirect { .. } => CommandResult::Done,
            Command::ListPoints { before, limit, .. } => CommandResult::Points(points(before, limit)),
            Command::ServePoint { point: PointSelector::Mark { mark: MISSING }, .. } => {
                return Err(Refusal::new(RefusalCode::PointUnknown, "no such point", "List them."));
            }
            Command::ServePoint { serve, read_only, .. } => {
                owned.serving.push(serve);
                CommandResult::Served { point: point(3), exports: vec![export(serve, read_only)] }
            }
            Command::StopServing { serve } => {
                owned.serving.retain(|served| *served != serve);
                CommandResult::Done
            }
            Command::RestorePoint { .. } => {
                CommandResult::Restored { directory: "/var/lib/farshore/restored/1".into(), total_bytes: 1 << 20 }
            }
            Command::CancelRestore { .. } => CommandResult::Done,
            Command::Chaos(_) => CommandResult::Chaos(Chaos::new(false).execute(ChaosCommand::List)),
            Command::Retention { .. } => CommandResult::Retention(RetentionReport {
                counted_from: Timestamp(9),
                kept: vec![("0".into(), 4)],
                dropped: 1,
                dropped_first: vec![point(1)],
                standing: MergingReport::default(),
                next_merge: None,
                holds: vec![],
            }),
            Command::Hold { hold, reason, expires_at, .. } => CommandResult::Held(HoldInfo {
                hold,
                kind: PinKind::Hold,
                lsn: Lsn(30),
                point: Some(point(3)),
                reason,
                created_at: Timestamp(1),
                expires_at,
            }),
            Command::ReleaseHold { hold, .. } => CommandResult::HoldReleased { was_there: hold.starts_with("hold-") },
            Command::RequestMark { .. } => CommandResult::MarkRequested { mark: MarkId([4; 16]) },
        })
    }

    async fn heartbeat(&self) -> Option<Heartbeat> {
        let owned = self.0.lock().expect("not poisoned");
        let report = |(machine, epoch): (&MachineId, &Epoch)| MachineReport {
            machine: *machine,
            epoch: *epoch,
            state: MachineState::Replicating,
            durable: Lsn(9),
            committed: Lsn(8),
            next_slot: Slot(3),
            packing: None,
            retention: None,
            merging: Some(MergingReport::default()),
            scrub: Some(ScrubReport {
                slices_per_cycle: 30,
                damaged_objects: 1,
                touched_points: 2,
                damaged: vec![DamagedObject {
                    object: "machines/01/log/2".into(),
                    problem: "the object is missing".into(),
                    stays: "there is no copy of it".into(),
                    touched_points: 2,
                    newest_touched: Some(wall_clock()),
                }],
                ..ScrubReport::default()
            }),
            newest_mark: Some(MarkReport { mark: MarkId([3; 16]), lsn: Lsn(7), captured_at: wall_clock() }),
            idle_confirmed_at: None,
            backlog_bytes: 0,
            received_bytes: 0,
            uploaded_bytes: 0,
            upload_failures: 0,
            actor_restarts: 0,
            issues: vec![],
        };
        Some(Heartbeat {
            at: wall_clock(),
            cpu: 0.25,
            cache: CacheReport { used_bytes: 1, bytes_max: 100, backlog_bytes: 0, disk_free_bytes: 1 << 30 },
            vault_reachable: true,
            store: StoreCounts { gets: 3, received_bytes: 4096, ..StoreCounts::default() },
            machines: owned.machines.iter().map(report).collect(),
            serving: owned.serving.clone(),
            near: owned.serving.iter().map(|serve| near(*serve)).collect(),
            events: vec![],
        })
    }

    fn take_events(&self) -> Vec<MemberEvent> {
        vec![]
    }
}

fn near(serve: u64) -> NearReport {
    NearReport { serve, reached_bytes: 1 << 20, total_bytes: 4 << 20, ended: false }
}

fn points(before: Option<Lsn>, limit: u32) -> PointsPage {
    let older = [3, 2, 1].map(point).into_iter().filter(|point| before.is_none_or(|before| point.lsn < before));
    let mut points: Vec<PointInfo> = older.collect();
    let more = points.len() > limit as usize;
    points.truncate(limit as usize);
    let next_before = points.last().filter(|_| more).map(|point| point.lsn);
    PointsPage { points, next_before }
}

fn export(serve: u64, read_only: bool) -> Export {
    let socket = format!("/run/farshore/{serve}.sock");
    let uri = format!("nbd+unix:///root?socket={socket}");
    Export { disk: DiskNo(0), name: "root".into(), size_bytes: 1 << 20, socket, uri, read_only }
}
