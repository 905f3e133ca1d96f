//! Replies that are lost, rows that are locked, and servers that die, refuse or are away.

use std::collections::HashSet;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qomplement_webhooks::inbox::{Bulk, InboxAdmin, InboxFilter, InboxState, Outcome, Receipt};
use qomplement_webhooks::registry::JobRegistry;
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{HOUR, LEASE, client, completed, count, event, inbox, job, lease_one};
use crate::support::databases::{PASSWORD, Server, free_port, postgres};
use crate::support::eventually;
use crate::support::inboxes::all_rows;
use crate::support::proxy::Proxy;

#[tokio::test]
async fn calls_whose_replies_were_lost_are_repeated() {
    let (direct, client) = (inbox("lost").await, client(postgres()).await);
    let proxy = Proxy::before(postgres().port()).await;
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", proxy.port);
    // Nothing is counted in between.
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("lost", "inbox").unwrap();
    let inbox = inbox.max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
    inbox.receive(&completed("warm")).await.unwrap();
    let lease = lease_one(&inbox).await.lease;
    assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    let outcomes = [
        Outcome::Done,
        Outcome::Dead { error: "why".to_owned() },
        Outcome::Retry { after: HOUR, error: "why".to_owned() },
        Outcome::Release { after: HOUR },
    ];
    for (number, outcome) in outcomes.iter().enumerate() {
        let id = format!("job-{number}");
        proxy.lose_the_next_reply();
        let receipt = inbox.receive(&completed(&id)).await.unwrap();
        assert_eq!(receipt, Receipt::Duplicate, "the first time stored it");

        proxy.lose_the_next_reply();
        assert!(inbox.lease(1, LEASE).await.unwrap().is_empty(), "leased, and not known");
        let ends = "UPDATE lost.inbox SET due_at = clock_timestamp() WHERE state = 'running'";
        assert_eq!(client.execute(ends, &[]).await.unwrap(), 1);
        let leased = lease_one(&inbox).await;
        assert_eq!((leased.attempt, leased.expired), (2, true), "what was leased comes back");

        proxy.lose_the_next_reply();
        assert_eq!(inbox.renew(&leased.lease, LEASE).await.unwrap(), Fenced::Applied);
        proxy.lose_the_next_reply();
        assert_eq!(inbox.settle(&leased.lease, outcome).await.unwrap(), Fenced::Applied);
        assert_eq!(proxy.lost(), (number + 1) * 4);
        let (row, _) = direct.get(&job(&id)).await.unwrap().unwrap();
        let attempts = if matches!(outcome, Outcome::Release { .. }) { 1 } else { 2 };
        assert_eq!(row.attempts, attempts, "an attempt is given back once: {row:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_while_it_is_opened_is_opened_again() {
    inbox("opened").await;
    let proxy = Proxy::before(postgres().port()).await;
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", proxy.port);
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("opened", "inbox").unwrap();
    proxy.lose_the_next_reply();
    assert_eq!(inbox.receive(&completed("job")).await.unwrap(), Receipt::Stored);
    assert_eq!(proxy.lost(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_repeated_while_the_first_is_being_written_applies() {
    let inbox = inbox("twice").await;
    inbox.expect(&job("job"), Duration::ZERO).await.unwrap();
    let lease = inbox.overdue(1, HOUR).await.unwrap().remove(0).lease;
    let (mut locking, watching) = (client(postgres()).await, client(postgres()).await);
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM twice.inbox FOR UPDATE").await.unwrap();
    let answers: Vec<_> = (0..2)
        .map(|_| {
            let (inbox, lease) = (inbox.clone(), lease.clone());
            tokio::spawn(async move { inbox.verify(&lease, &completed("job")).await.unwrap() })
        })
        .collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE \"twice\"%'";
    eventually("both wait for the lock", async || count(&watching, waiting).await == 2).await;
    lock.commit().await.unwrap();
    for answer in answers {
        assert_eq!(answer.await.unwrap(), Fenced::Applied);
    }
    let (row, _) = inbox.get(&job("job")).await.unwrap().unwrap();
    assert_eq!((row.state, row.verified), (InboxState::Received, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_server_that_is_killed() {
    // Settings that would lose it, if nothing else were said.
    let mut server = Server::postgres(&["synchronous_commit=off", "wal_writer_delay=10s"], &[]);
    let inbox = PostgresInbox::from_url(&server.url()).unwrap();
    inbox.migrate().await.unwrap();
    for round in 0..3 {
        let (stored, refused) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let mut senders = JoinSet::new();
        for sender in 0..16 {
            let (inbox, stored, refused) = (inbox.clone(), stored.clone(), refused.clone());
            senders.spawn(async move {
                for number in 0.. {
                    let id = format!("{round}-{sender}-{number}");
                    match inbox.receive(&completed(&id)).await {
                        Ok(_) => stored.lock().unwrap().push(id),
                        Err(_) => drop(refused.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            });
        }
        let count = || stored.lock().unwrap().len();
        let more = |than| eventually("events are stored", async move || count() >= than);
        more(200).await;
        server.kill();
        eventually("the server is away", async || refused.load(Ordering::SeqCst) > 0).await;
        server.restart();
        more(count() + 200).await;
        senders.shutdown().await;
        let known = every_job(&inbox).await;
        let lost: Vec<_> = stored.lock().unwrap().iter().filter(|id| !known.contains(*id)).cloned().collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_is_answered_outlives_a_server_that_is_killed_right_after() {
    // Settings that would lose it, if nothing else were said.
    let mut server = Server::postgres(&["synchronous_commit=off", "wal_writer_delay=10s"], &[]);
    let inbox = PostgresInbox::from_url(&server.url()).unwrap();
    inbox.migrate().await.unwrap();
    let is_back = async || inbox.check().await.is_ok();
    for round in 0..3 {
        // Each is the last write before the kill: a later one would put it on the disk, too.
        let new = format!("new-{round}");
        inbox.receive(&completed(&new)).await.unwrap();
        server.kill();
        server.restart();
        eventually("the server is back", is_back).await;
        assert!(inbox.contains(&job(&new)).await.unwrap(), "a new event was lost");

        let replaced = format!("replaced-{round}");
        inbox.receive(&event(&replaced, "processing", "")).await.unwrap();
        assert_eq!(inbox.receive(&completed(&replaced)).await.unwrap(), Receipt::Stored);
        server.kill();
        server.restart();
        eventually("the server is back", is_back).await;
        let (row, _) = inbox.get(&job(&replaced)).await.unwrap().unwrap();
        assert_eq!(row.status.as_deref(), Some("completed"), "an event that took another's place was lost");

        let expected = format!("expected-{round}");
        inbox.expect(&job(&expected), HOUR).await.unwrap();
        server.kill();
        server.restart();
        eventually("the server is back", is_back).await;
        assert!(inbox.contains(&job(&expected)).await.unwrap(), "an expected job was lost");
    }
}

async fn every_job(inbox: &PostgresInbox) -> HashSet<String> {
    all_rows(inbox, &InboxFilter::default()).await.into_iter().map(|row| row.job_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_the_database_refuses_does_not_take_others_with_it() {
    let inbox = inbox("refused").await;
    let client = client(postgres()).await;
    let check = "ALTER TABLE refused.inbox ADD CHECK (status <> 'cursed')";
    client.batch_execute(check).await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let inbox = inbox.clone();
            let status = if number % 10 == 3 { "cursed" } else { "completed" };
            let event = event(&format!("job-{number}"), status, "");
            tokio::spawn(async move { (status, inbox.receive(&event).await) })
        })
        .collect();
    for task in tasks {
        match task.await.unwrap() {
            ("cursed", Err(StoreError::Unavailable(_))) | ("completed", Ok(Receipt::Stored)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(inbox.stats().await.unwrap().received, 36);
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_hold_up_the_next() {
    let (inbox, client) = (inbox("given_up_inbox").await, client(postgres()).await);
    inbox.receive(&completed("held")).await.unwrap();
    let lease = lease_one(&inbox).await.lease;
    client.batch_execute("BEGIN; SELECT FROM given_up_inbox.inbox FOR UPDATE").await.unwrap();
    let done = Outcome::Done;
    let calls = (0..16).map(|_| timeout(Duration::from_millis(300), inbox.settle(&lease, &done)));
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    for call in &mut calls {
        assert!(call.await.is_err(), "the row was not locked");
    }
    drop(calls);
    let receipt = timeout(Duration::from_secs(2), inbox.receive(&completed("free"))).await;
    assert!(matches!(receipt, Ok(Ok(Receipt::Stored))), "{receipt:?}");
    // Nobody waits for a row that is in use.
    let leased = timeout(Duration::from_secs(2), inbox.lease(10, LEASE)).await.unwrap().unwrap();
    assert_eq!(leased.len(), 1);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
}

#[test]
fn an_inbox_outlives_the_runtime_that_used_it() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inbox = runtime().block_on(inbox("runtimes"));
    for round in 0..3 {
        let runtime = runtime();
        runtime.block_on(async {
            for number in 0..20 {
                tokio::spawn({
                    let inbox = inbox.clone();
                    async move { inbox.receive(&completed(&format!("{round}-{number}"))).await }
                });
            }
            let _ = timeout(Duration::from_millis(1), inbox.wait()).await;
        });
        runtime.shutdown_background();
    }
    let receipt = runtime().block_on(inbox.receive(&completed("last"))).unwrap();
    assert_eq!(receipt, Receipt::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_no_mystery_and_its_password_stays_secret() {
    let mut port = postgres().port();
    for (password, expected) in [("wrong-secret", "authentication failed"), ("wrong-secret", "refused")] {
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let inbox = PostgresInbox::from_url(&url).unwrap();
        let tasks: Vec<_> = (0..5)
            .map(|number| {
                let inbox = inbox.clone();
                tokio::spawn(async move { inbox.receive(&completed(&format!("job-{number}"))).await })
            })
            .collect();
        let mut errors = vec![inbox.check().await.unwrap_err(), inbox.lease(1, LEASE).await.unwrap_err()];
        for task in tasks {
            errors.push(task.await.unwrap().unwrap_err());
        }
        let known = inbox.is_known(&job("job")).await.unwrap_err().to_string();
        for error in errors {
            let mut said = format!("{inbox:?} {known} {error} {error:?}");
            let mut source = error.source();
            while let Some(cause) = source {
                said += &format!(" {cause} {cause:?}");
                source = cause.source();
            }
            assert!(!said.contains(password), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        port = free_port();
    }
    let error = PostgresInbox::from_url("postgres://user:hidden-secret@host?sslmode=maybe").unwrap_err();
    assert!(!format!("{error:?} {error}").contains("secret"));
}

/// The second time would change other rows, and count those alone.
#[tokio::test]
async fn a_change_whose_reply_was_lost_is_not_repeated_and_its_error_says_so() {
    let direct = inbox("lost_change").await;
    let proxy = Proxy::before(postgres().port()).await;
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", proxy.port);
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("lost_change", "inbox").unwrap();
    for number in 0..6 {
        direct.receive(&completed(&format!("job-{number}"))).await.unwrap();
    }
    for leased in direct.lease(6, LEASE).await.unwrap() {
        let dead = Outcome::Dead { error: "why".to_owned() };
        assert_eq!(direct.settle(&leased.lease, &dead).await.unwrap(), Fenced::Applied);
    }
    let dead = InboxFilter::default().state(InboxState::Dead);
    let is_not_known = |error: StoreError| {
        let StoreError::Unavailable(cause) = error else { return false };
        cause.to_string().contains("may have been made")
    };
    let lose_the_next_reply = async || {
        // On a connection that is open.
        inbox.stats().await.unwrap();
        proxy.lose_the_next_reply();
    };

    lose_the_next_reply().await;
    assert!(is_not_known(inbox.discard_all(&dead, 1, Bulk::Apply).await.unwrap_err()));
    assert_eq!(direct.stats().await.unwrap().dead, 5);
    lose_the_next_reply().await;
    assert!(is_not_known(inbox.replay_all(&dead, 1, Bulk::Apply).await.unwrap_err()));
    let stats = direct.stats().await.unwrap();
    assert_eq!((stats.dead, stats.received), (4, 1));
    let left = all_rows(&direct, &dead).await;
    lose_the_next_reply().await;
    assert!(is_not_known(inbox.discard(&job(&left[0].job_id)).await.unwrap_err()));
    lose_the_next_reply().await;
    assert!(is_not_known(inbox.replay(&job(&left[1].job_id)).await.unwrap_err()));
    assert_eq!(proxy.lost(), 4);
    let stats = direct.stats().await.unwrap();
    assert_eq!((stats.dead, stats.received), (2, 2));

    // What only counts or reads is repeated.
    lose_the_next_reply().await;
    assert_eq!(inbox.discard_all(&dead, 9, Bulk::DryRun).await.unwrap().rows, 2);
    lose_the_next_reply().await;
    assert_eq!(inbox.stats().await.unwrap().dead, 2);
    assert_eq!(proxy.lost(), 6);
}

/// As of a pooler whose server is away.
#[tokio::test]
async fn a_change_for_which_no_connection_was_opened_was_not_made() {
    inbox("unsent_change").await;
    let proxy = Proxy::before(postgres().port()).await;
    let url = format!(
        "postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres?application_name=unsent_change",
        proxy.port
    );
    let inbox = PostgresInbox::from_url(&url).unwrap().with_table("unsent_change", "inbox").unwrap();
    inbox.stats().await.unwrap();
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.lead_to(closing.local_addr().unwrap().port());
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'unsent_change'";
    client(postgres()).await.query(end, &[]).await.unwrap();
    eventually("the connection is gone", async || inbox.stats().await.is_err()).await;
    let StoreError::Unavailable(cause) = inbox.discard(&job("job")).await.unwrap_err() else {
        panic!("full")
    };
    assert!(!cause.to_string().contains("may have been made"), "{cause}");
}

#[tokio::test]
async fn an_event_whose_row_a_trigger_suppresses_is_refused_and_takes_no_other_with_it() {
    let inbox = inbox("suppressed").await;
    let suppress = "CREATE FUNCTION suppressed.suppress() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF NEW.job_id = ''cursed'' THEN RETURN NULL; END IF; RETURN NEW; END';
        CREATE TRIGGER suppress BEFORE INSERT ON suppressed.inbox
            FOR EACH ROW EXECUTE FUNCTION suppressed.suppress()";
    client(postgres()).await.batch_execute(suppress).await.unwrap();
    let events = ["first", "cursed", "last"].map(|id| {
        let inbox = inbox.clone();
        tokio::spawn(async move { inbox.receive(&completed(id)).await })
    });
    let [first, cursed, last] = events.map(|event| timeout(Duration::from_secs(20), event));
    for event in [first, last] {
        assert_eq!(event.await.unwrap().unwrap().unwrap(), Receipt::Stored);
    }
    let refused = cursed.await.expect("it is stored again and again").unwrap().unwrap_err();
    let cause = refused.source().unwrap().to_string();
    assert!(cause.contains("trigger"), "{cause}");
}
