//! Who waits for an arrival, and how it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{
    InboxAdmin, Lease, Leased, NoResult, Outcome, Overdue, Pruned, Receipt, Retention,
};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::worker::RunningWorker;
use qomplement_webhooks::{
    HandlerError, InboxStore, InboxWorker, JobId, PostgresInbox, Verification, WebhookEvent, async_trait,
    handler_fn,
};
use tokio::sync::Barrier;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::{HOUR, client, completed, count, handle, inbox, job, lease_one};
use crate::support::databases::postgres;
use crate::support::{Script, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_arrival_in_another_process_wakes_who_waits() {
    let (here, there) = (inbox("woken").await, handle("woken"));
    let quiet = || async { while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {} };
    quiet().await;
    for number in 0..5 {
        there.receive(&completed(&format!("job-{number}"))).await.unwrap();
        let began = Instant::now();
        timeout(Duration::from_secs(5), here.wait()).await.expect("nobody was told");
        assert!(began.elapsed() < Duration::from_millis(500), "told after {:?}", began.elapsed());
        quiet().await;
    }
    let lease = lease_one(&there).await.lease;
    let _ = there.settle(&lease, &Outcome::Done).await.unwrap();
    there.replay(lease.job()).await.unwrap();
    timeout(Duration::from_millis(300), here.wait()).await.expect("nobody was told of the replay");
    quiet().await;
    // Another table's arrivals, and duplicates, are nothing to wake for.
    inbox("woken_other").await.receive(&completed("job")).await.unwrap();
    there.receive(&completed("job-0")).await.unwrap();
    assert!(timeout(Duration::from_millis(300), here.wait()).await.is_err());
    // It hears of its own once, and not a second time from the server.
    here.receive(&completed("own")).await.unwrap();
    timeout(Duration::from_millis(300), here.wait()).await.unwrap();
    assert!(timeout(Duration::from_millis(300), here.wait()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_event_wakes_who_waits_here_and_in_another_process() {
    let (here, there) = (inbox("fetched").await, handle("fetched"));
    timeout(Duration::from_secs(5), here.wait()).await.expect("it does not listen");
    for (number, fetches) in [&here, &there].into_iter().enumerate() {
        let id = format!("job-{number}");
        while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
        fetches.expect(&job(&id), Duration::ZERO).await.unwrap();
        let lease = fetches.overdue(1, HOUR).await.unwrap().remove(0).lease;
        assert_eq!(fetches.verify(&lease, &completed(&id)).await.unwrap(), Fenced::Applied);
        let told = timeout(Duration::from_secs(5), here.wait()).await;
        assert!(told.is_ok(), "nobody was told, by {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_due_again_at_once_wakes_another_process() {
    let (here, there) = (inbox("due_at_once").await, handle("due_at_once"));
    let quiet = || async { while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {} };
    there.receive(&completed("job")).await.unwrap();
    let failed = NoResult::Failed { error: "no answer".to_owned() };
    let outcomes = |after| {
        let error = "failed".to_owned();
        [
            Outcome::Release { after },
            Outcome::Retry { after, error },
            Outcome::FetchAgain { after, answer: failed.clone() },
        ]
    };
    for outcome in outcomes(Duration::ZERO) {
        let lease = lease_one(&there).await.lease;
        quiet().await;
        assert_eq!(there.settle(&lease, &outcome).await.unwrap(), Fenced::Applied);
        let told = timeout(Duration::from_secs(5), here.wait()).await;
        assert!(told.is_ok(), "nobody was told of {outcome:?}");
    }
    for (number, outcome) in outcomes(HOUR).into_iter().enumerate() {
        let lease = lease_one(&there).await.lease;
        quiet().await;
        assert_eq!(there.settle(&lease, &outcome).await.unwrap(), Fenced::Applied);
        let told = timeout(Duration::from_millis(300), here.wait()).await;
        assert!(told.is_err(), "told of {outcome:?}");
        there.receive(&completed(&format!("job-{number}"))).await.unwrap();
    }
    // A job that is overdue again is nothing to lease.
    quiet().await;
    there.expect(&job("expected"), Duration::ZERO).await.unwrap();
    let overdue = there.overdue(1, HOUR).await.unwrap().remove(0).lease;
    let released = there.settle(&overdue, &Outcome::Release { after: Duration::ZERO }).await.unwrap();
    assert_eq!(released, Fenced::Applied);
    assert!(timeout(Duration::from_millis(500), here.wait()).await.is_err(), "told of an overdue job");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_the_users_works_without_listening() {
    inbox("pooled").await;
    let mut config = deadpool_postgres::Config::new();
    config.url = Some(postgres().url());
    let pool = config.create_pool(Some(deadpool_postgres::Runtime::Tokio1), NoTls).unwrap();
    let inbox = PostgresInbox::from_pool(pool).with_table("pooled", "inbox").unwrap();
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { inbox.wait().await }
    });
    inbox.receive(&completed("job")).await.unwrap();
    timeout(Duration::from_secs(1), waiting).await.expect("its own arrivals wake it").unwrap();
    lease_one(&inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_that_listens_is_made_again() {
    let there = inbox("listening").await;
    let url = format!("{}&application_name=here", postgres().url());
    let here = PostgresInbox::from_url(&url).unwrap().with_table("listening", "inbox").unwrap();
    let client = client(postgres()).await;
    let listening =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'here' AND query LIKE 'LISTEN%'";
    eventually("it listens", async || {
        let _ = timeout(Duration::from_millis(20), here.wait()).await;
        count(&client, listening).await == 1
    })
    .await;
    while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'here' AND query LIKE 'LISTEN%'";
    assert_eq!(count(&client, end).await, 1);
    // It says when it is back.
    timeout(Duration::from_secs(60), here.wait()).await.expect("it does not listen again");
    eventually("it listens again", async || count(&client, listening).await == 1).await;
    while timeout(Duration::from_millis(300), here.wait()).await.is_ok() {}
    there.receive(&completed("job")).await.unwrap();
    timeout(Duration::from_secs(20), here.wait()).await.expect("nobody was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_while_nobody_listened_is_handled_when_somebody_does_again() {
    let there = inbox("listening_again").await;
    let url = format!("{}&application_name=again", postgres().url());
    let here = PostgresInbox::from_url(&url).unwrap().with_table("listening_again", "inbox").unwrap();
    let script = Script::default();
    // Nothing but a hint makes it look for more than once an hour.
    let worker = InboxWorker::new(here, script.handler(), Verification::Trust).poll(HOUR).start();
    let client = client(postgres()).await;
    let listening =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'again' AND query LIKE 'LISTEN%'";
    eventually("it listens", async || count(&client, listening).await == 1).await;
    there.receive(&completed("first")).await.unwrap();
    script.until("the first is handled", |script| script.finished() == 1).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'again' AND query LIKE 'LISTEN%'";
    assert_eq!(count(&client, end).await, 1);
    eventually("nobody listens", async || count(&client, listening).await == 0).await;
    there.receive(&completed("second")).await.unwrap();
    script.until("the second is handled", |script| script.finished() == 2).await;
    worker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_when_no_notification_can_be_sent() {
    let client = client(postgres()).await;
    client.batch_execute("CREATE DATABASE quiet").await.unwrap();
    let url = postgres().url().replace("/postgres?", "/quiet?");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    // As a server does whose queue of notifications is full.
    let fails = "CREATE SCHEMA quiet; ALTER DATABASE quiet SET search_path = quiet, pg_catalog;
        CREATE SEQUENCE quiet.calls;
        CREATE FUNCTION quiet.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            PERFORM nextval('quiet.calls');
            RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000';
        END $$";
    client.batch_execute(fails).await.unwrap();
    let inbox = PostgresInbox::from_url(&url).unwrap();
    inbox.migrate().await.unwrap();
    for id in ["job", "other"] {
        assert_eq!(inbox.receive(&completed(id)).await.unwrap(), Receipt::Stored);
    }
    assert_eq!(inbox.receive(&super::event("replaced", "processing", "")).await.unwrap(), Receipt::Stored);
    assert_eq!(inbox.receive(&completed("replaced")).await.unwrap(), Receipt::Stored);
    let lease = lease_one(&inbox).await.lease;
    assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    assert!(inbox.replay(lease.job()).await.unwrap());
    inbox.expect(&job("expected"), Duration::ZERO).await.unwrap();
    let lease = inbox.overdue(1, HOUR).await.unwrap().remove(0).lease;
    assert_eq!(inbox.verify(&lease, &completed("expected")).await.unwrap(), Fenced::Applied);
    assert_eq!(inbox.stats().await.unwrap().received, 4);
    let tried = async || count(&client, "SELECT last_value FROM quiet.calls").await > 2;
    eventually("it was tried", tried).await;
}

/// An inbox that counts how often it is looked at for something to lease.
#[derive(Debug)]
struct Counting(PostgresInbox, Arc<AtomicUsize>);

#[async_trait]
impl InboxStore for Counting {
    async fn receive(&self, event: &Envelope) -> Result<Receipt, StoreError> {
        self.0.receive(event).await
    }

    async fn lease(&self, most: usize, length: Duration) -> Result<Vec<Leased>, StoreError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.lease(most, length).await
    }

    async fn begin(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        self.0.begin(lease).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Fenced, StoreError> {
        self.0.renew(lease, length).await
    }

    async fn verify(&self, lease: &Lease, event: &Envelope) -> Result<Fenced, StoreError> {
        self.0.verify(lease, event).await
    }

    async fn settle(&self, lease: &Lease, outcome: &Outcome) -> Result<Fenced, StoreError> {
        self.0.settle(lease, outcome).await
    }

    async fn expect(&self, job: &JobId, deadline: Duration) -> Result<(), StoreError> {
        self.0.expect(job, deadline).await
    }

    async fn overdue(&self, most: usize, length: Duration) -> Result<Vec<Overdue>, StoreError> {
        self.0.overdue(most, length).await
    }

    async fn contains(&self, job: &JobId) -> Result<bool, StoreError> {
        self.0.contains(job).await
    }

    async fn prune(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        self.0.prune(retention).await
    }

    async fn wait(&self) {
        self.0.wait().await;
    }
}

/// Receives a hundred events one after another while ten workers on these inboxes have nothing else to do, and returns
/// how often these looked for something, and how long it took.
async fn looks_of_ten_workers(receiver: &PostgresInbox, inboxes: &[PostgresInbox; 10]) -> (usize, Duration) {
    let (script, looks) = (Script::default(), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<RunningWorker> = inboxes
        .iter()
        .map(|inbox| {
            let inbox = Counting(inbox.clone(), looks.clone());
            InboxWorker::new(inbox, script.handler(), Verification::Trust).poll(HOUR).start()
        })
        .collect();
    // Each looks at the start, and after it has begun to listen.
    receiver.receive(&completed("first")).await.unwrap();
    script.until("the first is handled", |script| script.finished() == 1).await;
    let (before, began) = (AtomicUsize::new(0), Instant::now());
    let is_quiet = async || {
        let now = looks.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
        before.store(now, Ordering::SeqCst);
        now == looks.load(Ordering::SeqCst) && began.elapsed() > Duration::from_secs(2)
    };
    eventually("all are idle", is_quiet).await;
    let (before, began) = (before.into_inner(), Instant::now());
    for number in 0..100 {
        receiver.receive(&completed(&format!("job-{number}"))).await.unwrap();
    }
    script.until("all are handled", |script| script.finished() == 101).await;
    let (looked, time) = (looks.load(Ordering::SeqCst) - before, began.elapsed());
    for worker in workers {
        worker.shutdown(Duration::from_secs(5)).await;
    }
    assert_eq!(script.runs(), 101);
    println!("ten workers looked {looked} times for 100 events, in {time:?}");
    (looked, time)
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_workers_of_a_process_are_woken_as_there_is_work_for() {
    let (there, here) = (inbox("looks_one").await, handle("looks_one"));
    let (looks, _) = looks_of_ten_workers(&there, &std::array::from_fn(|_| here.clone())).await;
    assert!(looks <= 250, "{looks} looks for 100 events");
    let own = inbox("looks_own").await;
    let (looks, _) = looks_of_ten_workers(&own, &std::array::from_fn(|_| own.clone())).await;
    assert!(looks <= 250, "{looks} looks for 100 events of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_processes_those_that_are_notified_in_vain_look_less_often() {
    let there = inbox("looks_many").await;
    let (looks, time) = looks_of_ten_workers(&there, &std::array::from_fn(|_| handle("looks_many"))).await;
    // Told in vain, a process looks after 10, 20, 40 … ms, and then about three times a second.
    let most = 200 + 10 * (10 + time.as_millis() as usize / 250);
    assert!(looks <= most, "{looks} looks for 100 events, and at most {most} are to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hint_wakes_as_many_workers_as_find_something() {
    let (there, here) = (inbox("chain").await, handle("chain"));
    let all_run = Arc::new(Barrier::new(10));
    let handler = {
        let all_run = all_run.clone();
        handler_fn(move |_: WebhookEvent| {
            let all_run = all_run.clone();
            async move {
                // None ends before the others have begun.
                all_run.wait().await;
                Ok::<_, HandlerError>(())
            }
        })
    };
    let handler = Arc::new(handler.with_unrecognized());
    let workers: Vec<_> = (0..10)
        .map(|_| {
            let worker = InboxWorker::new(here.clone(), handler.clone(), Verification::Trust);
            worker.concurrency(1).poll(HOUR).start()
        })
        .collect();
    let client = client(postgres()).await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'";
    eventually("it listens", async || count(&client, listening).await > 0).await;
    for number in 0..5 {
        super::receive_all(&[&there], (0..10).map(|job| completed(&format!("{number}-{job}")))).await;
        let is_done = async || there.stats().await.unwrap().done == (number + 1) * 10;
        eventually("ten handlers run at once", is_done).await;
    }
    for worker in workers {
        worker.shutdown(Duration::from_secs(5)).await;
    }
}
