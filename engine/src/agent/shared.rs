//! What the agent's threads share: the tap, the state, and how things stand.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::config::{AgentConfig, status_file};
use super::papers::Papers;
use super::state::StateFile;
use super::status::{AgentStatus, DiskStatus, Events, SessionState};
use crate::capture::Tap;
use crate::capture::opening::{KnownLog, Opening};
use crate::control::messages::{Assignment, Severity};
use crate::ids::{Epoch, Lsn, ProcessServerId, Timestamp};

/// Who takes the writes, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it listens, best first.
    pub addresses: Vec<String>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who it must be, where that is known.
    pub process_server: Option<ProcessServerId>,
}

impl From<&Assignment> for Target {
    fn from(assignment: &Assignment) -> Self {
        Self {
            addresses: assignment.addresses.clone(),
            epoch: assignment.epoch,
            process_server: Some(assignment.process_server),
        }
    }
}

/// How far the agent's stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It runs.
    Running,
    /// No write comes any more: the clean stop may go into the log.
    Closing,
    /// The session ends now.
    Ending,
}

/// What of the session shows in the status.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) session: SessionState,
    pub(super) process_server: Option<ProcessServerId>,
    pub(super) epoch: Epoch,
    pub(super) durable: Lsn,
    pub(super) committed: Lsn,
    pub(super) last_error: Option<String>,
    /// How the log was opened.
    pub(super) opening: Option<Opening>,
    /// The LSN of the clean stop, once it is in the vault.
    pub(super) clean_stop: Option<Lsn>,
}

/// A disk's constants for the status.
#[derive(Debug)]
pub(super) struct DiskFacts {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) sector_bytes: u32,
    pub(super) export: String,
    pub(super) hot_regions_at_start: u32,
}

pub(super) struct Shared {
    pub(super) config: AgentConfig,
    pub(super) papers: Papers,
    pub(super) tap: Arc<Tap>,
    pub(super) state: StateFile,
    pub(super) known: KnownLog,
    pub(super) facts: Vec<DiskFacts>,
    pub(super) events: Events,
    pub(super) standing: Mutex<Standing>,
    /// What became of each disk beneath that is not as it was.
    pub(super) missing: Mutex<Vec<Option<String>>>,
    /// The highest time that was told, in microseconds: what is told next is not before it.
    pub(super) told: AtomicI64,
    /// How many resyncs the configuration server has asked for.
    pub(super) resyncs_wanted: AtomicU64,
    /// How many of them have begun.
    pub(super) resyncs_begun: AtomicU64,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) target: watch::Sender<Option<Target>>,
}

impl Shared {
    /// The time as it is told: that of the clock, or the last one told while the clock is behind it. So the times of
    /// points never go back.
    pub(super) fn wall(&self) -> Timestamp {
        let now = self.clock().0;
        Timestamp(self.told.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// What the clock says.
    pub(super) fn clock(&self) -> Timestamp {
        (self.config.surroundings.wall)()
    }

    pub(super) fn event(&self, severity: Severity, code: &str, text: String) {
        self.events.add(self.wall(), severity, code, text);
    }

    pub(super) fn status_path(&self) -> PathBuf {
        status_file(&self.config.state_dir)
    }

    /// Somebody else may take the writes now. A lower epoch than the one known changes nothing.
    pub(super) fn retarget(&self, target: Target) {
        self.target.send_if_modified(|now| {
            let news = now.as_ref().is_none_or(|now| target.epoch >= now.epoch && target != *now);
            if news {
                *now = Some(target);
            }
            news
        });
    }

    /// How things stand.
    pub(super) fn status(&self) -> AgentStatus {
        let standing = self.standing.lock();
        let full_scan = |disk: usize| {
            let opening = standing.opening.as_ref().and_then(|opening| opening.disks[disk].full_scan);
            opening.or(self.known.disks[disk].distrust)
        };
        let is_new = |disk: usize| standing.opening.as_ref().is_some_and(|opening| opening.disks[disk].added.is_some());
        let full_compare =
            standing.opening.is_some() && (0..self.facts.len()).any(|disk| full_scan(disk).is_some() && !is_new(disk));
        let missing = self.missing.lock().clone();
        let splitter = self.tap.splitter();
        let region_bytes = self.config.region_bytes;
        let disks = self
            .facts
            .iter()
            .enumerate()
            .map(|(disk, facts)| {
                let view = splitter.disk_view(disk);
                let bytes = |regions: u32| (u64::from(regions) * region_bytes).min(facts.size_bytes);
                DiskStatus {
                    name: facts.name.clone(),
                    number: view.number,
                    size_bytes: facts.size_bytes,
                    sector_bytes: facts.sector_bytes,
                    export: facts.export.clone(),
                    gap: view.gap,
                    full_scan: full_scan(disk).map(|distrust| distrust.code().to_owned()),
                    hot_regions: view.hot_regions,
                    hot_bytes: bytes(view.hot_regions),
                    hot_bytes_at_start: bytes(facts.hot_regions_at_start),
                    rescanned_bytes: view.scanned_bytes,
                    scan_bytes_left: view.scan_bytes_left,
                    compared_bytes: view.compared_bytes,
                    differing_bytes: view.differing_bytes,
                    unreadable_regions: view.unreadable_regions,
                    lost_writes: view.lost_writes,
                    activity_log_failed: view.activity_log_failed,
                    missing: missing[disk].clone(),
                }
            })
            .collect();
        AgentStatus {
            at: self.wall(),
            pid: std::process::id(),
            name: self.config.name.clone(),
            machine: self.papers.grant.machine,
            timeline: self.papers.grant.timeline,
            incarnation: self.known.incarnation,
            session: standing.session.clone(),
            process_server: standing.process_server,
            epoch: standing.epoch,
            last_lsn: Lsn(splitter.next_lsn().0 - 1),
            durable: standing.durable,
            committed: standing.committed,
            memory_bytes: splitter.held_bytes(),
            memory_bytes_max: self.config.budget_bytes,
            rung: splitter.rung(),
            last_error: standing.last_error.clone(),
            full_compare,
            disks,
            events: self.events.recent(),
        }
    }
}
