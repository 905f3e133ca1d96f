//! Calls that are dropped in the middle, at any of their waits.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, MOST_POLLS, SHORT, applied, cancelled_after, job};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{
    InboxAdmin, InboxFilter, InboxState, InboxStore, Leased, NoResult, Outcome, Overdue, Receipt, Retention,
};

/// An event that was being received when the call was dropped is stored by the next copy, if it is not
/// already, and there is one of it.
///
/// # Panics
///
/// When it is lost or there twice, or the store does not work any more.
pub async fn inbox_a_cancelled_receipt_can_be_repeated(store: &dyn InboxStore) {
    for polls in 0..MOST_POLLS {
        let event = completed(&job());
        let finished = cancelled_after(polls, store.receive(&event)).await;
        let again = store.receive(&event).await;
        assert!(
            matches!(again, Ok(Receipt::Stored | Receipt::Duplicate)),
            "a copy of an event whose call was dropped after {polls} polls: {again:?}"
        );
        let leased = lease_soon(store, event.job()).await;
        assert_eq!(&leased.body, event.body(), "the body of an event whose call was dropped");
        not_due(store, event.job(), "an event whose call was dropped, and which is leased").await;
        settle(store, &leased.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// What was being leased when the call was dropped is leased again, when that lease ends at the latest: so its
/// end is part of the write that leases.
///
/// # Panics
///
/// When it stays leased, or the store does not work any more.
pub async fn inbox_a_cancelled_lease_ends(store: &dyn InboxStore) {
    for polls in 0..MOST_POLLS {
        clear(store).await;
        let (job, began) = (received(store).await, Instant::now());
        let finished = cancelled_after(polls, store.lease(1, SHORT)).await;
        let leased = loop {
            if let Some(leased) = find(store, &job, LONG).await {
                break leased;
            }
            assert!(
                began.elapsed() < (SHORT + LAG) * 2,
                "a lease that was dropped after {polls} polls is still there long after its end: the end must be part \
                 of the write that leases"
            );
            sleep(SHORT / 10).await;
        };
        let attempts = if leased.expired { 2 } else { 1 };
        assert_eq!(
            leased.attempt, attempts,
            "attempts after a lease that was dropped; it counts if it was taken"
        );
        settle(store, &leased.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// A renewal or an outcome that was being written when the call was dropped can be repeated.
///
/// # Panics
///
/// When the repetition does not have its effect, or the store does not work any more.
pub async fn inbox_a_cancelled_outcome_can_be_repeated(store: &dyn InboxAdmin) {
    for polls in 0..MOST_POLLS {
        let mut finished = true;
        let not_found = Outcome::FetchAgain { after: LONG, answer: NoResult::NotFound };
        for (outcome, state, attempts, fetches) in [
            (Outcome::Done, InboxState::Done, 1, 0),
            (retry(LONG), InboxState::Received, 1, 0),
            (error("never"), InboxState::Dead, 1, 0),
            (release(LONG), InboxState::Received, 0, 0),
            (not_found, InboxState::Received, 0, 1),
            (Outcome::Rejected { error: "none".to_owned() }, InboxState::Dead, 1, 0),
        ] {
            let job = received(store).await;
            let leased = lease(store, &job, LONG).await.lease;
            finished &= cancelled_after(polls, store.begin(&leased)).await;
            applied(store.begin(&leased).await, "to begin after a call that was dropped");
            finished &= cancelled_after(polls, store.renew(&leased, LONG)).await;
            applied(store.renew(&leased, LONG).await, "a renewal after one that was dropped");
            finished &= cancelled_after(polls, store.settle(&leased, &outcome)).await;
            applied(
                store.settle(&leased, &outcome).await,
                &format!("{outcome:?} after a call that was dropped"),
            );
            let row = row(store, &job).await;
            let found = (row.state, row.attempts, row.fetches);
            assert_eq!(found, (state, attempts, fetches), "{outcome:?}, dropped and repeated");
        }
        if finished {
            return;
        }
    }
}

/// An answer of the API that was being written when the call was dropped can be repeated.
///
/// # Panics
///
/// When the repetition does not have its effect, or has it twice, or the store does not work any more.
pub async fn inbox_a_cancelled_answer_can_be_repeated(store: &dyn InboxAdmin) {
    let pending = Outcome::FetchAgain { after: Duration::ZERO, answer: NoResult::Pending };
    for polls in 0..MOST_POLLS {
        let said = event(&job(), "extract", "failed", "");
        expect(store, said.job(), Duration::ZERO).await;
        let Overdue { lease: held, .. } = overdue_soon(store, said.job()).await;
        let mut finished = cancelled_after(polls, store.settle(&held, &pending)).await;
        // It is stale when the first did take place.
        let again = store.settle(&held, &pending).await;
        assert!(again.is_ok(), "an outcome after a call that was dropped: {again:?}");
        assert_eq!(row(store, said.job()).await.fetches, 1, "how often a job was asked for");

        let Overdue { lease: held, .. } = overdue_soon(store, said.job()).await;
        finished &= cancelled_after(polls, store.verify(&held, &said)).await;
        applied(store.verify(&held, &said).await, "an answer after a call that was dropped");
        let leased = lease_soon(store, said.job()).await;
        assert_eq!((&leased.body, leased.attempt, leased.verified), (said.body(), 1, true));

        let other = event(said.job(), "extract", "completed", "");
        finished &= cancelled_after(polls, store.verify(&leased.lease, &other)).await;
        applied(store.verify(&leased.lease, &other).await, "another answer after a call that was dropped");
        assert_eq!(get(store, said.job()).await.1.as_ref(), Some(other.body()), "what the API said last");
        settle(store, &leased.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// Any other call that was dropped can be repeated, and has its effect once.
///
/// # Panics
///
/// When it does not, or the store does not work any more.
pub async fn inbox_other_cancelled_calls_can_be_repeated(store: &dyn InboxAdmin) {
    let (filter, retention) = (InboxFilter::default(), Retention::default());
    for polls in 0..MOST_POLLS {
        let expected = job();
        let mut finished = cancelled_after(polls, store.expect(&expected, Duration::ZERO)).await;
        expect(store, &expected, Duration::ZERO).await;
        finished &= cancelled_after(polls, store.contains(&expected)).await;
        assert!(contains(store, &expected).await, "a job registered again after a call that was dropped");
        finished &= cancelled_after(polls, store.overdue(64, SHORT)).await;
        // Overdue again when the lease of the dropped call has ended.
        sleep(SHORT * 2).await;
        overdue_soon(store, &expected).await;

        let dead = job();
        bring(store, &completed(&dead), Stand::Dead).await;
        finished &= cancelled_after(polls, store.replay(&dead)).await;
        let _ = replay(store, &dead).await;
        let row = row(store, &dead).await;
        assert_eq!(
            (row.state, row.earlier_attempts),
            (InboxState::Received, 1),
            "replayed again after a drop"
        );
        finished &= cancelled_after(polls, store.prune(&retention)).await;
        finished &= cancelled_after(polls, store.list(&filter, None, 1)).await;
        finished &= cancelled_after(polls, store.get(&dead)).await;
        finished &= cancelled_after(polls, store.stats()).await;
        settle(store, &lease_soon(store, &dead).await.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// Leases a job that is due. A statement that was dropped may still run, and hold the row for a moment: a row that
/// is in use is left out by a lease, so that it is asked for again.
async fn lease_soon(store: &dyn InboxStore, job: &JobId) -> Leased {
    lease_when_due(store, job, Instant::now(), Duration::ZERO).await
}

/// Leases a job that is overdue, which may also be in use for a moment.
async fn overdue_soon(store: &dyn InboxStore, job: &JobId) -> Overdue {
    overdue_when_due(store, job, Instant::now(), Duration::ZERO).await
}
