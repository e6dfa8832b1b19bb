//! Stable storage of an agent beside its disks, for activity logs and its state: what was not synced may be there after a
//! power cut, or not, or in part, sector by sector.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chance::SeededChance;
use crate::capture::activity_log::Medium;

/// What storage writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Every write fails; what is there can still be taken away.
    failing: bool,
    /// Nor can it be taken away.
    stuck: bool,
    /// The machine goes down in the middle of the operation after so many.
    dies_after: Option<u32>,
    dead: bool,
    /// Goes up with every change.
    version: u64,
}

/// See the module. Clones are the same storage.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelMedium(Arc<Mutex<State>>);

impl ModelMedium {
    /// From now on every write fails; with `stuck`, nothing can be taken away either.
    pub(super) fn fail(&self, stuck: bool) {
        let mut state = self.0.lock();
        (state.failing, state.stuck) = (true, stuck);
    }

    /// It works again.
    pub(super) fn mend(&self) {
        let mut state = self.0.lock();
        (state.failing, state.stuck) = (false, false);
    }

    pub(super) fn dies_after(&self, operations: u32) {
        self.0.lock().dies_after = Some(operations);
    }

    /// Whether the machine went down in an operation.
    pub(super) fn died(&self) -> bool {
        self.0.lock().dead
    }

    pub(super) fn version(&self) -> u64 {
        self.0.lock().version
    }

    /// What is there for everybody who runs now, and what is there for certain after a power cut.
    pub(super) fn views(&self) -> [Self; 2] {
        let state = self.0.lock();
        let of = |bytes: &Vec<u8>| {
            Self(Arc::new(Mutex::new(State { live: bytes.clone(), durable: bytes.clone(), ..State::default() })))
        };
        [of(&state.live), of(&state.durable)]
    }

    /// The process is gone, the machine is not.
    pub(super) fn killed(&self) {
        let mut state = self.0.lock();
        (state.dies_after, state.dead) = (None, false);
    }

    /// The power goes.
    pub(super) fn crash(&self, chance: &mut SeededChance) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if state.live.len() != state.durable.len() && chance.happens(500) {
            state.durable.resize(state.live.len(), 0);
        }
        for (durable, live) in state.durable.chunks_mut(SECTOR_BYTES).zip(state.live.chunks(SECTOR_BYTES)) {
            if durable != live {
                let whole = durable.len().min(live.len());
                let through = match chance.below(3) {
                    0 => 0,
                    1 => whole,
                    // Torn within a sector, as bad storage does.
                    _ => chance.below(whole as u64 + 1) as usize,
                };
                durable[..through].copy_from_slice(&live[..through]);
            }
        }
        state.live = state.durable.clone();
        (state.dies_after, state.dead) = (None, false);
        state.version += 1;
    }

    /// Somebody puts this there, or takes everything away.
    pub(super) fn plant(&self, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        state.live = bytes.clone();
        state.durable = bytes;
        state.version += 1;
    }

    /// A bit flips.
    pub(super) fn flip(&self, chance: &mut SeededChance) {
        let mut state = self.0.lock();
        if state.live.is_empty() {
            return;
        }
        let at = chance.below(state.live.len() as u64) as usize;
        let bit = 1 << chance.below(8);
        state.live[at] ^= bit;
        if let Some(byte) = state.durable.get_mut(at) {
            *byte ^= bit;
        }
        state.version += 1;
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().live.clone()
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.dies_after {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.dead {
            return Err(io::Error::other("injected: the machine is down"));
        }
        self.version += 1;
        Ok(())
    }
}

impl Medium for ModelMedium {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        if state.failing {
            return Err(io::Error::other("injected: the storage beside the disks fails"));
        }
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if state.live.len() < to {
            state.live.resize(to, 0);
        }
        state.live[from..to].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        if state.stuck {
            return Err(io::Error::other("injected: the storage beside the disks is stuck"));
        }
        state.live.resize(bytes as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        state.durable = state.live.clone();
        Ok(())
    }
}
