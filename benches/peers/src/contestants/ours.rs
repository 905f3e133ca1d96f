//! This crate's durable receiver and worker, with its defaults, but without limits on stored events.

use async_trait::async_trait;
use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use futures::StreamExt;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::{
    InboxStore, InboxWorker, PostgresInbox, SharedToken, SqliteInbox, Verification, WebhookReceiver,
    handler_fn,
};

use super::{Queue, handled};
use crate::TOKEN;
use crate::webhook::Webhook;

pub fn token() -> SharedToken {
    SharedToken::new(TOKEN).unwrap()
}

pub enum Ours {
    Sqlite(SqliteInbox),
    Postgres(PostgresInbox),
}

impl Ours {
    pub fn sqlite(file: &str) -> Self {
        let inbox = SqliteInbox::builder(file).max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
        Self::Sqlite(inbox.open().unwrap())
    }

    pub async fn postgres(url: &str) -> Self {
        let inbox = PostgresInbox::from_url(url).unwrap().with_prepared_statements();
        let inbox = inbox.max_unfinished_rows(u64::MAX).max_unfinished_bytes(u64::MAX);
        inbox.migrate().await.unwrap();
        Self::Postgres(inbox)
    }
}

fn receiver(inbox: impl InboxStore) -> WebhookReceiver {
    WebhookReceiver::durable(inbox).token(token()).build().unwrap()
}

async fn store(inbox: &impl InboxStore, webhooks: Vec<Webhook>) {
    let stored = futures::stream::iter(webhooks).for_each_concurrent(256, |webhook| async move {
        let body = Bytes::from(serde_json::to_vec(&webhook).unwrap());
        inbox.receive(&Envelope::try_from(body).unwrap()).await.unwrap();
    });
    stored.await;
}

async fn work(inbox: impl InboxStore, concurrency: usize) {
    let handler = handler_fn(|event| async move {
        std::hint::black_box(event);
        handled();
        Ok(())
    });
    let _worker = InboxWorker::new(inbox, handler, Verification::Trust).concurrency(concurrency).start();
    std::future::pending().await
}

#[async_trait]
impl Queue for Ours {
    fn router(&self) -> Router {
        let receiver = match self {
            Self::Sqlite(inbox) => receiver(inbox.clone()),
            Self::Postgres(inbox) => receiver(inbox.clone()),
        };
        Router::new().route("/webhook", any(receiver))
    }

    async fn store(&self, webhooks: Vec<Webhook>) {
        match self {
            Self::Sqlite(inbox) => store(inbox, webhooks).await,
            Self::Postgres(inbox) => store(inbox, webhooks).await,
        }
    }

    async fn work(&self, concurrency: usize) {
        match self {
            Self::Sqlite(inbox) => work(inbox.clone(), concurrency).await,
            Self::Postgres(inbox) => work(inbox.clone(), concurrency).await,
        }
    }

    fn finished(&self) -> Option<&'static str> {
        Some(match self {
            Self::Sqlite(_) => {
                "INSERT INTO inbox (id, job_id, state, job_type, status, bytes, attempts, fence, received_at, ended_at)
                SELECT value, lower(hex(randomblob(16))), 'done', 'extract', 'completed', 393, 1, 1,
                    unixepoch() * 1000000, unixepoch() * 1000000
                FROM generated WHERE true;
                INSERT INTO inbox_body (id, body) SELECT value, CAST(printf('%.393c', 'x') AS BLOB) FROM generated;
                UPDATE inbox_total SET rows = rows + (SELECT count(*) FROM generated),
                    bytes = bytes + 393 * (SELECT count(*) FROM generated) WHERE state = 'done'"
            }
            Self::Postgres(_) => {
                "INSERT INTO qomplement_inbox (job_id, state, job_type, status, body, attempts, fence, received_at, ended_at)
                SELECT gen_random_uuid()::text, 'done', 'extract', 'completed', convert_to(repeat('x', 393), 'UTF8'), 1, 1,
                    now(), now()
                FROM generated"
            }
        })
    }
}
