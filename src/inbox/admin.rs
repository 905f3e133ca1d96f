//! Administration: listing, counting, replaying and discarding rows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    DeadByError, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState, InboxStore, InboxTraffic,
};
use crate::event::JobId;
use crate::store::StoreError;

/// The most lists for one count of dead letters: each looks at a bounded number of rows.
const LISTS: usize = 5;

/// An inbox whose rows can be inspected, replayed and discarded.
#[async_trait]
pub trait InboxAdmin: InboxStore {
    /// Lists up to `most` rows that match, from a place on. A row that was not written by this crate is listed whatever
    /// its content.
    ///
    /// A store bounds the rows that one call looks at. So a list may have fewer rows, even none, and still a
    /// [`next`](InboxList::next): go on from there until it is `None`. Rows may come and go between the calls: each row
    /// that was there all along, and matched, is listed once.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError>;

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

    /// Discards a dead letter: deletes its row and its event. Returns `false` if there is no such row, or if it is not
    /// dead.
    ///
    /// The inbox then knows nothing of the job: another delivery of its event is a new event. Its fencing tokens are
    /// greater than those of the discarded row.
    ///
    /// # Errors
    ///
    /// Returns an error if the commit may not have happened.
    async fn discard(&self, job: &JobId) -> Result<bool, StoreError>;

    /// Replays the rows that match and can be [replayed](Self::replay), up to `most`: the oldest first, each at most once,
    /// in many small transactions. A row that changes meanwhile is replayed only if it still matches.
    ///
    /// [`Bulk::DryRun`] counts only, and looks at a bounded number of rows; [`Bulk::Apply`] looks at all of them. If the
    /// call is dropped, or returns an error, some rows are replayed.
    ///
    /// # Errors
    ///
    /// Returns an error if the last commit may not have happened.
    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError>;

    /// [Discards](Self::discard) the dead letters that match, up to `most`, as [`replay_all`](Self::replay_all) replays
    /// rows.
    ///
    /// # Errors
    ///
    /// Returns an error if the last commit may not have happened.
    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError>;

    /// Counts the rows in each state. A store may estimate large numbers of done and dead rows, and their bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn stats(&self) -> Result<InboxStats, StoreError>;

    /// Counts the events that were received and the rows that became done in each minute of the last 24 hours, the
    /// current minute first. A minute without any may be left out.
    ///
    /// The counts are committed with the writes that they count, and stay when the rows are deleted. A duplicate, a replay
    /// and a repeated outcome count nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError>;

    /// Counts the newest dead letters, up to `most`, by their last error.
    ///
    /// The default [lists](Self::list) the rows with all that they have, at most five times, and counts those found.
    /// Implement this method if the store can read the errors alone.
    ///
    /// # Errors
    ///
    /// Returns an error if the store was not reached.
    async fn dead_by_error(&self, most: usize) -> Result<DeadByError, StoreError> {
        let dead = InboxFilter::default().state(InboxState::Dead);
        let (mut errors, mut next) = (Vec::new(), Some(InboxCursor::Newest));
        for _ in 0..LISTS {
            let Some(from) = next.filter(|_| errors.len() < most) else { break };
            let list = self.list(&dead, from, most - errors.len()).await?;
            errors.extend(list.rows.into_iter().map(|row| row.error.unwrap_or_default()));
            next = list.next;
        }
        Ok(DeadByError::new(errors, next.is_some()))
    }
}

/// Whether a change of many rows takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// Counts the rows, and changes none.
    DryRun,
    /// Changes the rows.
    Apply,
}

/// The result of a change of many rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// The rows that were changed; in a dry run, those that would be.
    pub rows: u64,
    /// Whether rows may be left that match: more than `most`, more than a dry run looks at, or locked ones.
    pub more: bool,
}

impl Changed {
    /// Makes a result, for a store.
    #[must_use]
    pub fn new(rows: u64, more: bool) -> Self {
        Self { rows, more }
    }
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
    /// Dead letters.
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

#[async_trait]
impl<S: InboxAdmin + ?Sized> InboxAdmin for Arc<S> {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        (**self).list(filter, from, most).await
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        (**self).get(job).await
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        (**self).replay(job).await
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        (**self).discard(job).await
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        (**self).replay_all(filter, most, bulk).await
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        (**self).discard_all(filter, most, bulk).await
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        (**self).stats().await
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        (**self).traffic().await
    }

    async fn dead_by_error(&self, most: usize) -> Result<DeadByError, StoreError> {
        (**self).dead_by_error(most).await
    }
}
