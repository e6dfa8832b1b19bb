//! A process server with everything around it: vault, cache directory, certificates, and agents that speak the real
//! protocol over TLS on loopback.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the rig")]
#![allow(clippy::unwrap_used, reason = "test support: a failure here is a failed test")]

pub mod agent;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_actors::data::{
    DataConfig, DataEvent, DataEventKind, DataLimits, DataPlane, EventSink, MachinePhase, MachineStatus,
};
use farshore_actors::supervise::{Chaos, OsChance, RestartPolicy, wall_clock};
use farshore_engine::cache::io::CacheIo;
use farshore_engine::control::messages::{Assign, Command, CommandResult, Refusal, WireKey};
use farshore_engine::ids::{Epoch, MachineId, ProcessServerId, TimelineId, WriterId};
use farshore_engine::log::sequencer::SequencerLimits;
use farshore_engine::transport::identity::{CertificateAuthority, Role};
use farshore_engine::transport::tls::{ClientAuth, SharedIdentity, server_config};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::segment_view::LogSource;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::memory::MemoryStore;
use slog::{Discard, Drain, Logger, o};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use agent::Agent;

pub const TIMELINE: TimelineId = TimelineId([0x71; 8]);

/// Longest wait for anything. Only a defect makes a test wait so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, bounded.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = std::time::Instant::now();
    while began.elapsed() < PATIENCE {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// What the servers of a test share.
pub struct Rig {
    pub dir: TempDir,
    pub authority: Arc<CertificateAuthority>,
    pub store: Arc<dyn ObjectStore>,
    pub limits: DataLimits,
    pub chaos: Arc<Chaos>,
    pub io: Arc<dyn CacheIo>,
}

/// A process server that runs.
pub struct Server {
    pub plane: DataPlane,
    pub events: Receiver<DataEvent>,
    name: &'static str,
}

pub fn machine(n: u8) -> MachineId {
    MachineId([n; 16])
}

pub fn key(n: u8) -> DataKey {
    DataKey::from_bytes([n ^ 0x5a; 32])
}

fn logger() -> Logger {
    if std::env::var_os("LOUD").is_none() {
        return Logger::root(Discard, o!());
    }
    struct Lines;
    impl Drain for Lines {
        type Ok = ();
        type Err = slog::Never;
        fn log(&self, record: &slog::Record<'_>, values: &slog::OwnedKVList) -> Result<(), slog::Never> {
            struct Fields(String);
            impl slog::Serializer for Fields {
                fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
                    self.0.push_str(&format!(" {key}={value}"));
                    Ok(())
                }
            }
            let mut fields = Fields(String::new());
            drop(slog::KV::serialize(&record.kv(), record, &mut fields));
            drop(slog::KV::serialize(values, record, &mut fields));
            eprintln!("{} {}{}", record.level(), record.msg(), fields.0);
            Ok(())
        }
    }
    Logger::root(Lines, o!())
}

/// Small enough that a test closes many segments.
pub fn small_limits() -> DataLimits {
    DataLimits {
        sequencer: SequencerLimits {
            segment_bytes_max: 256 << 10,
            seal_interval: Duration::from_millis(100),
            in_flight_bytes_max: 4 << 20,
            append_bytes_max: 1 << 20,
        },
        tick: Duration::from_millis(50),
        restarts: RestartPolicy {
            restarts_max: 100,
            backoff_max: Duration::from_millis(100),
            ..RestartPolicy::default()
        },
        storm_rest: Duration::from_millis(500),
        arbiters: 2,
        ..DataLimits::default()
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with_store(Arc::new(MemoryStore::new()))
    }

    pub fn with_store(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            authority: Arc::new(CertificateAuthority::generate(wall_clock(), 7).unwrap()),
            store,
            limits: small_limits(),
            chaos: Arc::new(Chaos::new(true)),
            io: DataConfig::disk(),
        }
    }

    pub fn cache_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("cache")
    }

    /// Starts a process server over the directory of this name.
    pub async fn server(&self, name: &'static str) -> Server {
        let role = Role::ProcessServer(ProcessServerId::draw(&mut OsChance));
        let identity = self.authority.issue(role, &[], wall_clock(), 7).unwrap();
        let shared = SharedIdentity::new(&identity).unwrap();
        let (sink, events) = EventSink::new();
        let config = DataConfig {
            cache_dir: self.cache_dir(name),
            serve_dir: self.dir.path().join(name).join("serve"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: server_config(&shared, self.authority.certificate(), ClientAuth::Required).unwrap(),
            store: self.store.clone(),
            io: self.io.clone(),
            limits: self.limits.clone(),
            events: sink,
            chaos: self.chaos.clone(),
            log: logger().new(o!("server" => name)),
        };
        let plane = DataPlane::start(config).await.unwrap();
        Server { plane, events, name }
    }

    /// An agent of machine `n` with disks of these sizes, which connects to `server`.
    pub fn agent(&self, server: &Server, n: u8, disk_bytes: &[u64]) -> Agent {
        Agent::start(&self.authority, server.plane.address(), n, disk_bytes)
    }

    pub async fn reader(&self, n: u8) -> TimelineReader {
        let source = LogSource::new(self.store.clone(), machine(n), key(n));
        TimelineReader::open(source, TIMELINE).await.unwrap()
    }

    /// Every point of the machine shows exactly what its disks held at the mark; gives how many there are (I2, I3).
    pub async fn check_points(&self, n: u8, agent: &Agent) -> usize {
        let reader = self.reader(n).await;
        assert_eq!(reader.broken(), None);
        let taken = agent.taken();
        let points = reader.points();
        for point in &points {
            let snapshot = taken.iter().find(|taken| taken.id == point.id).expect("a point is a mark that was taken");
            assert_eq!(snapshot.lsn, point.lsn);
            for disk in &point.disks {
                let held = &snapshot.disks[disk];
                let frames = Arc::new(FrameCache::new(8 << 20));
                let volume = Volume::of_point(&reader, point, *disk, frames, VolumeLimits::default()).unwrap();
                let mut read = vec![0; held.len()];
                volume.read(0, &mut read).await.unwrap();
                assert!(read == *held, "disk {disk} at LSN {} is not what was written", point.lsn);
            }
        }
        points.len()
    }
}

impl Server {
    pub async fn assign(&self, n: u8, epoch: u64) -> Result<CommandResult, Refusal> {
        self.assign_as(n, epoch, WriterId::draw(&mut OsChance)).await
    }

    pub async fn assign_as(&self, n: u8, epoch: u64, writer: WriterId) -> Result<CommandResult, Refusal> {
        self.assign_doubting(n, epoch, writer, Vec::new()).await
    }

    /// With objects that an owner before found damaged.
    pub async fn assign_doubting(
        &self,
        n: u8,
        epoch: u64,
        writer: WriterId,
        doubted: Vec<String>,
    ) -> Result<CommandResult, Refusal> {
        let (machine, epoch, data_key) = (machine(n), Epoch(epoch), WireKey::new(*key(n).as_bytes()));
        let assign = Assign { machine, timeline: TIMELINE, epoch, writer, data_key, packing: None, doubted };
        self.plane.execute(Command::Assign(assign)).await
    }

    pub async fn status(&self, n: u8) -> Option<MachineStatus> {
        let report = self.plane.report().await.unwrap();
        report.machines.into_iter().find(|status| status.machine == machine(n))
    }

    pub async fn wait_phase(&self, n: u8, phase: MachinePhase) {
        let name = self.name;
        until(&format!("machine {n} is {phase:?} at {name}"), async || {
            self.status(n).await.is_some_and(|status| status.phase == phase)
        })
        .await;
    }

    /// Everything that was told until now.
    pub fn told(&mut self) -> Vec<DataEventKind> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| event.kind).collect()
    }
}
