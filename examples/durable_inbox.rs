//! A webhook server that stores what it acknowledges, and the worker that handles it, in one process.
//!
//! ```sh
//! DATABASE=inbox.db cargo run --example durable_inbox --features axum,sqlite
//! ```
//!
//! - `DATABASE`: where events are stored: a file, `inbox.db` unless set; or `postgres://…`, when built with the
//!   feature `postgres`.
//! - `ADDR`: where to listen, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`. `FAIL_PERCENT` and `WORK_MS` make
//!   it fail now and then, and take time.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, InboxStore, InboxWorker, Job, JobError, JobStatus, SharedToken,
    SqliteInbox, Verification, WebhookHandler, WebhookReceiver, async_trait,
};
use tokio::net::TcpListener;

use self::support::{causes, stop, work};

mod support;

struct Printer;

#[async_trait]
impl WebhookHandler for Printer {
    async fn extract_completed(&self, job: &Job, _: ExtractResult) -> Result<(), HandlerError> {
        work("extract_completed", job).await
    }

    async fn fill_completed(&self, job: &Job, _: FillResult) -> Result<(), HandlerError> {
        work("fill_completed", job).await
    }

    async fn job_failed(&self, job: &Job, _: JobError) -> Result<(), HandlerError> {
        work("job_failed", job).await
    }

    async fn unrecognized(&self, job: &Job, _: JobStatus) -> Result<(), HandlerError> {
        work("unrecognized", job).await
    }
}

async fn inbox() -> Result<Arc<dyn InboxStore>, Box<dyn Error>> {
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

async fn run() -> Result<(), Box<dyn Error>> {
    let inbox = inbox().await.map_err(|error| format!("DATABASE: {}", causes(&*error)))?;
    let builder = WebhookReceiver::durable(inbox.clone());
    let builder = match std::env::var_os("WEBHOOK_TOKEN") {
        Some(_) => builder.token(SharedToken::from_env("WEBHOOK_TOKEN")?),
        None => builder.unauthenticated(), // logs a warning
    };
    let receiver = builder.build()?;
    let worker = InboxWorker::new(inbox, Printer, Verification::Trust).start();

    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    eprintln!("listening on http://{}/api/webhooks/qomplement", listener.local_addr()?);

    tokio::select! {
        served = axum::serve(listener, app).with_graceful_shutdown(stop()) => served?,
        () = async { stop().await; tokio::time::sleep(Duration::from_secs(10)).await } => {
            eprintln!("some connections did not end in time");
        }
    }
    receiver.shutdown(Duration::from_secs(5)).await;
    match worker.shutdown(Duration::from_secs(10)).await {
        0 => eprintln!("stopped; what was not handled waits in the inbox"),
        dropped => eprintln!("stopped; {dropped} handlers were dropped, and their events wait in the inbox"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
