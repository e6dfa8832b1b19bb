//! A machine's disks at the start of a life: opened, recognised, their activity logs believed or not.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::config::{AgentConfig, DiskConfig};
use super::error::AgentError;
use super::seen::Seen;
use super::state::AgentState;
use crate::capture::activity_layout::{ActivityHeader, DiskIdentity, LogIdentity, region_count};
use crate::capture::activity_log::{ActivityLog, Found, read};
use crate::capture::opening::KnownDisk;
use crate::capture::trust::{Present, decide};
use crate::capture::{DiskStart, Distrust, RegionSet, TapDisk, identity};
use crate::ids::IncarnationId;
use crate::nbd::{BackingDisk, BackingOptions};
use crate::record::DiskInfo;

/// A disk that is open and not captured yet.
pub(super) struct OpenDisk {
    pub(super) config: DiskConfig,
    pub(super) backing: Arc<BackingDisk>,
    pub(super) identity: DiskIdentity,
}

/// A disk that is ready to be captured.
pub(super) struct ReadyDisk {
    pub(super) tap: TapDisk,
    pub(super) start: DiskStart,
    pub(super) known: KnownDisk,
    /// Pages of its activity log that were damaged and count as hot.
    pub(super) damaged_pages: u32,
}

/// Opens the disks. Each is locked: a second agent in front of one is refused here.
pub(super) fn open(config: &AgentConfig) -> Result<Vec<OpenDisk>, AgentError> {
    config
        .disks
        .iter()
        .map(|disk| {
            let options = BackingOptions { read_only: false, sector_bytes: disk.sector_bytes };
            let failed = |cause| AgentError::Disk { disk: disk.name.clone(), cause };
            let backing = BackingDisk::open(&disk.path, options).map_err(failed)?;
            let identity = identity::of(&backing).map_err(|cause| AgentError::State {
                doing: "recognise",
                path: disk.path.clone(),
                cause,
            })?;
            check_state_dir(config, disk, &backing)?;
            Ok(OpenDisk { config: disk.clone(), backing: Arc::new(backing), identity })
        })
        .collect()
}

/// What enrolment says of the disks; numbers are given when the log is opened.
pub(super) fn infos(disks: &[OpenDisk]) -> Vec<DiskInfo> {
    let info = |(number, disk): (usize, &OpenDisk)| DiskInfo {
        disk: crate::ids::DiskNo(number as u16),
        name: disk.config.name.clone(),
        size_bytes: disk.backing.size_bytes(),
        sector_bytes: disk.backing.sector_bytes(),
    };
    disks.iter().enumerate().map(info).collect()
}

/// The state must not lie on what is captured: as far as the system tells, a device under the state directory's filesystem.
fn check_state_dir(config: &AgentConfig, disk: &DiskConfig, backing: &BackingDisk) -> Result<(), AgentError> {
    let state = fs::metadata(&config.state_dir);
    let known = backing.identity();
    match (state, known) {
        (Ok(state), Ok(known)) if known.block_device && known.device == state.dev() => {
            Err(AgentError::StateOnCapturedDisk { path: config.state_dir.clone(), disk: disk.name.clone() })
        }
        _ => Ok(()),
    }
}

/// Looks at a disk's activity log, and begins it anew for this life.
pub(super) fn ready(
    config: &AgentConfig,
    disk: OpenDisk,
    log: LogIdentity,
    before: Option<&AgentState>,
    life: IncarnationId,
    seen: &Seen,
) -> Result<ReadyDisk, AgentError> {
    let path = config.activity_file(&disk.config);
    let failed = |doing| {
        let path = path.clone();
        move |cause| AgentError::State { doing, path, cause }
    };
    let file = open_activity(&path).map_err(failed("open activity log"))?;
    let present = Present {
        disk: disk.identity,
        log,
        last_life: before.map(|state| state.incarnation),
        last_seen: seen.of(&disk.config.name),
    };
    let medium = (config.activity_medium)(file);
    let disavowed = before.is_some_and(|before| before.disavowed);
    let found = read(&*medium).and_then(|found| trust(config, found, &present));
    let found = if disavowed { found.and(Err(Distrust::Invalid)) } else { found };
    let size_bytes = disk.backing.size_bytes();
    let hot = match &found {
        Ok(found) => found.hot.clone(),
        Err(_) => RegionSet::all(region_count(size_bytes, config.region_bytes)),
    };
    let header = ActivityHeader {
        sequence: found.as_ref().map_or(1, |found| found.header.sequence + 1),
        clean: false,
        region_bytes: config.region_bytes,
        disk: disk.identity,
        log,
        incarnation: life,
    };
    let activity =
        ActivityLog::begin(medium, header, hot.clone(), found.as_ref().ok()).map_err(failed("write activity log"))?;
    let known = KnownDisk {
        name: disk.config.name.clone(),
        size_bytes,
        sector_bytes: disk.backing.sector_bytes(),
        distrust: found.as_ref().err().copied(),
        hot: !hot.is_empty(),
    };
    Ok(ReadyDisk {
        tap: TapDisk { name: disk.config.name, backing: disk.backing, activity },
        start: DiskStart { size_bytes, region_bytes: config.region_bytes, hot },
        known,
        damaged_pages: found.map_or(0, |found| found.damaged_pages),
    })
}

fn open_activity(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn trust(config: &AgentConfig, found: Found, present: &Present) -> Result<Found, Distrust> {
    decide(&found.header, present)?;
    // Regions of another size cannot be told apart in one file: such a log is made anew.
    if found.header.region_bytes == config.region_bytes { Ok(found) } else { Err(Distrust::Outdated) }
}
