//! What is PostgreSQL's own.

use std::error::Error;
use std::time::Duration;

use qomplement_webhooks::conformance::dedup_all;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::postgres::PostgresStoreError;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, JobId, PostgresDedupStore};
use tokio_postgres::{Client, NoTls};

use super::contract::{DIFFERENCES, warmed_dedup};
use crate::support::certificate::certificate;
use crate::support::databases::{PASSWORD, Server, free_port, postgres};
use crate::support::eventually;
use crate::support::programs::{example, start, stop};
use crate::support::proxy::Proxy;

const LEASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(3600);

async fn store(schema: &str) -> PostgresDedupStore {
    let store = PostgresDedupStore::from_url(&postgres().url()).unwrap().with_table(schema, "dedup").unwrap();
    store.migrate().await.unwrap();
    store
}

async fn client(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn job(text: &str) -> JobId {
    text.parse().unwrap()
}

async fn acquire(store: &PostgresDedupStore, job: &JobId) -> ClaimToken {
    let token = ClaimToken::new(job);
    assert_eq!(store.claim(&token, LEASE).await.unwrap(), Claim::Acquired, "{job} is not free");
    token
}

/// The answer to a claim by a new token.
async fn claim(store: &PostgresDedupStore, job: &JobId) -> Result<Claim, StoreError> {
    store.claim(&ClaimToken::new(job), LEASE).await
}

async fn count(client: &Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_migrate_at_once() {
    for round in 0..5 {
        let schema = format!("migrated_{round}");
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let store = PostgresDedupStore::from_url(&postgres().url()).unwrap();
                let store = store.with_table(&schema, "dedup").unwrap();
                tokio::spawn(async move { store.migrate().await.map(|()| store) })
            })
            .collect();
        for task in tasks {
            let store = task.await.unwrap().unwrap();
            store.check().await.unwrap();
        }
    }
}

#[tokio::test]
async fn names_are_quoted_and_the_default_table_needs_none() {
    let odd = r#"It's "odd"; DROP TABLE x --"#;
    let store = PostgresDedupStore::from_url(&postgres().url()).unwrap().with_table(odd, odd).unwrap();
    assert!(store.check().await.is_err(), "there is no table yet");
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    acquire(&store, &job("odd")).await;
    let client = client(postgres()).await;

    let default = PostgresDedupStore::from_url(&postgres().url()).unwrap();
    assert!(default.migrations()[0].starts_with(r#"CREATE TABLE "qomplement_dedup" ("#));
    default.migrate().await.unwrap();
    acquire(&default, &job("default")).await;
    assert_eq!(
        count(&client, "SELECT count(*) FROM public.qomplement_dedup WHERE job_id = 'default'").await,
        1
    );

    for (schema, table) in
        [("", "t"), ("s", ""), ("s", "t\0"), (&*"s".repeat(64), "t"), ("s", &"t".repeat(51))]
    {
        let refused = PostgresDedupStore::from_url(&postgres().url()).unwrap().with_table(schema, table);
        assert!(matches!(refused, Err(PostgresStoreError::Name)), "{schema} {table}");
    }
    let longest = PostgresDedupStore::from_url(&postgres().url()).unwrap();
    let longest = longest.with_table(&"s".repeat(63), &"t".repeat(50)).unwrap();
    longest.migrate().await.unwrap();
    longest.check().await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_create_tables_uses_those_that_exist() {
    let store = store("granted").await;
    let owner = client(postgres()).await;
    let grants = "CREATE ROLE clerk LOGIN PASSWORD 'clerk'; GRANT USAGE ON SCHEMA granted TO clerk;
        GRANT SELECT, INSERT, UPDATE, DELETE ON granted.dedup TO clerk";
    owner.batch_execute(grants).await.unwrap();
    let url = format!("postgres://clerk:clerk@127.0.0.1:{}/postgres", postgres().port());
    let clerk = || PostgresDedupStore::from_url(&url).unwrap();
    let granted = clerk().with_table("granted", "dedup").unwrap();
    granted.migrate().await.unwrap();
    let token = acquire(&granted, &job("job")).await;
    assert_eq!(granted.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
    assert_eq!(granted.prune().await.unwrap(), 0);
    assert!(matches!(claim(&store, &job("job")).await.unwrap(), Claim::Done));
    assert!(clerk().with_table("elsewhere", "dedup").unwrap().migrate().await.is_err());
}

#[tokio::test]
async fn a_table_of_something_else_is_found_out_at_the_start() {
    let client = client(postgres()).await;
    let create = "CREATE SCHEMA other; CREATE TABLE other.dedup (job_id int, owner text)";
    client.batch_execute(create).await.unwrap();
    let store = PostgresDedupStore::from_url(&postgres().url()).unwrap();
    let store = store.with_table("other", "dedup").unwrap();
    assert!(store.migrate().await.is_err());
    assert!(store.check().await.is_err());
}

#[tokio::test]
async fn a_duplicate_writes_nothing() {
    let (store, client) = (store("duplicates").await, client(postgres()).await);
    let (done, held) = (job("done"), job("held"));
    let token = acquire(&store, &done).await;
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
    acquire(&store, &held).await;
    let versions =
        "SELECT string_agg(job_id || ctid || xmin || xmax, ',' ORDER BY job_id) FROM duplicates.dedup";
    let before: String = client.query_one(versions, &[]).await.unwrap().get(0);
    for _ in 0..10 {
        assert!(matches!(claim(&store, &done).await.unwrap(), Claim::Done));
        assert!(matches!(claim(&store, &held).await.unwrap(), Claim::InProgress { .. }));
    }
    let after: String = client.query_one(versions, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "a duplicate locked or wrote its row");
}

#[tokio::test]
async fn durations_have_no_bounds_that_postgres_would_refuse() {
    let store = store("durations").await;
    for (job, duration) in [(job("short"), Duration::ZERO), (job("long"), Duration::MAX)] {
        let token = ClaimToken::new(&job);
        assert_eq!(store.claim(&token, duration).await.unwrap(), Claim::Acquired);
        assert_eq!(store.renew(&token, duration).await.unwrap(), Fenced::Applied);
        assert_eq!(store.complete(&token, duration).await.unwrap(), Fenced::Applied);
    }
    assert!(matches!(claim(&store, &job("long")).await.unwrap(), Claim::Done));
}

#[tokio::test]
async fn pruning_takes_what_has_expired_in_small_batches() {
    let (store, client) = (store("pruned").await, client(postgres()).await);
    let fill =
        "INSERT INTO pruned.dedup SELECT 'old-' || i, gen_random_uuid(), i % 2 = 0, now() - interval '1 hour'
        FROM generate_series(1, 2500) AS i";
    client.batch_execute(fill).await.unwrap();
    let kept = acquire(&store, &job("kept")).await;
    // A row that somebody has locked is left for the next time, and not waited for.
    client.batch_execute("BEGIN; SELECT FROM pruned.dedup WHERE job_id = 'old-1' FOR UPDATE").await.unwrap();
    let batches = [store.prune().await.unwrap(), store.prune().await.unwrap(), store.prune().await.unwrap()];
    assert_eq!(batches, [1000, 1000, 499]);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.prune().await.unwrap(), 1);
    assert_eq!(store.prune().await.unwrap(), 0);
    assert_eq!(store.complete(&kept, RETENTION).await.unwrap(), Fenced::Applied);
    assert_eq!(count(&client, "SELECT count(*) FROM pruned.dedup").await, 1);
}

#[tokio::test]
async fn expired_rows_are_pruned_without_a_call() {
    let (store, client) = (store("self_pruned").await, client(postgres()).await);
    let fill =
        "INSERT INTO self_pruned.dedup SELECT 'old-' || i, gen_random_uuid(), true, now() - interval '1 hour'
        FROM generate_series(1, 2500) AS i";
    client.batch_execute(fill).await.unwrap();
    acquire(&store, &job("early")).await;
    assert_eq!(
        count(&client, "SELECT count(*) FROM self_pruned.dedup").await,
        2501,
        "pruned before its time"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    acquire(&store, &job("late")).await;
    let pruned = async {
        while count(&client, "SELECT count(*) FROM self_pruned.dedup").await > 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), pruned).await.expect("expired rows stay");
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_recognised_as_its_own() {
    let direct = store("lost_reply").await;
    let proxy = Proxy::before(postgres().port()).await;
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", proxy.port);
    let store = PostgresDedupStore::from_url(&url).unwrap().with_table("lost_reply", "dedup").unwrap();
    acquire(&store, &job("warm")).await;
    for number in 0..10 {
        let job = job(&format!("job-{number}"));
        proxy.lose_the_next_reply();
        let token = acquire(&store, &job).await;
        assert_eq!(proxy.lost(), number * 3 + 1);
        proxy.lose_the_next_reply();
        assert_eq!(store.renew(&token, LEASE).await.unwrap(), Fenced::Applied);
        proxy.lose_the_next_reply();
        assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
        assert_eq!(proxy.lost(), number * 3 + 3);
        assert!(matches!(claim(&direct, &job).await.unwrap(), Claim::Done));
    }
}

#[tokio::test]
async fn a_claim_that_may_have_been_made_is_not_refused_for_want_of_room() {
    let full = Server::postgres(&[], &[]);
    let there = PostgresDedupStore::from_url(&full.url()).unwrap();
    there.migrate().await.unwrap();
    client(&full)
        .await
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON qomplement_dedup EXECUTE FUNCTION refuse();",
        )
        .await
        .unwrap();
    assert!(matches!(claim(&there, &job("job")).await, Err(StoreError::Full)));

    let here = PostgresDedupStore::from_url(&postgres().url()).unwrap();
    here.migrate().await.unwrap();
    let proxy = Proxy::before(postgres().port()).await;
    let url = postgres().url().replace(&format!(":{}", postgres().port()), &format!(":{}", proxy.port));
    let store = PostgresDedupStore::from_url(&url).unwrap();
    acquire(&store, &job("in-doubt-warm")).await;
    proxy.lead_to(full.port());
    proxy.lose_the_next_reply();
    let token = ClaimToken::new(&job("in-doubt"));
    let answer = store.claim(&token, LEASE).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert_eq!(proxy.lost(), 1);
    assert_eq!(here.release(&token).await.unwrap(), Fenced::Applied, "the claim was made");
}

#[tokio::test]
async fn clones_are_one_store() {
    let store = store("clones").await;
    let clone = store.clone();
    let token = acquire(&store, &job("job")).await;
    assert_eq!(clone.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
    assert_eq!(claim(&store, &job("job")).await.unwrap(), Claim::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_isolation_level_of_the_database_is_no_obstacle() {
    let owner = client(postgres()).await;
    owner.batch_execute("CREATE DATABASE strict").await.unwrap();
    let level = "ALTER DATABASE strict SET default_transaction_isolation = 'serializable'";
    owner.batch_execute(level).await.unwrap();
    let url = postgres().url().replace("/postgres", "/strict").replace("//strict", "//postgres");
    let store = || PostgresDedupStore::from_url(&url).unwrap();
    store().migrate().await.unwrap();
    let (store, other) = (warmed_dedup(store()).await, warmed_dedup(store()).await);
    dedup_all(&store, &other, &DIFFERENCES).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_hold_up_the_next() {
    let store = store("given_up").await;
    let client = client(postgres()).await;
    let held = job("held");
    // As many calls as there are connections wait for a row that somebody has locked, and are dropped.
    let token = acquire(&store, &held).await;
    client.batch_execute("BEGIN; SELECT FROM given_up.dedup FOR UPDATE").await.unwrap();
    let renewals =
        (0..16).map(|_| tokio::time::timeout(Duration::from_millis(300), store.renew(&token, LEASE)));
    let mut renewals: Vec<_> = renewals.map(Box::pin).collect();
    for renewal in &mut renewals {
        assert!(renewal.await.is_err(), "the row was not locked");
    }
    drop(renewals);
    let free = tokio::time::timeout(Duration::from_secs(2), claim(&store, &job("free"))).await;
    assert!(matches!(free, Ok(Ok(Claim::Acquired))), "{free:?}");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
}

#[tokio::test]
async fn tls_is_spoken_when_the_url_requires_it() {
    let settings = ["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"];
    let server = Server::postgres(&settings, &certificate());
    let trusted = server.folder().join("server.crt");

    let port = server.port();
    let url = format!("postgres://postgres:{PASSWORD}@localhost:{port}/postgres?sslmode=require");
    let (child, to, _) = start(example("axum").env("DEDUP_URL", &url).env("SSL_CERT_FILE", trusted)).await;
    let delivered = Sender::to_url(&to).unwrap().deliver(Payload::extract_completed()).await;
    assert_eq!(delivered.statuses(), [Some(200)]);
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE ssl AND application_name = 'qomplement-webhooks'";
    let watching = client(&server).await;
    assert!(count(&watching, encrypted).await > 0, "the store's connections are not encrypted");

    // Nor does a statement whose caller has left wait there.
    let locking = client(&server).await;
    locking.batch_execute("BEGIN; LOCK TABLE qomplement_dedup").await.unwrap();
    let waiting = format!("{encrypted} AND wait_event_type = 'Lock'");
    let sender = Sender::to_url(&to).unwrap();
    let delivering = tokio::spawn(async move { sender.deliver(Payload::extract_completed()).await });
    eventually("a claim waits", async || count(&watching, &waiting).await > 0).await;
    delivering.abort();
    eventually("no claim is left", async || count(&watching, &waiting).await == 0).await;
    locking.batch_execute("ROLLBACK").await.unwrap();
    stop(child, "-TERM").await;

    let refused = example("axum").env("DEDUP_URL", &url).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
}

#[tokio::test]
async fn no_error_shows_the_password_and_each_keeps_its_source() {
    let mut port = postgres().port();
    for (password, expected) in [("wrong-secret", "authentication failed"), ("wrong-secret", "refused")] {
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let store = PostgresDedupStore::from_url(&url).unwrap();
        let error = store.check().await.unwrap_err();
        let mut said = format!("{store:?} {error} {error:?}");
        let mut source = error.source();
        assert!(source.is_some(), "{error:?}");
        while let Some(cause) = source {
            said += &format!(" {cause} {cause:?}");
            source = cause.source();
        }
        assert!(!said.contains(password), "{said}");
        assert!(said.contains(expected), "{said}");
        port = free_port();
    }
    let mut refused = 0;
    for url in [
        "http://user:hidden-secret@host",
        "host=localhost password=hidden-secret",
        "postgres://user:hidden-secret@",
        "postgres://user:hidden-secret@host:port",
        "postgres://user:hidden-secret@host/database?sslmode=maybe",
        "postgres://user:hidden-secret@host?hidden=secret@x",
        "postgres://user:hidden/secret@host",
        "postgres://user:hidden?secret@host",
        "postgres://user:hidden?secret=hidden",
        "postgres://user:hidden%secret@host",
        "postgres://user:hidden%FFsecret@host",
        "postgres://user:hidden#secret@host?sslmode=",
        "postgres://host/database?user=u&password=x&hidden=secret",
        "postgres://host/database?password=x@hidden&secret=1",
        "postgres://host/database?password=hidden@secret:x",
        "hidden-secret",
        "",
    ] {
        if let Err(error) = PostgresDedupStore::from_url(url) {
            let said = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
            assert!(!said.contains("hidden") && !said.contains("secret"), "{url}: {said}");
            refused += 1;
        }
    }
    assert!(refused > 7, "most of these are no URLs");
    let useful = PostgresDedupStore::from_url("postgres://user:secret@host/db?sslmode=maybe").unwrap_err();
    assert!(useful.to_string().contains("sslmode"), "{useful:?}");
}

#[tokio::test]
async fn a_row_that_never_ends_is_a_claim_like_another() {
    let (store, client) = (store("never_ends").await, client(postgres()).await);
    let fill = "INSERT INTO never_ends.dedup (job_id, owner, done, until) VALUES
        ('held', gen_random_uuid(), false, 'infinity'), ('done', gen_random_uuid(), true, 'infinity'),
        ('over', gen_random_uuid(), true, '-infinity'), ('jöb', gen_random_uuid(), true, '-infinity')";
    client.batch_execute(fill).await.unwrap();
    assert!(
        matches!(claim(&store, &job("held")).await.unwrap(), Claim::InProgress { retry_after } if retry_after == LEASE)
    );
    assert!(matches!(claim(&store, &job("done")).await.unwrap(), Claim::Done));
    acquire(&store, &job("over")).await;
    assert_eq!(store.prune().await.unwrap(), 1, "whatever its id is");
}
