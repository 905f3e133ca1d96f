//! The cost of the inboxes without HTTP: of receiving an event, and of leasing and settling it.
//!
//! ```sh
//! cargo bench --all-features --bench inbox
//! ```
//!
//! Beside `SqliteInbox`, the same rows written by hand: one thread, prepared statements, a commit after every 64.
//! The two take turns, since the speed of a shared machine's disk varies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::path::Path;
use std::time::{Duration, Instant};

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Outcome, Receipt};
use qomplement_webhooks::{InboxStore, SqliteInbox};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use self::by_hand::{Folder, events, id, middle};

#[path = "by_hand.rs"]
#[allow(dead_code)]
mod by_hand;

const TASKS: u64 = 64;
const EVENTS: u64 = 20_000;
const ROUNDS: usize = 5;
const LEASE: Duration = Duration::from_secs(3600);

/// The time that `TASKS` tasks take to receive the events, each waiting for one answer before the next.
fn receive(runtime: &Runtime, inbox: &SqliteInbox, events: &[Envelope]) -> Duration {
    let shares: Vec<Vec<Envelope>> = (0..TASKS as usize)
        .map(|task| events.iter().skip(task).step_by(TASKS as usize).cloned().collect())
        .collect();
    runtime.block_on(async {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for share in shares {
            let inbox = inbox.clone();
            tasks.spawn(async move {
                for event in &share {
                    assert_eq!(inbox.receive(event).await.unwrap(), Receipt::Stored);
                }
            });
        }
        tasks.join_all().await;
        began.elapsed()
    })
}

/// Writes the same rows into the same tables by hand.
fn receive_by_hand(file: &Path, events: &[Envelope]) -> Duration {
    let began = Instant::now();
    by_hand::sqlite(file, events);
    began.elapsed()
}

/// Leases `at_once` rows at a time, and settles each in a task of its own.
fn handle(runtime: &Runtime, inbox: &SqliteInbox, events: u64, at_once: usize) -> Duration {
    runtime.block_on(async {
        let began = Instant::now();
        let mut left = events as usize;
        while left > 0 {
            let leased = inbox.lease(at_once.min(left), LEASE).await.unwrap();
            assert!(!leased.is_empty());
            left -= leased.len();
            let mut tasks = JoinSet::new();
            for leased in leased {
                let inbox = inbox.clone();
                tasks.spawn(async move { inbox.settle(&leased.lease, &Outcome::Done).await.unwrap() });
            }
            let _ = tasks.join_all().await;
        }
        began.elapsed()
    })
}

/// Fills a file with finished rows, quickly.
fn fill_with_done(file: &Path, rows: u64) {
    let mut connection = Connection::open(file).unwrap();
    let transaction = connection.transaction().unwrap();
    let mut row = transaction
        .prepare(
            "INSERT INTO inbox (job_id, state, ended_at, fence, attempts, job_type, status, bytes, received_at)
            VALUES (?1, 'done', ?2, 1, 1, 'extract', 'completed', 2, ?2)",
        )
        .unwrap();
    let mut body = transaction.prepare("INSERT INTO inbox_body (id, body) VALUES (?1, x'7b7d')").unwrap();
    for number in 0..rows as i64 {
        row.execute(params![id(number as u64), number]).unwrap();
        body.execute([transaction.last_insert_rowid()]).unwrap();
    }
    drop((row, body));
    let totals = "UPDATE inbox_total SET rows = rows + ?1, bytes = bytes + 2 * ?1 WHERE state = 'done'";
    transaction.execute(totals, [rows as i64]).unwrap();
    transaction.commit().unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

fn micros(time: Duration, events: u64) -> f64 {
    time.as_secs_f64() * 1e6 / events as f64
}

fn receiving(runtime: &Runtime, folder: &Folder, padding: usize, count: u64) {
    let events = events(0..count, padding);
    let (mut store, mut by_hand) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let file = folder.file(&format!("store-{padding}-{round}"));
        let inbox = SqliteInbox::open(&file).unwrap();
        store.push(micros(receive(runtime, &inbox, &events), count));
        drop(inbox);
        let file = folder.file(&format!("hand-{padding}-{round}"));
        drop(SqliteInbox::open(&file).unwrap());
        by_hand.push(micros(receive_by_hand(&file, &events), count));
    }
    let ratios = store.iter().zip(&by_hand).map(|(store, by_hand)| by_hand / store).collect();
    println!(
        "receive, {:>6} bytes, {TASKS} tasks | store {:>6.1} µs | by hand {:>6.1} µs | {:.2} of its rate",
        events[0].body().len(),
        middle(store),
        middle(by_hand),
        middle(ratios)
    );
}

fn handling(runtime: &Runtime, folder: &Folder) {
    for at_once in [1, 16, 64] {
        let count = if at_once == 1 { EVENTS / 10 } else { EVENTS };
        let inbox = SqliteInbox::open(folder.file(&format!("handle-{at_once}"))).unwrap();
        receive(runtime, &inbox, &events(0..count, 0));
        let time = micros(handle(runtime, &inbox, count, at_once), count);
        println!("lease and settle, {at_once:>2} at once | {time:.1} µs");
    }
}

fn growing(runtime: &Runtime, folder: &Folder) {
    for rows in [1_000, 1_000_000] {
        let file = folder.file(&format!("done-{rows}"));
        drop(SqliteInbox::open(&file).unwrap());
        fill_with_done(&file, rows);
        let count = EVENTS / 4;
        let (mut store, mut by_hand, mut handled) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS as u64 {
            let first = rows + 2 * round * count;
            by_hand.push(micros(receive_by_hand(&file, &events(first..first + count, 0)), count));
            let inbox = SqliteInbox::open(&file).unwrap();
            store.push(micros(receive(runtime, &inbox, &events(first + count..first + 2 * count, 0)), count));
            handled.push(micros(handle(runtime, &inbox, 2 * count, 16), 2 * count));
        }
        println!(
            "{rows:>7} rows are done | receive {:>5.1} µs | by hand {:>5.1} µs | lease and settle {:>5.1} µs",
            middle(store),
            middle(by_hand),
            middle(handled)
        );
    }
}

fn alone(runtime: &Runtime, folder: &Folder) {
    let inbox = SqliteInbox::open(folder.file("alone")).unwrap();
    let events = events(0..1000, 0);
    let mut times = Vec::new();
    runtime.block_on(async {
        for event in &events {
            let began = Instant::now();
            inbox.receive(event).await.unwrap();
            times.push(micros(began.elapsed(), 1));
        }
    });
    println!("receive, one after another | {:.0} µs", middle(times));
}

fn main() {
    // Without `--bench`, as by `cargo test --benches`, only check that the program runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = Folder::new();
    let runtime = Runtime::new().unwrap();
    println!("SQLite");
    receiving(&runtime, &folder, 0, EVENTS);
    receiving(&runtime, &folder, 64 << 10, EVENTS / 20);
    alone(&runtime, &folder);
    handling(&runtime, &folder);
    growing(&runtime, &folder);
}
