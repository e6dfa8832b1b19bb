//! Frames kept near: sealed, as they lie in the vault, in a folder of this host, up to a size. A point that is served from far away
//! is read from here the second time, also after a restart, and its bytes are as secret here as there.
//!
//! ```text
//!   frame ─► memory? ─► near? ─ yes ─► opens, digests hold ─► memory
//!                         │ no            └ no ─► forgotten
//!                         └─► vault ─► opens, digests hold ─► written aside, renamed ─► memory
//! ```
//!
//! Invariants: what does not open is never kept, and what is kept is opened again each time, so a file that rots, or that a
//! crash cut, is fetched again. At most `bytes_max` bytes lie here (I10); what was used least recently goes first.
//!
//! Crash story: nothing is synced. Names ending in `.part` are swept when the folder is opened. A folder belongs to one
//! process at a time: it is locked.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tokio::runtime::Handle;

use super::frame_cache::FrameId;

const LOCK: &str = "near.lock";
const PART: &str = ".part";

/// Frames in a folder.
#[derive(Debug)]
pub struct NearFrames {
    dir: PathBuf,
    bytes_max: u64,
    inner: Mutex<Inner>,
    counter: AtomicU64,
    runtime: Handle,
    _lock: File,
}

#[derive(Debug, Default)]
struct Inner {
    /// By file name: size, and when it was used last by a count of uses.
    entries: HashMap<String, (u64, u64)>,
    order: BTreeMap<u64, String>,
    clock: u64,
    held_bytes: u64,
}

impl Inner {
    fn touch(&mut self, name: &str) -> bool {
        let Some((_, used)) = self.entries.get_mut(name) else { return false };
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, name.to_owned());
        true
    }

    fn insert(&mut self, name: String, bytes: u64) {
        self.remove(&name);
        self.clock += 1;
        self.order.insert(self.clock, name.clone());
        self.entries.insert(name, (bytes, self.clock));
        self.held_bytes += bytes;
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some((bytes, used)) = self.entries.remove(name) else { return false };
        self.order.remove(&used);
        self.held_bytes -= bytes;
        true
    }
}

impl NearFrames {
    /// Opens a folder, making it where it is missing, with the frames that lie there already. `runtime` carries out what
    /// blocks.
    ///
    /// # Errors
    /// The folder cannot be made or read, or another process uses it.
    pub fn open(dir: &Path, bytes_max: u64, runtime: Handle) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another process uses this folder"))?;
        let mut found: Vec<(SystemTime, String, u64)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (meta, Ok(name)) = (entry.metadata()?, entry.file_name().into_string()) else { continue };
            match name {
                name if name.ends_with(PART) => fs::remove_file(entry.path())?,
                name if name != LOCK && meta.is_file() => found.push((meta.modified()?, name, meta.len())),
                _ => {}
            }
        }
        found.sort_unstable();
        let mut inner = Inner::default();
        found.into_iter().for_each(|(_, name, bytes)| inner.insert(name, bytes));
        let near = Self {
            dir: dir.to_owned(),
            bytes_max,
            inner: inner.into(),
            counter: AtomicU64::new(0),
            runtime,
            _lock: lock,
        };
        near.make_room(0).iter().for_each(|name| drop(fs::remove_file(near.dir.join(name))));
        Ok(near)
    }

    /// Bytes that lie here.
    pub fn held_bytes(&self) -> u64 {
        self.inner.lock().held_bytes
    }

    /// Whether so many bytes more lie here without others going.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.held_bytes().saturating_add(bytes) <= self.bytes_max
    }

    /// Whether a frame lies here.
    pub fn knows(&self, id: FrameId) -> bool {
        self.inner.lock().entries.contains_key(&id.to_string())
    }

    /// A frame's sealed item, if it lies here and can be read.
    pub async fn get(&self, id: FrameId) -> Option<Bytes> {
        let name = id.to_string();
        if !self.inner.lock().touch(&name) {
            return None;
        }
        let path = self.dir.join(&name);
        match self.runtime.spawn_blocking(move || fs::read(path)).await {
            Ok(Ok(bytes)) => Some(bytes.into()),
            _ => {
                self.inner.lock().remove(&name);
                None
            }
        }
    }

    /// Forgets a frame: what lies here does not open.
    pub async fn forget(&self, id: FrameId) {
        let name = id.to_string();
        if self.inner.lock().remove(&name) {
            self.delete(vec![name]).await;
        }
    }

    /// Keeps the sealed item of a frame that opened. A folder that takes no more is no error: the vault has it.
    pub async fn put(&self, id: FrameId, item: &Bytes) {
        let (name, bytes) = (id.to_string(), item.len() as u64);
        if bytes > self.bytes_max {
            return;
        }
        let gone = self.make_room(bytes);
        self.delete(gone).await;
        let aside = self.dir.join(format!("{name}-{}{PART}", self.counter.fetch_add(1, Relaxed)));
        let (path, item) = (self.dir.join(&name), item.clone());
        let write = move || {
            fs::write(&aside, &item)
                .and_then(|()| fs::rename(&aside, path))
                .inspect_err(|_| drop(fs::remove_file(&aside)))
        };
        if matches!(self.runtime.spawn_blocking(write).await, Ok(Ok(()))) {
            self.inner.lock().insert(name, bytes);
            // Others may have written meanwhile.
            let gone = self.make_room(0);
            self.delete(gone).await;
        }
    }

    /// Takes out of the list what must go so that so many bytes fit.
    fn make_room(&self, bytes: u64) -> Vec<String> {
        let (mut inner, mut gone) = (self.inner.lock(), Vec::new());
        while inner.held_bytes.saturating_add(bytes) > self.bytes_max
            && let Some((_, oldest)) = inner.order.first_key_value()
        {
            let oldest = oldest.clone();
            inner.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }

    async fn delete(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let dir = self.dir.clone();
        let delete = move || names.iter().for_each(|name| drop(fs::remove_file(dir.join(name))));
        // A file that stays is taken up, or swept, when the folder is opened again.
        let _ = self.runtime.spawn_blocking(delete).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Slot, TimelineId};
    use crate::vault::read::segment_view::ObjectPlace;

    fn id(slot: u64) -> FrameId {
        FrameId { timeline: TimelineId([7; 8]), place: ObjectPlace::Slot(Slot(slot)), frame: 3 }
    }

    fn open(dir: &Path, bytes_max: u64) -> NearFrames {
        NearFrames::open(dir, bytes_max, Handle::current()).expect("it opens")
    }

    #[tokio::test]
    async fn many_writers_at_a_time_stay_within_what_may_lie_here() {
        let dir = tempfile::tempdir().expect("a directory");
        let (near, item) = (open(dir.path(), 100), Bytes::from(vec![5; 40]));
        futures_util::future::join_all((1..20).map(|slot| near.put(id(slot), &item))).await;
        assert_eq!(near.held_bytes(), 80);
        assert_eq!(fs::read_dir(dir.path()).expect("it lists").count(), 3, "two frames and the lock");
    }

    #[tokio::test]
    async fn what_was_used_least_recently_goes_first_and_the_rest_outlives_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let near = open(dir.path(), 100);
        let item = Bytes::from(vec![5; 40]);
        near.put(id(1), &item).await;
        near.put(id(2), &item).await;
        assert_eq!(near.get(id(1)).await, Some(item.clone()));
        near.put(id(3), &item).await;
        assert_eq!((near.held_bytes(), near.knows(id(2))), (80, false), "two fit, and the second was used least");
        near.put(id(4), &Bytes::from(vec![5; 101])).await;
        assert!(!near.knows(id(4)) && near.knows(id(1)), "what never fits pushes nothing out");
        assert!(NearFrames::open(dir.path(), 100, Handle::current()).is_err(), "one process at a time");
        drop(near);
        fs::write(dir.path().join(format!("{}-0{PART}", id(5))), b"cut").expect("a leftover");
        let near = open(dir.path(), 100);
        assert_eq!(near.get(id(3)).await, Some(item.clone()));
        assert_eq!(fs::read_dir(dir.path()).expect("it lists").count(), 3, "two frames and the lock");
        drop(near);
        let smaller = open(dir.path(), 50);
        assert_eq!(smaller.held_bytes(), 40);
        fs::remove_file(dir.path().join(id(1).to_string())).ok();
        fs::remove_file(dir.path().join(id(3).to_string())).ok();
        assert_eq!(
            (smaller.get(id(1)).await, smaller.get(id(3)).await),
            (None, None),
            "files that vanish are no frames"
        );
    }
}
