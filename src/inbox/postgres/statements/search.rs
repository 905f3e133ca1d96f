//! Statements that find the rows which a filter selects, in the order of arrival, and list or change them.
//!
//! Each looks at a bounded number of rows. Their parameters: $1 is the first number of the list, $2 to $9 are the filter,
//! $10 is the most rows to look at, $11 the most to find, $12 the most bytes of bodies to change at once.

use super::admin::view;
use super::fragments::{EXPECTED, long_ago, next_fence};
use super::{FETCHED, NEVER_FETCHED, Values};
use crate::inbox::InboxCursor;
use crate::inbox::look::{Change, Look};
use crate::postgres::TableName;

/// The rows that a filter selects.
fn matches() -> String {
    format!(
        "($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR job_type = $3)
            AND ($4::text IS NULL OR status = $4)
            AND ($5::text IS NULL OR position(lower($5 COLLATE \"C\") IN lower(error COLLATE \"C\")) > 0)
            AND ($6::int8 IS NULL OR received_at <= {}) AND ($7::int8 IS NULL OR received_at > {})
            AND ($8::text IS NULL OR job_id >= $8 AND job_id < $9)",
        long_ago(6),
        long_ago(7),
    )
}

/// The rows that can be changed.
pub(super) fn can(change: Option<Change>) -> &'static str {
    match change {
        None => "true",
        Some(Change::Replay) => {
            "(state IN ('done', 'dead') AND body IS NOT NULL OR state = 'dead' AND status IS NULL)"
        }
        Some(Change::Discard) => "state = 'dead'",
    }
}

/// The rows on one side of $1. Not a range with two ends, of which a planner without statistics expects few rows, and reads
/// and sorts all of them.
fn range(from: InboxCursor) -> &'static str {
    if from.is_oldest_first() { "number >= $1" } else { "number <= $1" }
}

fn order(from: InboxCursor) -> &'static str {
    if from.is_oldest_first() { "ORDER BY number" } else { "ORDER BY number DESC" }
}

/// Rows that are looked at, with these columns. Each index is read in its order: without one, the planner may read the
/// whole table.
fn looked(table: &TableName, look: Look, from: InboxCursor, columns: &str) -> String {
    let (in_order, range) = (order(from), range(from));
    let some = |rows: &str, order: &str, most: &str| {
        format!("(SELECT {columns} FROM {table} WHERE {rows} {order} LIMIT {most})")
    };
    match look {
        Look::All => some(range, in_order, "$10"),
        Look::Dead => some(&format!("state = 'dead' AND {range}"), in_order, "$10"),
        Look::Unfinished => format!(
            "{} UNION ALL {}",
            some(NEVER_FETCHED, "ORDER BY due_at, number", "$10 + 1"),
            some(FETCHED, "ORDER BY fetches, due_at, number", "$10 + 1"),
        ),
        Look::Expected => some(EXPECTED, "ORDER BY fetches, due_at, number", "$10 + 1"),
        Look::WithPrefix => {
            some(&format!("{WITH_PREFIX} AND (SELECT found FROM found) <= $10"), "ORDER BY job_id", "$10")
        }
    }
}

const WITH_PREFIX: &str = "job_id >= $8 AND job_id < $9";

/// The rows that are looked at, and their number. Too many jobs with a prefix are found in the index of ids alone, and none
/// of them is looked at: each may lie on a page of its own.
fn looked_and_found(table: &TableName, look: Look, from: InboxCursor, columns: &str) -> String {
    let looked = format!("looked AS MATERIALIZED ({})", looked(table, look, from, columns));
    if look == Look::WithPrefix {
        let ids = format!("SELECT FROM {table} WHERE {WITH_PREFIX} ORDER BY job_id LIMIT $10 + 1");
        return format!("found AS MATERIALIZED (SELECT count(*) AS found FROM ({ids}) AS ids), {looked}");
    }
    format!("{looked}, found AS MATERIALIZED (SELECT count(*) AS found FROM looked)")
}

/// Lists rows. `looked_to` is the number of the last row that was looked at, if there may be more; `looked` counts the
/// rows that were to be sorted, which may be too many.
pub(in super::super) fn list(table: &TableName, look: Look, from: InboxCursor, values: Values) -> String {
    let (view, matches, order) = (view(values), matches(), order(from));
    if look.is_sorted() {
        let fits = format!("number, {} AND {matches} AS fits", range(from));
        return format!(
            "WITH {looked}, page AS MATERIALIZED (
                SELECT number FROM looked WHERE fits {order} LIMIT $11
            )
            SELECT listed.*, NULL::int8 AS looked_to, found AS looked
            FROM found LEFT JOIN (SELECT {view} FROM page JOIN {table} USING (number)) AS listed ON true
            {order}",
            looked = looked_and_found(table, look, from, &fits),
        );
    }
    // Its last row is searched for only if it does not suffice.
    format!(
        "WITH page AS MATERIALIZED (
            SELECT {view} FROM {looked} AS looked WHERE {matches} {order} LIMIT $11
        )
        SELECT page.*, looked_to, 0::int8 AS looked
        FROM (
            SELECT CASE WHEN (SELECT count(*) FROM page) < $11
                THEN (SELECT number FROM {numbers} AS looked OFFSET $10 - 1) END AS looked_to
        ) AS looked LEFT JOIN page ON true
        {order}",
        looked = looked(table, look, from, "*"),
        numbers = looked(table, look, from, "number"),
    )
}

/// Counts the rows that match and can be changed.
pub(in super::super) fn count(table: &TableName, look: Look, change: Change) -> String {
    format!("WITH {} SELECT {COUNTS}", fitting(table, look, change))
}

/// The rows that were looked at and the number of the last one; those among them that match and can be changed.
const COUNTS: &str = "(SELECT found FROM found) AS looked, (SELECT max(number) FROM looked) AS looked_to,
            (SELECT count(*) FROM looked WHERE fits) AS fitting";

fn fitting(table: &TableName, look: Look, change: Change) -> String {
    let from = InboxCursor::Oldest;
    let columns = format!(
        "number, coalesce(octet_length(body), 0) AS bytes, {} AND {} AND {} AS fits",
        range(from),
        can(Some(change)),
        matches()
    );
    looked_and_found(table, look, from, &columns)
}

/// Changes the first rows that match and can be changed; none if there are too many to sort, of which those found may not be
/// the first. Rows that are locked are left: to wait for them could end in a deadlock, as others lock rows in another order.
/// `chosen` counts the rows to be changed, and `chosen_to` is the number of the last one.
pub(in super::super) fn change(table: &TableName, look: Look, change: Change) -> String {
    let statement = match change {
        Change::Replay => format!("UPDATE {table} AS job SET {} FROM free", replayed()),
        Change::Discard => format!("DELETE FROM {table} AS job USING free"),
    };
    format!(
        "WITH {fitting}, chosen AS MATERIALIZED (
            SELECT number FROM (
                SELECT number, sum(bytes) OVER (ORDER BY number) - bytes AS before FROM looked WHERE fits
            ) AS summed
            WHERE before < $12 AND (SELECT found FROM found) <= $10 ORDER BY number LIMIT $11
        ), free AS MATERIALIZED (
            SELECT number FROM {table} AS job
            WHERE number IN (SELECT number FROM chosen) AND {can} AND {matches}
            FOR UPDATE OF job SKIP LOCKED
        ), changed AS (
            {statement} WHERE job.number = free.number RETURNING true
        )
        SELECT {COUNTS}, (SELECT count(*) FROM chosen) AS chosen, (SELECT max(number) FROM chosen) AS chosen_to,
            (SELECT count(*) FROM changed) AS changed",
        fitting = fitting(table, look, change),
        can = can(Some(change)),
        matches = matches(),
    )
}

/// The columns of a row that is replayed. All rows of a statement are due at one time, so that they are leased in the order
/// of their arrival, in whatever order the statement writes them.
pub(super) fn replayed() -> String {
    format!(
        "due_at = (SELECT clock_timestamp()), ended_at = NULL,
            fetches = 0, not_found = 0, next_fetch_at = NULL, unanswered_since = NULL,
            state = CASE WHEN body IS NULL THEN 'expected' ELSE 'received' END,
            fence = CASE WHEN body IS NULL THEN {next} ELSE fence END,
            deadline_at = CASE WHEN body IS NULL THEN clock_timestamp() END,
            earlier_attempts = CASE WHEN body IS NULL THEN earlier_attempts
                ELSE least(greatest(earlier_attempts, 0)::int8 + greatest(attempts, 0), 2147483647)::int4 END,
            attempts = CASE WHEN body IS NULL THEN attempts ELSE 0 END",
        next = next_fence()
    )
}
