//! What the checks do with an inbox, and expect of it each time.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, ROUNDING, SHORT, applied};
use crate::event::{Envelope, JobId};
use crate::inbox::{InboxAdmin, InboxRow, InboxState, InboxStore, Lease, Leased, Outcome, Overdue, Receipt};
use crate::store::StoreError;

/// A store that returns rows so often returns them without end.
const MOST_ROUNDS: usize = 1000;

/// Where a row can stand: in one of the states, and received for the first time or again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Expected,
    Received,
    Running,
    /// It failed, and its next attempt is two minutes away.
    Waiting,
    Done,
    Dead,
}

impl Stand {
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
    body.into().try_into().unwrap_or_else(|error| panic!("the suite's own body is none: {error}"))
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

pub(super) fn receipt(receipt: Result<Receipt, StoreError>, expected: Receipt, what: &str) {
    assert!(
        receipt.as_ref().is_ok_and(|receipt| *receipt == expected),
        "{what}: should be {expected:?}, but is {receipt:?}"
    );
}

pub(super) async fn store_event(store: &dyn InboxStore, event: &Envelope) {
    receipt(store.receive(event).await, Receipt::Stored, "the first event of a job");
}

/// A job whose event was received.
pub(super) async fn received(store: &dyn InboxStore) -> JobId {
    let job = super::super::harness::job();
    store_event(store, &completed(&job)).await;
    job
}

/// Leases what is due of these jobs, in order. Rows of others are settled as done: those of an earlier run,
/// or of another check, must not come in the way.
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
    panic!("rows are leased again and again, although their leases last for {length:?}, or they are done");
}

/// Takes what others have left behind out of the way.
pub(super) async fn clear(store: &dyn InboxStore) {
    find_all(store, &[], LONG).await;
}

pub(super) async fn find(store: &dyn InboxStore, job: &JobId, length: Duration) -> Option<Leased> {
    find_all(store, std::slice::from_ref(job), length).await.pop()
}

/// Leases a job that is due.
pub(super) async fn lease(store: &dyn InboxStore, job: &JobId, length: Duration) -> Leased {
    match find(store, job, length).await {
        Some(leased) => leased,
        None => panic!("a row that is due was not leased"),
    }
}

pub(super) async fn not_due(store: &dyn InboxStore, job: &JobId, when: &str) {
    let leased = find(store, job, LONG).await;
    assert!(leased.is_none(), "{when}: was leased, and should not have been: {leased:?}");
}

/// Leases a job as soon as it is due, and checks that this is when it should be.
pub(super) async fn lease_when_due(
    store: &dyn InboxStore,
    job: &JobId,
    began: Instant,
    length: Duration,
) -> Leased {
    loop {
        let asked = began.elapsed();
        if let Some(leased) = find(store, job, LONG).await {
            let elapsed = began.elapsed();
            assert!(
                elapsed + ROUNDING >= length,
                "what should not be leased for {length:?} was leased after {elapsed:?}"
            );
            return leased;
        }
        assert!(asked < length + LAG, "what should be leased after {length:?} was not after {asked:?}");
        sleep(SHORT / 10).await;
    }
}

pub(super) async fn settle(store: &dyn InboxStore, lease: &Lease, outcome: &Outcome) {
    let settled = store.settle(lease, outcome).await;
    applied(settled, &format!("the last holder of a lease settles it as {outcome:?}"));
}

/// Brings a new row to where it is to stand, and returns its last lease.
pub(super) async fn bring(store: &dyn InboxStore, event: &Envelope, stand: Stand) -> Option<Lease> {
    if stand == Stand::Expected {
        expect(store, event.job(), LONG).await;
        return None;
    }
    store_event(store, event).await;
    let outcome = match stand {
        Stand::Expected | Stand::Received => return None,
        Stand::Running => None,
        Stand::Waiting => Some(retry(LONG)),
        Stand::Done => Some(Outcome::Done),
        Stand::Dead => Some(error("never")),
    };
    let lease = lease(store, event.job(), LONG).await.lease;
    if let Some(outcome) = outcome {
        settle(store, &lease, &outcome).await;
    }
    Some(lease)
}

pub(super) async fn expect(store: &dyn InboxStore, job: &JobId, deadline: Duration) {
    let expected = store.expect(job, deadline).await;
    assert!(expected.is_ok(), "a job cannot be registered: {expected:?}");
}

pub(super) async fn contains(store: &dyn InboxStore, job: &JobId) -> bool {
    match store.contains(job).await {
        Ok(contains) => contains,
        Err(error) => panic!("it cannot be asked whether a job is there: {error:?}"),
    }
}

pub(super) async fn replay(store: &dyn InboxAdmin, job: &JobId) -> bool {
    match store.replay(job).await {
        Ok(replayed) => replayed,
        Err(error) => panic!("a replay failed: {error:?}"),
    }
}

/// A row that must be there, and its body.
pub(super) async fn get(store: &dyn InboxAdmin, job: &JobId) -> (InboxRow, Option<Bytes>) {
    match store.get(job).await {
        Ok(Some(row)) => row,
        other => panic!("a row that was stored cannot be looked at: {other:?}"),
    }
}

pub(super) async fn row(store: &dyn InboxAdmin, job: &JobId) -> InboxRow {
    get(store, job).await.0
}

/// A row and its body, without what passes by itself.
pub(super) async fn snapshot(store: &dyn InboxAdmin, job: &JobId) -> (InboxRow, Option<Bytes>) {
    let (row, body) = get(store, job).await;
    (InboxRow { age: Duration::ZERO, due_in: row.due_in.map(|_| Duration::ZERO), ..row }, body)
}

/// Which of these jobs are overdue. Those of others come up again in two minutes.
pub(super) async fn overdue(store: &dyn InboxStore, jobs: &[JobId], length: Duration) -> Vec<JobId> {
    let overdue = find_overdue(store, jobs, length).await;
    overdue.into_iter().map(|overdue| overdue.lease.job().clone()).collect()
}

/// Leases what is overdue of these jobs.
pub(super) async fn find_overdue(store: &dyn InboxStore, jobs: &[JobId], length: Duration) -> Vec<Overdue> {
    let mut found = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let overdue = match store.overdue(64, length).await {
            Ok(overdue) => overdue,
            Err(error) => panic!("overdue jobs cannot be asked for: {error:?}"),
        };
        let none = overdue.is_empty();
        found.extend(overdue.into_iter().filter(|overdue| jobs.contains(overdue.lease.job())));
        if none || (!jobs.is_empty() && found.len() >= jobs.len()) {
            return found;
        }
    }
    panic!("jobs are overdue again and again, although they should not be for {length:?}");
}

/// Leases a job to ask for it as soon as it is overdue, and checks that this is when it should be.
pub(super) async fn overdue_when_due(
    store: &dyn InboxStore,
    job: &JobId,
    began: Instant,
    length: Duration,
) -> Overdue {
    loop {
        let asked = began.elapsed();
        if let Some(overdue) = find_overdue(store, std::slice::from_ref(job), LONG).await.pop() {
            let elapsed = began.elapsed();
            assert!(
                elapsed + ROUNDING >= length,
                "should be overdue after {length:?}, and was after {elapsed:?}"
            );
            return overdue;
        }
        assert!(asked < length + LAG, "should be overdue after {length:?}, and was not after {asked:?}");
        sleep(SHORT / 10).await;
    }
}
