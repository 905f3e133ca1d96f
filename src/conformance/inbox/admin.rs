//! The view of an inbox that people have, their replays, and pruning.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, ROUNDING, SHORT, job, leases, stale};
use super::steps::*;
use crate::inbox::{
    InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Outcome, Pruned, Receipt,
    Retention,
};

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

/// Rows are listed in the order of their arrival, page by page, all of them or those that match a filter.
pub(super) async fn rows_are_listed_in_order(store: &dyn InboxAdmin) {
    let mut jobs = Vec::new();
    for (stage, job_type, status) in [
        (Stage::Dead, "fill_pdf", "failed"),
        (Stage::Done, "extract", "failed"),
        (Stage::Expected, "", ""),
        (Stage::Running, "summarize", "processing"),
        (Stage::Waiting, "fill_pdf", "completed"),
        (Stage::Received, "extract", "completed"),
    ] {
        let job = job();
        bring(store, &event(&job, job_type, status, ""), stage).await;
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
            assert!(
                numbers.is_sorted_by(|one, next| one < next),
                "the numbers of listed rows do not grow: {numbers:?}"
            );
        }
    }
    let none = store.list(&all, None, 0).await;
    assert!(
        none.as_ref().is_ok_and(Vec::is_empty),
        "listing with a limit of 0: expected no rows, got {none:?}"
    );
    for job in &jobs {
        let listed = list(store, &all, row(store, first).await.number, 100).await;
        let listed = listed.into_iter().find(|row| *job == *row.job_id);
        assert_eq!(
            listed.map(timeless),
            Some(timeless(row(store, job).await)),
            "a listed row, and the same row by `get`"
        );
    }
}

/// All pages of the list from the row with number `from` on.
async fn list(store: &dyn InboxAdmin, filter: &InboxFilter, from: u64, page: usize) -> Vec<InboxRow> {
    let (mut rows, mut after) = (Vec::new(), from.checked_sub(1));
    loop {
        let next = match store.list(filter, after, page).await {
            Ok(next) => next,
            Err(error) => panic!("listing rows failed: {error:?}"),
        };
        assert!(next.len() <= page, "a list with a limit of {page} has {} rows", next.len());
        let Some(last) = next.last() else { return rows };
        assert!(Some(last.number) > after, "the page after row {after:?} ends with row {}", last.number);
        after = Some(last.number);
        rows.extend(next);
    }
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

async fn stats(store: &dyn InboxAdmin) -> InboxStats {
    store.stats().await.unwrap_or_else(|error| panic!("`stats` failed: {error:?}"))
}

/// Pruning deletes first the bodies and then the rows of done rows, each after its retention, and nothing else. A row
/// without a body still recognises a duplicate; once the row is pruned, the job is new.
pub(super) async fn only_done_rows_are_pruned(store: &dyn InboxAdmin) {
    let done = completed(&job());
    bring(store, &done, Stage::Done).await;
    let mut kept = Vec::new();
    for stage in [Stage::Expected, Stage::Running, Stage::Waiting, Stage::Dead, Stage::Received] {
        let job = job();
        bring(store, &completed(&job), stage).await;
        let before = snapshot(store, &job).await;
        kept.push((stage, job, before));
    }
    let untouched = async |when: &str| {
        for (stage, job, before) in &kept {
            let after = store.get(job).await;
            assert!(matches!(after, Ok(Some(_))), "a row that is {stage:?} was pruned {when}");
            assert_eq!(&snapshot(store, job).await, before, "pruning {when} changed a row that is {stage:?}");
        }
    };

    prune(store, LONG, LONG).await;
    assert_eq!(
        get(store, done.job()).await.1.as_ref(),
        Some(done.body()),
        "the body before its retention ended"
    );
    untouched("before any retention ended").await;

    let pruned = prune(store, Duration::ZERO, LONG).await;
    assert!(pruned.payloads > 0, "no pruned body is reported after the retention of bodies");
    let (row, body) = get(store, done.job()).await;
    assert_eq!(
        (row.state, body),
        (InboxState::Done, None),
        "state and body of a done row after the retention of bodies"
    );
    untouched("with the retention of bodies over").await;
    receipt(store.receive(&done).await, Receipt::Duplicate, "a duplicate for a row without a body");
    assert!(!replay(store, done.job()).await, "`replay` is true for a row without a body");

    let pruned = prune(store, Duration::ZERO, Duration::ZERO).await;
    assert!(pruned.rows > 0, "no pruned row is reported after the retention of rows");
    assert!(!contains(store, done.job()).await, "a done row is still there after the retention of rows");
    untouched("with the retention of rows over").await;
    store_event(store, &done).await;
    assert_eq!(
        &lease(store, done.job(), LONG).await.body,
        done.body(),
        "the body of a job that is new after it was pruned"
    );
}

/// Retention counts from the completion of a row, not from its receipt.
pub(super) async fn retention_counts_from_completion(store: &dyn InboxAdmin) {
    for retention in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, LONG).await.lease;
        sleep(retention * 2).await;
        let done = Instant::now();
        settle(store, &leased, &Outcome::Done).await;
        prune(store, retention, retention).await;
        let kept = store.get(&job).await;
        if done.elapsed() < retention {
            assert!(matches!(kept, Ok(Some((_, Some(_))))), "pruned as if it had been done at its receipt");
            sleep(retention).await;
            prune(store, retention, retention).await;
            assert!(!contains(store, &job).await, "not pruned after its retention");
            return;
        }
    }
}

/// Prunes until nothing more is pruned.
async fn prune(store: &dyn InboxStore, payload: Duration, row: Duration) -> Pruned {
    let mut all = Pruned::default();
    for _ in 0..10_000 {
        let pruned = match store.prune(&Retention { payload, row }).await {
            Ok(pruned) => pruned,
            Err(error) => panic!("pruning failed: {error:?}"),
        };
        if pruned == Pruned::default() {
            return all;
        }
        all.payloads += pruned.payloads;
        all.rows += pruned.rows;
    }
    panic!("`prune` reports more pruned rows or bodies without end");
}
