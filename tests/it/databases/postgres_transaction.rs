//! A handler's effects in the transaction that completes its event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::inbox::{CompleteError, InboxAdmin, InboxState, Lease, Outcome};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, Job, PostgresInbox, Verification, WebhookEvent, handler_fn,
};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel, NoTls, Transaction};

use super::postgres_inbox::joining::{run, run_unnamed};
use super::postgres_inbox::{client, count, event, inbox, job};
use crate::support::databases::{Server, postgres};
use crate::support::eventually;

const LEASE: Duration = Duration::from_secs(30);

/// How a transaction completes an event.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// With `complete_in_tx`.
    InTx,
    /// With the statement, prepared under a name.
    Prepared,
    /// With the statement, not prepared under a name.
    Unnamed,
}

impl Way {
    const ALL: [Self; 3] = [Self::InTx, Self::Prepared, Self::Unnamed];

    /// A name for a schema of this way's.
    fn schema(self, name: &str) -> String {
        format!("{name}_{self:?}").to_lowercase()
    }

    async fn complete(
        self,
        inbox: &PostgresInbox,
        job: &Job,
        transaction: &Transaction<'_>,
    ) -> Result<(), CompleteError> {
        let statement = inbox.complete_statement(job);
        let ran = match self {
            Self::InTx => return inbox.complete_in_tx(job, transaction).await,
            Self::Prepared => run(&statement, transaction).await,
            Self::Unnamed => run_unnamed(&statement, transaction).await,
        };
        match ran {
            Ok(true) => Ok(()),
            Ok(false) => Err(CompleteError::Stale),
            Err(error) => Err(CompleteError::Store(StoreError::unavailable(error))),
        }
    }
}

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

/// The events that were received and handled, by the inbox's own counts.
async fn counted(inbox: &PostgresInbox) -> (u64, u64) {
    let minutes = inbox.traffic().await.unwrap();
    minutes
        .iter()
        .fold((0, 0), |(received, handled), minute| (received + minute.received, handled + minute.handled))
}

async fn let_the_lease_run_out(client: &Client, schema: &str) {
    client.batch_execute(&format!("UPDATE {schema}.inbox SET due_at = now()")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_and_the_completion_of_its_event_are_committed_or_rolled_back_together() {
    for way in Way::ALL {
        let schema = &way.schema("together_tx");
        let (inbox, watcher) = prepare(schema).await;
        let mut held = hold(&inbox);
        let job = held.jobs.recv().await.unwrap();
        let mut own = client(postgres()).await;

        let transaction = own.transaction().await.unwrap();
        transaction.execute(&effect(schema), &[]).await.unwrap();
        way.complete(&inbox, &job, &transaction).await.unwrap();
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Running, 0));
        transaction.rollback().await.unwrap();
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Running, 0));
        assert_eq!(counted(&inbox).await, (1, 0));

        let transaction = own.transaction().await.unwrap();
        transaction.execute(&effect(schema), &[]).await.unwrap();
        way.complete(&inbox, &job, &transaction).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Done, 1));

        // The worker's own completion is a repetition, and a failure that comes after changes nothing.
        held.go_on.notify_one();
        assert_eq!(held.worker.shutdown(Duration::from_secs(5)).await, 0);
        let lease = Lease::new(job.id().clone(), job.fence());
        assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        let retry = Outcome::Retry { after: Duration::ZERO, error: "late".to_owned() };
        assert_eq!(inbox.settle(&lease, &retry).await.unwrap(), Fenced::Stale);
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Done, 1));
        assert_eq!(counted(&inbox).await, (1, 1));
    }
}

/// A prepared transaction keeps the row of its count locked, while the session that wrote it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_completes_an_event_delays_no_other_event() {
    const SOON: Duration = Duration::from_secs(10);
    let server =
        tokio::task::spawn_blocking(|| Server::postgres(&["max_prepared_transactions=2"], &[])).await;
    let server = server.unwrap();
    let inbox = PostgresInbox::from_url(&server.url()).unwrap();
    inbox.migrate().await.unwrap();
    let (mut held, mut jobs) = (Vec::new(), Vec::new());
    for id in ["job", "job-2"] {
        inbox.receive(&event(id, "completed", "")).await.unwrap();
        let mut worker = hold(&inbox);
        jobs.push(worker.jobs.recv().await.unwrap());
        held.push(worker);
    }
    // With one session, which the transactions and the next event share.
    let manager = deadpool_postgres::Manager::new(server.url().parse().unwrap(), NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    let mut own = pool.get().await.unwrap();
    for job in &jobs {
        let transaction = own.transaction().await.unwrap();
        let completed = tokio::time::timeout(SOON, inbox.complete_in_tx(job, &transaction)).await;
        completed.expect("a completion waits for a prepared transaction").unwrap();
        transaction.batch_execute(&format!("PREPARE TRANSACTION '{}'", job.id())).await.unwrap();
    }
    drop(own);
    let shared = PostgresInbox::from_pool(pool);
    let next = event("next", "completed", "");
    let received = tokio::time::timeout(SOON, shared.receive(&next)).await;
    received.expect("the next event waits for a prepared transaction").unwrap();
    assert_eq!(counted(&inbox).await, (3, 0));
    let client = client(&server).await;
    for (job, handled) in jobs.iter().zip(1..) {
        client.batch_execute(&format!("COMMIT PREPARED '{}'", job.id())).await.unwrap();
        assert_eq!(counted(&inbox).await, (3, handled));
    }
    for held in held {
        held.worker.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_has_passed_to_another_rolls_the_effect_back() {
    for way in Way::ALL {
        let schema = &way.schema("stale_tx");
        let (inbox, watcher) = prepare(schema).await;
        let mut held = hold(&inbox);
        let job = held.jobs.recv().await.unwrap();
        let mut own = client(postgres()).await;
        let transaction = own.transaction().await.unwrap();
        transaction.execute(&effect(schema), &[]).await.unwrap();
        let_the_lease_run_out(&watcher, schema).await;
        let mut other = hold(&inbox);
        let again = other.jobs.recv().await.unwrap();
        assert!(again.fence() > job.fence());
        let stale = way.complete(&inbox, &job, &transaction).await;
        assert!(matches!(stale, Err(CompleteError::Stale)), "{stale:?}");
        drop(transaction);
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Running, 0));

        let transaction = own.transaction().await.unwrap();
        transaction.execute(&effect(schema), &[]).await.unwrap();
        way.complete(&inbox, &again, &transaction).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Done, 1));
        tokio::join!(held.worker.shutdown(Duration::ZERO), other.worker.shutdown(Duration::ZERO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_killed_before_the_commit_leaves_neither() {
    for way in [Way::InTx, Way::Prepared] {
        let schema = &way.schema("killed_tx");
        let (inbox, watcher) = prepare(schema).await;
        let mut held = hold(&inbox);
        let job = held.jobs.recv().await.unwrap();
        let mut own = client(postgres()).await;
        let transaction = own.transaction().await.unwrap();
        transaction.execute(&effect(schema), &[]).await.unwrap();
        way.complete(&inbox, &job, &transaction).await.unwrap();
        let pid: i32 = transaction.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        watcher.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        assert!(transaction.commit().await.is_err());
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (InboxState::Running, 0));
        let_the_lease_run_out(&watcher, schema).await;
        let mut other = hold(&inbox);
        assert_eq!(other.jobs.recv().await.unwrap().id(), job.id(), "it is handled again");
        tokio::join!(held.worker.shutdown(Duration::ZERO), other.worker.shutdown(Duration::ZERO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_that_overlap_have_one_effect() {
    for (round, way) in (0..3).flat_map(|round| Way::ALL.map(|way| (round, way))) {
        let schema = way.schema(&format!("overlapping_tx_{round}"));
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
                way.complete(&inbox, &job, &transaction).await?;
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

#[tokio::test(flavor = "multi_thread")]
async fn events_are_completed_behind_a_pooler_that_gives_each_transaction_another_connection() {
    let (inbox, watcher) = prepare("bounced_tx").await;
    let bouncer = Server::pgbouncer(postgres());
    for number in 0..20 {
        inbox.receive(&event(&format!("job-{number}"), "completed", "")).await.unwrap();
    }
    let (url, completing) = (bouncer.url(), inbox.clone());
    let handler = handler_fn(move |event: WebhookEvent| {
        let (url, inbox) = (url.clone(), completing.clone());
        async move {
            let (mut own, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            for commits in [false, true] {
                let transaction = own.transaction().await?;
                let effect = format!("INSERT INTO bounced_tx.effects VALUES ('{}')", event.job().id());
                transaction.batch_execute(&effect).await?;
                Way::Unnamed.complete(&inbox, event.job(), &transaction).await?;
                if commits {
                    transaction.commit().await?;
                } else {
                    transaction.rollback().await?;
                }
            }
            Ok::<_, HandlerError>(())
        }
    })
    .with_unrecognized();
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust).start();
    eventually("all are handled", async || inbox.stats().await.unwrap().done == 21).await;
    worker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(effects(&watcher, "bounced_tx").await, 21);
    let once = "SELECT count(*) FROM bounced_tx.inbox WHERE attempts = 1";
    assert_eq!(count(&watcher, once).await, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_is_not_committed_keeps_other_workers_out() {
    for (commits, ends) in [(true, InboxState::Done), (false, InboxState::Running)] {
        let schema = &format!("uncommitted_tx_{commits}");
        let (inbox, watcher) = prepare(schema).await;
        let mut held = hold(&inbox);
        let job = held.jobs.recv().await.unwrap();
        let_the_lease_run_out(&watcher, schema).await;
        let mut own = client(postgres()).await;
        let transaction = own.transaction().await.unwrap();
        transaction.execute(&effect(schema), &[]).await.unwrap();
        assert!(run(&inbox.complete_statement(&job), &transaction).await.unwrap());
        assert!(inbox.lease(1, LEASE).await.unwrap().is_empty(), "both would have an effect");
        if commits {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
        let leases = async || inbox.lease(1, LEASE).await.unwrap().len() == 1;
        if commits {
            assert!(!leases().await);
        } else {
            eventually("the transaction is rolled back", leases).await;
        }
        assert_eq!((state(&inbox).await, effects(&watcher, schema).await), (ends, i64::from(commits)));
        held.worker.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_makes_a_stricter_transaction_fail_and_run_again() {
    let (inbox, watcher) = prepare("strict_tx").await;
    let mut held = hold(&inbox);
    let job = held.jobs.recv().await.unwrap();
    let lease = Lease::new(job.id().clone(), job.fence());
    let mut own = client(postgres()).await;
    for renews in [true, false] {
        let transaction =
            own.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await.unwrap();
        transaction.execute(&effect("strict_tx"), &[]).await.unwrap();
        if renews {
            assert_eq!(inbox.renew(&lease, LEASE).await.unwrap(), Fenced::Applied);
            let failed = run(&inbox.complete_statement(&job), &transaction).await.unwrap_err();
            assert_eq!(failed.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{failed}");
        } else {
            assert!(run(&inbox.complete_statement(&job), &transaction).await.unwrap());
            transaction.commit().await.unwrap();
        }
    }
    assert_eq!((state(&inbox).await, effects(&watcher, "strict_tx").await), (InboxState::Done, 1));
    held.worker.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_after_its_commit_is_not_run_again() {
    let (inbox, watcher) = prepare("failed_after_tx").await;
    let runs = Arc::new(AtomicUsize::new(0));
    let (completing, counted) = (inbox.clone(), runs.clone());
    let handler = handler_fn(move |event: WebhookEvent| {
        let (inbox, runs) = (completing.clone(), counted.clone());
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            let mut own = client(postgres()).await;
            let transaction = own.transaction().await?;
            transaction.execute(&effect("failed_after_tx"), &[]).await?;
            Way::Prepared.complete(&inbox, event.job(), &transaction).await?;
            transaction.commit().await?;
            Err::<(), HandlerError>("the commit's reply was lost".into())
        }
    })
    .with_unrecognized();
    let worker = InboxWorker::new(inbox.clone(), handler, Verification::Trust)
        .backoff(Duration::ZERO, Duration::ZERO)
        .poll(Duration::from_millis(20))
        .start();
    eventually("it is handled", async || state(&inbox).await == InboxState::Done).await;
    assert_eq!(worker.shutdown(Duration::from_secs(5)).await, 0);
    assert_eq!((state(&inbox).await, effects(&watcher, "failed_after_tx").await), (InboxState::Done, 1));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}
