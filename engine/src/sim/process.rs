//! One machine's seat on a process server: the server's disk, and the process that lives there for the machine. The shell
//! around the cores, as the actors are.
//!
//! ```text
//!   start ─► read the tail ─► claim the cache, recover, unlock ─► Committer ─(adopted)─► Sequencer, sessions
//!     ▲                                                              │ Reread: start again
//!     └── kill, power cut, damage ◄──────────────────────────────────┤ Fenced: over
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::context::{Context, Event, LinkNo, ProcessEvent};
use super::counters::Seen;
use super::handover::Leaves;
use super::log::ModelLog;
use super::maker;
use super::mutation::Mutation;
use super::schedule::Kind;
use super::session::Outgoing;
use super::world::SERVERS;
use crate::batch::Batch;
use crate::cache::dir::{CacheDir, may_continue};
use crate::cache::file::SegmentFile;
use crate::cache::model::{DiskFault, ModelDisk};
use crate::cache::recover::{Recovered, recover, survey, unlock};
use crate::cache::{CacheError, note::Note};
use crate::ids::{DiskNo, Lsn, Timestamp};
use crate::log::committer::Committer;
use crate::log::sequencer::{AppendJob, AppendNo, BatchNo, ClosedSegment, Dispatch, LogOf, Sequencer, SequencerLimits};
use crate::log::{Owner, SegmentNo};
use crate::protocol::{Hello, Part, ServerEnd};
use crate::vault::segment::{FooterDigest, SealedItem};
use crate::vault::state::LogState;

/// Small enough that a run of seconds fills many segments.
const LIMITS: SequencerLimits = SequencerLimits {
    segment_bytes_max: 24 << 10,
    seal_interval: Duration::from_millis(250),
    in_flight_bytes_max: 1 << 20,
    append_bytes_max: 16 << 10,
};

/// Room on a cache disk.
pub(super) const CACHE_BYTES: u64 = 64 << 20;

/// A seat: what outlives its processes.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) index: usize,
    pub(super) disk: ModelDisk,
    /// What the configuration server told it.
    pub(super) assigned: Option<Owner>,
    pub(super) process: Option<Process>,
    pub(super) lives: u64,
    /// What it acknowledged as durable, and as which owner.
    pub(super) told: Option<(Owner, Lsn)>,
    /// Its cache was damaged: what it called durable may be gone.
    pub(super) damaged: bool,
    /// It has lost its cache and asks for a new epoch.
    pub(super) wants_epoch: bool,
}

/// One life of its process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) server: usize,
    pub(super) life: u64,
    pub(super) owner: Owner,
    pub(super) dir: CacheDir,
    pub(super) committer: Option<Committer>,
    pub(super) sequencer: Option<Sequencer>,
    pub(super) log_end: LogState,
    pub(super) next_segment: SegmentNo,
    pub(super) closed: BTreeMap<SegmentNo, (ClosedSegment, Option<Note>)>,
    pub(super) objects: BTreeMap<[u8; 32], Bytes>,
    pub(super) committed: Lsn,
    pub(super) sessions: BTreeMap<LinkNo, ServerEnd>,
    pub(super) hellos: BTreeMap<LinkNo, Box<Hello>>,
    pub(super) open: Option<LinkNo>,
    /// Questions for digests that were not answered, per session.
    pub(super) compares: BTreeMap<LinkNo, VecDeque<(Part, Lsn)>>,
    pub(super) outgoing: Vec<Outgoing>,
    /// The highest LSN that this life called durable.
    pub(super) told: Lsn,
    /// Set when the process cannot go on as it is.
    pub(super) end: Option<End>,
    /// The log is being handed over.
    pub(super) leaves: Leaves,
    file: Option<SegmentFile>,
    failed_writes: bool,
    tick_at: Option<Duration>,
    disk: ModelDisk,
}

/// Why a process cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A newer owner has the log.
    Fenced,
    /// It starts again from tail and cache.
    Again,
}

/// What a seat is called.
pub(super) fn name(seat: usize) -> String {
    format!("server {}/{}", seat % SERVERS, seat / SERVERS)
}

impl Server {
    pub(super) fn new(index: usize, disk: ModelDisk) -> Self {
        Self { index, disk, assigned: None, process: None, lives: 0, told: None, damaged: false, wants_epoch: false }
    }

    pub(super) fn name(&self) -> String {
        name(self.index)
    }

    /// Starts a process for what is assigned, if anything is.
    pub(super) fn start(&mut self, log: &ModelLog, ctx: &mut Context) {
        let Some(owner) = self.assigned else { return };
        self.lives += 1;
        let cache = Path::new("/cache");
        let dir = match CacheDir::open(Arc::new(self.disk.clone()), cache, log.machine, log.timeline) {
            Ok(dir) => dir,
            Err(error) => return self.again(&error, ctx),
        };
        self.process = Some(Process::new(self.index, self.lives, owner, dir, self.disk.clone()));
        ctx.say(self.name(), format!("life {} starts as {owner}", self.lives));
        self.later(300, 3000, ProcessEvent::TailRead, ctx);
    }

    fn later(&self, from: u64, to: u64, event: ProcessEvent, ctx: &mut Context) {
        ctx.within(from, to, Event::Process { server: self.index, life: self.lives, event });
    }

    fn again(&mut self, error: &CacheError, ctx: &mut Context) {
        ctx.say(self.name(), format!("cannot go on: {error}"));
        self.process = None;
        ctx.within(20_000, 200_000, Event::Restart(self.index));
    }

    /// The tail is read: take stock of the cache and begin.
    pub(super) fn tail_read(&mut self, log: &ModelLog, ctx: &mut Context) {
        if ctx.store_fails() {
            return self.later(20_000, 100_000, ProcessEvent::TailRead, ctx);
        }
        let Some(mut process) = self.process.take_if(|process| process.leaves != Leaves::Over) else { return };
        match process.begin(log, self.told.filter(|_| !self.damaged), ctx) {
            Ok(()) => self.process = Some(process),
            Err(CacheError::CacheLost { .. }) => {
                ctx.say(self.name(), "its cache is lost");
                self.wants_epoch = true;
            }
            Err(CacheError::OwnedByOther { current, .. }) => {
                ctx.say(self.name(), format!("{current} has the cache"));
                self.assigned = None;
            }
            Err(error) => self.again(&error, ctx),
        }
    }
}

impl Process {
    fn new(server: usize, life: u64, owner: Owner, dir: CacheDir, disk: ModelDisk) -> Self {
        Self {
            server,
            life,
            owner,
            dir,
            committer: None,
            sequencer: None,
            log_end: LogState::default(),
            next_segment: SegmentNo(1),
            closed: BTreeMap::new(),
            objects: BTreeMap::new(),
            committed: Lsn::ZERO,
            sessions: BTreeMap::new(),
            hellos: BTreeMap::new(),
            open: None,
            compares: BTreeMap::new(),
            outgoing: Vec::new(),
            told: Lsn::ZERO,
            end: None,
            leaves: Leaves::No,
            file: None,
            failed_writes: false,
            tick_at: None,
            disk,
        }
    }

    pub(super) fn name(&self) -> String {
        name(self.server)
    }

    pub(super) fn later(&self, from: u64, to: u64, event: ProcessEvent, ctx: &mut Context) {
        ctx.within(from, to, Event::Process { server: self.server, life: self.life, event });
    }

    fn begin(&mut self, log: &ModelLog, told: Option<(Owner, Lsn)>, ctx: &mut Context) -> Result<(), CacheError> {
        let stale = ctx.suffers(Kind::StaleLists, Seen::StoreStaleList);
        let (mut start, log_end) = match log.tail(stale) {
            Ok(tail) => tail,
            Err(broken) => {
                ctx.fail(broken);
                return Ok(());
            }
        };
        let before = match self.dir.owner() {
            Err(CacheError::OwnerDamaged { .. }) => None,
            found => found?,
        };
        may_continue(self.owner, before, start.newest)?;
        self.dir.claim(self.owner)?;
        if ctx.is(Mutation::NoFence) {
            start.newest = Some(self.owner);
        }
        let (committer, effects) = match Committer::start(self.owner, start, 3) {
            Ok(begun) => begun,
            Err(by) => {
                ctx.say(self.name(), format!("{by} has the log"));
                self.end = Some(End::Fenced);
                return Ok(());
            }
        };
        let recovered = self.take_stock(before, ctx)?;
        let unlocked = unlock(&self.dir, &recovered, &log.key, log_end)?;
        recovered.discarded.iter().chain(&unlocked.discarded).for_each(|file| {
            ctx.say(self.name(), format!("segment {} is discarded: {}", file.segment, file.reason));
        });
        for file in recovered.discarded.iter().chain(&unlocked.discarded) {
            ctx.seen(Seen::SegmentDiscarded);
            self.dir.remove(file.segment)?;
        }
        for file in &unlocked.committed {
            self.dir.remove(file.segment)?;
        }
        if let Some((owner, lsn)) = told.filter(|told| told.0 == self.owner)
            && unlocked.state.last_lsn < lsn
        {
            let found = unlocked.state.last_lsn;
            ctx.fail(format!("LSN {lsn} was reported durable as {owner}, but only {found} is there after a restart"));
        }
        self.next_segment = recovered.next_segment;
        self.committed = log.last();
        self.log_end = unlocked.state;
        let found = unlocked.closed.len();
        ctx.say(self.name(), format!("begins behind LSN {}, {found} segments to send", self.log_end.last_lsn));
        let opens = committer.phase() == crate::log::committer::Phase::Open;
        self.committer = Some(committer);
        self.perform(effects, log, ctx);
        for (closed, note) in unlocked.closed {
            ctx.seen(Seen::SegmentRecovered);
            self.offer(closed, note, log, ctx);
        }
        if opens {
            ctx.seen(Seen::Resumed);
            self.open_log(self.log_end.clone(), log, ctx);
        }
        Ok(())
    }

    fn take_stock(&self, before: Option<Owner>, ctx: &Context) -> Result<Recovered, CacheError> {
        match before {
            Some(before) if ctx.is(Mutation::ForeignCacheIsSent) => recover(&self.dir, before),
            _ if ctx.is(Mutation::PageCacheIsDurable) => survey(&self.dir, self.owner),
            _ => recover(&self.dir, self.owner),
        }
    }

    /// The log is this owner's, and what it says at its end is known.
    pub(super) fn open_log(&mut self, state: LogState, log: &ModelLog, ctx: &mut Context) {
        let of = LogOf { machine: log.machine, timeline: log.timeline, owner: self.owner };
        self.sequencer = Some(Sequencer::new(of, LIMITS, state, self.next_segment));
        self.welcome_waiting(ctx);
    }

    pub(super) fn accept(&mut self, batch: Batch, log: &ModelLog, ctx: &mut Context) {
        let Some(sequencer) = &mut self.sequencer else { return };
        let at = Timestamp(ctx.now.as_micros() as i64);
        match sequencer.accept(batch, ctx.now, at, &mut ctx.chance) {
            Ok(dispatch) => self.dispatch(&dispatch, log, ctx),
            Err(refused) => self.retire_session(&refused.to_string(), ctx),
        }
        self.upkeep(log, ctx);
    }

    fn dispatch(&mut self, dispatch: &Dispatch, log: &ModelLog, ctx: &mut Context) {
        for item in maker::seal(&log.key, dispatch) {
            let disk = dispatch.frames.iter().find(|frame| frame.number == item.header.number).map(|frame| frame.disk);
            let event = match disk {
                Some(disk) if ctx.chance.happens(40) && ctx.suffers(Kind::DiskActorsDie, Seen::DiskActorDied) => {
                    ProcessEvent::DiskDied(disk)
                }
                _ => ProcessEvent::Sealed(dispatch.batch, Box::new(item)),
            };
            self.later(50, 2000, event, ctx);
        }
    }

    pub(super) fn sealed(&mut self, batch: BatchNo, item: SealedItem, log: &ModelLog, ctx: &mut Context) {
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.sealed(batch, item);
        }
        self.upkeep(log, ctx);
    }

    pub(super) fn disk_died(&mut self, disk: DiskNo, log: &ModelLog, ctx: &mut Context) {
        let again = self.sequencer.as_mut().map(|sequencer| sequencer.dispatch_again(disk)).unwrap_or_default();
        again.iter().for_each(|dispatch| self.dispatch(dispatch, log, ctx));
    }

    pub(super) fn tick(&mut self, log: &ModelLog, ctx: &mut Context) {
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.tick(ctx.now);
        }
        self.upkeep(log, ctx);
    }

    /// After every event: append what can be, offer what is closed, look at the clock.
    pub(super) fn upkeep(&mut self, log: &ModelLog, ctx: &mut Context) {
        let Some(sequencer) = &mut self.sequencer else { return };
        let job = sequencer.take_append();
        let closed: Vec<ClosedSegment> = std::iter::from_fn(|| sequencer.take_closed()).collect();
        let closes_at = sequencer.closes_at();
        if closes_at != self.tick_at
            && let Some(at) = closes_at
        {
            ctx.at(at.max(ctx.now), Event::Process { server: self.server, life: self.life, event: ProcessEvent::Tick });
        }
        self.tick_at = closes_at;
        for closed in closed {
            if ctx.is(Mutation::CommittedWhenClosed) {
                self.tell_committed(closed.last);
            }
            self.offer(closed, None, log, ctx);
        }
        if let Some(job) = job {
            self.append(&job, ctx);
        }
    }

    fn append(&mut self, job: &AppendJob, ctx: &mut Context) {
        if ctx.lasts(Kind::CacheFails) {
            let (seen, fault) = match ctx.chance.below(3) {
                0 => (Seen::CacheTorn, DiskFault::TornWrite { after_bytes: ctx.chance.below(job.bytes + 1) }),
                1 => (Seen::CacheCreate, DiskFault::FailedCreate),
                _ => (Seen::CacheSync, DiskFault::FailedSync),
            };
            if ctx.suffers(Kind::CacheFails, seen) {
                self.disk.inject(fault);
            }
        }
        self.failed_writes = self.write(job).is_err();
        if ctx.is(Mutation::DurableBeforeSync) && !self.failed_writes {
            self.tell_durable(job.last);
        }
        let longest = if ctx.suffers(Kind::CacheSlow, Seen::CacheSlow) { 150_000 } else { 4000 };
        self.later(100, longest, ProcessEvent::Sync(job.append), ctx);
    }

    fn write(&mut self, job: &AppendJob) -> Result<(), CacheError> {
        if let Some(identity) = &job.create {
            self.file = None;
            self.file = Some(SegmentFile::create(&self.dir, job.segment, identity)?);
        }
        let file = self.file.as_mut().expect("a segment's first append creates its file");
        file.append(job.offset, &job.parts)
    }

    /// The sync of an append: the end of its one try.
    pub(super) fn sync(&mut self, append: AppendNo, log: &ModelLog, ctx: &mut Context) {
        let Some(sequencer) = &mut self.sequencer else { return };
        let synced = match &mut self.file {
            Some(file) if !self.failed_writes => {
                let segment = file.segment();
                let again = || SegmentFile::open(&self.dir, segment).and_then(|mut file| file.sync()).is_ok();
                file.sync().is_ok() || (ctx.is(Mutation::FailedSyncIsRetried) && again())
            }
            _ => false,
        };
        if synced {
            let durable = sequencer.appended_and_synced(append);
            self.tell_durable(durable);
        } else {
            let durable = sequencer.failed(append);
            ctx.seen(Seen::AppendFailed);
            ctx.say(name(self.server), format!("an append failed: durable stays at LSN {durable}"));
            if let Some(file) = self.file.take() {
                file.abandon(&self.dir);
            }
            self.retire_session("the cache disk failed", ctx);
        }
        self.upkeep(log, ctx);
    }

    /// The bytes of a closed segment, as they will be uploaded.
    pub(super) fn object(&self, segment: SegmentNo, footer: FooterDigest) -> Result<Bytes, CacheError> {
        if let Some(object) = self.objects.get(&footer.0) {
            return Ok(object.clone());
        }
        let (closed, note) = &self.closed[&segment];
        let note = note.expect("a footer that was not sealed in this life is in the file");
        let file = SegmentFile::open(&self.dir, segment)?;
        Ok([file.read_items(closed.items_end)?, file.read_footer(&note)?].concat().into())
    }
}
