//! How often the API is asked, by all who ask.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::FetchError;
use crate::backoff::Backoff;

/// The pause after requests in a row that had no answer; it doubles.
const FAILED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5 * 60) };
/// The same when the key was refused: only people can mend that.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(60), longest: Duration::from_secs(5 * 60) };
/// The longest pause that the API may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// How often the API may be asked: shared by all clones, and so by all who ask.
///
/// At most so many requests are made in a second, with those that were not made in the second before, and at most so
/// many are under way at once. Whoever waits is served in turn. After a request without an answer, none is made for a
/// while: a second, and twice as long after each further one, up to five minutes; as long as the API asks for, up
/// to five minutes; or a minute and more when it refused the key. The first good answer ends that.
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
    /// Requests in a row that had no answer.
    failures: u32,
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
    /// Failures in a row when it began: those that fail together count as one.
    failures: u32,
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
            state: Mutex::new(State { next: Instant::now(), failures: 0, closed: None }),
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
        // Neither semaphore is ever closed.
        let turn = inner.turn.acquire().await.map_err(|_| BudgetClosed::at_the_end())?;
        let request = inner.requests.clone().acquire_owned().await.map_err(|_| BudgetClosed::at_the_end())?;
        let next = inner.state().next;
        sleep_until(next).await;
        inner.check()?;
        let failures = {
            let (mut state, now) = (inner.state(), Instant::now());
            let saved = now.checked_sub(inner.interval * (inner.burst - 1)).unwrap_or(now);
            state.next = state.next.max(saved) + inner.interval;
            state.failures
        };
        drop(turn);
        Ok(RequestPermit { inner: inner.clone(), failures, _request: request })
    }
}

impl RequestPermit {
    /// There was an answer.
    pub fn answered(self) {
        let mut state = self.inner.state();
        state.failures = 0;
        state.closed = None;
    }

    /// There was none. Returns for how long no other request is made.
    pub fn failed(self, error: &FetchError) -> Duration {
        let now = Instant::now();
        let mut state = self.inner.state();
        state.failures = state.failures.max(self.failures.saturating_add(1));
        let pause = match error {
            FetchError::Unauthorized => REFUSED.at_least(state.failures),
            _ => FAILED.at_least(state.failures),
        };
        let said = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let until = now + pause.max(said);
        // Of several that failed at once, the one that keeps it closed for longest counts.
        if state.closed.as_ref().is_none_or(|closed| closed.until < until) {
            state.closed = Some(Closed { until, why: error.to_string() });
        }
        state.closed.as_ref().map_or(pause, |closed| closed.until - now)
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

impl From<BudgetClosed> for FetchError {
    fn from(closed: BudgetClosed) -> Self {
        Self::Unavailable { retry_after: Some(closed.retry_after), source: closed.into() }
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
