//! The inbox for tests.

mod admin;
mod rows;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::rows::{JobRow, Lookup, Rows};
use super::row::{KeptEvent, Row};
use super::timestamp::Timestamp;
use super::transition::{BodyChange, Remains};
use super::{InboxAdmin, InboxStore, Lease, Leased, Outcome, Overdue, Pruned, Receipt, Retention, is_enough};
use crate::error::BoxError;
use crate::event::{Envelope, JobId};
use crate::registry::JobRegistry;
use crate::store::{Fenced, StoreError};

/// An [`InboxStore`] in this process's memory, for tests.
///
/// **It is not durable**: events that it acknowledged are gone when the process ends. It counts time with tokio's
/// clock, so under paused time an hour passes at once. Cheap to clone; all clones are one inbox.
#[derive(Clone, Default)]
pub struct MemoryInbox {
    inner: Arc<Inner>,
}

struct Inner {
    rows: Mutex<Rows>,
    arrived: Notify,
    epoch: Instant,
}

/// The most rows that one call deletes or leaves without a body.
const PRUNE_ROWS: u64 = 1000;

impl MemoryInbox {
    /// Makes an empty inbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        let (now, epoch) = (Instant::now(), self.inner.epoch);
        // A paused clock of another runtime may be behind the one that made the inbox.
        match now.checked_duration_since(epoch) {
            Some(passed) => Timestamp(0).after(passed),
            None => Timestamp(0).before(epoch.duration_since(now)),
        }
    }

    /// Applies a transition to the row of a job, if there is one.
    fn change<T>(
        &self,
        job: &JobId,
        body: Option<&Bytes>,
        transition: impl FnOnce(&mut Row, Timestamp) -> (T, BodyChange),
    ) -> Option<T> {
        let (mut rows, now) = (self.rows(), self.now());
        let (result, has_become_due) = rows.change(job, body, now, |JobRow { row, .. }| {
            let before = row.phase;
            let (result, change) = transition(row, now);
            ((result, row.has_become_due(Some(before), now)), change)
        })?;
        drop(rows);
        if has_become_due {
            self.inner.arrived.notify_one();
        }
        Some(result)
    }

    fn write(
        &self,
        lease: &Lease,
        transition: impl FnOnce(&mut Row, u64, Timestamp) -> (Fenced, BodyChange),
    ) -> Fenced {
        let changed = self.change(lease.job(), None, |row, now| transition(row, lease.fence(), now));
        changed.unwrap_or(Fenced::Stale)
    }

    /// Leases up to `most` rows of a lookup.
    fn lease_from<T>(
        &self,
        lookup: Lookup,
        most: usize,
        mut lease: impl FnMut(&mut JobRow, Timestamp) -> Option<T>,
    ) -> Vec<T> {
        let (mut rows, now) = (self.rows(), self.now());
        let due = rows.first(lookup, now, most);
        let leased = due.into_iter().filter_map(|number| {
            rows.change_numbered(number, None, now, |entry| (lease(entry, now), BodyChange::Keep)).flatten()
        });
        leased.collect()
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self { rows: Mutex::default(), arrived: Notify::new(), epoch: Instant::now() }
    }
}

#[async_trait]
impl InboxStore for MemoryInbox {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        let (job, body) = (event.job(), event.body());
        let (mut rows, now) = (self.rows(), self.now());
        let received = rows.change(job, Some(body), now, |entry| {
            let differs = entry.body.as_ref().is_some_and(|kept| kept != body);
            entry.row.receive(KeptEvent::received(event), differs, now)
        });
        let receipt = received.unwrap_or_else(|| {
            rows.insert(job.clone(), Row::received(KeptEvent::received(event), now), Some(body.clone()));
            Receipt::Stored
        });
        drop(rows);
        if receipt == Receipt::Stored {
            self.inner.arrived.notify_one();
        }
        Ok(receipt)
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        let mut bytes = 0;
        Ok(self.lease_from(Lookup::Leasable, most, |JobRow { job, row, body, .. }, now| {
            let body = body.as_ref().filter(|_| !is_enough(bytes))?;
            bytes += body.len();
            row.lease(job.clone(), body.clone(), length, now)
        }))
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        Ok(self.write(lease, |row, fence, _| (row.begin(fence), BodyChange::Keep)))
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        Ok(self.write(lease, |row, fence, now| (row.renew(fence, length, now), BodyChange::Keep)))
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        let verified = self.change(lease.job(), Some(event.body()), |row, now| {
            row.verify(lease.fence(), KeptEvent::fetched(event), now)
        });
        Ok(verified.unwrap_or(Fenced::Stale))
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        Ok(self.write(lease, |row, _, now| row.settle(lease, outcome, now)))
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        let (mut rows, now) = (self.rows(), self.now());
        if rows.change(job, None, now, |entry| ((), entry.row.expect(deadline, now))).is_none() {
            rows.insert(job.clone(), Row::expected(deadline, now), None);
        }
        Ok(())
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        Ok(self.lease_from(Lookup::Expected, most, |JobRow { job, row, .. }, now| {
            row.overdue(job.clone(), length, now)
        }))
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        Ok(self.rows().get(job).is_some())
    }

    /// At most 1000 rows and bodies together.
    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let (mut rows, now) = (self.rows(), self.now());
        let mut pruned = Pruned::default();
        for (lookup, kept) in [
            (Lookup::DoneWithoutBody, Some(retention.row)),
            (Lookup::DoneWithBody, Some(retention.row)),
            (Lookup::Dead, retention.dead),
            (Lookup::DoneWithBody, Some(retention.payload)),
        ] {
            let Some(kept) = kept else { continue };
            let most = usize::try_from(PRUNE_ROWS.saturating_sub(pruned.total())).unwrap_or(0);
            for number in rows.first(lookup, now.before(kept), most) {
                let remains = rows.change_numbered(number, None, now, |JobRow { row, .. }| {
                    let remains = row.prune(retention, now);
                    let drops = remains == Remains::WithoutBody;
                    (remains, if drops { BodyChange::Drop } else { BodyChange::Keep })
                });
                match remains {
                    Some(Remains::Nothing) => {
                        rows.remove(number);
                        *if lookup == Lookup::Dead { &mut pruned.dead } else { &mut pruned.rows } += 1;
                    }
                    Some(Remains::WithoutBody) => pruned.payloads += 1,
                    Some(Remains::Everything) | None => {}
                }
            }
        }
        Ok(pruned)
    }

    async fn wait(&self) {
        self.inner.arrived.notified().await;
    }

    fn admin(&self) -> Option<&dyn InboxAdmin> {
        Some(self)
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
        f.debug_struct("MemoryInbox").field("rows", &self.rows().len()).finish()
    }
}
