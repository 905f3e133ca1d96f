//! Configures a client.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::api::Api;
use super::{ApiKey, Inner, JobsClient};
use crate::auth::is_loopback;
use crate::error::BoxError;
use crate::execution::bounds::{CENTURY, MILLISECOND};
use crate::fetch::RequestBudget;

/// Configures a [`JobsClient`].
#[derive(Debug, Clone)]
#[must_use = "no client exists before `build`"]
pub struct JobsClientBuilder {
    key: ApiKey,
    origin: String,
    budget: RequestBudget,
    timeout: Duration,
}

/// The reason why a [`JobsClient`] cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsClientError {
    /// The origin is not a URL.
    #[error("the API's origin is not a URL")]
    Unreadable(#[source] BoxError),
    /// The origin is neither https nor a loopback address: others could read the key on the way.
    #[error("the API's origin must begin with https:// (http:// only for a loopback address)")]
    NotHttps,
    /// The origin has more than a scheme, a host and a port.
    #[error("the API's origin must have no {0}")]
    Superfluous(&'static str),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] BoxError),
}

impl JobsClientBuilder {
    pub(super) fn new(key: ApiKey) -> Self {
        let timeout = Duration::from_secs(10);
        Self { key, origin: JobsClient::ORIGIN.to_owned(), budget: RequestBudget::default(), timeout }
    }

    /// Sets the API's origin: a scheme, a host and a port. Default: [`JobsClient::ORIGIN`].
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Limits the time of one fetch, without its waits for the budget, and the silence within a download. A connection
    /// must be established in half of it. At least a millisecond; more than a century counts as a century. Default: 10
    /// seconds.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time.clamp(MILLISECOND, CENTURY);
        self
    }

    /// Sets the budget of requests. Give the same budget to all clients of one key. Default: two requests a second, four
    /// at once.
    pub fn budget(mut self, budget: RequestBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Builds the client, without a request.
    ///
    /// # Errors
    ///
    /// Returns an error if the key must not be sent to the origin, or the HTTP client cannot be set up.
    pub fn build(self) -> Result<JobsClient, JobsClientError> {
        let origin = origin(&self.origin)?;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            // The other half of the timeout tells an API that cannot be reached from one that does not answer for a job.
            .connect_timeout(self.timeout / 2)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| JobsClientError::Client(error.into()))?;
        let Self { key, budget, timeout, .. } = self;
        Ok(JobsClient { inner: Arc::new(Inner { api: Api { http, origin, key }, budget, timeout }) })
    }
}

/// Reads an origin that the key may be sent to.
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
