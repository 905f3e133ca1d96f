//! The reply to every request. No other file chooses a status.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body_util::Full;

use crate::event::ParseError;
use crate::telemetry::outcome;

/// The reply to a webhook: one row of the answer table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WebhookReply {
    Handled,
    Stored,
    Duplicate,
    Conflict,
    HandlerFailedPermanently,
    InProgress,
    HandlerFailed,
    HandlerPanicked,
    HandlerTimeout,
    Unavailable,
    MethodNotAllowed,
    Unauthorized,
    UnsupportedMediaType,
    UnsupportedEncoding,
    BodyTooLarge,
    BodyTimeout,
    InvalidJson,
    InvalidPayload,
    JobIdMismatch,
    UnknownJob,
}

/// The part of a request's body that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyRead {
    /// The whole body.
    Whole,
    /// Nothing, or the part before the refusal. The rest can still be read.
    NotWhole,
    /// The part before the stream failed or its time ended. The stream must not be read again.
    Broken,
}

impl WebhookReply {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Handled
            | Self::Stored
            | Self::Duplicate
            | Self::Conflict
            | Self::HandlerFailedPermanently => StatusCode::OK,
            Self::InProgress | Self::HandlerFailed | Self::HandlerTimeout | Self::Unavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::HandlerPanicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::InvalidJson => StatusCode::BAD_REQUEST,
            Self::InvalidPayload | Self::JobIdMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UnknownJob => StatusCode::NOT_FOUND,
        }
    }

    /// The outcome in logs and metrics, and the `code` in an error's body.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Handled => outcome::HANDLED,
            Self::Stored => outcome::STORED,
            Self::Duplicate => outcome::DUPLICATE,
            Self::Conflict => outcome::CONFLICT,
            Self::HandlerFailedPermanently => outcome::HANDLER_FAILED_PERMANENTLY,
            Self::InProgress => outcome::IN_PROGRESS,
            Self::HandlerFailed => outcome::HANDLER_FAILED,
            Self::HandlerPanicked => outcome::HANDLER_PANICKED,
            Self::HandlerTimeout => outcome::HANDLER_TIMEOUT,
            Self::Unavailable => outcome::UNAVAILABLE,
            Self::MethodNotAllowed => outcome::METHOD_NOT_ALLOWED,
            Self::Unauthorized => outcome::UNAUTHORIZED,
            Self::UnsupportedMediaType => outcome::UNSUPPORTED_MEDIA_TYPE,
            Self::UnsupportedEncoding => outcome::UNSUPPORTED_ENCODING,
            Self::BodyTooLarge => outcome::BODY_TOO_LARGE,
            Self::BodyTimeout => outcome::BODY_TIMEOUT,
            Self::InvalidJson => outcome::INVALID_JSON,
            Self::InvalidPayload => outcome::INVALID_PAYLOAD,
            Self::JobIdMismatch => outcome::JOB_ID_MISMATCH,
            Self::UnknownJob => outcome::UNKNOWN_JOB,
        }
    }

    /// The message for readers of the sender's log. It quotes nothing of the request.
    fn message(self) -> &'static str {
        match self {
            Self::Handled
            | Self::Stored
            | Self::Duplicate
            | Self::Conflict
            | Self::HandlerFailedPermanently => "",
            Self::InProgress => "another delivery of this webhook is still being handled",
            Self::HandlerFailed => "the handler failed",
            Self::HandlerPanicked => "the handler panicked",
            Self::HandlerTimeout => "the handler did not finish in time",
            Self::Unavailable => "the receiver cannot take webhooks at the moment",
            Self::MethodNotAllowed => "webhooks are sent with POST",
            Self::Unauthorized => "the token is missing, wrong or given twice",
            Self::UnsupportedMediaType => "the content type must be JSON",
            Self::UnsupportedEncoding => "the body must not be encoded",
            Self::BodyTooLarge => "the body is too large",
            Self::BodyTimeout => "the body was not complete in time",
            Self::InvalidJson => "the body is not one JSON value in UTF-8",
            Self::InvalidPayload => "job_id, data.id, data.type or data.status is missing or unreadable",
            Self::JobIdMismatch => "job_id is not data.id",
            Self::UnknownJob => "no such job was started here",
        }
    }

    fn body(self) -> Bytes {
        if self.status() == StatusCode::OK {
            return Bytes::from_static(br#"{"received":true}"#);
        }
        // Codes and messages are constants without a character that JSON escapes.
        let (code, message) = (self.outcome(), self.message());
        format!(r#"{{"received":false,"error":{{"code":"{code}","message":"{message}"}}}}"#).into()
    }

    pub(super) fn response(self, version: Version, body: BodyRead) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        // The rest of the body would be parsed as the next request. The header is sent even if the rest was
        // discarded, so that a reply does not depend on the speed of the body. HTTP/2 ends a stream by itself
        // and forbids the header.
        if body != BodyRead::Whole && version <= Version::HTTP_11 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<&ParseError> for WebhookReply {
    fn from(error: &ParseError) -> Self {
        match error {
            ParseError::NotUtf8(_) | ParseError::NotJson(_) | ParseError::RepeatedKey(_) => Self::InvalidJson,
            ParseError::Envelope(_) => Self::InvalidPayload,
            ParseError::JobIdMismatch => Self::JobIdMismatch,
        }
    }
}
