//! The list of all metrics, and their descriptions.

use ::metrics::{Key, Label, Unit, with_recorder};

use super::recorded::METADATA;
use super::*;

/// A metric of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name. It ends with the unit, and a counter's with `_total`.
    pub name: &'static str,
    /// The kind.
    pub kind: MetricKind,
    /// The name of the label; `None` without one.
    pub label: Option<&'static str>,
    /// The values of the label; empty without one.
    pub values: &'static [&'static str],
    /// The meaning, in a sentence.
    pub description: &'static str,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// All metrics.
pub const METRICS: &[Metric] = &[
    counter(REQUESTS, "Answered requests").by(OUTCOME, OUTCOMES),
    histogram(REQUEST_SECONDS, "From a request's entry to its answer").by(OUTCOME, OUTCOMES),
    histogram(HANDLER_SECONDS, "One run of the handler").by(RESULT, RESULTS),
    counter(ATTEMPTS, "Leased events that the worker settled").by(SETTLED, SETTLEMENTS),
    histogram(WAIT_SECONDS, "From an event's receipt until its handler is called for the first time"),
    histogram(END_TO_END_SECONDS, "From an event's receipt until it is recorded as done"),
    counter(FETCHES, "Fetches of jobs from the API").by(RESULT, FETCH_RESULTS),
    gauge(FETCH_BUDGET_CLOSED, "Whether the budget of requests to the API is closed: 1 or 0"),
    counter(STORE_ERRORS, "Calls of a store that failed").by(CALL, CALLS),
    counter(PRUNED_ROWS, "Rows that the worker has pruned"),
    counter(PRUNED_PAYLOADS, "Bodies that the worker has pruned from rows that stay"),
    gauge(LAST_LEASE, "When the worker last leased events, or found none, in seconds since 1970"),
    gauge(WORKER_SLOTS, "Events that the worker handles at once; 0 after it shut down"),
    gauge(WORKER_FREE_SLOTS, "Slots of the worker without an event"),
    gauge(WORKER_RUNNING_HANDLERS, "Handlers that run in the worker"),
    gauge(INBOX_ROWS, "Rows of the inbox").by(STATE, STATES),
    gauge(INBOX_OLDEST_DUE_SECONDS, "For how long the longest due row has been due; 0 without one"),
    gauge(
        INBOX_OLDEST_OVERDUE_SECONDS,
        "For how long the longest overdue job could have been fetched; 0 without one",
    ),
    gauge(INBOX_UNFINISHED_BYTES, "Bytes of the bodies of received and running rows"),
    gauge(INBOX_MAX_UNFINISHED_ROWS, "Expected, received and running rows at which the inbox is full"),
    gauge(INBOX_MAX_UNFINISHED_BYTES, "Bytes of bodies at which the inbox is full"),
];

const OUTCOMES: &[&str] = &[
    outcome::HANDLED,
    outcome::STORED,
    outcome::DUPLICATE,
    outcome::CONFLICT,
    outcome::HANDLER_FAILED_PERMANENTLY,
    outcome::IN_PROGRESS,
    outcome::HANDLER_FAILED,
    outcome::HANDLER_PANICKED,
    outcome::HANDLER_TIMEOUT,
    outcome::UNAVAILABLE,
    outcome::METHOD_NOT_ALLOWED,
    outcome::UNAUTHORIZED,
    outcome::UNSUPPORTED_MEDIA_TYPE,
    outcome::UNSUPPORTED_ENCODING,
    outcome::BODY_TOO_LARGE,
    outcome::BODY_TIMEOUT,
    outcome::INVALID_JSON,
    outcome::INVALID_PAYLOAD,
    outcome::JOB_ID_MISMATCH,
    outcome::UNKNOWN_JOB,
];
const RESULTS: &[&str] = &[
    result::OK,
    result::FAILED,
    result::PERMANENT_FAILURE,
    result::PANICKED,
    result::TIMED_OUT,
    result::LEASE_LOST,
    result::ABORTED,
];
const SETTLEMENTS: &[&str] = &[
    settled::DONE,
    settled::RETRY,
    settled::DEAD,
    settled::RELEASED,
    settled::FETCH_AGAIN,
    settled::REJECTED,
];
const FETCH_RESULTS: &[&str] = &[
    fetch_result::FINISHED,
    fetch_result::PENDING,
    fetch_result::NOT_FOUND,
    fetch_result::UNAUTHORIZED,
    fetch_result::RATE_LIMITED,
    fetch_result::UNREACHABLE,
    fetch_result::REFUSED,
    fetch_result::UNAVAILABLE,
    fetch_result::UNREADABLE,
    fetch_result::INVALID_ID,
    fetch_result::BUDGET_CLOSED,
];
const CALLS: &[&str] = &[
    call::CLAIM,
    call::COMPLETE,
    call::RELEASE,
    call::RECEIVE,
    call::LEASE,
    call::BEGIN,
    call::RENEW,
    call::VERIFY,
    call::SETTLE,
    call::OVERDUE,
    call::PRUNE,
    call::STATS,
];
const STATES: &[&str] = &["expected", "received", "running", "done", "dead"];

const fn counter(name: &'static str, description: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, label: None, values: &[], description }
}

const fn gauge(name: &'static str, description: &'static str) -> Metric {
    Metric { kind: MetricKind::Gauge, ..counter(name, description) }
}

const fn histogram(name: &'static str, description: &'static str) -> Metric {
    Metric { kind: MetricKind::Histogram, ..counter(name, description) }
}

impl Metric {
    const fn by(self, label: &'static str, values: &'static [&'static str]) -> Self {
        Self { label: Some(label), values, ..self }
    }

    fn unit(&self) -> Unit {
        let name = self.name.trim_end_matches("_total");
        match name.rsplit('_').next() {
            Some("seconds") => Unit::Seconds,
            Some("bytes") => Unit::Bytes,
            _ => Unit::Count,
        }
    }
}

/// Describes every metric to the recorder that is installed, and starts every counter at zero.
///
/// May be called any number of times. A worker calls it with each sample: call it yourself, once the recorder is
/// installed, in a program without a worker.
pub fn describe() {
    with_recorder(|recorder| {
        for metric in METRICS {
            let (name, unit) = (metric.name.into(), Some(metric.unit()));
            match metric.kind {
                MetricKind::Counter => recorder.describe_counter(name, unit, metric.description.into()),
                MetricKind::Gauge => recorder.describe_gauge(name, unit, metric.description.into()),
                MetricKind::Histogram => recorder.describe_histogram(name, unit, metric.description.into()),
            }
            if metric.kind != MetricKind::Counter {
                continue;
            }
            let labels =
                metric.label.map(|label| metric.values.iter().map(move |value| Label::new(label, *value)));
            let keys = match labels {
                Some(labels) => labels.map(|label| Key::from_parts(metric.name, vec![label])).collect(),
                None => vec![Key::from_static_name(metric.name)],
            };
            for key in keys {
                recorder.register_counter(&key, &METADATA).increment(0);
            }
        }
    });
}
