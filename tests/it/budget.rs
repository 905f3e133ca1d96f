//! How often the API is asked by all who ask, by tokio's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::{
    FetchError, Fetched, InboxAdmin, InboxFilter, InboxState, InboxStore, InboxWorker, JobId, JobSource,
    MemoryInbox, Reconciler, RequestBudget, Verification, async_trait,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::api::{Api, Says, finished};
use crate::support::Script;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// An API that is asked within a budget.
#[derive(Debug, Clone)]
struct Budgeted(Api, RequestBudget);

#[async_trait]
impl JobSource for Budgeted {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let permit = self.1.acquire().await?;
        let fetched = self.0.fetch(job).await;
        match &fetched {
            Ok(_) => permit.answered(),
            Err(error) => drop(permit.failed(error)),
        }
        fetched
    }
}

fn job(number: usize) -> JobId {
    format!("job-{number}").parse().unwrap()
}

async fn done(inbox: &MemoryInbox) -> usize {
    let mut filter = InboxFilter::default();
    filter.state = Some(InboxState::Done);
    inbox.list(&filter, None, usize::MAX).await.unwrap().len()
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
async fn whoever_gives_up_waiting_uses_nothing_up() {
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
    for per_second in [0.0, -1.0, f64::NAN, 1e-300] {
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
        let pause = permit.failed(&FetchError::unavailable("down"));
        assert!(pause >= SECOND && pause <= SECOND * 5 / 4, "{pause:?}");
    }
    let closed = budget.acquire().await.unwrap_err();
    assert!(closed.retry_after >= SECOND && closed.retry_after <= SECOND * 5 / 4, "{closed:?}");
    sleep(closed.retry_after).await;
    let pause = budget.acquire().await.unwrap().failed(&FetchError::unavailable("down"));
    assert!(pause >= SECOND * 2 && pause <= SECOND * 5 / 2, "{pause:?}");
    sleep(pause).await;
    budget.acquire().await.unwrap().answered();
    let pause = budget.acquire().await.unwrap().failed(&FetchError::unavailable("down"));
    assert!(pause <= SECOND * 5 / 4, "the failures in a row had ended: {pause:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_when_it_closes_is_told_at_once() {
    let budget = RequestBudget::new(1000.0, 1);
    let permit = budget.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.acquire().await.map(drop) }
    });
    tokio::task::yield_now().await;
    permit.failed(&FetchError::Unauthorized);
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
        let (asked, took) = (api.asked(), began.elapsed());
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
        assert!(api.asked() <= 80, "{says:?}: asked {} times in an hour", api.asked());
        let rows = inbox.list(&InboxFilter::default(), None, 1000).await.unwrap();
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
