//! What changed on a disk between two retained positions: each byte once, its last version, in order of place.
//!
//! A layer is gathered as an extent map over the rows of its LSNs, window by window: where a window's map outgrows its share
//! of memory the window is halved, so a layer of any size is gathered in bounded memory (I10), at the price of reading index
//! pages that reach over several windows once for each. Pages of runs are sorted by place and do not.
//!
//! What a shrink takes away becomes zeroes of the layer, so that a run needs no sizes to be read: bytes behind the end never
//! come back when the disk grows again.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use crate::ids::{DiskNo, Lsn};
use crate::section::WriteKind;
use crate::vault::read::error::ReadError;
use crate::vault::read::extent_map::ExtentMap;
use crate::vault::read::segment_view::{LogSource, SegmentView};
use crate::vault::read::timeline::IN_FLIGHT;
use crate::vault::segment::IndexRow;

/// Opened index pages kept between layers: small layers share pages. Chosen: 16 MB where rows are tiny.
const PAGES_KEPT: usize = 24;
/// Longest row of zeroes, in bytes.
const ZERO_BYTES_MAX: u64 = 1 << 30;
/// Smallest window, in bytes: 2,048 extents of one sector.
const WINDOW_BYTES_MIN: u64 = 1 << 20;

/// One index page of a disk.
#[derive(Debug, Clone, Copy)]
struct PageAt {
    view: usize,
    page: usize,
    first: Lsn,
    last: Lsn,
    places: (u64, u64),
}

/// The layers of one disk, taken from the oldest to the newest.
pub(super) struct DiskLayers<'a> {
    source: &'a LogSource,
    views: &'a [Arc<SegmentView>],
    disk: DiskNo,
    /// Its pages in order of the log; those in front of `start` lie before the layer at hand.
    pages: Vec<PageAt>,
    start: usize,
    /// Sizes of the disk, each with the LSN from which it holds.
    sizes: &'a [(Lsn, u64)],
    opened: HashMap<(usize, usize), Arc<Vec<IndexRow>>>,
    order: VecDeque<(usize, usize)>,
    map_bytes_max: usize,
    window_bytes: u64,
    /// Only tests set it: the older of two versions wins.
    pub(super) older_wins: bool,
}

impl<'a> DiskLayers<'a> {
    pub(super) fn new(
        source: &'a LogSource,
        views: &'a [Arc<SegmentView>],
        disk: DiskNo,
        sizes: &'a [(Lsn, u64)],
        map_bytes_max: usize,
    ) -> Self {
        let mut pages = Vec::new();
        for (view, segment) in views.iter().enumerate() {
            for (page, entry) in segment.footer.pages.iter().enumerate().filter(|(_, entry)| entry.disk == disk) {
                let places = (entry.min_offset, entry.max_end);
                pages.push(PageAt { view, page, first: entry.first, last: entry.last, places });
            }
        }
        let (opened, order) = (HashMap::new(), VecDeque::new());
        let window_bytes = u64::MAX / 2;
        Self {
            source,
            views,
            disk,
            pages,
            start: 0,
            sizes,
            opened,
            order,
            map_bytes_max,
            window_bytes,
            older_wins: false,
        }
    }

    pub(super) fn disk(&self) -> DiskNo {
        self.disk
    }

    /// The places that anything of the layer may lie at; `None` where it has nothing.
    pub(super) fn reach(&mut self, lsns: &Range<Lsn>) -> Option<Range<u64>> {
        while self.pages.get(self.start).is_some_and(|page| page.last < lsns.start) {
            self.start += 1;
        }
        let ends = self.pages_of(lsns).map(|page| page.places.1);
        let resized = self.resizes(lsns).map(|(_, before, _)| before);
        let end = ends.chain(resized).max()?;
        Some(0..end)
    }

    fn pages_of(&self, lsns: &Range<Lsn>) -> impl Iterator<Item = &PageAt> {
        let (from, end) = (lsns.start, lsns.end);
        // First LSNs never fall from page to page.
        self.pages[self.start..].iter().take_while(move |page| page.first < end).filter(move |page| page.last >= from)
    }

    /// The changes of size in the layer: LSN, size before, size after.
    fn resizes(&self, lsns: &Range<Lsn>) -> impl Iterator<Item = (Lsn, u64, u64)> {
        let lsns = lsns.clone();
        let pairs = self.sizes.windows(2).map(|pair| (pair[1].0, pair[0].1, pair[1].1));
        pairs.filter(move |(lsn, _, _)| lsns.contains(lsn))
    }

    /// The map of the layer's next window from `at` on; its window says how far it goes.
    pub(super) async fn map(&mut self, lsns: &Range<Lsn>, at: u64, end: u64) -> Result<ExtentMap, ReadError> {
        loop {
            let window = at..end.min(at.saturating_add(self.window_bytes));
            let smallest = window.end - window.start <= WINDOW_BYTES_MIN;
            let weight_max = if smallest { usize::MAX } else { self.map_bytes_max };
            if let Some(map) = self.try_map(lsns, window.clone(), weight_max).await? {
                // Room to spare: the next window may be larger again.
                if map.weight_bytes() < self.map_bytes_max / 4 {
                    self.window_bytes = self.window_bytes.saturating_mul(2).min(u64::MAX / 2);
                }
                return Ok(map);
            }
            self.window_bytes = (window.end - window.start) / 2;
        }
    }

    async fn try_map(
        &mut self,
        lsns: &Range<Lsn>,
        window: Range<u64>,
        weight_max: usize,
    ) -> Result<Option<ExtentMap>, ReadError> {
        let mut map = ExtentMap::new(window.clone());
        let overlaps = |page: &&PageAt| page.places.0 < window.end && page.places.1 > window.start;
        let wanted: Vec<PageAt> = self.pages_of(lsns).filter(overlaps).copied().collect();
        let resizes: Vec<_> = self.resizes(lsns).collect();
        let mut resizes = resizes.into_iter().peekable();
        let older_wins = self.older_wins;
        for group in wanted.chunks(IN_FLIGHT) {
            let rows = self.rows(group).await?;
            for (page, rows) in group.iter().zip(rows) {
                let from = rows.partition_point(|row| row.lsn < lsns.start);
                let inside = rows[from..].iter().take_while(|row| row.lsn < lsns.end);
                for row in inside {
                    while let Some((_, before, after)) = resizes.next_if(|(at, _, _)| *at < row.lsn) {
                        resize(&mut map, before, after);
                    }
                    let there = || map.runs(clip(row.offset, row.end(), &window)).any(|run| run.source.is_some());
                    if !(older_wins && there()) {
                        map.write(row.offset, row.len, row.kind, (page.view as u32, row.frame, row.payload_at));
                    }
                }
                if map.weight_bytes() > weight_max {
                    return Ok(None);
                }
            }
        }
        resizes.for_each(|(_, before, after)| resize(&mut map, before, after));
        Ok(Some(map))
    }

    /// The rows of some pages, fetched together.
    async fn rows(&mut self, pages: &[PageAt]) -> Result<Vec<Arc<Vec<IndexRow>>>, ReadError> {
        let (source, views) = (self.source, self.views);
        let fetches = pages.iter().map(|at| {
            let known = self.opened.get(&(at.view, at.page)).cloned();
            async move {
                match known {
                    Some(rows) => Ok(rows),
                    None => source.rows(&views[at.view], at.page).await.map(Arc::new),
                }
            }
        });
        let fetched: Vec<_> = stream::iter(fetches).buffered(IN_FLIGHT).collect().await;
        let rows: Vec<_> = fetched.into_iter().collect::<Result<_, ReadError>>()?;
        for (at, rows) in pages.iter().zip(&rows) {
            let key = (at.view, at.page);
            if self.opened.insert(key, rows.clone()).is_none() {
                self.order.push_back(key);
            }
        }
        while self.order.len() > PAGES_KEPT {
            let oldest = self.order.pop_front().expect("there are more than that");
            self.opened.remove(&oldest);
        }
        Ok(rows)
    }
}

fn clip(start: u64, end: u64, window: &Range<u64>) -> Range<u64> {
    let start = start.clamp(window.start, window.end);
    start..end.clamp(start, window.end)
}

/// What lay behind the new end reads as zeroes from here on.
fn resize(map: &mut ExtentMap, before: u64, after: u64) {
    let mut at = after;
    while at < before {
        let len = (before - at).min(ZERO_BYTES_MAX);
        map.write(at, len as u32, WriteKind::Zero, (0, 0, 0));
        at += len;
    }
}
