//! The stores in databases beside bare commands on the same server: jobs a second, and the time of each.
//!
//! ```sh
//! cargo bench --features postgres,redis --bench stores                # two minutes
//! cargo bench --features postgres,redis --bench stores -- postgres    # only cases with that in their names
//! ```
//!
//! The benchmark starts the servers itself, on loopback: redis-server and PostgreSQL must be installed. "Raw" is the
//! least that two writes and one read can cost with the same driver, the same settings of its connections
//! and the same table: no owner, no fencing, and no answer to a duplicate. Store and raw take short turns, so
//! that a disturbance hits both. A ratio compares the two turns of one round; the figures are the median of all rounds
//! and the middle half.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool, Runtime};
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{DedupStore, JobId, MemoryDedupStore, PostgresDedupStore, RedisDedupStore};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, Cmd, IntoConnectionInfo, Value, cmd};
use tokio_postgres::NoTls;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/support/databases.rs"]
mod server;

use server::Server;

const LEASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(3600);
const IN_FLIGHT: [usize; 3] = [1, 8, 64];
const ROUNDS: usize = 31;
const TURN: Duration = Duration::from_millis(70);

#[tokio::main]
async fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench`, as by `cargo test --benches`, only check that the program runs.
    let Some(bench) = arguments.iter().position(|argument| argument == "--bench") else { return };
    arguments.remove(bench);
    let filter = match &arguments[..] {
        [] => "",
        [filter] => filter,
        _ => panic!("usage: stores [FILTER]"),
    };
    let wanted = |name: &str| name.contains(filter);
    if wanted("redis-always") {
        on_redis("redis-always: appendfsync always", &[]).await;
    }
    if wanted("redis-memory") {
        on_redis("redis-memory: no persistence", &["--appendonly", "no"]).await;
    }
    if wanted("postgres") {
        on_postgres("postgres: synchronous_commit = on, 16 connections").await;
    }
    if wanted("memory-store") {
        let store = Arc::new(MemoryDedupStore::with_capacity(usize::MAX / 2));
        println!("\nmemory-store\n\n{HEAD}");
        compare(1, [Contender::new("claim, complete", fresh, handles(store))]).await;
    }
}

async fn on_redis(title: &str, options: &[&str]) {
    let server = Server::redis(options, &[]);
    let store = Arc::new(RedisDedupStore::from_url(&server.url(), "bench").unwrap());
    store.check().await.unwrap();
    let raw = redis_connection(&server).await;
    for number in 0..FINISHED {
        let job = finished(number);
        handle(&*store, &job).await;
        redis_set(&raw, &job, RETENTION, false).await;
    }
    println!("\n{title}\n\n{HEAD}");
    for in_flight in IN_FLIGHT {
        let (one, two, get) = (raw.clone(), raw.clone(), raw.clone());
        let two = Contender::new("`SET NX PX`, `SET PX`", fresh, move |job| {
            let raw = two.clone();
            async move {
                redis_set(&raw, &job, LEASE, true).await;
                redis_set(&raw, &job, RETENTION, false).await;
            }
        });
        let one = Contender::new("one `SET NX PX`", fresh, move |job| {
            let raw = one.clone();
            async move { redis_set(&raw, &job, LEASE, true).await }
        });
        let get = Contender::new("`GET`", finished, move |job| {
            let raw = get.clone();
            async move {
                let held = redis_command(&raw, cmd("GET").arg(redis_key(&job))).await;
                assert!(matches!(held, Value::BulkString(_)), "{held:?}");
            }
        });
        compare(in_flight, [two, Contender::new("claim, complete", fresh, handles(store.clone())), one])
            .await;
        compare(in_flight, [get, Contender::new("claim of a finished job", finished, looks(store.clone()))])
            .await;
    }
}

/// A connection with the settings of the store's own connections.
async fn redis_connection(server: &Server) -> ConnectionManager {
    let tcp = TcpSettings::default().set_nodelay(true);
    let address = server.url().into_connection_info().unwrap().set_tcp_settings(tcp);
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(Duration::from_secs(2)))
        .set_pipeline_buffer_size(512);
    ConnectionManager::new_with_config(Client::open(address).unwrap(), config).await.unwrap()
}

fn redis_key(job: &JobId) -> String {
    format!("raw:{job}")
}

async fn redis_command(raw: &ConnectionManager, command: &Cmd) -> Value {
    command.query_async(&mut raw.clone()).await.unwrap()
}

async fn redis_set(raw: &ConnectionManager, job: &JobId, time: Duration, only_if_absent: bool) {
    let mut set = cmd("SET");
    // Of the same length as the store's value.
    set.arg(redis_key(job)).arg("claimed:00000000000000000000000000000000");
    if only_if_absent {
        set.arg("NX");
    }
    let answer = redis_command(raw, set.arg("PX").arg(time.as_millis() as u64)).await;
    assert_eq!(answer, Value::Okay);
}

async fn on_postgres(title: &str) {
    let server = Server::postgres(&[], &[]);
    let table =
        |name| PostgresDedupStore::from_url(&server.url()).unwrap().with_table("bench", name).unwrap();
    let store = Arc::new(table("dedup"));
    store.migrate().await.unwrap();
    table("raw").migrate().await.unwrap();
    let raw = postgres_pool(&server);
    for number in 0..FINISHED {
        let job = finished(number);
        handle(&*store, &job).await;
        postgres_insert(&raw, &job).await;
    }
    println!("\n{title}\n\n{HEAD}");
    for in_flight in IN_FLIGHT {
        let (one, two, select) = (raw.clone(), raw.clone(), raw.clone());
        let two = Contender::new("`INSERT`, `UPDATE` by key", fresh, move |job| {
            let raw = two.clone();
            async move {
                postgres_insert(&raw, &job).await;
                let update =
                    "UPDATE bench.raw SET done = true, until = clock_timestamp() + $2 * interval '1 microsecond'
                    WHERE job_id = $1";
                let retention = RETENTION.as_micros() as i64;
                postgres_query(&raw, update, &[(&job.to_string(), Type::TEXT), (&retention, Type::INT8)])
                    .await;
            }
        });
        let one = Contender::new("one `INSERT`", fresh, move |job| {
            let raw = one.clone();
            async move { postgres_insert(&raw, &job).await }
        });
        let select = Contender::new("`SELECT` by key", finished, move |job| {
            let raw = select.clone();
            async move {
                let select = "SELECT done, until FROM bench.raw WHERE job_id = $1";
                let rows = postgres_query(&raw, select, &[(&job.to_string(), Type::TEXT)]).await;
                assert_eq!(rows, 1);
            }
        });
        compare(in_flight, [two, Contender::new("claim, complete", fresh, handles(store.clone())), one])
            .await;
        compare(
            in_flight,
            [select, Contender::new("claim of a finished job", finished, looks(store.clone()))],
        )
        .await;
    }
}

/// A pool with the settings of the store's own pool.
fn postgres_pool(server: &Server) -> Pool {
    Pool::builder(Manager::new(server.url().parse().unwrap(), NoTls))
        .max_size(16)
        .wait_timeout(Some(Duration::from_secs(2)))
        .create_timeout(Some(Duration::from_secs(2)))
        .runtime(Runtime::Tokio1)
        .build()
        .unwrap()
}

async fn postgres_query(raw: &Pool, statement: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> usize {
    let client = raw.get().await.unwrap();
    client.query_typed(statement, parameters).await.unwrap().len()
}

async fn postgres_insert(raw: &Pool, job: &JobId) {
    let insert = "INSERT INTO bench.raw (job_id, owner, done, until)
        VALUES ($1, $2, false, clock_timestamp() + $3 * interval '1 microsecond')";
    let (id, owner, lease) = (job.to_string(), Uuid::nil(), LEASE.as_micros() as i64);
    postgres_query(raw, insert, &[(&id, Type::TEXT), (&owner, Type::UUID), (&lease, Type::INT8)]).await;
}

const FINISHED: u64 = 1000;

/// A new job.
fn fresh(number: u64) -> JobId {
    id(FINISHED + number)
}

/// One of the finished jobs.
fn finished(number: u64) -> JobId {
    id(number % FINISHED)
}

/// A UUID, as unordered as a random one.
fn id(number: u64) -> JobId {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Uuid::from_u64_pair(mixed, number).to_string().parse().unwrap()
}

async fn handle(store: &dyn DedupStore, job: &JobId) {
    let token = ClaimToken::new(job);
    assert_eq!(store.claim(&token, LEASE).await.unwrap(), Claim::Acquired, "{job} is not free");
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
}

fn handles<S: DedupStore>(store: Arc<S>) -> impl Fn(JobId) -> Work {
    move |job| {
        let store = store.clone();
        Box::pin(async move { handle(&*store, &job).await })
    }
}

fn looks<S: DedupStore>(store: Arc<S>) -> impl Fn(JobId) -> Work {
    move |job| {
        let store = store.clone();
        Box::pin(async move {
            assert_eq!(store.claim(&ClaimToken::new(&job), LEASE).await.unwrap(), Claim::Done);
        })
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A contender: work on jobs, and its results.
struct Contender {
    name: &'static str,
    jobs: fn(u64) -> JobId,
    work: Arc<dyn Fn(JobId) -> Work + Send + Sync>,
    /// Jobs per second in each round.
    rates: Vec<f64>,
    times: Vec<Duration>,
}

impl Contender {
    fn new<F: Future<Output = ()> + Send + 'static>(
        name: &'static str,
        jobs: fn(u64) -> JobId,
        work: impl Fn(JobId) -> F + Send + Sync + 'static,
    ) -> Self {
        let work = Arc::new(move |job| Box::pin(work(job)) as _);
        Self { name, jobs, work, rates: Vec::new(), times: Vec::new() }
    }

    /// Works for one turn, on a number of jobs at once.
    async fn run(&mut self, in_flight: usize) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (jobs, began) = (self.jobs, Instant::now());
        let tasks: Vec<_> = (0..in_flight)
            .map(|_| {
                let work = self.work.clone();
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while began.elapsed() < TURN {
                        let job = jobs(NEXT.fetch_add(1, Ordering::Relaxed));
                        let started = Instant::now();
                        work(job).await;
                        times.push(started.elapsed());
                    }
                    times
                })
            })
            .collect();
        let before = self.times.len();
        for task in tasks {
            self.times.extend(task.await.unwrap());
        }
        self.rates.push((self.times.len() - before) as f64 / began.elapsed().as_secs_f64());
    }
}

const HEAD: &str = "| in flight | | per second | p50 | p99 | of raw |\n|---|---|---|---|---|---|";

/// Lets the contenders take turns, and prints the result of each beside the first one's.
async fn compare<const N: usize>(in_flight: usize, mut contenders: [Contender; N]) {
    for round in 0..=ROUNDS {
        for turn in 0..N {
            let contender = &mut contenders[(round + turn) % N];
            contender.run(in_flight).await;
            // The first round warms up.
            if round == 0 {
                contender.rates.clear();
                contender.times.clear();
            }
        }
    }
    let raw = contenders[0].rates.clone();
    for mut contender in contenders {
        let mut ratios: Vec<f64> = contender.rates.iter().zip(&raw).map(|(rate, raw)| rate / raw).collect();
        ratios.sort_by(f64::total_cmp);
        contender.rates.sort_by(f64::total_cmp);
        contender.times.sort_unstable();
        let percentile = |part: f64| contender.times[(contender.times.len() as f64 * part) as usize];
        println!(
            "| {in_flight} | {} | {:.0} | {:.1?} | {:.1?} | {:.2} ({:.2} to {:.2}) |",
            contender.name,
            contender.rates[ROUNDS / 2],
            percentile(0.5),
            percentile(0.99),
            ratios[ROUNDS / 2],
            ratios[ROUNDS / 4],
            ratios[ROUNDS - 1 - ROUNDS / 4],
        );
    }
}
