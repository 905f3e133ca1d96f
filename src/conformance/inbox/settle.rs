//! What comes of a lease.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{LONG, SHORT, applied, at_once, leases, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, NoResult, Outcome};

/// What is done is not leased again, and says so.
///
/// # Panics
///
/// When it is, or another state is shown.
pub async fn inbox_what_is_done_stays_done(store: &dyn InboxAdmin) {
    let job = received(store).await;
    let leased = lease(store, &job, SHORT).await.lease;
    settle(store, &leased, &Outcome::Done).await;
    sleep(SHORT * 2).await;
    not_due(store, &job, "a row that is done, after its lease would have ended").await;
    let row = row(store, &job).await;
    assert_eq!((row.state, row.attempts), (InboxState::Done, 1), "state and attempts of what is done");
    assert_eq!(row.due_in, None, "nothing waits for what is done");
}

/// What is to be tried again is due after its delay and not before, with one attempt more, and keeps the error.
///
/// # Panics
///
/// When it is due at another time, or what is shown is something else.
pub async fn inbox_a_retry_waits_for_its_delay(store: &dyn InboxAdmin) {
    clear(store).await;
    for delay in leases() {
        let job = received(store).await;
        let leased = lease(store, &job, LONG).await.lease;
        let settled = Instant::now();
        settle(store, &leased, &retry(delay)).await;
        stale(store.renew(&leased, LONG).await, "a renewal of what was settled");
        let early = find(store, &job, LONG).await;
        if settled.elapsed() >= delay {
            continue;
        }
        assert!(early.is_none(), "tried again before its delay of {delay:?} was over");
        let row = row(store, &job).await;
        assert_eq!((row.state, row.attempts), (InboxState::Received, 1), "state and attempts of what waits");
        assert_eq!(row.error.as_deref(), Some("not now"), "the error of what is tried again");
        let again = lease_when_due(store, &job, settled, delay).await;
        assert_eq!((again.attempt, again.expired), (2, false), "the second attempt, after one that ended");
        return;
    }
}

/// What is given back is due after its delay, at once if that is zero, and its attempt does not count.
///
/// # Panics
///
/// When it counts, or is due at another time.
pub async fn inbox_a_released_attempt_does_not_count(store: &dyn InboxAdmin) {
    clear(store).await;
    let job = received(store).await;
    let leased = lease(store, &job, LONG).await;
    settle(store, &leased.lease, &release(Duration::ZERO)).await;
    assert_eq!(row(store, &job).await.attempts, 0, "an attempt that was given back counts");
    let leased = lease(store, &job, LONG).await;
    assert_eq!((leased.attempt, leased.expired), (1, false), "the attempt after one that was given back");
    let settled = Instant::now();
    settle(store, &leased.lease, &release(SHORT)).await;
    let leased = lease_when_due(store, &job, settled, SHORT).await;
    assert_eq!(leased.attempt, 1, "the attempt after two that were given back");
}

/// What is dead is kept, with the error, and nobody gets it.
///
/// # Panics
///
/// When it is leased, or the error is lost.
pub async fn inbox_what_is_dead_stays_dead(store: &dyn InboxAdmin) {
    let job = received(store).await;
    let leased = lease(store, &job, SHORT).await.lease;
    settle(store, &leased, &error("never: because: of this")).await;
    sleep(SHORT * 2).await;
    not_due(store, &job, "a dead row").await;
    expect(store, &job, Duration::ZERO).await;
    let (row, body) = get(store, &job).await;
    assert_eq!((row.state, row.attempts), (InboxState::Dead, 1), "state and attempts of what is dead");
    assert_eq!(row.error.as_deref(), Some("never: because: of this"), "why it is dead");
    assert_eq!(row.due_in, None, "nothing waits for what is dead");
    assert_eq!(body.as_ref(), Some(completed(&job).body()), "the body of what is dead");
}

/// An outcome whose reply was lost is recorded again, and nothing happens twice.
///
/// # Panics
///
/// When the repetition is stale, or changes anything.
pub async fn inbox_an_outcome_twice_is_one(store: &dyn InboxAdmin) {
    clear(store).await;
    for outcome in [Outcome::Done, retry(SHORT), error("never"), release(SHORT)] {
        let job = received(store).await;
        // The second attempt: one given back twice would be told from one given back once.
        let first = lease(store, &job, LONG).await.lease;
        settle(store, &first, &retry(Duration::ZERO)).await;
        let leased = lease(store, &job, LONG).await.lease;
        settle(store, &leased, &outcome).await;
        sleep(SHORT * 2).await;
        let before = snapshot(store, &job).await;
        let repeated = store.settle(&leased, &outcome).await;
        applied(repeated, &format!("{outcome:?} a second time, by the same lease"));
        assert_eq!(snapshot(store, &job).await, before, "{outcome:?} a second time changed the row");
        if matches!(outcome, Outcome::Retry { .. } | Outcome::Release { .. }) {
            let again = find(store, &job, LONG).await;
            assert!(again.is_some(), "{outcome:?} a second time began its delay anew");
            let late = store.settle(&leased, &outcome).await;
            stale(late, &format!("{outcome:?} a third time, when the row has been leased again"));
        }
    }
}

/// A lease ends with its first outcome: what came of it is not changed by another.
///
/// # Panics
///
/// When another outcome applies, or takes effect.
pub async fn inbox_the_first_outcome_counts(store: &dyn InboxAdmin) {
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

/// An error is any text: of no length or a great one, in any language, with any character.
///
/// # Panics
///
/// When the outcome is refused, or another text is kept.
pub async fn inbox_an_error_may_be_any_text(store: &dyn InboxAdmin) {
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
            // What a database cannot keep as text may be cut or replaced, but must not stop the outcome.
            assert!(kept.is_some(), "the error is lost: {:?}", &text[..text.len().min(50)]);
            assert!(!exact || kept.as_deref() == Some(text), "the error {text:?} was kept as {kept:?}");
        }
    }
}

/// Settling many leases at once settles each.
///
/// # Panics
///
/// When one is lost.
pub async fn inbox_outcomes_at_once_are_all_recorded(store: &dyn InboxStore) {
    clear(store).await;
    let mut jobs = Vec::new();
    for _ in 0..64 {
        jobs.push(received(store).await);
    }
    let leased = find_all(store, &jobs, LONG).await;
    assert_eq!(leased.len(), 64, "of 64 rows that were due, so many were leased");
    let done = Outcome::Done;
    let calls = leased.iter().map(|leased| store.settle(&leased.lease, &done));
    for settled in at_once(calls).await {
        applied(settled, "one of 64 outcomes at once");
    }
    let renewals = leased.iter().map(|leased| store.renew(&leased.lease, LONG));
    for renewed in at_once(renewals).await {
        stale(renewed, "a renewal of what is done");
    }
}
