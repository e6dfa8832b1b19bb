//! How an agent stands, for people and programs: a snapshot, its file, and what happened lately.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use slog::Logger;

use crate::control::messages::{MemberEvent, Severity};
use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, MachineId, ProcessServerId, TimelineId, Timestamp};
use crate::record::GapReason;

/// Most events that are kept for the status, and for a configuration server that is away.
const EVENTS_MAX: usize = 128;

/// How the session to the process server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SessionState {
    /// It is not known who takes the writes.
    NoProcessServer,
    /// It is being connected.
    Connecting {
        /// To this address.
        address: String,
    },
    /// The process server takes the writes.
    Open {
        /// At this address.
        address: String,
    },
    /// It waits for the next try.
    Waiting {
        /// Why the last one failed.
        reason: String,
    },
    /// Somebody must act; it is tried again from time to time.
    Refused {
        /// Why.
        reason: String,
    },
    /// The agent has stopped.
    Stopped,
}

/// How one disk stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its name.
    pub name: String,
    /// Its number, once the log is open.
    pub number: Option<DiskNo>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Sector size in bytes.
    pub sector_bytes: u32,
    /// URI of its export.
    pub export: String,
    /// The gap that is open.
    pub gap: Option<GapReason>,
    /// Whether the whole disk is scanned, and why.
    pub full_scan: Option<String>,
    /// Regions that may differ from the replica.
    pub hot_regions: u32,
    /// Bytes in them.
    pub hot_bytes: u64,
    /// Bytes in regions that were hot when this life began: what a scan after a crash may read at most.
    pub hot_bytes_at_start: u64,
    /// Bytes that were read again in this life.
    pub rescanned_bytes: u64,
    /// Bytes that are still to be read.
    pub scan_bytes_left: u64,
    /// Bytes that were compared with the replica by digest in this life.
    #[serde(default)]
    pub compared_bytes: u64,
    /// Bytes of them that differed, and were sent.
    #[serde(default)]
    pub differing_bytes: u64,
    /// Regions that cannot be read at present.
    pub unreadable_regions: usize,
    /// Writes that went to the disk and not to the log in this life.
    pub lost_writes: u64,
    /// Whether the activity log cannot be written.
    pub activity_log_failed: bool,
    /// What became of the disk beneath, where it is not as it was.
    #[serde(default)]
    pub missing: Option<String>,
}

/// How an agent stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// When this was written, by the agent's clock.
    pub at: Timestamp,
    /// Its process.
    pub pid: u32,
    /// The machine's name.
    pub name: String,
    /// The machine.
    pub machine: MachineId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// This life.
    pub incarnation: IncarnationId,
    /// The session to the process server.
    pub session: SessionState,
    /// The process server it is with.
    pub process_server: Option<ProcessServerId>,
    /// The highest epoch known.
    pub epoch: Epoch,
    /// The last LSN that was given.
    pub last_lsn: Lsn,
    /// Everything up to here is on the process server's disk.
    pub durable: Lsn,
    /// Everything up to here is in the vault.
    pub committed: Lsn,
    /// Bytes held until they are committed.
    pub memory_bytes: usize,
    /// Most of them.
    pub memory_bytes_max: usize,
    /// Rung of the overload ladder.
    pub rung: u8,
    /// The session's last error.
    pub last_error: Option<String>,
    /// Whether any disk is scanned as a whole because its activity log, or the log itself, could not be trusted.
    pub full_compare: bool,
    /// The disks.
    pub disks: Vec<DiskStatus>,
    /// What happened lately, oldest first.
    pub events: Vec<MemberEvent>,
}

impl AgentStatus {
    /// Writes it where programs look for it, in one step.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let aside = path.with_extension("json-new");
        fs::write(&aside, serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?)?;
        fs::rename(aside, path)
    }
}

/// What happened: kept for the status, logged, and told to the configuration server.
#[derive(Debug)]
pub(super) struct Events {
    logger: Logger,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    recent: VecDeque<MemberEvent>,
    untold: VecDeque<MemberEvent>,
}

impl Events {
    pub(super) fn new(logger: Logger) -> Self {
        Self { logger, kept: Mutex::default() }
    }

    /// Something happened.
    pub(super) fn add(&self, at: Timestamp, severity: Severity, code: &str, text: String) {
        match severity {
            Severity::Info => slog::info!(self.logger, "{text}"; "code" => code),
            Severity::Warning => slog::warn!(self.logger, "{text}"; "code" => code),
            Severity::Critical => slog::error!(self.logger, "{text}"; "code" => code),
        }
        let event = MemberEvent { at, severity, code: code.to_owned(), text };
        let mut kept = self.kept.lock();
        push(&mut kept.recent, event.clone());
        push(&mut kept.untold, event);
    }

    pub(super) fn recent(&self) -> Vec<MemberEvent> {
        self.kept.lock().recent.iter().cloned().collect()
    }

    /// What the configuration server has not been told; it is told with the next report.
    pub(super) fn take_untold(&self) -> Vec<MemberEvent> {
        self.kept.lock().untold.drain(..).collect()
    }

    /// It was not told after all.
    pub(super) fn put_back(&self, events: Vec<MemberEvent>) {
        let mut kept = self.kept.lock();
        events.into_iter().rev().for_each(|event| kept.untold.push_front(event));
        let excess = kept.untold.len().saturating_sub(EVENTS_MAX);
        kept.untold.drain(..excess);
    }

    pub(super) fn logger(&self) -> &Logger {
        &self.logger
    }
}

fn push(list: &mut VecDeque<MemberEvent>, event: MemberEvent) {
    if list.len() == EVENTS_MAX {
        list.pop_front();
    }
    list.push_back(event);
}
