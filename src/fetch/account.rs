//! The state of an account: failures of single fetches that concern all of its jobs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{FetchError, RequestBudget};
use crate::error::chain;
use crate::inbox::FetchHistory;

/// How much longer a job waits after a budget reopens, per earlier fetch of the job, up to a number of fetches.
const OTHERS_FIRST: Duration = Duration::from_secs(1);
const MOST_OTHERS_FIRST: u32 = 8;
/// The longest pause that the API may ask for.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The state of the account that all jobs belong to.
#[derive(Debug)]
pub(super) struct Account {
    /// Whether the last fetch failed for a reason that concerns all jobs.
    failing: AtomicBool,
    /// When a closed budget reopens; `None` after an answer since then.
    reopens: Mutex<Option<Instant>>,
    /// Closes when a source without a budget fails. It limits no rate.
    pub(super) budget: RequestBudget,
}

impl Account {
    pub(super) fn new() -> Self {
        let budget = RequestBudget::new(f64::INFINITY, usize::MAX);
        Self { failing: AtomicBool::new(false), reopens: Mutex::default(), budget }
    }

    /// The wait of a job after a budget closed: until the budget reopens, and longer the more often the job was fetched,
    /// so that jobs which always fail do not close the budget before other jobs had their turn.
    pub(super) fn waits_for_others(&self, fetches: FetchHistory) -> Option<Duration> {
        let reopens = (*self.reopens())?;
        let turn = reopens + others_first(fetches);
        Some(turn.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    fn reopens(&self) -> MutexGuard<'_, Option<Instant>> {
        self.reopens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_answer(&self) {
        // An answer to a request from before the budget closed does not reopen it.
        self.reopens().take_if(|reopens| *reopens <= Instant::now());
        if self.failing.swap(false, Ordering::Relaxed) {
            info!("the API answers again");
        }
    }

    /// Notes a failure. One that concerns all jobs is logged as an error once, until there is an answer.
    pub(super) fn note_failure(&self, error: &FetchError) {
        if let FetchError::BudgetClosed(closed) = error {
            let until = Instant::now() + closed.retry_after.min(LONGEST_RETRY_AFTER);
            let mut reopens = self.reopens();
            *reopens = (*reopens).max(Some(until));
        }
        let concerns_one_job = matches!(
            error,
            FetchError::Refused(_) | FetchError::Unavailable { .. } | FetchError::Unreadable(_)
        );
        if concerns_one_job {
            return warn_of_one(error);
        }
        let error = chain(error);
        if self.failing.swap(true, Ordering::Relaxed) {
            debug!(%error, "fetches from the API still fail; retrying until the API answers");
        } else {
            error!(%error, "fetches from the API fail; retrying until the API answers");
        }
    }
}

/// How much longer than for a budget a job waits, so that others have their turn.
pub(super) fn others_first(fetches: FetchHistory) -> Duration {
    OTHERS_FIRST * fetches.count.min(MOST_OTHERS_FIRST)
}

/// Logs a failure that concerns one job.
pub(super) fn warn_of_one(error: &FetchError) {
    warn!(error = %chain(error), "the fetch of this job failed; fetching again later");
}
