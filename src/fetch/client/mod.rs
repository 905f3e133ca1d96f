//! The client of Qomplement's API, over HTTPS.

mod api;
mod builder;
mod download;
mod key;
mod reply;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use self::api::Api;
pub use self::builder::{JobsClientBuilder, JobsClientError};
pub use self::download::{Download, DownloadError};
pub use self::key::{ApiKey, ApiKeyError};
use super::{FetchError, Fetched, JobSource, RequestBudget};
use crate::event::JobId;
use crate::execution::backoff::Backoff;

/// The pause before a request is repeated.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// Fetches jobs from Qomplement's API, and downloads filled documents (feature `client`).
///
/// Cheap to clone; clones share the connections and the [budget](RequestBudget).
///
/// ```no_run
/// # async fn app() -> Result<(), Box<dyn std::error::Error>> {
/// use qomplement_webhooks::fetch::{ApiKey, Fetched, JobSource};
/// use qomplement_webhooks::JobsClient;
///
/// let client = JobsClient::new(ApiKey::from_env("QOMPLEMENT_API_KEY")?)?;
/// match client.fetch(&"550e8400-e29b-41d4-a716-446655440000".parse()?).await? {
///     Fetched::Finished(event) => println!("{}", event.status().as_str()),
///     Fetched::NotFound => println!("no such job"),
///     _ => println!("it still runs"),
/// }
/// # Ok(()) }
/// ```
///
/// # The key
///
/// The key is sent as `Authorization: Bearer …`, and only to the API's [origin](JobsClientBuilder::origin): the client
/// follows no redirects, uses no proxies and never opens a URL from a webhook. The key appears in no log, error or
/// `Debug`.
///
/// The documentation of the API says that results stay available "with the API key", and not how the key is sent. The
/// bearer token is this crate's reading.
///
/// # Requests and replies
///
/// [`fetch`](JobSource::fetch) sends `GET /v1/jobs/{id}`. The documentation says that the reply holds the result: the
/// client reads both the `data` object of a webhook and a whole webhook. A `status` other than `completed` and `failed`
/// means that the job still runs. An id other than one to 255 letters, digits, `-` and `_` is refused without a request,
/// and a reply about another job is an error.
///
/// # Times and retries
///
/// One fetch takes at most ten seconds, unless [`timeout`](JobsClientBuilder::timeout) says otherwise, without its waits
/// for the budget. Within that time, a request that got no answer, 429 or a 5xx is repeated after a second, and twice as
/// long each further time; `Retry-After` and a closed budget may lengthen the pause. While the
/// [budget](RequestBudget) is closed, a fetch fails at once.
#[derive(Clone)]
pub struct JobsClient {
    inner: Arc<Inner>,
}

struct Inner {
    api: Api,
    budget: RequestBudget,
    timeout: Duration,
}

impl JobsClient {
    /// The origin of Qomplement's API, from its documentation.
    pub const ORIGIN: &str = "https://developer-api.qomplement.com";

    /// Makes a client of Qomplement's API, with the default budget and timeout.
    ///
    /// # Errors
    ///
    /// Returns an error if the HTTP client cannot be set up, as when the system's certificates cannot be read.
    pub fn new(key: ApiKey) -> Result<Self, JobsClientError> {
        Self::builder(key).build()
    }

    /// Configures a client.
    pub fn builder(key: ApiKey) -> JobsClientBuilder {
        JobsClientBuilder::new(key)
    }

    /// The budget that this client's requests are counted in, to show on an inbox page for example.
    #[must_use]
    pub fn budget(&self) -> &RequestBudget {
        &self.inner.budget
    }

    /// Downloads a job's filled document in chunks, never as a whole in memory.
    ///
    /// The request is always `/v1/jobs/{id}/download` at the API's origin. The `download_url` of a webhook is not used: a
    /// forged one would get the key.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such document, or no answer within the timeout. The request is not repeated.
    pub async fn download(&self, job: &JobId) -> Result<Download, DownloadError> {
        let Inner { api, budget, timeout } = &*self.inner;
        let url = api.url(job, "/download")?;
        let permit = budget.acquire().await.map_err(FetchError::from)?;
        match api.get(url, Instant::now() + *timeout).await {
            Ok(response) => {
                permit.answered();
                response.map(|response| Download::new(response, *timeout)).ok_or(DownloadError::NotFound)
            }
            Err(error) => {
                permit.failed(job, &error);
                Err(error.into())
            }
        }
    }
}

#[async_trait]
impl JobSource for JobsClient {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let Inner { api, budget, timeout } = &*self.inner;
        let url = api.url(job, "")?;
        // Without the waits for the budget.
        let mut time_left = *timeout;
        let mut failure = None;
        let mut requests = 0;
        loop {
            requests += 1;
            let permit = match budget.acquire().await {
                Ok(permit) => permit,
                // Other fetches closed the budget meanwhile: the failure of this fetch's last request says more.
                Err(closed) => return Err(failure.unwrap_or_else(|| closed.into())),
            };
            let began = Instant::now();
            let error = match api.fetch(job, url.clone(), began + time_left).await {
                Ok(fetched) => {
                    permit.answered();
                    return Ok(fetched);
                }
                Err(error) => error,
            };
            let error = match failure.take() {
                // The time left was too short for a connection, so its end says nothing of the API.
                Some(unreachable @ FetchError::Unreachable(_))
                    if time_left < *timeout / 2 && began.elapsed() >= time_left =>
                {
                    unreachable
                }
                _ => error,
            };
            let closed_for = permit.failed(job, &error);
            let asked = error.retry_after().unwrap_or_default();
            let pause = AGAIN.at_least(requests).max(closed_for).max(asked);
            time_left = time_left.saturating_sub(began.elapsed()).saturating_sub(pause);
            // After any other error, the next answer would be the same.
            let transient = matches!(
                error,
                FetchError::RateLimited { .. } | FetchError::Unreachable(_) | FetchError::Unavailable { .. }
            );
            if !transient || time_left.is_zero() {
                return Err(error);
            }
            failure = Some(error);
            sleep(pause).await;
        }
    }
}

impl fmt::Debug for JobsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobsClient")
            .field("origin", &self.inner.api.origin.as_str())
            .field("budget", &self.inner.budget)
            .field("timeout", &self.inner.timeout)
            .finish_non_exhaustive()
    }
}
