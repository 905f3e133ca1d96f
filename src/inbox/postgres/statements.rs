//! One SQL statement for each transition of a row, as `inbox/transition.rs` states them in Rust.
//!
//! A statement compares due times with the time of its start, and counts new times from the time at which it finds
//! the row: both err on the safe side.

use crate::postgres::TableName;

/// The channel of notifications about arrivals; the payload names the inbox and its table.
pub(super) const CHANNEL: &str = "qomplement_inbox";

/// The statuses for which [`JobStatus::is_final`](crate::JobStatus::is_final) is true.
const FINAL: &str = "IN ('completed', 'failed')";
/// The rows that the index by time holds.
pub(super) const UNFINISHED: &str = "state IN ('received', 'running')";

/// The statements, with the table's name in them.
pub(super) struct Statements {
    pub(super) check: String,
    pub(super) receive_new: String,
    pub(super) receive: String,
    pub(super) count: String,
    pub(super) lease: String,
    pub(super) begin: String,
    pub(super) renew: String,
    pub(super) settle: String,
    pub(super) verify: String,
    pub(super) done: String,
    pub(super) retry: String,
    pub(super) dead: String,
    pub(super) rejected: String,
    pub(super) release: String,
    pub(super) pending: String,
    pub(super) not_found: String,
    pub(super) failed: String,
    pub(super) complete: String,
    pub(super) expect: String,
    pub(super) is_registered: String,
    pub(super) overdue: String,
    pub(super) contains: String,
    pub(super) prune_rows: String,
    pub(super) prune_payloads: String,
    pub(super) list: String,
    pub(super) get: String,
    pub(super) replay: String,
    pub(super) stats: String,
    pub(super) set_aside: String,
    pub(super) notify: String,
}

impl Statements {
    pub(super) fn new(table: &TableName) -> Self {
        const LEASED: &str = "job_id = $1 AND fence = $2";
        const RUNNING: &str = "'running'";
        const LEASABLE: &str = "'running', 'expected'";
        const EXPECTED: &str = "state = 'expected'";
        const IS_RECEIVED: &str = "state = 'received' AS is_received";
        // Puts a commit on the disk before the reply, whatever the database's setting.
        const DURABLY: &str = "SELECT set_config('synchronous_commit', 'on', true)
            WHERE current_setting('synchronous_commit') = 'off'";
        let from_now = |parameter| format!("clock_timestamp() + ${parameter} * interval '1 microsecond'");
        let long_ago = |parameter| format!("statement_timestamp() - ${parameter} * interval '1 microsecond'");
        let microseconds = |interval: &str| format!("(extract(epoch FROM {interval}) * 1000000)::int8");
        // A time may be infinite: then it has no difference to another.
        let since = |time: &str| {
            let passed = microseconds(&format!("statement_timestamp() - {time}"));
            format!("CASE WHEN isfinite({time}) THEN {passed} END")
        };
        let until = |time: &str| {
            let left = microseconds(&format!("{time} - statement_timestamp()"));
            format!("CASE WHEN isfinite({time}) THEN {left} END")
        };
        // A number that another program set to the maximum must not fail a statement for many rows.
        let next_number = |number: &str| format!("least({number}, 9223372036854775806) + 1");
        let one_more = |number: &str| format!("least({number}, 2147483646) + 1");
        let view = format!(
            "number, job_id, state, job_type, status, verified, fetches, attempts, earlier_attempts, error,
                {} AS age, {} AS due_in",
            since("received_at"),
            until("due_at"),
        );
        // Writes a leased row, or the same row again for a repetition after a lost reply: in one statement, so that no other
        // write comes between the look and the write.
        let settle = |from: &str, becomes: &str, sets: &[(&str, &str)]| {
            let sets = sets.iter().map(|(column, value)| {
                format!(", {column} = CASE WHEN state IN ({from}) THEN {value} ELSE {column} END")
            });
            format!(
                "UPDATE {table} SET state = '{becomes}'{sets}
                WHERE {LEASED} AND state IN ({from}, '{becomes}')
                RETURNING true",
                sets = sets.collect::<String>()
            )
        };
        // After the last attempt for an event without a final status, a registered job is expected again.
        let remains = format!("state = 'running' AND status NOT {FINAL} AND deadline_at IS NOT NULL");
        let next = next_number("job.fence");
        let expect_another = |when: &str| {
            let columns = [
                ("fence", &*next),
                ("attempts", "0"),
                ("earlier_attempts", "0"),
                ("job_type", "NULL"),
                ("status", "NULL"),
                ("body", "NULL"),
            ];
            let columns = columns.map(|(column, value)| {
                format!("{column} = CASE WHEN {when} THEN {value} ELSE job.{column} END")
            });
            columns.join(", ")
        };
        // Ends a run, or repeats that: rows leased in one of the states `from` get the state `becomes` and a due time.
        let end = |from: &str, becomes: &str, repeated: &str, due: &str, error: &str| {
            let (when, ended) = match due {
                "NULL" => (remains.clone(), "clock_timestamp()"),
                // By a clock that stands still for the statement.
                due => {
                    let due = due.replace("clock_timestamp()", "statement_timestamp()");
                    (format!("{remains} AND greatest(deadline_at, next_fetch_at) <= {due}"), "NULL")
                }
            };
            let error = match error {
                "" => String::new(),
                error => format!("error = CASE WHEN state IN ({from}) THEN {error} ELSE error END,"),
            };
            format!(
                "UPDATE {table} AS job SET
                    state = CASE WHEN {when} THEN 'expected' ELSE '{becomes}' END,
                    due_at = CASE WHEN {when} THEN greatest(deadline_at, next_fetch_at)
                        WHEN state IN ({from}) THEN {due} ELSE due_at END,
                    ended_at = CASE WHEN {when} THEN NULL WHEN state IN ({from}) THEN {ended} ELSE ended_at END,
                    {error}
                    {another}
                WHERE {LEASED} AND state IN ({from}{repeated})
                RETURNING {IS_RECEIVED}",
                another = expect_another(&when)
            )
        };
        // An expected job has no earlier lease, so no repetition is looked for.
        let back = |sets: &str| {
            format!(
                "UPDATE {table} SET
                    state = CASE state WHEN 'expected' THEN 'expected' ELSE 'received' END,
                    due_at = CASE state WHEN 'received' THEN due_at ELSE {from_now} END,
                    fence = CASE state WHEN 'expected' THEN {next} ELSE fence END,
                    attempts = attempts - CASE state WHEN 'running' THEN 1 ELSE 0 END{sets}
                WHERE {LEASED} AND state IN ({LEASABLE}, 'received')
                RETURNING {IS_RECEIVED}",
                next = next_number("fence"),
                from_now = from_now(3)
            )
        };
        let fetched = |not_found: &str, unanswered_since: &str| {
            back(&format!(
                ", fetches = CASE state WHEN 'received' THEN fetches ELSE {one_more_fetch} END,
                    not_found = CASE state WHEN 'received' THEN not_found ELSE {not_found} END,
                    next_fetch_at = CASE state WHEN 'received' THEN next_fetch_at ELSE {from_now} END,
                    unanswered_since = CASE state WHEN 'received' THEN unanswered_since
                        ELSE {unanswered_since} END,
                    error = CASE state WHEN 'received' THEN error ELSE $4 END",
                one_more_fetch = one_more("fetches"),
                from_now = from_now(3)
            ))
        };
        let history = format!(
            "fetches, not_found, {} AS next_fetch_in, {} AS unanswered_for",
            until("next_fetch_at"),
            since("unanswered_since"),
        );
        // A received row is left as it is: the call repeats a write whose reply was lost. The first write may commit while
        // this one waits for its row, so only the write itself can look.
        let answer = [
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
        .map(|(column, value)| {
            format!("{column} = CASE state WHEN 'received' THEN {column} ELSE {value} END")
        });
        // The numbers of fetches that such rows have, in order, by one look at the index for each. A lease goes through them
        // one by one and stops when it has enough rows, so that rows which are not due cost nothing. Nothing sorts the
        // numbers: a recursive query returns them as it finds them, and the rows of each follow from it. Their own limit
        // lets the planner read them from the index in order; without it, it sorts all that are due.
        let counts = |rows: &str| {
            format!(
                "counts (fetches) AS (
                    SELECT min(fetches) FROM {table} WHERE {rows}
                    UNION ALL
                    SELECT (SELECT min(job.fetches) FROM {table} AS job WHERE {rows} AND job.fetches > counts.fetches)
                    FROM counts WHERE counts.fetches IS NOT NULL
                )"
            )
        };
        // The first rows that have $3 bytes together, and one more.
        let few = |rows: &str| {
            format!(
                "SELECT number FROM (
                    SELECT number, sum(bytes) OVER (ORDER BY ended_at, number) - bytes AS before FROM {rows}
                ) AS summed WHERE before < $3"
            )
        };
        // Registering this job again changes nothing.
        let is_registered = format!(
            "SELECT FROM {table} WHERE job_id = $1 AND (deadline_at IS NOT NULL OR status IS NULL OR status {FINAL})"
        );
        const NO_EVENT: &str = "job_type = NULL, status = NULL, body = NULL, verified = false";
        const NEVER_FETCHED: &str =
            "fetches = 0, not_found = 0, next_fetch_at = NULL, unanswered_since = NULL";
        const NOW: &str = "clock_timestamp()";
        Self {
            check: format!(
                "SELECT FROM {table}
                WHERE number = 0::int8 AND fence = 0::int8 AND attempts + earlier_attempts = 0::int4
                    AND job_id || state || job_type || status || error = ''::text AND body = ''::bytea
                    AND fetches + not_found = 0::int4 AND verified AND begun
                    AND due_at > now() AND received_at > now() AND ended_at > now()
                    AND next_fetch_at > now() AND unanswered_since > now() AND deadline_at > now()"
            ),
            // Stores only first events, as nearly every event is: planning the statement below costs as much as storing some
            // twenty events.
            receive_new: format!(
                "WITH incoming AS MATERIALIZED (
                    SELECT place, job_id COLLATE \"C\" AS job_id, job_type, status, body, fits
                    FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY
                        AS incoming (job_id, job_type, status, body, fits, place)
                ), written AS (
                    INSERT INTO {table} (job_id, job_type, status, body, state, due_at, received_at)
                    SELECT job_id, job_type, status, body, 'received', clock_timestamp(), clock_timestamp()
                    FROM incoming WHERE fits
                    ORDER BY job_id
                    ON CONFLICT (job_id) DO NOTHING
                    RETURNING job_id
                ), durably AS MATERIALIZED ({DURABLY})
                SELECT place, true AS stored, NULL::boolean AS conflict
                FROM incoming JOIN written USING (job_id), (SELECT count(*) FROM durably) AS durably"
            ),
            // Looks first, so that a duplicate locks and writes no row: `conflict` is NULL for a row that may be written.
            // If such a row was not written, another statement wrote it after this one had looked.
            receive: format!(
                "WITH incoming AS MATERIALIZED (
                    SELECT place, job_id COLLATE \"C\" AS job_id, job_type, status, body, fits, (
                        SELECT incoming.status {FINAL} AND coalesce(job.body <> incoming.body, false)
                        FROM {table} AS job
                        WHERE job.job_id = incoming.job_id
                            AND (job.status {FINAL} OR (job.status IS NOT NULL AND incoming.status NOT {FINAL}))
                    ) AS conflict
                    FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY
                        AS incoming (job_id, job_type, status, body, fits, place)
                ), written AS (
                    INSERT INTO {table} AS job (job_id, job_type, status, body, state, due_at, received_at)
                    SELECT job_id, job_type, status, body, 'received', clock_timestamp(), clock_timestamp()
                    FROM incoming WHERE fits AND conflict IS NULL
                    ORDER BY job_id
                    ON CONFLICT (job_id) DO UPDATE SET
                        job_type = excluded.job_type, status = excluded.status, body = excluded.body,
                        received_at = excluded.received_at, verified = false,
                        attempts = 0, earlier_attempts = 0, error = NULL, ended_at = NULL,
                        fetches = CASE WHEN job.ended_at IS NULL THEN job.fetches ELSE 0 END,
                        not_found = CASE WHEN job.ended_at IS NULL THEN job.not_found ELSE 0 END,
                        next_fetch_at = CASE WHEN job.ended_at IS NULL THEN job.next_fetch_at END,
                        unanswered_since = NULL,
                        deadline_at = CASE WHEN job.ended_at IS NULL THEN job.deadline_at
                            WHEN job.status IS NULL AND excluded.status NOT {FINAL} THEN clock_timestamp() END,
                        state = CASE job.state WHEN 'running' THEN 'running' ELSE 'received' END,
                        due_at = CASE job.state WHEN 'running' THEN job.due_at ELSE excluded.due_at END,
                        fence = CASE WHEN job.state IN ({LEASABLE}) THEN {next} ELSE job.fence END
                    WHERE job.status IS NULL OR (job.status NOT {FINAL} AND excluded.status {FINAL})
                    RETURNING job_id
                ), durably AS MATERIALIZED ({DURABLY})
                SELECT place, written.job_id IS NOT NULL AS stored, conflict
                FROM incoming LEFT JOIN written USING (job_id), (SELECT count(*) FROM durably) AS durably",
                next = next_number("job.fence")
            ),
            count: format!(
                "SELECT rows, bytes, expected, {} AS took
                FROM (
                    SELECT count(*) AS rows, coalesce(sum(length), 0)::int8 AS bytes
                    FROM (SELECT octet_length(body) AS length FROM {table} WHERE {UNFINISHED} LIMIT $1) AS unfinished
                    OFFSET 0
                ) AS counted, (
                    SELECT count(*) AS expected
                    FROM (SELECT true FROM {table} WHERE state = 'expected' LIMIT $1) AS expected
                    OFFSET 0
                ) AS counted_too",
                microseconds("clock_timestamp() - statement_timestamp()")
            ),
            lease: format!(
                "WITH RECURSIVE {counts}, due AS MATERIALIZED (
                    SELECT due.* FROM counts, LATERAL (
                        SELECT number, due_at, state = 'running' AS expired,
                            state = 'running' AND begun AS was_begun
                        FROM {table}
                        WHERE {UNFINISHED} AND fetches = counts.fetches AND due_at <= statement_timestamp()
                        ORDER BY due_at, number LIMIT $1 FOR UPDATE SKIP LOCKED
                    ) AS due
                    LIMIT $1
                ), leased AS (
                    UPDATE {table} AS job SET state = 'running', due_at = {},
                        fence = {}, attempts = {}, begun = false
                    FROM due WHERE job.number = due.number
                    RETURNING job_id, job.fence, job.attempts, earlier_attempts, body, expired, was_begun,
                        verified, {} AS age, {history}, due.due_at AS due_since, job.number
                )
                SELECT * FROM leased ORDER BY fetches, due_since, number",
                from_now(2),
                next_number("job.fence"),
                one_more("job.attempts"),
                since("received_at"),
                counts = counts(UNFINISHED),
            ),
            begin: format!(
                "UPDATE {table} SET begun = true WHERE {LEASED} AND state = {RUNNING} RETURNING true"
            ),
            // Does not wait for a handler that has completed the event in a transaction, and keeps the row locked: other
            // leases would not be renewed meanwhile.
            renew: format!(
                "WITH given AS MATERIALIZED (
                    SELECT job_id COLLATE \"C\" AS job_id, fence, length, place
                    FROM unnest($1, $2, $3) WITH ORDINALITY AS given (job_id, fence, length, place)
                ), free AS MATERIALIZED (
                    SELECT number, length FROM given JOIN {table} AS job USING (job_id, fence)
                    WHERE state IN ({LEASABLE}) FOR UPDATE OF job SKIP LOCKED
                ), renewed AS (
                    UPDATE {table} AS job SET due_at = clock_timestamp() + length * interval '1 microsecond'
                    FROM free WHERE job.number = free.number
                    RETURNING job.number
                )
                SELECT place, renewed.number IS NOT NULL AS renewed
                FROM given JOIN {table} AS job USING (job_id, fence) LEFT JOIN renewed USING (number)
                WHERE state IN ({LEASABLE})"
            ),
            // Ends runs in the usual ways, many at once. A row that is locked is left, as are those of which the statements
            // below know more.
            settle: format!(
                "WITH free AS MATERIALIZED (
                    SELECT number, place, given.becomes, given.after, given.error, given.uncounted
                    FROM (
                        SELECT job_id COLLATE \"C\" AS job_id, fence, becomes, after, error, uncounted, place
                        FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY
                            AS given (job_id, fence, becomes, after, error, uncounted, place)
                    ) AS given JOIN {table} AS job USING (job_id, fence)
                    WHERE state = {RUNNING} AND (status {FINAL} OR deadline_at IS NULL)
                    FOR UPDATE OF job SKIP LOCKED
                )
                UPDATE {table} AS job SET state = becomes,
                    due_at = clock_timestamp() + after * interval '1 microsecond',
                    ended_at = CASE WHEN after IS NULL THEN clock_timestamp() END,
                    error = coalesce(free.error, job.error), attempts = attempts - uncounted
                FROM free WHERE job.number = free.number
                RETURNING place"
            ),
            verify: format!(
                "UPDATE {table} SET {sets}, verified = true,
                    state = CASE state WHEN 'expected' THEN 'received' ELSE state END,
                    due_at = CASE state WHEN 'expected' THEN clock_timestamp() ELSE due_at END,
                    received_at = CASE state WHEN 'expected' THEN clock_timestamp() ELSE received_at END,
                    attempts = CASE state WHEN 'expected' THEN 0 ELSE attempts END,
                    earlier_attempts = CASE state WHEN 'expected' THEN 0 ELSE earlier_attempts END
                WHERE {LEASED} AND (state IN ({LEASABLE}) OR (state = 'received' AND verified))
                RETURNING {IS_RECEIVED}",
                sets = answer.join(", ")
            ),
            done: end(RUNNING, "done", ", 'done'", "NULL", ""),
            retry: end(RUNNING, "received", ", 'received'", &from_now(3), "$4"),
            dead: end(LEASABLE, "dead", ", 'dead'", "NULL", "$3"),
            rejected: settle(
                LEASABLE,
                "dead",
                &[
                    ("due_at", "NULL"),
                    ("ended_at", NOW),
                    ("error", "$3"),
                    ("job_type", "NULL"),
                    ("status", "NULL"),
                    ("body", "NULL"),
                    ("verified", "false"),
                ],
            ),
            release: back(""),
            pending: format!(
                "UPDATE {table} SET state = 'expected', due_at = {from_now}, fence = {next},
                    attempts = attempts - CASE state WHEN 'running' THEN 1 ELSE 0 END,
                    fetches = {one_more_fetch}, not_found = 0, next_fetch_at = {from_now}, unanswered_since = NULL, error = NULL,
                    deadline_at = coalesce(deadline_at, clock_timestamp()), {NO_EVENT}
                WHERE {LEASED} AND state IN ({LEASABLE})
                RETURNING true",
                next = next_number("fence"),
                one_more_fetch = one_more("fetches"),
                from_now = from_now(3)
            ),
            not_found: fetched(&one_more("not_found"), "NULL"),
            failed: fetched("not_found", "coalesce(unanswered_since, clock_timestamp())"),
            complete: end(RUNNING, "done", "", "NULL", ""),
            expect: format!(
                "WITH durably AS MATERIALIZED ({DURABLY})
                INSERT INTO {table} AS job (job_id, state, due_at, deadline_at, received_at)
                SELECT $1, 'expected', {from_now}, {from_now}, clock_timestamp()
                FROM (SELECT count(*) FROM durably) AS durably
                WHERE NOT EXISTS ({is_registered})
                    AND ($3 OR EXISTS (SELECT FROM {table} WHERE job_id = $1 AND ended_at IS NULL))
                ON CONFLICT (job_id) DO UPDATE SET
                    state = CASE WHEN {ended} THEN 'expected' ELSE job.state END,
                    due_at = CASE WHEN {ended} THEN greatest(excluded.due_at, job.next_fetch_at) ELSE job.due_at END,
                    deadline_at = excluded.deadline_at, ended_at = NULL, {another}
                WHERE job.deadline_at IS NULL AND job.status NOT {FINAL}
                RETURNING state = 'expected' AS expected",
                from_now = from_now(2),
                ended = "job.ended_at IS NOT NULL",
                another = expect_another("job.ended_at IS NOT NULL"),
            ),
            is_registered,
            overdue: format!(
                "WITH RECURSIVE {counts}, overdue AS MATERIALIZED (
                    SELECT overdue.* FROM counts, LATERAL (
                        SELECT number, due_at FROM {table}
                        WHERE {EXPECTED} AND fetches = counts.fetches AND due_at <= statement_timestamp()
                        ORDER BY due_at, number LIMIT $1 FOR UPDATE SKIP LOCKED
                    ) AS overdue
                    LIMIT $1
                ), leased AS (
                    UPDATE {table} AS job SET due_at = {}, fence = {}
                    FROM overdue WHERE job.number = overdue.number
                    RETURNING job.number, job_id, job.fence, {} AS late, {history}, overdue.due_at AS due_since
                )
                SELECT * FROM leased ORDER BY fetches, due_since, number",
                from_now(2),
                next_number("job.fence"),
                since("coalesce(deadline_at, received_at)"),
                counts = counts(EXPECTED),
            ),
            contains: format!("SELECT FROM {table} WHERE job_id = $1"),
            prune_rows: format!(
                "WITH pruned AS MATERIALIZED (
                    SELECT number FROM {table} WHERE state = 'done' AND body IS NULL AND ended_at <= {long_ago}
                    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
                ), whole AS MATERIALIZED (
                    SELECT number, ended_at, octet_length(body) AS bytes FROM {table}
                    WHERE state = 'done' AND body IS NOT NULL AND ended_at <= {long_ago}
                    ORDER BY ended_at LIMIT $2 - (SELECT count(*) FROM pruned) FOR UPDATE SKIP LOCKED
                )
                DELETE FROM {table}
                WHERE number IN (SELECT number FROM pruned UNION ALL {few})
                RETURNING true",
                long_ago = long_ago(1),
                few = few("whole"),
            ),
            prune_payloads: format!(
                "WITH old AS MATERIALIZED (
                    SELECT number, ended_at, octet_length(body) AS bytes FROM {table}
                    WHERE state = 'done' AND body IS NOT NULL AND ended_at <= {}
                    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
                )
                UPDATE {table} SET body = NULL WHERE number IN ({})
                RETURNING true",
                long_ago(1),
                few("old"),
            ),
            list: format!(
                "SELECT {view} FROM {table}
                WHERE number > $1 AND ($2 IS NULL OR state = $2) AND ($3 IS NULL OR job_type = $3)
                    AND ($4 IS NULL OR status = $4)
                ORDER BY number LIMIT $5"
            ),
            get: format!("SELECT {view}, body FROM {table} WHERE job_id = $1"),
            replay: format!(
                "UPDATE {table} SET due_at = clock_timestamp(), ended_at = NULL, {NEVER_FETCHED},
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
            ),
            stats: format!(
                "SELECT count(*) FILTER (WHERE state = 'expected') AS expected,
                    count(*) FILTER (WHERE state = 'received') AS received,
                    count(*) FILTER (WHERE state = 'running') AS running,
                    count(*) FILTER (WHERE state = 'done') AS done,
                    count(*) FILTER (WHERE state = 'dead') AS dead,
                    coalesce(sum(octet_length(body)), 0)::int8 AS bytes,
                    {} AS oldest_due
                FROM {table}",
                microseconds(&format!(
                    "statement_timestamp() - min(due_at) FILTER (
                        WHERE {UNFINISHED} AND due_at <= statement_timestamp() AND isfinite(due_at))"
                ))
            ),
            // A row whose event is gone has no status, either.
            set_aside: format!(
                "UPDATE {table} SET state = 'dead', due_at = NULL, ended_at = clock_timestamp(), error = $3,
                    status = CASE WHEN body IS NOT NULL THEN status END
                WHERE number = $1 AND fence = $2 AND state IN ({LEASABLE})
                RETURNING true"
            ),
            // A notification is only a hint to look into the table, so it need not be on the disk.
            notify: format!("SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', $1)"),
        }
    }
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
