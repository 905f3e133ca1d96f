//! Reads and writes whole rows.

use std::borrow::Cow;

use ::rusqlite::types::{FromSqlError, ToSql};
use ::rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use bytes::Bytes;

use super::bodies::{Bodies, Damaged};
use super::integer;
use super::reads::{count, number, text};
use super::totals::state;
use crate::error::BoxError;
use crate::event::{JobId, JobStatus, JobType, TraceParent};
use crate::inbox::failed_attempts::FailedAttempts;
use crate::inbox::row::{Fetches, KeptEvent, Phase, Row, first_fence};
use crate::inbox::timestamp::Timestamp;
use crate::inbox::{InboxState, is_enough, read};

/// The columns that [`StoredRow::read`] reads.
macro_rules! columns {
    () => {
        "inbox.id, state, due_at, ended_at, job_type, status, verified, bytes, fence, begun, attempts,
        earlier_attempts, fetches, not_found, unanswered_since, next_fetch_at, deadline_at, error, received_at,
        failures, traceparent"
    };
}

const FIND: &str = concat!("SELECT ", columns!(), " FROM inbox WHERE job_id = ?1");
const FIND_NUMBERED: &str = concat!("SELECT ", columns!(), " FROM inbox WHERE id = ?1");
/// The next number of fetches of unfinished rows, and the earliest time at which such a row is due.
const NEXT_FETCHES: &str = "SELECT fetches, due_at FROM inbox
    WHERE state IN ('received', 'running') AND fetches >= ?1 AND due_at IS NOT NULL ORDER BY fetches, due_at LIMIT 1";
const DUE: &str = concat!(
    "SELECT ",
    columns!(),
    ", job_id, body FROM inbox LEFT JOIN inbox_body USING (id)
    WHERE state IN ('received', 'running') AND fetches = ?1 AND due_at <= ?2 ORDER BY due_at, inbox.id LIMIT ?3"
);
const DUE_APART: &str = concat!(
    "SELECT ",
    columns!(),
    ", job_id FROM inbox
    WHERE state IN ('received', 'running') AND fetches = ?1 AND due_at <= ?2 ORDER BY due_at, inbox.id LIMIT ?3"
);
pub(super) const BODY: &str = "SELECT body FROM inbox_body WHERE id = ?1";
pub(super) const FIRST_BODY: &str = "SELECT min(id) FROM inbox_body";
pub(super) const LAST_BODY: &str = "SELECT max(id) FROM inbox_body";
const NEXT_FETCHES_OF_EXPECTED: &str = "SELECT fetches, due_at FROM inbox
    WHERE state = 'expected' AND fetches >= ?1 AND due_at IS NOT NULL ORDER BY fetches, due_at LIMIT 1";
const OVERDUE: &str = concat!(
    "SELECT ",
    columns!(),
    ", job_id FROM inbox WHERE state = 'expected' AND fetches = ?1 AND due_at <= ?2 ORDER BY due_at, id LIMIT ?3"
);

/// The statements that find rows to lease: those of jobs with the fewest fetches first, then the longest due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookup {
    next_fetches: &'static str,
    due: &'static str,
    /// The same without the bodies.
    due_apart: &'static str,
    has_bodies: bool,
}

pub(super) const LEASABLE: Lookup =
    Lookup { next_fetches: NEXT_FETCHES, due: DUE, due_apart: DUE_APART, has_bodies: true };
pub(super) const OVERDUE_JOBS: Lookup =
    Lookup { next_fetches: NEXT_FETCHES_OF_EXPECTED, due: OVERDUE, due_apart: OVERDUE, has_bodies: false };

/// Rows without a body come first.
pub(super) const OLD_ROWS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM inbox WHERE state = 'done' AND bytes IS NULL AND ended_at <= ?1 UNION ALL SELECT ",
    columns!(),
    " FROM inbox WHERE state = 'done' AND bytes IS NOT NULL AND ended_at <= ?1 LIMIT ?2"
);
pub(super) const OLD_BODIES: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM inbox WHERE state = 'done' AND bytes IS NOT NULL AND ended_at <= ?1 ORDER BY ended_at LIMIT ?2"
);
pub(super) const OLD_DEAD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM inbox INDEXED BY inbox_died WHERE state = 'dead' AND ended_at <= ?1 ORDER BY ended_at LIMIT ?2"
);

const INSERT: &str = "INSERT INTO inbox (job_id, state, due_at, ended_at, job_type, status, verified, bytes, fence,
        begun, attempts, earlier_attempts, fetches, not_found, unanswered_since, next_fetch_at, deadline_at, error, received_at,
        failures, traceparent)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
    ON CONFLICT (job_id) DO NOTHING";
const UPDATE: &str = "UPDATE inbox SET state = ?2, due_at = ?3, ended_at = ?4, job_type = ?5, status = ?6, verified = ?7,
        bytes = ?8, fence = ?9, begun = ?10, attempts = ?11, earlier_attempts = ?12, fetches = ?13, not_found = ?14,
        unanswered_since = ?15, next_fetch_at = ?16, deadline_at = ?17, error = ?18, received_at = ?19,
        failures = ?20, traceparent = ?21
    WHERE id = ?1";
const DELETE: &str = "DELETE FROM inbox WHERE id = ?1";
const DIFFERS: &str = "SELECT EXISTS (SELECT 1 FROM inbox_body WHERE id = ?1 AND body <> ?2)";
const STORE_BODY: &str = "INSERT INTO inbox_body (id, body) VALUES (?1, ?2)
    ON CONFLICT (id) DO UPDATE SET body = excluded.body";
pub(super) const DELETE_BODY: &str = "DELETE FROM inbox_body WHERE id = ?1";

/// All statements, for a test of how they are run.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 19] = [
    FIND,
    FIND_NUMBERED,
    NEXT_FETCHES,
    DUE,
    DUE_APART,
    BODY,
    FIRST_BODY,
    LAST_BODY,
    NEXT_FETCHES_OF_EXPECTED,
    OVERDUE,
    OLD_ROWS,
    OLD_BODIES,
    OLD_DEAD,
    INSERT,
    UPDATE,
    DELETE,
    DIFFERS,
    STORE_BODY,
    DELETE_BODY,
];

/// A row, and its place in the table.
#[derive(Debug)]
pub(super) struct StoredRow {
    pub(super) id: i64,
    pub(super) row: Row,
}

/// A row that may be leased.
#[derive(Debug)]
pub(super) struct Leasable {
    pub(super) stored: StoredRow,
    /// The job, unless something else than this crate wrote an id or a fencing token that no lease can have.
    pub(super) job: Result<JobId, BoxError>,
    pub(super) body: Result<Option<Bytes>, Damaged>,
}

impl StoredRow {
    /// Reads the columns of `columns!`. Numbers that something else than this crate wrote are clamped.
    fn read(row: &SqlRow<'_>) -> ::rusqlite::Result<Self> {
        let time = |column| Ok::<_, ::rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp));
        // A missing time never comes.
        let at = |column| Ok::<_, ::rusqlite::Error>(time(column)?.unwrap_or(Timestamp::MAX));
        let phase = match state(&row.get_ref(1)?) {
            Some(InboxState::Expected) => Phase::Expected { overdue_at: at(2)? },
            Some(InboxState::Received) => Phase::Received { due_at: at(2)? },
            Some(InboxState::Running) => Phase::Running { until: at(2)? },
            Some(InboxState::Done) => Phase::Done { done_at: at(3)? },
            Some(InboxState::Dead) => Phase::Dead { dead_at: at(3)? },
            None => {
                let unknown: BoxError = "no version of this crate knows the row's state".into();
                return Err(FromSqlError::Other(unknown).into());
            }
        };
        let (status, bytes) = (text(row, 5)?, row.get::<_, Option<i64>>(7)?);
        let event = if status.is_some() || bytes.is_some() {
            Some(KeptEvent {
                job_type: JobType::from(&*text(row, 4)?.unwrap_or_default()),
                status: JobStatus::from(&*status.unwrap_or_default()),
                verified: row.get(6)?,
                bytes: bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
                traceparent: read::traceparent(text(row, 20)?),
            })
        } else {
            None
        };
        let fetches = Fetches {
            count: count(row, 12)?,
            not_found: count(row, 13)?,
            unanswered_since: time(14)?,
            next_at: time(15)?,
        };
        let id = row.get(0)?;
        let row = Row {
            phase,
            event,
            fence: number(row, 8)?.max(first_fence(number(row, 0)?)),
            begun: row.get(9)?,
            attempts: count(row, 10)?,
            earlier_attempts: count(row, 11)?,
            fetches,
            deadline: time(16)?,
            error: text(row, 17)?.map(Cow::into_owned),
            received_at: at(18)?,
            failures: FailedAttempts::from_column(text(row, 19)?.as_deref()),
        };
        Ok(Self { id, row })
    }
}

impl Leasable {
    fn read(row: &SqlRow<'_>) -> ::rusqlite::Result<Self> {
        let stored = StoredRow::read(row)?;
        // The number is the one that the row has before it is clamped.
        let fence: i64 = row.get(8)?;
        let job = || {
            read::fence(fence.saturating_add(1))?;
            Ok(read::job(row.get_ref(21)?.as_str()?)?)
        };
        let body = match row.as_ref().column_count() {
            23 => row.get::<_, Option<Vec<u8>>>(22)?.map(Bytes::from),
            _ => None,
        };
        Ok(Self { stored, job: job(), body: Ok(body) })
    }
}

/// Finds the row of a job.
pub(super) fn find(connection: &Connection, job: &JobId) -> ::rusqlite::Result<Option<StoredRow>> {
    connection.prepare_cached(FIND)?.query_row([job.to_string()], StoredRow::read).optional()
}

/// Finds the row with a number.
pub(super) fn find_numbered(connection: &Connection, id: i64) -> ::rusqlite::Result<Option<StoredRow>> {
    connection.prepare_cached(FIND_NUMBERED)?.query_row([id], StoredRow::read).optional()
}

impl Lookup {
    /// Finds up to `most` rows that are due, and no more once their bodies are as many bytes as one call leases. Rows that
    /// are not due cost nothing, however many there are.
    pub(super) fn find(
        self,
        connection: &Connection,
        now: Timestamp,
        most: usize,
        bodies: &Bodies,
    ) -> ::rusqlite::Result<Vec<Leasable>> {
        let statement = if bodies.are_apart() { self.due_apart } else { self.due };
        let (mut found, mut bytes, mut from) = (Vec::new(), 0, Some(i64::MIN));
        while found.len() < most
            && !is_enough(bytes)
            && let Some((fetches, earliest)) = self.next(connection, from)?
        {
            if earliest <= now {
                let mut due = connection.prepare_cached(statement)?;
                let left = integer(most - found.len());
                let mut rows = due.query_map(params![fetches, now.0, left], Leasable::read)?;
                while !is_enough(bytes)
                    && let Some(mut row) = rows.next().transpose()?
                {
                    if self.has_bodies && bodies.are_apart() {
                        row.body = bodies.read(connection, row.stored.id)?;
                    }
                    bytes += row.body.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
                    found.push(row);
                }
            }
            from = fetches.checked_add(1);
        }
        bodies.check()?;
        Ok(found)
    }

    /// The earliest time at which a row is due.
    pub(super) fn earliest(self, connection: &Connection) -> ::rusqlite::Result<Option<Timestamp>> {
        let (mut found, mut from) = (None, Some(i64::MIN));
        while let Some((fetches, earliest)) = self.next(connection, from)? {
            found = Some(found.map_or(earliest, |found: Timestamp| found.min(earliest)));
            from = fetches.checked_add(1);
        }
        Ok(found)
    }

    /// The smallest number of fetches from this one on, and the earliest time at which a row with it is due.
    fn next(
        self,
        connection: &Connection,
        from: Option<i64>,
    ) -> ::rusqlite::Result<Option<(i64, Timestamp)>> {
        let Some(from) = from else { return Ok(None) };
        let mut next = connection.prepare_cached(self.next_fetches)?;
        next.query_row([from], |row| Ok((row.get(0)?, Timestamp(row.get(1)?)))).optional()
    }
}

/// Finds up to `most` rows that had ended at a time, in the order of the statement; no more once their bodies have
/// this many bytes together.
pub(super) fn old(
    connection: &Connection,
    statement: &str,
    ended_until: Timestamp,
    most: usize,
    most_bytes: u64,
) -> ::rusqlite::Result<Vec<StoredRow>> {
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(params![ended_until.0, integer(most)])?;
    let (mut old, mut bytes) = (Vec::new(), 0);
    while bytes < most_bytes {
        let Some(row) = rows.next()? else { break };
        let stored = StoredRow::read(row)?;
        bytes += stored.row.bytes();
        old.push(stored);
    }
    Ok(old)
}

/// Inserts a row, unless the job has one. Returns the place of the new row.
pub(super) fn insert(connection: &Connection, job: &JobId, row: &Row) -> ::rusqlite::Result<Option<i64>> {
    let inserted = bind(&job.to_string(), row, |values| connection.prepare_cached(INSERT)?.execute(values))?;
    Ok((inserted == 1).then(|| connection.last_insert_rowid()))
}

pub(super) fn update(connection: &Connection, stored: &StoredRow) -> ::rusqlite::Result<()> {
    bind(&stored.id, &stored.row, |values| connection.prepare_cached(UPDATE)?.execute(values)).map(drop)
}

/// Calls `run` with a first value and the row's columns, in the order of [`INSERT`] and [`UPDATE`].
fn bind<T>(first: &dyn ToSql, row: &Row, run: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
    let Row { event, fence, begun, attempts, earlier_attempts, fetches, deadline, error, .. } = row;
    let time = |time: &Option<Timestamp>| time.map(|time| time.0);
    let event = event.as_ref();
    run(params![
        first,
        row.state().as_str(),
        time(&row.due_at()),
        time(&row.ended_at()),
        event.map(|event| event.job_type.as_str()),
        event.map(|event| event.status.as_str()),
        event.is_some_and(|event| event.verified),
        event.and_then(|event| event.bytes).map(integer),
        integer(*fence),
        begun,
        attempts,
        earlier_attempts,
        fetches.count,
        fetches.not_found,
        time(&fetches.unanswered_since),
        time(&fetches.next_at),
        time(deadline),
        error,
        row.received_at.0,
        row.failures.to_column(),
        event.and_then(|event| event.traceparent.as_ref()).map(TraceParent::as_str),
    ])
}

pub(super) fn delete(connection: &Connection, id: i64) -> ::rusqlite::Result<()> {
    connection.prepare_cached(DELETE)?.execute([id]).map(drop)
}

/// Whether a row has another body than this.
pub(super) fn differs(connection: &Connection, id: i64, body: &[u8]) -> ::rusqlite::Result<bool> {
    connection.prepare_cached(DIFFERS)?.query_row(params![id, body], |row| row.get(0))
}

pub(super) fn store_body(connection: &Connection, id: i64, body: &[u8]) -> ::rusqlite::Result<()> {
    connection.prepare_cached(STORE_BODY)?.execute(params![id, body]).map(drop)
}
