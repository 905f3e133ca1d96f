//! The jobs that you have started, and how they stand.

mod budget;
#[cfg(feature = "client")]
mod client;
mod memory;
mod source;

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use self::budget::FetchTime;
pub use self::budget::{BudgetClosed, RequestBudget, RequestPermit};
#[cfg(feature = "client")]
pub use self::client::{
    ApiKey, ApiKeyError, Download, DownloadError, JobsClient, JobsClientBuilder, JobsClientError,
};
pub use self::memory::MemoryJobRegistry;
pub use self::source::{FetchError, Fetched, JobSource};
use crate::event::JobId;

/// Knows which jobs you have started, so that a webhook for any other is refused.
///
/// Any async closure is one, since most applications already have a table of their jobs; for tests
/// and small tools there is [`MemoryJobRegistry`].
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::{JobId, JobRegistry};
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
    async fn is_known(&self, job: &JobId) -> Result<bool, Box<dyn Error + Send + Sync>>;
}

#[async_trait]
impl<F, Fut, E> JobRegistry for F
where
    F: Fn(JobId) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<bool, E>> + Send,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    async fn is_known(&self, job: &JobId) -> Result<bool, Box<dyn Error + Send + Sync>> {
        self(job.clone()).await.map_err(Into::into)
    }
}

#[async_trait]
impl<R: JobRegistry + ?Sized> JobRegistry for Arc<R> {
    async fn is_known(&self, job: &JobId) -> Result<bool, Box<dyn Error + Send + Sync>> {
        (**self).is_known(job).await
    }
}
