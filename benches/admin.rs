//! What administration costs beside millions of finished rows: lists, searches, counts and dry runs, and the views of the
//! inbox page.
//!
//! ```sh
//! cargo bench --all-features --bench admin                       # a million rows in each database
//! cargo bench --all-features --bench admin -- sqlite 10000000    # needs 7 GB on the disk, and PostgreSQL 15 GB
//! cargo bench --all-features --bench admin -- postgres full      # with the plans of PostgreSQL
//! ```
//!
//! Each call is made nine times; its first, its middle and its longest time are printed. Of the rows, one in fifty is dead.
//! `TMPDIR` says where the data lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::time::{Duration, Instant};

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxState};
use qomplement_webhooks::{PostgresInbox, SqliteInbox};

use self::by_hand::Folder;
use self::server::Server;

#[path = "by_hand.rs"]
#[allow(dead_code)]
mod by_hand;
#[path = "fill.rs"]
mod fill;
#[path = "../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod server;
#[path = "views.rs"]
mod views;

const ROUNDS: usize = 9;
const HOUR: Duration = Duration::from_secs(3600);
/// The longest time that a call should take.
const MOST: Duration = Duration::from_millis(50);

/// The times of a call that was made nine times.
struct Times {
    first: Duration,
    middle: Duration,
    most: Duration,
}

/// Makes a call nine times. Returns the times, and the last result.
async fn measured<T>(call: impl AsyncFn() -> T) -> (Times, T) {
    let mut times = Vec::new();
    let result = loop {
        let began = Instant::now();
        let result = call().await;
        times.push(began.elapsed());
        if times.len() == ROUNDS {
            break result;
        }
    };
    let first = times[0];
    times.sort_unstable();
    (Times { first, middle: times[ROUNDS / 2], most: times[ROUNDS - 1] }, result)
}

/// Prints how long a call takes, and returns whether that is short enough.
async fn measure(name: &str, call: impl AsyncFn() -> String) -> bool {
    let (times, result) = measured(call).await;
    let [first, middle, most] =
        [times.first, times.middle, times.most].map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
    let is_short = times.middle < MOST;
    let mark = if is_short { "" } else { ", TOO LONG" };
    println!("| {name} | {first} | {middle} | {most} | {result}{mark} |");
    is_short
}

async fn measure_calls(inbox: &dyn InboxAdmin, rows: u64) {
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
    println!("\n| call | first | median | most | |\n|---|---|---|---|---|");
    let mut short = measure("stats", async || {
        let stats = inbox.stats().await.unwrap();
        format!("{} done, {} dead", stats.done, stats.dead)
    })
    .await;
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
    println!("\n{}", if short { "all within 50 ms" } else { "NOT all within 50 ms" });
}

/// Changes rows, a part of the dead letters each time.
async fn change_some(inbox: &dyn InboxAdmin) {
    let dead = InboxFilter::default().state(InboxState::Dead);
    println!("\n| change | time | |\n|---|---|---|");
    let dead_rows = inbox.stats().await.unwrap().dead;
    for (name, replay) in [("replay 10000 dead letters", true), ("discard 10000 dead letters", false)] {
        let began = Instant::now();
        let changed = if replay {
            inbox.replay_all(&dead, 10_000, Bulk::Apply).await.unwrap()
        } else {
            inbox.discard_all(&dead, 10_000, Bulk::Apply).await.unwrap()
        };
        let time = began.elapsed().as_secs_f64() * 1e3;
        println!("| {name} | {time:.0} ms | {} of {dead_rows} |", changed.rows);
    }
}

async fn measure_all(inbox: impl InboxAdmin + Clone, rows: u64) {
    measure_calls(&inbox, rows).await;
    views::measure_all(inbox.clone(), rows).await;
    change_some(&inbox).await;
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
        fill::sqlite(&file, rows);
        let size = std::fs::metadata(&file).unwrap().len() >> 20;
        println!("SQLite, {rows} rows, {size} MiB (filled in {:.0?})", began.elapsed());
        runtime.block_on(measure_all(SqliteInbox::open(&file).unwrap(), rows));
    }
    if is_wanted("postgres") {
        let explain = ["shared_preload_libraries=auto_explain", "auto_explain.log_min_duration=0"];
        let analyze = ["auto_explain.log_analyze=on", "auto_explain.log_buffers=on"];
        let settings = ["max_wal_size=4GB", "shared_buffers=1GB", "checkpoint_timeout=1h"];
        let settings = [&settings[..], &fill::SETTINGS].concat();
        let is_full = is_named("full");
        let server = Server::postgres(
            &if is_full { [&settings[..], &explain, &analyze].concat() } else { settings },
            &[],
        );
        runtime.block_on(async {
            let inbox = PostgresInbox::from_url(&server.url()).unwrap();
            inbox.migrate().await.unwrap();
            let began = Instant::now();
            fill::postgres(&server, rows).await;
            println!("PostgreSQL, {rows} rows (filled in {:.0?})", began.elapsed());
            let read = server.log().len();
            measure_all(inbox, rows).await;
            if is_full {
                println!("{}", &server.log()[read..]);
            }
        });
    }
}
