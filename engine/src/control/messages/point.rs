//! Recovery points and what is served of them.

use serde::{Deserialize, Serialize};

use crate::ids::{DiskNo, Lsn, MarkId, Timestamp};
use crate::record::MarkKind;

/// A recovery point: committed, readable (I6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointInfo {
    /// The mark.
    pub mark: MarkId,
    /// Its place in the log: the point shows the writes with a smaller LSN.
    pub lsn: Lsn,
    /// What it promises.
    pub kind: MarkKind,
    /// When it was taken, by the agent's clock.
    pub captured_at: Timestamp,
    /// What the operator calls it; may be empty.
    pub label: String,
    /// The disks that it covers; a disk inside a gap is not among them.
    pub disks: Vec<DiskNo>,
}

/// Some of a machine's points, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsPage {
    /// The points.
    pub points: Vec<PointInfo>,
    /// Ask for what is older with this; `None`: there is nothing.
    #[serde(default)]
    pub next_before: Option<Lsn>,
}

/// Which point is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum PointSelector {
    /// The newest.
    Newest,
    /// The one with this mark.
    Mark {
        /// Its id.
        mark: MarkId,
    },
    /// The newest that was taken at this time or before.
    Time {
        /// The time.
        time: Timestamp,
    },
}

/// A disk of a served point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The disk.
    pub disk: DiskNo,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The unix socket of its NBD export, on the process server's host.
    pub socket: String,
    /// The same as an NBD URI.
    pub uri: String,
    /// Writes are refused; otherwise they go to an overlay that is thrown away.
    pub read_only: bool,
}
