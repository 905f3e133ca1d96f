//! Statements of administration.

use super::fragments::{EXPECTED, microseconds, since, until};
use super::search::{can, replayed};
use super::{FETCHED, NEVER_FETCHED, UNFINISHED, Values};
use crate::inbox::look::Change;
use crate::postgres::TableName;

/// Exact counts end at this many unfinished rows, and at this many that have ended.
const MOST_UNFINISHED: u32 = 100_000;
const MOST_ENDED: u32 = 10_000;
/// The ended rows whose bodies are measured. Each may lie on a page of its own, which may have to be read from the disk.
const MOST_WEIGHED: u32 = 300;

pub(super) fn get(table: &TableName) -> String {
    format!("SELECT {}, body FROM {table} WHERE job_id = $1", view(Values::Returned))
}

/// One row of a list.
pub(super) fn listed(table: &TableName) -> String {
    format!("SELECT {} FROM {table} WHERE number = $1", view(Values::Returned))
}

/// The columns of a row for people. The server may be unable to read or to convert the texts.
pub(super) fn view(values: Values) -> String {
    let texts = ["job_id", "job_type", "status", "error", "traceparent", "failures"].map(|name| {
        let value = if values == Values::Returned { name } else { "NULL" };
        format!("{value}::text AS {name}")
    });
    format!(
        "number, state, verified, fetches, attempts, earlier_attempts, {}, {} AS now, {} AS age, {} AS due_in",
        texts.join(", "),
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
///
/// Ended rows are counted by their index alone, and the bodies of the first few stand for the others.
pub(super) fn stats(table: &TableName) -> String {
    let first = |columns, rows, order, most| {
        format!("(SELECT {columns} FROM {table} WHERE {rows} ORDER BY {order} LIMIT {most}) AS first")
    };
    let part = |index, most, counts: String| {
        let index = literal(&table.relation(index));
        format!("SELECT {index}::text AS index, {most} AS most, part.* FROM ({counts}) AS part")
    };
    let oldest = "min(due_at) FILTER (WHERE due_at <= statement_timestamp() AND isfinite(due_at)) AS oldest";
    let unfinished = |index, rows, order| {
        let counts = format!(
            "SELECT state, count(*) AS rows, sum(octet_length(body)) AS bytes, {oldest}, sum(count(*)) OVER () AS counted
            FROM {} GROUP BY state",
            first("state, body, due_at", rows, order, MOST_UNFINISHED)
        );
        part(index, MOST_UNFINISHED, counts)
    };
    let expected = format!(
        "SELECT 'expected' AS state, count(*) AS rows, 0 AS bytes, {oldest}, count(*) AS counted FROM {}",
        first("due_at", EXPECTED, "fetches, due_at", MOST_UNFINISHED)
    );
    let ended = |index, state, rows, order, body| {
        let counts = format!(
            "SELECT '{state}' AS state, all_rows.rows, bytes * all_rows.rows / greatest(few.rows, 1) AS bytes,
                NULL::timestamptz AS oldest, all_rows.rows AS counted
            FROM (SELECT count(*) AS rows FROM {all}) AS all_rows,
                (SELECT count(*) AS rows, coalesce(sum(octet_length(body)), 0) AS bytes FROM {few}) AS few",
            all = first("", rows, order, MOST_ENDED),
            few = first(body, rows, order, MOST_WEIGHED),
        );
        part(index, MOST_ENDED, counts)
    };
    let parts = [
        unfinished("due", NEVER_FETCHED, "due_at"),
        unfinished("fetched", FETCHED, "fetches, due_at"),
        part("expected", MOST_UNFINISHED, expected),
        ended("done", "done", "state = 'done' AND body IS NOT NULL", "ended_at", "body"),
        ended("pruned", "done", "state = 'done' AND body IS NULL", "ended_at", "NULL::bytea AS body"),
        ended("dead", "dead", "state = 'dead'", "number", "body"),
    ];
    let sum = |name, count, rows: &str| {
        format!("coalesce(round(sum({count} * factor) FILTER (WHERE {rows})), 0)::int8 AS {name}")
    };
    let rows = ["expected", "received", "running", "done", "dead"]
        .map(|state| sum(state, "rows", &format!("state = '{state}'")));
    format!(
        "SELECT {rows}, {bytes}, {unfinished_bytes}, {due} AS oldest_due, {overdue} AS oldest_overdue
        FROM (
            SELECT part.*, CASE WHEN counted < most THEN 1 ELSE greatest(1, (
                SELECT reltuples / most FROM pg_class WHERE oid = to_regclass(index)
            )) END AS factor
            FROM ({parts}) AS part
        ) AS part",
        rows = rows.join(", "),
        bytes = sum("bytes", "bytes", "true"),
        unfinished_bytes = sum("unfinished_bytes", "bytes", UNFINISHED),
        due = microseconds(&format!("statement_timestamp() - min(oldest) FILTER (WHERE {UNFINISHED})")),
        overdue = microseconds(&format!("statement_timestamp() - min(oldest) FILTER (WHERE {EXPECTED})")),
        parts = parts.join(" UNION ALL "),
    )
}

/// The errors of the newest dead rows, up to $1.
pub(super) fn dead_errors(table: &TableName) -> String {
    format!("SELECT error FROM {table} WHERE state = 'dead' ORDER BY number DESC LIMIT $1")
}

/// A text in a statement.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
