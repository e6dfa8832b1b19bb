//! The splitter at work: threads, the disks beneath, the activity logs. Thin; what is decided is decided in `splitter`.
//!
//! ```text
//!   NBD thread      enter ─► pwrite, digests ─► leave        scanner     the same, with a read for the pwrite
//!                     │ one lock section each │               keeper      syncs, cools, reserves
//!                     └────── Splitter ───────┘               session     takes batches, tells what is committed
//! ```
//!
//! Lock order: splitter, then an activity log's inner state. No I/O is done under the splitter's lock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::activity_log::{ActivityLog, ActivityLogFailed};
use super::content::{Body, Run, analyse};
use super::splitter::{Grant, Moved, Outcome, Splitter, Ticket};
use crate::digest::DigestKey;
use crate::ids::Lsn;
use crate::nbd::backing::BackingDisk;

/// A disk that is captured: what lies beneath, and what remembers its hot regions.
pub struct TapDisk {
    /// Its name; also of its export.
    pub name: String,
    /// The disk beneath.
    pub backing: Arc<BackingDisk>,
    /// Its activity log.
    pub activity: ActivityLog,
}

/// What the tap writes down beside the activity logs, for the next life.
pub trait Notes: Send + Sync {
    /// LSNs up to this one are reserved: synced on return.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn reserve(&self, last: Lsn) -> io::Result<()>;

    /// An activity log can be neither written nor emptied: no later life may believe it. Synced on return.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn disavow(&self) -> io::Result<()>;
}

/// The write path of one machine. See the module.
pub struct Tap {
    splitter: Mutex<Splitter>,
    /// Ranges were let go of.
    ranges_moved: Condvar,
    /// There may be room or need to scan.
    scan_wanted: Condvar,
    disks: Vec<TapDisk>,
    key: DigestKey,
    notes: Box<dyn Notes>,
    began: Instant,
    batches: Notify,
    stopping: AtomicBool,
    written_bytes: AtomicU64,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("disks", &self.disks.len()).finish_non_exhaustive()
    }
}

impl Tap {
    /// A tap on `disks`, in the splitter's order.
    pub fn new(splitter: Splitter, disks: Vec<TapDisk>, key: DigestKey, notes: Box<dyn Notes>) -> Self {
        Self {
            splitter: Mutex::new(splitter),
            ranges_moved: Condvar::new(),
            scan_wanted: Condvar::new(),
            disks,
            key,
            notes,
            began: Instant::now(),
            batches: Notify::new(),
            stopping: AtomicBool::new(false),
            written_bytes: AtomicU64::new(0),
        }
    }

    /// Time since the tap was made.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The disks.
    pub fn disks(&self) -> &[TapDisk] {
        &self.disks
    }

    /// The splitter, locked: for short looks and changes without I/O.
    pub fn splitter(&self) -> MutexGuard<'_, Splitter> {
        self.splitter.lock()
    }

    /// Bytes that were written through it, whatever became of them in the log.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Comes back when a batch may be complete, or begins to fill.
    pub async fn batches_moved(&self) {
        self.batches.notified().await;
    }

    /// Wakes whoever waits for batches.
    pub fn wake_session(&self) {
        self.batches.notify_one();
    }

    /// Wakes the scanner: there may be room, or need.
    pub fn wake_scanner(&self) {
        self.scan_wanted.notify_all();
    }

    /// The scanner and the keeper end soon.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake_scanner();
    }

    /// Whether they were told to.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until the scanner is wanted, at most so long.
    pub(super) fn wait_for_scan(&self, longest: Duration) {
        let mut splitter = self.splitter.lock();
        if !self.is_stopping() {
            self.scan_wanted.wait_for(&mut splitter, longest);
        }
    }

    /// Passes on what a call has set in motion.
    pub(super) fn pass_on(&self, moved: Moved) {
        if moved.ranges {
            self.ranges_moved.notify_all();
        }
        if moved.batches {
            self.batches.notify_one();
        }
    }

    /// Reserves the next LSNs if that is due.
    pub fn reserve_if_due(&self) -> io::Result<()> {
        let due = self.splitter.lock().reservation_due();
        let Some(last) = due else { return Ok(()) };
        self.notes.reserve(last)?;
        self.splitter.lock().reserved(last);
        Ok(())
    }

    /// Others changed a disk: what its activity log says counts no more, and the next start compares all of it.
    pub fn distrust(&self, disk: usize) {
        self.disavow_unless(self.disks[disk].activity.give_up());
        let moved = self.splitter.lock().activity_log_failed(disk, self.now());
        self.pass_on(moved);
    }

    /// All of a disk is compared: its activity log says so, or no later life believes it.
    pub fn record_all_hot(&self, disk: usize) {
        if let Err(failed) = self.disks[disk].activity.record_all_hot() {
            self.disavow_unless(failed.emptied);
        }
    }

    /// All of a disk is read again, and sent where the log may not have it.
    pub fn resync(&self, disk: usize) {
        let mut splitter = self.splitter.lock();
        // Under the lock: what is cooled in between would be hot here and cool in the activity log.
        self.record_all_hot(disk);
        let moved = splitter.resync(disk, self.now());
        drop(splitter);
        self.pass_on(moved);
        self.wake_scanner();
    }

    fn disavow_unless(&self, emptied: bool) {
        if !emptied {
            // Where this fails as well nothing is left but the replica's log, which gets the record.
            let _ = self.notes.disavow();
        }
    }

    /// Waits until the ticket holds its range.
    pub(super) fn hold(&self, splitter: &mut MutexGuard<'_, Splitter>, ticket: &Ticket) {
        if splitter.is_exhausted() {
            // Where it fails the write goes on all the same, lost to the log; the clock's thread tells of it.
            let _ = MutexGuard::unlocked(splitter, || self.reserve_if_due());
        }
        if !splitter.acquire(ticket) {
            while !splitter.holds(ticket) {
                self.ranges_moved.wait(splitter);
            }
        }
    }

    fn enter(&self, disk: usize, offset: u64, len: u64, payload_bytes: usize) -> (Ticket, Grant) {
        let mut splitter = self.splitter.lock();
        let ticket = splitter.arrive(disk, offset, len);
        if let Some(cool) = splitter.cool_regions(&ticket) {
            let activity = &self.disks[disk].activity;
            let recorded = MutexGuard::unlocked(&mut splitter, || activity.record_hot(cool));
            match recorded {
                Ok(()) => splitter.heated(&ticket),
                Err(ActivityLogFailed { emptied, .. }) => {
                    MutexGuard::unlocked(&mut splitter, || self.disavow_unless(emptied));
                    let moved = splitter.activity_log_failed(disk, self.now());
                    self.pass_on(moved);
                }
            }
        }
        self.hold(&mut splitter, &ticket);
        let grant = splitter.start(&ticket, payload_bytes);
        (ticket, grant)
    }

    fn leave(&self, ticket: Ticket, grant: Grant, outcome: Outcome) {
        let now = self.now();
        let moved = self.splitter.lock().complete(ticket, grant, outcome, now);
        self.pass_on(moved);
    }

    /// Writes `data`, at most [`crate::section::WRITE_BYTES_MAX`] bytes of it.
    pub(super) fn write(&self, disk: usize, offset: u64, data: &Bytes, stable: bool) -> io::Result<()> {
        let (ticket, grant) = self.enter(disk, offset, data.len() as u64, data.len());
        let backing = &self.disks[disk].backing;
        let written = if stable { backing.write_stable(offset, data) } else { backing.write(offset, data) };
        let outcome = match &written {
            Ok(()) if grant.ships() => Outcome::Done(analyse(&self.key, offset, data)),
            Ok(()) => Outcome::Done(Vec::new()),
            Err(_) => Outcome::Failed,
        };
        self.leave(ticket, grant, outcome);
        if written.is_ok() {
            self.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        written
    }

    /// Changes a range without payload; `change` says what it holds afterwards, `None` where nothing was done.
    pub(super) fn fill(
        &self,
        disk: usize,
        offset: u64,
        len: u32,
        change: impl FnOnce(&BackingDisk) -> io::Result<Option<Body>>,
    ) -> io::Result<()> {
        let (ticket, grant) = self.enter(disk, offset, len.into(), 0);
        let done = change(&self.disks[disk].backing);
        let outcome = match &done {
            Ok(body) => Outcome::Done(body.iter().map(|body| Run { offset, len, body: body.clone() }).collect()),
            // Refused before anything was touched.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Outcome::Done(Vec::new()),
            Err(_) => Outcome::Failed,
        };
        self.leave(ticket, grant, outcome);
        done.map(|_| ())
    }

    /// Syncs the disk beneath, and tells the splitter.
    pub fn sync(&self, disk: usize) -> io::Result<()> {
        let sync = self.splitter.lock().sync_begins(disk);
        let result = self.disks[disk].backing.sync();
        self.splitter.lock().sync_ends(disk, sync, result.is_ok());
        result
    }

    /// Cools what may be cooled of a disk; returns how many regions.
    pub fn cool(&self, disk: usize, idle_for: Duration, target: usize) -> usize {
        let mut splitter = self.splitter.lock();
        let cooled = splitter.cool(disk, self.now().saturating_sub(idle_for), target);
        // Under the lock: a writer that finds a region cool must find it cool in the activity log as well.
        self.disks[disk].activity.cool(&cooled);
        cooled.len()
    }

    pub(super) fn key(&self) -> &DigestKey {
        &self.key
    }
}
