//! The inbox's database, and its size.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::{InboxStore, PostgresInbox, SqliteInbox};
use tokio_postgres::NoTls;

use crate::server::Server;

pub enum Database {
    Sqlite(PathBuf),
    Postgres(Server),
}

impl Database {
    pub async fn start(name: &str) -> Option<Self> {
        match name {
            "sqlite" => {
                let folder =
                    std::env::temp_dir().join(format!("qomplement-webhooks-soak-{}", std::process::id()));
                std::fs::create_dir(&folder).unwrap();
                Some(Self::Sqlite(folder.join("inbox.db")))
            }
            "postgres" => {
                // The log is recycled within seconds, and the table is vacuumed soon.
                let settings = ["max_wal_size=64MB", "min_wal_size=32MB", "autovacuum_naptime=5s"];
                let server = tokio::task::spawn_blocking(move || Server::postgres(&settings, &[]));
                Some(Self::Postgres(server.await.unwrap()))
            }
            _ => None,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(file) => file.display().to_string(),
            Self::Postgres(server) => server.url(),
        }
    }

    pub fn inbox(&self) -> (Arc<dyn InboxStore>, Arc<dyn InboxAdmin>) {
        match self {
            Self::Sqlite(file) => {
                let inbox = SqliteInbox::open(file).unwrap();
                (Arc::new(inbox.clone()), Arc::new(inbox))
            }
            Self::Postgres(server) => {
                let inbox = PostgresInbox::from_url(&server.url()).unwrap();
                (Arc::new(inbox.clone()), Arc::new(inbox))
            }
        }
    }

    /// The bytes of the table with its indexes, and of the write-ahead log.
    pub async fn sizes(&self) -> (u64, u64) {
        match self {
            Self::Sqlite(file) => (length(file), length(&file.with_extension("db-wal"))),
            Self::Postgres(server) => {
                let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
                tokio::spawn(connection);
                let statement =
                    "SELECT pg_total_relation_size('qomplement_inbox'), sum(size)::int8 FROM pg_ls_waldir()";
                let row = client.query_one(statement, &[]).await.unwrap();
                (row.get::<_, i64>(0).unsigned_abs(), row.get::<_, i64>(1).unsigned_abs())
            }
        }
    }
}

fn length(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Self::Sqlite(file) = self {
            let _ = std::fs::remove_dir_all(file.parent().unwrap());
        }
    }
}
