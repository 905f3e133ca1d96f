//! Outcomes of a lease.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LAG, LONG, ROUNDING, SHORT, applied, at_once, job, leases, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{FailedAttempt, InboxAdmin, InboxState, InboxStore, NoResult, Outcome, Receipt};

/// A done row is not leased again.
pub(super) async fn a_done_row_stays_done(store: &dyn InboxAdmin) {
    let job = received(store).await;
    let leased = lease(store, &job, SHORT).await.lease;
    settle(store, &leased, &Outcome::Done).await;
    sleep(SHORT * 2).await;
    not_due(store, &job, "a done row after the end of its former lease").await;
    let row = row(store, &job).await;
    assert_eq!((row.state, row.attempts), (InboxState::Done, 1), "state and attempts of a done row");
    assert_eq!(row.due_in, None, "`due_in` of a done row");
}

/// A failed attempt counts and keeps its error; the next one is due after its delay.
pub(super) async fn a_retry_waits_for_its_delay(store: &dyn InboxAdmin) {
    clear(store).await;
    for delay in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, LONG).await.lease;
        let settled = Instant::now();
        settle(store, &leased, &retry(delay)).await;
        stale(store.renew(&leased, LONG).await, "a renewal of a settled lease");
        let early = find(store, &job, LONG).await;
        if settled.elapsed() >= delay {
            continue;
        }
        assert!(early.is_none(), "leased again before its delay of {delay:?} ended");
        let row = row(store, &job).await;
        assert_eq!(
            (row.state, row.attempts),
            (InboxState::Received, 1),
            "state and attempts between two attempts"
        );
        assert_eq!(row.error.as_deref(), Some("not now"), "the error between two attempts");
        let again = lease_when_due(store, &job, settled, delay).await;
        assert_eq!(
            (again.attempt, again.expired),
            (2, false),
            "attempt, and whether the lease before expired, after a retry"
        );
        return;
    }
}

/// A released row is due after its delay, at once if that is zero, and its attempt does not count.
pub(super) async fn a_released_attempt_does_not_count(store: &dyn InboxAdmin) {
    clear(store).await;
    let job = received(store).await;
    let leased = lease(store, &job, LONG).await;
    settle(store, &leased.lease, &release(Duration::ZERO)).await;
    assert_eq!(row(store, &job).await.attempts, 0, "attempts after a release");
    let leased = lease(store, &job, LONG).await;
    assert_eq!(
        (leased.attempt, leased.expired),
        (1, false),
        "attempt, and whether the lease before expired, after a release"
    );
    let settled = Instant::now();
    settle(store, &leased.lease, &release(SHORT)).await;
    let leased = lease_when_due(store, &job, settled, SHORT).await;
    assert_eq!(leased.attempt, 1, "the attempt after two releases");
}

/// A dead letter keeps its event and its error, and is not leased.
pub(super) async fn a_dead_letter_stays_dead(store: &dyn InboxAdmin) {
    let job = received(store).await;
    let leased = lease(store, &job, SHORT).await.lease;
    settle(store, &leased, &error("never: because: of this")).await;
    sleep(SHORT * 2).await;
    not_due(store, &job, "a dead letter").await;
    expect(store, &job, Duration::ZERO).await;
    let (row, body) = get(store, &job).await;
    assert_eq!((row.state, row.attempts), (InboxState::Dead, 1), "state and attempts of a dead letter");
    assert_eq!(row.error.as_deref(), Some("never: because: of this"), "the error of a dead letter");
    assert_eq!(row.due_in, None, "`due_in` of a dead letter");
    assert_eq!(body.as_ref(), Some(completed(&job).body()), "the body of a dead letter");
}

/// A repeated outcome, as after a lost reply, applies again and changes nothing.
pub(super) async fn a_repeated_outcome_counts_once(store: &dyn InboxAdmin) {
    clear(store).await;
    for outcome in [Outcome::Done, retry(SHORT), error("never"), release(SHORT)] {
        let job = received(store).await;
        // The second attempt, so that a release that counts twice shows.
        let first = lease(store, &job, LONG).await.lease;
        settle(store, &first, &retry(Duration::ZERO)).await;
        let leased = lease(store, &job, LONG).await.lease;
        settle(store, &leased, &outcome).await;
        sleep(SHORT * 2).await;
        let before = snapshot(store, &job).await;
        let repeated = store.settle(&leased, &outcome).await;
        applied(repeated, &format!("{outcome:?} a second time, under the same lease"));
        assert_eq!(snapshot(store, &job).await, before, "{outcome:?} a second time changed the row");
        if matches!(outcome, Outcome::Retry { .. } | Outcome::Release { .. }) {
            let again = find(store, &job, LONG).await;
            assert!(again.is_some(), "{outcome:?} a second time began the delay anew");
            let late = store.settle(&leased, &outcome).await;
            stale(late, &format!("{outcome:?} a third time, after the row was leased again"));
        }
    }
}

/// A lease ends with its first outcome; another outcome of the same lease is stale.
pub(super) async fn the_first_outcome_counts(store: &dyn InboxAdmin) {
    for (first, others) in [
        (Outcome::Done, vec![retry(Duration::ZERO), error("never"), release(Duration::ZERO)]),
        (error("never"), vec![Outcome::Done, retry(Duration::ZERO), release(Duration::ZERO)]),
        (retry(LONG), vec![Outcome::Done, error("never")]),
        (release(LONG), vec![Outcome::Done, error("never")]),
    ] {
        let job = received(store).await;
        let leased = lease(store, &job, LONG).await.lease;
        settle(store, &leased, &first).await;
        let before = snapshot(store, &job).await;
        stale(store.renew(&leased, LONG).await, &format!("a renewal after {first:?}"));
        for other in others {
            stale(store.settle(&leased, &other).await, &format!("{other:?} after {first:?}"));
            assert_eq!(snapshot(store, &job).await, before, "{other:?} after {first:?} changed the row");
        }
    }
}

/// An error may be any text: empty or long, in any language, with any character.
pub(super) async fn an_error_may_be_any_text(store: &dyn InboxAdmin) {
    let long = "é".repeat(100_000);
    for (text, exact) in [
        ("", true),
        ("'; DROP TABLE x; -- \\ \"%s\" $1 \u{1f4a3}\r\n\t", true),
        (&long, false),
        ("a\0b", false),
    ] {
        let text_of = || text.to_owned();
        for outcome in [
            error(text),
            Outcome::Retry { after: LONG, error: text_of() },
            Outcome::FetchAgain { after: LONG, answer: NoResult::Failed { error: text_of() } },
            Outcome::Rejected { error: text_of() },
        ] {
            let job = received(store).await;
            let leased = lease(store, &job, LONG).await.lease;
            settle(store, &leased, &outcome).await;
            let kept = row(store, &job).await.error;
            // A store may cut or replace text that its database cannot keep, but must record the outcome.
            assert!(kept.is_some(), "no error is kept of {:?}", &text[..text.len().min(50)]);
            assert!(!exact || kept.as_deref() == Some(text), "the error {text:?} was kept as {kept:?}");
        }
    }
}

/// A row keeps its last 20 failed attempts, the oldest first, each with its number over replays, its time, its duration
/// and its error, and also when it is done. Neither a repeated outcome nor a released attempt is one more.
pub(super) async fn the_last_failed_attempts_are_kept(store: &dyn InboxAdmin) {
    let (job, began) = (received(store).await, Instant::now());
    let fail = async |number: u32, outcome: Outcome| {
        let leased = lease(store, &job, LONG).await.lease;
        settle(store, &leased, &release(Duration::ZERO)).await;
        let leased = lease(store, &job, LONG).await.lease;
        if number == 24 {
            sleep(SHORT).await;
        }
        settle(store, &leased, &outcome).await;
        settle(store, &leased, &outcome).await;
    };
    for number in 1..=22 {
        fail(number, Outcome::Retry { after: Duration::ZERO, error: number.to_string() }).await;
    }
    fail(23, error("23")).await;
    assert!(replay(store, &job).await, "a dead letter was not replayed");
    fail(24, Outcome::Retry { after: Duration::ZERO, error: "24".to_owned() }).await;
    settle(store, &lease(store, &job, LONG).await.lease, &Outcome::Done).await;
    sleep(SHORT).await;

    let failures = row(store, &job).await.failures;
    let kept: Vec<_> = failures.iter().map(|failed| (failed.number, failed.error.clone())).collect();
    let expected: Vec<_> = (5..=24).map(|number: u32| (number, number.to_string())).collect();
    assert_eq!(kept, expected, "numbers and errors of the failed attempts after 24 of them");
    let most = began.elapsed() + LAG;
    assert!(
        failures.is_sorted_by(|one, next| one.age + ROUNDING >= next.age) && failures[0].age <= most,
        "the ages of failed attempts that took {most:?} together do not fall: {failures:?}"
    );
    let last = &failures[19];
    assert!(
        last.age + ROUNDING >= SHORT
            && last.took.is_some_and(|took| took + ROUNDING >= SHORT && took <= most),
        "the attempt took {SHORT:?} and failed {SHORT:?} ago, and the row says {last:?}"
    );
}

/// An attempt whose lease expired is a failed one from the next lease on: it has no duration, and failed when its lease
/// ended. The attempt for an event that was replaced while its handler ran is not one of the new event.
pub(super) async fn an_attempt_whose_lease_expired_has_failed(store: &dyn InboxAdmin) {
    let (died, began) = (received(store).await, Instant::now());
    lease(store, &died, SHORT).await;
    assert!(row(store, &died).await.failures.is_empty(), "an attempt that goes on is a failed one");
    sleep(SHORT * 2).await;
    let leased = lease(store, &died, LONG).await.lease;
    settle(store, &leased, &release(Duration::ZERO)).await;
    settle(store, &lease(store, &died, LONG).await.lease, &Outcome::Done).await;
    let failures = row(store, &died).await.failures;
    let ago = began.elapsed().saturating_sub(SHORT);
    let kept: Vec<_> = failures.iter().map(|failed| (failed.number, failed.took)).collect();
    assert_eq!(kept, [(1, None)], "numbers and durations of the failed attempts after an expired lease");
    let FailedAttempt { age, error, .. } = &failures[0];
    assert!(
        *age + ROUNDING >= SHORT && *age <= ago + ROUNDING && !error.is_empty(),
        "the lease ended {ago:?} ago at the earliest, and the row says {failures:?}"
    );

    let job = job();
    store_event(store, &processing(&job)).await;
    let leased = lease(store, &job, SHORT).await.lease;
    receipt(store.receive(&completed(&job)).await, Receipt::Stored, "a receipt of the final event");
    stale(store.renew(&leased, LONG).await, "a renewal of the lease on a replaced event");
    sleep(SHORT * 2).await;
    let leased = lease(store, &job, LONG).await.lease;
    let failures = row(store, &job).await.failures;
    assert!(failures.is_empty(), "an event has failed attempts of the one it replaced: {failures:?}");
    settle(store, &leased, &Outcome::Done).await;
}

/// An event that takes the place of another has no failed attempts, and a fetch is no attempt.
pub(super) async fn failed_attempts_begin_anew_with_another_event(store: &dyn InboxAdmin) {
    let failures = async |job: &JobId| {
        let kept = row(store, job).await.failures;
        kept.into_iter().map(|failed| failed.error).collect::<Vec<_>>()
    };
    for is_registered in [false, true] {
        let job = job();
        store_event(store, &processing(&job)).await;
        settle(store, &lease(store, &job, LONG).await.lease, &retry(Duration::ZERO)).await;
        assert_eq!(failures(&job).await, ["not now"], "failed attempts after a failure");
        if is_registered {
            expect(store, &job, LONG).await;
            settle(store, &lease(store, &job, LONG).await.lease, &error("never")).await;
            assert!(failures(&job).await.is_empty(), "a job that is expected again has failed attempts");
        }
        receipt(store.receive(&completed(&job)).await, Receipt::Stored, "a receipt of the final event");
        assert!(failures(&job).await.is_empty(), "an event that was replaced left its failed attempts");
        let again = fetch_again(Duration::ZERO, failed());
        settle(store, &lease(store, &job, LONG).await.lease, &again).await;
        assert!(failures(&job).await.is_empty(), "a fetch without an answer is a failed attempt");
        settle(store, &lease(store, &job, LONG).await.lease, &rejected()).await;
        assert_eq!(failures(&job).await, ["unknown job"], "failed attempts of a rejected job");
        assert!(replay(store, &job).await, "a dead letter without an event was not replayed");
        assert_eq!(failures(&job).await, ["unknown job"], "failed attempts after a replay without an event");
        let overdue = lease_overdue(store, &job).await.lease;
        settle(store, &overdue, &error("no end")).await;
        assert_eq!(failures(&job).await, ["unknown job"], "failed attempts after fetches without a result");
        receipt(store.receive(&completed(&job)).await, Receipt::Stored, "a receipt after a rejection");
        assert!(failures(&job).await.is_empty(), "an event after a rejection has failed attempts");
    }
    let job = job();
    let overdue = overdue_lease(store, &job).await.lease;
    settle(store, &overdue, &error("no end")).await;
    assert!(failures(&job).await.is_empty(), "a job without an event has failed attempts");
}

/// Of 64 outcomes at once, all are recorded.
pub(super) async fn outcomes_at_once_are_all_recorded(store: &dyn InboxStore) {
    clear(store).await;
    let mut jobs = Vec::new();
    for _ in 0..64 {
        jobs.push(received(store).await);
    }
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), 64, "the number of leased rows of 64 due ones");
    let done = Outcome::Done;
    let calls = leased.iter().map(|leased| store.settle(&leased.lease, &done));
    for settled in at_once(calls).await {
        applied(settled, "one of 64 outcomes at once");
    }
    let renewals = leased.iter().map(|leased| store.renew(&leased.lease, LONG));
    for renewed in at_once(renewals).await {
        stale(renewed, "a renewal of the lease of a done row");
    }
}
