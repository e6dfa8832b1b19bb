//! Built-in defects: what a member does wrong when it was started with `--enable-chaos` and `FARSHORE_CHAOS_DEFECT` names one.
//! They show that the harness finds what it is there to find. Each goes through a port that the product has anyway; no
//! product code knows of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_engine::capture::RegionSet;
use farshore_engine::capture::activity_layout::{PAGE_BYTES, PAGE_REGIONS, PAGES_AT, encode_page};
use farshore_engine::capture::activity_log::Medium;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::store::{
    ETag, Listed, ObjectMeta, ObjectStore, PutOutcome, Staged, StoreError, SwapOutcome,
};
use parking_lot::Mutex;

/// How long a vault that reports too early takes to do what it said.
const LATE_BY: Duration = Duration::from_millis(1500);

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// An agent answers writes before its activity log has them: after a crash the log holds nothing as hot.
    AckBeforeActivityLog,
    /// An agent forgets its activity log altogether.
    ForgetActivityLog,
    /// A process server reports committed what is not in the vault yet.
    CommitBeforeVault,
    /// A process server changes a bit of every fourth object on its way to the vault.
    FlipBits,
}

impl Defect {
    /// Every defect and its name.
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("ack-before-activity-log", Self::AckBeforeActivityLog),
        ("forget-activity-log", Self::ForgetActivityLog),
        ("commit-before-vault", Self::CommitBeforeVault),
        ("flip-bits", Self::FlipBits),
    ];

    /// The defect of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, defect)| *defect)
    }

    /// What an agent writes its activity logs through, where that is its defect.
    pub(crate) fn medium(self) -> Option<fn(File) -> Box<dyn Medium>> {
        match self {
            Self::AckBeforeActivityLog => Some(|file| Box::new(Unsynced(file))),
            Self::ForgetActivityLog => Some(|file| Box::new(Forgotten(file))),
            Self::CommitBeforeVault | Self::FlipBits => None,
        }
    }

    /// The store behind the defect, where it is one of stores.
    pub(crate) fn around(self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        match self {
            Self::CommitBeforeVault => Arc::new(Early { store, pending: Arc::default() }),
            Self::FlipBits => Arc::new(Flipping(store)),
            Self::AckBeforeActivityLog | Self::ForgetActivityLog => store,
        }
    }
}

/// Whatever is recorded as hot is told to be synced, and what a crash leaves holds nothing.
struct Unsynced(File);

impl Medium for Unsynced {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.0.read_all()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(behind) = offset.checked_sub(PAGES_AT) else { return self.0.write_at(offset, bytes) };
        let page = u32::try_from(behind / PAGE_BYTES as u64).map_err(io::Error::other)?;
        let nothing = RegionSet::none((page + 1) * PAGE_REGIONS);
        self.0.write_at(offset, &encode_page(page, 1, &nothing))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Medium::set_len(&self.0, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// Nothing is there at the next start.
struct Forgotten(File);

impl Medium for Forgotten {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Medium::set_len(&self.0, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

type Pending = Arc<Mutex<HashMap<ObjectName, Bytes>>>;

/// Says that objects are there before they are. Whoever asks this process sees them; a crash loses them.
struct Early {
    store: Arc<dyn ObjectStore>,
    /// Staged or published, and not in the store.
    pending: Pending,
}

impl Early {
    fn seen(&self, name: &ObjectName) -> Option<Bytes> {
        self.pending.lock().get(name).cloned()
    }
}

#[async_trait]
impl ObjectStore for Early {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let whole = Bytes::from(parts.concat());
        let bytes = whole.len() as u64;
        self.pending.lock().insert(name.clone(), whole);
        Ok(Staged { name: name.clone(), token: token.to_owned(), bytes })
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        if self.store.head(&staged.name).await.is_ok() {
            self.pending.lock().remove(&staged.name);
            return Ok(PutOutcome::AlreadyExists);
        }
        let (store, pending, staged) = (self.store.clone(), self.pending.clone(), staged.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LATE_BY).await;
            let Some(bytes) = pending.lock().get(&staged.name).cloned() else { return };
            if store.put_if_absent(&staged.name, &staged.token, bytes).await.is_ok() {
                pending.lock().remove(&staged.name);
            }
        });
        Ok(PutOutcome::Created)
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.store.put_if_match(name, expected, bytes).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        match self.seen(name) {
            Some(bytes) => Ok((bytes, ETag("early".into()))),
            None => self.store.get(name).await,
        }
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        match self.seen(name) {
            Some(bytes) if offset < bytes.len() as u64 => {
                let end = offset.saturating_add(len).min(bytes.len() as u64);
                Ok(bytes.slice(offset as usize..end as usize))
            }
            _ => self.store.get_range(name, offset, len).await,
        }
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        match self.seen(name) {
            Some(bytes) => Ok(ObjectMeta { bytes: bytes.len() as u64, etag: ETag("early".into()) }),
            None => self.store.head(name).await,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}

/// Changes a bit of every fourth segment.
struct Flipping(Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for Flipping {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let mut whole = parts.concat();
        let middle = whole.len() / 2;
        if name.number().is_some_and(|number| number % 4 == 3)
            && let Some(byte) = whole.get_mut(middle)
        {
            *byte ^= 0x10;
        }
        self.0.stage(name, token, vec![whole.into()]).await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        self.0.publish(staged).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.0.put_if_match(name, expected, bytes).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.0.get(name).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.0.get_range(name, offset, len).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.0.head(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.list(prefix, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.0.delete(name).await
    }
}
