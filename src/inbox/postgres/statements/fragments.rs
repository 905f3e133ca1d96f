//! The parts that several statements share.

use crate::inbox::failed_attempts::{EXPIRED, MOST, MOST_CHARACTERS};
use crate::inbox::row::{FENCE_BITS, MOST_NUMBERED};
use crate::inbox::text::CUT;
use crate::postgres::TableName;

/// The statuses for which [`JobStatus::is_final`](crate::JobStatus::is_final) is true.
pub(super) const FINAL: &str = "IN ('completed', 'failed')";
/// The row under a lease.
pub(super) const LEASED: &str = "job_id = $1 AND fence = $2";
pub(super) const RUNNING: &str = "'running'";
/// The states of rows that may be under a lease.
pub(super) const LEASABLE: &str = "'running', 'expected'";
pub(super) const EXPECTED: &str = "state = 'expected'";
pub(super) const IS_RECEIVED: &str = "state = 'received' AS is_received";
/// Puts a commit on the disk before the reply, whatever the database's setting.
pub(super) const DURABLY: &str = "SELECT set_config('synchronous_commit', 'on', true)
            WHERE current_setting('synchronous_commit') = 'off'";

/// The time, read when the transaction has its number. The insertion of a row may wait for a transaction that is then
/// rolled back; with a number of after that wait, the row would be due before looks that do not know its transaction.
pub(super) const NUMBERED_NOW: &str = "CASE WHEN txid_current() IS NOT NULL THEN clock_timestamp() END";

pub(super) fn from_now(parameter: u32) -> String {
    format!("clock_timestamp() + ${parameter} * interval '1 microsecond'")
}

pub(super) fn long_ago(parameter: u32) -> String {
    format!("statement_timestamp() - ${parameter} * interval '1 microsecond'")
}

pub(super) fn microseconds(interval: &str) -> String {
    format!("(extract(epoch FROM {interval}) * 1000000)::int8")
}

/// The time that has passed since another; `NULL` if that is infinite, as then there is no difference.
pub(super) fn since(time: &str) -> String {
    let passed = microseconds(&format!("statement_timestamp() - {time}"));
    format!("CASE WHEN isfinite({time}) THEN {passed} END")
}

/// The time that is left until another, likewise.
pub(super) fn until(time: &str) -> String {
    let left = microseconds(&format!("{time} - statement_timestamp()"));
    format!("CASE WHEN isfinite({time}) THEN {left} END")
}

/// The next fencing token of a row named `job`, which is above the row's [`first_fence`](crate::inbox::row::first_fence). A
/// number that another program set to the maximum must not fail a statement for many rows.
pub(super) fn next_fence() -> String {
    format!(
        "least(greatest(job.fence, least(job.number, {MOST_NUMBERED}) << {FENCE_BITS}), 9223372036854775806) + 1"
    )
}

/// A count, likewise.
pub(super) fn one_more(number: &str) -> String {
    format!("least({number}, 2147483646) + 1")
}

/// The history of fetches.
pub(super) fn history() -> String {
    format!(
        "fetches, not_found, {} AS next_fetch_in, {} AS unanswered_for",
        until("next_fetch_at"),
        since("unanswered_since"),
    )
}

/// The numbers of fetches that such rows have, in order, by one look at the index for each. A lease goes through them
/// one by one and stops when it has enough rows, so that rows which are not due cost nothing. Nothing sorts the
/// numbers: a recursive query returns them as it finds them, and the rows of each follow from it. Their own limit
/// lets the planner read them from the index in order; without it, it sorts all that are due.
pub(super) fn counts(table: &TableName, rows: &str) -> String {
    format!(
        "counts (fetches) AS (
                    SELECT min(fetches) FROM {table} WHERE {rows}
                    UNION ALL
                    SELECT (SELECT min(job.fetches) FROM {table} AS job WHERE {rows} AND job.fetches > counts.fetches)
                    FROM counts WHERE counts.fetches IS NOT NULL
                )"
    )
}

/// Whether a registered job is expected again after the last attempt: its event has no final status.
pub(super) fn expected_again() -> String {
    format!("status NOT {FINAL} AND deadline_at IS NOT NULL")
}

/// The failed attempts of a row, and, if the row is running, one more that ends now and took a number of microseconds.
pub(super) fn failed_attempt(error: &str, took: &str) -> String {
    let one_more = one_more_failure(&microseconds("clock_timestamp()"), took, &brief(error));
    format!("CASE state WHEN {RUNNING} THEN {one_more} ELSE failures END")
}

/// The failed attempts of a row that is leased, and one more if the lease before has expired. No attempt is counted for
/// an event that took the place of another while that one's handler ran.
pub(super) fn expired_attempt(due: &str) -> String {
    let at = microseconds(&format!("greatest({due}.due_at, 'epoch')"));
    let one_more = one_more_failure(&at, "NULL", &format!("'{EXPIRED}'::text"));
    format!("CASE WHEN {due}.expired AND job.attempts > 0 THEN {one_more} ELSE failures END")
}

/// Anything else than an array, which another program wrote, must not fail a statement.
fn one_more_failure(at: &str, took: &str, error: &str) -> String {
    format!(
        "CASE WHEN jsonb_typeof(failures) IS DISTINCT FROM 'array' THEN '[]'
                WHEN jsonb_array_length(failures) < {MOST} THEN failures ELSE failures - 0 END
            || jsonb_build_object('number', attempts::int8 + earlier_attempts, 'at', {at}, 'took', {took}::int8, 'error', {error})"
    )
}

/// An error, bounded as `failed_attempts::brief` bounds it.
fn brief(error: &str) -> String {
    let kept = MOST_CHARACTERS - CUT.len();
    format!(
        "CASE WHEN length({error}) > {MOST_CHARACTERS} THEN left({error}, {kept}) || '{CUT}' ELSE {error} END"
    )
}

/// Sets a row's columns for another event of its job, when it is expected again. Otherwise its failed attempts are these.
pub(super) fn expect_another(when: &str, failures: &str) -> String {
    let next = next_fence();
    let columns = [
        ("fence", &*next),
        ("attempts", "0"),
        ("earlier_attempts", "0"),
        ("job_type", "NULL"),
        ("status", "NULL"),
        ("traceparent", "NULL"),
        ("body", "NULL"),
    ];
    let columns = columns
        .map(|(column, value)| format!("{column} = CASE WHEN {when} THEN {value} ELSE job.{column} END, "));
    format!("{}failures = CASE WHEN {when} THEN NULL ELSE {failures} END", columns.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JobStatus;

    #[test]
    fn the_statuses_that_are_final_are_those_of_the_statements() {
        let named: Vec<_> = FINAL.split('\'').skip(1).step_by(2).collect();
        assert_eq!(named, [JobStatus::Completed.as_str(), JobStatus::Failed.as_str()]);
        assert!(named.iter().all(|status| JobStatus::from(*status).is_final()));
    }
}
