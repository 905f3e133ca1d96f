//! A server to try things on, with warp.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example warp --features warp
//! ```
//!
//! - `ADDR`: where to listen, `127.0.0.1:3000` unless set.
//! - `WEBHOOK_TOKEN`: the token that webhooks must carry; anyone may deliver when it is unset.
//! - Webhooks go to `/api/webhooks/qomplement?token=…`.
//! - Each call of the handler prints a line to stdout: `handled EVENT JOB_ID`.
//! - SIGINT and SIGTERM stop it when the work under way has ended.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use qomplement_webhooks::warp::webhook;
use qomplement_webhooks::{
    ExtractResult, FillResult, HandlerError, Job, JobError, SharedToken, WebhookHandler, WebhookReceiver,
    async_trait,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use warp::Filter;

struct Printer;

#[async_trait]
impl WebhookHandler for Printer {
    async fn extract_completed(&self, job: &Job, _: ExtractResult) -> Result<(), HandlerError> {
        print("extract_completed", job)
    }

    async fn fill_completed(&self, job: &Job, _: FillResult) -> Result<(), HandlerError> {
        print("fill_completed", job)
    }

    async fn job_failed(&self, job: &Job, _: JobError) -> Result<(), HandlerError> {
        print("job_failed", job)
    }

    async fn unrecognized(&self, job: &Job) -> Result<(), HandlerError> {
        print("unrecognized", job)
    }
}

fn print(event: &str, job: &Job) -> Result<(), HandlerError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "handled {event} {}", job.id())?;
    stdout.flush()?;
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let builder = WebhookReceiver::builder(Printer);
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

/// Waits for SIGINT or SIGTERM.
async fn stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
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
