//! The API over HTTPS.

mod download;
mod key;
mod reply;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::Url;
use tokio::time::{Instant, sleep, timeout_at};

pub use self::download::{Download, DownloadError};
pub use self::key::{ApiKey, ApiKeyError};
use super::{FetchError, Fetched, JobSource, RequestBudget};
use crate::auth::is_loopback;
use crate::error::BoxError;
use crate::event::JobId;
use crate::execution::backoff::Backoff;
use crate::execution::bounds::{CENTURY, MILLISECOND};

/// How large the reply about a job may be, as large as a webhook's body.
const MOST_BYTES: usize = 16 << 20;

/// The pause before a request is repeated; it doubles.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// Asks Qomplement's API for jobs, and downloads filled documents (feature `client`).
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
/// It is sent as `Authorization: Bearer …`, to the API's [origin](JobsClientBuilder::origin) alone: redirects are not
/// followed, proxies are not used, and a URL that a webhook brought is never asked. It appears in no log, error or
/// `Debug`.
///
/// That the key is a bearer token is this crate's reading: the documentation says that results stay available "with
/// the API key", and not how it is sent.
///
/// # What is asked, and what is understood
///
/// [`fetch`](JobSource::fetch) asks `GET /v1/jobs/{id}`. The documentation says of the reply that it holds the result, so
/// both the `data` object of a webhook is understood, and a whole webhook. A `status` other than `completed` and
/// `failed` is a job that still runs. An id other than one to 255 letters, digits, `-` and `_` is refused before anything
/// is asked, and a reply about another job is an error.
///
/// # Times and retries
///
/// One fetch takes ten seconds at most, unless [`timeout`](JobsClientBuilder::timeout) says otherwise, not counting what
/// it waits for its turn in the budget. Within that, a request that had no answer, or 429, or a 5xx, is repeated after
/// a second, and twice as long each further time; `Retry-After` and a budget that has closed may lengthen that. While
/// the [budget](RequestBudget) is closed, a fetch fails at once.
#[derive(Clone)]
pub struct JobsClient {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    origin: Url,
    key: ApiKey,
    budget: RequestBudget,
    timeout: Duration,
}

/// Configures a [`JobsClient`].
#[derive(Debug, Clone)]
#[must_use = "nothing is asked before `build`"]
pub struct JobsClientBuilder {
    key: ApiKey,
    origin: String,
    budget: RequestBudget,
    timeout: Duration,
}

/// Why a [`JobsClient`] cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsClientError {
    /// The origin is no URL.
    #[error("the API's origin is no URL")]
    Unreadable(#[source] BoxError),
    /// Something other than https, to something other than this machine: the key could be read on the way.
    #[error("the API's origin must begin with https:// (http:// only for a loopback address)")]
    NotHttps,
    /// It has more than a scheme, a host and a port.
    #[error("the API's origin must have no {0}")]
    Superfluous(&'static str),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] BoxError),
}

/// What was answered to a request that had an answer.
enum Answer<T> {
    Found(T),
    NotFound,
}

impl JobsClient {
    /// The origin of Qomplement's API. Source: its documentation.
    pub const ORIGIN: &str = "https://developer-api.qomplement.com";

    /// Makes a client of Qomplement's API, with the default budget and timeout.
    ///
    /// # Errors
    ///
    /// When the HTTP client cannot be set up, as when the system's certificates cannot be read.
    pub fn new(key: ApiKey) -> Result<Self, JobsClientError> {
        Self::builder(key).build()
    }

    /// Starts to configure a client.
    pub fn builder(key: ApiKey) -> JobsClientBuilder {
        JobsClientBuilder {
            key,
            origin: Self::ORIGIN.to_owned(),
            budget: RequestBudget::default(),
            timeout: Duration::from_secs(10),
        }
    }

    /// Asks for a filled document. It comes in chunks, so that it never has to be in memory as a whole.
    ///
    /// It is always `/v1/jobs/{id}/download` of the API's origin that is asked: the `download_url` of a webhook is not
    /// followed, since a forged one would get the key.
    ///
    /// # Errors
    ///
    /// When there is no such document, or no answer within the timeout. It is not asked a second time.
    pub async fn download(&self, job: &JobId) -> Result<Download, DownloadError> {
        let url = self.url(job, "/download")?;
        let permit = self.inner.budget.acquire().await.map_err(FetchError::from)?;
        let until = Instant::now() + self.inner.timeout;
        match self.get(url, until).await {
            Ok(Answer::Found(response)) => {
                permit.answered();
                Ok(Download::new(response, self.inner.timeout))
            }
            Ok(Answer::NotFound) => {
                permit.answered();
                Err(DownloadError::NotFound)
            }
            Err(error) => {
                permit.failed(job, &error);
                Err(error.into())
            }
        }
    }

    /// Where a job is, on the API's origin whatever its id.
    fn url(&self, job: &JobId, below: &str) -> Result<Url, FetchError> {
        let id = job.to_string();
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(FetchError::InvalidId);
        }
        let mut url = self.inner.origin.clone();
        url.set_path(&format!("/v1/jobs/{id}{below}"));
        Ok(url)
    }

    async fn get(&self, url: Url, until: Instant) -> Result<Answer<reqwest::Response>, FetchError> {
        let request = self.inner.http.get(url).header(AUTHORIZATION, self.inner.key.header());
        let response = match timeout_at(until, request.send()).await {
            Ok(response) => response.map_err(unavailable)?,
            Err(_) => return Err(FetchError::unavailable("no answer in time")),
        };
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        match status {
            StatusCode::OK => Ok(Answer::Found(response)),
            StatusCode::NOT_FOUND => Ok(Answer::NotFound),
            StatusCode::UNAUTHORIZED => Err(FetchError::Unauthorized),
            StatusCode::TOO_MANY_REQUESTS => Err(FetchError::RateLimited { retry_after }),
            status if status.is_redirection() => Err(FetchError::Unreadable(
                format!("the answer is a redirect, {status}, and is not followed").into(),
            )),
            status if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
                Err(FetchError::Refused(format!("the answer is {status}").into()))
            }
            status => {
                Err(FetchError::Unavailable { retry_after, source: format!("the answer is {status}").into() })
            }
        }
    }

    /// Asks for a job once.
    async fn ask(&self, job: &JobId, url: Url, until: Instant) -> Result<Fetched, FetchError> {
        match self.get(url, until).await? {
            Answer::NotFound => Ok(Fetched::NotFound),
            Answer::Found(response) => match timeout_at(until, body(response)).await {
                Ok(body) => reply::read(&body?, job),
                Err(_) => Err(FetchError::unavailable("the answer did not come to its end in time")),
            },
        }
    }
}

impl JobsClientBuilder {
    /// Where the API is: a scheme, a host and a port. Default: [`JobsClient::ORIGIN`].
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// How long one fetch may take, not counting what it waits for its turn in the budget; and how long a download
    /// may be silent. A connection must be there in half of it. At least a millisecond; more than a century counts as
    /// a century. Default: 10 seconds.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time.clamp(MILLISECOND, CENTURY);
        self
    }

    /// How often the API is asked. Give the same one to all clients of one key. Default: twice a second, four at
    /// once.
    pub fn budget(mut self, budget: RequestBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Builds the client. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// When the origin is not one to which the key may be sent, or the HTTP client cannot be set up.
    pub fn build(self) -> Result<JobsClient, JobsClientError> {
        let origin = origin(&self.origin)?;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            // What is left of the time tells an API that cannot be reached from one that does not answer for a job.
            .connect_timeout(self.timeout / 2)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| JobsClientError::Client(error.into()))?;
        let Self { key, budget, timeout, .. } = self;
        Ok(JobsClient { inner: Arc::new(Inner { http, origin, key, budget, timeout }) })
    }
}

#[async_trait]
impl JobSource for JobsClient {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        let url = self.url(job, "")?;
        // Without the waits for the budget.
        let mut time_left = self.inner.timeout;
        let mut failure = None;
        let mut requests = 0;
        loop {
            requests += 1;
            let permit = match self.inner.budget.acquire().await {
                Ok(permit) => permit,
                // Others have closed it since: what was answered to the first request is the answer.
                Err(closed) => return Err(failure.unwrap_or_else(|| closed.into())),
            };
            let began = Instant::now();
            let error = match self.ask(job, url.clone(), began + time_left).await {
                Ok(fetched) => {
                    permit.answered();
                    return Ok(fetched);
                }
                Err(error) => error,
            };
            let closed_for = permit.failed(job, &error);
            let said = error.retry_after().unwrap_or_default();
            let pause = AGAIN.at_least(requests).max(closed_for).max(said);
            time_left = time_left.saturating_sub(began.elapsed()).saturating_sub(pause);
            // Otherwise the next answer would be no better.
            let may_pass = matches!(
                error,
                FetchError::RateLimited { .. } | FetchError::Unreachable(_) | FetchError::Unavailable { .. }
            );
            if !may_pass || time_left.is_zero() {
                return Err(error);
            }
            failure = Some(error);
            sleep(pause).await;
        }
    }
}

/// The origin in a text, if the key may be sent there.
fn origin(text: &str) -> Result<Url, JobsClientError> {
    let url = Url::parse(text).map_err(|error| JobsClientError::Unreadable(error.into()))?;
    let superfluous = [
        ("user name", !url.username().is_empty() || url.password().is_some()),
        ("path", url.path() != "/"),
        ("query", url.query().is_some()),
        ("fragment", url.fragment().is_some()),
    ];
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => {}
        ("http", Some(host)) if is_loopback(host) => {}
        _ => return Err(JobsClientError::NotHttps),
    }
    match superfluous.into_iter().find(|(_, there)| *there) {
        Some((what, _)) => Err(JobsClientError::Superfluous(what)),
        None => Ok(url),
    }
}

/// The body of an answer, unless it is too large.
async fn body(mut response: reqwest::Response) -> Result<Bytes, FetchError> {
    let too_large = || FetchError::Unreadable(format!("it has more than {MOST_BYTES} bytes").into());
    if response.content_length().is_some_and(|length| length > MOST_BYTES as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if chunk.len() > MOST_BYTES - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn unavailable(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    if error.is_connect() { FetchError::unreachable(error) } else { FetchError::unavailable(error) }
}

/// How long to wait, as an answer says it: in seconds, or until a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

impl fmt::Debug for JobsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobsClient")
            .field("origin", &self.inner.origin.as_str())
            .field("budget", &self.inner.budget)
            .field("timeout", &self.inner.timeout)
            .finish_non_exhaustive()
    }
}
