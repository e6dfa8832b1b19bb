//! The mobility agent put together: exports, capture, session to the process server.
//!
//! ```text
//!   start   lock, papers, disks ─► state and activity logs for a new life, synced ─► exports up ─► threads
//!   stop    exports down ─► scanner, clock, cooler end ─► clean stop into the log, committed (bounded) ─► disks synced,
//!           activity logs closed ─► "stopped cleanly" written down
//!
//!   threads  nbd-* (one a connection and a few workers)   agent-scanner   agent-clock   agent-cooler
//!            agent-session (a runtime of its own: replication, control)
//! ```
//!
//! Invariants: the exports are up before any server is looked for, and stay up whatever becomes of them (I1). What is held
//! is bounded by the budget (I10).
//! Crash story: `agent.state`, the activity logs and the disks themselves are all that counts. The next life follows this
//! one in the log, opens a gap, reads what was hot (I5), and closes it.

pub mod config;
mod control;
mod disks;
pub mod error;
pub mod hooks;
mod keeper;
pub mod papers;
mod seen;
pub mod session;
mod shared;
pub mod state;
mod state_dir;
pub mod status;
pub mod tls_dial;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slog::Logger;
use tokio::sync::watch;

pub use config::{AgentConfig, BadDisk, DiskConfig, Surroundings};
pub use error::AgentError;
pub use hooks::Hooks;
pub use papers::{EnrolAt, Papers};
pub use session::{Dial, Stream};
pub use shared::Target;
pub use status::{AgentStatus, DiskStatus, SessionState};
pub use tls_dial::TlsDial;

use crate::capture::opening::KnownLog;
use crate::capture::scan::SCAN_CHUNK_BYTES;
use crate::capture::{Notes, Splitter, SplitterConfig, Tap, TapExport, scanner};
use crate::control::link::Connect;
use crate::control::messages::Severity;
use crate::ids::{Epoch, IncarnationId, Lsn};
use crate::nbd::{NbdServer, ServerOptions};
use crate::vault::crypto::DataKey;
use disks::{OpenDisk, ReadyDisk};
use papers::Policy;
use seen::Seen;
use shared::{DiskFacts, Phase, Shared, Standing};
use state::{AgentState, Remembered, StateFile};
use status::Events;

/// How long a batch that is not full waits for more. Chosen: a fiftieth of the shortest seal interval; a tenth of it costs a
/// message per write, ten times it shows in the RPO of a machine that writes little.
const LINGER: Duration = Duration::from_millis(10);
/// How far a killed life may have gone on telling times beyond the last one that it noted; it notes one a second.
const TOLD_SLACK_MICROS: i64 = 5_000_000;
/// Part of a stop that connections get to end by themselves.
const EXPORTS_GRACE: Duration = Duration::from_secs(2);

/// How an agent reaches others.
pub struct Network {
    /// To process servers.
    pub dial: Arc<dyn Dial>,
    /// To the configuration server, and its addresses; without, the target is given by hand.
    pub control: Option<(Arc<dyn Connect>, Vec<String>)>,
    /// Who takes the writes, as far as is known already.
    pub target: Option<Target>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("target", &self.target).finish_non_exhaustive()
    }
}

/// What a stop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything is in the vault; the next start opens no gap.
    Clean,
    /// Something is not: the next start reads what is hot.
    Unclean,
}

/// A running agent. Dropping it stops it as [`Agent::stop`] does, without waiting for the vault.
pub struct Agent {
    shared: Arc<Shared>,
    exports: Vec<NbdServer>,
    threads: Vec<JoinHandle<()>>,
    session: Option<JoinHandle<()>>,
    _lock: File,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("name", &self.shared.config.name).finish_non_exhaustive()
    }
}

/// An agent whose disks are open and locked, and that has not begun a life.
pub struct Prepared {
    config: AgentConfig,
    disks: Vec<OpenDisk>,
    lock: File,
    logger: Logger,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Takes the state directory and opens the disks.
    pub fn new(config: AgentConfig, logger: Logger) -> Result<Self, AgentError> {
        config.check().map_err(AgentError::Config)?;
        let lock = state_dir::take(&config.state_dir)?;
        let disks = disks::open(&config)?;
        Ok(Self { config, disks, lock, logger })
    }

    /// The machine's papers; asks for them where there are none yet.
    pub async fn papers(&self, ask: Option<&EnrolAt>) -> Result<Papers, AgentError> {
        if let Some(papers) = Papers::load(&self.config.state_dir)? {
            return Ok(papers);
        }
        let missing = "this machine is not enrolled: start it once with --server, --token and --ca-fingerprint";
        let ask = ask.ok_or_else(|| AgentError::Config(missing.into()))?;
        Ok(Papers::enrol(&self.config.state_dir, ask, disks::infos(&self.disks)).await?)
    }

    /// Begins a life: exports are up on return.
    pub fn start(self, papers: Papers, network: Network) -> Result<Agent, AgentError> {
        let Self { mut config, disks, lock, logger } = self;
        // What the configuration server last said comes before what the agent was started with.
        let said = Policy::load(&config.state_dir);
        config.mark_interval = said.as_ref().map_or(config.mark_interval, Policy::interval);
        let state_path = config.file("agent.state");
        let failed = |doing| {
            let path = state_path.clone();
            move |cause| AgentError::State { doing, path, cause }
        };
        let remembered = state::read(&state_path).map_err(failed("read"))?;
        let before = match &remembered {
            Remembered::State(state) if state.log == papers.log() => Some(&**state),
            Remembered::State(_) | Remembered::Nothing | Remembered::Damaged => None,
        };
        let life = IncarnationId::draw(&mut *(config.surroundings.chance)());
        let state = AgentState::next_life(before, papers.log(), life);
        let seen = Seen::load(&config.file("agent.seen"));
        let ready = disks
            .into_iter()
            .map(|disk| disks::ready(&config, disk, papers.log(), before, life, &seen))
            .collect::<Result<Vec<_>, _>>()?;
        let file = StateFile::begin(&state_path, state.clone()).map_err(failed("write"))?;
        let clean_stop = before.and_then(|before| before.clean_stop);
        let (shared, starts) = assemble(config, papers, file, &state, clean_stop, ready, &network, logger);
        tell_of_start(&shared, &remembered, before, &starts);
        launch(shared, network, lock)
    }
}

/// What the start found, of each disk.
struct Found {
    hot_regions: u32,
    damaged_pages: u32,
}

#[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
fn assemble(
    config: AgentConfig,
    papers: Papers,
    file: StateFile,
    state: &AgentState,
    clean_stop: Option<Lsn>,
    ready: Vec<ReadyDisk>,
    network: &Network,
    logger: Logger,
) -> (Arc<Shared>, Vec<Found>) {
    let known = KnownLog {
        incarnation: state.incarnation,
        lineage: state.lineage.clone(),
        clean_stop,
        committed: state.committed,
        first: state.first_lsn(),
        next_disk: state.next_disk,
        disks: ready.iter().map(|disk| disk.known.clone()).collect(),
    };
    let found: Vec<Found> = ready
        .iter()
        .map(|disk| Found { hot_regions: disk.start.hot.count(), damaged_pages: disk.damaged_pages })
        .collect();
    let facts = ready.iter().zip(&config.disks).zip(&found).map(|((disk, asked), found)| DiskFacts {
        name: disk.known.name.clone(),
        size_bytes: disk.known.size_bytes,
        sector_bytes: disk.known.sector_bytes,
        export: format!("nbd+unix:///{}?socket={}", disk.known.name, config.socket(asked).display()),
        hot_regions_at_start: found.hot_regions,
    });
    let facts = facts.collect();
    let splitter_config = SplitterConfig {
        budget_bytes: config.budget_bytes,
        mark_interval: config.mark_interval,
        linger: LINGER,
        scan_chunk_bytes: SCAN_CHUNK_BYTES,
    };
    let starts = ready.iter().map(|disk| disk.start.clone()).collect();
    let splitter = Splitter::new(splitter_config, known.first, starts);
    let key = DataKey::from_bytes(*papers.grant.data_key.bytes()).digest_key();
    let taps = ready.into_iter().map(|disk| disk.tap).collect();
    let standing = Standing {
        session: SessionState::NoProcessServer,
        process_server: None,
        epoch: state.epoch,
        durable: Lsn::ZERO,
        committed: state.committed,
        last_error: None,
        opening: None,
        clean_stop: None,
    };
    let disk_count = known.disks.len();
    let told = Seen::told(&config.file("agent.seen"));
    let resyncs_begun = Policy::load(&config.state_dir).map_or(0, |said| said.resyncs);
    // It is noted once a second: a life that was killed may have told later times, which a clock that is right has passed.
    let told = if (config.surroundings.wall)().0 < told { told.saturating_add(TOLD_SLACK_MICROS) } else { told };
    let shared = Arc::new_cyclic(|shared: &std::sync::Weak<Shared>| {
        let shared = shared.clone();
        Shared {
            tap: Arc::new(Tap::new(splitter, taps, key, Box::new(StateNotes(shared)))),
            config,
            papers,
            state: file,
            known,
            facts,
            events: Events::new(logger),
            standing: Mutex::new(standing),
            missing: Mutex::new(vec![None; disk_count]),
            told: AtomicI64::new(told),
            resyncs_wanted: AtomicU64::new(0),
            resyncs_begun: AtomicU64::new(resyncs_begun),
            phase: watch::Sender::new(Phase::Running),
            target: watch::Sender::new(network.target.clone()),
        }
    });
    (shared, found)
}

/// What the tap has written down, in the agent's state.
struct StateNotes(std::sync::Weak<Shared>);

impl StateNotes {
    fn change(&self, change: impl FnOnce(&mut AgentState)) -> std::io::Result<()> {
        let shared = self.0.upgrade().ok_or_else(|| std::io::Error::other("the agent has ended"))?;
        shared.state.change(change)
    }
}

impl Notes for StateNotes {
    fn reserve(&self, last: Lsn) -> std::io::Result<()> {
        self.change(|state| state.reserved = state.reserved.max(last))
    }

    fn disavow(&self) -> std::io::Result<()> {
        self.change(|state| state.disavowed = true)
    }
}

/// Says what a start means for the disks, before any server is asked.
fn tell_of_start(shared: &Shared, remembered: &Remembered, before: Option<&AgentState>, found: &[Found]) {
    if matches!(remembered, Remembered::Damaged) {
        let text = format!(
            "{} is damaged: the machine's log is taken over, and every disk is read",
            shared.state.path().display()
        );
        shared.event(Severity::Warning, "agent_state_damaged", text);
    }
    if matches!(remembered, Remembered::State(_)) && before.is_none() {
        let text = format!(
            "{} is of another machine, vault or timeline: nothing it says counts, and every disk is compared",
            shared.state.path().display()
        );
        shared.event(Severity::Warning, "agent_state_of_other_log", text);
    }
    for (disk, found) in shared.known.disks.iter().zip(found) {
        let mib = (u64::from(found.hot_regions) * shared.config.region_bytes) >> 20;
        if found.damaged_pages > 0 {
            let text = format!(
                "{} pages of the activity log of disk '{}' are damaged: their regions are read again",
                found.damaged_pages, disk.name
            );
            shared.event(Severity::Warning, "activity_log_damaged", text);
        }
        match (disk.distrust, before) {
            (Some(distrust), Some(_)) => {
                let text = format!("disk '{}' will be read and compared as a whole: {distrust}", disk.name);
                shared.event(Severity::Warning, distrust.code(), text);
            }
            (None, Some(before)) if before.clean_stop.is_none() => {
                let text = format!("the agent did not stop cleanly: {mib} MiB of disk '{}' are read again", disk.name);
                shared.event(Severity::Warning, "unclean_stop", text);
            }
            _ => {}
        }
    }
}

fn launch(shared: Arc<Shared>, network: Network, lock: File) -> Result<Agent, AgentError> {
    let mut exports = Vec::with_capacity(shared.facts.len());
    for (number, disk) in shared.config.disks.iter().enumerate() {
        let failed = |cause| AgentError::Export { disk: disk.name.clone(), cause };
        let path = shared.config.socket(disk);
        let server = NbdServer::bind_unix(&path, ServerOptions::default(), shared.events.logger()).map_err(failed)?;
        server.set_exports(vec![Arc::new(TapExport::new(shared.tap.clone(), number))]);
        exports.push(server);
    }
    let mut agent = Agent { shared, exports, threads: Vec::new(), session: None, _lock: lock };
    let shared = &agent.shared;
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(run).map_err(|cause| AgentError::State {
            doing: "start a thread beside",
            path: shared.config.state_dir.clone(),
            cause,
        })
    };
    let tap = shared.tap.clone();
    let mut threads = vec![spawn("agent-scanner", Box::new(move || scanner::run(&tap)))?];
    let clock = shared.clone();
    threads.push(spawn("agent-clock", Box::new(move || keeper::clock(&clock)))?);
    let cooler = shared.clone();
    threads.push(spawn("agent-cooler", Box::new(move || keeper::cooler(&cooler)))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|cause| {
        AgentError::State { doing: "start a runtime beside", path: shared.config.state_dir.clone(), cause }
    })?;
    let talking = shared.clone();
    let session = spawn("agent-session", Box::new(move || runtime.block_on(converse(talking, network))))?;
    keeper::leave_traces(shared);
    agent.threads = threads;
    agent.session = Some(session);
    Ok(agent)
}

async fn converse(shared: Arc<Shared>, network: Network) {
    let session = session::Session::new(shared.clone(), network.dial).run();
    match network.control {
        Some((connect, addresses)) => {
            tokio::join!(session, control::run(shared, connect, addresses));
        }
        None => session.await,
    }
}

impl Agent {
    /// How it stands.
    pub fn status(&self) -> AgentStatus {
        self.shared.status()
    }

    /// Somebody else takes the writes from now on.
    pub fn retarget(&self, addresses: Vec<String>, epoch: Epoch) {
        self.shared.retarget(Target { addresses, epoch, process_server: None });
    }

    /// Stops within about `deadline`: the exports end, everything goes into the vault if that can be had in time, the
    /// disks are synced.
    pub fn stop(mut self, deadline: Duration) -> Stopped {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Duration) -> Stopped {
        let until = Instant::now() + deadline;
        let left = || until.saturating_duration_since(Instant::now());
        for export in self.exports.drain(..) {
            export.shutdown(EXPORTS_GRACE.min(left() / 2));
        }
        let Some(session) = self.session.take() else { return Stopped::Unclean };
        self.shared.tap.stop();
        for thread in self.threads.drain(..) {
            // One that has panicked has said so; nothing is left to do for it.
            let _ = thread.join();
        }
        self.shared.phase.send_replace(Phase::Closing);
        while self.shared.standing.lock().clean_stop.is_none() && !left().is_zero() {
            std::thread::sleep(Duration::from_millis(10).min(left()));
        }
        self.shared.phase.send_replace(Phase::Ending);
        let _ = session.join();
        let clean_stop = self.shared.standing.lock().clean_stop;
        keeper::settle(&self.shared);
        let written = self.shared.state.change(|state| state.clean_stop = clean_stop);
        keeper::leave_traces(&self.shared);
        if clean_stop.is_some() && written.is_ok() { Stopped::Clean } else { Stopped::Unclean }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;
