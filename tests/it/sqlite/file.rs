//! What is opened, what is refused, and what a file still holds after it was closed.

use std::error::Error;

use qomplement_webhooks::inbox::{InboxAdmin, Outcome, Receipt, SqliteInboxError};
use qomplement_webhooks::registry::JobRegistry;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{InboxStore, JobId, SqliteInbox};
use rusqlite::Connection;

use super::{Folder, HOUR, check, close, completed, event, lease_one, receive, settle};
use crate::support::inboxes;

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    assert!(format!("{inbox:?}").starts_with("SqliteInbox { path: "), "{inbox:?}");
    let large = event("large", "completed", 16 << 20);
    assert_eq!(inbox.receive(&large).await.unwrap(), Receipt::Stored);
    receive(&inbox, "dead").await;
    receive(&inbox, "waiting").await;
    inbox.expect(&"expected".parse().unwrap(), HOUR).await.unwrap();
    let lease = lease_one(&inbox).await;
    let dead = lease_one(&inbox).await;
    settle(&inbox, &dead, Outcome::Dead { error: "never".into() }).await;
    drop(inbox);

    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let (row, body) = inbox.get(large.job()).await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), body.as_ref()), ("running", Some(large.body())));
    settle(&inbox, &lease, Outcome::Done).await;
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.expected, stats.received, stats.done, stats.dead), (1, 1, 1, 1));
    let (row, _) = inbox.get(dead.job()).await.unwrap().unwrap();
    assert_eq!(row.error.as_deref(), Some("never"));
    assert!(inbox.is_known(&"expected".parse().unwrap()).await.unwrap());
    assert!(!inbox.is_known(&"other".parse().unwrap()).await.unwrap());
    drop(inbox);
    check(&folder.file());
}

#[tokio::test]
async fn a_file_is_made_an_inbox_unless_told_otherwise() {
    let folder = Folder::new();
    let open = || SqliteInbox::builder(folder.file()).create(false).open();
    assert!(matches!(open(), Err(SqliteInboxError::Open(_))), "a file that is not there");
    assert!(!folder.file().exists(), "it was made");
    std::fs::write(folder.file(), "").unwrap();
    assert!(matches!(open(), Err(SqliteInboxError::NotAnInbox)), "an empty file");
    assert_eq!(std::fs::metadata(folder.file()).unwrap().len(), 0, "it was made an inbox");
    SqliteInbox::open(folder.file()).unwrap();
    assert_eq!(receive(&open().unwrap(), "stored").await, Receipt::Stored);
}

#[tokio::test]
async fn a_file_opens_and_is_read_while_another_program_writes_to_it() {
    let folder = Folder::new();
    drop(SqliteInbox::open(folder.file()).unwrap());
    let other = Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let inbox = SqliteInbox::builder(folder.file()).busy_timeout(std::time::Duration::ZERO).open().unwrap();
    assert_eq!(inbox.stats().await.unwrap().received, 0);
}

#[tokio::test]
async fn an_id_is_compared_exactly_whatever_it_holds() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let ids = ["x".repeat(255), "x".repeat(254), "0".into(), "00".into(), "1e2".into(), "100".into()];
    let odd = ["%", "_", "?1", "'", "\"", "$a", "NULL", "null", "--", "550e8400-E29b-41d4-a716-446655440000"];
    let ids: Vec<String> = ids.into_iter().chain(odd.map(str::to_owned)).collect();
    for id in &ids {
        assert_eq!(receive(&inbox, id).await, Receipt::Stored, "{id}");
        assert_eq!(receive(&inbox, id).await, Receipt::Duplicate, "{id}");
    }
    let leased = inbox.lease(100, HOUR).await.unwrap();
    let leased: Vec<String> = leased.iter().map(|leased| leased.lease.job().to_string()).collect();
    assert_eq!(leased, ids);
}

#[tokio::test]
async fn dropping_the_last_clone_closes_the_file() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let clone = inbox.clone();
    receive(&inbox, "job").await;
    let log = folder.0.join("inbox.db-wal");
    drop(inbox);
    assert!(clone.contains(&"job".parse().unwrap()).await.unwrap());
    assert!(log.exists());
    close(clone, &folder).await;
}

fn refused(file: impl AsRef<std::path::Path>) -> SqliteInboxError {
    SqliteInbox::open(file).expect_err("it was opened")
}

#[tokio::test]
async fn a_newer_file_is_refused_and_left_alone() {
    let folder = Folder::new();
    close(SqliteInbox::open(folder.file()).unwrap(), &folder).await;
    let connection = Connection::open(folder.file()).unwrap();
    connection.execute_batch("PRAGMA user_version = 7; PRAGMA journal_mode = DELETE").unwrap();
    drop(connection);
    let before = std::fs::read(folder.file()).unwrap();
    let error = refused(folder.file());
    assert!(matches!(error, SqliteInboxError::TooNew { found: 7, known: 1, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains('7') && text.contains('1'), "{text}");
    assert_eq!(std::fs::read(folder.file()).unwrap(), before);
}

#[test]
fn what_is_no_inbox_is_refused_and_left_alone() {
    let folder = Folder::new();
    for content in [&b"hello"[..], &[7; 10_000]] {
        std::fs::write(folder.file(), content).unwrap();
        let error = refused(folder.file());
        assert!(matches!(error, SqliteInboxError::NotADatabase), "{error:?}");
        assert_eq!(std::fs::read(folder.file()).unwrap(), content);
    }
    for (name, made) in [
        ("tables", "CREATE TABLE users (name TEXT)"),
        ("version", "PRAGMA user_version = 1"),
        ("application", "PRAGMA application_id = 5"),
    ] {
        let file = folder.0.join(name);
        Connection::open(&file).unwrap().execute_batch(made).unwrap();
        let before = std::fs::read(&file).unwrap();
        let error = refused(&file);
        assert!(matches!(error, SqliteInboxError::NotAnInbox), "{name}: {error:?}");
        assert_eq!(std::fs::read(&file).unwrap(), before, "{name}");
    }
}

#[test]
fn an_empty_file_becomes_an_inbox() {
    let folder = Folder::new();
    std::fs::write(folder.file(), b"").unwrap();
    drop(SqliteInbox::open(folder.file()).unwrap());
    check(&folder.file());
}

#[test]
fn a_path_that_cannot_be_written_is_an_error_with_its_cause() {
    let folder = Folder::new();
    for path in [folder.0.clone(), folder.0.join("missing/inbox.db"), "/proc/inbox.db".into(), "".into()] {
        let error = refused(&path);
        assert!(matches!(error, SqliteInboxError::Open(_)), "{path:?}: {error:?}");
        assert!(error.source().is_some(), "{path:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_file_becomes_full_of_what_is_unfinished_and_has_room_again() {
    let folder = Folder::new();
    let bytes = completed("a").body().len() as u64;
    let settings = [
        SqliteInbox::builder(folder.0.join("rows")).max_unfinished_rows(2),
        SqliteInbox::builder(folder.0.join("bytes")).max_unfinished_bytes(2 * bytes),
    ];
    for (number, settings) in settings.into_iter().enumerate() {
        let inbox = settings.open().unwrap();
        receive(&inbox, "a").await;
        receive(&inbox, "b").await;
        assert!(matches!(inbox.receive(&completed("c")).await, Err(StoreError::Full)));
        assert_eq!(receive(&inbox, "a").await, Receipt::Duplicate, "a copy needs no room");
        let expected: JobId = "d".parse().unwrap();
        let known: JobId = "a".parse().unwrap();
        inbox.expect(&known, HOUR).await.unwrap();
        if number == 0 {
            assert!(matches!(inbox.expect(&expected, HOUR).await, Err(StoreError::Full)));
        }
        let lease = lease_one(&inbox).await;
        assert!(
            matches!(inbox.receive(&completed("c")).await, Err(StoreError::Full)),
            "running is unfinished"
        );
        settle(&inbox, &lease, Outcome::Done).await;
        assert_eq!(receive(&inbox, "c").await, Receipt::Stored);
        let lease = lease_one(&inbox).await;
        settle(&inbox, &lease, Outcome::Dead { error: String::new() }).await;
        assert!(inbox.replay(lease.job()).await.unwrap(), "a replay needs no room");
        assert!(matches!(inbox.receive(&completed("e")).await, Err(StoreError::Full)));
    }
}

#[tokio::test]
async fn an_event_of_an_expected_job_takes_the_place_that_was_kept_for_it() {
    let folder = Folder::new();
    let inbox = SqliteInbox::builder(folder.file()).max_unfinished_rows(1).open().unwrap();
    inbox.expect(&"a".parse().unwrap(), HOUR).await.unwrap();
    assert!(matches!(inbox.receive(&completed("b")).await, Err(StoreError::Full)));
    assert_eq!(receive(&inbox, "a").await, Receipt::Stored);
}

#[tokio::test]
async fn dead_letters_are_all_counted_by_their_error_or_there_are_more() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inboxes::dead_letters_are_all_counted_or_there_are_more(&inbox).await;
}

#[tokio::test]
async fn a_full_inbox_registers_what_it_counts() {
    let folder = Folder::new();
    let inbox = SqliteInbox::builder(folder.file()).max_unfinished_rows(1).open().unwrap();
    inboxes::a_full_inbox_registers_what_it_counts(&inbox).await;
}

#[tokio::test]
async fn a_lease_ends_with_the_row_with_which_its_bodies_have_64_mib() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    inboxes::a_lease_ends_with_the_row_with_which_its_bodies_have_64_mib(&inbox).await;
}
