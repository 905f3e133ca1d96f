//! Statements by hand with sqlx: a typed axum handler, one insert for each webhook with the job's id as unique key, and
//! tasks that lease one row, run the handler and mark the row as done.

use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, SqlitePool};

use super::{Queue, handled, pool_size};
use crate::ANSWER;
use crate::webhook::Webhook;

type Answer = Result<&'static str, StatusCode>;

fn refuse(error: sqlx::Error) -> StatusCode {
    eprintln!("{error}");
    StatusCode::SERVICE_UNAVAILABLE
}

/// A pool in WAL mode with `synchronous=FULL`. One connection, since SQLite has one writer at a time, and connections
/// that wait for each other's lock poll for it.
pub async fn sqlite_pool(file: &str, connections: u32) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(60));
    pool.connect_with(options).await.unwrap()
}

pub async fn postgres_pool(url: &str) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(pool_size()).acquire_timeout(Duration::from_secs(60));
    pool.connect(url).await.unwrap()
}

pub struct Sqlite(SqlitePool);

impl Sqlite {
    pub async fn new(file: &str) -> Self {
        let pool = sqlite_pool(file, 1).await;
        let tables = "CREATE TABLE IF NOT EXISTS webhook (
                id INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE, body TEXT NOT NULL,
                state TEXT NOT NULL DEFAULT 'received', received_at INTEGER NOT NULL DEFAULT (unixepoch()), done_at INTEGER
            );
            CREATE INDEX IF NOT EXISTS webhook_due ON webhook (id) WHERE state = 'received'";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        Self(pool)
    }
}

async fn receive_sqlite(State(pool): State<SqlitePool>, Json(webhook): Json<Webhook>) -> Answer {
    sqlx::query("INSERT INTO webhook (job_id, body) VALUES (?, ?) ON CONFLICT (job_id) DO NOTHING")
        .bind(&webhook.job_id)
        .bind(serde_json::to_string(&webhook).unwrap())
        .execute(&pool)
        .await
        .map_err(refuse)?;
    Ok(ANSWER)
}

#[async_trait]
impl Queue for Sqlite {
    fn router(&self) -> Router {
        Router::new().route("/webhook", post(receive_sqlite)).with_state(self.0.clone())
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        let mut transaction = self.0.begin().await.unwrap();
        for webhook in webhooks {
            sqlx::query("INSERT INTO webhook (job_id, body) VALUES (?, ?) ON CONFLICT (job_id) DO NOTHING")
                .bind(&webhook.job_id)
                .bind(serde_json::to_string(&webhook).unwrap())
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
    }

    async fn work(&self, concurrency: usize) {
        let task = |pool: SqlitePool| async move {
            loop {
                let leased: Option<(i64, String)> = sqlx::query_as(
                    "UPDATE webhook SET state = 'running'
                    WHERE id = (SELECT id FROM webhook WHERE state = 'received' ORDER BY id LIMIT 1) RETURNING id, body",
                )
                .fetch_optional(&pool)
                .await
                .unwrap();
                let Some((id, body)) = leased else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                std::hint::black_box(serde_json::from_str::<Webhook>(&body).unwrap());
                handled();
                sqlx::query("UPDATE webhook SET state = 'done', done_at = unixepoch() WHERE id = ?")
                    .bind(id)
                    .execute(&pool)
                    .await
                    .unwrap();
            }
        };
        futures::future::join_all((0..concurrency).map(|_| tokio::spawn(task(self.0.clone())))).await;
    }

    fn finished(&self) -> Option<&'static str> {
        Some(
            "INSERT INTO webhook (id, job_id, body, state, done_at)
            SELECT value, lower(hex(randomblob(16))), printf('%.393c', 'x'), 'done', unixepoch() FROM generated",
        )
    }
}

pub struct Postgres(PgPool);

impl Postgres {
    pub async fn new(url: &str) -> Self {
        let pool = postgres_pool(url).await;
        let tables = "CREATE TABLE IF NOT EXISTS webhook (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, job_id text NOT NULL UNIQUE, body text NOT NULL,
                state text NOT NULL DEFAULT 'received', received_at timestamptz NOT NULL DEFAULT now(), done_at timestamptz
            );
            CREATE INDEX IF NOT EXISTS webhook_due ON webhook (id) WHERE state = 'received'";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        Self(pool)
    }
}

async fn receive_postgres(State(pool): State<PgPool>, Json(webhook): Json<Webhook>) -> Answer {
    sqlx::query("INSERT INTO webhook (job_id, body) VALUES ($1, $2) ON CONFLICT (job_id) DO NOTHING")
        .bind(&webhook.job_id)
        .bind(serde_json::to_string(&webhook).unwrap())
        .execute(&pool)
        .await
        .map_err(refuse)?;
    Ok(ANSWER)
}

#[async_trait]
impl Queue for Postgres {
    fn router(&self) -> Router {
        Router::new().route("/webhook", post(receive_postgres)).with_state(self.0.clone())
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        let (ids, bodies): (Vec<_>, Vec<_>) = webhooks
            .into_iter()
            .map(|webhook| (webhook.job_id.clone(), serde_json::to_string(&webhook).unwrap()))
            .unzip();
        sqlx::query("INSERT INTO webhook (job_id, body) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING")
            .bind(ids)
            .bind(bodies)
            .execute(&self.0)
            .await
            .unwrap();
    }

    async fn work(&self, concurrency: usize) {
        let task = |pool: PgPool| async move {
            loop {
                let leased: Option<(i64, String)> = sqlx::query_as(
                    "UPDATE webhook SET state = 'running' WHERE id = (
                        SELECT id FROM webhook WHERE state = 'received' ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1
                    ) RETURNING id, body",
                )
                .fetch_optional(&pool)
                .await
                .unwrap();
                let Some((id, body)) = leased else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                std::hint::black_box(serde_json::from_str::<Webhook>(&body).unwrap());
                handled();
                sqlx::query("UPDATE webhook SET state = 'done', done_at = now() WHERE id = $1")
                    .bind(id)
                    .execute(&pool)
                    .await
                    .unwrap();
            }
        };
        futures::future::join_all((0..concurrency).map(|_| tokio::spawn(task(self.0.clone())))).await;
    }

    fn finished(&self) -> Option<&'static str> {
        Some(
            "INSERT INTO webhook (job_id, body, state, done_at)
            SELECT gen_random_uuid()::text, repeat('x', 393), 'done', now() FROM generated",
        )
    }
}
