//! Whether an activity log can be trusted: a pure decision over what it says and what is there.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::activity_layout::{ActivityHeader, DiskIdentity, LogIdentity};
use crate::ids::IncarnationId;

/// Why an activity log cannot be trusted, and so the whole disk is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// There is none.
    Missing,
    /// It cannot be read, or its checksums do not match.
    Unreadable,
    /// It is of another disk.
    OtherDisk,
    /// The disk was changed while no agent was looking.
    ChangedBehind,
    /// It belongs to another vault, machine or timeline.
    OtherLog,
    /// It was left behind by an earlier life than the last one: an older copy.
    Outdated,
    /// The last life could not write it.
    Invalid,
    /// The replica's log ends in a life that this agent does not descend from.
    OtherLife,
    /// The replica's log does not end where the agent's last life left it.
    LogDiffers,
    /// The disk has another size than its replica.
    Resized,
}

impl Distrust {
    /// The code of the event that tells of it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "activity_log_missing",
            Self::Unreadable => "activity_log_unreadable",
            Self::OtherDisk => "activity_log_of_other_disk",
            Self::ChangedBehind => "disk_changed_behind_agent",
            Self::OtherLog => "activity_log_of_other_log",
            Self::Outdated => "activity_log_outdated",
            Self::Invalid => "activity_log_invalid",
            Self::OtherLife => "incarnation_unknown",
            Self::LogDiffers => "log_differs_from_known",
            Self::Resized => "disk_resized",
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is no activity log of it",
            Self::Unreadable => "its activity log is damaged or cannot be read",
            Self::OtherDisk => "its activity log was kept for another disk (another size or file)",
            Self::ChangedBehind => "it was changed while no agent was in front of it",
            Self::OtherLog => "its activity log belongs to another vault, machine or timeline",
            Self::Outdated => "its activity log is an older copy than the agent's last life",
            Self::Invalid => "the agent's last life could not write its activity log",
            Self::OtherLife => {
                "the replica's log ends in a life that this agent does not descend from (a clone, a machine that was \
                 rolled back, or lost agent state)"
            }
            Self::LogDiffers => "the replica's log does not end where the agent's last life left it",
            Self::Resized => "it has another size than its replica",
        })
    }
}

/// What an agent knows when it looks at an activity log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The disk as it is now.
    pub disk: DiskIdentity,
    /// The log that this agent writes.
    pub log: LogIdentity,
    /// The agent's last life, in which every activity log was written.
    pub last_life: Option<IncarnationId>,
    /// When that life was seen alive last, for what the clean flag does not cover: see [`LastSeen`].
    pub last_seen: Option<LastSeen>,
}

/// What a life that did not stop cleanly left behind in passing. It counts only within the same boot of the machine: then
/// nothing written before was lost, so a disk that is older than it was, or was changed long after, was changed by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSeen {
    /// When the life was seen.
    pub at_ns: i64,
    /// The disk's modification time as it was then.
    pub modified_ns: i64,
}

/// How long after it was seen last a life may still have written, in nanoseconds. Chosen: it is seen once a second; a
/// process that was stopped for longer than this and then killed costs a full compare, never a wrong point.
const SEEN_SLACK_NS: i64 = 10_000_000_000;

/// Whether what the activity log holds as cool is cool.
pub fn decide(found: &ActivityHeader, present: &Present) -> Result<(), Distrust> {
    if found.log != present.log {
        return Err(Distrust::OtherLog);
    }
    let (was, is) = (&found.disk, &present.disk);
    if (was.size_bytes, was.inode, was.born_ns, was.serial) != (is.size_bytes, is.inode, is.born_ns, is.serial) {
        return Err(Distrust::OtherDisk);
    }
    if Some(found.incarnation) != present.last_life {
        return Err(Distrust::Outdated);
    }
    let changed = if found.clean {
        (was.modified_ns, was.changed_ns) != (is.modified_ns, is.changed_ns)
    } else {
        present.last_seen.is_some_and(|seen| {
            is.modified_ns < seen.modified_ns || is.changed_ns > seen.at_ns.saturating_add(SEEN_SLACK_NS)
        })
    };
    if changed { Err(Distrust::ChangedBehind) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present() -> Present {
        let disk = DiskIdentity {
            size_bytes: 1 << 30,
            inode: 5,
            born_ns: 50,
            serial: 0,
            modified_ns: 1_000,
            changed_ns: 1_000,
        };
        let log = LogIdentity { vault: Default::default(), machine: Default::default(), timeline: Default::default() };
        Present { disk, log, last_life: Some(IncarnationId([1; 16])), last_seen: None }
    }

    fn header(clean: bool) -> ActivityHeader {
        let Present { disk, log, .. } = present();
        ActivityHeader { sequence: 1, clean, region_bytes: 1 << 20, disk, log, incarnation: IncarnationId([1; 16]) }
    }

    #[test]
    fn a_log_of_this_disk_and_this_life_is_trusted_and_any_other_is_not() {
        for clean in [true, false] {
            assert_eq!(decide(&header(clean), &present()), Ok(()));
            type Case = (fn(&mut Present), Distrust);
            let cases: [Case; 6] = [
                (|p| p.log.timeline.0[0] = 1, Distrust::OtherLog),
                (|p| p.log.vault.0[0] = 1, Distrust::OtherLog),
                (|p| p.disk.size_bytes += 512, Distrust::OtherDisk),
                (|p| p.disk.inode = 6, Distrust::OtherDisk),
                (|p| p.disk.born_ns = 51, Distrust::OtherDisk),
                (|p| p.last_life = Some(IncarnationId([2; 16])), Distrust::Outdated),
            ];
            for (change, reason) in cases {
                let mut now = present();
                change(&mut now);
                assert_eq!(decide(&header(clean), &now), Err(reason));
            }
        }
    }

    #[test]
    fn a_disk_that_changed_after_a_clean_stop_is_found() {
        let mut now = present();
        now.disk.changed_ns += 1;
        assert_eq!(decide(&header(true), &now), Err(Distrust::ChangedBehind));
        assert_eq!(decide(&header(false), &now), Ok(()), "a life that was killed wrote last itself");
    }

    #[test]
    fn after_a_kill_a_disk_that_is_older_or_much_newer_than_the_life_was_changed_by_others() {
        let mut now = present();
        now.last_seen = Some(LastSeen { at_ns: 2_000, modified_ns: 1_000 });
        assert_eq!(decide(&header(false), &now), Ok(()));
        now.disk.modified_ns = 999;
        assert_eq!(decide(&header(false), &now), Err(Distrust::ChangedBehind));
        now.disk.modified_ns = 1_000;
        now.disk.changed_ns = 2_000 + SEEN_SLACK_NS + 1;
        assert_eq!(decide(&header(false), &now), Err(Distrust::ChangedBehind));
    }
}
