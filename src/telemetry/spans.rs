//! The spans. The macros want literals for names and fields: tests compare them with the constants.

use tracing::field::Empty;

use crate::event::{JobId, TraceParent};

/// Makes the span of one attempt.
pub(crate) fn attempt_span(job: &JobId, attempt: u32, traceparent: Option<&TraceParent>) -> tracing::Span {
    tracing::info_span!(
        "qomplement_webhook_attempt",
        otel.kind = "consumer",
        job_id = %job,
        event = Empty,
        attempt,
        traceparent = traceparent.map(TraceParent::as_str),
    )
}

/// Makes the span of the fetch of an overdue job.
pub(crate) fn fetch_span(job: &JobId) -> tracing::Span {
    tracing::info_span!("qomplement_webhook_fetch", otel.kind = "client", job_id = %job)
}

/// Makes the span of one request.
pub(crate) fn span() -> tracing::Span {
    tracing::info_span!(
        "qomplement_webhook",
        otel.kind = "server",
        outcome = Empty,
        status = Empty,
        job_id = Empty,
        event = Empty,
        traceparent = Empty,
    )
}

/// Records the job of a request, the event if it has been read, and the trace if it has one. All at once: a subscriber
/// writes the span's fields anew with every record.
pub(crate) fn record_event(
    span: &tracing::Span,
    job: &JobId,
    event: Option<&'static str>,
    traceparent: Option<&TraceParent>,
) {
    let traceparent = traceparent.map(TraceParent::as_str);
    tracing::record_all!(span, job_id = %job, event = event, traceparent = traceparent);
}

/// Records the answer of a request, by one of [`outcome`](super::outcome).
pub(crate) fn record_answer(span: &tracing::Span, outcome: &'static str, status: u16) {
    tracing::record_all!(span, outcome = outcome, status = status);
}
