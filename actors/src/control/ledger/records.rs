//! What the configuration server remembers, record by record. Each is JSON of at most 4 KiB under `<table>/<key>`.
//!
//! ```text
//!   installation/-                who we are, which vault is ours
//!   counters/-                    numbers that are never given twice
//!   machine/<id>                  disk/<machine>-<no>            assignment/<machine>
//!   process-server/<id>           join-token/<id>                api-token/<id>
//!   job/<n>                       event/<n>                      served/<n>        export/<served>-<no>
//!   audit/<n>                     webhook/<n>                    delivery/<webhook>-<n>            told/<subject>
//! ```
//!
//! Fields may be added with `#[serde(default)]`; none changes its meaning.

use farshore_engine::control::messages::{Export, MemberRole, PointInfo, PointSelector, Severity};
use farshore_engine::ids::{DiskNo, Epoch, MachineId, ProcessServerId, TimelineId, Timestamp, VaultId, WriterId};
use farshore_engine::record::DiskInfo;
use farshore_engine::vault::export::Format;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A row of a table.
pub trait Record: Serialize + DeserializeOwned + Clone {
    /// What tells rows apart.
    type Key;
    /// The table's name.
    const TABLE: &'static str;

    /// The key as text: fixed width, so that rows lie in the order of their keys.
    fn key_text(key: &Self::Key) -> String;

    /// This row's key.
    fn key(&self) -> Self::Key;
}

macro_rules! record {
    ($name:ident, $table:literal, $key:ty, $self:ident => $own:expr, $text:ident => $format:expr) => {
        impl Record for $name {
            type Key = $key;
            const TABLE: &'static str = $table;

            fn key_text($text: &Self::Key) -> String {
                $format
            }

            fn key(&self) -> Self::Key {
                let $self = self;
                $own
            }
        }
    };
}

pub(super) use record;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(super) use number;

number! {
    /// One job.
    JobId
}
number! {
    /// One event; events are listed by it.
    EventId
}
number! {
    /// One served point.
    ServeId
}
number! {
    /// One entry of the audit log.
    AuditId
}
number! {
    /// The public part of a token.
    TokenId
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The vault that is ours.
    pub vault: VaultId,
    /// When the first start was.
    pub created_at: Timestamp,
    /// Version of these records.
    pub schema: u16,
}
record!(Installation, "installation", (), _this => (), _key => "-".into());

/// Numbers that are never given twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The last job.
    pub job: u64,
    /// The last event.
    pub event: u64,
    /// The last served point.
    pub served: u64,
    /// The last entry of the audit log.
    #[serde(default)]
    pub audit: u64,
    /// The last webhook.
    #[serde(default)]
    pub webhook: u64,
    /// The last delivery to a webhook.
    #[serde(default)]
    pub delivery: u64,
}
record!(Counters, "counters", (), _this => (), _key => "-".into());

/// What is wanted of a machine's protection; what is not said is the installation's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePolicy {
    /// RPO in seconds from which it is in warning.
    #[serde(default)]
    pub rpo_warning_seconds: Option<u64>,
    /// RPO in seconds from which it is critical.
    #[serde(default)]
    pub rpo_critical_seconds: Option<u64>,
    /// Time between marks under load, in milliseconds.
    #[serde(default)]
    pub mark_interval_ms: Option<u64>,
    /// With what its frames are packed.
    #[serde(default)]
    pub packing: Option<Packing>,
    /// Which of its points stay.
    #[serde(default)]
    pub retention: Option<Ladder>,
}

/// A protected machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its id, drawn here at enrolment: two machines never have the same.
    pub id: MachineId,
    /// Its label. Labels may repeat.
    pub name: String,
    /// Its present timeline.
    pub timeline: TimelineId,
    /// When it joined.
    pub enrolled_at: Timestamp,
    /// The token that it joined with.
    pub token: TokenId,
    /// SHA-256 of the public key that was certified, hex: the same key asking again gets the same identity.
    pub key_sha256: String,
    /// No longer protected; its replica stays in the vault.
    #[serde(default)]
    pub removed: bool,
    /// Its replica was deleted after it was removed.
    #[serde(default)]
    pub points_deleted: bool,
    /// Its protection is paused.
    #[serde(default)]
    pub paused: bool,
    /// What is wanted of its protection.
    #[serde(default)]
    pub policy: MachinePolicy,
    /// How often an operator has had its disks read again.
    #[serde(default)]
    pub resyncs: u64,
    /// Counts the edits of this record by callers of the API.
    #[serde(default)]
    pub revision: u64,
}
record!(Machine, "machine", MachineId, this => this.id, key => key.to_string());

/// A disk of a machine, as its agent last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// The machine.
    pub machine: MachineId,
    /// The disk.
    pub info: DiskInfo,
}
record!(MachineDisk, "disk", (MachineId, DiskNo), this => (this.machine, this.info.disk),
    key => format!("{}-{:05}", key.0, key.1.0));

/// A process server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessServer {
    /// Its id, drawn here at enrolment.
    pub id: ProcessServerId,
    /// Its label.
    pub name: String,
    /// Where agents reach it.
    pub addresses: Vec<String>,
    /// When it joined.
    pub enrolled_at: Timestamp,
    /// The token that it joined with.
    pub token: TokenId,
    /// SHA-256 of the public key that was certified, hex.
    pub key_sha256: String,
    /// No longer one of ours.
    #[serde(default)]
    pub removed: bool,
}
record!(ProcessServer, "process-server", ProcessServerId, this => this.id, key => key.to_string());

/// How far an assignment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssignmentStage {
    /// Persisted; the owner is being told, or reads the log's tail. Agents hear nothing of it yet.
    Adopting,
    /// The owner's fence is in the log.
    Active,
}

/// The ownership of a machine's log. Its epoch is the highest ever given; the record outlives removals for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// The machine.
    pub machine: MachineId,
    /// The owner.
    pub process_server: ProcessServerId,
    /// The ownership number.
    pub epoch: Epoch,
    /// The owner's identity within it.
    pub writer: WriterId,
    /// How far it is.
    pub stage: AssignmentStage,
    /// When it was made.
    pub since: Timestamp,
}
record!(AssignmentRecord, "assignment", MachineId, this => this.machine, key => key.to_string());

/// A token that lets somebody join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its public part.
    pub id: TokenId,
    /// SHA-256 of its secret part, hex.
    pub sha256: String,
    /// Who may join with it.
    pub role: MemberRole,
    /// What the operator calls it; may be empty.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How often it may be used.
    pub uses_max: u32,
    /// How often it was.
    pub uses: u32,
}
record!(JoinToken, "join-token", TokenId, this => this.id, key => format!("{:016x}", key.0));

/// What an API token allows. Each role may do what the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiRole {
    /// May look.
    Viewer,
    /// May act on machines.
    Operator,
    /// May change who may act.
    Admin,
}

/// A bearer token of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Its public part.
    pub id: TokenId,
    /// SHA-256 of its secret part, hex.
    pub sha256: String,
    /// What it allows.
    pub role: ApiRole,
    /// Whose it is.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if ever.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}
record!(ApiToken, "api-token", TokenId, this => this.id, key => format!("{:016x}", key.0));

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobKind {
    /// Finds an owner for a machine.
    Protect {
        /// The machine.
        machine: MachineId,
    },
    /// Gives a machine another owner.
    Move {
        /// The machine.
        machine: MachineId,
        /// The owner before.
        source: ProcessServerId,
        /// The owner after.
        target: ProcessServerId,
    },
    /// Serves a point.
    Serve {
        /// The machine.
        machine: MachineId,
        /// What it is known by.
        serve: ServeId,
    },
    /// Stops serving a point.
    StopServing {
        /// The machine.
        machine: MachineId,
        /// What is served.
        serve: ServeId,
    },
    /// Writes a point's disks to raw images at a process server.
    Restore {
        /// The machine.
        machine: MachineId,
        /// Where.
        process_server: ProcessServerId,
        /// Which point.
        selector: PointSelector,
        /// Which disks; empty: all that the point covers.
        disks: Vec<DiskNo>,
        /// As what.
        #[serde(default)]
        format: Format,
    },
    /// Deletes a removed machine's replica from the vault.
    DeletePoints {
        /// The machine.
        machine: MachineId,
    },
}

impl JobKind {
    /// The machine that the job is about.
    pub fn machine(&self) -> MachineId {
        match self {
            Self::Protect { machine }
            | Self::Move { machine, .. }
            | Self::Serve { machine, .. }
            | Self::StopServing { machine, .. }
            | Self::Restore { machine, .. }
            | Self::DeletePoints { machine } => *machine,
        }
    }

    /// The served point that the job is about, if it is about one.
    pub fn serve(&self) -> Option<ServeId> {
        match self {
            Self::Serve { serve, .. } | Self::StopServing { serve, .. } => Some(*serve),
            Self::Protect { .. } | Self::Move { .. } | Self::Restore { .. } | Self::DeletePoints { .. } => None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Protect { .. } => "protect",
            Self::Move { .. } => "move",
            Self::Serve { .. } => "serve",
            Self::StopServing { .. } => "stop_serving",
            Self::Restore { .. } => "restore",
            Self::DeletePoints { .. } => "delete_points",
        }
    }

    /// The steps that it takes when nothing comes in between.
    pub fn steps(&self) -> &'static [JobStep] {
        use JobStep::{Adopt, Assign, Carry, Prepare, Redirect, Release};
        match self {
            Self::Protect { .. } => &[Prepare, Assign, Adopt, Redirect],
            Self::Move { .. } => &[Prepare, Release, Assign, Adopt, Redirect],
            Self::DeletePoints { .. } => &[Release, Carry],
            Self::Serve { .. } | Self::StopServing { .. } | Self::Restore { .. } => &[Carry],
        }
    }

    /// Whether it changes who owns the machine: of these a machine has at most one at a time.
    pub fn changes_owner(&self) -> bool {
        matches!(self, Self::Protect { .. } | Self::Move { .. })
    }
}

/// One step of a job. The order of steps is the job's kind's; see `job`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStep {
    /// Look whether it can be done, and where.
    Prepare,
    /// The owner before uploads what it has and lets go.
    Release,
    /// The new ownership is written down.
    Assign,
    /// The new owner fences the log and learns its tail.
    Adopt,
    /// Whoever must know is told.
    Redirect,
    /// A command is carried out.
    Carry,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At its step.
    Running,
    /// Done.
    Done,
    /// It could not be done.
    Failed,
    /// Somebody called it off.
    Cancelled,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes that there are.
    pub total_bytes: u64,
}

/// A step that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// The step.
    pub step: JobStep,
    /// When.
    pub at: Timestamp,
    /// What came of it.
    pub detail: String,
}

/// Long work. Its step is persisted, and every step may be done twice: a job goes on after any crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// What it does.
    #[serde(flatten)]
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// The step it is at, or was at when it ended.
    pub step: JobStep,
    /// What it has done.
    pub done: Vec<StepDone>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last went on.
    pub updated_at: Timestamp,
    /// Why it failed, or why its step is being tried again.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// How far it is, where that can be said.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// What came of it: where images were written to.
    #[serde(default)]
    pub result: Option<String>,
}
record!(JobRecord, "job", JobId, this => this.id, key => format!("{:016x}", key.0));

/// What an event is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The installation as a whole.
    #[default]
    Installation,
    /// A machine.
    Machine(MachineId),
    /// A process server.
    ProcessServer(ProcessServerId),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number; a later event has a higher one.
    pub id: EventId,
    /// When it came here.
    pub at: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// Stable code.
    pub code: String,
    /// What it is about.
    pub subject: Subject,
    /// What happened, why, what to do.
    pub text: String,
}
record!(EventRecord, "event", EventId, this => this.id, key => format!("{:016x}", key.0));

/// A change that was asked for through the API, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number; a later one is higher.
    pub id: AuditId,
    /// When it was answered.
    pub at: Timestamp,
    /// Whose token it was.
    pub by: String,
    /// What it allows.
    pub role: ApiRole,
    /// The operation's name in the API.
    pub action: String,
    /// The request's path.
    pub target: String,
    /// Where the request came from.
    pub from: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The problem's code, where it was refused or failed.
    #[serde(default)]
    pub code: Option<String>,
}
record!(AuditRecord, "audit", AuditId, this => this.id, key => format!("{:016x}", key.0));

/// Where a served point stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServedState {
    /// Being opened.
    Starting,
    /// Its exports are there.
    Serving,
    /// Being ended.
    Stopping,
}

/// A point that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its number.
    pub id: ServeId,
    /// The machine.
    pub machine: MachineId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Who serves it.
    pub process_server: ProcessServerId,
    /// What was asked for.
    pub selector: PointSelector,
    /// Which disks were asked for; empty: all.
    pub disks: Vec<DiskNo>,
    /// Writes are refused.
    pub read_only: bool,
    /// Where it stands.
    pub state: ServedState,
    /// The point that was chosen, once it is served.
    #[serde(default)]
    pub point: Option<PointInfo>,
    /// When it was asked for.
    pub since: Timestamp,
    /// It is a test failover.
    #[serde(default)]
    pub test: bool,
}
record!(Served, "served", ServeId, this => this.id, key => format!("{:016x}", key.0));

/// An export of a served point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedExport {
    /// The served point.
    pub serve: ServeId,
    /// Where it is.
    pub export: Export,
}
record!(ServedExport, "export", (ServeId, DiskNo), this => (this.serve, this.export.disk),
    key => format!("{:016x}-{:05}", key.0.0, key.1.0));
