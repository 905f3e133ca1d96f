//! Every store keeps the contract, however it is reached.

use std::sync::Arc;

use ::redis::aio::ConnectionManager;
use qomplement_webhooks::conformance::{DedupDifference, dedup_all, inbox_all};
use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::{PostgresDedupStore, PostgresInbox, RedisDedupStore};
use tokio::task::JoinSet;

use crate::support::databases::{Server, postgres, redis};
use crate::support::eventually;

pub const DIFFERENCES: [DedupDifference; 1] = [DedupDifference::ForgetsOwnersOfFreeJobs];

/// Makes the connections of a store's pool, until as many calls as a check makes succeed at once: the checks race for a
/// job, and not for connections.
async fn warmed<S, F>(store: S, call: fn(Arc<S>) -> F) -> S
where
    S: Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    let store = Arc::new(store);
    eventually("the pool has its connections", async || {
        let calls: JoinSet<_> = (0..64).map(|_| call(store.clone())).collect();
        calls.join_all().await.into_iter().all(|succeeded| succeeded)
    })
    .await;
    Arc::into_inner(store).unwrap()
}

pub async fn warmed_dedup(store: PostgresDedupStore) -> PostgresDedupStore {
    warmed(store, |store| async move { store.prune().await.is_ok() }).await
}

async fn warmed_inbox(inbox: PostgresInbox) -> PostgresInbox {
    warmed(inbox, |inbox| async move { inbox.stats().await.is_ok() }).await
}

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
    dedup_all(&warmed_dedup(store()).await, &warmed_dedup(store()).await, &DIFFERENCES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_behind_a_pooler_that_gives_each_transaction_another_connection() {
    let bouncer = Server::pgbouncer(postgres());
    let store =
        |url: &str| PostgresDedupStore::from_url(url).unwrap().with_table("by_pgbouncer", "dedup").unwrap();
    let (store, direct) = (store(&bouncer.url()), store(&postgres().url()));
    store.migrate().await.unwrap();
    dedup_all(&warmed_dedup(store).await, &warmed_dedup(direct).await, &DIFFERENCES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_inbox_by_url() {
    let inbox = || PostgresInbox::from_url(&postgres().url()).unwrap().with_table("by_url", "inbox").unwrap();
    inbox().migrate().await.unwrap();
    inbox_all(&warmed_inbox(inbox()).await, &warmed_inbox(inbox()).await, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_prepared_statements() {
    let store =
        || PostgresDedupStore::from_url(&postgres().url()).unwrap().with_table("prepared", "dedup").unwrap();
    let inbox =
        || PostgresInbox::from_url(&postgres().url()).unwrap().with_table("prepared", "inbox").unwrap();
    store().migrate().await.unwrap();
    inbox().migrate().await.unwrap();
    let prepared = warmed_dedup(store().with_prepared_statements()).await;
    dedup_all(&prepared, &warmed_dedup(store()).await, &DIFFERENCES).await;
    let prepared = warmed_inbox(inbox().with_prepared_statements()).await;
    inbox_all(&prepared, &warmed_inbox(inbox()).await, &[]).await;
}
