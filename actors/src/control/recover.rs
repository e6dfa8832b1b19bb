//! Bringing a configuration server back from the vault and its key, on any address.
//!
//! ```text
//!   catalog/<n> (the newest that opens) ─► <state dir>.recovering/ { state/, authority.pem, authority.key }
//!                                                │ all of it synced
//!                                                └─► renamed to <state dir>: there whole, or not at all
//! ```
//!
//! Members keep their certificates, for the authority is the same one. What was decided after the snapshot is lost; the
//! vault's fences know the epochs that the state forgot.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_engine::control::messages::Severity;
use farshore_engine::ids::Timestamp;
use farshore_engine::transport::CertificateAuthority;
use farshore_engine::transport::identity::IdentityError;
use farshore_engine::vault::catalog::Catalog;
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::open_vault::OpenVault;
use slog::{Logger, warn};

use super::ledger::records::Subject;
use super::ledger::{BadRecord, Decision as _, Draft, Ledger, RaiseEvents};
use super::secret_file::{self, SecretFileError};
use super::state::sled::{SledOptions, SledStore};
use super::state::{Batch, Contents, StateError, StateStore as _};
use crate::supervise::{OsChance, wall_clock};

/// Records that are written at once.
const BATCH_RECORDS: usize = 200;

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The snapshot's generation.
    pub generation: u64,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Machines in it, removed ones not counted.
    pub machines: usize,
    /// Process servers in it, removed ones not counted.
    pub process_servers: usize,
    /// Newer snapshots that could not be read.
    pub damaged: Vec<String>,
    /// Machines that the vault has and the snapshot does not.
    pub unknown_machines: Vec<String>,
}

/// Why nothing was brought back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Something is there.
    #[error(
        "{dir} is there already: a configuration server is brought back only where none is. If what is there is of no use, \
         move it away, then recover again"
    )]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// No snapshot can be read.
    #[error(
        "the vault holds no readable snapshot of the configuration server's state ({damaged} damaged): restore points with \
         `farshore vault restore`, or begin a new installation with `farshore up` and enrol the machines again"
    )]
    NoSnapshot {
        /// How many are there that cannot be read.
        damaged: usize,
    },
    /// The vault does not answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record that this version does not understand.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// The authority.
    #[error("the snapshot's certificate authority: {0}")]
    Authority(#[from] IdentityError),
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// A secret file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A directory.
    #[error("{doing} {path}: {cause}")]
    Io {
        /// Verb.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Makes the state directory of a configuration server out of the vault's newest snapshot.
pub async fn recover(vault: &OpenVault, state_dir: &Path, log: &Logger) -> Result<Recovered, RecoverError> {
    if state_dir.exists() {
        return Err(RecoverError::Occupied { dir: state_dir.to_owned() });
    }
    let (found, damaged) = vault.catalog().await?;
    for bad in &damaged {
        warn!(log, "a snapshot cannot be read"; "object" => %bad.object, "damage" => %bad.damage);
    }
    let (generation, catalog) = found.ok_or(RecoverError::NoSnapshot { damaged: damaged.len() })?;
    CertificateAuthority::from_pem(&catalog.authority_pem, &catalog.authority_key_pem)?;
    let contents: Contents =
        catalog.records.iter().map(|(key, text)| (key.clone(), text.clone().into_bytes())).collect();
    let ledger = Ledger::load(&contents)?;
    let unknown = unknown_machines(vault, &ledger).await?;
    let aside = aside_of(state_dir);
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |cause| RecoverError::Io { doing, path, cause }
    };
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(io("remove the leftover of an earlier try", &aside))?;
    }
    secret_file::make_directory(&aside)?;
    write_state(&aside, contents, &ledger, &catalog, generation, &unknown).await?;
    secret_file::write(&aside.join("authority.pem"), catalog.authority_pem.as_bytes())?;
    secret_file::write(&aside.join("authority.key"), catalog.authority_key_pem.as_bytes())?;
    fs::rename(&aside, state_dir).map_err(io("put in place", state_dir))?;
    if let Some(parent) = state_dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io("sync", parent))?;
    }
    Ok(Recovered {
        generation,
        created_at: catalog.created_at,
        machines: ledger.machines.iter().filter(|machine| !machine.removed).count(),
        process_servers: ledger.process_servers.iter().filter(|server| !server.removed).count(),
        damaged: damaged.iter().map(|bad| bad.object.to_string()).collect(),
        unknown_machines: unknown,
    })
}

fn aside_of(state_dir: &Path) -> PathBuf {
    let mut name = state_dir.as_os_str().to_owned();
    name.push(".recovering");
    name.into()
}

/// Machines that joined after the snapshot.
async fn unknown_machines(vault: &OpenVault, ledger: &Ledger) -> Result<Vec<String>, ReadError> {
    let machines = vault.machines().await?;
    let unknown = machines.into_iter().filter(|entry| ledger.machines.get(&entry.machine).is_none());
    Ok(unknown.map(|entry| entry.about.map_or_else(|| entry.machine.to_string(), |about| about.name)).collect())
}

async fn write_state(
    dir: &Path,
    contents: Contents,
    ledger: &Ledger,
    catalog: &Catalog,
    generation: u64,
    unknown: &[String],
) -> Result<(), RecoverError> {
    let options = SledOptions { export_every: Duration::from_secs(3600) };
    let (store, _) = SledStore::open(&dir.join("state"), &options)?;
    let mut batch = Batch::default();
    for (key, value) in contents {
        batch.put(key, value);
        if batch.changes().len() >= BATCH_RECORDS {
            store.commit(std::mem::take(&mut batch)).await?;
        }
    }
    store.commit(batch).await?;
    let mut chance = OsChance;
    let mut draft = Draft::new(ledger, wall_clock(), &mut chance);
    let told = RaiseEvents(vec![told(catalog, generation, unknown)]);
    told.decide(&mut draft).expect("raising an event refuses nothing");
    store.commit(draft.finish()).await?;
    Ok(store.close().await?)
}

/// The event that says what happened, and what the operator has to do.
fn told(catalog: &Catalog, generation: u64, unknown: &[String]) -> (Severity, String, Subject, String) {
    let mut text = format!(
        "The configuration server was brought back from snapshot {generation} of the vault, taken at {} µs since 1970. \
         What was decided after that is lost. Members that do not find the new address are started once with --server.",
        catalog.created_at.0
    );
    if !unknown.is_empty() {
        text += &format!(
            " The vault has machines that joined later ({}): enrol them again; their points stay readable with `farshore \
             vault`.",
            unknown.join(", ")
        );
    }
    (Severity::Critical, "state_recovered".to_owned(), Subject::Installation, text)
}
