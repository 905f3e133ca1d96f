//! Single requests to the API.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use super::ApiKey;
use super::reply;
use crate::event::JobId;
use crate::fetch::{FetchError, Fetched};

/// The largest reply about a job: the size limit of a webhook's body.
const MOST_BYTES: usize = 16 << 20;

/// The API at its origin, with the key that opens it.
pub(super) struct Api {
    pub(super) http: reqwest::Client,
    pub(super) origin: Url,
    pub(super) key: ApiKey,
}

impl Api {
    /// The URL of a job, on the API's origin whatever the id.
    pub(super) fn url(&self, job: &JobId, below: &str) -> Result<Url, FetchError> {
        let id = job.to_string();
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(FetchError::InvalidId);
        }
        let mut url = self.origin.clone();
        url.set_path(&format!("/v1/jobs/{id}{below}"));
        Ok(url)
    }

    /// Sends one GET request, and returns the response with its body unread; `None` for 404.
    pub(super) async fn get(
        &self,
        url: Url,
        until: Instant,
    ) -> Result<Option<reqwest::Response>, FetchError> {
        let request = self.http.get(url).header(AUTHORIZATION, self.key.header());
        let response = match timeout_at(until, request.send()).await {
            Ok(response) => response.map_err(unavailable)?,
            Err(_) => return Err(FetchError::unavailable("no answer in time")),
        };
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        match status {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
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

    /// Fetches a job with one request.
    pub(super) async fn fetch(&self, job: &JobId, url: Url, until: Instant) -> Result<Fetched, FetchError> {
        let Some(response) = self.get(url, until).await? else { return Ok(Fetched::NotFound) };
        match timeout_at(until, body(response)).await {
            Ok(body) => reply::read(&body?, job),
            Err(_) => Err(FetchError::unavailable("the answer was not complete in time")),
        }
    }
}

/// Reads the body of a response, up to the size limit.
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

/// The pause that a response asks for, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
