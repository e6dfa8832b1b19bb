//! An agent's session, as its shell does it: what the protocol's end says, and what the splitter is told of it.

use super::context::Context;
use super::counters::Seen;
use super::life::Agent;
use super::log::ModelLog;
use super::machine::Machine;
use super::mutation::Mutation;
use super::source::SourceDisk;
use crate::agent::state::AgentState;
use crate::capture::opening::{KnownLog, plan};
use crate::ids::Lsn;
use crate::protocol::message::{HelloKey, PROTOCOL_VERSION};
use crate::protocol::{
    Accepted, AgentEnd, AgentEvent, AgentMessage, Hello, Refusal, RefusalCode, Reset, ServerMessage,
};
use crate::record::{GapReason, Record};

/// Bytes handed to the protocol's end and not sent; beyond them batches wait in the splitter.
const UNSENT_BYTES_MAX: usize = 32 << 10;

/// The protocol's end of a life.
pub(super) fn new_end(
    log: &ModelLog,
    known: &KnownLog,
    kept: &AgentState,
    first_lsn: Lsn,
    reset: Option<Reset>,
) -> AgentEnd {
    let hello = Hello {
        version: PROTOCOL_VERSION,
        machine: log.machine,
        timeline: log.timeline,
        incarnation: known.incarnation,
        lineage: known.lineage.clone(),
        trusted: known.disks.iter().all(|disk| disk.distrust.is_none()),
        reset,
        epoch_known: kept.epoch,
        first_lsn,
        data_key: HelloKey::new(*log.key.as_bytes()),
        agent: "simulated".into(),
        disks: (0..known.disks.len()).map(SourceDisk::info).collect(),
    };
    AgentEnd::new(hello, known.committed)
}

impl Machine {
    /// A connection stands. Before a process server hears of this life it is written down that one may have.
    ///
    /// # Errors
    /// Where it cannot be written down: then nothing is said.
    pub(super) fn connected(&mut self, ctx: &Context) -> std::io::Result<()> {
        if self.agent.as_ref().is_some_and(|agent| !agent.kept.announced) {
            self.remember(|state| state.announced = true)?;
        }
        if let Some(agent) = &mut self.agent {
            agent.end.connected(ctx.now);
        }
        Ok(())
    }

    pub(super) fn poll_send(&mut self) -> Option<AgentMessage> {
        self.agent.as_mut()?.end.poll_send()
    }

    /// Moves what is complete from the splitter to the protocol's end.
    pub(super) fn pump(&mut self, ctx: &mut Context) {
        let (now, wall) = (ctx.now, self.wall(ctx));
        let silent = ctx.is(Mutation::GapIsNotTold);
        let stopping = self.agent.as_ref().is_some_and(|agent| agent.stops_by.is_some());
        let snapshot = if stopping { self.snapshot() } else { Vec::new() };
        let Some(agent) = &mut self.agent else { return };
        if !agent.end.is_open() || !agent.splitter.is_open() {
            return;
        }
        agent.splitter.close_batch(now);
        let still = agent.requests.is_empty() && agent.scan.is_none();
        if agent.stops_by.is_some() && still && agent.clean_stop.is_none() && agent.splitter.batch_due().is_none() {
            if let Some(mark) = agent.splitter.last_mark(now, wall, &mut ctx.chance) {
                ctx.seen(Seen::MarkTaken);
                self.marks.insert(mark, snapshot);
            }
            agent.clean_stop = agent.splitter.clean_stop(wall, now);
        }
        while agent.end.unsent_bytes() < UNSENT_BYTES_MAX {
            let Some(draft) = agent.splitter.take_batch() else { break };
            let mut batch = draft.lay_out();
            if silent {
                batch.records.retain(|at| !matches!(at.record, Record::GapOpened { .. }));
            }
            agent.end.push(batch);
        }
        while agent.end.may_compare() {
            let Some(part) = agent.splitter.next_compare() else { break };
            agent.end.compare(part);
        }
    }

    /// Takes a message; says whether the link is to be closed.
    pub(super) fn received(&mut self, message: ServerMessage, ctx: &mut Context) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let events = agent.end.received(message, ctx.now);
        self.take(events, ctx)
    }

    pub(super) fn tick(&mut self, ctx: &mut Context) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let events = agent.end.tick(ctx.now);
        self.take(events, ctx)
    }

    fn take(&mut self, events: Vec<AgentEvent>, ctx: &mut Context) -> bool {
        let mut closes = false;
        for event in events {
            match event {
                AgentEvent::Accepted(accepted) => closes |= !self.accepted(&accepted, ctx),
                AgentEvent::Durable(lsn) => {
                    if let Some(agent) = self.agent.as_mut().filter(|_| ctx.is(Mutation::CooledUncommitted)) {
                        agent.splitter.committed(lsn);
                    }
                }
                AgentEvent::Committed(lsn) => self.told_committed(lsn, ctx),
                AgentEvent::BeginningCommitted => {
                    self.begun += 1;
                    // A lineage that is longer than it need be does no harm.
                    let _ = self.remember(|state| {
                        state.confirmed = true;
                        state.lineage.clear();
                    });
                }
                AgentEvent::Refused(refusal) => {
                    ctx.say(self.name(), format!("is refused: {}", refusal.text));
                    ctx.seen(Seen::Refused);
                    closes = true;
                    self.refused(&refusal, ctx);
                }
                AgentEvent::Redirected(_) => ctx.seen(Seen::Redirected),
                AgentEvent::MarkNow(_) => {}
                AgentEvent::Digests(digests) => {
                    if let Some(agent) = &mut self.agent {
                        agent.splitter.compared(digests);
                    }
                }
                AgentEvent::Alarm(alarm) => ctx.fail(format!("{} raises an alarm: {alarm}", self.name())),
                AgentEvent::Disconnect(reason) => {
                    ctx.say(self.name(), format!("disconnects: {reason}"));
                    closes = true;
                }
            }
        }
        self.pump(ctx);
        closes
    }

    fn accepted(&mut self, accepted: &Accepted, ctx: &mut Context) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        if !accepted.opening_due {
            return true;
        }
        let hello = agent.end.hello();
        let mut known = KnownLog { first: hello.first_lsn, ..agent.known.clone() };
        if hello.reset.is_some() {
            known.lineage.clear();
        }
        let opening = plan(&known, &accepted.welcome.log);
        if agent.splitter.is_open() {
            return match agent.splitter.reopen(&opening) {
                Ok(batch) => {
                    ctx.seen(Seen::LifeReopened);
                    agent.end.open_with(batch);
                    true
                }
                Err(error) => {
                    ctx.say(format!("machine {}", self.index), error);
                    agent.starts_again = true;
                    false
                }
            };
        }
        let next_disk = opening.next_disk;
        if self.remember(|state| state.next_disk = next_disk).is_err() {
            return false;
        }
        let Some(agent) = &mut self.agent else { return false };
        let mut failed = Vec::new();
        for (disk, opened) in opening.disks.iter().enumerate() {
            if opened.full_scan.is_some() {
                ctx.seen(Seen::FullCompare);
                agent.hot_at_start[disk] = None;
                failed.extend(agent.activity[disk].record_all_hot().err());
            }
            ctx.seen(if opened.gap.is_some() { Seen::OpenedInGap } else { Seen::OpenedInOrder });
            self.changed_behind[disk] = false;
        }
        self.rolled_back = false;
        failed.iter().for_each(|failed| self.activity_log_failed(failed, ctx));
        let Some(agent) = &mut self.agent else { return false };
        let (batch, _) = agent.splitter.open(opening, ctx.now);
        agent.end.open_with(batch);
        ctx.seen(Seen::LifeOpened);
        true
    }

    fn told_committed(&mut self, lsn: Lsn, ctx: &mut Context) {
        self.committed = self.committed.max(lsn);
        let now = ctx.now;
        if let Some(agent) = &mut self.agent {
            agent.splitter.committed(lsn);
            agent.splitter.close_batch(now);
        }
    }

    fn refused(&mut self, refusal: &Refusal, ctx: &mut Context) {
        let Some(agent) = &mut self.agent else { return };
        let fresh = !agent.splitter.is_open() && agent.end.hello().reset.is_none();
        match refusal.code {
            RefusalCode::IncarnationUnknown | RefusalCode::LsnTaken if fresh => {
                ctx.seen(Seen::StartedOver);
                let before = agent.end.hello().first_lsn;
                let first = before.max(refusal.log_last.next());
                if self.remember(|state| state.reserved = Lsn(state.reserved.0 + first.0 - before.0)).is_err() {
                    return;
                }
                self.start_over(first, refusal);
            }
            code if code.passes_by_itself() => {}
            // Something took its LSNs or its place after it began: only another life can go on.
            _ => agent.starts_again = true,
        }
    }

    fn start_over(&mut self, first: Lsn, refusal: &Refusal) {
        let Some(Agent { end, known, kept, .. }) = &mut self.agent else { return };
        let reset = refusal
            .log_incarnation
            .map(|log_incarnation| Reset { log_incarnation, reason: GapReason::ActivityLogLost });
        *end = new_end(&self.log, known, kept, first, reset);
    }
}
