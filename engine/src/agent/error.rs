//! Why an agent does not start.

use std::path::PathBuf;

use super::papers::PapersError;
use crate::nbd::{BackingError, BindError};

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// What it was started with makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file of its state cannot be used.
    #[error("{doing} {path}: {cause}")]
    State {
        /// Verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A server lives here.
    #[error(
        "{path} is the state directory of a configuration or process server ({found} lies in it): give the agent a \
         directory of its own"
    )]
    ForeignState {
        /// The directory.
        path: PathBuf,
        /// What says so.
        found: &'static str,
    },
    /// Another agent lives here.
    #[error("another agent uses the state directory {path}: stop it, or give this one a directory of its own")]
    SecondAgent {
        /// The directory.
        path: PathBuf,
    },
    /// The state would lie on a disk that it is about.
    #[error(
        "the state directory {path} lies on disk '{disk}', which is to be captured: its own writes would have to be \
         recorded before they are made; put it on storage that is not captured"
    )]
    StateOnCapturedDisk {
        /// The directory.
        path: PathBuf,
        /// The disk.
        disk: String,
    },
    /// A disk cannot be opened.
    #[error("disk '{disk}': {cause}")]
    Disk {
        /// Its name.
        disk: String,
        /// Why.
        cause: BackingError,
    },
    /// An export cannot listen.
    #[error("export of disk '{disk}': {cause}")]
    Export {
        /// Its name.
        disk: String,
        /// Why.
        cause: BindError,
    },
    /// The machine has no usable papers.
    #[error(transparent)]
    Papers(#[from] PapersError),
}
