//! The table, and its versions.

use super::statements::{FETCHED, NEVER_FETCHED, traffic};
use crate::postgres::{Schema, TableName};

/// The steps that make the table, one for each version. A released step is never changed: the next one alters the
/// table.
pub(super) fn schema(table: TableName) -> Schema {
    let (steps, beside) = (vec![first_version(&table)], traffic::name(&table));
    Schema::new(table, "qomplement-webhooks inbox", steps).with_table_beside(beside)
}

/// Creates the table, and the one that counts, unless that is left of an inbox whose table was dropped.
///
/// Each index serves one query, and only the indexes of the constraints and of pruning hold done rows, so done rows
/// slow down nothing else. The rows that were never fetched, nearly all, have an index by time alone. A body of more
/// than two kilobytes lies beside the table (TOAST), and is not written again with its row.
///
/// A lease and an outcome write a row anew. Half of a page is left for that, and the columns that seldom change, the
/// body above all, come first: if both versions of a row are on one page, the log holds only what follows the columns
/// that they begin with alike.
fn first_version(table: &TableName) -> String {
    let index = |name| table.index(name);
    format!(
        "CREATE TABLE {table} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    job_id text COLLATE \"C\" NOT NULL UNIQUE,
    job_type text,
    status text,
    traceparent text,
    body bytea CHECK (body IS NOT NULL OR state IN ('expected', 'done') OR (state = 'dead' AND status IS NULL)),
    state text NOT NULL CHECK (state IN ('expected', 'received', 'running', 'done', 'dead')),
    verified boolean NOT NULL DEFAULT false,
    begun boolean NOT NULL DEFAULT false,
    due_at timestamptz CHECK (due_at IS NOT NULL OR state IN ('done', 'dead')),
    fence bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    earlier_attempts integer NOT NULL DEFAULT 0,
    fetches integer NOT NULL DEFAULT 0,
    not_found integer NOT NULL DEFAULT 0,
    next_fetch_at timestamptz,
    unanswered_since timestamptz,
    deadline_at timestamptz,
    ended_at timestamptz CHECK (ended_at IS NOT NULL OR state NOT IN ('done', 'dead')),
    error text,
    failures jsonb
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
DO {compressed};
CREATE INDEX {due} ON {table} (due_at, number) WHERE {NEVER_FETCHED};
CREATE INDEX {fetched} ON {table} (fetches, due_at, number) WHERE {FETCHED};
CREATE INDEX {expected} ON {table} (fetches, due_at, number) WHERE state = 'expected';
CREATE INDEX {done} ON {table} (ended_at) WHERE state = 'done' AND body IS NOT NULL;
CREATE INDEX {pruned} ON {table} (ended_at) WHERE state = 'done' AND body IS NULL;
CREATE INDEX {dead} ON {table} (number) WHERE state = 'dead';
CREATE INDEX {died} ON {table} (ended_at) WHERE state = 'dead';
CREATE TABLE IF NOT EXISTS {traffic} (
    minute bigint NOT NULL,
    session integer NOT NULL,
    received bigint NOT NULL,
    handled bigint NOT NULL,
    PRIMARY KEY (minute, session)
) WITH (fillfactor = 50);
COMMENT ON TABLE {traffic} IS 'events received and handled in each minute since 1970, by session of the server';
",
        compressed = literal(&format!(
            "BEGIN EXECUTE {}; EXCEPTION WHEN syntax_error OR feature_not_supported THEN NULL; END",
            literal(&format!("ALTER TABLE {table} ALTER COLUMN body SET COMPRESSION lz4"))
        )),
        due = index("due"),
        fetched = index("fetched"),
        expected = index("expected"),
        done = index("done"),
        pruned = index("pruned"),
        dead = index("dead"),
        died = index("died"),
        traffic = traffic::name(table),
    )
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
