//! The inbox in PostgreSQL, beside plain inserts of the same rows.
//!
//! ```sh
//! cargo bench --all-features --bench inbox_postgres     # starts a server of its own
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Outcome, Receipt};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};

use self::by_hand::{BATCH, events};

#[path = "by_hand.rs"]
#[allow(dead_code)]
mod by_hand;
#[path = "../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod server;

const TASKS: u64 = 64;
const ROUND: Duration = Duration::from_secs(3);
const LEASE: Duration = Duration::from_secs(60);

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Rows per second of `tasks` tasks, each of which writes a number of rows per call.
async fn rate<F, Fut>(tasks: u64, call: F) -> f64
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = u64> + Send,
{
    let (began, rows) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (call, rows) = (call.clone(), rows.clone());
            tokio::spawn(async move {
                while began.elapsed() < ROUND {
                    rows.fetch_add(call(task).await, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in running {
        task.await.unwrap();
    }
    rows.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

async fn receive_rate(inbox: &PostgresInbox, next: &Arc<AtomicU64>, tasks: u64) -> f64 {
    let (inbox, next) = (inbox.clone(), next.clone());
    rate(tasks, move |_| {
        let (inbox, number) = (inbox.clone(), next.fetch_add(1, Ordering::Relaxed));
        async move {
            let event = &events(number..number + 1, 0)[0];
            assert_eq!(inbox.receive(event).await.unwrap(), Receipt::Stored);
            1
        }
    })
    .await
}

/// Inserts batches of 64 of the same rows, from a number of connections at once.
async fn raw_rate(url: &str, table: &'static str, next: &Arc<AtomicU64>, connections: u64) -> f64 {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(url).await);
    }
    let (clients, next) = (Arc::new(clients), next.clone());
    rate(connections, move |task| {
        let (clients, first) = (clients.clone(), next.fetch_add(BATCH as u64, Ordering::Relaxed));
        async move {
            by_hand::postgres(&clients[task as usize], table, &events(first..first + BATCH as u64, 0)).await;
            BATCH as u64
        }
    })
    .await
}

/// The inbox with large bodies, beside an INSERT for each into a plain table, from as many connections as tasks.
async fn large_bodies(url: &str, inbox: &PostgresInbox, next: &Arc<AtomicU64>, text: Arc<str>) {
    const TASKS: u64 = 16;
    let mut clients = Vec::new();
    for _ in 0..TASKS {
        clients.push(connect(url).await);
    }
    clients[0]
        .batch_execute(
            "DROP TABLE IF EXISTS bench.plain; CREATE TABLE bench.plain (job_id text PRIMARY KEY, body bytea)",
        )
        .await
        .unwrap();
    let clients = Arc::new(clients);
    let payload = Payload::extract_completed().set("/data/result/text", &*text).job_id(by_hand::id(0));
    let payload = String::from_utf8(payload.to_bytes().to_vec()).unwrap();
    let large = {
        let next = next.clone();
        move || {
            let id = by_hand::id(next.fetch_add(1, Ordering::Relaxed));
            Envelope::try_from(Bytes::from(payload.replace(&by_hand::id(0), &id))).unwrap()
        }
    };
    let plain = rate(TASKS, {
        let large = large.clone();
        move |task| {
            let (clients, event) = (clients.clone(), large());
            async move {
                let (job, body) = (event.job().to_string(), &**event.body());
                let insert = "INSERT INTO bench.plain VALUES ($1, $2) ON CONFLICT DO NOTHING";
                let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&job, Type::TEXT), (&body, Type::BYTEA)];
                clients[task as usize].execute_typed(insert, &parameters).await.unwrap()
            }
        }
    })
    .await;
    let inbox = inbox.clone();
    let rows = rate(TASKS, move |_| {
        let (inbox, event) = (inbox.clone(), large());
        async move {
            assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Stored);
            1
        }
    })
    .await;
    println!(
        "{:>4} KiB: an INSERT for each {plain:>6.0}, receive, {TASKS} tasks {rows:>6.0}: {:.2}",
        text.len() >> 10,
        rows / plain
    );
}

async fn lease_and_settle_rate(inbox: &PostgresInbox, most: usize) -> (f64, Duration) {
    let (began, mut rows, mut leasing, mut leases) = (Instant::now(), 0, Duration::ZERO, 0);
    while began.elapsed() < ROUND {
        let asked = Instant::now();
        let leased = inbox.lease(most, LEASE).await.unwrap();
        leasing += asked.elapsed();
        leases += 1;
        assert!(!leased.is_empty(), "nothing is left to lease");
        rows += leased.len();
        let settled = leased.into_iter().map(|leased| {
            let inbox = inbox.clone();
            tokio::spawn(async move { inbox.settle(&leased.lease, &Outcome::Done).await.unwrap() })
        });
        for settled in settled.collect::<Vec<_>>() {
            let _ = settled.await.unwrap();
        }
    }
    (rows as f64 / began.elapsed().as_secs_f64(), leasing / leases)
}

async fn prepare(client: &Client, inbox: &PostgresInbox, finished: u64) {
    client.batch_execute("DROP TABLE IF EXISTS bench.inbox").await.unwrap();
    inbox.migrate().await.unwrap();
    let fill = format!(
        "INSERT INTO bench.inbox (job_id, state, job_type, status, body, received_at, ended_at)
        SELECT gen_random_uuid()::text, 'done', 'extract', 'completed', convert_to(repeat('x', 300), 'UTF8'), now(), now()
        FROM generate_series(1, {finished})"
    );
    client.batch_execute(&fill).await.unwrap();
    // Neither statement may run in a transaction, which several statements in one message would share.
    for statement in ["VACUUM ANALYZE bench.inbox", "CHECKPOINT"] {
        client.batch_execute(statement).await.unwrap();
    }
}

fn main() {
    // Without `--bench`, as by `cargo test --benches`, only check that the program runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = server::Server::postgres(&["max_wal_size=4GB"], &[]);
    runtime.block_on(async {
        let client = connect(&server.url()).await;
        let inbox = || PostgresInbox::from_url(&server.url()).unwrap().with_table("bench", "inbox").unwrap();
        let next = Arc::new(AtomicU64::new(0));
        inbox().migrate().await.unwrap();

        println!("rows per second");
        for kibibytes in [64, 1024].into_iter().cycle().take(6) {
            prepare(&client, &inbox(), 0).await;
            let inbox = inbox().max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
            large_bodies(&server.url(), &inbox, &next, by_hand::text(kibibytes << 10)).await;
        }
        // `cargo bench … -- large` ends here.
        if std::env::args().any(|argument| argument == "large") {
            return;
        }
        // In turns, since other programs may use the machine.
        for _ in 0..3 {
            prepare(&client, &inbox(), 0).await;
            let raw = raw_rate(&server.url(), "bench.inbox", &next, 1).await;
            prepare(&client, &inbox(), 0).await;
            let rows = receive_rate(&inbox().max_unfinished_rows(u64::MAX), &next, TASKS).await;
            println!("raw batches of 64 {raw:>8.0}, receive, {TASKS} tasks {rows:>8.0}: {:.2}", rows / raw);
        }
        prepare(&client, &inbox(), 0).await;
        let raw = raw_rate(&server.url(), "bench.inbox", &next, 4).await;
        println!("raw batches of 64, 4 at once      {raw:>8.0}");
        for tasks in [1, 16, 256] {
            prepare(&client, &inbox(), 0).await;
            let rows = receive_rate(&inbox().max_unfinished_rows(u64::MAX), &next, tasks).await;
            println!("receive, {tasks:>3} tasks                {rows:>8.0}");
        }
        for finished in [1_000, 1_000_000] {
            prepare(&client, &inbox(), finished).await;
            let inbox = inbox().max_unfinished_rows(u64::MAX);
            let rows = receive_rate(&inbox, &next, TASKS).await;
            println!("receive, {TASKS} tasks, {finished:>7} done  {rows:>8.0}");
            for most in [1, 16, 64] {
                let (rows, leasing) = lease_and_settle_rate(&inbox, most).await;
                println!(
                    "lease {most:>2} and settle, {finished:>7} done {rows:>8.0}   a lease takes {leasing:?}"
                );
            }
        }
    });
}
