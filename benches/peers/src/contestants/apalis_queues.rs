//! apalis on SQLite and PostgreSQL: each webhook is pushed with the job's id as idempotency key; the worker fetches as
//! many tasks at once as it may run.

use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use async_trait::async_trait;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use tokio::runtime::Handle;

use super::by_hand::{postgres_pool, sqlite_pool};
use super::{Queue, handled};
use crate::ANSWER;
use crate::webhook::Webhook;

type Answer = Result<&'static str, StatusCode>;

fn refuse(error: impl std::fmt::Display) -> StatusCode {
    eprintln!("{error}");
    StatusCode::SERVICE_UNAVAILABLE
}

fn task(webhook: Webhook) -> Task<Webhook> {
    let key = webhook.job_id.clone();
    TaskBuilder::new(webhook).idempotency_key(key).build()
}

async fn handle(webhook: Webhook) -> Result<(), BoxDynError> {
    std::hint::black_box(webhook);
    handled();
    Ok(())
}

pub struct Sqlite(SqliteStorage<Webhook>);

impl Sqlite {
    pub async fn new(file: &str) -> Self {
        let pool = sqlite_pool(file, 1).await;
        // Not by its `setup`, which sets `synchronous=OFF`.
        SqliteStorage::<()>::migrations().run(&pool).await.unwrap();
        Self(SqliteStorage::new(&pool).with_config(apalis_sqlite::Config::default().queue("webhooks")))
    }
}

async fn receive_sqlite(
    State(mut queue): State<SqliteStorage<Webhook>>,
    Json(webhook): Json<Webhook>,
) -> Answer {
    queue.push_task(task(webhook)).await.map_err(refuse)?;
    Ok(ANSWER)
}

/// A name of this process: the tables remember that of a worker before, and refuse it for a while.
fn worker() -> String {
    format!("worker-{}", std::process::id())
}

#[async_trait]
impl Queue for Sqlite {
    fn router(&self) -> Router {
        Router::new().route("/webhook", post(receive_sqlite)).with_state(self.0.clone())
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        let tasks = futures::stream::iter(webhooks).map(task);
        self.0.clone().push_all(tasks.boxed()).await.unwrap();
    }

    async fn work(&self, concurrency: usize) {
        let config = apalis_sqlite::Config::default().queue("webhooks").batch_size(concurrency);
        let worker = WorkerBuilder::new(worker())
            .backend(SqliteStorage::<Webhook>::new(self.0.pool()).with_config(config))
            .concurrency(concurrency)
            .parallelize(tokio::spawn)
            .build(handle);
        // Its future is not `Send` here; the handlers' are, and run on the runtime's other threads.
        tokio::task::block_in_place(|| Handle::current().block_on(worker.run())).unwrap();
    }

    fn finished(&self) -> Option<&'static str> {
        Some(
            "INSERT INTO Jobs (job, id, job_type, status, attempts, max_attempts, run_at, done_at, idempotency_key)
            SELECT CAST(printf('%.393c', 'x') AS BLOB), hex(randomblob(13)), 'webhooks', 'Done', 1, 25, unixepoch(),
                unixepoch(), lower(hex(randomblob(16)))
            FROM generated",
        )
    }
}

pub struct Postgres(PostgresStorage<Webhook>);

impl Postgres {
    pub async fn new(url: &str) -> Self {
        let pool = postgres_pool(url).await;
        PostgresStorage::<()>::setup(&pool).await.unwrap();
        Self(PostgresStorage::new(&pool).with_config(apalis_postgres::Config::default().queue("webhooks")))
    }
}

async fn receive_postgres(
    State(mut queue): State<PostgresStorage<Webhook>>,
    Json(webhook): Json<Webhook>,
) -> Answer {
    queue.push_task(task(webhook)).await.map_err(refuse)?;
    Ok(ANSWER)
}

#[async_trait]
impl Queue for Postgres {
    fn router(&self) -> Router {
        Router::new().route("/webhook", post(receive_postgres)).with_state(self.0.clone())
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        let tasks = futures::stream::iter(webhooks).map(task);
        self.0.clone().push_all(tasks.boxed()).await.unwrap();
    }

    async fn work(&self, concurrency: usize) {
        let config = apalis_postgres::Config::default().queue("webhooks").batch_size(concurrency);
        let worker = WorkerBuilder::new(worker())
            .backend(PostgresStorage::<Webhook>::new(self.0.pool()).with_config(config))
            .concurrency(concurrency)
            .parallelize(tokio::spawn)
            .build(handle);
        // Its future is not `Send` here; the handlers' are, and run on the runtime's other threads.
        tokio::task::block_in_place(|| Handle::current().block_on(worker.run())).unwrap();
    }

    fn finished(&self) -> Option<&'static str> {
        Some(
            "INSERT INTO apalis.jobs (job, id, job_type, status, attempts, max_attempts, run_at, done_at, idempotency_key)
            SELECT convert_to(repeat('x', 393), 'UTF8'), gen_random_uuid()::text, 'webhooks', 'Done', 1, 25, now(), now(),
                gen_random_uuid()::text
            FROM generated",
        )
    }
}
