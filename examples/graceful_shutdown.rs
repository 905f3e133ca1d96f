//! A server that stops without losing work: no new requests, then the handlers that run, then the end.
//!
//! ```sh
//! WEBHOOK_TOKEN=$(openssl rand -hex 32) cargo run --example graceful_shutdown --features axum
//! ```

use std::time::Duration;

use axum::Router;
use axum::routing::any;
use qomplement_webhooks::{
    BoxError, ExtractResult, FillResult, HandlerError, Job, JobError, SharedToken, WebhookHandler,
    WebhookReceiver, async_trait,
};
use tokio::net::TcpListener;
use tokio::time::sleep;

struct Office;

#[async_trait]
impl WebhookHandler for Office {
    async fn extract_completed(&self, job: &Job, result: ExtractResult) -> Result<(), HandlerError> {
        let fields = result.fields.ok_or_else(|| HandlerError::permanent("no fields"))?;
        let total: Option<String> = fields.get("total_amount")?;
        println!("{}: an invoice over {}", job.id(), total.unwrap_or_default());
        Ok(())
    }

    async fn fill_completed(&self, job: &Job, result: FillResult) -> Result<(), HandlerError> {
        println!("{}: a form with {} fields", job.id(), result.fields_filled.unwrap_or(0));
        Ok(())
    }

    async fn job_failed(&self, job: &Job, error: JobError) -> Result<(), HandlerError> {
        println!("{}: failed: {}", job.id(), error.message.unwrap_or_default());
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let token = SharedToken::from_env("WEBHOOK_TOKEN")?;
    let receiver = WebhookReceiver::builder(Office).token(token).build()?;
    let app = Router::new().route("/api/webhooks/qomplement", any(receiver.clone()));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    tokio::select! {
        served = axum::serve(listener, app).with_graceful_shutdown(stop()) => served?,
        // A request or connection that does not end must not keep the shutdown below from beginning.
        () = async { stop().await; sleep(Duration::from_secs(5)).await } => {}
    }
    // A handler may outlive its request, because the client left or the answer was due.
    receiver.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// Waits for Ctrl-C, or for SIGTERM, which container platforms and systemd send.
async fn stop() {
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?.recv().await;
        Ok::<_, std::io::Error>(())
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<std::io::Result<()>>();
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Ok(()) = terminate => {}
        else => std::future::pending().await,
    }
}
