//! What becomes of jobs that the API was asked for.

use std::time::Duration;

use super::super::harness::{LONG, applied, job, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{InboxAdmin, InboxState, Lease, Outcome, Overdue, Receipt, Unfinished};

fn ask_again(after: Duration, answer: Unfinished) -> Outcome {
    Outcome::AskAgain { after, answer }
}

fn failed() -> Unfinished {
    Unfinished::Failed { error: "no answer".to_owned() }
}

fn disowned() -> Outcome {
    Outcome::Disowned { error: "nobody knows it".to_owned() }
}

/// Registers a job that is overdue, and leases it to ask for it.
async fn overdue_lease(store: &dyn InboxAdmin, job: &JobId) -> Overdue {
    expect(store, job, Duration::ZERO).await;
    again(store, job).await
}

async fn again(store: &dyn InboxAdmin, job: &JobId) -> Overdue {
    match find_overdue(store, std::slice::from_ref(job), LONG).await.pop() {
        Some(overdue) => overdue,
        None => panic!("a job that is overdue is not returned"),
    }
}

async fn running(store: &dyn InboxAdmin) -> (JobId, Lease) {
    let job = received(store).await;
    let lease = lease(store, &job, LONG).await.lease;
    (job, lease)
}

/// What the API says of an overdue job is its event, and handled like any other.
///
/// # Panics
///
/// When it is not due, not verified, or not what the API said.
pub async fn inbox_an_overdue_job_is_verified(store: &dyn InboxAdmin) {
    for said in [completed(&job()), event(&job(), "fill_pdf", "failed", "")] {
        let overdue = overdue_lease(store, said.job()).await;
        for _ in 0..2 {
            applied(store.verify(&overdue.lease, &said).await, "what the API says of an overdue job");
        }
        let row = row(store, said.job()).await;
        assert_eq!((row.state, row.verified, row.asked), (InboxState::Received, true, 0));
        receipt(store.receive(&said).await, Receipt::Duplicate, "its webhook, later");
        let leased = lease(store, said.job(), LONG).await;
        assert_eq!((&leased.body, leased.attempt, leased.verified), (said.body(), 1, true));
        stale(store.verify(&overdue.lease, &said).await, "the same, when it is leased");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
}

/// A webhook that comes while its job is asked for wins: whoever asked writes nothing more.
///
/// # Panics
///
/// When the answer changes something.
pub async fn inbox_a_webhook_wins_over_an_answer(store: &dyn InboxAdmin) {
    let webhook = completed(&job());
    let overdue = overdue_lease(store, webhook.job()).await;
    receipt(store.receive(&webhook).await, Receipt::Stored, "a webhook while its job is asked for");
    let before = snapshot(store, webhook.job()).await;
    let said = event(webhook.job(), "extract", "failed", "");
    stale(store.verify(&overdue.lease, &said).await, "an answer after the webhook");
    stale(store.renew(&overdue.lease, LONG).await, "a renewal after the webhook");
    let outcomes = [ask_again(LONG, Unfinished::Pending), ask_again(LONG, failed()), give_back(LONG)];
    for outcome in outcomes.iter().chain(&[disowned(), error("never")]) {
        stale(store.settle(&overdue.lease, outcome).await, "an outcome after the webhook");
    }
    assert_eq!(snapshot(store, webhook.job()).await, before, "an answer changed what the webhook brought");
    assert!(!before.0.verified, "a webhook is no answer of the API");
}

/// What the API says of a running row takes the place of its event, under the same lease, and stays.
///
/// # Panics
///
/// When the lease is lost, the attempts change, or the row forgets that it was verified.
pub async fn inbox_a_running_row_is_verified(store: &dyn InboxAdmin) {
    let (job, lease_of_webhook) = running(store).await;
    let said = event(&job, "fill_excel", "failed", "the API's");
    for _ in 0..2 {
        applied(store.verify(&lease_of_webhook, &said).await, "what the API says of a running row");
    }
    applied(store.renew(&lease_of_webhook, LONG).await, "a renewal after that");
    let (row, body) = get(store, &job).await;
    assert_eq!((row.state, row.attempts, row.verified), (InboxState::Running, 1, true));
    assert_eq!((row.job_type.as_deref(), body.as_ref()), (Some("fill_excel"), Some(said.body())));
    settle(store, &lease_of_webhook, &retry(Duration::ZERO)).await;
    receipt(store.receive(&completed(&job)).await, Receipt::Conflict, "another webhook");
    let leased = lease(store, &job, LONG).await;
    assert_eq!((&leased.body, leased.attempt, leased.verified), (said.body(), 2, true));
    stale(store.verify(&lease_of_webhook, &said).await, "an answer under an old lease");
}

/// A job that has not ended is expected again, without an event, and its next event is its first.
///
/// # Panics
///
/// When the event is kept, the attempt is counted, or the asking is not.
pub async fn inbox_a_job_that_has_not_ended_is_expected_again(store: &dyn InboxAdmin) {
    let (job, lease_of_webhook) = running(store).await;
    settle(store, &lease_of_webhook, &ask_again(Duration::ZERO, Unfinished::Pending)).await;
    stale(store.renew(&lease_of_webhook, LONG).await, "a renewal when the job is expected");
    let (row, body) = get(store, &job).await;
    assert_eq!((row.state, row.attempts, row.asked), (InboxState::Expected, 0, 1));
    assert_eq!((row.job_type, row.status, body), (None, None, None), "its event was dropped");
    let overdue = again(store, &job).await;
    assert_eq!((overdue.asked.times, overdue.asked.not_found), (1, 0));
    settle(store, &overdue.lease, &ask_again(LONG, Unfinished::Pending)).await;
    stale(store.settle(&overdue.lease, &give_back(Duration::ZERO)).await, "another outcome of that lease");
    assert!(find_overdue(store, std::slice::from_ref(&job), LONG).await.is_empty(), "asked again at once");
    receipt(store.receive(&completed(&job)).await, Receipt::Stored, "its next event");
    let leased = lease(store, &job, LONG).await;
    assert_eq!((leased.attempt, leased.asked.times, leased.verified), (1, 2, false));
    assert!(leased.asked.again_in > LONG / 2, "when it may be asked again was forgotten: {leased:?}");
}

/// That the API does not know a job, or does not answer, costs no attempt, and is counted apart.
///
/// # Panics
///
/// When the event is lost, an attempt is counted, or the counts are wrong.
pub async fn inbox_what_the_api_cannot_say_is_counted_apart(store: &dyn InboxAdmin) {
    let (running, mut running_lease) = running(store).await;
    let expected = job();
    let mut expected_lease = overdue_lease(store, &expected).await.lease;
    let answers =
        [(Unfinished::NotFound, 1), (failed(), 1), (Unfinished::NotFound, 2), (Unfinished::NotFound, 3)];
    for (times, (answer, not_found)) in (1..).zip(answers) {
        for (job, held, state) in [
            (&running, &running_lease, InboxState::Received),
            (&expected, &expected_lease, InboxState::Expected),
        ] {
            settle(store, held, &ask_again(Duration::ZERO, answer.clone())).await;
            let row = row(store, job).await;
            assert_eq!((row.state, row.attempts, row.asked), (state, 0, times), "{answer:?}");
            assert_eq!(row.error.as_deref(), answer.error(), "{answer:?}");
        }
        let leased = lease(store, &running, LONG).await;
        assert_eq!((leased.attempt, leased.asked.times, leased.asked.not_found), (1, times, not_found));
        let overdue = again(store, &expected).await;
        assert_eq!((overdue.asked.times, overdue.asked.not_found), (times, not_found));
        (running_lease, expected_lease) = (leased.lease, overdue.lease);
    }
    settle(store, &expected_lease, &ask_again(Duration::ZERO, Unfinished::Pending)).await;
    let overdue = again(store, &expected).await;
    assert_eq!((overdue.asked.times, overdue.asked.not_found), (5, 0), "after it was known");
    settle(store, &overdue.lease, &give_back(Duration::ZERO)).await;
    let overdue = again(store, &expected).await;
    assert_eq!(overdue.asked.times, 5, "what is given back does not count");
    for outcome in [Outcome::Done, retry(Duration::ZERO)] {
        stale(store.settle(&overdue.lease, &outcome).await, "there is nothing that could be handled");
    }
    applied(store.renew(&overdue.lease, LONG).await, "the lease of who asks");
}

/// A job that is none is dead without an event: another begins anew, and a replay expects one.
///
/// # Panics
///
/// When it is not dead, or cannot come again.
pub async fn inbox_a_job_that_is_none_may_come_again(store: &dyn InboxAdmin) {
    let (received, held) = running(store).await;
    let expected = job();
    let overdue = overdue_lease(store, &expected).await.lease;
    for (job, held) in [(&received, &held), (&expected, &overdue)] {
        for _ in 0..2 {
            applied(store.settle(held, &disowned()).await, "a job that is none");
        }
        let (dead, body) = get(store, job).await;
        assert_eq!((dead.state, dead.job_type, body), (InboxState::Dead, None, None));
        assert_eq!(dead.error.as_deref(), Some("nobody knows it"));
        assert!(replay(store, job).await, "one without an event cannot be replayed");
        let asked = again(store, job).await;
        assert_eq!(asked.asked.times, 0, "it is asked for anew");
        stale(store.settle(held, &give_back(Duration::ZERO)).await, "an outcome of before the replay");
        settle(store, &asked.lease, &error("never")).await;
        receipt(store.receive(&completed(job)).await, Receipt::Stored, "an event of a job that was dead");
        let leased = lease(store, job, LONG).await;
        assert_eq!((leased.attempt, leased.asked.times), (1, 0));
    }
}
