//! The protected machine: one agent at a time, each a life of its own, and everything that they wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use super::context::{Context, Event, LinkNo};
use super::maker::{Made, Maker};
use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, MachineId, TimelineId, Timestamp};
use crate::protocol::{AgentEnd, AgentEvent, AgentMessage, Hello, HelloKey, ServerMessage};
use crate::record::{MarkKind, Record};
use crate::vault::crypto::DataKey;

/// Disks of the machine.
pub(super) const DISKS: u16 = 2;
/// Blocks of a disk: few, so that writes overlap.
const BLOCKS: u64 = 64;
/// LSNs that a new life leaves free: what the former one had reserved.
const RESERVED: u64 = 1000;
/// What the agent holds at most before its script waits.
const HELD_BYTES_MAX: usize = 512 << 10;

/// Everything that was ever written, and what was promised about it.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) writes: BTreeMap<Lsn, Made>,
    /// Lives with their first LSN, in order.
    pub(super) lives: Vec<(Lsn, IncarnationId)>,
    /// Marks, closed gaps and clean stops.
    pub(super) records: BTreeMap<Lsn, Record>,
    /// The highest LSN that an agent was told to be committed.
    pub(super) committed: Lsn,
}

impl History {
    /// Each block's last writer before an LSN, with the LSN whose contents it brought: what the source disk holds.
    pub(super) fn disk_at(&self, lsn: Lsn) -> BTreeMap<(DiskNo, u64), (Lsn, Lsn)> {
        let before = self.writes.range(..lsn).map(|(_, made)| made);
        before.map(|made| ((made.disk, made.offset), (made.lsn, made.contents))).collect()
    }
}

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) end: AgentEnd,
    pub(super) link: Option<LinkNo>,
    maker: Maker,
    life: IncarnationId,
    first: Lsn,
    /// The script writes no more.
    pub(super) silent: bool,
}

fn hello(
    machine: MachineId,
    timeline: TimelineId,
    key: &DataKey,
    life: (IncarnationId, Lsn),
    lineage: Vec<IncarnationId>,
    epoch: Epoch,
) -> Hello {
    Hello {
        version: crate::protocol::message::PROTOCOL_VERSION,
        machine,
        timeline,
        incarnation: life.0,
        lineage,
        trusted: true,
        reset: None,
        epoch_known: epoch,
        first_lsn: life.1,
        data_key: HelloKey::new(*key.as_bytes()),
        agent: "simulated".into(),
        disks: Vec::new(),
    }
}

impl Agent {
    /// A new life behind everything that was written.
    pub(super) fn begin(
        machine: MachineId,
        timeline: TimelineId,
        key: &DataKey,
        before: Option<&Agent>,
        history: &mut History,
        ctx: &mut Context,
    ) -> Self {
        let life = IncarnationId::draw(&mut ctx.chance);
        let first = before.map_or(Lsn(1), |before| Lsn(before.maker.next().0 + RESERVED));
        let lineage = history.lives.iter().map(|(_, life)| *life).collect();
        let epoch = before.map_or(Epoch::ZERO, |before| before.end.epoch_known());
        let hello = hello(machine, timeline, key, (life, first), lineage, epoch);
        history.lives.push((first, life));
        ctx.say("agent", format!("life {life} begins at LSN {first}"));
        let mut maker = Maker::new(key, DISKS, BLOCKS, first);
        maker.skip_beginning();
        let end = AgentEnd::new(hello, history.committed);
        let mut agent = Self { end, link: None, maker, life, first, silent: false };
        agent.catch_up(history);
        agent
    }

    /// Blocks that may not be committed are read again; then the replica equals the disk, and every gap closes.
    fn catch_up(&mut self, history: &mut History) {
        let hot: Vec<(DiskNo, u64, Lsn)> = history
            .disk_at(self.first)
            .into_iter()
            .filter(|(_, (writer, _))| *writer > history.committed)
            .map(|((disk, offset), (_, contents))| (disk, offset, contents))
            .collect();
        for blocks in hot.chunks(8) {
            let (batch, made) = self.maker.rewrites(blocks);
            history.writes.extend(made.into_iter().map(|made| (made.lsn, made)));
            self.end.push(batch);
        }
        for disk in 0..DISKS {
            let batch = self.maker.record(Record::GapClosed { disk: DiskNo(disk) });
            self.push_records(batch, history);
        }
    }

    /// The script: write, mark, or wait; then go on.
    pub(super) fn script(&mut self, history: &mut History, ctx: &mut Context) {
        if !self.silent && self.end.held_bytes() < HELD_BYTES_MAX {
            match ctx.chance.below(20) {
                0 => self.mark(history, ctx),
                _ => {
                    let count = ctx.chance.between(1, 6);
                    let (batch, made) = self.maker.writes(count, &mut ctx.chance);
                    history.writes.extend(made.into_iter().map(|made| (made.lsn, made)));
                    self.end.push(batch);
                }
            }
        }
        ctx.within(2000, 40_000, Event::Script);
    }

    fn mark(&mut self, history: &mut History, ctx: &mut Context) {
        let kind = if ctx.chance.happens(200) { MarkKind::App } else { MarkKind::Crash };
        let batch = self.maker.mark(kind, &mut ctx.chance);
        self.push_records(batch, history);
    }

    /// The last thing that a life says before it stops cleanly.
    pub(super) fn stop(&mut self, history: &mut History, ctx: &mut Context) {
        let batch = self.maker.record(Record::CleanStop { captured_at: Timestamp(ctx.now.as_micros() as i64) });
        self.push_records(batch, history);
        self.silent = true;
    }

    fn push_records(&mut self, batch: crate::batch::Batch, history: &mut History) {
        history.records.extend(batch.records.iter().map(|at| (at.lsn, at.record.clone())));
        self.end.push(batch);
    }

    /// Takes a message; says whether the link is to be closed.
    pub(super) fn received(
        &mut self,
        message: ServerMessage,
        in_log: Lsn,
        history: &mut History,
        ctx: &mut Context,
    ) -> bool {
        let events = self.end.received(message, ctx.now);
        self.take(events, in_log, history, ctx)
    }

    pub(super) fn tick(&mut self, in_log: Lsn, history: &mut History, ctx: &mut Context) -> bool {
        let events = self.end.tick(ctx.now);
        ctx.at(ctx.now + Duration::from_secs(1), Event::AgentTick);
        self.take(events, in_log, history, ctx)
    }

    fn take(&mut self, events: Vec<AgentEvent>, in_log: Lsn, history: &mut History, ctx: &mut Context) -> bool {
        let mut closes = false;
        for event in events {
            match event {
                AgentEvent::Accepted(accepted) => {
                    if accepted.opening_due {
                        let batch = self.maker.beginning(self.first, self.life, &accepted.welcome.log);
                        self.end.open_with(batch);
                    }
                }
                AgentEvent::Committed(lsn) => {
                    // I3: what is reported committed is in the log, whatever dies from here on.
                    if lsn > in_log {
                        ctx.fail(format!("LSN {lsn} was reported committed, but the log ends at {in_log}"));
                    }
                    history.committed = history.committed.max(lsn);
                }
                AgentEvent::Refused(refusal) => {
                    ctx.say("agent", format!("is refused: {}", refusal.text));
                    if !refusal.code.passes_by_itself() {
                        ctx.fail(format!("an honest agent is turned away: {}", refusal.text));
                    }
                }
                AgentEvent::Alarm(alarm) => ctx.fail(alarm.to_string()),
                AgentEvent::Disconnect(reason) => {
                    ctx.say("agent", format!("disconnects: {reason}"));
                    closes = true;
                }
                AgentEvent::Durable(_)
                | AgentEvent::BeginningCommitted
                | AgentEvent::Redirected(_)
                | AgentEvent::MarkNow(_)
                | AgentEvent::Digests(_) => {}
            }
        }
        closes
    }

    pub(super) fn poll_send(&mut self) -> Option<AgentMessage> {
        self.end.poll_send()
    }
}
