//! Leases that are renewed together, in one statement.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tracing::debug;

use super::batch::{BATCH_TIME, is_caused_by_a_row};
use super::queue::{self, Caller, Queue, Queued};
use super::{Inner, Parameter};
use crate::error::chain;
use crate::inbox::Lease;
use crate::postgres::{self, column, microseconds};
use crate::store::{Fenced, StoreError};

/// The most leases of one statement.
const BATCH: usize = 256;
/// The number of further looks of a renewal at a row that another transaction holds, and the pause before each: a second
/// in all.
const LOCKED_TRIES: u32 = 20;
const LOCKED_AGAIN: Duration = Duration::from_millis(50);

/// A renewal that waits.
pub(super) struct Renewing {
    lease: Lease,
    length: Duration,
    caller: Caller<Renewed>,
}

/// The fate of a renewal in the shared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewed {
    Applied,
    Stale,
    /// Another transaction holds the row.
    Locked,
}

/// Renews a lease together with others.
pub(super) async fn renew(inner: &Arc<Inner>, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
    if i64::try_from(lease.fence()).is_err() {
        return Ok(Fenced::Stale);
    }
    let mut tries_left = LOCKED_TRIES;
    loop {
        match queue::call(inner, |caller| Renewing { lease: lease.clone(), length, caller }).await? {
            Renewed::Applied => return Ok(Fenced::Applied),
            Renewed::Stale => return Ok(Fenced::Stale),
            // A dropped call releases the row soon; the transaction of a handler may take longer.
            Renewed::Locked if tries_left > 0 => tries_left -= 1,
            Renewed::Locked => {
                return Err(StoreError::unavailable(
                    "a transaction that has not ended holds the event's row",
                ));
            }
        }
        sleep(LOCKED_AGAIN).await;
    }
}

impl Queued for Renewing {
    type Batch = Vec<Self>;

    fn queue(inner: &Inner) -> &Queue<Self> {
        &inner.renewing
    }

    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn next_batch(waiting: &mut VecDeque<Self>) -> Option<Vec<Self>> {
        queue::take(waiting, BATCH)
    }

    async fn send(inner: &Arc<Inner>, batch: Vec<Self>) {
        let (mut callers, leases): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|renewing| (renewing.caller, (renewing.lease, renewing.length))).unzip();
        match queue::while_called(&mut callers, extend(inner, &leases)).await {
            Err(StoreError::Unavailable(cause)) if leases.len() > 1 && is_caused_by_a_row(&*cause) => {
                debug!(error = %chain(&*cause), "the database refused a batch; renewing its leases one by one");
                for (caller, lease) in callers.into_iter().zip(leases) {
                    let mut caller = [caller];
                    let renewed = queue::while_called(&mut caller, extend(inner, &[lease])).await;
                    queue::end(caller, renewed);
                }
            }
            renewed => queue::end(callers, renewed),
        }
    }
}

/// Sends the statement, and returns the fate of each renewal.
async fn extend(inner: &Inner, batch: &[(Lease, Duration)]) -> Result<Vec<Renewed>, StoreError> {
    let jobs: Vec<String> = batch.iter().map(|(lease, _)| lease.job().to_string()).collect();
    let fences: Vec<i64> =
        batch.iter().map(|(lease, _)| i64::try_from(lease.fence()).unwrap_or(i64::MAX)).collect();
    let lengths: Vec<i64> = batch.iter().map(|(_, length)| microseconds(*length)).collect();
    let parameters: [Parameter<'_>; 3] =
        [(&jobs, Type::TEXT_ARRAY), (&fences, Type::INT8_ARRAY), (&lengths, Type::INT8_ARRAY)];
    let query = postgres::query_leased(&inner.database, &inner.statements.renew, &parameters);
    let rows = timeout(BATCH_TIME, query).await.unwrap_or_else(|late| Err(StoreError::unavailable(late)))?;
    let mut all = vec![Renewed::Stale; batch.len()];
    for row in &rows {
        if let Some(renewed) = queue::place(column(row, "place")?, &mut all) {
            *renewed = if column(row, "renewed")? { Renewed::Applied } else { Renewed::Locked };
        }
    }
    Ok(all)
}
