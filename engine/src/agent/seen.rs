//! When the agent was alive last, and how its disks looked then: `agent.seen`, rewritten every second, never synced.
//!
//! It counts only within one boot of the machine, where nothing written is lost: after a kill it tells a disk that others
//! have changed, or rolled back, from one that this agent wrote last. After a power cut it says nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::capture::trust::LastSeen;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    boot_id: String,
    at_ns: i64,
    /// The highest time that was told until then, in microseconds. Counts over boots.
    #[serde(default)]
    told_micros: i64,
    /// Modification time of each disk, by its name.
    modified_ns: BTreeMap<String, i64>,
}

impl Seen {
    /// What the last life left, if it was in this boot.
    pub(super) fn load(path: &Path) -> Self {
        let last: Option<Self> = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        last.filter(|seen| !seen.boot_id.is_empty() && seen.boot_id == boot_id()).unwrap_or_default()
    }

    /// The highest time that any life told, in microseconds.
    pub(super) fn told(path: &Path) -> i64 {
        let last: Option<Self> = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        last.map_or(0, |seen| seen.told_micros)
    }

    /// What is known of a disk.
    pub(super) fn of(&self, disk: &str) -> Option<LastSeen> {
        self.modified_ns.get(disk).map(|modified_ns| LastSeen { at_ns: self.at_ns, modified_ns: *modified_ns })
    }

    /// A look at the disks as they are now.
    pub(super) fn now(at_micros: i64, told_micros: i64, disks: impl Iterator<Item = (String, i64)>) -> Self {
        let at_ns = at_micros.saturating_mul(1000);
        Self { boot_id: boot_id(), at_ns, told_micros, modified_ns: disks.collect() }
    }

    /// Leaves it for the next life; one that fails only means that less is known then.
    pub(super) fn save(&self, path: &Path) -> std::io::Result<()> {
        let aside = path.with_extension("seen-new");
        fs::write(&aside, serde_json::to_vec(self).map_err(std::io::Error::other)?)?;
        fs::rename(aside, path)
    }
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
}
