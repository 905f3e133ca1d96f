//! Every store keeps the contract, however it is reached.

use ::redis::aio::ConnectionManager;
use qomplement_webhooks::conformance::{DedupDifference, dedup_all, inbox_all};
use qomplement_webhooks::{PostgresDedupStore, PostgresInbox, RedisDedupStore};

use super::server::{Server, postgres, redis};

pub const DIFFERENCES: [DedupDifference; 1] = [DedupDifference::ForgetsOwnersOfFreeJobs];

#[tokio::test(flavor = "multi_thread")]
async fn redis_by_url() {
    let store = || RedisDedupStore::from_url(&redis().url(), "by-url").unwrap();
    dedup_all(&store(), &store(), &DIFFERENCES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_by_a_connection_of_the_users() {
    let manager = ConnectionManager::new(::redis::Client::open(redis().url()).unwrap()).await.unwrap();
    let store = RedisDedupStore::from_connection(manager, "by-connection").unwrap();
    let by_url = RedisDedupStore::from_url(&redis().url(), "by-connection").unwrap();
    dedup_all(&store, &by_url, &DIFFERENCES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_by_url() {
    let store =
        || PostgresDedupStore::from_url(&postgres().url()).unwrap().with_table("by_url", "dedup").unwrap();
    store().migrate().await.unwrap();
    dedup_all(&store(), &store(), &DIFFERENCES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_behind_a_pooler_that_gives_each_transaction_another_connection() {
    let bouncer = Server::pgbouncer(postgres());
    let store =
        |url: &str| PostgresDedupStore::from_url(url).unwrap().with_table("by_pgbouncer", "dedup").unwrap();
    let store = (store(&bouncer.url()), store(&postgres().url()));
    store.0.migrate().await.unwrap();
    dedup_all(&store.0, &store.1, &DIFFERENCES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_inbox_by_url() {
    let inbox = || PostgresInbox::from_url(&postgres().url()).unwrap().with_table("by_url", "inbox").unwrap();
    inbox().migrate().await.unwrap();
    inbox_all(&inbox(), &inbox(), &[]).await;
}
