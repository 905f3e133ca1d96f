//! Fills an inbox with millions of rows, as fast as the database allows: nothing is measured meanwhile.

use std::path::Path;

use qomplement_webhooks::SqliteInbox;
use rusqlite::Connection;
use tokio_postgres::NoTls;

use super::by_hand::events;
use super::server::Server;

/// Unfinished rows of each state beside the others.
const UNFINISHED: u64 = 1000;
/// The failed attempts that each dead letter keeps.
const FAILED: usize = 3;

/// Settings with which a server does not log the rows of a table that is emptied in the same transaction.
pub const SETTINGS: [&str; 3] = ["wal_level=minimal", "max_wal_senders=0", "maintenance_work_mem=1GB"];

/// The body of every row.
fn body() -> String {
    String::from_utf8(events(0..1, 0)[0].body().to_vec()).unwrap().replace('\'', "''")
}

/// The failed attempts of a dead letter.
fn failures() -> String {
    let attempts: Vec<_> = (1..=FAILED)
        .map(|number| {
            let error = "error of the database: connection refused";
            serde_json::json!({"number": number, "at": 1_700_000_000_000_000_i64, "took": 20_000, "error": error})
        })
        .collect();
    serde_json::to_string(&attempts).unwrap()
}

/// Without a journal, and with a cache that holds the index of ids: they arrive in no order.
pub fn sqlite(file: &Path, rows: u64) {
    drop(SqliteInbox::open(file).unwrap());
    let connection = Connection::open(file).unwrap();
    // Until the thread that writes has closed the file.
    while connection.execute_batch("PRAGMA journal_mode = OFF").is_err() {
        std::thread::yield_now();
    }
    let numbers =
        |to: u64| format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {to})");
    let now = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";
    let body = body();
    let fill = format!(
        "PRAGMA synchronous = OFF;
        PRAGMA cache_size = -4000000;
        BEGIN;
        {many} INSERT INTO inbox
                (job_id, state, job_type, status, bytes, received_at, ended_at, attempts, error, failures)
            SELECT lower(printf('%s-%s-4%s-a%s-%s', hex(randomblob(4)), hex(randomblob(2)), substr(hex(randomblob(2)), 2),
                    substr(hex(randomblob(2)), 2), hex(randomblob(6)))),
                CASE n % 50 WHEN 0 THEN 'dead' ELSE 'done' END, 'extract', 'completed', {length},
                {now} - ({rows} - n) * 100000, {now} - ({rows} - n) * 100000, CASE n % 50 WHEN 0 THEN {FAILED} ELSE 1 END,
                CASE n % 50 WHEN 0 THEN 'error number ' || (n % 7000) || ' of the database: connection refused' END,
                CASE n % 50 WHEN 0 THEN '{failures}' END
            FROM n;
        INSERT INTO inbox_body (id, body) SELECT id, CAST('{body}' AS BLOB) FROM inbox;
        {few} INSERT INTO inbox (job_id, state, due_at, deadline_at, received_at)
            SELECT 'expected-' || n, 'expected', {now} + 3600000000, {now} + 3600000000, {now} FROM n;
        {few} INSERT INTO inbox (job_id, state, job_type, status, bytes, due_at, received_at, fence)
            SELECT 'running-' || n, CASE n % 2 WHEN 0 THEN 'running' ELSE 'received' END, 'extract', 'completed', {length},
                {now} + 3600000000, {now}, 1 FROM n;
        UPDATE inbox_total SET (rows, bytes) =
            (SELECT count(*), coalesce(sum(bytes), 0) FROM inbox WHERE inbox.state = inbox_total.state);
        COMMIT",
        many = numbers(rows),
        few = numbers(UNFINISHED),
        length = body.len(),
        failures = failures(),
    );
    connection.execute_batch(&fill).unwrap();
}

/// In one transaction that empties the table first, so that nothing is logged, and with the index of ids made last.
pub async fn postgres(server: &Server, rows: u64) {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let (body, failures) = (body(), failures());
    let insert = "INSERT INTO qomplement_inbox
        (job_id, state, job_type, status, body, due_at, deadline_at, received_at, ended_at, attempts, error, failures) SELECT";
    let begin = "BEGIN; TRUNCATE qomplement_inbox;
        ALTER TABLE qomplement_inbox DROP CONSTRAINT qomplement_inbox_job_id_key";
    client.batch_execute(begin).await.unwrap();
    let ended = format!("clock_timestamp() - ({rows} - n) * interval '100 ms'");
    let fill = format!(
        "{insert} gen_random_uuid()::text, CASE n % 50 WHEN 0 THEN 'dead' ELSE 'done' END, 'extract', 'completed',
            convert_to('{body}', 'UTF8'), NULL, NULL, {ended}, {ended}, CASE n % 50 WHEN 0 THEN {FAILED} ELSE 1 END,
            CASE n % 50 WHEN 0 THEN 'error number ' || (n % 7000) || ' of the database: connection refused' END,
            CASE n % 50 WHEN 0 THEN '{failures}'::jsonb END
        FROM generate_series(1, {rows}) AS n"
    );
    client.batch_execute(&fill).await.unwrap();
    let soon = "now() + interval '1 hour'";
    for (state, status, body, deadline) in [
        ("expected", "NULL", "NULL".to_owned(), soon),
        ("received", "'completed'", format!("convert_to('{body}', 'UTF8')"), "NULL"),
        ("running", "'completed'", format!("convert_to('{body}', 'UTF8')"), "NULL"),
    ] {
        let fill = format!(
            "{insert} '{state}-' || n, '{state}', 'extract', {status}, {body}, {soon}, {deadline}, now(), NULL, 0, NULL, NULL
            FROM generate_series(1, {UNFINISHED}) AS n"
        );
        client.batch_execute(&fill).await.unwrap();
    }
    let end = "ALTER TABLE qomplement_inbox ADD UNIQUE (job_id); COMMIT";
    for statement in [end, "VACUUM ANALYZE qomplement_inbox", "CHECKPOINT"] {
        client.batch_execute(statement).await.unwrap();
    }
}
