//! graphile_worker: each webhook is a job with the job's id as key; the worker fetches jobs into a local queue and
//! completes them in batches, as its guide recommends for many small jobs.

use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, JobSpecBuilder, LocalQueueConfig, TaskHandler, WorkerContext,
    WorkerOptions, WorkerUtils,
};
use sqlx::PgPool;

use super::by_hand::postgres_pool;
use super::{Queue, handled};
use crate::ANSWER;
use crate::webhook::Webhook;

const SCHEMA: &str = "graphile_worker";

impl TaskHandler for Webhook {
    const IDENTIFIER: &'static str = "webhook";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        std::hint::black_box(self);
        handled();
        Ok::<(), String>(())
    }
}

pub struct Graphile(PgPool);

impl Graphile {
    pub async fn new(url: &str) -> Self {
        let pool = postgres_pool(url).await;
        WorkerUtils::new(pool.clone(), SCHEMA).migrate().await.unwrap();
        Self(pool)
    }
}

fn spec(webhook: &Webhook) -> JobSpec {
    JobSpecBuilder::new().job_key(&webhook.job_id).build()
}

async fn receive(
    State(pool): State<PgPool>,
    Json(webhook): Json<Webhook>,
) -> Result<&'static str, StatusCode> {
    let spec = spec(&webhook);
    let added = WorkerUtils::new(pool, SCHEMA).add_job(webhook, spec).await;
    added.map_err(|error| {
        eprintln!("{error}");
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    Ok(ANSWER)
}

#[async_trait]
impl Queue for Graphile {
    fn router(&self) -> Router {
        Router::new().route("/webhook", post(receive)).with_state(self.0.clone())
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        let specs: Vec<_> = webhooks.iter().map(spec).collect();
        let jobs: Vec<_> = webhooks.into_iter().zip(&specs).collect();
        WorkerUtils::new(self.0.clone(), SCHEMA).add_jobs(&jobs).await.unwrap();
    }

    async fn work(&self, concurrency: usize) {
        let worker = WorkerOptions::default()
            .pg_pool(self.0.clone())
            .schema(SCHEMA)
            .concurrency(concurrency)
            .local_queue(LocalQueueConfig::default().with_size(concurrency.max(100)))
            .complete_job_batch_delay(Duration::from_millis(5))
            .define_job::<Webhook>()
            .init()
            .await
            .unwrap();
        worker.run().await.unwrap();
    }
}
