//! What an agent is started with.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::hooks::Hooks;
use crate::capture::activity_log::Medium;
use crate::defaults;
use crate::ids::{Chance, Timestamp};
use crate::record::{DISKS_MAX, NAME_BYTES_MAX};

/// Size of a region, in bytes. Chosen: with 256 hot regions a crash costs a scan of at most 256 MiB a disk; a quarter of it
/// records four times as often, four times as much scans four times as long.
pub const REGION_BYTES: u64 = 1 << 20;
/// Regions of a disk that may stay hot while they are in use.
pub const HOT_REGIONS_TARGET: usize = 256;
/// How long a region is not used before it is cooled.
pub const COOL_AFTER: Duration = Duration::from_secs(30);

/// One disk to protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Its name: of the disk in the vault, and of its export.
    pub name: String,
    /// The file or block device beneath.
    pub path: PathBuf,
    /// Sector size that clients see; without, what the device has, 512 for a file.
    pub sector_bytes: Option<u32>,
    /// The socket of its export; without, one in the state directory.
    pub socket: Option<PathBuf>,
}

/// Why a text describes no disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' describes no disk ({why}): expected NAME=PATH[,sector=512|4096][,socket=PATH]")]
pub struct BadDisk {
    text: String,
    why: &'static str,
}

impl FromStr for DiskConfig {
    type Err = BadDisk;

    fn from_str(text: &str) -> Result<Self, BadDisk> {
        let bad = |why| BadDisk { text: text.chars().take(256).collect(), why };
        let (name, mut rest) = text.split_once('=').ok_or_else(|| bad("there is no '='"))?;
        check_name(name).map_err(bad)?;
        let (mut sector_bytes, mut socket) = (None, None);
        // Options stand at the end; a comma in a path is part of it unless an option follows.
        while let Some((before, option)) = rest.rsplit_once(',') {
            if let Some(bytes) = option.strip_prefix("sector=") {
                let bytes: u32 = bytes.parse().map_err(|_| bad("the sector size is no number"))?;
                if !matches!(bytes, 512 | 4096) {
                    return Err(bad("a sector has 512 or 4096 bytes"));
                }
                sector_bytes = Some(bytes);
            } else if let Some(path) = option.strip_prefix("socket=") {
                socket = Some(PathBuf::from(path));
            } else {
                break;
            }
            rest = before;
        }
        if rest.is_empty() {
            return Err(bad("the path is empty"));
        }
        Ok(Self { name: name.to_owned(), path: PathBuf::from(rest), sector_bytes, socket })
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("the name is empty"),
        _ if name.len() > NAME_BYTES_MAX => Err("the name is longer than 255 bytes"),
        _ if name.chars().any(char::is_control) => Err("the name has control characters"),
        _ => Ok(()),
    }
}

/// A name as part of a file name: one spelling each, whatever characters it has.
pub fn file_name_of(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes()
        .enumerate()
        .map(|(at, byte)| {
            let hidden = at == 0 && byte == b'.';
            if plain(byte) && !hidden { char::from(byte).to_string() } else { format!("%{byte:02x}") }
        })
        .collect()
}

/// The clock and the randomness of the process.
pub struct Surroundings {
    /// What the wall clock says.
    pub wall: fn() -> Timestamp,
    /// The operating system's randomness, as often as it is asked for.
    pub chance: fn() -> Box<dyn Chance>,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surroundings(..)")
    }
}

/// What an agent is started with.
#[derive(Debug)]
pub struct AgentConfig {
    /// The machine's name, for people.
    pub name: String,
    /// Where the agent keeps its state: on stable storage that is not captured.
    pub state_dir: PathBuf,
    /// The disks.
    pub disks: Vec<DiskConfig>,
    /// Time between marks under load, until the configuration server has said otherwise.
    pub mark_interval: Duration,
    /// Most bytes of writes held until they are committed.
    pub budget_bytes: usize,
    /// Size of a region in bytes; a power of two.
    pub region_bytes: u64,
    /// Regions of a disk that may stay hot while they are in use.
    pub hot_regions_target: usize,
    /// How long a region is not used before it is cooled.
    pub cool_after: Duration,
    /// What an activity log's file is written through.
    pub activity_medium: fn(File) -> Box<dyn Medium>,
    /// What runs around app-consistent marks.
    pub hooks: Option<Hooks>,
    /// The program's version.
    pub version: String,
    /// Clock and chance.
    pub surroundings: Surroundings,
}

impl AgentConfig {
    /// The defaults.
    pub fn new(name: String, state_dir: PathBuf, disks: Vec<DiskConfig>, surroundings: Surroundings) -> Self {
        Self {
            name,
            state_dir,
            disks,
            mark_interval: Duration::from_millis(defaults::MARK_INTERVAL_MS),
            budget_bytes: defaults::AGENT_MEMORY_BYTES_MAX as usize,
            region_bytes: REGION_BYTES,
            hot_regions_target: HOT_REGIONS_TARGET,
            cool_after: COOL_AFTER,
            activity_medium: |file| Box::new(file),
            hooks: None,
            version: env!("CARGO_PKG_VERSION").into(),
            surroundings,
        }
    }

    /// What is wrong with the list of disks, if anything is.
    pub fn check(&self) -> Result<(), String> {
        if self.disks.is_empty() {
            return Err("no disk is given: name at least one with --disk NAME=PATH".into());
        }
        if self.disks.len() > DISKS_MAX {
            return Err(format!("{} disks are given; a machine has at most {DISKS_MAX}", self.disks.len()));
        }
        let mut names: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("two disks are called '{}': give each a name of its own", pair[0])),
            None => Ok(()),
        }
    }

    /// A file of the agent's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// The socket of a disk's export.
    pub fn socket(&self, disk: &DiskConfig) -> PathBuf {
        disk.socket.clone().unwrap_or_else(|| self.file(&format!("{}.sock", file_name_of(&disk.name))))
    }

    /// The activity log of a disk.
    pub fn activity_file(&self, disk: &DiskConfig) -> PathBuf {
        self.file(&format!("{}.activity", file_name_of(&disk.name)))
    }
}

/// Where the status is written.
pub fn status_file(state_dir: &Path) -> PathBuf {
    state_dir.join("status.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_described_in_one_text() {
        let disk: DiskConfig = "os disk=/dev/a,b/c,sector=4096,socket=/run/x.sock".parse().expect("well formed");
        assert_eq!((disk.name.as_str(), disk.path.to_str()), ("os disk", Some("/dev/a,b/c")));
        assert_eq!((disk.sector_bytes, disk.socket), (Some(4096), Some("/run/x.sock".into())));
        for bad in ["", "a", "=x", "a=", "a=/x,sector=1024", "a=,sector=512", "a\n=/x"] {
            assert!(bad.parse::<DiskConfig>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_name_is_a_file_name_of_its_own() {
        let names = ["a", "a/b", "a b", "..", ".", "a%2fb", "ü", "A"];
        let files: std::collections::BTreeSet<_> = names.iter().map(|name| file_name_of(name)).collect();
        assert_eq!(files.len(), names.len());
        assert!(files.iter().all(|file| !file.contains('/') && !file.starts_with('.')));
    }
}
