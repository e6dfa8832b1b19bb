//! The switch that makes a chosen actor panic. It is always compiled in and does nothing unless the process was started
//! with it: what is tested is what is shipped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use farshore_engine::ids::MachineId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The kinds of actors, as the operator and the chaos harness name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// Owns a process server's machines.
    ProcessServer,
    /// Owns one machine's log writer.
    Machine,
    /// Seals one disk's frames.
    Disk,
    /// Fills one machine's log slots.
    UploadStream,
    /// Speaks with one agent.
    AgentSession,
    /// Owns the configuration server's inventory.
    Orchestrator,
    /// Speaks with one process server.
    ProcessServerLink,
    /// Carries out one job.
    Job,
}

/// Panics that wait for their actor.
#[derive(Debug, Default)]
pub struct Chaos {
    enabled: bool,
    any: AtomicBool,
    armed: Mutex<Vec<(ActorKind, Option<MachineId>)>>,
    fired: AtomicU64,
}

/// Why no panic was armed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this process was not started with chaos enabled: start it with --enable-chaos, on a system that may fail")]
pub struct ChaosDisabled;

impl Chaos {
    /// A switch that can be armed, or never.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    /// The actor of this kind (of this machine; `None`: of any, or of none) panics at its next message.
    pub fn arm(&self, kind: ActorKind, machine: Option<MachineId>) -> Result<(), ChaosDisabled> {
        if !self.enabled {
            return Err(ChaosDisabled);
        }
        self.armed.lock().push((kind, machine));
        self.any.store(true, Relaxed);
        Ok(())
    }

    /// How many panics have been set off.
    pub fn fired(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    /// How many panics still wait for their actor.
    pub fn waiting(&self) -> usize {
        self.armed.lock().len()
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
    fn go_off(&self, kind: ActorKind, machine: Option<MachineId>) {
        let mut armed = self.armed.lock();
        let hit = |armed: &(ActorKind, Option<MachineId>)| armed.0 == kind && (armed.1.is_none() || armed.1 == machine);
        let Some(at) = armed.iter().position(hit) else { return };
        armed.remove(at);
        self.any.store(!armed.is_empty(), Relaxed);
        drop(armed);
        self.fired.fetch_add(1, Relaxed);
        panic!("chaos: a panic was armed for this {kind:?}");
    }
}
