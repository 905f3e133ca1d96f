//! Statements that begin and keep leases.

use super::fragments::{
    EXPECTED, LEASABLE, LEASED, RUNNING, counts, expected_again, expired_attempt, from_now, history,
    microseconds, next_fence, one_more, since,
};
use super::{FETCHED, NEVER_FETCHED};
use crate::inbox::MOST_LEASED;
use crate::postgres::TableName;

/// Whether a statement returns the values that the server may be unable to read or to convert: damaged ones beside the
/// table, and texts that another program wrote. One such value fails the statement, and all rows with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Values {
    Returned,
    /// Another statement returns them, row by row.
    Left,
}

/// The values of a leased event that may be unreadable.
const VALUES: &str = "job_id, body, traceparent";
/// The rows that are withheld until they are read. Another event, or a replay, would make such a row due at once.
const UNREAD: &str = "state IN ('received', 'running') AND job.due_at > clock_timestamp()";

/// Leases due rows; without their values, only withholds them from other calls until [`read`] leases each. Those that were
/// never fetched come first, and of those that it locks for that no more than one call leases.
/// The look at them begins at $3, and its result says where the next one may begin.
///
/// The planner does not see the values of $1 and $3, which are in subqueries. If it did, a plan for the values at hand would
/// seem to cost less than one for all values, and a prepared statement would be planned at each call, for 0.8 ms.
pub(super) fn lease(table: &TableName, values: Values) -> String {
    const FROM: &str = "(SELECT coalesce('epoch'::timestamptz + $3 * interval '1 microsecond', '-infinity'))";
    let (values, begins) = match values {
        Values::Returned => (VALUES.to_owned(), begins("was_begun", "job.attempts", &expired_attempt("due"))),
        Values::Left => {
            let ended = microseconds("greatest(due.due_at, 'epoch')");
            (format!("{ended} AS expired_at"), String::new())
        }
    };
    format!(
        "WITH RECURSIVE fresh AS MATERIALIZED (
            SELECT {due} FROM {table}
            WHERE {NEVER_FETCHED} AND due_at >= {FROM} AND due_at <= statement_timestamp()
            ORDER BY due_at, number LIMIT (SELECT $1) FOR NO KEY UPDATE SKIP LOCKED
        ), {counts}, fetched AS MATERIALIZED (
            SELECT due.* FROM counts, LATERAL (
                SELECT {due} FROM {table}
                WHERE {FETCHED} AND fetches = counts.fetches AND due_at <= statement_timestamp()
                ORDER BY due_at, number LIMIT (SELECT $1) FOR NO KEY UPDATE SKIP LOCKED
            ) AS due
            LIMIT (SELECT $1) - (SELECT count(*) FROM fresh)
        ), few AS (
            SELECT * FROM (
                SELECT *, sum(bytes) OVER (ORDER BY earlier_fetches, due_at, number) - bytes AS before
                FROM (SELECT * FROM fresh UNION ALL SELECT * FROM fetched) AS due
            ) AS due WHERE before < {MOST_LEASED}
        ), leased AS (
            UPDATE {table} AS job SET due_at = {until}, fence = {next}{begins}
            FROM few AS due WHERE job.number = due.number
            RETURNING {values}, job.fence, job.attempts, earlier_attempts, expired, was_begun,
                verified, {expected_again} AS expected_again, {age} AS age, {history}, due.due_at AS due_since, job.number
        )
        SELECT leased.*, {seen} FROM ({look}) AS look LEFT JOIN leased ON true
        ORDER BY fetches, due_since, number",
        due = "number, due_at, state = 'running' AS expired, state = 'running' AND begun AS was_begun,
            fetches AS earlier_fetches, coalesce(octet_length(body), 0) AS bytes",
        until = from_now(2),
        next = next_fence(),
        expected_again = expected_again(),
        age = since("received_at"),
        history = history(),
        counts = counts(table, FETCHED),
        seen = seen(),
        look = look(table, FROM),
    )
}

/// The changes of a row's columns with which an attempt begins.
fn begins(begun: &str, attempts: &str, failures: &str) -> String {
    let one_more = one_more(attempts);
    format!(", state = 'running', attempts = {one_more}, begun = {begun}, failures = {failures}")
}

/// Looks from the beginning for the first due row.
pub(super) fn look_at_all(table: &TableName) -> String {
    format!("SELECT {} FROM ({}) AS look", seen(), look(table, "'-infinity'"))
}

fn look(table: &TableName, from: &str) -> String {
    format!(
        "SELECT txid_current_snapshot() AS snapshot, (
            SELECT due_at FROM {table}
            WHERE {NEVER_FETCHED} AND due_at >= {from} AND due_at <= statement_timestamp()
            ORDER BY due_at LIMIT 1
        ) AS first"
    )
}

/// The columns that [`Seen`](super::super::head::Seen) reads.
fn seen() -> String {
    format!(
        "{} AS now, {} AS first, txid_snapshot_xmin(snapshot) AS ended, txid_current_if_assigned() AS last",
        microseconds("statement_timestamp()"),
        microseconds("greatest(least(look.first, statement_timestamp()), 'epoch')"),
    )
}

/// Notes that the handler begins.
pub(super) fn begin(table: &TableName) -> String {
    format!("UPDATE {table} SET begun = true WHERE {LEASED} AND state = {RUNNING} RETURNING true")
}

/// Renews many leases. Does not wait for a handler that has completed an event in a transaction, and keeps the row locked:
/// other leases would not be renewed meanwhile. A transaction that only refers to the row does not lock it.
pub(super) fn renew(table: &TableName) -> String {
    format!(
        "WITH given AS MATERIALIZED (
            SELECT job_id COLLATE \"C\" AS job_id, fence, length, place
            FROM unnest($1, $2, $3) WITH ORDINALITY AS given (job_id, fence, length, place)
        ), free AS MATERIALIZED (
            SELECT number, length FROM given JOIN {table} AS job USING (job_id, fence)
            WHERE state IN ({LEASABLE}) FOR NO KEY UPDATE OF job SKIP LOCKED
        ), renewed AS (
            UPDATE {table} AS job SET due_at = clock_timestamp() + length * interval '1 microsecond'
            FROM free WHERE job.number = free.number
            RETURNING job.number
        )
        SELECT place, renewed.number IS NOT NULL AS renewed
        FROM given JOIN {table} AS job USING (job_id, fence) LEFT JOIN renewed USING (number)
        WHERE state IN ({LEASABLE})"
    )
}

/// Leases overdue jobs.
pub(super) fn overdue(table: &TableName, values: Values) -> String {
    let values = match values {
        Values::Returned => "job_id",
        Values::Left => "NULL AS job_id",
    };
    format!(
        "WITH RECURSIVE {counts}, overdue AS MATERIALIZED (
            SELECT overdue.* FROM counts, LATERAL (
                SELECT number, due_at FROM {table}
                WHERE {EXPECTED} AND fetches = counts.fetches AND due_at <= statement_timestamp()
                ORDER BY due_at, number LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
            ) AS overdue
            LIMIT $1
        ), leased AS (
            UPDATE {table} AS job SET due_at = {until}, fence = {next}
            FROM overdue WHERE job.number = overdue.number
            RETURNING job.number, {values}, job.fence, {overdue_by} AS overdue_by, {history}, overdue.due_at AS due_since
        )
        SELECT * FROM leased ORDER BY fetches, due_since, number",
        until = from_now(2),
        next = next_fence(),
        overdue_by = since("coalesce(deadline_at, received_at)"),
        history = history(),
        counts = counts(table, EXPECTED),
    )
}

/// Leases one of these rows, and returns its values: notes the attempt whose lease expired at $4, if $3, and counts one more
/// than $5, however often the statement is repeated. A row that changed meanwhile is due.
pub(super) fn read(table: &TableName) -> String {
    let failures = format!("CASE attempts WHEN $5 THEN {} ELSE failures END", expired_attempt("due"));
    format!(
        "UPDATE {table} AS job SET due_at = job.due_at{begins}
        FROM (SELECT $3 AS expired, 'epoch'::timestamptz + $4 * interval '1 microsecond' AS due_at) AS due
        WHERE number = $1 AND fence = $2 AND {UNREAD}
        RETURNING {VALUES}, attempts",
        begins = begins("state = 'running' AND begun", "$5::int4", &failures),
    )
}

/// Returns the value of one overdue job that is leased.
pub(super) fn read_overdue(table: &TableName) -> String {
    format!("SELECT job_id FROM {table} WHERE number = $1 AND fence = $2 AND {EXPECTED}")
}

/// Ends a lease of a row that cannot be read. A row whose event is gone has no status, either.
pub(super) fn set_aside(table: &TableName) -> String {
    format!(
        "UPDATE {table} AS job SET state = 'dead', due_at = NULL, ended_at = clock_timestamp(), error = $3,
            status = CASE WHEN body IS NOT NULL THEN status END,
            traceparent = CASE WHEN body IS NOT NULL THEN traceparent END
        WHERE number = $1 AND fence = $2 AND (state IN ({LEASABLE}) OR {UNREAD})
        RETURNING true"
    )
}
