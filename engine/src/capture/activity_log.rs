//! The activity log of one disk: which regions may differ from the replica, on stable storage that is not captured.
//!
//! Invariants: a region is recorded hot and synced before the first write to it goes to the disk; what a file holds as hot
//! is always a superset of what may differ (I5). Writers that come together share one sync. Cooling is written with the
//! next group or by [`ActivityLog::flush`]: a crash before that only scans more.
//!
//! Crash story: a torn header leaves the other copy, a damaged page counts as hot (see `activity_layout`). A file that
//! cannot be written any more is emptied if that still works, so that no later life believes it, and writes go on: the
//! splitter puts the fact into the log.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

use parking_lot::{Condvar, Mutex};

use super::activity_layout::{ActivityHeader, PAGE_BYTES, PAGE_REGIONS, decode_page, encode_page, page_at, page_count};
use super::bits::RegionSet;
use super::trust::Distrust;

/// Where an activity log lies.
pub trait Medium: Send + Sync {
    /// All its bytes.
    fn read_all(&self) -> io::Result<Vec<u8>>;
    /// Writes at an offset; durable only after a sync.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes it exactly this long; new bytes are zero.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes everything durable.
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.metadata()?.len()).map_err(io::Error::other)?];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// What an activity log said when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its head.
    pub header: ActivityHeader,
    /// The regions that it holds as hot, those of damaged pages included.
    pub hot: RegionSet,
    /// How many pages were damaged.
    pub damaged_pages: u32,
}

/// Reads an activity log.
pub fn read(medium: &dyn Medium) -> Result<Found, Distrust> {
    let bytes = medium.read_all().map_err(|_| Distrust::Unreadable)?;
    if bytes.is_empty() {
        return Err(Distrust::Missing);
    }
    let copies = [0, PAGE_BYTES].map(|at| bytes.get(at..).and_then(|rest| ActivityHeader::decode(rest).ok()));
    let header = copies.into_iter().flatten().max_by_key(|header| header.sequence).ok_or(Distrust::Unreadable)?;
    let regions = header.regions();
    let mut hot = RegionSet::none(regions);
    let mut damaged_pages = 0;
    for page in 0..page_count(regions) {
        let at = page_at(page) as usize;
        let sector = bytes.get(at..).ok_or(Distrust::Unreadable)?;
        if decode_page(page, sector, &mut hot).is_err() {
            damaged_pages += 1;
            let last = ((page + 1) * PAGE_REGIONS).min(regions);
            (page * PAGE_REGIONS..last).for_each(|region| {
                hot.insert(region);
            });
        }
    }
    Ok(Found { header, hot, damaged_pages })
}

/// An activity log that is being kept.
pub struct ActivityLog {
    medium: Box<dyn Medium>,
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    header: ActivityHeader,
    /// What is to be on the medium.
    wanted: RegionSet,
    /// What is on it, synced, for certain.
    durable: RegionSet,
    dirty: BTreeSet<u32>,
    generation: u64,
    /// Number of the group that the next request joins.
    group: u64,
    /// The last group that is synced.
    done: u64,
    writing: bool,
    failed: Option<String>,
    /// Nobody will believe what is on the medium.
    emptied: bool,
    syncs: u64,
}

/// The activity log cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the activity log cannot be written ({cause}); writes go on, and the disk is compared in full at the next start"
)]
pub struct ActivityLogFailed {
    /// What the system said.
    pub cause: String,
    /// Whether it was emptied, so that no later life believes it.
    pub emptied: bool,
}

impl ActivityLog {
    /// Begins a life: writes header and pages, synced on return. `trusted` is what [`read`] gave and was believed:
    /// `hot` covers it. Without it, whatever is there is done away with first.
    pub fn begin(
        medium: Box<dyn Medium>,
        header: ActivityHeader,
        hot: RegionSet,
        trusted: Option<&Found>,
    ) -> io::Result<Self> {
        assert_eq!(hot.size(), header.regions(), "one bit per region");
        assert!(trusted.is_none_or(|found| hot.covers(&found.hot)), "what was hot stays hot");
        if trusted.is_none() {
            medium.set_len(0)?;
            medium.sync()?;
        }
        let pages = page_count(hot.size());
        // The pages first: a header that names this life must find them.
        medium.set_len(page_at(pages))?;
        let generation = header.sequence;
        for page in 0..pages {
            medium.write_at(page_at(page), &encode_page(page, generation, &hot))?;
        }
        medium.sync()?;
        write_header(&*medium, &header)?;
        let state = State {
            header,
            wanted: hot.clone(),
            durable: hot,
            dirty: BTreeSet::new(),
            generation,
            group: 1,
            done: 0,
            writing: false,
            failed: None,
            emptied: false,
            syncs: 0,
        };
        Ok(Self { medium, state: Mutex::new(state), moved: Condvar::new() })
    }

    /// Records regions as hot; synced on return.
    pub fn record_hot(&self, range: RangeInclusive<u32>) -> Result<(), ActivityLogFailed> {
        let mut state = self.state.lock();
        let mut known = true;
        for region in range {
            known &= state.durable.contains(region);
            if state.wanted.insert(region) {
                state.dirty.insert(region / PAGE_REGIONS);
            }
        }
        if known && state.failed.is_none() {
            return Ok(());
        }
        let group = state.group;
        self.commit(state, group)
    }

    /// Takes regions out; written with the next group or flush.
    pub fn cool(&self, regions: &[u32]) {
        let mut state = self.state.lock();
        for region in regions {
            state.wanted.remove(*region);
            state.durable.remove(*region);
            state.dirty.insert(region / PAGE_REGIONS);
        }
    }

    /// Writes what was cooled.
    pub fn flush(&self) -> Result<(), ActivityLogFailed> {
        let state = self.state.lock();
        if state.dirty.is_empty() && state.failed.is_none() {
            return Ok(());
        }
        let group = state.group;
        self.commit(state, group)
    }

    /// Waits until `group` is synced, leading it if nobody else writes.
    fn commit<'a>(
        &'a self,
        mut state: parking_lot::MutexGuard<'a, State>,
        group: u64,
    ) -> Result<(), ActivityLogFailed> {
        loop {
            if let Some(cause) = &state.failed {
                return Err(ActivityLogFailed { cause: cause.clone(), emptied: state.emptied });
            }
            if state.done >= group {
                return Ok(());
            }
            if state.writing {
                self.moved.wait(&mut state);
            } else {
                state = self.lead(state);
            }
        }
    }

    /// Writes one group: everything that is dirty now.
    fn lead<'a>(&'a self, mut state: parking_lot::MutexGuard<'a, State>) -> parking_lot::MutexGuard<'a, State> {
        state.writing = true;
        state.generation += 1;
        let group = state.group;
        state.group += 1;
        let pages: Vec<u32> = std::mem::take(&mut state.dirty).into_iter().collect();
        let sectors: Vec<_> =
            pages.iter().map(|page| (page_at(*page), encode_page(*page, state.generation, &state.wanted))).collect();
        let result = parking_lot::MutexGuard::unlocked(&mut state, || {
            sectors.iter().try_for_each(|(at, sector)| self.medium.write_at(*at, sector))?;
            self.medium.sync()
        });
        state.writing = false;
        match result {
            Ok(()) => {
                state.done = group;
                state.syncs += 1;
                let mut written = RegionSet::none(state.wanted.size());
                for (page, (_, sector)) in pages.iter().zip(&sectors) {
                    decode_page(*page, sector, &mut written).expect("what was encoded decodes");
                }
                // What was cooled meanwhile is no longer wanted, and must be recorded again before it counts.
                let still: Vec<u32> = written.iter().filter(|region| state.wanted.contains(*region)).collect();
                still.into_iter().for_each(|region| {
                    state.durable.insert(region);
                });
            }
            Err(error) => self.fail(&mut state, &error),
        }
        self.moved.notify_all();
        state
    }

    fn fail(&self, state: &mut State, error: &io::Error) {
        state.failed = Some(error.to_string());
        // An empty file is believed by nobody.
        state.emptied = self.medium.set_len(0).and_then(|()| self.medium.sync()).is_ok();
    }

    /// Nothing that is recorded here counts any more; true where no later life will believe it.
    pub fn give_up(&self) -> bool {
        let mut state = self.state.lock();
        if state.failed.is_none() {
            self.fail(&mut state, &io::Error::other("it was given up"));
        }
        state.emptied
    }

    /// Marks everything hot, synced on return.
    pub fn record_all_hot(&self) -> Result<(), ActivityLogFailed> {
        let last = self.state.lock().wanted.size() - 1;
        self.record_hot(0..=last)
    }

    /// Writes the clean-stop flag, with the disk as it is after its last sync.
    pub fn clean_stop(&self, disk: super::activity_layout::DiskIdentity) -> Result<(), ActivityLogFailed> {
        self.flush()?;
        let mut state = self.state.lock();
        let header = ActivityHeader { sequence: state.header.sequence + 1, clean: true, disk, ..state.header.clone() };
        match write_header(&*self.medium, &header) {
            Ok(()) => {
                state.header = header;
                Ok(())
            }
            Err(error) => {
                self.fail(&mut state, &error);
                Err(ActivityLogFailed { cause: error.to_string(), emptied: state.emptied })
            }
        }
    }

    /// How many groups were synced.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }
}

fn write_header(medium: &dyn Medium, header: &ActivityHeader) -> io::Result<()> {
    let at = (header.sequence % 2) * PAGE_BYTES as u64;
    medium.write_at(at, &header.encode())?;
    medium.sync()
}

#[cfg(test)]
#[path = "activity_log_tests.rs"]
mod tests;
