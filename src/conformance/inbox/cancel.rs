//! Calls that are dropped at any of their waits.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, MOST_POLLS, PendingCall, SHORT, applied, cancelled_after, job};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{
    Bulk, Changed, InboxAdmin, InboxCursor, InboxFilter, InboxState, InboxStore, Leased, NoResult, Outcome,
    Overdue, Receipt, Retention,
};

/// A receipt dropped at any of its waits can be repeated, and the event is stored once.
pub(super) async fn a_cancelled_receipt_can_be_repeated(store: &dyn InboxStore) {
    for polls in 0..MOST_POLLS {
        let event = completed(&job());
        let finished = cancelled_after(polls, store.receive(&event)).await;
        let again = store.receive(&event).await;
        assert!(
            matches!(again, Ok(Receipt::Stored | Receipt::Duplicate)),
            "a receipt repeated after one was dropped after {polls} polls: expected Stored or Duplicate, got {again:?}"
        );
        let leased = lease_soon(store, event.job()).await;
        assert_eq!(&leased.body, event.body(), "the body after a dropped receipt");
        not_due(store, event.job(), "a leased row after a dropped receipt").await;
        settle(store, &leased.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// A lease dropped at any of its waits ends in time: the write that leases also sets the end.
pub(super) async fn a_cancelled_lease_ends(store: &dyn InboxStore) {
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
                "a lease dropped after {polls} polls still holds long after its end; set the end in the same write as \
                 the lease"
            );
            sleep(SHORT / 10).await;
        };
        let attempts = if leased.expired { 2 } else { 1 };
        assert_eq!(leased.attempt, attempts, "the attempt after a dropped lease, which counts if it expired");
        settle(store, &leased.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// A begin, renewal or outcome dropped at any of its waits can be repeated.
pub(super) async fn a_cancelled_outcome_can_be_repeated(store: &dyn InboxAdmin) {
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
            applied(store.begin(&leased).await, "a begin after a dropped one");
            finished &= cancelled_after(polls, store.renew(&leased, LONG)).await;
            applied(store.renew(&leased, LONG).await, "a renewal after a dropped one");
            finished &= cancelled_after(polls, store.settle(&leased, &outcome)).await;
            applied(store.settle(&leased, &outcome).await, &format!("{outcome:?} after a dropped call"));
            let row = row(store, &job).await;
            let found = (row.state, row.attempts, row.fetches);
            assert_eq!(
                found,
                (state, attempts, fetches),
                "state, attempts and fetches after {outcome:?} was dropped and repeated"
            );
        }
        if finished {
            return;
        }
    }
}

/// A fetched result, or the outcome of a fetch, dropped at any of its waits can be repeated.
pub(super) async fn a_cancelled_result_can_be_repeated(store: &dyn InboxAdmin) {
    let pending = Outcome::FetchAgain { after: Duration::ZERO, answer: NoResult::Pending };
    for polls in 0..MOST_POLLS {
        let result = event(&job(), "extract", "failed", "");
        expect(store, result.job(), Duration::ZERO).await;
        let Overdue { lease: held, .. } = overdue_soon(store, result.job()).await;
        let mut finished = cancelled_after(polls, store.settle(&held, &pending)).await;
        // Stale if the dropped call took effect.
        let again = store.settle(&held, &pending).await;
        assert!(again.is_ok(), "an outcome repeated after a dropped one failed: {again:?}");
        assert_eq!(
            row(store, result.job()).await.fetches,
            1,
            "fetches after an outcome was dropped and repeated"
        );

        let Overdue { lease: held, .. } = overdue_soon(store, result.job()).await;
        finished &= cancelled_after(polls, store.verify(&held, &result)).await;
        applied(store.verify(&held, &result).await, "verifying an overdue job after a dropped call");
        let leased = lease_soon(store, result.job()).await;
        assert_eq!((&leased.body, leased.attempt, leased.verified), (result.body(), 1, true));

        let other = event(result.job(), "extract", "completed", "");
        finished &= cancelled_after(polls, store.verify(&leased.lease, &other)).await;
        applied(store.verify(&leased.lease, &other).await, "verifying a running row after a dropped call");
        assert_eq!(
            get(store, result.job()).await.1.as_ref(),
            Some(other.body()),
            "the body of the last result"
        );
        settle(store, &leased.lease, &Outcome::Done).await;
        if finished {
            return;
        }
    }
}

/// Every other call dropped at any of its waits can be repeated, and takes effect once.
pub(super) async fn other_cancelled_calls_can_be_repeated(store: &dyn InboxAdmin) {
    let (filter, retention) = (InboxFilter::default(), Retention::default());
    for polls in 0..MOST_POLLS {
        let expected = job();
        let mut finished = cancelled_after(polls, store.expect(&expected, Duration::ZERO)).await;
        expect(store, &expected, Duration::ZERO).await;
        finished &= cancelled_after(polls, store.contains(&expected)).await;
        assert!(
            contains(store, &expected).await,
            "`contains` is false for a job registered again after a dropped call"
        );
        finished &= cancelled_after(polls, store.overdue(64, SHORT)).await;
        // Overdue again after the lease of the dropped call.
        sleep(SHORT * 2).await;
        overdue_soon(store, &expected).await;

        let dead = job();
        bring(store, &completed(&dead), Stage::Dead).await;
        finished &= cancelled_after(polls, store.replay(&dead)).await;
        let _ = replay(store, &dead).await;
        let row = row(store, &dead).await;
        assert_eq!(
            (row.state, row.earlier_attempts),
            (InboxState::Received, 1),
            "state and earlier attempts after a replay was dropped and repeated"
        );
        finished &= cancelled_after(polls, store.prune(&retention)).await;
        finished &= cancelled_after(polls, store.list(&filter, InboxCursor::Newest, 1)).await;
        finished &= cancelled_after(polls, store.get(&dead)).await;
        finished &= cancelled_after(polls, store.stats()).await;

        settle(store, &lease_soon(store, &dead).await.lease, &Outcome::Done).await;

        let [replayed, discarded] = [job(), job()];
        bring(store, &completed(&replayed), Stage::Dead).await;
        bring(store, &completed(&discarded), Stage::Dead).await;
        let of = |job: &JobId| InboxFilter::default().job_prefix(job.to_string());
        let filter = of(&replayed);
        finished &= cancelled_after(polls, store.replay_all(&filter, 1, Bulk::Apply)).await;
        until_changed(|| store.replay_all(&filter, 1, Bulk::Apply)).await;
        let leased = lease_soon(store, &replayed).await;
        assert_eq!(leased.earlier_attempts, 1, "earlier attempts after a replay was dropped and repeated");
        settle(store, &leased.lease, &Outcome::Done).await;
        let filter = of(&discarded);
        finished &= cancelled_after(polls, store.discard_all(&filter, 1, Bulk::Apply)).await;
        until_changed(|| store.discard_all(&filter, 1, Bulk::Apply)).await;
        assert!(
            !contains(store, &discarded).await,
            "a row is there after a discard was dropped and repeated"
        );
        let other = job();
        bring(store, &completed(&other), Stage::Dead).await;
        finished &= cancelled_after(polls, store.discard(&other)).await;
        let _ = discard(store, &other).await;
        assert!(!contains(store, &other).await, "a row is there after a discard was dropped and repeated");
        if finished {
            return;
        }
    }
}

/// Repeats a change until it leaves nothing: a dropped statement may still hold a row for a moment.
async fn until_changed<'a>(change: impl Fn() -> PendingCall<'a, Changed>) {
    for _ in 0..1000 {
        match change().await {
            Ok(changed) if !changed.more => return,
            Ok(_) => sleep(SHORT / 10).await,
            Err(error) => panic!("a change of many rows failed: {error:?}"),
        }
    }
    panic!("a change leaves rows without end");
}

/// Leases a due row. A dropped statement may still run and hold the row for a moment, in which a lease leaves the row
/// out; so the call is repeated.
async fn lease_soon(store: &dyn InboxStore, job: &JobId) -> Leased {
    lease_when_due(store, job, Instant::now(), Duration::ZERO).await
}

/// Leases an overdue job, which a dropped statement may also hold for a moment.
async fn overdue_soon(store: &dyn InboxStore, job: &JobId) -> Overdue {
    overdue_when_due(store, job, Instant::now(), Duration::ZERO).await
}
