//! What administration costs beside millions of finished rows: lists, searches, counts and dry runs.
//!
//! ```sh
//! cargo bench --all-features --bench admin                       # a million rows in each database
//! cargo bench --all-features --bench admin -- sqlite 10000000    # needs 6 GB on the disk, and PostgreSQL 14 GB
//! cargo bench --all-features --bench admin -- postgres full      # with the plans of PostgreSQL
//! ```
//!
//! Each call is made nine times; its middle and its longest time are printed. Of the rows, one in fifty is dead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::path::Path;
use std::time::{Duration, Instant};

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxState};
use qomplement_webhooks::{PostgresInbox, SqliteInbox};
use rusqlite::Connection;
use tokio_postgres::NoTls;

use self::by_hand::{Folder, events};
use self::server::Server;

#[path = "by_hand.rs"]
#[allow(dead_code)]
mod by_hand;
#[path = "../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod server;

const ROUNDS: usize = 9;
const HOUR: Duration = Duration::from_secs(3600);
/// The longest time that a call should take.
const MOST: Duration = Duration::from_millis(50);
/// Unfinished rows of each state beside the others.
const UNFINISHED: u64 = 1000;

/// The body of every row.
fn body() -> String {
    String::from_utf8(events(0..1, 0)[0].body().to_vec()).unwrap().replace('\'', "''")
}

fn fill_sqlite(file: &Path, rows: u64) {
    drop(SqliteInbox::open(file).unwrap());
    let connection = Connection::open(file).unwrap();
    let numbers =
        |to: u64| format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {to})");
    let now = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";
    let (body, ended) = (body(), rows);
    let fill = format!(
        "PRAGMA synchronous = OFF;
        PRAGMA cache_size = -4000000;
        BEGIN;
        {many} INSERT INTO inbox (job_id, state, job_type, status, bytes, received_at, ended_at, attempts, error)
            SELECT lower(printf('%s-%s-4%s-a%s-%s', hex(randomblob(4)), hex(randomblob(2)), substr(hex(randomblob(2)), 2),
                    substr(hex(randomblob(2)), 2), hex(randomblob(6)))),
                CASE n % 50 WHEN 0 THEN 'dead' ELSE 'done' END, 'extract', 'completed', {length},
                {now} - ({ended} - n) * 100000, {now} - ({ended} - n) * 100000, 1,
                CASE n % 50 WHEN 0 THEN 'error number ' || (n % 7000) || ' of the database: connection refused' END
            FROM n;
        INSERT INTO inbox_body (id, body) SELECT id, CAST('{body}' AS BLOB) FROM inbox;
        {few} INSERT INTO inbox (job_id, state, due_at, deadline_at, received_at)
            SELECT 'expected-' || n, 'expected', {now} + 3600000000, {now} + 3600000000, {now} FROM n;
        {few} INSERT INTO inbox (job_id, state, job_type, status, bytes, due_at, received_at, fence)
            SELECT 'running-' || n, CASE n % 2 WHEN 0 THEN 'running' ELSE 'received' END, 'extract', 'completed', {length},
                {now} + 3600000000, {now}, 1 FROM n;
        UPDATE inbox_total SET rows = (SELECT count(*) FROM inbox WHERE inbox.state = inbox_total.state);
        COMMIT; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)",
        many = numbers(rows),
        few = numbers(UNFINISHED),
        length = body.len(),
    );
    connection.execute_batch(&fill).unwrap();
}

async fn fill_postgres(server: &Server, rows: u64) {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let body = body();
    let insert = "INSERT INTO qomplement_inbox
        (job_id, state, job_type, status, body, due_at, deadline_at, received_at, ended_at, attempts, error) SELECT";
    let mut from = 1;
    while from <= rows {
        let to = (from + 499_999).min(rows);
        let fill = format!(
            "{insert} gen_random_uuid()::text, CASE n % 50 WHEN 0 THEN 'dead' ELSE 'done' END, 'extract', 'completed',
                convert_to('{body}', 'UTF8'), NULL, NULL, now() - ({rows} - n) * interval '100 ms',
                now() - ({rows} - n) * interval '100 ms', 1,
                CASE n % 50 WHEN 0 THEN 'error number ' || (n % 7000) || ' of the database: connection refused' END
            FROM generate_series({from}, {to}) AS n"
        );
        client.batch_execute(&fill).await.unwrap();
        from = to + 1;
    }
    let soon = "now() + interval '1 hour'";
    for (state, status, body, deadline) in [
        ("expected", "NULL", "NULL".to_owned(), soon),
        ("received", "'completed'", format!("convert_to('{body}', 'UTF8')"), "NULL"),
        ("running", "'completed'", format!("convert_to('{body}', 'UTF8')"), "NULL"),
    ] {
        let fill = format!(
            "{insert} '{state}-' || n, '{state}', 'extract', {status}, {body}, {soon}, {deadline}, now(), NULL, 0, NULL
            FROM generate_series(1, {UNFINISHED}) AS n"
        );
        client.batch_execute(&fill).await.unwrap();
    }
    for statement in ["VACUUM ANALYZE qomplement_inbox", "CHECKPOINT"] {
        client.batch_execute(statement).await.unwrap();
    }
}

/// Prints how long a call takes, and returns whether that is short enough.
async fn measure(name: &str, call: impl AsyncFn() -> String) -> bool {
    let mut times = Vec::new();
    let mut result = String::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        result = call().await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let (middle, most) = (times[ROUNDS / 2].as_secs_f64() * 1e3, times[ROUNDS - 1].as_secs_f64() * 1e3);
    let is_short = times[ROUNDS / 2] < MOST;
    let mark = if is_short { "" } else { "  TOO LONG" };
    println!("  {name:<46} {middle:>7.2} ms, most {most:>7.2} ms  {result}{mark}");
    is_short
}

async fn measure_all(inbox: &dyn InboxAdmin, rows: u64) {
    let any = InboxFilter::default;
    let dead = || any().state(InboxState::Dead);
    let newest = inbox.list(&any().state(InboxState::Done), InboxCursor::Newest, 1).await.unwrap().rows;
    let some_id = newest[0].job_id.clone();
    let lists = [
        ("list, newest", any(), InboxCursor::Newest),
        ("list, oldest", any(), InboxCursor::Oldest),
        ("list, in the middle", any(), InboxCursor::After(rows / 2)),
        ("list expected, newest", any().state(InboxState::Expected), InboxCursor::Newest),
        ("list received, newest", any().state(InboxState::Received), InboxCursor::Newest),
        ("list running, oldest", any().state(InboxState::Running), InboxCursor::Oldest),
        ("list done, newest", any().state(InboxState::Done), InboxCursor::Newest),
        ("list dead, newest", dead(), InboxCursor::Newest),
        ("list dead, oldest", dead(), InboxCursor::Oldest),
        ("list dead by error, newest", dead().error("NUMBER 350 of"), InboxCursor::Newest),
        ("list dead by an error that none has", dead().error("none"), InboxCursor::Newest),
        ("list by an error that none has", any().error("none"), InboxCursor::Newest),
        ("list by a type that none has", any().job_type("none"), InboxCursor::Oldest),
        ("list older than an hour, newest", any().older_than(HOUR), InboxCursor::Newest),
        ("list newer than an hour, oldest", any().newer_than(HOUR), InboxCursor::Oldest),
        ("list by a whole id", any().job_prefix(&some_id), InboxCursor::Newest),
        ("list by 8 characters of an id", any().job_prefix(&some_id[..8]), InboxCursor::Newest),
        ("list by 4 characters of an id", any().job_prefix(&some_id[..4]), InboxCursor::Newest),
        ("list by 3 characters of an id", any().job_prefix(&some_id[..3]), InboxCursor::Newest),
        ("list by 2 characters of an id", any().job_prefix(&some_id[..2]), InboxCursor::Oldest),
        ("list by 1 character of an id", any().job_prefix(&some_id[..1]), InboxCursor::Newest),
        ("list dead by 4 characters of an id", dead().job_prefix(&some_id[..4]), InboxCursor::Newest),
        ("list by a prefix that none has", any().job_prefix("zz"), InboxCursor::Newest),
    ];
    let mut short = true;
    for (name, filter, from) in lists {
        short &= measure(name, async || {
            let list = inbox.list(&filter, from, 100).await.unwrap();
            format!("{} rows{}", list.rows.len(), if list.next.is_some() { ", goes on" } else { "" })
        })
        .await;
    }
    short &= measure("get", async || {
        let found = inbox.get(&some_id.parse().unwrap()).await.unwrap();
        format!("{} row", found.iter().len())
    })
    .await;
    short &= measure("stats", async || {
        let stats = inbox.stats().await.unwrap();
        format!("{} done, {} dead", stats.done, stats.dead)
    })
    .await;
    for (name, filter) in [
        ("dead", dead()),
        ("all", any()),
        ("dead by error", dead().error("number 350 of")),
        ("by 4 characters of an id", any().job_prefix(&some_id[..4])),
    ] {
        short &= measure(&format!("replay, dry run, {name}"), async || {
            let changed = inbox.replay_all(&filter, u64::MAX, Bulk::DryRun).await.unwrap();
            format!("{} rows{}", changed.rows, if changed.more { " and more" } else { "" })
        })
        .await;
        short &= measure(&format!("discard, dry run, {name}"), async || {
            let changed = inbox.discard_all(&filter, u64::MAX, Bulk::DryRun).await.unwrap();
            format!("{} rows{}", changed.rows, if changed.more { " and more" } else { "" })
        })
        .await;
    }
    println!("  {}", if short { "all within 50 ms" } else { "NOT all within 50 ms" });
    let dead_rows = inbox.stats().await.unwrap().dead;
    for (name, replay) in [("replay 10000 dead letters", true), ("discard 10000 dead letters", false)] {
        let began = Instant::now();
        let changed = if replay {
            inbox.replay_all(&dead(), 10_000, Bulk::Apply).await.unwrap()
        } else {
            inbox.discard_all(&dead(), 10_000, Bulk::Apply).await.unwrap()
        };
        println!(
            "  {name:<46} {:>7.0} ms  {} of {dead_rows}",
            began.elapsed().as_secs_f64() * 1e3,
            changed.rows
        );
    }
}

fn main() {
    // Without `--bench`, as by `cargo test --benches`, only check that the program runs.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let is_named = |part: &str| arguments.iter().any(|argument| argument == part);
    let is_wanted = |part: &str| is_named(part) || !["sqlite", "postgres"].into_iter().any(is_named);
    let rows = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if is_wanted("sqlite") {
        let folder = Folder::new();
        let file = folder.file("inbox.db");
        let began = Instant::now();
        fill_sqlite(&file, rows);
        let size = std::fs::metadata(&file).unwrap().len() >> 20;
        println!("SQLite, {rows} rows, {size} MiB (filled in {:.0?})", began.elapsed());
        runtime.block_on(measure_all(&SqliteInbox::open(&file).unwrap(), rows));
    }
    if is_wanted("postgres") {
        let explain = ["shared_preload_libraries=auto_explain", "auto_explain.log_min_duration=0"];
        let analyze = ["auto_explain.log_analyze=on", "auto_explain.log_buffers=on"];
        let settings = ["max_wal_size=4GB", "shared_buffers=1GB", "checkpoint_timeout=1h"];
        let is_full = is_named("full");
        let server = Server::postgres(
            &if is_full { [&settings[..], &explain, &analyze].concat() } else { settings.to_vec() },
            &[],
        );
        runtime.block_on(async {
            let inbox = PostgresInbox::from_url(&server.url()).unwrap();
            inbox.migrate().await.unwrap();
            let began = Instant::now();
            fill_postgres(&server, rows).await;
            println!("PostgreSQL, {rows} rows (filled in {:.0?})", began.elapsed());
            let read = server.log().len();
            measure_all(&inbox, rows).await;
            if is_full {
                println!("{}", &server.log()[read..]);
            }
        });
    }
}
