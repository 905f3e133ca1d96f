//! The contestants. Each receives webhooks over HTTP through axum; those with a database also have a worker.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use axum::Router;

use crate::webhook::Webhook;

mod apalis_queues;
mod awa_queue;
mod by_hand;
mod graphile;
mod inline;
mod ours;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Database {
    Nothing,
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    pub name: &'static str,
    pub database: Database,
    /// Whether finished rows stay in its table, and can be written there beforehand.
    pub keeps_rows: bool,
}

const fn contestant(name: &'static str, database: Database, keeps_rows: bool) -> Contestant {
    Contestant { name, database, keeps_rows }
}

pub const ALL: [Contestant; 12] = [
    contestant("axum, reads the body", Database::Nothing, false),
    contestant("axum, typed", Database::Nothing, false),
    contestant("octoevents", Database::Nothing, false),
    contestant("ours, inline", Database::Nothing, false),
    contestant("ours, SQLite", Database::Sqlite, true),
    contestant("sqlx, SQLite", Database::Sqlite, true),
    contestant("apalis-sqlite", Database::Sqlite, true),
    contestant("ours, PostgreSQL", Database::Postgres, true),
    contestant("sqlx, PostgreSQL", Database::Postgres, true),
    contestant("apalis-postgres", Database::Postgres, true),
    contestant("graphile_worker", Database::Postgres, false),
    contestant("awa", Database::Postgres, false),
];

/// What a contestant does with a database.
#[async_trait]
pub trait Queue: Send + Sync {
    fn router(&self) -> Router;
    /// Stores webhooks at once, in the contestant's own way for many.
    async fn store(&self, webhooks: Vec<Webhook>);
    /// Runs the worker with an empty handler, which calls [`handled`].
    async fn work(&self, concurrency: usize);
    /// Statements that write a finished row for each one of the table `generated`, whose `value` may serve as a key.
    fn finished(&self) -> Option<&'static str> {
        None
    }
}

/// The contestant in its database, whose tables exist afterwards. A place is a file or a URL.
pub async fn queue(name: &str, place: &str) -> Box<dyn Queue> {
    match name {
        "ours, SQLite" => Box::new(ours::Ours::sqlite(place)),
        "ours, PostgreSQL" => Box::new(ours::Ours::postgres(place).await),
        "sqlx, SQLite" => Box::new(by_hand::Sqlite::new(place).await),
        "sqlx, PostgreSQL" => Box::new(by_hand::Postgres::new(place).await),
        "apalis-sqlite" => Box::new(apalis_queues::Sqlite::new(place).await),
        "apalis-postgres" => Box::new(apalis_queues::Postgres::new(place).await),
        "graphile_worker" => Box::new(graphile::Graphile::new(place).await),
        "awa" => Box::new(awa_queue::Awa::new(place).await),
        other => panic!("{other} has no database"),
    }
}

pub async fn router(name: &str, place: &str) -> Router {
    match inline::router(name) {
        Some(router) => router,
        None => queue(name, place).await.router(),
    }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static FIRST: OnceLock<Instant> = OnceLock::new();

/// Counts an event. The empty handlers call it, and do nothing else.
pub fn handled() {
    FIRST.get_or_init(Instant::now);
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// The number of events handled so far, and the time of the first one.
pub fn progress() -> (u64, Option<Instant>) {
    (HANDLED.load(Ordering::Relaxed), FIRST.get().copied())
}

/// Connections of a peer's pool. `PEERS_POOL` changes it.
pub fn pool_size() -> u32 {
    std::env::var("PEERS_POOL").map_or(32, |size| size.parse().unwrap())
}
