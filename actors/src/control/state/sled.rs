//! The state in sled 0.34.7, by the rules that were measured to be safe.
//!
//! ```text
//!   <dir>/lock                who has it open
//!   <dir>/sled/...            the database; its file `db` is synced by us: sled's flush is no fsync
//!   <dir>/exports/<n>.export  the last three exports
//!   <dir>/damaged-<n>/        a database that could not be read, kept for a look
//! ```
//!
//! One thread owns the database (sled can deadlock and panic under concurrent load); everything it calls runs under
//! `catch_unwind`. Reads come from its copy in memory, and so do exports: damage on the disk never spreads into them.

use std::any::Any;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::group::{Ask, Medium, Owner};
use super::{Batch, Change, Contents, Opened, StateError, StateStore, export};

/// sled's own cache in bytes. The whole state is some megabytes and is read once.
const CACHE_BYTES: u64 = 16 << 20;
/// sled's background write-out; durability does not rest on it.
const BACKGROUND_FLUSH_MS: u64 = 500;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// Time between exports while something changes.
    pub export_every: Duration,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { export_every: Duration::from_secs(600) }
    }
}

/// The state in a directory.
#[derive(Debug)]
pub struct SledStore {
    mailbox: Sender<Ask>,
}

impl SledStore {
    /// Opens or makes the state in `dir`. Blocks; call it where that is allowed.
    pub fn open(dir: &Path, options: &SledOptions) -> Result<(Self, Opened), StateError> {
        fs::create_dir_all(dir).and_then(|()| sync_dir(dir)).map_err(io_error("create", dir))?;
        let lock = take_lock(dir)?;
        let fresh = !dir.join("sled").exists() && export::newest(&dir.join("exports")).is_none();
        let (database, contents, opened) = match Database::open(dir) {
            Ok((database, contents)) if fresh || !contents.is_empty() => {
                (database, contents, if fresh { Opened::Fresh } else { Opened::Existing })
            }
            // Nothing where something was exported before: the database's files were lost, not its contents deleted.
            Ok((database, contents)) => match export::newest(&dir.join("exports")) {
                Some((_, exported)) if !exported.is_empty() => {
                    drop(database);
                    restore(dir, "the database is empty, an export is not".into())?
                }
                _ => (database, contents, Opened::Existing),
            },
            Err(cause) => restore(dir, cause)?,
        };
        let (mailbox, asks) = channel();
        let owner = Owner::new(database, contents, options.export_every);
        let run = move || {
            owner.serve(&asks);
            drop(lock);
        };
        thread::Builder::new().name("state-store".into()).spawn(run).map_err(io_error("start a thread for", dir))?;
        Ok((Self { mailbox }, opened))
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, StateError>>) -> Ask) -> Result<T, StateError> {
        let gone = || StateError::Failed("its thread has ended".into());
        let (ack, answer) = oneshot::channel();
        self.mailbox.send(ask(ack)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl StateStore for SledStore {
    async fn load(&self) -> Result<Contents, StateError> {
        self.ask(Ask::Load).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StateError> {
        batch.check()?;
        self.ask(|ack| Ask::Commit(batch, ack)).await
    }

    async fn export(&self) -> Result<(), StateError> {
        self.ask(Ask::Export).await
    }

    async fn close(&self) -> Result<(), StateError> {
        self.ask(Ask::Close).await
    }
}

struct Database {
    db: sled::Db,
    /// The file that sled writes to: syncing it is what makes a flush durable.
    file: File,
    dir: PathBuf,
}

impl Database {
    /// Opens the database and reads all of it; whatever sled does on damage comes back as a text.
    fn open(dir: &Path) -> Result<(Self, Contents), String> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(dir)));
        opened.unwrap_or_else(|panic| Err(panic_text(&*panic)))
    }

    fn open_unguarded(dir: &Path) -> Result<(Self, Contents), String> {
        let path = dir.join("sled");
        let db = sled::Config::default()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(BACKGROUND_FLUSH_MS))
            .open()
            .map_err(|error| error.to_string())?;
        let mut contents = Contents::new();
        for record in db.iter() {
            let (key, value) = record.map_err(|error| error.to_string())?;
            let key = std::str::from_utf8(&key).map_err(|_| "a key is no text".to_owned())?;
            contents.insert(key.to_owned(), value.to_vec());
        }
        let file = File::open(path.join("db")).map_err(|error| error.to_string())?;
        db.flush().map_err(|error| error.to_string())?;
        let synced = file.sync_data().and_then(|()| sync_dir(&path)).and_then(|()| sync_dir(dir));
        synced.map_err(|error| error.to_string())?;
        Ok((Self { db, file, dir: dir.to_owned() }, contents))
    }

    fn sync(&self) -> Result<(), StateError> {
        self.db.flush().map_err(|error| StateError::Failed(format!("flush sled: {error}")))?;
        self.file.sync_data().map_err(|error| StateError::Failed(format!("sync sled's file: {error}")))
    }
}

impl Medium for Database {
    fn write(&mut self, batch: &Batch) -> Result<(), StateError> {
        let mut changes = sled::Batch::default();
        for change in batch.changes() {
            match change {
                Change::Put(key, value) => changes.insert(key.as_bytes(), value.as_slice()),
                Change::Delete(key) => changes.remove(key.as_bytes()),
            }
        }
        self.db.apply_batch(changes).map_err(|error| StateError::Failed(format!("write to sled: {error}")))?;
        self.sync()
    }

    fn export(&mut self, contents: &Contents) -> Result<(), StateError> {
        export::write(&self.dir.join("exports"), contents).map(drop)
    }
}

/// Moves a database that cannot be used aside and makes a new one of the newest export.
fn restore(dir: &Path, cause: String) -> Result<(Database, Contents, Opened), StateError> {
    let Some((export, contents)) = export::newest(&dir.join("exports")) else {
        return Err(StateError::Damaged { dir: dir.to_owned(), cause });
    };
    let mut moved_to = dir.join("damaged-1");
    for number in 2.. {
        if !moved_to.exists() {
            break;
        }
        moved_to = dir.join(format!("damaged-{number}"));
    }
    let damaged = dir.join("sled");
    if damaged.exists() {
        fs::rename(&damaged, &moved_to).and_then(|()| sync_dir(dir)).map_err(io_error("move aside", &damaged))?;
    }
    let failed = |cause: String| StateError::Io { doing: format!("restore {} from an export", dir.display()), cause };
    let (mut database, _) = Database::open(dir).map_err(failed)?;
    let mut batch = Batch::default();
    contents.iter().for_each(|(key, value)| {
        batch.put(key.clone(), value.clone());
    });
    database.write(&batch)?;
    Ok((database, contents, Opened::Restored { export, moved_to, cause }))
}

fn take_lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn io_error(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let doing = format!("{verb} {}", path.display());
    move |error| StateError::Io { doing, cause: error.to_string() }
}

/// The message of a panic, whichever of its two usual forms it has.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&'static str>().copied()).unwrap_or("a panic without a text").to_owned()
}
