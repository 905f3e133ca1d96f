//! What becomes of jobs that the API was asked for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::harness::{Call, LONG, ROUNDING, SHORT, applied, at_once, job, stale};
use super::steps::*;
use crate::event::JobId;
use crate::inbox::{
    FetchHistory, InboxAdmin, InboxState, Lease, NoResult, Outcome, Overdue, Receipt, Retention,
};
use crate::store::Fenced;

fn fetch_again(after: Duration, answer: NoResult) -> Outcome {
    Outcome::FetchAgain { after, answer }
}

fn failed() -> NoResult {
    NoResult::Failed { error: "no answer".to_owned() }
}

fn rejected() -> Outcome {
    Outcome::Rejected { error: "nobody knows it".to_owned() }
}

/// Registers a job that is overdue, and leases it to ask for it.
async fn overdue_lease(store: &dyn InboxAdmin, job: &JobId) -> Overdue {
    expect(store, job, Duration::ZERO).await;
    again(store, job).await
}

async fn again(store: &dyn InboxAdmin, job: &JobId) -> Overdue {
    match find_overdue(store, std::slice::from_ref(job), LONG).await.pop() {
        Some(overdue) => overdue,
        None => panic!("a job that is overdue is not returned"),
    }
}

async fn running(store: &dyn InboxAdmin) -> (JobId, Lease) {
    let job = received(store).await;
    let lease = lease(store, &job, LONG).await.lease;
    (job, lease)
}

/// What the API says of an overdue job is its event, and handled like any other.
///
/// # Panics
///
/// When it is not due, not verified, or not what the API said.
pub async fn inbox_an_overdue_job_is_verified(store: &dyn InboxAdmin) {
    for said in [completed(&job()), event(&job(), "fill_pdf", "failed", "")] {
        let overdue = overdue_lease(store, said.job()).await;
        for _ in 0..2 {
            applied(store.verify(&overdue.lease, &said).await, "what the API says of an overdue job");
        }
        let row = row(store, said.job()).await;
        assert_eq!((row.state, row.verified, row.fetches), (InboxState::Received, true, 0));
        receipt(store.receive(&said).await, Receipt::Duplicate, "its webhook, later");
        let leased = lease(store, said.job(), LONG).await;
        assert_eq!((&leased.body, leased.attempt, leased.verified), (said.body(), 1, true));
        stale(store.verify(&overdue.lease, &said).await, "the same, when it is leased");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
}

/// A webhook that comes while its job is asked for wins: whoever asked writes nothing more.
///
/// # Panics
///
/// When the answer changes something.
pub async fn inbox_a_webhook_wins_over_an_answer(store: &dyn InboxAdmin) {
    let webhook = completed(&job());
    let overdue = overdue_lease(store, webhook.job()).await;
    receipt(store.receive(&webhook).await, Receipt::Stored, "a webhook while its job is asked for");
    let before = snapshot(store, webhook.job()).await;
    let said = event(webhook.job(), "extract", "failed", "");
    stale(store.verify(&overdue.lease, &said).await, "an answer after the webhook");
    stale(store.renew(&overdue.lease, LONG).await, "a renewal after the webhook");
    let outcomes = [fetch_again(LONG, NoResult::Pending), fetch_again(LONG, failed()), release(LONG)];
    for outcome in outcomes.iter().chain(&[rejected(), error("never")]) {
        stale(store.settle(&overdue.lease, outcome).await, "an outcome after the webhook");
    }
    assert_eq!(snapshot(store, webhook.job()).await, before, "an answer changed what the webhook brought");
    assert_eq!(before.1.as_ref(), Some(webhook.body()), "the body that the webhook brought");
    assert!(!before.0.verified, "a webhook is no answer of the API");
}

/// What the API says of a running row takes the place of its event, under the same lease, and stays.
///
/// # Panics
///
/// When the lease is lost, the attempts change, or the row forgets that it was verified.
pub async fn inbox_a_running_row_is_verified(store: &dyn InboxAdmin) {
    let (job, lease_of_webhook) = running(store).await;
    let said = event(&job, "fill_excel", "failed", "the API's");
    for _ in 0..2 {
        applied(store.verify(&lease_of_webhook, &said).await, "what the API says of a running row");
    }
    applied(store.renew(&lease_of_webhook, LONG).await, "a renewal after that");
    let (row, body) = get(store, &job).await;
    assert_eq!((row.state, row.attempts, row.verified), (InboxState::Running, 1, true));
    assert_eq!((row.job_type.as_deref(), body.as_ref()), (Some("fill_excel"), Some(said.body())));
    settle(store, &lease_of_webhook, &retry(Duration::ZERO)).await;
    receipt(store.receive(&completed(&job)).await, Receipt::Conflict, "another webhook");
    let leased = lease(store, &job, LONG).await;
    assert_eq!((&leased.body, leased.attempt, leased.verified), (said.body(), 2, true));
    stale(store.verify(&lease_of_webhook, &said).await, "an answer under an old lease");
}

/// A job that has not ended is expected again, without an event, and its next event is its first.
///
/// # Panics
///
/// When the event is kept, the attempt is counted, or the asking is not.
pub async fn inbox_a_job_that_has_not_ended_is_expected_again(store: &dyn InboxAdmin) {
    let (job, lease_of_webhook) = running(store).await;
    settle(store, &lease_of_webhook, &fetch_again(Duration::ZERO, NoResult::Pending)).await;
    stale(store.renew(&lease_of_webhook, LONG).await, "a renewal when the job is expected");
    let (row, body) = get(store, &job).await;
    assert_eq!((row.state, row.attempts, row.fetches), (InboxState::Expected, 0, 1));
    assert_eq!((row.job_type, row.status, body), (None, None, None), "its event was dropped");
    let overdue = again(store, &job).await;
    assert_eq!((overdue.fetches.count, overdue.fetches.not_found), (1, 0));
    settle(store, &overdue.lease, &fetch_again(LONG, NoResult::Pending)).await;
    stale(store.settle(&overdue.lease, &release(Duration::ZERO)).await, "another outcome of that lease");
    assert!(find_overdue(store, std::slice::from_ref(&job), LONG).await.is_empty(), "asked again at once");
    receipt(store.receive(&completed(&job)).await, Receipt::Stored, "its next event");
    let leased = lease(store, &job, LONG).await;
    assert_eq!((leased.attempt, leased.fetches.count, leased.verified), (1, 2, false));
    assert!(leased.fetches.next_in > LONG / 2, "when it may be asked again was forgotten: {leased:?}");
}

/// That the API does not know a job, or does not answer, costs no attempt, and is counted apart.
///
/// # Panics
///
/// When the event is lost, an attempt is counted, or the counts are wrong.
pub async fn inbox_what_the_api_cannot_say_is_counted_apart(store: &dyn InboxAdmin) {
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
            assert_eq!((row.state, row.attempts, row.fetches), (state, 0, times), "{answer:?}");
            assert_eq!(body.is_some(), state == InboxState::Received, "the event after {answer:?}");
            assert_eq!(row.error.as_deref(), answer.error(), "{answer:?}");
        }
        let leased = lease(store, &running, LONG).await;
        assert_eq!((leased.attempt, leased.fetches.count, leased.fetches.not_found), (1, times, not_found));
        let overdue = again(store, &expected).await;
        assert_eq!((overdue.fetches.count, overdue.fetches.not_found), (times, not_found));
        (running_lease, expected_lease) = (leased.lease, overdue.lease);
    }
    for (job, held) in [(&running, running_lease), (&expected, expected_lease.clone())] {
        settle(store, &held, &fetch_again(Duration::ZERO, NoResult::Pending)).await;
        assert_eq!(row(store, job).await.error, None, "an error of before it was known");
        let overdue = again(store, job).await;
        assert_eq!((overdue.fetches.count, overdue.fetches.not_found), (5, 0), "after it was known");
        expected_lease = overdue.lease;
    }
    settle(store, &expected_lease, &fetch_again(Duration::ZERO, failed())).await;
    let overdue = again(store, &expected).await;
    assert_eq!((overdue.fetches.count, overdue.fetches.not_found), (6, 0), "after it could not be asked for");
    settle(store, &overdue.lease, &release(Duration::ZERO)).await;
    let overdue = again(store, &expected).await;
    assert_eq!(overdue.fetches.count, 6, "what is given back does not count");
    for outcome in [Outcome::Done, retry(Duration::ZERO)] {
        stale(store.settle(&overdue.lease, &outcome).await, "there is nothing that could be handled");
    }
    applied(store.renew(&overdue.lease, LONG).await, "the lease of who asks");
}

/// A job that is none is dead without an event: another begins anew, and a replay expects one.
///
/// # Panics
///
/// When it is not dead, or cannot come again.
pub async fn inbox_a_job_that_is_none_may_come_again(store: &dyn InboxAdmin) {
    let (received, held) = running(store).await;
    let expected = job();
    let overdue = overdue_lease(store, &expected).await.lease;
    for (job, held) in [(&received, &held), (&expected, &overdue)] {
        for _ in 0..2 {
            applied(store.settle(held, &rejected()).await, "a rejected job");
        }
        let (dead, body) = get(store, job).await;
        assert_eq!((dead.state, dead.job_type, body), (InboxState::Dead, None, None));
        assert_eq!(dead.error.as_deref(), Some("nobody knows it"));
        assert!(replay(store, job).await, "one without an event cannot be replayed");
        stale(store.renew(held, LONG).await, "a renewal of before the replay");
        let asked = again(store, job).await;
        assert_eq!(asked.fetches.count, 0, "it is asked for anew");
        stale(store.settle(held, &release(Duration::ZERO)).await, "an outcome of before the replay");
        settle(store, &asked.lease, &error("never")).await;
        assert_eq!(row(store, job).await.state, InboxState::Dead, "an expected job that will not be handled");
        receipt(store.receive(&completed(job)).await, Receipt::Stored, "an event of a job that was dead");
        let leased = lease(store, job, LONG).await;
        assert_eq!((leased.attempt, leased.fetches.count), (1, 0));
    }
    for outcome in [rejected(), fetch_again(LONG, NoResult::Pending)] {
        let (job, held) = running(store).await;
        applied(store.verify(&held, &completed(&job)).await, "what the API says of a running row");
        settle(store, &held, &outcome).await;
        assert!(!row(store, &job).await.verified, "there is no event that could be verified: {outcome:?}");
        receipt(store.receive(&completed(&job)).await, Receipt::Stored, "the next event");
        let leased = lease(store, &job, LONG).await;
        assert!(!leased.verified, "what the API said before {outcome:?} was of another event");
    }
}

/// A job that the API was asked for is asked for again when the time has come that was said, and not before;
/// one that has an event is handled again then.
///
/// # Panics
///
/// When it is due or overdue at another time.
pub async fn inbox_a_job_is_asked_for_again_after_a_while(store: &dyn InboxAdmin) {
    clear(store).await;
    let again = |answer| fetch_again(SHORT, answer);
    for outcome in [again(NoResult::NotFound), again(failed())] {
        let (job, held) = running(store).await;
        let settled = Instant::now();
        settle(store, &held, &outcome).await;
        let leased = lease_when_due(store, &job, settled, SHORT).await;
        assert!(!leased.expired, "the lease before had ended as {outcome:?}");
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
        stale(store.settle(&overdue.lease, &outcome).await, "an outcome when the job is expected");
        overdue = overdue_when_due(store, &job, settled, SHORT).await;
    }
}

/// Whoever asks for a job can renew the lease. It ends, and the next that asks is the only one that writes.
///
/// # Panics
///
/// When it lasts for another time, or another asker writes.
pub async fn inbox_the_last_that_asks_for_a_job_writes(store: &dyn InboxAdmin) {
    find_overdue(store, &[], LONG).await;
    let job = job();
    expect(store, &job, Duration::ZERO).await;
    let found = find_overdue(store, std::slice::from_ref(&job), Duration::ZERO).await.pop();
    let Some(Overdue { lease: first, .. }) = found else { panic!("a job that is overdue is not returned") };
    applied(store.renew(&first, LONG).await, "a renewal by who asks, and whose lease has ended");
    sleep(SHORT * 2).await;
    let early = find_overdue(store, std::slice::from_ref(&job), LONG).await;
    assert!(early.is_empty(), "asked for by another while the lease lasts: {early:?}");
    let renewed = Instant::now();
    applied(store.renew(&first, SHORT).await, "a second renewal");
    let second = overdue_when_due(store, &job, renewed, SHORT).await.lease;
    assert!(second.fence() > first.fence(), "the number of {second:?} after {first:?}");

    let said = event(&job, "extract", "failed", "");
    let before = snapshot(store, &job).await;
    stale(store.renew(&first, LONG).await, "a renewal by who asked before");
    stale(store.verify(&first, &said).await, "an answer to who asked before");
    let outcomes = [fetch_again(LONG, NoResult::NotFound), release(LONG), rejected(), error("never")];
    for outcome in &outcomes {
        stale(store.settle(&first, outcome).await, &format!("{outcome:?} by who asked before"));
    }
    assert_eq!(snapshot(store, &job).await, before, "who asked before changed something");
    applied(store.verify(&second, &said).await, "an answer to who asked last");
}

/// How late a job is counts from its deadline, however often it was asked for since, or from its replay.
///
/// # Panics
///
/// When it counts from another time.
pub async fn inbox_a_job_says_how_late_it_is(store: &dyn InboxAdmin) {
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
            overdue.late + SHORT + ROUNDING >= least && overdue.late + SHORT <= most + ROUNDING,
            "a job that should have come {SHORT:?} after its registration, which is between {least:?} and {most:?} \
             ago, is said to be late by {:?}",
            overdue.late
        );
    }
    settle(store, &overdue.lease, &rejected()).await;
    let replayed = Instant::now();
    assert!(replay(store, &job).await, "one without an event cannot be replayed");
    let late = again(store, &job).await.late;
    assert!(late <= replayed.elapsed() + ROUNDING, "a job that was just replayed is late by {late:?}");
}

/// What is replayed, and what begins anew after it was dead, was never asked for; nor was what the API has
/// answered.
///
/// # Panics
///
/// When the counts are kept.
pub async fn inbox_asking_begins_anew_with_a_new_life(store: &dyn InboxAdmin) {
    for end in [Outcome::Done, error("never"), rejected()] {
        let (job, held) = asked_once(store).await;
        settle(store, &held, &end).await;
        if end == rejected() {
            receipt(store.receive(&completed(&job)).await, Receipt::Stored, "an event of a rejected job");
        } else {
            assert!(replay(store, &job).await, "not replayed after {end:?}");
        }
        let leased = lease(store, &job, LONG).await;
        assert_eq!(leased.fetches, FetchHistory::default(), "how it was asked for before {end:?}");
        settle(store, &leased.lease, &Outcome::Done).await;
    }
    let (job, held) = asked_once(store).await;
    settle(store, &held, &rejected()).await;
    assert!(replay(store, &job).await, "a rejected job is not expected again after its replay");
    assert_eq!(
        again(store, &job).await.fetches,
        FetchHistory::default(),
        "how it was asked for before it was dead"
    );

    let (job, held) = asked_once(store).await;
    applied(store.verify(&held, &completed(&job)).await, "what the API says of a running row");
    settle(store, &held, &retry(Duration::ZERO)).await;
    let leased = lease(store, &job, LONG).await;
    assert_eq!(leased.fetches, FetchHistory::default(), "how it was asked for before it was verified");
}

/// A running row whose job the API did not know when it was asked before.
async fn asked_once(store: &dyn InboxAdmin) -> (JobId, Lease) {
    let (job, held) = running(store).await;
    settle(store, &held, &fetch_again(Duration::ZERO, NoResult::NotFound)).await;
    let leased = lease(store, &job, LONG).await;
    assert_eq!((leased.fetches.count, leased.fetches.not_found), (1, 1), "a job that was asked for once");
    (job, leased.lease)
}

/// What was fetched least often comes first, whether it has an event or is expected; of these, what has been due for
/// longest.
///
/// # Panics
///
/// When another comes first.
pub async fn inbox_what_was_fetched_least_comes_first(store: &dyn InboxAdmin) {
    clear(store).await;
    find_overdue(store, &[], LONG).await;
    let apart = Duration::from_millis(10);
    let (mut received, mut expected) = (Vec::new(), Vec::new());
    let mut held = Vec::new();
    // The first was fetched twice, the second and the third once, and the others never.
    for times in [2, 1, 1, 0, 0] {
        let (job, mut running) = running(store).await;
        for _ in 0..times {
            settle(store, &running, &fetch_again(Duration::ZERO, failed())).await;
            running = lease(store, &job, LONG).await.lease;
        }
        received.push(job);
        let job = super::super::harness::job();
        let mut asking = overdue_lease(store, &job).await.lease;
        for _ in 0..times {
            settle(store, &asking, &fetch_again(Duration::ZERO, failed())).await;
            asking = again(store, &job).await.lease;
        }
        expected.push(job);
        held.push([running, asking]);
    }
    for lease in held.iter().flatten() {
        settle(store, lease, &release(Duration::ZERO)).await;
        sleep(apart).await;
    }
    for (place, index) in [3, 4, 1, 2, 0].into_iter().enumerate() {
        let leased = store.lease(1, LONG).await.ok().and_then(|mut leased| leased.pop());
        let job = leased.as_ref().map(|leased| leased.lease.job());
        assert_eq!(job, Some(&received[index]), "the row that comes as number {place} is another");
        let overdue = store.overdue(1, LONG).await.ok().and_then(|mut overdue| overdue.pop());
        let job = overdue.as_ref().map(|overdue| overdue.lease.job());
        assert_eq!(job, Some(&expected[index]), "the overdue job that comes as number {place} is another");
    }
}

/// How long there was no answer counts from the first fetch without one, and anew after an answer and in a new life.
///
/// # Panics
///
/// When it counts from another time.
pub async fn inbox_the_time_without_an_answer_is_told(store: &dyn InboxAdmin) {
    let (received, mut held) = running(store).await;
    let expected = job();
    let mut overdue = overdue_lease(store, &expected).await;
    assert_eq!(overdue.fetches.unanswered_for, None, "a job that was not fetched");
    sleep(SHORT).await;
    let began = Instant::now();
    for _ in 0..3 {
        settle(store, &held, &fetch_again(Duration::ZERO, failed())).await;
        settle(store, &overdue.lease, &fetch_again(Duration::ZERO, failed())).await;
        let first_settled = began.elapsed();
        let least = Instant::now();
        sleep(SHORT).await;
        let leased = lease(store, &received, LONG).await;
        overdue = again(store, &expected).await;
        for told in [leased.fetches.unanswered_for, overdue.fetches.unanswered_for] {
            let (least, most) = (least.elapsed(), began.elapsed());
            let told = told.unwrap_or_else(|| panic!("a job that was fetched without an answer"));
            // The clock of the store is not the suite's.
            assert!(
                told + ROUNDING + SHORT / 2 + first_settled >= least && told <= most + ROUNDING,
                "there was no answer for between {least:?} and {most:?}, and {told:?} are told"
            );
        }
        // Not an answer, nor none.
        settle(store, &leased.lease, &release(Duration::ZERO)).await;
        settle(store, &overdue.lease, &release(Duration::ZERO)).await;
        let leased = lease(store, &received, LONG).await;
        assert!(leased.fetches.unanswered_for >= Some(SHORT / 2), "it counts anew after it was given back");
        held = leased.lease;
        overdue = again(store, &expected).await;
        assert!(overdue.fetches.unanswered_for >= Some(SHORT / 2), "it counts anew after it was given back");
    }
    let told = overdue.fetches.unanswered_for.unwrap_or_default();
    assert!(told + ROUNDING >= SHORT * 3, "it counts from the last fetch, and not from the first: {told:?}");

    settle(store, &held, &fetch_again(Duration::ZERO, NoResult::NotFound)).await;
    let leased = lease(store, &received, LONG).await;
    assert_eq!(leased.fetches.unanswered_for, None, "after an answer");
    settle(store, &leased.lease, &fetch_again(Duration::ZERO, failed())).await;
    let leased = lease(store, &received, LONG).await;
    settle(store, &leased.lease, &error("never")).await;
    assert!(replay(store, &received).await, "what is dead cannot be replayed");
    let leased = lease(store, &received, LONG).await;
    assert_eq!(leased.fetches.unanswered_for, None, "after a replay");
    settle(store, &overdue.lease, &fetch_again(Duration::ZERO, NoResult::Pending)).await;
    let overdue = again(store, &expected).await;
    assert_eq!(overdue.fetches.unanswered_for, None, "after an answer");
    settle(store, &overdue.lease, &fetch_again(Duration::ZERO, failed())).await;
    receipt(store.receive(&completed(&expected)).await, Receipt::Stored, "the event of an expected job");
    let leased = lease(store, &expected, LONG).await;
    assert_eq!((leased.fetches.unanswered_for, leased.fetches.count), (None, 5), "after its receipt");
}

/// Of an answer and a webhook that come at once, one is the event, and the other is told so.
///
/// # Panics
///
/// When both are said to be, or neither, or the row is a mixture.
pub async fn inbox_of_an_answer_and_a_webhook_at_once_one_counts(store: &dyn InboxAdmin) {
    for round in 0..20 {
        let webhook = completed(&job());
        let said = event(webhook.job(), "extract", "failed", "the API's");
        let held = overdue_lease(store, webhook.job()).await.lease;
        let answer: Call<'_, bool> =
            Box::pin(async { Ok(store.verify(&held, &said).await? == Fenced::Applied) });
        let receive: Call<'_, bool> =
            Box::pin(async { Ok(store.receive(&webhook).await? == Receipt::Stored) });
        let calls = if round % 2 == 0 { [answer, receive] } else { [receive, answer] };
        let mut counts = at_once(calls.into_iter()).await;
        if round % 2 == 1 {
            counts.reverse();
        }
        let [Ok(answered), Ok(received)] = counts[..] else {
            panic!("one of two at once failed: {counts:?}")
        };
        assert_ne!(answered, received, "whether the answer counts, and whether the webhook does");
        let leased = lease(store, webhook.job(), LONG).await;
        let body = if answered { said.body() } else { webhook.body() };
        assert_eq!((&leased.body, leased.verified), (body, answered), "what is kept");
    }
}

/// A time may be any, also one that no clock reaches.
///
/// # Panics
///
/// When it is refused, or taken for a short one.
pub async fn inbox_a_time_may_be_any(store: &dyn InboxAdmin) {
    const MAX: Duration = Duration::MAX;
    clear(store).await;
    find_overdue(store, &[], LONG).await;
    let far = async |job: &JobId, what: &str| {
        let due_in = row(store, job).await.due_in;
        assert!(due_in.is_some_and(|due_in| due_in > LONG * 1000), "{what} is {due_in:?} away");
    };
    let expected = job();
    expect(store, &expected, MAX).await;
    far(&expected, "a deadline").await;
    let job = job();
    expect(store, &job, Duration::ZERO).await;
    let Some(overdue) = find_overdue(store, std::slice::from_ref(&job), MAX).await.pop() else {
        panic!("a job that is overdue is not returned");
    };
    far(&job, "the end of a lease on an expected job").await;
    applied(store.renew(&overdue.lease, MAX).await, "a renewal");
    far(&job, "the end of a renewed lease on an expected job").await;
    settle(store, &overdue.lease, &fetch_again(MAX, NoResult::Pending)).await;
    far(&job, "when it may be asked for again").await;
    store_event(store, &completed(&job)).await;
    let leased = lease(store, &job, MAX).await;
    assert!(leased.fetches.next_in > LONG * 1000, "when it may be asked for again: {leased:?}");
    far(&job, "the end of a lease").await;
    applied(store.renew(&leased.lease, MAX).await, "a renewal");
    far(&job, "the end of a renewed lease").await;
    settle(store, &leased.lease, &Outcome::Done).await;
    let pruned = store.prune(&Retention { payload: MAX, row: MAX }).await;
    assert!(pruned.is_ok(), "what is kept for ever cannot be pruned: {pruned:?}");
    assert!(get(store, &job).await.1.is_some(), "what is kept for ever was pruned");
    for outcome in
        [retry(MAX), release(MAX), fetch_again(MAX, NoResult::NotFound), fetch_again(MAX, failed())]
    {
        let (job, held) = running(store).await;
        settle(store, &held, &outcome).await;
        far(&job, "when it is due again").await;
        not_due(store, &job, "what is due at a time that no clock reaches").await;
    }
}
