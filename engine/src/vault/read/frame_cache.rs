//! Opened frames, kept while there is room: bounded in bytes, least recently used goes first, and a frame that several
//! readers want at once is fetched once.
//!
//! One cache serves every volume of a process, so its bound is the process's bound (I10). What a reader holds while it
//! copies is counted no longer once evicted; there is one such frame a running read.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::near_frames::NearFrames;
use super::segment_view::ObjectPlace;
use crate::digest::{DigestKey, PIECE_BYTES, PieceDigest, piece_count};
use crate::ids::TimelineId;
use crate::section::{Section, WriteKind};

/// Which frame: timelines are never reused, so no machine is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameId {
    /// The timeline whose log holds it.
    pub timeline: TimelineId,
    /// The object.
    pub place: ObjectPlace,
    /// Its place in the object's frame table.
    pub frame: u32,
}

/// `<timeline>-<slot>-<frame>`, or `<timeline>-<run>.<part>-<frame>`: a file's name.
impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            ObjectPlace::Slot(slot) => write!(f, "{}-{:016x}-{}", self.timeline, slot.0, self.frame),
            ObjectPlace::Run(run, part) => write!(f, "{}-{run}.{part}-{}", self.timeline, self.frame),
        }
    }
}

/// A frame whose seal and piece digests hold.
#[derive(Debug)]
pub struct OpenFrame {
    payload: Bytes,
    /// The writes with data in order of their payload, which has no hole.
    places: Vec<Place>,
    digests: Vec<PieceDigest>,
}

/// Where a write's data begins: in the payload, on the disk, and its digests among all.
#[derive(Debug, Clone, Copy)]
struct Place {
    payload_at: u32,
    offset: u64,
    digest: u32,
}

impl OpenFrame {
    /// Takes a section if each of its pieces has the digest that the agent gave it; otherwise the first place of the
    /// disk whose bytes do not.
    pub fn check(section: &Section, key: &DigestKey) -> Result<Self, u64> {
        if let Some(offset) = section.first_damage(key) {
            return Err(offset);
        }
        let (mut places, mut digest) = (Vec::new(), 0);
        for row in section.rows().filter(|row| row.entry.kind == WriteKind::Data) {
            places.push(Place { payload_at: row.payload_at as u32, offset: row.entry.offset, digest });
            digest += row.digests.len() as u32;
        }
        Ok(Self { payload: section.payload.clone(), places, digests: section.digests.clone() })
    }

    /// `len` bytes of the payload from `payload_at` on, if they are what the frame itself says lies at `offset` of the
    /// disk: an index that points to the wrong place is found out here.
    pub fn bytes(&self, payload_at: u32, len: usize, offset: u64) -> Option<&[u8]> {
        let end = (payload_at as usize).checked_add(len)?;
        let bytes = self.payload.get(payload_at as usize..end)?;
        let mut matches =
            self.covering(payload_at, end)?.iter().map(|at| i128::from(at.offset) - i128::from(at.payload_at));
        let wanted = i128::from(offset) - i128::from(payload_at);
        matches.all(|shift| shift == wanted).then_some(bytes)
    }

    /// The digests that were taken at capture of what [`Self::bytes`] gives for these numbers, where its pieces are
    /// pieces of the writes it comes from.
    pub fn digests(&self, payload_at: u32, len: usize, offset: u64) -> Option<Vec<PieceDigest>> {
        let end = (payload_at as usize).checked_add(len)?;
        let is_border = |at: u64| at.is_multiple_of(PIECE_BYTES as u64);
        let covering = self.covering(payload_at, end)?;
        let first = covering.first()?;
        let starts_right = first.payload_at == payload_at || is_border(offset);
        let joins_right = covering[1..].iter().all(|at| is_border(at.offset));
        let ends_right = is_border(offset + len as u64)
            || end == self.payload.len()
            || self.places.binary_search_by_key(&end, |at| at.payload_at as usize).is_ok();
        if !(starts_right && joins_right && ends_right) {
            return None;
        }
        let skipped = offset / PIECE_BYTES as u64 - first.offset / PIECE_BYTES as u64;
        let from = first.digest as usize + skipped as usize;
        self.digests.get(from..from + piece_count(offset, len)).map(<[_]>::to_vec)
    }

    /// The writes that payload from `payload_at` to `end` comes from.
    fn covering(&self, payload_at: u32, end: usize) -> Option<&[Place]> {
        let first = self.places.partition_point(|at| at.payload_at <= payload_at).checked_sub(1)?;
        let count = self.places[first..].iter().take_while(|at| (at.payload_at as usize) < end).count();
        Some(&self.places[first..first + count])
    }
}

type Cell = Arc<OnceCell<Arc<OpenFrame>>>;

#[derive(Debug)]
struct Entry {
    cell: Cell,
    weight_bytes: usize,
    used: u64,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<FrameId, Entry>,
    /// When each was last used, by a count of uses.
    order: BTreeMap<u64, FrameId>,
    clock: u64,
    held_bytes: usize,
}

/// The cache.
#[derive(Debug)]
pub struct FrameCache {
    bytes_max: usize,
    near: Option<Arc<NearFrames>>,
    inner: Mutex<Inner>,
}

impl FrameCache {
    /// An empty cache that holds at most `bytes_max` bytes of frames.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, near: None, inner: Mutex::default() }
    }

    /// With a folder behind it: what is not in memory is looked for there before the vault is asked.
    #[must_use]
    pub fn with_near(self, near: Option<Arc<NearFrames>>) -> Self {
        Self { near, ..self }
    }

    /// The folder behind it.
    pub(super) fn near(&self) -> Option<&NearFrames> {
        self.near.as_deref()
    }

    /// Most bytes it holds.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes it holds, or has set apart for frames on their way.
    pub fn held_bytes(&self) -> usize {
        self.inner.lock().held_bytes
    }

    /// The frame if it is there.
    pub fn get(&self, id: FrameId) -> Option<Arc<OpenFrame>> {
        let mut inner = self.inner.lock();
        inner.touch(id).and_then(|cell| cell.get().cloned())
    }

    /// Whether the frame is there or on its way.
    pub fn knows(&self, id: FrameId) -> bool {
        self.inner.lock().entries.contains_key(&id)
    }

    /// The frame, fetched with `load` if it is not there. Several callers at once share one fetch; after a failed one
    /// the next caller tries again.
    pub async fn get_or_load<E>(
        &self,
        id: FrameId,
        weight_bytes: usize,
        load: impl Future<Output = Result<OpenFrame, E>>,
    ) -> Result<Arc<OpenFrame>, E> {
        let cell = self.reserve(id, weight_bytes);
        let frame = cell.get_or_try_init(|| async { load.await.map(Arc::new) }).await;
        if frame.is_err() {
            self.forget(id, &cell);
        }
        frame.cloned()
    }

    fn reserve(&self, id: FrameId, weight_bytes: usize) -> Cell {
        let mut inner = self.inner.lock();
        if let Some(cell) = inner.touch(id) {
            return cell;
        }
        inner.held_bytes += weight_bytes;
        while inner.held_bytes > self.bytes_max
            && let Some((_, oldest)) = inner.order.pop_first()
        {
            let gone = inner.entries.remove(&oldest).expect("what has a use has an entry");
            inner.held_bytes -= gone.weight_bytes;
        }
        let (cell, used) = (Cell::default(), inner.clock);
        inner.clock += 1;
        inner.order.insert(used, id);
        inner.entries.insert(id, Entry { cell: cell.clone(), weight_bytes, used });
        cell
    }

    /// Drops an entry whose fetch failed, so that it takes no room, unless another fetch has taken its place.
    fn forget(&self, id: FrameId, cell: &Cell) {
        let mut inner = self.inner.lock();
        if inner.entries.get(&id).is_some_and(|entry| Arc::ptr_eq(&entry.cell, cell) && !cell.initialized()) {
            let gone = inner.entries.remove(&id).expect("it was just there");
            inner.order.remove(&gone.used);
            inner.held_bytes -= gone.weight_bytes;
        }
    }
}

impl Inner {
    fn touch(&mut self, id: FrameId) -> Option<Cell> {
        let entry = self.entries.get_mut(&id)?;
        self.order.remove(&entry.used);
        entry.used = self.clock;
        self.order.insert(self.clock, id);
        self.clock += 1;
        Some(entry.cell.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::digest::digests;
    use crate::ids::{Lsn, Slot};
    use crate::section::SectionBuilder;

    fn id(frame: u32) -> FrameId {
        FrameId { timeline: TimelineId([1; 8]), place: ObjectPlace::Slot(Slot(2)), frame }
    }

    fn frame() -> OpenFrame {
        let key = DigestKey::new([1; 32]);
        let mut builder = SectionBuilder::default();
        for (lsn, offset) in [(1, 0), (2, 4096), (3, 65536)] {
            let data = Bytes::from(vec![lsn as u8; 4096]);
            builder.data(Lsn(lsn), offset, data.clone(), &digests(&key, offset, &data));
        }
        let section = Section::parse(&builder.finish(), 1 << 20).expect("well formed");
        assert_eq!(OpenFrame::check(&section, &DigestKey::new([2; 32])).err(), Some(0));
        OpenFrame::check(&section, &key).expect("its digests hold")
    }

    #[test]
    fn a_frame_gives_only_bytes_that_belong_where_they_are_asked_for() {
        let frame = frame();
        assert_eq!(frame.bytes(4000, 200, 4000).map(<[u8]>::len), Some(200), "writes that follow each other");
        assert_eq!(frame.bytes(8192, 4096, 65536), Some(&[3; 4096][..]));
        assert_eq!(frame.bytes(8192, 4096, 8192), None, "another place of the disk");
        assert_eq!(frame.bytes(8000, 4096, 8000), None, "a run that jumps on the disk");
        assert_eq!(frame.bytes(8192, 4097, 65536), None, "past the end");
        assert_eq!(frame.bytes(u32::MAX, usize::MAX, 0), None);
    }

    #[tokio::test]
    async fn the_cache_never_holds_more_than_its_bound_and_keeps_what_is_used() {
        let cache = FrameCache::new(1000);
        for n in 0..50 {
            let load = async { Ok::<_, Infallible>(frame()) };
            cache.get_or_load(id(n), 300, load).await.expect("it loads");
            assert!(cache.held_bytes() <= 1000);
            assert!(n == 0 || cache.get(id(0)).is_some(), "frame 0 is used all the time");
        }
        assert!(!cache.knows(id(1)));
    }

    #[tokio::test]
    async fn a_failed_fetch_takes_no_room_and_is_tried_again() {
        let cache = FrameCache::new(1000);
        assert!(cache.get_or_load(id(1), 300, async { Err("away") }).await.is_err());
        assert_eq!(cache.held_bytes(), 0);
        assert!(cache.get_or_load(id(1), 300, async { Ok::<_, &str>(frame()) }).await.is_ok());
    }

    #[tokio::test]
    async fn readers_that_want_one_frame_at_once_share_one_fetch() {
        let cache = Arc::new(FrameCache::new(1 << 20));
        let (go, gate) = tokio::sync::watch::channel(false);
        let fetches = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (cache, fetches, mut gate) = (cache.clone(), fetches.clone(), gate.clone());
                tokio::spawn(async move {
                    let load = async {
                        fetches.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        gate.wait_for(|open| *open).await.expect("the sender lives");
                        Ok::<_, Infallible>(frame())
                    };
                    cache.get_or_load(id(1), 1, load).await.expect("it loads");
                })
            })
            .collect();
        go.send(true).expect("readers wait");
        for reader in readers {
            reader.await.expect("no panic");
        }
        assert_eq!(fetches.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
