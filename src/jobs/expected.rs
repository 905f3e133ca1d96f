//! Jobs whose event should have come, for receivers without an inbox.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::event::JobId;
use crate::inbox::Asked;

/// Lists the jobs whose event should have come, for a [`Reconciler`](crate::Reconciler) of a receiver without an inbox.
///
/// [`MemoryJobRegistry`](super::MemoryJobRegistry) is one, for jobs that need not survive a restart; a table of
/// your jobs with a deadline is a better one.
#[async_trait]
pub trait ExpectedJobs: Send + Sync + 'static {
    /// Up to `most` jobs whose deadline has passed and that have not ended, unless it is not yet time to ask for
    /// them again. None is returned a second time for the time `lease`, by any process, unless
    /// [`ask_again`](Self::ask_again) says otherwise.
    ///
    /// # Errors
    ///
    /// When it is not known.
    async fn overdue(
        &self,
        most: usize,
        lease: Duration,
    ) -> Result<Vec<OverdueJob>, Box<dyn Error + Send + Sync>>;

    /// Notes how a job was asked for, and that it is overdue again when that [may be repeated](Asked::again_in).
    ///
    /// # Errors
    ///
    /// When that is not noted. The job is overdue again after the `lease`.
    async fn ask_again(&self, job: &JobId, asked: &Asked) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Notes that a job has ended, so that it is never overdue again. It should stay a job that is
    /// [known](super::JobRegistry): its webhook may yet come.
    ///
    /// # Errors
    ///
    /// When that is not noted. The job is overdue again after the `lease`.
    async fn end(&self, job: &JobId, end: &JobEnd) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// A job that is overdue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverdueJob {
    /// The job.
    pub job: JobId,
    /// How long ago its event should have come.
    pub late: Duration,
    /// How it was asked for: what [`ExpectedJobs::ask_again`] noted last, or nothing, if that is not kept. Then
    /// the pauses do not grow, and a job that the API does not know is given up only at the horizon.
    pub asked: Asked,
}

/// How a job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEnd {
    /// Its event was handled.
    Handled,
    /// It never will be: for people to look at.
    GivenUp {
        /// Why.
        error: String,
    },
}

#[async_trait]
impl<E: ExpectedJobs + ?Sized> ExpectedJobs for Arc<E> {
    async fn overdue(
        &self,
        most: usize,
        lease: Duration,
    ) -> Result<Vec<OverdueJob>, Box<dyn Error + Send + Sync>> {
        (**self).overdue(most, lease).await
    }

    async fn ask_again(&self, job: &JobId, asked: &Asked) -> Result<(), Box<dyn Error + Send + Sync>> {
        (**self).ask_again(job, asked).await
    }

    async fn end(&self, job: &JobId, end: &JobEnd) -> Result<(), Box<dyn Error + Send + Sync>> {
        (**self).end(job, end).await
    }
}
