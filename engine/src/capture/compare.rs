//! Comparing a disk whose activity log cannot be trusted with its replica, by digest.
//!
//! ```text
//!   next_compare ─► [the process server reads what earlier lives left] ─► compared ─► scan_spot, begin_scan, ..
//!      region by region, some ahead of the scan                             digests      what is equal is not sent
//! ```
//!
//! Why what is equal need not be sent: a region is comparable while the log has no entry of this life in it, so its replica is
//! what earlier lives left, and the digests say what that is. While it is scanned, whatever is written in it is shipped
//! behind it, or spoils the scan; a region that is scanned again is comparable no more if anything of it was shipped. So
//! a piece that equals its digest under the range lock equals the replica, or an entry of this life that is on its way.
//!
//! A disk that is read again on an operator's word, in the middle of a life, is compared in the regions that this life has no
//! entry of; the others are sent as they are.
//!
//! The digests are of the state before this life's first LSN, which is in the vault for good once the life's beginning is
//! committed: whichever process server answers, the answer is the same.

use std::collections::{BTreeMap, BTreeSet};

use super::splitter::Splitter;
use crate::digest::PIECE_BYTES;
use crate::protocol::compare::COMPARE_BYTES_MAX;
use crate::protocol::{Digests, Part, PieceState};

/// Regions of a disk whose digests are asked for or at hand. Chosen: 16 regions of 1 MiB are 36 KiB of digests, and keep the
/// scanner busy for 100 ms.
const AHEAD_MAX: usize = 16;

/// How far the comparison of one disk is.
#[derive(Debug, Default)]
pub(super) struct CompareState {
    asked: BTreeSet<u32>,
    /// Those of them whose answer may be of before a resync: it counts no more when it comes.
    outdated: BTreeSet<u32>,
    known: BTreeMap<u32, Vec<PieceState>>,
    /// Bytes that were compared so far.
    pub(super) compared_bytes: u64,
    /// Bytes of them that differed, and were sent.
    pub(super) differing_bytes: u64,
}

impl CompareState {
    pub(super) fn has(&self, region: u32) -> bool {
        self.known.contains_key(&region)
    }

    pub(super) fn take(&mut self, region: u32) -> Option<Vec<PieceState>> {
        self.known.remove(&region)
    }

    /// What was answered so far counts no more, nor what was read for an answer that is on its way.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.outdated.extend(&self.asked);
    }

    pub(super) fn put_back(&mut self, region: u32, pieces: Vec<PieceState>) {
        self.known.insert(region, pieces);
    }
}

/// Whether regions of this size can be compared: they are made of whole pieces, and fit a question.
pub(super) fn can_compare(region_bytes: u64) -> bool {
    region_bytes.is_multiple_of(PIECE_BYTES as u64) && region_bytes <= u64::from(COMPARE_BYTES_MAX)
}

impl Splitter {
    /// The next part of a disk whose digests the scanner wants: to be asked for, and answered with [`Splitter::compared`].
    pub fn next_compare(&mut self) -> Option<Part> {
        if !self.is_open() {
            return None;
        }
        let (number, region) = (0..self.disks.len()).find_map(|number| Some((number, self.uncompared(number)?)))?;
        let disk = &mut self.disks[number];
        disk.scan.compare.asked.insert(region);
        let region_bytes = disk.regions.region_bytes();
        let offset = u64::from(region) * region_bytes;
        let len = region_bytes.min(disk.size_bytes - offset) as u32;
        Some(Part { disk: self.window.number(number), offset, len })
    }

    /// The next region of a disk to ask for, from where the scan is.
    fn uncompared(&self, number: usize) -> Option<u32> {
        let disk = &self.disks[number];
        let compare = &disk.scan.compare;
        if compare.asked.len() + compare.known.len() >= AHEAD_MAX {
            return None;
        }
        let stale = disk.regions.stale();
        let from_cursor = std::iter::successors(stale.next(disk.scan.cursor()), |region| stale.next(region + 1));
        let mut regions = from_cursor.chain(stale.iter().take_while(|region| *region < disk.scan.cursor()));
        regions.find(|region| {
            let known = compare.asked.contains(region) || compare.has(*region);
            disk.regions.is_comparable(*region) && !known && !disk.scan.covers(*region)
        })
    }

    /// What was asked for is answered. An answer that does not count leaves its region to be asked for again.
    pub fn compared(&mut self, digests: Digests) {
        let Some(number) = (0..self.disks.len()).find(|number| self.window.number(*number) == digests.part.disk) else {
            return;
        };
        let disk = &mut self.disks[number];
        let region = (digests.part.offset / disk.regions.region_bytes()) as u32;
        let compare = &mut disk.scan.compare;
        let (asked, outdated) = (compare.asked.remove(&region), compare.outdated.remove(&region));
        if asked && !outdated {
            compare.known.insert(region, digests.pieces);
        }
    }

    /// Nobody will answer what was asked for until now: the connection is gone.
    pub fn forget_compares(&mut self) {
        for disk in &mut self.disks {
            disk.scan.compare.asked.clear();
            disk.scan.compare.outdated.clear();
        }
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
