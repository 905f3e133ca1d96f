//! Fetches a job, and decides what the answer means for its row.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, warn};

use super::account::{Account, LONGEST_RETRY_AFTER, others_first, warn_of_one};
use crate::error::chain;
use crate::event::{Envelope, JobId};
use crate::execution::backoff::Backoff;
use crate::execution::isolation::{CallError, isolate, made};
use crate::fetch::{FetchError, FetchTime, Fetched, JobSource};
use crate::inbox::{FetchHistory, NoResult, Outcome};
use crate::telemetry::{self, fetch_result};

/// The time limit of one fetch, without its waits for a budget. It is for a source that hangs: a source has a time limit
/// of its own for a request.
const FETCH_TIME: Duration = Duration::from_secs(60);
/// The pause before a job that has not ended is fetched again.
const PENDING: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(60) };
/// The pause after a fetch without an answer; its first value is also the shortest pause after a closed budget.
const FAILED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };
/// Gives up on a job after this many not-found answers, with pauses that spread them over at least ten minutes: the API
/// may not know a new job yet.
const MOST_NOT_FOUND: u32 = 5;
const NOT_FOUND: Backoff = Backoff { first: Duration::from_secs(150), longest: Duration::from_secs(150) };
/// Gives up on a job this long after its first fetch without an answer.
const NO_ANSWER_TIME: Duration = Duration::from_secs(72 * 60 * 60);
/// Gives up on a job that has not ended this long after its deadline.
pub(crate) const HORIZON: Duration = Duration::from_secs(24 * 60 * 60);

type FetchResult = Result<Fetched, Arc<FetchError>>;

/// Fetches jobs from a source, and keeps track of the source's failures.
#[derive(Debug)]
pub(crate) struct Fetcher {
    source: Arc<dyn JobSource>,
    /// The fetches under way.
    under_way: Mutex<HashMap<JobId, UnderWay>>,
    /// The account of all jobs; `None` if there are several.
    account: Option<Account>,
}

/// The result of a fetch, and the number of those that want it.
#[derive(Debug, Default)]
struct UnderWay {
    sharers: usize,
    result: Arc<OnceCell<FetchResult>>,
}

/// One fetch of a job, whose result is shared by all that want the job at the same time.
struct SharedFetch<'a> {
    fetcher: &'a Fetcher,
    job: &'a JobId,
    result: Arc<OnceCell<FetchResult>>,
}

/// The consequence of a fetch for the job's row.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The job has ended with this event.
    Ended(Envelope),
    /// There is no event: settle the row with this outcome.
    Settle(Outcome),
}

impl Fetcher {
    pub(crate) fn new(source: Arc<dyn JobSource>) -> Self {
        let account = source.is_one_account().then(Account::new);
        Self { source, under_way: Mutex::default(), account }
    }

    /// Whether a closed budget concerns all jobs.
    pub(crate) fn is_one_account(&self) -> bool {
        self.account.is_some()
    }

    /// Fetches a job. `passed_horizon` is the horizon of the reconciler if the job is overdue by more: then a job that has
    /// not ended is given up.
    pub(crate) async fn fetch(
        &self,
        job: &JobId,
        fetches: FetchHistory,
        passed_horizon: Option<Duration>,
    ) -> Verdict {
        if let Some(after) = self.account.as_ref().and_then(|account| account.waits_for_others(fetches)) {
            return Verdict::Settle(Outcome::Release { after });
        }
        let pause = |backoff: Backoff| backoff.at_least(fetches.count.saturating_add(1));
        let outcome = match self.share(job).result().await {
            Ok(Fetched::Finished(event)) => return Verdict::Ended(event),
            Ok(Fetched::Pending) => match passed_horizon {
                Some(horizon) => {
                    error!(?horizon, "the job has not ended within the horizon; it is a dead letter now");
                    let horizon = in_its_unit(horizon);
                    Outcome::Dead { error: format!("the job had not ended {horizon} after its deadline") }
                }
                None => Outcome::FetchAgain { after: pause(PENDING), answer: NoResult::Pending },
            },
            Ok(Fetched::NotFound) => {
                let times = fetches.not_found.saturating_add(1);
                if times >= MOST_NOT_FOUND {
                    error!(times, "the API knows no such job; it is a dead letter now");
                    Outcome::Rejected { error: format!("fetched {times} times: the API knows no such job") }
                } else {
                    let after = pause(NOT_FOUND);
                    warn!(times, retry_in = ?after, "the API knows no such job; fetching again later");
                    Outcome::FetchAgain { after, answer: NoResult::NotFound }
                }
            }
            Err(failure) => after_failure(fetches, &failure),
        };
        Verdict::Settle(outcome)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<JobId, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the fetch of a job that is under way, or starts one.
    fn share<'a>(&'a self, job: &'a JobId) -> SharedFetch<'a> {
        let mut under_way = self.under_way();
        let fetch = under_way.entry(job.clone()).or_default();
        fetch.sharers += 1;
        SharedFetch { fetcher: self, job, result: fetch.result.clone() }
    }

    /// Notes in the metrics whether the budget of all jobs is closed.
    pub(crate) fn report_budget(&self) {
        if let Some(account) = &self.account {
            telemetry::budget(account.budget.is_closed());
        }
    }

    /// Calls the source, when the budget allows it, and counts the fetch.
    async fn call(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let fetched = self.call_in_budget(job).await;
        telemetry::fetched(label(&fetched));
        fetched
    }

    /// Calls the source, when the budget allows it. Results that a source must not return become errors.
    async fn call_in_budget(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let permit = match &self.account {
            None => None,
            Some(account) => match account.budget.acquire().await {
                Ok(permit) => Some(permit),
                Err(closed) => {
                    let refused = Err(closed.into());
                    self.note(&refused);
                    return refused;
                }
            },
        };
        let fetched = self.call_in_time(job).await.and_then(|fetched| fetched.checked(job));
        match (permit, &fetched) {
            (None, _) => {}
            (Some(permit), Ok(_)) => permit.answered(),
            (Some(permit), Err(error)) => drop(permit.failed(job, error)),
        }
        self.note(&fetched);
        fetched
    }

    /// Calls the source. A hang or a panic becomes an error.
    async fn call_in_time(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let time = FetchTime::begin();
        let fetch = pin!(time.clone().of(made(|| self.source.fetch(job))));
        let mut fetch = isolate(fetch);
        loop {
            let until = time.since().unwrap_or_else(Instant::now) + FETCH_TIME;
            match timeout_at(until, &mut fetch).await {
                Ok(Ok(fetched)) => return fetched,
                Ok(Err(panicked)) => return Err(FetchError::unavailable(panicked)),
                Err(_) if time.since().is_some_and(|since| since + FETCH_TIME <= Instant::now()) => {
                    return Err(FetchError::unavailable(CallError::Late));
                }
                // The fetch waited for a budget, or still does: its time begins anew.
                Err(_) => {}
            }
        }
    }

    /// Notes the result of a fetch for all jobs of the account, and logs it.
    fn note(&self, fetched: &Result<Fetched, FetchError>) {
        match (&self.account, fetched) {
            (None, Ok(_)) | (_, Err(FetchError::InvalidId)) => {}
            // Logged with the job's outcome.
            (None, Err(FetchError::BudgetClosed(_))) => {}
            (None, Err(error)) => warn_of_one(error),
            (Some(account), Ok(_)) => account.note_answer(),
            (Some(account), Err(error)) => account.note_failure(error),
        }
    }
}

/// The label of a fetch in metrics.
fn label(fetched: &Result<Fetched, FetchError>) -> &'static str {
    match fetched {
        Ok(Fetched::Finished(_)) => fetch_result::FINISHED,
        Ok(Fetched::Pending) => fetch_result::PENDING,
        Ok(Fetched::NotFound) => fetch_result::NOT_FOUND,
        Err(FetchError::Unauthorized) => fetch_result::UNAUTHORIZED,
        Err(FetchError::RateLimited { .. }) => fetch_result::RATE_LIMITED,
        Err(FetchError::Unreachable(_)) => fetch_result::UNREACHABLE,
        Err(FetchError::Refused(_)) => fetch_result::REFUSED,
        Err(FetchError::Unavailable { .. }) => fetch_result::UNAVAILABLE,
        Err(FetchError::Unreadable(_)) => fetch_result::UNREADABLE,
        Err(FetchError::InvalidId) => fetch_result::INVALID_ID,
        Err(FetchError::BudgetClosed(_)) => fetch_result::BUDGET_CLOSED,
    }
}

/// A long time for people, in the largest unit that needs no fraction.
fn in_its_unit(time: Duration) -> String {
    match time.as_secs() {
        seconds if time.subsec_nanos() != 0 || !seconds.is_multiple_of(60) => format!("{time:?}"),
        seconds if seconds.is_multiple_of(60 * 60) => format!("{} h", seconds / (60 * 60)),
        seconds => format!("{} min", seconds / 60),
    }
}

/// The outcome of a fetch that failed.
fn after_failure(fetches: FetchHistory, failure: &FetchError) -> Outcome {
    match failure {
        FetchError::InvalidId => {
            error!("no job of the API can have this id; it is a dead letter now");
            Outcome::Rejected { error: failure.to_string() }
        }
        // No request was made, so no fetch is counted.
        FetchError::BudgetClosed(closed) => {
            let after = closed.retry_after.saturating_add(others_first(fetches));
            let after = after.clamp(FAILED.first, LONGEST_RETRY_AFTER);
            debug!(error = %closed, retry_in = ?after, "the job was not fetched; fetching later");
            Outcome::Release { after }
        }
        failure if fetches.unanswered_for >= Some(NO_ANSWER_TIME) => {
            let error = chain(failure);
            error!(%error, "fetches of the job have failed for 72 hours; it is a dead letter now");
            Outcome::Dead {
                error: format!("fetches have failed for {}: {error}", in_its_unit(NO_ANSWER_TIME)),
            }
        }
        failure => {
            let asked = failure.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
            let after = FAILED.at_least(fetches.count.saturating_add(1)).max(asked);
            Outcome::FetchAgain { after, answer: NoResult::Failed { error: chain(failure) } }
        }
    }
}

impl SharedFetch<'_> {
    /// The result of one call of the source, for all that wait for it. When the waiter that made the call is dropped,
    /// another waiter makes the call.
    async fn result(&self) -> FetchResult {
        self.result
            .get_or_init(|| async { self.fetcher.call(self.job).await.map_err(Arc::new) })
            .await
            .clone()
    }
}

impl Drop for SharedFetch<'_> {
    fn drop(&mut self) {
        let mut under_way = self.fetcher.under_way();
        let Some(fetch) = under_way.get_mut(self.job) else { return };
        fetch.sharers -= 1;
        // The last one: a later fetch of the job calls the source again.
        if fetch.sharers == 0 {
            under_way.remove(self.job);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use async_trait::async_trait;

    use super::*;
    use crate::fetch::{BudgetClosed, RequestBudget};

    #[derive(Debug)]
    struct Source;

    #[async_trait]
    impl JobSource for Source {
        async fn fetch(&self, _: &JobId) -> Result<Fetched, FetchError> {
            Ok(Fetched::Pending)
        }
    }

    /// A source whose first call closes its budget for a time.
    #[derive(Debug)]
    struct Closes {
        calls: AtomicUsize,
        retry_after: Duration,
    }

    #[async_trait]
    impl JobSource for Arc<Closes> {
        async fn fetch(&self, _: &JobId) -> Result<Fetched, FetchError> {
            match self.calls.fetch_add(1, Ordering::SeqCst) {
                0 => Err(BudgetClosed { retry_after: self.retry_after, why: "too many".to_owned() }.into()),
                _ => Ok(Fetched::Pending),
            }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    /// How long a job waits for a budget; `None` if it was fetched.
    async fn wait(fetcher: &Fetcher, job: &str, count: u32) -> Option<Duration> {
        let history = FetchHistory { count, ..FetchHistory::default() };
        match fetcher.fetch(&job.parse().unwrap(), history, None).await {
            Verdict::Settle(Outcome::Release { after }) => Some(after),
            Verdict::Settle(Outcome::FetchAgain { .. }) => None,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_of_another_source_is_waited_for_an_hour_at_most() {
        for (retry_after, waits) in [(MINUTE * 59, MINUTE * 59), (MINUTE * 61, MINUTE * 60)] {
            let closes = Closes { calls: AtomicUsize::default(), retry_after };
            let fetcher = Fetcher::new(Arc::new(Arc::new(closes)));
            assert_eq!(wait(&fetcher, "a", 0).await, Some(waits));
            assert_eq!(wait(&fetcher, "b", 0).await, Some(waits));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_budget_is_waited_for_and_jobs_that_were_fetched_before_let_others_go_first() {
        let source = Arc::new(Closes { calls: AtomicUsize::default(), retry_after: MINUTE });
        let fetcher = Fetcher::new(Arc::new(source.clone()));
        let waits = async |job, count| wait(&fetcher, job, count).await;
        assert_eq!(waits("a", 0).await, Some(MINUTE));
        assert_eq!(waits("b", 0).await, Some(MINUTE));
        assert_eq!(waits("c", 3).await, Some(MINUTE + SECOND * 3));
        assert_eq!(source.calls.load(Ordering::SeqCst), 1, "fetched while the budget was closed");
        tokio::time::advance(MINUTE).await;
        assert_eq!(waits("c", 3).await, Some(SECOND * 3), "before a job that was never fetched");
        assert_eq!(waits("a", 0).await, None);
        assert_eq!(waits("c", 3).await, None, "after an answer, all jobs are fetched at once");
    }

    #[test]
    fn a_job_whose_fetches_fail_waits_for_longer_each_time_up_to_five_minutes_and_72_hours_in_all() {
        let refused = FetchError::Refused("403".into());
        let asks = FetchError::Unavailable { retry_after: Some(MINUTE * 70), source: "503".into() };
        let again = |count, failure| {
            let history = FetchHistory { count, ..FetchHistory::default() };
            match after_failure(history, failure) {
                Outcome::FetchAgain { after, .. } => after,
                outcome => panic!("{outcome:?}"),
            }
        };
        for (count, pause) in [(0, SECOND), (3, SECOND * 8), (9, MINUTE * 5), (u32::MAX, MINUTE * 5)] {
            let after = again(count, &refused);
            assert!((pause..=pause * 5 / 4).contains(&after), "{after:?} after {count} fetches");
        }
        assert_eq!(again(0, &asks), MINUTE * 60);
        let hours = MINUTE * 60 * 72;
        for (unanswered_for, is_dead) in [(hours - SECOND, false), (hours, true)] {
            let history = FetchHistory { unanswered_for: Some(unanswered_for), ..FetchHistory::default() };
            let outcome = after_failure(history, &refused);
            assert_eq!(matches!(outcome, Outcome::Dead { .. }), is_dead, "{outcome:?}");
        }
    }

    #[test]
    fn a_long_time_is_written_in_the_largest_unit_that_fits() {
        let half = SECOND / 2;
        let times = [MINUTE * 120, MINUTE * 90, SECOND * 61, MINUTE * 60 + half, half];
        assert_eq!(times.map(in_its_unit), ["2 h", "90 min", "61s", "3600.5s", "500ms"]);
    }

    /// A source that never answers, once its budget allows a request.
    #[derive(Debug)]
    struct Hangs(RequestBudget);

    #[async_trait]
    impl JobSource for Hangs {
        async fn fetch(&self, _: &JobId) -> Result<Fetched, FetchError> {
            let _permit = self.0.acquire().await?;
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_has_a_minute_after_its_wait_for_a_budget() {
        let budget = RequestBudget::new(1.0 / 30.0, 4);
        drop(budget.acquire().await.unwrap());
        let fetcher = Fetcher::new(Arc::new(Hangs(budget)));
        let (job, began) = ("a".parse().unwrap(), Instant::now());
        let fetch = fetcher.fetch(&job, FetchHistory::default(), None);
        let verdict = tokio::time::timeout(MINUTE * 10, fetch).await.unwrap();
        assert!(matches!(verdict, Verdict::Settle(Outcome::FetchAgain { .. })), "{verdict:?}");
        assert_eq!(began.elapsed().as_secs(), 90);
    }

    #[test]
    fn fetches_that_end_together_leave_nothing_behind() {
        let (fetcher, job) = (Fetcher::new(Arc::new(Source)), "a".parse().unwrap());
        let together = Barrier::new(2);
        let share = || {
            for _ in 0..20_000 {
                let shared = fetcher.share(&job);
                together.wait();
                drop(shared);
                together.wait();
                assert!(fetcher.under_way().is_empty(), "an entry without a fetch");
                together.wait();
            }
        };
        thread::scope(|scope| {
            scope.spawn(share);
            share();
        });
    }
}
