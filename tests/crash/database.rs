//! Where events are stored.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxRow};
use qomplement_webhooks::{PostgresInbox, SqliteInbox};
use tokio::time::{sleep, timeout};

use crate::pair::Pair;
use crate::server::Server;

pub enum Database {
    Sqlite(PathBuf),
    Postgres(Server),
    /// A primary and its replica.
    Pair(Pair),
}

/// How long the last events may take: the leases of those that died, and the backoffs of those that failed.
const SETTLE_TIME: Duration = Duration::from_secs(30 * 60);

impl Database {
    pub fn sqlite() -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("qomplement-webhooks-crash-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self::Sqlite(folder.join("inbox.db"))
    }

    pub async fn postgres() -> Self {
        let started = tokio::task::spawn_blocking(|| Server::postgres(&[], &[]));
        Self::Postgres(started.await.unwrap())
    }

    /// Starts a primary and its replica, which commits wait for or not.
    pub async fn pair(synchronous: bool) -> Self {
        Self::Pair(Pair::start(synchronous).await)
    }

    /// What the programs take as `DATABASE`.
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(file) => file.display().to_string(),
            Self::Postgres(server) => server.url(),
            Self::Pair(pair) => pair.url(),
        }
    }

    pub async fn inbox(&self) -> Box<dyn InboxAdmin> {
        match self {
            Self::Sqlite(file) => {
                let inbox = SqliteInbox::builder(file).max_unfinished_rows(u64::MAX);
                // The programs that are killed write to the file as well, on a busy machine.
                Box::new(inbox.busy_timeout(Duration::from_secs(60)).open().unwrap())
            }
            Self::Postgres(_) | Self::Pair(_) => {
                let inbox = PostgresInbox::from_url(&self.url()).unwrap();
                let inbox = inbox.max_unfinished_rows(u64::MAX);
                inbox.migrate().await.unwrap();
                Box::new(inbox)
            }
        }
    }

    pub async fn rows_when_all_have_ended(&self) -> Vec<InboxRow> {
        let inbox = self.inbox().await;
        let ended = async {
            loop {
                let stats = inbox.stats().await.unwrap();
                if stats.received + stats.running == 0 {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let ended = timeout(SETTLE_TIME, ended).await;
        ended.unwrap_or_else(|_| panic!("after {SETTLE_TIME:?} some events are still not handled"));
        let (mut rows, mut from) = (Vec::new(), InboxCursor::Oldest);
        loop {
            let page = inbox.list(&InboxFilter::default(), from, 1000).await.unwrap();
            rows.extend(page.rows);
            let Some(next) = page.next else { return rows };
            from = next;
        }
    }

    /// What the database itself finds wrong with its file.
    pub fn damage(&self) -> Option<String> {
        let Self::Sqlite(file) = self else { return None };
        let connection = rusqlite::Connection::open(file).unwrap();
        let verdict =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap();
        (verdict != "ok").then_some(verdict)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Self::Sqlite(file) = self {
            let _ = std::fs::remove_dir_all(file.parent().unwrap());
        }
    }
}
