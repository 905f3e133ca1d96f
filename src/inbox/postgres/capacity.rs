//! The room of an inbox, counted in the database and reserved for batches.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tracing::debug;

use super::Inner;
use super::batch::{BATCH_TIME, Found};
use super::received::Received;
use super::room::Room;
use crate::error::chain;
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// The room reserved for a batch. Released on drop, as when the runtime is shut down during a statement.
pub(super) struct Reserved<'a> {
    room: &'a Room,
    lengths: Vec<usize>,
    /// Whether there is room for each event.
    pub(super) fits: Vec<bool>,
}

impl<'a> Reserved<'a> {
    /// Reserves room for as many events of a batch as possible. Counts the rows first if the count is missing, or is old
    /// and leaves no room for an event.
    pub(super) async fn of(inner: &'a Inner, batch: &[Received]) -> Self {
        if !inner.room.is_counted() {
            count(inner).await;
        }
        let reserved = Self::reserve(&inner.room, batch);
        if reserved.fits.contains(&false) && inner.room.is_count_due() {
            drop(reserved);
            count(inner).await;
            return Self::reserve(&inner.room, batch);
        }
        reserved
    }

    fn reserve(room: &'a Room, batch: &[Received]) -> Self {
        let lengths: Vec<usize> = batch.iter().map(|received| received.event.body().len()).collect();
        let fits = lengths.iter().map(|length| room.reserve(*length)).collect();
        Self { room, lengths, fits }
    }

    /// Notes the stored events, and releases the room of the others.
    pub(super) fn settle(mut self, found: &[Found]) {
        self.release(found);
        self.fits.clear();
    }

    fn release(&self, found: &[Found]) {
        let reserved = self.lengths.iter().zip(&self.fits).enumerate().filter(|(_, (_, fits))| **fits);
        for (place, (length, _)) in reserved {
            let stored = matches!(found.get(place), Some(Found::Receipt(Receipt::Stored)));
            self.room.settle(*length, stored);
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.release(&[]);
    }
}

/// Whether one more job may be registered. Counts the rows first if the count is missing, or is old and leaves no room.
pub(super) async fn has_room_to_expect(inner: &Inner) -> bool {
    if !inner.room.is_counted() {
        count(inner).await;
    }
    if !inner.room.has_room_to_expect() && inner.room.is_count_due() {
        count(inner).await;
    }
    inner.room.has_room_to_expect()
}

/// Counts the unfinished rows and the expected jobs. After a failure the earlier count stays.
pub(super) async fn count(inner: &Inner) {
    let count = inner.room.begin_count();
    let most = i64::try_from(inner.room.limits().rows).unwrap_or(i64::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&most, Type::INT8)];
    let query = postgres::query_seldom(&inner.database, &inner.statements.count, &parameters);
    let counted = match timeout(BATCH_TIME, query).await {
        Ok(rows) => rows.and_then(|rows| {
            let Some(row) = rows.first() else { return Ok([0; 4]) };
            let number = |name| column::<i64>(row, name);
            Ok([number("rows")?, number("bytes")?, number("expected")?, number("took")?])
        }),
        Err(late) => Err(StoreError::unavailable(late)),
    };
    match counted {
        Ok(counted) => {
            let [rows, bytes, expected, took] = counted.map(i64::unsigned_abs);
            inner.room.counted(&count, [rows, bytes, expected], Duration::from_micros(took));
        }
        Err(error) => {
            debug!(error = %chain(&error), "counting the unfinished rows failed; the earlier count stays");
        }
    }
}
