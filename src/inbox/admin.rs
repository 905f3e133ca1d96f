//! Administration: listing, counting and replaying rows.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{FailedAttempt, InboxStore};
use crate::event::JobId;
use crate::store::StoreError;

/// An inbox that can be inspected, and whose rows can be replayed.
#[async_trait]
pub trait InboxAdmin: InboxStore {
    /// Lists up to `most` rows in the order of their arrival, from the row after number `after` on. A row that was not
    /// written by this crate is listed whatever its content.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn list(
        &self,
        filter: &InboxFilter,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<InboxRow>, StoreError>;

    /// Returns one row, with the body of its event unless the body was pruned or the event is still expected.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError>;

    /// Replays a row: makes a dead or done row received again, due at once, with a new count of attempts; the old
    /// count is kept beside it. A dead row without an event is expected again, and overdue at once. Returns `false`
    /// if there is no such row, if it is in another state, or if its body was pruned.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened.
    async fn replay(&self, job: &JobId) -> Result<bool, StoreError>;

    /// Counts the rows in each state. A store may estimate large numbers of done and dead rows.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn stats(&self) -> Result<InboxStats, StoreError>;
}

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
    /// A dead letter: no attempt is left, or the job was rejected.
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

/// A selection of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxFilter {
    /// Only rows in this state.
    pub state: Option<InboxState>,
    /// Only events of this `type`.
    pub job_type: Option<String>,
    /// Only events with this `status`.
    pub status: Option<String>,
}

/// Counts of an inbox's rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxStats {
    /// Rows whose event has not arrived.
    pub expected: u64,
    /// Rows that wait for an attempt.
    pub received: u64,
    /// Leased rows.
    pub running: u64,
    /// Rows whose event was handled.
    pub done: u64,
    /// Dead letters and rejected jobs.
    pub dead: u64,
    /// The bytes of all bodies.
    pub bytes: u64,
    /// The bytes of the bodies of received and running rows.
    pub unfinished_bytes: u64,
    /// The number of expected, received and running rows at which the store is full; `None` without a limit.
    pub max_unfinished_rows: Option<u64>,
    /// The bytes of the bodies of these rows at which the store is full; `None` without a limit.
    pub max_unfinished_bytes: Option<u64>,
    /// The time for which the longest due row has been due.
    pub oldest_due: Option<Duration>,
    /// The time for which the longest overdue job could have been [fetched](InboxStore::overdue).
    pub oldest_overdue: Option<Duration>,
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
    /// cannot be [replayed](InboxAdmin::replay).
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        self.job_id.parse().ok()
    }
}

impl InboxStats {
    pub(crate) fn rows_mut(&mut self, state: InboxState) -> &mut u64 {
        match state {
            InboxState::Expected => &mut self.expected,
            InboxState::Received => &mut self.received,
            InboxState::Running => &mut self.running,
            InboxState::Done => &mut self.done,
            InboxState::Dead => &mut self.dead,
        }
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
