//! The head of the queue: a time before which no row is due.
//!
//! An old snapshot, as of a backup, keeps all earlier versions of rows in the index, and a look from the beginning of the
//! index passes them all. So a lease begins to look where earlier leases found the first row.
//!
//! A write makes a row due at the database's time or later. So rows that are due before a look come from transactions
//! that wrote before it. When these have ended and another look sees no row due before some time, there will be none.
//! A look that leases rows knows these transactions: their numbers are below its own. A look that leases none has no
//! number, and a snapshot does not tell it: there, the newest number is that of the last transaction that has ended. Such
//! looks wait for [`LONG`].
//!
//! This reckons with neither a clock that is set back, nor rows that others write, nor a fetched row whose event is
//! verified after its lease has ended; nor does it wait longer for other transactions, which may concern other tables. A
//! look from the beginning, beside the leases, finds now and then what was passed over. When it fails, the leases look
//! from the beginning themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;
use tracing::warn;

use super::Inner;
use super::batch::BATCH_TIME;
use crate::error::chain;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// The least time between two looks from the beginning, and the most.
const ALL_EVERY: Duration = Duration::from_secs(5);
const ALL_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// Between them, the next one comes after this many times the duration of the last one.
const ALL_SHARE: u32 = 20;
/// The time from which transactions under way are not waited for, in microseconds: a sender waits no longer for the
/// acknowledgement of an event.
const LONG: i64 = 5_000_000;
/// The time that may pass between reading the clock and the first write of a transaction, in microseconds.
const MARGIN: i64 = 50_000;

/// Where looks begin. Times are the database's, in microseconds.
#[derive(Default)]
pub(super) struct Head(Mutex<State>);

#[derive(Default)]
struct State {
    /// No row is due before this time; `None` if that is not known.
    from: Option<i64>,
    /// The look that is confirmed when the transactions then under way have ended.
    earlier: Option<Seen>,
    next_look_at_all: Option<Instant>,
}

/// The results of a look at the due rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) now: i64,
    /// Every transaction before this one has ended.
    pub(super) ended: i64,
    /// No transaction after this one had begun to write; `None` if that is not known.
    pub(super) last: Option<i64>,
    /// The look saw no row that is due before this time. Zero stands for all times before 1970.
    pub(super) first: i64,
}

impl Seen {
    fn new(row: &Row) -> Result<Self, StoreError> {
        let number = |name| column::<i64>(row, name);
        Ok(Self {
            now: number("now")?,
            ended: number("ended")?,
            last: column(row, "last")?,
            first: number("first")?,
        })
    }

    /// Whether all transactions that wrote before the look have ended when all before `ended` have.
    fn has_ended(&self, ended: i64) -> bool {
        self.last.is_some_and(|last| last < ended)
    }
}

impl Head {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time at which a look may begin.
    pub(super) fn from(&self) -> Option<i64> {
        self.state().from
    }

    /// Notes the results of a look that began at `from`, or of a look from the beginning while the head was there. Returns
    /// whether the head went back.
    pub(super) fn seen(&self, from: Option<i64>, row: &Row) -> bool {
        // Results that cannot be read only make looks longer.
        Seen::new(row).is_ok_and(|seen| self.state().seen(from, seen))
    }

    /// Whether it is time for a look from the beginning. Returns `true` to one caller in [`ALL_EVERY`].
    fn is_look_at_all_due(&self) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let is_due = state.from.is_some() && state.next_look_at_all.is_none_or(|next| next <= now);
        if is_due {
            state.next_look_at_all = Some(now + ALL_EVERY);
        }
        is_due
    }
}

/// Looks from the beginning if it is time for that, beside the caller.
pub(super) fn look_at_all(inner: &Arc<Inner>) {
    let Ok(runtime) = Handle::try_current() else { return };
    if !inner.head.is_look_at_all_due() {
        return;
    }
    let (inner, from) = (inner.clone(), inner.head.from());
    runtime.spawn(async move {
        let began = Instant::now();
        let query = postgres::query_seldom(&inner.database, &inner.statements.look_at_all, &[]);
        let rows = timeout(BATCH_TIME, query).await.unwrap_or_else(|late| Err(StoreError::unavailable(late)));
        let pause = began.elapsed().saturating_mul(ALL_SHARE).clamp(ALL_EVERY, ALL_AT_LEAST_EVERY);
        inner.head.state().next_look_at_all = Some(Instant::now() + pause);
        match rows {
            Ok(rows) => {
                if rows.first().is_some_and(|row| inner.head.seen(from, row)) {
                    inner.arrivals.wake_one();
                }
            }
            Err(error) => {
                warn!(error = %chain(&error), "looking for rows that leases pass over failed; leases look from the beginning");
                inner.head.state().forget();
            }
        }
    });
}

impl State {
    /// Lets looks begin at the beginning again.
    fn forget(&mut self) {
        (self.from, self.earlier) = (None, None);
    }

    fn seen(&mut self, from: Option<i64>, seen: Seen) -> bool {
        let at = |time: i64| Some(time.saturating_sub(MARGIN)).filter(|time| *time > 0);
        if from.is_some_and(|from| seen.now < from) {
            // The clock was set back.
            self.forget();
            return true;
        }
        if from.is_some_and(|from| seen.first < from) {
            // A row was passed over.
            self.from = self.from.min(at(seen.first));
            return true;
        }
        if from > self.from {
            // The head went back during the look, which may have begun behind the row that was passed over.
            return false;
        }
        let confirmed = self
            .earlier
            .filter(|earlier| earlier.has_ended(seen.ended) || seen.now.saturating_sub(earlier.now) >= LONG);
        if let Some(earlier) = confirmed {
            self.from = self.from.max(at(earlier.now.min(seen.first)));
        }
        // A look that knows the transactions before it is confirmed sooner.
        let is_better = self.earlier.is_none_or(|earlier| earlier.last.is_none() && seen.last.is_some());
        if confirmed.is_some() || is_better {
            self.earlier = Some(seen);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn seen(now: i64, ended: i64, last: i64, first: i64) -> Seen {
        Seen { now: now * SECOND, ended, last: Some(last), first: first * SECOND }
    }

    /// Looks from where the head is.
    fn look(state: &mut State, seen: Seen) -> bool {
        state.seen(state.from, seen)
    }

    #[test]
    fn a_look_begins_at_the_first_row_or_before_the_transactions_under_way() {
        let mut state = State::default();
        look(&mut state, seen(10, 5, 7, 10));
        assert_eq!(state.from, None, "5, 6 and 7 may write rows that are due before");
        // Within less than the longest wait.
        look(&mut state, Seen { now: 10_500_000, ..seen(10, 7, 8, 10) });
        assert_eq!(state.from, None, "7 may");
        look(&mut state, Seen { now: 10_600_000, ..seen(10, 8, 8, 10) });
        assert_eq!(state.from, Some(10 * SECOND - MARGIN));
        look(&mut state, seen(20, 9, 8, 15));
        assert_eq!(state.from, Some(10 * SECOND + 600_000 - MARGIN), "the look before was at that time");
        look(&mut state, seen(30, 9, 8, 15));
        assert_eq!(state.from, Some(15 * SECOND - MARGIN), "a row is due then");
    }

    #[test]
    fn a_look_that_leases_nothing_is_confirmed_by_time_alone() {
        let empty = |now, ended| Seen { last: None, ..seen(now, ended, 0, now) };
        let mut state = State::default();
        // The newest number of a snapshot says nothing about transactions under way.
        for now in [10, 11, 12, 13, 14] {
            look(&mut state, empty(now, 9));
            assert_eq!(state.from, None, "a transaction under way may write a row that is due before");
        }
        look(&mut state, empty(15, 9));
        assert_eq!(state.from, Some(10 * SECOND - MARGIN));
        // A look that leases replaces it, and is confirmed as soon as its transactions have ended.
        look(&mut state, seen(16, 9, 9, 16));
        look(&mut state, empty(17, 10));
        assert_eq!(state.from, Some(16 * SECOND - MARGIN));
    }

    #[test]
    fn long_transactions_rows_passed_over_and_clocks_set_back_are_no_obstacle() {
        let mut state = State::default();
        look(&mut state, seen(5, 1, 8, 5));
        look(&mut state, seen(10, 1, 9, 10));
        assert_eq!(state.from, Some(5 * SECOND - MARGIN), "it waits for a long transaction");
        assert!(look(&mut state, seen(13, 1, 9, 3)), "a row was passed over");
        assert_eq!(state.from, Some(3 * SECOND - MARGIN));
        assert!(look(&mut state, seen(1, 1, 9, 1)), "the clock was set back");
        assert_eq!(state.from, None);
        for now in [20, 30] {
            look(&mut state, seen(now, 9, 9, now));
        }
        assert!(look(&mut state, seen(31, 9, 9, 0)), "a row is due before 1970");
        assert_eq!(state.from, None);
    }

    #[test]
    fn a_look_that_ends_late_moves_the_head_only_to_a_row_that_was_passed_over() {
        let mut state = State::default();
        for now in [10, 20] {
            look(&mut state, seen(now, 9, 9, now));
        }
        let from = state.from;
        assert_eq!(from, Some(10 * SECOND - MARGIN));
        assert!(look(&mut state, seen(21, 9, 9, 3)));
        assert!(!state.seen(from, seen(30, 9, 9, 30)));
        assert_eq!(state.from, Some(3 * SECOND - MARGIN), "the row that is due at 3 is passed over again");
        for now in [40, 50] {
            look(&mut state, seen(now, 9, 9, now));
        }
        assert!(!state.seen(from, seen(21, 9, 9, 20)));
        assert_eq!(state.from, Some(40 * SECOND - MARGIN), "no row was passed over, and no clock set back");
    }
}
