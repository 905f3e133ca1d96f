//! What people see of an inbox and do to it, and what is pruned.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, ROUNDING, SHORT, job, leases, stale};
use super::steps::*;
use crate::inbox::{
    InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Outcome, Pruned, Receipt,
    Retention,
};

/// A row that is dead or done is due again at once after a replay, with its own body, a new count of attempts,
/// and the old one beside it. Deduplication neither stops it nor is reset by it.
///
/// # Panics
///
/// When it is not due, or a count is lost.
pub async fn inbox_a_replay_begins_anew_and_keeps_the_attempts(store: &dyn InboxAdmin) {
    for outcome in [error("never"), Outcome::Done] {
        let job = received(store).await;
        let first = lease(store, &job, LONG).await.lease;
        settle(store, &first, &retry(Duration::ZERO)).await;
        let second = lease(store, &job, LONG).await.lease;
        settle(store, &second, &outcome).await;
        assert!(replay(store, &job).await, "a row was not replayed after {outcome:?}");
        let row = row(store, &job).await;
        assert_eq!(row.state, InboxState::Received, "the state after a replay");
        assert_eq!((row.attempts, row.earlier_attempts), (0, 2), "the counts after a replay of two attempts");
        receipt(store.receive(&completed(&job)).await, Receipt::Duplicate, "a copy of what was replayed");
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, completed(&job).body(), "another body is replayed");
        assert_eq!(
            (leased.attempt, leased.earlier_attempts),
            (1, 2),
            "the counts of the attempt after a replay"
        );
        assert!(!leased.expired, "no lease ran out before a replay");
        settle(store, &leased.lease, &outcome).await;
        assert!(replay(store, &job).await, "a row was not replayed a second time");
        let leased = lease(store, &job, LONG).await;
        assert_eq!((leased.attempt, leased.earlier_attempts), (1, 3), "the counts after a second replay");
        stale(store.settle(&second, &outcome).await, "an outcome from before a replay");
    }
}

/// Only what is dead or done is replayed.
///
/// # Panics
///
/// When something else is, or a row is made.
pub async fn inbox_only_what_has_ended_is_replayed(store: &dyn InboxAdmin) {
    for stand in [Stand::Expected, Stand::Received, Stand::Running, Stand::Waiting] {
        let job = job();
        bring(store, &completed(&job), stand).await;
        let before = snapshot(store, &job).await;
        assert!(!replay(store, &job).await, "a row that is {stand:?} is said to be replayed");
        assert_eq!(snapshot(store, &job).await, before, "a replay of a row that is {stand:?} changed it");
    }
    let nobody = job();
    assert!(!replay(store, &nobody).await, "a job that nobody knows is said to be replayed");
    assert!(!contains(store, &nobody).await, "a replay made a row for a job that nobody knows");
}

/// Rows are listed in the order of their arrival, all of them or those that a filter lets through, page by page.
///
/// # Panics
///
/// When one is missing, comes twice or in another place, or should not be there.
pub async fn inbox_rows_are_listed_in_order(store: &dyn InboxAdmin) {
    let mut jobs = Vec::new();
    for (stand, job_type, status) in [
        (Stand::Dead, "fill_pdf", "failed"),
        (Stand::Done, "extract", "failed"),
        (Stand::Expected, "", ""),
        (Stand::Running, "summarize", "processing"),
        (Stand::Waiting, "fill_pdf", "completed"),
        (Stand::Received, "extract", "completed"),
    ] {
        let job = job();
        bring(store, &event(&job, job_type, status, ""), stand).await;
        jobs.push(job);
    }
    let first = &jobs[0];
    let text = |text: &str| Some(text.to_owned());
    let all = InboxFilter::default();
    let state = |state| InboxFilter { state: Some(state), ..InboxFilter::default() };
    for (filter, expected) in [
        (all.clone(), vec![0, 1, 2, 3, 4, 5]),
        (state(InboxState::Expected), vec![2]),
        (state(InboxState::Received), vec![4, 5]),
        (state(InboxState::Running), vec![3]),
        (state(InboxState::Done), vec![1]),
        (state(InboxState::Dead), vec![0]),
        (InboxFilter { job_type: text("extract"), ..all.clone() }, vec![1, 5]),
        (InboxFilter { job_type: text("summarize"), ..all.clone() }, vec![3]),
        (InboxFilter { job_type: text("Extract"), ..all.clone() }, vec![]),
        (InboxFilter { status: text("failed"), ..all.clone() }, vec![0, 1]),
        (InboxFilter { status: text("%"), ..all.clone() }, vec![]),
        (
            InboxFilter { job_type: text("extract"), status: text("failed"), state: Some(InboxState::Done) },
            vec![1],
        ),
        (
            InboxFilter { job_type: text("extract"), status: text("failed"), state: Some(InboxState::Dead) },
            vec![],
        ),
    ] {
        for page in [1, 2, 100] {
            let rows = list(store, &filter, row(store, first).await.number, page).await;
            let places: Vec<_> =
                rows.iter().filter_map(|row| jobs.iter().position(|job| *job == *row.job_id)).collect();
            assert_eq!(places, expected, "the rows for {filter:?}, {page} at a time");
            let numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
            assert!(numbers.is_sorted_by(|one, next| one < next), "the numbers do not grow: {numbers:?}");
        }
    }
    let none = store.list(&all, None, 0).await;
    assert!(none.as_ref().is_ok_and(Vec::is_empty), "no rows were asked for, and came {none:?}");
    for job in &jobs {
        let listed = list(store, &all, row(store, first).await.number, 100).await;
        let listed = listed.into_iter().find(|row| *job == *row.job_id);
        let plain = |row: InboxRow| InboxRow { age: Duration::ZERO, due_in: None, ..row };
        assert_eq!(listed.map(plain), Some(plain(row(store, job).await)), "listed and got alone");
    }
}

/// All pages, beginning with a row.
async fn list(store: &dyn InboxAdmin, filter: &InboxFilter, from: u64, page: usize) -> Vec<InboxRow> {
    let (mut rows, mut after) = (Vec::new(), from.checked_sub(1));
    loop {
        let next = match store.list(filter, after, page).await {
            Ok(next) => next,
            Err(error) => panic!("the rows cannot be listed: {error:?}"),
        };
        assert!(next.len() <= page, "{page} rows were asked for, and {} came", next.len());
        let Some(last) = next.last() else { return rows };
        assert!(Some(last.number) > after, "the page after row {after:?} ends with row {}", last.number);
        after = Some(last.number);
        rows.extend(next);
    }
}

/// A row is as old as its event, and says when something is to happen with it.
///
/// # Panics
///
/// When the times are others.
pub async fn inbox_a_row_says_how_old_it_is_and_when_it_is_due(store: &dyn InboxAdmin) {
    let began = Instant::now();
    let job = received(store).await;
    let stored = Instant::now();
    sleep(SHORT).await;
    let oldest = || began.elapsed() + LAG;
    let age = row(store, &job).await.age;
    assert!(age + ROUNDING >= SHORT && age <= oldest(), "its age is said to be {age:?}");
    assert_eq!(row(store, &job).await.due_in, Some(Duration::ZERO), "it is due");
    let leased = lease(store, &job, LONG).await.lease;
    for what in ["the end of its lease", "its next attempt"] {
        let left = row(store, &job).await.due_in;
        let spent = stored.elapsed() + LAG;
        assert!(
            left.is_some_and(|left| left <= LONG + LAG && left + spent >= LONG),
            "{what} is two minutes away, and said to be {left:?}"
        );
        let _ = store.settle(&leased, &retry(LONG)).await;
    }
}

/// The counts are of rows in each state, and the bytes those of the bodies that are kept.
///
/// # Panics
///
/// When a row is not counted, or as something else.
pub async fn inbox_rows_are_counted(store: &dyn InboxAdmin) {
    clear(store).await;
    let before = stats(store).await;
    let mut bytes = 0;
    for (stand, count) in
        [(Stand::Running, 1), (Stand::Done, 2), (Stand::Dead, 3), (Stand::Waiting, 4), (Stand::Expected, 5)]
    {
        for _ in 0..count {
            let event = event(&job(), "extract", "completed", "é");
            bring(store, &event, stand).await;
            bytes += if stand == Stand::Expected { 0 } else { event.body().len() as u64 };
        }
    }
    let event = completed(&job());
    store_event(store, &event).await;
    bytes += event.body().len() as u64;
    let waited = Instant::now();
    sleep(SHORT).await;
    let after = stats(store).await;
    let new = |count: fn(&InboxStats) -> u64| count(&after).wrapping_sub(count(&before));
    assert_eq!(new(|stats| stats.running), 1, "rows that are leased");
    assert_eq!(new(|stats| stats.done), 2, "rows that are done");
    assert_eq!(new(|stats| stats.dead), 3, "rows that are dead");
    assert_eq!(new(|stats| stats.received), 5, "rows that wait, for the first time or again");
    assert_eq!(new(|stats| stats.expected), 5, "rows whose event has yet to come");
    assert_eq!(new(|stats| stats.bytes), bytes, "the bytes of the bodies");
    let oldest = after.oldest_due.unwrap_or_default();
    assert!(
        oldest + ROUNDING >= SHORT && oldest <= LONG + waited.elapsed(),
        "a row has been due for {SHORT:?}, and is said to have been for {:?}",
        after.oldest_due
    );
    for attempt in 1.. {
        clear(store).await;
        match stats(store).await.oldest_due {
            None => return,
            // A row of an earlier run may have become due in between.
            due => assert!(attempt < 10, "nothing is due, and something is said to have been for {due:?}"),
        }
    }
}

async fn stats(store: &dyn InboxAdmin) -> InboxStats {
    store.stats().await.unwrap_or_else(|error| panic!("the rows cannot be counted: {error:?}"))
}

/// Pruning takes first the bodies and then the rows of what is done, each after its time, and nothing else. A
/// row without a body still tells a copy; when it is gone, the job is new.
///
/// # Panics
///
/// When something else is pruned, or too much or too little of it.
pub async fn inbox_only_what_is_done_is_pruned(store: &dyn InboxAdmin) {
    let done = completed(&job());
    bring(store, &done, Stand::Done).await;
    let mut kept = Vec::new();
    for stand in [Stand::Expected, Stand::Running, Stand::Waiting, Stand::Dead, Stand::Received] {
        let job = job();
        bring(store, &completed(&job), stand).await;
        let before = snapshot(store, &job).await;
        kept.push((stand, job, before));
    }
    let untouched = async |when: &str| {
        for (stand, job, before) in &kept {
            let after = store.get(job).await;
            assert!(matches!(after, Ok(Some(_))), "a row that is {stand:?} was pruned {when}");
            assert_eq!(&snapshot(store, job).await, before, "{stand:?}: changed {when}");
        }
    };

    prune(store, LONG, LONG).await;
    assert_eq!(get(store, done.job()).await.1.as_ref(), Some(done.body()), "pruned before its time");
    untouched("before its time").await;

    let pruned = prune(store, Duration::ZERO, LONG).await;
    assert!(pruned.payloads > 0, "a body was due to be pruned, and none is said to have been");
    let (row, body) = get(store, done.job()).await;
    assert_eq!((row.state, body), (InboxState::Done, None), "a row whose body was due to be pruned");
    untouched("with the bodies").await;
    receipt(
        store.receive(&done).await,
        Receipt::Duplicate,
        "a copy of what was done, and whose body was pruned",
    );
    assert!(!replay(store, done.job()).await, "an event without a body is said to be replayed");

    let pruned = prune(store, Duration::ZERO, Duration::ZERO).await;
    assert!(pruned.rows > 0, "a row was due to be pruned, and none is said to have been");
    assert!(!contains(store, done.job()).await, "a row that was due to be pruned is there");
    untouched("with the rows").await;
    store_event(store, &done).await;
    assert_eq!(
        &lease(store, done.job(), LONG).await.body,
        done.body(),
        "a job that is new after it was pruned"
    );
}

/// The time for which something is kept counts from when it was done.
///
/// # Panics
///
/// When it is pruned early.
pub async fn inbox_retention_counts_from_when_it_was_done(store: &dyn InboxAdmin) {
    for retention in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, LONG).await.lease;
        sleep(retention * 2).await;
        let done = Instant::now();
        settle(store, &leased, &Outcome::Done).await;
        prune(store, retention, retention).await;
        let kept = store.get(&job).await;
        if done.elapsed() < retention {
            assert!(matches!(kept, Ok(Some((_, Some(_))))), "pruned as if it were done when it was received");
            sleep(retention).await;
            prune(store, retention, retention).await;
            assert!(!contains(store, &job).await, "not pruned when its time was over");
            return;
        }
    }
}

/// Prunes until nothing is left to be.
async fn prune(store: &dyn InboxStore, payload: Duration, row: Duration) -> Pruned {
    let mut all = Pruned::default();
    for _ in 0..10_000 {
        let pruned = match store.prune(&Retention { payload, row }).await {
            Ok(pruned) => pruned,
            Err(error) => panic!("what is done cannot be pruned: {error:?}"),
        };
        if pruned == Pruned::default() {
            return all;
        }
        all.payloads += pruned.payloads;
        all.rows += pruned.rows;
    }
    panic!("there is always something left to prune");
}
