//! The process server's cache: segment files that hold exactly the bytes that will be uploaded.
//!
//! [`dir`] keeps whose they are, [`mod@file`] writes one and reads it back, [`recover`] takes stock after a restart,
//! [`limits`] decides what happens when room runs short. All of it goes through the port in [`io`].

pub mod dir;
pub mod file;
pub mod io;
pub mod limits;
#[cfg(any(test, feature = "testing"))]
pub mod model;
pub mod note;
pub mod owner;
pub mod recover;

use std::path::{Path, PathBuf};

use crate::log::Owner;

/// A cache operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The cache disk failed, or is full.
    #[error("{doing} {}: {cause}", path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A write to this segment's file failed before; nothing more is written to it.
    #[error("append to {}: an earlier write to it failed, so it was abandoned; what follows goes to a new file", path.display())]
    Abandoned {
        /// The file.
        path: PathBuf,
    },
    /// The owner file is damaged.
    #[error("read {}: it is damaged; this process server needs a new epoch for the machine", path.display())]
    OwnerDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A newer owner has the directory.
    #[error("claim {} for {wanted}: {current} has it; ask for a newer epoch", path.display())]
    OwnedByOther {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        current: Owner,
        /// Who asked.
        wanted: Owner,
    },
    /// The cache that this owner had is gone.
    #[error("continue as {me}: its cache directory is lost (found: {}); ask for a new epoch", describe(found.as_ref()))]
    CacheLost {
        /// The owner that would go on.
        me: Owner,
        /// What the directory says instead.
        found: Option<Owner>,
    },
    /// A segment file does not read as it was written.
    #[error("read {}: {problem}; it is discarded and its batches are asked for again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl CacheError {
    /// Whether the disk is full: nothing is lost, and it passes when room is made.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk { cause, .. } if matches!(cause.kind(), StorageFull | QuotaExceeded))
    }
}

fn describe(owner: Option<&Owner>) -> String {
    owner.map_or_else(|| "nothing".into(), ToString::to_string)
}

trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, CacheError>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, CacheError> {
        self.map_err(|cause| CacheError::Disk { doing, path: path.to_owned(), cause })
    }
}

#[cfg(test)]
mod tests;
