//! The inbox in a file.

mod backup;
mod contract;
mod damaged;
mod faults;
mod file;
mod model;
mod place;
mod sharing;
mod traffic;
mod unreadable;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{Lease, Outcome, Receipt};
use qomplement_webhooks::{InboxStore, SqliteInbox};
use rusqlite::Connection;

use crate::support::eventually;

const HOUR: Duration = Duration::from_secs(3600);

/// A folder that is gone after the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("qomplement-webhooks-inbox-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("inbox.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An event of a job, whose body has about so many bytes more than it needs.
fn event(job: &str, status: &str, padding: usize) -> Envelope {
    let data = serde_json::json!({"id": job, "type": "extract", "status": status, "result": {}});
    let body = serde_json::json!({"job_id": job, "data": data, "padding": "x".repeat(padding)});
    Envelope::try_from(Bytes::from(body.to_string())).unwrap()
}

fn completed(job: impl std::fmt::Display) -> Envelope {
    event(&job.to_string(), "completed", 0)
}

async fn receive(inbox: &SqliteInbox, job: impl std::fmt::Display) -> Receipt {
    inbox.receive(&completed(job)).await.unwrap()
}

/// Leases the row that is due for longest.
async fn lease_one(inbox: &SqliteInbox) -> Lease {
    inbox.lease(1, HOUR).await.unwrap().remove(0).lease
}

async fn settle(inbox: &SqliteInbox, lease: &Lease, outcome: Outcome) {
    assert_eq!(inbox.settle(lease, &outcome).await.unwrap(), qomplement_webhooks::store::Fenced::Applied);
}

/// Drops an inbox, and waits until its thread has closed the file.
async fn close(inbox: SqliteInbox, folder: &Folder) {
    drop(inbox);
    let log = folder.0.join("inbox.db-wal");
    eventually("the file is closed", async || !log.exists()).await;
}

/// How many transactions the write-ahead log holds: the frames that say how large the file is after them.
fn commits(file: &Path) -> usize {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let log = std::fs::read(log).unwrap_or_default();
    let Some((header, frames)) = log.split_at_checked(32) else { return 0 };
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let page = number(&header[8..12]) as usize;
    // A frame of an earlier round has another salt.
    let of_this_round = |frame: &&[u8]| frame[8..16] == header[16..24];
    frames.chunks_exact(24 + page).take_while(of_this_round).filter(|frame| number(&frame[4..8]) != 0).count()
}

/// Whether the file is sound, and its totals are what its rows add up to.
fn check(file: &Path) {
    let connection = Connection::open(file).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let wrong: Vec<String> = connection
        .prepare(
            "SELECT state FROM inbox_total WHERE (rows, bytes) <>
                (SELECT count(*), coalesce(sum(bytes), 0) FROM inbox WHERE inbox.state = inbox_total.state)
            UNION ALL SELECT job_id FROM inbox LEFT JOIN inbox_body USING (id)
                WHERE bytes IS NOT length(body) OR (bytes IS NULL AND state IN ('received', 'running'))
                    OR (due_at IS NULL) <> (state IN ('done', 'dead')) OR (ended_at IS NULL) = (state IN ('done', 'dead'))
            UNION ALL SELECT id || ' is no row' FROM inbox_body WHERE id NOT IN (SELECT id FROM inbox)",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(wrong.is_empty(), "wrong: {wrong:?}");
}
