//! Jobs whose webhook never comes, or comes late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource, RequestBudget};
use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, InboxState, NoResult, Outcome, Receipt};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, JobId, MemoryInbox, Reconciler, Verification, WebhookEvent,
    async_trait, handler_fn,
};
use tokio::time::{Instant, sleep};

use crate::budget::Budgeted;
use crate::support::api::{Api, Says, finished};
use crate::support::inboxes::FaultyInbox;
use crate::support::inboxes::all_rows;
use crate::support::{Call, FAULTS, Fault, Script};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn job(number: usize) -> JobId {
    format!("job-{number}").parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_webhook_never_came_is_handled_once_after_its_deadline() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    let began = Instant::now();
    inbox.expect(&job(1), MINUTE * 15).await.unwrap();
    let said = api.finish(&job(1));
    let _worker = inbox.worker(&script).start();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    let row = inbox.until(&job(1), InboxState::Done).await;
    let took = began.elapsed();
    assert!((MINUTE * 15..MINUTE * 15 + SECOND * 3).contains(&took), "{took:?}");
    assert_eq!((script.runs(), api.fetches(), row.verified), (1, 1, true));
    assert_eq!(inbox.rows.get(&job(1)).await.unwrap().unwrap().1.as_ref(), Some(said.body()));
    assert_eq!(inbox.receive(&said).await.unwrap(), Receipt::Duplicate, "its webhook comes after all");
    sleep(HOUR).await;
    assert_eq!((script.runs(), api.fetches()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_webhook_came_is_not_fetched() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    inbox.expect(&job(1), MINUTE).await.unwrap();
    inbox.receive(&finished(&job(1))).await.unwrap();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    sleep(HOUR).await;
    let _worker = inbox.worker(&script).start();
    inbox.until(&job(1), InboxState::Done).await;
    assert_eq!(api.fetches(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_arrives_during_a_fetch_wins() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let api = Api::new(Says::Pending).takes(SECOND * 5);
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    api.finish(&job(1));
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    let _worker = inbox.worker(&script).start();
    inbox.faults.until(Call::Overdue, 1).await;
    sleep(SECOND).await;
    let webhook = Payload::failed(&qomplement_webhooks::JobType::Extract).job_id("job-1").to_bytes();
    let webhook = Envelope::try_from(webhook).unwrap();
    assert_eq!(inbox.receive(&webhook).await.unwrap(), Receipt::Stored);
    let row = inbox.until(&job(1), InboxState::Done).await;
    sleep(MINUTE).await;
    assert_eq!((row.verified, script.runs(), api.fetches()), (false, 1, 1));
    assert_eq!(inbox.rows.get(&job(1)).await.unwrap().unwrap().1.as_ref(), Some(webhook.body()));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_never_ends_is_dead_at_the_horizon_and_can_be_replayed() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    let began = Instant::now();
    inbox.expect(&job(1), MINUTE * 15).await.unwrap();
    inbox.expect(&job(2), MINUTE * 15).await.unwrap();
    let _worker = inbox.worker(&script).start();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).horizon(HOUR * 2).start();
    for number in [1, 2] {
        let row = inbox.until(&job(number), InboxState::Dead).await;
        let took = began.elapsed();
        assert!((MINUTE * 135..MINUTE * 139).contains(&took), "{took:?}");
        assert_eq!(row.error.as_deref(), Some("the job had not ended 2 h after its deadline"));
        let asked = api.times(&job(number)).len();
        assert!((80..130).contains(&asked), "asked {asked} times in two hours");
    }
    // Another look, by hand.
    api.finish(&job(1));
    assert!(inbox.rows.replay(&job(1)).await.unwrap());
    inbox.until(&job(1), InboxState::Done).await;
    // Its webhook comes after all.
    assert_eq!(inbox.receive(&finished(&job(2))).await.unwrap(), Receipt::Stored);
    inbox.until(&job(2), InboxState::Done).await;
    assert_eq!(script.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_never_ends_is_given_up_after_a_day_unless_somebody_says_otherwise() {
    for of_worker in [true, false] {
        let (inbox, api) = (MemoryInbox::new(), Api::new(Says::Pending));
        inbox.expect(&job(1), MINUTE).await.unwrap();
        let (mut _worker, mut _reconciler) = (None, None);
        if of_worker {
            let verification = Verification::fetch(api);
            _worker =
                Some(InboxWorker::new(inbox.clone(), Script::default().handler(), verification).start());
        } else {
            _reconciler = Some(Reconciler::new(inbox.clone(), api).start());
        }
        sleep(HOUR * 24).await;
        let (row, _) = inbox.get(&job(1)).await.unwrap().unwrap();
        assert_eq!(row.state, InboxState::Expected, "{row:?}");
        sleep(MINUTE * 4).await;
        let (row, _) = inbox.get(&job(1)).await.unwrap().unwrap();
        assert_eq!(row.error.as_deref(), Some("the job had not ended 24 h after its deadline"), "{row:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expected_job_that_the_api_does_not_know_is_dead_after_ten_minutes() {
    let (inbox, api) = (FaultyInbox::default(), Api::new(Says::NotFound));
    inbox.expect(&job(1), MINUTE).await.unwrap();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    let began = Instant::now();
    let row = inbox.until(&job(1), InboxState::Dead).await;
    assert!((MINUTE * 11..MINUTE * 15).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(row.error.as_deref(), Some("fetched 5 times: the API knows no such job"));
    assert_eq!(api.fetches(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_no_job_of_the_api_can_have_is_dead_at_once() {
    #[derive(Debug)]
    struct Picky;
    #[qomplement_webhooks::async_trait]
    impl qomplement_webhooks::fetch::JobSource for Picky {
        async fn fetch(
            &self,
            _: &JobId,
        ) -> Result<qomplement_webhooks::fetch::Fetched, qomplement_webhooks::fetch::FetchError> {
            Err(qomplement_webhooks::fetch::FetchError::InvalidId)
        }
    }
    let inbox = FaultyInbox::default();
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    let _reconciler = Reconciler::new(inbox.clone(), Picky).start();
    let began = Instant::now();
    let row = inbox.until(&job(1), InboxState::Dead).await;
    assert_eq!(
        row.error.as_deref(),
        Some("the id has a character other than letters, digits, `-` and `_`, so no request was made")
    );
    assert!(began.elapsed() < SECOND * 3);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_does_not_answer_fetches_become_rarer_and_then_all_jobs_are_handled() {
    for says in [Says::Down, Says::Unauthorized, Says::RateLimited(SECOND * 30), Says::Panic] {
        let (inbox, api) = (FaultyInbox::default(), Api::new(says.clone()));
        let script = Script::default();
        for number in 0..500 {
            inbox.expect(&job(number), MINUTE).await.unwrap();
        }
        let _worker = inbox.worker(&script).start();
        let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
        sleep(HOUR).await;
        assert!(api.fetches() <= 4 * 22, "{says:?}: asked {} times in an hour", api.fetches());
        assert_eq!(inbox.rows.stats().await.unwrap().expected, 500, "{says:?}");
        for number in 0..500 {
            api.finish(&job(number));
        }
        let back = Instant::now();
        for number in 0..500 {
            inbox.until(&job(number), InboxState::Done).await;
        }
        assert!(back.elapsed() < MINUTE * 8, "{says:?}: {:?}", back.elapsed());
        assert_eq!(script.runs(), 500, "{says:?}");
        assert!(api.most_in_flight() <= 4, "{says:?}: {} at once", api.most_in_flight());
    }
}

/// Half of the webhooks come late: before, while and after their job is asked for.
#[tokio::test(start_paused = true)]
async fn of_jobs_whose_webhooks_come_late_each_is_handled_once() {
    for verify in [false, true] {
        let (inbox, api, script) = (MemoryInbox::new(), Api::new(Says::Pending), Script::default());
        let api = api.takes(SECOND);
        for number in 0..200 {
            inbox.expect(&job(number), MINUTE).await.unwrap();
            api.finish(&job(number));
        }
        let verification = if verify { Verification::fetch(api.clone()) } else { Verification::Trust };
        let _worker = InboxWorker::new(inbox.clone(), script.handler(), verification).start();
        let reconciler = Reconciler::new(inbox.clone(), api.clone());
        let _reconciler = (!verify).then(|| reconciler.start());
        sleep(MINUTE).await;
        // 200 jobs take 50 seconds and more: their webhooks come in the middle of it, in an order of their own.
        for number in (0..200).step_by(2).rev() {
            sleep(SECOND / 2).await;
            inbox.receive(&finished(&job(number))).await.unwrap();
        }
        sleep(MINUTE).await;
        let filter = InboxFilter::default().state(InboxState::Done);
        assert_eq!(all_rows(&inbox, &filter).await.len(), 200);
        for number in 0..200 {
            assert_eq!(script.runs_of(&job(number)), 1, "job {number} (verify: {verify})");
        }
        assert_eq!((script.overlaps(), api.twice_at_once()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_fetch_without_an_answer_kills_none_of_a_thousand_jobs_that_are_long_overdue() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Down), Script::default());
    for number in 0..1000 {
        inbox.expect(&job(number), MINUTE).await.unwrap();
    }
    // Nobody worked for so long.
    sleep(HOUR * 100).await;
    let _worker = inbox.worker(&script).start();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    sleep(HOUR).await;
    assert_eq!(inbox.rows.stats().await.unwrap().expected, 1000);
    for number in 0..1000 {
        api.finish(&job(number));
    }
    sleep(HOUR).await;
    let stats = inbox.rows.stats().await.unwrap();
    assert_eq!((stats.done, stats.dead, script.runs()), (1000, 0, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_report_that_a_job_still_runs_does_not_end_its_expectation() {
    for (fails, registered_first) in [(None, true), (None, false), (Some(false), true), (Some(true), true)] {
        let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Pending));
        let reports = Arc::new(AtomicUsize::new(0));
        let seen = reports.clone();
        let handler = handler_fn(move |event: WebhookEvent| {
            let is_report = matches!(event, WebhookEvent::Unrecognized { .. });
            seen.fetch_add(usize::from(is_report), Ordering::SeqCst);
            let failure = || HandlerError::from("no");
            let result = match fails.filter(|_| is_report) {
                Some(true) => Err(HandlerError::permanent("never")),
                Some(false) => Err(failure()),
                None => Ok(()),
            };
            async { result }
        })
        .with_unrecognized();
        let began = Instant::now();
        if registered_first {
            inbox.expect(&job(1), MINUTE * 15).await.unwrap();
        }
        let payload = Payload::extract_completed().job_id("job-1").set("/data/status", "processing");
        let report = Envelope::try_from(payload.to_bytes()).unwrap();
        assert_eq!(inbox.receive(&report).await.unwrap(), Receipt::Stored);
        let _worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
        let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
        if !registered_first {
            inbox.until(&job(1), InboxState::Done).await;
            inbox.expect(&job(1), MINUTE * 15 - began.elapsed()).await.unwrap();
        }
        inbox.until(&job(1), InboxState::Expected).await;
        let said = api.finish(&job(1));
        let row = inbox.until(&job(1), InboxState::Done).await;
        let took = began.elapsed();
        assert!((MINUTE * 15..MINUTE * 15 + SECOND * 5).contains(&took), "fails: {fails:?}: {took:?}");
        assert!(row.verified && api.fetches() == 1, "{row:?}");
        assert_eq!(inbox.rows.get(&job(1)).await.unwrap().unwrap().1.as_ref(), Some(said.body()));
        let reports = reports.load(Ordering::SeqCst);
        assert!(if fails == Some(false) { reports > 3 } else { reports == 1 }, "handled {reports} times");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_budget_is_closed_no_more_jobs_are_leased() {
    let inbox = FaultyInbox::default();
    for number in 0..40 {
        inbox.expect(&job(number), Duration::ZERO).await.unwrap();
    }
    let _reconciler = Reconciler::new(inbox.clone(), Api::new(Says::Unauthorized)).start();
    sleep(SECOND * 10).await;
    // Four that were refused, and four that met the closed budget.
    assert!(inbox.calls(Call::Settle) <= 8, "jobs were leased that could not be fetched");
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_fails_is_called_ever_more_seldom() {
    let inbox = FaultyInbox::default().fail(Call::Overdue, vec![Some(Fault::Error); 1000]);
    let _reconciler = Reconciler::new(inbox.clone(), Api::new(Says::Pending)).start();
    sleep(MINUTE).await;
    // After 1, 2, 4, 5, 5, … seconds, and up to a quarter more.
    let calls = inbox.calls(Call::Overdue);
    assert!((11..=15).contains(&calls), "{calls} calls in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_slow_inbox_is_waited_for() {
    let inbox = FaultyInbox::default().fail(Call::Overdue, vec![Some(Fault::Late); 1000]);
    let api = Api::new(Says::Pending);
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    sleep(SECOND * 10).await;
    assert_eq!(api.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetched_event_is_stored_at_the_second_call_when_the_first_fails() {
    let inbox = FaultyInbox::default().fail(Call::Verify, [Some(Fault::Error)]);
    let api = Api::new(Says::Pending);
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    api.finish(&job(1));
    let began = Instant::now();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    inbox.until(&job(1), InboxState::Received).await;
    assert!(began.elapsed() < SECOND * 5, "stored after {:?}", began.elapsed());
    assert_eq!(api.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_the_api_says_still_runs_is_late_from_then_on() {
    let inbox = MemoryInbox::new();
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    let rejected = inbox.overdue(1, MINUTE).await.unwrap().remove(0);
    let outcome = Outcome::Rejected { error: "unknown".to_owned() };
    assert_eq!(inbox.settle(&rejected.lease, &outcome).await.unwrap(), Fenced::Applied);
    sleep(HOUR).await;
    assert_eq!(inbox.receive(&finished(&job(1))).await.unwrap(), Receipt::Stored);
    sleep(HOUR).await;
    let leased = inbox.lease(1, MINUTE).await.unwrap().remove(0);
    let outcome = Outcome::FetchAgain { after: Duration::ZERO, answer: NoResult::Pending };
    assert_eq!(inbox.settle(&leased.lease, &outcome).await.unwrap(), Fenced::Applied);
    let overdue = inbox.overdue(1, MINUTE).await.unwrap().remove(0);
    assert_eq!(overdue.by, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_fetched_event_wakes_a_worker_that_never_polls() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    let _worker = inbox.worker(&script).poll(Duration::MAX).start();
    inbox.faults.until(Call::Lease, 1).await;
    for number in 0..3 {
        inbox.rows.expect(&job(number), SECOND * 10).await.unwrap();
        api.finish(&job(number));
    }
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    sleep(MINUTE).await;
    assert_eq!((api.fetches(), script.runs()), (3, 3), "fetched, and handled");
}

#[tokio::test(start_paused = true)]
async fn slow_answers_hold_the_next_ones_not_up() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    for number in 0..100 {
        inbox.expect(&job(number), Duration::ZERO).await.unwrap();
        api.finish(&job(number));
    }
    for number in [10, 20, 30] {
        api.takes_for(&job(number), SECOND * 50);
    }
    let _worker = inbox.worker(&script).start();
    let _reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    sleep(SECOND * 20).await;
    assert_eq!(script.runs(), 97);
    sleep(MINUTE * 3).await;
    assert_eq!((script.runs(), api.fetches()), (100, 100));
    assert!(api.most_in_flight() <= 4);
}

/// The lease of an overdue job is renewed while its answer is waited for: nobody else asks for it.
#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_its_turn_is_fetched_by_one() {
    let (inbox, script) = (FaultyInbox::default(), Script::default());
    let (api, budget) = (Api::new(Says::Pending), RequestBudget::new(0.002, 1));
    budget.acquire().await.unwrap().answered();
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    api.finish(&job(1));
    let _worker = inbox.worker(&script).start();
    let source = Budgeted(api.clone(), budget);
    let _reconcilers = [0, 1].map(|_| Reconciler::new(inbox.clone(), source.clone()).start());
    inbox.until(&job(1), InboxState::Done).await;
    sleep(HOUR).await;
    assert_eq!((api.fetches(), script.runs()), (1, 1));
}

/// A source that waits for its budget for ever, and counts the fetches that wait.
#[derive(Debug, Clone)]
struct Waits {
    budget: RequestBudget,
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl JobSource for Waits {
    async fn fetch(&self, _: &JobId) -> Result<Fetched, FetchError> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.most.fetch_max(self.waiting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        let permit = self.budget.acquire().await?;
        panic!("{permit:?} after a day");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_whose_lease_cannot_be_renewed_is_dropped_before_the_next_begins() {
    for fault in FAULTS {
        let inbox = FaultyInbox::default().fail(Call::Renew, [Some(fault); 1000]);
        let source =
            Waits { budget: RequestBudget::new(0.0, 1), waiting: Arc::default(), most: Arc::default() };
        source.budget.acquire().await.unwrap().answered();
        inbox.expect(&job(1), Duration::ZERO).await.unwrap();
        let running = [0, 1].map(|_| Reconciler::new(inbox.clone(), source.clone()).start());
        sleep(SECOND * 100).await;
        assert_eq!(source.waiting.load(Ordering::SeqCst), 1, "{fault:?}");
        sleep(HOUR).await;
        assert_eq!(source.most.load(Ordering::SeqCst), 1, "{fault:?}: fetched twice at once");
        for reconciler in running {
            reconciler.shutdown(Duration::ZERO).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reconcilers_of_one_inbox_share_the_work() {
    let (inbox, api, script) = (FaultyInbox::default(), Api::new(Says::Pending), Script::default());
    for number in 0..100 {
        inbox.expect(&job(number), Duration::ZERO).await.unwrap();
        api.finish(&job(number));
    }
    let _worker = inbox.worker(&script).start();
    let running: Vec<_> = (0..5).map(|_| Reconciler::new(inbox.clone(), api.clone()).start()).collect();
    for number in 0..100 {
        inbox.until(&job(number), InboxState::Done).await;
    }
    assert_eq!((api.fetches(), script.runs()), (100, 100));
    for reconciler in running {
        assert_eq!(reconciler.shutdown(Duration::ZERO).await, 0, "it has nothing to do, and says it has");
    }
    inbox.expect(&job(1000), Duration::ZERO).await.unwrap();
    sleep(HOUR).await;
    assert_eq!(api.fetches(), 100, "it was shut down");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_leased_during_the_shutdown_is_released_and_not_fetched() {
    let (inbox, api) = (FaultyInbox::default(), Api::new(Says::Pending));
    inbox.expect(&job(1), Duration::ZERO).await.unwrap();
    inbox.faults.fail(Call::Overdue, [Some(Fault::Slow)]);
    let reconciler = Reconciler::new(inbox.clone(), api.clone()).start();
    // The call takes longer.
    sleep(SECOND).await;
    assert_eq!(reconciler.shutdown(MINUTE).await, 0);
    assert_eq!(api.fetches(), 0, "fetched after the shutdown began");
    assert_eq!(inbox.rows.overdue(1, MINUTE).await.unwrap().len(), 1, "the job is not free at once");
}

/// The jobs of two accounts, those with even numbers at the first.
#[derive(Debug, Clone)]
struct Accounts([Budgeted; 2]);

fn account(job: &JobId) -> usize {
    let number = job.to_string().strip_prefix("job-").and_then(|number| number.parse::<usize>().ok());
    number.unwrap() % 2
}

#[async_trait]
impl JobSource for Accounts {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        self.0[account(job)].fetch(job).await
    }

    fn is_one_account(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_or_a_limit_of_one_account_delays_no_job_of_another() {
    for refused in [Says::Unauthorized, Says::RateLimited(HOUR), Says::Down] {
        for verify in [false, true] {
            let (inbox, script) = (FaultyInbox::default(), Script::default());
            let good = Budgeted(Api::new(Says::Pending), RequestBudget::new(10.0, 4));
            let bad = Budgeted(Api::new(refused.clone()), RequestBudget::new(10.0, 4));
            let source = Arc::new(Accounts([good.clone(), bad.clone()]));
            for number in 0..100 {
                if verify {
                    inbox.receive(&finished(&job(number))).await.unwrap();
                } else {
                    inbox.expect(&job(number), Duration::ZERO).await.unwrap();
                }
                good.0.finish(&job(number));
            }
            let began = Instant::now();
            let verification = if verify { Verification::fetch(source.clone()) } else { Verification::Trust };
            let _worker = InboxWorker::new(inbox.clone(), script.handler(), verification).start();
            let _reconciler = (!verify).then(|| Reconciler::new(inbox.clone(), source).start());
            for number in (0..100).step_by(2) {
                inbox.until(&job(number), InboxState::Done).await;
            }
            let took = began.elapsed();
            assert!(took < SECOND * 30, "{refused:?}, verified: {verify}: {took:?}");
            assert!(bad.0.fetches() <= 4 * 6, "{refused:?}: asked {} times", bad.0.fetches());
            for number in 0..100 {
                bad.0.finish(&job(number));
            }
            for number in (1..100).step_by(2) {
                inbox.until(&job(number), InboxState::Done).await;
            }
            assert_eq!((script.runs(), script.overlaps()), (100, 0), "{refused:?}");
        }
    }
}
