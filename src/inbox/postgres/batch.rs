//! The statement that stores a batch of events, and the receipt of each.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tracing::debug;

use super::capacity::Reserved;
use super::received::Received;
use super::{Inner, queue, tell};
use crate::error::chain;
use crate::event::{Envelope, TraceParent};
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// The longest time that a statement may take.
pub(super) const BATCH_TIME: Duration = Duration::from_secs(30);

/// The result of one statement for one event.
pub(super) enum Found {
    Receipt(Receipt),
    Full,
    /// The job has a row, or got one after the statement began: another statement returns the receipt.
    Later,
}

/// Stores a batch, and answers the callers.
pub(super) async fn store(inner: &Arc<Inner>, mut batch: Vec<Received>) {
    let mut may_be_known = false;
    while !batch.is_empty() {
        let sent = send(inner, &batch, may_be_known).await;
        may_be_known = true;
        let error = match sent {
            Ok(found) => {
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
                continue;
            }
            Err(error) => error,
        };
        match error {
            StoreError::Unavailable(cause) if batch.len() > 1 && is_caused_by_a_row(&*cause) => {
                debug!(error = %chain(&*cause), "the database refused a batch; storing its events one by one");
                for received in batch {
                    Box::pin(store(inner, vec![received])).await;
                }
                return;
            }
            error => {
                let error = queue::for_each(error);
                for received in batch {
                    received.refuse(&error);
                }
                return;
            }
        }
    }
}

/// Sends one statement, and returns its result for each event. Unless `may_be_known`, the statement only stores the first
/// events of jobs.
async fn send(inner: &Arc<Inner>, batch: &[Received], may_be_known: bool) -> Result<Vec<Found>, StoreError> {
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
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&jobs, Type::TEXT_ARRAY),
            (&types, Type::TEXT_ARRAY),
            (&statuses, Type::TEXT_ARRAY),
            (&bodies, Type::BYTEA_ARRAY),
            (&reserved.fits, Type::BOOL_ARRAY),
            (&traceparents, Type::TEXT_ARRAY),
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
