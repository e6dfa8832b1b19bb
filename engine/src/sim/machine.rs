//! A protected machine: its disks, what its agent keeps beside them, its log in the vault, and the agent that lives there
//! at present. What outlives agents is here; `life` begins and ends them, `writes` and `talk` are what they do.

use std::collections::BTreeMap;

use super::chance::SeededChance;
use super::context::Context;
use super::life::Agent;
use super::log::ModelLog;
use super::medium::ModelMedium;
use super::replay::Truth;
use super::source::{REGION_BYTES, Snapshot, SourceDisk, Value};
use crate::capture::RegionSet;
use crate::capture::activity_log;
use crate::capture::trust::LastSeen;
use crate::ids::{Epoch, Lsn, MachineId, MarkId, Slot, TimelineId, Timestamp};
use crate::vault::crypto::DataKey;
use crate::vault::store::PutOutcome;

/// Machines of a run.
pub(super) const MACHINES: usize = 2;
/// Disks of each.
pub(super) const DISKS: usize = 2;
/// What an agent may hold beyond its budget: records are few, and not counted beforehand.
const BUDGET_SLACK_BYTES: usize = 8 << 10;
/// Blocks of a region.
const REGION_BLOCKS: usize = (REGION_BYTES / super::source::BLOCK_BYTES) as usize;

/// A copy of a machine, as snapshots of virtual machines are.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) disks: Vec<(Vec<Value>, crate::capture::activity_layout::DiskIdentity)>,
    pub(super) media: Vec<Vec<u8>>,
    /// Lives whose beginning was committed by then.
    pub(super) begun: u64,
}

/// Which regions an activity log holds as hot; `None` where nobody would believe it.
type Hot = Option<RegionSet>;

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) index: usize,
    pub(super) log: ModelLog,
    pub(super) disks: Vec<SourceDisk>,
    pub(super) activity: Vec<ModelMedium>,
    pub(super) state: ModelMedium,
    /// How the disks looked when an agent was alive last in this boot.
    pub(super) seen: Option<Vec<LastSeen>>,
    /// What could be seen of each disk when a mark was taken.
    pub(super) marks: BTreeMap<MarkId, Vec<Snapshot>>,
    /// The highest LSN that an agent was told to be committed.
    pub(super) committed: Lsn,
    pub(super) agent: Option<Agent>,
    pub(super) lives: u64,
    /// Lives whose beginning is committed.
    pub(super) begun: u64,
    /// Somebody else changed this disk, and no life has found out yet.
    pub(super) changed_behind: Vec<bool>,
    pub(super) copy: Option<Copy>,
    /// It went back to a copy, and no life has found out yet.
    pub(super) rolled_back: bool,
    /// What agents may hold, in bytes.
    pub(super) budget_bytes: usize,
    /// What the clock on the wall is ahead, in microseconds.
    pub(super) clock_micros: i64,
    pub(super) epoch: Epoch,
    /// The process server that has the newest epoch.
    pub(super) owner: usize,
    values: Value,
    writes: u64,
    hot: Vec<([u64; 2], [Hot; 2])>,
}

impl Machine {
    pub(super) fn new(index: usize, chance: &mut SeededChance) -> Self {
        let log = ModelLog::new(MachineId::draw(chance), TimelineId::draw(chance), DataKey::draw(chance));
        let mut values = 0;
        let mut draw = || {
            values += 1;
            values
        };
        let disks = (0..DISKS).map(|number| SourceDisk::new(number, &mut draw)).collect();
        Self {
            index,
            log,
            disks,
            activity: (0..DISKS).map(|_| ModelMedium::default()).collect(),
            state: ModelMedium::default(),
            seen: None,
            marks: BTreeMap::new(),
            committed: Lsn::ZERO,
            agent: None,
            lives: 0,
            begun: 0,
            changed_behind: vec![false; DISKS],
            copy: None,
            rolled_back: false,
            budget_bytes: [40 << 10, 160 << 10, 1 << 20][chance.below(3) as usize],
            clock_micros: 1_700_000_000_000_000,
            epoch: Epoch::ZERO,
            owner: 0,
            values,
            writes: 0,
            hot: vec![([u64::MAX; 2], [None, None]); DISKS],
        }
    }

    pub(super) fn name(&self) -> String {
        format!("machine {}", self.index)
    }

    pub(super) fn draw_value(&mut self) -> Value {
        self.values += 1;
        self.values
    }

    /// The number of the next write.
    pub(super) fn draw_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    pub(super) fn snapshot(&self) -> Vec<Snapshot> {
        self.disks.iter().map(|disk| disk.snapshot(self.writes + 1)).collect()
    }

    /// The time on the wall.
    pub(super) fn wall(&self, ctx: &Context) -> Timestamp {
        Timestamp(self.clock_micros + ctx.now.as_micros() as i64)
    }

    pub(super) fn media(&self) -> impl Iterator<Item = &ModelMedium> {
        self.activity.iter().chain([&self.state])
    }

    /// An object reaches the machine's log.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub(super) fn fill(&mut self, slot: Slot, object: &bytes::Bytes) -> Result<PutOutcome, String> {
        self.log.fill(slot, object, &Truth { disks: &self.disks, marks: &self.marks })
    }

    /// What must hold after every step.
    pub(super) fn check(&mut self) -> Result<(), String> {
        // I3: what is reported committed is in the log, whatever dies from here on.
        if self.committed > self.log.last() {
            let (committed, last) = (self.committed, self.log.last());
            return Err(format!("I3: LSN {committed} was reported committed, but the log ends at {last}"));
        }
        for disk in 0..DISKS {
            self.check_hot(disk)?;
        }
        let Some(agent) = &self.agent else { return Ok(()) };
        let held = agent.splitter.held_bytes();
        if held > self.budget_bytes + BUDGET_SLACK_BYTES {
            return Err(format!("I10: the agent holds {held} bytes of at most {}", self.budget_bytes));
        }
        for disk in 0..DISKS {
            let (scanned, bound) = (agent.splitter.disk_view(disk).scanned_bytes, agent.rescan_bound(disk));
            if bound.is_some_and(|bound| scanned > bound) {
                return Err(format!("I5: {scanned} bytes of disk {disk} were scanned, but only {bound:?} were hot"));
            }
        }
        Ok(())
    }

    /// I5: what differs from the replica after a crash here, of the process or of the power, is recorded hot.
    fn check_hot(&mut self, disk: usize) -> Result<(), String> {
        if self.changed_behind[disk] {
            return Ok(());
        }
        let medium = &self.activity[disk];
        let versions = [medium.version(), self.state.version()];
        if self.hot[disk].0 != versions {
            let life = self.kept_state().filter(|state| !state.disavowed).map(|state| state.incarnation);
            // Nobody believes what no agent's state speaks for.
            let believed = |found: &activity_log::Found| Some(found.header.incarnation) == life;
            let hot = |view| activity_log::read(&view).ok().filter(believed).map(|found| found.hot);
            self.hot[disk] = (versions, medium.views().map(hot));
        }
        let views = &self.hot[disk].1;
        let replica = &self.log.replay.disks[disk];
        for (block, held) in replica.iter().enumerate() {
            let left = self.disks[disk].after_crash(block);
            if left == [*held; 2] {
                continue;
            }
            let region = (block / REGION_BLOCKS) as u32;
            let hot = |view: &Hot| view.as_ref().is_none_or(|hot| hot.contains(region));
            if !views.iter().all(hot) {
                return Err(format!(
                    "I5: block {block} of disk {disk} may hold any of {left:?}, its replica {held}, and region {region} is cool"
                ));
            }
        }
        Ok(())
    }
}
