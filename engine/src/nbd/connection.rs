//! One connection after the handshake: requests in, replies out.
//!
//! ```text
//!   socket ─► reader thread ─┬─ quick, or in memory: done here ──────────────► outbox ─► socket
//!                            └─ else: queue ─► up to `workers` threads ──────► outbox (sent at once)
//! ```
//!
//! Invariants: each request gets exactly one reply, or the connection ends; queued requests hold at most
//! `in_flight_bytes_max` of payload and answers (one longer request is let in alone), and the reader one request of at most
//! 32 MiB besides (I10). Replies may overtake each other, as the protocol allows.
//! The end: on a disconnect, a stop or an end of file the reader takes no further request, the queued ones are done and answered,
//! then the socket is closed. On an error of the socket, and where an export panics, what is queued is dropped.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::export::{Export, NbdError, Op, REQUEST_BYTES_MAX};
use super::outbox::Outbox;
use super::proto::{self, Request, command, command_flag};
use super::request::Terms;
use super::socket::{Inbox, Socket};

/// Reads up to this length are tried in memory first, and put into the outbox without a copy between, in bytes.
const READ_NOW_BYTES_MAX: u32 = 64 << 10;
/// Reads from this length on are answered with holes where the export has them, in bytes. Chosen: below it asking costs
/// more than sending zeroes.
const SPARSE_READ_BYTES_MIN: u32 = 64 << 10;
/// Longest data chunk of a read that may be split, in bytes: what a worker holds for it.
const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Most extents of one block-status answer, in a read or for a client.
const EXTENTS_MAX: usize = 2048;
/// Most requests in a queue. Chosen: well above the queue depths that clients use (QEMU 16, libnbd 64, Linux 128).
const QUEUED_MAX: usize = 512;

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) in_flight_bytes_max: u64,
    pub(crate) workers_max: usize,
}

/// A request that goes to a worker.
struct Task {
    request: Request,
    op: Op,
    payload: Bytes,
    weight_bytes: u64,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Of queued and running tasks.
    in_flight_bytes: u64,
    /// Queued and running tasks.
    in_flight: usize,
    idle_workers: usize,
    closed: bool,
}

/// What the threads of a connection share.
struct Shared {
    socket: Arc<Socket>,
    export: Arc<dyn Export>,
    terms: Terms,
    outbox: Outbox,
    queue: Mutex<Queue>,
    /// A task was queued, or the queue closed: for workers.
    work_came: Condvar,
    /// A task was done, or the queue closed: for the reader.
    room_came: Condvar,
}

/// Serves requests until the client leaves, the socket fails or `stopping` is set and the read side is shut.
pub(crate) fn serve(
    socket: Arc<Socket>,
    mut inbox: Inbox,
    export: Arc<dyn Export>,
    terms: Terms,
    limits: ConnectionLimits,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        outbox: Outbox::new(socket.clone()),
        socket,
        export,
        terms,
        queue: Mutex::default(),
        work_came: Condvar::new(),
        room_came: Condvar::new(),
    });
    let mut workers = Workers { shared: shared.clone(), limits, threads: Vec::new() };
    let result = match shared.read_requests(&mut inbox, &mut workers, stopping) {
        // The read side was shut in the middle of a request: it was not taken, those before it are still answered.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && stopping.load(Ordering::Acquire) => Ok(()),
        other => other,
    };
    if result.is_err() {
        shared.abandon();
    }
    workers.finish();
    result.and(shared.outbox.flush())
}

impl Shared {
    fn read_requests(&self, inbox: &mut Inbox, workers: &mut Workers, stopping: &AtomicBool) -> io::Result<()> {
        let mut before_wait = || self.outbox.flush();
        while !stopping.load(Ordering::Acquire) && inbox.fill(&self.socket, proto::REQUEST_BYTES, &mut before_wait)? {
            if stopping.load(Ordering::Acquire) {
                break;
            }
            let Some(request) = Request::decode(&inbox.take()) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no request begins where one should"));
            };
            if request.command == command::DISCONNECT {
                break;
            }
            let payload_bytes = if request.command == command::WRITE { request.length } else { 0 };
            let op = match self.terms.check(&request) {
                Ok(op) => op,
                Err(error) => {
                    inbox.discard(&self.socket, payload_bytes.into(), &mut before_wait)?;
                    self.fail(&request, &error, None, false)?;
                    continue;
                }
            };
            let quick = self.export.is_quick(&op);
            if !quick && self.read_in_memory(&request, &op)? {
                continue;
            }
            let weight_bytes = weight_bytes(&op);
            if !quick {
                self.make_room(weight_bytes, workers.limits.in_flight_bytes_max)?;
            }
            let mut payload = vec![0; payload_bytes as usize];
            inbox.read_exact(&self.socket, &mut payload, &mut before_wait)?;
            let task = Task { request, op, payload: payload.into(), weight_bytes };
            if quick {
                self.perform(task, false)?;
            } else {
                workers.give(task)?;
            }
        }
        Ok(())
    }

    /// Answers a short read whose bytes are in memory.
    fn read_in_memory(&self, request: &Request, op: &Op) -> io::Result<bool> {
        let Op::Read { offset, len } = *op else { return Ok(false) };
        if len > READ_NOW_BYTES_MAX {
            return Ok(false);
        }
        self.outbox.put_if(|out| {
            self.put_read_head(out, request.cookie, true, offset, len as usize);
            let start = out.len();
            out.resize(start + len as usize, 0);
            self.export.read_now(offset, &mut out[start..])
        })
    }

    /// Waits until the queue takes another task.
    fn make_room(&self, weight_bytes: u64, in_flight_bytes_max: u64) -> io::Result<()> {
        let fits = |queue: &Queue| {
            let bytes = queue.in_flight_bytes + weight_bytes;
            queue.in_flight == 0 || (bytes <= in_flight_bytes_max && queue.in_flight < QUEUED_MAX)
        };
        if fits(&self.queue.lock()) {
            return Ok(());
        }
        self.outbox.flush()?;
        let mut queue = self.queue.lock();
        while !fits(&queue) && !queue.closed {
            self.room_came.wait(&mut queue);
        }
        if queue.closed { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Does one request and puts its reply; sends it at once where `now`.
    fn perform(&self, task: Task, now: bool) -> io::Result<()> {
        let Task { request, op, payload, .. } = task;
        let done = match op {
            Op::Read { offset, len } => return self.read(&request, offset, len, now),
            Op::BlockStatus { offset, len } => return self.block_status(&request, offset, len, now),
            Op::Write { offset, fua, .. } => self.export.write(offset, payload, fua),
            Op::Flush => self.export.flush(),
            Op::Cache { offset, len } => self.export.cache(offset, len),
            Op::Trim { offset, len, fua } => self.export.trim(offset, len, fua),
            Op::WriteZeroes { offset, len, flags } => self.export.write_zeroes(offset, len, flags),
        };
        match done {
            Ok(()) => self.outbox.put(|out| proto::put_simple_reply(out, request.cookie, 0), &[], now),
            Err(error) => self.fail(&request, &error, None, now),
        }
    }

    fn fail(&self, request: &Request, error: &NbdError, place: Option<u64>, now: bool) -> io::Result<()> {
        let head = |out: &mut Vec<u8>| match self.terms.structured {
            true => proto::put_error_chunk(out, request.cookie, error, place),
            false => proto::put_simple_reply(out, request.cookie, error.errno()),
        };
        self.outbox.put(head, &[], now)
    }

    fn put_read_head(&self, out: &mut Vec<u8>, cookie: u64, done: bool, offset: u64, data_bytes: usize) {
        match self.terms.structured {
            true => proto::put_data_chunk_head(out, cookie, done, offset, data_bytes),
            false => proto::put_simple_reply(out, cookie, 0),
        }
    }

    fn read(&self, request: &Request, offset: u64, len: u32, now: bool) -> io::Result<()> {
        let splits = self.terms.structured && request.flags & command_flag::DF == 0;
        if splits && len >= SPARSE_READ_BYTES_MIN {
            return self.read_in_chunks(request, offset, len, now);
        }
        let mut data = vec![0; len as usize];
        match self.export.read(offset, &mut data) {
            Ok(()) => {
                let head = |out: &mut Vec<u8>| self.put_read_head(out, request.cookie, true, offset, data.len());
                self.outbox.put(head, &data, now)
            }
            Err(error) => self.fail(request, &error, None, now),
        }
    }

    /// Answers a long read with a chunk for each hole and each piece of data.
    fn read_in_chunks(&self, request: &Request, offset: u64, len: u32, now: bool) -> io::Result<()> {
        let end = offset + u64::from(len);
        let extents = match self.export.block_status(offset, len, EXTENTS_MAX) {
            Ok(extents) => extents,
            Err(error) => return self.fail(request, &error, None, now),
        };
        let mut extents = extents.into_iter();
        let mut buffer = Vec::new();
        let (mut at, mut run_end, mut zero) = (offset, offset, false);
        while at < end {
            if at == run_end {
                // Behind the last extent told, all is read as data.
                (run_end, zero) = extents.next().map_or((end, false), |next| ((at + next.len).min(end), next.zero));
                continue;
            }
            if zero {
                let hole = (run_end - at) as u32;
                let head = |out: &mut Vec<u8>| proto::put_hole_chunk(out, request.cookie, run_end == end, at, hole);
                self.outbox.put(head, &[], now)?;
                at = run_end;
                continue;
            }
            let piece_end = run_end.min(at + CHUNK_BYTES_MAX);
            buffer.resize((piece_end - at) as usize, 0);
            if let Err(error) = self.export.read(at, &mut buffer) {
                return self.fail(request, &error, Some(at), now);
            }
            let done = piece_end == end;
            let head = |out: &mut Vec<u8>| self.put_read_head(out, request.cookie, done, at, buffer.len());
            self.outbox.put(head, &buffer, now)?;
            at = piece_end;
        }
        Ok(())
    }

    fn block_status(&self, request: &Request, offset: u64, len: u32, now: bool) -> io::Result<()> {
        let extents_max = if request.flags & command_flag::REQ_ONE != 0 { 1 } else { EXTENTS_MAX };
        let extents = match self.export.block_status(offset, len, extents_max) {
            Ok(extents) => extents,
            Err(error) => return self.fail(request, &error, None, now),
        };
        let mut left = len;
        let mut rows: Vec<(u32, u32)> = Vec::with_capacity(extents.len());
        for extent in extents {
            let len = u32::try_from(extent.len).unwrap_or(u32::MAX).min(left);
            let hole = if extent.hole { proto::allocation::HOLE } else { 0 };
            let flags = hole | if extent.zero { proto::allocation::ZERO } else { 0 };
            left -= len;
            match rows.last_mut() {
                Some(last) if last.1 == flags => last.0 += len,
                _ if len > 0 => rows.push((len, flags)),
                _ => {}
            }
        }
        assert!(!rows.is_empty(), "an export tells at least one extent of what it is asked about");
        self.outbox.put(|out| proto::put_status_chunk(out, request.cookie, &rows), &[], now)
    }

    /// Ends the connection at once: nothing more is read, done or sent.
    fn abandon(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.in_flight -= queue.tasks.len();
        queue.tasks.clear();
        drop(queue);
        self.work_came.notify_all();
        self.room_came.notify_all();
        self.socket.shutdown(Shutdown::Both);
    }

    /// A worker's life.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            let Some(task) = queue.tasks.pop_front() else {
                if queue.closed {
                    return;
                }
                queue.idle_workers += 1;
                self.work_came.wait(&mut queue);
                queue.idle_workers -= 1;
                continue;
            };
            drop(queue);
            let weight_bytes = task.weight_bytes;
            if self.perform(task, true).is_err() {
                self.abandon();
            }
            queue = self.queue.lock();
            queue.in_flight -= 1;
            queue.in_flight_bytes -= weight_bytes;
            self.room_came.notify_one();
        }
    }
}

/// What a request holds in memory until it is answered, in bytes.
fn weight_bytes(op: &Op) -> u64 {
    const OWN_BYTES: u64 = 512;
    match *op {
        Op::Read { len, .. } | Op::Write { len, .. } => OWN_BYTES + u64::from(len),
        Op::BlockStatus { .. } => OWN_BYTES + 8 * EXTENTS_MAX as u64,
        Op::Flush | Op::Cache { .. } | Op::Trim { .. } | Op::WriteZeroes { .. } => OWN_BYTES,
    }
}

const _: () = assert!(REQUEST_BYTES_MAX as u64 <= u32::MAX as u64 / 2, "a run of pieces stays within 32 bits");

/// The worker threads, started as tasks come.
struct Workers {
    shared: Arc<Shared>,
    limits: ConnectionLimits,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn give(&mut self, task: Task) -> io::Result<()> {
        let mut queue = self.shared.queue.lock();
        queue.in_flight += 1;
        queue.in_flight_bytes += task.weight_bytes;
        queue.tasks.push_back(task);
        let waiting = queue.tasks.len() > queue.idle_workers;
        drop(queue);
        self.shared.work_came.notify_one();
        if waiting && self.threads.len() < self.limits.workers_max.max(1) {
            let shared = self.shared.clone();
            let work = move || {
                let guard = AbandonOnPanic(&shared);
                shared.work();
                drop(guard);
            };
            match thread::Builder::new().name("nbd-io".into()).spawn(work) {
                Ok(thread) => self.threads.push(thread),
                // With one worker at least the requests go on, only slower.
                Err(error) if self.threads.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Lets the queued tasks be done and the threads end.
    fn finish(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work_came.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of an export was reported by the panic hook, and has ended the connection already.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.abandon();
        }
        self.finish();
    }
}

struct AbandonOnPanic<'a>(&'a Shared);

impl Drop for AbandonOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abandon();
        }
    }
}
