//! What makes log objects one log: each names the footer before it, slots follow each other, epochs never fall, and
//! LSNs go on. Pure: footers in, verdicts out.

use super::error::Damage;
use crate::ids::{Epoch, Lsn, Slot, WriterId};
use crate::vault::segment::{Control, Footer, FooterDigest};
use crate::vault::state::StateError;

/// The end of a checked log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// The slot that comes next.
    pub next: Slot,
    /// Digest of the last footer.
    pub previous: FooterDigest,
    /// Owner of the last object.
    pub owner: Option<(Epoch, WriterId)>,
    /// The last LSN.
    pub last_lsn: Lsn,
}

impl Chain {
    /// The end of a log that has no object.
    pub const EMPTY: Self = Self { next: Slot(0), previous: FooterDigest::NONE, owner: None, last_lsn: Lsn::ZERO };

    /// The end of a log whose last object has this footer, taken on trust.
    pub fn behind(footer: &Footer) -> Self {
        Self {
            next: footer.slot.next(),
            previous: footer.digest,
            owner: Some((footer.epoch, footer.writer)),
            last_lsn: footer.state.last_lsn,
        }
    }

    /// Takes the next object, if it is the next one.
    pub fn follow(&mut self, footer: &Footer) -> Result<(), Damage> {
        if footer.slot != self.next || footer.run.is_some() {
            return Err(Damage::Misplaced { sealed_for: footer.slot });
        }
        if footer.previous != self.previous {
            return Err(Damage::Chain);
        }
        match self.owner {
            Some((before, _)) if footer.epoch < before => {
                return Err(Damage::EpochFell { found: footer.epoch, before });
            }
            Some((epoch, writer)) if footer.epoch == epoch && footer.writer != writer => {
                return Err(Damage::TwoWriters { epoch });
            }
            _ => {}
        }
        self.follow_lsns(footer)?;
        *self = Self::behind(footer);
        Ok(())
    }

    /// Takes a whole run, told by its first part and the LSNs it stands for.
    pub fn follow_run(&mut self, first_part: &Footer) -> Result<(), Damage> {
        let Some(head) = &first_part.run else { return Err(Damage::Part) };
        if head.from != self.next {
            return Err(Damage::Misplaced { sealed_for: head.from });
        }
        if head.before != self.previous || first_part.previous != self.previous {
            return Err(Damage::Chain);
        }
        if let Some((before, _)) = self.owner.filter(|(before, _)| head.owner.0 < *before) {
            return Err(Damage::EpochFell { found: head.owner.0, before });
        }
        let (first, last) = (first_part.first, first_part.last);
        if first <= self.last_lsn {
            return Err(Damage::Order(StateError::NotAfter { last: self.last_lsn, found: first }));
        }
        if last < first || first_part.state.last_lsn != last {
            return Err(Damage::Order(StateError::OutsideRun { first, last, found: first_part.state.last_lsn }));
        }
        *self = Self { next: head.to.next(), previous: head.behind, owner: Some(head.owner), last_lsn: last };
        Ok(())
    }

    fn follow_lsns(&self, footer: &Footer) -> Result<(), Damage> {
        let order = |error| Err(Damage::Order(error));
        match footer.control {
            // A child's log goes on where its branch left the parent's.
            Some(Control::Branch(branch)) if footer.slot == Slot(0) => {
                if footer.state.last_lsn != branch.lsn {
                    return order(StateError::Missing { expected: branch.lsn, found: footer.state.last_lsn });
                }
            }
            Some(Control::Branch(_)) => return Err(Damage::StrayBranch),
            Some(Control::Fence) => {
                if footer.state.last_lsn != self.last_lsn {
                    return order(StateError::Missing { expected: self.last_lsn, found: footer.state.last_lsn });
                }
            }
            None => {
                let (first, last) = (footer.first, footer.last);
                if first <= self.last_lsn {
                    return order(StateError::NotAfter { last: self.last_lsn, found: first });
                }
                if last < first || footer.state.last_lsn != last {
                    return order(StateError::OutsideRun { first, last, found: footer.state.last_lsn });
                }
            }
        }
        Ok(())
    }
}
