//! The seeded simulator: the pure cores wired together on one thread, in virtual time, with every fault drawn from one
//! seed. The same seed gives the same run, to the last byte.
//!
//! ```text
//!   2 machines                                  3 process servers, a seat for each machine
//!   application ─► Splitter, ActivityLog,  ◄─links─►  ServerEnd, Sequencer, Committer,
//!      disks       scan, AgentEnd, AgentState         cache on a ModelDisk
//!                  (life, writes, talk)               (process, session, uploads)
//!                                                        │ publish
//!                                                        ▼
//!   replay: each filled slot opened and judged ◄──  the log of each machine (real sealed bytes)  ◄── readers
//! ```
//!
//! [`schedule`] draws what goes wrong before the run begins: [`run::run`] plays a seed with all of it or a part, and
//! [`run::minimised`] cuts a failing schedule down to what it needs. [`counters`] says what a campaign has been through.
//!
//! After every step: what was reported committed is in the log (I3), what may differ after a crash is hot and rescans are
//! bounded (I5), buffers are within their bounds (I10). Whenever a slot is filled: order, chain and fences (I4), and each
//! mark in it shows what the disks could have held then, or lies in a gap (I2, I6). At the end the faults stop, everything
//! must get through, every replica must be its disk, and the readers must show the points that the log has.
//!
//! [`mutation`] names defects that the shell around the cores can be given; each must be found. The shells here are the
//! simulator's own: threads, sockets and files are what the real ones add.

pub mod chance;
pub mod counters;
pub mod maker;
pub mod mutation;
pub mod run;
pub mod schedule;

mod check;
mod context;
mod handover;
mod life;
mod links;
mod log;
mod machine;
mod medium;
mod mishaps;
mod process;
mod replay;
mod session;
mod source;
mod talk;
mod uploads;
mod world;
mod writes;
