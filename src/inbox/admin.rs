//! What people see of an inbox, and do with it.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::InboxStore;
use crate::event::JobId;
use crate::store::StoreError;

/// What people do with an inbox: look into it, and replay what is in it.
#[async_trait]
pub trait InboxAdmin: InboxStore {
    /// Up to `most` rows in the order of their arrival, from the one after `after` on. A row that something else than
    /// this crate wrote is listed whatever is in it.
    ///
    /// # Errors
    ///
    /// When the store was not reached.
    async fn list(
        &self,
        filter: &InboxFilter,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<InboxRow>, StoreError>;

    /// One row, with the body of its event unless that was pruned or has yet to come.
    ///
    /// # Errors
    ///
    /// When the store was not reached.
    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError>;

    /// Makes a row that is dead or done received again, due at once, with a new count of attempts; the old
    /// count is kept beside it. A row that is dead without an event is expected again, and overdue at once. `false`
    /// if there is no such row, if it is in another state, or if its event was pruned.
    ///
    /// # Errors
    ///
    /// When it is not known whether the row was replayed.
    async fn replay(&self, job: &JobId) -> Result<bool, StoreError>;

    /// Counts what is in the inbox.
    ///
    /// # Errors
    ///
    /// When the store was not reached.
    async fn stats(&self) -> Result<InboxStats, StoreError>;
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InboxState {
    /// The job was started, and its event has yet to come.
    Expected,
    /// The event waits to be handled, for the first time or again.
    Received,
    /// It is being handled, or its lease has ended.
    Running,
    /// It was handled.
    Done,
    /// It could not be handled.
    Dead,
}

/// A row, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxRow {
    /// Its place in the order of arrival.
    pub number: u64,
    /// The id of the job, as the store has it. If something else than this crate wrote the row, it may be any text:
    /// see [`job`](Self::job).
    pub job_id: String,
    /// Where it stands.
    pub state: InboxState,
    /// The `type` of the event; `None` if there is none.
    pub job_type: Option<String>,
    /// The `status` of the event; `None` if there is none.
    pub status: Option<String>,
    /// Whether the event is what the API says, and not only what a webhook said.
    pub verified: bool,
    /// How often the API was asked for the job, without a result so far.
    pub fetches: u32,
    /// How often it was attempted since it was received or last replayed.
    pub attempts: u32,
    /// How often before.
    pub earlier_attempts: u32,
    /// Why the last attempt that failed did, or the API could not say what came of the job.
    pub error: Option<String>,
    /// How long ago it was received, or registered as expected.
    pub age: Duration,
    /// How long until it is due, its lease ends, or it is overdue; `None` if nothing waits for it.
    pub due_in: Option<Duration>,
}

/// Which rows to list.
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

/// How much there is of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxStats {
    /// Rows whose event has yet to come.
    pub expected: u64,
    /// Rows that wait to be handled.
    pub received: u64,
    /// Rows that are leased.
    pub running: u64,
    /// Rows that were handled.
    pub done: u64,
    /// Rows that could not be handled.
    pub dead: u64,
    /// The bytes of the bodies that are kept.
    pub bytes: u64,
    /// For how long the row that is due for longest has been.
    pub oldest_due: Option<Duration>,
}

impl InboxRow {
    /// The job; `None` if the store has something as its id that no version of this crate accepts. Such a row is dead as
    /// soon as it is due, and cannot be [replayed](InboxAdmin::replay).
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

    /// The name that people see, and that stores write.
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
