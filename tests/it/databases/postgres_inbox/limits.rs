//! How much may be unfinished.

use qomplement_webhooks::InboxStore;
use qomplement_webhooks::inbox::{Outcome, Receipt};
use qomplement_webhooks::store::{Fenced, StoreError};

use super::{HOUR, LEASE, completed, inbox, job, receive_all};
use crate::support::{eventually, inboxes};

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
