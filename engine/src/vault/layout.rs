//! The names of a vault's objects: built here, and nowhere else.
//!
//! ```text
//!   keys/<n>                                  vault id, format version, key slots
//!   machines/<machine>/about/<n>              disks, sizes, timelines, the machine's wrapped data key
//!   machines/<machine>/<timeline>/log/<n>     segments, fence and branch records; n = 16 hex digits
//!   machines/<machine>/<timeline>/runs/<run>/<part>   merged runs; run and part = 16 hex digits each
//!   machines/<machine>/<timeline>/manifest    which runs are live, the floor slot, pins, the epoch
//!   catalog/<n>                               sealed snapshots of the configuration server's state
//! ```

use std::fmt;

use crate::ids::{MachineId, RunId, Slot, TimelineId};

/// The name of an object in a vault, relative to the vault's prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// A generation of the key object.
    pub fn keys(generation: u64) -> Self {
        Self(format!("keys/{generation:016x}"))
    }

    /// A generation of a machine's description.
    pub fn about(machine: MachineId, generation: u64) -> Self {
        Self(format!("machines/{machine}/about/{generation:016x}"))
    }

    /// A slot of a timeline's log.
    pub fn log(machine: MachineId, timeline: TimelineId, slot: Slot) -> Self {
        Self(format!("machines/{machine}/{timeline}/log/{:016x}", slot.0))
    }

    /// A part of a merged run.
    pub fn run_part(machine: MachineId, timeline: TimelineId, run: RunId, part: u32) -> Self {
        Self(format!("machines/{machine}/{timeline}/runs/{run}/{part:016x}"))
    }

    /// A timeline's manifest.
    pub fn manifest(machine: MachineId, timeline: TimelineId) -> Self {
        Self(format!("machines/{machine}/{timeline}/manifest"))
    }

    /// A generation of the configuration server's sealed state.
    pub fn catalog(generation: u64) -> Self {
        Self(format!("catalog/{generation:016x}"))
    }

    /// A name that a store listed. `None` where no vault of this format could hold it.
    pub fn listed(name: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '/' || c == '-';
        let parts_ok = name.split('/').all(|part| !part.is_empty());
        (name.len() <= 200 && parts_ok && name.chars().all(plain)).then(|| Self(name.to_owned()))
    }

    /// The name as the store sees it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number in the name's last part, for the kinds that are numbered.
    pub fn number(&self) -> Option<u64> {
        let last = self.0.rsplit('/').next()?;
        (last.len() == 16).then(|| u64::from_str_radix(last, 16).ok())?
    }

    /// The run and part that the name is of, for parts of runs.
    pub fn run(&self) -> Option<(RunId, u32)> {
        let parts: Vec<&str> = self.0.split('/').collect();
        match parts.as_slice() {
            ["machines", _, _, "runs", run, _] => Some((run.parse().ok()?, u32::try_from(self.number()?).ok()?)),
            _ => None,
        }
    }

    /// The machine and timeline that the name lies under, for the kinds that do.
    pub fn owner(&self) -> Option<(MachineId, TimelineId)> {
        let mut parts = self.0.strip_prefix("machines/")?.split('/');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectName({})", self.0)
    }
}

/// Where generations of the key object lie.
pub fn keys_prefix() -> String {
    "keys/".into()
}

/// Where machines lie.
pub fn machines_prefix() -> String {
    "machines/".into()
}

/// Where one machine's objects lie.
pub fn machine_prefix(machine: MachineId) -> String {
    format!("machines/{machine}/")
}

/// Where generations of a machine's description lie.
pub fn about_prefix(machine: MachineId) -> String {
    format!("machines/{machine}/about/")
}

/// Where a timeline's log lies.
pub fn log_prefix(machine: MachineId, timeline: TimelineId) -> String {
    format!("machines/{machine}/{timeline}/log/")
}

/// Where a timeline's merged runs lie.
pub fn runs_prefix(machine: MachineId, timeline: TimelineId) -> String {
    format!("machines/{machine}/{timeline}/runs/")
}

/// Where the parts of one run lie.
pub fn run_prefix(machine: MachineId, timeline: TimelineId, run: RunId) -> String {
    format!("machines/{machine}/{timeline}/runs/{run}/")
}

/// Where sealed snapshots of the configuration server's state lie.
pub fn catalog_prefix() -> String {
    "catalog/".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_name_that_no_vault_could_hold_is_not_taken() {
        let machine = MachineId([0xab; 16]);
        let name = ObjectName::log(machine, TimelineId([1; 8]), Slot(255));
        assert_eq!(name.number(), Some(255));
        assert_eq!(name.owner(), Some((machine, TimelineId([1; 8]))));
        assert_eq!(ObjectName::listed(name.as_str()), Some(name.clone()));
        assert_eq!(name.run(), None);
        let part = ObjectName::run_part(machine, TimelineId([1; 8]), RunId([2; 8]), 3);
        assert_eq!((part.run(), part.number()), (Some((RunId([2; 8]), 3)), Some(3)));
        for bad in ["", "/", "a//b", "a/../b", "keys/.tmp", "Keys/1", "keys/0000000000000001#1"] {
            assert_eq!(ObjectName::listed(bad), None, "{bad}");
        }
    }
}
