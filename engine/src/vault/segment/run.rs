//! What a part of a merged run says of itself, in its top. A run stands for the log objects of a range of slots; its parts
//! are objects of their own, laid out as segments are (header, frames, index pages, top, trailer), without batch ends.
//!
//! ```text
//!   slots    .. 41 ┌──────── run: from 42 to 97 ────────┐ 98 ..          live segments
//!                │ │ part 0 ─► part 1 ─► ... ─► part n  │  │
//!                │ └ before = footer of 41              │  └ previous = footer of 97 = the run's `behind`
//!                └──────────────────────────────────────┘    each part names the footer of the part before it
//!
//!   rows     layer (.., 310)      layer (310, 355)         layer (355, end)       a boundary is a retained position
//!            LSN 309              LSN 354                  last LSN of the run    all rows of a layer have one LSN
//!            0 ── 4K ── 1M ..     8K ── 64K ..             4K ── ..               by place, none overlaps another
//! ```
//!
//! A layer holds what changed between two boundaries, each byte of the disk once: its last version there. So a reader at a
//! boundary takes the rows with smaller LSNs, as it does from a segment; between two boundaries nothing can be read.
//!
//! ```text
//!   run 8 | part u32 | from u64 | to u64 | before digest 32 | behind digest 32 | epoch u64 | writer 16
//!   boundaries u32 | (lsn u64 | slot u64 | footer digest 32)*          part 0 only
//! ```

use super::top::FooterDigest;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{Epoch, Lsn, RunId, Slot, WriterId};

const WHAT: &str = "run";

/// A position that stays readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The position: it shows the writes with smaller LSNs.
    pub lsn: Lsn,
    /// The slot that held it.
    pub slot: Slot,
    /// The digest of that slot's footer: a timeline that branched there names it.
    pub footer: FooterDigest,
}

impl Boundary {
    /// Its size in a footer, in bytes.
    pub const BYTES: usize = 48;
}

/// Which part of which run, and what the run stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunHead {
    /// The run.
    pub run: RunId,
    /// The part's number, from 0 on.
    pub part: u32,
    /// The first slot that the run stands for.
    pub from: Slot,
    /// The last one.
    pub to: Slot,
    /// Digest of the footer in the slot before.
    pub before: FooterDigest,
    /// Digest of the footer in the last slot: the slot after it names that.
    pub behind: FooterDigest,
    /// Who filled the last slot.
    pub owner: (Epoch, WriterId),
    /// The positions that can be read, rising; in part 0 only.
    pub boundaries: Vec<Boundary>,
}

impl RunHead {
    pub(super) fn put(&self, out: &mut Put) {
        out.slice(&self.run.0).u32(self.part).u64(self.from.0).u64(self.to.0);
        out.slice(&self.before.0).slice(&self.behind.0).u64(self.owner.0.0).slice(&self.owner.1.0);
        out.count(self.boundaries.len());
        for boundary in &self.boundaries {
            out.u64(boundary.lsn.0).u64(boundary.slot.0).slice(&boundary.footer.0);
        }
    }

    pub(super) fn take(input: &mut Take<'_>) -> Result<Self, Malformed> {
        let mut head = Self {
            run: RunId(input.array(WHAT)?),
            part: input.u32(WHAT)?,
            from: Slot(input.u64(WHAT)?),
            to: Slot(input.u64(WHAT)?),
            before: FooterDigest(input.array(WHAT)?),
            behind: FooterDigest(input.array(WHAT)?),
            owner: (Epoch(input.u64(WHAT)?), WriterId(input.array(WHAT)?)),
            boundaries: Vec::new(),
        };
        let count = input.count(Boundary::BYTES, WHAT)?;
        for _ in 0..count {
            let (lsn, slot) = (Lsn(input.u64(WHAT)?), Slot(input.u64(WHAT)?));
            let boundary = Boundary { lsn, slot, footer: FooterDigest(input.array(WHAT)?) };
            let rises = head.boundaries.last().is_none_or(|last| last.lsn < lsn && last.slot <= slot);
            if !rises || slot < head.from || slot > head.to {
                return Err(Malformed::Value { what: "run's boundary", value: lsn.0 });
            }
            head.boundaries.push(boundary);
        }
        if head.from > head.to || head.to.0 == u64::MAX || (head.part > 0 && count > 0) {
            return Err(Malformed::Value { what: "run's slots", value: head.to.0 });
        }
        Ok(head)
    }
}
