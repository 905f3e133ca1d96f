//! Where a job's result can be asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use super::BudgetClosed;
use crate::error::BoxError;
use crate::event::{Envelope, JobId};

/// Knows how jobs stand and what came of them: the API, or what stands in for it.
///
/// A job is asked for when nothing else is certain: its webhook never came, or came and cannot be trusted.
#[async_trait]
pub trait JobSource: fmt::Debug + Send + Sync + 'static {
    /// Asks how a job stands. May be dropped at any wait.
    ///
    /// A fetch is dropped, and counts as one without an answer, when it takes longer than a minute. The time that it
    /// waits for a [`RequestBudget`](super::RequestBudget) does not count.
    ///
    /// # Errors
    ///
    /// When there was no answer, or none that says anything about the job. It is asked for again later. After
    /// [`FetchError::BudgetClosed`] the job counts as not asked for.
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError>;
}

/// How a job stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fetched {
    /// It has not ended.
    Pending,
    /// It has ended with this event, in the form of a webhook.
    Finished(Envelope),
    /// There is no such job.
    NotFound,
}

/// Why it is not known how a job stands.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The API key was refused. Every other job fails in the same way, until it is replaced.
    #[error("the API key was refused")]
    Unauthorized,
    /// There were too many requests.
    #[error("there were too many requests")]
    RateLimited {
        /// How long to wait, when it was said.
        retry_after: Option<Duration>,
    },
    /// There was no connection. Every other job fails in the same way, until there is one.
    #[error("the API cannot be reached")]
    Unreachable(#[source] BoxError),
    /// The API refuses to answer for this job, as with 403 or 422.
    #[error("the API refused to answer for this job")]
    Refused(#[source] BoxError),
    /// There was no answer for this job in time, or one that says that there is none now, such as 500.
    #[error("there was no answer")]
    Unavailable {
        /// How long to wait, when it was said.
        retry_after: Option<Duration>,
        /// What went wrong.
        source: BoxError,
    },
    /// The answer is not about this job, or cannot be read.
    #[error("the answer is not about this job, or cannot be read")]
    Unreadable(#[source] BoxError),
    /// No job can have this id, so it was not asked for.
    #[error("no job can have this id")]
    InvalidId,
    /// The job was not asked for: no request is made for a while. No answer of the API.
    #[error(transparent)]
    BudgetClosed(#[from] BudgetClosed),
}

impl FetchError {
    /// There was no answer for this job, for this reason.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable { retry_after: None, source: source.into() }
    }

    /// There was no connection, for this reason.
    pub fn unreachable(source: impl Into<BoxError>) -> Self {
        Self::Unreachable(source.into())
    }

    /// How long to wait before anything is asked again, when it was said.
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
}
