//! The names of spans, fields and metrics, for dashboards and alerts to rely on.
//!
//! # Spans
//!
//! Every request is one [`tracing`] span named [`SPAN`], at level `INFO`. When the answer is known, the span's fields
//! are recorded and one event is emitted in the span: at `DEBUG` for a 2xx, at `WARN` for any other answer. Job ids
//! appear only after a request was authenticated and parsed. URIs, tokens, payloads and headers, but for a valid
//! [`TRACEPARENT`], never appear; the text of your handler's errors and panics does.
//!
//! Each span has a field [`OTEL_KIND`], by which an OpenTelemetry layer tells servers, consumers and clients.
//!
//! # Metrics
//!
//! With the feature `metrics`, the crate counts and measures through the [`metrics`](https://docs.rs/metrics) facade:
//! install a recorder, such as a Prometheus exporter, before the receiver and the worker are started. `METRICS` lists
//! all metrics, and so does the table in the chapter on [operating](crate::guide::operating#metrics).
//!
//! `describe` tells the recorder what each metric means, and starts every counter at zero, so that an alert sees the
//! first failure as an increase. A worker calls it with each sample: call it yourself in a program without a worker.
//!
//! A worker *samples* some of the gauges: every 15 seconds, and less often if the inbox takes more than three quarters of
//! a second to count its rows, so that sampling costs a twentieth of the time at most. They tell the state of the whole
//! inbox, so the samples of several processes are of one inbox: take the maximum of them, not the sum. A worker that
//! shuts down sets them to NaN, and its slots to zero. Without a recorder nothing is sampled. A process with workers on
//! several inboxes reports whichever was sampled last: run one worker per process, or give each a recorder of its own.

mod labels;
#[cfg(feature = "metrics")]
mod metric;
#[cfg(feature = "metrics")]
mod recorded;
mod spans;
#[cfg(not(feature = "metrics"))]
mod unrecorded;

pub use self::labels::{call, fetch_result, outcome, result, settled};
#[cfg(feature = "metrics")]
pub use self::metric::{METRICS, Metric, MetricKind, describe};
#[cfg(feature = "metrics")]
pub(crate) use self::recorded::*;
pub(crate) use self::spans::{attempt_span, fetch_span, record_answer, record_event, span};
#[cfg(not(feature = "metrics"))]
pub(crate) use self::unrecorded::*;

/// Span around one attempt of an [`InboxWorker`](crate::InboxWorker), with the fields [`JOB_ID`], [`EVENT`],
/// [`ATTEMPT`] and [`TRACEPARENT`].
pub const ATTEMPT_SPAN: &str = "qomplement_webhook_attempt";
/// Field of [`ATTEMPT_SPAN`]: the number of the attempt, from 1.
pub const ATTEMPT: &str = "attempt";

/// Span around the fetch of an overdue job, with the field [`JOB_ID`].
pub const FETCH_SPAN: &str = "qomplement_webhook_fetch";

/// Span around one request, and around the work that goes on after its answer, with the fields [`OUTCOME`],
/// [`STATUS`], [`JOB_ID`], [`EVENT`] and [`TRACEPARENT`].
pub const SPAN: &str = "qomplement_webhook";

/// Field of [`SPAN`], and label of [`REQUESTS`] and [`REQUEST_SECONDS`]: the outcome, one of [`outcome`].
pub const OUTCOME: &str = "outcome";
/// Field of [`SPAN`]: the status of the answer, a number.
pub const STATUS: &str = "status";
/// Field of every span: the job's id; in [`SPAN`] once the id has been read.
pub const JOB_ID: &str = "job_id";
/// Field of [`SPAN`] and [`ATTEMPT_SPAN`]: the handler's method for the event, once the event has been read. A durable
/// receiver reads an event only as far as its job and leaves this field empty.
pub const EVENT: &str = "event";
/// Field of [`SPAN`], once the event has been read, and of [`ATTEMPT_SPAN`]: the
/// [`traceparent`](crate::Job::traceparent) of the delivery, if it had one.
pub const TRACEPARENT: &str = "traceparent";
/// Field of every span: `server` in [`SPAN`], `consumer` in [`ATTEMPT_SPAN`], `client` in [`FETCH_SPAN`].
pub const OTEL_KIND: &str = "otel.kind";

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
/// Label of [`HANDLER_SECONDS`]: how the run ended, one of [`result`]. Label of [`FETCHES`]: how the fetch ended, one of
/// [`fetch_result`].
pub const RESULT: &str = "result";
/// Histogram of the seconds from an event's receipt until the handler is called for its first attempt, in a worker.
/// Includes the verification. Not of events that were replayed.
pub const WAIT_SECONDS: &str = "qomplement_webhooks_wait_seconds";
/// Histogram of the seconds from an event's receipt until a worker has recorded it as done. Not of events that were
/// replayed.
pub const END_TO_END_SECONDS: &str = "qomplement_webhooks_end_to_end_seconds";
/// Counter of the fetches of jobs from the API, also of those that a closed budget refused, with the label [`RESULT`].
pub const FETCHES: &str = "qomplement_webhooks_fetches_total";
/// Gauge: 1 while the budget of requests to the API is closed, else 0. Set by a worker under
/// [`Verification::Fetch`](crate::Verification::Fetch) and by a [`Reconciler`](crate::Reconciler), at least once a second;
/// not for a source of [several accounts](crate::fetch::JobSource::is_one_account).
pub const FETCH_BUDGET_CLOSED: &str = "qomplement_webhooks_fetch_budget_closed";
/// Counter of the calls of a store that failed, had no answer in time or panicked, with the label [`CALL`]. Also of those
/// that a full store refused.
pub const STORE_ERRORS: &str = "qomplement_webhooks_store_errors_total";
/// Label of [`STORE_ERRORS`]: the call, one of [`call`].
pub const CALL: &str = "call";
/// Counter of the rows that a worker has pruned.
pub const PRUNED_ROWS: &str = "qomplement_webhooks_pruned_rows_total";
/// Counter of the bodies that a worker has pruned from rows that stay.
pub const PRUNED_PAYLOADS: &str = "qomplement_webhooks_pruned_payloads_total";
/// Gauge of the time of the last call that leased events, or found none, in seconds since 1970; at first, of the worker's
/// start. A worker without a free slot leases nothing.
pub const LAST_LEASE: &str = "qomplement_webhooks_worker_last_lease_timestamp_seconds";

/// Sampled gauge of the events that a worker handles at once: its
/// [`concurrency`](crate::InboxWorker::concurrency); 0 after it shut down.
pub const WORKER_SLOTS: &str = "qomplement_webhooks_worker_slots";
/// Sampled gauge of the slots of a worker without an event.
pub const WORKER_FREE_SLOTS: &str = "qomplement_webhooks_worker_free_slots";
/// Sampled gauge of the handlers that run in a worker. A slot without a handler verifies, or settles.
pub const WORKER_RUNNING_HANDLERS: &str = "qomplement_webhooks_worker_running_handlers";
/// Sampled gauge of an inbox's rows, with the label [`STATE`].
pub const INBOX_ROWS: &str = "qomplement_webhooks_inbox_rows";
/// Label of [`INBOX_ROWS`]: an [`InboxState`](crate::inbox::InboxState).
pub const STATE: &str = "state";
/// Sampled gauge of the seconds for which the longest due row has been due; 0 without a due row.
pub const INBOX_OLDEST_DUE_SECONDS: &str = "qomplement_webhooks_inbox_oldest_due_seconds";
/// Sampled gauge of the seconds for which the longest overdue job could have been fetched; 0 without an overdue job.
pub const INBOX_OLDEST_OVERDUE_SECONDS: &str = "qomplement_webhooks_inbox_oldest_overdue_seconds";
/// Sampled gauge of the bytes of the bodies of received and running rows.
pub const INBOX_UNFINISHED_BYTES: &str = "qomplement_webhooks_inbox_unfinished_bytes";
/// Sampled gauge of the number of expected, received and running rows at which the inbox is full. Absent without a limit.
pub const INBOX_MAX_UNFINISHED_ROWS: &str = "qomplement_webhooks_inbox_max_unfinished_rows";
/// Sampled gauge of the bytes of bodies at which the inbox is full. Absent without a limit.
pub const INBOX_MAX_UNFINISHED_BYTES: &str = "qomplement_webhooks_inbox_max_unfinished_bytes";
