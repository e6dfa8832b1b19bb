//! One synthetic machine: the real protocol end and the real splitter over a disk that exists only as numbers. No NBD, no
//! threads, no files: thousands of them fit into one process.
//!
//! ```text
//!   control session ─► who owns the log ─┐
//!   clock ─► a write now and then ─► Splitter ─► batches ─► AgentEnd ══ TLS ══► process server
//! ```
//!
//! What a block holds follows from machine, block and how often it was written, so nothing is stored but counts. Its life
//! ends with the process: started again, it is another machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use farshore_actors::supervise::{OsChance, wall_clock};
use farshore_engine::agent::{Dial as _, Papers, Stream, Target, TlsDial};
use farshore_engine::capture::activity_layout::region_count;
use farshore_engine::capture::content::analyse;
use farshore_engine::capture::opening::{KnownDisk, KnownLog, plan};
use farshore_engine::capture::scan::{ScanOutcome, ScanSpot, hole_runs};
use farshore_engine::capture::{DiskStart, Outcome, RegionSet, Splitter, SplitterConfig};
use farshore_engine::control::client::{SessionEvent, SessionHandle, SessionTimes, session};
use farshore_engine::control::messages::{
    AgentReport, CONTROL_VERSION, DiskReport, DiskState, FromMember, Hello as ControlHello, ToMember,
};
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::digest::DigestKey;
use farshore_engine::ids::{DiskNo, IncarnationId, Lsn, ProcessServerId};
use farshore_engine::protocol::message::{HelloKey, PROTOCOL_VERSION};
use farshore_engine::protocol::{AgentEnd, AgentEvent, Hello, ServerMessage};
use farshore_engine::record::{DiskInfo, GapReason};
use farshore_engine::transport::{FramedReader, FramedWriter};
use farshore_engine::vault::crypto::DataKey;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Size of a block.
const BLOCK_BYTES: u64 = 4096;
/// Size of a region.
const REGION_BYTES: u64 = 1 << 20;
/// Most that one machine holds until it is committed. Chosen: a second of 100 writes; a thousand machines that all wait
/// hold half a GiB at most.
const BUDGET_BYTES: usize = 512 << 10;
/// Longest sleep of a machine.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time between reports, and between words of an idle machine.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// Wait before a process server is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all machines of a process have done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Sessions with process servers that are open.
    pub(crate) open: AtomicU64,
    /// Writes given to the log.
    pub(crate) writes: AtomicU64,
    /// Writes that came while the log could not take them.
    pub(crate) lost: AtomicU64,
    /// LSNs that were reported committed.
    pub(crate) committed: AtomicU64,
    /// Sessions that ended.
    pub(crate) ended: AtomicU64,
}

/// What a synthetic machine is.
#[derive(Debug, Clone)]
pub(crate) struct SyntheticPlan {
    /// Its name.
    pub(crate) name: String,
    /// Size of its one disk in bytes.
    pub(crate) disk_bytes: u64,
    /// Time between writes; `None`: it is idle.
    pub(crate) write_every: Option<Duration>,
    /// Time between marks.
    pub(crate) mark_interval: Duration,
}

/// See the module.
pub(crate) struct Synthetic {
    plan: SyntheticPlan,
    papers: Papers,
    known: KnownLog,
    splitter: Splitter,
    end: AgentEnd,
    key: DigestKey,
    /// How often a block was written.
    written: HashMap<u64, u64>,
    dice: u64,
    begun: Instant,
    next_write: Instant,
    next_report: Instant,
    owner: Option<ProcessServerId>,
    opened: bool,
    counts: Arc<Counts>,
}

impl Synthetic {
    /// A machine with these papers. `number` tells its writes from another machine's.
    pub(crate) fn new(plan: SyntheticPlan, papers: Papers, number: u64, counts: Arc<Counts>) -> Self {
        let incarnation = IncarnationId::draw(&mut OsChance);
        let first = Lsn(1);
        let disk = KnownDisk {
            name: "data".into(),
            size_bytes: plan.disk_bytes,
            sector_bytes: 4096,
            distrust: None,
            hot: true,
        };
        let known = KnownLog {
            incarnation,
            lineage: Vec::new(),
            clean_stop: None,
            committed: Lsn::ZERO,
            first,
            next_disk: 0,
            disks: vec![disk],
        };
        let config = SplitterConfig {
            budget_bytes: BUDGET_BYTES,
            mark_interval: plan.mark_interval,
            linger: Duration::from_millis(10),
            // The scanner takes at most half of the budget.
            scan_chunk_bytes: BUDGET_BYTES as u64 / 8,
        };
        let hot = RegionSet::all(region_count(plan.disk_bytes, REGION_BYTES));
        let start = DiskStart { size_bytes: plan.disk_bytes, region_bytes: REGION_BYTES, hot };
        let key = DataKey::from_bytes(*papers.grant.data_key.bytes());
        let hello = Hello {
            version: PROTOCOL_VERSION,
            machine: papers.grant.machine,
            timeline: papers.grant.timeline,
            incarnation,
            lineage: Vec::new(),
            trusted: true,
            reset: None,
            epoch_known: farshore_engine::ids::Epoch(0),
            first_lsn: first,
            data_key: HelloKey::new(*papers.grant.data_key.bytes()),
            agent: env!("CARGO_PKG_VERSION").into(),
            disks: vec![info(&plan)],
        };
        let now = Instant::now();
        // Machines that were started together do not write together.
        let spread = plan.write_every.unwrap_or(REPORT_EVERY).mul_f64(number as f64 * 0.618 % 1.0);
        Self {
            known,
            splitter: Splitter::new(config, first, vec![start]),
            end: AgentEnd::new(hello, Lsn::ZERO),
            key: key.digest_key(),
            written: HashMap::new(),
            dice: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            begun: now,
            next_write: now + spread,
            next_report: now + spread,
            owner: None,
            opened: false,
            plan,
            papers,
            counts,
        }
    }

    /// Lives until the process ends.
    pub(crate) async fn live(mut self, addresses: Vec<String>) -> Result<(), String> {
        let identity = &self.papers.identity;
        let connect = TlsConnect::as_member(identity).map_err(|error| error.to_string())?;
        let dial = TlsDial::new(identity).map_err(|error| error.to_string())?;
        let (disks, life) = (vec![info(&self.plan)], self.dice);
        let hello = Arc::new(move || ControlHello {
            version: CONTROL_VERSION,
            life,
            program_version: env!("CARGO_PKG_VERSION").into(),
            replication_addresses: Vec::new(),
            disks: disks.clone(),
        });
        let times = SessionTimes::default();
        let (handle, mut events, driver) = session(Arc::new(connect), addresses, hello, times, Box::new(OsChance));
        tokio::spawn(driver.run());
        let mut target: Option<Target> = None;
        loop {
            let Some(now) = target.clone() else {
                target = self.wait_for_owner(&handle, &mut events).await;
                continue;
            };
            self.owner = now.process_server;
            for address in &now.addresses {
                if let Ok(stream) = dial.dial(address, now.process_server).await {
                    self.counts.open.fetch_add(1, Relaxed);
                    let next = self.talk(stream, &handle, &mut events).await;
                    self.counts.open.fetch_sub(1, Relaxed);
                    self.counts.ended.fetch_add(1, Relaxed);
                    target = next.or(target);
                    break;
                }
            }
            self.owner = None;
            tokio::time::sleep(RETRY_AFTER).await;
            // It may have moved meanwhile.
            let _ = handle.say(FromMember::Where);
            while let Ok(event) = events.try_recv() {
                target = assigned(&event).or(target);
            }
        }
    }

    async fn wait_for_owner(
        &mut self,
        handle: &SessionHandle,
        events: &mut mpsc::Receiver<SessionEvent>,
    ) -> Option<Target> {
        match tokio::time::timeout(REPORT_EVERY, events.recv()).await {
            Ok(Some(SessionEvent::Connected { .. })) | Err(_) => {
                // One that is lost is asked again.
                let _ = handle.say(FromMember::Where);
                None
            }
            Ok(Some(event)) => assigned(&event),
            Ok(None) => None,
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// One connection; gives the new owner where there is one.
    async fn talk(
        &mut self,
        stream: Box<dyn Stream>,
        handle: &SessionHandle,
        events: &mut mpsc::Receiver<SessionEvent>,
    ) -> Option<Target> {
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (FramedReader::new(read), FramedWriter::new(write));
        let now = self.now();
        self.end.connected(now);
        let next = loop {
            self.work(handle);
            while !writer.is_full() {
                let Some(message) = self.end.poll_send() else { break };
                writer.queue(&message);
            }
            let heard = tokio::select! {
                message = reader.read::<ServerMessage>() => match message {
                    Ok(Some(message)) => { let now = self.now(); self.end.received(message, now) }
                    Ok(None) | Err(_) => break None,
                },
                flushed = writer.flush(), if writer.queued_bytes() > 0 => match flushed {
                    Ok(()) => Vec::new(),
                    Err(_) => break None,
                },
                event = events.recv() => match event.as_ref().and_then(assigned) {
                    Some(target) if target.process_server != self.owner => break Some(target),
                    _ => Vec::new(),
                },
                () = tokio::time::sleep_until(self.wake()) => { let now = self.now(); self.end.tick(now) }
            };
            match self.take(heard) {
                Ok(()) => {}
                Err(next) => break next,
            }
        };
        let now = self.now();
        self.end.disconnected(now);
        next
    }

    fn wake(&self) -> Instant {
        let due = self.splitter.batch_due().into_iter().chain(self.end.next_tick()).min();
        let due = due.map_or(LOOK_EVERY, |due| due.saturating_sub(self.now()).min(LOOK_EVERY));
        let wake = (Instant::now() + due.max(Duration::from_millis(1))).min(self.next_report);
        if self.plan.write_every.is_some() { wake.min(self.next_write) } else { wake }
    }

    /// What is due: a scan, a write, a mark, a batch, a report.
    fn work(&mut self, handle: &SessionHandle) {
        let (now, wall) = (self.now(), wall_clock());
        while let Some(spot) = self.splitter.scan_spot(0, now) {
            self.scan(spot, now);
        }
        if let Some(every) = self.plan.write_every
            && self.next_write <= Instant::now()
        {
            self.write(now);
            // What was missed while nobody listened is not made up for.
            self.next_write = (self.next_write + every).max(Instant::now());
        }
        self.splitter.mark_if_due(now, wall, &mut OsChance);
        if let Some(last) = self.splitter.reservation_due() {
            self.splitter.reserved(last);
        }
        if self.end.is_open() && self.splitter.is_open() {
            self.splitter.close_batch(now);
            while let Some(draft) = self.splitter.take_batch() {
                self.end.push(draft.lay_out());
            }
        }
        if self.next_report <= Instant::now() {
            self.next_report = Instant::now() + REPORT_EVERY;
            if self.splitter.idle_since().is_some() && self.splitter.is_drained() && self.end.unsent_bytes() == 0 {
                self.end.idle(wall);
            }
            // A report that is lost is followed by the next.
            let _ = handle.say(FromMember::AgentReport(self.report()));
        }
    }

    /// What a range of the disk holds; `None`: nothing but zeroes.
    fn content(&self, offset: u64, len: u64) -> Option<Bytes> {
        let blocks = offset / BLOCK_BYTES..(offset + len) / BLOCK_BYTES;
        if blocks.clone().all(|block| !self.written.contains_key(&block)) {
            return None;
        }
        let mut data = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        for block in blocks {
            let times = self.written.get(&block).copied().unwrap_or(0);
            // Half of a block compresses away, as half of real ones does.
            let seed = self.dice ^ block.rotate_left(32) ^ times;
            let mut word = seed;
            for at in 0..BLOCK_BYTES / 8 {
                word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let value = if times == 0 || at % 2 == 1 { 0 } else { word };
                data.extend_from_slice(&value.to_le_bytes());
            }
        }
        Some(data.into())
    }

    fn scan(&mut self, spot: ScanSpot, now: Duration) {
        let whole = self.written.is_empty().then_some(self.plan.disk_bytes);
        let job = self.splitter.begin_scan(spot, whole);
        assert!(self.splitter.acquire(&job.ticket), "nothing else is under way");
        let lsn = self.splitter.start_scan(&job);
        let range = job.range();
        let runs = match self.content(range.start, range.end - range.start) {
            None => hole_runs(range),
            Some(data) => analyse(&self.key, range.start, &data),
        };
        self.splitter.complete_scan(job, lsn, ScanOutcome::Read(runs), now);
    }

    fn write(&mut self, now: Duration) {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let block = self.dice % (self.plan.disk_bytes / BLOCK_BYTES);
        *self.written.entry(block).or_insert(0) += 1;
        let offset = block * BLOCK_BYTES;
        let ticket = self.splitter.arrive(0, offset, BLOCK_BYTES);
        if self.splitter.cool_regions(&ticket).is_some() {
            self.splitter.heated(&ticket);
        }
        assert!(self.splitter.acquire(&ticket), "nothing else is under way");
        let grant = self.splitter.start(&ticket, BLOCK_BYTES as usize);
        let runs = match self.content(offset, BLOCK_BYTES) {
            Some(data) if grant.ships() => analyse(&self.key, offset, &data),
            _ => Vec::new(),
        };
        let counter = if grant.ships() { &self.counts.writes } else { &self.counts.lost };
        counter.fetch_add(1, Relaxed);
        self.splitter.complete(ticket, grant, Outcome::Done(runs), now);
    }

    /// What the process server said; an error ends the connection.
    fn take(&mut self, heard: Vec<AgentEvent>) -> Result<(), Option<Target>> {
        for event in heard {
            match event {
                AgentEvent::Accepted(accepted) if accepted.opening_due => {
                    let opening = plan(&self.known, &accepted.welcome.log);
                    let now = self.now();
                    let batch = match self.opened {
                        false => self.splitter.open(opening, now).0,
                        true => self.splitter.reopen(&opening).map_err(|_| None)?,
                    };
                    self.opened = true;
                    self.end.open_with(batch);
                }
                AgentEvent::Committed(lsn) => {
                    let before = self.known.committed.max(lsn);
                    self.counts.committed.fetch_add(before.0 - self.known.committed.0, Relaxed);
                    self.known.committed = before;
                    self.splitter.committed(lsn);
                }
                AgentEvent::Redirected(redirect) => {
                    let (addresses, epoch) = (redirect.addresses, redirect.epoch);
                    return Err(Some(Target { addresses, epoch, process_server: None }));
                }
                AgentEvent::Refused(_) | AgentEvent::Alarm(_) | AgentEvent::Disconnect(_) => return Err(None),
                AgentEvent::Accepted(_)
                | AgentEvent::Durable(_)
                | AgentEvent::BeginningCommitted
                | AgentEvent::Digests(_)
                | AgentEvent::MarkNow(_) => {}
            }
        }
        Ok(())
    }

    fn report(&self) -> AgentReport {
        let view = self.splitter.disk_view(0);
        let state = match view.gap {
            None => DiskState::Protected,
            Some(GapReason::InitialReplication) => DiskState::InitialReplication,
            Some(_) => DiskState::CatchingUp,
        };
        let disk = DiskReport {
            disk: view.number.unwrap_or(DiskNo(0)),
            name: "data".into(),
            size_bytes: self.plan.disk_bytes,
            sector_bytes: 4096,
            state,
            export: None,
            hot_bytes: u64::from(view.hot_regions) * REGION_BYTES,
            scan_bytes_left: view.scan_bytes_left,
            gap: view.gap,
        };
        AgentReport {
            at: wall_clock(),
            incarnation: self.known.incarnation,
            connected_to: self.owner.filter(|_| self.end.is_open()),
            epoch: self.end.epoch_known(),
            last_lsn: Lsn(self.splitter.next_lsn().0.saturating_sub(1)),
            durable: self.end.durable(),
            committed: self.end.committed(),
            last_write: self.splitter.last_change(),
            memory_bytes: self.splitter.held_bytes() as u64,
            memory_bytes_max: BUDGET_BYTES as u64,
            rung: self.splitter.rung(),
            written_bytes: self.written.values().sum::<u64>() * BLOCK_BYTES,
            disks: vec![disk],
            events: Vec::new(),
        }
    }
}

fn info(plan: &SyntheticPlan) -> DiskInfo {
    DiskInfo { disk: DiskNo(0), name: "data".into(), size_bytes: plan.disk_bytes, sector_bytes: 4096 }
}

/// Who owns the log, where an event says so.
fn assigned(event: &SessionEvent) -> Option<Target> {
    match event {
        SessionEvent::Message(ToMember::Assigned(assignment) | ToMember::Redirect(assignment)) => {
            Some(Target::from(assignment))
        }
        _ => None,
    }
}
