//! How an agent's life begins and ends, as the agent's shell does it: state, disks, activity logs, clean stop.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::context::{Context, Event, LinkNo, MachineEvent};
use super::counters::Seen;
use super::machine::{DISKS, Machine};
use super::mutation::Mutation;
use super::source::{self, REGION_BYTES, SourceDisk};
use super::talk::new_end;
use super::writes::{Request, Scan};
use crate::agent::state::AgentState;
use crate::capture::activity_layout::{ActivityHeader, LogIdentity, region_count};
use crate::capture::activity_log::{ActivityLog, ActivityLogFailed, Found, Medium, read};
use crate::capture::opening::{KnownDisk, KnownLog};
use crate::capture::trust::{Distrust, Present, decide};
use crate::capture::{DiskStart, RegionSet, Splitter, SplitterConfig};
use crate::ids::{IncarnationId, Lsn, VaultId};
use crate::protocol::AgentEnd;

/// Distance of the two copies of the agent's state, in bytes.
const STATE_COPY_BYTES: u64 = 4096;

/// One life of an agent.
pub(super) struct Agent {
    /// Its number.
    pub(super) life: u64,
    pub(super) splitter: Splitter,
    pub(super) end: AgentEnd,
    pub(super) link: Option<LinkNo>,
    pub(super) activity: Vec<ActivityLog>,
    pub(super) known: KnownLog,
    pub(super) kept: AgentState,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) scan: Option<Scan>,
    pub(super) next_request: u64,
    /// Whether a sync of the disk is under way.
    pub(super) syncing: Vec<bool>,
    /// It stops; at the latest then.
    pub(super) stops_by: Option<Duration>,
    /// The LSN of its clean stop.
    pub(super) clean_stop: Option<Lsn>,
    /// It can only go on as another life.
    pub(super) starts_again: bool,
    /// Regions that were hot when it began; none where all of a disk is compared, or where something was lost since.
    pub(super) hot_at_start: Vec<Option<u32>>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Agent {
    /// I5: how much of a disk may be scanned in this life.
    pub(super) fn rescan_bound(&self, disk: usize) -> Option<u64> {
        let view = self.splitter.disk_view(disk);
        let hot = self.hot_at_start[disk].filter(|_| view.lost_writes == 0)?;
        Some(u64::from(hot) * REGION_BYTES)
    }

    /// Whether all that happened is in the vault, and the replica is the disk.
    pub(super) fn is_through(&self) -> bool {
        let whole = |disk: usize| {
            let view = self.splitter.disk_view(disk);
            view.gap.is_none() && view.stale_regions == 0
        };
        let quiet = self.requests.is_empty() && self.scan.is_none() && self.splitter.is_drained();
        quiet
            && self.splitter.batch_due().is_none()
            && self.end.is_open()
            && self.end.is_drained()
            && self.splitter.is_open()
            && (0..DISKS).all(whole)
    }
}

impl Machine {
    fn log_identity(&self) -> LogIdentity {
        LogIdentity { vault: VaultId::default(), machine: self.log.machine, timeline: self.log.timeline }
    }

    /// An agent starts, where none is.
    pub(super) fn start(&mut self, ctx: &mut Context) {
        if self.agent.is_some() {
            return;
        }
        self.lives += 1;
        match self.begin(ctx) {
            Ok(agent) => {
                ctx.say(self.name(), format!("life {} begins: {}", self.lives, agent.kept.incarnation));
                ctx.seen(Seen::LifeBegun);
                self.agent = Some(agent);
                for (longest, event) in [
                    (5_000, MachineEvent::Script),
                    (50_000, MachineEvent::Clock),
                    (300_000, MachineEvent::Cool),
                    (5_000, MachineEvent::Scan),
                ] {
                    ctx.machine((self.index, self.lives), 1000, longest, event);
                }
                ctx.within(1000, 100_000, Event::Connect(self.index));
            }
            Err(error) => {
                ctx.say(self.name(), format!("no life can begin: {error}"));
                ctx.within(50_000, 300_000, Event::AgentStart(self.index));
            }
        }
    }

    fn begin(&mut self, ctx: &mut Context) -> io::Result<Agent> {
        let before = self.kept_state();
        let incarnation = IncarnationId::draw(&mut ctx.chance);
        let kept = AgentState::next_life(before.as_ref(), self.log_identity(), incarnation);
        let mut known = KnownLog {
            incarnation,
            lineage: kept.lineage.clone(),
            clean_stop: before.as_ref().and_then(|before| before.clean_stop),
            committed: kept.committed,
            first: kept.first_lsn(),
            next_disk: kept.next_disk,
            disks: Vec::new(),
        };
        let (mut activity, mut starts, mut hot_at_start) = (Vec::new(), Vec::new(), Vec::new());
        for disk in 0..DISKS {
            let (log, hot, distrust) = self.begin_disk(disk, before.as_ref(), incarnation, ctx)?;
            activity.push(log);
            hot_at_start.push(distrust.is_none().then(|| hot.count()));
            known.disks.push(KnownDisk {
                name: source::name(disk),
                size_bytes: SourceDisk::info(disk).size_bytes,
                sector_bytes: SourceDisk::info(disk).sector_bytes,
                distrust,
                hot: !hot.is_empty(),
            });
            starts.push(DiskStart { size_bytes: SourceDisk::info(disk).size_bytes, region_bytes: REGION_BYTES, hot });
        }
        self.write_state(&kept)?;
        let budget_bytes = if ctx.is(Mutation::BudgetIsIgnored) { 1 << 30 } else { self.budget_bytes };
        let config = SplitterConfig {
            budget_bytes,
            mark_interval: Duration::from_millis(100),
            linger: Duration::from_millis(5),
            // Half a region, so that what is read already and what is not lie side by side.
            scan_chunk_bytes: REGION_BYTES / 2,
        };
        let splitter = Splitter::new(config, known.first, starts);
        let end = new_end(&self.log, &known, &kept, known.first, None);
        Ok(Agent {
            life: self.lives,
            splitter,
            end,
            link: None,
            activity,
            known,
            kept,
            requests: BTreeMap::new(),
            scan: None,
            next_request: 0,
            syncing: vec![false; DISKS],
            stops_by: None,
            clean_stop: None,
            starts_again: false,
            hot_at_start,
        })
    }

    /// Looks at a disk's activity log, and begins it anew.
    fn begin_disk(
        &mut self,
        disk: usize,
        before: Option<&AgentState>,
        incarnation: IncarnationId,
        ctx: &mut Context,
    ) -> io::Result<(ActivityLog, RegionSet, Option<Distrust>)> {
        let medium = self.activity[disk].clone();
        let present = Present {
            disk: self.disks[disk].identity,
            log: self.log_identity(),
            last_life: before.map(|state| state.incarnation),
            last_seen: self.seen.as_ref().map(|seen| seen[disk]),
        };
        let believed = |found: Found| match decide(&found.header, &present) {
            Err(_) if ctx.is(Mutation::AnyActivityLogIsTrusted) => Ok(found),
            decided => decided.map(|()| found),
        };
        let disavowed = before.is_some_and(|before| before.disavowed);
        let found = read(&medium).and_then(believed);
        let found = if disavowed { found.and(Err(Distrust::Invalid)) } else { found };
        ctx.seen(match &found {
            Ok(_) => Seen::ActivityLogTrusted,
            Err(_) => Seen::ActivityLogDistrusted,
        });
        let regions = region_count(present.disk.size_bytes, REGION_BYTES);
        let hot = found.as_ref().map_or_else(|_| RegionSet::all(regions), |found| found.hot.clone());
        let header = ActivityHeader {
            sequence: found.as_ref().map_or(1, |found| found.header.sequence + 1),
            clean: false,
            region_bytes: REGION_BYTES,
            disk: present.disk,
            log: present.log,
            incarnation,
        };
        let log = ActivityLog::begin(Box::new(medium), header, hot.clone(), found.as_ref().ok())?;
        self.changed_behind[disk] &= self.rolled_back;
        Ok((log, hot, found.err()))
    }

    pub(super) fn kept_state(&self) -> Option<AgentState> {
        let bytes = self.state.bytes();
        let copy = |at: u64| bytes.get(at as usize..).and_then(|rest| AgentState::decode(rest).ok());
        [copy(0), copy(STATE_COPY_BYTES)].into_iter().flatten().max_by_key(|state| state.sequence)
    }

    fn write_state(&self, state: &AgentState) -> io::Result<()> {
        self.state.write_at((state.sequence % 2) * STATE_COPY_BYTES, &state.encode())?;
        self.state.sync()
    }

    /// Changes what the agent remembers; synced on return.
    pub(super) fn remember(&mut self, change: impl FnOnce(&mut AgentState)) -> io::Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let mut next = agent.kept.clone();
        change(&mut next);
        next.sequence += 1;
        self.write_state(&next)?;
        if let Some(agent) = &mut self.agent {
            agent.kept = next;
        }
        Ok(())
    }

    /// An activity log failed: where it could not be emptied, no later life may believe it.
    pub(super) fn activity_log_failed(&mut self, failed: &ActivityLogFailed, ctx: &mut Context) {
        if failed.emptied || ctx.is(Mutation::DisavowalIsNotNoted) {
            return;
        }
        ctx.seen(Seen::Disavowed);
        // The agent's state lies elsewhere: where this fails as well, the machine is down.
        let _ = self.remember(|state| state.disavowed = true);
    }

    /// The process is gone.
    pub(super) fn kill_agent(&mut self) {
        self.agent = None;
        self.media().for_each(super::medium::ModelMedium::killed);
    }

    /// The machine loses power: with it all that was not synced.
    pub(super) fn lose_power(&mut self, ctx: &mut Context) {
        self.kill_agent();
        self.disks.iter_mut().for_each(|disk| disk.crash(&mut ctx.chance));
        self.media().for_each(|medium| medium.crash(&mut ctx.chance));
        self.seen = None;
    }

    /// The end of a stop: what can be is synced, and each activity log says how its disk was left.
    pub(super) fn settle(&mut self, ctx: &mut Context) {
        let Some(agent) = &mut self.agent else { return };
        let stopped = agent.clean_stop.filter(|stop| *stop <= agent.end.committed());
        for (number, disk) in self.disks.iter_mut().enumerate() {
            let sync = agent.splitter.sync_begins(number);
            disk.synced(disk.sync_begins());
            agent.splitter.sync_ends(number, sync, true);
            let cooled = agent.splitter.cool(number, ctx.now, 0);
            agent.activity[number].cool(&cooled);
            // One that fails is not believed at the next start.
            let _ = agent.activity[number].clean_stop(disk.identity);
        }
        let (committed, epoch) = (agent.end.committed(), agent.end.epoch_known());
        let written =
            self.remember(|state| (state.clean_stop, state.committed, state.epoch) = (stopped, committed, epoch));
        if stopped.is_some() && written.is_ok() {
            ctx.seen(Seen::StoppedClean);
        } else {
            ctx.seen(Seen::StoppedUnclean);
        }
        ctx.say(self.name(), format!("has stopped, clean at {stopped:?}"));
        if !self.media().any(super::medium::ModelMedium::died) {
            self.kill_agent();
            ctx.within(50_000, 800_000, Event::AgentStart(self.index));
        }
    }
}
