//! Commits that wait for a synchronous replica.

use std::future::Future;

use qomplement_webhooks::dedup::{Claim, ClaimToken};
use qomplement_webhooks::inbox::Receipt;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{DedupStore, InboxStore, PostgresDedupStore, PostgresInbox};
use tokio_postgres::Client;

use super::{HOUR, client, event, job};
use crate::support::databases::Server;
use crate::support::eventually;

/// The session that waits for a replica, and that is not the one given.
const WAITING: &str =
    "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> $1";

async fn set_replicas(client: &Client, names: &str) {
    client.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Waits until commits wait: the server takes a new setting over some time after it was told to.
async fn commits_wait(server: &Server) {
    let (watching, writing) = (client(server).await, client(server).await);
    let own = writing.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let writes = tokio::spawn(async move {
        while writing.batch_execute("SELECT pg_catalog.pg_logical_emit_message(true, '', '')").await.is_ok() {
        }
    });
    eventually("commits wait", async || {
        let waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid = $1";
        watching.query_one(waits, &[&own]).await.unwrap().get(0)
    })
    .await;
    watching.execute("SELECT pg_terminate_backend($1)", &[&own]).await.unwrap();
    writes.await.unwrap();
}

async fn waiting(client: &Client, but: i32) -> i32 {
    client.query_one(WAITING, &[&but]).await.unwrap().get(0)
}

/// Ends the session of a call while its commit waits for the replica, and then lets the replica return. The row is on the
/// primary by then, and the call is repeated.
async fn end_the_session_of<T: Send + 'static>(
    server: &Server,
    client: &Client,
    call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> T {
    set_replicas(client, "*").await;
    commits_wait(server).await;
    let call = tokio::spawn(call);
    eventually("the commit waits", async || waiting(client, 0).await != 0).await;
    let first = waiting(client, 0).await;
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).await.unwrap();
    eventually("the next commit waits, or none", async || {
        call.is_finished() || waiting(client, first).await != 0
    })
    .await;
    assert!(
        !call.is_finished(),
        "it was acknowledged, and is on the primary alone: {:?}",
        call.await.is_ok()
    );
    set_replicas(client, "").await;
    call.await.unwrap().unwrap()
}

/// A server whose commits wait for a replica that never comes, until none is wanted any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_is_acknowledged_when_its_event_is_on_the_replica() {
    let server = tokio::task::block_in_place(|| Server::postgres(&[], &[]));
    let inbox = PostgresInbox::from_url(&server.url()).unwrap();
    inbox.migrate().await.unwrap();
    let client = client(&server).await;

    let received = {
        let inbox = inbox.clone();
        async move { inbox.receive(&event("job", "completed", "")).await }
    };
    assert_eq!(end_the_session_of(&server, &client, received).await, Receipt::Duplicate);
    let expected = {
        let inbox = inbox.clone();
        async move { inbox.expect(&job("expected"), HOUR).await }
    };
    end_the_session_of(&server, &client, expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "is on the primary alone")]
async fn a_duplicate_that_does_not_wait_is_found() {
    let server = tokio::task::block_in_place(|| Server::postgres(&[], &[]));
    // The function that lets a duplicate wait does nothing here.
    let flaw = "CREATE FUNCTION pg_logical_emit_message(boolean, text, text) RETURNS text LANGUAGE sql AS 'SELECT $2';
        ALTER DATABASE postgres SET search_path = public, pg_catalog";
    client(&server).await.batch_execute(flaw).await.unwrap();
    let inbox = PostgresInbox::from_url(&server.url()).unwrap();
    inbox.migrate().await.unwrap();
    let received = async move { inbox.receive(&event("job", "completed", "")).await };
    end_the_session_of(&server, &client(&server).await, received).await;
}

/// The caller that completes a job leaves, so the commit is on the primary alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_done_for_others_when_that_is_on_the_replica() {
    let server = tokio::task::block_in_place(|| Server::postgres(&[], &[]));
    let store = PostgresDedupStore::from_url(&server.url()).unwrap();
    store.migrate().await.unwrap();
    let client = client(&server).await;
    let [own, other] = [(); 2].map(|()| ClaimToken::new(&job("job")));
    assert_eq!(store.claim(&own, HOUR).await.unwrap(), Claim::Acquired);
    set_replicas(&client, "*").await;
    commits_wait(&server).await;
    let completing = tokio::spawn({
        let store = store.clone();
        async move { store.complete(&own, HOUR).await }
    });
    eventually("the commit waits", async || waiting(&client, 0).await != 0).await;
    completing.abort();
    eventually("the commit waits no more", async || waiting(&client, 0).await == 0).await;
    let claim = tokio::spawn(async move { store.claim(&other, HOUR).await });
    eventually("the claim waits, or ends", async || claim.is_finished() || waiting(&client, 0).await != 0)
        .await;
    assert!(!claim.is_finished(), "the job is done on the primary alone: {:?}", claim.await.unwrap());
    set_replicas(&client, "").await;
    assert_eq!(claim.await.unwrap().unwrap(), Claim::Done);
}
