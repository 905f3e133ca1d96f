//! The download of a filled document, in chunks.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use tokio::time::timeout;

use crate::error::BoxError;
use crate::fetch::FetchError;

/// A filled document under download.
pub struct Download {
    response: reqwest::Response,
    /// The longest wait for the next bytes.
    timeout: Duration,
}

/// The failure of a download.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// There is no such job, or the job has no document.
    #[error("there is no such document")]
    NotFound,
    /// There was no answer, or the answer is not the document.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The document ended too early.
    #[error("the document broke off before its end")]
    BrokeOff(#[source] BoxError),
}

impl Download {
    pub(super) fn new(response: reqwest::Response, timeout: Duration) -> Self {
        Self { response, timeout }
    }

    /// The number of bytes of the document, if the API says it.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The media type of the document, if the API says it.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.response.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    /// Returns the next bytes, as they arrive; `None` at the document's end. Only the connection's buffers are read
    /// ahead.
    ///
    /// # Errors
    ///
    /// Returns [`BrokeOff`](DownloadError::BrokeOff) if the connection ends within the document, or no bytes arrive for
    /// the client's timeout. The chunks so far are then not the whole document.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, DownloadError> {
        match timeout(self.timeout, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| DownloadError::BrokeOff(error.without_url().into())),
            Err(late) => Err(DownloadError::BrokeOff(late.into())),
        }
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("content_length", &self.content_length())
            .field("content_type", &self.content_type())
            .finish_non_exhaustive()
    }
}
