//! Counts by minute.

use std::time::{SystemTime, UNIX_EPOCH};

use qomplement_webhooks::inbox::{InboxAdmin, InboxTraffic, Outcome, Retention};
use qomplement_webhooks::{InboxStore, SqliteInbox};
use rusqlite::Connection;

use super::{Folder, close, lease_one, receive, settle};

const DAY: i64 = 24 * 60;

fn minute() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60).unwrap()
}

/// All that was received and handled.
fn sums(minutes: &[InboxTraffic]) -> (u64, u64) {
    minutes
        .iter()
        .fold((0, 0), |(received, handled), minute| (received + minute.received, handled + minute.handled))
}

#[tokio::test]
async fn counts_are_committed_with_their_rows_and_outlive_a_restart() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let other = Connection::open(folder.file()).unwrap();
    // Both in one snapshot, also between the commits of others.
    let counted = "SELECT (SELECT count(*) FROM inbox) - (SELECT coalesce(sum(received), 0) FROM inbox_traffic),
        (SELECT count(*) FROM inbox WHERE state = 'done') - (SELECT coalesce(sum(handled), 0) FROM inbox_traffic)";
    let uncounted =
        || -> (i64, i64) { other.query_row(counted, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap() };
    for number in 0..20 {
        receive(&inbox, number).await;
        receive(&inbox, number).await;
        assert_eq!(uncounted(), (0, 0), "after event {number}");
        if number % 2 == 0 {
            let lease = lease_one(&inbox).await;
            settle(&inbox, &lease, Outcome::Done).await;
            settle(&inbox, &lease, Outcome::Done).await;
            assert_eq!(uncounted(), (0, 0), "after the outcome of event {number}");
        }
    }
    drop(other);
    close(inbox, &folder).await;
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inbox.prune(&Retention::default()).await.unwrap();
    assert_eq!(sums(&inbox.traffic().await.unwrap()), (20, 10));
}

#[tokio::test]
async fn minutes_of_more_than_a_day_ago_are_forgotten_and_odd_counts_do_no_harm() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let other = Connection::open(folder.file()).unwrap();
    let now = minute();
    for (minute, received, handled) in [
        (now - 2 * DAY, 1, 1),
        (now - DAY - 1, 2, 2),
        (now - DAY + 5, 3, 4),
        (now - 7, -1, i64::MAX),
        (now + DAY, 5, 5),
        (i64::MIN, 6, 6),
    ] {
        let insert = "INSERT INTO inbox_traffic (minute, received, handled) VALUES (?1, ?2, ?3)";
        other.execute(insert, [minute, received, handled]).unwrap();
    }
    let full = "INSERT INTO inbox_traffic (minute, received, handled)
        SELECT ?1 + value, 9223372036854775807, 9223372036854775807 FROM json_each('[0, 1, 2, 3]')";
    other.execute(full, [now]).unwrap();
    // The counts of this minute are as large as they can be.
    receive(&inbox, "job").await;
    settle(&inbox, &lease_one(&inbox).await, Outcome::Done).await;
    let minutes = inbox.traffic().await.unwrap();
    let passed = u32::try_from(minute() - now).unwrap();
    let largest = i64::MAX.unsigned_abs();
    let day = u32::try_from(DAY).unwrap();
    let known = [
        InboxTraffic::new(passed, largest, largest),
        InboxTraffic::new(7 + passed, 0, largest),
        InboxTraffic::new(day - 5 + passed, 3, 4),
    ];
    assert!(minutes.ends_with(&known), "{minutes:?}");
    let rows = || -> i64 {
        let old = "SELECT count(*) FROM inbox_traffic WHERE minute <= ?1";
        other.query_row(old, [now - DAY], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(), 3);
    inbox.prune(&Retention::default()).await.unwrap();
    assert_eq!(rows(), 0);
    assert!(inbox.traffic().await.unwrap().ends_with(&known));
}
