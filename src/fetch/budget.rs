//! How often the API is asked, by all who ask.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::FetchError;
use crate::event::JobId;
use crate::execution::backoff::Backoff;

/// Of so many different jobs requests fail in a row before it is taken for more than their own failure.
const JOBS_IN_A_ROW: usize = 3;
/// The pause after the API failed; it doubles with each time in a row.
const FAILED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };
/// The same when the key was refused: only people can mend that.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(60), longest: Duration::from_secs(5 * 60) };
/// The longest pause that the API may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// How often the API may be asked: shared by all clones, and so by all who ask.
///
/// At most so many requests are made in a second, with those that were not made in the second before, and at most so
/// many are under way at once. Whoever waits is served in turn.
///
/// A request that fails on account of one job, as with a status such as 403, 422 or 500, is no reason not to ask for
/// others. The budget closes, and no request is made for a while, when there was no connection, after 429, after 401,
/// and when requests for three different jobs have failed in a row: for a second, and twice as long each further
/// time, up to five minutes; as long as the API asks for, up to five minutes; or a minute and more when it refused the
/// key, or three jobs. The first good answer ends that.
///
/// It goes by tokio's clock. `JobsClient` (feature `client`) has one; use it in a [`JobSource`](super::JobSource) of your own.
#[derive(Clone)]
pub struct RequestBudget {
    inner: Arc<Inner>,
}

struct Inner {
    interval: Duration,
    /// How many intervals may be saved up.
    burst: u32,
    /// Held by the one whose turn it is.
    turn: Semaphore,
    requests: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// When the next request may be made.
    next: Instant,
    /// How often it has closed since the last good answer.
    closings: u32,
    /// The jobs whose requests have failed since, and none else was answered.
    failed: Vec<JobId>,
    closed: Option<Closed>,
}

/// Why no request is made, and until when.
#[derive(Clone)]
struct Closed {
    until: Instant,
    why: String,
}

/// One request that may be made now. Say how it ended; when it is dropped, nothing is known.
#[must_use = "say how the request ended"]
pub struct RequestPermit {
    inner: Arc<Inner>,
    /// How often the budget had closed when it began: requests that fail together close it once.
    closings: u32,
    _request: OwnedSemaphorePermit,
}

/// No request is made for a while.
#[derive(Debug, Clone, thiserror::Error)]
#[error("nothing is asked for another {} s, after: {why}", retry_after.as_secs_f64().ceil())]
#[non_exhaustive]
pub struct BudgetClosed {
    /// For how long.
    pub retry_after: Duration,
    why: String,
}

tokio::task_local! {
    /// The time of the fetch that the task is in, if it is measured.
    static TIME: Arc<FetchTime>;
}

/// Measures how long a fetch takes without what it waits for its turn in a budget.
#[derive(Debug)]
pub(crate) struct FetchTime {
    /// When it last had its turn; `None` while it waits for it.
    since: Mutex<Option<Instant>>,
}

/// A fetch waits for its turn.
struct Waiting(Option<Arc<FetchTime>>);

impl FetchTime {
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self { since: Mutex::new(Some(Instant::now())) })
    }

    /// Runs a fetch, whose time this is.
    pub(crate) fn of<F: Future>(self: Arc<Self>, fetch: F) -> impl Future<Output = F::Output> {
        TIME.scope(self, fetch)
    }

    /// When it last had its turn; `None` while it waits for it.
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
    /// At most so many requests in a second, which may be a fraction, and so many at once. Numbers that are no
    /// limit, such as 0, count as one request in a day, or one at once.
    #[must_use]
    pub fn new(per_second: f64, at_once: usize) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let interval =
            Duration::try_from_secs_f64(1.0 / per_second).map_or(DAY, |interval| interval.min(DAY));
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
    /// When the future is dropped, its turn goes to the next, and no request is counted.
    ///
    /// # Errors
    ///
    /// When none is made for a while: at once, or as soon as that is known.
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

impl RequestPermit {
    /// There was an answer.
    pub fn answered(self) {
        let mut state = self.inner.state();
        state.closings = 0;
        state.failed.clear();
        state.closed = None;
    }

    /// There was none, or no good one, for this job. Returns for how long no other request is made: not at all, if that
    /// says nothing about others.
    pub fn failed(self, job: &JobId, error: &FetchError) -> Duration {
        let now = Instant::now();
        let mut state = self.inner.state();
        let closes = match error {
            FetchError::Unauthorized | FetchError::RateLimited { .. } | FetchError::Unreachable(_) => true,
            FetchError::Refused(_) | FetchError::Unavailable { .. } | FetchError::Unreadable(_) => {
                // One that began before the budget closed adds nothing to why it did.
                self.closings == state.closings && state.have_failed_in_a_row(job)
            }
            // Nothing was asked.
            FetchError::InvalidId | FetchError::BudgetClosed(_) => false,
        };
        if closes {
            state.failed.clear();
            state.closings = state.closings.max(self.closings.saturating_add(1));
            let backoff = match error {
                FetchError::Unauthorized | FetchError::Refused(_) => REFUSED,
                _ => FAILED,
            };
            let said = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
            let until = now + backoff.at_least(state.closings).max(said);
            // Of several that failed at once, the one that keeps it closed for longest counts.
            if state.closed.as_ref().is_none_or(|closed| closed.until < until) {
                state.closed = Some(Closed { until, why: error.to_string() });
            }
        }
        state.closed.as_ref().map_or(Duration::ZERO, |closed| closed.until.saturating_duration_since(now))
    }
}

impl State {
    /// Notes that a request for a job failed, and returns whether enough different ones have.
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
        Self { retry_after: LONGEST_RETRY_AFTER, why: "the budget was closed".to_owned() }
    }
}

impl Default for RequestBudget {
    /// Two requests in a second, four at once.
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
