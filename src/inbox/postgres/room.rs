//! The room for more rows in an inbox: its limits, less its unfinished rows.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::inbox::limits::Limits;

/// The least time between two counts.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// A count is repeated after this many times its own duration at least, so that counting costs a twentieth at most.
const COUNT_SHARE: u32 = 20;

/// The limits, and the unfinished rows: the last count, and the rows that this handle has stored since.
///
/// Expected jobs count to the rows when another job is registered, and not when an event arrives: an expected job must
/// not be the reason why its own event is refused.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    counted: Amount,
    stored: Amount,
    /// Reserved for statements under way.
    reserved: Amount,
    /// The number of counts so far.
    counts: u64,
    next_count: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Amount {
    rows: u64,
    bytes: u64,
    expected: u64,
}

/// A count under way.
pub(super) struct Count {
    counts: u64,
    /// The amount stored before it began, which it includes.
    stored: Amount,
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, used: Mutex::default() }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the room is known: the rows were counted, or there is no limit.
    pub(super) fn is_counted(&self) -> bool {
        self.is_unlimited() || self.used().counts > 0
    }

    fn is_unlimited(&self) -> bool {
        let Limits { rows, bytes } = self.limits;
        rows == u64::MAX && bytes == u64::MAX
    }

    /// Whether it is time for another count. Returns `true` to one caller in [`COUNT_EVERY`].
    pub(super) fn is_count_due(&self) -> bool {
        let (mut used, now) = (self.used(), Instant::now());
        let due = !self.is_unlimited() && used.next_count.is_none_or(|next| next <= now);
        if due {
            used.next_count = Some(now + COUNT_EVERY);
        }
        due
    }

    /// Notes the begin of a count.
    pub(super) fn begin_count(&self) -> Count {
        let used = self.used();
        Count { counts: used.counts, stored: used.stored }
    }

    /// Notes the result of a count, and its duration in the database, unless another count was noted meanwhile.
    pub(super) fn counted(&self, count: &Count, [rows, bytes, expected]: [u64; 3], took: Duration) {
        let mut used = self.used();
        if used.counts != count.counts {
            return;
        }
        used.counts += 1;
        used.counted = Amount { rows, bytes, expected };
        used.stored = used.stored.without(count.stored);
        used.next_count = Some(Instant::now() + COUNT_EVERY.max(took.saturating_mul(COUNT_SHARE)));
    }

    /// Reserves room for a row with a body of this length; `false` without room.
    pub(super) fn reserve(&self, length: usize) -> bool {
        let mut used = self.used();
        let one = Amount::one(length);
        let wanted = used.counted.with(used.stored).with(used.reserved).with(one);
        let fits = wanted.rows <= self.limits.rows && wanted.bytes <= self.limits.bytes;
        if fits {
            used.reserved = used.reserved.with(one);
        }
        fits
    }

    /// Whether one more job may be registered. Reserves nothing: a caller may be dropped at any time and could not
    /// release the room.
    pub(super) fn has_room_to_expect(&self) -> bool {
        let used = self.used();
        let Amount { rows, expected, .. } = used.counted.with(used.stored).with(used.reserved);
        rows.saturating_add(expected) < self.limits.rows
    }

    /// Notes a registered job.
    pub(super) fn expected(&self) {
        let mut used = self.used();
        used.stored = used.stored.with(Amount { expected: 1, ..Amount::default() });
    }

    /// Releases reserved room, and notes the row if it was stored.
    pub(super) fn settle(&self, length: usize, stored: bool) {
        let mut used = self.used();
        let one = Amount::one(length);
        used.reserved = used.reserved.without(one);
        if stored {
            used.stored = used.stored.with(one);
        }
    }
}

impl Amount {
    fn one(length: usize) -> Self {
        Self { rows: 1, bytes: length as u64, expected: 0 }
    }

    fn with(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_add(other.rows),
            bytes: self.bytes.saturating_add(other.bytes),
            expected: self.expected.saturating_add(other.expected),
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(other.rows),
            bytes: self.bytes.saturating_sub(other.bytes),
            expected: self.expected.saturating_sub(other.expected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(room: &Room, count: &Count, rows: u64) {
        room.counted(count, [rows, rows, 0], Duration::ZERO);
    }

    #[test]
    fn rows_stored_during_a_count_are_added_to_it() {
        let room = Room::new(Limits { rows: 3, bytes: u64::MAX });
        counted(&room, &room.begin_count(), 0);
        let store = || {
            let fits = room.reserve(1);
            if fits {
                room.settle(1, true);
            }
            fits
        };
        assert!(store());
        let count = room.begin_count();
        assert!(store());
        // The count includes the first row, and not the second.
        counted(&room, &count, 1);
        assert!(store());
        assert!(!store(), "a fourth row was stored");
        // The slower of two counts that began together changes nothing.
        let (slow, fast) = (room.begin_count(), room.begin_count());
        counted(&room, &fast, 2);
        assert!(store());
        counted(&room, &slow, 0);
        assert!(!store(), "a fourth row was stored");
        // The same with expected jobs.
        let count = room.begin_count();
        counted(&room, &count, 0);
        let count = room.begin_count();
        (0..3).for_each(|_| room.expected());
        counted(&room, &count, 0);
        assert!(!room.has_room_to_expect(), "expected jobs do not count");
    }
}
