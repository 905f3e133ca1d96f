//! Several handles and processes on one file.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, Outcome};
use qomplement_webhooks::{InboxStore, SqliteInbox};
use tokio::task::JoinSet;

use super::{Folder, HOUR, check, lease_one, receive, settle};

/// Set in the processes that the tests below start.
const FILE: &str = "SQLITE_INBOX_OF_ANOTHER_PROCESS";
const ROWS: usize = 300;

/// Starts this program again, to run one of its tests on a file.
fn start(test: &str, folder: &Folder) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("sqlite::sharing::{test}"), "--nocapture"])
        .env(FILE, folder.file())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The file, in a process that was started for a test.
fn file_of_parent() -> PathBuf {
    PathBuf::from(std::env::var_os(FILE).expect("started by no other test"))
}

/// Leases and settles until nothing has been due for a while, and prints what it leased.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn a_process_that_leases() {
    let inbox = SqliteInbox::open(file_of_parent()).unwrap();
    let mut idle = 0;
    while idle < 20 {
        let leased = inbox.lease(7, HOUR).await.unwrap();
        idle = if leased.is_empty() { idle + 1 } else { 0 };
        for leased in leased {
            println!("\nleased {}", leased.lease.job());
            settle(&inbox, &leased.lease, Outcome::Done).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn processes_on_one_new_file_lease_every_row_once() {
    let folder = Folder::new();
    let processes: Vec<_> = (0..3).map(|_| start("a_process_that_leases", &folder)).collect();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let mut calls = JoinSet::new();
    for job in 0..ROWS {
        let inbox = inbox.clone();
        calls.spawn(async move { receive(&inbox, job).await });
    }
    calls.join_all().await;
    let mut leased = Vec::new();
    for process in processes {
        let output = tokio::task::spawn_blocking(|| process.wait_with_output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let text = String::from_utf8(output.stdout).unwrap();
        leased.extend(text.lines().filter_map(|line| line.strip_prefix("leased ")).map(str::to_owned));
    }
    assert_eq!(leased.len(), ROWS, "some row was leased twice, or not at all");
    assert_eq!(leased.iter().collect::<HashSet<_>>().len(), ROWS);
    assert_eq!(inbox.stats().await.unwrap().done, ROWS as u64);
    drop(inbox);
    check(&folder.file());
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_that_open_a_new_file_at_once_share_it() {
    let folder = Folder::new();
    let mut opening = JoinSet::new();
    for _ in 0..8 {
        let file = folder.file();
        opening.spawn_blocking(move || SqliteInbox::open(file).unwrap());
    }
    let inboxes = opening.join_all().await;
    for (number, inbox) in inboxes.iter().enumerate() {
        receive(inbox, number).await;
    }
    let mut leasing = JoinSet::new();
    for inbox in inboxes {
        leasing.spawn(async move {
            let mut leased = Vec::new();
            for _ in 0..4 {
                leased.extend(inbox.lease(2, HOUR).await.unwrap());
            }
            leased.into_iter().map(|leased| leased.lease.job().to_string()).collect::<Vec<_>>()
        });
    }
    let leased: Vec<String> = leasing.join_all().await.concat();
    assert_eq!(leased.len(), 8);
    assert_eq!(leased.iter().collect::<HashSet<_>>().len(), 8);
}

/// Receives events for ever, and prints those that were acknowledged.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn a_process_that_receives() {
    let inbox = SqliteInbox::open(file_of_parent()).unwrap();
    let mut calls = JoinSet::new();
    for task in 0..16 {
        let inbox = inbox.clone();
        calls.spawn(async move {
            for number in 0.. {
                let job = format!("{task}-{number}");
                receive(&inbox, &job).await;
                println!("\nstored {job}");
            }
        });
    }
    calls.join_all().await;
}

#[test]
fn what_a_killed_process_acknowledged_is_in_the_file() {
    let folder = Folder::new();
    for round in 1..=5 {
        let mut process = start("a_process_that_receives", &folder);
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut stored =
            lines.map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("stored ")?.to_owned()));
        let mut acknowledged: Vec<String> = stored.by_ref().take(round * 100).collect();
        process.kill().unwrap();
        process.wait().unwrap();
        acknowledged.extend(stored);
        check(&folder.file());
        let connection = rusqlite::Connection::open(folder.file()).unwrap();
        let mut find = connection.prepare("SELECT 1 FROM inbox WHERE job_id = ?1").unwrap();
        assert!(acknowledged.len() >= round * 100);
        for job in acknowledged {
            assert!(find.exists([&job]).unwrap(), "{job} was acknowledged, and is gone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_totals_and_the_time_of_the_oldest_due_row_are_of_one_moment() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    let writer = inbox.clone();
    let writes = tokio::spawn(async move {
        for job in 0..ROWS {
            receive(&writer, job).await;
            let lease = lease_one(&writer).await;
            settle(&writer, &lease, Outcome::Done).await;
        }
    });
    while !writes.is_finished() {
        let stats = inbox.stats().await.unwrap();
        assert!(stats.received > 0 || stats.oldest_due.is_none(), "{stats:?}");
    }
    writes.await.unwrap();
}

/// As a process leaves it between two transactions when it has more to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_leaves_for_a_moment_is_written_to() {
    let folder = Folder::new();
    let inbox = SqliteInbox::builder(folder.file()).busy_timeout(Duration::from_millis(2200)).open().unwrap();
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let (hold, held) = mpsc::channel();
    let holding = thread::spawn(move || {
        while stopped.try_recv().is_err() {
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            let _ = hold.send(());
            thread::sleep(Duration::from_millis(565));
            other.execute_batch("COMMIT").unwrap();
            thread::sleep(Duration::from_millis(30));
        }
    });
    for number in 0..3 {
        while held.try_recv().is_ok() {}
        held.recv().unwrap();
        receive(&inbox, number).await;
    }
    stop.send(()).unwrap();
    holding.join().unwrap();
}
