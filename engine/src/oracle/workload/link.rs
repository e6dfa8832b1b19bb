//! One connection of a workload: it asks until there is an answer, and journals it.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::{Last, Run, Workload, WorkloadError};
use crate::nbd::{ClientError, ClientOptions, NbdClient, NbdError, ZeroFlags};
use crate::oracle::history::{Answer, WriteAt};
use crate::oracle::journal::{Event, WriteKind};
use crate::oracle::stamp::Stamp;

/// First wait between two attempts to connect; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);
/// Longest wait between two attempts to connect.
const RETRY_MAX: Duration = Duration::from_millis(500);
/// Connects, for as long as the plan allows and `give_up` does not say otherwise.
pub(super) fn connect(
    plan: &Workload,
    disk: u16,
    give_up: &dyn Fn(&ClientError) -> bool,
) -> Result<NbdClient, WorkloadError> {
    let uri = &plan.disks[usize::from(disk)];
    let until = Instant::now() + plan.reconnect;
    let mut wait = RETRY_MIN;
    loop {
        match NbdClient::connect(uri, ClientOptions { structured: true, timeout: Some(plan.reconnect) }) {
            Ok(client) => return Ok(client),
            Err(source) if Instant::now() >= until || give_up(&source) => {
                return Err(WorkloadError::Unreachable { disk, uri: uri.to_string(), source });
            }
            Err(_) => thread::sleep(wait),
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// One connection, made again whenever it breaks.
pub(super) struct Link<'a, 'b> {
    run: &'a Run<'b>,
    disk: u16,
    client: Option<NbdClient>,
}

impl<'a, 'b> Link<'a, 'b> {
    pub(super) fn new(run: &'a Run<'b>, disk: u16) -> Self {
        Self { run, disk, client: None }
    }

    /// Asks until there is an answer, over as many connections as that takes.
    fn ask<T>(
        &mut self,
        mut request: impl FnMut(&mut NbdClient) -> Result<T, ClientError>,
    ) -> Result<Result<T, NbdError>, WorkloadError> {
        loop {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => connect(self.run.plan, self.disk, &|_| self.run.failed.load(Ordering::Relaxed))?,
            };
            match request(&mut client) {
                Ok(answer) => {
                    self.client = Some(client);
                    return Ok(Ok(answer));
                }
                // A server that stops asks to come again; the write was not done.
                Err(ClientError::Refused(NbdError::Shutdown(_)) | ClientError::Broken(_)) => {
                    self.run.report.lock().reconnects += 1;
                    self.run.journal.note(Event::Reconnected, 0, (self.run.now)())?;
                }
                Err(ClientError::Refused(error)) => {
                    self.client = Some(client);
                    return Ok(Err(error));
                }
                Err(source) => {
                    let uri = self.run.plan.disks[usize::from(self.disk)].to_string();
                    return Err(WorkloadError::Unreachable { disk: self.disk, uri, source });
                }
            }
        }
    }

    pub(super) fn write(&mut self, kind: WriteKind, block: u64, blocks: u32, fua: bool) -> Result<(), WorkloadError> {
        let run = self.run;
        let submitted_at = (run.now)();
        let seq = run.journal.submit(Event::Submitted { kind, disk: self.disk, block, blocks }, submitted_at)?;
        let write = WriteAt { seq, kind, disk: self.disk, block, blocks, submitted_at, answer: Answer::None };
        let begun = Instant::now();
        self.send(&write, fua)?;
        run.count_latency(begun.elapsed());
        Ok(())
    }

    /// Sends a write that is in the journal, and journals its answer.
    pub(super) fn send(&mut self, write: &WriteAt, fua: bool) -> Result<(), WorkloadError> {
        let (run, plan) = (self.run, self.run.plan);
        let WriteAt { seq, kind, disk, block, blocks, .. } = *write;
        let block_bytes = plan.block_bytes as usize;
        let (offset, len) = (block * u64::from(plan.block_bytes), blocks * plan.block_bytes);
        let mut data = Vec::new();
        if kind == WriteKind::Stamped {
            data.resize(len as usize, 0);
            for (block, out) in (block..).zip(data.chunks_mut(block_bytes)) {
                Stamp { seed: plan.seed, disk, block, seq }.fill(out);
            }
        }
        let answer = self.ask(|client| match kind {
            WriteKind::Stamped => client.write(offset, &data, fua),
            WriteKind::Zeroes => client.write_zeroes(offset, len, ZeroFlags { fua, ..ZeroFlags::default() }),
            WriteKind::Trim => client.trim(offset, len, fua),
        })?;
        let event = if answer.is_ok() { Event::Acknowledged } else { Event::Failed };
        run.journal.note(event, seq, (run.now)())?;
        run.remember(disk, block, blocks, Last { seq, kind, certain: answer.is_ok() });
        let mut report = run.report.lock();
        match answer {
            Ok(()) => {
                report.writes += 1;
                report.write_bytes += u64::from(len);
                Ok(())
            }
            Err(_) if plan.tolerate_errors => {
                report.failed_writes += 1;
                Ok(())
            }
            Err(source) => Err(WorkloadError::Refused { disk, block, seq, source }),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), WorkloadError> {
        let run = self.run;
        let seq = run.journal.submit(Event::FlushSubmitted { disk: self.disk }, (run.now)())?;
        let answer = self.ask(NbdClient::flush)?;
        let event = if answer.is_ok() { Event::Acknowledged } else { Event::Failed };
        run.journal.note(event, seq, (run.now)())?;
        match answer {
            Ok(()) => run.report.lock().flushes += 1,
            Err(_) if run.plan.tolerate_errors => {}
            Err(source) => return Err(WorkloadError::Refused { disk: self.disk, block: 0, seq, source }),
        }
        Ok(())
    }

    /// Reads blocks that nobody writes and compares them with the last acknowledged write.
    pub(super) fn read(&mut self, block: u64, blocks: u32) -> Result<(), WorkloadError> {
        let (run, plan) = (self.run, self.run.plan);
        let block_bytes = plan.block_bytes as usize;
        let mut data = vec![0; blocks as usize * block_bytes];
        let offset = block * u64::from(plan.block_bytes);
        let answer = self.ask(|client| client.read(offset, &mut data))?;
        match answer {
            Ok(()) => {}
            Err(_) if plan.tolerate_errors => return Ok(()),
            Err(source) => return Err(WorkloadError::Refused { disk: self.disk, block, seq: 0, source }),
        }
        for (block, data) in (block..).zip(data.chunks(block_bytes)) {
            let last = run.disks[usize::from(self.disk)].lock().last.get(&block).copied();
            let Some(Last { seq, kind, certain: true }) = last else { continue };
            let right = match kind {
                WriteKind::Stamped => {
                    Stamp { seed: plan.seed, disk: self.disk, block, seq }.wrong_sectors(data).is_empty()
                }
                WriteKind::Zeroes => data.iter().all(|byte| *byte == 0),
                WriteKind::Trim => true,
            };
            if !right {
                let shows = Stamp::read(data).map_or("no stamp".into(), |stamp| format!("write {}", stamp.seq));
                return Err(WorkloadError::WrongRead { disk: self.disk, block, seq, shows });
            }
        }
        run.report.lock().reads += 1;
        Ok(())
    }
}
