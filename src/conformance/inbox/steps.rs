//! Calls of an inbox that many checks make, each with the result they require.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, ROUNDING, SHORT, applied};
use crate::event::{Envelope, JobId};
use crate::inbox::{
    InboxAdmin, InboxRow, InboxState, InboxStore, Lease, Leased, NoResult, Outcome, Overdue, Pruned, Receipt,
    Retention,
};
use crate::store::StoreError;

/// The most calls of a loop that leases: a store that still returns rows then returns them without end.
const MOST_ROUNDS: usize = 1000;

/// The stage of a row: its state, where a received row is new or between two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Expected,
    Received,
    Running,
    /// Its attempt failed, and the next is due in two minutes.
    Waiting,
    Done,
    Dead,
}

impl Stage {
    pub(super) const ALL: [Self; 6] =
        [Self::Expected, Self::Received, Self::Running, Self::Waiting, Self::Done, Self::Dead];
    pub(super) const WITH_EVENT: [Self; 5] =
        [Self::Received, Self::Running, Self::Waiting, Self::Done, Self::Dead];

    pub(super) fn state(self) -> InboxState {
        match self {
            Self::Expected => InboxState::Expected,
            Self::Received | Self::Waiting => InboxState::Received,
            Self::Running => InboxState::Running,
            Self::Done => InboxState::Done,
            Self::Dead => InboxState::Dead,
        }
    }
}

/// An event whose `data` has one more member, so that two events of one job can differ.
pub(super) fn event(job: &JobId, job_type: &str, status: &str, note: &str) -> Envelope {
    let id = job.to_string();
    let data = serde_json::json!({"id": id, "type": job_type, "status": status, "note": note});
    read(serde_json::json!({"job_id": id, "data": data}).to_string())
}

pub(super) fn completed(job: &JobId) -> Envelope {
    event(job, "extract", "completed", "")
}

/// An event whose status is not final.
pub(super) fn processing(job: &JobId) -> Envelope {
    event(job, "extract", "processing", "")
}

pub(super) fn read(body: impl Into<Bytes>) -> Envelope {
    body.into().try_into().unwrap_or_else(|error| panic!("the suite made an invalid body: {error}"))
}

pub(super) fn error(text: &str) -> Outcome {
    Outcome::Dead { error: text.to_owned() }
}

pub(super) fn retry(after: Duration) -> Outcome {
    Outcome::Retry { after, error: "not now".to_owned() }
}

pub(super) fn release(after: Duration) -> Outcome {
    Outcome::Release { after }
}

/// One outcome of each kind.
pub(super) fn outcomes() -> [Outcome; 4] {
    [Outcome::Done, retry(Duration::ZERO), error("never"), release(Duration::ZERO)]
}

pub(super) fn fetch_again(after: Duration, answer: NoResult) -> Outcome {
    Outcome::FetchAgain { after, answer }
}

pub(super) fn failed() -> NoResult {
    NoResult::Failed { error: "no answer".to_owned() }
}

pub(super) fn rejected() -> Outcome {
    Outcome::Rejected { error: "unknown job".to_owned() }
}

pub(super) fn receipt(receipt: Result<Receipt, StoreError>, expected: Receipt, what: &str) {
    assert!(
        receipt.as_ref().is_ok_and(|receipt| *receipt == expected),
        "{what}: expected Ok({expected:?}), got {receipt:?}"
    );
}

pub(super) async fn store_event(store: &dyn InboxStore, event: &Envelope) {
    receipt(store.receive(event).await, Receipt::Stored, "a receipt of the first event of a job");
}

/// A job with a received event.
pub(super) async fn received(store: &dyn InboxStore) -> JobId {
    let job = super::super::harness::job();
    store_event(store, &completed(&job)).await;
    job
}

/// Leases the due rows of these jobs, in order. Settles other rows, of earlier runs or checks, as done.
pub(super) async fn find_all(store: &dyn InboxStore, jobs: &[JobId], length: Duration) -> Vec<Leased> {
    let wanted: HashSet<_> = jobs.iter().collect();
    let mut found = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let leased = match store.lease(64, length).await {
            Ok(leased) => leased,
            Err(error) => panic!("a lease failed: {error:?}"),
        };
        let none = leased.is_empty();
        for leased in leased {
            if wanted.contains(leased.lease.job()) {
                found.push(leased);
            } else {
                let _ = store.settle(&leased.lease, &Outcome::Done).await;
            }
        }
        if none || (!jobs.is_empty() && found.len() >= jobs.len()) {
            return found;
        }
    }
    panic!(
        "the same rows are leased again and again, although their leases last {length:?} or they are done"
    );
}

/// Settles every due row of other checks as done.
pub(super) async fn clear(store: &dyn InboxStore) {
    find_all(store, &[], LONG).await;
}

pub(super) async fn find(store: &dyn InboxStore, job: &JobId, length: Duration) -> Option<Leased> {
    find_all(store, std::slice::from_ref(job), length).await.pop()
}

/// Leases the row of a job, which must be due.
pub(super) async fn lease(store: &dyn InboxStore, job: &JobId, length: Duration) -> Leased {
    match find(store, job, length).await {
        Some(leased) => leased,
        None => panic!("a due row was not leased"),
    }
}

pub(super) async fn not_due(store: &dyn InboxStore, job: &JobId, what: &str) {
    let leased = find(store, job, LONG).await;
    assert!(leased.is_none(), "{what}: leased too early: {leased:?}");
}

/// Leases a job as soon as it is due, and checks that it is due `length` after `began`.
pub(super) async fn lease_when_due(
    store: &dyn InboxStore,
    job: &JobId,
    began: Instant,
    length: Duration,
) -> Leased {
    loop {
        let waited = began.elapsed();
        if let Some(leased) = find(store, job, LONG).await {
            let elapsed = began.elapsed();
            assert!(elapsed + ROUNDING >= length, "leased after {elapsed:?}, instead of after {length:?}");
            return leased;
        }
        assert!(waited < length + LAG, "not leased after {waited:?}, although due after {length:?}");
        sleep(SHORT / 10).await;
    }
}

pub(super) async fn settle(store: &dyn InboxStore, lease: &Lease, outcome: &Outcome) {
    let settled = store.settle(lease, outcome).await;
    applied(settled, &format!("settling the last lease of a row as {outcome:?}"));
}

/// Brings a new row to a stage, and returns its last lease.
pub(super) async fn bring(store: &dyn InboxStore, event: &Envelope, stage: Stage) -> Option<Lease> {
    if stage == Stage::Expected {
        expect(store, event.job(), LONG).await;
        return None;
    }
    store_event(store, event).await;
    let outcome = match stage {
        Stage::Expected | Stage::Received => return None,
        Stage::Running => None,
        Stage::Waiting => Some(retry(LONG)),
        Stage::Done => Some(Outcome::Done),
        Stage::Dead => Some(error("never")),
    };
    let lease = lease(store, event.job(), LONG).await.lease;
    if let Some(outcome) = outcome {
        settle(store, &lease, &outcome).await;
    }
    Some(lease)
}

pub(super) async fn expect(store: &dyn InboxStore, job: &JobId, deadline: Duration) {
    let expected = store.expect(job, deadline).await;
    assert!(expected.is_ok(), "registering a job failed: {expected:?}");
}

pub(super) async fn contains(store: &dyn InboxStore, job: &JobId) -> bool {
    match store.contains(job).await {
        Ok(contains) => contains,
        Err(error) => panic!("`contains` failed: {error:?}"),
    }
}

pub(super) async fn replay(store: &dyn InboxAdmin, job: &JobId) -> bool {
    match store.replay(job).await {
        Ok(replayed) => replayed,
        Err(error) => panic!("a replay failed: {error:?}"),
    }
}

pub(super) async fn discard(store: &dyn InboxAdmin, job: &JobId) -> bool {
    match store.discard(job).await {
        Ok(discarded) => discarded,
        Err(error) => panic!("a discard failed: {error:?}"),
    }
}

/// Prunes until nothing more is pruned.
pub(super) async fn prune_all(store: &dyn InboxStore, retention: &Retention) -> Pruned {
    let mut all = Pruned::default();
    for _ in 0..10_000 {
        let pruned = match store.prune(retention).await {
            Ok(pruned) => pruned,
            Err(error) => panic!("pruning failed: {error:?}"),
        };
        if pruned == Pruned::default() {
            return all;
        }
        all.payloads += pruned.payloads;
        all.rows += pruned.rows;
        all.dead += pruned.dead;
    }
    panic!("`prune` reports more pruned rows or bodies without end");
}

/// A stored row and its body.
pub(super) async fn get(store: &dyn InboxAdmin, job: &JobId) -> (InboxRow, Option<Bytes>) {
    match store.get(job).await {
        Ok(Some(row)) => row,
        other => panic!("getting a stored row: expected Ok(Some(_)), got {other:?}"),
    }
}

pub(super) async fn row(store: &dyn InboxAdmin, job: &JobId) -> InboxRow {
    get(store, job).await.0
}

/// A row and its body, without the durations that change with time.
pub(super) async fn snapshot(store: &dyn InboxAdmin, job: &JobId) -> (InboxRow, Option<Bytes>) {
    let (row, body) = get(store, job).await;
    (timeless(row), body)
}

/// A row without the durations that change with time.
pub(super) fn timeless(mut row: InboxRow) -> InboxRow {
    row.age = Duration::ZERO;
    row.due_in = row.due_in.map(|_| Duration::ZERO);
    row.failures.iter_mut().for_each(|failed| failed.age = Duration::ZERO);
    row
}

/// Leases the overdue jobs among these, and returns their ids.
pub(super) async fn overdue(store: &dyn InboxStore, jobs: &[JobId], length: Duration) -> Vec<JobId> {
    let overdue = find_overdue(store, jobs, length).await;
    overdue.into_iter().map(|overdue| overdue.lease.job().clone()).collect()
}

/// Leases the overdue jobs among these. Other jobs are overdue again in `length`.
pub(super) async fn find_overdue(store: &dyn InboxStore, jobs: &[JobId], length: Duration) -> Vec<Overdue> {
    let mut found = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let overdue = match store.overdue(64, length).await {
            Ok(overdue) => overdue,
            Err(error) => panic!("leasing overdue jobs failed: {error:?}"),
        };
        let none = overdue.is_empty();
        found.extend(overdue.into_iter().filter(|overdue| jobs.contains(overdue.lease.job())));
        if none || (!jobs.is_empty() && found.len() >= jobs.len()) {
            return found;
        }
    }
    panic!("the same overdue jobs are leased again and again, although their leases last {length:?}");
}

/// Leases a job as soon as it is overdue, and checks that it is overdue `length` after `began`.
pub(super) async fn overdue_when_due(
    store: &dyn InboxStore,
    job: &JobId,
    began: Instant,
    length: Duration,
) -> Overdue {
    loop {
        let waited = began.elapsed();
        if let Some(overdue) = find_overdue(store, std::slice::from_ref(job), LONG).await.pop() {
            let elapsed = began.elapsed();
            assert!(elapsed + ROUNDING >= length, "overdue after {elapsed:?}, instead of after {length:?}");
            return overdue;
        }
        assert!(waited < length + LAG, "not overdue after {waited:?}, instead of after {length:?}");
        sleep(SHORT / 10).await;
    }
}

/// Registers a job that is overdue at once, and leases it.
pub(super) async fn overdue_lease(store: &dyn InboxAdmin, job: &JobId) -> Overdue {
    expect(store, job, Duration::ZERO).await;
    lease_overdue(store, job).await
}

/// Leases an overdue job.
pub(super) async fn lease_overdue(store: &dyn InboxAdmin, job: &JobId) -> Overdue {
    match find_overdue(store, std::slice::from_ref(job), LONG).await.pop() {
        Some(overdue) => overdue,
        None => panic!("an overdue job was not leased"),
    }
}

/// A job with a leased row, and the lease.
pub(super) async fn running(store: &dyn InboxAdmin) -> (JobId, Lease) {
    let job = received(store).await;
    let lease = lease(store, &job, LONG).await.lease;
    (job, lease)
}
