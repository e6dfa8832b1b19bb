//! The seeded simulator: the pure cores wired together on one thread, in virtual time, with every fault drawn from one
//! seed. The same seed gives the same run, to the last byte.
//!
//! ```text
//!   agent (AgentEnd) ◄─links that break─► process servers (ServerEnd, Sequencer, Committer, cache on a ModelDisk)
//!      ▲                                       │ publish: lost answers, late effects, outages
//!      │ writes, restarts                      ▼
//!    script                               the vault's log (real sealed bytes)
//!
//!   mishaps: links break, processes are killed, the power goes, disks tear, fill and fail, owners change
//! ```
//!
//! [`run::run`] plays one seed and says what it found broken. While it runs, every filled slot is checked (order, chain,
//! I4), and every acknowledgement against what is really there; at the end the mishaps stop, everything must get
//! through, and the whole log is opened and compared with what the agent wrote (I2, I3).
//!
//! [`mutation`] names defects that the shell around the cores can be given; each must be found.

pub mod chance;
pub mod maker;
pub mod mutation;
pub mod run;

mod agent;
mod check;
mod context;
mod log;
mod mishaps;
mod process;
mod session;
mod uploads;
mod world;
