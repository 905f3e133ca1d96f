//! The rate of requests to the API, shared by all clients of one key.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::FetchError;
use crate::event::JobId;
use crate::execution::backoff::Backoff;

/// The budget closes after the requests for this many different jobs failed in a row.
const JOBS_IN_A_ROW: usize = 3;
/// How long the budget closes after the API failed; doubles with each closing in a row.
const FAILED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };
/// How long the budget closes after the API refused the key or three jobs: only people can mend that.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(60), longest: Duration::from_secs(5 * 60) };
/// The longest pause that the API may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// Limits the requests to the API: their rate and their number at once. All clones share one budget.
///
/// A budget allows a number of requests per second, with up to a second's worth saved up, and a number of requests under
/// way at once. Waiting requests are served in order.
///
/// A failure that concerns one job, with a status such as 403, 422 or 500, does not stop the fetches of other jobs. The
/// budget *closes*, and refuses requests for a while, when there was no connection, after 429, after 401, and after the
/// requests for three different jobs failed in a row. It stays closed for a second, and twice as long each further time,
/// up to five minutes; as long as the API asks for, up to five minutes; or at least a minute after the API refused the
/// key or three jobs. Up to a quarter is added at random, but not to the time that the API asks for. The first answer to a later request ends the doubling.
///
/// The clock is tokio's. `JobsClient` (feature `client`) has a budget; use one in a [`JobSource`](super::JobSource) of
/// your own.
#[derive(Clone)]
pub struct RequestBudget {
    inner: Arc<Inner>,
}

struct Inner {
    interval: Duration,
    /// The most requests that may be saved up.
    burst: u32,
    /// Held by the request that waits for the next interval.
    turn: Semaphore,
    requests: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// The earliest time of the next request.
    next: Instant,
    /// The number of closings since the last answer.
    closings: u32,
    /// The jobs whose requests have failed since the last answer.
    failed: Vec<JobId>,
    closed: Option<Closed>,
}

/// The end and the cause of a closing.
#[derive(Clone)]
struct Closed {
    until: Instant,
    why: String,
}

/// The permission for one request, now. Report the end of the request with [`answered`](Self::answered) or
/// [`failed`](Self::failed); a dropped permit reports nothing.
#[must_use = "report how the request ended"]
pub struct RequestPermit {
    inner: Arc<Inner>,
    /// The number of closings when the request began: requests that fail together close the budget once.
    closings: u32,
    _request: OwnedSemaphorePermit,
}

/// The error of a closed budget: no request is made for a while.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the request budget is closed for another {} s, after: {why}", retry_after.as_secs_f64().ceil())]
#[non_exhaustive]
pub struct BudgetClosed {
    /// The time until the budget reopens.
    pub retry_after: Duration,
    pub(crate) why: String,
}

tokio::task_local! {
    /// The time of the task's fetch, if it is measured.
    static TIME: Arc<FetchTime>;
}

/// Measures a fetch without its waits for a budget.
#[derive(Debug)]
pub(crate) struct FetchTime {
    /// The end of the last wait, or the beginning; `None` during a wait.
    since: Mutex<Option<Instant>>,
}

/// Marks a fetch as waiting for a budget until this is dropped.
struct Waiting(Option<Arc<FetchTime>>);

impl FetchTime {
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self { since: Mutex::new(Some(Instant::now())) })
    }

    /// Runs the fetch that this measures.
    pub(crate) fn of<F: Future>(self: Arc<Self>, fetch: F) -> impl Future<Output = F::Output> {
        TIME.scope(self, fetch)
    }

    /// The end of the last wait, or the beginning; `None` during a wait.
    pub(crate) fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Waiting {
    fn begin() -> Self {
        let time = TIME.try_with(Arc::clone).ok();
        if let Some(time) = &time {
            time.set(None);
        }
        Self(time)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(time) = &self.0 {
            time.set(Some(Instant::now()));
        }
    }
}

impl RequestBudget {
    /// Makes a budget of `per_second` requests a second, which may be a fraction, and `at_once` requests at once. A rate
    /// that is not a positive number, such as 0, counts as one request a day; 0 requests at once count as one.
    #[must_use]
    pub fn new(per_second: f64, at_once: usize) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let interval =
            if per_second > 0.0 { Duration::try_from_secs_f64(1.0 / per_second).ok() } else { None };
        let interval = interval.map_or(DAY, |interval| interval.min(DAY));
        let burst = u32::try_from(Duration::from_secs(1).as_nanos() / interval.as_nanos().max(1));
        let inner = Inner {
            interval,
            burst: burst.unwrap_or(u32::MAX).max(1),
            turn: Semaphore::new(1),
            requests: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
            state: Mutex::new(State { next: Instant::now(), closings: 0, failed: Vec::new(), closed: None }),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Waits until a request may be made.
    ///
    /// # Cancel safety
    ///
    /// A dropped future passes its turn on, and counts as no request.
    ///
    /// # Errors
    ///
    /// Returns [`BudgetClosed`] at once if the budget is closed, and at the end of the wait if it closed meanwhile.
    pub async fn acquire(&self) -> Result<RequestPermit, BudgetClosed> {
        let inner = &self.inner;
        inner.check()?;
        let _waiting = Waiting::begin();
        // Neither semaphore is ever closed.
        let turn = inner.turn.acquire().await.map_err(|_| BudgetClosed::at_the_end())?;
        let request = inner.requests.clone().acquire_owned().await.map_err(|_| BudgetClosed::at_the_end())?;
        let next = inner.state().next;
        sleep_until(next).await;
        inner.check()?;
        let closings = {
            let (mut state, now) = (inner.state(), Instant::now());
            let saved = now.checked_sub(inner.interval * (inner.burst - 1)).unwrap_or(now);
            state.next = state.next.max(saved) + inner.interval;
            state.closings
        };
        drop(turn);
        Ok(RequestPermit { inner: inner.clone(), closings, _request: request })
    }
}

impl RequestBudget {
    /// Whether the budget is closed now.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed().is_some()
    }

    /// How long the budget stays closed, and why; `None` while it is open.
    #[must_use]
    pub fn closed(&self) -> Option<BudgetClosed> {
        self.inner.check().err()
    }
}

impl RequestPermit {
    /// Reports an answer, which reopens the budget, unless the budget has closed since the request began: such an answer
    /// says nothing about the time after.
    pub fn answered(self) {
        let mut state = self.inner.state();
        if self.closings == state.closings {
            state.closings = 0;
            state.failed.clear();
            state.closed = None;
        }
    }

    /// Reports a failed request for this job. Returns how long the budget is closed now: zero if the failure concerns
    /// this job alone.
    pub fn failed(self, job: &JobId, error: &FetchError) -> Duration {
        let now = Instant::now();
        let mut state = self.inner.state();
        let closes = match error {
            FetchError::Unauthorized | FetchError::RateLimited { .. } | FetchError::Unreachable(_) => true,
            FetchError::Refused(_) | FetchError::Unavailable { .. } | FetchError::Unreadable(_) => {
                // A request that began before the budget closed says nothing about the time after.
                self.closings == state.closings && state.have_failed_in_a_row(job)
            }
            // No request was made.
            FetchError::InvalidId | FetchError::BudgetClosed(_) => false,
        };
        if closes {
            state.failed.clear();
            state.closings = state.closings.max(self.closings.saturating_add(1));
            let backoff = match error {
                FetchError::Unauthorized | FetchError::Refused(_) => REFUSED,
                _ => FAILED,
            };
            let asked = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
            let until = now + backoff.at_least(state.closings).max(asked);
            // Of several requests that fail together, the longest closing counts.
            if state.closed.as_ref().is_none_or(|closed| closed.until < until) {
                state.closed = Some(Closed { until, why: error.to_string() });
            }
        }
        state.closed.as_ref().map_or(Duration::ZERO, |closed| closed.until.saturating_duration_since(now))
    }
}

impl State {
    /// Adds a failed job, and returns whether enough different jobs have failed.
    fn have_failed_in_a_row(&mut self, job: &JobId) -> bool {
        if !self.failed.contains(job) {
            self.failed.push(job.clone());
        }
        self.failed.len() >= JOBS_IN_A_ROW
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), BudgetClosed> {
        let now = Instant::now();
        match &self.state().closed {
            Some(Closed { until, why }) if *until > now => {
                Err(BudgetClosed { retry_after: *until - now, why: why.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl BudgetClosed {
    fn at_the_end() -> Self {
        Self { retry_after: LONGEST_RETRY_AFTER, why: "the budget was dropped".to_owned() }
    }
}

impl Default for RequestBudget {
    /// Two requests a second, four at once.
    fn default() -> Self {
        Self::new(2.0, 4)
    }
}

impl fmt::Debug for RequestBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBudget")
            .field("interval", &self.inner.interval)
            .field("at_once", &self.inner.requests.available_permits())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestPermit").finish_non_exhaustive()
    }
}
