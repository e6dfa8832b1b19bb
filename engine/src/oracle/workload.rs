//! The workload: threads that write stamped blocks through NBD, journalled, for as long as asked, whatever happens to the
//! server in between.
//!
//! Each thread has one connection to one disk and one request in flight; queue depth is threads. A block has one
//! write in flight at a time, so that its writes have an order. When a connection breaks, the thread connects again
//! within a bound of time and sends the same write again under the same sequence. (Sound as long as a server does not go on with a
//! dead connection's writes after it took new ones; ours finishes or drops them.) A resumed workload first settles what an earlier
//! process left unanswered, in the same way.

mod link;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::link::{Link, connect};
pub use self::pattern::Pattern;
use self::pattern::Picker;
use super::history::{Answer, History};
use super::journal::{Journal, JournalDisk, JournalError, JournalHeader, WriteKind};
use super::stamp::Numbers;
use crate::ids::Timestamp;
use crate::nbd::{ClientError, NbdError, NbdUri};

/// Latencies are counted in powers of two of microseconds, up to this many.
const LATENCY_BUCKETS: usize = 32;

/// What is written, where and how fast.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The exports of one machine's disks, in order of their numbers.
    pub disks: Vec<NbdUri>,
    /// Seed of places and payloads.
    pub seed: u64,
    /// Size of a block: 512, 1024, 2048 or 4096 bytes, and a multiple of every disk's sector.
    pub block_bytes: u32,
    /// Connections to each disk, each with one request in flight.
    pub connections: usize,
    /// Where writes go.
    pub pattern: Pattern,
    /// Most blocks of a write; each write draws a number from 1 to this.
    pub blocks_max: u32,
    /// Only this many bytes from the front of each disk are used; 0 for all.
    pub span_bytes: u64,
    /// Of a hundred writes, how many are zeroes.
    pub zero_percent: u8,
    /// Of a hundred writes, how many are trims.
    pub trim_percent: u8,
    /// Of a hundred writes, how many must be stable on return.
    pub fua_percent: u8,
    /// Of a hundred requests, how many are reads that are compared with what was acknowledged.
    pub read_percent: u8,
    /// A flush after this many writes of a connection; 0 for none.
    pub flush_every: u64,
    /// Writes a second over all disks; `None` as fast as they go.
    pub rate: Option<f64>,
    /// When to stop; without, only by the caller.
    pub duration: Option<Duration>,
    /// How many writes to make; without, only by time.
    pub writes: Option<u64>,
    /// Longest time without a connection before the workload gives up.
    pub reconnect: Duration,
    /// Go on when the server answers with an error.
    pub tolerate_errors: bool,
}

impl Workload {
    /// A random workload on these disks, four connections each, until it is stopped.
    pub fn new(disks: Vec<NbdUri>) -> Self {
        Self {
            disks,
            seed: 1,
            block_bytes: 4096,
            connections: 4,
            pattern: Pattern::Random,
            blocks_max: 4,
            span_bytes: 0,
            zero_percent: 0,
            trim_percent: 0,
            fua_percent: 0,
            read_percent: 0,
            flush_every: 0,
            rate: None,
            duration: None,
            writes: None,
            reconnect: Duration::from_secs(30),
            tolerate_errors: false,
        }
    }
}

/// Why a workload ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It cannot be run as asked.
    #[error("{0}")]
    Plan(String),
    /// The journal cannot be written: nothing could be proved of what follows.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The server was away for too long, or does not serve what is asked for.
    #[error("disk {disk} ({uri}) is out of reach: {source}")]
    Unreachable {
        /// The disk's number.
        disk: u16,
        /// Its export.
        uri: String,
        /// Why.
        source: ClientError,
    },
    /// The server answered with an error.
    #[error("disk {disk} block {block}: write {seq} was refused: {source}")]
    Refused {
        /// The disk's number.
        disk: u16,
        /// First block of the write.
        block: u64,
        /// Its sequence.
        seq: u64,
        /// Why.
        source: NbdError,
    },
    /// A read showed something else than the last acknowledged write.
    #[error(
        "disk {disk} block {block} reads wrong while it is served: write {seq} was acknowledged last, it shows {shows}"
    )]
    WrongRead {
        /// The disk's number.
        disk: u16,
        /// The block.
        block: u64,
        /// What should be there.
        seq: u64,
        /// What is.
        shows: String,
    },
}

/// What a workload did.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct WorkloadReport {
    /// Writes acknowledged.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Writes answered with an error.
    pub failed_writes: u64,
    /// Reads that were right.
    pub reads: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Connections that were lost and made again.
    pub reconnects: u64,
    /// Writes of an earlier process that were settled first.
    pub settled_writes: u64,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// Half of the writes took at most this long, in microseconds, to a power of two.
    pub latency_p50_micros: u64,
    /// 99 of 100 writes took at most this long, in microseconds, to a power of two.
    pub latency_p99_micros: u64,
    /// The longest write, in microseconds.
    pub latency_max_micros: u64,
    /// The last sequence drawn.
    pub last_seq: u64,
}

/// What the threads share.
struct Run<'a> {
    plan: &'a Workload,
    journal: &'a Journal,
    now: &'a (dyn Fn() -> Timestamp + Sync),
    stop: &'a AtomicBool,
    /// Set when one thread fails.
    failed: AtomicBool,
    begun: Instant,
    /// Requests begun, for count and rate.
    tickets: AtomicU64,
    disks: Vec<Mutex<DiskState>>,
    report: Mutex<WorkloadReport>,
    latencies: [AtomicU64; LATENCY_BUCKETS],
    latency_max_micros: AtomicU64,
}

/// One disk as the workload knows it.
#[derive(Default)]
struct DiskState {
    busy: BTreeSet<u64>,
    /// The last write of each block.
    last: BTreeMap<u64, Last>,
}

#[derive(Clone, Copy)]
struct Last {
    seq: u64,
    kind: WriteKind,
    /// Whether the block surely shows it.
    certain: bool,
}

/// The header of the journal of a workload on these disks; asks each for its size.
pub fn header(plan: &Workload) -> Result<JournalHeader, WorkloadError> {
    if !matches!(plan.block_bytes, 512 | 1024 | 2048 | 4096) || plan.blocks_max == 0 || plan.connections == 0 {
        return Err(WorkloadError::Plan(
            "blocks are 512, 1024, 2048 or 4096 bytes; blocks and connections at least 1".into(),
        ));
    }
    let mut disks = Vec::new();
    for (disk, uri) in plan.disks.iter().enumerate() {
        // Whoever is not there yet may come; whoever says no will say so again.
        let client = connect(plan, disk as u16, &|error| matches!(error, ClientError::TurnedDown { .. }))?;
        if client.is_read_only() {
            return Err(WorkloadError::Plan(format!("{uri} is read-only")));
        }
        let most = u64::from(plan.blocks_max) * u64::from(plan.block_bytes);
        if !plan.block_bytes.is_multiple_of(client.sector_bytes()) || client.size_bytes() < most {
            let (sector_bytes, size_bytes) = (client.sector_bytes(), client.size_bytes());
            let why =
                format!("{uri} has {size_bytes} bytes in sectors of {sector_bytes}: too small, or not for such blocks");
            return Err(WorkloadError::Plan(why));
        }
        disks.push(JournalDisk { name: uri.export.clone(), size_bytes: client.size_bytes() });
    }
    Ok(JournalHeader { seed: plan.seed, block_bytes: plan.block_bytes, disks })
}

/// Runs the workload until its end, an error, or `stop`. `earlier` is what the journal told when it was resumed.
pub fn run(
    plan: &Workload,
    journal: &Journal,
    earlier: Option<&History>,
    now: &(dyn Fn() -> Timestamp + Sync),
    stop: &AtomicBool,
) -> Result<WorkloadReport, WorkloadError> {
    let run = Run {
        plan,
        journal,
        now,
        stop,
        failed: AtomicBool::new(false),
        begun: Instant::now(),
        tickets: AtomicU64::new(0),
        disks: journal.header().disks.iter().map(|_| Mutex::default()).collect(),
        report: Mutex::default(),
        latencies: [const { AtomicU64::new(0) }; LATENCY_BUCKETS],
        latency_max_micros: AtomicU64::new(0),
    };
    if let Some(earlier) = earlier {
        run.settle(earlier)?;
    }
    let first_failure = thread::scope(|scope| {
        let mut threads = Vec::new();
        for disk in 0..plan.disks.len() {
            for connection in 0..plan.connections {
                let run = &run;
                threads.push(scope.spawn(move || {
                    let result = run.connection(disk as u16, connection);
                    if result.is_err() {
                        run.failed.store(true, Ordering::Relaxed);
                    }
                    result
                }));
            }
        }
        let results = threads.into_iter().map(|thread| thread.join().expect("a workload's thread does not panic"));
        results.collect::<Vec<_>>().into_iter().find_map(Result::err)
    });
    first_failure.map_or_else(|| Ok(run.finish()), Err)
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.failed.load(Ordering::Relaxed)
            || self.plan.duration.is_some_and(|duration| self.begun.elapsed() >= duration)
    }

    /// Takes the right to one more write, when the rate allows; false at the end.
    fn next_ticket(&self) -> bool {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if self.plan.writes.is_some_and(|writes| ticket >= writes) {
            return false;
        }
        if let Some(rate) = self.plan.rate {
            let due = Duration::from_secs_f64(ticket as f64 / rate.max(0.001));
            while let Some(left) = due.checked_sub(self.begun.elapsed()).filter(|left| !left.is_zero()) {
                if self.is_over() {
                    return false;
                }
                thread::sleep(left.min(Duration::from_millis(100)));
            }
        }
        !self.is_over()
    }

    /// One connection's life.
    fn connection(&self, disk: u16, connection: usize) -> Result<(), WorkloadError> {
        let seed = self.plan.seed ^ (u64::from(disk) << 32) ^ ((connection as u64) << 48) ^ self.journal.next_seq();
        let mut numbers = Numbers::new(seed);
        let mut picker = Picker::new(self.plan, self.journal.header(), disk, connection);
        let mut link = Link::new(self, disk);
        let mut writes = 0;
        while self.next_ticket() {
            let Some((block, blocks)) = self.claim(disk, &mut picker, &mut numbers) else { continue };
            let result = if numbers.percent(self.plan.read_percent) {
                link.read(block, blocks)
            } else {
                writes += 1;
                let kind = match numbers.below(100) {
                    draw if draw < u64::from(self.plan.zero_percent) => WriteKind::Zeroes,
                    draw if draw < u64::from(self.plan.zero_percent) + u64::from(self.plan.trim_percent) => {
                        WriteKind::Trim
                    }
                    _ => WriteKind::Stamped,
                };
                link.write(kind, block, blocks, numbers.percent(self.plan.fua_percent))
            };
            self.release(disk, block, blocks);
            result?;
            if self.plan.flush_every > 0 && writes > 0 && writes % self.plan.flush_every == 0 {
                link.flush()?;
            }
        }
        Ok(())
    }

    /// Takes a run of blocks that nobody else has in flight.
    fn claim(&self, disk: u16, picker: &mut Picker, numbers: &mut Numbers) -> Option<(u64, u32)> {
        let mut state = self.disks[usize::from(disk)].lock();
        let (block, blocks) = picker.pick(numbers);
        let range = block..block + u64::from(blocks);
        if state.busy.range(range.clone()).next().is_some() {
            drop(state);
            // It is somebody else's for the length of a request; another place is drawn.
            self.tickets.fetch_sub(1, Ordering::Relaxed);
            thread::yield_now();
            return None;
        }
        state.busy.extend(range);
        Some((block, blocks))
    }

    fn release(&self, disk: u16, block: u64, blocks: u32) {
        let mut state = self.disks[usize::from(disk)].lock();
        for block in block..block + u64::from(blocks) {
            state.busy.remove(&block);
        }
    }

    fn remember(&self, disk: u16, block: u64, blocks: u32, last: Last) {
        let mut state = self.disks[usize::from(disk)].lock();
        for block in block..block + u64::from(blocks) {
            state.last.insert(block, last);
        }
    }

    /// Learns what an earlier process did, and sends what it left unanswered again.
    fn settle(&self, earlier: &History) -> Result<(), WorkloadError> {
        for ((disk, block), write) in earlier.last_of_blocks() {
            let certain = matches!(write.answer, Answer::Acknowledged { .. });
            self.remember(disk, block, 1, Last { seq: write.seq, kind: write.kind, certain });
        }
        for write in earlier.unanswered() {
            let mut link = Link::new(self, write.disk);
            link.send(write, false)?;
            self.report.lock().settled_writes += 1;
        }
        Ok(())
    }

    fn count_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = (64 - micros.leading_zeros() as usize).min(LATENCY_BUCKETS - 1);
        self.latencies[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_max_micros.fetch_max(micros, Ordering::Relaxed);
    }

    fn finish(self) -> WorkloadReport {
        let counts: Vec<u64> = self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let quantile = |percent: u64| {
            let mut left = (total * percent).div_ceil(100);
            let bucket = counts.iter().position(|count| {
                let here = left <= *count;
                left = left.saturating_sub(*count);
                here
            });
            bucket.map_or(0, |bucket| (1_u64 << bucket) - 1)
        };
        WorkloadReport {
            seconds: self.begun.elapsed().as_secs_f64(),
            latency_p50_micros: quantile(50),
            latency_p99_micros: quantile(99),
            latency_max_micros: self.latency_max_micros.load(Ordering::Relaxed),
            last_seq: self.journal.next_seq() - 1,
            ..self.report.into_inner()
        }
    }
}

#[cfg(test)]
mod tests;
