//! The jobs that the application has started: a webhook about any other job is refused.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dashmap::DashSet;

use crate::error::BoxError;
use crate::event::JobId;

/// Knows which jobs you have started, so that a webhook for any other is refused.
///
/// Any async closure is one, since most applications already have a table of their jobs; for tests
/// and small tools there is [`MemoryJobRegistry`].
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
    /// Whether you have started this job. A `false` is asked again for two seconds: a webhook can
    /// be faster than the write that registers its job.
    ///
    /// # Errors
    ///
    /// When it is not known. The answer is 503, as it is when this takes longer than a second or
    /// panics, and the sender tries again.
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

/// A [`JobRegistry`] in this process's memory. Nothing survives a restart, and nothing is dropped by
/// itself: [`remove`](Self::remove) what has ended.
///
/// Share it as an `Arc`, between the code that starts jobs and the receiver. For jobs whose lost webhooks are
/// fetched, register them with [`InboxStore::expect`](crate::InboxStore::expect) instead.
#[derive(Default)]
pub struct MemoryJobRegistry {
    jobs: DashSet<JobId>,
}

impl MemoryJobRegistry {
    /// Makes a registry that knows no job.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job that you have started. `false` if it was there.
    pub fn insert(&self, job: JobId) -> bool {
        self.jobs.insert(job)
    }

    /// Forgets a job. `false` if it was not there.
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
