//! The room of an inbox, counted in the database and reserved for batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{timeout, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tracing::debug;

use super::Inner;
use super::batch::{BATCH_TIME, Found};
use super::received::Received;
use super::room::{Count, Room};
use crate::error::chain;
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// The time for which events wait for the first count.
const FIRST_COUNT: Duration = Duration::from_secs(1);

/// The room reserved for a batch. Released on drop, as when the runtime is shut down during a statement.
pub(super) struct Reserved<'a> {
    room: &'a Room,
    lengths: Vec<usize>,
    /// Whether there is room for each event.
    pub(super) fits: Vec<bool>,
}

impl<'a> Reserved<'a> {
    /// Reserves room for as many events of a batch as possible.
    pub(super) async fn of(inner: &'a Arc<Inner>, batch: &[Received]) -> Self {
        first_count(inner).await;
        Self::reserve(&inner.room, batch)
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

/// Whether one more job may be registered.
pub(super) async fn has_room_to_expect(inner: &Arc<Inner>) -> bool {
    first_count(inner).await;
    inner.room.has_room_to_expect()
}

/// Makes a call that may find the inbox full, and makes it again if the rows were not counted just before: others may have
/// made room since.
pub(super) async fn refuse_by_a_new_count<R, F>(
    inner: &Arc<Inner>,
    call: impl Fn() -> F,
) -> Result<R, StoreError>
where
    F: Future<Output = Result<R, StoreError>>,
{
    let counts = inner.room.counts();
    let called = call().await;
    if !matches!(called, Err(StoreError::Full)) {
        return called;
    }
    if inner.room.counts() == counts && inner.room.is_count_old() {
        count(inner).await;
    }
    if inner.room.counts() == counts { called } else { call().await }
}

/// Lets the rows be counted if they were not yet. Waits for that, but not for long: a scan of a large backlog must not keep
/// events from being stored after a start.
async fn first_count(inner: &Arc<Inner>) {
    if inner.room.is_counted() {
        return;
    }
    let ended = inner.room.count_ended();
    count_if_due(inner);
    if let Some(began) = inner.room.counting_since() {
        // The limits hold for what this process has stored until the count ends.
        let _ = timeout_at(began + FIRST_COUNT, ended).await;
    }
}

/// Begins to count beside the caller if it is time for that.
pub(super) fn count_if_due(inner: &Arc<Inner>) {
    if inner.room.is_count_due() {
        begin_count(inner);
    }
}

/// Waits for the end of a count that is under way, or that begins now.
async fn count(inner: &Arc<Inner>) {
    let ended = inner.room.count_ended();
    begin_count(inner);
    ended.await;
}

/// Begins to count beside the caller, unless a count is under way.
fn begin_count(inner: &Arc<Inner>) {
    let Some(count) = Count::begin(&inner.room) else { return };
    // Without a runtime, the count is dropped, and has failed.
    let Ok(runtime) = Handle::try_current() else { return };
    let inner = inner.clone();
    runtime.spawn(async move {
        match counted(&inner).await {
            Ok([rows, bytes, expected, took]) => {
                count.end([rows, bytes, expected], Duration::from_micros(took));
            }
            Err(error) => {
                debug!(error = %chain(&error), "counting the unfinished rows failed; the earlier count stays");
            }
        }
    });
}

/// Counts the unfinished rows, their bytes and the expected jobs, and returns the microseconds that it took, too.
async fn counted(inner: &Inner) -> Result<[u64; 4], StoreError> {
    let most = i64::try_from(inner.room.limits().rows).unwrap_or(i64::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&most, Type::INT8)];
    let query = postgres::query_seldom(&inner.database, &inner.statements.count, &parameters);
    let rows = timeout(BATCH_TIME, query).await.map_err(StoreError::unavailable)??;
    let Some(row) = rows.first() else { return Ok([0; 4]) };
    let number = |name| column::<i64>(row, name).map(i64::unsigned_abs);
    Ok([number("rows")?, number("bytes")?, number("expected")?, number("took")?])
}
