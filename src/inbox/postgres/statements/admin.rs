//! Statements of administration.

use super::fragments::{EXPECTED, microseconds, next_number, since, until};
use super::{FETCHED, NEVER_FETCHED, UNFINISHED};
use crate::postgres::TableName;

/// Exact counts end at this many unfinished rows, and at this many that have ended.
const MOST_UNFINISHED: u32 = 100_000;
const MOST_ENDED: u32 = 10_000;

pub(super) fn list(table: &TableName) -> String {
    list_from(&table.to_string())
}

/// The few rows of these states are found by their indexes, and sorted: `OFFSET 0` keeps the planner from a walk
/// through all rows in order.
pub(super) fn list_unfinished(table: &TableName) -> String {
    list_from(&format!(
        "(SELECT * FROM {table} WHERE {NEVER_FETCHED} UNION ALL SELECT * FROM {table} WHERE {FETCHED}
            OFFSET 0) AS unfinished"
    ))
}

/// Likewise.
pub(super) fn list_expected(table: &TableName) -> String {
    list_from(&format!("(SELECT * FROM {table} WHERE {EXPECTED} OFFSET 0) AS expected"))
}

fn list_from(rows: &str) -> String {
    format!(
        "SELECT {view} FROM {rows}
        WHERE number > $1 AND ($2 IS NULL OR state = $2) AND ($3 IS NULL OR job_type = $3)
            AND ($4 IS NULL OR status = $4)
        ORDER BY number LIMIT $5",
        view = view()
    )
}

pub(super) fn get(table: &TableName) -> String {
    format!("SELECT {}, body FROM {table} WHERE job_id = $1", view())
}

fn view() -> String {
    format!(
        "number, job_id, state, job_type, status, verified, fetches, attempts, earlier_attempts, error,
            failures::text AS failures, {} AS now, {} AS age, {} AS due_in",
        microseconds("statement_timestamp()"),
        since("received_at"),
        until("due_at"),
    )
}

pub(super) fn replay(table: &TableName) -> String {
    format!(
        "UPDATE {table} SET due_at = clock_timestamp(), ended_at = NULL,
            fetches = 0, not_found = 0, next_fetch_at = NULL, unanswered_since = NULL,
            state = CASE WHEN body IS NULL THEN 'expected' ELSE 'received' END,
            fence = CASE WHEN body IS NULL THEN {next} ELSE fence END,
            deadline_at = CASE WHEN body IS NULL THEN clock_timestamp() END,
            earlier_attempts = CASE WHEN body IS NULL THEN earlier_attempts
                ELSE least(greatest(earlier_attempts, 0)::int8 + greatest(attempts, 0), 2147483647)::int4 END,
            attempts = CASE WHEN body IS NULL THEN attempts ELSE 0 END
        WHERE job_id = $1
            AND (state = 'dead' AND status IS NULL OR state IN ('done', 'dead') AND body IS NOT NULL)
        RETURNING true",
        next = next_number("fence")
    )
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
            index = literal(&table.qualified_index(index)),
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
