//! The range lock of one disk: what overlaps goes one after the other, in the order of arrival; what does not
//! overlap never meets.
//!
//! A newcomer waits for whoever holds a part of its range, and for whoever came earlier and waits for a part of it,
//! so nobody starves. Requests in flight are few (a client's queue depth), so plain lists beat a tree.

use std::collections::VecDeque;

/// A request for a range; the caller's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    id: u64,
    start: u64,
    end: u64,
}

impl Span {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

/// Who holds which range of a disk, and who waits.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    held: Vec<Span>,
    waiting: VecDeque<Span>,
}

impl RangeLock {
    /// Takes `start..end` for `id`, or queues for it. True where it is held on return.
    pub(super) fn acquire(&mut self, id: u64, start: u64, end: u64) -> bool {
        let span = Span { id, start, end };
        if self.is_free(start, end) {
            self.held.push(span);
            true
        } else {
            self.waiting.push_back(span);
            false
        }
    }

    /// Whether a newcomer would get `start..end` at once.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        !self.held.iter().any(|span| span.overlaps(start, end))
            && !self.waiting.iter().any(|span| span.overlaps(start, end))
    }

    /// Whether `id` holds its range.
    pub(super) fn holds(&self, id: u64) -> bool {
        self.held.iter().any(|span| span.id == id)
    }

    /// Lets go of what `id` holds; true where somebody who waited holds a range now.
    ///
    /// # Panics
    /// Where `id` holds nothing.
    pub(super) fn release(&mut self, id: u64) -> bool {
        let at = self.held.iter().position(|span| span.id == id).expect("only a holder lets go of its range");
        self.held.swap_remove(at);
        !self.waiting.is_empty() && self.promote()
    }

    fn promote(&mut self) -> bool {
        let mut still: VecDeque<Span> = VecDeque::with_capacity(self.waiting.len());
        let mut moved = false;
        for span in self.waiting.drain(..) {
            let blocked = self.held.iter().chain(still.iter()).any(|other| other.overlaps(span.start, span.end));
            if blocked {
                still.push_back(span);
            } else {
                self.held.push(span);
                moved = true;
            }
        }
        self.waiting = still;
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_requests_go_in_the_order_they_came() {
        let mut lock = RangeLock::default();
        assert!(lock.acquire(1, 0, 10));
        assert!(!lock.acquire(2, 5, 15));
        assert!(!lock.acquire(3, 12, 20), "it overlaps who waits, and would starve them by going first");
        assert!(lock.acquire(4, 20, 30));
        assert!(lock.release(1));
        assert!(lock.holds(2) && !lock.holds(3));
        assert!(lock.release(2));
        assert!(lock.holds(3));
        assert!(!lock.release(3));
        assert!(!lock.release(4));
        assert!(lock.is_free(0, 100));
    }

    #[test]
    fn neighbours_do_not_meet() {
        let mut lock = RangeLock::default();
        assert!(lock.acquire(1, 0, 10));
        assert!(lock.acquire(2, 10, 20));
    }
}
