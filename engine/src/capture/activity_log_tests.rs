use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::capture::activity_layout::{DiskIdentity, LogIdentity};
use crate::ids::IncarnationId;

/// A medium that knows what is synced, and can lose or tear what is not.
#[derive(Default)]
struct Volatile {
    bytes: Mutex<(Vec<u8>, Vec<u8>)>,
    failing: AtomicBool,
    /// Nor can anything be taken away.
    stuck: AtomicBool,
}

impl Volatile {
    /// What a power cut leaves: of each sector that is not synced, the old or the new version, or a mix of both.
    fn after_power_cut(&self, choose: &mut dyn FnMut() -> u8) -> Vec<u8> {
        let (now, synced) = &*self.bytes.lock();
        let mut left = now.clone();
        for (at, sector) in left.chunks_mut(PAGE_BYTES).enumerate() {
            let old: Vec<u8> =
                (0..sector.len()).map(|n| synced.get(at * PAGE_BYTES + n).copied().unwrap_or(0)).collect();
            match choose() % 4 {
                0 => {}
                1 | 2 => sector.copy_from_slice(&old),
                _ => {
                    let half = sector.len() / 2;
                    sector[half..].copy_from_slice(&old[half..]);
                }
            }
        }
        left
    }
}

impl Medium for Arc<Volatile> {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.lock().0.clone())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(io::Error::other("no more sectors"));
        }
        let mut held = self.bytes.lock();
        let end = offset as usize + bytes.len();
        if held.0.len() < end {
            held.0.resize(end, 0);
        }
        held.0[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(io::Error::other("nothing can be taken away"));
        }
        self.bytes.lock().0.resize(bytes as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut held = self.bytes.lock();
        held.1 = held.0.clone();
        Ok(())
    }
}

fn header(regions: u32) -> ActivityHeader {
    ActivityHeader {
        sequence: 1,
        clean: false,
        region_bytes: 1 << 20,
        disk: DiskIdentity { size_bytes: u64::from(regions) << 20, inode: 7, ..Default::default() },
        log: LogIdentity::default(),
        incarnation: IncarnationId([1; 16]),
    }
}

fn begin(regions: u32) -> (Arc<Volatile>, ActivityLog) {
    let medium = Arc::new(Volatile::default());
    let log = ActivityLog::begin(Box::new(medium.clone()), header(regions), RegionSet::none(regions), None);
    (medium, log.expect("the medium works"))
}

#[test]
fn what_was_recorded_is_found_again() {
    let (medium, log) = begin(10_000);
    log.record_hot(3..=5).expect("recorded");
    log.record_hot(9_999..=9_999).expect("recorded");
    log.record_hot(4..=4).expect("recorded");
    assert_eq!(log.syncs(), 2, "what is on the medium already needs no sync");
    log.cool(&[4]);
    log.flush().expect("flushed");
    let found = read(&medium).expect("readable");
    assert_eq!(found.hot.iter().collect::<Vec<_>>(), [3, 5, 9_999]);
    assert_eq!(found.header, header(10_000));
    log.clean_stop(header(10_000).disk).expect("stopped");
    assert!(read(&medium).expect("readable").header.clean);
}

#[test]
fn a_damaged_page_is_hot_in_all_its_regions_and_no_others() {
    let (medium, log) = begin(10_000);
    log.record_hot(0..=0).expect("recorded");
    medium.bytes.lock().0[page_at(1) as usize + 100] ^= 1;
    let found = read(&medium).expect("readable");
    assert_eq!(found.damaged_pages, 1);
    assert_eq!(found.hot.count(), 1 + PAGE_REGIONS);
    assert!(found.hot.contains(PAGE_REGIONS) && !found.hot.contains(PAGE_REGIONS * 2));
}

#[test]
fn a_log_without_a_header_that_holds_is_not_believed() {
    let (medium, _log) = begin(10);
    for at in [20, PAGE_BYTES + 20] {
        medium.bytes.lock().0[at] ^= 1;
    }
    assert_eq!(read(&medium), Err(Distrust::Unreadable));
    assert_eq!(read(&Arc::new(Volatile::default())), Err(Distrust::Missing));
}

#[test]
fn a_log_that_cannot_be_written_says_so_and_is_believed_by_nobody() {
    let (medium, log) = begin(10);
    medium.failing.store(true, Ordering::Relaxed);
    assert!(log.record_hot(1..=1).is_err_and(|failed| failed.emptied));
    assert!(log.record_hot(2..=2).is_err_and(|failed| failed.emptied));
    assert_eq!(read(&medium), Err(Distrust::Missing));
}

#[test]
fn a_log_that_can_be_neither_written_nor_emptied_says_that_it_must_be_disavowed() {
    let (medium, log) = begin(10);
    medium.failing.store(true, Ordering::Relaxed);
    medium.stuck.store(true, Ordering::Relaxed);
    assert!(log.record_hot(1..=1).is_err_and(|failed| !failed.emptied));
    assert!(log.record_hot(2..=2).is_err_and(|failed| !failed.emptied));
    assert!(read(&medium).is_ok_and(|found| !found.hot.contains(1)), "it still reads, and region 1 is cool in it");
    assert!(!log.give_up());
}

#[test]
fn writers_that_come_together_share_a_sync() {
    let (_medium, log) = begin(10_000);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let log = &log;
            scope.spawn(move || {
                (0..50).for_each(|n| log.record_hot(writer * 50 + n..=writer * 50 + n).expect("recorded"))
            });
        }
    });
    assert!(log.syncs() <= 400);
    let state = log.state.lock();
    assert_eq!((state.durable.count(), state.wanted.count()), (400, 400));
}

proptest! {
    /// Whatever a power cut does to what was not synced: regions whose recording had returned are found hot.
    #[test]
    fn a_power_cut_never_cools_a_recorded_region(
        steps in proptest::collection::vec((0_u8..3, 0_u32..9_000), 1..60),
        torn in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let (medium, log) = begin(9_000);
        let mut hot = std::collections::BTreeSet::new();
        for (kind, region) in steps {
            match kind {
                0 => log.flush().expect("flushed"),
                1 => {
                    log.cool(&[region]);
                    hot.remove(&region);
                }
                _ => {
                    log.record_hot(region..=region).expect("recorded");
                    hot.insert(region);
                }
            }
        }
        // A group under way: written, not synced.
        let page = encode_page(0, 99, &log.state.lock().wanted);
        medium.write_at(page_at(0), &page).expect("written");
        let mut next = torn.iter().cycle();
        let left = medium.after_power_cut(&mut || *next.next().expect("endless"));
        let after = Arc::new(Volatile::default());
        after.write_at(0, &left).expect("written");
        let found = read(&after).expect("both headers were synced");
        for region in hot {
            prop_assert!(found.hot.contains(region));
        }
    }
}
