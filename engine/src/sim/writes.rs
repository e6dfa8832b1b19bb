//! The write path of an agent, as its tap does it: requests, the scanner, marks, syncs and cooling.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::context::{Context, MachineEvent};
use super::counters::Seen;
use super::life::Agent;
use super::machine::{DISKS, Machine};
use super::mutation::Mutation;
use super::schedule::Kind;
use super::source::{self, BLOCK_BYTES, BLOCKS, Value};
use crate::capture::content::analyse;
use crate::capture::scan::{ScanJob, ScanOutcome, hole_runs};
use crate::capture::trust::LastSeen;
use crate::capture::{Grant, Outcome, SyncNo, Ticket};
use crate::ids::Lsn;

/// Requests under way at most.
const REQUESTS_MAX: usize = 8;
/// Regions that stay hot though they are idle.
const HOT_TARGET: usize = 3;
/// Idle regions cool after this.
const COOL_AFTER: Duration = Duration::from_millis(400);

/// A request on its way.
#[derive(Debug)]
pub(super) struct Request {
    disk: usize,
    first: usize,
    values: Vec<Value>,
    write: u64,
    stage: Stage,
    /// Regions that were not recorded in time (a defect on purpose).
    late: Option<RangeInclusive<u32>>,
}

#[derive(Debug)]
enum Stage {
    Arrived(Ticket),
    Queued(Ticket),
    Started(Ticket, Grant),
    OnDisk(Ticket, Grant, bool),
    /// The splitter was told already (a defect on purpose).
    Adrift,
}

/// A part of a disk that is being scanned, with what was read of it too early (a defect on purpose).
#[derive(Debug)]
pub(super) enum Scan {
    Queued(ScanJob, Option<Vec<Value>>),
    Started(ScanJob, Lsn, Option<Vec<Value>>),
}

impl Machine {
    /// The application writes.
    pub(super) fn script(&mut self, ctx: &mut Context) {
        let Some(agent) = &self.agent else { return };
        if agent.stops_by.is_some() || ctx.calm {
            return;
        }
        if agent.requests.len() < REQUESTS_MAX {
            let (disk, first) = (ctx.chance.below(DISKS as u64) as usize, ctx.chance.below(BLOCKS as u64) as usize);
            let count = ctx.chance.between(1, 7).min((BLOCKS - first) as u64);
            let zero = ctx.chance.happens(80);
            let values = (0..count).map(|_| if zero { 0 } else { self.draw_value() }).collect();
            self.arrive(disk, first, values, ctx);
        }
        let longest = if ctx.suffers(Kind::Burst, Seen::Burst) { 1500 } else { 25_000 };
        self.later(200, longest, MachineEvent::Script, ctx);
    }

    fn arrive(&mut self, disk: usize, first: usize, values: Vec<Value>, ctx: &mut Context) {
        let Some(agent) = &mut self.agent else { return };
        let ticket = agent.splitter.arrive(disk, first as u64 * BLOCK_BYTES, values.len() as u64 * BLOCK_BYTES);
        agent.next_request += 1;
        let number = agent.next_request;
        let request = Request { disk, first, values, write: 0, stage: Stage::Arrived(ticket), late: None };
        agent.requests.insert(number, request);
        self.later(10, 300, MachineEvent::Request(number), ctx);
    }

    fn later(&self, from: u64, to: u64, event: MachineEvent, ctx: &mut Context) {
        ctx.machine((self.index, self.lives), from, to, event);
    }

    /// One step of one request.
    pub(super) fn step_request(&mut self, number: u64, ctx: &mut Context) {
        let Some(mut request) = self.agent.as_mut().and_then(|agent| agent.requests.remove(&number)) else { return };
        let (disk, first, count) = (request.disk, request.first, request.values.len());
        let now = ctx.now;
        let wall = self.wall(ctx);
        let next_write = self.draw_write();
        let Some(agent) = &mut self.agent else { return };
        let mut failed_log = None;
        request.stage = match request.stage {
            Stage::Arrived(ticket) => {
                if let Some(cool) = agent.splitter.cool_regions(&ticket) {
                    ctx.seen(Seen::RegionHeated);
                    if ctx.is(Mutation::WrittenBeforeHot) {
                        request.late = Some(cool);
                        agent.splitter.heated(&ticket);
                    } else {
                        match agent.activity[disk].record_hot(cool) {
                            Ok(()) => agent.splitter.heated(&ticket),
                            Err(error) => {
                                ctx.seen(Seen::ActivityLogFailed);
                                agent.splitter.activity_log_failed(disk, now);
                                failed_log = Some(error);
                            }
                        }
                    }
                }
                agent.splitter.acquire(&ticket);
                Stage::Queued(ticket)
            }
            Stage::Queued(ticket) if !agent.splitter.holds(&ticket) => {
                ctx.seen(Seen::RangeWaited);
                Stage::Queued(ticket)
            }
            Stage::Queued(ticket) => {
                let before = agent.splitter.disk_view(disk).gap;
                let grant = agent.splitter.start(&ticket, count * BLOCK_BYTES as usize);
                if before.is_none() && agent.splitter.disk_view(disk).gap.is_some() {
                    ctx.seen(Seen::Overloaded);
                }
                request.write = next_write;
                Stage::Started(ticket, grant)
            }
            Stage::Started(ticket, grant) if ctx.is(Mutation::RangeLetGoEarly) => {
                let ships = (first, &request.values[..]);
                complete(agent, ticket, grant, ships, false, &self.log.key.digest_key(), now);
                Stage::Adrift
            }
            Stage::Started(ticket, grant) => {
                let failed = ctx.suffers(Kind::SourceFails, Seen::SourceWriteFailed);
                let written = if failed { count / 2 } else { count };
                self.disks[disk].land(first, &request.values[..written], request.write, wall);
                if failed {
                    agent.hot_at_start[disk] = None;
                }
                Stage::OnDisk(ticket, grant, failed)
            }
            Stage::OnDisk(ticket, grant, failed) => {
                let failed = failed && !ctx.is(Mutation::FailedWriteIsDone);
                let ships = (first, &request.values[..]);
                complete(agent, ticket, grant, ships, failed, &self.log.key.digest_key(), now);
                if !failed {
                    self.disks[disk].complete(first, count);
                }
                if let Some(late) = request.late.take() {
                    // Too late is no failure: it says the same to the splitter.
                    let _ = agent.activity[disk].record_hot(late);
                }
                return self.pump(ctx);
            }
            Stage::Adrift => {
                self.disks[disk].land(first, &request.values, request.write, wall);
                self.disks[disk].complete(first, count);
                return;
            }
        };
        agent.requests.insert(number, request);
        if let Some(failed) = failed_log {
            self.activity_log_failed(&failed, ctx);
        }
        self.later(20, 2500, MachineEvent::Request(number), ctx);
    }

    /// One step of the scanner.
    pub(super) fn step_scan(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        let Some(agent) = &mut self.agent else { return };
        let mut wait = 2000;
        match agent.scan.take() {
            None if agent.stops_by.is_some() => return,
            None => {
                let from = ctx.chance.below(DISKS as u64) as usize;
                let spots = (0..DISKS).map(|n| (from + n) % DISKS);
                let spot = { spots }.find_map(|disk| agent.splitter.scan_spot(disk, now));
                if let Some(spot) = spot {
                    let live = &self.disks[spot.disk].live;
                    let first = (spot.offset / BLOCK_BYTES) as usize;
                    let hole = live[first..].iter().take_while(|value| **value == 0).count();
                    let hole_end = (hole > 0).then(|| (first + hole) as u64 * BLOCK_BYTES);
                    let job = agent.splitter.begin_scan(spot, hole_end);
                    agent.splitter.acquire(&job.ticket);
                    let early = ctx.is(Mutation::ScanReadsUnlocked).then(|| read(live, &job).to_vec());
                    agent.scan = Some(Scan::Queued(job, early));
                } else {
                    wait = 40_000;
                }
            }
            Some(Scan::Queued(job, early)) if agent.splitter.holds(&job.ticket) => {
                let lsn = agent.splitter.start_scan(&job);
                agent.scan = Some(Scan::Started(job, lsn, early));
            }
            Some(waits @ Scan::Queued(..)) => agent.scan = Some(waits),
            Some(Scan::Started(job, lsn, early)) => {
                let disk = job.disk();
                let fails = ctx.suffers(Kind::SourceFails, Seen::SourceReadFailed);
                let values = early.unwrap_or_else(|| read(&self.disks[disk].live, &job).to_vec());
                let outcome = if fails {
                    agent.hot_at_start[disk] = None;
                    ScanOutcome::Unreadable
                } else if job.hole && values.iter().any(|value| *value != 0) {
                    ScanOutcome::NoHole
                } else if job.hole {
                    ctx.seen(Seen::HoleScanned);
                    ScanOutcome::Read(hole_runs(job.range()))
                } else {
                    let data = source::bytes(&values);
                    ScanOutcome::Read(analyse(&self.log.key.digest_key(), job.range().start, &data))
                };
                let before = agent.splitter.disk_view(disk);
                agent.splitter.complete_scan(job, lsn, outcome, now);
                let after = agent.splitter.disk_view(disk);
                if after.compared_bytes - before.compared_bytes > after.differing_bytes - before.differing_bytes {
                    ctx.seen(Seen::FoundEqual);
                }
                if before.gap.is_some() && after.gap.is_none() {
                    ctx.seen(Seen::GapClosed);
                    ctx.say(self.name(), format!("the gap of disk {disk} is closed"));
                }
                self.pump(ctx);
            }
        }
        self.later(100, wait, MachineEvent::Scan, ctx);
    }

    /// The clock's thread: marks, traces, the end of a stop.
    pub(super) fn clock(&mut self, ctx: &mut Context) {
        let wall = self.wall(ctx);
        let snapshot = self.snapshot();
        let (now, late) = (ctx.now, ctx.is(Mutation::MarkedAfterTheFact));
        let Some(agent) = &mut self.agent else { return };
        let mark =
            if agent.clean_stop.is_some() { None } else { agent.splitter.mark_if_due(now, wall, &mut ctx.chance) };
        if let Some(mark) = mark {
            ctx.seen(Seen::MarkTaken);
            self.marks.insert(mark, snapshot);
            if late {
                self.later(10_000, 60_000, MachineEvent::Claim(mark), ctx);
            }
        }
        if ctx.chance.happens(100) {
            let looks = self.disks.iter();
            let look = |disk: &super::source::SourceDisk| LastSeen {
                at_ns: wall.0.saturating_mul(1000),
                modified_ns: disk.identity.modified_ns,
            };
            self.seen = Some(looks.map(look).collect());
        }
        self.pump(ctx);
        self.go_on_stopping(ctx);
        self.later(20_000, 60_000, MachineEvent::Clock, ctx);
    }

    fn go_on_stopping(&mut self, ctx: &mut Context) {
        let Some(agent) = &self.agent else { return };
        let Some(by) = agent.stops_by else { return };
        let busy = !agent.requests.is_empty() || agent.scan.is_some() || agent.syncing.contains(&true);
        let stopped = agent.clean_stop.is_some_and(|stop| stop <= agent.end.committed());
        if !busy && (stopped || ctx.now >= by) {
            self.settle(ctx);
        }
    }

    /// The cooler's thread: syncs, cools, remembers.
    pub(super) fn cool(&mut self, ctx: &mut Context) {
        let (now, trusting) = (ctx.now, ctx.is(Mutation::CooledUnsynced));
        let Some(agent) = &mut self.agent else { return };
        let mut begun = Vec::new();
        for disk in 0..DISKS {
            if agent.splitter.wants_sync(disk) && !agent.syncing[disk] {
                let sync = agent.splitter.sync_begins(disk);
                if trusting {
                    agent.splitter.sync_ends(disk, sync, true);
                } else {
                    agent.syncing[disk] = true;
                    begun.push((disk, sync));
                }
            }
            let cooled = agent.splitter.cool(disk, now.saturating_sub(COOL_AFTER), HOT_TARGET);
            if !cooled.is_empty() {
                ctx.seen(Seen::RegionCooled);
            }
            agent.activity[disk].cool(&cooled);
            // A failure is noticed by the next write that needs the log.
            let _ = agent.activity[disk].flush();
        }
        let (committed, epoch) = (agent.end.committed(), agent.end.epoch_known());
        if ctx.chance.happens(200) && committed > agent.kept.committed {
            // One that cannot be written leaves what was known before.
            let _ = self.remember(|state| (state.committed, state.epoch) = (committed, epoch));
        }
        for (disk, sync) in begun {
            let content = self.disks[disk].sync_begins();
            self.later(500, 30_000, MachineEvent::Synced(disk, sync, content), ctx);
        }
        self.later(100_000, 300_000, MachineEvent::Cool, ctx);
    }

    /// The answer to a sync.
    pub(super) fn synced(&mut self, disk: usize, sync: SyncNo, content: Vec<Value>, ctx: &mut Context) {
        let Some(agent) = &mut self.agent else { return };
        agent.syncing[disk] = false;
        let failed = ctx.suffers(Kind::SourceFails, Seen::SourceSyncFailed);
        if !failed {
            self.disks[disk].synced(content);
        }
        agent.splitter.sync_ends(disk, sync, !failed);
    }
}

fn read<'a>(live: &'a [Value], job: &ScanJob) -> &'a [Value] {
    &live[(job.range().start / BLOCK_BYTES) as usize..(job.range().end / BLOCK_BYTES) as usize]
}

fn complete(
    agent: &mut Agent,
    ticket: Ticket,
    grant: Grant,
    (first, values): (usize, &[Value]),
    failed: bool,
    key: &crate::digest::DigestKey,
    now: Duration,
) {
    let outcome = if failed {
        Outcome::Failed
    } else if grant.ships() {
        Outcome::Done(analyse(key, first as u64 * BLOCK_BYTES, &source::bytes(values)))
    } else {
        Outcome::Done(Vec::new())
    };
    agent.splitter.complete(ticket, grant, outcome, now);
}
