//! Handlers that use the pool of their store, and hold all its connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, Pool};
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::inbox::{InboxAdmin, Lease, Outcome};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{
    DedupStore, HandlerError, InboxStore, InboxWorker, JobId, PostgresDedupStore, PostgresInbox,
    Verification, WebhookEvent, handler_fn,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use super::postgres_inbox::{client, count, event, inbox, job};
use crate::support::databases::{PASSWORD, postgres};
use crate::support::eventually;
use crate::support::proxy::Proxy;

const LEASE: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);

/// A pool with so many connections, which find tables in a schema by a hook of the pool's.
fn pool(connections: usize, schema: &'static str) -> Pool {
    pool_of(connections, schema, |_| ())
}

/// The same with changed settings.
fn pool_of(connections: usize, schema: &'static str, change: impl Fn(&mut tokio_postgres::Config)) -> Pool {
    let mut config: tokio_postgres::Config = postgres().url().parse().unwrap();
    change(&mut config);
    let manager = Manager::new(config.application_name(schema).clone(), NoTls);
    let set = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        Box::pin(async move {
            let set = format!("SET search_path = {schema}");
            client.batch_execute(&set).await.map_err(HookError::Backend)
        })
    });
    Pool::builder(manager).max_size(connections).post_create(set).build().unwrap()
}

async fn schema(name: &str) {
    client(postgres()).await.batch_execute(&format!("CREATE SCHEMA {name}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_hold_all_connections_of_the_inbox_run_once() {
    schema("own_pool").await;
    let pool = pool(4, "own_pool");
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    for number in 0..4 {
        inbox.receive(&event(&format!("job-{number}"), "completed", "")).await.unwrap();
    }
    let runs: Arc<Mutex<HashMap<JobId, usize>>> = Arc::default();
    let (noted, completing) = (runs.clone(), inbox.clone());
    let handler = handler_fn(move |event: WebhookEvent| {
        let (pool, inbox) = (pool.clone(), completing.clone());
        *noted.lock().unwrap().entry(event.job().id().clone()).or_default() += 1;
        async move {
            let mut client = pool.get().await?;
            let transaction = client.transaction().await?;
            // For three leases.
            sleep(Duration::from_secs(6)).await;
            inbox.complete_in_tx(event.job(), &transaction).await?;
            transaction.commit().await?;
            Ok::<_, HandlerError>(())
        }
    })
    .with_unrecognized();
    let worker = InboxWorker::new(inbox, handler, Verification::Trust)
        .concurrency(4)
        .lease(Duration::from_secs(2))
        .backoff(Duration::ZERO, Duration::ZERO)
        .start();
    let watcher = client(postgres()).await;
    let done = "SELECT count(*) FROM own_pool.qomplement_inbox WHERE state = 'done'";
    eventually("all are done", async || count(&watcher, done).await == 4).await;
    worker.shutdown(SOON).await;
    let runs = runs.lock().unwrap();
    assert!(runs.len() == 4 && runs.values().all(|runs| *runs == 1), "{runs:?}");
}

#[tokio::test]
async fn a_lease_is_kept_and_ended_while_others_hold_all_connections() {
    schema("all_held").await;
    let pool = pool(2, "all_held");
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    inbox.receive(&event("job", "completed", "")).await.unwrap();
    inbox.expect(&job("expected"), Duration::ZERO).await.unwrap();
    let leased = inbox.lease(1, LEASE).await.unwrap().remove(0).lease;
    let held = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    let calls = async {
        // More at once than there are in reserve.
        let mut renewals = JoinSet::new();
        for _ in 0..8 {
            let (inbox, leased) = (inbox.clone(), leased.clone());
            // At the same moment, one may hold the row.
            renewals.spawn(async move { while inbox.renew(&leased, LEASE).await.is_err() {} });
        }
        renewals.join_all().await;
        assert_eq!(inbox.renew(&leased, LEASE).await.unwrap(), Fenced::Applied);
        let release = inbox.settle(&leased, &Outcome::Release { after: Duration::ZERO });
        let released = timeout(Duration::from_secs(1), release).await;
        assert_eq!(released.expect("a release waits for others' connections").unwrap(), Fenced::Applied);
        let leased = inbox.lease(1, LEASE).await.unwrap().remove(0).lease;
        let overdue = inbox.overdue(1, LEASE).await.unwrap().remove(0).lease;
        let arrived = event("expected", "completed", "");
        assert_eq!(inbox.verify(&overdue, &arrived).await.unwrap(), Fenced::Applied);
        assert_eq!(inbox.settle(&leased, &Outcome::Done).await.unwrap(), Fenced::Applied);
        inbox.lease(1, LEASE).await.unwrap().remove(0).lease
    };
    let lease = timeout(SOON, calls).await.expect("a lease waits for others' connections");
    assert_eq!(lease.job(), &job("expected"));
    drop(held);

    let store = PostgresDedupStore::from_pool(pool.clone());
    store.migrate().await.unwrap();
    let [completed, released] = ["completed", "released"].map(|name| ClaimToken::new(&job(name)));
    assert_eq!(store.claim(&completed, LEASE).await.unwrap(), Claim::Acquired);
    assert_eq!(store.claim(&released, LEASE).await.unwrap(), Claim::Acquired);
    let held = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    let calls = async {
        assert_eq!(store.renew(&completed, LEASE).await.unwrap(), Fenced::Applied);
        assert_eq!(store.complete(&completed, LEASE).await.unwrap(), Fenced::Applied);
        assert_eq!(store.release(&released).await.unwrap(), Fenced::Applied);
    };
    timeout(SOON, calls).await.expect("a claim waits for others' connections");
    drop(held);
    assert_eq!(inbox.stats().await.unwrap().done, 1);
}

#[tokio::test]
async fn connections_of_the_reserve_that_broke_are_replaced() {
    schema("broken_reserve").await;
    let pool = pool(2, "broken_reserve");
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    inbox.receive(&event("job", "completed", "")).await.unwrap();
    let lease = inbox.lease(1, LEASE).await.unwrap().remove(0).lease;
    let watcher = client(postgres()).await;
    let own = "FROM pg_stat_activity WHERE application_name = 'broken_reserve'";
    assert!(count(&watcher, &format!("SELECT count(pg_terminate_backend(pid)) {own}")).await >= 3);
    // The next leases open others, before handlers take all that the pool has.
    let are_open = async || {
        let _ = inbox.lease(1, LEASE).await;
        count(&watcher, &format!("SELECT count(*) {own}")).await >= 3
    };
    eventually("the connections are replaced", are_open).await;
    let held = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    let renewed = timeout(SOON, inbox.renew(&lease, LEASE)).await.expect("it waits for others' connections");
    assert_eq!(renewed.unwrap(), Fenced::Applied);
    drop(held);
}

/// Takes the connections of a pool that are open and idle.
async fn take_all_open(pool: &Pool) -> Vec<deadpool_postgres::Client> {
    let mut taken = Vec::new();
    while pool.status().available > 0 {
        taken.push(pool.get().await.unwrap());
    }
    taken
}

async fn keep_and_end_leases(inbox: &PostgresInbox, [first, second]: [Lease; 2]) {
    let calls = async {
        assert_eq!(inbox.renew(&first, LEASE).await.unwrap(), Fenced::Applied);
        assert_eq!(inbox.settle(&first, &Outcome::Done).await.unwrap(), Fenced::Applied);
        let release = Outcome::Release { after: Duration::ZERO };
        assert_eq!(inbox.settle(&second, &release).await.unwrap(), Fenced::Applied);
        assert_eq!(inbox.lease(1, LEASE).await.unwrap().len(), 1);
    };
    timeout(SOON, calls).await.expect("a lease waits for a new connection");
}

async fn lease_two(inbox: &PostgresInbox) -> [Lease; 2] {
    for id in ["first", "second"] {
        inbox.receive(&event(id, "completed", "")).await.unwrap();
    }
    let leased = inbox.lease(2, LEASE).await.unwrap();
    <[Lease; 2]>::try_from(leased.into_iter().map(|leased| leased.lease).collect::<Vec<_>>()).unwrap()
}

#[tokio::test]
async fn leases_are_kept_and_ended_while_the_server_refuses_new_connections() {
    schema("refused_new").await;
    let server = client(postgres()).await;
    let role =
        "CREATE ROLE refused_new LOGIN PASSWORD 'refused'; ALTER SCHEMA refused_new OWNER TO refused_new";
    server.batch_execute(role).await.unwrap();
    let pool = pool_of(8, "refused_new", |config| {
        config.user("refused_new").password("refused");
    });
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    let leases = lease_two(&inbox).await;
    server.batch_execute("ALTER ROLE refused_new CONNECTION LIMIT 0").await.unwrap();
    let held = take_all_open(&pool).await;
    assert!(pool.get().await.is_err(), "a new connection is not refused");
    keep_and_end_leases(&inbox, leases).await;
    drop(held);
}

#[tokio::test]
async fn leases_are_kept_and_ended_while_new_connections_hang() {
    schema("hanging_new").await;
    let proxy = Proxy::before(postgres().port()).await;
    let pool = pool_of(8, "hanging_new", |config| {
        *config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(proxy.port).user("postgres").password(PASSWORD).dbname("postgres");
    });
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    let leases = lease_two(&inbox).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.lead_to(silent.local_addr().unwrap().port());
    let held = take_all_open(&pool).await;
    keep_and_end_leases(&inbox, leases).await;
    drop(held);
}

#[tokio::test]
async fn a_new_connection_that_hangs_holds_no_place_in_the_pool_for_long() {
    schema("hanging_place").await;
    let proxy = Proxy::before(postgres().port()).await;
    let pool = pool_of(4, "hanging_place", |config| {
        *config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(proxy.port).user("postgres").password(PASSWORD).dbname("postgres");
    });
    let store = PostgresDedupStore::from_pool(pool.clone());
    store.migrate().await.unwrap();
    let token = ClaimToken::new(&job("job"));
    assert_eq!(store.claim(&token, LEASE).await.unwrap(), Claim::Acquired);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.lead_to(silent.local_addr().unwrap().port());
    let held = take_all_open(&pool).await;
    assert_eq!(store.renew(&token, LEASE).await.unwrap(), Fenced::Applied);
    assert_eq!(pool.status().waiting, 1, "no attempt is under way");
    eventually("the attempt ends", async || pool.status().waiting == 0).await;
    drop(held);
}

/// Otherwise, each caller that gives up leaves a session on the server, and takes another connection.
#[tokio::test]
async fn statements_whose_callers_have_left_end() {
    schema("left_behind").await;
    let pool = pool(4, "left_behind");
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    inbox.stats().await.unwrap();
    let (locking, watching) = (client(postgres()).await, client(postgres()).await);
    locking.batch_execute("BEGIN; LOCK TABLE left_behind.qomplement_inbox").await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'left_behind' AND wait_event_type = 'Lock'";
    for _ in 0..6 {
        tokio::select! {
            counted = inbox.stats() => panic!("the table is not locked: {counted:?}"),
            () = eventually("a call waits", async || count(&watching, waiting).await > 0) => {}
        }
        eventually("its statement ends", async || count(&watching, waiting).await == 0).await;
    }
    locking.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(inbox.stats().await.unwrap().received, 0);
}

/// Opening one takes as long as over a slow network.
#[tokio::test]
async fn a_new_connection_that_comes_too_late_for_a_lease_is_one_more_in_the_pool() {
    schema("slow_new").await;
    let slow = Arc::new(AtomicBool::new(false));
    let wait = {
        let slow = slow.clone();
        Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let slow = slow.load(Ordering::SeqCst);
            Box::pin(async move {
                let wait = if slow {
                    "SET search_path = slow_new; SELECT pg_sleep(0.7)"
                } else {
                    "SET search_path = slow_new"
                };
                client.batch_execute(wait).await.map_err(HookError::Backend)
            })
        })
    };
    let manager = Manager::new(postgres().url().parse().unwrap(), NoTls);
    let pool = Pool::builder(manager).max_size(8).post_create(wait).build().unwrap();
    let inbox = PostgresInbox::from_pool(pool.clone());
    inbox.migrate().await.unwrap();
    let [first, _] = lease_two(&inbox).await;
    let held = take_all_open(&pool).await;
    slow.store(true, Ordering::SeqCst);
    assert_eq!(inbox.renew(&first, LEASE).await.unwrap(), Fenced::Applied);
    eventually("the connection is in the pool", async || pool.status().available > 0).await;
    drop(held);
}

#[tokio::test]
async fn a_renewal_does_not_wait_for_a_transaction_that_holds_the_row() {
    let inbox = inbox("held_row").await;
    inbox.receive(&event("job", "completed", "")).await.unwrap();
    let lease = inbox.lease(1, LEASE).await.unwrap().remove(0).lease;
    let other = client(postgres()).await;
    other.batch_execute("BEGIN; SELECT FROM held_row.inbox FOR UPDATE").await.unwrap();
    let renewed = timeout(SOON, inbox.renew(&lease, LEASE)).await.expect("it waits for the row");
    assert!(matches!(&renewed, Err(StoreError::Unavailable(_))), "{renewed:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(inbox.renew(&lease, LEASE).await.unwrap(), Fenced::Applied);
    let other_lease = qomplement_webhooks::inbox::Lease::new(job("job"), lease.fence() + 1);
    assert_eq!(inbox.renew(&other_lease, LEASE).await.unwrap(), Fenced::Stale);
}

/// A pooler that gives each transaction another connection knows no prepared statement.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_prepared_only_if_asked_for() {
    schema("prepared_pool").await;
    let pool = pool(1, "prepared_pool");
    let prepared = async || {
        let client = pool.get().await.unwrap();
        let row =
            client.query_typed("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap().remove(0);
        row.get::<_, i64>(0)
    };
    let inbox = PostgresInbox::from_pool(pool.clone());
    let store = PostgresDedupStore::from_pool(pool.clone());
    let use_both = async |inbox: &PostgresInbox, store: &PostgresDedupStore, id: &str| {
        inbox.receive(&event(id, "completed", "")).await.unwrap();
        assert_eq!(store.claim(&ClaimToken::new(&job(id)), LEASE).await.unwrap(), Claim::Acquired);
    };
    inbox.migrate().await.unwrap();
    store.migrate().await.unwrap();
    use_both(&inbox, &store, "planned-anew").await;
    inbox.stats().await.unwrap();
    assert_eq!(prepared().await, 0);

    let (inbox, store) = (inbox.with_prepared_statements(), store.with_prepared_statements());
    use_both(&inbox, &store, "first").await;
    // Those of both, and the notification, which is sent beside the caller.
    eventually("three statements are prepared", async || prepared().await == 3).await;
    use_both(&inbox, &store, "second").await;
    // Their best plans depend on the table's size.
    inbox.stats().await.unwrap();
    assert_eq!(prepared().await, 3);
}

/// The numbers of events to lease differ from call to call, and so do the places at which the looks begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_lease_is_planned_a_few_times_and_then_no_more() {
    schema("prepared_lease").await;
    let pool = pool(1, "prepared_lease");
    let inbox = PostgresInbox::from_pool(pool.clone()).with_prepared_statements();
    inbox.migrate().await.unwrap();
    let received = "INSERT INTO qomplement_inbox (job_id, state, job_type, status, body, due_at, received_at)
        SELECT gen_random_uuid()::text, 'received', 'extract', 'completed', 'x', now(), now() FROM generate_series(1, 1000)";
    let client = client(postgres()).await;
    client.batch_execute("SET search_path = prepared_lease").await.unwrap();
    client.batch_execute(received).await.unwrap();
    client.batch_execute("ANALYZE qomplement_inbox").await.unwrap();
    // As if there were more rows.
    let more = "UPDATE pg_class SET reltuples = reltuples * 1000 WHERE relnamespace = 'prepared_lease'::regnamespace";
    client.batch_execute(more).await.unwrap();
    for most in 1..=20 {
        inbox.lease(most, LEASE).await.unwrap();
    }
    let planned = "SELECT custom_plans FROM pg_prepared_statements WHERE statement LIKE '%SKIP LOCKED%'";
    let planned = pool.get().await.unwrap().query_typed(planned, &[]).await.unwrap();
    let planned: Vec<i64> = planned.iter().map(|row| row.get(0)).collect();
    // Then the server compares the costs.
    assert_eq!(planned, [5]);
}
