//! A store in a folder: write aside, sync, hard-link, sync the directory.
//!
//! ```text
//!   <vault>/machines/…/log/0000000000000001     objects, mode 0600, never written in place
//!   <vault>/.staging/<hash>-<pid>-<n>-<time>    bytes on their way; on the same filesystem, so that a link will do
//!   <vault>/.staging/folder.id                  32 hex digits that no other folder has
//!   <vault>/.staging/swap.lock                  held (flock) while a manifest is compared and replaced
//!
//!   stage    create aside ─► write ─► fsync
//!   publish  link(aside, object)    EEXIST = it is there already    ─► fsync directory ─► unlink aside
//!   replace  lock ─► compare ─► write aside ─► fsync ─► rename ─► fsync directory ─► unlock
//! ```
//!
//! Create-if-absent is the hard link; where a filesystem has none it is a rename that does not replace
//! (RENAME_NOREPLACE), found out when the folder is opened, and a filesystem with neither is refused: a slot could be
//! filled twice there (I4).
//!
//! An object is whole as soon as its name is there. Its *name* is durable only when the directory is synced, so
//! whoever reads a name concludes something that a power cut could undo. Therefore: a directory whose sync failed is
//! synced before anything in it is read, and opening the folder syncs the filesystem once, for names that a killed
//! process left behind.
//!
//! A path is only a way to the folder: while its filesystem is not mounted, another folder lies there, empty, and an empty
//! vault is not what the vault is. So the folder has a mark of its own (`.staging/folder.id`), and every call first looks
//! whether the path still leads to it; until it does again, the store is away.
//!
//! Links and other things that are no regular file are not part of the vault: they are neither listed nor read.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;

use self::directories::{create_new, make_directories, probe, rename_no_replace, sweep, sync_directory};
use self::home::Home;
use self::listing::Wanted;
use super::{
    ETag, Listed, ObjectMeta, ObjectName, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind, SwapOutcome,
};
use crate::ids::MachineId;

mod directories;
mod home;
mod listing;

const STAGING: &str = ".staging";
const SWAP_LOCK: &str = "swap.lock";
/// Up to this length an ETag covers the whole object; above, its length and both ends. Objects that are ever replaced
/// are far below; the others begin and end with salts of their own.
const ETAG_WHOLE_BYTES: u64 = 128 << 10;

/// How create-if-absent is done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Create {
    HardLink,
    RenameNoReplace,
    /// The folder was opened for reading.
    Never,
}

/// A store in a folder. Clones share it. Its calls run on the runtime's blocking threads.
#[derive(Debug, Clone)]
pub struct FolderStore {
    folder: Arc<Folder>,
    runtime: Handle,
}

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    home: Home,
    create: Create,
    /// Directories that are known to be there, durably.
    made: Mutex<HashSet<PathBuf>>,
    /// Directories with names in them whose durability is not known.
    unsynced: Mutex<HashSet<PathBuf>>,
    counter: AtomicU64,
}

impl FolderStore {
    /// Opens a folder as a vault's store, making it where it is missing, and tries out whether its filesystem can
    /// create atomically. `runtime` carries out the calls. Blocks: it is meant for a process's start.
    pub fn open(root: &Path, runtime: Handle) -> Result<Self, StoreError> {
        let doing = || format!("open the vault folder {}", root.display());
        let staging = root.join(STAGING);
        make_directories(&staging).map_err(|error| failed(doing(), &error))?;
        let create = probe(&staging).map_err(|error| failed(doing(), &error))?.ok_or_else(|| StoreError {
            kind: StoreErrorKind::Unsuitable,
            doing: doing(),
            cause: "this filesystem has neither hard links nor a rename that does not replace: choose another".into(),
        })?;
        let folder = File::open(root).map_err(|error| failed(doing(), &error))?;
        rustix::fs::syncfs(&folder).map_err(|error| failed(doing(), &error.into()))?;
        sweep(&staging);
        let home = Home::mark(root).map_err(|error| failed(doing(), &error))?;
        Ok(Self::new(root, home, create, runtime))
    }

    /// Opens a folder for reading: nothing is created or probed, every change is `Denied`.
    pub fn open_read_only(root: &Path, runtime: Handle) -> Result<Self, StoreError> {
        let meta = fs::metadata(root).and_then(|meta| match meta.is_dir() {
            true => Home::see(root),
            false => Err(ErrorKind::NotADirectory.into()),
        });
        let home = meta.map_err(|error| failed(format!("open the vault folder {}", root.display()), &error))?;
        Ok(Self::new(root, home, Create::Never, runtime))
    }

    fn new(root: &Path, home: Home, create: Create, runtime: Handle) -> Self {
        let folder = Folder {
            root: root.to_owned(),
            home,
            create,
            made: Mutex::default(),
            unsynced: Mutex::default(),
            counter: AtomicU64::default(),
        };
        Self { folder: Arc::new(folder), runtime }
    }

    /// Runs `call` on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        doing: String,
        call: impl FnOnce(&Folder) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let folder = self.folder.clone();
        match self.runtime.spawn_blocking(move || folder.check_home().and_then(|()| call(&folder))).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Fault::Io(error))) => Err(failed(doing, &error)),
            Ok(Err(Fault::Store(kind, cause))) => Err(StoreError { kind, doing, cause }),
            Err(_) => {
                let cause = "the process is stopping".to_owned();
                Err(StoreError { kind: StoreErrorKind::Unavailable, doing, cause })
            }
        }
    }
}

/// Why a call failed, before it is put into words.
enum Fault {
    Io(io::Error),
    Store(StoreErrorKind, String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

fn failed(doing: String, error: &io::Error) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => StoreErrorKind::NotFound,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError { kind, doing, cause: error.to_string() }
}

impl Folder {
    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    fn check_home(&self) -> Result<(), Fault> {
        let away = |why: String| Fault::Store(StoreErrorKind::Unavailable, why);
        match self.home.is_at(&self.root) {
            Ok(true) => Ok(()),
            Ok(false) => Err(away(format!(
                "another folder lies at {}: mount the vault's filesystem there again, or put the folder back",
                self.root.display()
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(away(format!("{} is not there: is its filesystem mounted?", self.root.display())))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn check_writable(&self) -> Result<(), Fault> {
        match self.create {
            Create::Never => Err(Fault::Store(StoreErrorKind::Denied, "the vault was opened for reading".into())),
            Create::HardLink | Create::RenameNoReplace => Ok(()),
        }
    }

    /// Writes bytes aside and syncs them; gives the name they have in the staging directory.
    fn write_aside(&self, name: &ObjectName, token: &str, parts: &[Bytes]) -> Result<String, Fault> {
        let mut hash = blake3::Hasher::new();
        hash.update(name.as_str().as_bytes()).update(&[0]).update(token.as_bytes());
        let serial = self.counter.fetch_add(1, Ordering::Relaxed);
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let hash = &hash.finalize().to_hex()[..32];
        let aside = format!("{hash}-{}-{serial}-{time:x}", std::process::id());
        let path = self.staging().join(&aside);
        let written = create_new(&path).and_then(|mut file| {
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(aside),
            Err(error) => {
                fs::remove_file(&path).ok();
                Err(error.into())
            }
        }
    }

    fn publish(&self, staged: &Staged) -> Result<PutOutcome, Fault> {
        self.check_writable()?;
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if staged.token.is_empty() || !staged.token.chars().all(plain) {
            return Err(Fault::Store(StoreErrorKind::Refused, "these bytes were not staged here".into()));
        }
        let (aside, object) = (self.staging().join(&staged.token), self.path(&staged.name));
        let directory = object.parent().expect("an object's name has a folder part").to_owned();
        self.ensure(&directory)?;
        let created = match self.create {
            Create::HardLink => match fs::hard_link(&aside, &object) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                // The bytes are gone: an earlier try published them and its answer was lost, unless nothing is there.
                Err(error) if error.kind() == ErrorKind::NotFound && object.is_file() => false,
                Err(error) => return Err(error.into()),
            },
            _ => match rename_no_replace(&aside, &object) {
                Ok(created) => created,
                Err(Errno::NOENT) if object.is_file() => false,
                Err(error) => return Err(error.into()),
            },
        };
        self.sync_names(&directory)?;
        fs::remove_file(&aside).ok();
        Ok(if created { PutOutcome::Created } else { PutOutcome::AlreadyExists })
    }

    /// Makes a directory of the vault. The first time this process needs it, every name on the way to it is made
    /// durable, whoever made it.
    fn ensure(&self, directory: &Path) -> io::Result<()> {
        if !self.made.lock().contains(directory) || !directory.is_dir() {
            make_directories(directory)?;
            let above = directory.ancestors().skip(1).take_while(|above| above.starts_with(&self.root));
            above.into_iter().try_for_each(sync_directory)?;
            self.made.lock().insert(directory.to_owned());
        }
        Ok(())
    }

    /// Makes the names in a directory durable, and remembers where that failed.
    fn sync_names(&self, directory: &Path) -> io::Result<()> {
        let synced = sync_directory(directory);
        match synced {
            Ok(()) => self.unsynced.lock().remove(directory),
            Err(_) => self.unsynced.lock().insert(directory.to_owned()),
        };
        synced
    }

    /// Opens an object for reading; what is read of it is durable.
    fn open(&self, name: &ObjectName) -> Result<File, Fault> {
        let path = self.path(name);
        if let Some(directory) = path.parent()
            && self.unsynced.lock().contains(directory)
        {
            self.sync_names(directory)?;
        }
        let no_links = OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits();
        let opened = OpenOptions::new().read(true).custom_flags(no_links.cast_signed()).open(&path);
        match opened {
            Ok(file) if file.metadata()?.is_file() => Ok(file),
            Ok(_) => Err(io::Error::from(ErrorKind::NotFound).into()),
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                Err(io::Error::from(ErrorKind::NotFound).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read(&self, name: &ObjectName) -> Result<(Bytes, ETag), Fault> {
        let mut file = self.open(name)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let etag = etag(bytes.len() as u64, |at, len| Ok(bytes[at as usize..at as usize + len].to_vec()))?;
        Ok((bytes.into(), etag))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, Fault> {
        let file = self.open(name)?;
        let size = file.metadata()?.len();
        if offset >= size {
            let error = super::past_the_end(name, offset, size);
            return Err(Fault::Store(error.kind, error.cause));
        }
        let mut bytes = vec![0; len.min(size - offset) as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, Fault> {
        let file = self.open(name)?;
        let bytes = file.metadata()?.len();
        let etag = etag(bytes, |at, len| {
            let mut part = vec![0; len];
            file.read_exact_at(&mut part, at)?;
            Ok(part)
        })?;
        Ok(ObjectMeta { bytes, etag })
    }

    fn swap(&self, name: &ObjectName, expected: Option<&ETag>, bytes: Bytes) -> Result<SwapOutcome, Fault> {
        self.check_writable()?;
        let lock_file = self.staging().join(SWAP_LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock_file)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let found = match self.head(name) {
            Ok(meta) => Some(meta.etag),
            Err(Fault::Io(error)) if error.kind() == ErrorKind::NotFound => None,
            Err(fault) => return Err(fault),
        };
        if found.as_ref() != expected {
            return Ok(SwapOutcome::Conflict);
        }
        let aside = self.write_aside(name, "swap", std::slice::from_ref(&bytes))?;
        if expected.is_none() {
            // Not by rename: a plain create of this name does not take the lock.
            let staged = Staged::new(name.clone(), aside, bytes.len() as u64);
            return Ok(match self.publish(&staged)? {
                PutOutcome::Created => SwapOutcome::Swapped(self.head(name)?.etag),
                PutOutcome::AlreadyExists => SwapOutcome::Conflict,
            });
        }
        let object = self.path(name);
        fs::rename(self.staging().join(&aside), &object)?;
        self.sync_names(object.parent().expect("an object's name has a folder part"))?;
        Ok(SwapOutcome::Swapped(self.head(name)?.etag))
    }

    fn delete(&self, name: &ObjectName) -> Result<(), Fault> {
        self.check_writable()?;
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(self.sync_names(path.parent().expect("an object's name has a folder part"))?),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn etag(bytes: u64, read: impl Fn(u64, usize) -> io::Result<Vec<u8>>) -> io::Result<ETag> {
    let mut hash = blake3::Hasher::new();
    hash.update(&bytes.to_le_bytes());
    if bytes <= ETAG_WHOLE_BYTES {
        hash.update(&read(0, bytes as usize)?);
    } else {
        let end = ETAG_WHOLE_BYTES / 2;
        hash.update(&read(0, end as usize)?);
        hash.update(&read(bytes - end, end as usize)?);
    }
    Ok(ETag(hash.finalize().to_hex()[..32].to_owned()))
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let (object, token) = (name.clone(), token.to_owned());
        self.run(format!("stage {name}"), move |folder| {
            folder.check_writable()?;
            let token = folder.write_aside(&object, &token, &parts)?;
            let bytes = parts.iter().map(|part| part.len() as u64).sum();
            Ok(Staged::new(object, token, bytes))
        })
        .await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        let own = staged.clone();
        self.run(format!("publish {}", staged.name), move |folder| folder.publish(&own)).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        let (object, expected) = (name.clone(), expected.cloned());
        self.run(format!("replace {name}"), move |folder| folder.swap(&object, expected.as_ref(), bytes)).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        let object = name.clone();
        self.run(format!("get {name}"), move |folder| folder.read(&object)).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let object = name.clone();
        self.run(format!("get a range of {name}"), move |folder| folder.read_range(&object, offset, len)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let object = name.clone();
        self.run(format!("look at {name}"), move |folder| folder.head(&object)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.run(format!("list {prefix}"), move |folder| {
            let wanted = Wanted { prefix: &prefix, after: after.as_ref().map(ObjectName::as_str), limit };
            folder.list(&wanted)
        })
        .await
    }

    fn wanted_for(&self, _: MachineId, _: Duration) {}

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let object = name.clone();
        self.run(format!("delete {name}"), move |folder| folder.delete(&object)).await
    }
}

#[cfg(test)]
mod tests;
