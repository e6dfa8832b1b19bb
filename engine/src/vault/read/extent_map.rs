//! Which bytes a disk has at a position of its log: ranges of the disk, each with the place its bytes come from.
//!
//! The map is filled in log order and the later write wins, so after every row with an LSN below a mark it shows
//! exactly that mark (I2). What no row touched is a hole and reads as zeroes. Extents never overlap and are never
//! empty; neighbours that continue each other (zeroes after zeroes, the next bytes of the same frame) are one extent,
//! so a sequential copy of a disk costs one extent a frame.
//!
//! ```text
//!   disk     0        4K       8K                 20K
//!            ├─ hole ─┼─ Data ─┼─ Zero ───────────┼─ hole ...
//!                       │
//!                       └ segment 7, frame 12, byte 512 of its payload
//! ```
//!
//! A map may cover a window of the disk only: rows outside it are not taken. That bounds its memory (I10): about
//! [`EXTENT_BYTES`] an extent.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::section::WriteKind;

/// What one extent takes in memory, in bytes. Measured: a million extents put at random places into the `BTreeMap` grow
/// the process by 53 bytes each; rounded up.
pub const EXTENT_BYTES: usize = 56;

/// Where the bytes of an extent come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A frame's payload.
    Data {
        /// The segment's place in the reader's list.
        segment: u32,
        /// The frame's place in that segment's frame table.
        frame: u32,
        /// Where the extent's first byte lies in the frame's payload.
        payload_at: u32,
    },
    /// Zeroes that were written.
    Zero,
    /// Bytes that nobody defined; they read as zeroes.
    Undefined,
}

impl Source {
    /// The source of what lies `by` bytes further on.
    fn advance(self, by: u64) -> Self {
        match self {
            Self::Data { segment, frame, payload_at } => {
                // A place past any payload stays one: opening the frame refuses it.
                let by = u32::try_from(by).unwrap_or(u32::MAX);
                Self::Data { segment, frame, payload_at: payload_at.saturating_add(by) }
            }
            fill => fill,
        }
    }

    /// Whether the source is a fill rather than a frame.
    pub fn is_fill(self) -> bool {
        !matches!(self, Self::Data { .. })
    }
}

/// A run of a disk with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How long, in bytes; never 0.
    pub len: u64,
    /// Where its bytes come from; `None` is a hole.
    pub source: Option<Source>,
}

impl Extent {
    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Whether it reads as zeroes without any frame.
    pub fn is_zero(&self) -> bool {
        self.source.is_none_or(Source::is_fill)
    }
}

#[derive(Debug, Clone, Copy)]
struct Body {
    end: u64,
    source: Source,
}

/// The map of a disk, or of a window of it, at a position.
#[derive(Debug, Clone)]
pub struct ExtentMap {
    window: Range<u64>,
    extents: BTreeMap<u64, Body>,
}

impl ExtentMap {
    /// An empty map: the window is one hole.
    pub fn new(window: Range<u64>) -> Self {
        Self { window, extents: BTreeMap::new() }
    }

    /// The part of the disk that the map covers.
    pub fn window(&self) -> Range<u64> {
        self.window.clone()
    }

    /// How many extents it holds, holes not counted.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether all of it is one hole.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// What it holds in memory, in bytes, give or take.
    pub fn weight_bytes(&self) -> usize {
        self.extents.len() * EXTENT_BYTES
    }

    /// Takes a write: it hides whatever was there. `payload` is segment, frame and place of a Data write's bytes.
    pub fn write(&mut self, offset: u64, len: u32, kind: WriteKind, payload: (u32, u32, u32)) {
        self.write_observed(offset, len, kind, payload, |_| ());
    }

    /// As [`ExtentMap::write`], and tells `hidden` each extent, or part of one, that the write hid.
    pub fn write_observed(
        &mut self,
        offset: u64,
        len: u32,
        kind: WriteKind,
        (segment, frame, payload_at): (u32, u32, u32),
        hidden: impl FnMut(Extent),
    ) {
        let source = match kind {
            WriteKind::Data => Source::Data { segment, frame, payload_at },
            WriteKind::Zero => Source::Zero,
            WriteKind::Undefined => Source::Undefined,
        };
        let start = offset.max(self.window.start);
        let end = offset.saturating_add(len.into()).min(self.window.end);
        if start >= end {
            return;
        }
        self.clear(start..end, hidden);
        self.insert(start, end, source.advance(start - offset));
    }

    /// Takes a change of the disk's size: what lies behind the new end is gone, also when the disk grows again.
    pub fn resize(&mut self, size_bytes: u64, hidden: impl FnMut(Extent)) {
        self.hide(size_bytes..u64::MAX, hidden);
    }

    /// Makes a hole of a range, as far as it lies in the window, and tells `hidden` what was there.
    pub fn hide(&mut self, range: Range<u64>, hidden: impl FnMut(Extent)) {
        let (start, end) = (range.start.max(self.window.start), range.end.min(self.window.end));
        if start < end {
            self.clear(start..end, hidden);
        }
    }

    fn clear(&mut self, range: Range<u64>, mut hidden: impl FnMut(Extent)) {
        let Range { start, end } = range;
        // The extent that reaches into the range from the left keeps its head, and its tail where it passes the end.
        if let Some((&at, &body)) = self.extents.range(..start).next_back()
            && body.end > start
        {
            self.extents.insert(at, Body { end: start, source: body.source });
            hidden(piece(at, body, start..end));
            if body.end > end {
                self.extents.insert(end, Body { end: body.end, source: body.source.advance(end - at) });
                return;
            }
        }
        while let Some((&at, &body)) = self.extents.range(start..end).next() {
            self.extents.remove(&at);
            hidden(piece(at, body, start..end));
            if body.end > end {
                self.extents.insert(end, Body { end: body.end, source: body.source.advance(end - at) });
            }
        }
    }

    /// Puts an extent into a hole, joined to a neighbour that it continues or that continues it.
    fn insert(&mut self, mut start: u64, mut end: u64, mut source: Source) {
        if let Some((&at, &left)) = self.extents.range(..start).next_back()
            && left.end == start
            && left.source.advance_fits(start - at) == Some(source)
        {
            (start, source) = (at, left.source);
        }
        if let Some(&right) = self.extents.get(&end)
            && source.advance_fits(end - start) == Some(right.source)
        {
            self.extents.remove(&end);
            end = right.end;
        }
        self.extents.insert(start, Body { end, source });
    }

    /// The runs of `range` from left to right without a break: extents, cut to the range, and the holes between.
    ///
    /// # Panics
    /// Where the range leaves the window.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        assert!(
            range.start >= self.window.start && range.end <= self.window.end,
            "the map knows nothing outside its window"
        );
        let first = self.extents.range(..=range.start).next_back().map_or(range.start, |(&at, _)| at);
        let mut found = self.extents.range(first..range.end.max(first)).peekable();
        let (mut at, end) = (range.start, range.end);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            while found.peek().is_some_and(|(_, body)| body.end <= at) {
                found.next();
            }
            let run = match found.peek() {
                Some(&(&start, body)) if start <= at => piece(start, *body, at..end),
                Some(&(&start, _)) => Extent { offset: at, len: start.min(end) - at, source: None },
                None => Extent { offset: at, len: end - at, source: None },
            };
            at = run.end();
            Some(run)
        })
    }
}

impl Source {
    /// The source `by` bytes on, where a payload can be that long.
    fn advance_fits(self, by: u64) -> Option<Self> {
        match self {
            Self::Data { segment, frame, payload_at } => {
                let payload_at = payload_at.checked_add(u32::try_from(by).ok()?)?;
                Some(Self::Data { segment, frame, payload_at })
            }
            fill => Some(fill),
        }
    }
}

/// The part of an extent that lies in `range`.
fn piece(at: u64, body: Body, range: Range<u64>) -> Extent {
    let (start, end) = (at.max(range.start), body.end.min(range.end));
    Extent { offset: start, len: end - start, source: Some(body.source.advance(start - at)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 256;

    /// The naive model: each byte knows the write it came from and its place in it.
    type Model = Vec<Option<Source>>;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, u32, WriteKind),
        Resize(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let kind = prop_oneof![Just(WriteKind::Data), Just(WriteKind::Zero), Just(WriteKind::Undefined)];
        let write = (0..DISK, 1..64_u32, kind).prop_map(|(at, len, kind)| Step::Write(at, len, kind));
        proptest::collection::vec(prop_oneof![12 => write, 1 => (0..=DISK).prop_map(Step::Resize)], 1..120)
    }

    fn model_write(model: &mut Model, frame: u32, at: u64, len: u32, kind: WriteKind) {
        for by in 0..u64::from(len) {
            if let Some(byte) = model.get_mut((at + by) as usize) {
                *byte = Some(match kind {
                    WriteKind::Data => Source::Data { segment: 1, frame, payload_at: by as u32 },
                    WriteKind::Zero => Source::Zero,
                    WriteKind::Undefined => Source::Undefined,
                });
            }
        }
    }

    fn bytes_of(runs: impl Iterator<Item = Extent>, from: u64) -> Model {
        let mut out = Model::new();
        for run in runs {
            assert_eq!(run.offset, from + out.len() as u64, "runs follow each other without a break");
            assert!(run.len > 0, "no run is empty");
            out.extend((0..run.len).map(|by| run.source.map(|source| source.advance(by))));
        }
        out
    }

    proptest! {
        #[test]
        fn the_map_equals_a_model_of_single_bytes(
            steps in steps(), from in 0..DISK, len in 0..DISK, window in (0..DISK, 0..=DISK)
        ) {
            let mut model: Model = vec![None; DISK as usize];
            let mut map = ExtentMap::new(0..DISK);
            let (low, high) = (window.0.min(window.1), window.0.max(window.1));
            let mut part = ExtentMap::new(low..high);
            let mut live = 0_i64;
            for (frame, step) in steps.into_iter().enumerate() {
                let frame = frame as u32;
                let mut hidden = 0;
                match step {
                    Step::Write(at, len, kind) => {
                        map.write_observed(at, len, kind, (1, frame, 0), |e| hidden += e.len as i64);
                        part.write(at, len, kind, (1, frame, 0));
                        model_write(&mut model, frame, at, len, kind);
                        live += i64::from(len).min((DISK - at) as i64);
                    }
                    Step::Resize(size) => {
                        map.resize(size, |e| hidden += e.len as i64);
                        part.resize(size, |_| ());
                        model[size as usize..].fill(None);
                    }
                }
                live -= hidden;
            }
            let end = (from + len).min(DISK);
            prop_assert_eq!(bytes_of(map.runs(from..end), from), &model[from as usize..end as usize]);
            prop_assert_eq!(bytes_of(part.runs(low..high), low), &model[low as usize..high as usize]);
            let known: Vec<_> = map.runs(0..DISK).filter(|run| run.source.is_some()).collect();
            prop_assert_eq!(known.iter().map(|run| run.len as i64).sum::<i64>(), live);
            prop_assert_eq!(known.len(), map.len());
        }
    }

    #[test]
    fn a_sequential_copy_is_one_extent_a_frame() {
        let mut map = ExtentMap::new(0..1 << 20);
        for n in 0..8_u32 {
            map.write(u64::from(n) * 4096, 4096, WriteKind::Data, (0, 3, n * 4096));
        }
        map.write(32768, 4096, WriteKind::Data, (0, 4, 0));
        map.write(40960, 4096, WriteKind::Zero, (0, 0, 0));
        map.write(36864, 4096, WriteKind::Zero, (0, 0, 0));
        assert_eq!(map.len(), 3);
    }
}
