//! How much an inbox may still take.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two counts.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// A count that takes long is repeated after so many times as long: it costs a twentieth at most.
const COUNT_SHARE: u32 = 20;

/// The most that may wait to be handled. Jobs that are expected count to the rows when another is to be, and not
/// when an event comes: who waits for an event must not be why it is refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// What waits: as it was last counted, and what this handle has stored since.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    counted: Amount,
    stored: Amount,
    /// Taken for what is being stored.
    taken: Amount,
    /// How often it was counted.
    counts: u64,
    next_count: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Amount {
    rows: u64,
    bytes: u64,
    expected: u64,
}

/// A count that has begun.
pub(super) struct Count {
    counts: u64,
    /// What was stored before, and is counted.
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

    /// Whether enough is known to say what there is room for.
    pub(super) fn is_counted(&self) -> bool {
        self.is_unlimited() || self.used().counts > 0
    }

    fn is_unlimited(&self) -> bool {
        let Limits { rows, bytes } = self.limits;
        rows == u64::MAX && bytes == u64::MAX
    }

    /// Whether it is time to count again; nobody else is told so for a while.
    pub(super) fn is_count_due(&self) -> bool {
        let (mut used, now) = (self.used(), Instant::now());
        let due = !self.is_unlimited() && used.next_count.is_none_or(|next| next <= now);
        if due {
            used.next_count = Some(now + COUNT_EVERY);
        }
        due
    }

    pub(super) fn begin_count(&self) -> Count {
        let used = self.used();
        Count { counts: used.counts, stored: used.stored }
    }

    /// Notes what was counted, and how long that took the database; unless another count was faster.
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

    /// Takes room for a body; `false` if there is none.
    pub(super) fn take(&self, length: usize) -> bool {
        let mut used = self.used();
        let one = Amount::one(length);
        let wanted = used.counted.with(used.stored).with(used.taken).with(one);
        let fits = wanted.rows <= self.limits.rows && wanted.bytes <= self.limits.bytes;
        if fits {
            used.taken = used.taken.with(one);
        }
        fits
    }

    /// Whether one more job may be expected. That takes no room: who registers it may leave at any time, and
    /// could not give it back.
    pub(super) fn has_room_to_expect(&self) -> bool {
        let used = self.used();
        let Amount { rows, expected, .. } = used.counted.with(used.stored).with(used.taken);
        rows.saturating_add(expected) < self.limits.rows
    }

    /// Notes that a job is expected.
    pub(super) fn expected(&self) {
        let mut used = self.used();
        used.stored = used.stored.with(Amount { expected: 1, ..Amount::default() });
    }

    /// Gives back what was taken, and notes whether it was used.
    pub(super) fn settle(&self, length: usize, stored: bool) {
        let mut used = self.used();
        let one = Amount::one(length);
        used.taken = used.taken.without(one);
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
    fn what_is_stored_while_it_is_counted_is_not_forgotten() {
        let room = Room::new(Limits { rows: 3, bytes: u64::MAX });
        counted(&room, &room.begin_count(), 0);
        let store = || {
            let fits = room.take(1);
            if fits {
                room.settle(1, true);
            }
            fits
        };
        assert!(store());
        let count = room.begin_count();
        assert!(store());
        // It saw the first, and not the second.
        counted(&room, &count, 1);
        assert!(store());
        assert!(!store(), "it took a fourth");
        // The slower of two counts that began together changes nothing.
        let (slow, fast) = (room.begin_count(), room.begin_count());
        counted(&room, &fast, 2);
        assert!(store());
        counted(&room, &slow, 0);
        assert!(!store(), "it took a fourth");
        // The same of jobs that are expected.
        let count = room.begin_count();
        counted(&room, &count, 0);
        let count = room.begin_count();
        (0..3).for_each(|_| room.expected());
        counted(&room, &count, 0);
        assert!(!room.has_room_to_expect(), "it forgot those that are expected");
    }
}
