//! What a verify found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{DiskNo, Lsn, MachineId, MarkId, TimelineId, Timestamp, VaultId};
use crate::vault::read::points::RecoveryPoint;
use crate::vault::read::select::show_time;

/// A point that damage touches, and the disks of it that cannot be read whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchedPoint {
    /// The machine.
    pub machine: MachineId,
    /// The timeline in which the point is touched.
    pub timeline: TimelineId,
    /// The point.
    pub point: MarkId,
    /// Its place.
    pub lsn: Lsn,
    /// When it was captured.
    pub captured_at: Timestamp,
    /// Its disks that are touched.
    pub disks: Vec<DiskNo>,
}

/// An object that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadObjectReport {
    /// Its name.
    pub object: String,
    /// What is wrong with it, each thing once.
    pub problems: Vec<String>,
    /// Where points after some LSN cannot be read at all, marks included: that LSN, by timeline. Points whose marks are
    /// lost with the object cannot be named.
    pub lost_from: BTreeMap<TimelineId, Lsn>,
    /// The points that are touched.
    pub points: Vec<TouchedPoint>,
    /// How an object of its kind is put right, in words.
    pub remedy: String,
}

/// A timeline that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineReport {
    /// The timeline.
    pub timeline: TimelineId,
    /// Filled slots of its own.
    pub slots: u64,
    /// Points that can be restored whole, parents' included.
    pub sound_points: u64,
    /// Points that damage touches.
    pub touched_points: u64,
    /// Whether the machine's description names it.
    pub described: bool,
}

/// A machine that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The machine.
    pub machine: MachineId,
    /// Its name; empty where no description can be read.
    pub name: String,
    /// Its timelines.
    pub timelines: Vec<TimelineReport>,
    /// No description can be read: the machine's key is lost with it, and with the key every point.
    pub locked: bool,
}

/// What a verify found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The vault, if a key object tells.
    pub vault: Option<VaultId>,
    /// What was verified, in words.
    pub scope: String,
    /// Objects that are there.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Log objects that were read whole.
    pub log_objects_read: u64,
    /// Log objects that readers need and that were not in the scope.
    pub log_objects_left: u64,
    /// The machines.
    pub machines: Vec<MachineReport>,
    /// Objects that are not what was written.
    pub bad: Vec<BadObjectReport>,
    /// Objects that are no part of a vault. They touch nothing.
    pub foreign: Vec<String>,
}

impl VerifyReport {
    /// Whether everything is what was written.
    pub fn is_sound(&self) -> bool {
        self.bad.is_empty()
    }

    /// The entry of an object, made where it is not there.
    pub(super) fn bad(&mut self, object: &str) -> &mut BadObjectReport {
        let at = self.bad.iter().position(|bad| bad.object == object).unwrap_or_else(|| {
            let (object, remedy) = (object.to_owned(), remedy(object).to_owned());
            let (problems, lost_from, points) = (Vec::new(), BTreeMap::new(), Vec::new());
            self.bad.push(BadObjectReport { object, problems, lost_from, points, remedy });
            self.bad.len() - 1
        });
        &mut self.bad[at]
    }
}

/// How an object with this name is put right.
fn remedy(object: &str) -> &'static str {
    match object.split('/').collect::<Vec<_>>()[..] {
        ["machines", _, _, "log", _] => {
            "its process server puts it back while it lies in the cache; else `vault repair --from COPY` does; without a copy, \
             `ctl resync` reads the machine's disks again"
        }
        ["machines", _, _, "runs", ..] => {
            "its process server, or `vault repair` without one, makes the run again while what it was merged from waits to be \
             deleted; else `vault repair --from COPY` puts it back; without a copy, `ctl resync` reads the machine's disks again"
        }
        ["machines", _, _, "manifest"] => {
            "restore the newest version that the store has kept: an older one is not enough"
        }
        _ => "`vault repair --from COPY` puts it back",
    }
}

impl BadObjectReport {
    pub(super) fn problem(&mut self, problem: impl fmt::Display) {
        let problem = problem.to_string();
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Adds disks of a point.
    pub(super) fn touch(&mut self, machine: MachineId, timeline: TimelineId, point: &RecoveryPoint, disks: &[DiskNo]) {
        let known = self.points.iter().rposition(|touched| touched.timeline == timeline && touched.point == point.id);
        let at = known.unwrap_or_else(|| {
            self.points.push(TouchedPoint {
                machine,
                timeline,
                point: point.id,
                lsn: point.lsn,
                captured_at: point.captured_at,
                disks: Vec::new(),
            });
            self.points.len() - 1
        });
        let all = &mut self.points[at].disks;
        all.extend(disks);
        all.sort_unstable();
        all.dedup();
    }
}

/// Points printed of one object; the report as JSON has all.
const POINTS_SHOWN: usize = 20;

impl fmt::Display for BadObjectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BAD {}", self.object)?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "    {problem}"))?;
        writeln!(f, "    repair: {}", self.remedy)?;
        for (timeline, lsn) in &self.lost_from {
            writeln!(f, "    timeline {timeline}: nothing after LSN {lsn} can be read")?;
        }
        if self.points.is_empty() {
            return writeln!(f, "    touches no point that can be named");
        }
        writeln!(f, "    touches {} points:", self.points.len())?;
        for touched in self.points.iter().take(POINTS_SHOWN) {
            let disks: Vec<String> = touched.disks.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "      {} {} LSN {} (timeline {}): disks {}",
                touched.point,
                show_time(touched.captured_at),
                touched.lsn,
                touched.timeline,
                disks.join(", ")
            )?;
        }
        match self.points.len().checked_sub(POINTS_SHOWN) {
            Some(rest @ 1..) => writeln!(f, "      and {rest} more (--json names all)"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for machine in &self.machines {
            let name = if machine.name.is_empty() { "(no description)" } else { &machine.name };
            writeln!(f, "machine {name} ({})", machine.machine)?;
            if machine.locked {
                writeln!(f, "    no description can be read: its key is lost, and every point with it")?;
            }
            for timeline in &machine.timelines {
                let described = if timeline.described { "" } else { ", not named by the description" };
                writeln!(
                    f,
                    "    timeline {}: {} slots, {} sound points, {} touched by damage{described}",
                    timeline.timeline, timeline.slots, timeline.sound_points, timeline.touched_points
                )?;
            }
        }
        self.bad.iter().try_for_each(|bad| bad.fmt(f))?;
        self.foreign.iter().try_for_each(|name| writeln!(f, "foreign: {name} is no part of a vault"))?;
        let verdict = match self.bad.len() {
            0 if self.log_objects_left > 0 => "all that was read is what was written".to_owned(),
            0 => "everything is what was written".to_owned(),
            1 => "1 object is damaged or missing".to_owned(),
            count => format!("{count} objects are damaged or missing"),
        };
        let Self { objects, bytes, scope, log_objects_read: read, log_objects_left: left, .. } = self;
        match left {
            0 => writeln!(f, "{objects} objects, {bytes} bytes read: {verdict}"),
            _ => writeln!(f, "{read} of {} log objects read ({scope}): {verdict}", read + left),
        }
    }
}
