//! Statements of administration.

use super::fragments::{EXPECTED, microseconds, since, until};
use super::search::{can, replayed};
use super::{FETCHED, NEVER_FETCHED, UNFINISHED};
use crate::inbox::look::Change;
use crate::postgres::TableName;

/// Exact counts end at this many unfinished rows, and at this many that have ended.
const MOST_UNFINISHED: u32 = 100_000;
const MOST_ENDED: u32 = 10_000;

pub(super) fn get(table: &TableName) -> String {
    format!("SELECT {}, body FROM {table} WHERE job_id = $1", view())
}

pub(super) fn view() -> String {
    format!(
        "number, job_id, state, job_type, status, verified, fetches, attempts, earlier_attempts, error,
            traceparent, failures::text AS failures, {} AS now, {} AS age, {} AS due_in",
        microseconds("statement_timestamp()"),
        since("received_at"),
        until("due_at"),
    )
}

pub(super) fn replay(table: &TableName) -> String {
    format!(
        "UPDATE {table} AS job SET {} WHERE job_id = $1 AND {} RETURNING true",
        replayed(),
        can(Some(Change::Replay))
    )
}

pub(super) fn discard(table: &TableName) -> String {
    format!("DELETE FROM {table} WHERE job_id = $1 AND {} RETURNING true", can(Some(Change::Discard)))
}

/// Counts the rows of each index up to a limit. Further rows are estimated: the server keeps the size of each index.
pub(super) fn stats(table: &TableName) -> String {
    let parts = [
        ("due", NEVER_FETCHED, "due_at", MOST_UNFINISHED),
        ("fetched", FETCHED, "fetches, due_at", MOST_UNFINISHED),
        ("expected", EXPECTED, "fetches, due_at", MOST_UNFINISHED),
        ("done", "state = 'done' AND body IS NOT NULL", "ended_at", MOST_ENDED),
        ("pruned", "state = 'done' AND body IS NULL", "ended_at", MOST_ENDED),
        ("dead", "state = 'dead'", "number", MOST_ENDED),
    ]
    .map(|(index, rows, order, most)| {
        let states = ["expected", "received", "running", "done", "dead"]
            .map(|state| format!("count(*) FILTER (WHERE state = '{state}') AS {state}"));
        let oldest = [("due", UNFINISHED), ("overdue", EXPECTED)].map(|(name, rows)| {
            format!(
                "min(due_at) FILTER (WHERE {rows} AND due_at <= statement_timestamp() AND isfinite(due_at)) AS {name}"
            )
        });
        format!(
            "SELECT {index}::text AS index, {most} AS most, count(*) AS rows, {states},
                coalesce(sum(octet_length(body)), 0) AS bytes,
                coalesce(sum(octet_length(body)) FILTER (WHERE {UNFINISHED}), 0) AS unfinished_bytes,
                {oldest}
            FROM (
                SELECT state, body, due_at FROM {table} WHERE {rows} ORDER BY {order} LIMIT {most}
            ) AS {name}",
            index = literal(&table.relation(index)),
            states = states.join(", "),
            oldest = oldest.join(", "),
            name = "rows",
        )
    });
    let counts = ["expected", "received", "running", "done", "dead", "bytes", "unfinished_bytes"]
        .map(|count| format!("coalesce(round(sum({count} * factor)), 0)::int8 AS {count}"));
    format!(
        "SELECT {counts}, {due} AS oldest_due, {overdue} AS oldest_overdue
        FROM (
            SELECT part.*, CASE WHEN rows < most THEN 1 ELSE greatest(1, (
                SELECT reltuples / most FROM pg_class WHERE oid = to_regclass(index)
            )) END AS factor
            FROM ({parts}) AS part
        ) AS part",
        counts = counts.join(", "),
        due = microseconds("statement_timestamp() - min(due)"),
        overdue = microseconds("statement_timestamp() - min(overdue)"),
        parts = parts.join(" UNION ALL "),
    )
}

/// A text in a statement.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
