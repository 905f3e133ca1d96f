//! The inbox for tests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::row::{Event, Phase, Row};
use super::text::storable;
use super::{
    InboxAdmin, InboxFilter, InboxRow, InboxState, InboxStats, InboxStore, Lease, Leased, Outcome, Overdue,
    Pruned, Receipt, Retention,
};
use crate::error::BoxError;
use crate::event::{Envelope, JobId};
use crate::registry::JobRegistry;
use crate::store::{Fenced, StoreError};

/// An [`InboxStore`] in this process's memory, for tests.
///
/// **It is not durable**: what it acknowledged is gone when the process ends. It counts time with tokio's
/// clock, so under paused time an hour passes at once. Cheap to clone; all clones are one inbox. A call
/// looks at every row, so it is made for thousands of rows and not for millions.
#[derive(Clone, Default)]
pub struct MemoryInbox {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    rows: Mutex<Rows>,
    arrived: Notify,
}

#[derive(Default)]
struct Rows {
    by_job: HashMap<JobId, Row>,
    /// How many there have been.
    number: u64,
}

/// The most rows that one call prunes.
const PRUNE_ROWS: usize = 1000;

impl MemoryInbox {
    /// Makes an empty inbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, lease: &Lease, write: impl FnOnce(&mut Row, Instant) -> Fenced) -> Fenced {
        let mut rows = self.rows();
        rows.by_job.get_mut(lease.job()).map_or(Fenced::Stale, |row| write(row, Instant::now()))
    }
}

impl Rows {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// The first `most` items in the order of their keys. Nobody wants the order of the others.
fn first<T, K: Ord>(items: impl Iterator<Item = T>, most: usize, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut first: Vec<(K, T)> = Vec::new();
    for item in items {
        let key = key(&item);
        if first.len() < most || first.last().is_some_and(|(last, _)| key < *last) {
            first.insert(first.partition_point(|(other, _)| *other <= key), (key, item));
            first.truncate(most);
        }
    }
    first.into_iter().map(|(_, item)| item).collect()
}

#[async_trait]
impl InboxStore for MemoryInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        let (mut rows, now) = (self.rows(), Instant::now());
        let receipt = match rows.by_job.get_mut(event.job()) {
            Some(row) => row.receive(event, now),
            None => {
                let row = Row::received(rows.next_number(), event, now);
                rows.by_job.insert(event.job().clone(), row);
                Receipt::Stored
            }
        };
        drop(rows);
        if receipt == Receipt::Stored {
            self.inner.arrived.notify_one();
        }
        Ok(receipt)
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let (mut rows, now) = (self.rows(), Instant::now());
        let due = rows.by_job.iter_mut().filter(|(_, row)| row.due().is_some_and(|due| due <= now));
        let due = first(due, most, |(_, row)| (row.asking.times, row.due(), row.number));
        Ok(due.into_iter().filter_map(|(job, row)| row.lease(job, length, now)).collect())
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        Ok(self.write(lease, |row, _| row.begin(lease)))
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        Ok(self.write(lease, |row, now| row.renew(lease, length, now)))
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let verified = self.write(lease, |row, now| row.verify(lease, event, now));
        if verified == Fenced::Applied {
            self.inner.arrived.notify_one();
        }
        Ok(verified)
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        Ok(self.write(lease, |row, now| row.settle(lease, outcome, now)))
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        let (mut rows, now) = (self.rows(), Instant::now());
        match rows.by_job.get_mut(job) {
            Some(row) => row.expect(deadline, now),
            None => {
                let row = Row::expected(rows.next_number(), deadline, now);
                rows.by_job.insert(job.clone(), row);
            }
        }
        Ok(())
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        let (mut rows, now) = (self.rows(), Instant::now());
        let expected = |row: &Row| match row.phase {
            Phase::Expected { overdue } => Some(overdue),
            _ => None,
        };
        let is_overdue = |row: &Row| expected(row).is_some_and(|overdue| overdue <= now);
        let overdue = rows.by_job.iter_mut().filter(|(_, row)| is_overdue(row));
        let overdue = first(overdue, most, |(_, row)| (row.asking.times, expected(row), row.number));
        Ok(overdue.into_iter().filter_map(|(job, row)| row.overdue(job, length, now)).collect())
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        Ok(self.rows().by_job.contains_key(job))
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let (mut rows, now) = (self.rows(), Instant::now());
        let mut pruned = Pruned::default();
        let done_for = |row: &Row| match row.phase {
            Phase::Done { since } => Some(now - since),
            _ => None,
        };
        rows.by_job.retain(|_, row| {
            let old = done_for(row) >= Some(retention.row) && pruned.rows < PRUNE_ROWS as u64;
            pruned.rows += u64::from(old);
            !old
        });
        for row in rows.by_job.values_mut().filter(|row| done_for(row) >= Some(retention.payload)) {
            let body = row.event.as_mut().and_then(|event| event.body.take());
            pruned.payloads += u64::from(body.is_some());
        }
        Ok(pruned)
    }

    async fn wait(&self) {
        self.inner.arrived.notified().await;
    }
}

#[async_trait]
impl InboxAdmin for MemoryInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let (rows, now) = (self.rows(), Instant::now());
        let is_text = |wanted: &Option<String>, text: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| text.as_deref() == Some(&*storable(wanted)))
        };
        let mut found: Vec<_> = rows
            .by_job
            .iter()
            .filter(|(_, row)| Some(row.number) > after)
            .map(|(job, row)| row.view(job, now))
            .filter(|row| filter.state.is_none_or(|state| row.state == state))
            .filter(|row| is_text(&filter.job_type, &row.job_type) && is_text(&filter.status, &row.status))
            .collect();
        found.sort_by_key(|row| row.number);
        found.truncate(most);
        Ok(found)
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let rows = self.rows();
        let body = |row: &Row| row.event.as_ref().and_then(|event| event.body.clone());
        Ok(rows.by_job.get(job).map(|row| (row.view(job, Instant::now()), body(row))))
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let replayed = self.rows().by_job.get_mut(job).is_some_and(|row| row.replay(Instant::now()));
        if replayed {
            self.inner.arrived.notify_one();
        }
        Ok(replayed)
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let (rows, now) = (self.rows(), Instant::now());
        let mut stats = InboxStats::default();
        for row in rows.by_job.values() {
            *match row.state() {
                InboxState::Expected => &mut stats.expected,
                InboxState::Received => &mut stats.received,
                InboxState::Running => &mut stats.running,
                InboxState::Done => &mut stats.done,
                InboxState::Dead => &mut stats.dead,
            } += 1;
            let body = row.event.as_ref().and_then(|event| event.body.as_ref());
            stats.bytes += body.map_or(0, |body| body.len() as u64);
            if let Some(due) = row.due().filter(|due| *due <= now) {
                stats.oldest_due = stats.oldest_due.max(Some(now - due));
            }
        }
        Ok(stats)
    }
}

impl Row {
    fn state(&self) -> InboxState {
        match self.phase {
            Phase::Expected { .. } => InboxState::Expected,
            Phase::Received { .. } => InboxState::Received,
            Phase::Running { .. } => InboxState::Running,
            Phase::Done { .. } => InboxState::Done,
            Phase::Dead => InboxState::Dead,
        }
    }

    fn view(&self, job: &JobId, now: Instant) -> InboxRow {
        let due = match self.phase {
            Phase::Expected { overdue } => Some(overdue),
            _ => self.due(),
        };
        let text = |read: fn(&Event) -> &str| self.event.as_ref().map(|event| read(event).to_owned());
        InboxRow {
            number: self.number,
            job_id: job.to_string(),
            state: self.state(),
            job_type: text(|event| event.job_type.as_str()),
            status: text(|event| event.status.as_str()),
            verified: self.event.as_ref().is_some_and(|event| event.verified),
            asked: self.asking.times,
            attempts: self.attempts,
            earlier_attempts: self.earlier_attempts,
            error: self.error.clone(),
            age: now - self.since,
            due_in: due.map(|due| due.saturating_duration_since(now)),
        }
    }
}

#[async_trait]
impl JobRegistry for MemoryInbox {
    async fn is_known(&self, job: &JobId) -> Result<bool, BoxError> {
        Ok(self.contains(job).await?)
    }
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox").field("rows", &self.rows().by_job.len()).finish()
    }
}
