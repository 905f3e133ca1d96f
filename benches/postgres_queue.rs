//! The queue of `PostgresInbox`: what an event costs beside finished rows, and under an old snapshot.
//!
//! ```sh
//! cargo bench --all-features --bench postgres_queue                            # starts a server of its own
//! cargo bench --all-features --bench postgres_queue -- handle 1000 10000000    # one part; numbers of finished rows
//! cargo bench --all-features --bench postgres_queue -- plans 10000 1000000 full
//! ```
//!
//! - `handle`: a worker with an empty handler leases and settles events. Log (WAL) and dead rows of each event, and the
//!   share of updates that touched no index.
//! - `snapshot`: the time of a lease while a transaction keeps its snapshot.
//! - `plans`: the blocks that each call reads, as `auto_explain` counts them; with `full`, the plans.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use qomplement_webhooks::inbox::{
    Bulk, InboxAdmin, InboxCursor, InboxFilter, InboxState, Lease, NoResult, Outcome, Receipt, Retention,
};
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, PostgresInbox, Verification, WebhookEvent, handler_fn,
};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use self::by_hand::{events, id};
use self::server::Server;

#[path = "by_hand.rs"]
#[allow(dead_code)]
mod by_hand;
#[path = "../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod server;

const EVENTS: u64 = 40_000;
/// Events that are handled under an old snapshot.
const HANDLED_EARLIER: u64 = 81_000;
const LEASE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The states of rows, and how many rows of each there are beside the finished ones.
const OTHERS: [&str; 4] = ["received", "expected", "dead", "pruned"];
const OTHER_ROWS: u64 = 1000;

async fn connect(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn inbox(server: &Server) -> PostgresInbox {
    PostgresInbox::from_url(&server.url()).unwrap().with_table("bench", "inbox").unwrap()
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// An inbox with a number of finished rows.
async fn prepare(server: &Server, client: &Client, finished: u64) -> PostgresInbox {
    client.batch_execute("DROP TABLE IF EXISTS bench.inbox").await.unwrap();
    let inbox = inbox(server);
    inbox.migrate().await.unwrap();
    fill(client, "done", finished).await;
    settle_down(client).await;
    inbox
}

/// Inserts rows in a state. `pruned` are done rows without a body.
async fn fill(client: &Client, state: &str, rows: u64) {
    let (due, ended) = match state {
        "received" => ("now()", "NULL"),
        "expected" => ("now() + interval '1 hour'", "NULL"),
        _ => ("NULL", "now()"),
    };
    let (body, kept) = match state {
        "pruned" => ("NULL", "done"),
        "expected" => ("NULL", "expected"),
        kept => ("convert_to(replace($body$BODY$body$, 'THE-ID', id), 'UTF8')", kept),
    };
    let status = if state == "expected" { "NULL" } else { "'completed'" };
    let payload = String::from_utf8(events(0..1, 0)[0].body().to_vec()).unwrap();
    let body = body.replace("BODY", &payload.replace(&id(0), "THE-ID"));
    let mut left = rows;
    while left > 0 {
        let some = left.min(500_000);
        let fill = format!(
            "INSERT INTO bench.inbox (job_id, state, job_type, status, body, due_at, deadline_at, received_at, ended_at)
            SELECT id, '{kept}', 'extract', {status}, {body}, {due}, {deadline}, now(), {ended}
            FROM (SELECT gen_random_uuid()::text AS id FROM generate_series(1, {some})) AS ids",
            deadline = if state == "expected" { due } else { "NULL" },
        );
        client.batch_execute(&fill).await.unwrap();
        left -= some;
    }
}

async fn settle_down(client: &Client) {
    // Neither statement may run in a transaction, which several statements in one message would share.
    for statement in ["VACUUM ANALYZE bench.inbox", "CHECKPOINT"] {
        client.batch_execute(statement).await.unwrap();
    }
}

async fn receive(inbox: &PostgresInbox, numbers: std::ops::Range<u64>, tasks: u64) {
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let (inbox, numbers) = (inbox.clone(), numbers.clone().skip(task as usize).step_by(tasks as usize));
        running.spawn(async move {
            for number in numbers {
                let event = &events(number..number + 1, 0)[0];
                assert_eq!(inbox.receive(event).await.unwrap(), Receipt::Stored);
            }
        });
    }
    running.join_all().await;
}

async fn settle_all(inbox: &PostgresInbox, leases: Vec<Lease>, outcome: &Outcome) {
    let mut running = JoinSet::new();
    for lease in leases {
        let (inbox, outcome) = (inbox.clone(), outcome.clone());
        running.spawn(async move { inbox.settle(&lease, &outcome).await.unwrap() });
    }
    let _ = running.join_all().await;
}

async fn lease(inbox: &PostgresInbox, most: usize) -> Vec<Lease> {
    inbox.lease(most, LEASE).await.unwrap().into_iter().map(|leased| leased.lease).collect()
}

async fn handle(server: &Server, finished: u64, at_once: usize) {
    let client = connect(server).await;
    let inbox =
        prepare(server, &client, finished).await.max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
    client.batch_execute("ALTER TABLE bench.inbox SET (autovacuum_enabled = off)").await.unwrap();
    client
        .batch_execute("SELECT pg_stat_reset_single_table_counters('bench.inbox'::regclass)")
        .await
        .unwrap();
    let logged = || number(&client, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8");
    let before = logged().await;
    receive(&inbox, 0..EVENTS, 64).await;
    let received = logged().await;

    let (handled, all) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Notify::new()));
    let handler = handler_fn({
        let (handled, all) = (handled.clone(), all.clone());
        move |_: WebhookEvent| {
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == EVENTS {
                all.notify_one();
            }
            async { Ok::<_, HandlerError>(()) }
        }
    });
    let began = Instant::now();
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).concurrency(at_once).start();
    all.notified().await;
    worker.shutdown(Duration::from_secs(10)).await;
    let rate = EVENTS as f64 / began.elapsed().as_secs_f64();
    let settled = logged().await;

    // The server's processes report their statistics once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let counted = |column| {
        let query = format!("SELECT {column} FROM pg_stat_user_tables WHERE relid = 'bench.inbox'::regclass");
        let client = &client;
        async move { number(client, &query).await as f64 }
    };
    let (updates, hot, dead) =
        (counted("n_tup_upd").await, counted("n_tup_hot_upd").await, counted("n_dead_tup").await);
    let per_event = |bytes: i64| bytes / EVENTS as i64;
    println!(
        "{finished:>8} done, {at_once:>2} at once: {rate:>7.0} events a second; log {:>4} + {:>4} B an event; {:.2} dead rows; {:.2} of {:.2} updates touch no index",
        per_event(received - before),
        per_event(settled - received),
        dead / EVENTS as f64,
        hot / updates,
        updates / EVENTS as f64,
    );
}

async fn snapshot(server: &Server) {
    let client = connect(server).await;
    let inbox = prepare(server, &client, 1000).await;
    let old = connect(server).await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM bench.inbox LIMIT 1";
    old.batch_execute(begin).await.unwrap();
    let mut next = 0;
    while next < HANDLED_EARLIER {
        receive(&inbox, next..next + 1000, 64).await;
        next += 1000;
        for _ in 0..4 {
            settle_all(&inbox, lease(&inbox, 250).await, &Outcome::Done).await;
        }
    }
    let (mut times, until) = (Vec::new(), Instant::now() + Duration::from_secs(20));
    while Instant::now() < until {
        receive(&inbox, next..next + 1, 1).await;
        next += 1;
        let began = Instant::now();
        let leases = lease(&inbox, 16).await;
        times.push(began.elapsed());
        assert_eq!(leases.len(), 1);
        settle_all(&inbox, leases, &Outcome::Done).await;
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "a lease under a snapshot that is {HANDLED_EARLIER} events old: p50 {:?}, p99 {:?}, most {:?} of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
    old.batch_execute("ROLLBACK").await.unwrap();
}

async fn beside_others(server: &Server, client: &Client, finished: u64) -> PostgresInbox {
    let inbox = prepare(server, client, finished).await;
    for state in OTHERS {
        fill(client, state, OTHER_ROWS).await;
    }
    settle_down(client).await;
    inbox
}

fn in_state(state: InboxState) -> InboxFilter {
    InboxFilter::default().state(state)
}

const STATES: [InboxState; 5] =
    [InboxState::Expected, InboxState::Received, InboxState::Running, InboxState::Done, InboxState::Dead];

/// The plans that the server has written into its log, of statements about the table.
struct Plans<'a> {
    server: &'a Server,
    read: usize,
    is_full: bool,
}

impl Plans<'_> {
    /// Prints what a call's statements read; what came before is skipped.
    async fn print(&mut self, call: &str) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let log = self.server.log();
        let new = log.get(self.read..).unwrap_or_default();
        self.read = log.len();
        let plans: Vec<&str> = new
            .split("LOG:  ")
            .filter(|entry| entry.contains(" plan:") && entry.contains("\"bench\".\"inbox\""))
            .collect();
        let (mut blocks, mut scans) = (0, 0);
        for plan in &plans {
            // The first is the root's, which has those of all others in it.
            let buffers =
                plan.lines().find_map(|line| line.trim().strip_prefix("Buffers: shared ")).unwrap_or("");
            let read = buffers.split(' ').filter_map(|part| {
                part.strip_prefix("hit=").or(part.strip_prefix("read="))?.parse::<u64>().ok()
            });
            blocks += read.sum::<u64>();
            scans += plan.matches("Seq Scan on inbox").count();
        }
        println!("  {call:<40} {:>3} statements {blocks:>7} blocks {scans:>3} whole scans", plans.len());
        if self.is_full {
            plans.iter().for_each(|plan| println!("{plan}"));
        }
    }
}

async fn plans(server: &Server, finished: u64, is_full: bool) {
    let client = connect(server).await;
    let inbox = beside_others(server, &client, finished).await;
    println!("{finished} done");
    let mut plans = Plans { server, read: 0, is_full };
    plans.read = server.log().len();
    inbox.contains(&id(0).parse().unwrap()).await.unwrap();
    plans.print("contains").await;
    receive(&inbox, 0..64, 64).await;
    plans.print("receive 64 events (and count)").await;
    for event in events(0..4, 0) {
        assert_eq!(inbox.receive(&event).await.unwrap(), Receipt::Duplicate);
    }
    plans.print("receive 4 duplicates").await;
    let leases = lease(&inbox, 64).await;
    plans.print("lease 64").await;
    for lease in &leases[..4] {
        let _ = inbox.renew(lease, LEASE).await.unwrap();
    }
    plans.print("renew 4 times").await;
    let _ = inbox.begin(&leases[0]).await.unwrap();
    plans.print("begin").await;
    let error = || "why".to_owned();
    let outcomes = [
        ("settle: done", Outcome::Done),
        ("settle: dead", Outcome::Dead { error: error() }),
        ("settle: retry", Outcome::Retry { after: HOUR, error: error() }),
        ("settle: release", Outcome::Release { after: HOUR }),
        ("settle: rejected", Outcome::Rejected { error: error() }),
        ("settle: not found", Outcome::FetchAgain { after: HOUR, answer: NoResult::NotFound }),
        ("settle: pending", Outcome::FetchAgain { after: HOUR, answer: NoResult::Pending }),
        ("settle: failed", Outcome::FetchAgain { after: HOUR, answer: NoResult::Failed { error: error() } }),
    ];
    for (lease, (call, outcome)) in leases.iter().zip(&outcomes) {
        let _ = inbox.settle(lease, outcome).await.unwrap();
        plans.print(call).await;
        let _ = inbox.settle(lease, outcome).await.unwrap();
        plans.print(&format!("{call}, again")).await;
    }
    settle_all(&inbox, leases[8..].to_vec(), &Outcome::Done).await;
    plans.print("settle 56: done").await;
    inbox.expect(&id(1 << 40).parse().unwrap(), Duration::from_millis(1)).await.unwrap();
    plans.print("expect").await;
    let overdue = inbox.overdue(16, LEASE).await.unwrap();
    assert!(!overdue.is_empty());
    plans.print("overdue").await;
    let fetched = &events((1 << 40)..(1 << 40) + 1, 0)[0];
    let _ = inbox.verify(&overdue[0].lease, fetched).await.unwrap();
    plans.print("verify").await;
    for state in STATES {
        inbox.list(&in_state(state), InboxCursor::Newest, 100).await.unwrap();
        plans.print(&format!("list {}", state.as_str())).await;
    }
    let any = InboxFilter::default;
    for (call, filter, from) in [
        ("list", any(), InboxCursor::Newest),
        ("list from the oldest", any(), InboxCursor::Oldest),
        ("list by an error that none has", any().error("none"), InboxCursor::Newest),
        (
            "list dead by an error that none has",
            in_state(InboxState::Dead).error("none"),
            InboxCursor::Newest,
        ),
        ("list by an id", any().job_prefix(id(0)), InboxCursor::Newest),
        ("list by a character of an id", any().job_prefix("a"), InboxCursor::Newest),
        ("list by age", any().older_than(HOUR), InboxCursor::Newest),
    ] {
        inbox.list(&filter, from, 100).await.unwrap();
        plans.print(call).await;
    }
    for filter in [any(), in_state(InboxState::Dead), any().job_prefix("a"), any().job_prefix(id(0))] {
        inbox.replay_all(&filter, u64::MAX, Bulk::DryRun).await.unwrap();
        plans.print(&format!("replay, dry run, {:?} {:?}", filter.state, filter.job_prefix)).await;
        inbox.discard_all(&filter, u64::MAX, Bulk::DryRun).await.unwrap();
        plans.print(&format!("discard, dry run, {:?} {:?}", filter.state, filter.job_prefix)).await;
    }
    inbox.replay_all(&in_state(InboxState::Dead), 100, Bulk::Apply).await.unwrap();
    plans.print("replay 100 dead letters").await;
    inbox.discard_all(&in_state(InboxState::Dead), 100, Bulk::Apply).await.unwrap();
    plans.print("discard 100 dead letters").await;
    let done = leases[0].job();
    inbox.get(done).await.unwrap().unwrap();
    plans.print("get").await;
    assert!(inbox.replay(done).await.unwrap());
    plans.print("replay").await;
    inbox.stats().await.unwrap();
    plans.print("stats").await;
    let retention = |time| Retention::default().payload(time).row(time);
    inbox.prune(&retention(HOUR).dead(HOUR)).await.unwrap();
    plans.print("prune nothing").await;
    inbox.prune(&retention(Duration::ZERO).dead(Duration::ZERO)).await.unwrap();
    plans.print("prune 1000 rows and 1000 payloads, and the dead").await;
}

fn main() {
    // Without `--bench`, as by `cargo test --benches`, only check that the program runs.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let is_named = |part: &str| arguments.iter().any(|argument| argument == part);
    let is_wanted = |part: &str| is_named(part) || !["handle", "snapshot", "plans"].into_iter().any(is_named);
    let mut sizes: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1_000, 1_000_000];
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let settings = ["max_wal_size=8GB", "shared_buffers=1GB", "checkpoint_timeout=1h"];
    runtime.block_on(async {
        if ["handle", "snapshot"].into_iter().any(is_wanted) {
            let server = Server::postgres(&settings, &[]);
            for size in sizes.iter().filter(|_| is_wanted("handle")) {
                for at_once in [16, 64] {
                    handle(&server, *size, at_once).await;
                }
            }
            if is_wanted("snapshot") {
                snapshot(&server).await;
            }
        }
        if is_wanted("plans") {
            let explain = [
                "shared_preload_libraries=auto_explain",
                "auto_explain.log_min_duration=0",
                "auto_explain.log_analyze=on",
                "auto_explain.log_buffers=on",
                "auto_explain.log_timing=off",
                "max_wal_size=8GB",
                "shared_buffers=1GB",
            ];
            let server = Server::postgres(&explain, &[]);
            for size in &sizes {
                plans(&server, *size, is_named("full")).await;
            }
        }
    });
}
