//! The process server's cache: sequencer and segment files as a machine's actor drives them. Acknowledged: durable LSNs.

use std::sync::Arc;
use std::time::Duration;

use farshore_engine::batch::Batch;
use farshore_engine::cache::CacheError;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::file::SegmentFile;
use farshore_engine::cache::io::DiskIo;
use farshore_engine::cache::recover::{DiscardReason, Recovered, Unlocked, recover, unlock};
use farshore_engine::ids::{Epoch, IncarnationId, MachineId, Salt, Slot, TimelineId, Timestamp, WriterId};
use farshore_engine::log::Owner;
use farshore_engine::log::sequencer::{ClosedSegment, LogOf, Sequencer, SequencerLimits};
use farshore_engine::sim::chance::SeededChance;
use farshore_engine::sim::maker::{Maker, seal};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::segment::{FooterDigest, FooterPlace, seal_footer};
use farshore_engine::vault::state::LogState;

use super::Job;

const OWNER: Owner = Owner { epoch: Epoch(3), writer: WriterId([4; 16]) };
/// Small, so that a round has several of them, footers included.
const SEGMENT_BYTES: u64 = 64 << 10;

fn key() -> DataKey {
    DataKey::from_bytes([7; 32])
}

/// Everything up to the last durable LSN is there, without a hole.
fn check(job: &Job, unlocked: &Unlocked) -> Result<String, String> {
    // The crash may have torn or doubled what was not durable; nothing that was may be among the discarded.
    let harmless = |reason: &DiscardReason| {
        matches!(reason, DiscardReason::Empty | DiscardReason::Torn | DiscardReason::Superseded)
    };
    let at = unlocked.state.last_lsn.0;
    let durable = job.acked.highest("durable").unwrap_or(0);
    if at < durable {
        return Err(format!("durable up to {durable}, found up to {at}; discarded: {:?}", unlocked.discarded));
    }
    if let Some(bad) = unlocked.discarded.iter().find(|discarded| !harmless(&discarded.reason)) {
        return Err(format!("a file cannot be used: {bad:?}"));
    }
    Ok(format!("LSN {at} of {durable} found in {} segments", unlocked.closed.len()))
}

struct Machine<'a> {
    job: &'a Job,
    dir: CacheDir,
    sequencer: Sequencer,
    chance: SeededChance,
    file: Option<SegmentFile>,
    slot: u64,
}

impl Machine<'_> {
    fn take(&mut self, batch: Batch) -> Result<(), CacheError> {
        let dispatch =
            self.sequencer.accept(batch, Duration::ZERO, Timestamp(0), &mut self.chance).expect("it follows");
        seal(&key(), &dispatch).into_iter().for_each(|item| assert!(self.sequencer.sealed(dispatch.batch, item)));
        while let Some(append) = self.sequencer.take_append() {
            if let Some(identity) = &append.create {
                self.file = Some(SegmentFile::create(&self.dir, append.segment, identity)?);
            }
            let file = self.file.as_mut().expect("a segment's first append creates it");
            file.append(append.offset, &append.parts)?;
            file.sync()?;
            let durable = self.sequencer.appended_and_synced(append.append);
            self.job.acks.note("durable", durable.0);
        }
        while let Some(closed) = self.sequencer.take_closed() {
            self.footer(&closed)?;
        }
        Ok(())
    }

    /// As the upload stream does: the footer behind the items, and the note that vouches for it.
    fn footer(&mut self, closed: &ClosedSegment) -> Result<(), CacheError> {
        self.slot += 1;
        let place = FooterPlace { slot: Slot(self.slot), previous: FooterDigest::NONE };
        let index = closed.index.as_ref().expect("a segment of this life has its index");
        let (salt, at) = (Salt::draw(&mut self.chance), Timestamp(1));
        let footer =
            seal_footer(&key(), &closed.identity, place, index, &closed.state_after, salt, at, closed.items_end);
        let mut file = SegmentFile::open(&self.dir, closed.segment)?;
        file.write_footer(closed.items_end, &footer.bytes, place, footer.digest)
    }
}

pub(super) fn run(job: &Job) {
    let (machine, timeline) = (MachineId([1; 16]), TimelineId([2; 8]));
    let dir = CacheDir::open(Arc::new(DiskIo), &job.folder, machine, timeline).expect("the cache opens");
    let owned = dir.owner().map_err(|error| error.to_string());
    if !job.acked.is_empty() && owned != Ok(Some(OWNER)) {
        job.found(Err(format!("the owner was synced before the first append, found {owned:?}")));
        return;
    }
    dir.claim(OWNER).expect("nobody else's");
    let recovered: Recovered = recover(&dir, OWNER).expect("the disk works");
    let unlocked = unlock(&dir, &recovered, &key(), LogState::default()).expect("the disk works");
    if !job.found(check(job, &unlocked)) {
        return;
    }
    for discarded in recovered.discarded.iter().chain(&unlocked.discarded) {
        dir.remove(discarded.segment).expect("a file that is not used can go");
    }
    let state = unlocked.state;
    let limits = SequencerLimits { segment_bytes_max: SEGMENT_BYTES, ..SequencerLimits::default() };
    let log = LogOf { machine, timeline, owner: OWNER };
    let mut maker = Maker::new(&key(), 2, 1000, state.last_lsn.next());
    let life = maker.begin(IncarnationId([job.seed as u8; 16]), state.incarnation);
    let sequencer = Sequencer::new(log, limits, state, recovered.next_segment.max(farshore_engine::log::SegmentNo(1)));
    let chance = SeededChance::new(job.seed);
    let mut it = Machine { job, dir, sequencer, chance, file: None, slot: job.seed << 32 };
    let mut taken = it.take(life);
    while taken.is_ok() {
        let writes = it.chance.between(1, 12);
        let batch = maker.writes(writes, &mut it.chance).0;
        taken = it.take(batch);
    }
    // The power is gone: whatever fails now was not acknowledged.
}
