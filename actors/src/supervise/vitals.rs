//! What is known of a child beside its mailbox: readable when it is stuck, which is when it matters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use actix::prelude::*;
use parking_lot::Mutex;
use serde::Serialize;

use super::RestartPolicy;

/// Where a child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// It lives.
    Alive,
    /// It failed and waits for its next start.
    Waiting,
    /// It failed too often.
    GivenUp,
    /// It ended on purpose.
    Ended,
}

#[derive(Debug)]
struct Inner {
    state: ChildState,
    last_failure: Option<String>,
}

/// A child's vital signs over all its lives. Written by its parent and itself, read by anyone.
#[derive(Debug)]
pub struct Vitals {
    progress: AtomicU64,
    incarnation: AtomicU64,
    restarts: AtomicU64,
    inner: Mutex<Inner>,
}

/// A copy of a child's vital signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VitalsReport {
    /// Where it stands.
    pub state: ChildState,
    /// The number of its present or last life.
    pub incarnation: u64,
    /// How often it was started again after a failure.
    pub restarts: u64,
    /// What ended its last failed life: a panic's text, or why it was aborted.
    pub last_failure: Option<String>,
}

impl Default for Vitals {
    fn default() -> Self {
        let inner = Inner { state: ChildState::Waiting, last_failure: None };
        Self {
            progress: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }
}

impl Vitals {
    /// A copy of all of it.
    pub fn report(&self) -> VitalsReport {
        let inner = self.inner.lock();
        VitalsReport {
            state: inner.state,
            incarnation: self.incarnation.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            last_failure: inner.last_failure.clone(),
        }
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    pub(super) fn born(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Relaxed);
        self.inner.lock().state = ChildState::Alive;
    }

    pub(super) fn failed(&self, why: String) {
        self.inner.lock().last_failure = Some(why);
    }

    pub(super) fn waits(&self) {
        self.restarts.fetch_add(1, Relaxed);
        self.inner.lock().state = ChildState::Waiting;
    }

    pub(super) fn over(&self, state: ChildState) {
        self.inner.lock().state = state;
    }
}

/// What a child is told of its own life.
#[derive(Debug, Clone)]
pub struct Life {
    /// The number of this life; the first is 1.
    pub incarnation: u64,
    vitals: Arc<Vitals>,
    pulse_interval: std::time::Duration,
}

impl Life {
    pub(super) fn new(incarnation: u64, vitals: Arc<Vitals>, policy: &RestartPolicy) -> Self {
        Self { incarnation, vitals, pulse_interval: policy.stall_max / 4 }
    }

    /// Says that the child got something done.
    pub fn progress(&self) {
        self.vitals.progress.fetch_add(1, Relaxed);
    }

    /// Shows progress at an interval for as long as the child's context is polled and not shut by a wait that never
    /// ends. Call it in `started`.
    pub fn pulse<A: Actor<Context = Context<A>>>(&self, ctx: &mut Context<A>) {
        let life = self.clone();
        ctx.run_interval(self.pulse_interval, move |_, _| life.progress());
    }
}
