//! Statements that end leases, and the one that stores a fetched event under a lease.

use super::fragments::{
    FINAL, IS_RECEIVED, LEASABLE, LEASED, RUNNING, expect_another, expected_again, failed_attempt, from_now,
    next_fence, one_more,
};
use super::traffic;
use crate::postgres::TableName;

const NO_EVENT: &str = "job_type = NULL, status = NULL, traceparent = NULL, body = NULL, verified = false";

/// Ends runs in the usual ways, many at once. A row that is locked is left, as are those of which the statements below
/// know more.
pub(super) fn settle(table: &TableName) -> String {
    format!(
        "WITH free AS MATERIALIZED (
            SELECT number, place, given.becomes, given.after, given.error, given.took, given.uncounted
            FROM (
                SELECT job_id COLLATE \"C\" AS job_id, fence, becomes, after, error, took, uncounted, place
                FROM unnest($1, $2, $3, $4, $5, $6, $7) WITH ORDINALITY
                    AS given (job_id, fence, becomes, after, error, took, uncounted, place)
            ) AS given JOIN {table} AS job USING (job_id, fence)
            WHERE state = {RUNNING} AND (status {FINAL} OR deadline_at IS NULL)
            FOR NO KEY UPDATE OF job SKIP LOCKED
        ), settled AS (
            UPDATE {table} AS job SET state = becomes,
                due_at = clock_timestamp() + after * interval '1 microsecond',
                ended_at = CASE WHEN after IS NULL THEN clock_timestamp() END,
                error = coalesce(free.error, job.error), attempts = attempts - uncounted,
                failures = CASE WHEN free.error IS NULL THEN failures ELSE {failures} END
            FROM free WHERE job.number = free.number
            RETURNING place, becomes
        ), {counted}
        SELECT place FROM settled",
        failures = failed_attempt("free.error", "free.took"),
        counted = traffic::handled(table, "settled WHERE becomes = 'done'")
    )
}

/// Stores a fetched event. A received row is left as it is: the call repeats a write whose reply was lost. The first
/// write may commit while this one waits for its row, so the row is locked before it is looked at.
pub(super) fn verify(table: &TableName) -> String {
    let sets = [
        ("job_type", "$3"),
        ("status", "$4"),
        ("body", "$5"),
        ("error", "NULL"),
        ("fetches", "0"),
        ("not_found", "0"),
        ("next_fetch_at", "NULL"),
        ("unanswered_since", "NULL"),
        ("deadline_at", "NULL"),
    ]
    .map(|(column, value)| format!("{column} = CASE state WHEN 'received' THEN {column} ELSE {value} END"));
    format!(
        "WITH leased AS MATERIALIZED (
            SELECT number, state AS was FROM {table}
            WHERE {LEASED} AND (state IN ({LEASABLE}) OR (state = 'received' AND verified)) FOR NO KEY UPDATE
        ), verified AS (
            UPDATE {table} AS job SET {sets}, verified = true,
                state = CASE state WHEN 'expected' THEN 'received' ELSE state END,
                due_at = CASE state WHEN 'expected' THEN clock_timestamp() ELSE due_at END,
                received_at = CASE state WHEN 'expected' THEN clock_timestamp() ELSE received_at END,
                attempts = CASE state WHEN 'expected' THEN 0 ELSE attempts END,
                earlier_attempts = CASE state WHEN 'expected' THEN 0 ELSE earlier_attempts END,
                failures = CASE state WHEN 'expected' THEN NULL ELSE failures END
            FROM leased WHERE job.number = leased.number
            RETURNING {IS_RECEIVED}, was
        ), {counted}
        SELECT is_received FROM verified",
        sets = sets.join(", "),
        counted = traffic::received(table, "verified WHERE was = 'expected'")
    )
}

/// Locks the row first: only the state that it then has tells a repetition, which is not counted again.
pub(super) fn done(table: &TableName) -> String {
    format!(
        "WITH leased AS MATERIALIZED (
            SELECT number, state AS was FROM {table}
            WHERE {LEASED} AND state IN ({RUNNING}, 'done') FOR NO KEY UPDATE
        ), ended AS (
            UPDATE {table} AS job SET {sets}
            FROM leased WHERE job.number = leased.number
            RETURNING state, was
        ), {counted}
        SELECT {IS_RECEIVED} FROM ended",
        sets = ending(RUNNING, "done", "NULL", None),
        counted = traffic::handled(table, &format!("ended WHERE was = {RUNNING} AND state = 'done'"))
    )
}

pub(super) fn retry(table: &TableName) -> String {
    end(table, RUNNING, "received", &from_now(3), ["$4", "$5"])
}

pub(super) fn dead(table: &TableName) -> String {
    end(table, LEASABLE, "dead", "NULL", ["$3", "$4"])
}

/// As [`done`], in a transaction of the user's: there are no repetitions.
pub(super) fn complete(table: &TableName) -> String {
    format!(
        "WITH ended AS (
            UPDATE {table} AS job SET {sets}
            WHERE {LEASED} AND state = {RUNNING}
            RETURNING state
        ), {counted}
        SELECT {IS_RECEIVED} FROM ended",
        sets = ending(RUNNING, "done", "NULL", None),
        counted = traffic::handled_in_joined(table, "ended WHERE state = 'done'")
    )
}

/// Ends a run that failed, or repeats that.
fn end(table: &TableName, from: &str, becomes: &str, due: &str, failure: [&str; 2]) -> String {
    format!(
        "UPDATE {table} AS job SET {sets}
        WHERE {LEASED} AND state IN ({from}, '{becomes}')
        RETURNING {IS_RECEIVED}",
        sets = ending(from, becomes, due, Some(failure))
    )
}

/// Sets the columns of a row whose run ends, or ended before: rows leased in one of the states `from` get the state
/// `becomes` and a due time. A failed run has an error and a duration. After the last attempt for an event without a final
/// status, a registered job is expected again.
fn ending(from: &str, becomes: &str, due: &str, failure: Option<[&str; 2]>) -> String {
    let remains = format!("state = 'running' AND {}", expected_again());
    let (when, ended) = match due {
        "NULL" => (remains, "clock_timestamp()"),
        // By a clock that stands still for the statement.
        due => {
            let due = due.replace("clock_timestamp()", "statement_timestamp()");
            (format!("{remains} AND greatest(deadline_at, next_fetch_at) <= {due}"), "NULL")
        }
    };
    let (error, failures) = match failure {
        None => (String::new(), "job.failures".to_owned()),
        Some([error, took]) => (
            format!("error = CASE WHEN state IN ({from}) THEN {error} ELSE error END,"),
            failed_attempt(error, took),
        ),
    };
    format!(
        "state = CASE WHEN {when} THEN 'expected' ELSE '{becomes}' END,
            due_at = CASE WHEN {when} THEN greatest(deadline_at, next_fetch_at)
                WHEN state IN ({from}) THEN {due} ELSE due_at END,
            ended_at = CASE WHEN {when} THEN NULL WHEN state IN ({from}) THEN {ended} ELSE ended_at END,
            {error}
            {another}",
        another = expect_another(&when, &failures)
    )
}

/// Makes a row a dead letter without its event, or repeats that after a lost reply: in one statement, so that no other
/// write comes between the look and the write.
pub(super) fn rejected(table: &TableName) -> String {
    let failures = failed_attempt("$3", "$4");
    let sets = [
        ("due_at", "NULL"),
        ("ended_at", "clock_timestamp()"),
        ("error", "$3"),
        ("failures", &*failures),
        ("job_type", "NULL"),
        ("status", "NULL"),
        ("traceparent", "NULL"),
        ("body", "NULL"),
        ("verified", "false"),
    ]
    .map(|(column, value)| {
        format!("{column} = CASE WHEN state IN ({LEASABLE}) THEN {value} ELSE {column} END")
    });
    format!(
        "UPDATE {table} SET state = 'dead', {sets}
        WHERE {LEASED} AND state IN ({LEASABLE}, 'dead')
        RETURNING true",
        sets = sets.join(", ")
    )
}

pub(super) fn release(table: &TableName) -> String {
    back(table, "")
}

pub(super) fn not_found(table: &TableName) -> String {
    fetched(table, &one_more("not_found"), "NULL")
}

pub(super) fn failed(table: &TableName) -> String {
    fetched(table, "not_found", "coalesce(unanswered_since, clock_timestamp())")
}

fn fetched(table: &TableName, not_found: &str, unanswered_since: &str) -> String {
    let sets = format!(
        ", fetches = CASE state WHEN 'received' THEN fetches ELSE {one_more_fetch} END,
            not_found = CASE state WHEN 'received' THEN not_found ELSE {not_found} END,
            next_fetch_at = CASE state WHEN 'received' THEN next_fetch_at ELSE {from_now} END,
            unanswered_since = CASE state WHEN 'received' THEN unanswered_since
                ELSE {unanswered_since} END,
            error = CASE state WHEN 'received' THEN error ELSE $4 END",
        one_more_fetch = one_more("fetches"),
        from_now = from_now(3)
    );
    back(table, &sets)
}

/// Ends a lease without a result. An expected job has no earlier lease, so no repetition is looked for.
fn back(table: &TableName, sets: &str) -> String {
    format!(
        "UPDATE {table} AS job SET
            state = CASE state WHEN 'expected' THEN 'expected' ELSE 'received' END,
            due_at = CASE state WHEN 'received' THEN due_at ELSE {from_now} END,
            fence = CASE state WHEN 'expected' THEN {next} ELSE fence END,
            attempts = attempts - CASE state WHEN 'running' THEN 1 ELSE 0 END{sets}
        WHERE {LEASED} AND state IN ({LEASABLE}, 'received')
        RETURNING {IS_RECEIVED}",
        next = next_fence(),
        from_now = from_now(3)
    )
}

/// Makes a job expected again: the API says that it runs.
pub(super) fn pending(table: &TableName) -> String {
    format!(
        "UPDATE {table} AS job SET state = 'expected', due_at = {from_now}, fence = {next},
            attempts = attempts - CASE state WHEN 'running' THEN 1 ELSE 0 END,
            fetches = {one_more_fetch}, not_found = 0, next_fetch_at = {from_now}, unanswered_since = NULL, error = NULL,
            deadline_at = coalesce(deadline_at, clock_timestamp()), {NO_EVENT}
        WHERE {LEASED} AND state IN ({LEASABLE})
        RETURNING true",
        next = next_fence(),
        one_more_fetch = one_more("fetches"),
        from_now = from_now(3)
    )
}
