//! The statement that stores a batch of events, and the receipt of each.

use std::borrow::Cow;
use std::error::Error;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tracing::debug;

use super::capacity::Reserved;
use super::received::Received;
use super::{Inner, Parameter, queue, tell};
use crate::error::chain;
use crate::event::{Envelope, TraceParent};
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// The longest time that a statement may take.
pub(super) const BATCH_TIME: Duration = Duration::from_secs(30);

/// How long a statement waits for a row that another transaction holds: with other events that wait too, with one event
/// while others wait for their turn, and with one event for which nobody else waits. The sender takes a delivery for failed
/// after the last.
const TOGETHER: &str = "500ms";
const ONE_BY_ONE: &str = "10ms";
const ALONE: &str = "5s";

/// The error of a call for a row that another transaction holds.
pub(super) const HELD: &str = "a transaction that has not ended holds the event's row";

/// The result of one statement for one event.
pub(super) enum Found {
    Receipt(Receipt),
    Full,
    /// The job has a row, or got one after the statement began: another statement returns the receipt.
    Later,
}

/// The events that a statement did not store, and why.
struct Refused {
    events: Vec<Received>,
    error: StoreError,
}

/// Stores a batch, and answers the callers.
///
/// A row that another transaction holds, for example one that registers the job, delays the other events of a batch only
/// [for a moment](TOGETHER). Its event then waits alone.
pub(super) async fn store(inner: &Arc<Inner>, batch: Vec<Received>) {
    let Err(mut refused) = store_together(inner, batch, TOGETHER).await else { return };
    if refused.events.len() > 1 && (refused.is_held() || refused.is_caused_by_a_row()) {
        debug!(error = %chain(&refused.error), "the database refused a batch; storing its events one by one");
        for received in mem::take(&mut refused.events) {
            if let Err(refused) = store_together(inner, vec![received], ONE_BY_ONE).await {
                refused.wait_or_answer(inner);
            }
        }
    } else {
        refused.wait_or_answer(inner);
    }
}

/// Stores a batch in one statement, or in more if jobs have rows, and answers the callers of what it stored.
async fn store_together(
    inner: &Arc<Inner>,
    mut batch: Vec<Received>,
    lock_time: &str,
) -> Result<(), Refused> {
    let mut may_be_known = false;
    while !batch.is_empty() {
        let found = match send(inner, &batch, may_be_known, lock_time).await {
            Ok(found) => found,
            Err(error) => return Err(Refused { events: batch, error }),
        };
        may_be_known = true;
        let mut later = Vec::new();
        let mut arrived = 0;
        for (received, found) in batch.into_iter().zip(found) {
            match found {
                Found::Receipt(receipt) => {
                    arrived += usize::from(receipt == Receipt::Stored);
                    received.answer(receipt);
                }
                Found::Full => received.refuse(|| StoreError::Full),
                Found::Later => later.push(received),
            }
        }
        tell::arrived(inner, arrived);
        batch = later;
    }
    Ok(())
}

impl Refused {
    fn is_caused_by_a_row(&self) -> bool {
        matches!(&self.error, StoreError::Unavailable(cause) if is_caused_by_a_row(&**cause))
    }

    /// Whether another transaction holds a row.
    fn is_held(&self) -> bool {
        let StoreError::Unavailable(cause) = &self.error else { return false };
        postgres::code(&**cause) == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Lets an event whose row is held wait alone if there is a connection for that. Otherwise answers the callers: the
    /// sender delivers the event again.
    fn wait_or_answer(self, inner: &Arc<Inner>) {
        if !self.is_held() {
            return self.answer();
        }
        let Ok(connection) = inner.held.clone().try_acquire_owned() else { return self.answer() };
        let inner = inner.clone();
        tokio::spawn(async move {
            if let Err(refused) = store_together(&inner, self.events, ALONE).await {
                refused.answer();
            }
            drop(connection);
        });
    }

    fn answer(self) {
        let error = if self.is_held() { StoreError::unavailable(HELD) } else { self.error };
        let error = queue::for_each(error);
        for received in self.events {
            received.refuse(&error);
        }
    }
}

/// Sends one statement, and returns its result for each event. Unless `may_be_known`, the statement only stores the first
/// events of jobs.
async fn send(
    inner: &Arc<Inner>,
    batch: &[Received],
    may_be_known: bool,
    lock_time: &str,
) -> Result<Vec<Found>, StoreError> {
    let reserved = Reserved::of(inner, batch).await;
    let jobs: Vec<String> = batch.iter().map(|received| received.event.job().to_string()).collect();
    let bodies: Vec<&[u8]> = batch.iter().map(|received| &**received.event.body()).collect();
    let traceparents = batch.iter().map(|received| received.event.traceparent().map(TraceParent::as_str));
    let traceparents: Vec<Option<&str>> = traceparents.collect();
    let statements = &inner.statements;
    let statement = if may_be_known { &statements.receive } else { &statements.receive_new };
    let rows = loop {
        let texts = inner.texts();
        let each = |read: fn(&Envelope) -> &str| -> Vec<Cow<'_, str>> {
            batch.iter().map(|received| texts.storable(read(&received.event))).collect()
        };
        let types = each(|event| event.job_type().as_str());
        let statuses = each(|event| event.status().as_str());
        let parameters: [Parameter<'_>; 7] = [
            (&jobs, Type::TEXT_ARRAY),
            (&types, Type::TEXT_ARRAY),
            (&statuses, Type::TEXT_ARRAY),
            (&bodies, Type::BYTEA_ARRAY),
            (&reserved.fits, Type::BOOL_ARRAY),
            (&traceparents, Type::TEXT_ARRAY),
            (&lock_time, Type::TEXT),
        ];
        let query = postgres::query(&inner.database, statement, &parameters);
        match timeout(BATCH_TIME, query).await {
            Ok(Err(error)) if inner.must_escape(texts, &error) => {}
            Ok(rows) => break rows,
            Err(late) => break Err(StoreError::unavailable(late)),
        }
    };
    let stored: Result<Vec<Found>, StoreError> = rows.and_then(|rows| {
        let full = |fits: &bool| may_be_known && !fits;
        let mut found: Vec<Found> =
            reserved.fits.iter().map(|fits| if full(fits) { Found::Full } else { Found::Later }).collect();
        for row in &rows {
            let receipt = match (column(row, "stored")?, column(row, "conflict")?) {
                (true, _) => Receipt::Stored,
                (false, Some(true)) => Receipt::Conflict,
                (false, Some(false)) => Receipt::Duplicate,
                (false, None) => continue,
            };
            if let Some(found) = queue::place(column(row, "place")?, &mut found) {
                *found = Found::Receipt(receipt);
            }
        }
        Ok(found)
    });
    reserved.settle(stored.as_deref().unwrap_or_default());
    stored
}

/// Whether a statement failed because of one row: its data, constraints, limits of a row, triggers, and damaged pages.
pub(super) fn is_caused_by_a_row(error: &(dyn Error + 'static)) -> bool {
    const CLASSES: [&str; 7] = ["22", "23", "44", "54", "P0", "XX001", "XX002"];
    postgres::code(error).is_some_and(|code| CLASSES.iter().any(|class| code.code().starts_with(class)))
}
