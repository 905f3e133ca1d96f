//! Counts by minute, in a table beside the rows.
//!
//! Each session counts in rows of its own: statements that commit at the same time do not wait for each other. Transactions
//! of users count in a row each. Pruning adds the rows of a minute together.

use crate::inbox::traffic::KEPT_MINUTES;
use crate::postgres::TableName;

/// The session of a statement of the inbox.
const OWN: &str = "pg_backend_pid()";
/// In place of the session in a transaction of the user's: a negative number that no other transaction has within years. A
/// prepared transaction keeps its row locked while its session goes on.
const JOINED: &str = "-(txid_current() % 2147483647)::int4 - 1";
/// The session of counts that were added together.
const ALL: &str = "0";
/// The current minute.
const MINUTE: &str = "floor(extract(epoch FROM statement_timestamp()) / 60)::int8";

const LARGEST: &str = "9223372036854775807";

pub(in crate::inbox::postgres) fn name(table: &TableName) -> String {
    table.relation("traffic")
}

pub(super) fn check(table: &TableName) -> String {
    format!("SELECT FROM {} WHERE minute + received + handled = 0::int8 AND session = 0::int4", name(table))
}

/// Counts the rows of a CTE as received, as a CTE without a result.
pub(super) fn received(table: &TableName, rows: &str) -> String {
    format!("counted AS ({})", count(table, OWN, &format!("count(*), 0 FROM {rows}")))
}

/// Counts the rows of a CTE as handled, as a CTE without a result.
pub(super) fn handled(table: &TableName, rows: &str) -> String {
    format!("counted AS ({})", count(table, OWN, &format!("0, count(*) FROM {rows}")))
}

/// The same in a transaction of the user's.
pub(super) fn handled_in_joined(table: &TableName, rows: &str) -> String {
    format!("counted AS ({})", count(table, JOINED, &format!("0, count(*) FROM {rows}")))
}

fn count(table: &TableName, session: &str, counts: &str) -> String {
    insert(table, &format!("SELECT {MINUTE}, {session}, {counts} HAVING count(*) > 0"))
}

/// Adds counts, which are not negative, to those of their minute and session, which another program may have written.
fn insert(table: &TableName, counts: &str) -> String {
    let sums = ["received", "handled"].map(|count| {
        format!(
            "{count} = least(greatest(traffic.{count}, 0), {LARGEST} - excluded.{count}) + excluded.{count}"
        )
    });
    format!(
        "INSERT INTO {name} AS traffic (minute, session, received, handled) {counts}
            ON CONFLICT (minute, session) DO UPDATE SET {sums}",
        name = name(table),
        sums = sums.join(", ")
    )
}

/// Adds the sessions' counts of each minute together when it has passed, and deletes the minutes that are no longer kept.
/// Leaves rows that are locked.
pub(super) fn prune(table: &TableName) -> String {
    format!(
        "WITH old AS MATERIALIZED (
            SELECT minute, session FROM {name}
            WHERE minute <= {MINUTE} - {KEPT_MINUTES} OR (minute < {MINUTE} - 1 AND session <> {ALL})
            FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM {name} AS traffic USING old
            WHERE traffic.minute = old.minute AND traffic.session = old.session
            RETURNING traffic.minute, received, handled
        )
        {insert}",
        name = name(table),
        insert = insert(
            table,
            &format!(
                "SELECT minute, {ALL}, {received}, {handled} FROM gone
                WHERE minute > {MINUTE} - {KEPT_MINUTES} GROUP BY minute ORDER BY minute",
                received = sum("received"),
                handled = sum("handled"),
            )
        ),
    )
}

/// The counts of the kept minutes.
pub(super) fn traffic(table: &TableName) -> String {
    format!(
        "SELECT (now.minute - traffic.minute)::int4 AS minutes_ago, {received} AS received, {handled} AS handled
        FROM {name} AS traffic, (SELECT {MINUTE} AS minute) AS now
        WHERE traffic.minute > now.minute - {KEPT_MINUTES} AND traffic.minute <= now.minute
        GROUP BY traffic.minute, now.minute ORDER BY traffic.minute DESC",
        name = name(table),
        received = sum("received"),
        handled = sum("handled"),
    )
}

/// A sum of counts that another program may have written.
fn sum(count: &str) -> String {
    format!("least(sum(greatest({count}, 0)), {LARGEST})::int8")
}
