//! What is known of each region of one disk, and which regions may be cooled.
//!
//! ```text
//!            write (recorded hot and synced first)
//!    cool ─────────────────────────────────────────► hot ───┐ write is lost: overload, failure, crash
//!     ▲                                               │ ▲   ▼
//!     └── committed, backing disk synced since, idle ─┘ └─ hot and stale   (scanned again from the disk)
//!         or least recently used                        scanned
//! ```
//!
//! Invariants: stale ⊆ hot. A region is cool only where its replica, at the last committed LSN, equals what the disk
//! holds after any crash. Virgin regions never had an entry in the log, so the replica reads zeroes there. Comparable
//! regions had none in this life, so the replica reads what earlier lives left there, and whoever has the log can say what.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::bits::RegionSet;
use crate::ids::Lsn;

/// The number of a sync of the backing disk; syncs are numbered from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncNo(pub u64);

/// A region that was written or scanned in this life and is hot.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    /// Requests under way in it.
    pins: u32,
    /// The last LSN that wrote in it.
    last_lsn: Lsn,
    /// Which sync must have succeeded before it may be cooled.
    needs_sync: SyncNo,
    /// When it was used last.
    used: Duration,
}

/// What the log holds of a disk whose activity log is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InLog {
    /// Nothing.
    Nothing,
    /// What earlier lives wrote; it can be compared with.
    Earlier,
    /// Something that cannot be compared with.
    Other,
}

/// The regions of one disk.
#[derive(Debug)]
pub(super) struct Regions {
    region_bytes: u64,
    hot: RegionSet,
    stale: RegionSet,
    virgin: RegionSet,
    comparable: RegionSet,
    /// Regions that the log has entries of this life of.
    written: RegionSet,
    touched: HashMap<u32, Touched>,
    syncs_begun: SyncNo,
    sync_done: SyncNo,
}

impl Regions {
    /// Regions at a start: whatever was recorded hot may differ from the replica.
    pub(super) fn new(region_bytes: u64, hot: RegionSet) -> Self {
        let none = || RegionSet::none(hot.size());
        let (virgin, comparable, written) = (none(), none(), none());
        let (stale, touched) = (hot.clone(), HashMap::new());
        let (syncs_begun, sync_done) = (SyncNo(0), SyncNo(0));
        Self { region_bytes, hot, stale, virgin, comparable, written, touched, syncs_begun, sync_done }
    }

    /// The regions that `offset..end` touches.
    pub(super) fn of(&self, offset: u64, end: u64) -> RangeInclusive<u32> {
        (offset / self.region_bytes) as u32..=((end - 1) / self.region_bytes) as u32
    }

    pub(super) fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    pub(super) fn hot(&self) -> &RegionSet {
        &self.hot
    }

    pub(super) fn stale(&self) -> &RegionSet {
        &self.stale
    }

    pub(super) fn all_hot(&self, mut range: RangeInclusive<u32>) -> bool {
        range.all(|region| self.hot.contains(region))
    }

    pub(super) fn all_virgin(&self, mut range: RangeInclusive<u32>) -> bool {
        range.all(|region| self.virgin.contains(region))
    }

    /// Whether the log has no entry of this life in the region, and one of earlier lives can be compared with.
    pub(super) fn is_comparable(&self, region: u32) -> bool {
        self.comparable.contains(region)
    }

    /// A request arrives: its regions stay hot until it is gone.
    pub(super) fn pin(&mut self, range: RangeInclusive<u32>) {
        for region in range {
            self.touched.entry(region).or_default().pins += 1;
        }
    }

    /// The activity log holds these regions as hot.
    pub(super) fn heat(&mut self, range: RangeInclusive<u32>) {
        for region in range {
            self.hot.insert(region);
        }
    }

    /// A request is gone. `written` is its LSN where it changed the replica or the disk.
    pub(super) fn unpin(&mut self, range: RangeInclusive<u32>, written: Option<Lsn>, now: Duration) {
        let needs_sync = SyncNo(self.syncs_begun.0 + 1);
        for region in range {
            let touched = self.touched.get_mut(&region).expect("a pinned region is known");
            touched.pins -= 1;
            touched.used = now;
            touched.needs_sync = touched.needs_sync.max(needs_sync);
            if let Some(lsn) = written {
                touched.last_lsn = touched.last_lsn.max(lsn);
            }
            if touched.pins == 0 && !self.hot.contains(region) {
                self.touched.remove(&region);
            }
        }
    }

    /// Entries for these regions go to the log.
    pub(super) fn seen(&mut self, range: RangeInclusive<u32>) {
        for region in range.clone() {
            self.written.insert(region);
        }
        for set in [&mut self.virgin, &mut self.comparable] {
            if !set.is_empty() {
                for region in range.clone() {
                    set.remove(region);
                }
            }
        }
    }

    /// The replica does not follow these regions any more.
    pub(super) fn lose(&mut self, range: RangeInclusive<u32>) {
        for region in range {
            assert!(self.hot.contains(region), "only hot regions are written, so only they are lost");
            self.stale.insert(region);
        }
    }

    /// Everything is hot and stale.
    pub(super) fn lose_all(&mut self, in_log: InLog) {
        let (all, none) = (RegionSet::all(self.hot.size()), RegionSet::none(self.hot.size()));
        self.virgin = if in_log == InLog::Nothing { all.clone() } else { none.clone() };
        self.comparable = if in_log == InLog::Earlier { all.clone() } else { none };
        // What was written in this life may be in the log, or on its way there.
        for region in self.written.iter() {
            self.comparable.remove(region);
        }
        (self.hot, self.stale) = (all.clone(), all);
    }

    /// What was written after `committed` is lost: its regions are stale.
    pub(super) fn lose_after(&mut self, committed: Lsn) {
        for (region, touched) in &self.touched {
            if touched.last_lsn > committed && self.hot.contains(*region) {
                self.stale.insert(*region);
            }
        }
    }

    /// The scanner has sent the whole region.
    pub(super) fn scanned(&mut self, region: u32) {
        self.stale.remove(region);
    }

    /// A sync of the backing disk begins: it covers every request that is gone by now.
    pub(super) fn sync_begins(&mut self) -> SyncNo {
        self.syncs_begun.0 += 1;
        self.syncs_begun
    }

    /// A sync has succeeded.
    pub(super) fn synced(&mut self, sync: SyncNo) {
        self.sync_done = self.sync_done.max(sync);
    }

    /// A sync has failed: what was written before it may be gone from the disk with the next power cut, whatever a
    /// later sync says. None of it is cooled in this life.
    pub(super) fn sync_failed(&mut self) {
        for touched in self.touched.values_mut() {
            if touched.needs_sync > self.sync_done {
                touched.needs_sync = SyncNo(u64::MAX);
            }
        }
    }

    /// Whether a sync would let committed regions cool.
    pub(super) fn wants_sync(&self, committed: Lsn) -> bool {
        self.touched.iter().any(|(region, touched)| {
            touched.pins == 0
                && touched.last_lsn <= committed
                && touched.needs_sync > self.sync_done
                && touched.needs_sync != SyncNo(u64::MAX)
                && !self.stale.contains(*region)
        })
    }

    /// Cools what may be cooled and is idle since `idle_before`, and beyond that, least recently used first, what is
    /// more than `target` regions. Returns what it cooled; the caller records it.
    pub(super) fn cool(&mut self, committed: Lsn, idle_before: Duration, target: usize) -> Vec<u32> {
        let mut ready: Vec<(Duration, u32)> = self
            .touched
            .iter()
            .filter(|(region, touched)| {
                touched.pins == 0
                    && touched.last_lsn <= committed
                    && touched.needs_sync <= self.sync_done
                    && self.hot.contains(**region)
                    && !self.stale.contains(**region)
            })
            .map(|(region, touched)| (touched.used, *region))
            .collect();
        ready.sort_unstable();
        let hot = self.hot.count() as usize;
        let cooled: Vec<u32> = ready
            .into_iter()
            .enumerate()
            .take_while(|(done, (used, _))| *used <= idle_before || hot - done > target)
            .map(|(_, (_, region))| region)
            .collect();
        for region in &cooled {
            self.hot.remove(*region);
            self.touched.remove(region);
        }
        cooled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn written(region: u32, lsn: u64) -> Regions {
        let mut regions = Regions::new(1 << 20, RegionSet::none(8));
        regions.pin(region..=region);
        regions.heat(region..=region);
        regions.unpin(region..=region, Some(Lsn(lsn)), NOW);
        regions
    }

    #[test]
    fn a_region_cools_only_when_committed_and_synced_since() {
        let mut regions = written(3, 7);
        let sync = regions.sync_begins();
        assert!(regions.cool(Lsn(7), NOW, 0).is_empty(), "not synced");
        regions.synced(sync);
        assert!(regions.cool(Lsn(6), NOW, 0).is_empty(), "not committed");
        regions.pin(3..=3);
        assert!(regions.cool(Lsn(7), NOW, 0).is_empty(), "a request is under way");
        regions.unpin(3..=3, None, NOW);
        assert!(regions.cool(Lsn(7), NOW, 0).is_empty(), "not synced since");
        let sync = regions.sync_begins();
        regions.synced(sync);
        assert_eq!(regions.cool(Lsn(7), NOW, 0), [3]);
        assert!(regions.hot().is_empty());
    }

    #[test]
    fn a_write_during_a_sync_needs_the_next_one() {
        let mut regions = written(3, 7);
        let sync = regions.sync_begins();
        regions.pin(3..=3);
        regions.unpin(3..=3, Some(Lsn(8)), NOW);
        regions.synced(sync);
        assert!(regions.cool(Lsn(8), NOW, 0).is_empty());
        assert!(regions.wants_sync(Lsn(8)));
    }

    #[test]
    fn nothing_written_before_a_failed_sync_is_cooled() {
        let mut regions = written(3, 7);
        regions.sync_begins();
        regions.sync_failed();
        let sync = regions.sync_begins();
        regions.synced(sync);
        assert!(regions.cool(Lsn(7), NOW, 0).is_empty());
        assert!(!regions.wants_sync(Lsn(7)));
    }

    #[test]
    fn the_least_recently_used_regions_cool_down_to_the_target() {
        let mut regions = Regions::new(1 << 20, RegionSet::none(8));
        for region in 0..6_u32 {
            regions.pin(region..=region);
            regions.heat(region..=region);
            regions.unpin(region..=region, Some(Lsn(1)), Duration::from_secs(u64::from(10 - region)));
        }
        let sync = regions.sync_begins();
        regions.synced(sync);
        assert_eq!(regions.cool(Lsn(1), Duration::from_secs(5), 4), [5, 4], "one is idle, one above the target");
        assert_eq!(regions.cool(Lsn(1), Duration::from_secs(7), 0).len(), 4);
    }
}
