//! A handler's effects in the transaction that completes its event.

use std::sync::Arc;
use std::time::Duration;

use qomplement_webhooks::inbox::{CompleteError, InboxAdmin, InboxState, Outcome};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, Job, PostgresInbox, Verification, WebhookEvent, handler_fn,
};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_postgres::Client;

use super::postgres_inbox::{client, count, event, inbox, job};
use crate::support::databases::postgres;
use crate::support::eventually;

/// A worker whose handler passes its job on, and ends when it may.
struct Held {
    worker: RunningWorker,
    jobs: mpsc::UnboundedReceiver<Job>,
    go_on: Arc<Notify>,
}

/// Starts a worker that has room for one handler, so that an event whose lease ends goes to another worker: this one
/// would not start it beside its own run.
fn hold(inbox: &PostgresInbox) -> Held {
    let (send, jobs) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let handler = handler_fn(move |event: WebhookEvent| {
        let (send, wait) = (send.clone(), wait.clone());
        async move {
            send.send(event.job().clone())?;
            wait.notified().await;
            Ok::<_, HandlerError>(())
        }
    })
    .with_unrecognized();
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust)
        .backoff(Duration::ZERO, Duration::ZERO)
        .poll(Duration::from_millis(50))
        .concurrency(1)
        .start();
    Held { worker, jobs, go_on }
}

/// An inbox with one event, and a table for effects.
async fn prepare(schema: &str) -> (PostgresInbox, Client) {
    let inbox = inbox(schema).await;
    let client = client(postgres()).await;
    client.batch_execute(&format!("CREATE TABLE {schema}.effects (job_id text)")).await.unwrap();
    inbox.receive(&event("job", "completed", "")).await.unwrap();
    (inbox, client)
}

async fn state(inbox: &PostgresInbox) -> InboxState {
    inbox.get(&job("job")).await.unwrap().unwrap().0.state
}

fn effect(schema: &str) -> String {
    format!("INSERT INTO {schema}.effects VALUES ('job')")
}

async fn effects(client: &Client, schema: &str) -> i64 {
    count(client, &format!("SELECT count(*) FROM {schema}.effects")).await
}

async fn let_the_lease_run_out(client: &Client, schema: &str) {
    client.batch_execute(&format!("UPDATE {schema}.inbox SET due_at = now()")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_and_the_completion_of_its_event_are_committed_or_rolled_back_together() {
    let (inbox, watcher) = prepare("together_tx").await;
    let mut held = hold(&inbox);
    let job = held.jobs.recv().await.unwrap();
    let mut own = client(postgres()).await;

    let transaction = own.transaction().await.unwrap();
    transaction.execute(&effect("together_tx"), &[]).await.unwrap();
    inbox.complete_in_tx(&job, &transaction).await.unwrap();
    assert_eq!((state(&inbox).await, effects(&watcher, "together_tx").await), (InboxState::Running, 0));
    transaction.rollback().await.unwrap();
    assert_eq!((state(&inbox).await, effects(&watcher, "together_tx").await), (InboxState::Running, 0));

    let transaction = own.transaction().await.unwrap();
    transaction.execute(&effect("together_tx"), &[]).await.unwrap();
    inbox.complete_in_tx(&job, &transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((state(&inbox).await, effects(&watcher, "together_tx").await), (InboxState::Done, 1));

    // The worker's own completion is a repetition, and a failure that comes after changes nothing.
    held.go_on.notify_one();
    assert_eq!(held.worker.shutdown(Duration::from_secs(5)).await, 0);
    let lease = qomplement_webhooks::inbox::Lease::new(job.id().clone(), job.fence());
    assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    let retry = Outcome::Retry { after: Duration::ZERO, error: "late".to_owned() };
    assert_eq!(inbox.settle(&lease, &retry).await.unwrap(), Fenced::Stale);
    assert_eq!((state(&inbox).await, effects(&watcher, "together_tx").await), (InboxState::Done, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_has_passed_to_another_rolls_the_effect_back() {
    let (inbox, watcher) = prepare("stale_tx").await;
    let mut held = hold(&inbox);
    let job = held.jobs.recv().await.unwrap();
    let mut own = client(postgres()).await;
    let transaction = own.transaction().await.unwrap();
    transaction.execute(&effect("stale_tx"), &[]).await.unwrap();
    let_the_lease_run_out(&watcher, "stale_tx").await;
    let mut other = hold(&inbox);
    let again = other.jobs.recv().await.unwrap();
    assert!(again.fence() > job.fence());
    let stale = inbox.complete_in_tx(&job, &transaction).await;
    assert!(matches!(stale, Err(CompleteError::Stale)), "{stale:?}");
    drop(transaction);
    assert_eq!((state(&inbox).await, effects(&watcher, "stale_tx").await), (InboxState::Running, 0));

    let transaction = own.transaction().await.unwrap();
    transaction.execute(&effect("stale_tx"), &[]).await.unwrap();
    inbox.complete_in_tx(&again, &transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((state(&inbox).await, effects(&watcher, "stale_tx").await), (InboxState::Done, 1));
    tokio::join!(held.worker.shutdown(Duration::ZERO), other.worker.shutdown(Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_killed_before_the_commit_leaves_neither() {
    let (inbox, watcher) = prepare("killed_tx").await;
    let mut held = hold(&inbox);
    let job = held.jobs.recv().await.unwrap();
    let mut own = client(postgres()).await;
    let transaction = own.transaction().await.unwrap();
    transaction.execute(&effect("killed_tx"), &[]).await.unwrap();
    inbox.complete_in_tx(&job, &transaction).await.unwrap();
    let pid: i32 = transaction.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    watcher.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    assert!(transaction.commit().await.is_err());
    assert_eq!((state(&inbox).await, effects(&watcher, "killed_tx").await), (InboxState::Running, 0));
    let_the_lease_run_out(&watcher, "killed_tx").await;
    let mut other = hold(&inbox);
    assert_eq!(other.jobs.recv().await.unwrap().id(), job.id(), "it is handled again");
    tokio::join!(held.worker.shutdown(Duration::ZERO), other.worker.shutdown(Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_that_overlap_have_one_effect() {
    for round in 0..5 {
        let schema = format!("overlapping_tx_{round}");
        let (inbox, watcher) = prepare(&schema).await;
        let mut held = hold(&inbox);
        let first = held.jobs.recv().await.unwrap();
        let_the_lease_run_out(&watcher, &schema).await;
        let mut other = hold(&inbox);
        let second = other.jobs.recv().await.unwrap();
        let run = |job: Job| {
            let (inbox, effect) = (inbox.clone(), effect(&schema));
            async move {
                let mut own = client(postgres()).await;
                let transaction = own.transaction().await?;
                transaction.execute(&effect, &[]).await?;
                inbox.complete_in_tx(&job, &transaction).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
                transaction.commit().await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            }
        };
        // The first run of the second lease meets the late run of the first, and a copy of its own.
        let runs = tokio::join!(run(first), run(second.clone()), run(second));
        let succeeded = [runs.0.is_ok(), runs.1.is_ok(), runs.2.is_ok()];
        assert_eq!(succeeded.iter().filter(|succeeded| **succeeded).count(), 1, "{succeeded:?}");
        assert!(!succeeded[0], "the late run succeeded");
        assert_eq!((state(&inbox).await, effects(&watcher, &schema).await), (InboxState::Done, 1));
        tokio::join!(held.worker.shutdown(Duration::ZERO), other.worker.shutdown(Duration::ZERO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_handlers_that_complete_in_their_transactions() {
    let (inbox, watcher) = prepare("worker_tx").await;
    for number in 0..50 {
        inbox.receive(&event(&format!("job-{number}"), "completed", "")).await.unwrap();
    }
    let own = Arc::new(Mutex::new(client(postgres()).await));
    let (transactions, completing) = (own.clone(), inbox.clone());
    let handler = handler_fn(move |event: WebhookEvent| {
        let (own, inbox) = (transactions.clone(), completing.clone());
        async move {
            let mut own = own.lock().await;
            let transaction = own.transaction().await?;
            let effect = "INSERT INTO worker_tx.effects VALUES ($1)";
            transaction.execute(effect, &[&event.job().id().to_string()]).await?;
            inbox.complete_in_tx(event.job(), &transaction).await?;
            if event.job().attempt() == 1 {
                return Err("rolled back".into());
            }
            transaction.commit().await?;
            Ok::<_, HandlerError>(())
        }
    })
    .with_unrecognized();
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust)
        .backoff(Duration::ZERO, Duration::ZERO)
        .poll(Duration::from_millis(20))
        .start();
    eventually("all are handled", async || inbox.stats().await.unwrap().done == 51).await;
    worker.shutdown(Duration::from_secs(5)).await;
    let distinct = "SELECT count(DISTINCT job_id) FROM worker_tx.effects";
    assert_eq!((effects(&watcher, "worker_tx").await, count(&watcher, distinct).await), (51, 51));
    let twice = "SELECT count(*) FROM worker_tx.inbox WHERE attempts = 2";
    assert_eq!(count(&watcher, twice).await, 51);
}
