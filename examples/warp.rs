//! A server to try things on, with warp.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example warp --features warp
//! ```
//!
//! - `ADDR`: where to listen, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - `DEDUP_URL`: where jobs are remembered, `redis://…` or `postgres://…` when built with that feature; in this
//!   process's memory when it is unset.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`. `FAIL_PERCENT` and `WORK_MS` make
//!   it fail now and then, and take time.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use qomplement_webhooks::warp::webhook;
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, Job, JobError, JobStatus, SharedToken, WebhookHandler,
    WebhookReceiver, async_trait,
};
use tokio::net::TcpListener;
use warp::Filter;

use self::dedup::dedup_store;
use self::support::{stop, work};

#[path = "support/dedup.rs"]
mod dedup;
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

async fn run() -> Result<(), Box<dyn Error>> {
    let builder = WebhookReceiver::builder(Printer).dedup_store(dedup_store().await?);
    let builder = match std::env::var_os("WEBHOOK_TOKEN") {
        Some(_) => builder.token(SharedToken::from_env("WEBHOOK_TOKEN")?),
        None => builder.unauthenticated(), // logs a warning
    };
    let receiver = builder.build()?;

    let routes = warp::path!("api" / "webhooks" / "qomplement").and(webhook(receiver.clone()));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    eprintln!("listening on http://{}/api/webhooks/qomplement", listener.local_addr()?);

    tokio::select! {
        () = warp::serve(routes).incoming(listener).graceful(stop()).run() => {}
        () = async { stop().await; tokio::time::sleep(Duration::from_secs(10)).await } => {
            eprintln!("some connections did not end in time");
        }
    }
    match receiver.shutdown(Duration::from_secs(10)).await {
        0 => eprintln!("stopped; nothing was left unfinished"),
        unfinished => eprintln!("stopped; {unfinished} handlers were dropped"),
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
