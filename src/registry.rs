//! The list of jobs that the application has started.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dashmap::DashSet;

use crate::error::BoxError;
use crate::event::JobId;

/// Knows the jobs that your application has started. A receiver with a registry answers 404 to the
/// webhook of any other job.
///
/// Implemented for every async closure from [`JobId`] to `Result<bool, E>`, because most applications
/// already have a table of their jobs. Tests and small tools can use [`MemoryJobRegistry`].
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::registry::JobRegistry;
/// use qomplement_webhooks::JobId;
///
/// # #[derive(Clone)] struct Database;
/// # impl Database { async fn has_job(&self, _: &str) -> Result<bool, std::io::Error> { Ok(true) } }
/// # let database = Database;
/// let registry = move |job: JobId| {
///     let database = database.clone();
///     async move { database.has_job(&job.to_string()).await }
/// };
/// # fn known_jobs(_: impl JobRegistry) {}
/// # known_jobs(registry);
/// ```
#[async_trait]
pub trait JobRegistry: Send + Sync + 'static {
    /// Whether the application has started this job.
    ///
    /// After `false`, the receiver calls again every 200 ms for two seconds, because a webhook can be
    /// faster than the write that registers its job.
    ///
    /// # Errors
    ///
    /// Returns an error if the lookup failed. The answer is then 503, and the sender delivers again.
    /// The answer is the same if this method panics or takes longer than one second.
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError>;
}

#[async_trait]
impl<F, Fut, E> JobRegistry for F
where
    F: Fn(JobId) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<bool, E>> + Send,
    E: Into<BoxError>,
{
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        self(job.clone()).await.map_err(Into::into)
    }
}

#[async_trait]
impl<R: JobRegistry + ?Sized> JobRegistry for Arc<R> {
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        (**self).is_known(job).await
    }
}

/// A [`JobRegistry`] in this process's memory.
///
/// A restart loses all its jobs. A job stays until [`remove`](Self::remove).
///
/// Share it as an `Arc` between the code that starts jobs and the receiver. To have lost webhooks
/// fetched, register jobs with [`InboxStore::expect`](crate::InboxStore::expect) instead.
#[derive(Default)]
pub struct MemoryJobRegistry {
    jobs: DashSet<JobId>,
}

impl MemoryJobRegistry {
    /// Makes an empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job. Returns `false` if it was already there.
    pub fn insert(&self, job: JobId) -> bool {
        self.jobs.insert(job)
    }

    /// Removes a job. Returns `false` if it was not there.
    pub fn remove(&self, job: &JobId) -> bool {
        self.jobs.remove(job).is_some()
    }
}

#[async_trait]
impl JobRegistry for MemoryJobRegistry {
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        Ok(self.jobs.contains(job))
    }
}

impl fmt::Debug for MemoryJobRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJobRegistry").field("jobs", &self.jobs.len()).finish()
    }
}
