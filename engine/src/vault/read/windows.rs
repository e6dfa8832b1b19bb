//! The extent maps of one disk at one position, made window by window out of index pages and kept while there is room.
//!
//! The first window is small, so that the first byte of a point is there as soon as the index pages are unpacked; each
//! further one is [`GROWTH`] times as large, up to the whole disk. Where a map outgrows its share while it is made, windows
//! are halved, made again and stop growing, so a disk of any size and any number of writes is read within the same memory
//! (I10), at the price of reading index pages once a window.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;

use super::error::ReadError;
use super::extent_map::ExtentMap;
use super::timeline::{IN_FLIGHT, LogView};
use crate::ids::{DiskNo, Lsn};
use crate::vault::segment::IndexRow;

/// Smallest window, in bytes: 2,048 extents of one sector, which fit any budget.
const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// Rows that the first window should take, as far as page tables tell. Measured (benches/first_byte, development build,
/// busy machine): out of half a million rows, a map of these is made in 0.1 s, one of all in 2.7 s.
const FIRST_ROWS: u64 = 16 << 10;
/// How much larger each window is than the one before it. Chosen: half a million random rows are unpacked four times until
/// the window is the disk.
const GROWTH: u64 = 4;

/// A disk at a position, as its maps are made.
#[derive(Debug, Clone)]
pub struct MapTarget {
    /// The log.
    pub view: Arc<LogView>,
    /// The disk.
    pub disk: DiskNo,
    /// The position: rows with smaller LSNs count.
    pub lsn: Lsn,
    /// The disk's size there.
    pub size_bytes: u64,
    /// The sizes that it had before, each with the LSN from which it held.
    pub sizes: Vec<(Lsn, u64)>,
}

/// The maps.
#[derive(Debug)]
pub struct Windows {
    target: MapTarget,
    bytes_max: usize,
    kept: Mutex<Kept>,
    /// Held while a map is made: one at a time.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Kept {
    /// Least recently used first.
    maps: Vec<Arc<ExtentMap>>,
    /// Size of the next window: a power of two.
    window_bytes: u64,
    window_bytes_max: u64,
}

impl MapTarget {
    /// How many rows the disk has up to the position, give or take a page.
    fn rows(&self) -> u64 {
        let pages = self.view.segments.iter().flat_map(|segment| &segment.footer.pages);
        pages.filter(|page| page.disk == self.disk && page.first < self.lsn).map(|page| u64::from(page.rows)).sum()
    }
}

impl Windows {
    /// No map yet; maps of `target` will take at most `bytes_max` bytes together.
    pub fn new(target: MapTarget, bytes_max: usize) -> Self {
        let window_bytes_max = target.size_bytes.next_power_of_two().max(WINDOW_BYTES_MIN);
        let share = target.rows().div_ceil(FIRST_ROWS).max(1).next_power_of_two();
        let window_bytes = (window_bytes_max / share).max(WINDOW_BYTES_MIN);
        let kept = Mutex::new(Kept { maps: Vec::new(), window_bytes, window_bytes_max });
        Self { target, bytes_max, kept, making: tokio::sync::Mutex::new(()) }
    }

    /// What the maps are of.
    pub fn target(&self) -> &MapTarget {
        &self.target
    }

    /// What the kept maps take, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.kept.lock().maps.iter().map(|map| map.weight_bytes()).sum()
    }

    /// The map whose window holds `offset`, if it is there.
    pub fn get(&self, offset: u64) -> Option<Arc<ExtentMap>> {
        let mut kept = self.kept.lock();
        let at = kept.maps.iter().position(|map| map.window().contains(&offset))?;
        let map = kept.maps.remove(at);
        kept.maps.push(map.clone());
        Some(map)
    }

    /// The map whose window holds `offset`, made if it is not there.
    pub async fn map(&self, offset: u64) -> Result<Arc<ExtentMap>, ReadError> {
        if let Some(map) = self.get(offset) {
            return Ok(map);
        }
        let _making = self.making.lock().await;
        if let Some(map) = self.get(offset) {
            return Ok(map);
        }
        loop {
            let window_bytes = self.kept.lock().window_bytes;
            let start = offset / window_bytes * window_bytes;
            let window = start..(start + window_bytes).min(self.target.size_bytes);
            // Half the budget for one map: another can be kept beside it.
            let weight_max = if window_bytes > WINDOW_BYTES_MIN { self.bytes_max / 2 } else { usize::MAX };
            match make_map(&self.target, window, weight_max).await? {
                Some(map) => return Ok(self.keep(map)),
                None => {
                    let mut kept = self.kept.lock();
                    kept.window_bytes = window_bytes / 2;
                    kept.window_bytes_max = kept.window_bytes;
                }
            }
        }
    }

    fn keep(&self, map: ExtentMap) -> Arc<ExtentMap> {
        let map = Arc::new(map);
        let mut kept = self.kept.lock();
        kept.window_bytes = (kept.window_bytes * GROWTH).min(kept.window_bytes_max);
        let window = map.window();
        kept.maps.retain(|old| old.window().start < window.start || old.window().end > window.end);
        kept.maps.push(map.clone());
        let mut held: usize = kept.maps.iter().map(|map| map.weight_bytes()).sum();
        while held > self.bytes_max && kept.maps.len() > 1 {
            held -= kept.maps.remove(0).weight_bytes();
        }
        map
    }
}

/// Makes the map of a window, unless it outgrows `weight_max` bytes.
pub async fn make_map(
    target: &MapTarget,
    window: Range<u64>,
    weight_max: usize,
) -> Result<Option<ExtentMap>, ReadError> {
    let MapTarget { view, disk, lsn, .. } = target;
    let mut map = ExtentMap::new(window.clone());
    let mut sizes = target.sizes.iter().peekable();
    let wanted = view.segments.iter().enumerate().filter(|(_, segment)| segment.footer.first < *lsn);
    let pages = wanted.flat_map(|(place, segment)| {
        let overlaps = |page: &crate::vault::segment::PageEntry| {
            page.disk == *disk && page.first < *lsn && page.min_offset < window.end && page.max_end > window.start
        };
        let pages = segment.footer.pages.iter().enumerate();
        pages.filter(move |(_, page)| overlaps(page)).map(move |(page, _)| (place, segment, page))
    });
    let fetches = pages.map(|(place, segment, page)| async move {
        view.source.rows(segment, page).await.map(|rows| (place as u32, segment.limit, rows))
    });
    let mut fetched = stream::iter(fetches).buffered(IN_FLIGHT);
    while let Some(page) = fetched.next().await {
        let (place, limit, rows) = page?;
        for row in rows.iter().take_while(|row| row.lsn < *lsn && row.lsn <= limit) {
            while let Some((_, size)) = sizes.next_if(|(from, _)| *from < row.lsn) {
                map.resize(*size, |_| ());
            }
            take_row(&mut map, place, row);
        }
        if map.weight_bytes() > weight_max {
            return Ok(None);
        }
    }
    for (_, size) in sizes.take_while(|(from, _)| from < lsn) {
        map.resize(*size, |_| ());
    }
    Ok(Some(map))
}

/// Puts one row of the segment at `place` into a map.
pub fn take_row(map: &mut ExtentMap, place: u32, row: &IndexRow) {
    map.write(row.offset, row.len, row.kind, (place, row.frame, row.payload_at));
}
