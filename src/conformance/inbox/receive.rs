//! Events: the first of a job, duplicates, and events that replace another.

use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{LONG, at_once, job, leases, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Outcome, Receipt};

/// A received event has a row, and is leased at once as a first attempt, its body unchanged to the byte.
pub(super) async fn an_event_is_leased_as_it_was_received(store: &dyn InboxAdmin) {
    let job = job();
    assert!(!contains(store, &job).await, "`contains` is true for an unknown job");
    // Spaces, the order of keys and escapes belong to the body.
    let (id, u) = (&job, r"\u00e9\u0000");
    let body = format!(
        "{{ \"data\" :{{\"z\":1.50,\"a\":\"{u}é/\\/\", \"status\":\"failed\",\"type\":\"fill_pdf\",\"id\":\"{id}\"}}\n,\"job_id\":\"{id}\"}}\n"
    );
    let event = read(body);
    store_event(store, &event).await;
    assert!(contains(store, &job).await, "`contains` is false for a received job");

    let (row, kept) = get(store, &job).await;
    assert_eq!(row.job_id, job.to_string(), "the job id of the row");
    assert_eq!(row.state, InboxState::Received, "the state of a received row");
    assert_eq!((row.job_type.as_deref(), row.status.as_deref()), (Some("fill_pdf"), Some("failed")));
    assert_eq!(
        (row.attempts, row.earlier_attempts, row.error),
        (0, 0, None),
        "attempts, earlier attempts and error of a received row"
    );
    assert!(row.age < LONG, "the age of a row received just now is {:?}", row.age);
    assert_eq!(kept.as_ref(), Some(event.body()), "the stored body differs from the received one");

    let leased = lease(store, &job, LONG).await;
    assert_eq!(leased.lease.job(), &job, "the job of the lease");
    assert_eq!(
        &leased.body,
        event.body(),
        "the leased body differs from the received one; keep the bytes as they are"
    );
    assert_eq!(
        (leased.attempt, leased.earlier_attempts),
        (1, 0),
        "attempt and earlier attempts of the first lease"
    );
    assert!(!leased.expired, "the first lease reports an expired one before it");
}

/// A duplicate is reported as one and changes nothing, in whatever state the row is.
pub(super) async fn a_duplicate_changes_nothing(store: &dyn InboxAdmin) {
    for stage in Stage::WITH_EVENT {
        for event in [completed(&job()), processing(&job())] {
            bring(store, &event, stage).await;
            let before = snapshot(store, event.job()).await;
            receipt(
                store.receive(&event).await,
                Receipt::Duplicate,
                &format!("a duplicate for a row that was {stage:?}"),
            );
            let after = snapshot(store, event.job()).await;
            assert_eq!(after, before, "a duplicate changed a row that was {stage:?}");
        }
    }
}

/// Of two final events with different bytes, the first is kept, and the second is reported as a conflict.
pub(super) async fn the_first_of_two_final_events_is_kept(store: &dyn InboxAdmin) {
    for stage in Stage::WITH_EVENT {
        let first = completed(&job());
        bring(store, &first, stage).await;
        let before = snapshot(store, first.job()).await;
        for (status, note) in [("completed", "another"), ("failed", "")] {
            let second = event(first.job(), "extract", status, note);
            receipt(
                store.receive(&second).await,
                Receipt::Conflict,
                &format!("other bytes for a row that was {stage:?}"),
            );
            let after = snapshot(store, first.job()).await;
            assert_eq!(after, before, "other bytes changed a row that was {stage:?}");
        }
    }
}

/// An event without a final status is a duplicate if the row has an event, and changes nothing.
pub(super) async fn a_status_that_is_not_final_replaces_nothing(store: &dyn InboxAdmin) {
    for stage in Stage::WITH_EVENT {
        for first in [completed(&job()), processing(&job())] {
            bring(store, &first, stage).await;
            let before = snapshot(store, first.job()).await;
            let second = event(first.job(), "extract", "queued", "another");
            let what = format!("an event without a final status, for a row that was {stage:?}");
            receipt(store.receive(&second).await, Receipt::Duplicate, &what);
            assert_eq!(snapshot(store, first.job()).await, before, "{what} changed the row");
        }
    }
}

/// An event with a final status replaces one without, which would hide it otherwise. The row begins anew, and the lease
/// of the replaced event is stale.
pub(super) async fn a_final_status_replaces_one_that_is_not(store: &dyn InboxAdmin) {
    for stage in [Stage::Received, Stage::Waiting, Stage::Done, Stage::Dead] {
        for status in ["completed", "failed"] {
            let job = job();
            let old = bring(store, &processing(&job), stage).await;
            let last = event(&job, "fill_excel", status, "the final event");
            receipt(
                store.receive(&last).await,
                Receipt::Stored,
                &format!("a {status} event for a row that was {stage:?} without a final status"),
            );
            let row = row(store, &job).await;
            assert_eq!(
                row.state,
                InboxState::Received,
                "the state after a {status} event for a row that was {stage:?}"
            );
            assert_eq!(
                (row.job_type.as_deref(), row.status.as_deref()),
                (Some("fill_excel"), Some(status)),
                "type and status after a {status} event for a row that was {stage:?}"
            );
            assert_eq!(
                (row.attempts, row.earlier_attempts, row.error),
                (0, 0, None),
                "attempts, earlier attempts and error after a {status} event for a row that was {stage:?}"
            );
            if let Some(old) = &old {
                let before = snapshot(store, &job).await;
                for outcome in outcomes() {
                    let _ = store.settle(old, &outcome).await;
                    let what = format!("{outcome:?} under the lease of the replaced event");
                    assert_eq!(snapshot(store, &job).await, before, "{what} changed the row");
                }
            }
            let leased = lease(store, &job, LONG).await;
            assert_eq!(
                &leased.body,
                last.body(),
                "the body after a {status} event for a row that was {stage:?}"
            );
            assert_eq!(
                (leased.attempt, leased.expired),
                (1, false),
                "attempt, and whether the lease before expired, after a {status} event for a row that was {stage:?}"
            );
            if let Some(old) = old {
                assert!(
                    leased.lease.fence() > old.fence(),
                    "the fencing token did not grow after a {status} event for a row that was {stage:?}"
                );
            }
            receipt(store.receive(&last).await, Receipt::Duplicate, "a duplicate of the final event");
        }
    }
}

/// An event replaced while its row is leased makes that lease stale at once. The row is not leased again before the old
/// lease ends, so that no two handlers run at a time.
pub(super) async fn a_replaced_event_makes_its_lease_stale(store: &dyn InboxAdmin) {
    clear(store).await;
    for length in leases() {
        let job = job();
        store_event(store, &processing(&job)).await;
        let began = Instant::now();
        let old = lease(store, &job, length).await.lease;
        let last = event(&job, "extract", "completed", "the final event");
        receipt(store.receive(&last).await, Receipt::Stored, "a final status while the row is leased");
        stale(store.renew(&old, LONG).await, "a renewal of the lease of a replaced event");
        for outcome in outcomes() {
            let settled = store.settle(&old, &outcome).await;
            stale(settled, &format!("{outcome:?} under the lease of a replaced event"));
        }
        let early = find(store, &job, LONG).await;
        if began.elapsed() >= length {
            continue;
        }
        assert!(early.is_none(), "the new event was leased before the lease of the replaced one ended");
        let leased = lease_when_due(store, &job, began, length).await;
        assert_eq!(&leased.body, last.body(), "the body of the new event");
        assert_eq!(
            (leased.attempt, leased.earlier_attempts),
            (1, 0),
            "attempt and earlier attempts of the new event"
        );
        assert!(leased.lease.fence() > old.fence(), "the fencing token did not grow");
        return;
    }
}

/// An event replaced after its lease ended makes the new event due at once, and the old lease stale.
pub(super) async fn an_event_is_replaced_after_its_lease_ended(store: &dyn InboxAdmin) {
    let job = job();
    store_event(store, &processing(&job)).await;
    let old = lease(store, &job, Duration::from_millis(1)).await.lease;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let last = event(&job, "extract", "completed", "the final event");
    receipt(store.receive(&last).await, Receipt::Stored, "a final status after the lease ended");
    stale(store.settle(&old, &Outcome::Done).await, "an outcome under the expired lease of a replaced event");
    let leased = lease(store, &job, LONG).await;
    assert_eq!((&leased.body, leased.attempt), (last.body(), 1), "body and attempt of the new event");
    settle(store, &leased.lease, &Outcome::Done).await;
}

/// Of many deliveries at once, of several jobs, one of each job is stored, and each job is leased once.
pub(super) async fn one_of_many_duplicates_at_once_is_stored(store: &dyn InboxStore) {
    for _ in 0..5 {
        let jobs: Vec<_> = (0..8).map(|_| job()).collect();
        let events: Vec<_> = (0..64).map(|call| completed(&jobs[call % 8])).collect();
        let receipts = at_once(events.iter().map(|event| store.receive(event))).await;
        for (place, job) in jobs.iter().enumerate() {
            let of_job: Vec<_> = receipts.iter().skip(place).step_by(8).collect();
            let stored = of_job.iter().filter(|receipt| matches!(receipt, Ok(Receipt::Stored))).count();
            assert_eq!(stored, 1, "of 8 deliveries of job {job} at once, {stored} were stored: {of_job:?}");
            let duplicates =
                of_job.iter().filter(|receipt| matches!(receipt, Ok(Receipt::Duplicate))).count();
            assert_eq!(
                duplicates, 7,
                "of 8 deliveries of job {job} at once, {duplicates} were duplicates: {of_job:?}"
            );
        }
        let leased = find_all(store, &jobs, LONG).await;
        assert_eq!(leased.len(), jobs.len(), "the number of leased rows of 8 received jobs");
        not_due(store, &jobs[0], "a job with a leased row").await;
    }
}

/// Of several events of one job at once, the one with a final status is kept, in whatever order they are stored.
pub(super) async fn the_final_one_of_events_at_once_is_kept(store: &dyn InboxAdmin) {
    for round in 0..10 {
        let job = job();
        let events: Vec<_> = (0..16)
            .map(|call| if call == round { completed(&job) } else { event(&job, "extract", "queued", "") })
            .collect();
        for received in at_once(events.iter().map(|event| store.receive(event))).await {
            assert!(received.is_ok(), "one of 16 receipts at once failed: {received:?}");
        }
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, completed(&job).body(), "a `queued` event hides the `completed` one");
        not_due(store, &job, "a job with a leased row").await;
    }
}
