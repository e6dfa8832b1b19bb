//! Health, beside state: what is wrong now, why, and what to do. Pure: ledger, live picture and time in, issues out.

use std::time::Duration;

use farshore_engine::control::messages::{DiskState, Issue, MachineState, Severity};
use farshore_engine::ids::{MachineId, ProcessServerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::ledger::records::{AssignmentStage, JobKind, Machine};
use super::live::{Live, Reach};

/// Every code of health: the code, what it is about, what it means. The manual's table is made from it.
pub const CODES: &[(&str, &str, &str)] = &[
    ("agent_away", "machine", "its agent has no replication session: writes do not leave the machine"),
    ("agent_control_away", "machine", "its agent has no control session; what is shown of it is old"),
    ("agent_overloaded", "machine", "it writes faster than its writes are taken"),
    ("cache_failed", "process server's machine", "a write to the cache disk failed"),
    ("cache_full", "process server's machine", "the cache is full: nothing is accepted"),
    ("cache_lost", "process server's machine", "the machine's cache directory is lost; a new epoch is needed"),
    (
        "cache_short",
        "process server",
        "less than 30 % (critical: 25 %) of the cache is free of what is in no vault yet",
    ),
    ("cache_throttled", "process server's machine", "agents are slowed down because the cache is short of room"),
    ("disk_failed", "machine", "a disk is gone or cannot be read"),
    ("fenced", "process server's machine", "another owner has the log; this one has stopped"),
    ("gap_open", "machine", "a disk has no recovery points until it has caught up"),
    (
        "merging_behind",
        "process server's machine",
        "more segments wait to be merged than should: points open more slowly",
    ),
    ("merging_failed", "process server's machine", "merging fails: nothing is dropped or deleted, and the vault grows"),
    ("machine_paused", "machine", "an operator paused its protection"),
    ("machine_unassigned", "machine", "no process server takes its writes"),
    ("no_process_server", "installation", "no process server has joined"),
    (
        "objects_damaged",
        "process server's machine",
        "objects of its log in the vault are not what was written, and the cache has no copy",
    ),
    (
        "process_server_away",
        "process server, machine",
        "it has no control session; whether it takes writes is not known",
    ),
    ("process_server_silent", "process server, machine", "it has a session but sends no heartbeats"),
    ("restart_storm", "process server's machine", "an actor of the machine keeps failing"),
    ("rpo_exceeded", "machine", "its newest recovery point is older than its policy wants"),
    ("unsealable", "process server's machine", "nothing could be sealed of what the agent sent"),
    ("vault_away", "process server's machine", "the vault does not answer; segments wait in the cache"),
    (
        "vault_damaged",
        "process server's machine",
        "the vault holds an object that cannot be read where the log goes on",
    ),
    ("vault_full", "process server's machine", "the vault has no room"),
    ("vault_locked", "process server's machine", "the machine's data key is missing"),
    ("vault_unavailable", "process server", "it cannot reach the vault"),
];

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing is wrong.
    Normal,
    /// Something lowers what is promised, or will.
    Warning,
    /// A promise is broken now.
    Critical,
}

impl Health {
    /// The worst of these.
    pub fn of(issues: &[Issue]) -> Self {
        match issues.iter().map(|issue| issue.severity).max() {
            None | Some(Severity::Info) => Self::Normal,
            Some(Severity::Warning) => Self::Warning,
            Some(Severity::Critical) => Self::Critical,
        }
    }
}

/// Where a machine's protection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// No process server has it.
    Unassigned,
    /// A process server is being made its owner.
    Preparing,
    /// It is being moved to another process server.
    Moving,
    /// The operator paused it.
    Paused,
    /// Its agent is not connected to its owner.
    AgentAway,
    /// First contents are being sent.
    InitialReplication,
    /// Its disks are compared with the replica.
    Comparing,
    /// What may differ is sent again.
    CatchingUp,
    /// Every write goes to the log in order.
    Protected,
    /// Something keeps it from being protected; its health says what.
    Interrupted,
    /// It was removed.
    Removed,
}

/// RPO from which a machine is in warning, and critical.
#[derive(Debug, Clone, Copy)]
pub struct RpoLimits {
    /// Warning from here.
    pub warning: Duration,
    /// Critical from here.
    pub critical: Duration,
}

/// Where a machine's protection stands.
pub fn protection(ledger: &Ledger, live: &Live, machine: &Machine) -> Protection {
    if machine.removed {
        return Protection::Removed;
    }
    if machine.paused {
        return Protection::Paused;
    }
    let moving = |job: &&super::ledger::records::JobRecord| matches!(job.kind, JobKind::Move { machine: of, .. } if of == machine.id);
    if ledger.running_jobs().any(|job| moving(&job)) {
        return Protection::Moving;
    }
    let Some(assignment) = ledger.assignments.get(&machine.id) else { return Protection::Unassigned };
    if assignment.stage == AssignmentStage::Adopting {
        return Protection::Preparing;
    }
    match live.machine_at(assignment.process_server, machine.id).map(|report| report.state) {
        Some(MachineState::Failed | MachineState::Fenced) => return Protection::Interrupted,
        Some(MachineState::AgentAway) => return Protection::AgentAway,
        Some(MachineState::Opening | MachineState::Adopting | MachineState::Locked | MachineState::Releasing) => {
            return Protection::Preparing;
        }
        Some(MachineState::Replicating) | None => {}
    }
    let Some((_, report)) = live.machines.get(&machine.id).and_then(|live| live.report.as_ref()) else {
        return Protection::AgentAway;
    };
    let any = |state| report.disks.iter().any(|disk| disk.state == state);
    if any(DiskState::Failed) {
        Protection::Interrupted
    } else if any(DiskState::InitialReplication) {
        Protection::InitialReplication
    } else if any(DiskState::Comparing) {
        Protection::Comparing
    } else if any(DiskState::CatchingUp) {
        Protection::CatchingUp
    } else {
        Protection::Protected
    }
}

/// A machine's RPO: now minus the capture time of its newest committed mark; while the agent confirms that no write came
/// after that mark, now minus the time of that confirmation. `None` before the first mark.
pub fn rpo(ledger: &Ledger, live: &Live, machine: MachineId, now: Timestamp) -> Option<Duration> {
    let assignment = ledger.assignments.get(&machine)?;
    let report = live.machine_at(assignment.process_server, machine)?;
    let mark = report.newest_mark?;
    let as_of = report.idle_confirmed_at.map_or(mark.captured_at, |at| at.max(mark.captured_at));
    Some(Duration::from_micros(now.micros_since(as_of)))
}

fn issue(code: &str, severity: Severity, text: impl Into<String>, remedy: &str) -> Issue {
    Issue { code: code.into(), severity, text: text.into(), remedy: remedy.into() }
}

/// What is wrong with a machine's protection, worst first.
pub fn of_machine(ledger: &Ledger, live: &Live, machine: &Machine, limits: RpoLimits, now: Timestamp) -> Vec<Issue> {
    if machine.removed {
        return Vec::new();
    }
    let mut issues = Vec::new();
    if machine.paused {
        issues.push(issue(
            "machine_paused",
            Severity::Warning,
            "The operator paused the machine's protection: its writes do not leave the machine.",
            "Resume the machine; what was written meanwhile is sent then.",
        ));
        of_rpo(rpo(ledger, live, machine.id, now), limits, &mut issues);
        return issues;
    }
    match ledger.assignments.get(&machine.id) {
        None => issues.push(issue(
            "machine_unassigned",
            Severity::Critical,
            "No process server takes the machine's writes.",
            "Start a process server; the machine's protect job goes on by itself.",
        )),
        Some(assignment) => {
            of_owner(ledger, live, assignment.process_server, now, &mut issues);
            if let Some(report) = live.machine_at(assignment.process_server, machine.id) {
                issues.extend(report.issues.iter().cloned());
                if report.state == MachineState::AgentAway {
                    issues.push(issue(
                        "agent_away",
                        Severity::Critical,
                        "The machine's agent has no replication session: its writes do not leave the machine.",
                        "Start the agent, or check its way to the process server's replication port.",
                    ));
                }
            }
        }
    }
    of_agent(live, machine.id, &mut issues);
    of_rpo(rpo(ledger, live, machine.id, now), limits, &mut issues);
    issues.sort_by_key(|issue| std::cmp::Reverse(issue.severity));
    issues
}

fn of_owner(ledger: &Ledger, live: &Live, owner: ProcessServerId, now: Timestamp, issues: &mut Vec<Issue>) {
    let name = ledger.process_servers.get(&owner).map_or("?", |server| server.name.as_str());
    let remedy = "Start the process server or check its network; if it is lost, move its machines to another one.";
    match live.reach(owner, now) {
        Reach::Connected => {}
        Reach::Silent => {
            let text = format!("Process server '{name}' has a session but sends no heartbeats.");
            issues.push(issue("process_server_silent", Severity::Warning, text, remedy));
        }
        Reach::Away => {
            let text = format!("Process server '{name}' is not connected; whether it still takes writes is not known.");
            issues.push(issue("process_server_away", Severity::Warning, text, remedy));
        }
    }
}

fn of_agent(live: &Live, machine: MachineId, issues: &mut Vec<Issue>) {
    let agent = live.machines.get(&machine);
    if agent.is_none_or(|agent| agent.connected_since.is_none()) {
        issues.push(issue(
            "agent_control_away",
            Severity::Warning,
            "The agent has no control session; what is shown of it is old. Replication may go on.",
            "Check that the agent runs and reaches the configuration server's control port.",
        ));
    }
    let Some((_, report)) = agent.and_then(|agent| agent.report.as_ref()) else { return };
    for disk in &report.disks {
        if disk.state == DiskState::Failed {
            let text = format!("Disk '{}' is gone or cannot be read.", disk.name);
            issues.push(issue(
                "disk_failed",
                Severity::Critical,
                text,
                "Check the disk on the machine, then restart the agent.",
            ));
        }
        if let Some(reason) = disk.gap {
            let text = format!("Disk '{}' has no recovery points until it has caught up ({reason:?}).", disk.name);
            let remedy = "Wait for the catch-up; `scan_bytes_left` shows how far it is.";
            issues.push(issue("gap_open", Severity::Warning, text, remedy));
        }
    }
    if report.rung > 1 {
        let text = format!("The agent is on rung {} of its overload ladder.", report.rung);
        let remedy = "The network, the process server or the vault is slower than the machine writes: find which.";
        issues.push(issue("agent_overloaded", Severity::Warning, text, remedy));
    }
}

fn of_rpo(rpo: Option<Duration>, limits: RpoLimits, issues: &mut Vec<Issue>) {
    let Some(rpo) = rpo else { return };
    let severity = match rpo {
        rpo if rpo >= limits.critical => Severity::Critical,
        rpo if rpo >= limits.warning => Severity::Warning,
        _ => return,
    };
    let text = format!("The newest recovery point is {} s old.", rpo.as_secs());
    let remedy =
        "See what else is wrong; with nothing else, look at the process server's backlog and the vault's speed.";
    issues.push(issue("rpo_exceeded", severity, text, remedy));
}

/// What is wrong with a process server, worst first.
pub fn of_process_server(ledger: &Ledger, live: &Live, server: ProcessServerId, now: Timestamp) -> Vec<Issue> {
    let mut issues = Vec::new();
    of_owner(ledger, live, server, now, &mut issues);
    let Some((_, heartbeat)) = live.servers.get(&server).and_then(|live| live.heartbeat.as_ref()) else {
        return issues;
    };
    if !heartbeat.vault_reachable {
        let remedy = "Check the vault's storage; what is cached is uploaded once it is back.";
        issues.push(issue(
            "vault_unavailable",
            Severity::Critical,
            "The process server cannot reach the vault.",
            remedy,
        ));
    }
    let cache = &heartbeat.cache;
    let free = cache.bytes_max.saturating_sub(cache.backlog_bytes).saturating_mul(100) / cache.bytes_max.max(1);
    if cache.bytes_max > 0 && free < 30 {
        let severity = if free < 25 { Severity::Critical } else { Severity::Warning };
        let text = format!("{free} % of the cache is free of what is in no vault yet.");
        issues.push(issue(
            "cache_short",
            severity,
            text,
            "Make the vault faster, the cache larger, or move machines away.",
        ));
    }
    issues.sort_by_key(|issue| std::cmp::Reverse(issue.severity));
    issues
}

/// What is wrong with the installation as a whole.
pub fn of_installation(ledger: &Ledger) -> Vec<Issue> {
    match ledger.process_servers.iter().any(|server| !server.removed) {
        true => Vec::new(),
        false => vec![issue(
            "no_process_server",
            Severity::Warning,
            "No process server has joined: no machine can be protected.",
            "Start a process server with a join token.",
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rpo_is_a_warning_and_then_critical_at_its_limits() {
        let limits = RpoLimits { warning: Duration::from_secs(30), critical: Duration::from_secs(300) };
        let at = |seconds| {
            let mut issues = Vec::new();
            of_rpo(Some(Duration::from_secs(seconds)), limits, &mut issues);
            Health::of(&issues)
        };
        assert_eq!([at(0), at(29), at(30), at(299), at(300)].map(|health| health as u8), [0, 0, 1, 1, 2]);
    }
}
