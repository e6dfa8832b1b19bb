//! What an agent must remember of its machine's log from one life to the next, and the file that holds it.
//!
//! ```text
//!   0       copy 0 (64 KiB)      the one with the higher sequence counts
//!   65536   copy 1 (64 KiB)
//!
//!   copy    0 magic "FARSHAGT" | 8 version u16 | 10 flags u8 (1 announced, 2 confirmed, 4 clean stop,
//!           8 activity logs disavowed) | 11 zero
//!           | 12 body_bytes u32 | 16 sequence u64 | body | crc u32 over everything before it
//!   body    vault 16 | machine 16 | timeline 8 | incarnation 16 | reserved u64 | committed u64 | epoch u64
//!           | clean_stop u64 | next_disk u16 | lineage u32, each 16
//! ```
//!
//! Invariants: a life's incarnation and LSNs are here, synced, before its first write; it is announced here before a process
//! server hears of it, so that a log which took its beginning is known again after a crash.
//! Crash story: a torn copy leaves the older one, on which everything that happened rests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::capture::LSN_RESERVE;
use crate::capture::activity_layout::LogIdentity;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{Epoch, IncarnationId, Lsn, MachineId, TimelineId, VaultId};
use crate::protocol::message::LINEAGE_MAX;

/// Version of the layout.
pub const STATE_VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"FARSHAGT";
const COPY_BYTES: usize = 64 << 10;
const HEAD_BYTES: usize = 24;

mod flag {
    pub(super) const ANNOUNCED: u8 = 1;
    pub(super) const CONFIRMED: u8 = 2;
    pub(super) const CLEAN_STOP: u8 = 4;
    pub(super) const DISAVOWED: u8 = 8;
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentState {
    /// Goes up with every version.
    pub sequence: u64,
    /// Which log it is about.
    pub log: LogIdentity,
    /// The newest life.
    pub incarnation: IncarnationId,
    /// A process server may have heard of it.
    pub announced: bool,
    /// Its beginning is in the vault: the log ends in it and no other.
    pub confirmed: bool,
    /// It had an activity log that it could neither write nor empty: the next life believes none.
    pub disavowed: bool,
    /// Lives before it that the log may end in, newest last.
    pub lineage: Vec<IncarnationId>,
    /// The last LSN that it may give.
    pub reserved: Lsn,
    /// The last LSN that was reported committed, as far as was written down.
    pub committed: Lsn,
    /// In which epoch that was.
    pub epoch: Epoch,
    /// The LSN of the clean stop with which it ended.
    pub clean_stop: Option<Lsn>,
    /// No disk number below this one is free.
    pub next_disk: u16,
}

impl AgentState {
    /// What follows: a new life, of which nobody has heard.
    pub fn next_life(before: Option<&Self>, log: LogIdentity, incarnation: IncarnationId) -> Self {
        let Some(before) = before else {
            return Self {
                sequence: 1,
                log,
                incarnation,
                announced: false,
                confirmed: false,
                disavowed: false,
                lineage: Vec::new(),
                reserved: Lsn(LSN_RESERVE),
                committed: Lsn::ZERO,
                epoch: Epoch::ZERO,
                clean_stop: None,
                next_disk: 0,
            };
        };
        let mut next = Self { sequence: before.sequence + 1, log, incarnation, ..before.clone() };
        if before.confirmed {
            next.lineage.clear();
        }
        if before.announced {
            next.lineage.push(before.incarnation);
        }
        // Each life in it spoke to a process server and had nothing committed: more than this many in a row is no accident.
        let excess = next.lineage.len().saturating_sub(LINEAGE_MAX - 1);
        next.lineage.drain(..excess);
        (next.announced, next.confirmed, next.disavowed, next.clean_stop) = (false, false, false, None);
        next.reserved = Lsn(before.reserved.0 + LSN_RESERVE);
        next
    }

    /// The first LSN of the life, right after its reservation at the start.
    pub fn first_lsn(&self) -> Lsn {
        Lsn(self.reserved.0 - LSN_RESERVE + 1)
    }

    /// A copy's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Put::default();
        body.slice(&self.log.vault.0).slice(&self.log.machine.0).slice(&self.log.timeline.0).slice(&self.incarnation.0);
        body.u64(self.reserved.0).u64(self.committed.0).u64(self.epoch.0);
        body.u64(self.clean_stop.unwrap_or(Lsn::ZERO).0).u16(self.next_disk).count(self.lineage.len());
        self.lineage.iter().for_each(|life| {
            body.slice(&life.0);
        });
        let mut flags = if self.announced { flag::ANNOUNCED } else { 0 };
        flags |= if self.confirmed { flag::CONFIRMED } else { 0 };
        flags |= if self.clean_stop.is_some() { flag::CLEAN_STOP } else { 0 };
        flags |= if self.disavowed { flag::DISAVOWED } else { 0 };
        let mut out = Put::default();
        out.slice(MAGIC).u16(STATE_VERSION).u8(flags).u8(0).count(body.len()).u64(self.sequence).slice(body.as_slice());
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        assert!(out.len() <= COPY_BYTES, "the lineage is bounded");
        out.into_bytes().to_vec()
    }

    /// Reads a copy.
    pub fn decode(copy: &[u8]) -> Result<Self, Malformed> {
        let what = "agent state";
        let mut head = Take::new(copy);
        if head.bytes(MAGIC.len(), what)? != MAGIC {
            return Err(Malformed::Value { what, value: 0 });
        }
        let version = head.u16(what)?;
        if version != STATE_VERSION {
            return Err(Malformed::Version { what, version, newest: STATE_VERSION });
        }
        let flags = head.u8(what)?;
        head.u8(what)?;
        let body_bytes = head.u32(what)? as usize;
        let sequence = head.u64(what)?;
        let end = HEAD_BYTES.saturating_add(body_bytes);
        let crc = copy.get(end..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Malformed::Short { what })?;
        if crc32fast::hash(&copy[..end]).to_le_bytes() != *crc {
            return Err(Malformed::Checksum { what });
        }
        let mut body = Take::new(&copy[HEAD_BYTES..end]);
        let log = LogIdentity {
            vault: VaultId(body.array("vault")?),
            machine: MachineId(body.array("machine")?),
            timeline: TimelineId(body.array("timeline")?),
        };
        let incarnation = IncarnationId(body.array("incarnation")?);
        let (reserved, committed) = (Lsn(body.u64("reserved")?), Lsn(body.u64("committed")?));
        let epoch = Epoch(body.u64("epoch")?);
        let stop = Lsn(body.u64("clean stop")?);
        let next_disk = body.u16("next disk")?;
        let count = body.count(IncarnationId::BYTES, "lineage")?;
        let lineage =
            (0..count).map(|_| body.array("lineage").map(IncarnationId)).collect::<Result<Vec<_>, Malformed>>()?;
        body.end(what)?;
        if reserved.0 < LSN_RESERVE {
            return Err(Malformed::Value { what: "reserved", value: reserved.0 });
        }
        Ok(Self {
            sequence,
            log,
            incarnation,
            announced: flags & flag::ANNOUNCED != 0,
            confirmed: flags & flag::CONFIRMED != 0,
            disavowed: flags & flag::DISAVOWED != 0,
            lineage,
            reserved,
            committed,
            epoch,
            clean_stop: (flags & flag::CLEAN_STOP != 0).then_some(stop),
            next_disk,
        })
    }
}

/// What became of the last life's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// Nothing was ever written down here.
    Nothing,
    /// This.
    State(Box<AgentState>),
    /// Something was, and it cannot be read.
    Damaged,
}

/// Reads the state file; a missing one is no error.
pub fn read(path: &Path) -> io::Result<Remembered> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::Nothing),
        Err(error) => return Err(error),
    };
    let copies = [0, COPY_BYTES].map(|at| bytes.get(at..).and_then(|rest| AgentState::decode(rest).ok()));
    let newest = copies.into_iter().flatten().max_by_key(|state| state.sequence);
    Ok(newest.map_or(Remembered::Damaged, |state| Remembered::State(Box::new(state))))
}

/// The file, kept by a living agent.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: File,
    state: Mutex<AgentState>,
}

impl StateFile {
    /// Begins a life: `state` is written and synced on return.
    pub fn begin(path: &Path, state: AgentState) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.set_len(2 * COPY_BYTES as u64)?;
        let kept = Self { path: path.to_owned(), file, state: Mutex::new(state.clone()) };
        kept.write(&state)?;
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(kept)
    }

    fn write(&self, state: &AgentState) -> io::Result<()> {
        let at = (state.sequence % 2) * COPY_BYTES as u64;
        self.file.write_all_at(&state.encode(), at)?;
        self.file.sync_data()
    }

    /// Changes the state; synced on return.
    pub fn change(&self, change: impl FnOnce(&mut AgentState)) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        change(&mut next);
        next.sequence += 1;
        self.write(&next)?;
        *state = next;
        Ok(())
    }

    /// The state as it is now.
    pub fn get(&self) -> AgentState {
        self.state.lock().clone()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(n: u8) -> IncarnationId {
        IncarnationId([n; 16])
    }

    #[test]
    fn each_life_begins_behind_everything_that_was_reserved() {
        let first = AgentState::next_life(None, LogIdentity::default(), life(1));
        assert_eq!(first.first_lsn(), Lsn(1));
        let mut used = first.clone();
        used.reserved = Lsn(first.reserved.0 + 12_345);
        let second = AgentState::next_life(Some(&used), LogIdentity::default(), life(2));
        assert_eq!(second.first_lsn(), used.reserved.next());
    }

    #[test]
    fn the_lineage_is_what_the_log_may_end_in() {
        let mut state = AgentState::next_life(None, LogIdentity::default(), life(1));
        (state.announced, state.confirmed) = (true, true);
        let mut state = AgentState::next_life(Some(&state), LogIdentity::default(), life(2));
        assert_eq!(state.lineage, [life(1)]);
        state.announced = true;
        let state = AgentState::next_life(Some(&state), LogIdentity::default(), life(3));
        assert_eq!(state.lineage, [life(1), life(2)], "the log may have taken the second or not");
        let mut state = AgentState::next_life(Some(&state), LogIdentity::default(), life(4));
        assert_eq!(state.lineage, [life(1), life(2)], "nobody heard of the third");
        (state.announced, state.confirmed) = (true, true);
        let state = AgentState::next_life(Some(&state), LogIdentity::default(), life(5));
        assert_eq!(state.lineage, [life(4)]);
    }

    #[test]
    fn a_torn_copy_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.state");
        assert_eq!(read(&path).expect("reads"), Remembered::Nothing);
        let file =
            StateFile::begin(&path, AgentState::next_life(None, LogIdentity::default(), life(1))).expect("written");
        file.change(|state| state.committed = Lsn(7)).expect("written");
        file.change(|state| state.clean_stop = Some(Lsn(9))).expect("written");
        let newest = file.get();
        assert_eq!(read(&path).expect("reads"), Remembered::State(Box::new(newest.clone())));
        let at = (newest.sequence % 2) * COPY_BYTES as u64;
        file.file.write_all_at(&[0xff; 40], at).expect("torn");
        let Remembered::State(left) = read(&path).expect("reads") else { panic!("the other copy is whole") };
        assert_eq!((left.committed, left.clean_stop), (Lsn(7), None));
        file.file.write_all_at(&[0xff; 40], COPY_BYTES as u64 - at).expect("torn");
        assert_eq!(read(&path).expect("reads"), Remembered::Damaged);
    }
}
