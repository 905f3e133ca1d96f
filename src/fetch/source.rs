//! The source of a job's result.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use super::BudgetClosed;
use crate::error::BoxError;
use crate::event::{Envelope, JobId};

/// Fetches the state and the result of jobs: the API, or a substitute for it.
///
/// A job is fetched when its webhook never came, or when its webhook is not trusted.
#[async_trait]
pub trait JobSource: fmt::Debug + Send + Sync + 'static {
    /// Fetches a job.
    ///
    /// A fetch that takes longer than a minute is dropped and counts as a fetch without an answer. Waits for a
    /// [`RequestBudget`](super::RequestBudget) do not count towards that minute.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any wait.
    ///
    /// # Errors
    ///
    /// Returns an error if there was no answer, or the answer says nothing about the job. The job is fetched again
    /// later. After [`FetchError::BudgetClosed`] the fetch is not counted.
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError>;

    /// Whether all jobs belong to one account. Default: `true`.
    ///
    /// A failure that concerns an account, such as a refused key, then pauses the fetches of all jobs. A source that picks
    /// the account by job returns `false`: each failure pauses only the job that met it. Such a source limits its
    /// requests itself, with a `JobsClient` or a [`RequestBudget`](super::RequestBudget) for each account. A fetch that
    /// waits for one account's budget keeps its place among the four of a [`Reconciler`](super::Reconciler): give each
    /// account a rate above that of its jobs.
    fn is_one_account(&self) -> bool {
        true
    }
}

/// The state of a job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fetched {
    /// The job has not ended.
    Pending,
    /// The job has ended with this event, in the form of a webhook.
    Finished(Envelope),
    /// There is no such job.
    NotFound,
}

impl Fetched {
    /// Checks a result of a source, which may be somebody's own: an event is one of this job, and a final one.
    pub(crate) fn checked(self, job: &JobId) -> Result<Self, FetchError> {
        match self {
            Self::Finished(event) if event.job() != job => {
                Err(FetchError::Unreadable("it is about another job".into()))
            }
            Self::Finished(event) if !event.status().is_final() => Ok(Self::Pending),
            fetched => Ok(fetched),
        }
    }
}

/// The failure of a fetch: the job's state remains unknown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The API refused the API key. Every other job fails in the same way until the key is replaced.
    #[error("the API key was refused")]
    Unauthorized,
    /// The API got too many requests.
    #[error("there were too many requests")]
    RateLimited {
        /// The pause that the API asked for.
        retry_after: Option<Duration>,
    },
    /// There was no connection. Every other job fails in the same way until there is one.
    #[error("the API cannot be reached")]
    Unreachable(#[source] BoxError),
    /// The API refused this request, as with 403 or 422.
    #[error("the API refused this request")]
    Refused(#[source] BoxError),
    /// There was no answer for this job in time, or a temporary failure such as 500.
    #[error("the API failed for this job")]
    Unavailable {
        /// The pause that the API asked for.
        retry_after: Option<Duration>,
        /// The cause.
        source: BoxError,
    },
    /// The answer cannot be read, or is about another job.
    #[error("the answer is not about this job, or cannot be read")]
    Unreadable(#[source] BoxError),
    /// The id has a character that no job of the API has in its id; no request was made.
    #[error("the id has a character other than letters, digits, `-` and `_`, so no request was made")]
    InvalidId,
    /// The budget is closed; no request was made.
    #[error(transparent)]
    BudgetClosed(#[from] BudgetClosed),
}

impl FetchError {
    /// Makes [`Unavailable`](Self::Unavailable) with this cause.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable { retry_after: None, source: source.into() }
    }

    /// Makes [`Unreachable`](Self::Unreachable) with this cause.
    pub fn unreachable(source: impl Into<BoxError>) -> Self {
        Self::Unreachable(source.into())
    }

    /// The pause before the next request, if the API or the budget gave one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            Self::BudgetClosed(closed) => Some(closed.retry_after),
            Self::Unauthorized
            | Self::Unreachable(_)
            | Self::Refused(_)
            | Self::Unreadable(_)
            | Self::InvalidId => None,
        }
    }
}

#[async_trait]
impl<S: JobSource + ?Sized> JobSource for Arc<S> {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        (**self).fetch(job).await
    }

    fn is_one_account(&self) -> bool {
        (**self).is_one_account()
    }
}
