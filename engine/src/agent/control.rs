//! The agent's session to the configuration server: learns who takes the writes, and tells how the machine stands.
//! Replication does not need it: the last owner is remembered, and tried first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::papers::{Policy, save_assignment};
use super::shared::{Phase, Shared, Target};
use super::status::SessionState;
use crate::control::client::{SessionEvent, SessionHandle, SessionTimes, session};
use crate::control::link::Connect;
use crate::control::messages::{
    AgentReport, Assignment, CONTROL_VERSION, DiskReport, DiskState, FromMember, Hello, Severity, ToMember, Welcome,
};
use crate::record::{DiskInfo, GapReason};

const REPORT_EVERY: Duration = Duration::from_secs(2);
/// Time between questions for the owner while nobody takes the writes.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// Keeps the control session until the agent ends.
pub(super) async fn run(shared: Arc<Shared>, connect: Arc<dyn Connect>, addresses: Vec<String>) {
    let mut chance = (shared.config.surroundings.chance)();
    let mut life = [0; 8];
    chance.fill(&mut life);
    let hello = {
        let (shared, life) = (shared.clone(), u64::from_le_bytes(life));
        Arc::new(move || hello(&shared, life))
    };
    let (handle, events, driver) = session(connect, addresses, hello, SessionTimes::default(), chance);
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        () = driver.run() => {}
        () = converse(&shared, &handle, events) => {}
        _ = phase.wait_for(|phase| *phase == Phase::Ending) => {}
    }
}

fn hello(shared: &Shared, life: u64) -> Hello {
    Hello {
        version: CONTROL_VERSION,
        life,
        program_version: shared.config.version.clone(),
        replication_addresses: Vec::new(),
        disks: disks(shared),
    }
}

fn disks(shared: &Shared) -> Vec<DiskInfo> {
    let status = shared.status();
    let info = |(at, disk): (usize, &super::status::DiskStatus)| DiskInfo {
        disk: disk.number.unwrap_or(crate::ids::DiskNo(at as u16)),
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        sector_bytes: disk.sector_bytes,
    };
    status.disks.iter().enumerate().map(info).collect()
}

async fn converse(shared: &Shared, handle: &SessionHandle, mut events: mpsc::Receiver<SessionEvent>) {
    let mut report = tokio::time::interval(REPORT_EVERY);
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => take(shared, handle, event),
                None => return,
            },
            _ = report.tick() => {
                resync_if_due(shared);
                tell(shared, handle);
            }
            _ = ask.tick() => {
                let open = matches!(shared.standing.lock().session, SessionState::Open { .. });
                if !open {
                    // One that is lost is asked again.
                    let _ = handle.say(FromMember::Where);
                }
            }
        }
    }
}

fn take(shared: &Shared, handle: &SessionHandle, event: SessionEvent) {
    match event {
        SessionEvent::Connected { address, welcome } => {
            slog::info!(shared.events.logger(), "the configuration server answers"; "address" => address);
            follow(shared, &welcome);
            let _ = handle.say(FromMember::Where);
            tell(shared, handle);
        }
        SessionEvent::Disconnected { error, retry_in } => {
            slog::info!(shared.events.logger(), "no control session; replication goes on";
                "reason" => %error, "retry_in_ms" => retry_in.as_millis() as u64);
        }
        SessionEvent::Message(ToMember::Assigned(assignment) | ToMember::Redirect(assignment)) => {
            assigned(shared, &assignment);
        }
        SessionEvent::Message(ToMember::Welcome(welcome)) => follow(shared, &welcome),
        SessionEvent::Message(ToMember::NotProtected(not)) => {
            let mut standing = shared.standing.lock();
            standing.last_error = Some(not.text);
        }
        SessionEvent::Message(_) => {}
    }
}

/// The policy is the configuration server's: what it says counts from now on, and at the next start until it says more.
fn follow(shared: &Shared, welcome: &Welcome) {
    shared.resyncs_wanted.store(welcome.resyncs, Ordering::Relaxed);
    let resyncs = shared.resyncs_begun.load(Ordering::Relaxed);
    let wanted = Policy { mark_interval_ms: welcome.mark_interval_ms, resyncs };
    let interval = wanted.interval();
    let before = {
        let mut splitter = shared.tap.splitter();
        let before = splitter.mark_interval();
        splitter.set_mark_interval(interval);
        before
    };
    if before != interval {
        slog::info!(shared.events.logger(), "the time between marks is another one from now on";
            "before_ms" => before.as_millis() as u64, "now_ms" => interval.as_millis() as u64);
    }
    if let Err(error) = wanted.save(&shared.config.state_dir) {
        slog::warn!(shared.events.logger(), "the policy cannot be written down"; "error" => %error);
    }
}

/// Has all disks read again, once for each time that this was asked for, as soon as the log is open.
fn resync_if_due(shared: &Shared) {
    let (wanted, begun) = (shared.resyncs_wanted.load(Ordering::Relaxed), shared.resyncs_begun.load(Ordering::Relaxed));
    if wanted <= begun || !shared.tap.splitter().is_open() {
        return;
    }
    for disk in 0..shared.tap.disks().len() {
        shared.tap.resync(disk);
    }
    shared.resyncs_begun.store(wanted, Ordering::Relaxed);
    let text = "all disks are read again, as the operator asked; no point shows them until that is over".to_owned();
    shared.event(Severity::Warning, "resync_begun", text);
    // What is lost here is done once more after a restart.
    let policy = Policy::load(&shared.config.state_dir).map(|policy| Policy { resyncs: wanted, ..policy });
    if let Some(Err(error)) = policy.map(|policy| policy.save(&shared.config.state_dir)) {
        slog::warn!(shared.events.logger(), "the policy cannot be written down"; "error" => %error);
    }
}

fn assigned(shared: &Shared, assignment: &Assignment) {
    if assignment.timeline != shared.papers.grant.timeline {
        let text = format!(
            "the machine's log goes on in timeline {}: this agent writes {} and stops sending; fail back, or enrol it anew",
            assignment.timeline, shared.papers.grant.timeline
        );
        shared.event(Severity::Critical, "timeline_moved_on", text);
        return;
    }
    shared.retarget(Target::from(assignment));
    if let Err(error) = save_assignment(&shared.config.state_dir, assignment) {
        slog::warn!(shared.events.logger(), "the assignment cannot be written down"; "error" => %error);
    }
}

fn tell(shared: &Shared, handle: &SessionHandle) {
    if !handle.is_open() {
        return;
    }
    let events = shared.events.take_untold();
    if handle.say(FromMember::AgentReport(report(shared, events.clone()))).is_err() {
        shared.events.put_back(events);
    }
}

fn report(shared: &Shared, events: Vec<crate::control::messages::MemberEvent>) -> AgentReport {
    let status = shared.status();
    let last_write = shared.tap.splitter().last_change();
    let disks = status
        .disks
        .iter()
        .enumerate()
        .map(|(at, disk)| DiskReport {
            disk: disk.number.unwrap_or(crate::ids::DiskNo(at as u16)),
            name: disk.name.clone(),
            size_bytes: disk.size_bytes,
            sector_bytes: disk.sector_bytes,
            state: match disk.gap {
                _ if disk.unreadable_regions > 0 || disk.missing.is_some() => DiskState::Failed,
                None => DiskState::Protected,
                Some(GapReason::InitialReplication) => DiskState::InitialReplication,
                Some(GapReason::ActivityLogLost) => DiskState::Comparing,
                Some(_) => DiskState::CatchingUp,
            },
            export: Some(disk.export.clone()),
            hot_bytes: disk.hot_bytes,
            scan_bytes_left: disk.scan_bytes_left,
            gap: disk.gap,
        })
        .collect();
    AgentReport {
        at: status.at,
        incarnation: status.incarnation,
        connected_to: status.process_server,
        epoch: status.epoch,
        last_lsn: status.last_lsn,
        durable: status.durable,
        committed: status.committed,
        last_write,
        memory_bytes: status.memory_bytes as u64,
        memory_bytes_max: status.memory_bytes_max as u64,
        rung: status.rung,
        written_bytes: shared.tap.written_bytes(),
        disks,
        events,
    }
}
