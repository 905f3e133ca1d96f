//! Delivery over HTTP.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};

use super::{BoxFuture, Sender};
use crate::error::BoxError;

/// The largest answer that is read.
const MOST_BYTES: usize = 16 << 20;

/// Why a sender to a URL cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SenderError {
    /// The URL is not an absolute http or https URL.
    #[error("webhooks are delivered to an absolute http or https URL")]
    Url(#[source] Option<BoxError>),
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] BoxError),
}

impl Sender {
    /// Makes a sender that delivers to a URL, over HTTP/1.1 (feature `sender-http`). It follows no redirect and uses no
    /// proxy. A delivery whose answer has more than 16 MiB fails.
    ///
    /// # Errors
    ///
    /// Returns [`SenderError::Url`] if `url` is not an absolute http or https URL, and [`SenderError::Client`] if TLS
    /// cannot be set up.
    pub fn to_url(url: impl AsRef<str>) -> Result<Self, SenderError> {
        let mut url =
            reqwest::Url::parse(url.as_ref()).map_err(|error| SenderError::Url(Some(error.into())))?;
        // No request has one, and a token stands behind the query.
        url.set_fragment(None);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SenderError::Url(None));
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| SenderError::Client(error.into()))?;
        let post = move |request: Request<Full<Bytes>>| -> BoxFuture<_> {
            let client = client.clone();
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let sent = client.post(parts.uri.to_string()).headers(parts.headers).body(body).send().await;
                // A URL can hold a token, so no error names it.
                let mut answer = sent.map_err(reqwest::Error::without_url)?;
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = answer.status();
                *response.headers_mut() = std::mem::take(answer.headers_mut());
                *response.body_mut() = read(answer).await?;
                Ok(response)
            })
        };
        Ok(Self::new(url.into(), Arc::new(post)))
    }
}

/// Reads the body of an answer, up to the size limit.
async fn read(mut answer: reqwest::Response) -> Result<Bytes, BoxError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if chunk.len() > MOST_BYTES - body.len() {
            return Err(format!("the answer has more than {MOST_BYTES} bytes").into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
