//! The calls of administration.

use async_trait::async_trait;
use bytes::Bytes;

use super::MemoryInbox;
use super::rows::{JobRow, Lookup, Rows};
use crate::event::JobId;
use crate::inbox::row::Row;
use crate::inbox::timestamp::Timestamp;
use crate::inbox::transition::BodyChange;
use crate::inbox::{
    Bulk, Changed, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxState, InboxStats,
    InboxTraffic,
};
use crate::store::StoreError;

/// The most rows that one list looks at. Few, so that tests also meet a list without rows that goes on.
const LOOK: usize = 1000;

impl MemoryInbox {
    /// Changes the rows that match and can be changed. Returns the number of those.
    fn change_all(
        &self,
        filter: &InboxFilter,
        most: u64,
        bulk: Bulk,
        can: impl Fn(&Row) -> bool,
        change: impl Fn(&mut Rows, u64, Timestamp),
    ) -> Changed {
        let (mut rows, now) = (self.rows(), self.now());
        let matching = rows
            .list(InboxCursor::Oldest)
            .filter(|entry| can(&entry.row) && filter.matches(&entry.view(now)));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut numbers: Vec<u64> = matching.map(|entry| entry.number).take(most.saturating_add(1)).collect();
        let more = numbers.len() > most;
        numbers.truncate(most);
        if bulk == Bulk::Apply {
            numbers.iter().for_each(|number| change(&mut rows, *number, now));
        }
        Changed::new(numbers.len() as u64, more)
    }
}

#[async_trait]
impl InboxAdmin for MemoryInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        let (rows, now) = (self.rows(), self.now());
        Ok(InboxList::of(rows.list(from).map(|entry| entry.view(now)), filter, from, most, LOOK))
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let (rows, now) = (self.rows(), self.now());
        Ok(rows.get(job).map(|entry| (entry.view(now), entry.body.clone())))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let replayed = self.change(job, None, |row, now| (row.replay(now), BodyChange::Keep));
        Ok(replayed.unwrap_or(false))
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let discarded = rows.get(job).filter(|entry| entry.row.can_be_discarded()).map(|entry| entry.number);
        if let Some(number) = discarded {
            rows.remove(number);
        }
        Ok(discarded.is_some())
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        let replayed = self.change_all(filter, most, bulk, Row::can_be_replayed, |rows, number, now| {
            rows.change_numbered(number, None, now, |entry| (entry.row.replay(now), BodyChange::Keep));
        });
        if bulk == Bulk::Apply {
            (0..replayed.rows).for_each(|_| self.inner.arrived.notify_one());
        }
        Ok(replayed)
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        Ok(self.change_all(filter, most, bulk, Row::can_be_discarded, |rows, number, _| rows.remove(number)))
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let (rows, now) = (self.rows(), self.now());
        let mut stats = InboxStats::default();
        for state in InboxState::ALL {
            let total = rows.totals().of(state);
            *stats.rows_mut(state) = total.rows.unsigned_abs();
            stats.bytes += total.bytes.unsigned_abs();
        }
        stats.unfinished_bytes = rows.totals().unfinished().bytes.unsigned_abs();
        let oldest = |lookup| {
            let earliest = rows.earliest(lookup).filter(|due| *due <= now);
            earliest.map(|due| now.since(due))
        };
        (stats.oldest_due, stats.oldest_overdue) = (oldest(Lookup::Leasable), oldest(Lookup::Expected));
        Ok(stats)
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        let (rows, now) = (self.rows(), self.now());
        Ok(rows.traffic().view(now))
    }
}

impl JobRow {
    fn view(&self, now: Timestamp) -> InboxRow {
        let Self { number, job, row, .. } = self;
        let event = row.event.as_ref();
        InboxRow {
            number: *number,
            job_id: job.to_string(),
            state: row.state(),
            job_type: event.map(|event| event.job_type.as_str().to_owned()),
            status: event.map(|event| event.status.as_str().to_owned()),
            traceparent: event.and_then(|event| event.traceparent.clone()),
            verified: event.is_some_and(|event| event.verified),
            fetches: row.fetches.count,
            attempts: row.attempts,
            earlier_attempts: row.earlier_attempts,
            error: row.error.clone(),
            failures: row.failures.view(now),
            age: now.since(row.received_at),
            due_in: row.due_at().map(|due_at| due_at.since(now)),
        }
    }
}
