//! Replays, and the view of an inbox that people have.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, ROUNDING, SHORT, job, stale};
use super::steps::*;
use crate::inbox::{DeadByError, InboxAdmin, InboxState, InboxStats, Outcome, Receipt, Retention};

/// A replayed row is due at once with its own event; attempts are counted anew, and the earlier ones beside them. The row
/// still deduplicates.
pub(super) async fn a_replay_begins_anew_and_keeps_earlier_attempts(store: &dyn InboxAdmin) {
    for outcome in [error("never"), Outcome::Done] {
        let job = received(store).await;
        let first = lease(store, &job, LONG).await.lease;
        settle(store, &first, &retry(Duration::ZERO)).await;
        let second = lease(store, &job, LONG).await.lease;
        settle(store, &second, &outcome).await;
        assert!(replay(store, &job).await, "a row was not replayed after {outcome:?}");
        let row = row(store, &job).await;
        assert_eq!(row.state, InboxState::Received, "the state after a replay");
        assert_eq!(
            (row.attempts, row.earlier_attempts),
            (0, 2),
            "attempts and earlier attempts after a replay of two attempts"
        );
        receipt(store.receive(&completed(&job)).await, Receipt::Duplicate, "a duplicate after a replay");
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, completed(&job).body(), "the body after a replay");
        assert_eq!(
            (leased.attempt, leased.earlier_attempts),
            (1, 2),
            "attempt and earlier attempts of the lease after a replay"
        );
        assert!(!leased.expired, "the lease after a replay reports an expired one before it");
        settle(store, &leased.lease, &outcome).await;
        assert!(replay(store, &job).await, "a row was not replayed a second time");
        let leased = lease(store, &job, LONG).await;
        assert_eq!(
            (leased.attempt, leased.earlier_attempts),
            (1, 3),
            "attempt and earlier attempts of the lease after a second replay"
        );
        stale(store.settle(&second, &outcome).await, "an outcome under a lease from before a replay");
    }
}

/// Only a done row and a dead letter are replayed.
pub(super) async fn only_rows_that_ended_are_replayed(store: &dyn InboxAdmin) {
    for stage in [Stage::Expected, Stage::Received, Stage::Running, Stage::Waiting] {
        let job = job();
        bring(store, &completed(&job), stage).await;
        let before = snapshot(store, &job).await;
        assert!(!replay(store, &job).await, "`replay` is true for a row that is {stage:?}");
        assert_eq!(snapshot(store, &job).await, before, "a replay changed a row that is {stage:?}");
    }
    let unknown = job();
    assert!(!replay(store, &unknown).await, "`replay` is true for an unknown job");
    assert!(!contains(store, &unknown).await, "a replay made a row for an unknown job");
}

/// A row tells the age of its event, and the time until its next attempt, its deadline or the end of its lease.
pub(super) async fn a_row_tells_its_age_and_when_it_is_due(store: &dyn InboxAdmin) {
    let began = Instant::now();
    let job = received(store).await;
    let stored = Instant::now();
    sleep(SHORT).await;
    let oldest = || began.elapsed() + LAG;
    let age = row(store, &job).await.age;
    assert!(age + ROUNDING >= SHORT && age <= oldest(), "the age of a row received 250 ms ago is {age:?}");
    assert_eq!(row(store, &job).await.due_in, Some(Duration::ZERO), "`due_in` of a due row");
    let leased = lease(store, &job, LONG).await.lease;
    for what in ["the end of its lease", "its next attempt"] {
        let left = row(store, &job).await.due_in;
        let spent = stored.elapsed() + LAG;
        assert!(
            left.is_some_and(|left| left <= LONG + LAG && left + spent >= LONG),
            "{what} is in two minutes, and `due_in` is {left:?}"
        );
        let _ = store.settle(&leased, &retry(LONG)).await;
    }
}

/// The statistics count the rows in each state, the bytes of their bodies, and the age of the oldest due row and of the
/// oldest overdue job. A worker finds them through the store's `admin`.
pub(super) async fn rows_are_counted(store: &dyn InboxAdmin) {
    assert!(store.admin().is_some(), "`admin` is `None`");
    clear(store).await;
    // A store may estimate large numbers of these.
    let all = Retention::default().payload(Duration::ZERO).row(Duration::ZERO).dead(Duration::ZERO);
    prune_all(store, &all).await;
    let before = stats(store).await;
    let (mut bytes, mut unfinished) = (0, 0);
    for (stage, count) in
        [(Stage::Running, 1), (Stage::Done, 2), (Stage::Dead, 3), (Stage::Waiting, 4), (Stage::Expected, 5)]
    {
        for _ in 0..count {
            let event = event(&job(), "extract", "completed", "é");
            bring(store, &event, stage).await;
            let length = event.body().len() as u64;
            bytes += if stage == Stage::Expected { 0 } else { length };
            unfinished += if matches!(stage, Stage::Running | Stage::Waiting) { length } else { 0 };
        }
    }
    let event = completed(&job());
    store_event(store, &event).await;
    bytes += event.body().len() as u64;
    unfinished += event.body().len() as u64;
    expect(store, &job(), Duration::ZERO).await;
    let waited = Instant::now();
    sleep(SHORT).await;
    let after = stats(store).await;
    let new = |count: fn(&InboxStats) -> u64| count(&after).wrapping_sub(count(&before));
    assert_eq!(new(|stats| stats.running), 1, "running rows");
    assert_eq!(new(|stats| stats.done), 2, "done rows");
    assert_eq!(new(|stats| stats.dead), 3, "dead letters");
    assert_eq!(new(|stats| stats.received), 5, "received rows, new or between two attempts");
    assert_eq!(new(|stats| stats.expected), 6, "expected jobs");
    assert_eq!(new(|stats| stats.bytes), bytes, "bytes of the bodies");
    assert_eq!(new(|stats| stats.unfinished_bytes), unfinished, "bytes of the bodies of unfinished rows");
    let overdue = after.oldest_overdue;
    assert!(
        overdue.is_some_and(|overdue| overdue + ROUNDING >= SHORT),
        "`oldest_overdue` is {overdue:?}, with a job overdue for {SHORT:?}"
    );
    let oldest = after.oldest_due.unwrap_or_default();
    assert!(
        oldest + ROUNDING >= SHORT && oldest <= LONG + waited.elapsed(),
        "`oldest_due` is {:?}, with a row due for {SHORT:?}",
        after.oldest_due
    );
    for attempt in 1.. {
        clear(store).await;
        match stats(store).await.oldest_due {
            None => return,
            // A row of an earlier run may have become due in between.
            due => assert!(attempt < 10, "`oldest_due` is {due:?}, with no due row"),
        }
    }
}

/// The newest dead letters are counted by their error, the most frequent first.
pub(super) async fn dead_letters_are_counted_by_error(store: &dyn InboxAdmin) {
    for text in ["second", "first", "", "first"] {
        let dying = received(store).await;
        settle(store, &lease(store, &dying, LONG).await.lease, &error(text)).await;
    }
    for (most, errors) in [
        (0, &[][..]),
        (1, &[("first", 1)]),
        (3, &[("first", 2), ("", 1)]),
        (4, &[("first", 2), ("", 1), ("second", 1)]),
    ] {
        let counted = by_error(store, most).await;
        let found: Vec<_> = counted.errors.iter().map(|(error, count)| (&**error, *count)).collect();
        assert_eq!(found, errors, "the newest {most} dead letters by error");
        assert!(counted.more || most == 4, "`more` of the newest {most} of four dead letters is false");
    }
}

async fn by_error(store: &dyn InboxAdmin, most: usize) -> DeadByError {
    store.dead_by_error(most).await.unwrap_or_else(|error| panic!("`dead_by_error` failed: {error:?}"))
}

async fn stats(store: &dyn InboxAdmin) -> InboxStats {
    store.stats().await.unwrap_or_else(|error| panic!("`stats` failed: {error:?}"))
}
