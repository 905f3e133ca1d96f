//! The metrics, through the facade.
//!
//! Its macros would allocate and hash a key for every request, since the labels are not literals; and a handle that is
//! kept would miss a recorder that is installed later. So the metrics of requests and attempts have constant keys.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::metrics::{IntoF64, Key, Label, Level, Metadata, with_recorder};
use tokio::time::Instant;

use super::*;
use crate::inbox::{InboxState, InboxStats, Pruned};

/// The module is that of the metrics' names.
const MODULE: &str = "qomplement_webhooks::telemetry";

pub(super) static METADATA: Metadata<'static> = Metadata::new(MODULE, Level::INFO, Some(MODULE));

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

/// The time since an instant, and a time before. The clock is read only if there is a recorder.
struct Since(Instant, Duration);

impl IntoF64 for Since {
    fn into_f64(self) -> f64 {
        (self.0.elapsed() + self.1).as_secs_f64()
    }
}

/// The seconds from 1970 to now, read likewise.
struct Now;

impl IntoF64 for Now {
    fn into_f64(self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}

/// Counts a leased event, by one of [`settled`].
pub(crate) fn attempt(settled: &'static str) {
    let key = key!(ATTEMPTS, SETTLED => settled in settled: DONE RETRY DEAD RELEASED FETCH_AGAIN REJECTED);
    with_recorder(|recorder| recorder.register_counter(key, &METADATA).increment(1));
}

/// Measures a run of the handler, by one of [`result`].
pub(crate) fn handler_run(result: &'static str, began: Instant) {
    let key = key!(
        HANDLER_SECONDS, RESULT => result in result:
        OK FAILED PERMANENT_FAILURE PANICKED TIMED_OUT LEASE_LOST ABORTED
    );
    record(key, Since(began, Duration::ZERO));
}

/// Counts an answered request, by one of [`outcome`].
pub(crate) fn request(outcome: &'static str, entered: Instant) {
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
        recorder.register_histogram(seconds, &METADATA).record(Since(entered, Duration::ZERO));
    });
}

/// Measures the time until the first call of the handler for an event of this age, leased at `since`.
pub(crate) fn waited(age: Duration, since: Instant) {
    static KEY: Key = Key::from_static_name(WAIT_SECONDS);
    record(&KEY, Since(since, age));
}

/// Measures the time until an event of this age, leased at `since`, is recorded as done.
pub(crate) fn handled(age: Duration, since: Instant) {
    static KEY: Key = Key::from_static_name(END_TO_END_SECONDS);
    record(&KEY, Since(since, age));
}

/// Notes a call that leased events, or found none.
pub(crate) fn leased() {
    static KEY: Key = Key::from_static_name(LAST_LEASE);
    set(&KEY, Now);
}

/// Counts a fetch, by one of [`fetch_result`].
pub(crate) fn fetched(result: &'static str) {
    count(&labelled(FETCHES, RESULT, result), 1);
}

/// Notes whether the budget is closed.
pub(crate) fn budget(is_closed: bool) {
    static KEY: Key = Key::from_static_name(FETCH_BUDGET_CLOSED);
    set(&KEY, u8::from(is_closed));
}

/// Counts a failed call of a store, by one of [`call`].
pub(crate) fn store_error(call: &'static str) {
    count(&labelled(STORE_ERRORS, CALL, call), 1);
}

/// Counts pruned rows and bodies.
pub(crate) fn pruned(pruned: &Pruned) {
    count(&Key::from_static_name(PRUNED_ROWS), pruned.rows.saturating_add(pruned.dead));
    count(&Key::from_static_name(PRUNED_PAYLOADS), pruned.payloads);
}

/// Notes the slots of a worker and the handlers that run in it. Returns whether there is a recorder: only a value that is
/// read tells.
pub(crate) fn sampled_worker(slots: usize, free: usize, running: usize) -> bool {
    struct Slots<'a>(f64, &'a Cell<bool>);

    impl IntoF64 for Slots<'_> {
        fn into_f64(self) -> f64 {
            self.1.set(true);
            self.0
        }
    }

    let is_recorded = Cell::new(false);
    set(&Key::from_static_name(WORKER_SLOTS), Slots(slots as f64, &is_recorded));
    set(&Key::from_static_name(WORKER_FREE_SLOTS), free as f64);
    set(&Key::from_static_name(WORKER_RUNNING_HANDLERS), running as f64);
    is_recorded.get()
}

/// Notes the state of an inbox; `None` when it is no longer known.
pub(crate) fn sampled_inbox(stats: Option<InboxStats>) {
    let is_known = stats.is_some();
    let mut stats = stats.unwrap_or_default();
    let value = |value: f64| if is_known { value } else { f64::NAN };
    for state in InboxState::ALL {
        let rows = *stats.rows_mut(state) as f64;
        set(&labelled(INBOX_ROWS, STATE, state.as_str()), value(rows));
    }
    let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
    let limits = [
        (INBOX_MAX_UNFINISHED_ROWS, stats.max_unfinished_rows),
        (INBOX_MAX_UNFINISHED_BYTES, stats.max_unfinished_bytes),
    ];
    let gauges = [
        (INBOX_OLDEST_DUE_SECONDS, seconds(stats.oldest_due)),
        (INBOX_OLDEST_OVERDUE_SECONDS, seconds(stats.oldest_overdue)),
        (INBOX_UNFINISHED_BYTES, stats.unfinished_bytes as f64),
    ];
    for (name, gauge) in gauges {
        set(&Key::from_static_name(name), value(gauge));
    }
    for (name, limit) in limits {
        if let Some(limit) = limit {
            set(&Key::from_static_name(name), limit as f64);
        }
    }
}

fn labelled(name: &'static str, label: &'static str, value: &'static str) -> Key {
    Key::from_parts(name, vec![Label::new(label, value)])
}

fn count(key: &Key, number: u64) {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA).increment(number));
}

fn set(key: &Key, value: impl IntoF64) {
    with_recorder(|recorder| recorder.register_gauge(key, &METADATA).set(value));
}

fn record(key: &Key, value: impl IntoF64) {
    with_recorder(|recorder| recorder.register_histogram(key, &METADATA).record(value));
}
