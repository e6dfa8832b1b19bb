//! Items of a file that has no footer: of the cache's open segment after a crash, or of one that was cut.
//!
//! ```text
//!   header ┊ frame frame end ┊ frame end ┊ frame frame (torn)
//!                                        └ cut: everything behind it was never durable
//! ```
//!
//! Cutting needs no key: batch ends are plain in their header, and each item has a CRC. Making the index does.

use bytes::Bytes;

use super::header::{HEADER_BYTES, ObjectKind, SegmentIdentity};
use super::index::SegmentIndex;
use super::item::{ItemHeader, ItemKind};
use super::seal::FrameOpener;
use crate::codec::Malformed;
use crate::ids::Lsn;
use crate::vault::crypto::OpenError;

/// A whole batch in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpan {
    /// Where its first item begins.
    pub start: u64,
    /// Behind its batch end.
    pub end: u64,
    /// First LSN of its run.
    pub first: Lsn,
    /// Last LSN of its run.
    pub last: Lsn,
    /// Its items' places and headers; the last is the batch end.
    pub items: Vec<(u64, ItemHeader)>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Whose segment it is.
    pub identity: SegmentIdentity,
    /// The whole batches, in order.
    pub batches: Vec<BatchSpan>,
    /// Behind the last whole batch: where the file is to be cut.
    pub cut: u64,
}

impl Scan {
    /// First and last LSN of the whole batches.
    pub fn run(&self) -> Option<(Lsn, Lsn)> {
        Some((self.batches.first()?.first, self.batches.last()?.last))
    }
}

/// Finds the whole batches at the front of a segment file, without a key. A damaged header is an error: nothing is
/// known of such a file. Whatever follows the last whole batch is ignored.
pub fn scan_whole_batches(bytes: &[u8]) -> Result<Scan, Malformed> {
    let (kind, identity) = SegmentIdentity::decode(bytes)?;
    if kind != ObjectKind::Segment {
        return Err(Malformed::Value { what: "log object kind", value: kind.code().into() });
    }
    let mut scan = Scan { identity, batches: Vec::new(), cut: HEADER_BYTES as u64 };
    let mut number = 0;
    while let Some(batch) = whole_batch(bytes, scan.cut, &mut number, scan.batches.last().map(|batch| batch.last)) {
        scan.cut = batch.end;
        scan.batches.push(batch);
    }
    Ok(scan)
}

/// The batch that begins at `start`, if it is whole and follows what came before.
fn whole_batch(bytes: &[u8], start: u64, number: &mut u64, before: Option<Lsn>) -> Option<BatchSpan> {
    let mut items: Vec<(u64, ItemHeader)> = Vec::new();
    let mut at = start;
    loop {
        let (header, _) = ItemHeader::check(bytes.get(usize::try_from(at).ok()?..)?).ok()?;
        let same_run = items.first().is_none_or(|(_, one)| (one.first, one.last) == (header.first, header.last));
        if header.number.0 <= *number || !same_run || before.is_some_and(|before| before >= header.first) {
            return None;
        }
        *number = header.number.0;
        items.push((at, header));
        at += header.item_bytes() as u64;
        if let ItemKind::BatchEnd { frames } = header.kind {
            let whole = items.len() - 1 == frames as usize;
            return whole.then_some(BatchSpan { start, end: at, first: header.first, last: header.last, items });
        }
    }
}

/// Opens every item up to the cut and makes the index again, as the writer had it.
pub fn rebuild_index(opener: &FrameOpener, bytes: &Bytes) -> Result<(Scan, SegmentIndex), OpenError> {
    let scan = scan_whole_batches(bytes)?;
    let mut index = SegmentIndex::new();
    for (at, header) in scan.batches.iter().flat_map(|batch| &batch.items) {
        let at = *at as usize;
        let item = opener.reopen(&bytes.slice(at..at + header.item_bytes()))?;
        index.push(at as u64, &item);
    }
    Ok((scan, index))
}
