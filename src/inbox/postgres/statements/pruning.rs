//! Statements that delete what retention no longer keeps.

use super::fragments::long_ago;
use crate::postgres::TableName;

/// Deletes done rows, those without their events first.
pub(super) fn prune_rows(table: &TableName) -> String {
    format!(
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
    )
}

/// Deletes dead rows.
pub(super) fn prune_dead(table: &TableName) -> String {
    format!(
        "WITH old AS MATERIALIZED (
            SELECT number, ended_at, coalesce(octet_length(body), 0) AS bytes FROM {table}
            WHERE state = 'dead' AND ended_at <= {} ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        DELETE FROM {table} WHERE number IN ({})
        RETURNING true",
        long_ago(1),
        few("old"),
    )
}

/// Deletes the events of done rows.
pub(super) fn prune_payloads(table: &TableName) -> String {
    format!(
        "WITH old AS MATERIALIZED (
            SELECT number, ended_at, octet_length(body) AS bytes FROM {table}
            WHERE state = 'done' AND body IS NOT NULL AND ended_at <= {}
            ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        UPDATE {table} SET body = NULL WHERE number IN ({})
        RETURNING true",
        long_ago(1),
        few("old"),
    )
}

/// The first rows that have $3 bytes together, and one more.
fn few(rows: &str) -> String {
    format!(
        "SELECT number FROM (
            SELECT number, sum(bytes) OVER (ORDER BY ended_at, number) - bytes AS before FROM {rows}
        ) AS summed WHERE before < $3"
    )
}
