//! What a write carries: runs of data with their digests, and runs of zeroes that are never shipped as data.

use bytes::Bytes;

use crate::digest::{DigestKey, PIECE_BYTES, PieceDigest, pieces};
use crate::ids::Lsn;
use crate::protocol::PieceState;
use crate::section::{SectionBuilder, WriteKind};

/// What lies in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// These bytes; one digest per piece.
    Data(Bytes, Vec<PieceDigest>),
    /// Zeroes.
    Zero,
    /// Nothing defined.
    Undefined,
}

/// A part of a write, all of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its first byte on the disk.
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub len: u32,
    /// What it puts there.
    pub body: Body,
}

impl Run {
    /// Payload that it carries, in bytes.
    pub fn payload_bytes(&self) -> usize {
        match &self.body {
            Body::Data(data, _) => data.len(),
            Body::Zero | Body::Undefined => 0,
        }
    }

    /// What it puts into a part of itself that begins at a piece.
    fn body_of(&self, offset: u64, len: u32) -> Body {
        match &self.body {
            Body::Data(data, digests) => {
                let at = (offset - self.offset) as usize;
                let lead = crate::digest::piece_count(self.offset, at);
                let count = crate::digest::piece_count(offset, len as usize);
                Body::Data(data.slice(at..at + len as usize), digests[lead..lead + count].to_vec())
            }
            Body::Zero => Body::Zero,
            Body::Undefined => Body::Undefined,
        }
    }

    pub(super) fn lay_into(self, lsn: Lsn, section: &mut SectionBuilder) {
        match self.body {
            Body::Data(data, digests) => section.data(lsn, self.offset, data, &digests),
            Body::Zero => section.fill(lsn, self.offset, self.len, WriteKind::Zero),
            Body::Undefined => section.fill(lsn, self.offset, self.len, WriteKind::Undefined),
        }
    }
}

/// Whether all bytes are zero. Looks at the first word first, so that data costs next to nothing.
pub fn is_zero(data: &[u8]) -> bool {
    let (head, rest) = data.split_at(data.len().min(8));
    // A run equals itself moved by eight bytes, and begins with eight zeroes: one memcmp.
    head.iter().all(|byte| *byte == 0) && (rest.is_empty() || data[..data.len() - 8] == *rest)
}

/// Takes a write apart into runs of data and of zero pieces, in order, digesting the data. Each run of zeroes is made
/// of whole pieces of the disk or of the write's own ends.
pub fn analyse(key: &DigestKey, offset: u64, data: &Bytes) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    let mut digests: Vec<PieceDigest> = Vec::new();
    let mut data_from: Option<u64> = None;
    let close = |runs: &mut Vec<Run>, digests: &mut Vec<PieceDigest>, from: &mut Option<u64>, end: u64| {
        if let Some(from) = from.take() {
            let bytes = data.slice((from - offset) as usize..(end - offset) as usize);
            let body = Body::Data(bytes, std::mem::take(digests));
            runs.push(Run { offset: from, len: (end - from) as u32, body });
        }
    };
    for (at, piece) in pieces(offset, data) {
        if is_zero(piece) {
            close(&mut runs, &mut digests, &mut data_from, at);
            match runs.last_mut() {
                Some(run) if run.body == Body::Zero => run.len += piece.len() as u32,
                _ => runs.push(Run { offset: at, len: piece.len() as u32, body: Body::Zero }),
            }
        } else {
            data_from.get_or_insert(at);
            digests.push(key.piece(at, piece));
        }
    }
    close(&mut runs, &mut digests, &mut data_from, offset + data.len() as u64);
    runs
}

/// What of these runs differs from what is known: `known` are the states of the pieces from `from` on.
pub fn differing(runs: Vec<Run>, from: u64, known: &[PieceState]) -> Vec<Run> {
    runs.iter().flat_map(|run| differing_parts(run, from, known)).collect()
}

fn differing_parts(run: &Run, from: u64, known: &[PieceState]) -> Vec<Run> {
    let end = run.offset + u64::from(run.len);
    let mut parts: Vec<Run> = Vec::new();
    let (mut at, mut index) = (run.offset, 0);
    while at < end {
        let next = (at / PIECE_BYTES as u64 + 1).saturating_mul(PIECE_BYTES as u64).min(end);
        let same = match (&run.body, known.get(((at - from) / PIECE_BYTES as u64) as usize)) {
            (Body::Zero, Some(PieceState::Zero)) => true,
            (Body::Data(_, digests), Some(PieceState::Digest(digest))) => digests[index] == *digest,
            _ => false,
        };
        match parts.last_mut() {
            _ if same => {}
            Some(last) if last.offset + u64::from(last.len) == at => last.len += (next - at) as u32,
            _ => parts.push(Run { offset: at, len: (next - at) as u32, body: Body::Zero }),
        }
        (at, index) = (next, index + 1);
    }
    parts.into_iter().map(|part| Run { body: run.body_of(part.offset, part.len), ..part }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digests;

    #[test]
    fn one_set_byte_anywhere_is_found() {
        for len in [1, 7, 8, 9, 512, 4096] {
            assert!(is_zero(&vec![0; len]), "{len}");
            for at in [0, len / 2, len - 1] {
                let mut data = vec![0; len];
                data[at] = 1;
                assert!(!is_zero(&data), "{len} {at}");
            }
        }
    }

    #[test]
    fn only_pieces_that_differ_are_left_with_their_bytes_and_digests() {
        use crate::protocol::{Digests, Part};
        let key = DigestKey::new([9; 32]);
        let part = Part { disk: crate::ids::DiskNo(0), offset: 8192, len: 8 * 4096 + 512 };
        let mut before = vec![5; part.len as usize];
        before[4096..3 * 4096].fill(0);
        let mut known = Digests::of(part, &key, &before).pieces;
        let same = differing(analyse(&key, 8192, &Bytes::from(before.clone())), 8192, &known);
        assert_eq!(same, [], "nothing differs");

        let mut now = before.clone();
        // Data for zero, zero for data, other data, and the last piece, which is short.
        now[4096] = 1;
        now[4 * 4096..5 * 4096].fill(0);
        now[6 * 4096 + 9] = 7;
        now[8 * 4096 + 511] = 7;
        known[0] = PieceState::Unknown;
        let left = differing(analyse(&key, 8192, &Bytes::from(now.clone())), 8192, &known);
        let shape: Vec<_> = left.iter().map(|run| (run.offset / 4096 - 2, run.len, run.body == Body::Zero)).collect();
        assert_eq!(shape, [(0, 8192, false), (4, 4096, true), (6, 4096, false), (8, 512, false)]);
        for run in left {
            if let Body::Data(bytes, sums) = run.body {
                let at = run.offset as usize - 8192;
                assert_eq!(bytes, now[at..at + run.len as usize]);
                assert_eq!(sums, digests(&key, run.offset, &bytes));
            }
        }
    }

    #[test]
    fn zero_pieces_become_fills_and_the_rest_keeps_its_bytes_and_digests() {
        let key = DigestKey::new([9; 32]);
        let mut data = vec![0; 6 * 4096];
        data[10] = 1;
        data[4096..8192].fill(2);
        data[4 * 4096 + 5] = 3;
        let data = Bytes::from(data);
        let runs = analyse(&key, 512, &data);
        let shape: Vec<_> = runs.iter().map(|run| (run.offset, run.len, run.body == Body::Zero)).collect();
        // The write begins at 512, so pieces end at 4096, 8192, ...
        assert_eq!(shape, [(512, 11776, false), (12288, 4096, true), (16384, 4096, false), (20480, 4608, true)]);
        for run in runs {
            if let Body::Data(bytes, sums) = run.body {
                assert_eq!(sums, digests(&key, run.offset, &bytes));
                assert_eq!(bytes, data.slice((run.offset - 512) as usize..(run.offset - 512) as usize + bytes.len()));
            }
        }
    }
}
