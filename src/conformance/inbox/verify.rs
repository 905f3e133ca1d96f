//! Fetched results that become a row's event.

use std::time::Duration;

use super::super::harness::{LONG, PendingCall, applied, at_once, job, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, NoResult, Outcome, Receipt};
use crate::store::Fenced;

/// The fetched result of an overdue job becomes its event, and is leased like any other.
pub(super) async fn a_fetched_result_becomes_the_event_of_an_overdue_job(store: &dyn InboxAdmin) {
    for result in [completed(&job()), event(&job(), "fill_pdf", "failed", "")] {
        let overdue = overdue_lease(store, result.job()).await;
        for _ in 0..2 {
            applied(store.verify(&overdue.lease, &result).await, "verifying an overdue job");
        }
        let row = row(store, result.job()).await;
        assert_eq!(
            (row.state, row.verified, row.fetches),
            (InboxState::Received, true, 0),
            "state, verified and fetches after the result"
        );
        receipt(store.receive(&result).await, Receipt::Duplicate, "its webhook after the fetched result");
        let leased = lease(store, result.job(), LONG).await;
        assert_eq!(
            (&leased.body, leased.attempt, leased.verified),
            (result.body(), 1, true),
            "body, attempt and verified"
        );
        stale(
            store.verify(&overdue.lease, &result).await,
            "verifying under the lease of the fetch after the row was leased again",
        );
        settle(store, &leased.lease, &Outcome::Done).await;
    }
}

/// A webhook that arrives during a fetch becomes the event; the lease of the fetch writes nothing more.
pub(super) async fn a_webhook_wins_over_a_later_result(store: &dyn InboxAdmin) {
    let webhook = completed(&job());
    let overdue = overdue_lease(store, webhook.job()).await;
    receipt(store.receive(&webhook).await, Receipt::Stored, "a webhook during a fetch");
    let before = snapshot(store, webhook.job()).await;
    let result = event(webhook.job(), "extract", "failed", "");
    stale(store.verify(&overdue.lease, &result).await, "verifying after the webhook");
    stale(store.renew(&overdue.lease, LONG).await, "a renewal after the webhook");
    let outcomes = [fetch_again(LONG, NoResult::Pending), fetch_again(LONG, failed()), release(LONG)];
    for outcome in outcomes.iter().chain(&[rejected(), error("never")]) {
        stale(store.settle(&overdue.lease, outcome).await, "an outcome after the webhook");
    }
    assert_eq!(
        snapshot(store, webhook.job()).await,
        before,
        "the lease of the fetch changed the row of the webhook"
    );
    assert_eq!(before.1.as_ref(), Some(webhook.body()), "the body after the webhook");
    assert!(!before.0.verified, "a webhook counts as verified");
}

/// The fetched result of a running row replaces its event under the same lease, and stays verified in later leases.
pub(super) async fn a_fetched_result_replaces_the_event_of_a_running_row(store: &dyn InboxAdmin) {
    let (job, lease_of_webhook) = running(store).await;
    let result = event(&job, "fill_excel", "failed", "the API's");
    for _ in 0..2 {
        applied(store.verify(&lease_of_webhook, &result).await, "verifying a running row");
    }
    applied(store.renew(&lease_of_webhook, LONG).await, "a renewal after the result");
    let (row, body) = get(store, &job).await;
    assert_eq!(
        (row.state, row.attempts, row.verified),
        (InboxState::Running, 1, true),
        "state, attempts and verified after the result"
    );
    assert_eq!(
        (row.job_type.as_deref(), body.as_ref()),
        (Some("fill_excel"), Some(result.body())),
        "type and body"
    );
    settle(store, &lease_of_webhook, &retry(Duration::ZERO)).await;
    receipt(store.receive(&completed(&job)).await, Receipt::Conflict, "a webhook after the result");
    let leased = lease(store, &job, LONG).await;
    assert_eq!(
        (&leased.body, leased.attempt, leased.verified),
        (result.body(), 2, true),
        "body, attempt and verified of the next lease"
    );
    stale(store.verify(&lease_of_webhook, &result).await, "verifying under an earlier lease");
    let (job, released) = running(store).await;
    settle(store, &released, &release(LONG)).await;
    stale(store.verify(&released, &completed(&job)).await, "verifying after the event was released");
    assert!(!get(store, &job).await.0.verified, "an event counts as verified by a call that was stale");
}

/// Of a fetched result and a webhook at once, one becomes the event, and the other is refused.
pub(super) async fn one_of_a_result_and_a_webhook_at_once_counts(store: &dyn InboxAdmin) {
    for round in 0..20 {
        let webhook = completed(&job());
        let result = event(webhook.job(), "extract", "failed", "the API's");
        let held = overdue_lease(store, webhook.job()).await.lease;
        let answer: PendingCall<'_, bool> =
            Box::pin(async { Ok(store.verify(&held, &result).await? == Fenced::Applied) });
        let receive: PendingCall<'_, bool> =
            Box::pin(async { Ok(store.receive(&webhook).await? == Receipt::Stored) });
        let calls = if round % 2 == 0 { [answer, receive] } else { [receive, answer] };
        let mut counts = at_once(calls.into_iter()).await;
        if round % 2 == 1 {
            counts.reverse();
        }
        let [Ok(answered), Ok(received)] = counts[..] else {
            panic!("a receipt or a verification failed when both came at once: {counts:?}")
        };
        assert_ne!(answered, received, "whether the result applied, and whether the webhook was stored");
        let leased = lease(store, webhook.job(), LONG).await;
        let body = if answered { result.body() } else { webhook.body() };
        assert_eq!((&leased.body, leased.verified), (body, answered), "body and verified");
    }
}
