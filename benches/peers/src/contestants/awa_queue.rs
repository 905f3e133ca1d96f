//! awa: each webhook is a job that is unique by its arguments; the worker has its defaults but for the number of handlers
//! and of jobs that a claim takes.

use std::time::Duration;

use async_trait::async_trait;
use awa::{
    Client, InsertOpts, InsertParams, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig,
    UniqueOpts,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use sqlx_08::PgPool;
use sqlx_08::postgres::PgPoolOptions;

use super::{Queue, handled, pool_size};
use crate::ANSWER;
use crate::webhook::Webhook;

const QUEUE: &str = "webhooks";

pub struct Awa(PgPool);

fn client(pool: &PgPool, concurrency: usize) -> Client {
    let config = QueueConfig {
        max_workers: concurrency as u32,
        claim_batch_size: concurrency,
        ..QueueConfig::default()
    };
    Client::builder(pool.clone())
        .queue(QUEUE, config)
        .register::<Webhook, _, _>(|webhook, _| async move {
            std::hint::black_box(webhook);
            handled();
            Ok(JobResult::Completed)
        })
        .build()
        .unwrap()
}

impl Awa {
    pub async fn new(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(pool_size()).acquire_timeout(Duration::from_secs(60));
        let pool = pool.connect(url).await.unwrap();
        let is_new: bool =
            sqlx_08::query_scalar("SELECT to_regnamespace('awa') IS NULL").fetch_one(&pool).await.unwrap();
        if is_new {
            awa::migrations::run(&pool).await.unwrap();
            // The first start puts a new database on the storage engine of this version.
            let client = client(&pool, 1);
            client.start().await.unwrap();
            client.shutdown(Duration::from_secs(5)).await;
        }
        Self(pool)
    }
}

fn options() -> InsertOpts {
    InsertOpts { queue: QUEUE.to_owned(), unique: Some(UniqueOpts::default()), ..InsertOpts::default() }
}

async fn receive(
    State(pool): State<PgPool>,
    Json(webhook): Json<Webhook>,
) -> Result<&'static str, StatusCode> {
    awa::insert_with(&pool, &webhook, options()).await.map_err(|error| {
        eprintln!("{error}");
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    Ok(ANSWER)
}

#[async_trait]
impl Queue for Awa {
    fn router(&self) -> Router {
        Router::new().route("/webhook", post(receive)).with_state(self.0.clone())
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        let jobs: Vec<_> = webhooks
            .iter()
            .map(|webhook| InsertParams {
                kind: Webhook::kind().to_owned(),
                args: serde_json::to_value(webhook).unwrap(),
                opts: options(),
            })
            .collect();
        let storage = QueueStorage::new(QueueStorageConfig::default()).unwrap();
        storage.enqueue_params_copy(&self.0, &jobs).await.unwrap();
    }

    async fn work(&self, concurrency: usize) {
        let client = client(&self.0, concurrency);
        client.start().await.unwrap();
        std::future::pending().await
    }
}
