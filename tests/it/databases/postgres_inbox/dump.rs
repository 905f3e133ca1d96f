//! A dump, made while events are stored and handled.

use std::process::Command;
use std::time::Duration;

use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::{InboxStore, InboxWorker, PostgresInbox, Verification};
use tokio_postgres::NoTls;

use super::{client, completed, inbox, job};
use crate::support::databases::{postgres, postgres_program};
use crate::support::{Act, Script, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_of_an_inbox_in_use_is_an_inbox_with_every_event_that_was_acknowledged_before() {
    let dumped = inbox("dumped").await;
    let script = Script::new([vec![Act::Succeed; 20], vec![Act::Hang]].concat());
    // Its leases do not end before the rest of the copy is done.
    let worker = InboxWorker::new(dumped.clone(), script.handler(), Verification::Trust)
        .concurrency(2)
        .lease(Duration::from_secs(600))
        .start();
    let store = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            dumped.receive(&completed(&format!("job-{number}"))).await.unwrap();
        }
    };
    store(0..200).await;
    eventually("some are done", async || dumped.stats().await.unwrap().done == 20).await;
    let dump = tokio::task::spawn_blocking(|| {
        let arguments = ["--schema=dumped", "--inserts"];
        Command::new(postgres_program("pg_dump")).args(arguments).arg(postgres().url()).output().unwrap()
    });
    let (dump, ()) = tokio::join!(dump, store(200..400));
    let dump = dump.unwrap();
    worker.shutdown(Duration::ZERO).await;
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));

    // Commands of psql are not SQL.
    let dump = String::from_utf8(dump.stdout).unwrap();
    let statements: Vec<_> = dump.lines().filter(|line| !line.starts_with('\\')).collect();
    client(postgres()).await.batch_execute("CREATE DATABASE restored").await.unwrap();
    let url = postgres().url().replace("/postgres?", "/restored?");
    let (restoring, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    restoring.batch_execute(&statements.join("\n")).await.unwrap();

    let restored = PostgresInbox::from_url(&url).unwrap().with_table("dumped", "inbox").unwrap();
    restored.check().await.unwrap();
    for number in 0..200 {
        assert!(restored.contains(&job(&format!("job-{number}"))).await.unwrap(), "job-{number} is missing");
    }
    let before = restored.stats().await.unwrap();
    assert!(before.done == 20 && before.received > 0, "{before:?}");
    restored.receive(&completed("new")).await.unwrap();
    let script = Script::default();
    let worker = InboxWorker::new(restored.clone(), script.handler(), Verification::Trust).start();
    // Those that ran when the dump was made wait for the end of their leases.
    let rest = before.received + 1;
    eventually("the rest is done", async || restored.stats().await.unwrap().done == 20 + rest).await;
    worker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(script.runs() as u64, rest, "{before:?}");
}
