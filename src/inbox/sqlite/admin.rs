//! The calls of administration.

use async_trait::async_trait;
use bytes::Bytes;

use super::transaction::{PRUNE_BYTES, Transaction};
use super::{SqliteInbox, listing, reads, traffic};
use crate::event::JobId;
use crate::inbox::look::Change;
use crate::inbox::{
    Bulk, Changed, DeadByError, InboxAdmin, InboxCursor, InboxFilter, InboxList, InboxRow, InboxStats,
    InboxTraffic,
};
use crate::store::StoreError;

/// The most rows that one transaction changes: other writes wait meanwhile.
const STEP: usize = 500;

impl SqliteInbox {
    /// Changes the rows that match. They are found by a reader, so that writes wait only while rows are changed.
    async fn change_all(
        &self,
        filter: &InboxFilter,
        most: u64,
        bulk: Bulk,
        change: Change,
    ) -> Result<Changed, StoreError> {
        let (mut changed, mut from) = (0, InboxCursor::Oldest);
        while bulk == Bulk::Apply && changed < most {
            let step = usize::try_from(most - changed).unwrap_or(STEP).min(STEP);
            let found = self.find(filter, from, step, change).await?;
            let (ids, filter) = (found.ids, filter.clone());
            let last = ids.clone();
            let change_each =
                move |rows: &mut Transaction<'_>| rows.change_each(&ids, &filter, change, PRUNE_BYTES);
            let (rows, seen) = self.inner.writer.write(0, change_each).await?;
            changed += rows;
            let stopped_at = last.get(seen).and_then(|next| u64::try_from(*next).ok());
            match stopped_at.map(|next| InboxCursor::After(next.saturating_sub(1))).or(found.next) {
                Some(next) => from = next,
                None => return Ok(Changed::new(changed, false)),
            }
        }
        // The rows that are left, or would be.
        let left = most - changed;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(1);
        let found = self.find(filter, from, wanted, change).await?;
        let count = found.ids.len() as u64;
        Ok(Changed::new(changed + count.min(left), count > left || found.next.is_some()))
    }

    async fn find(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
        change: Change,
    ) -> Result<listing::Found, StoreError> {
        let filter = filter.clone();
        let readers = &self.inner.readers;
        readers.read(move |connection| listing::find(connection, &filter, from, most, Some(change))).await
    }
}

#[async_trait]
impl InboxAdmin for SqliteInbox {
    async fn list(
        &self,
        filter: &InboxFilter,
        from: InboxCursor,
        most: usize,
    ) -> Result<InboxList, StoreError> {
        let filter = filter.clone();
        self.inner.readers.read(move |connection| listing::list(connection, &filter, from, most)).await
    }

    async fn get(&self, job: &JobId) -> Result<Option<(InboxRow, Option<Bytes>)>, StoreError> {
        let job = job.clone();
        self.inner.readers.read(move |connection| reads::get(connection, &job)).await
    }

    async fn replay(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.clone();
        self.inner.writer.write(0, move |rows| rows.replay(&job)).await
    }

    async fn discard(&self, job: &JobId) -> Result<bool, StoreError> {
        let job = job.clone();
        self.inner.writer.write(0, move |rows| rows.discard(&job)).await
    }

    async fn replay_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.change_all(filter, most, bulk, Change::Replay).await
    }

    async fn discard_all(&self, filter: &InboxFilter, most: u64, bulk: Bulk) -> Result<Changed, StoreError> {
        self.change_all(filter, most, bulk, Change::Discard).await
    }

    async fn stats(&self) -> Result<InboxStats, StoreError> {
        let mut stats = self.inner.readers.read(reads::stats).await?;
        self.inner.limits.note(&mut stats);
        Ok(stats)
    }

    async fn traffic(&self) -> Result<Vec<InboxTraffic>, StoreError> {
        self.inner.readers.read(traffic::traffic).await
    }

    async fn dead_by_error(&self, most: usize) -> Result<DeadByError, StoreError> {
        self.inner.readers.read(move |connection| reads::dead_by_error(connection, most)).await
    }
}
