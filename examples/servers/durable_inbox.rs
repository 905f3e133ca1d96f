//! A server to try things on that stores events before it acknowledges them, and the worker that handles them, in one
//! process. The tests and the benchmarks run it, too.
//!
//! ```sh
//! DATABASE=inbox.db cargo run --example durable_inbox --features axum,sqlite
//! ```
//!
//! - `DATABASE`: the inbox: a file, `inbox.db` unless set; or `postgres://…`, when built with the feature `postgres`.
//! - `ADDR`: the address to listen on, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`. `FAIL_PERCENT` and `WORK_MS` make
//!   calls fail, and take time.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::{BoxError, InboxStore, InboxWorker, SqliteInbox, Verification, WebhookReceiver};

use self::grace::until_stopped;
use self::support::{Printer, build, causes, listen, run, stop};

#[path = "support/grace.rs"]
mod grace;
mod support;

async fn inbox() -> Result<Arc<dyn InboxStore>, BoxError> {
    let database = std::env::var("DATABASE").unwrap_or_else(|_| "inbox.db".to_owned());
    if !database.contains("://") {
        return Ok(Arc::new(SqliteInbox::open(database)?));
    }
    #[cfg(feature = "postgres")]
    if database.starts_with("postgres://") || database.starts_with("postgresql://") {
        let inbox = qomplement_webhooks::PostgresInbox::from_url(&database)?;
        inbox.migrate().await?;
        return Ok(Arc::new(inbox));
    }
    Err("a file, or postgres:// with the feature postgres, is needed".into())
}

async fn serve() -> Result<(), BoxError> {
    let inbox = inbox().await.map_err(|error| format!("DATABASE: {}", causes(&*error)))?;
    let receiver = build(WebhookReceiver::durable(inbox.clone()))?;
    let worker = InboxWorker::new(inbox, Printer, Verification::Trust).start();

    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let server = axum::serve(listen("http").await?, app).with_graceful_shutdown(stop());
    until_stopped(server.into_future()).await?;
    receiver.shutdown(Duration::from_secs(5)).await;
    match worker.shutdown(Duration::from_secs(10)).await {
        0 => eprintln!("stopped; what was not handled waits in the inbox"),
        dropped => eprintln!("stopped; {dropped} handlers were dropped, and their events wait in the inbox"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    run(serve()).await
}
