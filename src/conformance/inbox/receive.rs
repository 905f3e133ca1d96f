//! What becomes of an event, of its copies, and of what says something else.

use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{LONG, at_once, job, leases, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Outcome, Receipt};

/// A received event is there, and is leased at once, byte for byte, as a first attempt.
///
/// # Panics
///
/// When it is lost, changed, or not due.
pub async fn inbox_an_event_is_leased_as_it_was_received(store: &dyn InboxAdmin) {
    let job = job();
    assert!(!contains(store, &job).await, "a job that nobody knows is said to be there");
    // Spaces, the order of the keys and escapes are part of the body.
    let (id, u) = (&job, r"\u00e9\u0000");
    let body = format!(
        "{{ \"data\" :{{\"z\":1.50,\"a\":\"{u}é/\\/\", \"status\":\"failed\",\"type\":\"fill_pdf\",\"id\":\"{id}\"}}\n,\"job_id\":\"{id}\"}}\n"
    );
    let event = read(body);
    store_event(store, &event).await;
    assert!(contains(store, &job).await, "a job that was received is not there");

    let (row, kept) = get(store, &job).await;
    assert_eq!(row.job_id, job.to_string(), "the row is another job's");
    assert_eq!(row.state, InboxState::Received, "the state after an event was received");
    assert_eq!((row.job_type.as_deref(), row.status.as_deref()), (Some("fill_pdf"), Some("failed")));
    assert_eq!((row.attempts, row.earlier_attempts, row.error), (0, 0, None), "nothing was attempted yet");
    assert!(row.age < LONG, "it was just received, and is said to be {:?} old", row.age);
    assert_eq!(kept.as_ref(), Some(event.body()), "another body is kept");

    let leased = lease(store, &job, LONG).await;
    assert_eq!(leased.lease.job(), &job, "the lease is another job's");
    assert_eq!(&leased.body, event.body(), "another body is leased: not one byte may change");
    assert_eq!((leased.attempt, leased.earlier_attempts), (1, 0), "the count of the first attempt");
    assert!(!leased.expired, "no lease has run out: there was none");
}

/// A copy of a stored event is a duplicate, whatever has become of the first, and changes nothing.
///
/// # Panics
///
/// When it is stored, or changes the row.
pub async fn inbox_a_copy_changes_nothing(store: &dyn InboxAdmin) {
    for stand in Stand::WITH_EVENT {
        for event in [completed(&job()), processing(&job())] {
            bring(store, &event, stand).await;
            let before = snapshot(store, event.job()).await;
            receipt(store.receive(&event).await, Receipt::Duplicate, &format!("a copy in {stand:?}"));
            let after = snapshot(store, event.job()).await;
            assert_eq!(after, before, "a copy changed a row that was {stand:?}");
        }
    }
}

/// Of two final events with different bytes, the first is kept, and the second is reported.
///
/// # Panics
///
/// When the second is not called a conflict, or changes the row.
pub async fn inbox_the_first_of_two_events_is_kept(store: &dyn InboxAdmin) {
    for stand in Stand::WITH_EVENT {
        let first = completed(&job());
        bring(store, &first, stand).await;
        let before = snapshot(store, first.job()).await;
        for (status, note) in [("completed", "another"), ("failed", "")] {
            let second = event(first.job(), "extract", status, note);
            receipt(store.receive(&second).await, Receipt::Conflict, &format!("other bytes in {stand:?}"));
            let after = snapshot(store, first.job()).await;
            assert_eq!(after, before, "other bytes changed a row that was {stand:?}");
        }
    }
}

/// An event whose status is not final changes nothing when there is another, final or not.
///
/// # Panics
///
/// When it does.
pub async fn inbox_a_status_that_is_not_final_replaces_nothing(store: &dyn InboxAdmin) {
    for stand in Stand::WITH_EVENT {
        for first in [completed(&job()), processing(&job())] {
            bring(store, &first, stand).await;
            let before = snapshot(store, first.job()).await;
            let second = event(first.job(), "extract", "queued", "another");
            let what = format!("a status that is not final, in {stand:?}");
            receipt(store.receive(&second).await, Receipt::Duplicate, &what);
            assert_eq!(snapshot(store, first.job()).await, before, "{what} changed the row");
        }
    }
}

/// An event with a final status takes the place of one without, which would hide it otherwise. The row is
/// as new, wherever it stood.
///
/// # Panics
///
/// When the event is lost, or the row is not due, or remembers the event before.
pub async fn inbox_a_final_status_replaces_one_that_is_not(store: &dyn InboxAdmin) {
    for stand in [Stand::Received, Stand::Waiting, Stand::Done, Stand::Dead] {
        for status in ["completed", "failed"] {
            let job = job();
            let old = bring(store, &processing(&job), stand).await;
            let last = event(&job, "fill_excel", status, "the last word");
            receipt(store.receive(&last).await, Receipt::Stored, &format!("{status} in {stand:?}"));
            let row = row(store, &job).await;
            assert_eq!(row.state, InboxState::Received, "{status} in {stand:?}: the state after it");
            assert_eq!(
                (row.job_type.as_deref(), row.status.as_deref()),
                (Some("fill_excel"), Some(status)),
                "{status} in {stand:?}: the type and status of the event before are kept"
            );
            assert_eq!(
                (row.attempts, row.earlier_attempts, row.error),
                (0, 0, None),
                "{status} in {stand:?}: the attempts and the error of the event before are kept"
            );
            if let Some(old) = &old {
                let before = snapshot(store, &job).await;
                for outcome in outcomes() {
                    let _ = store.settle(old, &outcome).await;
                    let what = format!("{outcome:?} of the event before");
                    assert_eq!(snapshot(store, &job).await, before, "{what} changed the row");
                }
            }
            let leased = lease(store, &job, LONG).await;
            assert_eq!(&leased.body, last.body(), "{status} in {stand:?}: the body before is kept");
            assert_eq!((leased.attempt, leased.expired), (1, false), "{status} in {stand:?}: as new");
            if let Some(old) = old {
                assert!(
                    leased.lease.fence() > old.fence(),
                    "{status} in {stand:?}: the fencing token fell, or stood"
                );
            }
            receipt(store.receive(&last).await, Receipt::Duplicate, "a copy of the last word");
        }
    }
}

/// The same while the row is leased: that lease is stale at once, and yet nobody else gets one before it
/// ends, so that no two handlers run at a time.
///
/// # Panics
///
/// When the old lease still writes, the event is lost, or leased early or never.
pub async fn inbox_a_replaced_event_makes_its_lease_stale(store: &dyn InboxAdmin) {
    clear(store).await;
    for length in leases() {
        let job = job();
        store_event(store, &processing(&job)).await;
        let began = Instant::now();
        let old = lease(store, &job, length).await.lease;
        let last = event(&job, "extract", "completed", "the last word");
        receipt(store.receive(&last).await, Receipt::Stored, "a final status while the row is leased");
        stale(store.renew(&old, LONG).await, "a renewal by the holder of a replaced event");
        for outcome in outcomes() {
            let settled = store.settle(&old, &outcome).await;
            stale(settled, &format!("{outcome:?} by the holder of a replaced event"));
        }
        let early = find(store, &job, LONG).await;
        if began.elapsed() >= length {
            continue;
        }
        assert!(early.is_none(), "the new event was leased while the old one may still be handled");
        let leased = lease_when_due(store, &job, began, length).await;
        assert_eq!(&leased.body, last.body(), "the body of the replaced event is kept");
        assert_eq!((leased.attempt, leased.earlier_attempts), (1, 0), "the attempts at the old event count");
        assert!(leased.lease.fence() > old.fence(), "the fencing token fell, or stood");
        return;
    }
}

/// The same when that lease has ended, and nobody has noticed: the new event is due at once.
///
/// # Panics
///
/// When the late holder still writes, or the event is lost.
pub async fn inbox_an_event_is_replaced_when_its_lease_has_ended(store: &dyn InboxAdmin) {
    let job = job();
    store_event(store, &processing(&job)).await;
    let old = lease(store, &job, Duration::from_millis(1)).await.lease;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let last = event(&job, "extract", "completed", "the last word");
    receipt(store.receive(&last).await, Receipt::Stored, "a final status after the lease ended");
    stale(store.settle(&old, &Outcome::Done).await, "an outcome by the late holder of a replaced event");
    let leased = lease(store, &job, LONG).await;
    assert_eq!(
        (&leased.body, leased.attempt),
        (last.body(), 1),
        "the new event, attempted for the first time"
    );
    settle(store, &leased.lease, &Outcome::Done).await;
}

/// Of many copies at once, of several jobs, one of each is stored, and each job is leased once.
///
/// # Panics
///
/// When there are more or fewer.
pub async fn inbox_of_many_copies_at_once_one_is_stored(store: &dyn InboxStore) {
    for _ in 0..5 {
        let jobs: Vec<_> = (0..8).map(|_| job()).collect();
        let events: Vec<_> = (0..64).map(|call| completed(&jobs[call % 8])).collect();
        let receipts = at_once(events.iter().map(|event| store.receive(event))).await;
        for (place, job) in jobs.iter().enumerate() {
            let of_job: Vec<_> = receipts.iter().skip(place).step_by(8).collect();
            let stored = of_job.iter().filter(|receipt| matches!(receipt, Ok(Receipt::Stored))).count();
            assert_eq!(stored, 1, "of 8 copies at once, {stored} were stored: {job}: {of_job:?}");
            let copies = of_job.iter().filter(|receipt| matches!(receipt, Ok(Receipt::Duplicate))).count();
            assert_eq!(copies, 7, "of 8 copies at once, 7 are duplicates: {of_job:?}");
        }
        let leased = find_all(store, &jobs, LONG).await;
        assert_eq!(leased.len(), jobs.len(), "of 8 jobs that were received, so many were leased");
        not_due(store, &jobs[0], "a job whose only event is leased").await;
    }
}

/// Of events of one job that come at once, a final one is the job's last word, in whichever order they are
/// stored.
///
/// # Panics
///
/// When the row is left with one that is not final.
pub async fn inbox_of_events_at_once_the_final_one_is_kept(store: &dyn InboxAdmin) {
    for round in 0..10 {
        let job = job();
        let events: Vec<_> = (0..16)
            .map(|call| if call == round { completed(&job) } else { event(&job, "extract", "queued", "") })
            .collect();
        for received in at_once(events.iter().map(|event| store.receive(event))).await {
            assert!(received.is_ok(), "one of 16 events at once was refused: {received:?}");
        }
        let leased = lease(store, &job, LONG).await;
        assert_eq!(&leased.body, completed(&job).body(), "a `completed` was hidden by a `queued`");
        not_due(store, &job, "a job whose only event is leased").await;
    }
}
