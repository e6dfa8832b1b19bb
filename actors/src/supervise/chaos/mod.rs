//! Faults that a process commits against itself: actors that panic, a vault that fails or is slow, a cache disk that is full.
//! The switch is always compiled in and does nothing unless the process was started with it: what is tested is what is
//! shipped. Without it neither vault nor cache is wrapped.
//!
//! Bounds: at most [`FAULTS_MAX`] faults are remembered; the oldest that is over is forgotten first.

mod cache;
mod vault;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use farshore_engine::cache::io::CacheIo;
use farshore_engine::control::messages::{
    ActorKind, ChaosCommand, ChaosState, InjectedFault, Injection, InjectionState,
};
use farshore_engine::ids::{Chance as _, MachineId};
use farshore_engine::vault::store::ObjectStore;
use parking_lot::Mutex;

use self::cache::ChaosCacheIo;
use self::vault::ChaosStore;
use super::OsChance;

/// Most faults that are remembered. Chosen: a harness that injects one a second looks once in four minutes.
const FAULTS_MAX: usize = 256;

/// The faults of this process.
#[derive(Debug, Default)]
pub struct Chaos {
    enabled: bool,
    process: u64,
    any: AtomicBool,
    faults: Mutex<Faults>,
    fired: AtomicU64,
}

#[derive(Debug, Default)]
struct Faults {
    next: u64,
    list: Vec<Fault>,
}

#[derive(Debug)]
struct Fault {
    id: u64,
    injection: Injection,
    until: Option<Instant>,
    left: Option<u32>,
    fired: u64,
}

impl Fault {
    fn is_armed(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until) && self.left != Some(0)
    }

    fn strike(&mut self) {
        self.fired += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
    }
}

/// Why no fault was armed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this process was not started with chaos enabled: start it with --enable-chaos, on a system that may fail")]
pub struct ChaosDisabled;

/// What happens to a call of the vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct AtVault {
    delay: Duration,
    fails_before: bool,
    fails_after: bool,
}

impl Chaos {
    /// A switch that can be armed, or never.
    pub fn new(enabled: bool) -> Self {
        let mut process = [0; 8];
        if enabled {
            OsChance.fill(&mut process);
        }
        Self { enabled, process: u64::from_le_bytes(process), ..Self::default() }
    }

    /// Whether faults can be armed.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The store, behind the faults of this process where there may be any.
    pub fn around_store(self: &Arc<Self>, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        if self.enabled { Arc::new(ChaosStore::new(store, self.clone())) } else { store }
    }

    /// The cache disk, behind the faults of this process where there may be any.
    pub fn around_cache(self: &Arc<Self>, io: Arc<dyn CacheIo>) -> Arc<dyn CacheIo> {
        if self.enabled { Arc::new(ChaosCacheIo::new(io, self.clone())) } else { io }
    }

    /// The actor of this kind (of this machine; `None`: of any, or of none) panics at its next message.
    pub fn arm(&self, kind: ActorKind, machine: Option<MachineId>) -> Result<(), ChaosDisabled> {
        self.inject(Injection::Panic { actor: kind, machine, times: 1, for_ms: None }).map(drop)
    }

    /// Arms a fault; gives its number.
    pub fn inject(&self, injection: Injection) -> Result<u64, ChaosDisabled> {
        if !self.enabled {
            return Err(ChaosDisabled);
        }
        let (for_ms, left) = match injection {
            Injection::Panic { times, for_ms, .. } => (for_ms, Some(times)),
            Injection::VaultFail { for_ms, .. }
            | Injection::VaultSlow { for_ms, .. }
            | Injection::CacheFull { for_ms } => (Some(for_ms), None),
        };
        let now = Instant::now();
        let until = for_ms.map(|for_ms| now + Duration::from_millis(for_ms));
        let mut faults = self.faults.lock();
        if faults.list.len() >= FAULTS_MAX {
            let at = faults.list.iter().position(|fault| !fault.is_armed(now)).unwrap_or(0);
            faults.list.remove(at);
        }
        let id = faults.next;
        faults.next += 1;
        faults.list.push(Fault { id, injection, until, left, fired: 0 });
        self.any.store(true, Relaxed);
        Ok(id)
    }

    /// Carries out what an operator asks.
    pub fn execute(&self, command: ChaosCommand) -> ChaosState {
        let armed = match command {
            ChaosCommand::Arm { injection } => self.inject(injection).ok(),
            ChaosCommand::Disarm { id } => {
                let mut faults = self.faults.lock();
                if let Some(fault) = faults.list.iter_mut().find(|fault| fault.id == id) {
                    fault.left = Some(0);
                }
                None
            }
            ChaosCommand::List => None,
        };
        let now = Instant::now();
        let shown = |fault: &Fault| InjectedFault {
            id: fault.id,
            injection: fault.injection,
            state: if fault.is_armed(now) { InjectionState::Armed } else { InjectionState::Over },
            fired: fault.fired,
        };
        let faults = self.faults.lock().list.iter().map(shown).collect();
        ChaosState { enabled: self.enabled, process: self.process, armed, faults }
    }

    /// How many panics have been set off.
    pub fn fired(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    /// How many panics still wait for their actor.
    pub fn waiting(&self) -> usize {
        let now = Instant::now();
        let waits = |fault: &&Fault| matches!(fault.injection, Injection::Panic { .. }) && fault.is_armed(now);
        self.faults.lock().list.iter().filter(waits).count()
    }

    /// Called by every actor at its messages.
    ///
    /// # Panics
    /// Where one was armed for it.
    pub fn check(&self, kind: ActorKind, machine: Option<MachineId>) {
        if self.any.load(Relaxed) {
            self.go_off(kind, machine);
        }
    }

    #[cold]
    fn go_off(&self, kind: ActorKind, of: Option<MachineId>) {
        let hit = |injection: &Injection| match injection {
            Injection::Panic { actor, machine, .. } => *actor == kind && (machine.is_none() || *machine == of),
            _ => false,
        };
        if self.strike(hit).is_none() {
            return;
        }
        self.fired.fetch_add(1, Relaxed);
        panic!("chaos: a panic was armed for this {kind:?}");
    }

    /// The first armed fault that fits strikes.
    fn strike(&self, fits: impl Fn(&Injection) -> bool) -> Option<Injection> {
        let now = Instant::now();
        let mut faults = self.faults.lock();
        let any = faults.list.iter().any(|fault| fault.is_armed(now));
        self.any.store(any, Relaxed);
        let fault = faults.list.iter_mut().find(|fault| fault.is_armed(now) && fits(&fault.injection))?;
        fault.strike();
        Some(fault.injection)
    }

    /// What happens to a call of the vault that is made now.
    fn at_vault(&self) -> AtVault {
        let mut at = AtVault::default();
        if !self.any.load(Relaxed) {
            return at;
        }
        if let Some(Injection::VaultSlow { delay_ms, .. }) =
            self.strike(|injection| matches!(injection, Injection::VaultSlow { .. }))
        {
            at.delay = Duration::from_millis(delay_ms);
        }
        if let Some(Injection::VaultFail { after_effect, .. }) =
            self.strike(|injection| matches!(injection, Injection::VaultFail { .. }))
        {
            (at.fails_before, at.fails_after) = (!after_effect, after_effect);
        }
        at
    }

    /// Whether the cache's disk has no room now.
    fn is_cache_full(&self) -> bool {
        self.any.load(Relaxed) && self.strike(|injection| matches!(injection, Injection::CacheFull { .. })).is_some()
    }
}
