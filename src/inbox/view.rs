//! Rows as people see them.

use std::fmt;
use std::time::Duration;

use super::FailedAttempt;
use crate::event::{JobId, TraceParent};

/// The state of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InboxState {
    /// The job is registered, and its event has not arrived.
    Expected,
    /// The event waits for an attempt, the first or a further one.
    Received,
    /// The row is leased, or its lease has expired.
    Running,
    /// The event was handled.
    Done,
    /// A dead letter: no attempt is left, none is useful, or the API gave no result for the job.
    Dead,
}

/// A row, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxRow {
    /// The place in the order of arrival.
    pub number: u64,
    /// The id of the job, as the store has it. In a row that was not written by this crate, it may be any text: see
    /// [`job`](Self::job).
    pub job_id: String,
    /// The state.
    pub state: InboxState,
    /// The `type` of the event; `None` without an event.
    pub job_type: Option<String>,
    /// The `status` of the event; `None` without an event.
    pub status: Option<String>,
    /// The `traceparent` of the delivery that brought the event, if it had one.
    pub traceparent: Option<TraceParent>,
    /// Whether the event was fetched from the API, and not only received as a webhook.
    pub verified: bool,
    /// The number of fetches of the job without a result so far.
    pub fetches: u32,
    /// The number of attempts since the row was received or last replayed.
    pub attempts: u32,
    /// The number of attempts before the last replay.
    pub earlier_attempts: u32,
    /// The error of the last failed attempt or fetch.
    pub error: Option<String>,
    /// The last failed attempts of the event, at most 20, the oldest first. An attempt that did not end, as when its
    /// process dies, is added when the event is leased again.
    pub failures: Vec<FailedAttempt>,
    /// The time since the event was received, or the expected job registered.
    pub age: Duration,
    /// The time until the row is due, its lease expires, or it is overdue; `None` for a done or dead row.
    pub due_in: Option<Duration>,
}

impl InboxRow {
    /// Makes a row, for a store. The other fields are empty, false or zero: set those that differ.
    #[must_use]
    pub fn new(number: u64, job_id: impl Into<String>, state: InboxState, age: Duration) -> Self {
        Self {
            number,
            job_id: job_id.into(),
            state,
            job_type: None,
            status: None,
            traceparent: None,
            verified: false,
            fetches: 0,
            attempts: 0,
            earlier_attempts: 0,
            error: None,
            failures: Vec::new(),
            age,
            due_in: None,
        }
    }

    /// The job; `None` if the stored id is not one that this crate accepts. Such a row is dead as soon as it is due, and
    /// only a filter can name it, as in [`discard_all`](super::InboxAdmin::discard_all).
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        self.job_id.parse().ok()
    }
}

impl InboxState {
    pub(crate) const ALL: [Self; 5] = [Self::Expected, Self::Received, Self::Running, Self::Done, Self::Dead];

    /// The name of the state, as stores write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Received => "received",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for InboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
