//! The statement that stores a batch of events, and the receipt of each.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tracing::debug;

use super::capacity::Reserved;
use super::received::Received;
use super::{Inner, Parameter, queue, tell};
use crate::error::{BoxError, chain};
use crate::event::{Envelope, TraceParent};
use crate::inbox::Receipt;
use crate::postgres::{self, column};
use crate::store::StoreError;

/// The longest time that a statement may take.
pub(super) const BATCH_TIME: Duration = Duration::from_secs(30);

/// The longest wait of a statement for a lock that another transaction holds.
const LOCK_TIME: Duration = Duration::from_millis(500);
/// The same while parts of a batch wait for their turn.
const LOCK_TIME_OF_PART: Duration = Duration::from_millis(10);
/// The same for an event alone, and its longest wait for its turn before: the sender's time limit for an answer.
const LOCK_TIME_ALONE: Duration = Duration::from_secs(5);

/// The most statements that look for the receipt of an event. Each one after the second means that other transactions wrote
/// and deleted the job's row meanwhile.
const LOOKS: u32 = 10;

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

/// Another transaction holds a lock that an event needs.
#[derive(Debug, thiserror::Error)]
#[error(
    "a transaction that has not ended holds the event's row, or another lock that storing the event needs"
)]
struct Locked(#[source] BoxError);

/// The database has stored no row, without an error.
#[derive(Debug, thiserror::Error)]
#[error("the database did not insert the event's row: does a trigger or a rule of the table suppress it?")]
struct Suppressed;

/// Stores a batch, and answers the callers.
///
/// A batch that is refused because of one row is stored in halves, and these likewise, until the row's event is alone. If
/// the row is locked, for example by a transaction that registers the job, its event waits beside the others.
pub(super) async fn store(inner: &Arc<Inner>, batch: Vec<Received>) {
    let deadline = Instant::now() + BATCH_TIME;
    let mut is_whole = true;
    let mut parts = vec![batch];
    while let Some(mut part) = parts.pop() {
        part.retain(Received::is_awaited);
        let was_whole = std::mem::replace(&mut is_whole, false);
        let lock_time = if was_whole { LOCK_TIME } else { LOCK_TIME_OF_PART };
        let stored = store_together(inner, part, !was_whole, lock_time).await;
        let Err(mut refused) = stored else { continue };
        // The whole batch may have waited for a lock until the server's time limit. Its parts wait for too short a time.
        let is_locked = refused.is_locked() || was_whole && refused.is_cancelled();
        let is_caused_by_a_row = is_locked || refused.is_caused_by_a_row();
        if is_caused_by_a_row && refused.events.len() > 1 && Instant::now() < deadline {
            debug!(error = %chain(&refused.error), "the database refused a batch; storing it in two parts");
            let second = refused.events.split_off(refused.events.len() / 2);
            parts.extend([second, refused.events]);
        } else if is_locked && was_whole {
            // A duplicate waits for no lock.
            parts.push(refused.events);
        } else if is_locked && refused.events.len() == 1 {
            refused.wait_alone(inner);
        } else {
            if !is_caused_by_a_row || refused.events.len() > 1 {
                // The others would fare no better.
                refused.events.extend(parts.drain(..).flatten());
            }
            refused.refuse();
        }
    }
}

/// Stores a batch in one statement, or in more if jobs have rows, and answers the callers of what it stored.
async fn store_together(
    inner: &Arc<Inner>,
    mut batch: Vec<Received>,
    mut may_be_known: bool,
    lock_time: Duration,
) -> Result<(), Refused> {
    for _ in 0..LOOKS {
        if batch.is_empty() {
            break;
        }
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
    for received in batch {
        received.refuse(|| StoreError::unavailable(Suppressed));
    }
    Ok(())
}

impl Refused {
    fn is_caused_by_a_row(&self) -> bool {
        matches!(&self.error, StoreError::Unavailable(cause) if is_caused_by_a_row(&**cause))
    }

    fn has_code(&self, code: &SqlState) -> bool {
        let StoreError::Unavailable(cause) = &self.error else { return false };
        postgres::code(&**cause) == Some(code)
    }

    fn is_locked(&self) -> bool {
        self.has_code(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether the statement took longer than the server's `statement_timeout`.
    fn is_cancelled(&self) -> bool {
        self.has_code(&SqlState::QUERY_CANCELED)
    }

    /// Lets a locked row's event wait beside others, while there is a connection for that.
    fn wait_alone(self, inner: &Arc<Inner>) {
        let inner = inner.clone();
        tokio::spawn(async move {
            let Ok(Ok(_turn)) = timeout(LOCK_TIME_ALONE, inner.alone.acquire()).await else {
                return self.refuse();
            };
            if let Err(refused) = store_together(&inner, self.events, true, LOCK_TIME_ALONE).await {
                refused.refuse();
            }
        });
    }

    fn refuse(self) {
        let is_locked = self.is_locked();
        let error = match self.error {
            StoreError::Unavailable(cause) if is_locked => StoreError::unavailable(Locked(cause)),
            error => error,
        };
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
    lock_time: Duration,
) -> Result<Vec<Found>, StoreError> {
    let reserved = Reserved::of(inner, batch).await;
    let jobs: Vec<String> = batch.iter().map(|received| received.event.job().to_string()).collect();
    let bodies: Vec<&[u8]> = batch.iter().map(|received| &**received.event.body()).collect();
    let traceparents = batch.iter().map(|received| received.event.traceparent().map(TraceParent::as_str));
    let traceparents: Vec<Option<&str>> = traceparents.collect();
    let lock_time = format!("{}ms", lock_time.as_millis());
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
