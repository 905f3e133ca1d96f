//! The calls that only read.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::rusqlite::{Connection, OptionalExtension, Row};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::place::Place;
use super::totals::state;
use super::{integer, now, rows, schema};
use crate::event::JobId;
use crate::inbox::failed_attempts::FailedAttempts;
use crate::inbox::timestamp::Timestamp;
use crate::inbox::{DeadByError, InboxRow, InboxState, InboxStats, read};
use crate::store::StoreError;

/// The most reads at once.
const READERS: usize = 4;

/// Connections that read, each opened when it is first needed.
pub(super) struct Readers {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

struct Shared {
    path: PathBuf,
    place: Option<Arc<Place>>,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path, place: Option<Arc<Place>>, busy_timeout: Duration) -> Self {
        let shared = Shared { path: path.to_owned(), place, busy_timeout, idle: Mutex::default() };
        Self { shared: Arc::new(shared), room: Arc::new(Semaphore::new(READERS)) }
    }

    /// Runs a read where it may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> ::rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let runtime = Handle::try_current().map_err(StoreError::unavailable)?;
        let room = self.room.clone().acquire_owned().await.map_err(StoreError::unavailable)?;
        let shared = self.shared.clone();
        let task = runtime.spawn_blocking(move || {
            let _room = room;
            shared.read(read)
        });
        task.await.map_err(StoreError::unavailable)?
    }
}

impl Shared {
    fn read<T>(&self, read: impl FnOnce(&Connection) -> ::rusqlite::Result<T>) -> Result<T, StoreError> {
        self.check()?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let value = read(&connection).map_err(StoreError::unavailable)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(value)
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let opened = schema::open_to_read(&self.path, self.busy_timeout).map_err(StoreError::unavailable)?;
        // The file may have been replaced meanwhile.
        self.check()?;
        Ok(opened)
    }

    /// Fails if the file is no longer the one that was opened.
    fn check(&self) -> Result<(), StoreError> {
        self.place.as_ref().map_or(Ok(()), |place| place.check()).map_err(StoreError::unavailable)
    }
}

pub(super) const CONTAINS: &str = "SELECT EXISTS (SELECT 1 FROM inbox WHERE job_id = ?1)";

pub(super) fn contains(connection: &Connection, job: &JobId) -> ::rusqlite::Result<bool> {
    connection.prepare_cached(CONTAINS)?.query_row([job.to_string()], |row| row.get(0))
}

const COLUMNS: &str =
    "inbox.id, job_id, state, job_type, status, attempts, earlier_attempts, error, received_at, due_at,
        verified, fetches, failures, traceparent";

pub(super) fn numbered(
    connection: &Connection,
    id: i64,
    now: Timestamp,
) -> ::rusqlite::Result<Option<InboxRow>> {
    let statement = format!("SELECT {COLUMNS} FROM inbox WHERE id = ?1");
    connection.prepare_cached(&statement)?.query_row([id], |row| view(row, now)).optional()
}

pub(super) fn get(
    connection: &Connection,
    job: &JobId,
) -> ::rusqlite::Result<Option<(InboxRow, Option<Bytes>)>> {
    // A row without its body may have left a damaged one.
    let body =
        "CASE WHEN bytes IS NOT NULL THEN (SELECT body FROM inbox_body WHERE inbox_body.id = inbox.id) END";
    let statement = format!("SELECT {COLUMNS}, {body} FROM inbox WHERE job_id = ?1");
    let now = now();
    connection
        .prepare_cached(&statement)?
        .query_row([job.to_string()], |row| {
            Ok((view(row, now)?, row.get::<_, Option<Vec<u8>>>(14)?.map(Bytes::from)))
        })
        .optional()
}

pub(super) const STATS: &str = "SELECT state, rows, bytes FROM inbox_total";

pub(super) fn stats(connection: &Connection) -> ::rusqlite::Result<InboxStats> {
    let mut stats = InboxStats::default();
    // One snapshot for all statements. Ended by its drop.
    let _snapshot = connection.unchecked_transaction()?;
    let now = now();
    let mut statement = connection.prepare_cached(STATS)?;
    let mut totals = statement.query([])?;
    while let Some(total) = totals.next()? {
        let Some(state) = state(&total.get_ref(0)?) else { continue };
        let bytes = number(total, 2)?;
        *stats.rows_mut(state) = number(total, 1)?;
        stats.bytes = stats.bytes.saturating_add(bytes);
        if !matches!(state, InboxState::Done | InboxState::Dead) {
            stats.unfinished_bytes = stats.unfinished_bytes.saturating_add(bytes);
        }
    }
    let oldest = |lookup: rows::Lookup| {
        let earliest = lookup.earliest(connection)?.filter(|due| *due <= now);
        Ok::<_, ::rusqlite::Error>(earliest.map(|due| now.since(due)))
    };
    (stats.oldest_due, stats.oldest_overdue) = (oldest(rows::LEASABLE)?, oldest(rows::OVERDUE_JOBS)?);
    Ok(stats)
}

pub(super) const DEAD_ERRORS: &str =
    "SELECT error FROM inbox INDEXED BY inbox_dead WHERE state = 'dead' ORDER BY id DESC LIMIT ?1";

pub(super) fn dead_by_error(connection: &Connection, most: usize) -> ::rusqlite::Result<DeadByError> {
    let mut statement = connection.prepare_cached(DEAD_ERRORS)?;
    let mut rows = statement.query([integer(most.saturating_add(1))])?;
    let mut errors = Vec::new();
    while let Some(row) = rows.next()? {
        errors.push(text(row, 0)?.unwrap_or_default().into_owned());
    }
    let more = errors.len() > most;
    errors.truncate(most);
    Ok(DeadByError::new(errors, more))
}

/// A row for people, whatever its content.
fn view(row: &Row<'_>, now: Timestamp) -> ::rusqlite::Result<InboxRow> {
    let due: Option<i64> = row.get(9)?;
    let owned = |column| Ok::<_, ::rusqlite::Error>(text(row, column)?.map(Cow::into_owned));
    let (state, error) = read::state(&text(row, 2)?.unwrap_or_default(), owned(7)?);
    Ok(InboxRow {
        number: number(row, 0)?,
        job_id: owned(1)?.unwrap_or_default(),
        state,
        job_type: owned(3)?,
        status: owned(4)?,
        attempts: count(row, 5)?,
        earlier_attempts: count(row, 6)?,
        error,
        age: now.since(Timestamp(row.get(8)?)),
        verified: row.get(10)?,
        traceparent: read::traceparent(text(row, 13)?),
        fetches: count(row, 11)?,
        failures: FailedAttempts::from_column(text(row, 12)?.as_deref()).view(now),
        due_in: due.map(|due| Timestamp(due).since(now)),
    })
}

/// A text in a column, whatever its bytes are.
pub(super) fn text<'r>(row: &'r Row<'_>, column: usize) -> ::rusqlite::Result<Option<Cow<'r, str>>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.map(String::from_utf8_lossy))
}

/// A number in a column that is never negative; if it is, zero.
pub(super) fn number(row: &Row<'_>, column: usize) -> ::rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// A number as above that is not large.
pub(super) fn count(row: &Row<'_>, column: usize) -> ::rusqlite::Result<u32> {
    Ok(u32::try_from(number(row, column)?).unwrap_or(u32::MAX))
}
