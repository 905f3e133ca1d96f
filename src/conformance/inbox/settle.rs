//! Outcomes of a lease.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, SHORT, applied, at_once, leases, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, NoResult, Outcome};

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
