//! A filled document, in chunks.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use tokio::time::timeout;

use crate::error::BoxError;
use crate::fetch::FetchError;

/// A filled document that is being downloaded.
pub struct Download {
    response: reqwest::Response,
    /// How long it may be silent.
    timeout: Duration,
}

/// Why a document cannot be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// There is no such job, or no document of it.
    #[error("there is no such document")]
    NotFound,
    /// There was no answer, or another one than the document.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It broke off before its end.
    #[error("the document broke off before its end")]
    BrokeOff(#[source] BoxError),
}

impl Download {
    pub(super) fn new(response: reqwest::Response, timeout: Duration) -> Self {
        Self { response, timeout }
    }

    /// How many bytes the document has, if the API says so.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Its media type, if the API says so.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.response.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    /// The next bytes, at most as many as came in one piece; `None` at the document's end. Nothing is read ahead but
    /// what the connection buffers.
    ///
    /// # Errors
    ///
    /// When the document breaks off, or nothing comes for the client's timeout. What came before is then not the
    /// whole document.
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
