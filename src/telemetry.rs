//! The names under which the receiver reports what it does, for dashboards and alerts to rely on.
//!
//! Every request is one [`tracing`] span named [`SPAN`], at level `INFO`. When the answer is known, the
//! span's fields are filled in and one event is emitted in it: at `DEBUG` for a 2xx, at `WARN` for any
//! other. Job ids appear only after a request was authenticated and parsed. URIs, tokens, headers and
//! payloads never appear; the text of your handler's errors and panics does.
//!
//! With the feature `metrics`, the same outcomes are counted through the [`metrics`](https://docs.rs/metrics)
//! facade, under the names of [`REQUESTS`], [`REQUEST_SECONDS`] and [`HANDLER_SECONDS`].

use tokio::time::Instant;

use crate::event::JobId;
use crate::inbox::Outcome;

/// The name of the span around one attempt of an [`InboxWorker`](crate::InboxWorker), with the fields
/// [`JOB_ID`], [`EVENT`] and [`ATTEMPT`].
pub const ATTEMPT_SPAN: &str = "qomplement_webhook_attempt";
/// Field of the span around an attempt: which one it is, counted from 1.
pub const ATTEMPT: &str = "attempt";

/// The name of the span around asking the API for a job that is overdue, with the field [`JOB_ID`].
pub const ASK_SPAN: &str = "qomplement_webhook_ask";

/// The name of the span around one request, and around what goes on after its answer.
pub const SPAN: &str = "qomplement_webhook";

/// Field of the span: the outcome, one of [`outcome`].
pub const OUTCOME: &str = "outcome";
/// Field of the span: the status of the answer, a number.
pub const STATUS: &str = "status";
/// Field of the span: the job's id, once it has been read.
pub const JOB_ID: &str = "job_id";
/// Field of the span: the handler's method for the event, once it has been read. What is stored to be
/// handled later is only read as far as its job.
pub const EVENT: &str = "event";

/// Counter of answered requests, with the label [`OUTCOME`].
pub const REQUESTS: &str = "qomplement_webhooks_requests_total";
/// Histogram of the seconds from a request's entry to its answer, with the label [`OUTCOME`].
pub const REQUEST_SECONDS: &str = "qomplement_webhooks_request_seconds";
/// Counter of a worker's attempts, with the label [`RESULT`]: `done`, `retry`, `dead`, `released`,
/// `fetch_again` or `rejected`.
pub const ATTEMPTS: &str = "qomplement_webhooks_attempts_total";
/// Histogram of the seconds that a run of the handler took, with the label [`RESULT`].
pub const HANDLER_SECONDS: &str = "qomplement_webhooks_handler_seconds";
/// Label of [`HANDLER_SECONDS`]: how the run ended, one of [`result`].
pub const RESULT: &str = "result";

/// How a request was answered. An error's outcome is the `code` in its body.
pub mod outcome {
    /// 200: the handler finished.
    pub const HANDLED: &str = "handled";
    /// 200: the event is stored.
    pub const STORED: &str = "stored";
    /// 200: the job was done already, or its event is stored already.
    pub const DUPLICATE: &str = "duplicate";
    /// 200: another event of the job, with other bytes, is stored already, and is kept.
    pub const CONFLICT: &str = "conflict";
    /// 200: the handler failed, and said that no other try can mend it.
    pub const HANDLER_FAILED_FOR_GOOD: &str = "handler_failed_for_good";
    /// 503: another copy is still being handled.
    pub const IN_PROGRESS: &str = "in_progress";
    /// 503: the handler failed.
    pub const HANDLER_FAILED: &str = "handler_failed";
    /// 500: the handler panicked.
    pub const HANDLER_PANICKED: &str = "handler_panicked";
    /// 503: the handler is still running, or was ended because it ran too long.
    pub const HANDLER_TIMEOUT: &str = "handler_timeout";
    /// 503: a store, registry or authenticator failed or hung, a limit was reached, or the receiver is
    /// shutting down.
    pub const UNAVAILABLE: &str = "unavailable";
    /// 405: the method is not POST.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 401: not authenticated.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// 415: the content type is not JSON.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported_media_type";
    /// 415: the content is encoded.
    pub const UNSUPPORTED_ENCODING: &str = "unsupported_encoding";
    /// 413: the body is over the limit.
    pub const BODY_TOO_LARGE: &str = "body_too_large";
    /// 408: the body did not come in time.
    pub const BODY_TIMEOUT: &str = "body_timeout";
    /// 400: the body is not one JSON value, or broke off.
    pub const INVALID_JSON: &str = "invalid_json";
    /// 422: the envelope cannot be read.
    pub const INVALID_PAYLOAD: &str = "invalid_payload";
    /// 422: `job_id` is not `data.id`.
    pub const JOB_ID_MISMATCH: &str = "job_id_mismatch";
    /// 404: not a job that you have started.
    pub const UNKNOWN_JOB: &str = "unknown_job";
}

/// How a run of the handler ended.
pub mod result {
    /// It returned `Ok`.
    pub const OK: &str = "ok";
    /// It returned an error that another try may mend.
    pub const FAILED: &str = "failed";
    /// It returned a permanent error.
    pub const FAILED_FOR_GOOD: &str = "failed_for_good";
    /// It panicked.
    pub const PANICKED: &str = "panicked";
    /// It was dropped: it ran longer than `max_handler_time`.
    pub const TIMED_OUT: &str = "timed_out";
    /// It was dropped: its claim could not be renewed, or has passed to another.
    pub const LEASE_LOST: &str = "lease_lost";
    /// It was dropped: a shutdown ran out of grace.
    pub const ABORTED: &str = "aborted";
}

/// Makes the span for one attempt.
pub(crate) fn attempt_span(job: &JobId, attempt: u32) -> tracing::Span {
    use tracing::field::Empty;
    tracing::info_span!("qomplement_webhook_attempt", job_id = %job, event = Empty, attempt)
}

/// Makes the span for asking the API for a job.
pub(crate) fn ask_span(job: &JobId) -> tracing::Span {
    tracing::info_span!("qomplement_webhook_ask", job_id = %job)
}

pub(crate) fn attempt(outcome: &Outcome) {
    #[cfg(feature = "metrics")]
    {
        let result = match outcome {
            Outcome::Done => "done",
            Outcome::Retry { .. } => "retry",
            Outcome::Dead { .. } => "dead",
            Outcome::Release { .. } => "released",
            Outcome::FetchAgain { .. } => "fetch_again",
            Outcome::Rejected { .. } => "rejected",
        };
        ::metrics::counter!(ATTEMPTS, RESULT => result).increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = outcome;
}

/// Makes the span for one request. The macro wants literals: a test compares them with the names above.
pub(crate) fn span() -> tracing::Span {
    use tracing::field::Empty;
    tracing::info_span!("qomplement_webhook", outcome = Empty, status = Empty, job_id = Empty, event = Empty)
}

pub(crate) fn request(outcome: &'static str, entered: Instant) {
    #[cfg(feature = "metrics")]
    {
        ::metrics::counter!(REQUESTS, OUTCOME => outcome).increment(1);
        ::metrics::histogram!(REQUEST_SECONDS, OUTCOME => outcome).record(entered.elapsed());
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (outcome, entered);
}

pub(crate) fn handler_run(result: &'static str, began: Instant) {
    #[cfg(feature = "metrics")]
    ::metrics::histogram!(HANDLER_SECONDS, RESULT => result).record(began.elapsed());
    #[cfg(not(feature = "metrics"))]
    let _ = (result, began);
}
