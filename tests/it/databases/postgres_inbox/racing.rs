//! Many at once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, Outcome, Receipt};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, InboxWorker, PostgresInbox, WebhookReceiver};

use super::{HOUR, LEASE, client, completed, count, event, handle, inbox, job, receive_all};
use crate::support::databases::{Server, postgres};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_duplicates_is_stored() {
    let (inbox, other) = (inbox("copies").await, handle("copies"));
    for round in 0..10 {
        let copies = std::iter::repeat_n(completed(&format!("job-{round}")), 32);
        let receipts = receive_all(&[&inbox, &other], copies).await;
        let stored = receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count();
        let duplicates = receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Duplicate).count();
        assert_eq!((stored, duplicates), (1, 63), "{receipts:?}");
    }
    assert_eq!(inbox.stats().await.unwrap().received, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_job_that_come_together_are_told_apart() {
    let inbox = inbox("together").await;
    for round in 0..10 {
        let id = format!("job-{round}");
        let events = (0..40).map(|number| match number % 4 {
            0 => event(&id, "processing", "first"),
            1 => event(&id, "processing", "second"),
            2 => event(&id, "completed", "one"),
            _ => event(&id, "completed", "two"),
        });
        let receipts = receive_all(&[&inbox], events).await;
        let count = |wanted| receipts.iter().filter(|(_, receipt)| *receipt == wanted).count();
        // A report that is final is stored once; before it, one that is not may have been.
        assert!((1..=2).contains(&count(Receipt::Stored)), "{receipts:?}");
        assert_eq!(count(Receipt::Conflict), 10, "the other ten differ: {receipts:?}");
        let (row, _) = inbox.get(&job(&id)).await.unwrap().unwrap();
        assert_eq!(row.status.as_deref(), Some("completed"));
    }
    assert_eq!(inbox.lease(100, LEASE).await.unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_lease_at_once_share_the_rows() {
    let inbox = inbox("shared").await;
    receive_all(&[&inbox], (0..2000).map(|number| completed(&format!("job-{number}")))).await;
    let tasks: Vec<_> = (0..8)
        .map(|number: usize| {
            let inbox = if number.is_multiple_of(2) { inbox.clone() } else { handle("shared") };
            tokio::spawn(async move {
                let mut all = Vec::new();
                loop {
                    let leased = inbox.lease(1 + number * 3, LEASE).await.unwrap();
                    if leased.is_empty() {
                        return all;
                    }
                    all.extend(leased);
                }
            })
        })
        .collect();
    let mut jobs = HashSet::new();
    for task in tasks {
        for leased in task.await.unwrap() {
            assert_eq!((leased.attempt, leased.expired), (1, false));
            assert!(jobs.insert(leased.lease.job().clone()), "{} was leased twice", leased.lease.job());
        }
    }
    assert_eq!(jobs.len(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ran_out_is_taken_by_one_of_many() {
    let inbox = inbox("expired").await;
    receive_all(&[&inbox], (0..50).map(|number| completed(&format!("job-{number}")))).await;
    for round in 1..=5 {
        let (mut tasks, mut fences) = (Vec::new(), HashMap::new());
        for _ in 0..8 {
            let inbox = inbox.clone();
            tasks.push(tokio::spawn(async move { inbox.lease(50, HOUR).await.unwrap() }));
        }
        for task in tasks {
            for leased in task.await.unwrap() {
                assert_eq!((leased.attempt, leased.expired), (round, round > 1));
                assert!(fences.insert(leased.lease.job().clone(), leased.lease.fence()).is_none());
            }
        }
        assert_eq!(fences.len(), 50);
        let client = client(postgres()).await;
        client.batch_execute("UPDATE expired.inbox SET due_at = now()").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_overlap_do_not_deadlock() {
    let server = Server::postgres(&["deadlock_timeout=50ms"], &[]);
    let inbox = || PostgresInbox::from_url(&server.url()).unwrap();
    let (one, other) = (inbox(), inbox());
    one.migrate().await.unwrap();
    for round in 0..15 {
        let mut ids: Vec<_> = (0..400).map(|number| format!("{round}-{}", number * 7919 % 400)).collect();
        let forwards = {
            let (one, ids) = (one.clone(), ids.clone());
            tokio::spawn(async move { receive_all(&[&one], ids.iter().map(|id| completed(id))).await })
        };
        ids.reverse();
        let backwards = receive_all(&[&other], ids.iter().map(|id| completed(id))).await;
        let receipts = [forwards.await.unwrap(), backwards].concat();
        let stored = receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count();
        assert_eq!((stored, receipts.len()), (400, 800));
    }
    drop((one, other));
    let client = client(&server).await;
    // A server process tells its numbers at its end at the latest.
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    eventually("the connections are closed", async || count(&client, others).await == 0).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'";
    assert_eq!(count(&client, deadlocks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_isolation_level_of_the_database_is_no_obstacle() {
    let server = Server::postgres(&["default_transaction_isolation=serializable"], &[]);
    let inbox = || PostgresInbox::from_url(&server.url()).unwrap();
    let (one, other) = (inbox(), inbox());
    one.migrate().await.unwrap();
    let events = || (0..300).map(|number| completed(&format!("job-{number}")));
    let receipts = receive_all(&[&one, &other], events()).await;
    assert_eq!(receipts.iter().filter(|(_, receipt)| *receipt == Receipt::Stored).count(), 300);
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let inbox = if number % 2 == 0 { one.clone() } else { other.clone() };
            tokio::spawn(async move {
                let mut handled = 0;
                loop {
                    let leased = inbox.lease(5, LEASE).await.unwrap();
                    if leased.is_empty() {
                        return handled;
                    }
                    for leased in leased {
                        assert_eq!(
                            inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(),
                            Fenced::Applied
                        );
                        handled += 1;
                    }
                }
            })
        })
        .collect();
    let mut handled = 0;
    for task in tasks {
        handled += task.await.unwrap();
    }
    assert_eq!(handled, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_and_two_workers_handle_each_event_once() {
    let (inbox, other) = (inbox("whole").await, handle("whole"));
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
    let script = crate::support::Script::default();
    let worker =
        |inbox| InboxWorker::new(inbox, script.handler(), qomplement_webhooks::Verification::Trust).start();
    let workers = [worker(inbox.clone()), worker(other)];
    let requests: Vec<_> = (0..200)
        .map(|number| {
            let receiver = receiver.clone();
            let body = completed(&format!("job-{}", number / 2)).body().clone();
            tokio::spawn(async move { receiver.receive(crate::support::request(body)).await.status() })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    script.until("all are handled", |script| script.finished() >= 100).await;
    for worker in workers {
        assert_eq!(worker.shutdown(Duration::from_secs(5)).await, 0);
    }
    assert_eq!(script.runs(), 100);
    assert_eq!(inbox.stats().await.unwrap().done, 100);
}
