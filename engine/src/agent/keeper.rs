//! Two threads that keep things going beside the write path: one for what must be on time and never waits for a disk, one
//! for what may wait for one.
//!
//! ```text
//!   clock    every 50 ms   mark if due, batch that lingers, LSNs for the next writes;   every s   status, "seen alive"
//!   cooler   every 1 s     sync disks whose regions could cool, cool, write activity logs;  every 5 s  committed
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::seen::Seen;
use super::shared::Shared;
use crate::capture::{DiskView, identity};
use crate::control::messages::Severity;
use crate::nbd::{BackingDisk, Presence};
use crate::record::GapReason;

const CLOCK_TICK: Duration = Duration::from_millis(50);
const STATUS_EVERY: Duration = Duration::from_secs(1);
const COOL_TICK: Duration = Duration::from_secs(1);
/// Time between syncs of a disk beneath for the sake of cooling. Chosen: a quarter of `COOL_AFTER` costs idle regions nothing; a
/// fifth of it would have a busy disk sync all the time.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// How far a clock may be behind what was told before that is said.
const CLOCK_BEHIND_MICROS: i64 = 2_000_000;
const REMEMBER_EVERY: Duration = Duration::from_secs(5);

/// Runs the clock until the tap stops.
pub(super) fn clock(shared: &Arc<Shared>) {
    let mut chance = (shared.config.surroundings.chance)();
    let mut status_at = Instant::now();
    let mut watch = Watch::new(shared);
    while !shared.tap.is_stopping() {
        let (now, wall) = (shared.tap.now(), shared.wall());
        let moved = {
            let mut splitter = shared.tap.splitter();
            splitter.mark_if_due(now, wall, &mut *chance).is_some()
        };
        if moved {
            shared.tap.wake_session();
        }
        if let Err(error) = shared.tap.reserve_if_due() {
            watch.state_failed(shared, &error);
        }
        watch.look(shared);
        if status_at.elapsed() >= STATUS_EVERY {
            status_at = Instant::now();
            leave_traces(shared);
            watch.look_beneath(shared);
            watch.look_at_clock(shared);
        }
        std::thread::sleep(CLOCK_TICK);
    }
}

/// Status and "seen alive". One that cannot be written is told by its age.
pub(super) fn leave_traces(shared: &Shared) {
    let disks = shared.tap.disks().iter().filter_map(|disk| {
        let identity = identity::of(&disk.backing).ok()?;
        Some((disk.name.clone(), identity.modified_ns))
    });
    // The kernel's times of the disks are by its clock, whatever was told.
    let written = Seen::now(shared.clock().0, shared.wall().0, disks)
        .save(&shared.config.file("agent.seen"))
        .and_then(|()| shared.status().save(&shared.status_path()));
    if let Err(error) = written {
        slog::debug!(shared.events.logger(), "the status cannot be written"; "error" => %error);
    }
}

/// Turns changes into events.
struct Watch {
    disks: Vec<DiskView>,
    state_failed: bool,
    clock_behind: bool,
}

impl Watch {
    fn new(shared: &Shared) -> Self {
        let splitter = shared.tap.splitter();
        let disks = (0..shared.facts.len()).map(|disk| splitter.disk_view(disk)).collect();
        Self { disks, state_failed: false, clock_behind: false }
    }

    fn look(&mut self, shared: &Shared) {
        for disk in 0..self.disks.len() {
            let now = shared.tap.splitter().disk_view(disk);
            let name = &shared.facts[disk].name;
            let was = std::mem::replace(&mut self.disks[disk], now.clone());
            if was.gap != now.gap {
                gap_changed(shared, name, &now);
                if now.gap.is_none() && now.compared_bytes > 0 {
                    compare_ended(shared, name, &now);
                }
            }
            let changed_beneath = shared.missing.lock()[disk].is_some();
            if now.activity_log_failed && !was.activity_log_failed && !changed_beneath {
                let text = format!(
                    "the activity log of disk '{name}' cannot be written: writes go on, but the next start reads the whole \
                     disk; look at the storage of {}",
                    shared.config.state_dir.display()
                );
                shared.event(Severity::Critical, "activity_log_failed", text);
            }
            if now.unreadable_regions > 0 && was.unreadable_regions == 0 {
                let text = format!(
                    "disk '{name}' cannot be read in {} regions: they are tried again; its gap stays open until then",
                    now.unreadable_regions
                );
                shared.event(Severity::Critical, "disk_unreadable", text);
            }
        }
    }

    /// Looks whether the disks beneath are still there.
    fn look_beneath(&mut self, shared: &Shared) {
        for (disk, entry) in shared.tap.disks().iter().enumerate() {
            // One that cannot be asked is noticed by its reads and writes.
            let Ok(presence) = entry.backing.presence() else { continue };
            let what = what_became_of(&entry.backing, presence);
            let mut missing = shared.missing.lock();
            if missing[disk] == what {
                continue;
            }
            let before = std::mem::replace(&mut missing[disk], what.clone());
            drop(missing);
            match what {
                Some(what) if before.is_none() => {
                    let text = format!("disk '{}': {what}; the machine's other disks go on", entry.name);
                    shared.event(Severity::Critical, "disk_missing", text);
                }
                Some(_) => {}
                None => {
                    let text =
                        format!("disk '{}' is there again; the agent's next start compares all of it", entry.name);
                    shared.event(Severity::Info, "disk_missing", text);
                }
            }
            // Whoever takes a disk away may bring back another one.
            shared.tap.distrust(disk);
        }
    }

    fn look_at_clock(&mut self, shared: &Shared) {
        let behind_micros = shared.wall().0.saturating_sub(shared.clock().0);
        let behind = behind_micros > CLOCK_BEHIND_MICROS;
        if behind && !self.clock_behind {
            let text = format!(
                "this machine's clock went back by {} s: points stay in the order of the log, and their times stand still \
                 until the clock has caught up; set the clock right",
                behind_micros / 1_000_000
            );
            shared.event(Severity::Warning, "clock_went_back", text);
        }
        self.clock_behind = behind;
    }

    fn state_failed(&mut self, shared: &Shared, error: &std::io::Error) {
        if !std::mem::replace(&mut self.state_failed, true) {
            let text = format!(
                "write {}: {error}; writes fail once the reserved sequence numbers are used up",
                shared.state.path().display()
            );
            shared.event(Severity::Critical, "agent_state_failed", text);
        }
    }
}

fn compare_ended(shared: &Shared, name: &str, now: &DiskView) {
    let text = format!(
        "disk '{name}' was compared with its replica by digest: {} of {} bytes differed and were sent",
        now.differing_bytes, now.compared_bytes
    );
    shared.event(Severity::Info, "compare_ended", text);
}

/// What to say of a disk beneath that is not as it was.
fn what_became_of(backing: &BackingDisk, presence: Presence) -> Option<String> {
    let path = backing.path().display();
    let restore = "or restore it from a recovery point, then start the agent again";
    Some(match presence {
        Presence::There => return None,
        Presence::Deleted => format!(
            "{path} was deleted; what it holds lives only as long as this agent runs: copy it back from /proc/{}/fd/{}, {restore}",
            std::process::id(),
            backing.descriptor()
        ),
        Presence::Elsewhere => format!("{path} was moved or replaced: bring it back, {restore}"),
        Presence::Short(left) => format!(
            "of {path} {left} of {} bytes are left; the rest cannot be read any more: bring it back, {restore}",
            backing.size_bytes()
        ),
    })
}

fn gap_changed(shared: &Shared, name: &str, now: &DiskView) {
    let (severity, code, text) = match now.gap {
        None => (Severity::Info, "gap_closed", format!("disk '{name}' is in order again: points show it from here on")),
        Some(GapReason::InitialReplication) => {
            (Severity::Info, "initial_replication", format!("the first contents of disk '{name}' are being sent"))
        }
        Some(reason) => {
            let why = match reason {
                GapReason::UncleanStop => "the agent did not stop cleanly",
                GapReason::Overload => "more was written than could be sent and held",
                GapReason::DroppedPayload => "what the log has of it is lost or damaged, or may be",
                GapReason::ActivityLogLost => "its activity log could not be trusted: all of it is read",
                GapReason::WriteFailed => "a write to the disk beneath failed",
                GapReason::InitialReplication => unreachable!("matched above"),
            };
            let left = now.scan_bytes_left >> 20;
            let text = format!("disk '{name}' has a gap ({why}): no point shows it until {left} MiB are read again");
            (Severity::Warning, "gap_opened", text)
        }
    };
    shared.event(severity, code, text);
}

/// Runs the cooler until the tap stops.
pub(super) fn cooler(shared: &Arc<Shared>) {
    let mut synced_at = vec![Instant::now(); shared.facts.len()];
    let mut remembered_at = Instant::now();
    while !shared.tap.is_stopping() {
        for (disk, synced_at) in synced_at.iter_mut().enumerate() {
            let (wanted, hot) = {
                let splitter = shared.tap.splitter();
                (splitter.wants_sync(disk), splitter.disk_view(disk).hot_regions as usize)
            };
            let crowded = hot > shared.config.hot_regions_target;
            if wanted && (crowded || synced_at.elapsed() >= SYNC_EVERY) {
                sync(shared, disk);
                *synced_at = Instant::now();
            }
            shared.tap.cool(disk, shared.config.cool_after, shared.config.hot_regions_target);
            // A failure is noticed by the next write that needs the log, and told then.
            let _ = shared.tap.disks()[disk].activity.flush();
        }
        if remembered_at.elapsed() >= REMEMBER_EVERY {
            remembered_at = Instant::now();
            remember_committed(shared);
        }
        wait(shared, COOL_TICK);
    }
}

fn sync(shared: &Shared, disk: usize) {
    if let Err(error) = shared.tap.sync(disk) {
        let name = &shared.facts[disk].name;
        let text = format!("sync of disk '{name}': {error}; its regions stay hot until the agent is started again");
        shared.event(Severity::Critical, "disk_sync_failed", text);
    }
}

/// What is committed is written down now and then, so that a log that lost objects is found out after a restart.
fn remember_committed(shared: &Shared) {
    let (committed, epoch) = {
        let standing = shared.standing.lock();
        (standing.committed, standing.epoch)
    };
    let known = shared.state.get();
    if committed > known.committed || epoch > known.epoch {
        let written = shared.state.change(|state| (state.committed, state.epoch) = (committed, epoch));
        if let Err(error) = written {
            slog::warn!(shared.events.logger(), "the agent's state cannot be written"; "error" => %error);
        }
    }
}

fn wait(shared: &Shared, longest: Duration) {
    let until = Instant::now() + longest;
    while !shared.tap.is_stopping() && Instant::now() < until {
        std::thread::sleep(CLOCK_TICK);
    }
}

/// The end of a life: everything on the disks is synced, and each activity log says how its disk was left.
pub(super) fn settle(shared: &Shared) {
    remember_committed(shared);
    for (disk, entry) in shared.tap.disks().iter().enumerate() {
        if shared.tap.sync(disk).is_err() {
            continue;
        }
        shared.tap.cool(disk, Duration::ZERO, 0);
        let stopped = identity::of(&entry.backing).map(|identity| entry.activity.clean_stop(identity));
        if let Err(error) = stopped.map_err(|error| error.to_string()).and_then(|done| done.map_err(|e| e.to_string()))
        {
            let text = format!("activity log of disk '{}': {error}", entry.name);
            shared.event(Severity::Warning, "activity_log_failed", text);
        }
    }
}
