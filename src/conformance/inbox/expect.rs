//! Jobs whose event has yet to come.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{LAG, LONG, ROUNDING, at_once, job, leases, stale};
use super::steps::*;
use crate::inbox::{InboxAdmin, InboxState, InboxStore, Outcome, Receipt};

/// A job that is registered is known, and there is nothing to handle yet.
///
/// # Panics
///
/// When it is not there, is leased, or shows an event.
pub async fn inbox_an_expected_job_is_known(store: &dyn InboxAdmin) {
    let job = job();
    expect(store, &job, LONG).await;
    assert!(contains(store, &job).await, "a job that was registered is not there");
    let (row, body) = get(store, &job).await;
    assert_eq!(
        (row.state, row.attempts),
        (InboxState::Expected, 0),
        "the state of a job that was registered"
    );
    assert_eq!((row.job_type, row.status, body), (None, None, None), "its event has yet to come");
    assert!(
        row.due_in.is_some_and(|left| left > LONG / 2 && left <= LONG + LAG),
        "its deadline is two minutes away, and is said to be {:?}",
        row.due_in
    );
    not_due(store, &job, "a job whose event has yet to come").await;
}

/// The event of an expected job is stored and handled like any other.
///
/// # Panics
///
/// When it is taken for a duplicate, or is not due.
pub async fn inbox_an_expected_job_is_received(store: &dyn InboxAdmin) {
    for event in [completed(&job()), processing(&job())] {
        expect(store, event.job(), Duration::ZERO).await;
        receipt(store.receive(&event).await, Receipt::Stored, "the event of an expected job");
        let found = overdue(store, std::slice::from_ref(event.job()), LONG).await;
        assert!(found.is_empty(), "a job is overdue although its event came");
        receipt(store.receive(&event).await, Receipt::Duplicate, "a copy of it");
        let leased = lease(store, event.job(), LONG).await;
        assert_eq!((&leased.body, leased.attempt), (event.body(), 1), "the event of an expected job");
    }
}

/// Registering a job that is there changes nothing, wherever it stands: the program that registers it may be
/// slower than its webhook, or run again.
///
/// # Panics
///
/// When the row is changed.
pub async fn inbox_expecting_a_job_never_resets_it(store: &dyn InboxAdmin) {
    for stand in Stand::ALL {
        let job = job();
        bring(store, &completed(&job), stand).await;
        let before = snapshot(store, &job).await;
        expect(store, &job, Duration::ZERO).await;
        assert_eq!(snapshot(store, &job).await, before, "registering a job that was {stand:?} changed it");
        let found = overdue(store, &[job], LONG).await;
        assert!(found.is_empty(), "registering a job that was {stand:?} gave it another deadline");
    }
}

/// An event whose status is not final does not end the expectation of its job: however its run ends, the job is
/// expected by its deadline, whether it was registered before the event or after.
///
/// # Panics
///
/// When it is not, or the event is not handled, or is kept.
pub async fn inbox_a_status_that_is_not_final_ends_no_expectation(store: &dyn InboxAdmin) {
    clear(store).await;
    for registered_first in [true, false] {
        for end in [Outcome::Done, error("never")] {
            let (job, what) = (job(), format!("{end:?} (registered first: {registered_first})"));
            let began = Instant::now();
            if registered_first {
                expect(store, &job, LONG).await;
            }
            receipt(store.receive(&processing(&job)).await, Receipt::Stored, "a report of a job");
            if !registered_first {
                expect(store, &job, LONG).await;
                expect(store, &job, Duration::ZERO).await;
            }
            // A run that is tried again still has its event.
            let leased = lease(store, &job, LONG).await;
            settle(store, &leased.lease, &retry(Duration::ZERO)).await;
            let leased = lease(store, &job, LONG).await;
            assert_eq!((&leased.body, leased.attempt), (processing(&job).body(), 2), "what is handled");
            settle(store, &leased.lease, &end).await;
            stale(store.renew(&leased.lease, LONG).await, "a renewal when the job is expected");
            stale(store.settle(&leased.lease, &end).await, "an outcome when the job is expected");
            let (row, body) = get(store, &job).await;
            assert_eq!((row.state, row.attempts), (InboxState::Expected, 0), "after {what}");
            assert_eq!((row.job_type, row.status, body), (None, None, None), "the event after {what}");
            let due_in = row.due_in.unwrap_or_default();
            assert!(
                due_in <= LONG + ROUNDING && due_in + began.elapsed() + ROUNDING >= LONG,
                "the deadline of {LONG:?} is {due_in:?} away after {what}"
            );
            receipt(store.receive(&completed(&job)).await, Receipt::Stored, "its result");
            settle(store, &lease(store, &job, LONG).await.lease, &Outcome::Done).await;
            assert_eq!(
                super::steps::row(store, &job).await.state,
                InboxState::Done,
                "its result was handled"
            );
        }
    }

    // Its deadline has passed meanwhile, or its run had ended when it was registered.
    let late = job();
    expect(store, &late, Duration::ZERO).await;
    receipt(store.receive(&processing(&late)).await, Receipt::Stored, "a report of a job");
    assert!(
        overdue(store, std::slice::from_ref(&late), LONG).await.is_empty(),
        "overdue while it is handled"
    );
    settle(store, &lease(store, &late, LONG).await.lease, &Outcome::Done).await;
    assert_eq!(overdue(store, std::slice::from_ref(&late), LONG).await, [late], "a job past its deadline");
    // A run that would be tried again only then is not.
    for (deadline, after) in [(Duration::ZERO, Duration::ZERO), (LONG, LONG * 2)] {
        let job = job();
        expect(store, &job, deadline).await;
        receipt(store.receive(&processing(&job)).await, Receipt::Stored, "a report of a job");
        settle(store, &lease(store, &job, LONG).await.lease, &retry(after)).await;
        let row = super::steps::row(store, &job).await;
        assert_eq!(
            (row.state, row.error.as_deref()),
            (InboxState::Expected, Some("not now")),
            "in {after:?}"
        );
        assert!(row.due_in <= Some(deadline + ROUNDING), "overdue at its deadline of {deadline:?}: {row:?}");
    }
    for end in [Outcome::Done, error("never")] {
        let job = job();
        receipt(store.receive(&processing(&job)).await, Receipt::Stored, "a report of a job");
        settle(store, &lease(store, &job, LONG).await.lease, &end).await;
        let ended = super::steps::row(store, &job).await;
        assert!(ended.due_in.is_none(), "a job that nobody registered is {} after {end:?}", ended.state);
        expect(store, &job, Duration::ZERO).await;
        let row = super::steps::row(store, &job).await;
        assert_eq!((row.state, row.status), (InboxState::Expected, None), "registered after {end:?}");
        assert_eq!(overdue(store, std::slice::from_ref(&job), LONG).await, [job], "past its deadline");
    }

    // What was given up without an event goes on.
    let job = job();
    expect(store, &job, Duration::ZERO).await;
    let found = find_overdue(store, std::slice::from_ref(&job), LONG).await.pop();
    let Some(found) = found else { panic!("a job past its deadline is not overdue") };
    settle(store, &found.lease, &error("never")).await;
    receipt(store.receive(&processing(&job)).await, Receipt::Stored, "a report of a job that was given up");
    settle(store, &lease(store, &job, LONG).await.lease, &Outcome::Done).await;
    assert_eq!(overdue(store, std::slice::from_ref(&job), LONG).await, [job], "a job that goes on");
}

/// Of the same job registered many times at once, there is one.
///
/// # Panics
///
/// When a call fails, or the job is overdue more than once.
pub async fn inbox_a_job_expected_many_times_is_one(store: &dyn InboxStore) {
    let job = job();
    for expected in at_once((0..64).map(|_| store.expect(&job, Duration::ZERO))).await {
        assert!(expected.is_ok(), "one of 64 registrations at once failed: {expected:?}");
    }
    let jobs = [job.clone(), super::super::harness::job()];
    assert_eq!(overdue(store, &jobs, LONG).await, [job], "what is overdue of a job registered 64 times");
}

/// A job is overdue when its deadline has passed.
///
/// # Panics
///
/// When that is early, or not within two seconds.
pub async fn inbox_a_job_is_overdue_after_its_deadline(store: &dyn InboxStore) {
    overdue(store, &[], LONG).await;
    for deadline in leases() {
        let (jobs, began) = ([job()], Instant::now());
        expect(store, &jobs[0], deadline).await;
        let early = overdue(store, &jobs, LONG).await;
        if began.elapsed() < deadline {
            assert!(early.is_empty(), "overdue before its deadline");
            overdue_when_due(store, &jobs[0], began, deadline).await;
            return;
        }
    }
}

/// A job that was returned as overdue is not returned for a while, and then again.
///
/// # Panics
///
/// When it is returned early, or never.
pub async fn inbox_a_job_is_overdue_again_after_a_while(store: &dyn InboxStore) {
    overdue(store, &[], LONG).await;
    for again in leases() {
        let jobs = [job()];
        expect(store, &jobs[0], Duration::ZERO).await;
        let returned = Instant::now();
        assert_eq!(overdue(store, &jobs, again).await, jobs, "a job whose deadline has passed");
        let early = overdue(store, &jobs, LONG).await;
        if returned.elapsed() < again {
            assert!(
                early.is_empty(),
                "a job was returned as overdue twice in a time in which it should be once"
            );
            overdue_when_due(store, &jobs[0], returned, again).await;
            return;
        }
    }
}

/// Of many that ask at once what is overdue, one gets each job.
///
/// # Panics
///
/// When two do, or nobody.
pub async fn inbox_an_overdue_job_is_returned_to_one(store: &dyn InboxStore) {
    overdue_once(&[store]).await;
}

pub(super) async fn overdue_once(handles: &[&dyn InboxStore]) {
    overdue(handles[0], &[], LONG).await;
    let jobs: HashSet<_> = (0..40).map(|_| job()).collect();
    for job in &jobs {
        expect(handles[0], job, Duration::ZERO).await;
    }
    let mut returned = HashSet::new();
    for _ in 0..40 {
        for batch in at_once((0..64).map(|call| handles[call % handles.len()].overdue(2, LONG))).await {
            let batch = batch.unwrap_or_else(|error| panic!("one of 64 calls at once failed: {error:?}"));
            assert!(batch.len() <= 2, "two jobs were asked for, and {} came", batch.len());
            let batch = batch.iter().map(|overdue| overdue.lease.job());
            for job in batch.filter(|job| jobs.contains(job)) {
                assert!(returned.insert(job.clone()), "one overdue job was returned to two callers at once");
            }
        }
        if returned.len() == jobs.len() {
            break;
        }
    }
    assert_eq!(returned.len(), jobs.len(), "of the jobs whose deadline has passed, so many were returned");
}

/// A row is there from its registration or its event on, whatever becomes of it.
///
/// # Panics
///
/// When it is said not to be there.
pub async fn inbox_a_job_is_there_wherever_it_stands(store: &dyn InboxAdmin) {
    for stand in Stand::ALL {
        let job = job();
        bring(store, &completed(&job), stand).await;
        assert!(contains(store, &job).await, "a job that is {stand:?} is said not to be there");
        let row = row(store, &job).await;
        assert_eq!(row.state, stand.state(), "the state of a job that is {stand:?}");
    }
    assert!(!contains(store, &job()).await, "a job that nobody knows is said to be there");
    let nobody = store.get(&job()).await;
    assert!(matches!(nobody, Ok(None)), "a job that nobody knows has a row: {nobody:?}");
    let done = received(store).await;
    settle(store, &lease(store, &done, LONG).await.lease, &Outcome::Done).await;
    assert!(contains(store, &done).await, "a job that is done is said not to be there");
}
