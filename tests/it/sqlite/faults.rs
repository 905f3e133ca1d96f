//! Disks that are full, files that are locked, and calls that are dropped.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxFilter, Outcome, Receipt, Retention};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, JobId, MemoryInbox, SqliteInbox};
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::{Folder, HOUR, check, close, commits, completed, event, lease_one, receive, settle};

/// Receives events at once, while the file is locked until all of them wait.
async fn receive_together(
    inbox: &SqliteInbox,
    folder: &Folder,
    events: impl IntoIterator<Item = Envelope>,
) -> Vec<(JobId, Result<Receipt, StoreError>)> {
    let other = Connection::open(folder.file()).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut calls = JoinSet::new();
    for event in events {
        let inbox = inbox.clone();
        calls.spawn(async move { (event.job().clone(), inbox.receive(&event).await) });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.execute_batch("ROLLBACK").unwrap();
    calls.join_all().await
}

#[tokio::test]
async fn what_waits_is_committed_together() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let before = commits(&folder.file());
    let results = receive_together(&inbox, &folder, (0..64).map(completed)).await;
    assert!(results.iter().all(|(_, result)| matches!(result, Ok(Receipt::Stored))), "{results:?}");
    let commits = commits(&folder.file()) - before;
    assert!((1..=3).contains(&commits), "64 events took {commits} commits");
    // What is answered is committed: another connection sees it.
    let other = Connection::open(folder.file()).unwrap();
    let rows: i64 = other.query_row("SELECT count(*) FROM inbox", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 64);
}

#[tokio::test]
async fn one_after_another_each_is_committed_before_its_answer() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let other = Connection::open(folder.file()).unwrap();
    let before = commits(&folder.file());
    for number in 0..50 {
        receive(&inbox, number).await;
        let rows: i64 = other.query_row("SELECT count(*) FROM inbox", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, number + 1, "the answer came before the commit");
    }
    assert_eq!(commits(&folder.file()) - before, 50);
}

#[tokio::test]
async fn of_many_duplicates_at_once_one_is_stored() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let results = receive_together(&inbox, &folder, (0..64).map(|_| completed("job"))).await;
    let stored = results.iter().filter(|(_, result)| matches!(result, Ok(Receipt::Stored))).count();
    let copies = results.iter().filter(|(_, result)| matches!(result, Ok(Receipt::Duplicate))).count();
    assert_eq!((stored, copies), (1, 63));
}

#[tokio::test]
async fn a_row_that_cannot_be_written_takes_no_other_with_it() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    Connection::open(folder.file())
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER poison BEFORE INSERT ON inbox WHEN new.job_id = '7'
            BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )
        .unwrap();
    for (job, result) in receive_together(&inbox, &folder, (0..20).map(completed)).await {
        match result {
            Ok(Receipt::Stored) => assert!(inbox.contains(&job).await.unwrap() && job != "7"),
            Err(StoreError::Unavailable(cause)) => {
                assert!(job == "7" && cause.to_string().contains("poison"));
            }
            other => panic!("{job}: {other:?}"),
        }
    }
    assert_eq!(inbox.stats().await.unwrap().received, 19);
    close(inbox, &folder).await;
    check(&folder.file());
}

#[tokio::test]
async fn a_full_disk_is_said_to_all_who_were_to_be_committed_and_ends() {
    let folder = Folder::new();
    let inbox = SqliteInbox::builder(folder.file()).max_file_bytes(600 << 10).open().unwrap();
    assert_eq!(inbox.receive(&event("large", "completed", 200 << 10)).await.unwrap(), Receipt::Stored);
    let lease = lease_one(&inbox).await;
    settle(&inbox, &lease, Outcome::Done).await;
    let mut stored = Vec::new();
    let mut refused = Vec::new();
    for round in 0..12 {
        let events = (0..8).map(|number| event(&format!("{round}-{number}"), "completed", 6 << 10));
        for (job, result) in receive_together(&inbox, &folder, events).await {
            match result {
                Ok(Receipt::Stored) => stored.push(job),
                Err(StoreError::Full) => refused.push(job),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(stored.len() >= 8 && refused.len() >= 8, "{} stored, {} refused", stored.len(), refused.len());
    for job in &stored {
        assert_eq!(
            inbox.receive(&event(&job.to_string(), "completed", 6 << 10)).await.unwrap(),
            Receipt::Duplicate
        );
    }
    // What is done makes room.
    let more = event("more", "completed", 150 << 10);
    assert!(matches!(inbox.receive(&more).await, Err(StoreError::Full)));
    let pruned = inbox.prune(&Retention::default().payload(Duration::ZERO).row(HOUR)).await.unwrap();
    assert_eq!((pruned.payloads, pruned.rows), (1, 0));
    assert_eq!(inbox.receive(&more).await.unwrap(), Receipt::Stored);
    close(inbox, &folder).await;
    check(&folder.file());

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    for job in &stored {
        assert!(inbox.get(job).await.unwrap().unwrap().1.is_some(), "{job} was acknowledged, and is gone");
    }
    for job in &refused {
        assert!(!inbox.contains(job).await.unwrap(), "{job} was refused, and is there");
        assert_eq!(receive(&inbox, job).await, Receipt::Stored);
    }
    let leased = inbox.lease(usize::MAX, HOUR).await.unwrap();
    assert_eq!(leased.len(), stored.len() + refused.len() + 1);
}

#[tokio::test]
async fn a_locked_file_is_waited_for_then_an_error_and_then_fine_again() {
    let folder = Folder::new();
    let inbox = SqliteInbox::builder(folder.file()).busy_timeout(Duration::from_millis(600)).open().unwrap();
    receive(&inbox, "before").await;
    let other = Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();

    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { receive(&inbox, "waited").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(inbox.contains(&"before".parse().unwrap()).await.unwrap(), "reads do not wait");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(waiting.await.unwrap(), Receipt::Stored);

    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let began = Instant::now();
    let error = inbox.receive(&completed("refused")).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(500), "it did not wait: {:?}", began.elapsed());
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("locked"), "{cause}");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(!inbox.contains(&"refused".parse().unwrap()).await.unwrap());
    assert_eq!(receive(&inbox, "refused").await, Receipt::Stored);
}

#[tokio::test]
async fn a_call_that_is_dropped_writes_as_a_whole_or_not_at_all() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for number in 0..20 {
            let inbox = inbox.clone();
            calls.spawn(
                async move { inbox.receive(&event(&format!("{round}-{number}"), "failed", 5000)).await },
            );
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_micros(round * 50)).await;
        calls.abort_all();
        while calls.join_next().await.is_some() {}
        assert_eq!(receive(&inbox, format!("after-{round}")).await, Receipt::Stored);
    }
    close(inbox, &folder).await;
    check(&folder.file());
}

#[tokio::test]
async fn a_lease_that_nobody_waits_for_takes_nothing() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    receive(&inbox, "job").await;
    let other = Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The first keeps the writer busy; the second waits behind it, and is dropped.
    let first = tokio::spawn({
        let inbox = inbox.clone();
        async move { receive(&inbox, "other").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let dropped = tokio::time::timeout(Duration::from_millis(50), inbox.lease(2, HOUR)).await;
    assert!(dropped.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    first.await.unwrap();
    assert_eq!(inbox.lease(2, HOUR).await.unwrap().len(), 2, "the rows were leased to nobody");
}

#[tokio::test]
async fn waiting_ends_when_something_can_be_leased() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let retry = |after| Outcome::Retry { after, error: String::new() };
    let waited = || tokio::time::timeout(Duration::from_millis(100), inbox.wait());
    receive(&inbox, "job").await;
    waited().await.expect("received");
    receive(&inbox, "job").await;
    waited().await.expect_err("a copy is nothing to lease");
    let lease = lease_one(&inbox).await;
    settle(&inbox, &lease, retry(Duration::ZERO)).await;
    waited().await.expect("to be tried again at once");
    let lease = lease_one(&inbox).await;
    settle(&inbox, &lease, Outcome::Release { after: Duration::ZERO }).await;
    waited().await.expect("given back");
    let lease = lease_one(&inbox).await;
    settle(&inbox, &lease, Outcome::Done).await;
    waited().await.expect_err("done");
    assert!(inbox.replay(lease.job()).await.unwrap());
    waited().await.expect("replayed");
    let lease = lease_one(&inbox).await;
    settle(&inbox, &lease, retry(HOUR)).await;
    waited().await.expect_err("to be tried again later");
    let expected: JobId = "expected".parse().unwrap();
    inbox.expect(&expected, Duration::ZERO).await.unwrap();
    waited().await.expect_err("expected");
    let overdue = inbox.overdue(1, HOUR).await.unwrap().remove(0).lease;
    assert_eq!(inbox.verify(&overdue, &completed(&expected)).await.unwrap(), Fenced::Applied);
    waited().await.expect("fetched");
}

#[tokio::test]
async fn a_call_prunes_about_64_mib_of_bodies_at_most() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    // Only their lengths are large.
    let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10)
        INSERT INTO inbox (job_id, state, job_type, status, bytes, received_at, ended_at)
        SELECT 'job-' || n, 'done', 'extract', 'completed', 16 << 20, 0, n FROM numbers;
        INSERT INTO inbox_body (id, body) SELECT id, x'00' FROM inbox;
        UPDATE inbox_total SET rows = 10, bytes = 10 * (16 << 20) WHERE state = 'done'";
    Connection::open(folder.file()).unwrap().execute_batch(fill).unwrap();
    let bodies = Retention::default().payload(Duration::ZERO).row(HOUR * 1_000_000);
    assert_eq!(inbox.prune(&bodies).await.unwrap().payloads, 4);
    assert_eq!(inbox.prune(&bodies).await.unwrap().payloads, 4);
    let rows = Retention::default().payload(HOUR * 1_000_000).row(Duration::ZERO);
    // What has no body any more comes first.
    assert_eq!(inbox.prune(&rows).await.unwrap().rows, 10);
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.done, stats.bytes), (0, 0));

    Connection::open(folder.file()).unwrap().execute_batch(fill).unwrap();
    assert_eq!(inbox.prune(&rows).await.unwrap().rows, 4);
    assert_eq!(inbox.prune(&rows).await.unwrap().rows, 4);
    assert_eq!(inbox.prune(&rows).await.unwrap().rows, 2);

    Connection::open(folder.file()).unwrap().execute_batch(fill).unwrap();
    let all = Retention::default().payload(Duration::ZERO).row(Duration::ZERO);
    assert_eq!(inbox.prune(&all).await.unwrap().rows, 4, "rows and bodies each had a limit of their own");
}

#[tokio::test]
async fn dead_letters_are_discarded_until_none_is_left_however_large_they_are() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1234)
        INSERT INTO inbox (job_id, state, job_type, status, bytes, received_at, ended_at)
        SELECT 'job-' || n, 'dead', 'extract', 'completed', 16 << 20, 0, n FROM numbers;
        INSERT INTO inbox_body (id, body) SELECT id, x'00' FROM inbox;
        UPDATE inbox_total SET rows = 1234, bytes = 1234 * (16 << 20) WHERE state = 'dead'";
    Connection::open(folder.file()).unwrap().execute_batch(fill).unwrap();
    let all = InboxFilter::default();
    let some = inbox.discard_all(&all, 700, Bulk::Apply).await.unwrap();
    assert_eq!((some.rows, some.more), (700, true));
    let replayed = inbox.replay_all(&all, 200, Bulk::Apply).await.unwrap();
    assert_eq!((replayed.rows, replayed.more), (200, true));
    let rest = inbox.discard_all(&all, u64::MAX, Bulk::Apply).await.unwrap();
    assert_eq!((rest.rows, rest.more), (334, false));
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.received, stats.bytes), (0, 200, 200 * (16 << 20)));
}

#[tokio::test]
async fn a_call_prunes_1000_rows_and_bodies_at_most() {
    let folder = Folder::new();
    let inboxes: [Arc<dyn InboxStore>; 2] =
        [Arc::new(SqliteInbox::open(folder.file()).unwrap()), Arc::new(MemoryInbox::new())];
    for inbox in inboxes {
        let mut receives = JoinSet::new();
        for number in 0..1500 {
            let (inbox, event) = (inbox.clone(), completed(format!("job-{number}")));
            receives.spawn(async move { inbox.receive(&event).await.unwrap() });
        }
        receives.join_all().await;
        let mut settles = JoinSet::new();
        for leased in inbox.lease(1500, HOUR).await.unwrap() {
            let inbox = inbox.clone();
            settles.spawn(async move { inbox.settle(&leased.lease, &Outcome::Done).await.unwrap() });
        }
        assert_eq!(settles.join_all().await, [Fenced::Applied; 1500]);
        let all = Retention::default().payload(Duration::ZERO).row(Duration::ZERO);
        for expected in [1000, 500, 0] {
            let pruned = inbox.prune(&all).await.unwrap();
            assert_eq!((pruned.rows, pruned.payloads), (expected, 0), "{inbox:?}");
        }
    }
}
