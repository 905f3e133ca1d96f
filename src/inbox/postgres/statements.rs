//! The table, and one statement for each transition of a row.
//!
//! Whether something is due is asked of the time when the statement began, and new times are counted from
//! the time when the row is found: both err on the safe side.

use crate::postgres::TableName;

/// Where arrivals are told, with the inbox and its table as the payload.
pub(super) const CHANNEL: &str = "qomplement_inbox";

/// What [`JobStatus::is_final`](crate::JobStatus::is_final) says.
const FINAL: &str = "IN ('completed', 'failed')";
/// The rows that the index by time holds.
const UNFINISHED: &str = "state IN ('received', 'running')";

/// The statements, with the table's name in them.
pub(super) struct Statements {
    pub(super) check: String,
    pub(super) receive: String,
    pub(super) count: String,
    pub(super) lease: String,
    pub(super) renew: String,
    pub(super) done: String,
    pub(super) retry: String,
    pub(super) dead: String,
    pub(super) give_back: String,
    pub(super) complete: String,
    pub(super) expect: String,
    pub(super) overdue: String,
    pub(super) contains: String,
    pub(super) prune_rows: String,
    pub(super) prune_payloads: String,
    pub(super) list: String,
    pub(super) get: String,
    pub(super) replay: String,
    pub(super) stats: String,
}

/// Creates the table.
///
/// Each index holds the rows of one question, and none but the first two the rows that are done: so what is
/// done costs nothing. A body of more than two kilobytes lies beside the table (TOAST), and is not written again
/// with its row.
pub(super) fn migration(table: &TableName) -> String {
    let schema = table.schema().map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {schema};\n"));
    let index = |name| table.index(name);
    format!(
        "{schema}CREATE TABLE IF NOT EXISTS {table} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text COLLATE \"C\" NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('expected', 'received', 'running', 'done', 'dead')),
    job_type text,
    status text,
    body bytea CHECK (body IS NOT NULL OR state IN ('expected', 'done')),
    due_at timestamptz CHECK (due_at IS NOT NULL OR state IN ('done', 'dead')),
    sequence bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    earlier_attempts integer NOT NULL DEFAULT 0,
    error text,
    received_at timestamptz NOT NULL,
    ended_at timestamptz CHECK (ended_at IS NOT NULL OR state NOT IN ('done', 'dead'))
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
CREATE INDEX IF NOT EXISTS {due} ON {table} (due_at, number) WHERE {UNFINISHED};
CREATE INDEX IF NOT EXISTS {expected} ON {table} (due_at) WHERE state = 'expected';
CREATE INDEX IF NOT EXISTS {done} ON {table} (ended_at) WHERE state = 'done' AND body IS NOT NULL;
CREATE INDEX IF NOT EXISTS {pruned} ON {table} (ended_at) WHERE state = 'done' AND body IS NULL;
CREATE INDEX IF NOT EXISTS {dead} ON {table} (number) WHERE state = 'dead';
",
        schema = schema.unwrap_or_default(),
        due = index("due"),
        expected = index("expected"),
        done = index("done"),
        pruned = index("pruned"),
        dead = index("dead"),
    )
}

impl Statements {
    pub(super) fn new(table: &TableName) -> Self {
        const LEASED: &str = "job_id = $1 AND sequence = $2 AND state = 'running'";
        // What is committed when it is answered is on the disk, whatever the database's setting.
        const DURABLY: &str = "SELECT set_config('synchronous_commit', 'on', true)
            WHERE current_setting('synchronous_commit') = 'off'";
        let from_now = |parameter| format!("clock_timestamp() + ${parameter} * interval '1 microsecond'");
        let long_ago = |parameter| format!("statement_timestamp() - ${parameter} * interval '1 microsecond'");
        let microseconds = |interval| format!("(extract(epoch FROM {interval}) * 1000000)::int8");
        let view = format!(
            "number, job_id, state, job_type, status, attempts, earlier_attempts, error, {} AS age, {} AS due_in",
            microseconds("statement_timestamp() - received_at"),
            microseconds("due_at - statement_timestamp()"),
        );
        // Writes a row that is leased, or else, for a repetition whose first reply was lost, the same row
        // again: in one statement, so that nothing comes between the question and the write.
        let settle = |becomes: &str, sets: &[(&str, String)]| {
            let sets = sets.iter().map(|(column, value)| {
                format!(", {column} = CASE state WHEN 'running' THEN {value} ELSE {column} END")
            });
            format!(
                "UPDATE {table} SET state = '{becomes}'{sets}
                WHERE job_id = $1 AND sequence = $2 AND state IN ('running', '{becomes}')
                RETURNING true",
                sets = sets.collect::<String>()
            )
        };
        let now = || "clock_timestamp()".to_owned();
        Self {
            check: format!(
                "SELECT FROM {table}
                WHERE number = 0::int8 AND sequence = 0::int8 AND attempts + earlier_attempts = 0::int4
                    AND job_id || state || job_type || status || error = ''::text AND body = ''::bytea
                    AND due_at > now() AND received_at > now() AND ended_at > now()"
            ),
            // Looks first, so that a duplicate locks and writes no row: `conflict` is NULL for what may be written.
            // What may and was not has been received by another statement after this one had looked.
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
                        received_at = excluded.received_at,
                        attempts = 0, earlier_attempts = 0, error = NULL, ended_at = NULL,
                        state = CASE job.state WHEN 'running' THEN 'running' ELSE 'received' END,
                        due_at = CASE job.state WHEN 'running' THEN job.due_at ELSE excluded.due_at END,
                        sequence = job.sequence + CASE job.state WHEN 'running' THEN 1 ELSE 0 END
                    WHERE job.status IS NULL OR (job.status NOT {FINAL} AND excluded.status {FINAL})
                    RETURNING job_id
                ), told AS MATERIALIZED (
                    SELECT pg_notify('{CHANNEL}', $6) FROM written LIMIT 1
                ), durably AS MATERIALIZED ({DURABLY})
                SELECT place, written.job_id IS NOT NULL AS stored, conflict
                FROM incoming LEFT JOIN written USING (job_id),
                    (SELECT count(*) FROM told) AS told, (SELECT count(*) FROM durably) AS durably"
            ),
            count: format!(
                "SELECT rows, bytes, {} AS took
                FROM (
                    SELECT count(*) AS rows, coalesce(sum(length), 0)::int8 AS bytes
                    FROM (SELECT octet_length(body) AS length FROM {table} WHERE {UNFINISHED} LIMIT $1) AS unfinished
                    OFFSET 0
                ) AS counted",
                microseconds("clock_timestamp() - statement_timestamp()")
            ),
            lease: format!(
                "WITH due AS MATERIALIZED (
                    SELECT number, due_at, state = 'running' AS ran_out FROM {table}
                    WHERE {UNFINISHED} AND due_at <= statement_timestamp()
                    ORDER BY due_at, number LIMIT $1 FOR UPDATE SKIP LOCKED
                ), leased AS (
                    UPDATE {table} AS job SET state = 'running', due_at = {},
                        sequence = job.sequence + 1, attempts = job.attempts + 1
                    FROM due WHERE job.number = due.number
                    RETURNING job_id, job.sequence, job.attempts, earlier_attempts, body, ran_out,
                        due.due_at AS due_since, job.number
                )
                SELECT * FROM leased ORDER BY due_since, number",
                from_now(2)
            ),
            renew: format!("UPDATE {table} SET due_at = {} WHERE {LEASED} RETURNING true", from_now(3)),
            done: settle("done", &[("due_at", "NULL".to_owned()), ("ended_at", now())]),
            retry: settle("received", &[("due_at", from_now(3)), ("error", "$4".to_owned())]),
            dead: settle(
                "dead",
                &[("due_at", "NULL".to_owned()), ("ended_at", now()), ("error", "$3".to_owned())],
            ),
            give_back: settle(
                "received",
                &[("due_at", from_now(3)), ("attempts", "attempts - 1".to_owned())],
            ),
            complete: format!(
                "UPDATE {table} SET state = 'done', due_at = NULL, ended_at = clock_timestamp() WHERE {LEASED}
                RETURNING true"
            ),
            expect: format!(
                "WITH durably AS MATERIALIZED ({DURABLY})
                INSERT INTO {table} (job_id, state, due_at, received_at)
                SELECT $1, 'expected', {}, clock_timestamp() FROM (SELECT count(*) FROM durably) AS durably
                WHERE NOT EXISTS (SELECT FROM {table} WHERE job_id = $1)
                ON CONFLICT (job_id) DO NOTHING",
                from_now(2)
            ),
            overdue: format!(
                "WITH overdue AS MATERIALIZED (
                    SELECT number FROM {table}
                    WHERE state = 'expected' AND due_at <= statement_timestamp()
                    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
                )
                UPDATE {table} AS job SET due_at = {} FROM overdue WHERE job.number = overdue.number
                RETURNING job_id",
                from_now(2)
            ),
            contains: format!("SELECT FROM {table} WHERE job_id = $1"),
            prune_rows: format!(
                "WITH pruned AS MATERIALIZED (
                    SELECT number FROM {table} WHERE state = 'done' AND body IS NULL AND ended_at <= {long_ago}
                    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
                ), whole AS MATERIALIZED (
                    SELECT number FROM {table} WHERE state = 'done' AND body IS NOT NULL AND ended_at <= {long_ago}
                    ORDER BY ended_at LIMIT $2 - (SELECT count(*) FROM pruned) FOR UPDATE SKIP LOCKED
                )
                DELETE FROM {table}
                WHERE number IN (SELECT number FROM pruned UNION ALL SELECT number FROM whole)
                RETURNING true",
                long_ago = long_ago(1)
            ),
            prune_payloads: format!(
                "WITH old AS MATERIALIZED (
                    SELECT number FROM {table} WHERE state = 'done' AND body IS NOT NULL AND ended_at <= {}
                    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
                )
                UPDATE {table} AS job SET body = NULL FROM old WHERE job.number = old.number
                RETURNING true",
                long_ago(1)
            ),
            list: format!(
                "SELECT {view} FROM {table}
                WHERE number > $1 AND ($2 IS NULL OR state = $2) AND ($3 IS NULL OR job_type = $3)
                    AND ($4 IS NULL OR status = $4)
                ORDER BY number LIMIT $5"
            ),
            get: format!("SELECT {view}, body FROM {table} WHERE job_id = $1"),
            replay: format!(
                "UPDATE {table} SET state = 'received', due_at = clock_timestamp(), ended_at = NULL,
                    earlier_attempts = earlier_attempts + attempts, attempts = 0
                WHERE job_id = $1 AND state IN ('done', 'dead') AND body IS NOT NULL
                RETURNING pg_notify('{CHANNEL}', $2)"
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
                    "statement_timestamp() - min(due_at) FILTER (WHERE {UNFINISHED} AND due_at <= statement_timestamp())"
                ))
            ),
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
