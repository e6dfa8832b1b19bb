//! What the process server tells on its own: for the operator's event list, the dashboard and the balancer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use farshore_engine::control::messages::{MemberEvent, Severity};
use farshore_engine::ids::{DiskNo, Lsn, MachineId, Slot, Timestamp};
use farshore_engine::log::Owner;
use farshore_engine::record::{GapReason, Mark};
use tokio::sync::mpsc;

use super::IssueCode;
use crate::supervise::{ActorKind, wall_clock};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum DataEventKind {
    /// The log belongs to this process server now.
    Adopted {
        /// As this owner.
        owner: Owner,
        /// Up to here.
        committed: Lsn,
    },
    /// A mark is committed: a recovery point of these disks.
    MarkCommitted {
        /// The mark.
        mark: Mark,
        /// Its place.
        lsn: Lsn,
        /// The disks without a gap there.
        disks: Vec<DiskNo>,
    },
    /// Order was lost on a disk: no points of it until the gap is closed.
    GapOpened {
        /// The disk.
        disk: DiskNo,
        /// The first LSN that is not in its place.
        from: Lsn,
        /// Why.
        reason: GapReason,
    },
    /// The replica of the disk equals the disk again.
    GapClosed {
        /// The disk.
        disk: DiskNo,
        /// Where.
        at: Lsn,
    },
    /// Another owner has the log.
    Fenced {
        /// Who.
        by: Owner,
        /// Where it was seen.
        slot: Option<Slot>,
    },
    /// Something is wrong.
    Trouble {
        /// Stable code.
        code: IssueCode,
        /// How much it matters.
        severity: Severity,
        /// What happened, why, what to do.
        text: String,
    },
    /// It is no longer wrong.
    Over {
        /// What was.
        code: IssueCode,
    },
    /// An actor ended and was, or will be, started again.
    Restarted {
        /// Its kind.
        kind: ActorKind,
        /// How the last life ended.
        ending: String,
        /// Too often: it rests before it is tried again.
        given_up: bool,
    },
    /// An agent was turned away.
    AgentRefused {
        /// Why.
        text: String,
    },
    /// Damaged objects of the log are as they were, or others stand in their place.
    ObjectsRepaired {
        /// Their names.
        objects: Vec<String>,
        /// What was done, in words.
        how: &'static str,
    },
    /// Segments of the cache were thrown away; the agent sends what they held again.
    SegmentsDiscarded {
        /// How many.
        count: usize,
        /// Why, of the first.
        reason: String,
    },
}

/// Something that happened at a process server.
#[derive(Debug, Clone, PartialEq)]
pub struct DataEvent {
    /// When, by its clock.
    pub at: Timestamp,
    /// Which machine, where it concerns one.
    pub machine: Option<MachineId>,
    /// What.
    pub kind: DataEventKind,
}

impl DataEvent {
    /// The event as the control protocol carries it; `None` for what travels in reports instead.
    pub fn for_operator(&self) -> Option<MemberEvent> {
        let (severity, code, text) = match &self.kind {
            DataEventKind::Adopted { .. } | DataEventKind::MarkCommitted { .. } => return None,
            DataEventKind::GapOpened { disk, from, reason } => {
                (Severity::Warning, "gap_opened", format!("disk {disk} has no points from LSN {from} on: {reason:?}"))
            }
            DataEventKind::GapClosed { disk, at } => {
                (Severity::Info, "gap_closed", format!("disk {disk} has points again from LSN {at} on"))
            }
            DataEventKind::Fenced { by, .. } => {
                (Severity::Warning, "fenced", format!("the log belongs to {by}; nothing more is committed here"))
            }
            DataEventKind::Trouble { code, severity, text } => (*severity, code.name(), text.clone()),
            DataEventKind::Over { code } => (Severity::Info, code.name(), format!("{} is over", code.name())),
            DataEventKind::Restarted { kind, ending, given_up: true } => {
                (Severity::Critical, "restart_storm", format!("{kind:?} keeps failing and rests: {ending}"))
            }
            DataEventKind::Restarted { kind, ending, .. } => {
                (Severity::Warning, "actor_restarted", format!("{kind:?} was started again: {ending}"))
            }
            DataEventKind::AgentRefused { text } => (Severity::Warning, "agent_refused", text.clone()),
            DataEventKind::ObjectsRepaired { objects, how } => {
                let text = format!("damaged objects were {how}: {}", objects.join(", "));
                (Severity::Warning, "objects_repaired", text)
            }
            DataEventKind::SegmentsDiscarded { count, reason } => {
                (Severity::Info, "segments_discarded", format!("{count} cached segments were discarded: {reason}"))
            }
        };
        let text = match self.machine {
            Some(machine) => format!("machine {machine}: {text}"),
            None => text,
        };
        Some(MemberEvent { at: self.at, severity, code: code.into(), text })
    }
}

impl IssueCode {
    /// The code as programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::VaultAway => "vault_away",
            Self::VaultFull => "vault_full",
            Self::VaultDamaged => "vault_damaged",
            Self::VaultLocked => "vault_locked",
            Self::Fenced => "fenced",
            Self::CacheLost => "cache_lost",
            Self::CacheFailed => "cache_failed",
            Self::CacheShort => "cache_short",
            Self::CacheThrottled => "cache_throttled",
            Self::CacheFull => "cache_full",
            Self::RestartStorm => "restart_storm",
            Self::ThreadBlocked => "thread_blocked",
            Self::Unsealable => "unsealable",
            Self::MergingFailed => "merging_failed",
            Self::MergingBehind => "merging_behind",
            Self::ObjectsDamaged => "objects_damaged",
        }
    }
}

/// Events that nobody has taken yet, at most. Chosen: a thousand machines' marks of four seconds.
const EVENTS_MAX: usize = 4096;

/// Where events go. Never blocks: what nobody takes in time is counted and dropped, everything that matters is in the
/// report as well.
#[derive(Debug, Clone)]
pub struct EventSink {
    out: mpsc::Sender<DataEvent>,
    lost: Arc<AtomicU64>,
}

impl EventSink {
    /// A sink, and where its events come out.
    pub fn new() -> (Self, mpsc::Receiver<DataEvent>) {
        let (out, events) = mpsc::channel(EVENTS_MAX);
        (Self { out, lost: Arc::default() }, events)
    }

    /// Tells an event.
    pub fn tell(&self, machine: Option<MachineId>, kind: DataEventKind) {
        if self.out.try_send(DataEvent { at: wall_clock(), machine, kind }).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// How many were dropped.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}
