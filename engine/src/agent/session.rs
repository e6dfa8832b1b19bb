//! The session to the process server: connects, says what the protocol's agent end says, tells the splitter what came of it.
//!
//! ```text
//!   wait for a target ──► dial its addresses ──► talk ──► lost: wait (doubling, spread), dial again
//!          ▲                                      │
//!          └───────── redirected ─────────────────┘
//!
//!   talk:   Welcome ─► plan the opening ─► first batch ─► batches as the splitter gives them
//!           Refused(unknown life, LSNs taken) before anything was taken ─► once more, with leave to start over
//! ```
//!
//! It holds no lock while it waits, and the write path never waits for it (I1).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use super::hooks;
use super::shared::{Phase, Shared, Target};
use super::status::SessionState;
use crate::capture::opening::{KnownLog, Opening, plan};
use crate::control::backoff::Backoff;
use crate::control::messages::Severity;
use crate::ids::{Chance, Lsn, ProcessServerId};
use crate::protocol::message::{HelloKey, PROTOCOL_VERSION};
use crate::protocol::{Accepted, AgentEnd, AgentEvent, Hello, Refusal, RefusalCode, Reset, ServerMessage};
use crate::record::{DiskInfo, GapReason};
use crate::transport::framed::{FramedReader, FramedWriter};

/// Bytes handed to the protocol's end and not sent; beyond them batches wait in the splitter.
const UNSENT_BYTES_MAX: usize = 8 << 20;
/// Time between two words of an idle machine.
const IDLE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait of the session for anything.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Wait after a refusal that somebody must do something about.
const REFUSED_PAUSE: Duration = Duration::from_secs(20);
/// How long the last words may take.
const FAREWELL_WITHIN: Duration = Duration::from_millis(500);

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections to process servers.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Connects to `address`; the other side must be `expected`, where that is known.
    async fn dial(&self, address: &str, expected: Option<ProcessServerId>) -> Result<Box<dyn Stream>, String>;
}

/// Why a conversation ended.
enum Over {
    /// The connection is no longer there, or of no use.
    Lost(String),
    /// Somebody else takes the writes.
    Redirected,
    /// The same again, at once.
    Again,
    /// Somebody must act.
    Refused(String),
    /// The agent ends.
    Ended,
}

pub(super) struct Session {
    shared: Arc<Shared>,
    dial: Arc<dyn Dial>,
    chance: Box<dyn Chance>,
    end: AgentEnd,
    target: watch::Receiver<Option<Target>>,
    phase: watch::Receiver<Phase>,
    /// The clean stop's LSN once it was given.
    clean_stop: Option<Lsn>,
    idle_said: Instant,
    /// An app mark is being taken.
    app_mark: Arc<AtomicBool>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, dial: Arc<dyn Dial>) -> Self {
        let chance = (shared.config.surroundings.chance)();
        let (target, phase) = (shared.target.subscribe(), shared.phase.subscribe());
        let end = new_end(&shared, shared.known.first, None);
        let (idle_said, app_mark) = (Instant::now(), Arc::default());
        Self { shared, dial, chance, end, target, phase, clean_stop: None, idle_said, app_mark }
    }

    /// Keeps a session until the agent ends.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while *self.phase.borrow() != Phase::Ending {
            let target = self.target.borrow_and_update().clone();
            let pause = match target {
                None => {
                    self.stand(SessionState::NoProcessServer, None);
                    LOOK_EVERY
                }
                Some(target) => match self.visit(&target, &mut backoff).await {
                    Over::Ended => break,
                    Over::Redirected | Over::Again => continue,
                    Over::Lost(reason) => {
                        self.stand(SessionState::Waiting { reason: reason.clone() }, Some(reason));
                        backoff.next(&mut *self.chance)
                    }
                    Over::Refused(reason) => {
                        self.stand(SessionState::Refused { reason: reason.clone() }, Some(reason));
                        REFUSED_PAUSE
                    }
                },
            };
            self.rest(pause).await;
        }
        self.stand(SessionState::Stopped, None);
    }

    /// Waits, unless there is a new target or the agent ends.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.target.changed() => {}
            _ = self.phase.wait_for(|phase| *phase == Phase::Ending) => {}
        }
    }

    /// Tries a target's addresses, and talks to the first that answers.
    async fn visit(&mut self, target: &Target, backoff: &mut Backoff) -> Over {
        let mut reason = String::from("the process server has no address");
        for address in &target.addresses {
            self.stand(SessionState::Connecting { address: address.clone() }, None);
            let dialled = tokio::select! {
                dialled = self.dial.dial(address, target.process_server) => dialled,
                _ = self.target.changed() => return Over::Redirected,
                _ = self.phase.wait_for(|phase| *phase == Phase::Ending) => return Over::Ended,
            };
            match dialled {
                Ok(stream) => match self.talk(stream, address, target, backoff).await {
                    Over::Lost(why) => reason = why,
                    over => return over,
                },
                Err(why) => reason = format!("{address}: {why}"),
            }
        }
        Over::Lost(reason)
    }

    async fn talk(&mut self, stream: Box<dyn Stream>, address: &str, target: &Target, backoff: &mut Backoff) -> Over {
        if let Err(error) = self.announce() {
            return Over::Lost(format!("write {}: {error}", self.shared.state.path().display()));
        }
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (FramedReader::new(read), FramedWriter::new(write));
        self.end.connected(self.shared.tap.now());
        let over = loop {
            self.pump();
            while !writer.is_full() {
                let Some(message) = self.end.poll_send() else { break };
                writer.queue(&message);
            }
            let wake = self.next_wake();
            let events = tokio::select! {
                message = reader.read::<ServerMessage>() => match message {
                    Ok(Some(message)) => self.end.received(message, self.shared.tap.now()),
                    Ok(None) => break Over::Lost("the process server closed the connection".into()),
                    Err(error) => break Over::Lost(error.to_string()),
                },
                flushed = writer.flush(), if writer.queued_bytes() > 0 => match flushed {
                    Ok(()) => Vec::new(),
                    Err(error) => break Over::Lost(error.to_string()),
                },
                () = self.shared.tap.batches_moved() => Vec::new(),
                () = tokio::time::sleep_until(wake) => self.end.tick(self.shared.tap.now()),
                _ = self.phase.changed() => Vec::new(),
                changed = self.target.changed() => {
                    let elsewhere = changed.is_ok() && self.is_elsewhere(target, address);
                    if elsewhere { break Over::Redirected }
                    Vec::new()
                }
            };
            if let Some(over) = self.take(events, address, target, backoff) {
                break over;
            }
            if *self.phase.borrow() == Phase::Ending {
                break Over::Ended;
            }
        };
        match &over {
            Over::Ended => self.end.say_bye("the agent stops"),
            Over::Redirected => self.end.say_bye("the log has another owner"),
            Over::Lost(_) | Over::Again | Over::Refused(_) => {}
        }
        while let Some(message) = self.end.poll_send() {
            writer.queue(&message);
        }
        // Last words are a courtesy: a peer that does not take them misses nothing.
        let _ = tokio::time::timeout(FAREWELL_WITHIN, writer.close()).await;
        self.end.disconnected(self.shared.tap.now());
        self.shared.tap.splitter().forget_compares();
        over
    }

    /// Whether the newest target is another place than this one.
    fn is_elsewhere(&mut self, target: &Target, address: &str) -> bool {
        let newest = self.target.borrow_and_update().clone();
        newest.is_some_and(|newest| newest.epoch > target.epoch || !newest.addresses.iter().any(|at| at == address))
    }

    /// Before a process server hears of this life it is written down that one may have.
    fn announce(&self) -> std::io::Result<()> {
        if self.shared.state.get().announced {
            Ok(())
        } else {
            self.shared.state.change(|state| state.announced = true)
        }
    }

    fn next_wake(&self) -> Instant {
        let now = self.shared.tap.now();
        let due = self.shared.tap.splitter().batch_due().into_iter().chain(self.end.next_tick()).min();
        let wait = due.map_or(LOOK_EVERY, |due| due.saturating_sub(now).min(LOOK_EVERY));
        Instant::now() + wait.max(Duration::from_millis(1))
    }

    /// Moves what is complete from the splitter to the protocol's end.
    fn pump(&mut self) {
        if !self.end.is_open() || !self.shared.tap.splitter().is_open() {
            return;
        }
        let now = self.shared.tap.now();
        self.shared.tap.splitter().close_batch(now);
        while self.end.unsent_bytes() < UNSENT_BYTES_MAX {
            let Some(draft) = self.shared.tap.splitter().take_batch() else { break };
            self.end.push(draft.lay_out());
        }
        self.compare();
        self.say_idle();
        if *self.phase.borrow() == Phase::Closing {
            self.close_log();
        }
    }

    /// Asks for the digests that the scanner will want next.
    fn compare(&mut self) {
        while self.end.may_compare() {
            let Some(part) = self.shared.tap.splitter().next_compare() else { break };
            self.end.compare(part);
        }
    }

    /// While nothing is written, says so: the newest point is as good as now.
    fn say_idle(&mut self) {
        if self.idle_said.elapsed() < IDLE_EVERY {
            return;
        }
        let at = self.shared.wall();
        let idle = {
            let splitter = self.shared.tap.splitter();
            splitter.idle_since().is_some() && splitter.is_drained() && splitter.batch_due().is_none()
        };
        if idle && self.end.unsent_bytes() == 0 {
            self.end.idle(at);
            self.idle_said = Instant::now();
        }
    }

    /// Nothing is written any more: the log ends in a clean stop.
    fn close_log(&mut self) {
        if self.clean_stop.is_some() {
            return;
        }
        let (wall, now) = (self.shared.wall(), self.shared.tap.now());
        let (stopped, drafts) = {
            let mut splitter = self.shared.tap.splitter();
            splitter.last_mark(now, wall, &mut *self.chance);
            let stopped = splitter.clean_stop(wall, now);
            (stopped, std::iter::from_fn(|| splitter.take_batch()).collect::<Vec<_>>())
        };
        self.clean_stop = stopped;
        drafts.into_iter().for_each(|draft| self.end.push(draft.lay_out()));
    }

    fn take(&mut self, events: Vec<AgentEvent>, address: &str, target: &Target, backoff: &mut Backoff) -> Option<Over> {
        let mut over = None;
        for event in events {
            match event {
                AgentEvent::Accepted(accepted) => {
                    backoff.reset();
                    over = over.or(self.accepted(accepted, address, target));
                }
                AgentEvent::Durable(lsn) => self.shared.standing.lock().durable = lsn,
                AgentEvent::Committed(lsn) => self.committed(lsn),
                AgentEvent::BeginningCommitted => self.confirmed(),
                AgentEvent::Refused(refusal) => over = over.or(Some(self.refused(&refusal))),
                AgentEvent::Redirected(redirect) => {
                    let (addresses, epoch) = (redirect.addresses, redirect.epoch);
                    self.shared.retarget(Target { addresses, epoch, process_server: None });
                    over = over.or(Some(Over::Redirected));
                }
                AgentEvent::Digests(digests) => {
                    self.shared.tap.splitter().compared(digests);
                    self.shared.tap.wake_scanner();
                }
                AgentEvent::MarkNow(request) => hooks::mark(&self.shared, request, &self.app_mark),
                AgentEvent::Alarm(alarm) => {
                    self.shared.event(Severity::Critical, "log_alarm", alarm.to_string());
                    over = over.or(Some(Over::Refused(alarm.to_string())));
                }
                AgentEvent::Disconnect(reason) => over = over.or(Some(Over::Lost(reason))),
            }
        }
        over
    }

    fn accepted(&mut self, accepted: Accepted, address: &str, target: &Target) -> Option<Over> {
        let Accepted { welcome, opening_due } = accepted;
        if opening_due {
            let hello = self.end.hello();
            let mut known = KnownLog { first: hello.first_lsn, ..self.shared.known.clone() };
            if hello.reset.is_some() {
                // Leave was asked for to follow a life that is not known: nothing that is remembered fits this log.
                known.lineage.clear();
            }
            let opening = plan(&known, &welcome.log);
            if let Err(reason) = self.open(opening) {
                self.shared.event(Severity::Critical, "log_cannot_be_opened", reason.clone());
                return Some(Over::Refused(reason));
            }
        }
        let mut standing = self.shared.standing.lock();
        standing.session = SessionState::Open { address: address.to_owned() };
        standing.process_server = target.process_server;
        standing.epoch = self.end.epoch_known();
        standing.last_error = None;
        standing.durable = welcome.durable;
        drop(standing);
        self.shared.tap.wake_scanner();
        None
    }

    /// Begins this life in a log: at the first owner, or anew at another that had not got that far.
    fn open(&mut self, opening: Opening) -> Result<(), String> {
        let tap = &self.shared.tap;
        let now = tap.now();
        if tap.splitter().is_open() {
            let batch = tap.splitter().reopen(&opening).map_err(|error| error.to_string())?;
            self.end.open_with(batch);
            return Ok(());
        }
        let next_disk = opening.next_disk;
        let state = &self.shared.state;
        state
            .change(|state| state.next_disk = next_disk)
            .map_err(|e| format!("write {}: {e}", state.path().display()))?;
        for (number, (disk, opened)) in tap.disks().iter().zip(&opening.disks).enumerate() {
            let Some(distrust) = opened.full_scan else { continue };
            tap.record_all_hot(number);
            if opened.added.is_none() {
                let text = format!("disk '{}' is read and compared as a whole: {distrust}", disk.name);
                self.shared.event(Severity::Warning, distrust.code(), text);
            }
        }
        self.shared.standing.lock().opening = Some(opening.clone());
        let (batch, _) = tap.splitter().open(opening, now);
        self.end.open_with(batch);
        Ok(())
    }

    fn committed(&mut self, lsn: Lsn) {
        let now = self.shared.tap.now();
        let mut splitter = self.shared.tap.splitter();
        splitter.committed(lsn);
        splitter.close_batch(now);
        drop(splitter);
        self.shared.tap.wake_scanner();
        let mut standing = self.shared.standing.lock();
        standing.committed = lsn;
        standing.durable = standing.durable.max(lsn);
        standing.clean_stop = self.clean_stop.filter(|stop| *stop <= lsn);
    }

    fn confirmed(&self) {
        let written = self.shared.state.change(|state| {
            state.confirmed = true;
            state.lineage.clear();
        });
        if let Err(error) = written {
            // The lineage stays longer than it need be, which does no harm.
            slog::warn!(self.shared.events.logger(), "the agent's state cannot be written"; "error" => %error);
        }
    }

    /// Turned away. A log that ends in a life which this agent does not know is taken over once, before anything of this
    /// life was taken: then every disk is read as a whole. Later it means that two agents write as one machine.
    fn refused(&mut self, refusal: &Refusal) -> Over {
        if let Some(redirect) = &refusal.redirect {
            let (addresses, epoch) = (redirect.addresses.clone(), redirect.epoch);
            self.shared.retarget(Target { addresses, epoch, process_server: None });
        }
        let fresh = !self.shared.tap.splitter().is_open();
        match refusal.code {
            RefusalCode::IncarnationUnknown | RefusalCode::LsnTaken if fresh && self.end.hello().reset.is_none() => {
                self.start_over(refusal)
            }
            code if code.passes_by_itself() => Over::Lost(refusal.text.clone()),
            _ => {
                self.shared.event(Severity::Critical, "refused_by_process_server", refusal.text.clone());
                Over::Refused(refusal.text.clone())
            }
        }
    }

    fn start_over(&mut self, refusal: &Refusal) -> Over {
        let before = self.end.hello().first_lsn;
        let first = before.max(refusal.log_last.next());
        let reserved = self.shared.state.change(|state| state.reserved = Lsn(state.reserved.0 + first.0 - before.0));
        if let Err(error) = reserved {
            return Over::Lost(format!("write {}: {error}", self.shared.state.path().display()));
        }
        let reset = refusal
            .log_incarnation
            .map(|log_incarnation| Reset { log_incarnation, reason: GapReason::ActivityLogLost });
        let text = format!("the process server says: {}; every disk is read and compared as a whole", refusal.text);
        self.shared.event(Severity::Warning, "incarnation_unknown", text);
        self.end = new_end(&self.shared, first, reset);
        Over::Again
    }

    fn stand(&self, session: SessionState, error: Option<String>) {
        let mut standing = self.shared.standing.lock();
        standing.session = session;
        standing.process_server = None;
        if error.is_some() {
            standing.last_error = error;
        }
    }
}

fn new_end(shared: &Shared, first_lsn: Lsn, reset: Option<Reset>) -> AgentEnd {
    let (known, grant, state) = (&shared.known, &shared.papers.grant, shared.state.get());
    let disks = known.disks.iter().enumerate();
    let hello = Hello {
        version: PROTOCOL_VERSION,
        machine: grant.machine,
        timeline: grant.timeline,
        incarnation: known.incarnation,
        lineage: known.lineage.clone(),
        trusted: known.disks.iter().all(|disk| disk.distrust.is_none()),
        reset,
        epoch_known: state.epoch,
        first_lsn,
        data_key: HelloKey::new(*grant.data_key.bytes()),
        agent: shared.config.version.clone(),
        disks: disks
            .map(|(number, disk)| DiskInfo {
                disk: crate::ids::DiskNo(number as u16),
                name: disk.name.clone(),
                size_bytes: disk.size_bytes,
                sector_bytes: disk.sector_bytes,
            })
            .collect(),
    };
    AgentEnd::new(hello, known.committed)
}
