//! How much may be unfinished.

use std::time::Duration;

use qomplement_webhooks::inbox::{Outcome, Receipt};
use qomplement_webhooks::store::{Fenced, StoreError};
use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use super::{HOUR, LEASE, client, completed, count, event, inbox, job, lease_one, receive_all};
use crate::support::databases::postgres;
use crate::support::{eventually, inboxes};

/// An inbox whose rows are weighed slowly, each in as many seconds as the table `pause` says.
async fn slow_inbox(schema: &str) -> (PostgresInbox, Client) {
    let client = client(postgres()).await;
    inbox(schema).await;
    let slow = format!(
        "CREATE TABLE {schema}.pause (seconds float8);
        CREATE FUNCTION {schema}.octet_length(bytea) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep(seconds) FROM {schema}.pause;
            RETURN pg_catalog.octet_length($1);
        END $$"
    );
    client.batch_execute(&slow).await.unwrap();
    let url = format!("{}&options=-csearch_path%3D{schema}%2Cpg_catalog", postgres().url());
    (PostgresInbox::from_url(&url).unwrap().with_table(schema, "inbox").unwrap(), client)
}

async fn pause(client: &Client, schema: &str, seconds: Option<u32>) {
    client.batch_execute(&format!("DELETE FROM {schema}.pause")).await.unwrap();
    if let Some(seconds) = seconds {
        client.batch_execute(&format!("INSERT INTO {schema}.pause VALUES ({seconds})")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_refuses_what_is_new_until_there_is_room() {
    let inbox = inbox("full").await;
    let limited = inbox.clone().max_unfinished_rows(10);
    let receipts = receive_all(&[&limited], (0..10).map(|number| completed(&format!("job-{number}")))).await;
    assert!(receipts.iter().all(|(_, receipt)| *receipt == Receipt::Stored));
    let full = limited.receive(&completed("new")).await;
    assert!(matches!(full, Err(StoreError::Full)), "{full:?}");
    assert_eq!(limited.receive(&completed("job-3")).await.unwrap(), Receipt::Duplicate, "it is stored");
    assert!(!inbox.contains(&job("new")).await.unwrap());

    let another = inbox.clone().max_unfinished_rows(10);
    assert!(matches!(another.receive(&completed("new")).await, Err(StoreError::Full)), "it must count first");
    for leased in inbox.lease(5, LEASE).await.unwrap() {
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }
    for (receiver, id) in [(limited, "new"), (another, "newer")] {
        let is_stored = async || matches!(receiver.receive(&completed(id)).await, Ok(Receipt::Stored));
        eventually("there is room", is_stored).await;
    }

    let length = completed("job-0").body().len() as u64;
    let by_bytes = self::inbox("full_of_bytes").await.max_unfinished_bytes(length * 2 + 1);
    let mut receipts = Vec::new();
    for number in 0..3 {
        receipts.push(by_bytes.receive(&completed(&format!("job-{number}"))).await);
    }
    let expected = matches!(receipts[..], [Ok(Receipt::Stored), Ok(Receipt::Stored), Err(StoreError::Full)]);
    assert!(expected, "{receipts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_expects_no_more_and_receives_what_it_expects() {
    let inbox = inbox("full_of_expected").await;
    let limited = inbox.clone().max_unfinished_rows(3);
    for id in ["a", "b", "c"] {
        limited.expect(&job(id), HOUR).await.unwrap();
    }
    let another = inbox.clone().max_unfinished_rows(3);
    for full in [&limited, &another] {
        let refused = full.expect(&job("d"), HOUR).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
        full.expect(&job("a"), HOUR).await.unwrap();
    }
    assert!(!inbox.contains(&job("d")).await.unwrap());
    for id in ["a", "b", "not-expected"] {
        assert_eq!(limited.receive(&completed(id)).await.unwrap(), Receipt::Stored);
    }
    assert!(matches!(limited.receive(&completed("c")).await, Err(StoreError::Full)), "so many events wait");
    for leased in inbox.lease(3, LEASE).await.unwrap() {
        assert_eq!(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
    }
    for (receiver, id) in [(&limited, "d"), (&another, "e")] {
        eventually("there is room", async || receiver.expect(&job(id), HOUR).await.is_ok()).await;
    }
    let unlimited = inbox.clone().max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
    unlimited.expect(&job("f"), HOUR).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_registers_what_it_counts() {
    let inbox = inbox("full_and_registered").await.max_unfinished_rows(1);
    inboxes::a_full_inbox_registers_what_it_counts(&inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_take_no_room() {
    let inbox = inbox("no_room_taken").await.max_unfinished_rows(5);
    receive_all(&[&inbox], (0..4).map(|number| completed(&format!("job-{number}")))).await;
    for _ in 0..10 {
        assert_eq!(inbox.receive(&completed("job-0")).await.unwrap(), Receipt::Duplicate);
    }
    assert_eq!(inbox.receive(&completed("last")).await.unwrap(), Receipt::Stored);
    assert!(matches!(inbox.receive(&completed("one-more")).await, Err(StoreError::Full)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_count_refuses_nothing_for_long() {
    const SCHEMA: &str = "slowly_counted";
    let (inbox, client) = slow_inbox(SCHEMA).await;
    let limited = inbox.clone().max_unfinished_rows(1);
    assert_eq!(limited.receive(&completed("first")).await.unwrap(), Receipt::Stored);
    for is_event in [true, false] {
        let fits = async || {
            let called = if is_event {
                limited.receive(&completed("second")).await.map(drop)
            } else {
                limited.expect(&job("third"), HOUR).await
            };
            assert!(matches!(called, Ok(()) | Err(StoreError::Full)), "{called:?}");
            called.is_ok()
        };
        pause(&client, SCHEMA, Some(1)).await;
        let is_slowly_refused = async || {
            let began = Instant::now();
            !fits().await && began.elapsed() >= Duration::from_secs(1)
        };
        eventually("a slow count comes before a refusal", is_slowly_refused).await;
        pause(&client, SCHEMA, None).await;
        let lease = lease_one(&inbox).await.lease;
        assert_eq!(inbox.settle(&lease, &Outcome::Done).await.unwrap(), Fenced::Applied);
        let stored = timeout(Duration::from_secs(5), eventually("there is room", fits)).await;
        stored.expect("an empty inbox is full after a slow count");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_while_the_first_count_goes_on() {
    const SCHEMA: &str = "slowly_begun";
    let counting = format!(
        "FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE 'SELECT rows, bytes, expected%\"{SCHEMA}\"%' AND pid <> pg_backend_pid()"
    );
    let (inbox, client) = slow_inbox(SCHEMA).await;
    receive_all(&[&inbox], ["a", "b", "c"].map(completed)).await;
    pause(&client, SCHEMA, Some(60)).await;
    let started = inbox.clone().max_unfinished_rows(5);
    // Large ones are stored by statements at once.
    let events = (0..5).map(|number| event(&format!("job-{number}"), "completed", &"x".repeat(20 << 10)));
    let stored = timeout(Duration::from_secs(10), receive_all(&[&started], events)).await;
    let stored = stored.expect("events wait for the first count");
    assert!(stored.iter().all(|(_, receipt)| *receipt == Receipt::Stored), "{stored:?}");
    assert_eq!(count(&client, &format!("SELECT count(*) {counting}")).await, 1);

    // As many as the limit are this process's own.
    let more = completed("more");
    let (refused, cancelled) = tokio::join!(started.receive(&more), async {
        pause(&client, SCHEMA, None).await;
        count(&client, &format!("SELECT count(pg_cancel_backend(pid)) {counting}")).await
    });
    assert_eq!(cancelled, 1);
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
}
