//! The chaos harness: a whole installation of real processes of this very binary on loopback, under load, broken on
//! purpose, and judged.
//!
//! ```text
//!   Scenario (TOML) ─┬─► Schedule: a pure function of scenario, seed and duration; printed
//!               seed ┘        │
//!                             ▼
//!   workload ─NBD─► agents ══ proxies ══► process servers ══ proxy ══► configuration server
//!      │                  (latency, rate, reset, held, one way)
//!      ▼                                                                     kill, stop, storm, skew, panics,
//!   journal ─────────────► Judge ◄── recovery points, vault, logs, health    vault and cache faults
//!                            │
//!                            ▼
//!                        Report: text, JSON, JUnit
//! ```
//!
//! Owns: the processes, which end with it (Ctrl-C included), and a directory, which is kept where a check failed.
//! Invariant: what happens when is decided before the first process starts; only how long the system takes is not.

pub(crate) mod child;
pub(crate) mod damage;
pub(crate) mod defects;
pub(crate) mod fault;
pub(crate) mod injure;
pub(crate) mod inside;
pub(crate) mod judge;
pub(crate) mod netns;
pub(crate) mod proxy;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod scenario;
pub(crate) mod schedule;
pub(crate) mod shape;
pub(crate) mod site;
pub(crate) mod synthetic;
