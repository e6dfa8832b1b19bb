//! The disk actor: seals one disk's frames.
//!
//! Owns: the sections of its disk that wait to be sealed. Parent: the machine, which keeps every section until its
//! batch is durable and sends it again to the next life.
//! Bounds: the machine's window; two lots of at most [`LOT_BYTES_MAX`] are in the sealing pool at a time.
//! In: [`SealFrame`]. Out, to the machine: [`FramesSealed`].
//!
//! Crash story: nothing here is durable. What a life had in hand is dispatched again, under new item numbers.

use std::collections::VecDeque;

use actix::WeakAddr;
use actix::prelude::*;
use bytes::Bytes;
use farshore_engine::codec::Malformed;
use farshore_engine::ids::{DiskNo, Salt};
use farshore_engine::log::sequencer::{BatchNo, FrameJob};
use farshore_engine::vault::segment::{FrameSealer, SealedItem, SegmentIdentity};

use super::ledger::MachineSpec;
use super::machine::Machine;
use crate::supervise::{ActorKind, Life, OffloadError, Retire, Ward};

/// Bytes of sections in one job of the pool. Chosen: 1 MiB seals in 2 ms; half of it doubles the hops of small writes,
/// double of it makes other machines wait longer.
const LOT_BYTES_MAX: usize = 1 << 20;
/// Sections in one job.
const LOT_FRAMES_MAX: usize = 256;
/// Jobs in the pool at a time: one that runs, one that waits.
const LOTS_MAX: usize = 2;

/// What every life of a disk's actor is made of.
#[derive(Clone)]
pub(super) struct DiskSpec {
    pub(super) machine: MachineSpec,
    pub(super) disk: DiskNo,
    pub(super) home: WeakAddr<Machine>,
}

/// Seal this.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SealFrame {
    pub(super) batch: BatchNo,
    pub(super) identity: SegmentIdentity,
    pub(super) job: FrameJob,
}

/// To the machine: these are sealed, or cannot be.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct FramesSealed {
    pub(super) frames: Vec<(BatchNo, Result<SealedItem, Malformed>)>,
}

/// The actor.
pub(super) struct Disk {
    spec: DiskSpec,
    life: Life,
    queue: VecDeque<SealFrame>,
    lots: usize,
    /// The newest segment's sealer: making one derives a key.
    sealer: Option<(Salt, FrameSealer)>,
}

impl Actor for Disk {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
    }
}

impl Ward for Disk {
    type Id = DiskNo;
    type Spec = DiskSpec;
    const KIND: &'static str = "disk";

    fn revive(spec: DiskSpec, life: Life, _: &mut Context<Self>) -> Self {
        Self { spec, life, queue: VecDeque::new(), lots: 0, sealer: None }
    }
}

impl Disk {
    fn sealer(&mut self, identity: SegmentIdentity) -> FrameSealer {
        if let Some((salt, sealer)) = &self.sealer
            && *salt == identity.salt
        {
            return sealer.clone();
        }
        let key = self.spec.machine.key.get().expect("a machine dispatches frames only once it has its key");
        let sealer = FrameSealer::new(&key, identity).packed(self.spec.machine.packing());
        self.sealer = Some((identity.salt, sealer.clone()));
        sealer
    }

    fn next_lot(&mut self) -> Vec<(FrameSealer, BatchNo, FrameJob)> {
        let (mut lot, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.queue.front()
            && lot.len() < LOT_FRAMES_MAX
            && (lot.is_empty() || bytes + next.job.section.len() <= LOT_BYTES_MAX)
        {
            let next = self.queue.pop_front().expect("just seen");
            bytes += next.job.section.len();
            lot.push((self.sealer(next.identity), next.batch, next.job));
        }
        lot
    }

    fn start_lots(&mut self, ctx: &mut Context<Self>) {
        while self.lots < LOTS_MAX && !self.queue.is_empty() {
            let lot = self.next_lot();
            self.lots += 1;
            let pool = self.spec.machine.wiring.seal_pool.clone();
            let sealing = async move { pool.run(move || seal_lot(lot)).await };
            ctx.spawn(sealing.into_actor(self).map(|sealed, disk, ctx| disk.lot_is_sealed(sealed, ctx)));
        }
    }

    fn lot_is_sealed(&mut self, sealed: Result<Vec<Sealed>, OffloadError>, ctx: &mut Context<Self>) {
        self.lots -= 1;
        self.life.progress();
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(OffloadError::Closed { .. }) => return ctx.stop(),
            Err(error @ OffloadError::Panicked { .. }) => panic!("{error}"),
        };
        self.count(&sealed);
        if let Some(home) = self.spec.home.upgrade() {
            let frames = sealed.into_iter().map(|sealed| (sealed.batch, sealed.item)).collect();
            home.do_send(FramesSealed { frames });
        }
        self.start_lots(ctx);
    }

    fn count(&self, sealed: &[Sealed]) {
        self.spec.machine.board.edit(|status| {
            let counts = status.disks.entry(self.spec.disk).or_default();
            for sealed in sealed {
                let Ok(item) = &sealed.item else { continue };
                counts.frames += 1;
                counts.plain_bytes += sealed.plain_bytes;
                counts.sealed_bytes += item.bytes.len() as u64;
                counts.last_lsn = counts.last_lsn.max(item.header.last);
            }
        });
    }
}

struct Sealed {
    batch: BatchNo,
    plain_bytes: u64,
    item: Result<SealedItem, Malformed>,
}

fn seal_lot(lot: Vec<(FrameSealer, BatchNo, FrameJob)>) -> Vec<Sealed> {
    let seal = |(sealer, batch, job): (FrameSealer, BatchNo, FrameJob)| {
        let section: &Bytes = &job.section;
        let item = sealer.seal_frame(job.number, job.disk, job.first, job.last, section);
        Sealed { batch, plain_bytes: section.len() as u64, item }
    };
    lot.into_iter().map(seal).collect()
}

impl Handler<SealFrame> for Disk {
    type Result = ();

    fn handle(&mut self, msg: SealFrame, ctx: &mut Self::Context) {
        self.spec.machine.wiring.config.chaos.check(ActorKind::Disk, Some(self.spec.machine.machine));
        self.queue.push_back(msg);
        self.start_lots(ctx);
    }
}

impl Handler<Retire> for Disk {
    type Result = ();

    /// Nothing to flush: what is not sealed belongs to the machine.
    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
