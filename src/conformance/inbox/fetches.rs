//! Fetches without a result, and the fetch history of a row.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, ROUNDING, SHORT, applied, job, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{FetchHistory, InboxAdmin, InboxState, Lease, NoResult, Outcome, Overdue, Receipt};

/// A job that the API reports as pending is expected again, without its event or attempt, and its next event is stored as
/// its first.
pub(super) async fn a_pending_job_is_expected_again(store: &dyn InboxAdmin) {
    let (job, lease_of_webhook) = running(store).await;
    settle(store, &lease_of_webhook, &fetch_again(Duration::ZERO, NoResult::Pending)).await;
    stale(store.renew(&lease_of_webhook, LONG).await, "a renewal after the job is expected again");
    let (row, body) = get(store, &job).await;
    assert_eq!(
        (row.state, row.attempts, row.fetches),
        (InboxState::Expected, 0, 1),
        "state, attempts and fetches after a pending answer"
    );
    assert_eq!(
        (row.job_type, row.status, body),
        (None, None, None),
        "type, status and body after a pending answer"
    );
    let overdue = lease_overdue(store, &job).await;
    assert_eq!(
        (overdue.fetches.count, overdue.fetches.not_found),
        (1, 0),
        "the counts of one pending answer"
    );
    settle(store, &overdue.lease, &fetch_again(LONG, NoResult::Pending)).await;
    stale(store.settle(&overdue.lease, &release(Duration::ZERO)).await, "another outcome of the same lease");
    assert!(
        find_overdue(store, std::slice::from_ref(&job), LONG).await.is_empty(),
        "overdue again before the delay ended"
    );
    receipt(store.receive(&completed(&job)).await, Receipt::Stored, "a receipt of the next event");
    let leased = lease(store, &job, LONG).await;
    assert_eq!(
        (leased.attempt, leased.fetches.count, leased.verified),
        (1, 2, false),
        "attempt, fetches, verified"
    );
    assert!(leased.fetches.next_in > LONG / 2, "the time until the next fetch is lost: {leased:?}");
}

/// A fetch without a result is counted as a fetch and not as an attempt, not-found answers also by themselves, and the
/// event stays.
pub(super) async fn fetches_without_a_result_are_counted_apart(store: &dyn InboxAdmin) {
    let (running, mut running_lease) = running(store).await;
    let expected = job();
    let mut expected_lease = overdue_lease(store, &expected).await.lease;
    let answers = [(NoResult::NotFound, 1), (failed(), 1), (NoResult::NotFound, 2), (NoResult::NotFound, 3)];
    for (times, (answer, not_found)) in (1..).zip(answers) {
        for (job, held, state) in [
            (&running, &running_lease, InboxState::Received),
            (&expected, &expected_lease, InboxState::Expected),
        ] {
            settle(store, held, &fetch_again(Duration::ZERO, answer.clone())).await;
            let (row, body) = get(store, job).await;
            assert_eq!(
                (row.state, row.attempts, row.fetches),
                (state, 0, times),
                "state, attempts and fetches after {answer:?}"
            );
            assert_eq!(
                body.is_some(),
                state == InboxState::Received,
                "whether the event is kept after {answer:?}"
            );
            assert_eq!(row.error.as_deref(), answer.error(), "the error after {answer:?}");
        }
        let leased = lease(store, &running, LONG).await;
        assert_eq!(
            (leased.attempt, leased.fetches.count, leased.fetches.not_found),
            (1, times, not_found),
            "attempt, fetches and not-found answers of a row with an event, after {answer:?}"
        );
        let overdue = lease_overdue(store, &expected).await;
        assert_eq!(
            (overdue.fetches.count, overdue.fetches.not_found),
            (times, not_found),
            "fetches and not-found answers of an expected job, after {answer:?}"
        );
        (running_lease, expected_lease) = (leased.lease, overdue.lease);
    }
    for (job, held) in [(&running, running_lease), (&expected, expected_lease.clone())] {
        settle(store, &held, &fetch_again(Duration::ZERO, NoResult::Pending)).await;
        assert_eq!(row(store, job).await.error, None, "the error after a pending answer");
        let overdue = lease_overdue(store, job).await;
        assert_eq!(
            (overdue.fetches.count, overdue.fetches.not_found),
            (5, 0),
            "fetches and not-found answers after a pending answer"
        );
        expected_lease = overdue.lease;
    }
    settle(store, &expected_lease, &fetch_again(Duration::ZERO, failed())).await;
    let overdue = lease_overdue(store, &expected).await;
    assert_eq!(
        (overdue.fetches.count, overdue.fetches.not_found),
        (6, 0),
        "fetches and not-found answers after a failed fetch"
    );
    settle(store, &overdue.lease, &release(Duration::ZERO)).await;
    let overdue = lease_overdue(store, &expected).await;
    assert_eq!(overdue.fetches.count, 6, "fetches after a release");
    for outcome in [Outcome::Done, retry(Duration::ZERO)] {
        stale(
            store.settle(&overdue.lease, &outcome).await,
            &format!("{outcome:?} under the lease of an expected job"),
        );
    }
    applied(store.renew(&overdue.lease, LONG).await, "a renewal of the lease of an expected job");
}

/// A rejected job is a dead letter without an event. Its next event is stored as its first, and a replay makes it
/// expected.
pub(super) async fn a_rejected_job_may_come_again(store: &dyn InboxAdmin) {
    let (received, held) = running(store).await;
    let expected = job();
    let overdue = overdue_lease(store, &expected).await.lease;
    for (job, held) in [(&received, &held), (&expected, &overdue)] {
        for _ in 0..2 {
            applied(store.settle(held, &rejected()).await, "rejecting a job");
        }
        let (dead, body) = get(store, job).await;
        assert_eq!((dead.state, dead.job_type, body), (InboxState::Dead, None, None), "state, type and body");
        assert_eq!(dead.error.as_deref(), Some("unknown job"), "the error of a rejected job");
        assert!(replay(store, job).await, "a dead letter without an event was not replayed");
        stale(store.renew(held, LONG).await, "a renewal under a lease from before the replay");
        let overdue = lease_overdue(store, job).await;
        assert_eq!(overdue.fetches.count, 0, "fetches after a replay");
        stale(
            store.settle(held, &release(Duration::ZERO)).await,
            "an outcome under a lease from before the replay",
        );
        settle(store, &overdue.lease, &error("never")).await;
        assert_eq!(row(store, job).await.state, InboxState::Dead, "the state after `Dead`");
        receipt(
            store.receive(&completed(job)).await,
            Receipt::Stored,
            "an event for a dead letter without one",
        );
        let leased = lease(store, job, LONG).await;
        assert_eq!((leased.attempt, leased.fetches.count), (1, 0), "attempt and fetches of the new event");
    }
    for outcome in [rejected(), fetch_again(LONG, NoResult::Pending)] {
        let (job, held) = running(store).await;
        applied(store.verify(&held, &completed(&job)).await, "verifying a running row");
        settle(store, &held, &outcome).await;
        assert!(
            !row(store, &job).await.verified,
            "a row without an event counts as verified after {outcome:?}"
        );
        receipt(store.receive(&completed(&job)).await, Receipt::Stored, "a receipt of the next event");
        let leased = lease(store, &job, LONG).await;
        assert!(!leased.verified, "the event after {outcome:?} counts as verified");
    }
}

/// After a fetch without a result, a job is due or overdue again after the delay of the outcome, and not before.
pub(super) async fn a_job_is_fetched_again_after_its_delay(store: &dyn InboxAdmin) {
    clear(store).await;
    let again = |answer| fetch_again(SHORT, answer);
    for outcome in [again(NoResult::NotFound), again(failed())] {
        let (job, held) = running(store).await;
        let settled = Instant::now();
        settle(store, &held, &outcome).await;
        let leased = lease_when_due(store, &job, settled, SHORT).await;
        assert!(!leased.expired, "the lease settled as {outcome:?} is reported as expired");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
    let pending = again(NoResult::Pending);
    let (job, held) = running(store).await;
    let settled = Instant::now();
    settle(store, &held, &pending).await;
    let mut overdue = overdue_when_due(store, &job, settled, SHORT).await;
    for outcome in [pending, again(NoResult::NotFound), again(failed()), release(SHORT)] {
        let settled = Instant::now();
        settle(store, &overdue.lease, &outcome).await;
        stale(store.settle(&overdue.lease, &outcome).await, "an outcome after the job is expected again");
        overdue = overdue_when_due(store, &job, settled, SHORT).await;
    }
}

/// The lease of an overdue job is renewed and ends like that of an event, and only the last lease writes.
pub(super) async fn only_the_last_lease_of_an_overdue_job_writes(store: &dyn InboxAdmin) {
    find_overdue(store, &[], LONG).await;
    let job = job();
    expect(store, &job, Duration::ZERO).await;
    let found = find_overdue(store, std::slice::from_ref(&job), Duration::ZERO).await.pop();
    let Some(Overdue { lease: first, .. }) = found else { panic!("an overdue job was not leased") };
    applied(store.renew(&first, LONG).await, "a renewal of an expired lease of an expected job");
    sleep(SHORT * 2).await;
    let early = find_overdue(store, std::slice::from_ref(&job), LONG).await;
    assert!(early.is_empty(), "leased again before its lease ended: {early:?}");
    let renewed = Instant::now();
    applied(store.renew(&first, SHORT).await, "a second renewal");
    let second = overdue_when_due(store, &job, renewed, SHORT).await.lease;
    assert!(second.fence() > first.fence(), "the fencing token did not grow from {first:?} to {second:?}");

    let result = event(&job, "extract", "failed", "");
    let before = snapshot(store, &job).await;
    stale(store.renew(&first, LONG).await, "a renewal of an earlier lease");
    stale(store.verify(&first, &result).await, "verifying under an earlier lease");
    let outcomes = [fetch_again(LONG, NoResult::NotFound), release(LONG), rejected(), error("never")];
    for outcome in &outcomes {
        stale(store.settle(&first, outcome).await, &format!("{outcome:?} under an earlier lease"));
    }
    assert_eq!(snapshot(store, &job).await, before, "an earlier lease changed the row");
    applied(store.verify(&second, &result).await, "verifying under the last lease");
}

/// The time that a job is overdue counts from its deadline, whatever fetches came since, or from its replay.
pub(super) async fn the_time_overdue_counts_from_the_deadline(store: &dyn InboxAdmin) {
    let (job, began) = (job(), Instant::now());
    expect(store, &job, SHORT).await;
    let registered = Instant::now();
    let mut overdue = overdue_when_due(store, &job, began, SHORT).await;
    for outcome in [fetch_again(SHORT, failed()), release(SHORT), fetch_again(SHORT, NoResult::Pending)] {
        let settled = Instant::now();
        settle(store, &overdue.lease, &outcome).await;
        let least = registered.elapsed();
        overdue = overdue_when_due(store, &job, settled, SHORT).await;
        let most = began.elapsed();
        assert!(
            overdue.by + SHORT + ROUNDING >= least && overdue.by + SHORT <= most + ROUNDING,
            "`late` is {:?}, with a deadline {SHORT:?} after a registration between {least:?} and {most:?} ago",
            overdue.by
        );
    }
    settle(store, &overdue.lease, &rejected()).await;
    let replayed = Instant::now();
    assert!(replay(store, &job).await, "a dead letter without an event was not replayed");
    let by = lease_overdue(store, &job).await.by;
    assert!(by <= replayed.elapsed() + ROUNDING, "`by` is {by:?} for a job replayed just now");
}

/// The fetch history begins anew with a replay, with the next event of a dead letter, and with a fetched result.
pub(super) async fn the_fetch_history_begins_anew(store: &dyn InboxAdmin) {
    for end in [Outcome::Done, error("never"), rejected()] {
        let (job, held) = fetched_once(store).await;
        settle(store, &held, &end).await;
        if end == rejected() {
            receipt(
                store.receive(&completed(&job)).await,
                Receipt::Stored,
                "a receipt of an event for a rejected job",
            );
        } else {
            assert!(replay(store, &job).await, "a row was not replayed after {end:?}");
        }
        let leased = lease(store, &job, LONG).await;
        assert_eq!(leased.fetches, FetchHistory::default(), "the fetch history after {end:?}");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
    let (job, held) = fetched_once(store).await;
    settle(store, &held, &rejected()).await;
    assert!(replay(store, &job).await, "a rejected job was not replayed");
    assert_eq!(
        lease_overdue(store, &job).await.fetches,
        FetchHistory::default(),
        "the fetch history after a replay"
    );

    let (job, held) = fetched_once(store).await;
    applied(store.verify(&held, &completed(&job)).await, "verifying a running row");
    settle(store, &held, &retry(Duration::ZERO)).await;
    let leased = lease(store, &job, LONG).await;
    assert_eq!(leased.fetches, FetchHistory::default(), "the fetch history after a fetched result");
}

/// A leased row after one not-found answer.
async fn fetched_once(store: &dyn InboxAdmin) -> (JobId, Lease) {
    let (job, held) = running(store).await;
    settle(store, &held, &fetch_again(Duration::ZERO, NoResult::NotFound)).await;
    let leased = lease(store, &job, LONG).await;
    assert_eq!(
        (leased.fetches.count, leased.fetches.not_found),
        (1, 1),
        "fetches and not-found answers after one"
    );
    (job, leased.lease)
}

/// Rows with the fewest fetches come first, due ones and overdue ones alike, and no more than the caller asks for; among
/// these, rows due for longest.
pub(super) async fn rows_fetched_least_come_first(store: &dyn InboxAdmin) {
    clear(store).await;
    find_overdue(store, &[], LONG).await;
    let apart = Duration::from_millis(10);
    let (mut received, mut expected) = (Vec::new(), Vec::new());
    let mut held = Vec::new();
    // Fetches of each row and overdue job, in the order of their arrival.
    for times in [2, 1, 1, 0, 0] {
        let (job, mut running) = running(store).await;
        for _ in 0..times {
            settle(store, &running, &fetch_again(Duration::ZERO, failed())).await;
            running = lease(store, &job, LONG).await.lease;
        }
        received.push(job);
        let job = super::super::harness::job();
        let mut fetching = overdue_lease(store, &job).await.lease;
        for _ in 0..times {
            settle(store, &fetching, &fetch_again(Duration::ZERO, failed())).await;
            fetching = lease_overdue(store, &job).await.lease;
        }
        expected.push(job);
        held.push([running, fetching]);
    }
    for lease in held.iter().flatten() {
        settle(store, lease, &release(Duration::ZERO)).await;
        sleep(apart).await;
    }
    // Two at once that were fetched differently.
    for rows in [&[3][..], &[4, 1], &[2], &[0]] {
        let of = |jobs: &[JobId]| rows.iter().map(|row| jobs[*row].clone()).collect::<BTreeSet<_>>();
        let leased = store.lease(rows.len(), LONG).await.unwrap_or_default();
        assert_eq!(
            leased.into_iter().map(|leased| leased.lease.job().clone()).collect::<BTreeSet<_>>(),
            of(&received),
            "the rows leased next are not those with the fewest fetches, due for longest"
        );
        let overdue = store.overdue(rows.len(), LONG).await.unwrap_or_default();
        assert_eq!(
            overdue.into_iter().map(|overdue| overdue.lease.job().clone()).collect::<BTreeSet<_>>(),
            of(&expected),
            "the overdue jobs leased next are not those with the fewest fetches, overdue for longest"
        );
    }
}

/// The time without an answer of the API counts from the first failed fetch, and begins anew after an answer, a replay
/// and the receipt of an event.
pub(super) async fn the_time_without_an_answer_counts_from_the_first_failure(store: &dyn InboxAdmin) {
    let (received, mut held) = running(store).await;
    let expected = job();
    let mut overdue = overdue_lease(store, &expected).await;
    assert_eq!(overdue.fetches.unanswered_for, None, "the time without an answer before the first fetch");
    sleep(SHORT).await;
    let began = Instant::now();
    for _ in 0..3 {
        settle(store, &held, &fetch_again(Duration::ZERO, failed())).await;
        settle(store, &overdue.lease, &fetch_again(Duration::ZERO, failed())).await;
        let first_settled = began.elapsed();
        let least = Instant::now();
        sleep(SHORT).await;
        let leased = lease(store, &received, LONG).await;
        overdue = lease_overdue(store, &expected).await;
        for reported in [leased.fetches.unanswered_for, overdue.fetches.unanswered_for] {
            let (least, most) = (least.elapsed(), began.elapsed());
            let reported = reported
                .unwrap_or_else(|| panic!("no time without an answer is reported after a failed fetch"));
            // The store's clock may differ from the suite's.
            assert!(
                reported + ROUNDING + SHORT / 2 + first_settled >= least && reported <= most + ROUNDING,
                "the time without an answer is {reported:?}, instead of between {least:?} and {most:?}"
            );
        }
        // A release is neither an answer nor a failed fetch.
        settle(store, &leased.lease, &release(Duration::ZERO)).await;
        settle(store, &overdue.lease, &release(Duration::ZERO)).await;
        let leased = lease(store, &received, LONG).await;
        assert!(
            leased.fetches.unanswered_for >= Some(SHORT / 2),
            "the time without an answer began anew after a release"
        );
        held = leased.lease;
        overdue = lease_overdue(store, &expected).await;
        assert!(
            overdue.fetches.unanswered_for >= Some(SHORT / 2),
            "the time without an answer began anew after a release"
        );
    }
    let reported = overdue.fetches.unanswered_for.unwrap_or_default();
    assert!(
        reported + ROUNDING >= SHORT * 3,
        "the time without an answer counts from a later failure than the first: {reported:?}"
    );

    settle(store, &held, &fetch_again(Duration::ZERO, NoResult::NotFound)).await;
    let leased = lease(store, &received, LONG).await;
    assert_eq!(leased.fetches.unanswered_for, None, "the time without an answer after an answer");
    settle(store, &leased.lease, &fetch_again(Duration::ZERO, failed())).await;
    let leased = lease(store, &received, LONG).await;
    settle(store, &leased.lease, &error("never")).await;
    assert!(replay(store, &received).await, "a dead letter was not replayed");
    let leased = lease(store, &received, LONG).await;
    assert_eq!(leased.fetches.unanswered_for, None, "the time without an answer after a replay");
    settle(store, &overdue.lease, &fetch_again(Duration::ZERO, NoResult::Pending)).await;
    let overdue = lease_overdue(store, &expected).await;
    assert_eq!(overdue.fetches.unanswered_for, None, "the time without an answer after an answer");
    settle(store, &overdue.lease, &fetch_again(Duration::ZERO, failed())).await;
    receipt(
        store.receive(&completed(&expected)).await,
        Receipt::Stored,
        "a receipt of the event of an expected job",
    );
    let leased = lease(store, &expected, LONG).await;
    assert_eq!(
        (leased.fetches.unanswered_for, leased.fetches.count),
        (None, 5),
        "the time without an answer, and the fetches, after the receipt of the event"
    );
}
