//! The agent's papers: who it is, who vouches for it, and its data key. Two 0600 files in the state directory.
//!
//! ```text
//!   identity.key     private key and certificate request, written before the agent asks to be enrolled
//!   identity.json    what the configuration server answered; beside it `assignment.json`: who owned the log last, and
//!                    `policy.json`: how often a mark was last wanted
//! ```
//!
//! Crash story: enrolment that was cut off is asked for again with the same key, and gets the same identity.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::capture::activity_layout::LogIdentity;
use crate::control::client;
use crate::control::link::LinkError;
use crate::control::messages::{Assignment, CONTROL_VERSION, Enrol, Enrolled, JoinSecret, MachineGrant, MemberRole};
use crate::control::tls::TlsConnect;
use crate::record::DiskInfo;
use crate::transport::identity::{Fingerprint, Identity, IdentityError, KeyRequest};
use crate::transport::tls::TlsFault;

const KEY_FILE: &str = "identity.key";
const PAPERS_FILE: &str = "identity.json";
const ASSIGNMENT_FILE: &str = "assignment.json";
const POLICY_FILE: &str = "policy.json";
/// Longest that an enrolment may take at one address.
const ENROL_WITHIN: Duration = Duration::from_secs(15);

/// Why there are no papers.
#[derive(Debug, thiserror::Error)]
pub enum PapersError {
    /// A file cannot be read or written.
    #[error("{doing} {path}: {cause}")]
    File {
        /// Verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The configuration server cannot be reached, or says no.
    #[error("enrol this machine: {0}")]
    Enrol(#[from] LinkError),
    /// The answer names no machine.
    #[error("the configuration server enrolled something else than a machine: use a join token for machines")]
    NoMachine,
    /// Keys or certificates are not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsFault),
}

/// Who the agent is.
#[derive(Debug, Clone)]
pub struct Papers {
    /// What the configuration server said.
    pub enrolled: Enrolled,
    /// Its machine.
    pub grant: MachineGrant,
    /// Its certificate and key.
    pub identity: Identity,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct KeyFile {
    key_pem: String,
    request_pem: String,
}

fn file_error(doing: &'static str, path: &Path, cause: &dyn std::fmt::Display) -> PapersError {
    PapersError::File { doing, path: path.to_owned(), cause: cause.to_string() }
}

/// Reads JSON; `None` where there is no file.
fn load<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, PapersError> {
    let text = match fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", path, &error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let remedy = "the file is damaged: restore it, or move it away and enrol this machine anew with a join token";
        file_error("understand", path, &format!("{error}; {remedy}"))
    })
}

/// Writes JSON beside the file, syncs it and moves it into place.
fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), PapersError> {
    let text = Zeroizing::new(serde_json::to_vec_pretty(value).map_err(|error| file_error("write", path, &error))?);
    let write = || {
        let aside = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|error: io::Error| file_error("write", path, &error))
}

impl Papers {
    /// Papers out of what the configuration server answered and the key it was asked with.
    pub fn new(enrolled: Enrolled, key_pem: &str) -> Result<Self, PapersError> {
        let grant = enrolled.machine.clone().ok_or(PapersError::NoMachine)?;
        let identity = Identity::from_pem(&enrolled.certificate_pem, &enrolled.ca_pem, key_pem)?;
        Ok(Self { enrolled, grant, identity })
    }

    /// The papers in a state directory, if the machine was enrolled.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, PapersError> {
        let key: Option<KeyFile> = load(&state_dir.join(KEY_FILE))?;
        let enrolled: Option<Enrolled> = load(&state_dir.join(PAPERS_FILE))?;
        match (key, enrolled) {
            (Some(key), Some(enrolled)) => Self::new(enrolled, &key.key_pem).map(Some),
            (None, Some(_)) => {
                let path = state_dir.join(KEY_FILE);
                Err(file_error("read", &path, &"the private key is gone; restore the file, or enrol this machine anew"))
            }
            (_, None) => Ok(None),
        }
    }

    /// Enrols the machine, and writes its papers down.
    pub async fn enrol(state_dir: &Path, ask: &EnrolAt, disks: Vec<DiskInfo>) -> Result<Self, PapersError> {
        let key_path = state_dir.join(KEY_FILE);
        let key: KeyFile = match load(&key_path)? {
            Some(key) => key,
            None => {
                let drawn = KeyRequest::generate()?;
                let key = KeyFile { key_pem: drawn.key_pem.to_string(), request_pem: drawn.request_pem };
                save(&key_path, &key)?;
                key
            }
        };
        let request = Enrol {
            version: CONTROL_VERSION,
            token: ask.token.clone(),
            csr_pem: key.request_pem.clone(),
            role: MemberRole::Machine,
            name: ask.name.clone(),
            disks,
            replication_addresses: Vec::new(),
            program_version: ask.version.clone(),
        };
        let connect = TlsConnect::to_enrol(ask.authority)?;
        let enrolled = client::enrol(&connect, &ask.addresses, request, ENROL_WITHIN).await?;
        let papers = Self::new(enrolled, &key.key_pem)?;
        save(&state_dir.join(PAPERS_FILE), &papers.enrolled)?;
        Ok(papers)
    }

    /// Which log the machine writes.
    pub fn log(&self) -> LogIdentity {
        LogIdentity { vault: self.enrolled.vault, machine: self.grant.machine, timeline: self.grant.timeline }
    }
}

/// Where and how to ask for enrolment.
#[derive(Debug, Clone)]
pub struct EnrolAt {
    /// The configuration server's addresses (`host:port`).
    pub addresses: Vec<String>,
    /// The fingerprint of its authority.
    pub authority: Fingerprint,
    /// The join token.
    pub token: JoinSecret,
    /// The machine's name.
    pub name: String,
    /// The program's version.
    pub version: String,
}

/// Who owned the log last, as far as this agent knows: it is tried first while the configuration server is away.
pub fn load_assignment(state_dir: &Path) -> Option<Assignment> {
    load(&state_dir.join(ASSIGNMENT_FILE)).ok().flatten()
}

/// Remembers it.
pub fn save_assignment(state_dir: &Path, assignment: &Assignment) -> Result<(), PapersError> {
    save(&state_dir.join(ASSIGNMENT_FILE), assignment)
}

/// What the configuration server last said that outlives this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// How often a mark is wanted.
    pub(super) mark_interval_ms: u64,
    /// How many of the resyncs that were asked for have begun, each recorded in the activity logs.
    #[serde(default)]
    pub(super) resyncs: u64,
}

impl Policy {
    /// What was last said; `None`: nothing yet.
    pub(super) fn load(state_dir: &Path) -> Option<Self> {
        let text = std::fs::read(state_dir.join(POLICY_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers it, where it is news.
    pub(super) fn save(&self, state_dir: &Path) -> Result<(), PapersError> {
        if Self::load(state_dir) == Some(*self) { Ok(()) } else { save(&state_dir.join(POLICY_FILE), self) }
    }

    /// As time; what no server should say is taken for the nearest that it may.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.mark_interval_ms.clamp(100, 3_600_000))
    }
}
