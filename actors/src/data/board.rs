//! A machine's board: how it stands, beside its actors. They write it, the report reads it; it outlives all of them, and
//! is readable when they are stuck.

use std::collections::VecDeque;

use farshore_engine::control::messages::{MergingReport, ScrubReport, Severity};
use farshore_engine::ids::{Lsn, MachineId, Slot, TimelineId};
use farshore_engine::log::{Owner, SegmentNo};
use farshore_engine::vault::segment::Packing;
use parking_lot::Mutex;

use super::{ActorReport, DataEventKind, EventSink, HealthIssue, IssueCode, MachinePhase, MachineStatus, UploadCounts};
use crate::supervise::{ActorKind, ChildState, Loss, wall_clock};

/// A committed segment that is still cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spare {
    /// Its place in the order of commits of all machines.
    pub(super) order: u64,
    pub(super) segment: SegmentNo,
    pub(super) bytes: u64,
}

/// One machine's board.
#[derive(Debug)]
pub(super) struct Board {
    machine: MachineId,
    events: EventSink,
    status: Mutex<MachineStatus>,
    spares: Mutex<VecDeque<Spare>>,
    /// Who has taken the log over, as far as it was met.
    fenced_by: Mutex<Option<Owner>>,
}

impl Board {
    pub(super) fn new(machine: MachineId, timeline: TimelineId, owner: Owner, events: EventSink) -> Self {
        let status = MachineStatus {
            machine,
            timeline,
            epoch: owner.epoch,
            writer: owner.writer,
            phase: MachinePhase::Opening,
            health: Vec::new(),
            session: None,
            durable: Lsn::ZERO,
            committed: Lsn::ZERO,
            next_slot: Slot::ZERO,
            packing: Packing::Snappy,
            retention: None,
            merging: MergingReport::default(),
            scrub: ScrubReport::default(),
            scrub_wanted: false,
            doubted: Vec::new(),
            newest_mark: None,
            idle_confirmed_at: None,
            backlog_bytes: 0,
            cached_bytes: 0,
            batches: 0,
            disks: std::collections::BTreeMap::new(),
            uploads: UploadCounts::default(),
            actors: std::collections::BTreeMap::new(),
        };
        Self { machine, events, status: Mutex::new(status), spares: Mutex::default(), fenced_by: Mutex::default() }
    }

    /// A copy of all of it.
    pub(super) fn status(&self) -> MachineStatus {
        self.status.lock().clone()
    }

    /// Looks at it without a copy.
    pub(super) fn read<T>(&self, look: impl FnOnce(&MachineStatus) -> T) -> T {
        look(&self.status.lock())
    }

    /// Changes it.
    pub(super) fn edit<T>(&self, change: impl FnOnce(&mut MachineStatus) -> T) -> T {
        change(&mut self.status.lock())
    }

    /// Tells an event of this machine.
    pub(super) fn tell(&self, kind: DataEventKind) {
        self.events.tell(Some(self.machine), kind);
    }

    /// Something is wrong. An event goes out when it was not before, or became worse.
    pub(super) fn raise(&self, code: IssueCode, severity: Severity, text: String, remedy: &str) {
        let mut status = self.status.lock();
        let known = status.health.iter().position(|issue| issue.code == code).map(|at| status.health.remove(at));
        let since = known.as_ref().map_or_else(wall_clock, |issue| issue.since);
        let issue = HealthIssue { code, severity, text: text.clone(), remedy: remedy.into(), since };
        status.health.push(issue);
        status.health.sort_by_key(|issue| std::cmp::Reverse(issue.severity));
        drop(status);
        if known.is_none_or(|known| known.severity < severity) {
            self.tell(DataEventKind::Trouble { code, severity, text: format!("{text}. {remedy}") });
        }
    }

    /// What the vault holds of the log cannot be read where the log goes on.
    pub(super) fn vault_is_damaged(&self, text: &str) {
        let remedy = "Run `farshore vault verify`. Nothing is built on damage; it is read again every few seconds.";
        self.raise(IssueCode::VaultDamaged, Severity::Critical, text.into(), remedy);
    }

    /// It is no longer wrong. An event goes out when it was.
    pub(super) fn clear(&self, code: IssueCode) {
        let mut status = self.status.lock();
        let before = status.health.len();
        status.health.retain(|issue| issue.code != code);
        let was = status.health.len() < before;
        drop(status);
        if was {
            self.tell(DataEventKind::Over { code });
        }
    }

    /// A child of this kind lives.
    pub(super) fn actor_born(&self, kind: ActorKind) {
        self.edit(|status| actor(status, kind).state = ChildState::Alive);
    }

    /// A child of this kind ended.
    pub(super) fn actor_lost(&self, kind: ActorKind, loss: &Loss) {
        let (ending, given_up) = match loss {
            Loss::Restarting { ending, .. } => (ending, false),
            Loss::GaveUp { ending } => (ending, true),
            Loss::Finished => return self.edit(|status| actor(status, kind).state = ChildState::Ended),
        };
        let text = ending.to_string();
        self.edit(|status| {
            let report = actor(status, kind);
            report.state = if given_up { ChildState::GivenUp } else { ChildState::Waiting };
            report.restarts += u64::from(!given_up);
            report.last_failure = Some(text.clone());
        });
        self.tell(DataEventKind::Restarted { kind, ending: text.clone(), given_up });
        if given_up {
            let what = format!("an actor ({kind:?}) of the machine keeps failing: {text}");
            self.raise(IssueCode::RestartStorm, Severity::Critical, what, "It is tried again; report this defect.");
        }
    }

    pub(super) fn fenced_by(&self) -> Option<Owner> {
        *self.fenced_by.lock()
    }

    pub(super) fn is_fenced(&self, by: Owner) {
        *self.fenced_by.lock() = Some(by);
    }

    /// Committed segments that are still cached, in the order of their commits.
    pub(super) fn spares(&self) -> Vec<Spare> {
        self.spares.lock().iter().copied().collect()
    }

    pub(super) fn spare_bytes(&self) -> u64 {
        self.spares.lock().iter().map(|spare| spare.bytes).sum()
    }

    pub(super) fn spare_added(&self, spare: Spare) {
        self.spares.lock().push_back(spare);
    }

    pub(super) fn spares_gone(&self, gone: impl Fn(SegmentNo) -> bool) {
        self.spares.lock().retain(|spare| !gone(spare.segment));
    }
}

fn actor(status: &mut MachineStatus, kind: ActorKind) -> &mut ActorReport {
    status.actors.entry(kind).or_insert(ActorReport { state: ChildState::Alive, restarts: 0, last_failure: None })
}
