//! A cache disk in memory that behaves as badly as a real one may: it fills up, tears writes, fails syncs, and after a
//! crash it has forgotten any part of what was not synced, in any order. For tests and the simulator.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::io::{CacheFile, CacheIo, Space};
use crate::ids::Chance;

/// What goes wrong next. Each happens once, at the first call that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// A write stops after so many of its bytes, with an I/O error.
    TornWrite {
        /// How many get through.
        after_bytes: u64,
    },
    /// A sync fails; what it should have made durable is forgotten at the next crash, whatever is synced later.
    FailedSync,
    /// Creating a file fails.
    FailedCreate,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, data: Bytes },
    SetLen(u64),
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Changes whose sync failed: the page cache has dropped them, no later sync brings them to the disk.
    lost: bool,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    capacity_bytes: u64,
    faults: Vec<DiskFault>,
    lost_pending: bool,
    syncs: u64,
}

/// See the module. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct ModelDisk(Arc<Mutex<State>>);

impl ModelDisk {
    /// An empty disk.
    pub fn new(capacity_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(State { capacity_bytes, ..State::default() })))
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: DiskFault) {
        self.0.lock().faults.push(fault);
    }

    /// Makes the disk larger or smaller.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.0.lock().capacity_bytes = capacity_bytes;
    }

    /// How often anything was synced.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The power goes: what was not synced is there, or not, or in part, as chance has it.
    pub fn crash(&self, chance: &mut dyn Chance) {
        let mut state = self.0.lock();
        let kept = draw(chance, state.pending_names.len() as u64 + 1) as usize;
        let kept: Vec<NameChange> = state.pending_names.drain(..).take(kept).collect();
        kept.iter().for_each(|change| change.apply(&mut state.durable_names));
        state.names = state.durable_names.clone();
        state.faults.clear();
        state.lost_pending = false;
        for inode in state.inodes.values_mut() {
            for change in std::mem::take(&mut inode.pending) {
                match (change, draw(chance, 3)) {
                    (_, 0) => {}
                    (Change::Write { offset, data }, 1) => {
                        let torn = data.slice(..draw(chance, data.len() as u64 + 1) as usize);
                        Change::Write { offset, data: torn }.apply(&mut inode.durable);
                    }
                    (change, _) => change.apply(&mut inode.durable),
                }
            }
            inode.lost = false;
            inode.live = inode.durable.clone();
        }
    }

    /// What was not synced cannot be written back, and nobody is told: it is there until the power goes, whatever is synced.
    pub fn lose_pending(&self) {
        let mut state = self.0.lock();
        state.lost_pending = true;
        state.inodes.values_mut().for_each(|inode| inode.lost |= !inode.pending.is_empty());
    }

    /// Whether something could not be written back since the last crash.
    pub fn has_lost_pending(&self) -> bool {
        self.0.lock().lost_pending
    }

    /// The bytes of a file as they are now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        state.names.get(path).map(|inode| state.inodes[inode].live.clone())
    }

    /// Puts a file there, durably: damage from outside.
    pub fn plant(&self, path: &Path, contents: Vec<u8>) {
        let mut state = self.0.lock();
        let inode = state.inodes.len() as u64;
        state.inodes.insert(inode, Inode { live: contents.clone(), durable: contents, ..Inode::default() });
        state.names.insert(path.to_owned(), inode);
        state.durable_names.insert(path.to_owned(), inode);
    }

    /// Flips a bit somewhere in some file, as a disk does that loses what it was given.
    pub fn flip(&self, chance: &mut dyn Chance) -> Option<PathBuf> {
        let mut state = self.0.lock();
        let files: Vec<(PathBuf, u64)> =
            state.durable_names.iter().map(|(path, inode)| (path.clone(), *inode)).collect();
        let (path, inode) = files.get(draw(chance, files.len().max(1) as u64) as usize)?.clone();
        let inode = state.inodes.get_mut(&inode)?;
        let at = draw(chance, inode.durable.len().max(1) as u64) as usize;
        let bit = 1 << draw(chance, 8);
        *inode.durable.get_mut(at)? ^= bit;
        if let Some(live) = inode.live.get_mut(at) {
            *live ^= bit;
        }
        Some(path)
    }

    /// The files that are there, in order of their names.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }
}

fn draw(chance: &mut dyn Chance, below: u64) -> u64 {
    let mut bytes = [0; 8];
    chance.fill(&mut bytes);
    u64::from_le_bytes(bytes) % below
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write { data, .. } if data.is_empty() => {}
            Self::Write { offset, data } => {
                let (from, to) = (*offset as usize, *offset as usize + data.len());
                if contents.len() < to {
                    contents.resize(to, 0);
                }
                contents[from..to].copy_from_slice(data);
            }
            Self::SetLen(bytes) => contents.resize(*bytes as usize, 0),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Put(path, inode) => names.insert(path.clone(), *inode),
            Self::Remove(path) => names.remove(path),
        };
    }
}

impl State {
    fn take_fault<T>(&mut self, fits: impl Fn(&DiskFault) -> Option<T>) -> Option<T> {
        let (at, found) = self.faults.iter().enumerate().find_map(|(at, fault)| Some((at, fits(fault)?)))?;
        self.faults.remove(at);
        Some(found)
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].live.len() as u64).sum()
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn change(&mut self, inode: u64, change: Change) {
        let inode = self.inodes.get_mut(&inode).expect("an open file has an inode");
        change.apply(&mut inode.live);
        inode.pending.push(change);
    }
}

impl Inode {
    /// What could not be written back is to be written again, where all of it is written over.
    fn written_over(&mut self, from: u64, to: u64) {
        let covered = |change: &Change| match change {
            Change::Write { offset, data } => from <= *offset && *offset + data.len() as u64 <= to,
            Change::SetLen(_) => false,
        };
        if self.lost && self.pending.iter().all(covered) {
            self.pending.clear();
            self.lost = false;
        }
    }
}

impl CacheIo for ModelDisk {
    fn create_dirs(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let here = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.contents(path).map(|mut contents| {
            contents.truncate(bytes_max as usize);
            contents
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        let mut state = self.0.lock();
        let failed = state.take_fault(|fault| (*fault == DiskFault::FailedCreate).then_some(()));
        if failed.is_some() {
            return Err(ErrorKind::StorageFull.into());
        }
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len() as u64;
        state.inodes.insert(inode, Inode::default());
        state.change_name(NameChange::Put(path.to_owned(), inode));
        Ok(Box::new(ModelFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        let inode = self.0.lock().names.get(path).copied().ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(ModelFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
        state.change_name(NameChange::Put(to.to_owned(), inode));
        state.change_name(NameChange::Remove(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.names.contains_key(path) {
            state.change_name(NameChange::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.syncs += 1;
        state.pending_names.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.0.lock();
        let free_bytes = state.capacity_bytes.saturating_sub(state.used_bytes());
        Ok(Space { total_bytes: state.capacity_bytes, free_bytes })
    }
}

struct ModelFile {
    disk: ModelDisk,
    inode: u64,
}

impl CacheFile for ModelFile {
    fn write_at(&mut self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let torn = state.take_fault(|fault| match fault {
            DiskFault::TornWrite { after_bytes } => Some(*after_bytes),
            _ => None,
        });
        let end = offset + data.len() as u64;
        let grows = end.saturating_sub(state.inodes[&self.inode].live.len() as u64);
        let short = (state.used_bytes() + grows).saturating_sub(state.capacity_bytes);
        let through = (data.len() as u64).saturating_sub(short).min(torn.unwrap_or(u64::MAX));
        let whole = through == data.len() as u64 && torn.is_none();
        if whole {
            state.inodes.get_mut(&self.inode).expect("an open file has an inode").written_over(offset, end);
        }
        state.change(self.inode, Change::Write { offset, data: Bytes::from(data).slice(..through as usize) });
        match (whole, torn) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(io::Error::other("injected: the write was torn")),
            (false, None) => Err(ErrorKind::StorageFull.into()),
        }
    }

    fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let state = self.disk.0.lock();
        let rest = state.inodes[&self.inode].live.get(offset as usize..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&rest[..rest.len().min(bytes_max)]))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.syncs += 1;
        let failed = state.take_fault(|fault| (*fault == DiskFault::FailedSync).then_some(())).is_some();
        let inode = state.inodes.get_mut(&self.inode).expect("an open file has an inode");
        inode.lost |= failed;
        if failed {
            return Err(io::Error::other("injected: the sync failed"));
        }
        if !inode.lost {
            inode.pending.clear();
            inode.durable = inode.live.clone();
        }
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let inode = state.inodes.get_mut(&self.inode).expect("an open file has an inode");
        let beyond = |change: &Change| matches!(change, Change::Write { offset, .. } if *offset >= bytes);
        if bytes <= inode.durable.len() as u64 && inode.pending.iter().all(beyond) {
            // All that could not be written lay behind the cut.
            inode.pending.clear();
            inode.lost = false;
        }
        state.change(self.inode, Change::SetLen(bytes));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().inodes[&self.inode].live.len() as u64)
    }
}
