//! What a cache directory holds after a restart.
//!
//! ```text
//!   recover (no key)   every file in order: header, owner, whole batches; cut behind the last ─► RecoveredSegment
//!   unlock (key)       every item opened, the log's order checked from the log's end on        ─► ClosedSegment
//! ```
//!
//! Crash story
//! - A segment that was open is cut behind its last whole batch and closed as it is; nothing is ever appended to it. What
//!   of it was synced nobody knows any more: after a kill, batches are there that only the page cache has, and after
//!   a failed sync that nobody lived to act on, no second sync would bring them to the disk. So the last file is written
//!   anew, or over itself where there is no room for another, and synced before anything in it counts as durable.
//! - An append that was abandoned may have left whole batches behind what was synced, and the agent has sent them again
//!   into a later file. Where two files hold the same LSNs the later file counts, and the earlier one is cut.
//! - What the vault has already is committed; it stays as room that can be had back.
//! - A file of another owner, or one that nothing is known of, is discarded. So is everything behind damage: a hole in
//!   the log must not be sent. The agent has kept it until it is committed, and sends it again.
//! - A segment with a note (`cache::note`) needs no key to be sent while its place holds.

use bytes::Bytes;

use super::dir::CacheDir;
use super::note::{NOTE_BYTES, Note};
use super::{CacheError, Doing};
use crate::ids::Lsn;
use crate::log::sequencer::ClosedSegment;
use crate::log::{Owner, SegmentNo};
use crate::record::{Record, RecordAt};
use crate::vault::crypto::DataKey;
use crate::vault::segment::header::HEADER_BYTES;
use crate::vault::segment::{FrameOpener, Scan, SegmentIdentity, SegmentIndex, rebuild_index, scan_whole_batches};
use crate::vault::state::LogState;

/// Longest file that is read. Chosen: a segment closes at 16 MiB or with the batch that passes that; nothing that we
/// wrote is longer.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A segment file with at least one whole batch of this owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Which.
    pub segment: SegmentNo,
    /// What its items are bound to.
    pub identity: SegmentIdentity,
    /// Its first LSN.
    pub first: Lsn,
    /// Its last LSN.
    pub last: Lsn,
    /// Behind its last whole batch, in bytes.
    pub items_end: u64,
    /// How long the file is now, in bytes.
    pub file_bytes: u64,
    /// The note behind its footer, where it has a whole one.
    pub note: Option<Note>,
    /// Something stood behind the items that is no footer: a torn batch, an abandoned append, or damage.
    pub cut: bool,
    /// Between it and the file before it is a damaged one: LSNs may be missing between them.
    pub behind_damage: bool,
}

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscardReason {
    /// Another owner, machine or timeline wrote it.
    #[error("it belongs to another owner")]
    Foreign,
    /// It holds no more than its header: nothing in it was ever reported durable.
    #[error("it holds nothing")]
    Empty,
    /// Its first batch is not whole: the crash came before it was synced, or it is damaged.
    #[error("its first batch is not whole")]
    Torn,
    /// All it holds was sent again into later files.
    #[error("an append to it was abandoned, and what it holds was sent again")]
    Superseded,
    /// It cannot be read as a segment.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The log holds a part of it: an earlier life published it shorter.
    #[error("the log holds a part of it already, up to LSN {0}")]
    PartlyCommitted(Lsn),
    /// It does not follow what is before it.
    #[error("it does not follow what is before it: {0}")]
    Hole(String),
}

/// A file that is not used. The caller removes it, and says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    /// Which.
    pub segment: SegmentNo,
    /// Why.
    pub reason: DiscardReason,
}

/// What lies in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments of this owner, in log order.
    pub segments: Vec<RecoveredSegment>,
    /// Files that are not used.
    pub discarded: Vec<Discarded>,
    /// The first number that no file has.
    pub next_segment: SegmentNo,
}

/// What the key made of it.
#[derive(Debug, Clone, Default)]
pub struct Unlocked {
    /// Segments that the vault has: room that can be had back.
    pub committed: Vec<RecoveredSegment>,
    /// Segments to be sent, in order, without their indexes (see [`reindex`]).
    pub closed: Vec<(ClosedSegment, Option<Note>)>,
    /// Files that are not used.
    pub discarded: Vec<Discarded>,
    /// The log's state behind the last of them: what is durable.
    pub state: LogState,
}

/// Takes stock of a directory, without a key.
///
/// # Errors
/// When the cache disk fails. A damaged file is no error: it is discarded.
pub fn recover(dir: &CacheDir, owner: Owner) -> Result<Recovered, CacheError> {
    let mut recovered = survey(dir, owner)?;
    if let Some(last) = recovered.segments.last_mut().filter(|last| last.note.is_none()) {
        settle(dir, last)?;
    }
    Ok(recovered)
}

/// What lies there, whether it is on the disk or only in the page cache.
pub(crate) fn survey(dir: &CacheDir, owner: Owner) -> Result<Recovered, CacheError> {
    let mut recovered = Recovered::default();
    let mut scans: Vec<(SegmentNo, Scan, u64, Option<Note>)> = Vec::new();
    for segment in dir.segments()? {
        recovered.next_segment = segment.next();
        match scan_file(dir, segment, owner)? {
            Ok((scan, file_bytes, note)) => scans.push((segment, scan, file_bytes, note)),
            Err(reason) => recovered.discarded.push(Discarded { segment, reason }),
        }
    }
    // From the last to the first: what a later file holds is not taken from an earlier one.
    let mut later: Option<Lsn> = None;
    for (segment, mut scan, file_bytes, note) in scans.into_iter().rev() {
        let whole = scan.batches.len();
        scan.batches.retain(|batch| later.is_none_or(|later| batch.last < later));
        let kept = scan.batches.last().zip(scan.batches.first()).map(|(last, first)| (first.first, last));
        let Some((first, end)) = kept else {
            let reason = match whole {
                0 if file_bytes <= HEADER_BYTES as u64 => DiscardReason::Empty,
                0 => DiscardReason::Torn,
                _ => DiscardReason::Superseded,
            };
            recovered.discarded.push(Discarded { segment, reason });
            continue;
        };
        let note = note.filter(|note| note.items_end == end.end);
        let cut = note.is_none() && end.end < file_bytes;
        let (identity, last, items_end) = (scan.identity, end.last, end.end);
        let behind_damage = false;
        let found =
            RecoveredSegment { segment, identity, first, last, items_end, file_bytes, note, cut, behind_damage };
        recovered.segments.push(found);
        later = Some(first);
    }
    recovered.segments.reverse();
    recovered.discarded.sort_by_key(|discarded| discarded.segment);
    recovered.mark_damage();
    Ok(recovered)
}

/// Writes the last file anew, up to its last whole batch, and syncs it. Only it can hold what was never synced: the next
/// file is begun when all that is in the file before it is durable, or abandoned.
fn settle(dir: &CacheDir, last: &mut RecoveredSegment) -> Result<(), CacheError> {
    let bytes = read_file(dir, last.segment)?;
    let items = bytes.slice(..bytes.len().min(last.items_end as usize));
    match dir.replace(last.segment, &items) {
        // No room for a second copy: the same bytes over themselves. The page cache has them to write then, also those that
        // a failed sync took for written; and a crash in between changes nothing, as they are the same.
        Err(error) if error.is_full() => {
            let path = dir.segment_path(last.segment);
            let mut file = dir.open_file(&path)?;
            file.write_at(0, &[items]).doing("write", &path)?;
            file.sync().doing("sync", &path)
        }
        Err(error) => Err(error),
        Ok(()) => {
            last.file_bytes = last.items_end;
            Ok(())
        }
    }
}

impl Recovered {
    fn mark_damage(&mut self) {
        let damaged =
            |discarded: &&Discarded| matches!(discarded.reason, DiscardReason::Damaged(_) | DiscardReason::Torn);
        let damaged: Vec<SegmentNo> = self.discarded.iter().filter(damaged).map(|found| found.segment).collect();
        let mut before: Option<SegmentNo> = None;
        for segment in &mut self.segments {
            let between = |number: &&SegmentNo| before.is_none_or(|from| from < **number) && **number < segment.segment;
            segment.behind_damage = damaged.iter().any(|number| between(&number));
            before = Some(segment.segment);
        }
    }
}

type Found = Result<(Scan, u64, Option<Note>), DiscardReason>;

fn scan_file(dir: &CacheDir, segment: SegmentNo, owner: Owner) -> Result<Found, CacheError> {
    let bytes = read_file(dir, segment)?;
    let scan = match scan_whole_batches(&bytes) {
        Ok(scan) => scan,
        // Shorter than a header: the crash came before the file's first sync.
        Err(_) if bytes.iter().all(|byte| *byte == 0) => return Ok(Err(DiscardReason::Empty)),
        Err(error) => return Ok(Err(DiscardReason::Damaged(error.to_string()))),
    };
    let identity = scan.identity;
    let mine = identity.machine == dir.machine()
        && identity.timeline == dir.timeline()
        && (Owner { epoch: identity.epoch, writer: identity.writer }) == owner;
    if !mine {
        return Ok(Err(DiscardReason::Foreign));
    }
    let file_bytes = bytes.len() as u64;
    let note = bytes.last_chunk::<NOTE_BYTES>().and_then(|end| Note::decode(end, file_bytes));
    // A footer that the disk has changed is sealed again, as one that was never finished.
    let note = note.filter(|note| note.vouches_for(&bytes[note.items_end as usize..note.object_bytes as usize]));
    Ok(Ok((scan, file_bytes, note)))
}

fn read_file(dir: &CacheDir, segment: SegmentNo) -> Result<Bytes, CacheError> {
    let path = dir.segment_path(segment);
    let file = dir.open_file(&path)?;
    let wanted = file.len().doing("measure", &path)?.min(FILE_BYTES_MAX);
    file.read_at(0, wanted as usize).doing("read", &path)
}

/// Opens what was recovered and checks that it goes on from `log_end`, the log's state at the vault's end.
///
/// # Errors
/// When the cache disk fails. Damage is no error: what it hits, and all behind it, is discarded.
pub fn unlock(dir: &CacheDir, recovered: &Recovered, key: &DataKey, log_end: LogState) -> Result<Unlocked, CacheError> {
    let mut unlocked = Unlocked { state: log_end, ..Unlocked::default() };
    let mut broken: Option<DiscardReason> = None;
    let mut behind_cut = false;
    for segment in &recovered.segments {
        let at = unlocked.state.last_lsn;
        if segment.last <= at {
            unlocked.committed.push(segment.clone());
            // A segment is published as a whole: whatever stands behind its items now, nothing of it is missing there.
            behind_cut = false;
            continue;
        }
        let suspect = behind_cut || segment.behind_damage;
        behind_cut = segment.cut;
        let jumps = segment.first > at.next();
        let taken = match &broken {
            Some(reason) => Err(reason.clone()),
            None if segment.first <= at => Err(DiscardReason::PartlyCommitted(at)),
            None if suspect && jumps => Err(hole("the file before it was cut, or is damaged")),
            None => follow(dir, segment, key, &unlocked.state)?,
        };
        match taken {
            Ok(state) => {
                unlocked.closed.push((segment.closed(&state), segment.note));
                unlocked.state = state;
            }
            Err(reason) => {
                if !matches!(reason, DiscardReason::PartlyCommitted(_)) {
                    broken.get_or_insert_with(|| hole("a file before it was discarded"));
                }
                unlocked.discarded.push(Discarded { segment: segment.segment, reason });
            }
        }
    }
    Ok(unlocked)
}

fn hole(why: &str) -> DiscardReason {
    DiscardReason::Hole(why.into())
}

/// The state behind the segment, if every item of it opens and every batch follows.
fn follow(
    dir: &CacheDir,
    segment: &RecoveredSegment,
    key: &DataKey,
    before: &LogState,
) -> Result<Result<LogState, DiscardReason>, CacheError> {
    let bytes = read_file(dir, segment.segment)?;
    let items = bytes.slice(..bytes.len().min(segment.items_end as usize));
    let (scan, index) = match rebuild_index(&FrameOpener::new(key, &segment.identity), &items) {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(DiscardReason::Damaged(error.to_string()))),
    };
    let begins = |at: &RecordAt| at.lsn == segment.first && matches!(at.record, Record::Incarnation { .. });
    if before.incarnation.is_none() && !index.records().first().is_some_and(begins) {
        return Ok(Err(hole("a log begins with the first life of its agent")));
    }
    let mut state = before.clone();
    let mut records: &[RecordAt] = index.records();
    for batch in &scan.batches {
        let count = records.partition_point(|record| record.lsn <= batch.last);
        let (here, rest) = records.split_at(count);
        if let Err(error) = state.follow_run(batch.first, batch.last, here) {
            return Ok(Err(DiscardReason::Hole(error.to_string())));
        }
        records = rest;
    }
    if state.last_lsn == segment.last { Ok(Ok(state)) } else { Ok(Err(hole("it changed while it was read"))) }
}

/// Makes a closed segment's index again out of its file.
///
/// # Errors
/// When the file cannot be read, or is damaged: the machine is then to be recovered from its cache anew.
pub fn reindex(dir: &CacheDir, closed: &ClosedSegment, key: &DataKey) -> Result<SegmentIndex, CacheError> {
    let bytes = read_file(dir, closed.segment)?;
    let damaged = |problem: String| CacheError::Damaged { path: dir.segment_path(closed.segment), problem };
    let items = bytes.slice(..bytes.len().min(closed.items_end as usize));
    let opened = rebuild_index(&FrameOpener::new(key, &closed.identity), &items);
    let (scan, index) = opened.map_err(|error| damaged(error.to_string()))?;
    if scan.cut != closed.items_end {
        return Err(damaged(format!("whole batches end at {} instead of {}", scan.cut, closed.items_end)));
    }
    Ok(index)
}

impl RecoveredSegment {
    fn closed(&self, state_after: &LogState) -> ClosedSegment {
        ClosedSegment {
            segment: self.segment,
            identity: self.identity,
            index: None,
            state_after: state_after.clone(),
            items_end: self.items_end,
            first: self.first,
            last: self.last,
            abandoned: false,
        }
    }
}
