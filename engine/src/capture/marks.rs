//! When marks are taken.
//!
//! A crash-consistent mark is a label on an LSN with a time: everything that was answered before that time has a smaller
//! LSN, and whatever else has a smaller LSN was on its way and might have been on the disk as well. It leaves with a batch
//! only when every write before it has completed (see `window`). So taking one costs nothing and stops nobody.

use std::time::Duration;

use super::splitter::{Moved, Splitter};
use crate::ids::{Chance, Lsn, MarkId, Timestamp};
use crate::record::{Mark, MarkKind, Record};

/// What decides whether a mark is due.
#[derive(Debug, Default)]
pub(super) struct MarkClock {
    /// The last mark, provisional.
    last: Option<Lsn>,
    /// Before this time none is due.
    not_before: Duration,
    /// Something was written that goes to the log in order since the last mark, or a gap was closed.
    news: bool,
    /// Something was written at all since the last mark.
    written: bool,
}

impl MarkClock {
    pub(super) fn written(&mut self) {
        self.written = true;
    }

    pub(super) fn ordered(&mut self) {
        self.news = true;
    }

    /// The next mark is due at once.
    pub(super) fn at_once(&mut self) {
        self.news = true;
        self.not_before = Duration::ZERO;
    }
}

impl Splitter {
    /// Takes the mark that is due, if one is: under load one an interval, none while nothing was written, none while
    /// no disk could be shown at it, and never a second one before the first has left.
    pub fn mark_if_due(&mut self, now: Duration, wall: Timestamp, chance: &mut dyn Chance) -> Option<MarkId> {
        let left = self.marks.last.is_none_or(|lsn| lsn < self.window.next_to_leave());
        let shown = self.disks.iter().any(|disk| disk.gap.is_none());
        if !self.marks.news || !left || !shown || self.is_exhausted() || now < self.marks.not_before {
            return None;
        }
        let id = MarkId::draw(chance);
        let (kind, members, label) = (MarkKind::Crash, Vec::new(), String::new());
        self.mark(Mark { id, kind, captured_at: wall, members, label }, now);
        Some(id)
    }

    /// Takes the mark of a life that stops: of what was written since the last one, without waiting for its time. The
    /// newest point then shows all that was written.
    pub fn last_mark(&mut self, now: Duration, wall: Timestamp, chance: &mut dyn Chance) -> Option<MarkId> {
        self.marks.not_before = Duration::ZERO;
        self.mark_if_due(now, wall, chance)
    }

    /// Time between marks under load.
    pub fn mark_interval(&self) -> Duration {
        self.config.mark_interval
    }

    /// Marks come so far apart from now on, counted from the last one.
    pub fn set_mark_interval(&mut self, interval: Duration) {
        let last = self.marks.not_before.saturating_sub(self.config.mark_interval);
        self.marks.not_before = last + interval;
        self.config.mark_interval = interval;
    }

    /// Takes a mark here and now.
    pub fn mark(&mut self, mark: Mark, now: Duration) -> Moved {
        let lsn = self.window.record(Record::Mark(mark));
        let not_before = now + self.config.mark_interval;
        self.marks = MarkClock { last: Some(lsn), not_before, news: false, written: false };
        self.drained(now)
    }

    /// Where the log stands while nothing was written since the last mark: that mark's LSN. None otherwise, and while
    /// the mark has not left. The caller's time must have been taken before this call.
    pub fn idle_since(&self) -> Option<Lsn> {
        let lsn = self.marks.last?;
        (!self.marks.written && lsn < self.window.next_to_leave()).then(|| self.window.final_lsn(lsn))
    }

    /// The record of a clean stop. Only when nothing is under way; whatever comes after it makes it no clean stop.
    pub fn clean_stop(&mut self, wall: Timestamp, now: Duration) -> Option<Lsn> {
        if !self.is_open() || self.in_flight() > 0 || !self.is_drained() {
            return None;
        }
        let lsn = self.window.record(Record::CleanStop { captured_at: wall });
        self.drained(now);
        Some(self.window.final_lsn(lsn))
    }
}
