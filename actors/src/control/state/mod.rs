//! The configuration server's durable state: small records under text keys, committed in groups.
//!
//! Invariants: a commit is atomic and durable when it is acknowledged; a store that failed once acknowledges nothing
//! more (whoever holds it starts again from what is durable); values stay at or below 4 KiB, because sled keeps larger
//! nodes in files that it never syncs. Bulk data never goes in here.
//!
//! Crash story: after kill -9 or a power cut every acknowledged commit is there whole, the last unacknowledged one whole
//! or not at all. A directory that cannot be read is moved aside and rebuilt from the newest export that verifies; what
//! was committed after that export is lost, which [`Opened::Restored`] says. Ownership stays safe: the vault's fences
//! know the epochs that the state forgot.

pub mod export;
mod group;
pub mod memory;
pub mod sled;

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;

/// Longest value in bytes: a sled leaf holds up to 16 items and must stay far below 128 KiB (measured: 12 KiB values lost
/// acknowledged data in power cuts, 3.8 KiB ones never).
pub const VALUE_BYTES_MAX: usize = 4096;
/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// Everything that is kept, in order of keys.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// One record's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The record has this value.
    Put(String, Vec<u8>),
    /// The record is gone.
    Delete(String),
}

impl Change {
    /// Which record it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// Sets a record.
    pub fn put(&mut self, key: impl Into<String>, value: Vec<u8>) -> &mut Self {
        self.changes.push(Change::Put(key.into(), value));
        self
    }

    /// Removes a record.
    pub fn delete(&mut self, key: impl Into<String>) -> &mut Self {
        self.changes.push(Change::Delete(key.into()));
        self
    }

    /// The changes, in order; of two to one record the later counts.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Refuses what the store must not hold.
    pub fn check(&self) -> Result<(), StateError> {
        for change in &self.changes {
            let (key, bytes) = match change {
                Change::Put(key, value) => (key, value.len()),
                Change::Delete(key) => (key, 0),
            };
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(StateError::KeyLength { key: key.clone() });
            }
            if bytes > VALUE_BYTES_MAX {
                return Err(StateError::ValueTooLong { key: key.clone(), bytes });
            }
        }
        Ok(())
    }

    /// Does the same to a copy in memory.
    pub fn apply(&self, contents: &mut Contents) {
        for change in &self.changes {
            match change {
                Change::Put(key, value) => {
                    contents.insert(key.clone(), value.clone());
                }
                Change::Delete(key) => {
                    contents.remove(key);
                }
            }
        }
    }
}

/// Why the state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A record is larger than sled keeps safely.
    #[error("record '{key}' has {bytes} bytes: at most {VALUE_BYTES_MAX} are kept; split it into several records")]
    ValueTooLong {
        /// Its key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// A key is empty or too long.
    #[error("key '{key}' must have 1 to {KEY_BYTES_MAX} bytes")]
    KeyLength {
        /// The key.
        key: String,
    },
    /// Another process has the directory open.
    #[error("state directory {dir} is in use by another process: stop that one, or choose another directory")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory is damaged and no export can replace it.
    #[error(
        "state in {dir} cannot be read ({cause}) and no export in {dir}/exports verifies: restore the directory from a \
         backup, or move it away to begin with empty state (replicas in the vault are not touched)"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was wrong.
        cause: String,
    },
    /// A file operation failed.
    #[error("{doing}: {cause}")]
    Io {
        /// Verb and thing.
        doing: String,
        /// What the system said.
        cause: String,
    },
    /// A commit failed before; nothing more is taken until the store is opened again.
    #[error("the state store failed and takes nothing more: {0}; restart once the cause is gone")]
    Failed(String),
}

/// How a store was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was none: it is empty.
    Fresh,
    /// It was there.
    Existing,
    /// It was damaged: it holds what the export held.
    Restored {
        /// The export.
        export: PathBuf,
        /// Where the damaged files are.
        moved_to: PathBuf,
        /// What was wrong with them.
        cause: String,
    },
}

/// Where the configuration server keeps what it must not forget.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Everything, as of the last acknowledged commit.
    async fn load(&self) -> Result<Contents, StateError>;

    /// Commits a batch. On return it is durable; after an error other than a refusal of the batch itself the store is of
    /// no more use.
    async fn commit(&self, batch: Batch) -> Result<(), StateError>;

    /// Writes an export now.
    async fn export(&self) -> Result<(), StateError>;

    /// Writes an export and lets go of the files.
    async fn close(&self) -> Result<(), StateError>;
}

#[cfg(test)]
mod tests;
