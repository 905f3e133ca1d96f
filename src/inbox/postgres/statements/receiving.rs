//! Statements that store events and registrations.

use super::fragments::{
    DURABLY, EXPECTED, FINAL, LEASABLE, NUMBERED_NOW, expect_another, microseconds, next_fence,
};
use super::{FETCHED, NEVER_FETCHED, traffic};
use crate::postgres::{REPLICATED, TableName};

/// Limits the wait for a row that another transaction holds to $7, such as `500ms`: joined below the sort of the rows, and so
/// set before the first of them is written.
const LOCK_TIME: &str = "(SELECT set_config('lock_timeout', $7, true)) AS lock_time";

// Bodies are taken from their parameter, $4, as late as they are needed: in `incoming` they would be copied, sorted and,
// beyond work_mem, written to a file.

/// Stores only first events, as nearly every event is: planning [`receive`] costs as much as storing some twenty events.
pub(super) fn receive_new(table: &TableName) -> String {
    format!(
        "WITH incoming AS MATERIALIZED (
            SELECT place, job_id COLLATE \"C\" AS job_id, job_type, status, traceparent, fits
            FROM unnest($1, $2, $3, $6, $5)
                WITH ORDINALITY AS incoming (job_id, job_type, status, traceparent, fits, place)
        ), written AS (
            INSERT INTO {table} (job_id, job_type, status, traceparent, body, state, due_at, received_at)
            SELECT job_id, job_type, status, traceparent, ($4)[place], 'received', {NUMBERED_NOW}, clock_timestamp()
            FROM (SELECT * FROM incoming, {LOCK_TIME} WHERE fits ORDER BY job_id OFFSET 0) AS ordered
            ON CONFLICT (job_id) DO NOTHING
            RETURNING job_id
        ), {counted}, durably AS MATERIALIZED ({DURABLY})
        SELECT place, true AS stored, NULL::boolean AS conflict
        FROM incoming JOIN written USING (job_id), (SELECT count(*) FROM durably) AS durably",
        counted = traffic::received(table, "written")
    )
}

/// Looks first, so that a duplicate locks and writes no row: `conflict` is NULL for a row that may be written. If such a
/// row was not written, another statement wrote it after this one had looked.
///
/// A duplicate's 200 promises as much as the first one's, so it waits for the same replicas.
///
/// A row may be locked for long before it is written, so its due time is read from the clock after that.
pub(super) fn receive(table: &TableName) -> String {
    format!(
        "WITH incoming AS MATERIALIZED (
            SELECT place, job_id COLLATE \"C\" AS job_id, job_type, status, traceparent, fits, (
                SELECT incoming.status {FINAL} AND coalesce(job.body <> ($4)[place], false)
                FROM {table} AS job
                WHERE job.job_id = incoming.job_id
                    AND (job.status {FINAL} OR (job.status IS NOT NULL AND incoming.status NOT {FINAL}))
            ) AS conflict
            FROM unnest($1, $2, $3, $6, $5)
                WITH ORDINALITY AS incoming (job_id, job_type, status, traceparent, fits, place)
        ), written AS (
            INSERT INTO {table} AS job (job_id, job_type, status, traceparent, body, state, due_at, received_at)
            SELECT job_id, job_type, status, traceparent, ($4)[place], 'received', {NUMBERED_NOW}, clock_timestamp()
            FROM (
                SELECT * FROM incoming, {LOCK_TIME} WHERE fits AND conflict IS NULL ORDER BY job_id OFFSET 0
            ) AS ordered
            ON CONFLICT (job_id) DO UPDATE SET
                job_type = excluded.job_type, status = excluded.status, body = excluded.body,
                traceparent = excluded.traceparent,
                received_at = excluded.received_at, verified = false,
                attempts = 0, earlier_attempts = 0, begun = false, error = NULL, failures = NULL, ended_at = NULL,
                fetches = CASE WHEN job.ended_at IS NULL THEN job.fetches ELSE 0 END,
                not_found = CASE WHEN job.ended_at IS NULL THEN job.not_found ELSE 0 END,
                next_fetch_at = CASE WHEN job.ended_at IS NULL THEN job.next_fetch_at END,
                unanswered_since = NULL,
                deadline_at = CASE WHEN job.ended_at IS NULL THEN job.deadline_at
                    WHEN job.status IS NULL AND excluded.status NOT {FINAL} THEN clock_timestamp() END,
                state = CASE job.state WHEN 'running' THEN 'running' ELSE 'received' END,
                due_at = CASE job.state WHEN 'running' THEN job.due_at ELSE clock_timestamp() END,
                fence = CASE WHEN job.state IN ({LEASABLE}) THEN {next} ELSE job.fence END
            WHERE job.status IS NULL OR (job.status NOT {FINAL} AND excluded.status {FINAL})
            RETURNING job_id
        ), {counted}, durably AS MATERIALIZED ({DURABLY}
        ), replicated AS MATERIALIZED (SELECT {REPLICATED} FROM incoming WHERE conflict IS NOT NULL LIMIT 1)
        SELECT place, written.job_id IS NOT NULL AS stored, conflict
        FROM incoming LEFT JOIN written USING (job_id), (SELECT count(*) FROM durably) AS durably,
            (SELECT count(*) FROM replicated) AS replicated",
        next = next_fence(),
        counted = traffic::received(table, "written")
    )
}

/// Counts the rows that the limits are for.
pub(super) fn count(table: &TableName) -> String {
    format!(
        "SELECT rows, bytes, expected, {} AS took
        FROM (
            SELECT count(*) AS rows, coalesce(sum(length), 0)::int8 AS bytes
            FROM (
                SELECT octet_length(body) AS length FROM {table} WHERE {NEVER_FETCHED}
                UNION ALL SELECT octet_length(body) FROM {table} WHERE {FETCHED}
                LIMIT $1
            ) AS unfinished
            OFFSET 0
        ) AS counted, (
            SELECT count(*) AS expected
            FROM (SELECT true FROM {table} WHERE {EXPECTED} LIMIT $1) AS expected
            OFFSET 0
        ) AS counted_too",
        microseconds("clock_timestamp() - statement_timestamp()")
    )
}

/// Registers a job if $3 says that it fits.
pub(super) fn expect(table: &TableName) -> String {
    register(table, "$3")
}

/// The same for a transaction of the user's: counts the rows itself, up to the limit $3. The greatest number is no limit.
pub(super) fn expect_counted(table: &TableName) -> String {
    register(
        table,
        &format!(
            "$3::int8 = 9223372036854775807 OR $3::int8 > (
                SELECT count(*) FROM (
                    SELECT true FROM {table} WHERE {NEVER_FETCHED}
                    UNION ALL SELECT true FROM {table} WHERE {FETCHED}
                    UNION ALL SELECT true FROM {table} WHERE {EXPECTED}
                    LIMIT $3::int8
                ) AS counted
            )"
        ),
    )
}

/// Registers a job, or returns no row if it does not fit. A job that is registered, or whose row counts already, fits.
fn register(table: &TableName, fits: &str) -> String {
    // Registering such a job again changes nothing.
    let is_registered = format!(
        "SELECT FROM {table} WHERE job_id = $1 AND (deadline_at IS NOT NULL OR status IS NULL OR status {FINAL})"
    );
    format!(
        "WITH durably AS MATERIALIZED ({DURABLY}), fitting AS MATERIALIZED (
            SELECT true FROM (SELECT count(*) FROM durably) AS durably
            WHERE CASE WHEN EXISTS ({is_registered})
                OR EXISTS (SELECT FROM {table} WHERE job_id = $1 AND ended_at IS NULL)
                THEN true ELSE {fits} END
        ), written AS (
            INSERT INTO {table} AS job (job_id, state, due_at, deadline_at, received_at)
            SELECT $1::text, 'expected', {deadline}, {deadline}, clock_timestamp()
            FROM fitting WHERE NOT EXISTS ({is_registered})
            ON CONFLICT (job_id) DO UPDATE SET
                state = CASE WHEN {ended} THEN 'expected' ELSE job.state END,
                due_at = CASE WHEN {ended} THEN greatest(excluded.due_at, job.next_fetch_at) ELSE job.due_at END,
                deadline_at = excluded.deadline_at, ended_at = NULL, {another}
            WHERE job.deadline_at IS NULL AND job.status NOT {FINAL}
            RETURNING state = 'expected' AS expected
        ), replicated AS MATERIALIZED (SELECT {REPLICATED} FROM fitting WHERE NOT EXISTS (SELECT FROM written))
        SELECT coalesce((SELECT expected FROM written), false) AS expected
        FROM fitting, (SELECT count(*) FROM replicated) AS replicated",
        deadline = "clock_timestamp() + $2::int8 * interval '1 microsecond'",
        ended = "job.ended_at IS NOT NULL",
        another = expect_another("job.ended_at IS NOT NULL", "job.failures"),
    )
}
