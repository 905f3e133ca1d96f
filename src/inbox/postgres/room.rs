//! The room for more rows in an inbox: its limits, less its unfinished rows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::inbox::limits::Limits;

/// The least time from one count to the next, and the most while events are stored.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const COUNT_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// Between them, a count is repeated after this many times its own duration, so that counting costs a twentieth. Only a
/// refusal counts sooner.
const COUNT_SHARE: u32 = 20;

/// The limits, and the unfinished rows: the last count, and the rows that this handle has stored since.
///
/// Expected jobs count to the rows when another job is registered, and not when an event arrives: an expected job must
/// not be the reason why its own event is refused.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    used: Mutex<Used>,
    count_ended: Notify,
}

#[derive(Debug, Default)]
struct Used {
    counted: Amount,
    stored: Amount,
    /// Reserved for statements under way.
    reserved: Amount,
    /// The number of counts so far.
    counts: u64,
    /// The begin of the count under way.
    counting_since: Option<Instant>,
    /// The time at which the last count ended or failed, and the pause after it.
    last: Option<(Instant, Duration)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Amount {
    rows: u64,
    bytes: u64,
    expected: u64,
}

/// A count under way. One that is dropped has failed: the earlier count stays.
pub(super) struct Count {
    room: Arc<Room>,
    /// The amount stored before it began, which it includes.
    stored: Amount,
    has_ended: bool,
}

impl Count {
    /// Begins a count; `None` while another is under way.
    pub(super) fn begin(room: &Arc<Room>) -> Option<Self> {
        let mut used = room.used();
        if used.counting_since.is_some() {
            return None;
        }
        used.counting_since = Some(Instant::now());
        Some(Self { room: room.clone(), stored: used.stored, has_ended: false })
    }

    /// Notes the result, and the duration in the database.
    pub(super) fn end(mut self, [rows, bytes, expected]: [u64; 3], took: Duration) {
        self.has_ended = true;
        let mut used = self.room.used();
        used.counts += 1;
        used.counted = Amount { rows, bytes, expected };
        used.stored = used.stored.without(self.stored);
        used.end_count(took);
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut used = self.room.used();
            let took = used.counting_since.map_or(Duration::ZERO, |since| since.elapsed());
            used.end_count(took);
        }
        self.room.count_ended.notify_waiters();
    }
}

impl Used {
    fn end_count(&mut self, took: Duration) {
        let pause = took.saturating_mul(COUNT_SHARE).clamp(COUNT_EVERY, COUNT_AT_LEAST_EVERY);
        (self.counting_since, self.last) = (None, Some((Instant::now(), pause)));
    }
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, used: Mutex::default(), count_ended: Notify::new() }
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

    /// The number of counts so far.
    pub(super) fn counts(&self) -> u64 {
        self.used().counts
    }

    /// The begin of the count under way.
    pub(super) fn counting_since(&self) -> Option<Instant> {
        self.used().counting_since
    }

    /// Whether it is time for another count, after a pause that its cost calls for.
    pub(super) fn is_count_due(&self) -> bool {
        let used = self.used();
        let has_paused = used.last.is_none_or(|(ended, pause)| ended.elapsed() >= pause);
        !self.is_unlimited() && used.counting_since.is_none() && has_paused
    }

    /// Whether the last count is too old to refuse anything by it. A count that failed is repeated no sooner than one that
    /// did not.
    pub(super) fn is_count_old(&self) -> bool {
        let used = self.used();
        let is_old = used.last.is_none_or(|(ended, _)| ended.elapsed() >= COUNT_EVERY);
        !self.is_unlimited() && (used.counting_since.is_some() || is_old)
    }

    /// Waits for the end of a count, also if it ends before the first poll.
    pub(super) fn count_ended(&self) -> Notified<'_> {
        self.count_ended.notified()
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
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    fn room(rows: u64) -> Arc<Room> {
        Arc::new(Room::new(Limits { rows, bytes: u64::MAX }))
    }

    fn counted(count: Count, rows: u64) {
        count.end([rows, rows, 0], Duration::ZERO);
    }

    #[test]
    fn rows_stored_during_a_count_are_added_to_it() {
        let room = room(3);
        let begin = || Count::begin(&room).unwrap();
        counted(begin(), 0);
        let store = || {
            let fits = room.reserve(1);
            if fits {
                room.settle(1, true);
            }
            fits
        };
        assert!(store());
        let count = begin();
        assert!(store());
        // The count includes the first row, and not the second.
        counted(count, 1);
        assert!(store());
        assert!(!store(), "a fourth row was stored");
        // A count that fails changes nothing.
        drop(begin());
        assert!(!store(), "a fourth row was stored");
        counted(begin(), 2);
        assert!(store());
        assert!(!store(), "a fourth row was stored");
        // The same with expected jobs.
        counted(begin(), 0);
        let count = begin();
        (0..3).for_each(|_| room.expected());
        counted(count, 0);
        assert!(!room.has_room_to_expect(), "expected jobs do not count");
    }

    #[tokio::test(start_paused = true)]
    async fn one_count_at_a_time_costs_a_twentieth_and_is_never_long_ago() {
        let room = room(3);
        let mut known = room.counts();
        for (took, pause) in [(0, 1), (50, 1), (100, 2), (2_000, 40), (10_000, 60), (u64::MAX, 60)] {
            assert!(room.is_count_due() && room.is_count_old(), "{took} ms");
            let count = Count::begin(&room).unwrap();
            assert!(Count::begin(&room).is_none(), "two counts are under way");
            assert!(!room.is_count_due() && room.is_count_old(), "another count may begin beside it");
            count.end([3, 3, 0], Duration::from_millis(took));
            known += 1;
            assert_eq!(room.counts(), known);
            advance(SECOND - MOMENT).await;
            assert!(!room.is_count_old() && !room.is_count_due(), "{took} ms");
            advance(MOMENT).await;
            assert!(room.is_count_old(), "events would be refused by an old count after {took} ms");
            advance((SECOND * (pause - 1)).saturating_sub(MOMENT)).await;
            assert!(pause == 1 || !room.is_count_due(), "{took} ms");
            advance(MOMENT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_fails_is_repeated_by_its_cost_too() {
        let room = room(3);
        for (took, pause) in [(0, 1), (2, 40), (30, 60)] {
            let count = Count::begin(&room).unwrap();
            let ended = room.count_ended();
            advance(SECOND * took).await;
            drop(count);
            ended.await;
            assert!(!room.is_counted() && !room.is_count_old(), "{took} s");
            advance(SECOND * pause - MOMENT).await;
            assert!(!room.is_count_due(), "{took} s");
            advance(MOMENT).await;
            assert!(room.is_count_due() && room.is_count_old(), "{took} s");
        }
    }
}
