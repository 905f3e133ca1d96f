//! Outcomes that are recorded together, in one statement.
//!
//! The statement records how runs usually end. It waits for no row: one that another transaction holds would delay all
//! others. The caller settles such a row with a statement of its own.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::types::Type;
use tracing::debug;

use super::batch::{BATCH_TIME, is_caused_by_a_row};
use super::queue::{self, Caller, Queue, Queued};
use super::{Inner, Parameter};
use crate::error::chain;
use crate::inbox::{Lease, Outcome};
use crate::postgres::{self, column, microseconds};
use crate::store::StoreError;

/// The most outcomes of one statement.
const BATCH: usize = 256;

/// An outcome that waits.
pub(super) struct Settling {
    lease: Lease,
    outcome: Outcome,
    caller: Caller<Settled>,
}

/// The fate of an outcome in the shared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Applied,
    /// The row is not under this lease, is locked, or is to change in another way: a statement for it alone must tell.
    Alone,
}

/// Records an outcome together with others, if it is one that the shared statement can record.
pub(super) async fn settle(
    inner: &Arc<Inner>,
    lease: &Lease,
    outcome: &Outcome,
) -> Result<Settled, StoreError> {
    if Change::of(outcome).is_none() || i64::try_from(lease.fence()).is_err() {
        return Ok(Settled::Alone);
    }
    queue::call(inner, |caller| Settling { lease: lease.clone(), outcome: outcome.clone(), caller }).await
}

/// The change of a running row by an outcome.
struct Change<'a> {
    state: &'static str,
    /// The time until the row is due again, in microseconds; `None` if it has ended.
    after: Option<i64>,
    error: Option<&'a str>,
    /// The number of attempts that do not count: one or none.
    uncounted: i32,
}

impl<'a> Change<'a> {
    fn of(outcome: &'a Outcome) -> Option<Self> {
        let change = |state, after, error, uncounted| Some(Self { state, after, error, uncounted });
        match outcome {
            Outcome::Done => change("done", None, None, 0),
            Outcome::Retry { after, error } => {
                change("received", Some(microseconds(*after)), Some(&**error), 0)
            }
            Outcome::Dead { error } => change("dead", None, Some(&**error), 0),
            Outcome::Release { after } => change("received", Some(microseconds(*after)), None, 1),
            Outcome::Rejected { .. } | Outcome::FetchAgain { .. } => None,
        }
    }
}

impl Queued for Settling {
    type Batch = Vec<Self>;

    fn queue(inner: &Inner) -> &Queue<Self> {
        &inner.settling
    }

    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }

    fn next_batch(waiting: &mut VecDeque<Self>) -> Option<Vec<Self>> {
        queue::take(waiting, BATCH)
    }

    async fn send(inner: &Arc<Inner>, batch: Vec<Self>) {
        let (mut callers, outcomes): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|settling| (settling.caller, (settling.lease, settling.outcome))).unzip();
        match queue::while_called(&mut callers, record(inner, &outcomes)).await {
            Err(StoreError::Unavailable(cause)) if is_caused_by_a_row(&*cause) => {
                debug!(error = %chain(&*cause), "the database refused a batch; settling its rows one by one");
                queue::end(callers, Ok(vec![Settled::Alone; outcomes.len()]));
            }
            settled => queue::end(callers, settled),
        }
    }
}

/// Sends the statement, and returns the fate of each outcome.
async fn record(inner: &Inner, batch: &[(Lease, Outcome)]) -> Result<Vec<Settled>, StoreError> {
    let jobs: Vec<String> = batch.iter().map(|(lease, _)| lease.job().to_string()).collect();
    let fences: Vec<i64> =
        batch.iter().map(|(lease, _)| i64::try_from(lease.fence()).unwrap_or(i64::MAX)).collect();
    let changes: Vec<Change<'_>> = batch.iter().filter_map(|(_, outcome)| Change::of(outcome)).collect();
    let states: Vec<&str> = changes.iter().map(|change| change.state).collect();
    let afters: Vec<Option<i64>> = changes.iter().map(|change| change.after).collect();
    let uncounted: Vec<i32> = changes.iter().map(|change| change.uncounted).collect();
    let took: Vec<Option<i64>> = changes
        .iter()
        .zip(batch)
        .map(|(change, (lease, _))| change.error.map(|_| microseconds(lease.held_for())))
        .collect();
    let rows = loop {
        let texts = inner.texts();
        let errors: Vec<Option<Cow<'_, str>>> =
            changes.iter().map(|change| change.error.map(|error| texts.storable(error))).collect();
        let parameters: [Parameter<'_>; 7] = [
            (&jobs, Type::TEXT_ARRAY),
            (&fences, Type::INT8_ARRAY),
            (&states, Type::TEXT_ARRAY),
            (&afters, Type::INT8_ARRAY),
            (&errors, Type::TEXT_ARRAY),
            (&took, Type::INT8_ARRAY),
            (&uncounted, Type::INT4_ARRAY),
        ];
        let query = postgres::query_leased(&inner.database, &inner.statements.settle, &parameters);
        match timeout(BATCH_TIME, query).await {
            Ok(Err(error)) if inner.must_escape(texts, &error) => {}
            Ok(rows) => break rows?,
            Err(late) => return Err(StoreError::unavailable(late)),
        }
    };
    let mut settled = vec![Settled::Alone; batch.len()];
    for row in &rows {
        if let Some(settled) = queue::place(column(row, "place")?, &mut settled) {
            *settled = Settled::Applied;
        }
    }
    Ok(settled)
}
