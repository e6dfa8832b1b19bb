//! The owner thread: drains its mailbox, writes what it found as one batch, syncs once, acknowledges all.
//!
//! ```text
//!   commit ─┐
//!   commit ─┼─► mailbox ─► drain ─► one batch ─► flush ─► fdatasync ─► acknowledge all
//!   commit ─┘                          │ any error or panic
//!                                      └─► failed: this and everything later is answered with the cause
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Batch, Contents, StateError};

/// Most commits in one group: what waits longer than that waits for the next.
const GROUP_MAX: usize = 256;

/// What the owner thread is asked.
pub(super) enum Ask {
    Commit(Batch, oneshot::Sender<Result<(), StateError>>),
    Load(oneshot::Sender<Result<Contents, StateError>>),
    Export(oneshot::Sender<Result<(), StateError>>),
    Close(oneshot::Sender<Result<(), StateError>>),
}

/// The medium under the owner thread.
pub(super) trait Medium {
    /// Writes a batch; durable on return.
    fn write(&mut self, batch: &Batch) -> Result<(), StateError>;

    /// Writes an export.
    fn export(&mut self, contents: &Contents) -> Result<(), StateError>;
}

/// The owner's state: the medium, and the copy that reads are served from.
pub(super) struct Owner<M: Medium> {
    pub(super) medium: M,
    pub(super) contents: Contents,
    pub(super) export_every: Duration,
    exported_at: Instant,
    changed: bool,
    failed: Option<String>,
}

impl<M: Medium> Owner<M> {
    pub(super) fn new(medium: M, contents: Contents, export_every: Duration) -> Self {
        Self { medium, contents, export_every, exported_at: Instant::now(), changed: false, failed: None }
    }

    /// Serves until it is closed or nobody holds the store any more.
    pub(super) fn serve(mut self, mailbox: &Receiver<Ask>) {
        loop {
            let mut group = Vec::new();
            let mut other = None;
            match mailbox.recv_timeout(self.export_every) {
                Ok(Ask::Commit(batch, ack)) => group.push((batch, ack)),
                Ok(ask) => other = Some(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.last_export(),
            }
            while other.is_none() && !group.is_empty() && group.len() < GROUP_MAX {
                match mailbox.try_recv() {
                    Ok(Ask::Commit(batch, ack)) => group.push((batch, ack)),
                    Ok(ask) => other = Some(ask),
                    Err(_) => break,
                }
            }
            self.commit(group);
            match other {
                Some(Ask::Close(ack)) => {
                    let outcome = self.export();
                    drop(self.medium);
                    drop(ack.send(outcome));
                    return;
                }
                Some(ask) => self.answer(ask),
                None => self.export_when_due(),
            }
        }
    }

    fn commit(&mut self, group: Vec<(Batch, oneshot::Sender<Result<(), StateError>>)>) {
        if group.is_empty() {
            return;
        }
        let mut whole = Batch::default();
        group.iter().for_each(|(batch, _)| whole.changes.extend_from_slice(&batch.changes));
        let outcome = self.guarded(|medium| medium.write(&whole));
        if outcome.is_ok() {
            whole.apply(&mut self.contents);
            self.changed = true;
        }
        for (_, ack) in group {
            drop(ack.send(outcome.clone()));
        }
    }

    /// Runs one step of the medium. A step that failed or panicked is the last one: what it left behind is unknown.
    fn guarded(&mut self, step: impl FnOnce(&mut M) -> Result<(), StateError>) -> Result<(), StateError> {
        if let Some(why) = &self.failed {
            return Err(StateError::Failed(why.clone()));
        }
        let medium = &mut self.medium;
        let outcome = catch_unwind(AssertUnwindSafe(|| step(medium)))
            .unwrap_or_else(|panic| Err(StateError::Failed(super::sled::panic_text(&*panic))));
        if let Err(error) = &outcome {
            self.failed = Some(error.to_string());
        }
        outcome
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Load(ack) => {
                let loaded = match &self.failed {
                    Some(why) => Err(StateError::Failed(why.clone())),
                    None => Ok(self.contents.clone()),
                };
                drop(ack.send(loaded));
            }
            Ask::Export(ack) => {
                let outcome = self.export();
                drop(ack.send(outcome));
            }
            Ask::Commit(..) | Ask::Close(_) => unreachable!("commits and closing are taken by the loop"),
        }
    }

    fn export(&mut self) -> Result<(), StateError> {
        if let Some(why) = &self.failed {
            return Err(StateError::Failed(why.clone()));
        }
        self.exported_at = Instant::now();
        self.medium.export(&self.contents)?;
        self.changed = false;
        Ok(())
    }

    /// An export that fails costs only its use: it is tried again after the same time.
    fn export_when_due(&mut self) {
        if self.changed && self.exported_at.elapsed() >= self.export_every {
            drop(self.export());
        }
    }

    fn last_export(mut self) {
        if self.changed {
            drop(self.export());
        }
    }
}
