//! State that ends with the process: for tests and simulations. It can be told to fail.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Batch, Contents, StateError, StateStore};

/// A store in memory. Clones of the `Arc` it lies in share it, so that a restart finds what was committed.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    contents: Contents,
    commits: u64,
    failed: Option<String>,
}

impl MemoryStore {
    /// How many commits there were.
    pub fn commits(&self) -> u64 {
        self.inner.lock().commits
    }

    /// Every later commit fails, until [`MemoryStore::heal`].
    pub fn fail(&self, why: &str) {
        self.inner.lock().failed = Some(why.into());
    }

    /// Commits succeed again, as after opening anew.
    pub fn heal(&self) {
        self.inner.lock().failed = None;
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    async fn load(&self) -> Result<Contents, StateError> {
        Ok(self.inner.lock().contents.clone())
    }

    async fn commit(&self, batch: Batch) -> Result<(), StateError> {
        batch.check()?;
        let mut inner = self.inner.lock();
        if let Some(why) = &inner.failed {
            return Err(StateError::Failed(why.clone()));
        }
        batch.apply(&mut inner.contents);
        inner.commits += 1;
        Ok(())
    }

    async fn export(&self) -> Result<(), StateError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), StateError> {
        Ok(())
    }
}
