//! Rows that something else than this crate wrote: one that cannot be read keeps no other from anybody.

use std::time::Duration;

use qomplement_webhooks::inbox::{
    InboxAdmin, InboxFilter, InboxState, NoResult, Outcome, Receipt, Retention,
};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{InboxStore, InboxWorker, SqliteInbox, Verification};
use rusqlite::{Connection, params};

use super::{Folder, HOUR, completed, receive};
use crate::support::inboxes::all_rows;
use crate::support::{Script, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_dead_and_the_others_go_on() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let hand = Connection::open(folder.file()).unwrap();
    let insert = "INSERT INTO inbox (job_id, state, due_at, fence, attempts, job_type, status, bytes, received_at)
        VALUES (CAST(?1 AS TEXT), ?2, 1, ?3, 1, 'extract', 'completed', CASE ?2 WHEN 'expected' THEN NULL ELSE 2 END, 1)";
    let body = "INSERT INTO inbox_body (id, body) VALUES (?1, x'7b7d')";
    let add = |id: &[u8], state: &str, fence: i64| {
        hand.execute(insert, params![id, state, fence]).unwrap();
        if state != "expected" {
            hand.execute(body, [hand.last_insert_rowid()]).unwrap();
        }
    };
    let long = "x".repeat(300);
    let ids: [&[u8]; 6] = [b"", b"   ", long.as_bytes(), "jöb".as_bytes(), b"a\tb", &[b'a', 0xff, 0xfe]];
    for (number, state) in ["received", "running", "expected"].into_iter().enumerate() {
        for id in ids {
            add(&[id, b"\x7f".repeat(number).as_slice()].concat(), state, 7);
        }
    }
    add(b"never-leased-again", "received", i64::MAX);
    add(b"below-zero", "running", -5);
    add(b"overdue-never-leased", "expected", i64::MAX);
    hand.execute(insert, params![b"bodiless", "received", 0]).unwrap();
    let unreadable = 3 * ids.len() + 4;
    for number in 0..20 {
        receive(&inbox, format!("job-{number}")).await;
    }
    inbox.expect(&"expected".parse().unwrap(), Duration::ZERO).await.unwrap();
    let listed = async || all_rows(&inbox, &InboxFilter::default()).await;
    assert_eq!(listed().await.len(), unreadable + 21);
    inbox.stats().await.unwrap();

    let overdue = inbox.overdue(100, HOUR).await.unwrap();
    assert_eq!(
        overdue.iter().map(|overdue| overdue.lease.job().to_string()).collect::<Vec<_>>(),
        ["expected"]
    );
    let script = Script::default();
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust).start();
    script.until("the others are handled", |script| script.finished() == 20).await;
    eventually("they are recorded", async || inbox.stats().await.unwrap().done == 20).await;
    worker.shutdown(Duration::from_secs(5)).await;

    let dead = InboxFilter::default().state(InboxState::Dead);
    let dead = all_rows(&inbox, &dead).await;
    assert_eq!(dead.len(), unreadable, "{dead:?}");
    assert!(dead.iter().all(|row| row.error.as_deref().unwrap().contains("cannot be read")), "{dead:?}");
    assert_eq!(dead.iter().filter(|row| row.job().is_none()).count(), 3 * ids.len());
    assert_eq!(listed().await.len(), unreadable + 21);
    inbox.stats().await.unwrap();
    assert_eq!(
        inbox.prune(&Retention::default().payload(Duration::ZERO).row(Duration::ZERO)).await.unwrap().rows,
        20
    );
    assert!(inbox.replay(&"below-zero".parse().unwrap()).await.unwrap());
    assert!(inbox.get(&"never-leased-again".parse().unwrap()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_body_is_gone_does_not_hide_the_next_one() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let hand = Connection::open(folder.file()).unwrap();
    for job in ["received-again", "replayed"] {
        receive(&inbox, job).await;
    }
    hand.execute("DELETE FROM inbox_body", []).unwrap();
    assert!(inbox.lease(10, HOUR).await.unwrap().is_empty());
    assert_eq!(inbox.stats().await.unwrap().dead, 2);
    assert_eq!(inbox.receive(&completed("received-again")).await.unwrap(), Receipt::Stored);
    assert_eq!(inbox.lease(10, HOUR).await.unwrap().len(), 1);
    assert!(inbox.replay(&"replayed".parse().unwrap()).await.unwrap());
    assert_eq!(inbox.overdue(10, HOUR).await.unwrap().len(), 1, "the job is not fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_failed_attempts_keep_no_row_from_being_handled_or_listed() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let hand = Connection::open(folder.file()).unwrap();
    let insert =
        "INSERT INTO inbox (job_id, state, due_at, job_type, status, bytes, received_at, attempts, failures)
        VALUES (?1, ?2, ?3, 'extract', 'completed', 7, 1, ?4, CAST(?5 AS TEXT))";
    let odd: [&[u8]; 8] = [
        b"",
        b"null",
        b"{",
        b"{}",
        b"[3, null, {}, [[]]]",
        b"\xff\xfe",
        b"[{\"number\": 1e300, \"error\": \"\"}]",
        &[b'['; 100_000],
    ];
    for (number, failures) in odd.into_iter().enumerate() {
        for state in ["received", "running"] {
            hand.execute(insert, params![format!("{state}{number}"), state, i64::MIN, u32::MAX, failures])
                .unwrap();
            let body = "INSERT INTO inbox_body (id, body) VALUES (?1, CAST('no JSON' AS BLOB))";
            hand.execute(body, [hand.last_insert_rowid()]).unwrap();
        }
    }
    let listed = async || all_rows(&inbox, &InboxFilter::default()).await;
    assert!(listed().await.iter().all(|row| row.failures.is_empty()));
    let leased = inbox.lease(100, HOUR).await.unwrap();
    assert_eq!(leased.len(), 2 * odd.len());
    for leased in &leased {
        let failed = Outcome::Retry { after: HOUR, error: "why\0".to_owned() };
        assert_eq!(inbox.settle(&leased.lease, &failed).await.unwrap(), Fenced::Applied);
    }
    for row in listed().await {
        let (failed, expired) = (row.failures.last().unwrap(), row.job_id.starts_with("running"));
        assert_eq!(
            (&*failed.error, row.failures.len()),
            ("why\u{fffd}", 1 + usize::from(expired)),
            "{row:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_numbers_and_times_keep_no_row_from_being_handled_or_listed() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let hand = Connection::open(folder.file()).unwrap();
    let insert = "INSERT INTO inbox (job_id, state, due_at, job_type, status, bytes, received_at, attempts, earlier_attempts, fetches,
            not_found, next_fetch_at, deadline_at, verified)
        VALUES (?1, ?2, ?4, CAST(x'ff' AS TEXT), 'completed', CASE ?2 WHEN 'expected' THEN NULL ELSE 7 END, ?4, ?3, ?3, ?3, ?3, ?4, ?4, 5)";
    for state in ["received", "expected"] {
        for number in [i64::MIN, -3, u32::MAX.into(), i64::MAX] {
            for time in [i64::MIN, 0] {
                hand.execute(insert, params![format!("{state}{number}{time}"), state, number, time]).unwrap();
                if state == "received" {
                    let body = "INSERT INTO inbox_body (id, body) VALUES (?1, CAST('no JSON' AS BLOB))";
                    hand.execute(body, [hand.last_insert_rowid()]).unwrap();
                }
            }
        }
    }
    hand.execute_batch("INSERT INTO inbox_total VALUES ('lost', -1, -1); UPDATE inbox_total SET rows = -7 WHERE state = 'dead'")
        .unwrap();
    receive(&inbox, "job").await;
    assert_eq!(all_rows(&inbox, &InboxFilter::default()).await.len(), 17);
    inbox.stats().await.unwrap();
    let leased = inbox.lease(100, HOUR).await.unwrap();
    assert_eq!(leased.len(), 9);
    for (place, leased) in leased.iter().enumerate() {
        assert!(leased.attempt >= 1, "{leased:?}");
        let outcome = match place % 3 {
            0 => Outcome::FetchAgain { after: HOUR, answer: NoResult::NotFound },
            1 => Outcome::Dead { error: "why".to_owned() },
            _ => Outcome::Release { after: HOUR },
        };
        assert_eq!(inbox.settle(&leased.lease, &outcome).await.unwrap(), Fenced::Applied);
        if place % 3 == 1 {
            assert!(inbox.replay(leased.lease.job()).await.unwrap());
        }
    }
    let overdue = inbox.overdue(100, HOUR).await.unwrap();
    assert_eq!(overdue.len(), 8);
    for overdue in &overdue {
        let pending = Outcome::FetchAgain { after: HOUR, answer: NoResult::Pending };
        assert_eq!(inbox.settle(&overdue.lease, &pending).await.unwrap(), Fenced::Applied);
    }
    for row in all_rows(&inbox, &InboxFilter::default()).await {
        assert!(inbox.get(&row.job().unwrap()).await.unwrap().is_some());
        inbox.replay(&row.job().unwrap()).await.unwrap();
        inbox.receive(&completed(&row.job_id)).await.unwrap();
    }
}
