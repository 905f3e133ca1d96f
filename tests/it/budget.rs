//! How often the API is asked by all who ask, by tokio's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource, RequestBudget};
use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, InboxState};
use qomplement_webhooks::{
    InboxStore, InboxWorker, JobId, MemoryInbox, Reconciler, Verification, async_trait,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::Script;
use crate::support::api::{Api, Says, finished};
use crate::support::inboxes::all_rows;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// An API that is asked within a budget.
#[derive(Debug, Clone)]
pub struct Budgeted(pub Api, pub RequestBudget);

#[async_trait]
impl JobSource for Budgeted {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let permit = self.1.acquire().await?;
        let fetched = self.0.fetch(job).await;
        match &fetched {
            Ok(_) => permit.answered(),
            Err(error) => drop(permit.failed(job, error)),
        }
        fetched
    }
}

fn job(number: usize) -> JobId {
    format!("job-{number}").parse().unwrap()
}

async fn done(inbox: &MemoryInbox) -> usize {
    usize::try_from(inbox.stats().await.unwrap().done).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_are_made_at_their_rate_in_turn_and_a_second_of_them_is_saved_up() {
    let budget = RequestBudget::new(2.0, 100);
    let began = Instant::now();
    for expected in [0, 500, 1000, 1500] {
        budget.acquire().await.unwrap().answered();
        // The clock of tokio's timers has ticks of a millisecond.
        let late = began.elapsed().as_millis().abs_diff(expected);
        assert!(late <= 5, "{:?} instead of {expected} ms", began.elapsed());
    }
    sleep(HOUR).await;
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    let turns = Arc::new(AtomicUsize::new(0));
    for number in 0..10 {
        let (budget, turns) = (budget.clone(), turns.clone());
        waiting.spawn(async move {
            budget.acquire().await.unwrap().answered();
            assert_eq!(turns.fetch_add(1, Ordering::SeqCst), number, "out of turn");
        });
    }
    waiting.join_all().await;
    assert!(began.elapsed().abs_diff(SECOND * 4) < SECOND / 50, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_than_that_are_under_way_and_a_dropped_one_makes_room() {
    let budget = RequestBudget::new(1000.0, 4);
    let mut permits = Vec::new();
    for _ in 0..4 {
        permits.push(budget.acquire().await.unwrap());
    }
    assert!(tokio::time::timeout(HOUR, budget.acquire()).await.is_err(), "a fifth was made");
    drop(permits.pop());
    // Whoever gave up waiting has not taken the room along.
    permits.push(budget.acquire().await.unwrap());
    drop(permits);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_waiting_uses_nothing_up() {
    let budget = RequestBudget::new(1.0, 4);
    budget.acquire().await.unwrap().answered();
    let began = Instant::now();
    for _ in 0..100 {
        assert!(tokio::time::timeout(SECOND / 1000, budget.acquire()).await.is_err());
    }
    budget.acquire().await.unwrap().answered();
    assert!(began.elapsed() <= SECOND + SECOND / 100, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_number_that_is_no_limit_is_one_request_a_day_or_at_once() {
    for per_second in [0.0, -1.0, f64::NEG_INFINITY, f64::NAN, 1e-300] {
        let budget = RequestBudget::new(per_second, 0);
        budget.acquire().await.unwrap().answered();
        assert!(tokio::time::timeout(HOUR * 23, budget.acquire()).await.is_err(), "{per_second}");
    }
    let budget = RequestBudget::new(f64::INFINITY, usize::MAX);
    for _ in 0..10_000 {
        budget.acquire().await.unwrap().answered();
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_fail_together_count_as_one_failure() {
    let budget = RequestBudget::new(1000.0, 4);
    let mut permits = Vec::new();
    for _ in 0..4 {
        permits.push(budget.acquire().await.unwrap());
    }
    for permit in permits {
        let pause = permit.failed(&job(1), &FetchError::unreachable("down"));
        assert!(pause >= SECOND && pause <= SECOND * 5 / 4, "{pause:?}");
    }
    let closed = budget.acquire().await.unwrap_err();
    assert!(closed.retry_after >= SECOND && closed.retry_after <= SECOND * 5 / 4, "{closed:?}");
    sleep(closed.retry_after).await;
    let pause = budget.acquire().await.unwrap().failed(&job(1), &FetchError::unreachable("down"));
    assert!(pause >= SECOND * 2 && pause <= SECOND * 5 / 2, "{pause:?}");
    sleep(pause).await;
    budget.acquire().await.unwrap().answered();
    let pause = budget.acquire().await.unwrap().failed(&job(1), &FetchError::unreachable("down"));
    assert!(pause <= SECOND * 5 / 4, "the failures in a row had ended: {pause:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_request_from_before_the_closing_does_not_reopen() {
    let budget = RequestBudget::new(1000.0, 4);
    let (early, limited) = (budget.acquire().await.unwrap(), budget.acquire().await.unwrap());
    let asked = FetchError::RateLimited { retry_after: Some(MINUTE) };
    assert!(limited.failed(&job(1), &asked) >= MINUTE);
    early.answered();
    let closed = budget.acquire().await.unwrap_err();
    assert!(closed.retry_after > SECOND * 59, "reopened: {closed:?}");
    sleep(closed.retry_after).await;
    budget.acquire().await.unwrap().answered();
    budget.acquire().await.unwrap().answered();
}

fn statuses_about_a_job() -> [FetchError; 3] {
    let refused = FetchError::Refused("the answer is 403".into());
    let unreadable = FetchError::Unreadable("the answer is a page".into());
    [FetchError::unavailable("the answer is 500"), refused, unreadable]
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_one_job_closes_nothing_and_what_fails_for_three_in_a_row_does() {
    for number in 0..3 {
        let error = || statuses_about_a_job().into_iter().nth(number).unwrap();
        let budget = RequestBudget::new(1000.0, 4);
        let fail = async |of: usize| budget.acquire().await.unwrap().failed(&job(of), &error());
        for _ in 0..50 {
            assert_eq!(fail(1).await, Duration::ZERO, "closed by one job: {:?}", error());
            assert_eq!(fail(2).await, Duration::ZERO, "closed by two jobs: {:?}", error());
        }
        budget.acquire().await.unwrap().answered();
        assert_eq!(fail(3).await, Duration::ZERO, "an answer came between: {:?}", error());
        assert_eq!(fail(4).await, Duration::ZERO, "an answer came between: {:?}", error());
        let (mut pause, least) = (fail(5).await, if number == 1 { MINUTE } else { SECOND });
        assert!(pause >= least && pause <= least * 5 / 4, "{pause:?} after {:?}", error());
        for doubled in [2, 4] {
            sleep(pause).await;
            assert_eq!((fail(6).await, fail(7).await), (Duration::ZERO, Duration::ZERO), "{:?}", error());
            pause = fail(8).await;
            assert!(pause >= least * doubled && pause <= least * doubled * 5 / 4, "{pause:?}: {:?}", error());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn thirty_jobs_that_fail_delay_no_others() {
    for verify in [false, true] {
        let (inbox, script) = (MemoryInbox::new(), Script::default());
        let api = Api::new(Says::Pending);
        let source = Budgeted(api.clone(), RequestBudget::default());
        let verification = if verify { Verification::fetch(source.clone()) } else { Verification::Trust };
        let _worker = InboxWorker::new(inbox.clone(), script.handler(), verification).start();
        let reconciler = Reconciler::new(inbox.clone(), source);
        let _reconciler = (!verify).then(|| reconciler.start());
        for number in 0..30 {
            api.says_of(&job(number), Says::Failing);
            if verify && number % 2 == 0 {
                inbox.receive(&finished(&job(number))).await.unwrap();
            } else {
                inbox.expect(&job(number), Duration::ZERO).await.unwrap();
            }
        }
        sleep(HOUR).await;
        for round in 1..=10 {
            let began = Instant::now();
            for number in 0..20 {
                let good = job(1000 * round + number);
                api.finish(&good);
                inbox.expect(&good, Duration::ZERO).await.unwrap();
                if verify && number % 2 == 0 {
                    inbox.receive(&finished(&good)).await.unwrap();
                }
            }
            while done(&inbox).await < 20 * round {
                sleep(SECOND).await;
                let rows = all_rows(&inbox, &InboxFilter::default()).await;
                let open: Vec<_> = rows.iter().filter(|row| row.state != InboxState::Done).collect();
                assert!(began.elapsed() < HOUR, "verify: {verify}, round {round}, not done: {open:?}");
            }
            // Ten seconds without the thirty; none was fetched yet, so a closed budget costs its pause at most once.
            assert!(began.elapsed() < MINUTE * 7, "verify: {verify}: {:?} in round {round}", began.elapsed());
            sleep(MINUTE * 3).await;
        }
        assert_eq!(script.runs(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_budget_is_no_answer_of_the_api() {
    let (inbox, script) = (MemoryInbox::new(), Script::default());
    let (api, budget) = (Api::new(Says::Pending), RequestBudget::new(1000.0, 4));
    for number in 0..20 {
        inbox.expect(&job(number), Duration::ZERO).await.unwrap();
        if number % 2 == 0 {
            inbox.receive(&finished(&job(number))).await.unwrap();
        }
        api.finish(&job(number));
    }
    let closed_for = budget.acquire().await.unwrap().failed(&job(99), &FetchError::Unauthorized);
    let source = Verification::fetch(Budgeted(api.clone(), budget));
    let _worker = InboxWorker::new(inbox.clone(), script.handler(), source).start();
    sleep(closed_for - SECOND).await;
    for row in all_rows(&inbox, &InboxFilter::default()).await {
        assert_eq!((row.fetches, row.attempts, row.error.as_deref()), (0, 0, None), "{row:?}");
    }
    assert_eq!(api.fetches(), 0);
    sleep(SECOND * 10).await;
    assert_eq!((done(&inbox).await, api.fetches(), script.runs()), (20, 20, 20));
}

/// However long they wait for their turn: the API is healthy.
#[tokio::test(start_paused = true)]
async fn the_time_in_the_queue_of_a_budget_is_not_the_time_of_the_answer() {
    for (events, per_second) in [(1000, 2.0), (20, 0.01)] {
        let (inbox, script) = (MemoryInbox::new(), Script::default());
        let api = Api::new(Says::Pending);
        for number in 0..events {
            inbox.receive(&finished(&job(number))).await.unwrap();
            api.finish(&job(number));
        }
        let source = Budgeted(api.clone(), RequestBudget::new(per_second, 4));
        // All share one budget, as the workers of a process should.
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let source = Verification::fetch(source.clone());
                InboxWorker::new(inbox.clone(), script.handler(), source).concurrency(500).start()
            })
            .collect();
        let began = Instant::now();
        while done(&inbox).await < events {
            sleep(SECOND).await;
            assert!(inbox.stats().await.unwrap().running <= 3 * 16, "more are leased than asked for soon");
            for row in all_rows(&inbox, &InboxFilter::default()).await {
                assert_eq!((row.fetches, row.error.as_deref()), (0, None), "{row:?}");
            }
            assert!(began.elapsed() < HOUR, "{} are done", done(&inbox).await);
        }
        assert_eq!((api.fetches(), script.runs()), (events, events));
        drop(workers);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_when_it_closes_is_refused_at_once() {
    let budget = RequestBudget::new(1000.0, 1);
    let permit = budget.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.acquire().await.map(drop) }
    });
    tokio::task::yield_now().await;
    permit.failed(&job(1), &FetchError::Unauthorized);
    let began = Instant::now();
    let closed = waiting.await.unwrap().unwrap_err();
    assert!(closed.retry_after >= MINUTE, "{closed:?}");
    assert!(began.elapsed() < SECOND / 100, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_10_000_jobs_without_a_webhook_all_are_handled_once_within_the_budget() {
    const JOBS: usize = 10_000;
    for (verify, late) in [(false, false), (true, false), (false, true), (true, true)] {
        let (inbox, script) = (MemoryInbox::new(), Script::default());
        let api = Api::new(Says::Pending).takes(SECOND);
        for number in 0..JOBS {
            inbox.expect(&job(number), MINUTE).await.unwrap();
            api.finish(&job(number));
        }
        let source = Budgeted(api.clone(), RequestBudget::new(2.0, 4));
        let verification = if verify { Verification::fetch(source.clone()) } else { Verification::Trust };
        let worker = InboxWorker::new(inbox.clone(), script.handler(), verification).start();
        let reconciler = Reconciler::new(inbox.clone(), source);
        let _reconciler = (!verify).then(|| reconciler.start());
        let began = Instant::now();
        if late {
            // Half of the webhooks come after all: while the jobs are asked for, one after another, and when
            // they have been.
            for number in (0..JOBS / 2).rev() {
                sleep(MINUTE * 85 / 5_000).await;
                inbox.receive(&finished(&job(number * 2))).await.unwrap();
            }
        }
        while done(&inbox).await < JOBS {
            sleep(MINUTE).await;
            assert!(began.elapsed() < HOUR * 3, "{} of {JOBS} are done", done(&inbox).await);
        }
        let (asked, took) = (api.fetches(), began.elapsed());
        let budget = took.as_secs() as usize * 2 + 2;
        assert!(asked <= budget, "asked {asked} times in {took:?}");
        assert!(asked <= JOBS + JOBS / 100, "asked {asked} times for {JOBS} jobs");
        assert!(api.most_in_flight() <= 4 && api.twice_at_once() == 0);
        assert_eq!((script.runs(), script.overlaps()), (JOBS, 0));
        for number in 0..JOBS {
            assert_eq!(script.runs_of(&job(number)), 1, "job {number}");
        }
        worker.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_down_for_an_hour_costs_few_requests_and_no_attempt() {
    for says in [Says::Down, Says::Unauthorized, Says::RateLimited(SECOND * 100)] {
        let (inbox, script) = (MemoryInbox::new(), Script::default());
        let api = Api::new(says.clone());
        let source = Budgeted(api.clone(), RequestBudget::default());
        for number in 0..200 {
            inbox.expect(&job(number), MINUTE).await.unwrap();
            if number % 2 == 0 {
                inbox.receive(&finished(&job(number))).await.unwrap();
            }
        }
        let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::fetch(source));
        let _worker = worker.start();
        sleep(HOUR).await;
        assert!(api.fetches() <= 80, "{says:?}: asked {} times in an hour", api.fetches());
        let rows = all_rows(&inbox, &InboxFilter::default()).await;
        assert!(rows.iter().all(|row| row.attempts == 0 || row.state == InboxState::Running), "{says:?}");
        api.says(Says::Pending);
        for number in 0..200 {
            api.finish(&job(number));
        }
        let back = Instant::now();
        while done(&inbox).await < 200 {
            sleep(SECOND).await;
            assert!(back.elapsed() < MINUTE * 15, "{says:?}: {} are done", done(&inbox).await);
        }
        assert_eq!(script.runs(), 200, "{says:?}");
    }
}
