//! Expected jobs, before and past their deadlines.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{LAG, LONG, ROUNDING, at_once, job, leases, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Outcome, Receipt};

/// A registered job has a row without an event, which is not leased.
pub(super) async fn an_expected_job_is_known(store: &dyn InboxAdmin) {
    let job = job();
    expect(store, &job, LONG).await;
    assert!(contains(store, &job).await, "`contains` is false for a registered job");
    let (row, body) = get(store, &job).await;
    assert_eq!(
        (row.state, row.attempts),
        (InboxState::Expected, 0),
        "state and attempts of a registered job"
    );
    assert_eq!(
        (row.job_type, row.status, body),
        (None, None, None),
        "type, status and body of a job without an event"
    );
    assert!(
        row.due_in.is_some_and(|left| left > LONG / 2 && left <= LONG + LAG),
        "`due_in` is {:?}, with a deadline in two minutes",
        row.due_in
    );
    not_due(store, &job, "an expected job without an event").await;
}

/// The event of an expected job is stored and leased like any other.
pub(super) async fn the_event_of_an_expected_job_is_stored(store: &dyn InboxAdmin) {
    for event in [completed(&job()), processing(&job())] {
        expect(store, event.job(), Duration::ZERO).await;
        receipt(store.receive(&event).await, Receipt::Stored, "a receipt of the event of an expected job");
        let found = overdue(store, std::slice::from_ref(event.job()), LONG).await;
        assert!(found.is_empty(), "a job is overdue after its event was stored");
        receipt(store.receive(&event).await, Receipt::Duplicate, "a duplicate of it");
        let leased = lease(store, event.job(), LONG).await;
        assert_eq!(
            (&leased.body, leased.attempt),
            (event.body(), 1),
            "body and attempt of the event of an expected job"
        );
    }
}

/// Registering a job that has a row changes nothing, in whatever state the row is: the program that registers the job may
/// be slower than its webhook, or run again.
pub(super) async fn registering_a_job_again_changes_nothing(store: &dyn InboxAdmin) {
    for stage in Stage::ALL {
        let job = job();
        bring(store, &completed(&job), stage).await;
        let before = snapshot(store, &job).await;
        expect(store, &job, Duration::ZERO).await;
        assert_eq!(
            snapshot(store, &job).await,
            before,
            "registering a job that was {stage:?} changed its row"
        );
        let found = overdue(store, &[job], LONG).await;
        assert!(found.is_empty(), "registering a job that was {stage:?} changed its deadline");
    }
}

/// An event without a final status does not end the expectation of its job: after its last attempt the job is expected
/// by its deadline again, whether it was registered before the event or after.
pub(super) async fn a_status_that_is_not_final_ends_no_expectation(store: &dyn InboxAdmin) {
    clear(store).await;
    for registered_first in [true, false] {
        for end in [Outcome::Done, error("never")] {
            let (job, what) = (job(), format!("{end:?} (registered before the event: {registered_first})"));
            let began = Instant::now();
            if registered_first {
                expect(store, &job, LONG).await;
            }
            receipt(
                store.receive(&processing(&job)).await,
                Receipt::Stored,
                "a receipt of an event without a final status",
            );
            if !registered_first {
                expect(store, &job, LONG).await;
                expect(store, &job, Duration::ZERO).await;
            }
            // The event stays for the next attempt.
            let leased = lease(store, &job, LONG).await;
            assert!(leased.expected_again, "`expected_again` is false for an event without a final status");
            settle(store, &leased.lease, &retry(Duration::ZERO)).await;
            let leased = lease(store, &job, LONG).await;
            assert_eq!(
                (&leased.body, leased.attempt),
                (processing(&job).body(), 2),
                "body and attempt of the second attempt"
            );
            settle(store, &leased.lease, &end).await;
            stale(store.renew(&leased.lease, LONG).await, "a renewal after the job is expected again");
            stale(store.settle(&leased.lease, &end).await, "an outcome after the job is expected again");
            let (row, body) = get(store, &job).await;
            assert_eq!(
                (row.state, row.attempts),
                (InboxState::Expected, 0),
                "state and attempts after {what}"
            );
            assert_eq!(
                (row.job_type, row.status, body),
                (None, None, None),
                "type, status and body after {what}"
            );
            let due_in = row.due_in.unwrap_or_default();
            assert!(
                due_in <= LONG + ROUNDING && due_in + began.elapsed() + ROUNDING >= LONG,
                "`due_in` is {due_in:?} after {what}, with a deadline of {LONG:?}"
            );
            receipt(store.receive(&completed(&job)).await, Receipt::Stored, "a receipt of its final event");
            let leased = lease(store, &job, LONG).await;
            assert!(!leased.expected_again, "`expected_again` is true for an event with a final status");
            settle(store, &leased.lease, &Outcome::Done).await;
            assert_eq!(
                super::steps::row(store, &job).await.state,
                InboxState::Done,
                "the state after its final event"
            );
        }
    }

    // The deadline passed during the attempt, or the job was registered after it.
    let late = job();
    expect(store, &late, Duration::ZERO).await;
    receipt(
        store.receive(&processing(&late)).await,
        Receipt::Stored,
        "a receipt of an event without a final status",
    );
    assert!(
        overdue(store, std::slice::from_ref(&late), LONG).await.is_empty(),
        "a job is overdue during an attempt"
    );
    settle(store, &lease(store, &late, LONG).await.lease, &Outcome::Done).await;
    assert_eq!(
        overdue(store, std::slice::from_ref(&late), LONG).await,
        [late],
        "overdue jobs after the deadline"
    );
    // No further attempt is made if the deadline comes first.
    for (deadline, after) in [(Duration::ZERO, Duration::ZERO), (LONG, LONG * 2)] {
        let job = job();
        expect(store, &job, deadline).await;
        receipt(
            store.receive(&processing(&job)).await,
            Receipt::Stored,
            "a receipt of an event without a final status",
        );
        settle(store, &lease(store, &job, LONG).await.lease, &retry(after)).await;
        let row = super::steps::row(store, &job).await;
        assert_eq!(
            (row.state, row.error.as_deref()),
            (InboxState::Expected, Some("not now")),
            "state and error, with the next attempt in {after:?} and a deadline of {deadline:?}"
        );
        assert!(row.due_in <= Some(deadline + ROUNDING), "due after its deadline of {deadline:?}: {row:?}");
    }
    for end in [Outcome::Done, error("never")] {
        let job = job();
        receipt(
            store.receive(&processing(&job)).await,
            Receipt::Stored,
            "a receipt of an event without a final status",
        );
        let leased = lease(store, &job, LONG).await;
        assert!(!leased.expected_again, "`expected_again` is true for a job that is not registered");
        settle(store, &leased.lease, &end).await;
        let ended = super::steps::row(store, &job).await;
        assert!(ended.due_in.is_none(), "an unregistered job is {} and due after {end:?}", ended.state);
        expect(store, &job, Duration::ZERO).await;
        let row = super::steps::row(store, &job).await;
        assert_eq!(
            (row.state, row.status),
            (InboxState::Expected, None),
            "state and status of a job registered after {end:?}"
        );
        assert_eq!(
            overdue(store, std::slice::from_ref(&job), LONG).await,
            [job],
            "overdue jobs after the deadline"
        );
    }

    // A dead letter without an event is expected again after an event without a final status.
    let job = job();
    expect(store, &job, Duration::ZERO).await;
    let found = find_overdue(store, std::slice::from_ref(&job), LONG).await.pop();
    let Some(found) = found else { panic!("a job is not overdue after its deadline") };
    settle(store, &found.lease, &error("never")).await;
    receipt(
        store.receive(&processing(&job)).await,
        Receipt::Stored,
        "an event without a final status for a dead letter without an event",
    );
    settle(store, &lease(store, &job, LONG).await.lease, &Outcome::Done).await;
    assert_eq!(
        overdue(store, std::slice::from_ref(&job), LONG).await,
        [job],
        "overdue jobs after an event without a final status"
    );
}

/// Of 64 registrations of one job at once, all succeed and make one row.
pub(super) async fn registrations_at_once_make_one_row(store: &dyn InboxStore) {
    let job = job();
    for expected in at_once((0..64).map(|_| store.expect(&job, Duration::ZERO))).await {
        assert!(expected.is_ok(), "one of 64 registrations at once failed: {expected:?}");
    }
    let jobs = [job.clone(), super::super::harness::job()];
    assert_eq!(overdue(store, &jobs, LONG).await, [job], "overdue jobs after 64 registrations of one");
}

/// An expected job is overdue after its deadline, at most two seconds later.
pub(super) async fn a_job_is_overdue_after_its_deadline(store: &dyn InboxStore) {
    overdue(store, &[], LONG).await;
    for deadline in leases() {
        let (jobs, began) = ([job()], Instant::now());
        expect(store, &jobs[0], deadline).await;
        let early = overdue(store, &jobs, LONG).await;
        if began.elapsed() < deadline {
            assert!(early.is_empty(), "a job is overdue before its deadline");
            overdue_when_due(store, &jobs[0], began, deadline).await;
            return;
        }
    }
}

/// An overdue job is leased again when its lease ends, and not before.
pub(super) async fn an_overdue_job_is_leased_again_after_its_lease(store: &dyn InboxStore) {
    overdue(store, &[], LONG).await;
    for again in leases() {
        let jobs = [job()];
        expect(store, &jobs[0], Duration::ZERO).await;
        let returned = Instant::now();
        assert_eq!(overdue(store, &jobs, again).await, jobs, "overdue jobs after the deadline");
        let early = overdue(store, &jobs, LONG).await;
        if returned.elapsed() < again {
            assert!(early.is_empty(), "an overdue job was leased again before its lease ended");
            overdue_when_due(store, &jobs[0], returned, again).await;
            return;
        }
    }
}

/// Of 64 calls at once that lease overdue jobs, no two get the same job, and every overdue job is leased.
pub(super) async fn an_overdue_job_is_leased_to_one_caller(store: &dyn InboxStore) {
    overdue_once(&[store]).await;
}

/// Leases many overdue jobs at once, through these handles in turn: no job twice, and every job.
pub(super) async fn overdue_once(handles: &[&dyn InboxStore]) {
    overdue(handles[0], &[], LONG).await;
    let jobs: HashSet<_> = (0..40).map(|_| job()).collect();
    for job in &jobs {
        expect(handles[0], job, Duration::ZERO).await;
    }
    let mut returned = HashSet::new();
    for _ in 0..40 {
        for batch in at_once((0..64).map(|call| handles[call % handles.len()].overdue(2, LONG))).await {
            let batch = batch
                .unwrap_or_else(|error| panic!("one of 64 calls of `overdue` at once failed: {error:?}"));
            assert!(batch.len() <= 2, "`overdue` returned {} jobs with a limit of 2", batch.len());
            let batch = batch.iter().map(|overdue| overdue.lease.job());
            for job in batch.filter(|job| jobs.contains(job)) {
                assert!(returned.insert(job.clone()), "one overdue job was leased to two callers at once");
            }
        }
        if returned.len() == jobs.len() {
            break;
        }
    }
    assert_eq!(returned.len(), jobs.len(), "the number of leased jobs of those overdue");
}

/// A row is found from its registration or its event on, in every state.
pub(super) async fn a_row_is_found_in_every_state(store: &dyn InboxAdmin) {
    for stage in Stage::ALL {
        let job = job();
        bring(store, &completed(&job), stage).await;
        assert!(contains(store, &job).await, "`contains` is false for a job that is {stage:?}");
        let row = row(store, &job).await;
        assert_eq!(row.state, stage.state(), "the state of a job brought to {stage:?}");
    }
    assert!(!contains(store, &job()).await, "`contains` is true for an unknown job");
    let unknown = store.get(&job()).await;
    assert!(matches!(unknown, Ok(None)), "getting an unknown job: expected Ok(None), got {unknown:?}");
    let done = received(store).await;
    settle(store, &lease(store, &done, LONG).await.lease, &Outcome::Done).await;
    assert!(contains(store, &done).await, "`contains` is false for a done job");
}
