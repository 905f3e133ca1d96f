//! A copy of the file, made while events are stored and handled.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxState};
use qomplement_webhooks::{InboxStore, InboxWorker, SqliteInbox, Verification};
use rusqlite::Connection;

use super::{Folder, check, receive};
use crate::support::{Act, Script, eventually};

/// The command of docs/operating.md.
fn back_up(file: &Path, copy: &Path) {
    let connection = Connection::open(file).unwrap();
    connection.execute_batch(&format!("VACUUM INTO '{}'", copy.display())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_an_open_file_has_every_event_that_was_acknowledged_before_and_is_handled_to_the_end() {
    let (folder, script) = (Folder::new(), Script::new([vec![Act::Succeed; 20], vec![Act::Hang]].concat()));
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    // Its leases do not end before the rest of the copy is done.
    let worker = InboxWorker::new(inbox.clone(), script.handler(), Verification::Trust)
        .lease(Duration::from_secs(600))
        .start();
    let stored = Arc::new(AtomicUsize::new(0));
    let storing = tokio::spawn({
        let (inbox, stored) = (inbox.clone(), stored.clone());
        async move {
            for number in 0.. {
                receive(&inbox, number).await;
                stored.store(number + 1, Ordering::SeqCst);
            }
        }
    });
    eventually("some are stored and some are done", async || {
        stored.load(Ordering::SeqCst) > 300 && inbox.stats().await.unwrap().done == 20
    })
    .await;
    let before = stored.load(Ordering::SeqCst);
    let (file, copied) = (folder.file(), folder.0.join("backup.db"));
    tokio::task::block_in_place(|| back_up(&file, &copied));
    let after = stored.load(Ordering::SeqCst);
    storing.abort();
    worker.shutdown(Duration::ZERO).await;

    check(&copied);
    let copy = SqliteInbox::open(&copied).unwrap();
    for number in 0..before {
        let job = number.to_string().parse().unwrap();
        assert!(copy.contains(&job).await.unwrap(), "{number} of {before} is missing");
    }
    let stats = copy.stats().await.unwrap();
    let rows = stats.received + stats.running + stats.done;
    assert!(rows >= before as u64 && rows <= after as u64 + 1, "{before} to {after} were stored: {stats:?}");
    assert!(stats.done > 0 && stats.received > 0, "{stats:?}");

    let script = Script::default();
    let worker = InboxWorker::new(copy.clone(), script.handler(), Verification::Trust).start();
    // Those that ran when the copy was made wait for the end of their leases.
    let done = stats.done + stats.received;
    eventually("the rest is done", async || copy.stats().await.unwrap().done == done).await;
    worker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(script.runs() as u64, stats.received, "done before, or running: {stats:?}");
    assert_eq!(copy.get(&"0".parse().unwrap()).await.unwrap().unwrap().0.state, InboxState::Done);
}
