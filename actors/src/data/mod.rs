//! The process server: receives, caches, seals and uploads the writes of its machines.
//!
//! ```text
//!   DataPlane (handle) ─► Root ─► ProcessServer: listener, cache guard, served points
//!                                  └ Machine *: the log's sequencer, the cache directory, acknowledgements
//!                                     ├ AgentSession *: one per connection
//!                                     ├ Disk *: seals one disk's frames
//!                                     ├ UploadStream: fills the log's slots
//!                                     ├ Compactor: merges, and deletes what retention lets go
//!                                     └ Scrubber: reads the log again, and puts back what is damaged
//! ```
//!
//! Everything that must outlive an actor is durable (cache, vault) or shared by value beside it (`ledger`: which
//! machines are assigned, their keys, their boards). So any of them may die at any moment: its parent makes it anew.
//!
//! A machine's actors share one arbiter. Bytes of batches are bounded by credit that is taken at the socket and given
//! back when the batch is durable; segments on their way to the vault by a credit of their own. Sealing runs in one
//! pool, file calls in another.

mod agent_session;
mod back_room;
mod board;
mod cached_copies;
mod compactor;
mod compare;
mod config;
mod disk;
mod error;
mod events;
mod lease;
mod ledger;
mod machine;
mod messages;
mod plane;
mod process_server;
mod report;
mod scrubber;
mod upload;
mod wiring;

pub use compactor::MergingLimits;
pub use config::{DataConfig, DataLimits};
pub use error::DataError;
pub use events::{DataEvent, DataEventKind, EventSink};
pub use plane::DataPlane;
pub use report::{
    ActorReport, CacheState, DiskCounts, HealthIssue, IssueCode, MachinePhase, MachineStatus, ProcessServerReport,
    SessionStatus, UploadCounts,
};
pub use scrubber::ScrubbingLimits;
