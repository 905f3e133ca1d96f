//! What is Redis's own.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{Client, Commands, Connection};
use qomplement_webhooks::conformance::dedup_all;
use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{DedupStore, JobId, RedisDedupStore, WebhookReceiver, handler_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::block_in_place;

use super::contract::DIFFERENCES;
use crate::support::certificate::certificate;
use crate::support::databases::{PASSWORD, Server, free_port, redis};
use crate::support::eventually;
use crate::support::programs::{example, start, stop};
use crate::support::proxy::Proxy;

const LEASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(3600);

fn store(namespace: &str) -> RedisDedupStore {
    RedisDedupStore::from_url(&redis().url(), namespace).unwrap()
}

fn connection(server: &Server) -> Connection {
    Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn job(text: &str) -> JobId {
    text.parse().unwrap()
}

async fn acquire(store: &RedisDedupStore, job: &JobId) -> ClaimToken {
    let token = ClaimToken::new(job);
    assert_eq!(store.claim(&token, LEASE).await.unwrap(), Claim::Acquired, "{job} is not free");
    token
}

/// The answer to a claim by a new token.
async fn claim(store: &RedisDedupStore, job: &JobId) -> Result<Claim, StoreError> {
    store.claim(&ClaimToken::new(job), LEASE).await
}

fn expires_within(connection: &mut Connection, key: &str, time: Duration) {
    let left: i64 = connection.pttl(key).unwrap();
    let time = time.as_millis() as i64;
    assert!(left > time - 2000 && left <= time, "{key} expires in {left} ms, and not in {time}");
}

#[tokio::test]
async fn a_job_is_one_key_that_expires_by_itself() {
    let (store, mut connection) = (store("one-key"), connection(redis()));
    let (job, key) = (job("job-1"), "one-key:job-1");
    let token = acquire(&store, &job).await;
    expires_within(&mut connection, key, LEASE);
    assert_eq!(store.renew(&token, LEASE * 2).await.unwrap(), Fenced::Applied);
    expires_within(&mut connection, key, LEASE * 2);
    assert_eq!(store.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
    expires_within(&mut connection, key, RETENTION);
    let keys: Vec<String> = connection.keys("one-key:*").unwrap();
    assert_eq!(keys, [key]);
    let value: String = connection.get(key).unwrap();
    assert_eq!(value, format!("done:{:032x}", token.owner()));
}

#[tokio::test]
async fn durations_have_no_bounds_that_redis_would_refuse() {
    let store = store("durations");
    for (job, duration) in [(job("short"), Duration::from_nanos(1)), (job("long"), Duration::MAX)] {
        let token = ClaimToken::new(&job);
        assert_eq!(store.claim(&token, duration).await.unwrap(), Claim::Acquired);
        assert_eq!(store.renew(&token, duration).await.unwrap(), Fenced::Applied);
        assert_eq!(store.complete(&token, duration).await.unwrap(), Fenced::Applied);
    }
    assert!(matches!(claim(&store, &job("long")).await.unwrap(), Claim::Done));
}

#[tokio::test]
async fn namespaces_never_share_a_key() {
    let (short, long) = (store("a"), store("a/b"));
    acquire(&short, &job("b:c")).await;
    acquire(&long, &job("c")).await;
    acquire(&long, &job("b:c")).await;
    for refused in ["", "a:b", "a b", "ä", "{a}", "a*", &"a".repeat(65)] {
        let error = RedisDedupStore::from_url("redis://localhost", refused).unwrap_err().to_string();
        assert!(error.contains("namespace"), "{refused:?}: {error}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_the_stores_is_left_alone() {
    let (store, mut connection) = (store("foreign"), connection(redis()));
    let () = connection.set("foreign:text", "something else").unwrap();
    let () = connection.rpush("foreign:list", "something else").unwrap();
    for text in ["text", "list"] {
        let error = claim(&store, &job(text)).await.unwrap_err();
        assert!(error.source().is_some(), "{error:?}");
        let token = ClaimToken::new(&job(text));
        assert!(!matches!(store.complete(&token, LEASE).await, Ok(Fenced::Applied)));
        assert!(!matches!(store.release(&token).await, Ok(Fenced::Applied)));
    }
    assert_eq!(connection.get::<_, String>("foreign:text").unwrap(), "something else");
    assert_eq!(connection.llen::<_, usize>("foreign:list").unwrap(), 1);
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_recognised_as_its_own() {
    let proxy = Proxy::before(redis().port()).await;
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let store = RedisDedupStore::from_url(&url, "lost-reply").unwrap();
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
        assert!(matches!(claim(&store, &job).await.unwrap(), Claim::Done));
    }
}

#[tokio::test]
async fn a_claim_that_may_have_been_made_is_not_refused_for_want_of_room() {
    let full = Server::redis(&["--maxmemory-policy", "noeviction", "--maxmemory", "1"], &[]);
    let proxy = Proxy::before(redis().port()).await;
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let store = RedisDedupStore::from_url(&url, "in-doubt").unwrap();
    acquire(&store, &job("warm")).await;
    proxy.lead_to(full.port());
    proxy.lose_the_next_reply();
    let answer = claim(&store, &job("job")).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert_eq!(proxy.lost(), 1);
    let answer = claim(&store, &job("job")).await;
    assert!(matches!(answer, Err(StoreError::Full)), "the repetition was sent elsewhere: {answer:?}");
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_left_for_where_the_url_leads() {
    let (old, new) = (Server::redis(&[], &[]), Server::redis(&[], &[]));
    let proxy = Proxy::before(old.port()).await;
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let by_claim = RedisDedupStore::from_url(&url, "failover").unwrap();
    let by_renewal = RedisDedupStore::from_url(&url, "failover").unwrap();
    acquire(&by_claim, &job("before")).await;
    let token = acquire(&by_renewal, &job("held")).await;

    proxy.lead_to(new.port());
    let follow = ["127.0.0.1", &new.port().to_string()];
    let () = ::redis::cmd("REPLICAOF").arg(&follow).query(&mut connection(&old)).unwrap();
    assert!(claim(&by_claim, &job("after")).await.is_err(), "a replica takes no claims");
    acquire(&by_claim, &job("after")).await;
    assert!(by_renewal.renew(&token, LEASE).await.is_err(), "a replica renews nothing");
    assert_eq!(by_renewal.renew(&token, LEASE).await.unwrap(), Fenced::Applied);
}

#[tokio::test]
async fn a_server_that_hangs_is_left_for_where_the_url_leads() {
    let (old, new) = (Server::redis(&[], &[]), Server::redis(&[], &[]));
    let proxy = Proxy::before(old.port()).await;
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let store = RedisDedupStore::from_url(&url, "hangs").unwrap();
    store.check().await.unwrap();
    let receiver = WebhookReceiver::builder(handler_fn(|_| async { Ok(()) }));
    let receiver = receiver.dedup_store(store).unauthenticated().build().unwrap();
    let to = Sender::to_service(receiver).retry_delays([]);

    // Its kernel keeps the connection alive.
    old.pause();
    proxy.lead_to(new.port());
    let payload = Payload::extract_completed();
    assert_eq!(to.deliver(&payload).await.statuses(), [Some(503)]);
    eventually("the other server is used", async || to.deliver(&payload).await.statuses() == [Some(200)])
        .await;
    old.resume();
}

#[tokio::test]
async fn a_server_that_hangs_while_a_handler_runs_is_left_before_the_outcome_is_lost() {
    let (old, new) = (Arc::new(Server::redis(&[], &[])), Server::redis(&[], &[]));
    let proxy = Proxy::before(old.port()).await;
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let store = RedisDedupStore::from_url(&url, "hangs").unwrap();
    // Otherwise the first claim would look at the configuration, by a call with more time than that of the outcome.
    store.check().await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let (counted, paused, leading, to_new) = (runs.clone(), old.clone(), proxy.clone(), new.port());
    let handler = handler_fn(move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            paused.pause();
            leading.lead_to(to_new);
        }
        async { Ok(()) }
    });
    let receiver = WebhookReceiver::builder(handler).dedup_store(store).unauthenticated().build().unwrap();
    let to = Sender::to_service(receiver).retry_delays([]);
    let payload = Payload::extract_completed();
    assert_eq!(to.deliver(&payload).await.statuses(), [Some(200)]);

    eventually("the outcome is recorded in the other server", async || {
        ::redis::cmd("DBSIZE").query::<usize>(&mut connection(&new)).unwrap() == 1
    })
    .await;
    assert_eq!(to.deliver(&payload).await.statuses(), [Some(200)]);
    assert_eq!(runs.load(Ordering::SeqCst), 1, "the job was handled again");
    old.resume();
}

#[tokio::test]
async fn a_server_without_a_command_of_the_store_gets_few_connections() {
    let server = Server::redis(&["--rename-command", "SET", "GONE"], &[]);
    let store = RedisDedupStore::from_url(&server.url(), "few").unwrap();
    for _ in 0..200 {
        claim(&store, &job("unknown")).await.unwrap_err();
    }
    let stats: String = ::redis::cmd("INFO").arg("stats").query(&mut connection(&server)).unwrap();
    let connections = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    let connections: usize = connections.unwrap().parse().unwrap();
    assert!(connections < 50, "200 calls made {connections} connections");
}

/// Replies that refuse to set a connection up: the commands with which each begins and ends.
const REFUSALS: [(&str, &str, &str); 3] = [
    ("the password", "CONFIG SET requirepass other", "CONFIG SET requirepass open-sesame"),
    ("another client", "CONFIG SET maxclients 1", "CONFIG SET maxclients 1000"),
    ("the database", "ACL SETUSER default -select", "ACL SETUSER default +select"),
];

#[tokio::test]
async fn a_server_that_refused_to_set_a_connection_up_is_asked_again() {
    let server = Server::redis(&[], &[]);
    let mut admin = connection(&server);
    let mut run = |line: &str| {
        let mut words = line.split(' ');
        let mut command = ::redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>()).exec(&mut admin).unwrap();
    };
    for protocol in ["resp2", "resp3"] {
        for (refused, begin, end) in REFUSALS {
            let url = format!("{}/3?protocol={protocol}", server.url());
            let stores = ["connected", "new"].map(|name| RedisDedupStore::from_url(&url, name).unwrap());
            stores[0].check().await.unwrap();
            run(begin);
            run("CLIENT KILL TYPE normal");
            let case = format!("{refused}, {protocol}");
            for store in &stores {
                claim(store, &job("refused")).await.expect_err(&case);
            }
            run(end);
            for store in &stores {
                let case = format!("{case}: {store:?} works again");
                eventually(&case, async || store.check().await.is_ok()).await;
            }
        }
    }
}

#[tokio::test]
async fn something_else_than_redis_behind_the_url_is_left_when_redis_is_there() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::before(other.local_addr().unwrap().port()).await;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = other.accept().await {
            let _ = client.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
            let _ = client.read(&mut [0; 1024]).await;
        }
    });
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", proxy.port);
    let store = RedisDedupStore::from_url(&url, "other").unwrap();
    store.check().await.unwrap_err();
    proxy.lead_to(redis().port());
    eventually("Redis is used", async || store.check().await.is_ok()).await;
}

#[tokio::test]
async fn clones_are_one_store() {
    let store = store("clones");
    let clone = store.clone();
    let token = acquire(&store, &job("job")).await;
    assert_eq!(clone.complete(&token, RETENTION).await.unwrap(), Fenced::Applied);
    assert_eq!(claim(&store, &job("job")).await.unwrap(), Claim::Done);
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_taught_them_again() {
    let (store, mut connection) = (store("scripts"), connection(redis()));
    let job = job("job");
    let token = acquire(&store, &job).await;
    for _ in 0..2 {
        let () = ::redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection).unwrap();
        assert_eq!(store.renew(&token, LEASE).await.unwrap(), Fenced::Applied);
    }
}

#[tokio::test]
async fn a_check_finds_a_user_that_may_not_do_what_the_store_does() {
    let server = Server::redis(&[], &[]);
    let mut connection = connection(&server);
    let mut as_user = |rules: &str| {
        let mut set = ::redis::cmd("ACL");
        set.arg("SETUSER").arg("clerk").arg("reset").arg("on").arg(">clerk");
        set.arg(rules.split(' ').collect::<Vec<_>>());
        let () = set.query(&mut connection).unwrap();
        let url = format!("redis://clerk:clerk@127.0.0.1:{}", server.port());
        RedisDedupStore::from_url(&url, "invoices").unwrap()
    };
    let enough = as_user("+set +get +del +pttl +evalsha +eval ~invoices:*");
    enough.check().await.unwrap();
    let token = acquire(&enough, &job("job")).await;
    assert_eq!(enough.renew(&token, LEASE).await.unwrap(), Fenced::Applied);
    assert_eq!(enough.release(&token).await.unwrap(), Fenced::Applied);
    for rules in [
        "+@all -@scripting ~invoices:*",
        "+@all ~other:*",
        "+@all %R~invoices:*",
        "+@all -set ~invoices:*",
        "+@all -del ~invoices:*",
        "+@all -pttl ~invoices:*",
    ] {
        let error = as_user(rules).check().await.expect_err(rules);
        let said = error.source().unwrap().to_string();
        assert!(said.contains("+evalsha +eval ~invoices:*"), "{rules}: {said}");
        assert!(error.source().unwrap().source().is_some(), "{rules}: {error:?}");
    }
    let keys: usize = ::redis::cmd("DBSIZE").query(&mut connection).unwrap();
    assert!(keys <= 7, "the checks leave {keys} keys behind");
}

#[tokio::test]
async fn a_check_finds_a_server_that_takes_no_writes() {
    let (primary, server) = (Server::redis(&[], &[]), Server::redis(&[], &[]));
    let store = RedisDedupStore::from_url(&server.url(), "replica").unwrap();
    store.check().await.unwrap();
    let follow = ["127.0.0.1", &primary.port().to_string()];
    let () = ::redis::cmd("REPLICAOF").arg(&follow).query(&mut connection(&server)).unwrap();
    assert!(store.check().await.is_err());
}

#[tokio::test]
async fn a_full_server_refuses_claims_and_keeps_those_that_it_granted() {
    let server = Server::redis(&["--maxmemory-policy", "noeviction"], &[]);
    let store = RedisDedupStore::from_url(&server.url(), "full").unwrap();
    let mut connection = connection(&server);
    let (held, released) = (acquire(&store, &job("held")).await, acquire(&store, &job("released")).await);
    let mut limit = |bytes: &str| {
        let () =
            ::redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query(&mut connection).unwrap();
    };
    limit("1");
    assert!(matches!(claim(&store, &job("new")).await, Err(StoreError::Full)));
    assert_eq!(store.renew(&held, LEASE).await.unwrap(), Fenced::Applied);
    assert_eq!(store.complete(&held, RETENTION).await.unwrap(), Fenced::Applied);
    assert_eq!(store.release(&released).await.unwrap(), Fenced::Applied);
    limit("0");
    assert!(matches!(claim(&store, &job("held")).await.unwrap(), Claim::Done));
    acquire(&store, &job("new")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works() {
    let nodes: Vec<_> = (0..3)
        .map(|_| {
            Server::redis(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()], &[])
        })
        .collect();
    let addresses: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let created = tokio::process::Command::new("redis-cli")
        .args(["--no-auth-warning", "-a", PASSWORD, "--cluster", "create"])
        .args(&addresses)
        .arg("--cluster-yes")
        .output()
        .await
        .unwrap();
    assert!(created.status.success(), "{created:?}");
    let urls: Vec<_> = nodes.iter().map(Server::url).collect();
    let cluster = ::redis::cluster::ClusterClient::new(urls).unwrap();
    let handle = || async {
        let connection = cluster.get_async_connection().await.unwrap();
        RedisDedupStore::from_connection(connection, "cluster").unwrap()
    };
    let (store, other) = (handle().await, handle().await);
    store.check().await.unwrap();
    dedup_all(&store, &other, &DIFFERENCES).await;
    for node in &nodes {
        let keys: usize = ::redis::cmd("DBSIZE").query(&mut connection(node)).unwrap();
        assert!(keys > 100, "a node has {keys} keys: the jobs are not spread over the cluster");
    }
}

#[tokio::test]
async fn a_server_that_evicts_is_warned_of() {
    let server = Server::redis(&["--maxmemory-policy", "allkeys-lru"], &[]);
    let (child, _, said) = start(example("axum").env("DEDUP_URL", server.url())).await;
    assert!(said.contains("WARN") && said.contains("noeviction"), "{said}");
    stop(child, "-TERM").await;
    let (child, _, said) = start(example("axum").env("DEDUP_URL", redis().url())).await;
    assert!(!said.contains("noeviction"), "{said}");
    stop(child, "-TERM").await;
}

#[tokio::test]
async fn tls_is_spoken_to_a_certificate_that_the_system_trusts() {
    let port = free_port().to_string();
    let tls = ["--tls-port", &port, "--tls-auth-clients", "no"];
    let files = ["--tls-cert-file", "server.crt", "--tls-key-file", "server.key"];
    let server = Server::redis(&[tls, files].concat(), &certificate());
    let trusted = server.folder().join("server.crt");

    let url = format!("rediss://:{PASSWORD}@localhost:{port}");
    let (child, to, _) = start(example("axum").env("DEDUP_URL", &url).env("SSL_CERT_FILE", trusted)).await;
    let delivered = Sender::to_url(&to).unwrap().deliver(Payload::extract_completed()).await;
    assert_eq!(delivered.statuses(), [Some(200)]);
    stop(child, "-TERM").await;

    let refused = example("axum").env("DEDUP_URL", &url).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
}

#[tokio::test]
async fn no_error_shows_the_password_and_each_keeps_its_source() {
    let mut port = redis().port();
    for (password, expected) in [("wrong-secret", "authentication failed"), ("wrong-secret", "refused")] {
        let url = format!("redis://:{password}@127.0.0.1:{port}/0");
        let store = RedisDedupStore::from_url(&url, "errors").unwrap();
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
    for url in [
        "http://user:hidden-secret@host",
        "redis://user:hidden-secret@",
        "redis://user:hidden-secret@host:port",
        "redis://user:hidden-secret@host/database",
        "redis://user:hidden-secret@host?protocol=9",
        "redis://user:hidden/secret@host",
        "redis://user:hidden?secret@host",
        "redis://user:hidden#secret@host",
        "hidden-secret",
        "",
    ] {
        if let Err(error) = RedisDedupStore::from_url(url, "errors") {
            let said = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
            assert!(!said.contains("hidden") && !said.contains("secret"), "{url}: {said}");
        }
    }
}

/// The replica is promoted without the last writes, as it was cut off before. `WAIT` reports that it lacks them, when they
/// are made already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_forgets_the_writes_that_the_replica_lacks_and_no_other() {
    let mut primary = block_in_place(|| Server::redis(&[], &[]));
    let port = primary.port().to_string();
    let follow = ["--replicaof", "127.0.0.1", &port, "--masterauth", PASSWORD];
    let replica = block_in_place(|| Server::redis(&follow, &[]));
    let of = |server: &Server| RedisDedupStore::from_url(&server.url(), "failover").unwrap();
    let (store, mut here) = (of(&primary), connection(&primary));
    let replicas = |here: &mut Connection, time: u32| {
        ::redis::cmd("WAIT").arg(1).arg(time).query::<usize>(here).unwrap()
    };
    let done = acquire(&store, &job("done")).await;
    assert_eq!(store.complete(&done, RETENTION).await.unwrap(), Fenced::Applied);
    eventually("the replica follows", async || replicas(&mut connection(&primary), 100) == 1).await;
    // Whatever was written before it followed, it has as well.
    ::redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut connection(&replica)).unwrap();

    let forgotten = acquire(&store, &job("done-later")).await;
    assert_eq!(store.complete(&forgotten, RETENTION).await.unwrap(), Fenced::Applied);
    let held = acquire(&store, &job("held")).await;
    // `WAIT` asks for the writes of its own connection.
    ::redis::cmd("SET").arg("later").arg(1).exec(&mut here).unwrap();
    assert_eq!(replicas(&mut here, 50), 0);
    block_in_place(|| primary.kill());

    let store = of(&replica);
    assert_eq!(claim(&store, &job("done")).await.unwrap(), Claim::Done);
    assert_eq!(claim(&store, &job("done-later")).await.unwrap(), Claim::Acquired);
    assert_eq!(claim(&store, &job("held")).await.unwrap(), Claim::Acquired);
    // The earlier holder notices at its next renewal.
    assert_eq!(store.renew(&held, LEASE).await.unwrap(), Fenced::Stale);
}
