//! The names of spans, fields and metrics, for dashboards and alerts to rely on.
//!
//! Every request is one [`tracing`] span named [`SPAN`], at level `INFO`. When the answer is known, the span's fields
//! are recorded and one event is emitted in the span: at `DEBUG` for a 2xx, at `WARN` for any other answer. Job ids
//! appear only after a request was authenticated and parsed. URIs, tokens, headers and payloads never appear; the text
//! of your handler's errors and panics does.
//!
//! With the feature `metrics`, the same outcomes are counted through the [`metrics`](https://docs.rs/metrics) facade,
//! under the names [`REQUESTS`], [`REQUEST_SECONDS`], [`HANDLER_SECONDS`] and [`ATTEMPTS`].

use tokio::time::Instant;

use crate::event::JobId;

/// Span around one attempt of an [`InboxWorker`](crate::InboxWorker), with the fields [`JOB_ID`], [`EVENT`] and
/// [`ATTEMPT`].
pub const ATTEMPT_SPAN: &str = "qomplement_webhook_attempt";
/// Field of [`ATTEMPT_SPAN`]: the number of the attempt, from 1.
pub const ATTEMPT: &str = "attempt";

/// Span around the fetch of an overdue job, with the field [`JOB_ID`].
pub const FETCH_SPAN: &str = "qomplement_webhook_fetch";

/// Span around one request, and around the work that goes on after its answer, with the fields [`OUTCOME`],
/// [`STATUS`], [`JOB_ID`] and [`EVENT`].
pub const SPAN: &str = "qomplement_webhook";

/// Field of [`SPAN`]: the outcome, one of [`outcome`].
pub const OUTCOME: &str = "outcome";
/// Field of [`SPAN`]: the status of the answer, a number.
pub const STATUS: &str = "status";
/// Field of every span: the job's id; in [`SPAN`] once the id has been read.
pub const JOB_ID: &str = "job_id";
/// Field of [`SPAN`] and [`ATTEMPT_SPAN`]: the handler's method for the event, once the event has been read. A durable
/// receiver reads an event only as far as its job and leaves this field empty.
pub const EVENT: &str = "event";

/// Counter of answered requests, with the label [`OUTCOME`].
pub const REQUESTS: &str = "qomplement_webhooks_requests_total";
/// Histogram of the seconds from a request's entry to its answer, with the label [`OUTCOME`].
pub const REQUEST_SECONDS: &str = "qomplement_webhooks_request_seconds";
/// Counter of the leased events that a worker settles, with the label [`SETTLED`]. Counted before the outcome is
/// recorded. An event whose lease was lost is not counted, nor is a job that only the reconciler fetched.
pub const ATTEMPTS: &str = "qomplement_webhooks_attempts_total";
/// Label of [`ATTEMPTS`]: how the worker settled the event, one of [`settled`].
pub const SETTLED: &str = "settled";
/// Histogram of the seconds of a run of the handler, with the label [`RESULT`].
pub const HANDLER_SECONDS: &str = "qomplement_webhooks_handler_seconds";
/// Label of [`HANDLER_SECONDS`]: how the run ended, one of [`result`].
pub const RESULT: &str = "result";

/// How a request was answered. The outcome of an error is also the `code` in its body.
pub mod outcome {
    /// 200: the handler finished.
    pub const HANDLED: &str = "handled";
    /// 200: the event is stored.
    pub const STORED: &str = "stored";
    /// 200: a duplicate; the job is already done, or its event is already stored.
    pub const DUPLICATE: &str = "duplicate";
    /// 200: another event of the job, with other bytes, is already stored, and is kept.
    pub const CONFLICT: &str = "conflict";
    /// 200: the handler returned a permanent failure.
    pub const HANDLER_FAILED_PERMANENTLY: &str = "handler_failed_permanently";
    /// 503: another delivery of the job's event is being handled.
    pub const IN_PROGRESS: &str = "in_progress";
    /// 503: the handler failed.
    pub const HANDLER_FAILED: &str = "handler_failed";
    /// 500: the handler panicked.
    pub const HANDLER_PANICKED: &str = "handler_panicked";
    /// 503: the handler is still running, or was dropped after `max_handler_time`.
    pub const HANDLER_TIMEOUT: &str = "handler_timeout";
    /// 503: a store, registry or authenticator failed or hung, a limit was reached, or the receiver is shutting down.
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
    /// 408: the body was not complete in time.
    pub const BODY_TIMEOUT: &str = "body_timeout";
    /// 400: the body is not one JSON value, or the connection ended within the body.
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
    /// The handler returned `Ok`.
    pub const OK: &str = "ok";
    /// The handler returned a transient failure.
    pub const FAILED: &str = "failed";
    /// The handler returned a permanent failure.
    pub const PERMANENT_FAILURE: &str = "permanent_failure";
    /// The handler panicked.
    pub const PANICKED: &str = "panicked";
    /// The handler was dropped after `max_handler_time`.
    pub const TIMED_OUT: &str = "timed_out";
    /// The handler was dropped: its claim or lease expired, or has passed to another holder. A handler that was not
    /// called for this reason is not measured.
    pub const LEASE_LOST: &str = "lease_lost";
    /// The handler was dropped: the grace of a shutdown ended. A handler that was not called for this reason is not
    /// measured.
    pub const ABORTED: &str = "aborted";
}

/// How a worker settled a leased event.
pub mod settled {
    /// The event was handled.
    pub const DONE: &str = "done";
    /// The attempt failed; another attempt follows.
    pub const RETRY: &str = "retry";
    /// The event is a dead letter. See [`REJECTED`] for another kind.
    pub const DEAD: &str = "dead";
    /// The lease was released; no attempt was counted.
    pub const RELEASED: &str = "released";
    /// The job was fetched without a result; another fetch follows.
    pub const FETCH_AGAIN: &str = "fetch_again";
    /// The API knows no such job; the event was dropped, and the row is a dead letter.
    pub const REJECTED: &str = "rejected";
}

// The macros want literals for names and fields: tests compare them with the constants above.

/// Makes the span of one attempt.
pub(crate) fn attempt_span(job: &JobId, attempt: u32) -> tracing::Span {
    use tracing::field::Empty;
    tracing::info_span!("qomplement_webhook_attempt", job_id = %job, event = Empty, attempt)
}

/// Makes the span of the fetch of an overdue job.
pub(crate) fn fetch_span(job: &JobId) -> tracing::Span {
    tracing::info_span!("qomplement_webhook_fetch", job_id = %job)
}

/// Makes the span of one request.
pub(crate) fn span() -> tracing::Span {
    use tracing::field::Empty;
    tracing::info_span!("qomplement_webhook", outcome = Empty, status = Empty, job_id = Empty, event = Empty)
}

/// Records the job of a request and, if it has been read, the event. Both at once: a subscriber writes the span's fields
/// anew with every record.
pub(crate) fn record_event(span: &tracing::Span, job: &JobId, event: Option<&'static str>) {
    tracing::record_all!(span, job_id = %job, event = event);
}

/// Records the answer of a request, by one of [`outcome`].
pub(crate) fn record_answer(span: &tracing::Span, outcome: &'static str, status: u16) {
    tracing::record_all!(span, outcome = outcome, status = status);
}

/// Counts a leased event, by one of [`settled`].
pub(crate) fn attempt(settled: &'static str) {
    #[cfg(feature = "metrics")]
    recorded::attempt(settled);
    #[cfg(not(feature = "metrics"))]
    let _ = settled;
}

/// Counts an answered request, by one of [`outcome`].
pub(crate) fn request(outcome: &'static str, entered: Instant) {
    #[cfg(feature = "metrics")]
    recorded::request(outcome, entered);
    #[cfg(not(feature = "metrics"))]
    let _ = (outcome, entered);
}

/// Measures a run of the handler, by one of [`result`].
pub(crate) fn handler_run(result: &'static str, began: Instant) {
    #[cfg(feature = "metrics")]
    recorded::handler_run(result, began);
    #[cfg(not(feature = "metrics"))]
    let _ = (result, began);
}

/// The metrics' module in their metadata.
#[cfg(feature = "metrics")]
const MODULE: &str = module_path!();

/// The metrics, through the facade. Its macros would allocate and hash a key for every request, since the labels are
/// not literals; and a handle that is kept would miss a recorder that is installed later.
#[cfg(feature = "metrics")]
mod recorded {
    use ::metrics::{IntoF64, Key, Label, Level, Metadata, with_recorder};
    use tokio::time::Instant;

    use super::{
        ATTEMPTS, HANDLER_SECONDS, MODULE, OUTCOME, REQUEST_SECONDS, REQUESTS, RESULT, SETTLED, outcome,
        result, settled,
    };

    static METADATA: Metadata<'static> = Metadata::new(MODULE, Level::INFO, Some(MODULE));

    /// The constant key of a metric with a label that has one of the constant values.
    macro_rules! key {
        ($name:ident, $label:ident => $value:ident in $values:ident: $($known:ident)*) => {
            match $value {
                $($values::$known => {
                    static LABELS: [Label; 1] = [Label::from_static_parts($label, $values::$known)];
                    static KEY: Key = Key::from_static_parts($name, &LABELS);
                    &KEY
                })*
                _ => &Key::from_parts($name, vec![Label::new($label, $value)]),
            }
        };
    }

    /// The time since an instant. The clock is read only if there is a recorder.
    struct Since(Instant);

    impl IntoF64 for Since {
        fn into_f64(self) -> f64 {
            self.0.elapsed().as_secs_f64()
        }
    }

    pub(super) fn attempt(settled: &'static str) {
        let key =
            key!(ATTEMPTS, SETTLED => settled in settled: DONE RETRY DEAD RELEASED FETCH_AGAIN REJECTED);
        with_recorder(|recorder| recorder.register_counter(key, &METADATA).increment(1));
    }

    pub(super) fn handler_run(result: &'static str, began: Instant) {
        let key = key!(
            HANDLER_SECONDS, RESULT => result in result:
            OK FAILED PERMANENT_FAILURE PANICKED TIMED_OUT LEASE_LOST ABORTED
        );
        with_recorder(|recorder| recorder.register_histogram(key, &METADATA).record(Since(began)));
    }

    pub(super) fn request(outcome: &'static str, entered: Instant) {
        macro_rules! key_of {
            ($name:ident) => {
                key!(
                    $name, OUTCOME => outcome in outcome:
                    HANDLED STORED DUPLICATE CONFLICT HANDLER_FAILED_PERMANENTLY IN_PROGRESS HANDLER_FAILED
                    HANDLER_PANICKED HANDLER_TIMEOUT UNAVAILABLE METHOD_NOT_ALLOWED UNAUTHORIZED
                    UNSUPPORTED_MEDIA_TYPE UNSUPPORTED_ENCODING BODY_TOO_LARGE BODY_TIMEOUT INVALID_JSON
                    INVALID_PAYLOAD JOB_ID_MISMATCH UNKNOWN_JOB
                )
            };
        }
        let (requests, seconds) = (key_of!(REQUESTS), key_of!(REQUEST_SECONDS));
        with_recorder(|recorder| {
            recorder.register_counter(requests, &METADATA).increment(1);
            recorder.register_histogram(seconds, &METADATA).record(Since(entered));
        });
    }
}
