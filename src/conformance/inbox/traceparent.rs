//! The `traceparent` of the delivery that brought an event.

use std::time::Duration;

use super::super::harness::{LONG, applied, at_once, job};
use super::steps::*;
use crate::event::{JobId, TraceParent};
use crate::inbox::{InboxAdmin, NoResult, Outcome, Receipt};

/// One of many `traceparent`s.
fn traceparent(number: u64) -> TraceParent {
    match format!("00-{:032x}-{:016x}-01", u128::from(number) + 1, number + 1).parse() {
        Ok(traceparent) => traceparent,
        Err(error) => panic!("the suite made an invalid traceparent: {error}"),
    }
}

/// The `traceparent` of the stored event is kept, in each of its leases, over a replay, and whatever the deliveries of
/// its duplicates have. An event without one has none.
pub(super) async fn the_traceparent_of_the_first_delivery_is_kept(store: &dyn InboxAdmin) {
    let (first, second) = (traceparent(1), traceparent(2));
    for kept in [Some(&first), None] {
        let event = completed(&job());
        let stored = kept.map_or(event.clone(), |kept| event.clone().with_traceparent(kept.clone()));
        store_event(store, &stored).await;
        let duplicate = event.clone().with_traceparent(second.clone());
        receipt(store.receive(&duplicate).await, Receipt::Duplicate, "a duplicate of another trace");
        receipt(store.receive(&event).await, Receipt::Duplicate, "a duplicate without a trace");
        let other = super::steps::event(event.job(), "extract", "completed", "another");
        let other = other.with_traceparent(second.clone());
        receipt(store.receive(&other).await, Receipt::Conflict, "other bytes, of another trace");
        for outcome in [retry(Duration::ZERO), release(Duration::ZERO), error("never"), Outcome::Done] {
            let row = row(store, event.job()).await;
            assert_eq!(row.traceparent.as_ref(), kept, "the traceparent of the row");
            let leased = lease(store, event.job(), LONG).await;
            assert_eq!(leased.traceparent.as_ref(), kept, "the traceparent of the lease");
            settle(store, &leased.lease, &outcome).await;
            if matches!(outcome, Outcome::Dead { .. }) {
                assert!(replay(store, event.job()).await, "a dead letter was not replayed");
            }
        }
        let row = row(store, event.job()).await;
        assert_eq!(row.traceparent.as_ref(), kept, "the traceparent of the done row");
    }
}

/// An event that takes the place of another brings its own `traceparent`, or none.
pub(super) async fn a_replaced_event_leaves_no_traceparent(store: &dyn InboxAdmin) {
    for stage in [Stage::Received, Stage::Waiting, Stage::Done, Stage::Dead] {
        for own in [Some(traceparent(2)), None] {
            let job = job();
            bring(store, &processing(&job).with_traceparent(traceparent(1)), stage).await;
            let last = completed(&job);
            let last = own.clone().map_or(last.clone(), |own| last.with_traceparent(own));
            receipt(store.receive(&last).await, Receipt::Stored, "a final status");
            let leased = lease(store, &job, LONG).await;
            assert_eq!(leased.traceparent, own, "the traceparent after a row that was {stage:?}");
            settle(store, &leased.lease, &Outcome::Done).await;
        }
    }
}

/// A fetched result takes the place of a running row's event, and not of its `traceparent`: the attempts go on because of
/// that delivery.
pub(super) async fn a_verified_event_keeps_the_traceparent_of_its_delivery(store: &dyn InboxAdmin) {
    let job = job();
    store_event(store, &completed(&job).with_traceparent(traceparent(1))).await;
    let leased = lease(store, &job, LONG).await;
    let result = event(&job, "extract", "failed", "the API's");
    applied(store.verify(&leased.lease, &result).await, "verifying a running row");
    settle(store, &leased.lease, &retry(Duration::ZERO)).await;
    let leased = lease(store, &job, LONG).await;
    assert_eq!(
        (&leased.body, leased.traceparent),
        (result.body(), Some(traceparent(1))),
        "body and traceparent of the lease after a verification"
    );
    settle(store, &leased.lease, &Outcome::Done).await;
}

/// The event of an expected job that was fetched has no `traceparent`, also if an earlier event of the job had one.
pub(super) async fn a_fetched_event_of_an_expected_job_has_no_traceparent(store: &dyn InboxAdmin) {
    let early = |job: &JobId| processing(job).with_traceparent(traceparent(1));
    let dropped = [fetch_again(Duration::ZERO, NoResult::Pending), Outcome::Done, error("never")];
    for outcome in dropped.into_iter().map(Some).chain([None]) {
        let job = job();
        expect(store, &job, Duration::ZERO).await;
        if let Some(outcome) = &outcome {
            store_event(store, &early(&job)).await;
            let leased = lease(store, &job, LONG).await;
            settle(store, &leased.lease, outcome).await;
            let row = row(store, &job).await;
            assert_eq!(row.traceparent, None, "the traceparent of an event dropped by {outcome:?}");
        }
        let overdue = lease_overdue(store, &job).await;
        applied(store.verify(&overdue.lease, &completed(&job)).await, "verifying an expected job");
        let leased = lease(store, &job, LONG).await;
        assert_eq!(leased.traceparent, None, "the traceparent of a fetched event, after {outcome:?}");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
    // A rejected job has no event either.
    let job = job();
    store_event(store, &early(&job)).await;
    let leased = lease(store, &job, LONG).await;
    settle(store, &leased.lease, &rejected()).await;
    assert_eq!(row(store, &job).await.traceparent, None, "the traceparent of a rejected job");
}

/// Deliveries at once each keep their own `traceparent`.
pub(super) async fn traceparents_at_once_are_kept_apart(store: &dyn InboxAdmin) {
    let events: Vec<_> = (0..64)
        .map(|number| match completed(&job()) {
            event if number % 3 == 0 => event,
            event => event.with_traceparent(traceparent(number)),
        })
        .collect();
    for received in at_once(events.iter().map(|event| store.receive(event))).await {
        receipt(received, Receipt::Stored, "a receipt of one event among many");
    }
    let jobs: Vec<_> = events.iter().map(|event| event.job().clone()).collect();
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), jobs.len(), "the number of leased rows");
    for leased in leased {
        let event = events.iter().find(|event| event.job() == leased.lease.job());
        assert_eq!(
            leased.traceparent.as_ref(),
            event.and_then(|event| event.traceparent()),
            "the traceparent of one of many events"
        );
        settle(store, &leased.lease, &Outcome::Done).await;
    }
}
